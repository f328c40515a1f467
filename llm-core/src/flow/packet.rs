//! Where things are in an Ethernet frame. Nothing in a frame is trusted: what does not
//! fit is [`Body::Other`], and no offset ever points outside.

use super::key::{Direction, FlowKey, ICMP, ICMPV6, NO_VLAN, TCP, UDP};
use core::net::Ipv4Addr;
use core::ops::Range;

/// Bytes of the virtio-net header in front of a frame (virtio 1.2, 5.1.6, without `num_buffers`).
pub const VNET_HEADER: usize = 10;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// IPv6 extension headers followed at most.
const EXTENSIONS_MAX: usize = 8;
/// VLAN tags followed at most.
const TAGS_MAX: usize = 4;

/// TCP flags (RFC 9293, 3.1).
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// Whether the checksum of a frame behind this virtio-net header is still that of the pseudo-header only.
#[must_use]
pub fn is_checksum_partial(vnet: &[u8]) -> bool {
    vnet.first().is_some_and(|flags| flags & 1 != 0)
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Identifier of the outermost VLAN, or [`NO_VLAN`].
    pub vlan: u16,
    /// Ethertype behind all tags.
    pub ethertype: u16,
    /// Where the network header starts.
    pub network: usize,
    /// 4, 6, or 0 for what is no IP.
    pub version: u8,
    /// IP protocol number behind all extension headers.
    pub protocol: u8,
    /// Source address; IPv4 as a mapped one.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Where the transport header starts: behind it all is payload of IP.
    pub transport: usize,
    /// Where the IP packet ends; behind it is padding.
    pub end: usize,
    /// What IP carries, or what else the frame is.
    pub body: Body,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// A TCP segment.
    Tcp(Segment),
    /// A UDP datagram.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP or ICMPv6, with its type.
    Icmp {
        /// Type of the message.
        kind: u8,
    },
    /// An ARP packet for IPv4 over Ethernet, with its operation.
    Arp {
        /// 1 request, 2 reply.
        operation: u16,
    },
    /// Something else, a fragment, or nothing that can be read.
    Other,
}

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; counts only with the flag ACK.
    pub ack: u32,
    /// See [`flags`].
    pub flags: u8,
    /// Window, not scaled.
    pub window: u16,
    /// Where the payload starts in the frame.
    pub payload: usize,
    /// Where it ends.
    pub end: usize,
    /// The timestamp option, if it is there.
    pub timestamp: Option<Timestamp>,
    /// Where the blocks of a SACK option are, 8 bytes each; empty if there is none.
    pub sack: (usize, usize),
}

/// A timestamp option (RFC 7323).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Where TSval is in the frame; TSecr follows.
    pub offset: usize,
    /// The sender's clock.
    pub value: u32,
    /// The clock that is echoed.
    pub echo: u32,
}

impl Segment {
    /// Bytes of payload.
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        self.end.saturating_sub(self.payload)
    }

    /// Sequence numbers that it takes: payload, SYN and FIN.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "a frame is far shorter than 4 GiB")]
    pub const fn seq_len(&self) -> u32 {
        let control = self.has(flags::SYN) as u32 + self.has(flags::FIN) as u32;
        self.payload_len() as u32 + control
    }

    /// The sequence number behind it.
    #[must_use]
    pub const fn seq_end(&self) -> u32 {
        self.seq.wrapping_add(self.seq_len())
    }

    /// Whether all of these flags are set.
    #[must_use]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Where its payload is in the frame.
    #[must_use]
    pub const fn payload_range(&self) -> Range<usize> {
        self.payload..self.end
    }
}

