//! The thread that looks at the domain: how long it is suspended, whether it
//! is suspended while `xl` is held, and whether it is still there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::samples::PauseMeter;
use crate::clock;
use crate::control::PauseSpan;
use crate::xen::privcmd::{DomainStates, Shutdown};

/// Time between two looks while no checkpoint is under way.
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
    /// A checkpoint is under way.
    busy: AtomicBool,
    stop: AtomicBool,
}

impl Watch {
    /// `xl` has been let go, or held again.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Release);
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Watches domain `domid` until told to stop or until it is gone.
pub(crate) fn run(states: &mut dyn DomainStates, domid: u16, watch: &Arc<Watch>, mut tell: impl FnMut(Seen)) {
    let mut meter = PauseMeter::default();
    let mut told_held = false;
    while !watch.stop.load(Ordering::Acquire) {
        let busy = watch.busy.load(Ordering::Acquire);
        let suspended = match look(states, domid) {
            Ok(suspended) => suspended,
            Err(how) => return tell(Seen::Gone(how)),
        };
        if let Some(pause) = meter.observe(suspended, Instant::now()) {
            let length_ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
            let began_ns = clock::now().as_nanos().saturating_sub(length_ns);
            tell(Seen::Pause(PauseSpan { began_ns, length_ns }));
        }
        // Asked for again under way: a checkpoint that has just begun is none of this.
        if suspended && !busy && !watch.busy.load(Ordering::Acquire) {
            if !told_held {
                told_held = true;
                tell(Seen::SuspendedWhileHeld);
            }
        } else {
            told_held = false;
        }
        std::thread::sleep(if busy { PauseMeter::PERIOD } else { IDLE });
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
