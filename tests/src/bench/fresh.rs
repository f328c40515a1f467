//! First copies of whole guests: what of their pages is zero, or equal to a page ahead of it in the same copy.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use llm_core::checksum::digest;
use llm_core::page::{Density, Encoded, Encoder, Kind, MAX_RECORD, Next, Page};
use llm_dom0::checkpoint::stream::{Item, Parser};
use llm_dom0::checkpoint::width::features;
use serde::Serialize;

use super::Error;

/// Bytes that a record would take at most which names another page instead of having its own bytes: kind, page number, and the other's.
const REFERENCE: u64 = 9;

/// Of one copy.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    bench: &'static str,
    /// The file.
    copy: String,
    pages: u64,
    /// All zero.
    zero: u64,
    /// Not zero, and equal to a page ahead.
    equal: u64,
    /// What records take now.
    bytes: u64,
    /// What they would take if equal pages were references.
    with_references: u64,
    /// To encode a page, and to look for an equal one ahead of it beside that.
    encode_ns: f64,
    look_ns: f64,
}

/// Reads what `xl save` wrote and tells what references would save.
///
/// # Errors
///
/// A file cannot be read, is no stream of a domain, or the figures cannot be written.
pub fn run(copies: &[PathBuf]) -> Result<(), Error> {
    let mut rows = Vec::new();
    println!(
        "| copy | pages | zero | equal to one ahead | bytes a page | with references | encode, ns | look, ns |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    for path in copies {
        let failed = |source| Error { what: format!("read {}", path.display()), source };
        let row = of(path, &fs::read(path).map_err(failed)?).map_err(failed)?;
        let pages = row.pages.max(1) as f64;
        println!(
            "| {} | {} | {:.1} % | {:.2} % | {:.0} | {:.3} | {:.0} | {:.0} |",
            row.copy,
            row.pages,
            100.0 * row.zero as f64 / pages,
            100.0 * row.equal as f64 / pages,
            row.bytes as f64 / pages,
            row.with_references as f64 / row.bytes.max(1) as f64,
            row.encode_ns,
            row.look_ns,
        );
        rows.push(row);
    }
    println!("{}", super::write("fresh", &rows)?.display());
    Ok(())
}

/// Pages ahead by their content, as far as is needed to find equal ones.
#[derive(Default)]
struct Ahead<'a>(HashMap<u64, &'a Page>);

impl<'a> Ahead<'a> {
    fn has(&mut self, page: &'a Page) -> bool {
        match self.0.entry(digest(page)) {
            Entry::Occupied(ahead) => *ahead.get() == page,
            Entry::Vacant(place) => {
                place.insert(page);
                false
            }
        }
    }
}

fn of(path: &Path, stream: &[u8]) -> io::Result<Row> {
    let mut pages: Vec<Page> = Vec::new();
    let keep = |item: Item<'_>| {
        if let Item::Page { page, .. } = item {
            pages.push(*page);
        }
    };
    Parser::new().feed(stream, keep).map_err(io::Error::other)?;

    let (mut encoder, mut out) = (Encoder::new(features(), Density::Fast), [0; MAX_RECORD]);
    let mut records: Vec<Encoded> = Vec::with_capacity(pages.len());
    let mut encode = |at: usize, page: &Page| {
        let next = pages.get(at + 1).map(|next| Next { old: None, new: next });
        encoder.encode(None, page, next, &mut out)
    };
    let encode_time = timed(|| records.extend(pages.iter().enumerate().map(|(at, page)| encode(at, page))));
    let (mut ahead, mut equal) = (Ahead::default(), Vec::with_capacity(pages.len()));
    let look_time = timed(|| equal.extend(pages.iter().map(|page| ahead.has(page))));

    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut row = Row { bench: "fresh", copy: name, pages: pages.len() as u64, ..Row::default() };
    for (record, equal) in records.iter().zip(equal) {
        let (len, zero) = (record.len as u64, record.kind == Kind::Zero);
        let refers = equal && !zero;
        row.zero += u64::from(zero);
        row.equal += u64::from(refers);
        row.bytes += len;
        row.with_references += if refers { len.min(REFERENCE) } else { len };
    }
    let each = |time: Duration| time.as_nanos() as f64 / row.pages.max(1) as f64;
    (row.encode_ns, row.look_ns) = (each(encode_time), each(look_time));
    Ok(row)
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_core::page::PAGE;
    use llm_dom0::checkpoint::stream::{Guest, StreamWriter};

    #[test]
    fn equal_pages_ahead_are_counted() {
        let (zero, one, two) = ([0; PAGE], [1; PAGE], std::array::from_fn(|i| (i % 251) as u8));
        let mut writer = StreamWriter::new();
        writer.start(b"{}", Guest::Hvm, 3);
        let pages = [&zero, &one, &two, &zero, &two, &one, &two];
        writer.pages((0..).zip(pages.map(Some))).end(&[]);
        let row = of(Path::new("a/copy"), &writer.take()).expect("a stream");
        assert_eq!((row.copy.as_str(), row.pages, row.zero, row.equal), ("copy", 7, 2, 3));
        let record = |page: &Page| {
            Encoder::new(features(), Density::Fast).encode(None, page, None, &mut [0; MAX_RECORD]).len as u64
        };
        assert_eq!(row.bytes, 2 + 2 * record(&one) + 3 * record(&two));
        let short = record(&one).min(REFERENCE);
        assert_eq!(row.with_references, 2 + record(&one) + short + record(&two) + 2 * REFERENCE);
    }
}
