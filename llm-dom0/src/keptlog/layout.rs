//! The header, byte by byte: a fixed part, then the name of the domain.

use std::time::{Duration, UNIX_EPOCH};

use llm_core::checksum::Digest;
use llm_core::replication::Hello;
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Header, KeptLogError};

/// The first bytes of every kept log.
const MAGIC: [u8; 4] = *b"LLMK";
/// The version that this program writes and reads.
const VERSION: u16 = 1;
/// Bytes of the fixed part.
pub(super) const FIXED: usize = size_of::<Layout>();

/// The fixed part.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Layout {
    magic: [u8; 4],
    version: U16,
    name_len: U16,
    session: U64,
    committed: U64,
    kept_ns: U64,
    /// Digest of all before it, and of the name.
    check: U64,
}

const _: () = assert!(FIXED == 40);

fn bad(offset: u64, reason: &'static str) -> KeptLogError {
    KeptLogError::Header { offset, reason }
}

impl Layout {
    fn digest(&self, name: &[u8]) -> u64 {
        let mut digest = Digest::new();
        digest.update(&self.as_bytes()[..FIXED - size_of::<U64>()]);
        digest.update(name);
        digest.value()
    }

    /// Takes the fixed part, which may be cut short.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, KeptLogError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(bad(0, "no kept log starts like this"));
        }
        let (layout, _) = Self::read_from_prefix(bytes)
            .map_err(|_| bad(bytes.len() as u64, "the file ends inside the header"))?;
        if layout.version.get() != VERSION {
            return Err(bad(4, "made by another version of llm"));
        }
        Ok(layout)
    }

    /// Bytes of the name that follows.
    pub(super) fn name_len(&self) -> usize {
        self.name_len.get().into()
    }

    /// The header, with the name that follows, which may be cut short.
    pub(super) fn header(&self, name: &[u8]) -> Result<Header, KeptLogError> {
        if name.len() < self.name_len() {
            return Err(bad((FIXED + name.len()) as u64, "the file ends inside the domain's name"));
        }
        if self.digest(name) != self.check.get() {
            return Err(bad(32, "the header's checksum is wrong"));
        }
        let domain = str::from_utf8(name).ok().filter(|name| Hello::domain_is_valid(name));
        Ok(Header {
            session: self.session.get(),
            domain: domain.ok_or_else(|| bad(FIXED as u64, "no domain can have this name"))?.into(),
            committed: self.committed.get(),
            kept: UNIX_EPOCH + Duration::from_nanos(self.kept_ns.get()),
        })
    }
}

impl Header {
    /// The bytes; `None` if no domain can have that name.
    pub(super) fn to_bytes(&self) -> Option<Vec<u8>> {
        if !Hello::domain_is_valid(&self.domain) {
            return None;
        }
        let name = self.domain.as_bytes();
        let since = self.kept.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut layout = Layout {
            magic: MAGIC,
            version: VERSION.into(),
            name_len: u16::try_from(name.len()).ok()?.into(),
            session: self.session.into(),
            committed: self.committed.into(),
            kept_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).into(),
            check: 0.into(),
        };
        layout.check = layout.digest(name).into();
        Some([layout.as_bytes(), name].concat())
    }
}
