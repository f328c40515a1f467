//! Proof at boot that llm-core works in this domain: a page is encoded against an
//! old copy, decoded onto another, and both ends must agree on its digest.

use core::fmt;
use llm_core::checksum::digest;
use llm_core::page::{self, Kind, MAX_RECORD, PAGE, Page, PageError};

/// Bytes that the test page differs from its old copy in.
const CHANGED: [usize; 6] = [0, 1000, 1001, 1002, 2048, PAGE - 1];

/// What the self-test did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    record_bytes: usize,
    digest: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { record_bytes, digest } = self;
        write!(
            f,
            "page {PAGE} bytes -> diff {record_bytes} bytes -> {PAGE} bytes, digest {digest:016x} equal"
        )
    }
}

/// What the self-test found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A page with a few changes was not encoded as a diff.
    NotADiff(Kind),
    /// The decoder refused the record.
    Refused(PageError),
    /// The decoder took more or less than the record.
    Length {
        /// Bytes of the record.
        record: usize,
        /// Bytes the decoder took.
        taken: usize,
    },
    /// The decoded page is another one.
    Digest {
        /// Of the page that was encoded.
        sent: u64,
        /// Of the page that came out.
        got: u64,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADiff(kind) => write!(f, "the page was encoded as {kind:?}, not as a diff"),
            Self::Refused(error) => write!(f, "the record was refused: {error}"),
            Self::Length { record, taken } => write!(f, "{taken} bytes of a record of {record} were decoded"),
            Self::Digest { sent, got } => {
                write!(f, "digest {sent:016x} was encoded, but {got:016x} decoded")
            }
        }
    }
}

impl core::error::Error for Failure {}

/// Encodes and decodes a page. With `corrupt`, a byte of the decoded page is flipped
/// before the digests are compared, so that the test must fail.
///
/// # Errors
/// [`Failure`] names the first step that went wrong.
pub fn run(corrupt: bool) -> Result<Report, Failure> {
    let old = pattern();
    let mut new = old;
    for at in CHANGED {
        new[at] = !new[at];
    }
    let mut record = [0; MAX_RECORD];
    let encoded = page::encode(Some(&old), &new, &mut record);
    if encoded.kind != Kind::Diff {
        return Err(Failure::NotADiff(encoded.kind));
    }

    let mut copy = old;
    let (record, _) = record.split_at(encoded.len);
    let taken = page::decode(record, &mut copy, true).map_err(Failure::Refused)?;
    if taken != encoded.len {
        return Err(Failure::Length { record: encoded.len, taken });
    }
    if corrupt {
        copy[PAGE / 2] ^= 1;
    }
    let (sent, got) = (digest(&new), digest(&copy));
    if sent != got {
        return Err(Failure::Digest { sent, got });
    }
    Ok(Report { record_bytes: encoded.len, digest: sent })
}

/// A page of noise, the same at every boot.
fn pattern() -> Page {
    let mut state = 1_u32;
    core::array::from_fn(|_| {
        // Numerical Recipes' linear congruential generator; its high byte is its best.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn passes_and_reports_a_record_shorter_than_the_page() {
        let report = run(false).unwrap();
        assert!((CHANGED.len()..PAGE / 8).contains(&report.record_bytes), "{report}");
        assert!(report.to_string().starts_with("page 4096 bytes -> diff "), "{report}");
    }

    #[test]
    fn finds_a_single_flipped_bit() {
        let failure = run(true).unwrap_err();
        assert!(matches!(failure, Failure::Digest { .. }), "{failure}");
    }
}
