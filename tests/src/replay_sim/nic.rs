//! What Linux's TCP does and smoltcp's does not, done at the boundary of the stack.
//!
//! - The initial sequence number is a hash of the connection plus a clock (RFC 6528), and TSval is the host's clock plus a
//!   hash: a restored guest opens with other numbers, and its timestamps go back.
//! - A segment with an old timestamp is dropped (PAWS, RFC 7323), and TSecr is the newest timestamp in order.
//! - A segment that acknowledges what was never sent is dropped whole.
//! - The send sequence number of an acknowledgement never goes back, not even while data is sent again.

use super::Nanos;
use crate::sim::mix;
use llm_core::flow::build::{self, BUILT_MAX, Link, Says};
use llm_core::flow::{Direction, Packet, VNET_HEADER, flags};
use std::collections::HashMap;

const ETHERNET: usize = 14;
/// Where IP starts in a packet of the simulator's: virtio-net header, Ethernet, IP.
pub(super) const IP: usize = VNET_HEADER + ETHERNET;
/// Bytes of the IP header: there are no options.
const IP_HEADER: usize = 20;

/// A connection as the host sees it: its own port, the other one's address and port.
type Key = (u16, [u8; 16], u16);

#[derive(Debug, Default)]
struct Connection {
    /// smoltcp's initial number, and what is added to its numbers.
    raw_isn: u32,
    shift: u32,
    clock_shift: u32,
    /// Newest timestamp of the other side's that came in order; none without the option.
    recent: Option<u32>,
    sent: u32,
    /// What this side has acknowledged.
    acked: u32,
    /// What the other side has acknowledged last and at which number of its own, and bytes behind the SYN.
    newest: Option<(u32, u32)>,
    got: u32,
    /// What came with the newest acknowledgement.
    window: u16,
}

impl Connection {
    #[allow(clippy::cast_possible_truncation, reason = "a clock of milliseconds that wraps around")]
    const fn timestamp(&self, clock: Nanos) -> u32 {
        ((clock / super::MS) as u32).wrapping_add(self.clock_shift)
    }
}

/// How a host behaves on the wire.
#[derive(Debug)]
pub(super) struct Nic {
    address: u8,
    secret: u64,
    /// The checksum is left to the wire: it is that of the pseudo-header.
    partial: bool,
    connections: HashMap<Key, Connection>,
    /// Timestamps of SYNs that were not answered yet.
    opening: HashMap<Key, u32>,
    /// Segments that PAWS dropped, and that acknowledged the future.
    pub(super) dropped: (u64, u64),
}

