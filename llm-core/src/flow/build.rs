//! Packets that nobody sent: acknowledgements and probes for the guest, resets, answers to its questions.
//!
//! Each is a frame behind a virtio-net header of zeros, with whole checksums.

use super::checksum;
use super::key::{Direction, FlowKey, ICMPV6, NO_VLAN};
use super::packet::{Body, Packet, VNET_HEADER, flags, put};
use core::net::{IpAddr, Ipv6Addr};

/// Longest packet made here, bytes.
pub const BUILT_MAX: usize = VNET_HEADER + 18 + 40 + 32;

/// The link-layer addresses of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Of the guest's interface.
    pub guest: [u8; 6],
    /// Of the peer, or of the router towards it.
    pub peer: [u8; 6],
}

impl Link {
    /// Those of a frame.
    #[must_use]
    pub fn of(frame: &[u8], direction: Direction) -> Option<Self> {
        let destination = *frame.first_chunk()?;
        let source = *frame.get(6..)?.first_chunk()?;
        Some(match direction {
            Direction::FromGuest => Self { guest: source, peer: destination },
            Direction::ToGuest => Self { guest: destination, peer: source },
        })
    }
}

/// What a made segment says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Says {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// See [`flags`].
    pub flags: u8,
    /// Window, not scaled.
    pub window: u16,
    /// TSval and TSecr, if the connection uses timestamps.
    pub timestamps: Option<(u32, u32)>,
}

/// Writes a TCP segment without payload; its length. `None` if `buf` is shorter than [`BUILT_MAX`], or the key is no
/// TCP connection's.
#[must_use]
pub fn segment(
    buf: &mut [u8],
    link: &Link,
    key: &FlowKey,
    direction: Direction,
    says: &Says,
) -> Option<usize> {
    if !key.is_tcp() {
        return None;
    }
    let header: u8 = if says.timestamps.is_some() { 32 } else { 20 };
    let (at, end) = network(buf, link, key, direction, u16::from(header))?;
    let (source, destination) = match direction {
        Direction::FromGuest => (key.guest_port(), key.peer_port()),
        Direction::ToGuest => (key.peer_port(), key.guest_port()),
    };
    put(buf, at, &source.to_be_bytes())?;
    put(buf, at + 2, &destination.to_be_bytes())?;
    put(buf, at + 4, &says.seq.to_be_bytes())?;
    put(buf, at + 8, &says.ack.to_be_bytes())?;
    put(buf, at + 12, &[header << 2, says.flags])?;
    put(buf, at + 14, &says.window.to_be_bytes())?;
    if let Some((value, echo)) = says.timestamps {
        put(buf, at + 20, &[1, 1, 8, 10])?;
        put(buf, at + 24, &value.to_be_bytes())?;
        put(buf, at + 28, &echo.to_be_bytes())?;
    }
    let sum = checksum::transport(key, buf.get(at..end)?);
    put(buf, at + 16, &sum.to_be_bytes())?;
    Some(end)
}

/// A keep-alive probe (RFC 9293, 3.8.4): it asks an idle or busy peer where it stands, and takes nothing.
#[must_use]
pub const fn probe(next_seq: u32, ack: u32, window: u16, timestamps: Option<(u32, u32)>) -> Says {
    Says { seq: next_seq.wrapping_sub(1), ack, flags: flags::ACK, window, timestamps }
}

