//! The last known copy of each guest page, held alike by both ends of a session.
//!
//! Both ends feed it the same pages in the same order and follow the same rule, so
//! either knows what the other holds: a page is kept if it is held already, or if
//! fewer than the agreed number of pages are held and its number is below [`MAX_PFN`].
//! Pages are never given up.

use super::slab::Slab;
use llm_core::page::{PAGE, Page};
use std::fmt;

/// Page frame numbers from here on (4 TiB) are never kept: bounds the directory to 8 MiB.
pub const MAX_PFN: u64 = 1 << 30;

/// Pages that one allocation holds (2 MiB).
const SLAB: usize = Slab::PAGES;
/// Page numbers that one leaf of the directory maps to slots.
const LEAF: usize = 1024;
const NONE: u32 = u32::MAX;

/// Copies of guest pages by page frame number.
///
/// Memory: 4 KiB per page held, in steps of 2 MiB; 4 KiB per 4 MiB of guest-physical
/// space that has a page held; 8 bytes per 4 MiB up to the highest page held.
pub struct Shadow {
    limit: u32,
    held: u32,
    directory: Vec<Option<Box<[u32; LEAF]>>>,
    leaves: usize,
    slabs: Vec<Slab>,
}

impl Shadow {
    /// A shadow that will hold at most `limit` pages.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        // One number is taken to mean "not held".
        Self { limit: limit.min(NONE - 1), held: 0, directory: Vec::new(), leaves: 0, slabs: Vec::new() }
    }

    /// Pages held.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.held
    }

    /// Most pages that will be held.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Bytes of memory in use.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.slabs.len() * SLAB * PAGE + self.leaves * LEAF * 4 + self.directory.len() * 8
    }

    /// The copy of page `pfn`, if held.
    #[must_use]
    pub fn get(&self, pfn: u64) -> Option<&Page> {
        let slot = self.slot(pfn)?;
        self.slabs.get(slot / SLAB)?.get(slot % SLAB)
    }

    /// The copy of page `pfn`, to be changed in place, if held.
    #[must_use]
    pub fn get_mut(&mut self, pfn: u64) -> Option<&mut Page> {
        let slot = self.slot(pfn)?;
        self.slabs.get_mut(slot / SLAB)?.get_mut(slot % SLAB)
    }

    /// Whether [`Self::insert`] would find or make room for page `pfn`.
    #[must_use]
    pub fn keeps(&self, pfn: u64) -> bool {
        (self.held < self.limit && pfn < MAX_PFN) || self.slot(pfn).is_some()
    }

    /// The copy of page `pfn`; one of zeros if it was not held and there is room for
    /// it, `None` if there is none.
    pub fn insert(&mut self, pfn: u64) -> Option<&mut Page> {
        self.entry(pfn).map(|(page, _)| page)
    }

    /// As [`Self::insert`], and whether the copy was held.
    pub fn entry(&mut self, pfn: u64) -> Option<(&mut Page, bool)> {
        let (slot, held) = match self.slot(pfn) {
            Some(slot) => (slot, true),
            None if self.held >= self.limit || pfn >= MAX_PFN => return None,
            None => (self.add(usize::try_from(pfn).ok()?)?, false),
        };
        Some((self.slabs.get_mut(slot / SLAB)?.get_mut(slot % SLAB)?, held))
    }

    /// Replaces or adds the copy of page `pfn`; false if it is not kept.
    pub fn update(&mut self, pfn: u64, page: &Page) -> bool {
        self.insert(pfn).map(|copy| *copy = *page).is_some()
    }

    fn slot(&self, pfn: u64) -> Option<usize> {
        let pfn = usize::try_from(pfn).ok()?;
        let leaf = self.directory.get(pfn / LEAF)?.as_deref()?;
        leaf.get(pfn % LEAF).filter(|&&slot| slot != NONE).map(|&slot| slot as usize)
    }

    /// Gives a page that is not held the next slot.
    fn add(&mut self, pfn: usize) -> Option<usize> {
        if self.directory.len() <= pfn / LEAF {
            self.directory.resize_with(pfn / LEAF + 1, || None);
        }
        let (slot, leaves) = (self.held, &mut self.leaves);
        let leaf = self.directory.get_mut(pfn / LEAF)?.get_or_insert_with(|| {
            *leaves += 1;
            Box::new([NONE; LEAF])
        });
        *leaf.get_mut(pfn % LEAF)? = slot;
        self.held += 1;
        let slot = slot as usize;
        if slot / SLAB == self.slabs.len() {
            self.slabs.push(Slab::new());
        }
        Some(slot)
    }
}

impl fmt::Debug for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadow").field("held", &self.held).field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn keeps_what_it_holds_and_refuses_what_is_beyond() {
        let mut shadow = Shadow::new(2);
        assert!(shadow.update(7, &[7; PAGE]));
        assert!(shadow.update(0xf_effc, &[8; PAGE]));
        assert!(!shadow.update(9, &[9; PAGE]));
        assert!(!shadow.keeps(9));
        assert!(shadow.keeps(7));
        assert!(shadow.update(7, &[1; PAGE]));
        assert_eq!(shadow.get(7), Some(&[1; PAGE]));
        assert_eq!(shadow.get(0xf_effc), Some(&[8; PAGE]));
        assert_eq!(shadow.get(9), None);
        assert_eq!(shadow.held(), 2);
    }

    #[test]
    fn a_far_page_number_costs_no_memory() {
        let mut shadow = Shadow::new(u32::MAX);
        assert!(!shadow.update(MAX_PFN, &[1; PAGE]));
        assert!(!shadow.update(u64::MAX, &[1; PAGE]));
        assert_eq!(shadow.memory(), 0);
        assert!(shadow.update(MAX_PFN - 1, &[1; PAGE]));
        assert!(shadow.memory() < 11 << 20, "{}", shadow.memory());
    }

    #[test]
    fn memory_is_told() {
        let mut shadow = Shadow::new(1000);
        for pfn in 0..600_u64 {
            assert!(shadow.update(pfn, &[pfn as u8; PAGE]));
        }
        assert_eq!(shadow.memory(), 2 * SLAB * PAGE + LEAF * 4 + 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_a_map(limit in 0_u32..700, pages in prop::collection::vec((0_u64..5000, any::<u8>()), 0..1500)) {
            let mut shadow = Shadow::new(limit);
            let mut map = HashMap::new();
            for (pfn, byte) in pages {
                let room = map.contains_key(&pfn) || map.len() < limit as usize;
                prop_assert_eq!(shadow.keeps(pfn), room);
                prop_assert_eq!(shadow.update(pfn, &[byte; PAGE]), room);
                if room {
                    map.insert(pfn, byte);
                }
            }
            prop_assert_eq!(shadow.held() as usize, map.len());
            for pfn in 0..5000 {
                prop_assert_eq!(shadow.get(pfn).map(|page| page[0]), map.get(&pfn).copied());
            }
        }
    }
}
