//! Time, and waiting for events: what the rest of the kernel knows of `struct shared_info`.

use crate::arch::event::{self, Port};
use crate::arch::hypercall::Refused;
use crate::arch::page::SharedPage;
use crate::arch::tsc;
use crate::clock::TimeInfo;
use spin::Once;

static INFO: Once<SharedPage> = Once::new();

/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;

/// Sets the page that Xen shares with this domain. Without it, time stands still and no port is pending.
pub fn init(info: SharedPage) {
    INFO.call_once(|| info);
}

/// Nanoseconds since Xen booted.
#[must_use]
pub fn now() -> u64 {
    INFO.get().map_or(0, |info| TimeInfo::read(info).nanos(tsc::read()))
}

/// Clears the pending bits of `ports`, and returns whether one was set. What the ports stand for is to be looked at
/// afterwards, never before.
pub fn take(ports: &[Port]) -> bool {
    // All of them, not up to the first.
    ports.iter().fold(false, |any, port| INFO.get().is_some_and(|info| event::take(info, *port)) | any)
}

/// Sleeps until one of `ports` is pending or until `deadline`, 0 for none; then clears their bits, and returns
/// whether one was set. Time that passes without an event is possible before the deadline.
///
/// # Errors
/// [`Refused`] with Xen's error number.
pub fn wait(ports: &[Port], deadline: u64) -> Result<bool, Refused> {
    event::poll(ports, deadline)?;
    Ok(take(ports))
}
