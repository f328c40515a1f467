//! The table of a kernel: the format strings of its log statements, which are symbols of the section `.defmt`.
//!
//! A message holds the place of its statement in that section instead of the string. Statements may have numbers and
//! texts as arguments. Other types of defmt nest, or take room that a message asks for: who sends messages is not trusted
//! with that.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use defmt_parser::{DisplayHint, Fragment, Level, ParserMode, TimePrecision, Type};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use serde::Deserialize;

/// Longest kernel read, in bytes: one with all of its debug information has less than 1 MiB.
const KERNEL_MAX: u64 = 64 << 20;
/// Symbols that say which format this is.
const VERSION: &str = "_defmt_version_ = ";
const ENCODING: &str = "_defmt_encoding_ = ";
/// What is understood here.
const KNOWN: (&str, &str) = ("4", "raw");

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The kernel cannot be read.
    #[error("Cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel is no ELF file.
    #[error("The kernel is no ELF file")]
    Elf(#[from] object::Error),
    /// The kernel has no symbols of log statements.
    #[error(
        "The kernel has no table of messages: it logs none, or was stripped of all symbols (use strip --strip-debug)"
    )]
    None,
    /// Another version of defmt or of its encoding.
    #[error("The kernel has messages of version {version} in encoding {encoding}, and 4 and raw are known")]
    Version {
        /// Version of defmt's format.
        version: String,
        /// Its encoding.
        encoding: String,
    },
    /// A log statement that cannot be decoded here.
    #[error("The kernel has a message that cannot be decoded here: {0}")]
    Statement(String),
}

/// How a number is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    Plain,
    Hex,
    /// Microseconds, as seconds.
    Seconds,
}

/// An argument of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// So many bytes of a number.
    Unsigned(usize),
    Signed(usize),
    Bool,
    /// A length of four bytes, and so many bytes of UTF-8.
    Text,
    /// The place of a text in the table.
    Interned,
}

/// A piece of a format string.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(String),
    /// The argument of that number.
    Argument(usize, Show),
}

/// A format string.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// In the order that a message has them.
    pub(super) arguments: Vec<Kind>,
    pub(super) pieces: Vec<Piece>,
}

/// The table of a kernel.
#[derive(Debug)]
pub struct Table {
    pub(super) statements: BTreeMap<u16, (Level, Format)>,
    pub(super) interned: BTreeMap<u16, String>,
    /// What each message has in front of its arguments.
    pub(super) time: Option<Format>,
}

/// A symbol of the section; it has more that is of no use here.
#[derive(Deserialize)]
struct Symbol {
    tag: String,
    data: String,
}

