//! The few rtnetlink requests that bridges and links need (rtnetlink(7)).
//!
//! Netlink and not sysfs, since sysfs shows the network namespace of whoever mounted it, not the caller's.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::os::fd::OwnedFd;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWNEIGH: u16 = 28;
const NLMSG_ERROR: u16 = 2;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_CARRIER: u16 = 33;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BRPORT_STATE: u16 = 1;
const BR_STATE_FORWARDING: u8 = 3;
const NDA_LLADDR: u16 = 2;

const AF_BRIDGE: u8 = 7;
const NTF_MASTER: u8 = 4;
const NUD_REACHABLE: u16 = 2;
const IFF_UP: u32 = 1;

const HEADER: usize = 16;
const IFINFO: usize = 16;

/// What is asked about a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) up: bool,
    /// Its other end is there.
    pub(super) carrier: bool,
    /// Bytes of the largest IP packet.
    pub(super) mtu: u32,
    /// Index of the bridge (or other master) that it is a port of.
    pub(super) master: Option<u32>,
    /// "bridge", "veth", "tun"; empty for hardware and Xen's vifs.
    pub(super) kind: String,
    /// A bridge that filters VLANs.
    pub(super) vlan_filtering: bool,
    /// A bridge port that forwards.
    pub(super) forwarding: bool,
}

/// How to change a link.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change {
    pub(super) up: Option<bool>,
    pub(super) mtu: Option<u32>,
    pub(super) address: Option<[u8; 6]>,
    /// Index of the new master; 0 takes it off.
    pub(super) master: Option<u32>,
}

