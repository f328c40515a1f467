//! Numbers and fixed headers of the stream, from Xen's `docs/specs/libxl-migration-stream`,
//! `docs/specs/libxc-migration-stream` and, for the preamble, `tools/xl/xl.h`.

/// First bytes of what `xl` writes.
pub(super) const PREAMBLE_MAGIC: [u8; 32] = *b"Xen saved domain, xl format\n \0 \r";
pub(super) const PREAMBLE_LEN: usize = 48;
pub(super) const BYTE_ORDER: u32 = 0x0102_0304;
/// The configuration is JSON.
pub(super) const FLAG_JSON: u32 = 1;
/// The libxl stream is of version 2.
pub(super) const FLAG_STREAM_V2: u32 = 2;

pub(super) const LIBXL_IDENT: [u8; 8] = *b"LibxlFmt";
pub(super) const LIBXL_HEADER_LEN: usize = 16;
pub(super) const LIBXL_VERSION: u32 = 2;
pub(super) const LIBXL_BIG_ENDIAN: u32 = 1;

pub(super) const LIBXC_MARKER: [u8; 8] = [0xff; 8];
pub(super) const LIBXC_IDENT: [u8; 4] = *b"XENF";
pub(super) const LIBXC_IMAGE_LEN: usize = 24;
pub(super) const LIBXC_DOMAIN_LEN: usize = 16;
pub(super) const LIBXC_VERSIONS: (u32, u32) = (2, 3);
pub(super) const LIBXC_BIG_ENDIAN: u16 = 1;
pub(super) const GUEST_PV: u32 = 1;
pub(super) const GUEST_HVM: u32 = 2;
pub(super) const PAGE_SHIFT: u16 = 12;

/// Header of a record in both layers: type and body length, 32 bits each.
pub(super) const RECORD_LEN: usize = 8;
/// Bit of a record type that says a reader may skip it.
pub(super) const OPTIONAL: u32 = 0x8000_0000;

/// Record types of libxl.
pub(super) mod libxl {
    pub(crate) const END: u32 = 0;
    pub(crate) const LIBXC_CONTEXT: u32 = 1;
    pub(crate) const EMULATOR_XENSTORE_DATA: u32 = 2;
    pub(crate) const EMULATOR_CONTEXT: u32 = 3;
    pub(crate) const CHECKPOINT_END: u32 = 4;
    /// Only in COLO's back channel.
    pub(crate) const CHECKPOINT_STATE: u32 = 5;
}

/// Record types of libxc.
pub(super) mod libxc {
    pub(crate) const END: u32 = 0;
    pub(crate) const PAGE_DATA: u32 = 1;
    pub(crate) const HVM_CONTEXT: u32 = 9;
    pub(crate) const VERIFY: u32 = 0xd;
    pub(crate) const CHECKPOINT: u32 = 0xe;
    /// Only in COLO's back channel.
    pub(crate) const CHECKPOINT_DIRTY_PFN_LIST: u32 = 0xf;
    pub(crate) const STATIC_DATA_END: u32 = 0x10;
    pub(crate) const LAST: u32 = 0x12;
}

pub(super) const PFN_MASK: u64 = 0x000f_ffff_ffff_ffff;
pub(super) const PFN_TYPE_SHIFT: u32 = 60;

/// Whether a page of this type (0 to 15) is followed by its contents; `None` for reserved types.
pub(super) fn has_contents(kind: u8) -> Option<bool> {
    match kind {
        // Normal pages and page tables, the latter plain or pinned.
        0x0..=0x4 | 0x9..=0xc => Some(true),
        // Broken, allocate only, invalid.
        0xd..=0xf => Some(false),
        _ => None,
    }
}

/// `length` rounded up to the multiple of 8 that a body occupies.
pub(super) fn padded(length: u32) -> u64 {
    u64::from(length).next_multiple_of(8)
}

/// Little-endian u32 at byte `at` of a fixed header; 0 beyond its end.
pub(super) fn le32(header: &[u8], at: usize) -> u32 {
    chunk(header, at).map_or(0, u32::from_le_bytes)
}

/// Big-endian u32 at byte `at` of a fixed header; 0 beyond its end.
pub(super) fn be32(header: &[u8], at: usize) -> u32 {
    chunk(header, at).map_or(0, u32::from_be_bytes)
}

/// Little-endian u16 at byte `at` of a fixed header; 0 beyond its end.
pub(super) fn le16(header: &[u8], at: usize) -> u16 {
    chunk(header, at).map_or(0, u16::from_le_bytes)
}

/// Big-endian u16 at byte `at` of a fixed header; 0 beyond its end.
pub(super) fn be16(header: &[u8], at: usize) -> u16 {
    chunk(header, at).map_or(0, u16::from_be_bytes)
}

fn chunk<const N: usize>(header: &[u8], at: usize) -> Option<[u8; N]> {
    header.get(at..)?.first_chunk().copied()
}
