//! The primary of a protected domain.
//!
//! One main thread owns the machine of `llm-core` and acts on what it says.
//! Around it: the pipe and the encoder ([`stream`], [`encoder`]), two connections ([`paths`]),
//! the packet path ([`network`]) and a look at the domain ([`watcher`]).

mod driver;
mod encoder;
mod event;
mod log;
mod network;
mod paths;
mod pipe;
pub(super) mod relay;
mod session;
mod squeeze;
mod status;
mod stream;
mod watcher;

use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use llm_core::flow::Policy;
use llm_core::replication::{Mode, OnBackupLoss, Refusal};

use crate::checkpoint::second::Compress;
use crate::control::PrimaryStatus;
use crate::net::{MacAddr, NetError};
use crate::xen::encoder::EncoderDomain;
use crate::xen::privcmd::OpenStates;
use driver::Driver;
use event::Event;
pub(crate) use session::random_session;
pub(crate) use watcher::look;

/// What is protected, and how.
#[derive(Clone, Debug)]
pub struct PrimaryConfig {
    /// Name of the domain.
    pub domain: String,
    /// Its number on this host.
    pub domid: u16,
    /// Who knows how it is.
    pub states: OpenStates,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
    /// Address of the backup, `HOST:PORT`.
    pub backup: String,
    /// When output may leave.
    pub mode: Mode,
    /// Time between two checkpoints.
    pub interval: Duration,
    /// Silence after which the backup takes over.
    pub detect: Duration,
    /// What to do without a backup.
    pub on_backup_loss: OnBackupLoss,
    /// Pages of which each side keeps a copy.
    pub shadow_pages: u32,
    /// Bytes of the stream that may wait for the encoder, and encoded bytes that may wait for their commit.
    pub buffer_limit: u64,
    /// Bytes of output that may wait, for each interface.
    pub egress_limit: u64,
    /// Bytes of the input log between two checkpoints, and on their way to the backup.
    pub log_limit: u64,
    /// Records of the input log that ask for a checkpoint.
    pub log_records: u64,
    /// Which flows wait for the log, and which for checkpoints.
    pub policy: Policy,
    /// What is compressed while it waits for the link.
    pub compress: Compress,
    /// The domain that encodes; none if this process does.
    pub encoder: Option<EncoderDomain>,
}

/// A network interface of the domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its device in Dom0.
    pub vif: String,
    /// The bridge that it belongs to.
    pub bridge: String,
    /// Name for the TAP that takes its place there.
    pub tap: String,
    /// The guest's hardware address, if known.
    pub mac: Option<MacAddr>,
}

/// How a protection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// On request; the guest goes on here.
    Released,
    /// The domain itself has ended; in words.
    DomainEnded(String),
    /// The backup runs the domain; the copy here was destroyed.
    TakenOver,
}

/// Why a protection could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum PrimaryError {
    /// The packet path could not be set up.
    #[error("The network of domain {domain} cannot be joined")]
    Net {
        /// The domain.
        domain: String,
        /// What failed.
        #[source]
        source: NetError,
    },
    /// The toolstack failed before the domain was protected.
    #[error("The toolstack failed; domain {domain} goes on here, unprotected")]
    Xen {
        /// The domain.
        domain: String,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `xl` ended again and again.
    #[error("xl remus keeps failing for domain {domain}, which goes on here, unprotected: {last_words}")]
    Toolstack {
        /// The domain.
        domain: String,
        /// The last words of `xl`.
        last_words: String,
    },
    /// The domain cannot be trusted any more; the backup was told to take over.
    #[error("Domain {domain} was given up here, its backup takes over: {reason}")]
    GivenUp {
        /// The domain.
        domain: String,
        /// Why.
        reason: String,
    },
    /// The backup will not have it.
    #[error("The backup {backup} refuses: {refusal}")]
    Refused {
        /// Its address.
        backup: String,
        /// Its words.
        refusal: Box<Refusal>,
    },
    /// The backup could not be reached at the start.
    #[error("No backup at {backup}: {reason}")]
    NoBackup {
        /// Its address.
        backup: String,
        /// What the last attempt said.
        reason: String,
    },
    /// The name cannot be sent to the backup.
    #[error("Domain name `{0}` cannot be protected: up to 64 letters, digits and `_-.+:`")]
    Name(String),
    /// The times do not fit each other.
    #[error("Interval and detect time cannot be used: {0}")]
    Timing(llm_core::replication::TimingError),
}

/// Talks to a running protection from other threads.
#[derive(Clone, Debug)]
pub struct Handle {
    events: Sender<Event>,
    status: Arc<Mutex<PrimaryStatus>>,
}

impl Handle {
    /// How it stands.
    #[must_use]
    pub fn status(&self) -> PrimaryStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops protecting and waits until that is done; how it went, in words. With `force`
    /// without the backup's agreement: if it is alive, it will run the domain as well.
    ///
    /// # Errors
    /// Why it could not be done.
    pub fn release(&self, force: bool) -> Result<String, String> {
        let (reply, answer): (SyncSender<_>, _) = sync_channel(1);
        let gone = "the protection has ended meanwhile";
        self.events.send(Event::Release { reply, force }).map_err(|_| gone)?;
        answer.recv().map_err(|_| gone)?
    }

    /// Asks for a release without waiting for it.
    pub fn terminate(&self) {
        let _ = self.events.send(Event::Terminate);
    }
}

/// A protection that has yet to begin.
#[derive(Debug)]
pub struct Protection {
    driver: Driver,
    handle: Handle,
}

impl Protection {
    /// Checks what can be checked without touching anything.
    ///
    /// # Errors
    /// [`PrimaryError::Name`] or [`PrimaryError::Timing`].
    pub fn new(config: PrimaryConfig) -> Result<Self, PrimaryError> {
        let (events, inbox) = channel();
        let status = Arc::new(Mutex::new(status::initial(&config)));
        let driver = Driver::new(config, events.clone(), inbox, Arc::clone(&status))?;
        Ok(Self { driver, handle: Handle { events, status } })
    }

    /// For status, release and signals.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Protects the domain until that ends. `on_protected` is called once, when
    /// the first epoch is committed.
    ///
    /// # Errors
    /// See [`PrimaryError`].
    pub fn run(self, on_protected: impl FnOnce()) -> Result<Outcome, PrimaryError> {
        self.driver.run(on_protected)
    }
}
