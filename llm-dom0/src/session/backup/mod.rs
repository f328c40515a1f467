//! The backup: receives protected domains, and runs them when their host dies.
//!
//! One thread accepts connections; each connection has a reader. A session has a
//! timer thread and a feeder thread ([`feeder`]), which owns its `xl`.

mod feeder;
mod intake;
mod log;
pub(super) mod relay;
mod replay;
mod session;
mod taken_over;

use std::collections::HashMap;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use llm_core::frame::{Kind, encode_header};
use llm_core::replay::{Handed, OnDivergence};
use llm_core::replication::{
    Backup, ConnectionId, FEATURES, Hello, Holder, MESSAGE_MAX, Message, Mode, ModeSet, Offer, Path, Refusal,
    RefuseReason,
};

use super::primary::random_session;
use crate::clock;
use crate::control::BackupStatus;
use crate::link::{Incoming, read_loop, tune};
use crate::xen::orphans::kill_orphaned_helpers;
use crate::xen::toolstack::{ToolstackError, Xl};
use session::Session;
use taken_over::TakenOver;

/// A connection must say who it is within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that have not said who they are, at most: each costs a read buffer.
const STRANGERS_MAX: usize = 32;
/// Domains protected here, at most.
const SESSIONS_MAX: usize = 64;

/// How this host serves as a backup.
#[derive(Clone, Debug)]
pub struct BackupConfig {
    /// Address to listen on, `HOST:PORT`.
    pub listen: String,
    /// Most pages of which a copy is kept for one domain.
    pub shadow_pages_max: u64,
    /// Bytes of committed epochs that may wait for `xl`.
    pub buffer_limit: u64,
    /// What follows when a replayed reply differs from the one that was released.
    pub on_divergence: OnDivergence,
    /// Keep the input log of a domain that was taken over, as `DOMAIN.llmlog` in `state_dir`.
    pub keep_log: bool,
    /// Where is kept what later services must know: which sessions were taken over.
    pub state_dir: PathBuf,
}

/// Why the backup cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The address cannot be listened on.
    #[error("Cannot listen on {addr}: is the address this host's, and the port free?")]
    Listen {
        /// As it was given.
        addr: String,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// The state directory cannot be used.
    #[error("Cannot keep state in {}: name a directory that can be written, with --state-dir", path.display())]
    State {
        /// As it was given.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
}

/// A backup that listens.
#[derive(Debug)]
pub struct Service {
    listener: TcpListener,
    shared: Arc<Shared>,
}

/// Talks to a running backup from other threads.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: BackupConfig,
    xl: Xl,
    /// Random; tells this process from an earlier one.
    incarnation: u64,
    /// By domain name.
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    taken_over: Arc<TakenOver>,
    strangers: AtomicUsize,
}

impl Service {
    /// Listens on the configured address.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn bind(config: BackupConfig) -> Result<Self, BackupError> {
        let listener = TcpListener::bind(&config.listen)
            .map_err(|source| BackupError::Listen { addr: config.listen.clone(), source })?;
        let taken_over = TakenOver::open(&config.state_dir)
            .map_err(|source| BackupError::State { path: config.state_dir.clone(), source })?;
        let shared = Shared {
            config,
            xl: Xl::default(),
            incarnation: random_session(),
            sessions: Mutex::default(),
            taken_over: Arc::new(taken_over),
            strangers: AtomicUsize::new(0),
        };
        Ok(Self { listener, shared: Arc::new(shared) })
    }

    /// For status and signals.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Accepts connections for ever.
    pub fn run(self) {
        kill_orphaned_helpers();
        replay::put_back_orphans();
        for stream in self.listener.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: others must end first.
                    tracing::warn!(%error, "cannot accept a connection");
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            if self.shared.strangers.load(Ordering::Relaxed) >= STRANGERS_MAX {
                tracing::warn!("too many connections that say nothing: closing another one");
                continue;
            }
            self.shared.strangers.fetch_add(1, Ordering::Relaxed);
            let shared = Arc::clone(&self.shared);
            let spawned = std::thread::Builder::new().name("rx".into()).spawn(move || shared.serve(&stream));
            if let Err(error) = spawned {
                self.shared.strangers.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!(%error, "cannot serve a connection");
            }
        }
    }
}

impl Handle {
    /// How it stands.
    #[must_use]
    pub fn status(&self) -> BackupStatus {
        let mut sessions: Vec<_> = self.0.sessions().values().map(|s| s.status()).collect();
        sessions.sort_by(|a, b| a.domain.cmp(&b.domain));
        BackupStatus { listen: self.0.config.listen.clone(), pid: std::process::id(), sessions }
    }

    /// This host's `llm protect` is to go on with what is still done here for that domain after a take-over: with its vif, and
    /// with the connections that are returned. None if nothing is done.
    ///
    /// # Errors
    /// It cannot be handed over yet.
    pub fn hand_over(&self, domain: &str) -> Result<Option<Vec<Handed>>, String> {
        let session = self.0.sessions().get(domain).cloned();
        session.map_or(Ok(None), |session| session.let_go())
    }

    /// Tells all primaries that this service ends, and drops the copies. A domain
    /// that was taken over runs on.
    pub fn shut_down(&self) {
        let sessions: Vec<_> = self.0.sessions().values().cloned().collect();
        for session in &sessions {
            session.shut_down();
        }
        for session in sessions {
            session.wait_for_feeder(Duration::from_secs(10));
        }
    }
}

/// Who a connection turned out to be.
#[derive(Debug)]
struct Admitted {
    session: Arc<Session>,
    connection: ConnectionId,
}

