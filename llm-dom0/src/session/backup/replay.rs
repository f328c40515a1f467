//! The replay of a session's log after its take-over.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use llm_core::replay::{Cause, Config, Event, Handed, OnDivergence, Replay, Report};
use llm_core::replication::Addresses;

use super::log::{FLOWS, LogStore};
use crate::clock;
use crate::control::{FidelityStatus, ReplayStatus};
use crate::keptlog::{Header, Writer};
use crate::net::{Ending, Isolated, Learnt, NetError, RUN_DIR, ReplayConfig, ReplayNews, Replayer, rejoin};

/// The machine is made on the stack, on its way to the heap.
const STACK: usize = 4 * size_of::<Replay<FLOWS>>() + (1 << 20);

/// A replay that is live hands over within a tick; more is a host that stalls.
const HAND_OVER: Duration = Duration::from_secs(4);

/// What a replay needs.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) domain: String,
    pub(super) log: LogStore,
    pub(super) addresses: Option<Addresses>,
    pub(super) on_divergence: OnDivergence,
    pub(super) decided: Instant,
    /// Where the log is kept, and what its file says of it.
    pub(super) keep: Option<(PathBuf, Header)>,
}

/// The thread of a session's replay, once there is one.
#[derive(Debug, Default)]
pub(super) struct Replaying {
    stop: Arc<Ending>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// What is handed over comes here.
    handed: Mutex<Option<Receiver<Vec<Handed>>>>,
}

impl Replaying {
    /// Replays in a thread of its own. `tell` is called with every news, and at last with how it ended.
    pub(super) fn start(
        &self,
        job: Job,
        tell: impl Fn(ReplayStatus, Stage) + Send + 'static,
    ) -> io::Result<()> {
        let stop = Arc::clone(&self.stop);
        let (hand, handed) = sync_channel(1);
        *self.handed.lock().unwrap_or_else(PoisonError::into_inner) = Some(handed);
        let thread =
            std::thread::Builder::new().name("replay".into()).stack_size(STACK).spawn(move || {
                std::thread::scope(|scope| {
                    // Beside the replay: a disk may stand still.
                    scope.spawn(|| keep(&job));
                    run(&job, &stop, hand, tell);
                });
            })?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Ends it: the guest is put on its bridge, and connections that need a translation break.
    pub(super) fn stop(&self) {
        self.stop.rejoin();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the replay has panicked");
        }
    }
}

impl Replaying {
    /// Somebody else on this host is to go on with vif and translations. None if nobody has them here any more. The
    /// replay must be live.
    pub(super) fn hand_over(&self) -> Result<Option<Vec<Handed>>, RecvTimeoutError> {
        let Some(handed) = self.handed.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(None);
        };
        self.stop.hand_over();
        match handed.recv_timeout(HAND_OVER) {
            Ok(handed) => Ok(Some(handed)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(timeout) => Err(timeout),
        }
    }
}

/// How far it is.
#[derive(Debug)]
pub(super) enum Stage {
    /// The guest runs.
    Begun,
    /// The guest talks with its peers.
    Live,
    /// Nothing is left to translate, or it was stopped.
    Ended,
    /// Somebody else on this host goes on with so many connections.
    HandedOver(usize),
    /// The guest was joined to its network without the replay.
    Failed(NetError),
}

