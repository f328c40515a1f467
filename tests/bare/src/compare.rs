//! All widths on one pair: their records must be the portable one's, and must give the page back.

use core::fmt;
use llm_core::checksum::Digest;
use llm_core::page::{
    Density, Encoded, Encoder, Features, MAX_RECORD, Next, PAGE, Page, decode, decode_with,
};

use crate::pairs::{Kind, Pair};

const DENSITIES: [Density; 2] = [Density::Fast, Density::Dense];

/// A bit that is turned in what the widest of the widths makes, to see that it is found.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// In the records of this pair.
    pub pair: u32,
}

/// What has been compared.
#[derive(Debug)]
pub struct Comparison {
    /// Of each density, with the portable one first. They go on from page to page, as in use.
    encoders: [[Option<Encoder>; 3]; 2],
    widths: [Option<Features>; 3],
    names: [&'static str; 3],
    fault: Option<Fault>,
    pair: Pair,
    pairs: u32,
    records: u32,
    bytes: u64,
    digest: Digest,
}

impl Comparison {
    /// Of these widths, of which the first is the reference.
    #[must_use]
    pub fn new(widths: [Option<Features>; 3], fault: Option<Fault>) -> Self {
        let encoder = |density| widths.map(|width| width.map(|features| Encoder::new(features, density)));
        Self {
            encoders: DENSITIES.map(encoder),
            widths,
            names: widths.map(|width| width.map_or("none", Features::name)),
            fault,
            pair: Pair::ZERO,
            pairs: 0,
            records: 0,
            bytes: 0,
            digest: Digest::new(),
        }
    }

    /// Compares the records of pair `number`, of both densities, with and without an old page.
    ///
    /// # Errors
    ///
    /// Something differs.
    pub fn pair(&mut self, number: u32) -> Result<(), Difference> {
        let kind = self.pair.make(number);
        let old = self.pair.old;
        for density in DENSITIES {
            for old in [Some(&old), None] {
                self.records(density, old).map_err(|(width, what)| Difference {
                    number,
                    kind,
                    density,
                    has_old: old.is_some(),
                    width: self.names[width],
                    what,
                })?;
            }
        }
        self.pairs += 1;
        Ok(())
    }

    fn records(&mut self, density: Density, old: Option<&Page>) -> Result<(), (usize, What)> {
        let new = &self.pair.new;
        let [first, others @ ..] = &mut self.encoders[density as usize];
        let Some(first) = first else { return Ok(()) };
        let mut wanted = [0; MAX_RECORD];
        let encoded = first.encode(old, new, None, &mut wanted);
        let wanted = &wanted[..encoded.len];
        let mut page = old.copied().unwrap_or([0x5a; PAGE]);
        if decode(wanted, &mut page, old.is_some()) != Ok(encoded.len) || page != *new {
            return Err((0, What::Page));
        }
        for (index, features) in self.widths.iter().enumerate().skip(1) {
            let Some(features) = *features else { continue };
            if !decodes(features, wanted, old) {
                return Err((index, What::Decoded));
            }
            // One bit of it turned: what comes of that must be the same, too. Another place in each record.
            let (mut record, len) = ([0; MAX_RECORD], wanted.len());
            record[..len].copy_from_slice(wanted);
            let bit = (self.bytes as usize).wrapping_mul(0x9e37_79b9) >> 7;
            record[bit / 8 % len] ^= 1 << (bit % 8);
            if !decodes(features, &record[..len], old) {
                return Err((index, What::DecodedDamaged { bit: 8 * (bit / 8 % len) + bit % 8 }));
            }
        }
        self.digest.update(wanted);
        self.bytes += wanted.len() as u64;
        let widest = others.iter().rposition(Option::is_some);
        for (index, encoder) in others.iter_mut().enumerate() {
            let Some(encoder) = encoder else { continue };
            let fault = self.fault.is_some_and(|f| f.pair == self.pairs) && widest == Some(index);
            let check = |again: Encoded, record: &mut [u8; MAX_RECORD]| {
                record[encoded.len / 2] ^= u8::from(fault);
                same(encoded, wanted, again, record).map_err(|what| (index + 1, what))
            };
            let mut record = [0xee; MAX_RECORD];
            let again = encoder.encode(old, new, Some(Next { old, new }), &mut record);
            check(again, &mut record)?;
            self.records += 1;
            if let Some(old) = old {
                let (mut copy, mut record) = (*old, [0xee; MAX_RECORD]);
                let again = encoder.encode_update(&mut copy, new, None, &mut record);
                check(again, &mut record)?;
                if copy != *new {
                    return Err((index + 1, What::Update));
                }
                self.records += 1;
            }
        }
        Ok(())
    }

    /// What has been compared so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary { pairs: self.pairs, records: self.records, bytes: self.bytes, digest: self.digest.value() }
    }
}

/// Whether a record is decoded, or refused, as the portable decoder does it.
fn decodes(features: Features, record: &[u8], old: Option<&Page>) -> bool {
    let mut pages = [old.copied().unwrap_or([0x5a; PAGE]); 2];
    let [wanted, page] = &mut pages;
    let results = [decode(record, wanted, old.is_some()), decode_with(features, record, page, old.is_some())];
    results[0] == results[1] && wanted == page
}

fn same(encoded: Encoded, wanted: &[u8], again: Encoded, record: &[u8; MAX_RECORD]) -> Result<(), What> {
    let differs = |(wanted, byte): (&u8, &u8)| wanted != byte;
    // As a whole first: an emulator is slow.
    if wanted != &record[..wanted.len()]
        && let Some(at) = wanted.iter().zip(record).position(differs)
    {
        return Err(What::Byte { at, wanted: wanted[at], got: record[at], encoded, again });
    }
    if again != encoded {
        return Err(What::Length { encoded, again });
    }
    Ok(())
}

/// Counts of what was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Pairs of pages.
    pub pairs: u32,
    /// Records that were held against the portable one's.
    pub records: u32,
    /// Bytes of the portable records.
    pub bytes: u64,
    /// Of the portable records, one behind the other.
    pub digest: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pairs, records, bytes, digest } = self;
        write!(f, "equal {pairs} pairs, {records} records, {bytes} bytes, digest {digest:016x}")
    }
}

/// Which record is wrong, and how.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    number: u32,
    kind: Kind,
    density: Density,
    has_old: bool,
    width: &'static str,
    what: What,
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug)]
enum What {
    Byte { at: usize, wanted: u8, got: u8, encoded: Encoded, again: Encoded },
    Length { encoded: Encoded, again: Encoded },
    Page,
    Decoded,
    DecodedDamaged { bit: usize },
    Update,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, kind, density, has_old, width, what } = self;
        let old = if *has_old { "with" } else { "without" };
        write!(f, "different: pair {number} ({kind}), {density:?}, {old} an old page, {width}: ")?;
        match what {
            What::Byte { at, wanted, got, encoded, again } => {
                write!(f, "byte {at} is {got:#04x}, not {wanted:#04x}; {again:?}, not {encoded:?}")
            }
            What::Length { encoded, again } => write!(f, "{again:?}, not {encoded:?}"),
            What::Page => f.write_str("the record does not give the page back"),
            What::Decoded => f.write_str("the record is not decoded as by the portable width"),
            What::DecodedDamaged { bit } => {
                write!(
                    f,
                    "the record with bit {bit} turned is not decoded, or refused, as by the portable width"
                )
            }
            What::Update => f.write_str("the old page was not brought up to date"),
        }
    }
}
