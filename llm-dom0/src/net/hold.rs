//! The egress hold: packets in order, each with the mark it waits for, or with the number of its note in the input log.
//!
//! Packets lie one behind the other in chunks of a megabyte, so that a packet
//! costs its own length and sixteen bytes, and the kernel writes it where it stays. Packets leave
//! from the front only, hence a chunk is empty when the last packet in it has left.

use super::vnet::SLOT;
use std::collections::VecDeque;

/// Bytes of a chunk. The tail too short for another [`SLOT`] stays unused: at most a fifteenth.
const CHUNK: usize = 1024 * 1024;
/// Empty chunks kept, so that a queue that breathes does not allocate: what a quick link has under way.
const SPARES: usize = 4;
/// Mark of a packet that has none yet: above every limit.
const UNSTAMPED: u64 = u64::MAX;
/// Stands for the number of a packet that is in no log: above every limit.
pub(super) const NOT_LOGGED: u64 = u64::MAX;

/// How far output may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Packets with a lower mark: a committed checkpoint explains them.
    pub(super) mark: u64,
    /// Packets with a lower number: the backup has the log up to them.
    pub(super) lsn: u64,
}

#[derive(Debug)]
struct Chunk {
    data: Box<[u8]>,
    used: usize,
    packets: usize,
}

#[derive(Debug)]
struct Packet {
    mark: u64,
    lsn: u64,
    /// Number of its chunk, of all there ever were.
    chunk: u64,
    offset: u32,
    len: u32,
}

/// A first-in first-out queue of packets with marks that never fall.
#[derive(Debug, Default)]
pub(super) struct HoldQueue {
    chunks: VecDeque<Chunk>,
    packets: VecDeque<Packet>,
    /// Empty chunks, [`SPARES`] at most.
    spare: Vec<Box<[u8]>>,
    unstamped: usize,
    bytes: usize,
    mark: u64,
    /// Chunks that were emptied and taken away.
    gone: u64,
}

impl HoldQueue {
    /// Bytes of all packets held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of packets held.
    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Bytes allocated.
    #[cfg(test)]
    fn allocated(&self) -> usize {
        (self.chunks.len() + self.spare.len()) * CHUNK
    }

    /// [`SLOT`] free bytes to write the next packet to. What is written there is a packet
    /// only once [`Self::push`] says so.
    pub(super) fn slot(&mut self) -> &mut [u8] {
        if self.chunks.back().is_none_or(|c| CHUNK - c.used < SLOT) {
            let data = self.spare.pop().unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice());
            self.chunks.push_back(Chunk { data, used: 0, packets: 0 });
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        &mut chunk.data[chunk.used..chunk.used + SLOT]
    }

    /// Takes bytes `start..end` of the slot as a packet, not stamped yet.
    pub(super) fn push(&mut self, start: usize, end: usize) {
        debug_assert!(start <= end && end <= SLOT);
        let number = self.gone + (self.chunks.len() as u64).saturating_sub(1);
        let Some(chunk) = self.chunks.back_mut() else { return };
        // A chunk is shorter than 4 GiB.
        let offset = u32::try_from(chunk.used + start).unwrap_or(u32::MAX);
        let len = u32::try_from(end - start).unwrap_or(u32::MAX);
        chunk.used += end;
        chunk.packets += 1;
        self.bytes += end - start;
        self.unstamped += 1;
        self.packets.push_back(Packet { mark: UNSTAMPED, lsn: NOT_LOGGED, chunk: number, offset, len });
    }

    /// Gives `mark` and `lsn` to every packet pushed since the last call. A mark below an earlier one is raised to it.
    pub(super) fn stamp(&mut self, mark: u64, lsn: u64) {
        self.mark = self.mark.max(mark.min(UNSTAMPED - 1));
        let first = self.packets.len() - self.unstamped;
        for p in self.packets.range_mut(first..) {
            p.mark = self.mark;
            p.lsn = lsn;
        }
        self.unstamped = 0;
    }

    /// Calls `look` with each packet pushed since the last [`Self::stamp`], in order.
    pub(super) fn each_unstamped(&mut self, mut look: impl FnMut(&mut [u8])) {
        let first = self.packets.len() - self.unstamped;
        for p in self.packets.range(first..) {
            let at = usize::try_from(p.chunk - self.gone).unwrap_or(usize::MAX);
            let (start, len) = (p.offset as usize, p.len as usize);
            let bytes = self.chunks.get_mut(at).and_then(|chunk| chunk.data.get_mut(start..start + len));
            if let Some(bytes) = bytes {
                look(bytes);
            }
        }
    }

    /// The first packet if a limit is above it.
    pub(super) fn front(&self, limits: Limits) -> Option<&[u8]> {
        let p = self.packets.front().filter(|p| p.mark < limits.mark || p.lsn < limits.lsn)?;
        self.bytes_of(p)
    }

    fn bytes_of(&self, p: &Packet) -> Option<&[u8]> {
        let chunk = self.chunks.get(usize::try_from(p.chunk - self.gone).ok()?)?;
        let (start, len) = (p.offset as usize, p.len as usize);
        chunk.data.get(start..start + len)
    }

