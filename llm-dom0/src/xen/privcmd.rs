//! `/dev/xen/privcmd`: the state of a domain, asked of the hypervisor itself.
//!
//! Numbers and layouts are from Xen's `xen/include/public/domctl.h` and Linux'
//! `include/uapi/xen/privcmd.h`. Of the answer only fields are read that lie at the
//! same place in all interface versions tried here.

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::ptr::{self, NonNull};

/// Newest and oldest domctl interface version tried: Xen 4.22 down to 4.10.
const VERSIONS: std::ops::RangeInclusive<u32> = 0x0f..=0x18;

const HYPERVISOR_DOMCTL: u64 = 36;
const DOMCTL_GETDOMAININFO: u32 = 5;
const BUFFER_LEN: usize = 4096;

/// Where `struct xen_domctl_getdomaininfo` lies in `struct xen_domctl`.
const INFO: usize = 16;

/// What went wrong with privcmd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivcmdError {
    /// The device could not be opened.
    #[error("Cannot open /dev/xen/privcmd; is this Dom0, and are we root?")]
    Open(#[source] io::Error),
    /// No memory that the hypervisor can write to.
    #[error("Cannot get memory for hypercalls")]
    Memory(#[source] io::Error),
    /// The hypervisor speaks none of the interface versions that we know.
    #[error("This Xen speaks none of the domctl versions {:#x} to {:#x}", VERSIONS.start(), VERSIONS.end())]
    Version,
    /// The hypercall failed.
    #[error("Cannot ask Xen for the state of domain {domid}")]
    Domctl {
        /// Number of the domain.
        domid: u16,
        /// Why.
        source: io::Error,
    },
}

/// The state of a domain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DomainInfo {
    /// Number of the domain.
    pub domid: u16,
    /// Flags (`XEN_DOMINF_*`).
    pub flags: u32,
    /// Pages of memory that it has.
    pub pages: u64,
    /// Pages of memory that it may have.
    pub max_pages: u64,
    /// Time on CPUs since its creation, ns.
    pub cpu_time: u64,
    /// Virtual CPUs that are up.
    pub vcpus: u32,
    /// UUID.
    pub handle: [u8; 16],
}

/// Tells how domains are: the hypervisor by [`Privcmd`], or what stands for it without Xen.
pub trait DomainStates: Send {
    /// The state of a domain; `None` if there is none of that number.
    ///
    /// # Errors
    /// [`PrivcmdError`].
    fn domain(&mut self, domid: u16) -> Result<Option<DomainInfo>, PrivcmdError>;
}

/// How to get at the states of domains.
pub type OpenStates = fn() -> Result<Box<dyn DomainStates>, PrivcmdError>;

/// Asks Xen: [`Privcmd::open`].
///
/// # Errors
/// See there.
pub fn open_xen() -> Result<Box<dyn DomainStates>, PrivcmdError> {
    Ok(Box::new(Privcmd::open()?))
}

impl DomainStates for Privcmd {
    fn domain(&mut self, domid: u16) -> Result<Option<DomainInfo>, PrivcmdError> {
        Self::domain(self, domid)
    }
}

/// Why a domain is shut down (`SHUTDOWN_*`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shutdown {
    /// It switched itself off.
    Poweroff,
    /// It wants to be started anew.
    Reboot,
    /// It is suspended: for a checkpoint, or left so.
    Suspend,
    /// It crashed.
    Crash,
    /// Another reason, by number.
    Other(u8),
}

impl DomainInfo {
    /// Whether the domain is being destroyed.
    #[must_use]
    pub fn dying(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Whether it is an HVM or PVH domain.
    #[must_use]
    pub fn hvm(&self) -> bool {
        self.flags & (1 << 1) != 0
    }

    /// Whether the toolstack has paused it.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.flags & (1 << 3) != 0
    }

    /// Why it is shut down; `None` if it is not.
    #[must_use]
    pub fn shutdown(&self) -> Option<Shutdown> {
        (self.flags & (1 << 2) != 0).then_some(match (self.flags >> 16) as u8 {
            0 => Shutdown::Poweroff,
            1 => Shutdown::Reboot,
            2 => Shutdown::Suspend,
            3 => Shutdown::Crash,
            other => Shutdown::Other(other),
        })
    }