fn run(job: &Job, stop: &Ending, hand: SyncSender<Vec<Handed>>, tell: impl Fn(ReplayStatus, Stage)) {
    let domain = &job.domain;
    let addresses = job.addresses.as_ref();
    let config = ReplayConfig {
        domain: domain.clone(),
        run_dir: PathBuf::from(RUN_DIR),
        mac: addresses.map(|a| a.mac),
        addresses: addresses
            .map(|a| {
                a.ips.iter().map(|&addr| Learnt { addr, vlan: None, claimed: true, router: false }).collect()
            })
            .unwrap_or_default(),
    };
    let settings = Config { on_divergence: job.on_divergence, ..Config::default() };
    let mut machine = Box::new(Replay::<FLOWS>::new(settings, clock::now()));
    job.log.prepare(&mut machine);
    let mut status = ReplayStatus::default();
    let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    let result = Replayer::start(&config, &mut machine, &job.log, stop).and_then(|replayer| {
        let Some(replayer) = replayer else { return Ok(None) };
        replayer.run(stop, |news, machine| match news {
            ReplayNews::Begun => {
                status.begun_ms = ms(job.decided);
                tell(status.clone(), Stage::Begun);
            }
            ReplayNews::Live => {
                status = told(machine.report(), &status);
                status.live_ms = ms(job.decided);
                tell(status.clone(), Stage::Live);
            }
            ReplayNews::Event(event) => log_event(domain, &event),
        })
    });
    match result {
        Ok(None) => {
            Isolated::forget(&config.run_dir, domain);
            tell(status, Stage::Ended);
        }
        Ok(Some(handed)) => {
            // A later service must not put the vif on its bridge.
            Isolated::forget(&config.run_dir, domain);
            let count = handed.len();
            // Room for it; whoever asked may have gone.
            let _ = hand.send(handed);
            tell(status, Stage::HandedOver(count));
        }
        Err(error) => {
            if let Some(place) = Isolated::read(&config.run_dir, domain) {
                put_back(domain, &place);
            }
            tell(status, Stage::Failed(error));
        }
    }
}

/// Puts vifs on their bridges that an earlier service has left isolated, after a take-over.
pub(super) fn put_back_orphans() {
    for (domain, place) in Isolated::all(Path::new(RUN_DIR)) {
        tracing::warn!(
            domain,
            vif = place.vif,
            "left isolated by an earlier llm backup: putting it on its bridge"
        );
        put_back(&domain, &place);
    }
}

fn put_back(domain: &str, place: &Isolated) {
    match rejoin(&place.vif, &place.bridge) {
        Ok(()) => Isolated::forget(Path::new(RUN_DIR), domain),
        // The domain has gone, most likely.
        Err(NetError::NoInterface { .. }) => Isolated::forget(Path::new(RUN_DIR), domain),
        Err(error) => tracing::error!(domain, vif = place.vif, %error, "the guest stays isolated"),
    }
}

fn keep(job: &Job) {
    let Some((path, header)) = &job.keep else { return };
    let written = Writer::create(path, header).and_then(|mut writer| {
        job.log.records().try_for_each(|record| writer.append(record))?;
        writer.finish()
    });
    match written {
        Ok(_) => tracing::info!(domain = job.domain, path = %path.display(), "the input log is kept"),
        Err(error) => {
            tracing::warn!(domain = job.domain, path = %path.display(), %error, "the input log cannot be kept");
        }
    }
}

fn log_event(domain: &str, event: &Event) {
    match event {
        Event::Diverged(d) => tracing::warn!(
            domain,
            flow = %d.key,
            from = d.from,
            to = d.to,
            released = format!("{:016x}", d.released.value()),
            regenerated = format!("{:016x}", d.regenerated.value()),
            "a replayed reply differs from the one that was released"
        ),
        Event::Reset { key, cause } => tracing::warn!(domain, flow = %key, %cause, "connection reset"),
        Event::Stalled { key, lsn } => {
            tracing::warn!(domain, flow = %key, lsn, "the replay waits for this connection no longer");
        }
        other => tracing::info!(domain, event = ?other, "replay"),
    }
}

/// The report, with the times that only we know.
fn told(report: &Report, before: &ReplayStatus) -> ReplayStatus {
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let resets = Cause::ALL.iter().map(|&cause| (cause.to_string(), report.resets(cause)));
    let services = report.services.iter().map(|s| FidelityStatus {
        port: s.port,
        identical: s.identical,
        different: s.different,
        unknown: s.unknown,
    });
    ReplayStatus {
        probing_ms: ms(report.probing),
        walking_ms: ms(report.walking),
        catching_up_ms: ms(report.catching_up),
        records: report.records,
        fed: report.fed,
        fed_again: report.fed_again,
        stalls: report.stalls,
        carried: report.carried,
        resets: resets.filter(|(_, count)| *count > 0).collect(),
        services: services.collect(),
        ..before.clone()
    }
}