impl Packet {
    /// Looks at a frame, without a virtio-net header. `None` if it is shorter than an Ethernet header.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let mut ethertype = be16(frame, 12)?;
        let mut network = ETHERNET;
        let mut vlan = NO_VLAN;
        for _ in 0..TAGS_MAX {
            let (0x8100 | 0x88a8, Some(tci), Some(inner)) =
                (ethertype, be16(frame, network), be16(frame, network + 2))
            else {
                break;
            };
            if vlan == NO_VLAN {
                vlan = tci & 0xfff;
            }
            ethertype = inner;
            network += 4;
        }
        let mut packet = Self {
            vlan,
            ethertype,
            network,
            version: 0,
            protocol: 0,
            source: [0; 16],
            destination: [0; 16],
            transport: network,
            end: frame.len(),
            body: Body::Other,
        };
        // What cannot be read stays `Other`, with what is known by then.
        let _ = match ethertype {
            0x0800 => packet.ipv4(frame),
            0x86dd => packet.ipv6(frame),
            0x0806 => packet.arp(frame),
            _ => None,
        };
        Some(packet)
    }

    /// The flow that it belongs to. Fragments and what is neither TCP nor UDP have ports 0.
    #[must_use]
    pub fn key(&self, direction: Direction) -> FlowKey {
        if self.version == 0 {
            return FlowKey::NONE;
        }
        let (source, destination) = match self.body {
            Body::Tcp(Segment { source, destination, .. }) | Body::Udp { source, destination } => {
                (source, destination)
            }
            _ => (0, 0),
        };
        let (source, destination) = ((self.source, source), (self.destination, destination));
        let (guest, peer) = match direction {
            Direction::FromGuest => (source, destination),
            Direction::ToGuest => (destination, source),
        };
        FlowKey::new(self.version, self.protocol, self.vlan, guest, peer)
    }

    /// The TCP segment, if it is one.
    #[must_use]
    pub const fn segment(&self) -> Option<&Segment> {
        match &self.body {
            Body::Tcp(segment) => Some(segment),
            _ => None,
        }
    }

    /// What is digested of a packet that is no TCP: the payload of IP, or all behind the Ethernet addresses.
    #[must_use]
    pub const fn content(&self) -> Range<usize> {
        if self.version == 0 { 12..self.end } else { self.transport..self.end }
    }

    fn ipv4(&mut self, frame: &[u8]) -> Option<()> {
        let at = self.network;
        let first = *frame.get(at)?;
        let header = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || header < 20 {
            return None;
        }
        let source: [u8; 4] = array(frame, at + 12)?;
        let destination: [u8; 4] = array(frame, at + 16)?;
        frame.get(at..at + header)?;
        // 0 in a segment that has still to be cut up.
        let end = match usize::from(be16(frame, at + 2)?) {
            0 => frame.len(),
            total if total >= header && at + total <= frame.len() => at + total,
            _ => return None,
        };
        self.version = 4;
        self.protocol = *frame.get(at + 9)?;
        self.source = Ipv4Addr::from(source).to_ipv6_mapped().octets();
        self.destination = Ipv4Addr::from(destination).to_ipv6_mapped().octets();
        self.transport = at + header;
        self.end = end;
        // Of a fragment, even the first, the whole is not here.
        if be16(frame, at + 6)? & 0x3fff == 0 { self.transport(frame) } else { None }
    }

    fn ipv6(&mut self, frame: &[u8]) -> Option<()> {
        let at = self.network;
        if *frame.get(at)? >> 4 != 6 {
            return None;
        }
        let source = array(frame, at + 8)?;
        let destination = array(frame, at + 24)?;
        let end = match usize::from(be16(frame, at + 4)?) {
            0 => frame.len(),
            length if at + 40 + length <= frame.len() => at + 40 + length,
            _ => return None,
        };
        let (mut next, mut transport) = (*frame.get(at + 6)?, at + 40);
        let mut fragment = false;
        for _ in 0..EXTENSIONS_MAX {
            let length = match next {
                // Hop-by-hop, routing, destination options, mobility.
                0 | 43 | 60 | 135 => (usize::from(*frame.get(transport + 1)?) + 1) * 8,
                44 => {
                    fragment |= be16(frame, transport + 2)? & 0xfff9 != 0;
                    8
                }
                // Authentication.
                51 => (usize::from(*frame.get(transport + 1)?) + 2) * 4,
                _ => break,
            };
            if transport + length > end {
                return None;
            }
            next = *frame.get(transport)?;
            transport += length;
        }
        self.version = 6;
        self.protocol = next;
        self.source = source;
        self.destination = destination;
        self.transport = transport;
        self.end = end;
        if fragment { None } else { self.transport(frame) }
    }

    fn transport(&mut self, frame: &[u8]) -> Option<()> {
        let packet = frame.get(..self.end)?;
        let at = self.transport;
        self.body = match (self.protocol, self.version) {
            (TCP, _) => Body::Tcp(segment(packet, at)?),
            (UDP, _) => {
                packet.get(at..at + 8)?;
                Body::Udp { source: be16(packet, at)?, destination: be16(packet, at + 2)? }
            }
            (ICMP, 4) | (ICMPV6, 6) => Body::Icmp { kind: *packet.get(at)? },
            _ => Body::Other,
        };
        Some(())
    }

    fn arp(&mut self, frame: &[u8]) -> Option<()> {
        let at = self.network;
        frame.get(at..at + 28)?;
        // Ethernet, IPv4, and their lengths of addresses.
        let plain = be16(frame, at)? == 1 && be16(frame, at + 2)? == 0x0800 && be16(frame, at + 4)? == 0x0604;
        if plain {
            self.body = Body::Arp { operation: be16(frame, at + 6)? };
        }
        Some(())
    }
}

fn segment(packet: &[u8], at: usize) -> Option<Segment> {
    let header = usize::from(*packet.get(at + 12)? >> 4) * 4;
    if header < 20 {
        return None;
    }
    let options = packet.get(at + 20..at + header)?;
    let mut segment = Segment {
        source: be16(packet, at)?,
        destination: be16(packet, at + 2)?,
        seq: be32(packet, at + 4)?,
        ack: be32(packet, at + 8)?,
        flags: *packet.get(at + 13)?,
        window: be16(packet, at + 14)?,
        payload: at + header,
        end: packet.len(),
        timestamp: None,
        sack: (0, 0),
    };
    let mut i = 0;
    while let Some(&kind) = options.get(i) {
        match kind {
            0 => break,
            1 => i += 1,
            _ => {
                let Some(length) = options.get(i + 1).map(|&l| usize::from(l)) else { break };
                let Some(option) = options.get(i..i + length).filter(|_| length >= 2) else { break };
                let offset = at + 20 + i + 2;
                match (kind, length) {
                    (8, 10) => {
                        segment.timestamp =
                            Some(Timestamp { offset, value: be32(option, 2)?, echo: be32(option, 6)? });
                    }
                    (5, 10 | 18 | 26 | 34) => segment.sack = (offset, offset + length - 2),
                    _ => {}
                }
                i += length;
            }
        }
    }
    Some(segment)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

/// Writes bytes where there is room for all of them.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    bytes.get_mut(at..at + value.len())?.copy_from_slice(value);
    Some(())
}
