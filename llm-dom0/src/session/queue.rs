//! A queue of byte chunks between two threads, bounded by bytes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that a buffer has room for: enough that handing one over costs little, and little enough that it is still in a
/// cache when the other thread takes it.
pub(crate) const CHUNK: usize = 256 << 10;
/// Used buffers that are kept.
const SPARE_MAX: usize = 32;

/// First in, first out; the producer waits when it is full, the consumer when
/// it is empty.
#[derive(Debug)]
pub(crate) struct ByteQueue {
    inner: Mutex<Inner>,
    /// Something to take out, or the end.
    filled: Condvar,
    /// Room, or nobody to take anything out.
    room: Condvar,
}

#[derive(Debug)]
struct Inner {
    chunks: VecDeque<Vec<u8>>,
    /// Empty buffers of [`CHUNK`] bytes: memory that is fresh from the system costs more than what is copied into it.
    spare: Vec<Vec<u8>>,
    bytes: u64,
    limit: u64,
    waits: u64,
    /// Who takes out waits for something.
    is_starved: bool,
    /// How few bytes there must be for whoever waits for room: half of what may be there, so that it does not wake for every chunk.
    room_at: Option<u64>,
    /// No more chunks will come; what is queued is still handed out.
    ended: bool,
    /// The consumer is gone or the queue was thrown away.
    broken: bool,
}

impl ByteQueue {
    /// A queue that holds up to `limit` bytes, and always at least one chunk.
    pub(crate) fn new(limit: u64) -> Self {
        let inner = Inner {
            chunks: VecDeque::new(),
            spare: Vec::new(),
            bytes: 0,
            limit,
            waits: 0,
            is_starved: false,
            room_at: None,
            ended: false,
            broken: false,
        };
        Self { inner: Mutex::new(inner), filled: Condvar::new(), room: Condvar::new() }
    }

    /// Queues a chunk; waits for room. False if nobody will read it.
    #[must_use]
    pub(crate) fn push(&self, chunk: Vec<u8>) -> bool {
        self.push_within(chunk, u64::MAX)
    }

    /// As [`ByteQueue::push`], with a limit of its own where that is less.
    #[must_use]
    pub(crate) fn push_within(&self, chunk: Vec<u8>, limit: u64) -> bool {
        let mut inner = self.lock();
        if inner.is_full(limit) {
            inner.waits += 1;
            while inner.is_full(limit) {
                let enough = limit.min(inner.limit) / 2;
                inner.room_at = Some(inner.room_at.map_or(enough, |at| at.max(enough)));
                inner = self.room.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.take_in(inner, chunk)
    }

    /// Queues a chunk even beyond the limit. False if nobody will read it.
    #[must_use]
    pub(crate) fn push_over(&self, chunk: Vec<u8>) -> bool {
        self.take_in(self.lock(), chunk)
    }

    /// An empty buffer of [`CHUNK`] bytes, to be filled and queued.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        let spare = self.lock().spare.pop();
        spare.unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    /// Takes back what [`ByteQueue::pop`] gave, when it is not needed any more.
    pub(crate) fn give_back(&self, mut chunk: Vec<u8>) {
        // Other sizes would be for nobody, or for more memory than is meant.
        if chunk.capacity() == CHUNK {
            chunk.clear();
            let mut inner = self.lock();
            if inner.spare.len() < SPARE_MAX {
                inner.spare.push(chunk);
            }
        }
    }

    /// The next chunk; waits for it. `None` once the queue is over.
    pub(crate) fn pop(&self) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        loop {
            if inner.broken {
                return None;
            }
            if let Some(chunk) = inner.chunks.pop_front() {
                inner.bytes -= chunk.len() as u64;
                let bytes = inner.bytes;
                let is_room = inner.room_at.take_if(|at| bytes <= *at).is_some();
                // Whoever wakes can have the lock at once.
                drop(inner);
                if is_room {
                    self.room.notify_all();
                }
                return Some(chunk);
            }
            if inner.ended {
                return None;
            }
            inner.is_starved = true;
            inner = self.filled.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says that no more will come.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.filled.notify_all();
        self.room.notify_all();
    }

    /// Throws away what is queued and frees both sides.
    pub(crate) fn break_off(&self) {
        let mut inner = self.lock();
        inner.broken = true;
        inner.chunks.clear();
        inner.bytes = 0;
        self.filled.notify_all();
        self.room.notify_all();
    }

    /// Bytes queued, and how often a producer had to wait.
    pub(crate) fn fill(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.bytes, inner.waits)
    }

    fn take_in(&self, mut inner: MutexGuard<'_, Inner>, chunk: Vec<u8>) -> bool {
        if inner.broken || inner.ended {
            return false;
        }
        inner.bytes += chunk.len() as u64;
        inner.chunks.push_back(chunk);
        let was_starved = std::mem::take(&mut inner.is_starved);
        drop(inner);
        if was_starved {
            self.filled.notify_all();
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_full(&self, limit: u64) -> bool {
        self.bytes >= self.limit.min(limit) && !self.chunks.is_empty() && !self.broken
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn order_end_and_break() {
        let queue = ByteQueue::new(10);
        assert!(queue.push(vec![1]) && queue.push(vec![2]));
        queue.end();
        assert!(!queue.push(vec![3]), "after the end");
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(vec![1]), Some(vec![2]), None));
        let queue = ByteQueue::new(10);
        assert!(queue.push(vec![1]));
        queue.break_off();
        assert_eq!(queue.pop(), None);
        assert!(!queue.push_over(vec![1]));
    }

    #[test]
    fn buffers_are_used_again_and_few_are_kept() {
        let queue = ByteQueue::new(10);
        let mut buffer = queue.buffer();
        buffer.extend([1, 2]);
        let place = buffer.as_ptr();
        assert!(queue.push(buffer));
        queue.give_back(queue.pop().expect("a chunk"));
        let again = queue.buffer();
        assert_eq!((again.len(), again.as_ptr()), (0, place));
        queue.give_back(vec![0; 5]);
        (0..2 * SPARE_MAX).for_each(|_| queue.give_back(Vec::with_capacity(CHUNK)));
        assert_eq!(queue.lock().spare.len(), SPARE_MAX);
    }

    #[test]
    fn whoever_waits_for_room_wakes_when_half_is_free() {
        let queue = Arc::new(ByteQueue::new(100));
        assert!((0..10).all(|_| queue.push(vec![0; 10])));
        let producer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.push(vec![1; 10])
        });
        // It waits from when the lock is free after this.
        while queue.lock().room_at.is_none() {
            std::thread::yield_now();
        }
        assert!((0..4).all(|_| queue.pop().is_some()));
        assert_eq!((queue.fill(), queue.lock().room_at), ((60, 1), Some(50)));
        assert!(queue.pop().is_some());
        assert!(producer.join().is_ok_and(|pushed| pushed));
        assert_eq!((queue.fill(), queue.lock().room_at), ((60, 1), None));
    }

    #[test]
    fn a_full_queue_makes_its_producer_wait() {
        let queue = Arc::new(ByteQueue::new(4));
        assert!(queue.push(vec![0; 100]), "one chunk always fits");
        assert!(queue.push_over(vec![0; 4]));
        let producer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.push(vec![0; 1])
        });
        while queue.fill().1 == 0 {
            std::thread::yield_now();
        }
        assert_eq!(queue.fill().0, 104);
        assert!(queue.pop().is_some() && queue.pop().is_some());
        assert!(producer.join().is_ok_and(|ok| ok));
    }
}
