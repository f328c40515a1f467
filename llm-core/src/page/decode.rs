//! Reads page records. Nothing in a record is trusted.

use super::apply::change;
use super::scan::{Features, ask_for};
use super::varint::{self, VarintError};
use super::{Kind, MAX_RECORD, PAGE, Page, PageError, PageReason};

/// Decodes the record at the front of `record` onto `page`, and returns the record's length in bytes.
///
/// On any processor; see [`decode_with`].
///
/// `page` holds the old copy if `have_old`; without it, its content does not matter.
/// What follows the record in `record` does not matter either.
///
/// # Errors
///
/// The record is malformed, or needs an old copy and there is none. Then `page`
/// is as it was: a record is validated whole before any of it is applied.
pub fn decode(record: &[u8], page: &mut Page, have_old: bool) -> Result<usize, PageError> {
    decode_with(Features::PORTABLE, record, page, have_old)
}

/// As [`decode`], by registers and instructions that `features` allow. The page comes out the same, and so does an error.
///
/// # Errors
///
/// As of [`decode`].
#[inline]
pub fn decode_with(
    features: Features,
    record: &[u8],
    page: &mut Page,
    have_old: bool,
) -> Result<usize, PageError> {
    ask_for(page, 1);
    let Split { kind, head, end } = split(record)?;
    if kind.needs_old() && !have_old {
        return Err(PageError::new(0, PageReason::NeedsOld(kind)));
    }
    match kind {
        Kind::Unchanged => {}
        Kind::Zero => page.fill(0),
        Kind::Raw => page.copy_from_slice(record.get(head..end).unwrap_or_default()),
        Kind::Diff | Kind::Sparse => {
            change::<false>(features, record, head, end, page, kind == Kind::Sparse)?;
        }
        Kind::Dense | Kind::DenseSparse => {
            change::<true>(features, record, head, end, page, kind == Kind::DenseSparse)?;
        }
    }
    Ok(end)
}

/// Asks for the start of a page that a record will be decoded onto soon, so that it comes from memory meanwhile. Changes nothing.
pub fn ask_ahead(page: &Page) {
    ask_for(page, AHEAD);
}

/// Lines that are asked for ahead of time: the first eight. The processor guesses the others.
const AHEAD: u64 = 0xff;

/// Length in bytes of the record at the front of `record`, all of which is there.
/// The content of a diff is not checked.
///
/// # Errors
///
/// No record of a known kind starts here, or it is cut short.
pub fn record_len(record: &[u8]) -> Result<usize, PageError> {
    split(record).map(|split| split.end)
}

/// What is known of a record that is there in full length.
struct Split {
    kind: Kind,
    /// Where the body starts and ends. The end is no more than there are bytes.
    head: usize,
    end: usize,
}

#[inline]
fn split(record: &[u8]) -> Result<Split, PageError> {
    let Some((&byte, rest)) = record.split_first() else {
        return Err(PageError::new(0, PageReason::Truncated { need: 1, have: 0 }));
    };
    let kind = Kind::from_byte(byte).ok_or_else(|| PageError::new(0, PageReason::UnknownKind(byte)))?;
    let (body, head) = match kind {
        Kind::Unchanged | Kind::Zero => (0, 1),
        Kind::Raw => (PAGE, 1),
        Kind::Diff | Kind::Sparse | Kind::Dense | Kind::DenseSparse => {
            let (body, bytes) = length(rest)?;
            (body, 1 + bytes)
        }
    };
    let end = head + body;
    if end > record.len() {
        let have = record.len().saturating_sub(head);
        return Err(PageError::new(head, PageReason::Truncated { need: body, have }));
    }
    Ok(Split { kind, head, end })
}

/// The length of a body, at most that of a page, and how many bytes say it.
#[inline]
fn length(bytes: &[u8]) -> Result<(usize, usize), PageError> {
    match *bytes {
        [low, ..] if low < 0x80 => return Ok((low.into(), 1)),
        [low, high @ 1..0x20, ..] => return Ok((usize::from(low & 0x7f) | usize::from(high) << 7, 2)),
        _ => {}
    }
    let error = |reason| PageError::new(1, reason);
    let (len, taken) = varint::read(bytes).map_err(|e| match e {
        VarintError::Truncated => {
            error(PageReason::Truncated { need: bytes.len().saturating_add(1), have: bytes.len() })
        }
        VarintError::Malformed => error(PageReason::BadLength),
    })?;
    match usize::try_from(len) {
        Ok(len) if len < MAX_RECORD => Ok((len, taken)),
        _ => Err(error(PageReason::BadLength)),
    }
}
