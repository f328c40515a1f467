//! What one Redis connection wrote and was promised, and the judgement of what is read back.
//!
//! Writes are numbered from 1. Write `n` of a connection sets key slot `(n - 1) % keys` to a value that
//! names the run, the connection and `n`, so any value read tells which write made it. As long as no more
//! than `keys` writes happen, each acknowledged write is checked on its own; beyond that a slot is checked
//! against its newest acknowledged write. A counter key of the connection's own is incremented as well: its
//! replies must be consecutive, which reveals a lost increment as well as one executed twice.

use xxhash_rust::xxh3::xxh3_64;

/// A judgement about one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// As promised.
    Right,
    /// This many acknowledged writes are gone.
    Lost(u64),
    /// A value that was never written there, or a counter that ran ahead: this many.
    Wrong(u64),
}

/// One key: the newest write sent to it and the newest acknowledged (0: none).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot {
    /// Number of the newest write sent.
    pub sent: u64,
    /// Number of the newest write acknowledged.
    pub acked: u64,
    /// When that one was sent.
    pub acked_sent_ns: u64,
    /// When it was acknowledged.
    pub acked_ns: u64,
    /// Already found lost or wrong: not counted twice.
    flagged: bool,
}

/// The record of one connection.
#[derive(Debug, Clone)]
pub struct Ledger {
    run: u64,
    connection: u16,
    value_len: usize,
    next: u64,
    slots: Vec<Slot>,
    increments_sent: u64,
    increments_acked: u64,
    counter: u64,
}

impl Ledger {
    /// An empty record over `keys` keys (at least one) and values of about `value_len` bytes; `run` keeps
    /// the keys of different runs apart.
    #[must_use]
    pub fn new(run: u64, connection: u16, keys: u32, value_len: usize) -> Self {
        Self {
            run,
            connection,
            value_len,
            next: 1,
            slots: vec![Slot::default(); usize::try_from(keys.max(1)).unwrap_or(1)],
            increments_sent: 0,
            increments_acked: 0,
            counter: 0,
        }
    }

    /// The key of a slot.
    #[must_use]
    pub fn key(&self, slot: usize) -> String {
        format!("llm:{:x}:{}:{slot}", self.run, self.connection)
    }

    /// The key of the connection's counter.
    #[must_use]
    pub fn counter_key(&self) -> String {
        format!("llm:{:x}:{}:count", self.run, self.connection)
    }

    /// The value of write `n`: who wrote it, then a filler that depends on it.
    #[must_use]
    pub fn value(&self, n: u64) -> Vec<u8> {
        let mut value = format!("{:016x}.{}.{n}.", self.run, self.connection);
        while value.len() < self.value_len {
            value.push_str(&format!("{:016x}", xxh3_64(value.as_bytes())));
        }
        value.into_bytes()
    }

    /// The slots, by number.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// How many slots were ever written, the first ones.
    #[must_use]
    pub fn written(&self) -> usize {
        usize::try_from(self.next - 1).unwrap_or(usize::MAX).min(self.slots.len())
    }

    /// Increments sent so far.
    #[must_use]
    pub fn increments(&self) -> u64 {
        self.increments_sent
    }

    /// The slot of write `n`.
    #[must_use]
    pub fn slot_of(&self, n: u64) -> usize {
        let slots = self.slots.len() as u64;
        usize::try_from(n.wrapping_sub(1) % slots).unwrap_or(0)
    }

    /// Takes the number of the next write; it is about to be sent.
    pub fn send(&mut self) -> u64 {
        let n = self.next;
        self.next += 1;
        let slot = self.slot_of(n);
        self.slots[slot].sent = n;
        n
    }

    /// Notes that write `n` was acknowledged.
    pub fn acknowledge(&mut self, n: u64, sent_ns: u64, acked_ns: u64) {
        let at = self.slot_of(n);
        let slot = &mut self.slots[at];
        slot.acked = n;
        slot.acked_sent_ns = sent_ns;
        slot.acked_ns = acked_ns;
    }

    /// Notes that an increment is about to be sent.
    pub fn send_increment(&mut self) {
        self.increments_sent += 1;
    }

    /// Judges the reply to an increment, which must be one more than the last, and goes on from it.
    pub fn judge_increment(&mut self, reply: i64) -> Judgement {
        self.increments_acked += 1;
        let due = self.counter + 1;
        let Ok(got) = u64::try_from(reply) else { return Judgement::Wrong(1) };
        self.counter = got;
        match got {
            _ if got < due => Judgement::Lost(due - got),
            _ if got > due => Judgement::Wrong(got - due),
            _ => Judgement::Right,
        }
    }

