//! Event channels, and the wait for them.
//!
//! Events stay masked for the virtual CPU: an upcall would push below the stack pointer, where code of this target
//! keeps data. A pending bit is set all the same, and `SCHEDOP_poll` wakes by it. `SCHEDOP_block` is of no use
//! here: it unmasks events. Source: xen/include/public/event_channel.h and sched.h.

use super::hypercall::{Refused, check, hypercall};
use crate::abi::{self, SELF, shared};
use crate::shared::Shared;
use xen_sys as xen;

/// This domain's end of an event channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Port(pub u32);

/// Most ports that [`poll`] takes.
pub const POLL_MAX: usize = 128;

/// Bits in a word of the pending ports.
const WORD: u32 = u64::BITS;
/// Ports that the two-level layout has.
const PORTS: u32 = WORD * WORD;

/// A new channel that domain `remote` may bind.
///
/// # Errors
/// [`Refused`] with Xen's error number; so in all functions below.
pub fn alloc_unbound(remote: u16) -> Result<Port, Refused> {
    let mut arg = abi::evtchn_alloc_unbound { dom: SELF, remote_dom: remote, port: 0 };
    // SAFETY:
    // - Xen reads and writes a `struct evtchn_alloc_unbound`, which `arg` is.
    unsafe { op(xen::EVTCHNOP_alloc_unbound, &raw mut arg) }?;
    Ok(Port(arg.port))
}

/// Binds a channel that domain `remote` has made for this one as `port` of its own. The new port is pending at
/// once.
///
/// # Errors
/// As for [`alloc_unbound`].
pub fn bind_interdomain(remote: u16, port: Port) -> Result<Port, Refused> {
    let mut arg = abi::evtchn_bind_interdomain { remote_dom: remote, remote_port: port.0, local_port: 0 };
    // SAFETY:
    // - Xen reads and writes a `struct evtchn_bind_interdomain`, which `arg` is.
    unsafe { op(xen::EVTCHNOP_bind_interdomain, &raw mut arg) }?;
    Ok(Port(arg.local_port))
}

/// Notifies the other end.
///
/// # Errors
/// As for [`alloc_unbound`].
pub fn send(port: Port) -> Result<(), Refused> {
    let mut arg = abi::evtchn_send { port: port.0 };
    // SAFETY:
    // - Xen reads a `struct evtchn_send`, which `arg` is.
    unsafe { op(xen::EVTCHNOP_send, &raw mut arg) }
}

/// Gives the port back.
///
/// # Errors
/// As for [`alloc_unbound`].
pub fn close(port: Port) -> Result<(), Refused> {
    let mut arg = abi::evtchn_close { port: port.0 };
    // SAFETY:
    // - Xen reads a `struct evtchn_close`, which `arg` is.
    unsafe { op(xen::EVTCHNOP_close, &raw mut arg) }
}

/// Sleeps until one of `ports`, at most [`POLL_MAX`], is pending, or until `deadline`, in nanoseconds since Xen
/// booted; 0 is never. May return early. A port that is pending already, or a deadline that is past, does not sleep.
///
/// Lose no wake-up: clear the pending bits by [`take`], then look at what the ports stand for, then call this.
///
/// # Errors
/// As for [`alloc_unbound`].
pub fn poll(ports: &[Port], deadline: u64) -> Result<(), Refused> {
    let nr_ports = u32::try_from(ports.len()).unwrap_or(u32::MAX);
    let handle = ports.as_ptr().cast::<u32>().cast_mut();
    let arg = abi::sched_poll { ports: handle, nr_ports, timeout: deadline };
    // SAFETY:
    // - Xen reads a `struct sched_poll`, which `arg` is, and as many ports as it says: `Port` is a number of
    //   four bytes, and `ports` a live slice.
    let ret = unsafe {
        hypercall::<{ xen::__HYPERVISOR_sched_op }>([
            u64::from(xen::SCHEDOP_poll),
            (&raw const arg).addr() as u64,
            0,
            0,
            0,
        ])
    };
    check(ret)
}

/// Clears the pending bit of `port` in `info`, this domain's `struct shared_info`, and returns what it was.
pub fn take<S: Shared>(info: &S, port: Port) -> bool {
    // A port that is not there is never pending.
    port.0 < PORTS && {
        let mask = 1 << (port.0 % WORD);
        info.clear64(shared::PENDING + (port.0 / WORD) as usize * size_of::<u64>(), mask) & mask != 0
    }
}

/// # Safety
/// `arg` points to the structure that `cmd` takes.
unsafe fn op<T>(cmd: u32, arg: *mut T) -> Result<(), Refused> {
    // SAFETY:
    // - The caller promises that Xen finds there what `cmd` takes.
    let ret = unsafe {
        hypercall::<{ xen::__HYPERVISOR_event_channel_op }>([
            u64::from(cmd),
            arg.expose_provenance() as u64,
            0,
            0,
            0,
        ])
    };
    check(ret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::TestPage;

    #[test]
    fn the_bit_of_a_port_is_taken_once_and_no_other() {
        let page = TestPage::new();
        page.write(shared::PENDING + 8, &0b110_u64.to_le_bytes());
        assert!(!take(&page, Port(64)));
        assert!(take(&page, Port(65)));
        assert!(!take(&page, Port(65)));
        assert!(take(&page, Port(66)));
        assert!(!take(&page, Port(4095)) && !take(&page, Port(4096)) && !take(&page, Port(u32::MAX)));
    }
}
