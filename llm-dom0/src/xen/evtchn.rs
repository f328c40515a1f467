//! `/dev/xen/evtchn`: notifications between domains.
//!
//! Numbers and layouts are from Linux' `include/uapi/xen/evtchn.h`. Each channel has an open device of its own, so that it
//! has a descriptor to wait for, and is unbound when that is closed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::ioctl::{Argument, call};
use crate::shared::EventChannel;

/// `struct ioctl_evtchn_bind_interdomain`.
#[repr(C)]
struct BindInterdomain {
    remote_domain: u32,
    remote_port: u32,
}

// SAFETY: IOCTL_EVTCHN_BIND_INTERDOMAIN takes this structure, and reads it.
unsafe impl Argument for BindInterdomain {
    const GROUP: u8 = b'E';
    const NUMBER: u8 = 1;
}

/// `struct ioctl_evtchn_bind_unbound_port`.
#[repr(C)]
struct BindUnboundPort {
    remote_domain: u32,
}

// SAFETY: IOCTL_EVTCHN_BIND_UNBOUND_PORT takes this structure, and reads it.
unsafe impl Argument for BindUnboundPort {
    const GROUP: u8 = b'E';
    const NUMBER: u8 = 2;
}

/// `struct ioctl_evtchn_notify`.
#[repr(C)]
struct Notify {
    port: u32,
}

// SAFETY: IOCTL_EVTCHN_NOTIFY takes this structure, and reads it.
unsafe impl Argument for Notify {
    const GROUP: u8 = b'E';
    const NUMBER: u8 = 4;
}

/// One end of an event channel to another domain.
#[derive(Debug)]
pub struct Evtchn {
    device: File,
    port: u32,
}

impl Evtchn {
    /// A new port to which `domid` may bind: tell it the [`port`](Self::port).
    ///
    /// # Errors
    ///
    /// There is no such device; Xen refuses.
    pub fn offer(domid: u16) -> io::Result<Self> {
        Self::bound(&mut BindUnboundPort { remote_domain: domid.into() })
    }

    /// Binds to a port that `domid` offers. There is a notification at once, as things may have happened before.
    ///
    /// # Errors
    ///
    /// There is no such device; Xen refuses.
    pub fn bind(domid: u16, port: u32) -> io::Result<Self> {
        Self::bound(&mut BindInterdomain { remote_domain: domid.into(), remote_port: port })
    }

    /// Number of this end in this domain.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.port
    }

    fn bound<T: Argument>(request: &mut T) -> io::Result<Self> {
        let mut open = OpenOptions::new();
        let device = open.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/xen/evtchn")?;
        let port = call(&device, request)?;
        Ok(Self { device, port: u32::try_from(port).map_err(io::Error::other)? })
    }
}

impl EventChannel for Evtchn {
    fn notify(&self) -> io::Result<()> {
        call(&self.device, &mut Notify { port: self.port }).map(|_| ())
    }

    fn take(&self) -> io::Result<bool> {
        take_from(&self.device)
    }
}

impl AsFd for Evtchn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Reads the port that was notified and writes it back: it is masked in between. What comes from then on is read next time.
fn take_from(mut device: impl Read + Write) -> io::Result<bool> {
    let mut port = [0; 4];
    match device.read(&mut port) {
        Ok(4) => {}
        Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(error) => return Err(error),
    }
    device.write_all(&port)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::ioctl::opcode_of;
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn requests_are_the_kernels() {
        // _IOC(_IOC_NONE, 'E', n, size)
        assert_eq!(opcode_of::<BindInterdomain>(), 0x0008_4501);
        assert_eq!(opcode_of::<BindUnboundPort>(), 0x0004_4502);
        assert_eq!(opcode_of::<Notify>(), 0x0004_4504);
    }

    #[test]
    fn what_is_read_is_written_back() {
        let (ours, mut kernel) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        assert!(!take_from(&ours).unwrap());
        kernel.write_all(&7_u32.to_ne_bytes()).unwrap();
        assert!(take_from(&ours).unwrap());
        let mut port = [0; 4];
        kernel.read_exact(&mut port).unwrap();
        assert_eq!(u32::from_ne_bytes(port), 7);
        assert!(!take_from(&ours).unwrap());
        kernel.write_all(&[1, 2]).unwrap();
        assert_eq!(take_from(&ours).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