/// A netlink socket in the caller's network namespace.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The link of that name; `None` if there is none.
    pub(super) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut m = Request::link(RTM_GETLINK, 0, 0, 0, 0);
        m.attribute(IFLA_IFNAME, &zero_terminated(name));
        self.get(m)
    }

    /// The link of that index; `None` if there is none.
    pub(super) fn link_by_index(&mut self, index: u32) -> io::Result<Option<Link>> {
        self.get(Request::link(RTM_GETLINK, 0, index, 0, 0))
    }

    fn get(&mut self, m: Request) -> io::Result<Option<Link>> {
        match self.call(m) {
            Ok(reply) => parse_link(&reply).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Changes a link. The kernel moves a port from one master to another within one request.
    pub(super) fn change(&mut self, index: u32, change: Change) -> io::Result<()> {
        let flags = if change.up == Some(true) { IFF_UP } else { 0 };
        let mask = if change.up.is_some() { IFF_UP } else { 0 };
        let mut m = Request::link(RTM_SETLINK, NLM_F_ACK, index, flags, mask);
        if let Some(mtu) = change.mtu {
            m.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
        if let Some(address) = change.address {
            m.attribute(IFLA_ADDRESS, &address);
        }
        if let Some(master) = change.master {
            m.attribute(IFLA_MASTER, &master.to_ne_bytes());
        }
        self.call(m).map(drop)
    }

    /// Makes a bridge, down and without ports.
    pub(super) fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut m = Request::link(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, 0, 0, 0);
        m.attribute(IFLA_IFNAME, &zero_terminated(name));
        let mut kind = Vec::new();
        put_attribute(&mut kind, IFLA_INFO_KIND, b"bridge");
        m.attribute(IFLA_LINKINFO, &kind);
        self.call(m).map(drop)
    }

    /// Tells the bridge of port `index` that `address` is behind it, as if a frame had come from there.
    pub(super) fn learn_address(&mut self, index: u32, address: [u8; 6]) -> io::Result<()> {
        let mut m = Request::new(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE);
        // struct ndmsg: family, three bytes of padding, index, state, flags, type.
        m.0.extend([AF_BRIDGE, 0, 0, 0]);
        m.0.extend(index.to_ne_bytes());
        m.0.extend(NUD_REACHABLE.to_ne_bytes());
        m.0.extend([NTF_MASTER, 0]);
        m.attribute(NDA_LLADDR, &address);
        self.call(m).map(drop)
    }

    /// Sends a request and gives the payload of its answer, empty for an acknowledgement.
    fn call(&mut self, request: Request) -> io::Result<Vec<u8>> {
        self.sequence = self.sequence.wrapping_add(1);
        rustix::net::send(&self.socket, &request.finish(self.sequence), SendFlags::empty())?;
        let mut buf = vec![0; 64 * 1024];
        loop {
            let (_, n) = match rustix::net::recv(&self.socket, &mut buf[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            if let Some(answer) = parse_answer(buf.get(..n).unwrap_or_default(), self.sequence) {
                return answer;
            }
        }
    }
}

/// A message under construction.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16) -> Self {
        let mut m = vec![0; 4];
        m.extend(kind.to_ne_bytes());
        m.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        m.resize(HEADER, 0);
        Self(m)
    }

    /// A message with a `struct ifinfomsg`: family, padding, type, index, flags, mask.
    fn link(kind: u16, flags: u16, index: u32, link_flags: u32, mask: u32) -> Self {
        let mut m = Self::new(kind, flags);
        m.0.extend([0; 4]);
        for word in [index, link_flags, mask] {
            m.0.extend(word.to_ne_bytes());
        }
        m
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        put_attribute(&mut self.0, kind, value);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(0);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

fn put_attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(u16::try_from(value.len() + 4).unwrap_or(0).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn zero_terminated(name: &str) -> Vec<u8> {
    let mut v = name.as_bytes().to_vec();
    v.push(0);
    v
}

/// The answer to `sequence` in a datagram, if it is there.
fn parse_answer(mut datagram: &[u8], sequence: u32) -> Option<io::Result<Vec<u8>>> {
    loop {
        let length = u32_at(datagram, 0)? as usize;
        let message = datagram.get(..length).filter(|m| m.len() >= HEADER)?;
        if u32_at(message, 8)? == sequence {
            let body = message.get(HEADER..)?;
            if u16_at(message, 4)? != NLMSG_ERROR {
                return Some(Ok(body.to_vec()));
            }
            let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
            return Some(if code == 0 {
                Ok(Vec::new())
            } else {
                Err(io::Error::from_raw_os_error(code.saturating_neg()))
            });
        }
        datagram = datagram.get(length.next_multiple_of(4)..)?;
    }
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link { index: u32_at(body, 4)?, up: u32_at(body, 8)? & IFF_UP != 0, ..Link::default() };
    for (kind, value) in attributes(body.get(IFINFO..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_MASTER => link.master = Some(u32_at(value, 0)?).filter(|&i| i != 0),
            IFLA_CARRIER => link.carrier = value.first() == Some(&1),
            IFLA_LINKINFO => {
                for (kind, value) in attributes(value) {
                    match kind {
                        IFLA_INFO_KIND => link.kind = text(value),
                        IFLA_INFO_DATA if link.kind == "bridge" => {
                            link.vlan_filtering = attributes(value)
                                .any(|(k, v)| k == IFLA_BR_VLAN_FILTERING && v.first() == Some(&1));
                        }
                        // A master that is no bridge has other meanings for it, and is refused before.
                        IFLA_INFO_SLAVE_DATA => {
                            link.forwarding = attributes(value).any(|(k, v)| {
                                k == IFLA_BRPORT_STATE && v.first() == Some(&BR_STATE_FORWARDING)
                            });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

/// The attributes of a message, up to the first that does not fit.
fn attributes(mut data: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(data, 0)?);
        // The two top bits are flags: nested, and network byte order.
        let kind = u16_at(data, 2)? & 0x3fff;
        let value = data.get(4..length)?;
        data = data.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn a_request_byte_by_byte() {
        let mut m = Request::link(RTM_SETLINK, NLM_F_ACK, 5, IFF_UP, IFF_UP);
        m.attribute(IFLA_IFNAME, b"ab\0");
        #[rustfmt::skip]
        let expected = [
            40, 0, 0, 0, 19, 0, 5, 0, 9, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,
            7, 0, 3, 0, b'a', b'b', 0, 0,
        ];
        assert_eq!(m.finish(9), expected);
    }

    fn reply() -> Vec<u8> {
        let mut body = vec![0, 0, 1, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        put_attribute(&mut body, IFLA_IFNAME, b"xenbr0\0");
        put_attribute(&mut body, IFLA_MTU, &1500_u32.to_ne_bytes());
        put_attribute(&mut body, IFLA_MASTER, &3_u32.to_ne_bytes());
        put_attribute(&mut body, IFLA_CARRIER, &[1]);
        let mut data = Vec::new();
        put_attribute(&mut data, IFLA_BR_VLAN_FILTERING, &[1]);
        let mut info = Vec::new();
        put_attribute(&mut info, IFLA_INFO_KIND, b"bridge\0");
        put_attribute(&mut info, IFLA_INFO_DATA | 0x8000, &data);
        let mut port = Vec::new();
        put_attribute(&mut port, IFLA_BRPORT_STATE, &[BR_STATE_FORWARDING]);
        put_attribute(&mut info, IFLA_INFO_SLAVE_DATA, &port);
        put_attribute(&mut body, IFLA_LINKINFO, &info);
        body
    }

    #[test]
    fn a_link_is_read_back() {
        let expected = Link {
            index: 7,
            name: "xenbr0".into(),
            up: true,
            carrier: true,
            mtu: 1500,
            master: Some(3),
            kind: "bridge".into(),
            vlan_filtering: true,
            forwarding: true,
        };
        assert_eq!(parse_link(&reply()), Some(expected));
    }

    #[test]
    fn cut_replies_do_not_panic() {
        let whole = reply();
        for n in 0..whole.len() {
            let _ = parse_link(&whole[..n]);
            let _ = parse_answer(&whole[..n], 1);
        }
    }

    #[test]
    fn an_error_is_found_behind_a_stranger() {
        let mut datagram = vec![18, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        datagram.extend([20, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        datagram.extend((-libc::ENODEV).to_ne_bytes());
        let answer = parse_answer(&datagram, 2).unwrap();
        assert_eq!(answer.unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert!(parse_answer(&datagram, 3).is_none());
    }
}
