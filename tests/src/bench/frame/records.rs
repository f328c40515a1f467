//! Log records of packets.

use std::hint::black_box;
use std::ops::Range;
use std::rc::Rc;

use llm_core::frame::{Kind, encode_header};
use llm_core::log::{
    Entry, Flags, HEADER, LogWriter, Packer, Record, RecordKind, Unpacked, Unpacker, records,
};
use llm_core::time::Instant;

use super::clock::{Subject, subject};
use crate::bench::packets::Packet;

/// Packets between two looks at the clock, and of a frame.
pub(super) const PIECE: usize = 256;
/// Bytes that a full log frame of the driver has.
const FRAME: usize = 64 << 10;

/// Packets one behind the other, as buffers of a capture have them.
pub(super) struct Packets {
    bytes: Vec<u8>,
    each: Vec<(u64, Range<usize>)>,
}

impl Packets {
    /// Those of a length in `sizes`, in whole pieces.
    pub(super) fn new(packets: &[Packet], sizes: Range<usize>, most: usize) -> Rc<Self> {
        let fit = packets.iter().filter(|packet| sizes.contains(&packet.bytes.len())).take(most);
        let (mut bytes, mut each) = (Vec::new(), Vec::new());
        for packet in fit {
            each.push((packet.time, bytes.len()..bytes.len() + packet.bytes.len()));
            bytes.extend(&packet.bytes);
        }
        each.truncate(each.len() / PIECE * PIECE);
        bytes.truncate(each.last().map_or(0, |(_, range)| range.end));
        Rc::new(Self { bytes, each })
    }

    pub(super) fn pieces(&self) -> usize {
        self.each.len() / PIECE
    }

    pub(super) fn len(&self) -> usize {
        self.each.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn piece(&self, piece: usize) -> impl Iterator<Item = Entry<'_>> {
        self.each[piece * PIECE..(piece + 1) * PIECE].iter().map(|(time, range)| Entry {
            kind: RecordKind::Input,
            epoch: 3,
            time: Instant::from_nanos(*time),
            vif: 0,
            flags: Flags::VNET_HEADER,
            packet: &self.bytes[range.clone()],
        })
    }

    fn written(&self, piece: usize, buf: &mut [u8]) -> usize {
        let mut writer = LogWriter::new(buf, 1 + (piece * PIECE) as u64);
        for entry in self.piece(piece) {
            writer.append(&entry).expect("room");
        }
        writer.finish()
    }

    fn packed(&self, piece: usize, packer: &mut Packer, buf: &mut [u8]) -> usize {
        let (mut at, first) = (0, 1 + (piece * PIECE) as u64);
        for (lsn, entry) in (first..).zip(self.piece(piece)) {
            at += packer.pack(&Record { lsn, entry }, &mut buf[at..]).expect("room");
        }
        at + packer.seal(&mut buf[at..]).expect("room")
    }

    /// The logs of all pieces.
    fn logs(&self) -> Vec<Vec<u8>> {
        let mut buf = vec![0; PIECE * (HEADER + 2048)];
        let log = |piece| {
            let len = self.written(piece, &mut buf);
            buf[..len].to_vec()
        };
        (0..self.pieces()).map(log).collect()
    }
}

/// The roof, ours, and a compressor.
pub(super) fn subjects(packets: &Rc<Packets>) -> Vec<Subject> {
    let room = vec![0_u8; PIECE * (HEADER + 2048)];
    let logs = Rc::new(packets.logs());
    let of = || (Rc::clone(packets), room.clone());
    vec![
        subject("memcpy of the packets", {
            let (packets, mut buf) = of();
            move |piece| {
                let mut at = 0;
                for entry in packets.piece(piece) {
                    buf[at..at + entry.packet.len()].copy_from_slice(entry.packet);
                    at += entry.packet.len();
                }
                at
            }
        }),
        subject("llm: written", {
            let (packets, mut buf) = of();
            move |piece| packets.written(piece, &mut buf)
        }),
        subject("llm: written, and the frame's header", {
            let (packets, mut buf) = of();
            move |piece| {
                let len = packets.written(piece, &mut buf);
                let frames = buf[..len].chunks(FRAME);
                len + frames
                    .map(|frame| black_box(encode_header(Kind::LOG, 0, 1, frame)).len())
                    .sum::<usize>()
            }
        }),
        subject("llm: read", {
            let logs = Rc::clone(&logs);
            move |piece| records(&logs[piece], None).map(|r| r.expect("sound").entry.packet.len()).sum()
        }),
        subject("llm: packed", {
            let (packets, mut buf) = of();
            let mut packer = Box::new(Packer::new());
            move |piece| packets.packed(piece, &mut packer, &mut buf)
        }),
        subject("llm: packed, and the frame's header", {
            let (packets, mut buf) = of();
            let mut packer = Box::new(Packer::new());
            move |piece| {
                let len = packets.packed(piece, &mut packer, &mut buf);
                let frames = buf[..len].chunks(FRAME);
                len + frames
                    .map(|frame| black_box(encode_header(Kind::PACKED_LOG, 0, 1, frame)).len())
                    .sum::<usize>()
            }
        }),
        subject("llm: unpacked", {
            let (packets, mut buf) = of();
            let mut packer = Box::new(Packer::new());
            let packed: Vec<Vec<u8>> = (0..packets.pieces())
                .map(|piece| {
                    let len = packets.packed(piece, &mut packer, &mut buf);
                    buf[..len].to_vec()
                })
                .collect();
            let mut unpacker = Box::new(Unpacker::new());
            move |piece| {
                if piece == 0 {
                    *unpacker = Unpacker::new();
                }
                let (mut rest, mut bytes) = (packed[piece].as_slice(), 0);
                while let Some(Unpacked::Record(record)) = unpacker.take(&mut rest).expect("sound") {
                    bytes += black_box(record).entry.packet.len();
                }
                bytes
            }
        }),
        subject("lz4 (lz4_flex) of written records", {
            let logs = Rc::clone(&logs);
            let mut out = vec![0; lz4_flex::block::get_maximum_output_size(room.len())];
            let mut table = lz4_flex::block::CompressTable::default();
            move |piece| {
                let frames = logs[piece].chunks(FRAME);
                let len = |frame: &[u8]| {
                    lz4_flex::block::compress_into_with_table(frame, &mut out, &mut table).expect("room")
                };
                frames.map(len).sum()
            }
        }),
    ]
}
