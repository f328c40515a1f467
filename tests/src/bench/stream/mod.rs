//! `llm` in the checkpoint pipe: a stream as fast as it goes from a pipe through primary, connection and backup to another pipe,
//! beside what only copies it.

pub mod child;
pub(super) mod input;
pub(super) mod process;
pub mod record;
pub(super) mod run;
mod table;

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Error;
use super::corpus;
use input::{Input, Shape};
use run::{Carried, Way, carry};
use table::{Row, print};

/// What to measure with.
#[derive(Debug)]
pub struct Options {
    /// Recordings of streams.
    pub recorded: Vec<PathBuf>,
    /// Folder with `NAME-x.zst`, to make streams of; the committed pages if there are no recordings either.
    pub corpus: Option<PathBuf>,
    /// Those workloads only; all if it is empty.
    pub only: Vec<String>,
    /// Bytes of each stream that is made.
    pub stream_bytes: u64,
    /// Bytes that may wait between two threads of `llm`.
    pub buffer: u64,
    /// Times that everything is measured; the quickest counts.
    pub rounds: usize,
}

/// What is compared. The first is ours.
const WAYS: [Way; 3] = [
    Way { name: "llm", ends: ["primary", "backup"] },
    Way { name: "read, write", ends: ["copy", "copy"] },
    Way { name: "splice", ends: ["splice", "splice"] },
];

/// Runs the bench, prints its tables and writes its figures.
///
/// # Errors
///
/// The pages cannot be read, an end failed, the stream came out altered, or the figures cannot be written.
pub fn run(options: &Options) -> Result<(), Error> {
    let workloads = match &options.corpus {
        Some(folder) => corpus::load(folder)?,
        None if options.recorded.is_empty() => {
            println!("{}", corpus::NO_CORPUS);
            corpus::sample()
        }
        None => Vec::new(),
    };
    let wanted = |name: &String| options.only.is_empty() || options.only.contains(name);
    let carried = |name: &str, source| Error { what: format!("carry the stream of {name}"), source };
    let mut rows = Vec::new();
    for path in &options.recorded {
        let name = name_of(path);
        if wanted(&name) {
            let input = recorded(path)?;
            rows.extend(measure(&name, &input, options).map_err(|e| carried(&name, e))?);
        }
    }
    for workload in workloads.iter().filter(|w| wanted(&w.name)) {
        let input = Input::new(workload, Shape::LARGE, options.stream_bytes);
        let measured = input.and_then(|input| measure(&workload.name, &input, options));
        rows.extend(measured.map_err(|e| carried(&workload.name, e))?);
    }
    print(&rows);
    println!("\n{}", super::write("stream", &rows)?.display());
    Ok(())
}

/// Carries a recording once: its epochs and pages, if it comes out as it went in.
///
/// # Errors
///
/// It cannot be read, an end failed, or it came out altered.
pub fn check(recording: &Path) -> Result<(u64, u64), Error> {
    let input = recorded(recording)?;
    let carried = carry(WAYS[0], &input, 8 << 20, true);
    carried.map_err(|source| Error { what: format!("carry {}", recording.display()), source })?;
    Ok((input.epochs, input.pages))
}

fn recorded(path: &Path) -> Result<Input, Error> {
    let read = File::open(path).and_then(|file| Input::recorded(BufReader::new(file)));
    read.map_err(|source| Error { what: format!("read {}", path.display()), source })
}

/// A recording is called as its file, without what that ends in.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

fn measure(workload: &str, input: &Input, options: &Options) -> io::Result<Vec<Row>> {
    // Once for the promise, and so that the stream's memory is there.
    carry(WAYS[0], input, options.buffer, true)?;
    let mut taken: [Vec<Carried>; WAYS.len()] = Default::default();
    let mut copies = Vec::new();
    for _ in 0..options.rounds.max(1) {
        for (way, taken) in WAYS.into_iter().zip(&mut taken) {
            taken.push(carry(way, input, options.buffer, false)?);
        }
        copies.push(memcpy(input)?);
    }
    // Whatever else runs on the machine only makes it slower.
    let quickest = |taken: &Vec<Carried>| taken.iter().min_by(|a, b| a.all.total_cmp(&b.all)).cloned();
    let mut rows: Vec<Row> = WAYS
        .into_iter()
        .zip(&taken)
        .filter_map(|(way, taken)| Some(Row::new(way.name, workload, input, &quickest(taken)?)))
        .collect();
    let copied = copies.into_iter().min_by(f64::total_cmp);
    rows.extend(copied.map(|seconds| Row::memcpy(workload, input, seconds)));
    Ok(rows)
}

/// Seconds that one copy of the stream would take, from memory to memory; by a part of it.
fn memcpy(input: &Input) -> io::Result<f64> {
    const PART: usize = 256 << 20;
    let mut from = Vec::new();
    let mut file = input.file.try_clone()?;
    file.seek(SeekFrom::Start(0))?;
    file.take(PART as u64).read_to_end(&mut from)?;
    let mut to = vec![1; from.len()];
    let begin = Instant::now();
    to.copy_from_slice(&from);
    let seconds = begin.elapsed().as_secs_f64();
    std::hint::black_box(&to);
    Ok(seconds * input.bytes as f64 / from.len() as f64)
}
