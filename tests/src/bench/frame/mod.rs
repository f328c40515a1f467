//! Frames, checksums and log records, beside a copy of the same bytes and what others use.

use std::path::PathBuf;

use serde::Serialize;

use super::codec::pin;
use super::corpus;
use super::{Error, packets};
use clock::{Figure, Subject, measure};
use llm_core::page::{PAGE, Page};
use pages::Frames;
use records::Packets;

mod clock;
mod pages;
mod records;

/// What to measure with.
#[derive(Debug)]
pub struct Options {
    /// Folder with `NAME.pkts.zst` and `NAME-x.zst`; made packets and the committed pages if there is none.
    pub corpus: Option<PathBuf>,
    /// Times that everything is measured; the best counts.
    pub rounds: usize,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    bench: &'static str,
    name: &'static str,
    /// `pages` or `records`.
    of: &'static str,
    /// Which bytes.
    input: String,
    /// Nanoseconds a page or record.
    ns: f64,
    /// Pages or records a second, in millions.
    millions_per_s: f64,
    /// Bytes of pages or packets a second.
    gb_per_s: f64,
    /// Bytes out for each byte in.
    out_per_in: f64,
}

/// Packets of a corpus that are measured at most.
const PACKETS: usize = 1 << 16;
/// Frames that caches hold.
const FEW: usize = 32;

/// Runs the bench, prints its tables and writes its figures.
///
/// # Errors
///
/// The corpus cannot be read, or the figures cannot be written.
pub fn run(options: &Options) -> Result<(), Error> {
    let (workloads, recorded) = match &options.corpus {
        Some(folder) => (corpus::load(folder)?, packets::load(folder)?),
        None => {
            println!("No --corpus: measuring with the 24 committed pairs of pages and with made packets");
            (corpus::sample(), Vec::new())
        }
    };
    if let Err(error) = pin() {
        println!("Not pinned to a processor: {error}");
    }
    let mut rows = Vec::new();
    // Pages of all workloads in turn, so that none counts for more.
    let pairs: Vec<[Page; 2]> = workloads
        .iter()
        .filter(|workload| workload.name != "idle")
        .flat_map(|workload| workload.pairs.iter().cycle().take(pages::PIECE * pages::PIECES / 4))
        .copied()
        .collect();
    for (input, frames) in [("streamed from memory", pairs.len()), ("in the cache", FEW)] {
        let mut subjects = Frames::new(&spread(&pairs, frames), frames).subjects();
        let figures = measure(&mut subjects, pages::PIECES, options.rounds);
        let count = pages::PIECES * pages::PIECE;
        rows.extend(table("pages", input, &subjects, &figures, count, count * PAGE));
    }
    let made = packets::made(PACKETS);
    let small = 64..113;
    let inputs = [("made, 64 to 112 B".to_owned(), &made, small.clone())];
    let recorded = recorded.iter().flat_map(|(name, packets)| {
        let sizes = [("64 to 112 B", small.clone()), ("113 B and more", 113..1 << 17)];
        sizes.map(|(text, sizes)| (format!("{name}, {text}"), packets, sizes))
    });
    for (input, packets, sizes) in inputs.into_iter().chain(recorded) {
        let packets = Packets::new(packets, sizes, PACKETS);
        if packets.pieces() == 0 {
            println!("\n{input}: fewer than {} packets", records::PIECE);
            continue;
        }
        let mut subjects = records::subjects(&packets);
        let figures = measure(&mut subjects, packets.pieces(), options.rounds);
        rows.extend(table("records", &input, &subjects, &figures, packets.len(), packets.bytes()));
    }
    println!("{}", super::write("frame", &rows)?.display());
    Ok(())
}

/// So many of them, from everywhere in the list.
fn spread(pairs: &[[Page; 2]], count: usize) -> Vec<[Page; 2]> {
    pairs.iter().step_by((pairs.len() / count).max(1)).take(count).copied().collect()
}

/// Prints and returns the figures of `count` pages or records with `bytes` bytes together.
fn table(
    of: &'static str,
    input: &str,
    subjects: &[Subject],
    figures: &[Figure],
    count: usize,
    bytes: usize,
) -> Vec<Row> {
    println!("\n## {of}, {input}: {count}, {:.1} bytes each\n", bytes as f64 / count as f64);
    println!("| | ns each | millions/s | GB/s | bytes out for each in |\n|---|---:|---:|---:|---:|");
    let row = |(subject, figure): (&Subject, &Figure)| Row {
        bench: "frame",
        name: subject.name,
        of,
        input: input.to_owned(),
        ns: figure.ns / count as f64,
        millions_per_s: count as f64 / figure.ns * 1e3,
        gb_per_s: bytes as f64 / figure.ns,
        out_per_in: figure.out / bytes as f64,
    };
    let rows: Vec<Row> = subjects.iter().zip(figures).map(row).collect();
    for row in &rows {
        println!(
            "| {} | {:.1} | {:.2} | {:.2} | {:.3} |",
            row.name, row.ns, row.millions_per_s, row.gb_per_s, row.out_per_in
        );
    }
    rows
}
