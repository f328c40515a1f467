//! The thread that looks at the domain: how long it is suspended, whether it
//! is suspended while `xl` is held, and whether it is still there.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::samples::PauseMeter;
use crate::clock;
use crate::control::PauseSpan;
use crate::xen::privcmd::{DomainStates, Shutdown};

/// Time between two looks while no checkpoint is under way, and the longest in one.
const IDLE: Duration = Duration::from_millis(20);

/// What was seen.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// The guest was suspended.
    Pause(PauseSpan),
    /// The guest is suspended although no checkpoint was asked for: `xl` was stopped a moment too late.
    SuspendedWhileHeld,
    /// The domain is gone, or has shut down.
    Gone(Gone),
}

/// How a domain ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    /// In words.
    pub(crate) how: String,
    /// It has powered off, and is still there.
    pub(crate) remains: bool,
}

impl Gone {
    fn new(how: impl Into<String>) -> Self {
        Self { how: how.into(), remains: false }
    }
}

/// Shared between the watcher and the main thread.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Now {
    /// A checkpoint is under way.
    busy: bool,
    /// Checkpoints begun so far.
    begun: u64,
    stop: bool,
}

impl Watch {
    /// `xl` has been let go, or held again.
    pub(crate) fn set_busy(&self, busy: bool) {
        let mut now = self.lock();
        now.busy = busy;
        if busy {
            now.begun += 1;
            // A look that comes late would make the pause begin late.
            self.changed.notify_all();
        }
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    fn now(&self) -> Now {
        *self.lock()
    }

    /// Sleeps for that long, or until another checkpoint begins or the thread is to end.
    fn sleep(&self, time: Duration, begun: u64) {
        let same = |now: &mut Now| !now.stop && now.begun == begun;
        drop(self.changed.wait_timeout_while(self.lock(), time, same));
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches domain `domid` until told to stop or until it is gone.
pub(crate) fn run(states: &mut dyn DomainStates, domid: u16, watch: &Watch, mut tell: impl FnMut(Seen)) {
    let mut meter = PauseMeter::default();
    let mut told_held = false;
    let mut begun = 0;
    loop {
        let now = watch.now();
        if now.stop {
            return;
        }
        let busy = now.busy;
        let suspended = match look(states, domid) {
            Ok(suspended) => suspended,
            Err(how) => return tell(Seen::Gone(how)),
        };
        let at = Instant::now();
        if let Some(pause) = meter.observe(suspended, at) {
            let length_ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
            let began_ns = clock::now().as_nanos().saturating_sub(length_ns);
            tell(Seen::Pause(PauseSpan { began_ns, length_ns }));
        }
        if begun != now.begun {
            begun = now.begun;
            meter.expect(at);
        }
        // Asked for again under way: a checkpoint that has just begun is none of this.
        if suspended && !busy && !watch.now().busy {
            if !told_held {
                told_held = true;
                tell(Seen::SuspendedWhileHeld);
            }
        } else {
            told_held = false;
        }
        watch.sleep(if busy { meter.until_next(at).min(IDLE) } else { IDLE }, begun);
    }
}

/// Whether the domain is suspended; if it is no more, how it ended.
pub(crate) fn look(states: &mut dyn DomainStates, domid: u16) -> Result<bool, Gone> {
    let info = match states.domain(domid) {
        Ok(Some(info)) => info,
        Ok(None) => return Err(Gone::new("it is gone")),
        Err(error) => return Err(Gone::new(error.to_string())),
    };
    match info.shutdown() {
        _ if info.dying() => Err(Gone::new("it was destroyed")),
        None => Ok(false),
        Some(Shutdown::Suspend) => Ok(true),
        Some(reason) => Err(Gone {
            how: format!("it has shut down: {reason:?}").to_lowercase(),
            remains: reason == Shutdown::Poweroff,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::xen::privcmd::{DomainInfo, PrivcmdError};

    /// `XEN_DOMINF_shutdown` with `SHUTDOWN_suspend`, and nothing.
    const SUSPENDED: u32 = 1 << 2 | 2 << 16;
    const RUNNING: u32 = 0;

    struct Flags<'a>(&'a AtomicU32);

    impl DomainStates for Flags<'_> {
        fn domain(&mut self, domid: u16) -> Result<Option<DomainInfo>, PrivcmdError> {
            let flags = self.0.load(Ordering::SeqCst);
            let (pages, handle) = (0, [0; 16]);
            Ok(Some(DomainInfo { domid, flags, pages, max_pages: 0, cpu_time: 0, vcpus: 1, handle }))
        }
    }

    #[test]
    fn a_pause_is_told_with_its_length_and_one_that_nobody_asked_for_at_once() {
        let (flags, watch, seen) = (AtomicU32::new(RUNNING), Watch::default(), Mutex::new(Vec::new()));
        let wait = |want: usize| {
            while seen.lock().expect("lock").len() < want {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| run(&mut Flags(&flags), 1, &watch, |what| seen.lock().expect("lock").push(what)));
            watch.set_busy(true);
            flags.store(SUSPENDED, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(50));
            flags.store(RUNNING, Ordering::SeqCst);
            wait(1);
            watch.set_busy(false);
            flags.store(SUSPENDED, Ordering::SeqCst);
            wait(2);
            watch.stop();
        });
        let seen = seen.into_inner().expect("lock");
        let [Seen::Pause(pause), Seen::SuspendedWhileHeld] = seen[..] else { panic!("{seen:?}") };
        // No upper bound: the machine may be busy.
        assert!(pause.length_ns > 30_000_000, "{pause:?}");
    }
}
