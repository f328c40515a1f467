//! What stands for `xl`: `remus` writes a stream whose pages are made up, `migrate-receive` throws one away.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use llm_core::page::PAGE;
use llm_dom0::checkpoint::stream::{Guest, StreamWriter};
use llm_dom0::xen::stdio::BANNER;

/// Pages of the guest.
const PAGES: u64 = 4096;
/// Of these, pages that change in each epoch, in a few bytes each.
const CHANGED: u64 = 500;

/// Runs one command.
///
/// # Errors
/// A command that is none of those the driver uses here, or a pipe that breaks: as `xl`, which then ends.
pub fn run(args: &[String]) -> io::Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["remus", _, "-i", ms, "-s", "", _, command] => remus(ms.parse().map_err(io::Error::other)?, command),
        ["migrate-receive", "-r"] => receive(),
        ["destroy", _] => Ok(()),
        ["domid", name] => Err(io::Error::other(format!("{name}: domain does not exist"))),
        other => Err(io::Error::other(format!("xl {other:?} is not understood here"))),
    }
}

fn remus(interval_ms: u64, command: &str) -> io::Result<()> {
    let (stream_out, mut stream) = io::pipe()?;
    let (answers, answers_in) = io::pipe()?;
    let mut transport = Command::new("sh")
        .args(["-c", command])
        .stdin(stream_out)
        .stdout(answers_in)
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut line = Vec::new();
    BufReader::new(answers).read_until(b'\n', &mut line)?;
    if line != BANNER {
        return Err(io::Error::other("no banner came"));
    }
    transport.wait()?;
    let mut pages = vec![[0x5a_u8; PAGE]; PAGES as usize];
    for (at, page) in pages.iter_mut().enumerate() {
        page[..8].copy_from_slice(&at.to_le_bytes());
    }
    let mut writer = StreamWriter::new();
    writer.start(b"{}", Guest::Hvm, 3);
    let mut first = 0..PAGES;
    for epoch in 1_u64.. {
        writer.pages(first.map(|pfn| (pfn, pages.get(pfn as usize)))).epoch_end(b"context", None);
        stream.write_all(&writer.take())?;
        // Held here: `llm` stops this process between checkpoints.
        std::thread::sleep(Duration::from_millis(interval_ms));
        let from = epoch * 37 % (PAGES - CHANGED);
        first = from..from + CHANGED;
        for page in &mut pages[from as usize..(from + CHANGED) as usize] {
            page[(epoch % 500) as usize * 8..][..8].copy_from_slice(&epoch.to_le_bytes());
        }
    }
    Ok(())
}

fn receive() -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(BANNER)?;
    out.flush()?;
    let (mut input, mut buffer) = (io::stdin().lock(), vec![0; 1 << 20]);
    while input.read(&mut buffer)? > 0 {}
    Ok(())
}
