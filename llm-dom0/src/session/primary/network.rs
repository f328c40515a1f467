//! The packet path of a protected domain: one joint for each of its interfaces.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llm_core::replication::{ADDRESSES_MAX, Addresses};
use llm_core::time::Instant;

use super::Interface;
use super::event::Event;
use super::log::InputLog;
use crate::checkpoint::tap::PipeTap;
use crate::control::{self, EgressStatus};
use crate::net::{Former, Isolated, Joint, JointConfig, NetError, RUN_DIR, Translations};
use llm_core::flow::Policy;

/// Where marks come from: the checkpoint pipe of the present stream. Marks never
/// fall, also from one stream to the next.
#[derive(Debug, Default)]
pub(crate) struct Marks(Mutex<MarksInner>);

#[derive(Debug, Default)]
struct MarksInner {
    /// Added to offsets in the present stream.
    base: u64,
    tap: Option<Arc<PipeTap>>,
}

impl Marks {
    /// A stream begins; its offsets count from the base that is returned.
    pub(crate) fn begin(&self, tap: Arc<PipeTap>) -> u64 {
        let mut inner = self.lock();
        inner.close();
        inner.tap = Some(tap);
        inner.base
    }

    /// The stream has ended: marks stand still until the next one. Returns the
    /// mark that packets get meanwhile.
    pub(crate) fn end(&self) -> u64 {
        let mut inner = self.lock();
        inner.close();
        inner.base
    }

    /// The mark of what has been received by now.
    pub(crate) fn mark(&self) -> u64 {
        let inner = self.lock();
        match &inner.tap {
            None => inner.base,
            // Unknown is as good as late: held until protection ends.
            Some(tap) => tap.mark().map_or(u64::MAX - 1, |written| inner.base + written),
        }
    }

    fn lock(&self) -> MutexGuard<'_, MarksInner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MarksInner {
    /// Puts the base behind all marks that the stream has given.
    fn close(&mut self) {
        if let Some(tap) = self.tap.take() {
            self.base += tap.mark().unwrap_or_else(|_| tap.position()) + 1;
        }
    }
}

/// All joints of the domain.
#[derive(Debug, Default)]
pub(crate) struct Network(Arc<Mutex<Joints>>);

#[derive(Debug, Default)]
struct Joints {
    joints: Vec<Joint>,
    /// Output with marks below this may leave.
    limit: u64,
    translations: Arc<Translations>,
}

impl Network {
    /// Takes the domain's vifs off their bridges, and off this host's `llm backup` if that has taken the domain over. If one
    /// fails, those already taken go back.
    pub(crate) fn join(
        domain: &str,
        translations: &Arc<Translations>,
        interfaces: &[Interface],
        egress_limit: u64,
        marks: &Arc<Marks>,
        log: Option<(&Arc<InputLog>, &Policy)>,
        events: &Sender<Event>,
    ) -> Result<Self, NetError> {
        let mut network = Self::default();
        network.lock().translations = Arc::clone(translations);
        for (number, interface) in (0..).zip(interfaces) {
            let config = JointConfig {
                vif: interface.vif.clone(),
                bridge: interface.bridge.clone(),
                tap: interface.tap.clone(),
                mac: interface.mac,
                // The joint drops at twice the soft limit.
                soft_bytes: usize::try_from(egress_limit / 2).unwrap_or(usize::MAX),
            };
            let (marks, events) = (Arc::clone(marks), events.clone());
            let recorder = log.map(|(log, policy)| log.recorder(number, policy.clone()));
            // Only a domain with one interface is ever handed over.
            let former = match number {
                0 => Former::new(Arc::clone(translations), || {
                    take_over_connections(domain, translations, log.map(|(log, _)| &**log))
                }),
                _ => Former::default(),
            };
            let joint = Joint::start_after(
                former,
                &config,
                recorder,
                move || marks.mark(),
                move |event| {
                    // Without a receiver the process is ending.
                    let _ = events.send(Event::Net(event));
                },
            );
            match joint {
                Ok(joint) => {
                    if let Some((log, _)) = log {
                        log.add_releaser(joint.releaser());
                    }
                    network.lock().joints.push(joint);
                }
                Err(error) => {
                    network.end(true);
                    return Err(error);
                }
            }
        }
        Ok(network)
    }

