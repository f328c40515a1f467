//! What the guest has sent, in two lanes: one waits for checkpoints, the other for the input log.
//!
//! A flow is in one lane for its life, so its packets stay in order.

use super::hold::{HoldQueue, Limits, NOT_LOGGED};
use super::recorder::Recorder;
use super::translations::Translations;
use std::sync::Arc;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Checkpoint,
    Log,
}

/// Both lanes, and who keeps the log. Without a keeper all packets wait for checkpoints.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    checkpoint: HoldQueue,
    log: HoldQueue,
    pub(super) recorder: Option<Box<dyn Recorder>>,
    translations: Arc<Translations>,
}

impl Lanes {
    pub(super) fn new(recorder: Option<Box<dyn Recorder>>, translations: Arc<Translations>) -> Self {
        Self { recorder, translations, ..Self::default() }
    }

    /// Bytes of all packets held.
    pub(super) fn bytes(&self) -> usize {
        self.checkpoint.bytes() + self.log.bytes()
    }

    /// Number of packets held.
    pub(super) fn len(&self) -> usize {
        self.checkpoint.len() + self.log.len()
    }

    /// A packet waits for the log.
    pub(super) fn awaits_log(&self) -> bool {
        self.log.len() > 0
    }

    /// Where the next packet is read to; see [`HoldQueue::slot`].
    pub(super) fn slot(&mut self) -> &mut [u8] {
        if self.recorder.is_some() { self.log.slot() } else { self.checkpoint.slot() }
    }

    /// Takes bytes `start..end` of the slot as a packet, not stamped yet.
    pub(super) fn push(&mut self, start: usize, end: usize) {
        if let Some(mut translations) = self.translations.lock_any() {
            let lane = if self.recorder.is_some() { &mut self.log } else { &mut self.checkpoint };
            let packet = lane.slot().get(start..end).unwrap_or_default();
            if !translations.sent(packet, self.recorder.as_mut()) {
                return;
            }
        }
        let Some(recorder) = &mut self.recorder else { return self.checkpoint.push(start, end) };
        let Some(packet) = self.log.slot().get(start..end) else { return };
        if recorder.waits_for_log(packet) {
            return self.log.push(start, end);
        }
        if let Some(to) = self.checkpoint.slot().get_mut(..packet.len()) {
            to.copy_from_slice(packet);
            self.checkpoint.push(0, end - start);
        }
    }

    /// Stamps all packets pushed since the last call, and has those that wait for the log noted there.
    pub(super) fn stamp(&mut self, mark: u64) {
        let translations = self.translations.lock_any();
        if let Some(translations) = &translations {
            self.checkpoint.each_unstamped(|packet| translations.outgoing(packet));
        }
        self.checkpoint.stamp(mark, NOT_LOGGED);
        let Some(recorder) = &mut self.recorder else { return };
        // The number of the last note: those before it go in the same frame.
        let mut lsn = NOT_LOGGED;
        self.log.each_unstamped(|packet| {
            // As the guest counts.
            lsn = recorder.output(packet, mark);
            if let Some(translations) = &translations {
                translations.outgoing(packet);
            }
        });
        self.log.stamp(mark, lsn);
    }

    /// A packet for the guest has come: makes it fit, and has it logged.
    pub(super) fn take_in(&mut self, packet: &mut [u8]) {
        if let Some(mut translations) = self.translations.lock_any() {
            translations.incoming(packet);
            translations.forget(self.recorder.as_mut());
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.input(packet);
        }
    }

    /// The next packet that may leave, and its lane. Those of a committed epoch first: they have waited longest.
    pub(super) fn front(&self, limits: Limits) -> Option<(Lane, &[u8])> {
        let checkpoint = self.checkpoint.front(limits).map(|packet| (Lane::Checkpoint, packet));
        checkpoint.or_else(|| self.log.front(limits).map(|packet| (Lane::Log, packet)))
    }

    /// Drops the first packet of a lane.
    pub(super) fn pop(&mut self, lane: Lane) {
        match lane {
            Lane::Checkpoint => self.checkpoint.pop(),
            Lane::Log => self.log.pop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes everything but packets that begin with `c`.
    #[derive(Debug)]
    struct Keeper(u64);

    impl Recorder for Keeper {
        fn is_full(&self) -> bool {
            false
        }
        fn input(&mut self, _: &[u8]) {}
        fn waits_for_log(&mut self, packet: &[u8]) -> bool {
            packet[0] != b'c'
        }
        fn output(&mut self, _: &[u8], _: u64) -> u64 {
            self.0 += 1;
            self.0
        }
        fn carry(&mut self, _: &llm_core::log::Carry) {
            self.0 += 1;
        }
        fn flush(&mut self) {}
    }

    fn push(lanes: &mut Lanes, packet: &[u8]) {
        lanes.slot()[4..4 + packet.len()].copy_from_slice(packet);
        lanes.push(4, 4 + packet.len());
    }

    #[test]
    fn each_packet_waits_in_its_lane() {
        let mut lanes = Lanes::new(Some(Box::new(Keeper(0))), Arc::default());
        for packet in [b"l1", b"c1", b"l2"] {
            push(&mut lanes, packet);
        }
        lanes.stamp(10);
        assert_eq!((lanes.len(), lanes.bytes()), (3, 6));
        assert_eq!(lanes.front(Limits { mark: 10, lsn: 2 }), None);
        assert_eq!(lanes.front(Limits { mark: 10, lsn: 3 }), Some((Lane::Log, &b"l1"[..])));
        lanes.pop(Lane::Log);
        assert_eq!(lanes.front(Limits { mark: 11, lsn: 3 }), Some((Lane::Checkpoint, &b"c1"[..])));
        lanes.pop(Lane::Checkpoint);
        assert_eq!(lanes.front(Limits { mark: 11, lsn: 0 }), Some((Lane::Log, &b"l2"[..])));
    }

    #[test]
    fn without_a_log_all_wait_for_checkpoints() {
        let mut lanes = Lanes::new(None, Arc::default());
        push(&mut lanes, b"l1");
        lanes.stamp(10);
        assert_eq!(lanes.front(Limits { mark: 10, lsn: u64::MAX }), None);
        assert_eq!(lanes.front(Limits { mark: 11, lsn: 0 }), Some((Lane::Checkpoint, &b"l1"[..])));
    }
}
