//! The connections of a protected domain whose numbers are translated, since the domain was taken over on this host.
//!
//! Whoever was the backup has translated them so far, and hands them over. What is logged counts as the guest does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use llm_core::flow::{Packet, VNET_HEADER, is_checksum_partial};
use llm_core::log::Carry;
use llm_core::replay::{Carried, Fate, Handed};

use super::error::NetError;
use super::recorder::Recorder;
use crate::clock;

/// As many as a replay carries.
const FLOWS: usize = 4096;

/// The connections. Locked before the log where both are.
#[derive(Debug, Default)]
pub struct Translations {
    /// Most domains have none: then no packet waits for the lock.
    any: AtomicBool,
    carried: Mutex<Box<Carried<FLOWS>>>,
}

/// They are locked.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    any: &'a AtomicBool,
    carried: MutexGuard<'a, Box<Carried<FLOWS>>>,
}

impl Translations {
    /// Takes in what is handed over.
    pub fn take(&self, handed: &[Handed]) {
        let mut locked = self.lock();
        for one in handed {
            if !locked.carried.insert(one, clock::now()) {
                tracing::warn!(flow = %one.key, "no room to translate this connection: it breaks");
            }
        }
    }

    /// How many connections are translated.
    #[must_use]
    pub fn count(&self) -> u64 {
        if self.any.load(Ordering::Relaxed) { self.lock().carried.iter().count() as u64 } else { 0 }
    }

    /// Locks them, if there are any.
    pub(crate) fn lock_any(&self) -> Option<Locked<'_>> {
        self.any.load(Ordering::Relaxed).then(|| self.lock())
    }

    /// Locks them.
    pub(crate) fn lock(&self) -> Locked<'_> {
        let carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { any: &self.any, carried }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.any.store(!self.carried.is_empty(), Ordering::Relaxed);
    }
}

impl Locked<'_> {
    /// What a log that begins has to know of them.
    pub(crate) fn carries(&self) -> impl Iterator<Item = Carry> {
        self.carried.iter().map(|(key, translation)| Carry::new(*key, translation))
    }

    /// The guest has sent a packet, which is noted next. False if nobody may hear it.
    pub(crate) fn sent(&mut self, packet: &[u8], recorder: Option<&mut Box<dyn Recorder>>) -> bool {
        let Some(parsed) = packet.get(VNET_HEADER..).and_then(Packet::parse) else { return true };
        match self.carried.sent(&parsed, clock::now()) {
            Fate::Passes => true,
            Fate::Drops => false,
            Fate::Opens(key) => {
                if let Some(recorder) = recorder {
                    recorder.carry(&Carry::new(key, Default::default()));
                }
                true
            }
        }
    }

    /// Makes it fit for its peer.
    pub(crate) fn outgoing(&self, packet: &mut [u8]) {
        let Some((header, frame)) = packet.split_at_mut_checked(VNET_HEADER) else { return };
        if let Some(parsed) = Packet::parse(frame) {
            self.carried.outgoing(frame, &parsed, is_checksum_partial(header));
        }
    }

    /// Makes a packet from outside fit for the guest.
    pub(crate) fn incoming(&mut self, packet: &mut [u8]) {
        let Some((header, frame)) = packet.split_at_mut_checked(VNET_HEADER) else { return };
        if let Some(parsed) = Packet::parse(frame) {
            self.carried.incoming(frame, &parsed, is_checksum_partial(header), clock::now());
        }
    }

    /// Forgets those that have ended.
    pub(crate) fn forget(&mut self, mut recorder: Option<&mut Box<dyn Recorder>>) {
        while let Some(key) = self.carried.forget(clock::now()) {
            if let Some(recorder) = &mut recorder {
                recorder.carry(&Carry::new(key, Default::default()));
            }
        }
    }
}

/// Who has the vif so far, if anybody.
pub struct Former<'a> {
    /// What is translated.
    pub(crate) translations: std::sync::Arc<Translations>,
    /// Makes it let go of the vif, and takes over what it translates; true if it had the vif. Called with everything ready,
    /// since nobody passes packets until the joint runs.
    pub(crate) let_go: Box<dyn FnOnce() -> Result<bool, NetError> + 'a>,
}

impl std::fmt::Debug for Former<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Former").finish_non_exhaustive()
    }
}

impl Default for Former<'_> {
    /// Nobody.
    fn default() -> Self {
        Self::new(std::sync::Arc::default(), || Ok(false))
    }
}

impl<'a> Former<'a> {
    /// `let_go` makes whoever has the vif let go of it, which stays isolated, and fills `translations`. It gives true if
    /// somebody had it.
    pub fn new(
        translations: std::sync::Arc<Translations>,
        let_go: impl FnOnce() -> Result<bool, NetError> + 'a,
    ) -> Self {
        Self { translations, let_go: Box::new(let_go) }
    }
}