    /// Whether it can run: neither paused, nor shut down or suspended, nor dying.
    #[must_use]
    pub fn live(&self) -> bool {
        !self.dying() && !self.paused() && self.shutdown().is_none()
    }
}

/// An open privcmd device with memory for hypercalls.
#[derive(Debug)]
pub struct Privcmd {
    device: File,
    buffer: Buffer,
    version: Option<u32>,
}

impl Privcmd {
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// [`PrivcmdError::Open`] outside Dom0, [`PrivcmdError::Memory`].
    pub fn open() -> Result<Self, PrivcmdError> {
        let open = |path| OpenOptions::new().read(true).write(true).open(path);
        let device = open("/dev/xen/privcmd").or_else(|error| {
            let old = open("/proc/xen/privcmd");
            old.map_err(|_| error)
        });
        let device = device.map_err(PrivcmdError::Open)?;
        Ok(Self { device, buffer: Buffer::new().map_err(PrivcmdError::Memory)?, version: None })
    }

    /// The state of domain `domid`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`PrivcmdError::Version`] and [`PrivcmdError::Domctl`].
    pub fn domain(&mut self, domid: u16) -> Result<Option<DomainInfo>, PrivcmdError> {
        let versions = self.version.map_or(VERSIONS, |version| version..=version);
        for version in versions.rev() {
            match self.get_domain_info(domid, version) {
                // The interface version is checked first of all.
                Err(error) if error.raw_os_error() == Some(libc::EACCES) => {}
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                    self.version = Some(version);
                    return Ok(None);
                }
                Err(source) => return Err(PrivcmdError::Domctl { domid, source }),
                Ok(info) => {
                    self.version = Some(version);
                    // Before Xen 4.18 the next domain answers for one that is missing.
                    return Ok(Some(info).filter(|info| info.domid == domid));
                }
            }
        }
        Err(PrivcmdError::Version)
    }

    fn get_domain_info(&mut self, domid: u16, version: u32) -> io::Result<DomainInfo> {
        let mut domctl = [0; BUFFER_LEN];
        domctl[0..4].copy_from_slice(&DOMCTL_GETDOMAININFO.to_le_bytes());
        domctl[4..8].copy_from_slice(&version.to_le_bytes());
        domctl[8..10].copy_from_slice(&domid.to_le_bytes());
        self.buffer.write(&domctl);
        let argument = self.buffer.address.as_ptr().addr() as u64;
        let call = Hypercall { op: HYPERVISOR_DOMCTL, arg: [argument, 0, 0, 0, 0] };
        // SAFETY: the kernel reads `call`; the hypervisor reads and writes the buffer that
        // `argument` points to, which is one page, larger than any `struct xen_domctl`.
        unsafe { ioctl(&self.device, call) }?;
        Ok(parse(&self.buffer.read()))
    }
}

fn parse(domctl: &[u8; BUFFER_LEN]) -> DomainInfo {
    let bytes = |at: usize| domctl.get(INFO + at..).unwrap_or_default();
    let u16_at = |at| bytes(at).first_chunk().map_or(0, |chunk| u16::from_le_bytes(*chunk));
    let u32_at = |at| bytes(at).first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk));
    let u64_at = |at| bytes(at).first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk));
    DomainInfo {
        domid: u16_at(0),
        flags: u32_at(4),
        pages: u64_at(8),
        max_pages: u64_at(16),
        cpu_time: u64_at(56),
        vcpus: u32_at(64),
        handle: bytes(76).first_chunk().copied().unwrap_or_default(),
    }
}

/// `struct privcmd_hypercall`, and the request `IOCTL_PRIVCMD_HYPERCALL`.
#[repr(C)]
struct Hypercall {
    op: u64,
    arg: [u64; 5],
}

// SAFETY: opcode and argument are those of IOCTL_PRIVCMD_HYPERCALL: the kernel reads a
// `struct privcmd_hypercall`, which `Hypercall` is, and returns the hypercall's result.
unsafe impl Ioctl for Hypercall {
    type Output = i32;

    // Its definition carries no direction, though it has a size.
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::from_components(rustix::ioctl::Direction::None, b'P', 0, size_of::<Self>())
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut(self).cast()
    }

    // SAFETY: asks nothing of its caller, since it does not look at the pointer.
    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<Self::Output> {
        Ok(out)
    }
}

