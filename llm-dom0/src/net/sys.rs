//! System calls that have no safe wrapper: packet sockets and the TAP.
//!
//! All `unsafe` of the packet path is here. Every block is one call whose pointers come from live values of
//! this function and whose lengths are those of the values pointed to.

use super::vnet::Tag;
use libc::{c_int, c_void, socklen_t};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Large enough for the bursts that come while the thread waits for the CPU.
const SOCKET_BUFFER: c_int = 16 * 1024 * 1024;
/// Bounds what waits in a vif whose guest is paused; beyond it the TAP's queue fills.
const SEND_BUFFER: c_int = 4 * 1024 * 1024;

/// A packet read from an interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// Bytes of virtio-net header and frame, as far as they fitted.
    pub(super) len: usize,
    /// The tag that the kernel took out.
    pub(super) tag: Option<Tag>,
    /// The frame was longer than the buffer.
    pub(super) truncated: bool,
}

/// An `AF_PACKET` socket.
#[derive(Debug)]
pub(super) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// A socket that receives nothing and sends plain frames to interface `index`.
    pub(super) fn sender(index: u32) -> io::Result<Self> {
        let socket = Self::open()?;
        socket.bind(index, 0)?;
        Ok(socket)
    }

    /// A socket for both directions with virtio-net headers; it receives nothing until [`Self::attach`].
    pub(super) fn tap() -> io::Result<Self> {
        let socket = Self::open()?;
        set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &SOCKET_BUFFER)?;
        set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER)?;
        for option in [libc::PACKET_VNET_HDR, libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
            set::<c_int>(socket.as_fd(), libc::SOL_PACKET, option, &1)?;
        }
        Ok(socket)
    }

    fn open() -> io::Result<Self> {
        // Protocol 0: packets of other interfaces must not come in before the bind.
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the descriptor was just opened and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Receives every frame that comes in by interface `index` from now on.
    pub(super) fn attach(&self, index: u32) -> io::Result<()> {
        // SAFETY: plain data, for which zero is a value.
        let mut member: libc::packet_mreq = unsafe { zeroed() };
        member.mr_ifindex = c_int::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
        member.mr_type = u16::try_from(libc::PACKET_MR_PROMISC).unwrap_or(1);
        set(self.as_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &member)?;
        self.bind(index, libc::ETH_P_ALL)
    }

    fn bind(&self, index: u32, protocol: c_int) -> io::Result<()> {
        // SAFETY: plain data, for which zero is a value.
        let mut addr: libc::sockaddr_ll = unsafe { zeroed() };
        addr.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(17);
        addr.sll_protocol = u16::try_from(protocol).unwrap_or(0).to_be();
        addr.sll_ifindex = c_int::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
        let len = length_of::<libc::sockaddr_ll>();
        // SAFETY: `addr` is a `sockaddr_ll` of `len` bytes.
        check(unsafe { libc::bind(self.0.as_raw_fd(), (&raw const addr).cast(), len) })?;
        Ok(())
    }

    /// Reads one packet, never waiting.
    pub(super) fn receive(&self, buf: &mut [u8]) -> io::Result<Received> {
        /// Control data of one `PACKET_AUXDATA` message, aligned as `cmsghdr` wants it.
        #[repr(C, align(8))]
        struct Control([u8; 64]);
        let mut control = Control([0; 64]);
        let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        // SAFETY: plain data, for which zero is a value.
        let mut msg: libc::msghdr = unsafe { zeroed() };
        msg.msg_iov = &raw mut iov;
        msg.msg_iovlen = 1;
        msg.msg_control = (&raw mut control).cast();
        msg.msg_controllen = size_of::<Control>() as _;
        // SAFETY: `msg` points to `buf` and `control`, both live, with their own lengths.
        let n = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut msg, libc::MSG_DONTWAIT) };
        let len = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        Ok(Received { len, tag: tag_of(&msg), truncated: msg.msg_flags & libc::MSG_TRUNC != 0 })
    }

    /// Sends one packet, never waiting.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.0, packet, rustix::net::SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// Packets lost since the last call because the socket's buffer was full.
    pub(super) fn take_drops(&self) -> u64 {
        // SAFETY: plain data, for which zero is a value.
        let mut stats: libc::tpacket_stats = unsafe { zeroed() };
        let mut len = length_of::<libc::tpacket_stats>();
        let (fd, out) = (self.0.as_raw_fd(), (&raw mut stats).cast::<c_void>());
        // SAFETY: `out` has room for `len` bytes and both live until the call returns.
        let r = unsafe { libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, out, &raw mut len) };
        if r == 0 { u64::from(stats.tp_drops) } else { 0 }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A TAP interface that lives as long as this value's process.
#[derive(Debug)]
pub(super) struct Tap(OwnedFd);

impl Tap {
    /// Makes interface `name` (1 to 15 bytes), down and on no bridge. Fails with `EBUSY` if it exists.
    pub(super) fn create(name: &str) -> io::Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
        // SAFETY: plain data, for which zero is a value.
        let mut request: libc::ifreq = unsafe { zeroed() };
        let room = request.ifr_name.len() - 1;
        for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        let mode = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
        request.ifr_ifru.ifru_flags = i16::from_ne_bytes(u16::try_from(mode).unwrap_or(0).to_ne_bytes());
        // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is live.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
        let tap = Self(fd);
        tap.set_offload()?;
        Ok(tap)
    }

    /// Asks for every offload that a packet socket of the same kernel takes.
    fn set_offload(&self) -> io::Result<()> {
        let base = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        // Linux 6.2 learnt UDP segmentation in TAP and virtio-net headers with the same series; older ones say EINVAL.
        let with_udp = base | libc::TUN_F_USO4 | libc::TUN_F_USO6;
        self.offload(with_udp).or_else(|_| self.offload(base))
    }

    fn offload(&self, features: libc::c_uint) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(features))
        })?;
        Ok(())
    }

    /// Reads one packet, header first, never waiting. The kernel cuts what does not fit.
    pub(super) fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buf)?)
    }

    /// Writes one packet, header first, never waiting.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.0, packet)?;
        Ok(())
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The tag in the control data of a received message.
fn tag_of(msg: &libc::msghdr) -> Option<Tag> {
    // SAFETY: `msg` was filled in by recvmsg and its control buffer is live.
    let header = unsafe { libc::CMSG_FIRSTHDR(msg) };
    // SAFETY: CMSG_FIRSTHDR gives null or a header inside the control buffer, aligned for it.
    let head = unsafe { header.as_ref() }?;
    if (head.cmsg_level, head.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    // SAFETY: `header` is a valid message header.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: the kernel puts a whole `tpacket_auxdata` (20 bytes) into the message, and the buffer of 64 bytes has room for it.
    let aux = unsafe { data.cast::<libc::tpacket_auxdata>().read_unaligned() };
    if aux.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let known = aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    Some(Tag { tpid: if known { aux.tp_vlan_tpid } else { 0x8100 }, tci: aux.tp_vlan_tci })
}

fn set<T>(fd: BorrowedFd<'_>, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let (fd, data) = (fd.as_raw_fd(), std::ptr::from_ref(value).cast::<c_void>());
    // SAFETY: `data` points to a live `T` and the length is that of `T`; callers pass the type that the option wants.
    check(unsafe { libc::setsockopt(fd, level, option, data, length_of::<T>()) })?;
    Ok(())
}

/// The size of `T` as the socket calls want it; none here is larger than a few bytes.
fn length_of<T>() -> socklen_t {
    socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
