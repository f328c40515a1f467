//! Three network namespaces: a guest, its host with a bridge, and a client. A veth stands for the vif.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) const VIF: &str = "vif1.0";
pub(crate) const BRIDGE: &str = "br0";
pub(crate) const TAP: &str = "llm1.0";
pub(crate) const GUEST_MAC: [u8; 6] = [0x00, 0x16, 0x3e, 0, 0, 1];
/// Ethertype for experiments (IEEE 802).
pub(crate) const TEST_TYPE: u16 = 0x88b5;

const PREFIX: &str = "llmt";
static ONE: libc::c_int = 1;
static WIDE: libc::c_int = 256 << 20;

/// True if the test has to be left out; it prints why.
pub(crate) fn skip_without_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    let required = std::env::var_os("LLM_REQUIRE_ROOT").is_some_and(|v| v == "1");
    assert!(root || !required, "LLM_REQUIRE_ROOT=1, but this is not root");
    if !root {
        println!("skipped: network namespaces need root");
    }
    !root
}

/// The namespaces; dropping it removes them.
pub(crate) struct Lab {
    name: String,
}

impl Lab {
    /// Guest 10.77.0.2, client 10.77.0.3, host 10.77.0.1 on the bridge; and fd77::2, fd77::3.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let lab = Self {
            name: format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)),
        };
        let (g, h, c) = (lab.guest(), lab.host(), lab.client());
        for ns in [&g, &h, &c] {
            ip(&["netns", "add", ns]);
        }
        ip(&["-n", &h, "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0"]);
        let mac = "00:16:3e:00:00:01";
        ip(&[
            "-n", &g, "link", "add", "eth0", "address", mac, "type", "veth", "peer", "name", VIF, "netns", &h,
        ]);
        ip(&["-n", &c, "link", "add", "eth0", "type", "veth", "peer", "name", "c0", "netns", &h]);
        for port in [VIF, "c0"] {
            ip(&["-n", &h, "link", "set", port, "master", BRIDGE, "up"]);
        }
        ip(&["-n", &h, "addr", "add", "10.77.0.1/24", "dev", BRIDGE]);
        ip(&["-n", &h, "link", "set", BRIDGE, "up"]);
        for (ns, v4, v6) in [(&g, "10.77.0.2/24", "fd77::2/64"), (&c, "10.77.0.3/24", "fd77::3/64")] {
            ip(&["-n", ns, "addr", "add", v4, "dev", "eth0"]);
            ip(&["-n", ns, "-6", "addr", "add", v6, "dev", "eth0", "nodad"]);
            ip(&["-n", ns, "link", "set", "eth0", "up"]);
        }
        // Before that the kernel drops what passes.
        for port in [VIF, "c0"] {
            wait_for("the ports forward", || lab.host_link(port).contains("state forwarding"));
        }
        lab
    }

    /// A lab whose kernels send nothing by themselves, for tests that count packets.
    pub(crate) fn quiet() -> Self {
        let lab = Self::new();
        for ns in [lab.guest(), lab.host(), lab.client()] {
            run_in(&ns, || {
                std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
                std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            });
        }
        lab
    }

    pub(crate) fn guest(&self) -> String {
        format!("{}g", self.name)
    }

    pub(crate) fn host(&self) -> String {
        format!("{}h", self.name)
    }

    pub(crate) fn client(&self) -> String {
        format!("{}c", self.name)
    }

    /// The host's view of a link, as `ip` prints it; empty if there is none.
    pub(crate) fn host_link(&self, link: &str) -> String {
        let out = Command::new("ip").args(["-n", &self.host(), "-d", "link", "show", link]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    pub(crate) fn guest_socket(&self) -> RawSocket {
        run_in(&self.guest(), || RawSocket::open("eth0", TEST_TYPE).unwrap())
    }

    pub(crate) fn client_socket(&self) -> RawSocket {
        run_in(&self.client(), || RawSocket::open("eth0", TEST_TYPE).unwrap())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for ns in [self.guest(), self.host(), self.client()] {
            let _ = Command::new("ip").args(["netns", "del", &ns]).status();
        }
    }
}

/// Removes what test processes that were killed left behind.
fn remove_leftovers() {
    let Ok(dir) = std::fs::read_dir("/run/netns") else { return };
    for name in dir.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        let pid =
            name.strip_prefix(PREFIX).and_then(|n| n.split('-').next()).and_then(|n| n.parse::<u32>().ok());
        if pid.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

pub(crate) fn ip(args: &[&str]) {
    let out = Command::new("ip").args(args).output().expect("iproute2 is installed");
    assert!(out.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// True if `ip` could do it.
pub(crate) fn try_ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).output().expect("iproute2 is installed").status.success()
}

/// A thread in a namespace; threads that it starts are there too.
pub(crate) fn spawn_in<T: Send + 'static>(ns: &str, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let file = std::fs::File::open(format!("/run/netns/{ns}")).unwrap();
    std::thread::spawn(move || {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(file.as_fd(), kind).unwrap();
        f()
    })
}

pub(crate) fn run_in<T: Send + 'static>(ns: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_in(ns, f).join().unwrap_or_else(|p| std::panic::resume_unwind(p))
}

