//! What clients do to the guest, and what they measure.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::world::{BACKUP, GUEST};
use crate::lab::Namespace;

const ECHO: u16 = 7000;
const SINK: u16 = 7001;
const SOURCE: u16 = 7002;
/// Bytes of a request, and of its reply.
const REQUEST: usize = 64;
const BLOCK: usize = 256 * 1024;

/// Microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) per_second: f64,
}

/// Starts echo, sink and source in `space`. They live as long as this process.
pub(super) fn serve(space: &Namespace) -> crate::lab::Result<io::Result<()>> {
    space.enter(|| {
        let serve = |port: u16, work: fn(TcpStream) -> io::Result<()>| -> io::Result<()> {
            let listener = TcpListener::bind(("0.0.0.0", port))?;
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    std::thread::spawn(move || {
                        // The client left.
                        let _ = work(stream);
                    });
                }
            });
            Ok(())
        };
        serve(ECHO, echo)?;
        serve(SINK, |mut stream| {
            let mut buffer = vec![0; BLOCK];
            while stream.read(&mut buffer)? > 0 {}
            Ok(())
        })?;
        serve(SOURCE, |mut stream| {
            let buffer = vec![0x5a; BLOCK];
            loop {
                stream.write_all(&buffer)?;
            }
        })
    })
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n])?;
    }
}

/// Requests at a fixed pace on one connection with the guest.
pub(super) fn paced(every: Duration, lasts: Duration) -> io::Result<Latency> {
    paced_at(GUEST, every, lasts)
}

/// The same with the backup, over the link between the hosts.
pub(super) fn link(every: Duration, lasts: Duration) -> io::Result<Latency> {
    paced_at(BACKUP, every, lasts)
}

fn paced_at(address: &str, every: Duration, lasts: Duration) -> io::Result<Latency> {
    let mut stream = connect(address, ECHO)?;
    at_pace(every, lasts, || request(&mut stream))
}

/// A connection with the guest's echo.
pub(super) fn connect_echo() -> io::Result<TcpStream> {
    connect(GUEST, ECHO)
}

/// A connection with the backup's, over the link.
pub(super) fn connect_link() -> io::Result<TcpStream> {
    connect(BACKUP, ECHO)
}

/// Requests at a fixed pace, each followed by one on the other connection; a delay is that of both.
pub(super) fn paced_both(
    (mut first, mut second): (TcpStream, TcpStream),
    every: Duration,
    lasts: Duration,
) -> io::Result<Latency> {
    at_pace(every, lasts, || Ok(request(&mut first)? + request(&mut second)?))
}

fn at_pace(
    every: Duration,
    lasts: Duration,
    mut request: impl FnMut() -> io::Result<f64>,
) -> io::Result<Latency> {
    let (start, mut times) = (Instant::now(), Vec::new());
    let mut next = start;
    while start.elapsed() < lasts {
        times.push(request()?);
        next += every;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(latency(times, start.elapsed()))
}

/// As many connections, each with a request under way all the time.
pub(super) fn busy(connections: usize, lasts: Duration) -> io::Result<Latency> {
    let all = Mutex::new(Vec::new());
    let start = Instant::now();
    std::thread::scope(|scope| {
        let work = || -> io::Result<()> {
            let mut stream = connect(GUEST, ECHO)?;
            let mut times = Vec::new();
            while start.elapsed() < lasts {
                times.push(request(&mut stream)?);
            }
            all.lock().map_err(|_| io::ErrorKind::Other)?.extend(times);
            Ok(())
        };
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| io::ErrorKind::Other)?)
    })?;
    Ok(latency(all.into_inner().map_err(|_| io::ErrorKind::Other)?, start.elapsed()))
}

/// Many connections at once, of which each makes its requests in its turn.
pub(super) fn flows(count: usize, lasts: Duration) -> io::Result<Latency> {
    let mut streams = (0..count).map(|_| connect(GUEST, ECHO)).collect::<io::Result<Vec<_>>>()?;
    let (start, mut times) = (Instant::now(), Vec::new());
    for at in (0..count).cycle() {
        if start.elapsed() > lasts {
            break;
        }
        times.push(request(&mut streams[at])?);
    }
    Ok(latency(times, start.elapsed()))
}

/// Megabytes a second into the guest.
pub(super) fn upload(lasts: Duration) -> io::Result<f64> {
    let mut stream = connect(GUEST, SINK)?;
    let (block, start, mut sent) = (vec![0x5a; BLOCK], Instant::now(), 0);
    while start.elapsed() < lasts {
        stream.write_all(&block)?;
        sent += block.len();
    }
    Ok(sent as f64 / start.elapsed().as_secs_f64() / 1e6)
}

/// Megabytes a second out of the guest.
pub(super) fn download(lasts: Duration) -> io::Result<f64> {
    let mut stream = connect(GUEST, SOURCE)?;
    let (mut block, start, mut got) = (vec![0; BLOCK], Instant::now(), 0);
    while start.elapsed() < lasts {
        got += stream.read(&mut block)?;
    }
    Ok(got as f64 / start.elapsed().as_secs_f64() / 1e6)
}

fn connect(address: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((address, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

fn request(stream: &mut TcpStream) -> io::Result<f64> {
    let (bytes, mut back) = ([0x5a; REQUEST], [0; REQUEST]);
    let start = Instant::now();
    stream.write_all(&bytes)?;
    stream.read_exact(&mut back)?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

fn latency(mut times: Vec<f64>, lasted: Duration) -> Latency {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Latency {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        per_second: times.len() as f64 / lasted.as_secs_f64(),
    }
}
