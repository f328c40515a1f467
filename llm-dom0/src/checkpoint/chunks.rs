//! A queue of bytes for rebuilt epochs: grows without copying, frees as it is written.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

/// Bytes of one allocation.
const CHUNK: usize = 1 << 20;
/// Most pieces given to one gathering write.
const MAX_SLICES: usize = 16;

/// Bytes in a row of allocations of 1 MiB.
#[derive(Debug, Default)]
pub struct Chunks {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that were taken already.
    taken: usize,
    len: u64,
}

impl Chunks {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes in the queue.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing in the queue.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `bytes`.
    pub fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.chunks.back().is_none_or(|chunk| chunk.len() == CHUNK) {
                self.chunks.push_back(Vec::with_capacity(CHUNK));
            }
            if let Some(chunk) = self.chunks.back_mut() {
                let (now, rest) = bytes.split_at(bytes.len().min(CHUNK - chunk.len()));
                chunk.extend_from_slice(now);
                bytes = rest;
            }
        }
    }

    /// Appends all of `other`, moving its chunks.
    pub fn append(&mut self, mut other: Self) {
        // A chunk partly taken cannot be moved behind others.
        if other.taken > 0
            && let Some(first) = other.chunks.pop_front()
        {
            self.push(first.get(other.taken..).unwrap_or_default());
            self.len -= (first.len() - other.taken) as u64;
        }
        self.len += other.len;
        self.chunks.append(&mut other.chunks);
    }

    /// Writes once from the front, as much as `to` takes; returns how much.
    ///
    /// # Errors
    ///
    /// Those of `to`; then nothing was taken.
    pub fn write_some(&mut self, to: &mut impl Write) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            let from = if count == 0 { self.taken } else { 0 };
            *slice = IoSlice::new(chunk.get(from..).unwrap_or_default());
            count += 1;
        }
        let written = to.write_vectored(slices.get(..count).unwrap_or_default())?;
        self.drop_front(written);
        Ok(written)
    }

    /// Writes everything.
    ///
    /// # Errors
    ///
    /// Those of `to`, and [`io::ErrorKind::WriteZero`] if it takes nothing. What was
    /// written before the error is gone from the queue.
    pub fn write_all(&mut self, to: &mut impl Write) -> io::Result<()> {
        while !self.is_empty() {
            match self.write_some(to) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn drop_front(&mut self, bytes: usize) {
        self.len -= bytes as u64;
        self.taken += bytes;
        while let Some(first) = self.chunks.front()
            && first.len() <= self.taken
        {
            self.taken -= first.len();
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes an odd number of bytes at a time.
    struct Slow(Vec<u8>, usize);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let take = bytes.len().min(self.1);
            self.1 = self.1 * 3 % 700_001 + 1;
            self.0.extend(&bytes[..take]);
            Ok(take)
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let (mut left, mut total) = (self.1, 0);
            for slice in slices {
                let take = slice.len().min(left);
                self.0.extend(&slice[..take]);
                (left, total) = (left - take, total + take);
            }
            self.1 = self.1 * 3 % 1_700_001 + 1;
            Ok(total)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn gives_back_what_was_pushed() {
        let bytes: Vec<u8> = (0..5 * CHUNK / 2).map(|i| (i % 253) as u8).collect();
        let mut chunks = Chunks::new();
        for piece in bytes.chunks(77_777) {
            chunks.push(piece);
        }
        assert_eq!(chunks.len(), bytes.len() as u64);
        let mut slow = Slow(Vec::new(), 5);
        for _ in 0..4 {
            chunks.write_some(&mut slow).unwrap();
        }
        let mut more = Chunks::new();
        more.push(b"ahead");
        more.append(chunks);
        more.push(b"behind");
        let done = slow.0.len();
        more.write_all(&mut slow).unwrap();
        assert!(more.is_empty());
        assert_eq!(slow.0[done..], [b"ahead", &bytes[done..], b"behind"].concat());
    }

    #[test]
    fn a_writer_that_takes_nothing_is_an_error() {
        let mut chunks = Chunks::new();
        chunks.push(b"x");
        assert_eq!(chunks.write_all(&mut Slow(Vec::new(), 0)).unwrap_err().kind(), io::ErrorKind::WriteZero);
        assert_eq!(chunks.len(), 1);
    }
}