    /// Judges the counter as read back: at least the last reply, at most one more for each increment still
    /// without a reply.
    #[must_use]
    pub fn judge_counter(&self, found: Option<&[u8]>) -> Judgement {
        let open = self.increments_sent - self.increments_acked;
        let Some(text) = found else {
            return if self.counter == 0 { Judgement::Right } else { Judgement::Lost(self.counter) };
        };
        let number = std::str::from_utf8(text).ok().and_then(|t| t.parse::<u64>().ok());
        match number {
            None => Judgement::Wrong(1),
            Some(n) if n < self.counter => Judgement::Lost(self.counter - n),
            Some(n) if n > self.counter + open => Judgement::Wrong(n - self.counter - open),
            Some(_) => Judgement::Right,
        }
    }

    /// Judges what was read from a slot: it must be a write of this slot, not older than the newest
    /// acknowledged, not newer than `newest_sent`. A slot is found fault with once only.
    pub fn judge(&mut self, slot: usize, newest_sent: u64, found: Option<&[u8]>) -> Judgement {
        let Some(expected) = self.slots.get(slot).copied() else { return Judgement::Wrong(1) };
        let judgement = match found {
            None if expected.acked == 0 => Judgement::Right,
            None => Judgement::Lost(1),
            Some(bytes) => match self.author(bytes) {
                Some(n) if self.slot_of(n) != slot || n > newest_sent => Judgement::Wrong(1),
                Some(n) if n < expected.acked => Judgement::Lost(1),
                Some(_) => Judgement::Right,
                None => Judgement::Wrong(1),
            },
        };
        if judgement == Judgement::Right || expected.flagged {
            return Judgement::Right;
        }
        self.slots[slot].flagged = true;
        judgement
    }

    /// The number of the write that made `value`, if every byte of it is right.
    fn author(&self, value: &[u8]) -> Option<u64> {
        let text = std::str::from_utf8(value).ok()?;
        let n = text.split('.').nth(2)?.parse().ok().filter(|n| *n > 0)?;
        (self.value(n) == value).then_some(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(acked: u64, sent: u64) -> Ledger {
        let mut ledger = Ledger::new(7, 1, 4, 80);
        for _ in 0..sent {
            let n = ledger.send();
            if n <= acked {
                ledger.acknowledge(n, n, n + 1);
            }
        }
        ledger
    }

    #[test]
    fn an_unacknowledged_write_may_have_happened_or_not() {
        // Write 6 went to slot 1, as write 2 did.
        let mut ledger = written(5, 6);
        let (two, six) = (ledger.value(2), ledger.value(6));
        assert_eq!(ledger.judge(1, 6, Some(&two)), Judgement::Right);
        assert_eq!(ledger.judge(1, 6, Some(&six)), Judgement::Right);
        assert_eq!(ledger.judge(1, 2, Some(&six)), Judgement::Wrong(1), "read before it was sent");
    }

    #[test]
    fn an_older_value_or_none_is_a_loss_and_counts_once() {
        let mut ledger = written(5, 5);
        let one = ledger.value(1);
        assert_eq!(ledger.judge(0, 5, Some(&one)), Judgement::Lost(1));
        assert_eq!(ledger.judge(0, 5, None), Judgement::Right, "already counted");
        assert_eq!(ledger.judge(1, 5, None), Judgement::Lost(1));
    }

    #[test]
    fn one_changed_byte_another_key_or_another_run_is_wrong() {
        for spoil in [0, 16, 19, 40, 79] {
            let mut ledger = written(4, 4);
            let mut value = ledger.value(3);
            value[spoil] ^= 1;
            assert_eq!(ledger.judge(2, 4, Some(&value)), Judgement::Wrong(1), "byte {spoil}");
        }
        let mut ledger = written(4, 4);
        let elsewhere = ledger.value(4);
        assert_eq!(ledger.judge(2, 4, Some(&elsewhere)), Judgement::Wrong(1));
        let foreign = Ledger::new(8, 1, 4, 80).value(2);
        assert_eq!(ledger.judge(1, 4, Some(&foreign)), Judgement::Wrong(1));
    }

    #[test]
    fn the_counter_reveals_loss_and_double_execution() {
        let mut ledger = written(0, 0);
        (0..6).for_each(|_| ledger.send_increment());
        assert_eq!(ledger.judge_increment(1), Judgement::Right);
        assert_eq!(ledger.judge_increment(2), Judgement::Right);
        assert_eq!(ledger.judge_increment(4), Judgement::Wrong(1));
        assert_eq!(ledger.judge_increment(2), Judgement::Lost(3));
        // Two increments still open: 2, 3 and 4 are possible.
        assert_eq!(ledger.judge_counter(Some(b"4")), Judgement::Right);
        assert_eq!(ledger.judge_counter(Some(b"5")), Judgement::Wrong(1));
        assert_eq!(ledger.judge_counter(Some(b"1")), Judgement::Lost(1));
        assert_eq!(ledger.judge_counter(None), Judgement::Lost(2));
        assert_eq!(ledger.judge_counter(Some(b"x")), Judgement::Wrong(1));
    }
}
