//! Bodies of the fuzz targets.
//!
//! They are here, not in `fuzz/`, so that plain `cargo test` replays every input
//! of `fuzz/corpus` and `fuzz/regressions` without a fuzzer. A body takes any
//! bytes and panics when something that must always hold does not.

pub mod compressed;
pub mod frame;
pub mod log;
pub mod messages;
pub mod packed;
pub mod page;
pub mod replication;
pub mod ring;
pub mod stream;

/// A body of a fuzz target: panics on a find.
pub type Body = fn(&[u8]);

/// Every target: its name, which is that of its file and its folders in `fuzz/`, and its body.
pub const TARGETS: &[(&str, Body)] = &[
    ("log_parser", log::run),
    ("log_packed", packed::run),
    ("frame_parser", frame::run),
    ("page_decode", page::run),
    ("stream_parser", stream::run),
    ("replication_ops", replication::run),
    ("ring_peer", ring::run),
    ("messages", messages::run),
    ("compressed", compressed::run),
];

/// Takes numbers and bytes from the front of an input; zeros when it is used up.
#[derive(Debug)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn u8(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let taken = self.bytes(8);
        bytes[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(bytes)
    }

    /// At most `len` bytes: as many as are left.
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
