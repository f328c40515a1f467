//! What demos and fault tests do with a lab: protect the guest, ask how it
//! stands, take the host away, look at what its clients saw.

mod mix;

use std::time::{Duration, Instant};

use llm_dom0::control::{BackupStatus, PrimaryStatus, SessionStatus, Status};

use crate::clients::{ClientError, Outcome};
use crate::lab::{Lab, LabError, Link, guest};

pub use mix::{Clients, service};

/// Port of `llm backup` in the lab.
pub const PORT: u16 = 7707;
/// Log of `llm backup` in its host.
pub const BACKUP_LOG: &str = "/var/log/llm-backup.log";
/// Log of `llm protect` in its host.
pub const PROTECT_LOG: &str = "/var/log/llm-protect.log";
/// Holds the exit code of `llm protect` once it has ended.
const PROTECT_EXIT: &str = "/run/llm-protect.exit";

/// What can go wrong in a scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The lab.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The clients.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The status of an `llm` is not what it prints.
    #[error("host{host}: `llm status --json` printed something else: {source}")]
    Status {
        /// Number of the host.
        host: usize,
        /// The parser's word.
        #[source]
        source: serde_json::Error,
    },
    /// Something did not come about in time.
    #[error("Waited {seconds} s in vain for {what}; last seen: {seen}")]
    Waited {
        /// For what.
        what: String,
        /// How long.
        seconds: u64,
        /// What there was instead.
        seen: String,
    },
    /// A promise was broken.
    #[error("{0}")]
    Broken(String),
}

impl ScenarioError {
    /// Whether another attempt may go otherwise: the lab stalled, or something took too
    /// long. A broken promise stays broken.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        !matches!(self, Self::Broken(_) | Self::Status { .. })
    }
}

/// Result of a step of a scenario.
pub type Result<T> = std::result::Result<T, ScenarioError>;

/// Fails with `what` unless `holds`.
///
/// # Errors
/// [`ScenarioError::Broken`].
pub fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(ScenarioError::Broken(what())) }
}

/// The address of `llm backup` on that host (index 0 or 1), on the replication link.
#[must_use]
pub fn backup_address(host: usize) -> String {
    format!("{}:{PORT}", Link::Replication.host_address(host + 1))
}

/// Starts `llm backup` on that host and waits until it listens.
///
/// # Errors
/// As the lab's, or it does not listen in time.
pub fn start_backup(lab: &Lab, host: usize) -> Result<()> {
    // The Date in nginx' replies is another one the second time: told, and no reason to break a connection.
    let options = "--on-divergence serve --keep-log";
    let command = format!("exec llm --log debug backup --listen {} {options}", backup_address(host));
    lab.host(host).spawn_detached(&command, BACKUP_LOG)?;
    wait("llm backup to listen", Duration::from_secs(20), || {
        let backup = backup_status(lab, host)?;
        Ok((backup.is_some(), move || format!("{backup:?}")))
    })
}

/// Starts `llm protect guest` on that host towards the other one, with more options if wanted.
///
/// # Errors
/// As the lab's.
pub fn start_protect(lab: &Lab, host: usize, options: &str) -> Result<()> {
    let to = backup_address(1 - host);
    // A scenario that says it itself knows better.
    let more = lab.protect();
    let name = more.split(' ').next().unwrap_or_default();
    let more = if options.contains(name) { "" } else { more };
    let command = format!(
        "rm -f {PROTECT_EXIT}; llm --log debug protect {} --to {to} {options} {more}; echo $? >{PROTECT_EXIT}.new; \
         mv {PROTECT_EXIT}.new {PROTECT_EXIT}",
        guest::NAME
    );
    lab.host(host).spawn_detached(&command, PROTECT_LOG)?;
    Ok(())
}

/// Waits for the end of `llm protect` on that host: its exit code.
///
/// # Errors
/// It does not end in time.
pub fn protect_exit(lab: &Lab, host: usize, timeout: Duration) -> Result<i32> {
    let output = lab.host(host).wait_for(&format!("cat {PROTECT_EXIT}"), timeout)?;
    output
        .text()
        .trim()
        .parse()
        .map_err(|_| ScenarioError::Broken(format!("host{}: no exit code but {:?}", host + 1, output.text())))
}