/// Answers an ARP request or a neighbour solicitation of the guest's for the address it asks for, which
/// [`asks_for`] told. Returns the length.
#[must_use]
pub fn answer(buf: &mut [u8], question: &[u8], packet: &Packet, mac: [u8; 6]) -> Option<usize> {
    match packet.body {
        Body::Arp { operation: 1 } => {
            let end = VNET_HEADER + packet.network + 28;
            let reply = buf.get_mut(..end)?;
            reply.fill(0);
            put(reply, VNET_HEADER, question.get(..packet.network + 28)?)?;
            let asker: [u8; 6] = *question.get(packet.network + 8..)?.first_chunk()?;
            let asker_address: [u8; 4] = *question.get(packet.network + 14..)?.first_chunk()?;
            let wanted: [u8; 4] = *question.get(packet.network + 24..)?.first_chunk()?;
            put(reply, VNET_HEADER, &asker)?;
            put(reply, VNET_HEADER + 6, &mac)?;
            let at = VNET_HEADER + packet.network;
            put(reply, at + 6, &[0, 2])?;
            put(reply, at + 8, &mac)?;
            put(reply, at + 14, &wanted)?;
            put(reply, at + 18, &asker)?;
            put(reply, at + 24, &asker_address)?;
            Some(end)
        }
        Body::Icmp { kind: 135 } => {
            let target: [u8; 16] = *question.get(packet.transport + 8..)?.first_chunk()?;
            let asker: [u8; 6] = *question.get(6..)?.first_chunk()?;
            let link = Link { guest: asker, peer: mac };
            let key = FlowKey::new(6, ICMPV6, packet.vlan, (packet.source, 0), (target, 0));
            let (at, end) = network(buf, &link, &key, Direction::ToGuest, 32)?;
            // Solicited, override (RFC 4861, 4.4), with the target link-layer address.
            put(buf, at, &[136, 0, 0, 0, 0x60, 0, 0, 0])?;
            put(buf, at + 8, &target)?;
            put(buf, at + 24, &[2, 1])?;
            put(buf, at + 26, &mac)?;
            let sum = checksum::transport(&key, buf.get(at..end)?);
            put(buf, at + 2, &sum.to_be_bytes())?;
            Some(end)
        }
        _ => None,
    }
}

/// The address whose hardware address the guest asks for, if the packet is such a question.
#[must_use]
pub fn asks_for(frame: &[u8], packet: &Packet) -> Option<IpAddr> {
    match packet.body {
        Body::Arp { operation: 1 } => {
            let wanted: [u8; 4] = *frame.get(packet.network + 24..)?.first_chunk()?;
            let own: [u8; 4] = *frame.get(packet.network + 14..)?.first_chunk()?;
            // An announcement asks for nobody else.
            (wanted != own).then(|| IpAddr::from(wanted))
        }
        Body::Icmp { kind: 135 } => {
            let target: [u8; 16] = *frame.get(packet.transport + 8..)?.first_chunk()?;
            // From the unspecified address it is duplicate address detection.
            (packet.source != [0; 16]).then(|| IpAddr::V6(Ipv6Addr::from(target)))
        }
        _ => None,
    }
}

/// Link and network headers; where the transport header starts, and the end of the packet.
fn network(
    buf: &mut [u8],
    link: &Link,
    key: &FlowKey,
    direction: Direction,
    length: u16,
) -> Option<(usize, usize)> {
    buf.get_mut(..BUILT_MAX)?.fill(0);
    let ((source_mac, source), (destination_mac, destination)) = match direction {
        Direction::FromGuest => ((link.guest, key.guest()), (link.peer, key.peer())),
        Direction::ToGuest => ((link.peer, key.peer()), (link.guest, key.guest())),
    };
    let mut at = VNET_HEADER;
    put(buf, at, &destination_mac)?;
    put(buf, at + 6, &source_mac)?;
    at += 12;
    if key.vlan() != NO_VLAN {
        put(buf, at, &[0x81, 0x00])?;
        put(buf, at + 2, &key.vlan().to_be_bytes())?;
        at += 4;
    }
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            put(buf, at, &[0x08, 0x00])?;
            at += 2;
            put(buf, at, &[0x45, 0])?;
            put(buf, at + 2, &(20 + length).to_be_bytes())?;
            put(buf, at + 6, &[0x40, 0, 64, key.protocol()])?;
            put(buf, at + 12, &source.octets())?;
            put(buf, at + 16, &destination.octets())?;
            let sum = checksum::ipv4_header(buf.get(at..at + 20)?);
            put(buf, at + 10, &sum.to_be_bytes())?;
            at += 20;
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            put(buf, at, &[0x86, 0xdd])?;
            at += 2;
            // Neighbour discovery asks for a hop limit of 255.
            let hops = if key.protocol() == ICMPV6 { 255 } else { 64 };
            put(buf, at, &[0x60])?;
            put(buf, at + 4, &length.to_be_bytes())?;
            put(buf, at + 6, &[key.protocol(), hops])?;
            put(buf, at + 8, &source.octets())?;
            put(buf, at + 24, &destination.octets())?;
            at += 40;
        }
        _ => return None,
    }
    Some((at, at + usize::from(length)))
}
