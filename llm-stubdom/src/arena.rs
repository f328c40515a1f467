//! The memory that is left when the kernel is loaded, as pages. It is shared out once, at boot; nothing is ever
//! given back.

use llm_core::page::PAGE;
use llm_core::ring::Page;
use zerocopy::IntoBytes;

/// Pages that nobody has yet. What they hold is left over from others.
#[derive(Debug)]
pub struct Arena {
    rest: &'static mut [Page],
}

impl Arena {
    /// All of `pages`.
    #[must_use]
    pub const fn new(pages: &'static mut [Page]) -> Self {
        Self { rest: pages }
    }

    /// Pages left.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    /// Takes `count` pages; `None` if so many are not left.
    pub fn take(&mut self, count: usize) -> Option<&'static mut [Page]> {
        if count > self.rest.len() {
            return None;
        }
        let (taken, rest) = core::mem::take(&mut self.rest).split_at_mut(count);
        self.rest = rest;
        Some(taken)
    }

    /// Takes pages for `count` bytes.
    pub fn take_bytes(&mut self, count: usize) -> Option<&'static mut [u8]> {
        Some(self.take(count.div_ceil(PAGE))?.as_mut_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{boxed::Box, vec};

    #[test]
    fn every_page_is_given_once() {
        let mut arena = Arena::new(Box::leak(vec![Page::ZERO; 5].into_boxed_slice()));
        let two = arena.take(2).unwrap();
        let bytes = arena.take_bytes(4097).unwrap();
        assert_eq!((two.len(), bytes.len(), arena.left()), (2, 8192, 1));
        assert!(arena.take(2).is_none());
        assert_eq!(arena.take(1).unwrap().len(), 1);
        assert_eq!(arena.take(0).unwrap().len(), 0);
    }
}
