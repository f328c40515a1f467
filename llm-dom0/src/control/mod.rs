//! How a running `llm` is asked things: one Unix socket a command, one line of
//! JSON each way.

mod handover;
mod status;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use handover::{HandedConnection, take_over_connections};
pub use status::{
    BackupStatus, EgressStatus, FidelityStatus, LogStatus, PauseSpan, PauseStatus, PrimaryStatus,
    ReplayStatus, SecondStageStatus, SessionStatus, Status, TakeoverStatus,
};

/// Sockets and locks of running commands live here.
pub const RUN_DIR: &str = "/run/llm";
/// Longest request or answer, in bytes.
const LINE_MAX: u64 = 1 << 20;
/// A peer on the same host answers at once or not at all.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Releasing waits for a checkpoint to end and for the backup's answer.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(120);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// How does it stand?
    Status,
    /// Stop protecting; the guest goes on.
    Release {
        /// Do not wait for the backup: it is dead, or the risk is taken.
        force: bool,
    },
    /// Of `llm backup`: let go of a domain that was taken over here, for it is protected from here now.
    HandOver {
        /// Its name.
        domain: String,
    },
}

/// What is answered.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Release`]: done, and how.
    Released {
        /// In words.
        note: String,
    },
    /// To [`Request::HandOver`].
    HandedOver {
        /// What must be translated from now on; none if nobody had the domain's interface.
        connections: Option<Vec<HandedConnection>>,
    },
    /// It cannot be done.
    Error {
        /// Why.
        reason: String,
    },
}

/// Why a running `llm` could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nothing listens there.
    #[error("No llm answers at {}: is it running?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// It went away, or sent no JSON.
    #[error("The llm at {} gave no answer", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// The system's or the parser's word.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("Cannot listen at {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// It does not do what it was asked.
    #[error("The llm at {} refuses: {reason}", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// Its words.
        reason: String,
    },
    /// Another process holds the lock.
    #[error("{what} is already in use by another llm (lock {})", path.display())]
    Busy {
        /// The domain or the role.
        what: String,
        /// The lock file.
        path: PathBuf,
    },
}

/// The socket of the command that protects `domain`.
#[must_use]
pub fn protect_socket(domain: &str) -> PathBuf {
    run_file("protect", domain, "sock")
}

/// The socket of this host's `llm backup`.
#[must_use]
pub fn backup_socket() -> PathBuf {
    Path::new(RUN_DIR).join("backup.sock")
}

/// A file under [`RUN_DIR`]; a slash in a name is no way out of it.
#[must_use]
pub fn run_file(kind: &str, name: &str, ending: &str) -> PathBuf {
    Path::new(RUN_DIR).join(format!("{kind}-{}.{ending}", name.replace(['/', '\0'], "_")))
}

/// Every socket of a running `llm` on this host.
///
/// # Errors
/// The system's, if the directory is there and cannot be read.
pub fn sockets() -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(RUN_DIR) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found: Vec<_> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "sock"))
        .filter(|p| {
            let name = p.file_name().unwrap_or_default().to_string_lossy();
            name == "backup.sock" || name.starts_with("protect-")
        })
        .collect();
    found.sort();
    Ok(found)
}

/// Asks the `llm` at `path`.
///
/// # Errors
/// [`ControlError::Connect`] or [`ControlError::Answer`].
pub fn ask(path: &Path, request: Request) -> Result<Response, ControlError> {
    let mut stream =
        UnixStream::connect(path).map_err(|source| ControlError::Connect { path: path.into(), source })?;
    let answer = (|| {
        let patience = if matches!(request, Request::Release { .. }) { RELEASE_TIMEOUT } else { TIMEOUT };
        stream.set_read_timeout(Some(patience))?;
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        read_json(&stream)
    })();
    answer.map_err(|source| ControlError::Answer { path: path.into(), source })
}

fn read_json<T: serde::de::DeserializeOwned>(stream: &UnixStream) -> io::Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_MAX)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Held while a command runs; dropping it removes the socket.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    /// Keeps the lock for as long as the command runs.
    _lock: fs::File,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Takes the lock that goes with `path` and answers requests there with
/// `handle`, in a thread of its own.
///
/// # Errors
/// [`ControlError::Busy`] if another process holds the lock, else
/// [`ControlError::Listen`].
pub fn serve(
    path: &Path,
    what: &str,
    handle: impl Fn(Request) -> Response + Send + 'static,
) -> Result<Server, ControlError> {
    let listen = |source| ControlError::Listen { path: path.into(), source };
    fs::create_dir_all(RUN_DIR).map_err(listen)?;
    let lock_path = path.with_extension("lock");
    let lock = fs::File::create(&lock_path).map_err(listen)?;
    if lock.try_lock().is_err() {
        return Err(ControlError::Busy { what: what.into(), path: lock_path });
    }
    // With the lock held, a socket that is still there is a dead one's.
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(listen)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(listen)?;
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Err(error) = answer(&stream, &handle) {
                    tracing::debug!(%error, "control request failed");
                }
            }
        })
        .map_err(listen)?;
    Ok(Server { path: path.into(), _lock: lock })
}

fn answer(mut stream: &UnixStream, handle: &impl Fn(Request) -> Response) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = read_json(stream)?;
    let mut line = serde_json::to_vec(&handle(request))?;
    line.push(b'\n');
    stream.write_all(&line)
}