impl Table {
    /// Reads that of the kernel in the file `path`.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn read(path: &Path) -> Result<Self, TableError> {
        let read = || {
            let mut kernel = Vec::new();
            File::open(path)?.take(KERNEL_MAX).read_to_end(&mut kernel)?;
            Ok(kernel)
        };
        Self::parse(&read().map_err(|source| TableError::Read { path: path.to_owned(), source })?)
    }

    /// Finds that of the kernel in the ELF file `elf`.
    ///
    /// # Errors
    /// [`TableError`], but not [`TableError::Read`].
    pub fn parse(elf: &[u8]) -> Result<Self, TableError> {
        let elf = object::File::parse(elf)?;
        let section = elf.section_by_name(".defmt").ok_or(TableError::None)?.index();
        // A symbol without a name of text is none of defmt's; those of its version may lie in no section.
        Self::from_symbols(elf.symbols().filter_map(|symbol| {
            let here = symbol.section_index() == Some(section);
            let name = symbol.name().ok().filter(|name| here || name.contains(VERSION));
            name.map(|name| (name, symbol.address()))
        }))
    }

    /// That of symbols with these names and places.
    ///
    /// # Errors
    /// As for [`Self::parse`].
    pub fn from_symbols<'a>(symbols: impl IntoIterator<Item = (&'a str, u64)>) -> Result<Self, TableError> {
        let (mut version, mut encoding) = (None, None);
        let mut table = Self { statements: BTreeMap::new(), interned: BTreeMap::new(), time: None };
        for (name, place) in symbols {
            // Linkers differ in quotes.
            let name = name.trim_matches('"');
            version = version.or_else(|| name.strip_prefix(VERSION));
            encoding = encoding.or_else(|| name.strip_prefix(ENCODING));
            if name.starts_with('{') {
                table.add(name, place)?;
            }
        }
        match (version, encoding) {
            (Some(version), Some(encoding)) if (version, encoding) == KNOWN => Ok(table),
            (Some(version), Some(encoding)) => {
                Err(TableError::Version { version: version.to_owned(), encoding: encoding.to_owned() })
            }
            _ => Err(TableError::None),
        }
    }

    fn add(&mut self, name: &str, address: u64) -> Result<(), TableError> {
        let bad = || TableError::Statement(name.to_owned());
        let place = u16::try_from(address).map_err(|_| bad())?;
        let Symbol { tag, data } = serde_json::from_str(name).map_err(|_| bad())?;
        let level = match &*tag {
            "defmt_trace" => Level::Trace,
            "defmt_debug" => Level::Debug,
            "defmt_info" | "defmt_println" => Level::Info,
            "defmt_warn" => Level::Warn,
            "defmt_error" => Level::Error,
            "defmt_timestamp" => {
                self.time = Some(format(&data).ok_or_else(bad)?);
                return Ok(());
            }
            "defmt_str" => {
                self.interned.insert(place, data);
                return Ok(());
            }
            // Strings of types, which no statement that is taken below can refer to.
            _ => return Ok(()),
        };
        self.statements.insert(place, (level, format(&data).ok_or_else(bad)?));
        Ok(())
    }
}

/// The format that a string says; `None` if it is none, or has arguments that are not decoded here.
pub(super) fn format(text: &str) -> Option<Format> {
    let fragments = defmt_parser::parse(text, ParserMode::ForwardsCompatible).ok()?;
    let mut arguments = BTreeMap::new();
    let mut pieces = Vec::new();
    for fragment in fragments {
        match fragment {
            Fragment::Literal(text) => pieces.push(Piece::Literal(text.into_owned())),
            Fragment::Parameter(parameter) => {
                let kind = kind(&parameter.ty)?;
                if arguments.insert(parameter.index, kind).is_some_and(|other| other != kind) {
                    return None;
                }
                pieces.push(Piece::Argument(parameter.index, show(parameter.hint.as_ref())));
            }
        }
    }
    // An argument that is not shown would be one whose type nobody knows.
    let all = arguments.keys().copied().eq(0..arguments.len());
    all.then(|| Format { arguments: arguments.into_values().collect(), pieces })
}

const fn kind(ty: &Type) -> Option<Kind> {
    Some(match ty {
        Type::U8 => Kind::Unsigned(1),
        Type::U16 => Kind::Unsigned(2),
        // Whatever the kernel's own width is.
        Type::U32 | Type::Usize => Kind::Unsigned(4),
        Type::U64 => Kind::Unsigned(8),
        Type::I8 => Kind::Signed(1),
        Type::I16 => Kind::Signed(2),
        Type::I32 | Type::Isize => Kind::Signed(4),
        Type::I64 => Kind::Signed(8),
        Type::Bool => Kind::Bool,
        Type::Str => Kind::Text,
        Type::IStr => Kind::Interned,
        _ => return None,
    })
}

const fn show(hint: Option<&DisplayHint>) -> Show {
    match hint {
        Some(DisplayHint::Hexadecimal { .. }) => Show::Hex,
        Some(DisplayHint::Seconds(TimePrecision::Micros)) => Show::Seconds,
        _ => Show::Plain,
    }
}
