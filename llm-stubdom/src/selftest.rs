//! Proof at boot that llm-core works in this domain: a page is encoded against an old
//! copy, sent through a frame, and decoded onto another copy; both ends must agree on
//! its digest.

use core::fmt;
use heapless::Vec;
use llm_core::checksum::digest;
use llm_core::frame::{self, FrameError, HEADER, Parser};
use llm_core::page::{self, Kind, MAX_RECORD, PAGE, Page, PageError};

/// Bytes of a frame that holds the longest record.
const MAX_FRAME: usize = HEADER + MAX_RECORD;

/// Bytes that reach the parser at once: no divisor of a header's length.
const PIECE: usize = 7;

/// What the frame is numbered.
const SEQ: u64 = 1;

/// Bytes that the test page differs from its old copy in.
const CHANGED: [usize; 6] = [0, 1000, 1001, 1002, 2048, PAGE - 1];

/// What the self-test did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    record_bytes: usize,
    frame_bytes: usize,
    digest: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { record_bytes, frame_bytes, digest } = self;
        write!(f, "page {PAGE} bytes -> diff {record_bytes} bytes -> frame {frame_bytes} bytes")?;
        write!(f, " -> page {PAGE} bytes, digest {digest:016x} equal")
    }
}

/// What the self-test found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A page with a few changes was not encoded as a diff.
    NotADiff(Kind),
    /// The parser refused the frame.
    BadFrame(FrameError),
    /// The parser did not give back the frame that was written.
    NoFrame,
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
            Self::BadFrame(error) => write!(f, "the frame was refused: {error}"),
            Self::NoFrame => f.write_str("the parser did not give back the frame"),
            Self::Refused(error) => write!(f, "the record was refused: {error}"),
            Self::Length { record, taken } => write!(f, "{taken} bytes of a record of {record} were decoded"),
            Self::Digest { sent, got } => {
                write!(f, "digest {sent:016x} was encoded, but {got:016x} decoded")
            }
        }
    }
}

impl core::error::Error for Failure {}

/// Sends a page from one old copy to another. With `corrupt`, a byte of the decoded page is flipped
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

    let (record, _) = record.split_at(encoded.len);
    let header = frame::encode_header(frame::Kind::BATCH, 0, SEQ, record);
    let stream: Vec<u8, MAX_FRAME> = header.iter().chain(record).copied().collect();

    let mut parser = Parser::new([0; MAX_FRAME], MAX_RECORD).map_err(|_| Failure::NoFrame)?;
    let mut copy = old;
    let taken = decode_stream(&mut parser, &stream, &mut copy)?;
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
    Ok(Report { record_bytes: encoded.len, frame_bytes: stream.len(), digest: sent })
}

/// Feeds `stream` to the parser piece by piece and decodes the one frame in it onto
/// `copy`. Returns the bytes of the record.
fn decode_stream(
    parser: &mut Parser<[u8; MAX_FRAME]>,
    stream: &[u8],
    copy: &mut Page,
) -> Result<usize, Failure> {
    for mut piece in stream.chunks(PIECE) {
        parser.push(&mut piece);
        if let Some(frame) = parser.next_frame().map_err(Failure::BadFrame)? {
            if (frame.kind, frame.seq) != (frame::Kind::BATCH, SEQ) {
                return Err(Failure::NoFrame);
            }
            return page::decode(frame.payload, copy, true).map_err(Failure::Refused);
        }
    }
    Err(Failure::NoFrame)
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
    fn a_damaged_or_short_stream_is_refused() {
        let old = pattern();
        let mut record = [0; MAX_RECORD];
        let encoded = page::encode(None, &old, &mut record);
        let record = &record[..encoded.len];
        let mut stream = frame::encode_header(frame::Kind::BATCH, 0, SEQ, record).to_vec();
        stream.extend_from_slice(record);
        let decode = |stream: &[u8]| {
            decode_stream(&mut Parser::new([0; MAX_FRAME], MAX_RECORD).unwrap(), stream, &mut [0; PAGE])
        };
        assert_eq!(decode(&stream), Ok(encoded.len));
        assert_eq!(decode(&stream[..stream.len() - 1]), Err(Failure::NoFrame));
        *stream.last_mut().unwrap() ^= 1;
        assert!(matches!(decode(&stream), Err(Failure::BadFrame(_))));
    }

    #[test]
    fn finds_a_single_flipped_bit() {
        let failure = run(true).unwrap_err();
        assert!(matches!(failure, Failure::Digest { .. }), "{failure}");
    }
}