/// Waits until `condition` holds; fails the test after ten seconds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// One end of a TCP connection: its address, and the next number that it sends.
pub(crate) type End = (&'static str, u32);

/// A connection that nobody has opened, as this end of it knows it: for ends that count otherwise. In the calling thread's
/// namespace.
pub(crate) fn tcp_from(own: End, peer: End) -> std::net::TcpStream {
    // tcp(7); the values are of `linux/tcp.h`.
    const REPAIR: libc::c_int = 19;
    const REPAIR_QUEUE: libc::c_int = 20;
    const QUEUE_SEQ: libc::c_int = 21;
    const RECEIVED: libc::c_int = 1;
    const SENT: libc::c_int = 2;
    let kind = rustix::net::SocketType::STREAM;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, kind, None).unwrap();
    let set = |option, value: libc::c_int| {
        let (fd, at) = (socket.as_raw_fd(), &raw const value);
        // SAFETY: the value is an `int` of four bytes that lives until the call returns.
        check(unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, option, at.cast(), 4) }).unwrap();
    };
    set(REPAIR, 1);
    for (queue, next) in [(SENT, own.1), (RECEIVED, peer.1)] {
        set(REPAIR_QUEUE, queue);
        set(QUEUE_SEQ, next.cast_signed());
    }
    rustix::net::bind(&socket, &address(own.0)).unwrap();
    rustix::net::connect(&socket, &address(peer.0)).unwrap();
    set(REPAIR, 0);
    socket.into()
}

/// Ethertype and TCI of a VLAN tag.
type Tag = (u16, u16);

/// A packet socket on one interface for one ethertype.
pub(crate) struct RawSocket(OwnedFd);

