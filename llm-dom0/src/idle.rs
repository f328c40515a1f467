//! Work that gives way to everything else.

use std::io;

/// Does `work` in this thread on processor time that nobody else wants, and goes on as before.
///
/// A thread that is held up meanwhile must have nothing that others wait for: no lock.
pub(crate) fn while_idle<T>(work: impl FnOnce() -> T) -> T {
    let idle = policy(libc::SCHED_IDLE).is_ok();
    let result = work();
    if idle && let Err(error) = policy(libc::SCHED_OTHER) {
        tracing::debug!(%error, "a thread stays at the lowest priority");
    }
    result
}

/// Sets how the kernel shares out processors to the present thread.
fn policy(policy: libc::c_int) -> io::Result<()> {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY:
    // - the pointer comes from a live local, and the kernel only reads it.
    // - 0 is the calling thread, and no policy changes what memory means.
    let done = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The policy's number, as the kernel tells it of the present thread: its 41st figure.
    fn now() -> String {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("the kernel's figures");
        let behind = stat.rsplit_once(')').expect("the name").1;
        behind.split_whitespace().nth(41 - 3).expect("the policy").to_owned()
    }

    #[test]
    fn only_the_work_is_idle() {
        assert_eq!(now(), libc::SCHED_OTHER.to_string());
        assert_eq!(while_idle(now), libc::SCHED_IDLE.to_string());
        // Going back needs a right that tests may lack.
        if rustix::process::geteuid().is_root() {
            assert_eq!(now(), libc::SCHED_OTHER.to_string());
        }
    }
}