    /// Drops the first packet.
    pub(super) fn pop(&mut self) {
        let Some(p) = self.packets.pop_front() else { return };
        self.bytes -= p.len as usize;
        self.unstamped = self.unstamped.min(self.packets.len());
        let Some(chunk) = self.chunks.front_mut() else { return };
        chunk.packets -= 1;
        if chunk.packets > 0 {
            return;
        }
        chunk.used = 0;
        if self.chunks.len() > 1 {
            let empty = self.chunks.pop_front().map(|empty| empty.data);
            self.spare.extend(empty.filter(|_| self.spare.len() < SPARES));
            self.gone += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unstamped(q: &mut HoldQueue) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        q.each_unstamped(|packet| packets.push(packet.to_vec()));
        packets
    }

    fn by_mark(mark: u64) -> Limits {
        Limits { mark, lsn: 0 }
    }

    fn push(q: &mut HoldQueue, payload: &[u8]) {
        q.slot()[4..4 + payload.len()].copy_from_slice(payload);
        q.push(4, 4 + payload.len());
    }

    #[test]
    fn nothing_leaves_unstamped_or_at_its_own_mark() {
        let mut q = HoldQueue::default();
        push(&mut q, b"one");
        assert_eq!(q.front(by_mark(u64::MAX)), None);
        q.stamp(7, NOT_LOGGED);
        assert_eq!(q.front(by_mark(7)), None);
        assert_eq!(q.front(by_mark(8)), Some(&b"one"[..]));
        assert_eq!((q.len(), q.bytes()), (1, 3));
        q.pop();
        assert_eq!((q.len(), q.bytes()), (0, 0));
    }

    #[test]
    fn a_falling_mark_is_raised_and_the_largest_still_leaves() {
        let mut q = HoldQueue::default();
        push(&mut q, b"a");
        q.stamp(9, NOT_LOGGED);
        push(&mut q, b"b");
        q.stamp(3, NOT_LOGGED);
        q.pop();
        assert_eq!(q.front(by_mark(9)), None);
        assert_eq!(q.front(by_mark(10)), Some(&b"b"[..]));
        push(&mut q, b"c");
        q.stamp(u64::MAX, NOT_LOGGED);
        q.pop();
        assert_eq!(q.front(by_mark(u64::MAX)), Some(&b"c"[..]));
    }

    #[test]
    fn order_and_content_over_many_chunks() {
        let mut q = HoldQueue::default();
        let mut expected = VecDeque::new();
        let mut state = 1_u32;
        for i in 0..5_000_u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let len = if state.is_multiple_of(8) { 64_000 } else { 60 + (state >> 20) as usize % 1400 };
            let mut payload = vec![u8::try_from(i % 251).unwrap(); len];
            payload[..4].copy_from_slice(&i.to_le_bytes());
            push(&mut q, &payload);
            expected.push_back(payload);
            q.stamp(u64::from(i), NOT_LOGGED);
            // Grows for a while, then drains twice as fast.
            for _ in 0..(if i % 1000 < 700 { 0 } else { 3 }) {
                if let Some(want) = expected.pop_front() {
                    assert_eq!(q.front(by_mark(u64::MAX)), Some(&want[..]));
                    q.pop();
                }
            }
        }
        while let Some(want) = expected.pop_front() {
            assert_eq!(q.front(by_mark(u64::MAX)), Some(&want[..]));
            q.pop();
        }
        assert_eq!((q.bytes(), q.len(), q.front(by_mark(u64::MAX))), (0, 0, None));
        assert!(q.allocated() <= (1 + SPARES) * CHUNK, "{} bytes kept by an empty queue", q.allocated());
    }

    #[test]
    fn small_packets_do_not_cost_a_slot_each() {
        let mut q = HoldQueue::default();
        for _ in 0..10_000 {
            push(&mut q, &[0; 74]);
        }
        assert!(q.allocated() <= 2 * CHUNK, "{} bytes for 740 kB", q.allocated());
    }

    #[test]
    fn a_slot_not_pushed_is_given_out_again() {
        let mut q = HoldQueue::default();
        q.slot()[..7].copy_from_slice(b"dropped");
        push(&mut q, b"kept");
        q.stamp(0, NOT_LOGGED);
        assert_eq!(q.front(by_mark(1)), Some(&b"kept"[..]));
    }

    #[test]
    fn a_logged_packet_leaves_by_its_number_or_by_its_mark() {
        let mut q = HoldQueue::default();
        push(&mut q, b"one");
        push(&mut q, b"two");
        assert_eq!(unstamped(&mut q), [b"one", b"two"]);
        q.stamp(50, 7);
        assert_eq!(unstamped(&mut q).len(), 0);
        assert_eq!(q.front(Limits { mark: 50, lsn: 7 }), None);
        assert_eq!(q.front(Limits { mark: 0, lsn: 8 }), Some(&b"one"[..]));
        q.pop();
        assert_eq!(q.front(Limits { mark: 51, lsn: 0 }), Some(&b"two"[..]));
    }

    #[test]
    fn what_is_not_stamped_is_found_in_later_chunks() {
        let mut q = HoldQueue::default();
        for round in 0..40_u8 {
            for i in 0..3 {
                push(&mut q, &vec![round + i; 60_000]);
            }
            let seen: Vec<u8> = unstamped(&mut q).iter().map(|p| p[0]).collect();
            assert_eq!(seen, [round, round + 1, round + 2]);
            q.stamp(1, u64::from(round));
            q.pop();
            q.pop();
        }
    }
}
