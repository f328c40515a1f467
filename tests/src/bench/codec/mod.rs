//! The page codec, beside what others do with the same pages in the same run.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::corpus::{self, Workload};
use arena::{Arena, PIECE, Subject, measure};

mod arena;
mod second;
mod subjects;
mod xbzrle;

/// Pages of an arena: old and new ones together have three times the bytes of a large cache.
const PAGES: usize = 12_288;

/// What to measure with.
#[derive(Debug)]
pub struct Options {
    /// Folder with `NAME-x.zst`; the committed pages if there is none.
    pub corpus: Option<PathBuf>,
    /// Times that everything is measured; the best counts.
    pub rounds: usize,
    /// These kinds of work only; all if it is empty.
    pub only: Vec<String>,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was done with the pages.
    pub bench: &'static str,
    /// Whose pages.
    pub workload: String,
    /// By what; ours begin with `llm`.
    pub name: &'static str,
    /// Registers used, if it was said.
    pub width: &'static str,
    /// Nanoseconds a page.
    pub ns_per_page: f64,
    /// Bytes out for each byte in.
    pub out_per_in: f64,
    /// Time compared with the bench's roof, its first row.
    pub vs_roof: f64,
}

/// Runs the bench, prints its tables and writes its figures.
///
/// # Errors
///
/// The pages cannot be read, or the figures cannot be written.
pub fn run(options: &Options) -> Result<ExitCode, super::Error> {
    let workloads = match &options.corpus {
        Some(folder) => corpus::load(folder)?,
        None => {
            println!("{}", corpus::NO_CORPUS);
            corpus::sample()
        }
    };
    if let Err(error) = pin() {
        println!("Not pinned to a processor: {error}");
    }
    workloads.iter().for_each(|workload| {
        subjects::assert_widths_agree(&workload.pairs);
        second::assert_comes_back(&workload.pairs);
    });
    let mut rows = Vec::new();
    let chosen = |bench: &&Bench| options.only.is_empty() || options.only.iter().any(|o| o == bench.name);
    for bench in BENCHES.iter().filter(chosen) {
        let mut of_bench = Vec::new();
        for workload in &workloads {
            of_bench.extend(bench.rows(workload, options.rounds));
        }
        print(bench, &of_bench);
        rows.extend(of_bench);
    }
    println!("{}", super::write("codec", &rows)?.display());
    Ok(ExitCode::SUCCESS)
}

/// One kind of work.
struct Bench {
    name: &'static str,
    about: &'static str,
    pairs: fn(&Workload) -> Vec<[llm_core::page::Page; 2]>,
    gaps: bool,
    /// Pages that are measured together.
    piece: usize,
    subjects: fn() -> Vec<Subject>,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "encode",
        about: "neighbouring pages, streamed from memory",
        pairs: |w| w.pairs.clone(),
        gaps: false,
        piece: PIECE,
        subjects: subjects::encoders,
    },
    Bench {
        name: "encode-gaps",
        about: "every third page on average",
        pairs: |w| w.pairs.clone(),
        gaps: true,
        piece: PIECE,
        subjects: subjects::encoders,
    },
    Bench {
        name: "update",
        about: "encode, and bring the old copy up to date; roof: copy the page to the old copy",
        pairs: |w| w.pairs.clone(),
        gaps: false,
        piece: PIECE,
        subjects: subjects::updaters,
    },
    Bench {
        name: "decode",
        about: "onto the old copy",
        pairs: |w| w.pairs.clone(),
        gaps: false,
        piece: PIECE,
        subjects: subjects::decoders,
    },
    Bench {
        name: "fresh",
        about: "no old copy, page not zero",
        pairs: |w| arena::fresh(w, false),
        gaps: false,
        piece: PIECE,
        subjects: subjects::fresh,
    },
    Bench {
        name: "fresh-zero",
        about: "no old copy, page of zeros",
        pairs: |w| arena::fresh(w, true),
        gaps: false,
        piece: PIECE,
        subjects: subjects::fresh,
    },
    Bench {
        name: "second-64",
        about: "with the second stage, every 64 pages by themselves",
        pairs: |w| w.pairs.clone(),
        gaps: false,
        piece: second::BATCH,
        subjects: second::subjects,
    },
    Bench {
        name: "second-epoch",
        about: "with the second stage, epochs of 832 pages in frames as large as may be",
        pairs: |w| w.pairs.clone(),
        gaps: false,
        piece: second::EPOCH,
        subjects: second::subjects,
    },
];

impl Bench {
    fn rows(&self, workload: &Workload, rounds: usize) -> Vec<Row> {
        let pairs = (self.pairs)(workload);
        if pairs.is_empty() {
            return Vec::new();
        }
        // Whole repetitions, so that every subject's size is that of the workload.
        let pages = PAGES.div_ceil(pairs.len()) * pairs.len();
        let mut arena = Arena::new(&pairs, pages, self.gaps);
        let mut subjects = (self.subjects)();
        let figures = measure(&mut arena, &mut subjects, rounds, self.piece);
        let roof = figures.first().map_or(1.0, |f| f.ns_per_page);
        let row = |(subject, figure): (&Subject, &arena::Figure)| Row {
            bench: self.name,
            workload: workload.name.clone(),
            name: subject.name,
            width: subject.width,
            ns_per_page: figure.ns_per_page,
            out_per_in: figure.out_per_in,
            vs_roof: figure.ns_per_page / roof,
        };
        subjects.iter().zip(&figures).map(row).collect()
    }
}

/// A table: a line for each subject, a column for each workload, and the geometric means.
fn print(bench: &Bench, rows: &[Row]) {
    println!("\n## {}: {}\n", bench.name, bench.about);
    let mut workloads: Vec<&str> = rows.iter().map(|r| r.workload.as_str()).collect();
    workloads.dedup();
    let head: String = workloads.iter().map(|w| format!(" {w} |")).collect();
    println!(
        "| ns a page (bytes out for each in) | width |{head} time, roof 1 | time, XBZRLE 1 | bytes, XBZRLE 1 |"
    );
    println!("|---|---|{}---:|---:|---:|", "---:|".repeat(workloads.len()));
    let Some(first) = workloads.first() else { return };
    for subject in rows.iter().filter(|r| r.workload == *first) {
        let of = |name: &str, width: &str| -> Vec<&Row> {
            rows.iter()
                .filter(|r| r.name == name && r.width == width && !r.workload.starts_with("idle"))
                .collect()
        };
        let ours = of(subject.name, subject.width);
        let theirs = of("xbzrle", "");
        let all = rows.iter().filter(|r| r.name == subject.name && r.width == subject.width);
        let cells: String = all.map(|r| format!(" {:.0} ({:.4}) |", r.ns_per_page, r.out_per_in)).collect();
        let roof = mean(ours.iter().map(|r| r.vs_roof));
        let ratio = |value: fn(&Row) -> f64| mean(ours.iter().zip(&theirs).map(|(a, b)| value(a) / value(b)));
        let (time, bytes) = (ratio(|r| r.ns_per_page), ratio(|r| r.out_per_in));
        println!("| {} | {} |{cells} {roof:.2} | {time:.2} | {bytes:.3} |", subject.name, subject.width);
    }
}

/// The geometric mean.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value.ln(), count + 1.0));
    (sum / count).exp()
}

/// A change of processors would cost a pass its caches.
pub(super) fn pin() -> rustix::io::Result<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(std::thread::available_parallelism().map_or(0, |n| n.get() - 1));
    rustix::thread::sched_setaffinity(None, &cpus)
}