const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn get(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Ones' complement sum of 16-bit words (RFC 1071), not inverted.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

/// Of the pseudo-header of an IPv4 packet that carries TCP.
fn pseudo(ip: &[u8]) -> u16 {
    let length = u32::try_from(ip.len() - IP_HEADER).expect("short");
    sum(&ip[12..20], 6 + length)
}

/// Writes the TCP checksum over what is there now.
fn set_checksum(ip: &mut [u8], partial: bool) {
    let at = IP_HEADER + 16;
    ip[at..at + 2].fill(0);
    let pseudo = pseudo(ip);
    let value = if partial { pseudo } else { !sum(&ip[IP_HEADER..], pseudo.into()) };
    ip[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

impl Nic {
    pub(super) fn new(address: u8, secret: u64, partial: bool) -> Self {
        let (connections, opening) = (HashMap::new(), HashMap::new());
        Self { address, secret, partial, connections, opening, dropped: (0, 0) }
    }

    const fn mac(address: u8) -> [u8; 6] {
        [2, 0, 0, 0, 0, address]
    }

    /// Puts a packet of the stack's on the wire.
    pub(super) fn outgoing(&mut self, ip: &[u8], clock: Nanos) -> Vec<u8> {
        let mut bytes = vec![0; IP];
        bytes[0] = u8::from(self.partial);
        bytes[VNET_HEADER..VNET_HEADER + 6].copy_from_slice(&Self::mac(ip[19]));
        bytes[VNET_HEADER + 6..VNET_HEADER + 12].copy_from_slice(&Self::mac(self.address));
        bytes[VNET_HEADER + 12..IP].copy_from_slice(&[8, 0]);
        bytes.extend_from_slice(ip);
        let frame = &mut bytes[VNET_HEADER..];
        let packet = Packet::parse(frame).expect("the stack's own");
        let Some(segment) = packet.segment().copied() else { return bytes };
        let key = (segment.source, packet.destination, segment.destination);
        if segment.has(flags::SYN) && self.connections.get(&key).is_none_or(|c| c.raw_isn != segment.seq) {
            let hash = mix(self.secret ^ mix(u64::from(key.0) << 32 ^ u64::from(key.2)) ^ u64::from(ip[19]));
            #[allow(clippy::cast_possible_truncation, reason = "numbers wrap around")]
            let (isn, clock_shift) = ((hash.wrapping_add(clock >> 6)) as u32, (hash >> 32) as u32);
            let recent = self.opening.remove(&key);
            let fresh = Connection {
                raw_isn: segment.seq,
                shift: isn.wrapping_sub(segment.seq),
                clock_shift,
                recent,
                sent: isn,
                acked: segment.ack,
                newest: None,
                got: 0,
                window: 0,
            };
            self.connections.insert(key, fresh);
        }
        if let Some(known) = self.connections.get_mut(&key) {
            let mut seq = segment.seq.wrapping_add(known.shift);
            let end = seq.wrapping_add(segment.seq_len());
            if segment.seq_len() == 0 && !segment.has(flags::RST) && after(known.sent, seq) {
                seq = known.sent;
            } else if after(end, known.sent) {
                known.sent = end;
            }
            put(frame, packet.transport + 4, seq);
            if segment.has(flags::ACK) {
                known.acked = segment.ack;
            }
            if let Some(timestamp) = segment.timestamp {
                put(frame, timestamp.offset, known.timestamp(clock));
                put(frame, timestamp.offset + 4, known.recent.unwrap_or(0));
            }
        }
        set_checksum(&mut frame[ETHERNET..], self.partial);
        bytes
    }

    /// Takes a packet from the wire; what the stack is to see of it, if anything.
    pub(super) fn incoming(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let partial = bytes[0] & 1 != 0;
        let mut frame = bytes[VNET_HEADER..].to_vec();
        let packet = Packet::parse(&frame)?;
        let ip = &frame[ETHERNET..packet.end];
        // A whole one counts to all ones; of a partial one, the field is the pseudo-header's.
        let good = if partial {
            ip[IP_HEADER + 16..IP_HEADER + 18] == pseudo(ip).to_be_bytes()
        } else {
            sum(&ip[IP_HEADER..], pseudo(ip).into()) == 0xffff
        };
        let segment = *packet.segment()?;
        if !good {
            return None;
        }
        let key = (segment.destination, packet.source, segment.source);
        if segment.has(flags::SYN) && !segment.has(flags::ACK) {
            match segment.timestamp {
                Some(timestamp) => self.opening.insert(key, timestamp.value),
                None => self.opening.remove(&key),
            };
        } else if let Some(known) = self.connections.get_mut(&key) {
            if segment.has(flags::ACK) {
                let mut ack = segment.ack;
                if after(ack, known.sent) && !segment.has(flags::RST) {
                    // What is out of the window is answered before anybody looks at the acknowledgement.
                    if !after(known.acked, segment.seq_end()) {
                        self.dropped.1 += 1;
                        return None;
                    }
                    ack = known.sent;
                }
                if !segment.has(flags::RST) {
                    // smoltcp drops a segment whole for an old acknowledgement, and heeds an old window: Linux neither.
                    let newest = (segment.ack, segment.seq);
                    let (una, seq) = *known.newest.get_or_insert(newest);
                    let same = una == ack && seq == segment.seq;
                    let older = after(una, ack) || una == ack && after(seq, segment.seq);
                    // Nor does it heed a smaller window that says nothing else: it was overtaken.
                    if older || same && known.window > segment.window {
                        ack = una;
                        let window = known.window.to_be_bytes();
                        frame[packet.transport + 14..packet.transport + 16].copy_from_slice(&window);
                    } else {
                        known.newest = Some((ack, segment.seq));
                        known.window = segment.window;
                    }
                }
                put(&mut frame, packet.transport + 8, ack.wrapping_sub(known.shift));
                for at in (segment.sack.0..segment.sack.1).step_by(4) {
                    let edge = get(&frame, at).wrapping_sub(known.shift);
                    put(&mut frame, at, edge);
                }
            }
            if let Some(timestamp) = segment.timestamp.filter(|_| !segment.has(flags::RST)) {
                let opens = segment.has(flags::SYN);
                if let Some(recent) = known.recent.filter(|_| !opens)
                    && recent.wrapping_sub(timestamp.value).cast_signed() > 1
                {
                    self.dropped.0 += 1;
                    return None;
                }
                let newer = known.recent.is_none_or(|recent| after(timestamp.value, recent));
                if opens || newer && !after(segment.seq, known.acked) {
                    known.recent = Some(timestamp.value);
                }
            }
            if segment.has(flags::ACK) {
                let first = known.raw_isn.wrapping_add(known.shift).wrapping_add(1);
                known.got =
                    known.got.max(segment.ack.wrapping_sub(first).cast_signed().max(0).cast_unsigned());
            }
        }
        let mut ip = frame[ETHERNET..packet.end].to_vec();
        set_checksum(&mut ip, false);
        Some(ip)
    }

    /// The answer to a SYN for a connection that is there (RFC 5961, 4): who sent it says whether it still knows it.
    pub(super) fn challenge(&self, syn: &[u8], clock: Nanos) -> Option<Vec<u8>> {
        let frame = &syn[VNET_HEADER..];
        let packet = Packet::parse(frame)?;
        let segment = packet.segment()?;
        let known = self.connections.get(&(segment.destination, packet.source, segment.source))?;
        // Until it is open, the answer is that to the SYN once more.
        let isn = known.raw_isn.wrapping_add(known.shift);
        let opening = known.sent == isn.wrapping_add(1);
        let says = Says {
            seq: if opening { isn } else { known.sent },
            ack: known.acked,
            flags: if opening { flags::SYN | flags::ACK } else { flags::ACK },
            window: 4096,
            timestamps: known.recent.map(|recent| (known.timestamp(clock), recent)),
        };
        let link = Link::of(frame, Direction::ToGuest)?;
        let mut buf = [0; BUILT_MAX];
        let len =
            build::segment(&mut buf, &link, &packet.key(Direction::ToGuest), Direction::FromGuest, &says)?;
        Some(buf[..len].to_vec())
    }

    /// What this side has acknowledged, by connection.
    pub(super) fn acks(&self) -> HashMap<([u8; 16], u16), u32> {
        self.connections.iter().map(|(key, known)| ((key.1, key.2), known.acked)).collect()
    }

    pub(super) fn forget(&mut self, port: u16, peer: [u8; 16], peer_port: u16) {
        self.connections.remove(&(port, peer, peer_port));
    }

    /// Bytes that the other side has acknowledged of a connection.
    pub(super) fn acknowledged(&self, port: u16, peer: [u8; 16], peer_port: u16) -> u32 {
        self.connections.get(&(port, peer, peer_port)).map_or(0, |known| known.got)
    }
}
