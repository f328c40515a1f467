//! What a killed `xl migrate-receive` leaves running.
//!
//! libxl restores through a helper process. When its `xl` is killed, the helper waits
//! for a stream that nobody will write: it can finish no restore, and hold memory.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;

const HELPER: &str = "libxl-save-helper";
const RESTORE: &str = "--restore-domain";

/// Kills restore helpers of libxl whose parent has died, and returns how many.
///
/// Call it before a new `xl migrate-receive` is started, ahead of
/// [`Xl::destroy_incoming`](super::toolstack::Xl::destroy_incoming).
pub fn kill_orphaned_helpers() -> usize {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| kill_if_orphan(pid).is_some()).count()
}

fn kill_if_orphan(pid: i32) -> Option<()> {
    // Open first, then look: the handle stays with the process that was looked at.
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = command.split(|&byte| byte == 0);
    if !words.next()?.ends_with(HELPER.as_bytes()) || !words.any(|word| word == RESTORE.as_bytes()) {
        return None;
    }
    let parent = parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    // Orphans go to init, or to a service manager that has asked for them.
    let adopted = parent == 1
        || fs::read_to_string(format!("/proc/{parent}/comm")).is_ok_and(|name| name.trim() == "systemd");
    if !adopted {
        return None;
    }
    tracing::info!("Killing the restore helper {pid}, whose xl is gone");
    pidfd_send_signal(process, Signal::KILL).ok()
}

/// The parent's pid from a process' `stat`, in which the name may hold anything.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_parent_behind_any_name() {
        assert_eq!(parent("12 (a) S 5 (b) R 77 1 1"), Some(77));
        assert_eq!(parent("12 (xl) S 34 12 12 0 -1"), Some(34));
        assert_eq!(parent("12 xl S 34"), None);
    }
}
