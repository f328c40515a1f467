//! This domain's grant table, version 1: which pages which domain may map.
//!
//! Source: xen/include/public/grant_table.h. The first eight references are reserved.

use crate::abi::PAGE;
use crate::shared::Shared;
use core::fmt;

/// The number of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ref(pub u32);

/// Bytes of an entry: flags and domain, each two bytes, and the frame, four bytes.
const ENTRY: usize = 8;
/// Entries of the one frame that the table has.
const ENTRIES: usize = PAGE / ENTRY;
/// References that are reserved for the toolstack.
const RESERVED: usize = 8;

/// `GTF_permit_access`.
const PERMIT: u32 = 1;
/// `GTF_reading`, `GTF_writing`: the peer has mapped it.
const IN_USE: u32 = 0b11 << 3;

/// Why a page was not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// So many references in a row are not free.
    Full,
    /// The frame's number does not fit into an entry of version 1.
    Frame(u64),
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("Grant table is full"),
            Self::Frame(frame) => write!(f, "Frame {frame:#x} cannot be granted: its number is too large"),
        }
    }
}

impl core::error::Error for GrantError {}

/// The grant table of one frame: 504 references.
#[derive(Debug)]
pub struct Grants<S> {
    table: S,
    used: [bool; ENTRIES],
}

impl<S: Shared> Grants<S> {
    /// The table in `table`, with nothing granted.
    pub const fn new(table: S) -> Self {
        Self { table, used: [false; ENTRIES] }
    }

    /// Grants domain `domid` reading and writing of each of `frames`, by references that follow each other; returns
    /// the first.
    ///
    /// # Errors
    /// [`GrantError`]; nothing is granted then.
    pub fn grant<I>(&mut self, domid: u16, frames: I) -> Result<Ref, GrantError>
    where
        I: IntoIterator<Item = u64> + Clone,
    {
        let mut count = 0;
        for frame in frames.clone() {
            u32::try_from(frame).map_err(|_| GrantError::Frame(frame))?;
            count += 1;
        }
        let first = self.free_row(count).ok_or(GrantError::Full)?;
        let entries = self.used.iter_mut().enumerate().skip(first);
        for ((index, used), frame) in entries.zip(frames) {
            // Xen must not see the flags before domain and frame.
            self.table.store32(index * ENTRY + 4, frame as u32);
            self.table.store32(index * ENTRY, u32::from(domid) << 16 | PERMIT);
            *used = true;
        }
        Ok(Ref(first as u32))
    }

    /// Takes `count` grants from `first` on back, as far as the peer has not mapped them; true if all are back.
    /// Those that are not stay granted: ask again later.
    pub fn end(&mut self, first: Ref, count: usize) -> bool {
        let first = first.0 as usize;
        let mut all = true;
        for (index, used) in self.used.iter_mut().enumerate().skip(first.max(RESERVED)).take(count) {
            if *used {
                let at = index * ENTRY;
                let word = self.table.load32(at);
                // Xen sets a bit when the peer maps; a map between the two lines makes the second one fail.
                let ended = word & IN_USE == 0 && self.table.replace32(at, word, 0);
                *used = !ended;
                all &= ended;
            }
        }
        all
    }

    fn free_row(&self, count: usize) -> Option<usize> {
        let mut start = RESERVED;
        for (index, used) in self.used.iter().enumerate().skip(RESERVED) {
            if index - start == count {
                return Some(start);
            }
            if *used {
                start = index + 1;
            }
        }
        (ENTRIES - start >= count).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::TestPage;

    fn entry(page: &TestPage, reference: u32) -> (u32, u32) {
        let at = reference as usize * ENTRY;
        (page.load32(at), page.load32(at + 4))
    }

    #[test]
    fn references_follow_each_other_behind_the_reserved_ones() {
        let page = TestPage::new();
        let mut grants = Grants::new(page.clone());
        assert_eq!(grants.grant(0, [5, 6]), Ok(Ref(8)));
        assert_eq!(grants.grant(7, [9]), Ok(Ref(10)));
        assert_eq!([entry(&page, 7), entry(&page, 8), entry(&page, 9)], [(0, 0), (1, 5), (1, 6)]);
        assert_eq!(entry(&page, 10), (7 << 16 | 1, 9));
        assert!(grants.end(Ref(8), 2));
        assert_eq!(entry(&page, 8).0, 0);
        assert_eq!(grants.grant(0, [1, 2, 3]), Ok(Ref(11)), "the hole of two is too small");
        assert_eq!(grants.grant(0, [1, 2]), Ok(Ref(8)));
    }

    #[test]
    fn a_mapped_page_stays_granted() {
        let page = TestPage::new();
        let mut grants = Grants::new(page.clone());
        let first = grants.grant(0, [5, 6]).unwrap();
        page.store32(9 * ENTRY, PERMIT | 1 << 4);
        assert!(!grants.end(first, 2));
        assert_eq!([entry(&page, 8).0, entry(&page, 9).0], [0, PERMIT | 1 << 4]);
        assert_eq!(grants.grant(0, [7, 8]), Ok(Ref(10)));
        page.store32(9 * ENTRY, PERMIT);
        assert!(grants.end(first, 2));
    }

    #[test]
    fn a_full_table_and_a_far_frame_are_refused_whole() {
        let page = TestPage::new();
        let mut grants = Grants::new(page.clone());
        let all = ENTRIES - RESERVED;
        assert_eq!(grants.grant(0, 0..all as u64 + 1), Err(GrantError::Full));
        assert_eq!(grants.grant(0, [1, 1 << 32]), Err(GrantError::Frame(1 << 32)));
        assert_eq!(entry(&page, 8), (0, 0));
        assert_eq!(grants.grant(0, 0..all as u64), Ok(Ref(8)));
        assert_eq!(grants.grant(0, [1]), Err(GrantError::Full));
    }
}
