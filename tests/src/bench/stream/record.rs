//! Recording the checkpoint stream of a real guest under load: what stock `xl remus` writes into the pipe.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use llm_dom0::checkpoint::stream::{Item, MarkKind, Parser};
use llm_dom0::xen::stdio::BANNER;

use crate::lab::{self, Lab, Link, Llm, Progress, guest};
use crate::scenario::{Clients, Result, ScenarioError};

/// The guest's host; the other one is ended, so that it takes no processor.
const HOST: usize = 0;
const LOG: &str = "/var/log/record-remus.log";
/// `xl` says nothing for longer only if something is wrong.
const SILENCE: Duration = Duration::from_secs(120);
/// By how much a copy of the guest that comes again is found: 128 MiB, as `zstd --long=27`.
const WINDOW_LOG: u32 = 27;

/// What to record.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab.
    pub name: String,
    /// Where it goes; compressed if that ends in `.zst`.
    pub file: PathBuf,
    /// Whole epochs, the first copy included.
    pub epochs: u64,
    /// What `xl` waits between two checkpoints.
    pub interval: Duration,
}

/// Boots a lab of its own, creates the guest, starts the clients of the demo, and records.
///
/// # Errors
/// When the lab fails, `xl remus` ends early, or the file cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let progress = Progress::new();
    let lab = Lab::up(&lab::Options::of(&options.name, &Llm::Without, progress))?;
    lab.host(1 - HOST).kill()?;
    let step = progress.step("Creating the guest");
    lab.create(HOST, guest::PLAIN)?;
    step.done("answers HTTP and Redis");
    let listener = lab.in_netns(|| TcpListener::bind((Link::Management.own_address(), 0)));
    let failed = |what: &str, error: io::Error| ScenarioError::Broken(format!("{what}: {error}"));
    let listener = listener?.map_err(|e| failed("cannot listen for the stream", e))?;
    let address = listener.local_addr().map_err(|e| failed("cannot listen for the stream", e))?;
    let mut clients = Clients::start(&lab)?;
    // With an empty remote shell `xl` has the last word run, and talks to that.
    let command = format!(
        "exec xl remus -Fdn -i {} -s '' {} 'exec lab-agent pipe {address}'",
        options.interval.as_millis(),
        guest::PLAIN
    );
    lab.host(HOST).spawn_detached(&command, LOG)?;
    let step = progress.step("Recording");
    let from = accept(&listener).map_err(|e| failed("xl remus has not come", e))?;
    let mut problem = None;
    let whole = |taken: &Taken| {
        step.detail(&format!("{} epochs, {} MiB", taken.epochs, taken.bytes >> 20));
        // They would make the first copy last for minutes.
        if taken.epochs == 1 {
            problem = clients.add_rest(&lab).err();
        }
    };
    let taken = save(options, &from, whole).map_err(|e| {
        let said = lab.host(HOST).run(&format!("tail -n 5 {LOG}")).map(|o| o.text()).unwrap_or_default();
        ScenarioError::Broken(format!("cannot record: {e}; xl said: {said}"))
    })?;
    drop(from);
    problem.map_or(Ok(()), Err)?;
    step.done(&format!("{} epochs, {} pages, {} MiB", taken.epochs, taken.pages, taken.bytes >> 20));
    clients.abandon(&lab)?;
    println!("{}", options.file.display());
    Ok(())
}

fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    // As long as a read may last: there is no accept with a time-out.
    rustix::net::sockopt::set_socket_timeout(listener, rustix::net::sockopt::Timeout::Recv, Some(SILENCE))?;
    let stream = listener.accept()?.0;
    stream.set_read_timeout(Some(SILENCE))?;
    Ok(stream)
}

fn save(options: &Options, from: &TcpStream, whole: impl FnMut(&Taken)) -> io::Result<Taken> {
    let mut file = File::create(&options.file)?;
    if options.file.extension().is_none_or(|extension| extension != "zst") {
        return take(from, options.epochs, &mut file, whole);
    }
    let mut packed = zstd::Encoder::new(file, 1)?;
    packed.window_log(WINDOW_LOG)?;
    packed.long_distance_matching(true)?;
    let taken = take(from, options.epochs, &mut packed, whole)?;
    packed.finish()?;
    Ok(taken)
}

/// What has been recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    epochs: u64,
    pages: u64,
    bytes: u64,
}

/// Greets `xl` as a receiver does, and takes so many epochs of what it writes, to the byte; `whole` is called at the end of each.
fn take(
    mut from: impl Read + Write,
    epochs: u64,
    mut to: impl Write,
    mut whole: impl FnMut(&Taken),
) -> io::Result<Taken> {
    from.write_all(BANNER)?;
    let (mut parser, mut taken) = (Parser::new(), Taken::default());
    let mut buffer = vec![0; 1 << 20];
    while taken.epochs < epochs {
        let mut part = match from.read(&mut buffer)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("it ended: {taken:?}"))),
            n => &buffer[..n],
        };
        let start = part;
        while taken.epochs < epochs
            && let Some(item) = parser.next(&mut part).map_err(io::Error::other)?
        {
            match item {
                Item::Page { .. } => taken.pages += 1,
                Item::Mark(mark) if mark.kind == MarkKind::Epoch => {
                    taken = Taken { epochs: taken.epochs + 1, bytes: mark.end, ..taken };
                    whole(&taken);
                }
                Item::Mark(_) | Item::Bytes(_) => {}
            }
        }
        to.write_all(&start[..start.len() - part.len()])?;
    }
    to.flush()?;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_dom0::checkpoint::stream::{Guest, StreamWriter};

    /// A connection to something that has written all it will ever write.
    struct Written<'a> {
        rest: &'a [u8],
        heard: Vec<u8>,
    }

    impl Read for Written<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(5000);
            self.rest.read(&mut buffer[..len])
        }
    }

    impl Write for Written<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_recording_ends_with_the_last_epoch_that_is_wanted() {
        let page = [7; llm_core::page::PAGE];
        let mut writer = StreamWriter::new();
        writer.start(b"{}", Guest::Hvm, 3).pages([(1, Some(&page)), (2, Some(&page))]);
        let mut stream = writer.epoch_end(b"context", None).take();
        stream.extend(writer.pages([(1, Some(&page))]).epoch_end(b"context", None).take());
        let two = stream.len();
        stream.extend(writer.pages([(2, Some(&page))]).epoch_end(b"context", None).take());
        let (mut out, mut ends) = (Vec::new(), Vec::new());
        let mut from = Written { rest: &stream, heard: Vec::new() };
        let taken = take(&mut from, 2, &mut out, |taken| ends.push(taken.epochs)).expect("a stream");
        assert_eq!(taken, Taken { epochs: 2, pages: 3, bytes: two as u64 });
        assert_eq!((ends, from.heard), (vec![1, 2], BANNER.to_vec()));
        assert!(out == stream[..two]);
        let mut from = Written { rest: &stream, heard: Vec::new() };
        let error = take(&mut from, 4, io::sink(), |_| ()).expect_err("there are three");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
