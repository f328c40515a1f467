//! The uploader: bodies of a known pattern, one after the other on long-lived connections, each with a receipt.
//!
//! A receipt is a promise: its number tells of bodies that the server has forgotten, its digest of bytes that came
//! otherwise than they were sent.

use std::{net::SocketAddr, time::Duration};

use xxhash_rust::xxh3::Xxh3;

use super::{
    Cause, ClientError, ClientKind, Limits, Running, Setup,
    conn::Conn,
    now_ns,
    pool::{Crew, Watch},
    running::Worker,
};
use crate::lab::{
    pattern,
    sink::{self, Receipt},
};

/// What the uploader does.
#[derive(Debug, Clone)]
pub struct UploadOptions {
    /// The sink.
    pub addr: SocketAddr,
    /// Connections, each a thread.
    pub connections: u16,
    /// Bytes of a body.
    pub body: u64,
    /// Bytes sent at a time.
    pub chunk: usize,
    /// Pause between two chunks.
    pub pace: Duration,
    /// Bounds: `reply` is the longest time without progress.
    pub limits: Limits,
    /// Run first by each thread.
    pub setup: Setup,
}

impl UploadOptions {
    /// One connection, bodies of 128 KiB in chunks of 16 KiB, 50 ms apart.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            connections: 1,
            body: 128 << 10,
            chunk: 16 << 10,
            pace: Duration::from_millis(50),
            limits: Limits::default(),
            setup: Setup::default(),
        }
    }
}

/// Connects all and starts sending.
///
/// # Errors
/// [`ClientError`] if a connection or thread cannot be started; none is left running then.
pub fn start(options: &UploadOptions) -> Result<Running, ClientError> {
    if options.connections == 0 || options.chunk == 0 || options.body > sink::MAX_BODY {
        return Err(ClientError::Options(
            "at least one connection, chunks of a byte, bodies of 1 GiB at most",
        ));
    }
    let kind = ClientKind::Upload;
    let crew = Crew::new(kind, options.addr, options.connections, options.limits, &options.setup);
    let options = options.clone();
    Running::start(crew, move |worker, crew, mut conn| work(worker, &mut conn, &options, crew))
}

fn work(worker: &mut Worker, conn: &mut Conn, options: &UploadOptions, crew: &Crew) -> Result<(), Cause> {
    conn.tick_writes()?;
    let mut watch = Watch::new(crew);
    let mut last = 0;
    let mut offset = 0;
    while !watch.is_ending() && !worker.is_full(0, &options.limits) {
        let began_ns = now_ns();
        send(conn, &mut watch, format!("PUT {}\n", options.body).as_bytes())?;
        let xxh3 = body(conn, &mut watch, options, crew, offset)?;
        offset += options.body;
        let receipt = receipt(conn, &mut watch)?;
        worker.reply(began_ns, true);
        worker.acked();
        let due = Receipt { number: last + 1, bytes: options.body, xxh3 };
        last = receipt.number;
        judge(worker, &receipt, &due);
        crew.stop.sleep(options.pace);
    }
    Ok(())
}

/// Sends a body, the pattern from `offset` on, and returns its digest.
fn body(
    conn: &mut Conn,
    watch: &mut Watch,
    options: &UploadOptions,
    crew: &Crew,
    offset: u64,
) -> Result<u64, Cause> {
    let mut hasher = Xxh3::new();
    let mut chunk = vec![0; options.chunk];
    let mut sent = 0;
    while sent < options.body {
        let count = usize::try_from(options.body - sent).unwrap_or(usize::MAX).min(chunk.len());
        pattern::fill(offset + sent, &mut chunk[..count]);
        hasher.update(&chunk[..count]);
        send(conn, watch, &chunk[..count])?;
        sent += count as u64;
        if sent < options.body {
            crew.stop.sleep(options.pace);
        }
    }
    Ok(hasher.digest())
}

fn send(conn: &mut Conn, watch: &mut Watch, mut bytes: &[u8]) -> Result<(), Cause> {
    let mut since_ns = now_ns();
    while !bytes.is_empty() {
        match conn.send_some(bytes)? {
            0 => watch.overdue(since_ns)?,
            n => {
                since_ns = now_ns();
                bytes = &bytes[n..];
            }
        }
    }
    Ok(())
}

fn receipt(conn: &mut Conn, watch: &mut Watch) -> Result<Receipt, Cause> {
    let since_ns = now_ns();
    loop {
        let data = conn.data();
        if let Some(end) = data.iter().position(|b| *b == b'\n') {
            let line = String::from_utf8_lossy(&data[..end]).into_owned();
            conn.consume(end + 1);
            return line.parse().map_err(|e| Cause::Protocol(format!("{e}, not {line:.60}")));
        }
        if data.len() >= sink::MAX_LINE {
            return Err(Cause::Protocol("a receipt without an end".into()));
        }
        conn.fill()?;
        watch.overdue(since_ns)?;
    }
}

fn judge(worker: &mut Worker, got: &Receipt, due: &Receipt) {
    if got.number < due.number {
        worker.lost(due.number - got.number, &format!("receipt {got}, expected number {}", due.number));
    } else if got.number > due.number {
        worker.wrong(got.number - due.number, &format!("receipt {got}, expected number {}", due.number));
    }
    if (got.bytes, got.xxh3) != (due.bytes, due.xxh3) {
        worker.wrong(1, &format!("receipt {got}, expected {due}"));
    }
}
