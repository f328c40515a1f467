//! Work inside the lab's guest, whose progress shows what protection costs it.
//!
//! A client sends `cpu\n` or `memory\n`, later `stop\n`, and is told how many rounds were done in between. What goes into
//! the guest is never held back, so the client's own clock tells the time; that of a guest stands still when it is suspended.

use std::fmt;
use std::hint::black_box;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Port of the work.
pub const PORT: u16 = 8082;
/// Steps of a pseudo-random sequence in a round of [`Work::Cpu`].
pub const STEPS: u64 = 10_000;
/// Memory that [`Work::Memory`] writes again and again, in bytes.
pub const MEMORY: usize = 8 << 20;
/// The longest line, its end included.
const MAX_LINE: u64 = 32;
const PAGE: usize = 4096;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Arithmetic, next to no memory; a round is [`STEPS`] steps.
    Cpu,
    /// Whole pages are written, each time otherwise; a round is a page.
    Memory,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        })
    }
}

impl FromStr for Work {
    type Err = io::Error;

    fn from_str(word: &str) -> io::Result<Self> {
        match word {
            "cpu" => Ok(Self::Cpu),
            "memory" => Ok(Self::Memory),
            _ => Err(io::Error::other("not `cpu` or `memory`")),
        }
    }
}

impl Work {
    /// Works until `stop`, and counts the rounds in `done`.
    fn run(self, stop: &AtomicBool, done: &AtomicU64) {
        let mut memory = match self {
            Self::Cpu => Vec::new(),
            Self::Memory => vec![0u64; MEMORY / size_of::<u64>()],
        };
        let words = PAGE / size_of::<u64>();
        let pages = memory.len() / words;
        let mut state = 1u64;
        for round in 0u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            match self {
                Self::Cpu => {
                    for _ in 0..STEPS {
                        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).rotate_left(17) ^ round;
                    }
                    black_box(state);
                }
                Self::Memory => {
                    let page = usize::try_from(round).unwrap_or(0) % pages;
                    for (word, at) in memory[page * words..][..words].iter_mut().zip(0u64..) {
                        *word = round.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ at;
                    }
                    black_box(&mut memory);
                }
            }
            done.store(round + 1, Ordering::Relaxed);
        }
    }
}

/// Works for a client until it says stop, or leaves.
///
/// # Errors
/// The connection fails, or the client speaks another protocol.
pub fn serve(connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection);
    let work: Work = line(&mut reader)?.parse()?;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let worker = {
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        thread::spawn(move || work.run(&stop, &done))
    };
    let said = line(&mut reader);
    // Counted now, and not when the worker has noticed.
    let rounds = done.load(Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
    worker.join().map_err(|_| io::Error::other("the work failed"))?;
    if said? != "stop" {
        return Err(io::Error::other("not `stop`"));
    }
    reader.get_mut().write_all(format!("{rounds}\n").as_bytes())
}

fn line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    reader.by_ref().take(MAX_LINE).read_line(&mut line)?;
    line.strip_suffix('\n').map(str::to_owned).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Asks for the rounds done until `stop` is sent over `connection`, where work was asked for before.
///
/// # Errors
/// The connection fails, or no number comes.
pub fn stop(mut connection: TcpStream) -> io::Result<u64> {
    connection.write_all(b"stop\n")?;
    line(&mut BufReader::new(connection))?.parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Duration;

    fn served() -> (TcpStream, thread::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, thread::spawn(move || serve(listener.accept()?.0)))
    }

    #[test]
    fn work_goes_on_until_it_is_stopped() {
        for work in [Work::Cpu, Work::Memory] {
            let (mut client, served) = served();
            client.write_all(format!("{work}\n").as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(100));
            assert!(stop(client).unwrap() > 0, "{work}");
            served.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_client_that_leaves_or_says_something_else_ends_it() {
        for said in ["cpu\n", "cpu\nmore\n", "rest\n", "cpu"] {
            let (mut client, served) = served();
            client.write_all(said.as_bytes()).unwrap();
            drop(client);
            assert!(served.join().unwrap().is_err(), "{said:?}");
        }
    }
}
