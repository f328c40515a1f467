//! One session with the backup: its machine, its connections, its stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use llm_core::frame::Kind;
use llm_core::replication::{EpochEnd, FIRST_EPOCH, Primary};
use llm_core::time::Instant;

use super::event::{Event, SessionEvent};
use super::log::InputLog;
use super::network::Marks;
use super::paths::Paths;
use super::squeeze::{self, SecondStage};
use super::stream::{Stream, StreamConfig};
use super::{PrimaryConfig, PrimaryError};
use crate::checkpoint::encode::EpochSummary;
use crate::checkpoint::second::Compress;
use crate::clock;
use crate::link::Closed;

/// A session from its first dial to the end of its stream.
#[derive(Debug)]
pub(crate) struct Session {
    /// Random; tells its events from those of an earlier one.
    pub(crate) id: u64,
    pub(crate) machine: Primary,
    pub(crate) paths: Paths,
    pub(crate) stream: Option<Box<Stream>>,
    /// `xl` is on its way up.
    pub(crate) starting: bool,
    /// `xl` is held: the guest runs, and a checkpoint can be started.
    pub(crate) held: bool,
    /// For each epoch that is not released: marks below this belong to it or an earlier one.
    limits: BTreeMap<u64, u64>,
    /// For each epoch that is not committed: its last data frame.
    last_frames: BTreeMap<u64, u64>,
    /// Abilities that both ends have; 0 before they are connected.
    pub(crate) features: u64,
    /// What waits for the link is looked after.
    squeezed: bool,
}

impl Session {
    /// A session that has yet to find its backup.
    pub(crate) fn new(
        config: &PrimaryConfig,
        machine: llm_core::replication::PrimaryConfig,
        log: Option<&Arc<InputLog>>,
        events: &Sender<Event>,
    ) -> Self {
        let id = machine.session;
        let log = log.map(|log| (Arc::clone(log), config.log_limit));
        Self {
            id,
            machine: Primary::new(machine, clock::now()),
            paths: Paths::new(id, config, log, events.clone()),
            stream: None,
            starting: false,
            held: false,
            limits: BTreeMap::new(),
            last_frames: BTreeMap::new(),
            features: 0,
            squeezed: false,
        }
    }

    /// The bulk path stands, and both ends have these features: compresses from now on what waits for it.
    pub(crate) fn squeeze(&mut self, choice: Compress, features: u64, stage: &Arc<SecondStage>) {
        if !std::mem::replace(&mut self.squeezed, true)
            && let Err(error) = squeeze::start(choice, features, self.paths.bulk(), stage)
        {
            tracing::warn!(%error, "nothing will be compressed");
        }
    }

    /// Starts `xl remus` in a thread of its own, since `xl` takes its time and the
    /// heartbeats must go on. The stream comes as an event.
    pub(crate) fn start_stream(
        &mut self,
        config: StreamConfig,
        marks: &Arc<Marks>,
        pass: impl FnMut(u64) + Send + 'static,
        events: &Sender<Event>,
    ) -> std::io::Result<()> {
        let (session, marks, events) = (self.id, Arc::clone(marks), events.clone());
        let bulk = Arc::clone(self.paths.bulk());
        std::thread::Builder::new().name("start".into()).spawn(move || {
            let started = Stream::start(&config, &marks, &bulk, pass, &events).map(Box::new);
            let _ = events.send(Event::Session { session, event: SessionEvent::Started(started) });
        })?;
        self.starting = true;
        Ok(())
    }

    /// Whether `xl remus` runs or is on its way up.
    pub(crate) fn has_stream(&self) -> bool {
        self.starting || self.stream.is_some()
    }

    /// The guest's suspension for this epoch is past.
    pub(crate) fn boundary(&mut self, epoch: u64, limit: u64) {
        self.limits.insert(epoch, limit);
    }

    /// All batches of an epoch are queued: its end goes behind them. Its number and
    /// the bytes queued for it.
    pub(crate) fn encoded(&mut self, summary: &EpochSummary) -> Result<u64, Closed> {
        let epoch = FIRST_EPOCH + summary.index;
        let end = EpochEnd::new(epoch, summary.stream_bytes, summary.digest, summary.pages);
        let seq = self.paths.bulk().data_over(Kind::EPOCH_END, end.as_wire().to_vec())?;
        self.last_frames.insert(epoch, seq);
        Ok(epoch)
    }

    /// All epochs up to this one are committed: their frames need not be kept. How many epochs that are.
    pub(crate) fn committed(&mut self, epoch: u64) -> u64 {
        let rest = self.last_frames.split_off(&(epoch + 1));
        let done = std::mem::replace(&mut self.last_frames, rest);
        if let Some(seq) = done.values().max() {
            self.paths.bulk().committed(*seq);
        }
        done.len() as u64
    }

    /// Output of all epochs up to this one may leave: the limit for the packet path.
    pub(crate) fn released(&mut self, epoch: u64) -> Option<u64> {
        let rest = self.limits.split_off(&(epoch + 1));
        let done = std::mem::replace(&mut self.limits, rest);
        done.values().max().copied()
    }

    /// Starts the next checkpoint if it is due and `xl` is held.
    pub(crate) fn go_if_due(&mut self, now: Instant) -> bool {
        let due = self.held && self.machine.may_checkpoint(now);
        if due { self.go() } else { false }
    }

    /// Starts the next checkpoint.
    pub(crate) fn go(&mut self) -> bool {
        let Some(stream) = &self.stream else { return false };
        self.held = false;
        stream.go();
        true
    }

    /// Writes what the machine has to say.
    pub(crate) fn transmit(&mut self) {
        while let Some((connection, message)) = self.machine.poll_transmit() {
            self.paths.send(connection, &message);
        }
    }
}

/// What the machine is begun with, for a new session.
pub(crate) fn machine_config(
    config: &PrimaryConfig,
) -> Result<llm_core::replication::PrimaryConfig, PrimaryError> {
    use llm_core::replication::{Hello, PACKED_LOG, Timing};
    let bad_name = || PrimaryError::Name(config.domain.clone());
    if !Hello::domain_is_valid(&config.domain) {
        return Err(bad_name());
    }
    Ok(llm_core::replication::PrimaryConfig {
        session: random_session(),
        domain: config.domain.parse().map_err(|_| bad_name())?,
        mode: config.mode,
        timing: Timing::new(config.interval, config.detect, None).map_err(PrimaryError::Timing)?,
        shadow_pages: u64::from(config.shadow_pages),
        on_backup_loss: config.on_backup_loss,
        features: config.compress.features() | PACKED_LOG,
        max_open_epochs: 1,
    })
}

/// A random number that is not 0.
pub(crate) fn random_session() -> u64 {
    let mut bytes = [0; 8];
    loop {
        // The kernel's generator does not fail once it is seeded, which it is long before Xen's tools run.
        let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        let number = u64::from_le_bytes(bytes);
        if got == Ok(bytes.len()) && number != 0 {
            return number;
        }
    }
}
