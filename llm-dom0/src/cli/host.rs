//! What every command that touches the host needs of it.

use std::path::Path;

use llm_core::page::PAGE;
use sd_notify::NotifyState;

use super::exit::{Exit, Failure};

/// Root, on Xen, as Dom0, with the toolstack.
pub(super) fn check() -> Result<(), Failure> {
    let fail = |text: &str| Err(Failure::new(Exit::Host, text.to_owned()));
    if !rustix::process::geteuid().is_root() {
        return fail("Must be run as root: it takes over network interfaces and talks to Xen");
    }
    if !Path::new("/dev/xen").exists() && !Path::new("/proc/xen/privcmd").exists() {
        return fail(
            "No Xen here (/dev/xen is missing): boot the host with Xen, or load xen-privcmd and xen-evtchn",
        );
    }
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("xl").is_file()));
    if !found {
        return fail("No `xl` in the search path: install xen-utils");
    }
    Ok(())
}

/// Lets heartbeats and acknowledgements go before other work on a busy Dom0.
pub(super) fn raise_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, -15) {
        tracing::warn!(%error, "cannot raise our priority: a busy host may look dead to its peer");
    }
}

/// Whole pages in so many bytes.
pub(super) fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE as u64).unwrap_or(u32::MAX)
}

/// Tells systemd, if it asked, that the service is up.
pub(super) fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells systemd, if it asked, that the service ends.
pub(super) fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
