//! Pages of this domain that become rings.

use crate::abi::PAGE;
use core::ops::Range;
use core::ptr::NonNull;
use llm_core::ring::{Mapped, Page};

/// A header page and data pages, given up to be shared.
#[derive(Debug)]
pub struct RingPages {
    header: NonNull<Page>,
    data: NonNull<Page>,
    /// Data pages.
    count: usize,
}

impl RingPages {
    /// Gives `pages` up: filled with zeros, as what they held is nobody else's business. `None` for less than two.
    #[must_use]
    pub fn new(pages: &'static mut [Page]) -> Option<Self> {
        pages.fill(Page::ZERO);
        let (header, data) = pages.split_first_mut()?;
        let count = data.len();
        let (header, data) = (NonNull::from(header), NonNull::from(data).cast());
        (count > 0).then_some(Self { header, data, count })
    }

    /// Data pages.
    #[must_use]
    pub const fn data_pages(&self) -> usize {
        self.count
    }

    /// Numbers of the pages, the header page first. They follow each other, as virtual addresses are
    /// pseudo-physical ones.
    #[must_use]
    pub fn pages(&self) -> Range<usize> {
        let first = self.header.addr().get() / PAGE;
        first..first + 1 + self.count
    }

    /// The memory as a ring.
    #[must_use]
    pub const fn memory(&self) -> Mapped<()> {
        // SAFETY:
        // - The pages were given up for ever, one behind the other, so they stay valid and no reference to them exists.
        // - All values made here are used by the one thread that there is, as ends of the same ring.
        unsafe { Mapped::new(self.header, self.data, self.count, false, ()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_core::ring::{Consumer, Producer, format};
    use std::{boxed::Box, vec};

    fn leak(count: usize) -> &'static mut [Page] {
        Box::leak(vec![Page([7; PAGE]); count].into_boxed_slice())
    }

    #[test]
    fn two_ends_meet_in_the_same_pages() {
        assert!(RingPages::new(leak(1)).is_none());
        let ring = RingPages::new(leak(3)).unwrap();
        assert_eq!((ring.pages().len(), ring.data_pages()), (3, 2));
        format(&ring.memory()).unwrap();
        let mut producer = Producer::attach(ring.memory(), 100).unwrap();
        let mut consumer = Consumer::attach(ring.memory(), 100).unwrap();
        let mut record = producer.reserve(5).unwrap().unwrap();
        record.write_at(0, b"hello").unwrap();
        record.commit();
        let _ = producer.publish();
        let mut copy = [0; 5];
        assert!(consumer.next().unwrap().unwrap().copy_to(&mut copy).is_some());
        assert_eq!(&copy, b"hello");
    }
}
