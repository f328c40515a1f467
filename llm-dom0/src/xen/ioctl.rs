//! Requests to Xen's devices: numbers without a direction, arguments that the kernel reads and writes.

use rustix::ioctl::{Direction, Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use std::ffi::c_void;
use std::io;
use std::os::fd::AsFd;
use std::ptr;

/// An argument of a request.
///
/// # Safety
///
/// The kernel takes the address of a `Self` as argument of the request with this group, number and size, and reads and
/// writes nothing beyond it. Whatever it writes is a valid `Self`.
pub(super) unsafe trait Argument: Sized {
    /// The letter of the device.
    const GROUP: u8;
    /// The number of the request.
    const NUMBER: u8;
    /// Bytes that the request's number speaks of; less than there are if an array follows.
    const SIZE: usize = size_of::<Self>();
}

/// Makes the request on a device; what the kernel returns.
pub(super) fn call<T: Argument>(device: impl AsFd, argument: &mut T) -> io::Result<i32> {
    // SAFETY: `argument` is what the request takes, by the contract of its trait, and lives through the call.
    Ok(unsafe { ioctl(device, Request(argument)) }?)
}

struct Request<'a, T>(&'a mut T);

// SAFETY: opcode and argument belong together, by the contract of `Argument`; the output is the kernel's number alone.
unsafe impl<T: Argument> Ioctl for Request<'_, T> {
    type Output = i32;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode_of::<T>()
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut(self.0).cast()
    }

    // SAFETY: asks nothing of its caller, since it does not look at the pointer.
    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<Self::Output> {
        Ok(out)
    }
}

/// `_IOC(_IOC_NONE, GROUP, NUMBER, SIZE)`.
pub(super) const fn opcode_of<T: Argument>() -> Opcode {
    opcode::from_components(Direction::None, T::GROUP, T::NUMBER, T::SIZE)
}
