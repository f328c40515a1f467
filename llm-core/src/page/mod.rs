//! Diff codec for 4 KiB pages: scan, encode, decode, and batches of encoded pages.
//!
//! A *page record* carries one page, against the copy that the receiver holds
//! already or against nothing. It is a kind byte and what that [`Kind`] needs;
//! the bytes are specified in `docs/wire-format.md`.
//!
//! ```
//! use llm_core::page::{self, Kind, MAX_RECORD, PAGE};
//!
//! let old = [7; PAGE];
//! let mut new = old;
//! new[100] = 8;
//! let mut record = [0; MAX_RECORD];
//! let encoded = page::encode(Some(&old), &new, &mut record);
//! assert_eq!(encoded.kind, Kind::Diff);
//!
//! let mut copy = old;
//! assert_eq!(page::decode(&record, &mut copy, true), Ok(encoded.len));
//! assert_eq!(copy, new);
//! ```

mod apply;
pub mod batch;
mod decode;
mod encode;
mod error;
mod scan;
mod sections;
mod table;
mod varint;

#[cfg(test)]
pub(crate) mod vectors;

#[cfg(test)]
mod tests;

pub use decode::{ask_ahead, decode, decode_with, record_len};
pub use encode::{Encoder, encode};
pub use error::{PageError, PageReason};
pub use scan::Features;

/// Bytes in a page.
pub const PAGE: usize = 4096;

/// The content of one page.
pub type Page = [u8; PAGE];

/// Bytes of the longest record: a kind byte and the page itself.
pub const MAX_RECORD: usize = 1 + PAGE;

/// Bytes of a line, the unit in which a diff first looks for changes.
const LINE: usize = 64;
/// Lines in a page.
const LINES: usize = PAGE / LINE;
/// Words of eight bytes in a page.
const WORDS: usize = PAGE / 8;

/// How a record carries its page. The number is the record's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// The page equals the old copy.
    Unchanged = 0,
    /// All 4096 bytes are zero.
    Zero = 1,
    /// Changes to the old copy.
    Diff = 2,
    /// The 4096 bytes as they are.
    Raw = 3,
    /// Changes to a page of zeros: needs no old copy.
    Sparse = 4,
    /// Changes to the old copy, by an encoder set to [`Density::Dense`].
    Dense = 5,
    /// Changes to a page of zeros, by an encoder set to [`Density::Dense`].
    DenseSparse = 6,
}

impl Kind {
    /// Number of kinds; `kind as usize` is below it.
    pub const COUNT: usize = 7;

    /// The kind that a record starting with `byte` has; `None` if there is no such kind.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Unchanged,
            1 => Self::Zero,
            2 => Self::Diff,
            3 => Self::Raw,
            4 => Self::Sparse,
            5 => Self::Dense,
            6 => Self::DenseSparse,
            _ => return None,
        })
    }

    /// Whether the record means nothing without the old copy of its page.
    #[must_use]
    pub const fn needs_old(self) -> bool {
        matches!(self, Self::Unchanged | Self::Diff | Self::Dense)
    }
}

/// How much work an encoder spends on short records. The decoder takes all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Density {
    /// As fast as can be.
    #[default]
    Fast,
    /// Words may refer to equal ones before them in the page: an eighth less bytes, and half as much time again, for
    /// dirty pages of the guests that were measured.
    Dense,
}

/// The pair that will be encoded next: worth telling where pages have gaps between them.
#[derive(Clone, Copy, Debug)]
pub struct Next<'a> {
    /// The old copy, if there is one.
    pub old: Option<&'a Page>,
    /// The new page.
    pub new: &'a Page,
}

/// What [`encode`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Encoded {
    /// How the page is carried.
    pub kind: Kind,
    /// Bytes of the record, from the start of the buffer: 1 to [`MAX_RECORD`].
    pub len: usize,
}

static ZEROS: Page = [0; PAGE];