    /// Lets output with marks below `limit` leave, under the lease, and holds the rest.
    pub(crate) fn hold_from(&self, limit: u64) {
        self.lock().set(limit);
    }

    /// Output with marks below this may leave.
    pub(crate) fn limit(&self) -> u64 {
        self.lock().limit
    }

    /// As [`Network::hold_from`], but never takes anything back.
    pub(crate) fn release(&self, limit: u64) {
        let mut inner = self.lock();
        if limit > inner.limit {
            inner.set(limit);
        }
    }

    /// [`Network::release`] for another thread.
    pub(crate) fn limiter(&self) -> impl FnMut(u64) + Send + 'static {
        let network = Self(Arc::clone(&self.0));
        move |limit| network.release(limit)
    }

    /// Output may leave until then.
    pub(crate) fn lease(&self, until: Instant) {
        self.lock().joints.iter().for_each(|j| j.lease(until));
    }

    /// Ends the joints: back onto the bridge, or isolated for good.
    pub(crate) fn end(&mut self, rejoin: bool) {
        for joint in self.lock().joints.drain(..) {
            if let Err(error) = joint.stop(rejoin) {
                tracing::error!(%error, "a network interface of the guest stays isolated");
            }
        }
    }

    /// What the guest answers to. A message carries one MAC address: that of
    /// the first interface; the others are announced by the guest itself.
    pub(crate) fn addresses(&self) -> Option<Addresses> {
        let (mac, learnt) = self.lock().joints.first()?.addresses();
        let ips = learnt.iter().map(|l| l.addr).take(ADDRESSES_MAX).collect();
        Some(Addresses { mac: mac?, ips })
    }

    /// The hold queues together.
    pub(crate) fn status(&self) -> EgressStatus {
        let translated = self.lock().translations.count();
        let mut sum = EgressStatus { translated_connections: translated, ..EgressStatus::default() };
        for stats in self.lock().joints.iter().map(Joint::stats) {
            sum.held_packets += stats.held_packets;
            sum.held_bytes += stats.held_bytes;
            sum.released_packets += stats.released_packets;
            sum.dropped_incoming_packets += stats.dropped_ingress;
            sum.dropped_packets +=
                stats.dropped_full + stats.dropped_socket + stats.dropped_unreadable + stats.dropped_egress;
        }
        sum
    }

    fn lock(&self) -> MutexGuard<'_, Joints> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has this host's `llm backup` let go of the vif, and goes on with its translations. True if it had the vif.
fn take_over_connections(
    domain: &str,
    translations: &Translations,
    log: Option<&InputLog>,
) -> Result<bool, NetError> {
    let handed = control::take_over_connections(domain)
        .map_err(|e| NetError::HandOver { domain: domain.into(), source: e.into() })?;
    // Left by one that was killed: a later one must not put the vif on its bridge.
    Isolated::forget(RUN_DIR.as_ref(), domain);
    let Some(handed) = handed else { return Ok(false) };
    tracing::info!(connections = handed.len(), "going on with the connections that llm backup translates");
    translations.take(&handed);
    if let Some(log) = log {
        log.carry();
    }
    Ok(true)
}

impl Joints {
    fn set(&mut self, limit: u64) {
        self.limit = limit;
        self.joints.iter().for_each(|j| j.release(limit));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn marks_rise_from_stream_to_stream() {
        let marks = Marks::default();
        assert_eq!(marks.mark(), 0);
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        let tap = Arc::new(PipeTap::new(reader.into()).expect("tap"));
        assert_eq!(marks.begin(Arc::clone(&tap)), 0);
        writer.write_all(&[0; 70]).expect("write");
        assert_eq!(marks.mark(), 70);
        assert_eq!(marks.end(), 71, "behind every mark of the stream");
        assert_eq!(marks.mark(), 71);
        let (reader, _writer) = std::io::pipe().expect("pipe");
        let tap = Arc::new(PipeTap::new(reader.into()).expect("tap"));
        assert_eq!(marks.begin(tap), 71);
    }
}
