//! `llm log inspect`.

use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::Serialize;

use super::describe::Line;
use super::summary::Summary;
use super::{Trouble, ended, open, utc};
use crate::cli::args;
use crate::cli::exit::{Exit, Failure};
use crate::keptlog::{Header, Reader};

/// The header for programs.
#[derive(Serialize)]
struct Head<'a> {
    domain: &'a str,
    /// As text: not every JSON reader has 64 bits.
    session: String,
    committed: u64,
    kept_ns: u64,
}

impl<'a> Head<'a> {
    fn of(header: &'a Header) -> Self {
        let since = header.kept.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            domain: &header.domain,
            session: format!("{:016x}", header.session),
            committed: header.committed,
            kept_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

pub(super) fn run(args: &args::Inspect) -> Result<Exit, Failure> {
    let mut reader = open(&args.file)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let told = inspect(&mut reader, &mut out, args.summary, args.json);
    // What came before a damage is good and is shown.
    let flushed = out.flush().map_err(Trouble::from);
    ended(told.and(flushed), &args.file, Path::new("standard output"))
}

fn inspect(
    reader: &mut Reader<impl Read>,
    out: &mut impl Write,
    summary: bool,
    json: bool,
) -> Result<(), Trouble> {
    head(reader.header(), out, json)?;
    if summary {
        let mut sums = Summary::default();
        let end = loop {
            match reader.next_record() {
                Ok(Some(kept)) => sums.add(&kept, &Line::of(&kept)),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        sums.write(out, json)?;
        return end;
    }
    if !json {
        writeln!(out, "{:>10} {:>8} {:>18} {:>3} kind", "lsn", "epoch", "seconds", "vif")?;
    }
    while let Some(kept) = reader.next_record()? {
        let line = Line::of(&kept);
        if json {
            json_line(out, &line)?;
            continue;
        }
        match (line.lsn.saturating_sub(line.missing), line.missing) {
            (_, 0) => {}
            (lsn, 1) => writeln!(out, "{lsn:>10} is not in the log")?,
            (first, _) => writeln!(out, "{first:>10} to {} are not in the log", line.lsn - 1)?,
        }
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn head(header: &Header, out: &mut impl Write, json: bool) -> Result<(), Trouble> {
    if json {
        return json_line(out, &Head::of(header));
    }
    writeln!(out, "domain     {}", header.domain)?;
    writeln!(out, "session    {:016x}", header.session)?;
    writeln!(out, "committed  epoch {}", header.committed)?;
    writeln!(out, "kept       {}\n", utc(header.kept))?;
    Ok(())
}

pub(super) fn json_line(out: &mut impl Write, value: &impl Serialize) -> Result<(), Trouble> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}
