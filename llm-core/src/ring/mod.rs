//! A ring of byte records on memory shared with a peer that is not trusted.
//!
//! One [`Producer`], one [`Consumer`], a header page and any number of data pages; layout, ordering
//! and wake-up are specified in `docs/ring.md`. Both ends work in batches: records are committed one
//! by one and shown to the peer by [`Producer::publish`], consumed one by one and given back by
//! [`Consumer::release`]. Each of these says whether the peer has to be notified; it has not while it
//! is awake.
//!
//! **The peer is hostile.** What it may write is read once, into a local copy, and checked there. Is it
//! against the protocol, the ring has ended: the call returns a [`RingError`], and so does every
//! later one. The peer can at most send other bytes than it should, wake us needlessly, or not at all.
//!
//! **No reference to shared bytes exists.** The peer may write to a record while it is read, so a
//! record is no `&[u8]`: [`Record`] and [`Reservation`] copy out of and into shared memory, once.
//! Parse the copy only. The one unsafe file is that of [`Mapped`]; the rest knows shared memory by the
//! trait [`Memory`], and tests try it on other kinds of memory.
//!
//! The ring never waits. An end that finds nothing to do calls `wait`, and sleeps if that says so:
//!
//! ```
//! use llm_core::ring::{Consumer, Mapped, Page, Producer, Wake, format};
//!
//! let mut pages = [Page::ZERO; 3];
//! let memory = Mapped::local(&mut pages).ok_or("a header page and a data page")?;
//! format(&memory)?;
//! let (mut producer, mut consumer) = (Producer::attach(&memory, 1024)?, Consumer::attach(&memory, 1024)?);
//!
//! assert!(consumer.next()?.is_none());
//! assert!(consumer.wait()?.sleep, "and now it would sleep until it is notified");
//!
//! let mut record = producer.reserve(5)?.ok_or("the ring is not full")?;
//! record.write_at(0, b"hello")?;
//! record.commit();
//! assert_eq!(producer.publish(), Wake::Peer);
//!
//! let record = consumer.next()?.ok_or("a record was published")?;
//! let mut copy = [0; 1024];
//! assert_eq!(record.copy_to(&mut copy).as_deref(), Some(&b"hello"[..]));
//! assert_eq!(consumer.release(), Wake::Nobody, "the producer does not wait for room");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod consumer;
mod end;
mod error;
mod layout;
mod mapped;
mod memory;
mod producer;

#[cfg(test)]
mod tests;

pub use consumer::{Consumer, Reader, Record};
pub use error::{AttachError, Index, ReserveError, RingError};
pub use layout::{MAX_DATA, UNIT, record_size};
pub use mapped::{Mapped, PAGE, Page};
pub use memory::{Field, Memory};
pub use producer::{Full, Producer, Reservation};

use core::sync::atomic::Ordering;

/// Version of the layout and the protocol; the only one that is understood.
pub const VERSION: u16 = 1;

/// The first bytes of a header page.
pub const MAGIC: [u8; 4] = *b"LLMR";

/// Whether the peer sleeps and must be notified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[must_use = "a peer that sleeps and is not notified sleeps for ever"]
pub enum Wake {
    /// Notify it now.
    Peer,
    /// It is awake, or waits for something else.
    Nobody,
}

impl Wake {
    /// Whether it must be notified.
    #[must_use]
    pub const fn peer(self) -> bool {
        matches!(self, Self::Peer)
    }

    /// The rule of both ends: an index went from `old` to `new`, and the peer wants to hear of `want`.
    const fn crossed(old: u64, want: u64, new: u64) -> Self {
        if old < want && want <= new { Self::Peer } else { Self::Nobody }
    }
}

/// What to do when there is nothing to do: first notify, then sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[must_use = "a peer that sleeps and is not notified sleeps for ever"]
pub struct Wait {
    /// Whether the peer must be notified, as `wait` publishes or releases what was not yet.
    pub wake: Wake,
    /// Whether to sleep until notified. If not, there is something to do by now.
    pub sleep: bool,
}

/// Makes `memory` an empty ring. To be called once, by the end that made the memory, before the
/// peer gets it.
///
/// # Errors
///
/// [`AttachError::DataLen`].
pub fn format<M: Memory>(memory: &M) -> Result<(), AttachError> {
    let data_len = layout::checked_data_len(memory)?;
    for field in Field::ALL {
        memory.store(field, 0, Ordering::Relaxed);
    }
    memory.store(Field::DataLen, data_len, Ordering::Relaxed);
    memory.store(Field::Identity, layout::identity(), Ordering::Release);
    Ok(())
}
