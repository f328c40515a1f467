//! An echo, an upload sink and a bulk server that do one thing wrong, at a moment of the test's choosing.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use llm_tests::lab::{
    pattern,
    sink::{self, Receipt},
};

use super::fakes::{reset, serve, stall};

/// How a server leaves a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Leave {
    Reset,
    Close,
    Stall,
}

impl Leave {
    fn now(self, stream: TcpStream) -> io::Result<()> {
        match self {
            Self::Reset => reset(&stream),
            Self::Close => {
                stream.shutdown(std::net::Shutdown::Write)?;
                stall(stream);
            }
            Self::Stall => stall(stream),
        }
        Ok(())
    }
}

/// What the echo does wrong; numbers count keystrokes of all connections, from 1.
#[derive(Debug, Clone, Copy)]
pub(super) enum EchoFault {
    None,
    Damage(u64),
    Skip(u64),
    Twice(u64),
    Leave(u64, Leave),
    Pause(u64, Duration),
}

/// Starts an echo with one fault.
pub(super) fn fake_echo(fault: EchoFault) -> SocketAddr {
    let count = Arc::new(AtomicU64::new(0));
    serve(move |stream| drop(echo(stream, fault, &count)))
}

fn echo(mut stream: TcpStream, fault: EchoFault, count: &AtomicU64) -> io::Result<()> {
    let mut key = [0];
    while stream.read(&mut key)? > 0 {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        let [byte] = key;
        match fault {
            EchoFault::Damage(at) if at == number => stream.write_all(&[byte ^ 0x55])?,
            EchoFault::Skip(at) if at == number => {}
            EchoFault::Twice(at) if at == number => stream.write_all(&[byte, byte])?,
            EchoFault::Leave(at, how) if at <= number => return how.now(stream),
            EchoFault::Pause(at, time) if at == number => {
                thread::sleep(time);
                stream.write_all(&key)?;
            }
            _ => stream.write_all(&key)?,
        }
    }
    Ok(())
}

/// What the sink does wrong; numbers count bodies of a connection, from 1.
#[derive(Debug, Clone, Copy)]
pub(super) enum SinkFault {
    /// The guest's own sink.
    None,
    /// Goes on from the state before the body ahead of this one.
    Forget(u64),
    /// Counts this body twice.
    Twice(u64),
    /// Reads a byte otherwise than it was sent.
    Damage(u64),
    /// Misses the last byte.
    Short(u64),
    Garbage(u64),
    Endless(u64),
    /// After this body was received, and before its receipt.
    Leave(u64, Leave),
    /// Takes no byte more from here on.
    Clog(u64),
}

/// Starts a sink with one fault.
pub(super) fn fake_sink(fault: SinkFault) -> SocketAddr {
    match fault {
        SinkFault::None => serve(|stream| drop(sink::serve(stream))),
        _ => serve(move |stream| drop(bad_sink(stream, fault))),
    }
}

fn bad_sink(mut stream: TcpStream, fault: SinkFault) -> io::Result<()> {
    let mut number = 0;
    for body in 1.. {
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte)?;
            line.extend_from_slice(&byte);
        }
        let text = String::from_utf8_lossy(&line).into_owned();
        let bytes: usize = text.trim().strip_prefix("PUT ").unwrap().parse().unwrap();
        if matches!(fault, SinkFault::Clog(at) if at == body) {
            thread::sleep(Duration::from_secs(20));
            return Ok(());
        }
        let mut data = vec![0; bytes];
        stream.read_exact(&mut data)?;
        number += 1;
        match fault {
            SinkFault::Forget(at) if at == body => number -= 1,
            SinkFault::Twice(at) if at == body => number += 1,
            SinkFault::Damage(at) if at == body => data[bytes / 2] ^= 1,
            SinkFault::Short(at) if at == body => data.truncate(bytes - 1),
            SinkFault::Garbage(at) if at == body => return stream.write_all(b"+OK\r\n"),
            SinkFault::Endless(at) if at == body => stream.write_all(&[b'1'; 4096])?,
            SinkFault::Leave(at, how) if at == body => return how.now(stream),
            _ => {}
        }
        let xxh3 = xxhash_rust::xxh3::xxh3_64(&data);
        let receipt = Receipt { number, bytes: data.len() as u64, xxh3 };
        stream.write_all(format!("{receipt}\n").as_bytes())?;
    }
    Ok(())
}

/// What the bulk server does wrong, once; numbers are offsets in a body.
#[derive(Debug, Clone, Copy)]
pub(super) enum BulkFault {
    None,
    Damage(u64),
    /// Sends these bytes a second time.
    Repeat(u64),
    Leave(u64, Leave),
    Refuse,
}

/// Starts a bulk server with one fault; counts what it has sent.
pub(super) fn fake_bulk(fault: BulkFault) -> (SocketAddr, Arc<AtomicU64>) {
    let (sent, fired) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let counted = Arc::clone(&sent);
    (serve(move |stream| drop(bulk(stream, fault, &counted, &fired))), sent)
}

fn bulk(mut stream: TcpStream, fault: BulkFault, sent: &AtomicU64, fired: &AtomicBool) -> io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.extend_from_slice(&byte);
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let bytes: u64 = text.split(' ').nth(1).unwrap().trim_start_matches('/').parse().unwrap();
    let status = if matches!(fault, BulkFault::Refuse) { "503 Unavailable" } else { "200 OK" };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n")?;
    let (mut at, mut of) = (0, 0);
    while at < bytes {
        let mut block = vec![0; usize::try_from(bytes - at).unwrap_or(usize::MAX).min(4096)];
        pattern::fill(of, &mut block);
        let now = |from: u64| from < at + 4096 && !fired.swap(true, Ordering::Relaxed);
        match fault {
            BulkFault::Damage(from) if now(from) => block[0] ^= 1,
            BulkFault::Repeat(from) if now(from) => of -= 4096,
            BulkFault::Leave(from, how) if now(from) => return how.now(stream),
            _ => {}
        }
        stream.write_all(&block)?;
        at += block.len() as u64;
        of += block.len() as u64;
        sent.fetch_add(block.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// A web server that is away for a while after its first `requests` requests: nothing listens then.
pub(super) fn fake_restart(body: &'static [u8], requests: u32, away: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let answer = move |mut stream: TcpStream| {
        let mut request = [0; 1024];
        // A request fits into one segment.
        let _ = stream.read(&mut request);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(&[head.as_bytes(), body].concat());
    };
    thread::spawn(move || {
        (1..requests).for_each(|_| answer(listener.accept().unwrap().0));
        let last = listener.accept().unwrap().0;
        // Before the answer: the next connection must not find a queue that is about to be reset.
        drop(listener);
        answer(last);
        thread::sleep(away);
        let listener = TcpListener::bind(addr).unwrap();
        listener.incoming().flatten().for_each(answer);
    });
    addr
}
