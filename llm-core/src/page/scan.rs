//! Finds what changed between two versions of a page.
//!
//! The portable version is the reference. A version for wider registers goes
//! into a file of its own beside it and must return equal [`Changes`].

mod portable;

use super::{LINES, Page};

/// Where two versions of a page differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Changes {
    /// Lines that differ: bit n of byte g is line 8g + n.
    pub(super) lines: [u8; LINES / 8],
    /// For each line that differs, its words that do; unspecified for other lines.
    pub(super) words: [u8; LINES],
}

impl Changes {
    /// Whether the two versions are equal.
    pub(super) fn is_empty(&self) -> bool {
        u64::from_ne_bytes(self.lines) == 0
    }
}

/// Compares two versions of a page.
pub(super) fn scan(old: &Page, new: &Page) -> Changes {
    portable::scan(old, new)
}

/// Whether every byte of the page is zero.
pub(super) fn is_zero(page: &Page) -> bool {
    portable::is_zero(page)
}