impl Shared {
    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one connection to its end.
    fn serve(self: &Arc<Self>, stream: &TcpStream) {
        let Ok(peer) = stream.peer_addr() else { return };
        let mut admitted: Option<Admitted> = None;
        let prepared = tune(stream).and_then(|()| stream.set_read_timeout(Some(HELLO_TIMEOUT)));
        let ended = match prepared {
            Err(source) => Err(crate::link::LinkError::Io { peer, source }),
            Ok(()) => read_loop(stream, peer, |frame| match &admitted {
                Some(a) => a.session.handle_frame(a.connection, &frame),
                None => match self.admit(stream, &frame) {
                    Some(a) => {
                        admitted = Some(a);
                        self.strangers.fetch_sub(1, Ordering::Relaxed);
                        ControlFlow::Continue(())
                    }
                    None => ControlFlow::Break(()),
                },
            }),
        };
        match &admitted {
            Some(a) => {
                if let Err(error) = &ended {
                    tracing::info!(domain = a.session.domain(), path = ?a.connection.path, %error, "connection ended");
                }
                a.session.disconnected(a.connection);
            }
            None => {
                self.strangers.fetch_sub(1, Ordering::Relaxed);
                if let Err(error) = ended {
                    tracing::warn!(%peer, %error, "a connection that is no primary's was closed");
                }
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
    }

    /// Decides about the first frame of a connection. `None` if it is refused.
    fn admit(self: &Arc<Self>, stream: &TcpStream, frame: &Incoming<'_>) -> Option<Admitted> {
        let hello = match read_hello(frame) {
            Ok(hello) => hello,
            Err(refusal) => {
                refuse(stream, &refusal);
                return None;
            }
        };
        let result = self.session_for(&hello).and_then(|session| {
            let connection = session.hello(&hello, stream)?;
            Ok(Admitted { session, connection })
        });
        match result {
            Ok(admitted) => {
                tracing::info!(domain = %hello.domain, path = ?hello.path, "primary connected");
                Some(admitted)
            }
            Err(refusal) => {
                tracing::warn!(domain = %hello.domain, %refusal, "primary refused");
                refuse(stream, &refusal);
                None
            }
        }
    }

    /// The session of this Hello, made if it may begin.
    fn session_for(self: &Arc<Self>, hello: &Hello) -> Result<Arc<Session>, Refusal> {
        let domain = hello.domain.as_str();
        // Held while the session is made, so that two connections of one session make one.
        let mut sessions = self.sessions();
        if let Some(session) = sessions.get(domain)
            && session.id() == hello.session
        {
            return Ok(Arc::clone(session));
        }
        let trouble = |e: ToolstackError| Refusal::new(RefuseReason::Full, format_args!("{e}"));
        let offer = Offer {
            modes: ModeSet::of(&[Mode::Remus, Mode::Llm, Mode::LlmPaper]),
            shadow_pages_max: self.config.shadow_pages_max,
            features: FEATURES,
        };
        // The domain may have left since, and this service may be a later one: the primary that was frozen
        // meanwhile must stop what it has.
        if self.taken_over.contains(hello.session) {
            return Err(Refusal::new(
                RefuseReason::TakenOver,
                format_args!("{domain} was taken over from this session"),
            ));
        }
        let old = sessions.get(domain).cloned();
        // The domain may have left after a take-over: then it can be protected from where it runs now.
        let left = match &old {
            Some(old) if old.has_taken_over() => self.xl.domid(domain).map_err(trouble)?.is_none(),
            _ => false,
        };
        let admit = |holder: Holder<'_>| Backup::admit(hello, holder, &offer, self.incarnation, clock::now());
        // The session knows best; without one, the toolstack says whether the name is free.
        let machine = match &old {
            Some(old) if !left => old.with_machine(|machine| admit(Holder::Session(machine)))?,
            None if self.xl.domid(domain).map_err(trouble)?.is_some() => admit(Holder::Domain)?,
            _ => admit(Holder::Nobody)?,
        };
        if sessions.len() >= SESSIONS_MAX && old.is_none() {
            return Err(Refusal::new(
                RefuseReason::Full,
                format_args!("{SESSIONS_MAX} domains are protected here"),
            ));
        }
        if let Some(old) = old {
            // Its xl must be gone before another one makes a domain of that name.
            old.wait_for_feeder(Duration::from_secs(30));
            old.retire();
        }
        let session = Session::start(machine, &self.config, self.xl.clone(), Arc::clone(&self.taken_over))
            .map_err(|e| Refusal::new(RefuseReason::Full, format_args!("{e}")))?;
        sessions.insert(domain.to_owned(), Arc::clone(&session));
        Ok(session)
    }
}

fn read_hello(frame: &Incoming<'_>) -> Result<Hello, Refusal> {
    let malformed = |why: std::fmt::Arguments<'_>| Refusal::new(RefuseReason::Malformed, why);
    if frame.kind != Kind::MESSAGE {
        return Err(malformed(format_args!("{:?} came first", frame.kind)));
    }
    match Message::decode(frame.payload) {
        Ok(Message::Hello(hello)) => Ok(hello),
        Ok(_) => Err(malformed(format_args!("another message came first"))),
        Err(error) => Err(malformed(format_args!("{error}"))),
    }
}

/// Tells the peer why, as far as it still listens.
fn refuse(mut stream: &TcpStream, refusal: &Refusal) {
    use std::io::Write as _;
    let mut buffer = [0; MESSAGE_MAX];
    let Ok(payload) = Message::Refuse(refusal.clone()).encode(&mut buffer) else { return };
    let header = encode_header(Kind::MESSAGE, 0, 0, payload);
    let _ = stream.set_write_timeout(Some(HELLO_TIMEOUT));
    let _ = stream.write_all(&[&header[..], payload].concat());
}

const fn slot(path: Path) -> usize {
    match path {
        Path::Control => 0,
        Path::Bulk => 1,
    }
}
