//! A TCP connection whose every wait is bounded and can be stopped.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, connect, socket_with,
        sockopt::{set_socket_recv_buffer_size, socket_error},
    },
};

use super::{Cause, Stop};

/// How often a waiting thread looks up.
const TICK: Duration = Duration::from_millis(50);
const CHUNK: usize = 64 * 1024;

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// More bytes are in the buffer.
    Data,
    /// A tick went by without any.
    Tick,
}

/// A connected stream with a buffer of bytes received and not yet consumed.
#[derive(Debug)]
pub(crate) struct Conn {
    stream: TcpStream,
    buf: Vec<u8>,
    start: usize,
}

impl Conn {
    /// Connects within `limit`; `write_limit` bounds each later send. With `buffer` the kernel keeps about so
    /// many bytes that were received and not read.
    pub(crate) fn open(
        addr: SocketAddr,
        limit: Duration,
        write_limit: Duration,
        buffer: Option<usize>,
        stop: &Stop,
    ) -> Result<Self, Cause> {
        let stream = connect_within(addr, limit, buffer, stop)?;
        let failed = |e: io::Error| Cause::Connect(e.to_string());
        stream.set_nonblocking(false).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(TICK)).map_err(failed)?;
        stream.set_write_timeout(Some(write_limit.max(TICK))).map_err(failed)?;
        Ok(Self { stream, buf: Vec::new(), start: 0 })
    }

    /// Sends all of `bytes`.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        let began = Instant::now();
        self.stream.write_all(bytes).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock => Cause::Timeout { waited_ms: millis(began.elapsed()) },
            _ => cause(&e),
        })
    }

    /// Bounds each later send by a tick, for [`Conn::send_some`].
    pub(crate) fn tick_writes(&self) -> Result<(), Cause> {
        self.stream.set_write_timeout(Some(TICK)).map_err(|e| cause(&e))
    }

    /// Sends some of `bytes`; 0 if a tick went by without room for any.
    pub(crate) fn send_some(&mut self, bytes: &[u8]) -> Result<usize, Cause> {
        match self.stream.write(bytes) {
            Ok(n) => Ok(n),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            Err(e) => Err(cause(&e)),
        }
    }

    /// Waits for bytes or the end of the stream, for `time` or a tick at most; whether [`Conn::fill`] will not wait.
    pub(crate) fn wait(&self, time: Duration) -> Result<bool, Cause> {
        let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.min(TICK).subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&time)) {
            Ok(n) => Ok(n > 0),
            Err(Errno::INTR) => Ok(false),
            Err(e) => Err(Cause::Socket(io::Error::from(e).to_string())),
        }
    }

    /// The bytes received and not consumed.
    pub(crate) fn data(&self) -> &[u8] {
        self.buf.get(self.start..).unwrap_or_default()
    }

    /// Drops the first `n` bytes of [`Conn::data`].
    pub(crate) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.buf.len());
        if self.start == self.buf.len() {
            self.buf.clear();
            self.start = 0;
        }
    }

    /// Waits a tick at most for more bytes. The caller bounds the buffer by consuming it.
    pub(crate) fn fill(&mut self) -> Result<Fill, Cause> {
        self.fill_some(CHUNK)
    }

    /// The same for `most` bytes at most, one at least.
    pub(crate) fn fill_some(&mut self, most: usize) -> Result<Fill, Cause> {
        if self.start > 0 {
            self.buf.drain(..self.start);
            self.start = 0;
        }
        let old = self.buf.len();
        self.buf.resize(old + most.clamp(1, CHUNK), 0);
        let got = self.stream.read(&mut self.buf[old..]);
        self.buf.truncate(old + got.as_ref().copied().unwrap_or(0));
        match got {
            Ok(0) => Err(Cause::Eof),
            Ok(_) => Ok(Fill::Data),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(Fill::Tick),
            Err(e) => Err(cause(&e)),
        }
    }
}

/// Connects without blocking, so that a stop is seen while SYNs go unanswered.
fn connect_within(
    addr: SocketAddr,
    limit: Duration,
    buffer: Option<usize>,
    stop: &Stop,
) -> Result<TcpStream, Cause> {
    let failed = |e: Errno| Cause::Connect(io::Error::from(e).to_string());
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(failed)?;
    if let Some(bytes) = buffer {
        // Before connecting, since the window's scale is fixed then.
        set_socket_recv_buffer_size(&socket, bytes).map_err(failed)?;
    }
    match connect(&socket, &addr) {
        Ok(()) => return Ok(socket.into()),
        Err(Errno::INPROGRESS) => {}
        Err(e) => return Err(failed(e)),
    }
    let began = Instant::now();
    let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
    loop {
        let ready = match poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&tick)) {
            Ok(n) => n > 0,
            Err(Errno::INTR) => false,
            Err(e) => return Err(failed(e)),
        };
        if ready {
            socket_error(&socket).map_err(failed)?.map_err(failed)?;
            return Ok(socket.into());
        }
        if began.elapsed() >= limit {
            return Err(Cause::Connect(format!("no answer for {} ms", millis(limit))));
        }
        if stop.is_raised() {
            return Err(Cause::Connect("stopped while connecting".into()));
        }
    }
}

fn cause(e: &io::Error) -> Cause {
    match e.kind() {
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            Cause::Reset(e.to_string())
        }
        ErrorKind::UnexpectedEof => Cause::Eof,
        _ => Cause::Socket(e.to_string()),
    }
}

/// Whole milliseconds, saturating.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
