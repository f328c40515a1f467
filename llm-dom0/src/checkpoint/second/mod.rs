//! The second stage: batches that wait for the link anyway are compressed together.
//!
//! Why only these, and by what rule: `docs/adr/0012-second-stage.md`. The bytes are specified in `docs/wire-format.md`.
//!
//! | module | what it is |
//! |---|---|
//! | [`pack`] | batches into the payload of one frame |
//! | [`unpack`] | ... and back, from a peer that is not trusted |
//! | [`rule`] | which method pays, and how much must be ahead of what is compressed |
pub mod pack;
pub mod rule;
#[cfg(test)]
mod tests;
pub mod unpack;

use llm_core::frame::Method;

/// What may be compressed, and by what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compress {
    /// What waits, by the method that gets it to the backup soonest; nothing, if none does.
    #[default]
    Auto,
    /// Nothing.
    Never,
    /// What waits, by this method whether it pays or not.
    By(Method),
}

impl Compress {
    /// The features to offer to the backup.
    #[must_use]
    pub fn features(self) -> u64 {
        match self {
            Self::Auto => Method::Lz4.feature() | Method::Zstd.feature(),
            Self::Never => 0,
            Self::By(method) => method.feature(),
        }
    }
}

/// A method, and how hard it tries: the receiver need not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// LZ4.
    Lz4,
    /// Level 1 of zstd.
    Zstd1,
    /// Level 3 of zstd.
    Zstd3,
}

impl Level {
    /// All of them, from the quickest on.
    pub const ALL: [Self; 3] = [Self::Lz4, Self::Zstd1, Self::Zstd3];

    /// What the receiver must know.
    #[must_use]
    pub const fn method(self) -> Method {
        match self {
            Self::Lz4 => Method::Lz4,
            Self::Zstd1 | Self::Zstd3 => Method::Zstd,
        }
    }

    /// As people say it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Zstd1 => "zstd 1",
            Self::Zstd3 => "zstd 3",
        }
    }
}
