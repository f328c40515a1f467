//! Which conversation a packet belongs to.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Protocol number of ICMP (RFC 792).
pub const ICMP: u8 = 1;
/// Protocol number of TCP (RFC 9293).
pub const TCP: u8 = 6;
/// Protocol number of UDP (RFC 768).
pub const UDP: u8 = 17;
/// Protocol number of ICMPv6 (RFC 4443).
pub const ICMPV6: u8 = 58;
/// [`FlowKey::vlan`] of a frame without a tag.
pub const NO_VLAN: u16 = 0xffff;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Direction {
    /// The guest sent it.
    FromGuest,
    /// It is for the guest.
    ToGuest,
}

/// A flow, named by its two ends; the same in both directions. 40 bytes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FlowKey {
    version: u8,
    protocol: u8,
    vlan: U16,
    guest_port: U16,
    peer_port: U16,
    guest: [u8; 16],
    peer: [u8; 16],
}

impl FlowKey {
    /// The key of what is no IP.
    pub const NONE: Self = Self {
        version: 0,
        protocol: 0,
        vlan: U16::ZERO,
        guest_port: U16::ZERO,
        peer_port: U16::ZERO,
        guest: [0; 16],
        peer: [0; 16],
    };

    /// A flow between two ends. IPv4 addresses are given as mapped ones.
    #[must_use]
    pub fn new(version: u8, protocol: u8, vlan: u16, guest: ([u8; 16], u16), peer: ([u8; 16], u16)) -> Self {
        Self {
            version,
            protocol,
            vlan: vlan.into(),
            guest_port: guest.1.into(),
            peer_port: peer.1.into(),
            guest: guest.0,
            peer: peer.0,
        }
    }

    /// 4, 6, or 0 for what is no IP.
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version
    }

    /// The IP protocol number.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Whether it is a TCP connection.
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }

    /// Identifier of the outermost VLAN, or [`NO_VLAN`].
    #[must_use]
    pub fn vlan(&self) -> u16 {
        self.vlan.get()
    }

    /// The guest's port; 0 where the protocol has none.
    #[must_use]
    pub fn guest_port(&self) -> u16 {
        self.guest_port.get()
    }

    /// The peer's port; 0 where the protocol has none.
    #[must_use]
    pub fn peer_port(&self) -> u16 {
        self.peer_port.get()
    }

    /// The guest's address.
    #[must_use]
    pub fn guest(&self) -> IpAddr {
        Ipv6Addr::from(self.guest).to_canonical()
    }

    /// The peer's address.
    #[must_use]
    pub fn peer(&self) -> IpAddr {
        Ipv6Addr::from(self.peer).to_canonical()
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            TCP => "tcp",
            UDP => "udp",
            ICMP | ICMPV6 => "icmp",
            _ if self.version == 0 => return f.write_str("not ip"),
            _ => "ip",
        };
        write!(f, "{protocol} {}", self.guest())?;
        if self.guest_port() != 0 || self.peer_port() != 0 {
            write!(f, ":{} <- {}:{}", self.guest_port(), self.peer(), self.peer_port())?;
        } else {
            write!(f, " <- {}", self.peer())?;
        }
        if self.vlan() == NO_VLAN { Ok(()) } else { write!(f, " vlan {}", self.vlan()) }
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use std::string::ToString as _;

    #[test]
    fn a_key_reads_as_people_write_it() {
        let v4 = |d| Ipv4Addr::new(10, 0, 0, d).to_ipv6_mapped().octets();
        let key = FlowKey::new(4, TCP, NO_VLAN, (v4(5), 80), (v4(9), 4242));
        assert_eq!(key.to_string(), "tcp 10.0.0.5:80 <- 10.0.0.9:4242");
        let key = FlowKey::new(4, ICMP, 7, (v4(5), 0), (v4(9), 0));
        assert_eq!(key.to_string(), "icmp 10.0.0.5 <- 10.0.0.9 vlan 7");
        assert_eq!(FlowKey::NONE.to_string(), "not ip");
    }

    #[test]
    fn layout_is_as_documented() {
        let key = FlowKey::new(6, UDP, 0x0102, ([1; 16], 0x0304), ([2; 16], 0x0506));
        let mut want = [0; 40];
        want[..8].copy_from_slice(&[6, 17, 2, 1, 4, 3, 6, 5]);
        want[8..24].fill(1);
        want[24..].fill(2);
        assert_eq!(key.as_bytes(), want);
    }
}