/// One page that stays where it is while the hypervisor uses it.
#[derive(Debug)]
struct Buffer {
    address: NonNull<[u8; BUFFER_LEN]>,
}

// SAFETY: the page belongs to this value alone and has no tie to a thread.
unsafe impl Send for Buffer {}

impl Buffer {
    /// From `/dev/xen/hypercall` (Linux 4.18 and newer, never moved by the kernel), else locked memory.
    fn new() -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let device = OpenOptions::new().read(true).write(true).open("/dev/xen/hypercall");
        let address = match device {
            // SAFETY: a new mapping at an address of the kernel's choice.
            Ok(device) => unsafe { mmap(ptr::null_mut(), BUFFER_LEN, access, MapFlags::SHARED, &device, 0) }?,
            Err(_) => Self::locked(access)?,
        };
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { address })
    }

    fn locked(access: ProtFlags) -> io::Result<*mut c_void> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe { mmap_anonymous(ptr::null_mut(), BUFFER_LEN, access, MapFlags::PRIVATE) }?;
        // SAFETY: the range is the mapping made above.
        match unsafe { mlock(address, BUFFER_LEN) } {
            Ok(()) => Ok(address),
            Err(error) => {
                // SAFETY: the mapping made above, which nothing else refers to.
                unsafe { munmap(address, BUFFER_LEN) }?;
                Err(error.into())
            }
        }
    }

    fn write(&mut self, bytes: &[u8; BUFFER_LEN]) {
        // SAFETY: the page is mapped as long as `self` lives, and no hypercall is under way.
        unsafe { self.address.as_ptr().write_volatile(*bytes) }
    }

    fn read(&self) -> [u8; BUFFER_LEN] {
        // SAFETY: the page is mapped as long as `self` lives, and no hypercall is under way.
        unsafe { self.address.as_ptr().read_volatile() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, to which nothing refers any longer.
        if let Err(error) = unsafe { munmap(self.address.as_ptr().cast(), BUFFER_LEN) } {
            tracing::debug!(%error, "Cannot unmap the hypercall buffer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_and_layout_are_the_kernels() {
        // _IOC(_IOC_NONE, 'P', 0, 48)
        assert_eq!(Hypercall { op: 0, arg: [0; 5] }.opcode(), 0x0030_5000);
        let mut domctl = [0; BUFFER_LEN];
        // struct xen_domctl_getdomaininfo of a suspended PVH domain 5, at offset 16.
        domctl[16..18].copy_from_slice(&[5, 0]);
        domctl[20..24].copy_from_slice(&0x0002_0106_u32.to_le_bytes());
        domctl[24..32].copy_from_slice(&0x8000_u64.to_le_bytes());
        domctl[32..40].copy_from_slice(&0x8100_u64.to_le_bytes());
        domctl[72..80].copy_from_slice(&77_u64.to_le_bytes());
        domctl[80..84].copy_from_slice(&2_u32.to_le_bytes());
        domctl[92..108].copy_from_slice(&[9; 16]);
        let info = parse(&domctl);
        assert_eq!((info.domid, info.pages, info.max_pages), (5, 0x8000, 0x8100));
        assert_eq!((info.cpu_time, info.vcpus, info.handle), (77, 2, [9; 16]));
        assert_eq!(info.shutdown(), Some(Shutdown::Suspend));
        assert!(info.hvm() && !info.paused() && !info.dying() && !info.live());
    }

    #[test]
    fn states_are_told_apart() {
        let state = |flags| {
            let zero = parse(&[0; BUFFER_LEN]);
            DomainInfo { flags, ..zero }
        };
        assert!(state(1 << 5).live() && state(1 << 4).live());
        assert!(!state(1).live() && !state(1 << 3).live());
        assert_eq!(state(3 << 16).shutdown(), None);
        assert_eq!(state(4 | 3 << 16).shutdown(), Some(Shutdown::Crash));
        assert_eq!(state(4 | 9 << 16).shutdown(), Some(Shutdown::Other(9)));
    }

    #[test]
    fn memory_for_hypercalls_holds_what_is_written() {
        let mut buffer = Buffer::new().unwrap();
        let bytes: [u8; BUFFER_LEN] = std::array::from_fn(|i| (i % 249) as u8);
        buffer.write(&bytes);
        assert_eq!(buffer.read(), bytes);
    }
}
