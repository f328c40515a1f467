//! Shared pages in a memfd, which is sealed so that the peer cannot take pages away under us.

use llm_core::ring::PAGE;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::shared::{Mapping, Part, RingPages, SharedPages};

/// A header page and data pages in a memfd. For the peer, send a copy of its descriptor.
#[derive(Debug)]
pub struct MemfdPages {
    fd: OwnedFd,
    data: usize,
    twice: bool,
}

impl MemfdPages {
    /// New pages of zeros: a header page and `data` data pages.
    ///
    /// # Errors
    ///
    /// No memory, no descriptor.
    pub fn new(data: usize) -> io::Result<Self> {
        let fd = memfd_create("llm-ring", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, Self::size(data)?)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self { fd, data, twice: true })
    }

    /// Pages that a peer has made: a header page and `data` data pages, no more and no less.
    ///
    /// # Errors
    ///
    /// `InvalidData` for a descriptor that is no memfd of that size, or that the peer could still make
    /// shorter: an access beyond its end would kill this process.
    pub fn from_peer(fd: OwnedFd, data: usize) -> io::Result<Self> {
        let bad = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if !fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK)) {
            return bad("Peer's shared memory is no memfd that is sealed against shrinking");
        }
        if u64::try_from(fstat(&fd)?.st_size).ok() != Some(Self::size(data)?) {
            return bad("Peer's shared memory has another size than agreed on");
        }
        Ok(Self { fd, data, twice: true })
    }

    /// Maps the data pages once instead of twice. For the peer it makes no difference.
    #[must_use]
    pub fn once(self) -> Self {
        Self { twice: false, ..self }
    }

    fn size(data: usize) -> io::Result<u64> {
        let size = data.checked_add(1).and_then(|pages| pages.checked_mul(PAGE)).map(u64::try_from);
        size.and_then(Result::ok).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }
}

impl SharedPages for MemfdPages {
    fn map(self) -> io::Result<RingPages> {
        let fd = self.fd.as_fd();
        let once = Part { fd, offset: 0, pages: 1 + self.data };
        let again = Part { fd, offset: PAGE as u64, pages: self.data };
        if self.twice {
            Mapping::ring(&[once, again], self.data, true)
        } else {
            Mapping::ring(&[once], self.data, false)
        }
    }
}

impl AsFd for MemfdPages {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_core::ring::{Consumer, Memory, Producer, format};
    use std::thread;

    fn peer_of(pages: &MemfdPages) -> MemfdPages {
        MemfdPages::from_peer(pages.fd.try_clone().unwrap(), pages.data).unwrap()
    }

    #[test]
    fn data_pages_come_again_behind_themselves() {
        let pages = MemfdPages::new(3).unwrap();
        let (once, twice) = (peer_of(&pages).once().map().unwrap(), pages.map().unwrap());
        assert_eq!((once.data_len(), twice.data_len()), (3 * PAGE, 3 * PAGE));
        let bytes: Vec<u8> = (0..2 * PAGE).map(|i| (i % 251) as u8).collect();
        let mut copy = vec![0; bytes.len()];
        for (from, to) in [(&once, &twice), (&twice, &once)] {
            for at in [0, 8, 2 * PAGE, 3 * PAGE - 8] {
                from.write(at, &bytes);
                copy.fill(0);
                to.read(at, &mut copy);
                assert_eq!(copy, bytes);
                assert_eq!(to.load_word(at), from.load_word(at));
            }
        }
    }

    #[test]
    fn pages_of_a_peer_are_checked() {
        let pages = MemfdPages::new(2).unwrap();
        assert!(ftruncate(&pages.fd, 0).is_err(), "it is sealed");
        let clone = || pages.fd.try_clone().unwrap();
        let kind = |fd, data| MemfdPages::from_peer(fd, data).unwrap_err().kind();
        assert_eq!(kind(clone(), 1), io::ErrorKind::InvalidData);
        assert_eq!(kind(clone(), 3), io::ErrorKind::InvalidData);
        assert_eq!(kind(clone(), usize::MAX), io::ErrorKind::OutOfMemory);
        let open = memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&open, 3 * PAGE as u64).unwrap();
        assert_eq!(kind(open, 2), io::ErrorKind::InvalidData);
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(kind(socket.into(), 2), io::ErrorKind::InvalidData);
        assert!(MemfdPages::new(0).unwrap().map().is_err());
    }

    /// Both ends on threads of their own that never sleep: what the hardware makes of the orders.
    #[test]
    fn threads_hand_records_over() {
        const RECORDS: u64 = 200_000;
        let pages = MemfdPages::new(1).unwrap();
        let (memory, peer) = (peer_of(&pages).once().map().unwrap(), pages.map().unwrap());
        format(&memory).unwrap();
        let mut producer = Producer::attach(memory, 64).unwrap();
        let mut consumer = Consumer::attach(peer, 64).unwrap();
        let thread = thread::spawn(move || {
            for number in 0..RECORDS {
                let bytes = number.to_le_bytes();
                let len = 8 * (1 + number as usize % 8);
                let mut record = loop {
                    if let Some(record) = producer.reserve(len).unwrap() {
                        break record;
                    }
                    let _ = producer.publish();
                    thread::yield_now();
                };
                for at in (0..len).step_by(8) {
                    record.write_at(at, &bytes).unwrap();
                }
                record.commit();
                if number % 7 == 0 {
                    let _ = producer.publish();
                }
            }
            let _ = producer.close();
        });
        let mut copy = [0; 64];
        for number in 0..RECORDS {
            let len = loop {
                if let Some(record) = consumer.next().unwrap() {
                    break record.copy_to(&mut copy).unwrap().len();
                }
                let _ = consumer.release();
                thread::yield_now();
            };
            assert_eq!(len, 8 * (1 + number as usize % 8));
            assert!(copy[..len].chunks(8).all(|word| word == number.to_le_bytes()), "{number}: {copy:?}");
        }
        thread.join().unwrap();
        assert!(consumer.next().is_err(), "closed");
    }
}
