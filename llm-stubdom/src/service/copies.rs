//! The committed copy of each page of the guest, by page number, in memory that is given once.
//!
//! A tree of three levels over the pages themselves: each node is a page of 1024 numbers of pages. The rule is that of
//! the copies in Dom0: a page is kept if it is held already, or if there is room and its number is below [`MAX_PFN`].
//! Pages are never given up.

use llm_core::page;
use llm_core::ring::Page;

/// Page numbers from here on (4 TiB) are never kept.
pub const MAX_PFN: u64 = 1 << (LEVELS * BITS);

const LEVELS: u32 = 3;
/// Bits of a page number that a level decides.
const BITS: u32 = 10;
/// Bytes of a number in a node.
const NUMBER: usize = size_of::<u32>();
/// The root, which no node points to: stands for "not there".
const ROOT: u32 = 0;

/// Copies of guest pages.
#[derive(Debug)]
pub struct Copies<'a> {
    pages: &'a mut [Page],
    /// Pages in use, nodes among them.
    used: u32,
    /// Copies among them, and how many there may be.
    held: u32,
    limit: u32,
}

impl<'a> Copies<'a> {
    /// No copies yet, and `pages` for them and for the nodes to find them: one node for each 1024 copies
    /// if their numbers are dense.
    #[must_use]
    pub fn new(pages: &'a mut [Page]) -> Self {
        let mut copies = Self { pages, used: 0, held: 0, limit: 0 };
        copies.clear(u32::MAX);
        copies
    }

    /// Forgets all copies, and holds at most `limit` from here on.
    pub fn clear(&mut self, limit: u32) {
        (self.used, self.held, self.limit) = (0, 0, limit);
        self.add();
    }

    /// Copies held.
    #[must_use]
    pub const fn held(&self) -> u32 {
        self.held
    }

    /// Copies that there is room for, in all, if page numbers are dense.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        // The root, a node of the second level for each 4 GiB, one of the third for each 4 MiB.
        let pages = self.pages.len().saturating_sub(2);
        pages - pages.div_ceil(1 << BITS) - pages.div_ceil(1 << (2 * BITS))
    }

    /// The copy of page `pfn`, if held.
    #[must_use]
    pub fn get(&self, pfn: u64) -> Option<&page::Page> {
        self.slot(pfn).map(|slot| &self.pages[slot as usize].0)
    }

    /// The copy of page `pfn`: one of zeros if it was not held and there is room, `None` if there is none. The flag
    /// says whether it was held.
    pub fn insert(&mut self, pfn: u64) -> Option<(&mut page::Page, bool)> {
        if pfn >= MAX_PFN {
            return None;
        }
        let mut at = ROOT;
        let mut held = true;
        // So that nothing is changed if there is no room for all of the path.
        let free = match self.limit.saturating_sub(self.held) {
            0 => 0,
            _ => self.pages.len() - self.used as usize,
        };
        for level in (0..LEVELS).rev() {
            let mut next = self.number(at, pfn, level);
            if next == ROOT {
                if held && free <= level as usize {
                    return None;
                }
                held = false;
                next = self.add()?;
                self.set_number(at, pfn, level, next);
            }
            at = next;
        }
        self.held += u32::from(!held);
        Some((&mut self.pages[at as usize].0, held))
    }

    fn slot(&self, pfn: u64) -> Option<u32> {
        if pfn >= MAX_PFN || self.used == 0 {
            return None;
        }
        let mut at = ROOT;
        for level in (0..LEVELS).rev() {
            at = Some(self.number(at, pfn, level)).filter(|next| *next != ROOT)?;
        }
        Some(at)
    }

    /// Takes the next free page, and fills it with zeros.
    fn add(&mut self) -> Option<u32> {
        let slot = self.used;
        self.pages.get_mut(slot as usize)?.0.fill(0);
        self.used += 1;
        Some(slot)
    }

    fn number(&self, node: u32, pfn: u64, level: u32) -> u32 {
        let place = place(pfn, level);
        let node = self.pages.get(node as usize).map(|page| &page.0);
        let bytes = node.and_then(|node| node.get(place..place + NUMBER)?.first_chunk());
        bytes.map_or(ROOT, |bytes| u32::from_le_bytes(*bytes))
    }

    fn set_number(&mut self, node: u32, pfn: u64, level: u32, number: u32) {
        let place = place(pfn, level);
        self.pages[node as usize].0[place..place + NUMBER].copy_from_slice(&number.to_le_bytes());
    }
}

/// Where a node of this level has its number for page `pfn`.
fn place(pfn: u64, level: u32) -> usize {
    let index = pfn >> (level * BITS) & ((1 << BITS) - 1);
    index as usize * NUMBER
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::collections::BTreeMap;
    use std::vec;

    #[test]
    fn equals_a_map_until_it_is_full() {
        let mut random = Random::new(1);
        for _ in 0..20 {
            // Left over from others.
            let mut pages = vec![Page([0xff; 4096]); random.below(300) as usize];
            let room = pages.len();
            let mut copies = Copies::new(&mut pages);
            let mut map = BTreeMap::new();
            let spread = [400, 5000, MAX_PFN][random.below(3) as usize];
            for _ in 0..600 {
                let pfn = random.below(spread);
                let byte = random.next() as u8;
                match copies.insert(pfn) {
                    Some((copy, held)) => {
                        assert_eq!(held, map.contains_key(&pfn));
                        assert!(held || copy.iter().all(|byte| *byte == 0), "a new copy is zero");
                        copy.fill(byte);
                        map.insert(pfn, byte);
                    }
                    None => assert!(!map.contains_key(&pfn), "what is held is kept"),
                }
                assert_eq!(copies.held() as usize, map.len());
            }
            for pfn in map.keys().copied().chain(0..400) {
                assert_eq!(copies.get(pfn).map(|page| page[9]), map.get(&pfn).copied());
            }
            assert!(map.len() < room.max(1));
            if spread == 400 && room > 0 {
                assert!(map.len() >= copies.capacity().min(300) - copies.capacity() / 8, "{room}");
            }
            copies.clear(0);
            assert_eq!((copies.held(), copies.get(1)), (0, None));
            assert!(copies.insert(1).is_none(), "no more than the limit");
        }
    }

    #[test]
    fn what_cannot_be_kept_changes_nothing() {
        let mut pages = vec![Page::ZERO; 6];
        let mut copies = Copies::new(&mut pages);
        assert_eq!(copies.capacity(), 2);
        assert!(copies.insert(MAX_PFN).is_none());
        assert!(copies.get(u64::MAX).is_none());
        assert!(copies.insert(7).is_some());
        // Another leaf would fit, but not its copy as well as two nodes.
        assert!(copies.insert(1 << 20).is_none());
        assert!(copies.insert(8).is_some() && copies.insert(9).is_some());
        assert!(copies.insert(10).is_none());
        assert_eq!(copies.held(), 3);
        assert!(Copies::new(&mut []).insert(0).is_none());
    }
}
