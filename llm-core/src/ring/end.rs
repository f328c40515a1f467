//! What both ends have in common: an index of one's own, one of the peer's, and who is to be woken.

use core::marker::PhantomData;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::layout::{check, checked_max};
use super::{AttachError, Field, Index, Memory, RingError, Wake};

/// Values of the state fields.
const OPEN: u64 = 0;
const CLOSED: u64 = 1;
const REFUSED: u64 = 2;

/// The fields that an end writes.
#[derive(Debug)]
pub(super) struct Fields {
    index: Field,
    want: Field,
    state: Field,
}

const PRODUCER: Fields =
    Fields { index: Field::ProducerIndex, want: Field::ProducerWant, state: Field::ProducerState };
const CONSUMER: Fields =
    Fields { index: Field::ConsumerIndex, want: Field::ConsumerWant, state: Field::ConsumerState };

/// Which end it is.
pub(super) trait Side {
    const OWN: Fields;
    const PEER: Fields;
    const PEER_INDEX: Index;

    /// The most that the peer's index may be when one's own in shared memory is `shown`.
    fn limit(shown: u64, data_len: u64) -> u64;
}

/// The producer: records are released only after they were published.
#[derive(Debug)]
pub(super) struct Produces;

impl Side for Produces {
    const OWN: Fields = PRODUCER;
    const PEER: Fields = CONSUMER;
    const PEER_INDEX: Index = Index::Consumer;

    fn limit(shown: u64, _: u64) -> u64 {
        shown
    }
}

/// The consumer: records are published only into what was released.
#[derive(Debug)]
pub(super) struct Consumes;

impl Side for Consumes {
    const OWN: Fields = CONSUMER;
    const PEER: Fields = PRODUCER;
    const PEER_INDEX: Index = Index::Producer;

    fn limit(shown: u64, data_len: u64) -> u64 {
        shown.saturating_add(data_len)
    }
}

/// One end of a ring. Nothing that it goes by lies in shared memory.
#[derive(Debug)]
pub(super) struct End<M, S> {
    pub(super) memory: M,
    pub(super) data_len: u64,
    /// Most bytes of a payload.
    pub(super) max: u32,
    /// Position up to which this end has come; `offset` is its place in the data area.
    pub(super) place: u64,
    pub(super) offset: usize,
    /// One's own index in shared memory: at most `place`.
    shown: u64,
    /// The peer's index when it was last read.
    pub(super) seen: u64,
    ended: Option<RingError>,
    side: PhantomData<S>,
}

impl<M: Memory, S: Side> End<M, S> {
    pub(super) fn attach(memory: M, max_record: usize) -> Result<Self, AttachError> {
        let data_len = check(&memory)?;
        let max = checked_max(max_record, data_len)?;
        let (place, offset, shown, seen, ended) = (0, 0, 0, 0, None);
        Ok(Self { memory, data_len, max, place, offset, shown, seen, ended, side: PhantomData })
    }

    /// As if so much had gone through the ring already.
    #[cfg(test)]
    pub(super) fn set_place(&mut self, place: u64) {
        (self.place, self.shown, self.seen) = (place, place, place);
    }

    /// An error if the ring has ended.
    pub(super) fn alive(&self) -> Result<(), RingError> {
        self.ended.map_or(Ok(()), Err)
    }

    /// Ends the ring, and tells the peer if it is to blame.
    #[cold]
    pub(super) fn fail(&mut self, error: RingError) -> RingError {
        if !matches!(error, RingError::Closed | RingError::Refused) {
            self.memory.store(S::OWN.state, REFUSED, Release);
        }
        self.ended = Some(error);
        error
    }

    /// The place in the data area `more` bytes, at most its size, behind this end's.
    pub(super) fn behind(&self, more: usize) -> usize {
        let (at, len) = (self.offset + more, self.memory.data_len());
        if at < len { at } else { at - len }
    }

    /// Goes on by `size` bytes, at most the size of the data area.
    pub(super) fn advance(&mut self, size: usize) -> Result<(), RingError> {
        match self.place.checked_add(size as u64) {
            Some(place) => (self.place, self.offset) = (place, self.behind(size)),
            None => return Err(self.fail(RingError::Exhausted)),
        }
        Ok(())
    }

    /// Shows the peer how far this end has come.
    pub(super) fn show(&mut self) -> Wake {
        let (old, new) = (self.shown, self.place);
        if old == new || self.ended.is_some() {
            return Wake::Nobody;
        }
        self.shown = new;
        // What was read or written before this index is read or written for the peer too.
        self.memory.store(S::OWN.index, new, Release);
        // With the fence in `want`: the peer sees this index, or its wish is seen here.
        self.memory.fence();
        Wake::crossed(old, self.memory.load(S::PEER.want, Relaxed), new)
    }

    /// Asks the peer to notify when its index comes to `position`. Then `look`, and sleep only if that shows nothing new.
    pub(super) fn want(&mut self, position: u64) {
        self.memory.store(S::OWN.want, position, Relaxed);
        self.memory.fence();
    }

    /// Reads and checks the peer's index, and returns whether the peer has closed the ring.
    pub(super) fn look(&mut self) -> Result<bool, RingError> {
        // First the state: an index read behind a closed one is the last.
        let state = self.memory.load(S::PEER.state, Acquire);
        let got = self.memory.load(S::PEER.index, Acquire);
        let (index, min, max) = (S::PEER_INDEX, self.seen, S::limit(self.shown, self.data_len));
        if state == REFUSED {
            return Err(self.fail(RingError::Refused));
        }
        if state != OPEN && state != CLOSED {
            return Err(self.fail(RingError::State(state)));
        }
        if !(min..=max).contains(&got) {
            return Err(self.fail(RingError::Index { index, got, min, max }));
        }
        if !got.is_multiple_of(super::UNIT as u64) {
            return Err(self.fail(RingError::Unaligned { index, got }));
        }
        self.seen = got;
        Ok(state == CLOSED)
    }

    /// Shows the rest and ends the ring in order. The peer must always be notified.
    pub(super) fn close(mut self) -> Wake {
        let _: Wake = self.show();
        if self.ended.is_none() {
            self.memory.store(S::OWN.state, CLOSED, Release);
        }
        Wake::Peer
    }
}