impl RawSocket {
    /// In the calling thread's namespace.
    pub(crate) fn open(interface: &str, ethertype: u16) -> io::Result<Self> {
        let name = std::ffi::CString::new(interface)?;
        let protocol = libc::c_int::from(ethertype.to_be());
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: the descriptor was just opened and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a C string that lives until the call returns.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        // SAFETY: plain data, for which zero is a value.
        let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        addr.sll_family = libc::AF_PACKET as u16;
        addr.sll_protocol = protocol as u16;
        addr.sll_ifindex = index as i32;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `addr` is a `sockaddr_ll` of `len` bytes.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), len) })?;
        Ok(Self(fd))
    }

    /// For every protocol, with virtio-net headers and tags.
    pub(crate) fn open_with_offload(interface: &str) -> io::Result<Self> {
        let socket = Self::open(interface, libc::ETH_P_ALL as u16)?;
        for option in [libc::PACKET_VNET_HDR, libc::PACKET_AUXDATA] {
            let (fd, one) = (socket.0.as_raw_fd(), &raw const ONE);
            // SAFETY: the value is an `int` of four bytes that lives for ever.
            check(unsafe { libc::setsockopt(fd, libc::SOL_PACKET, option, one.cast(), 4) })?;
        }
        Ok(socket)
    }

    /// Reads up to `vectors.len()` packets with one call; gives their number, 0 if there are none.
    pub(crate) fn receive_many(&self, vectors: &mut [libc::iovec]) -> usize {
        let mut messages: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .map(|v| {
                // SAFETY: plain data, for which zero is a value.
                let mut m: libc::mmsghdr = unsafe { std::mem::zeroed() };
                (m.msg_hdr.msg_iov, m.msg_hdr.msg_iovlen) = (v, 1);
                m
            })
            .collect();
        let (fd, most) = (self.0.as_raw_fd(), messages.len() as libc::c_uint);
        let (out, no_timeout) = (messages.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: `messages` has `most` entries, whose vectors the caller keeps valid.
        let n = unsafe { libc::recvmmsg(fd, out, most, libc::MSG_DONTWAIT, no_timeout) };
        usize::try_from(n).unwrap_or(0)
    }

    /// Room for everything that a measurement sends before it reads.
    pub(crate) fn widen(&self) {
        let (fd, size) = (self.0.as_raw_fd(), &raw const WIDE);
        // SAFETY: the value is an `int` of four bytes that lives for ever.
        check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size.cast(), 4) })
            .unwrap();
    }

    /// The next packet, header first, and the tag (protocol, TCI) that the kernel took out of it.
    pub(crate) fn receive_tagged(&self, timeout: Duration) -> Option<(Vec<u8>, Option<Tag>)> {
        #[repr(C, align(8))]
        struct Control([u8; 64]);
        self.wait(timeout)?;
        let (mut buf, mut control) = (vec![0_u8; 2048], Control([0; 64]));
        let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        // SAFETY: plain data, for which zero is a value.
        let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
        (msg.msg_iov, msg.msg_iovlen) = (&raw mut iov, 1);
        (msg.msg_control, msg.msg_controllen) = ((&raw mut control).cast(), 64);
        // SAFETY: `msg` points to live buffers with their own lengths.
        let n = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut msg, 0) };
        buf.truncate(usize::try_from(n).unwrap());
        // `struct cmsghdr` of 16 bytes, then status, lengths and offsets, then TCI at 16 and protocol at 18.
        let word = |at: usize| u16::from_ne_bytes(control.0[16 + at..18 + at].try_into().unwrap());
        let valid = u32::from(word(0)) & libc::TP_STATUS_VLAN_VALID != 0;
        Some((buf, valid.then(|| (word(18), word(16)))))
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        let n = rustix::net::send(&self.0, frame, rustix::net::SendFlags::empty()).unwrap();
        assert_eq!(n, frame.len());
    }

    /// Broadcasts a frame that carries a number.
    pub(crate) fn send_number(&self, n: u32) {
        self.send(
            &[&[0xff; 6][..], &GUEST_MAC, &TEST_TYPE.to_be_bytes(), &n.to_be_bytes(), &[0; 42]].concat(),
        );
    }

    /// The next frame within `timeout`.
    pub(crate) fn receive(&self, timeout: Duration) -> Option<Vec<u8>> {
        self.wait(timeout)?;
        let mut buf = vec![0; 2048];
        let (n, _) = rustix::net::recv(&self.0, &mut buf[..], rustix::net::RecvFlags::empty()).unwrap();
        buf.truncate(n);
        Some(buf)
    }

    fn wait(&self, timeout: Duration) -> Option<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        (poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)).unwrap() > 0).then_some(())
    }

    /// Receives exactly these numbers, in order, and nothing for a while after.
    pub(crate) fn expect(&self, numbers: std::ops::RangeInclusive<u32>) {
        for n in numbers {
            let frame = self.receive(super::SOON).unwrap_or_else(|| panic!("number {n} does not come"));
            assert_eq!(frame.get(14..18), Some(&n.to_be_bytes()[..]));
        }
        assert_eq!(self.receive(super::QUIET), None);
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
