//! What can be wrong with a checkpoint stream.

use std::fmt;

/// The part of the stream that an error or a record belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layer {
    /// The header and configuration that `xl` itself writes first.
    Preamble,
    /// Records of libxl (device model, end of checkpoint).
    Libxl,
    /// Records of libxc (memory, virtual CPUs), nested in the libxl part.
    Libxc,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preamble => "The xl preamble",
            Self::Libxl => "The libxl part",
            Self::Libxc => "The libxc part",
        })
    }
}

/// Why a checkpoint stream was refused, and where.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{layer} of the checkpoint stream is not understood at byte {offset}: {fault}")]
pub struct StreamError {
    /// Bytes from the start of the stream to the end of the faulty field or header.
    pub offset: u64,
    /// The layer that was being read.
    pub layer: Layer,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The fixed identification of the layer is missing.
    #[error("wrong identification; is this the output of `xl remus`, `xl save` or `xl migrate`?")]
    Identification,
    /// A version that this parser does not know.
    #[error("version {got}, but only {min} to {max} are supported")]
    Version {
        /// The version in the stream.
        got: u32,
        /// The oldest supported one.
        min: u32,
        /// The newest supported one.
        max: u32,
    },
    /// The stream was written on a big-endian host.
    #[error("big-endian byte order is not supported")]
    BigEndian,
    /// The format of Xen 4.5 and older.
    #[error("the format of Xen 4.5 and older is not supported; save with Xen 4.6 or newer")]
    Legacy,
    /// Mandatory flags of the preamble that nobody has told us about.
    #[error("unknown mandatory flags {0:#010x}")]
    Flags(u32),
    /// A guest type other than x86 PV and HVM.
    #[error("unknown guest type {0}")]
    GuestType(u32),
    /// Pages of another size than 4 KiB.
    #[error("pages of 2^{0} bytes; only 2^12 are supported")]
    PageShift(u16),
    /// A mandatory record of a type that nobody has told us about.
    #[error("unknown mandatory record type {0:#x}; the toolstack is newer than this program")]
    UnknownRecord(u32),
    /// A known record where it has no place.
    #[error("record type {0:#x} must not appear here")]
    MisplacedRecord(u32),
    /// A length out of bounds.
    #[error("record type {record:#x} is {length} bytes long; allowed are {min} to {max}")]
    Length {
        /// Type of the record; 0 for the preamble's data.
        record: u32,
        /// Its length in bytes.
        length: u32,
        /// The smallest length allowed.
        min: u32,
        /// The largest length allowed.
        max: u32,
    },
    /// A memory record with no page or too many.
    #[error("a memory record of {0} pages")]
    PageCount(u32),
    /// A page type that is reserved.
    #[error("page frame {pfn:#x} has the reserved type {kind:#x}")]
    PageType {
        /// Guest page frame number.
        pfn: u64,
        /// The type, 0 to 15.
        kind: u8,
    },
    /// Bytes behind the end of the stream.
    #[error("data follows the end of the stream")]
    AfterEnd,
}