/// Everything that `llm status --json` tells on that host.
///
/// # Errors
/// As the lab's, or it is no JSON.
pub fn status(lab: &Lab, host: usize) -> Result<Vec<Status>> {
    let text = lab.host(host).check("llm status --json")?.text();
    serde_json::from_str(&text).map_err(|source| ScenarioError::Status { host: host + 1, source })
}

/// The state of `llm protect` on that host, if it runs.
///
/// # Errors
/// As [`status`].
pub fn primary_status(lab: &Lab, host: usize) -> Result<Option<PrimaryStatus>> {
    let primary = |s| if let Status::Primary(p) = s { Some(p) } else { None };
    Ok(status(lab, host)?.into_iter().find_map(primary))
}

/// The state of `llm backup` on that host, if it runs.
///
/// # Errors
/// As [`status`].
pub fn backup_status(lab: &Lab, host: usize) -> Result<Option<BackupStatus>> {
    let backup = |s| if let Status::Backup(b) = s { Some(b) } else { None };
    Ok(status(lab, host)?.into_iter().find_map(backup))
}

/// The guest's session on its backup, if there is one.
///
/// # Errors
/// As [`status`].
pub fn session_status(lab: &Lab, host: usize) -> Result<Option<SessionStatus>> {
    let sessions = backup_status(lab, host)?.map(|b| b.sessions).unwrap_or_default();
    Ok(sessions.into_iter().find(|s| s.domain == guest::NAME))
}

/// Waits until `llm protect` on that host is in one of these states.
///
/// # Errors
/// [`ScenarioError::Waited`] with the state it is in.
pub fn wait_primary(lab: &Lab, host: usize, states: &[&str], timeout: Duration) -> Result<PrimaryStatus> {
    let mut last = None;
    wait(&format!("llm protect to be {}", states.join(" or ")), timeout, || {
        last = primary_status(lab, host)?;
        let reached = last.as_ref().is_some_and(|p| states.contains(&p.state.as_str()));
        let seen =
            last.as_ref().map_or_else(|| "it does not run".into(), |p| format!("{} ({})", p.state, p.note));
        Ok((reached, move || seen))
    })?;
    last.ok_or_else(|| ScenarioError::Broken("llm protect has gone".into()))
}

/// Waits until the guest's session on that backup is in this state.
///
/// # Errors
/// [`ScenarioError::Waited`] with the state it is in.
pub fn wait_session(lab: &Lab, host: usize, state: &str, timeout: Duration) -> Result<SessionStatus> {
    let mut last = None;
    wait(&format!("the backup to be {state}"), timeout, || {
        last = session_status(lab, host)?;
        let reached = last.as_ref().is_some_and(|s| s.state == state);
        let seen = last.as_ref().map_or_else(|| "no session".into(), |s| format!("{} ({})", s.state, s.note));
        Ok((reached, move || seen))
    })?;
    last.ok_or_else(|| ScenarioError::Broken("the session has gone".into()))
}

/// Looks every 200 ms until it is so.
///
/// # Errors
/// What the look gives, or [`ScenarioError::Waited`].
pub fn wait<S: FnOnce() -> String>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> Result<(bool, S)>,
) -> Result<()> {
    let start = Instant::now();
    loop {
        let (reached, seen) = look()?;
        if reached {
            return Ok(());
        }
        if start.elapsed() > timeout {
            return Err(ScenarioError::Waited {
                what: what.into(),
                seconds: timeout.as_secs(),
                seen: seen(),
            });
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Protects the guest from `host` to the other one and waits until that stands.
///
/// # Errors
/// It does not come to stand.
pub fn protect(lab: &Lab, host: usize, options: &str) -> Result<PrimaryStatus> {
    if backup_status(lab, 1 - host)?.is_none() {
        start_backup(lab, 1 - host)?;
    }
    start_protect(lab, host, options)?;
    wait_primary(lab, host, &["protected"], Duration::from_secs(240))
}

/// Nothing that was acknowledged is lost, nothing is wrong, every connection went on.
///
/// # Errors
/// [`ScenarioError::Broken`] with what is not so.
pub fn ensure_held(outcomes: &[Outcome]) -> Result<()> {
    for o in outcomes {
        let bad = o.lost_acked_writes + o.wrong_values + o.broken.len() as u64;
        ensure(bad == 0, || {
            format!(
                "{} acknowledged writes lost, {} wrong values, {} connections broken: {:?} {:?}",
                o.lost_acked_writes,
                o.wrong_values,
                o.broken.len(),
                o.broken,
                o.findings
            )
        })?;
    }
    Ok(())
}
