//! Which pages the backup holds, without their content.

use super::shadow::MAX_PFN;

/// Numbers of the pages that are kept, by the rule of [`Shadow`](super::shadow::Shadow).
///
/// Memory: a bit for each page up to the highest that is kept.
#[derive(Debug)]
pub struct Held {
    bits: Vec<u64>,
    count: u32,
    limit: u32,
}

impl Held {
    /// No pages, and at most `limit` later.
    #[must_use]
    pub const fn new(limit: u32) -> Self {
        Self { bits: Vec::new(), count: 0, limit }
    }

    /// Whether page `pfn` is kept from here on: it was, or there is room for it.
    pub fn insert(&mut self, pfn: u64) -> bool {
        if pfn >= MAX_PFN {
            return false;
        }
        let (at, bit) = ((pfn / 64) as usize, 1 << (pfn % 64));
        let held = self.bits.get(at).is_some_and(|word| word & bit != 0);
        if held || self.count >= self.limit {
            return held;
        }
        if self.bits.len() <= at {
            self.bits.resize(at + 1, 0);
        }
        if let Some(word) = self.bits.get_mut(at) {
            *word |= bit;
        }
        self.count += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::shadow::Shadow;
    use super::*;
    use llm_core::page::PAGE;

    #[test]
    fn follows_the_rule_of_the_copies() {
        for limit in [0, 5, 100] {
            let (mut held, mut shadow) = (Held::new(limit), Shadow::new(limit));
            for i in 0..400_u64 {
                let pfn = [i * 7 % 60, MAX_PFN + i, MAX_PFN - 1 - i % 3][(i % 5).min(2) as usize];
                assert_eq!(held.insert(pfn), shadow.update(pfn, &[0; PAGE]), "{pfn} of {limit}");
            }
            assert_eq!(held.count, shadow.held());
        }
    }
}
