//! Packets to measure with, as the log of a guest has them: each behind its virtio-net header.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use llm_core::flow::VNET_HEADER;

use super::Error;

/// A packet for a guest, and when it came.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Nanoseconds since the first one.
    pub time: u64,
    /// Virtio-net header and Ethernet frame.
    pub bytes: Vec<u8>,
}

/// Connections of the made packets that are open at a time.
const FLOWS: usize = 24;

/// `count` packets of 64 to 112 bytes, the same ones each time: acknowledgements, with and without timestamps, and short
/// requests of a key-value store, of some connections that take turns.
#[must_use]
pub fn made(count: usize) -> Vec<Packet> {
    let mut chance = Chance(1);
    let mut flows: Vec<Flow> = (0..FLOWS).map(|i| Flow::new(i, &mut chance)).collect();
    let mut time = 0;
    let mut packets = Vec::with_capacity(count);
    while packets.len() < count {
        let at = chance.below(FLOWS as u32) as usize;
        // Some in a row, as they come off a card.
        for _ in 0..1 + chance.below(3) {
            time += 2_000 + u64::from(chance.below(30_000));
            packets.push(Packet { time, bytes: flows[at].next(time, &mut chance) });
        }
    }
    packets.truncate(count);
    packets
}

/// Numbers that look random and are the same in each run.
#[derive(Debug)]
pub struct Chance(pub u32);

impl Chance {
    /// A number below `limit`.
    pub fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) % limit
    }
}

/// One client's side of a TCP connection.
struct Flow {
    port: u16,
    peer: u8,
    timestamps: bool,
    id: u16,
    seq: u32,
    ack: u32,
    echo: u32,
    /// Whether a reply came, and is to be acknowledged.
    answered: bool,
}

impl Flow {
    fn new(index: usize, chance: &mut Chance) -> Self {
        Self {
            port: 40_000 + index as u16 * 17,
            peer: 2 + (index % 5) as u8,
            timestamps: !index.is_multiple_of(3),
            id: chance.below(1 << 16) as u16,
            seq: chance.below(1 << 24) << 8,
            ack: chance.below(1 << 24) << 8,
            echo: 900_000,
            answered: false,
        }
    }

    fn next(&mut self, time: u64, chance: &mut Chance) -> Vec<u8> {
        let request = if self.answered { String::new() } else { self.request(chance) };
        let header = if self.timestamps { 32 } else { 20 };
        let mut tcp = vec![0; header];
        tcp[0..2].copy_from_slice(&self.port.to_be_bytes());
        tcp[2..4].copy_from_slice(&6379_u16.to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.to_be_bytes());
        tcp[12] = (header as u8) << 2;
        tcp[13] = if request.is_empty() { 0x10 } else { 0x18 };
        tcp[14..16].copy_from_slice(&(501 - chance.below(2) as u16 * 7).to_be_bytes());
        // Its place is what counts here: no one checks it.
        tcp[16..18].copy_from_slice(&(chance.below(1 << 16) as u16).to_be_bytes());
        if self.timestamps {
            tcp[20..24].copy_from_slice(&[1, 1, 8, 10]);
            tcp[24..28].copy_from_slice(&(3_000_000 + (time / 1_000_000) as u32).to_be_bytes());
            tcp[28..32].copy_from_slice(&self.echo.to_be_bytes());
        }
        self.id = self.id.wrapping_add(1);
        let mut packet = vec![0; VNET_HEADER];
        packet.extend([0x52, 0x54, 0, 0x12, 0x34, 0x56, 0x52, 0x55, 10, 0, 2, self.peer, 8, 0, 0x45, 0]);
        packet.extend((20 + tcp.len() as u16 + request.len() as u16).to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend([0x40, 0, 64, 6]);
        packet.extend((chance.below(1 << 16) as u16).to_be_bytes());
        packet.extend([10, 0, 2, self.peer, 10, 0, 2, 15]);
        packet.extend(tcp);
        packet.extend(request.as_bytes());
        self.seq = self.seq.wrapping_add(request.len() as u32);
        if self.answered {
            self.answered = false;
        } else {
            // What the reply will have moved by the time of the next packet.
            self.ack = self.ack.wrapping_add(5 + chance.below(40));
            self.echo = 900_000 + (time / 1_000_000) as u32;
            self.answered = chance.below(3) > 0;
        }
        packet
    }

    fn request(&self, chance: &mut Chance) -> String {
        // As long as leaves room for the headers in 112 bytes.
        let key = chance.below(1000);
        if self.timestamps {
            format!("*2\r\n$3\r\nGET\r\n$7\r\nuser{key:03}\r\n")
        } else {
            format!("*3\r\n$3\r\nSET\r\n$4\r\nk{key:03}\r\n$8\r\n{:08}\r\n", chance.below(99_999_999))
        }
    }
}

/// Every `NAME.pkts.zst` of a folder, by name: again and again microseconds since the packet before, its length (4 bytes each), and an
/// Ethernet frame.
///
/// # Errors
///
/// A file cannot be read.
pub fn load(folder: &Path) -> Result<Vec<(String, Vec<Packet>)>, Error> {
    let error = |source| Error { what: format!("read packets from {}", folder.display()), source };
    let mut names = Vec::new();
    for entry in folder.read_dir().map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        names.extend(name.to_str().and_then(|name| name.strip_suffix(".pkts.zst")).map(str::to_owned));
    }
    names.sort();
    names.into_iter().map(|name| read(folder, &name).map(|packets| (name, packets)).map_err(error)).collect()
}

fn read(folder: &Path, name: &str) -> io::Result<Vec<Packet>> {
    let mut bytes = Vec::new();
    zstd::Decoder::new(File::open(folder.join(format!("{name}.pkts.zst")))?)?.read_to_end(&mut bytes)?;
    let (mut rest, mut time, mut packets) = (bytes.as_slice(), 0, Vec::new());
    while let Some((head, behind)) = rest.split_first_chunk::<8>() {
        let [a, b, c, d, len @ ..] = *head;
        let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "a record is cut short");
        let (frame, behind) = behind.split_at_checked(u32::from_le_bytes(len) as usize).ok_or_else(short)?;
        time += u64::from(u32::from_le_bytes([a, b, c, d])) * 1000;
        packets.push(Packet { time, bytes: [&[0; VNET_HEADER][..], frame].concat() });
        rest = behind;
    }
    Ok(packets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_core::flow::Packet as Parsed;

    #[test]
    fn made_packets_are_small_and_can_be_read() {
        let packets = made(5000);
        assert_eq!(packets.len(), 5000);
        for packet in &packets {
            assert!((64..=112).contains(&packet.bytes.len()), "{} bytes", packet.bytes.len());
            let parsed = Parsed::parse(&packet.bytes[VNET_HEADER..]).expect("a packet");
            assert!(parsed.segment().is_some());
        }
        assert_eq!(packets[4000].bytes, made(4001)[4000].bytes);
    }
}
