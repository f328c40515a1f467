//! The long download: one body that lasts for the whole run, read slowly and checked byte by byte.
//!
//! Its reader sets the rate, and the kernel keeps little for it, so that the server has to go on sending all the
//! time. At the end it reads more than can have been on the way: the connection still carries.

use std::{net::SocketAddr, time::Duration};

use super::{
    Cause, ClientError, ClientKind, Limits, Running, Setup,
    conn::{Conn, Fill},
    http::{receive_head, request},
    now_ns,
    pool::{Crew, Watch},
    running::Worker,
};
use crate::lab::pattern;

/// Bytes the kernel is asked to keep for the reader; it takes twice as many.
const BUFFER: usize = 64 << 10;
/// Read at the end, at full speed: more than the kernel keeps.
const PROOF: u64 = 256 << 10;

/// What to download.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// The guest's bulk server, which sends [`pattern`].
    pub addr: SocketAddr,
    /// Connections, each a thread.
    pub connections: u16,
    /// Bytes of a body; at its end the next one begins, on a new connection.
    pub body: u64,
    /// Bytes read at a time.
    pub block: usize,
    /// From one block to the next.
    pub pace: Duration,
    /// Bounds: `reply` is the longest stall allowed.
    pub limits: Limits,
    /// Run first by each thread.
    pub setup: Setup,
}

impl StreamOptions {
    /// One connection, 1 GiB, 16 KiB each 100 ms.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            connections: 1,
            body: 1 << 30,
            block: 16 << 10,
            pace: Duration::from_millis(100),
            limits: Limits::default(),
            setup: Setup::default(),
        }
    }
}

/// Connects all and starts reading.
///
/// # Errors
/// [`ClientError`] if a connection or thread cannot be started; none is left running then.
pub fn start(options: &StreamOptions) -> Result<Running, ClientError> {
    if options.connections == 0 || options.block == 0 || options.body == 0 {
        return Err(ClientError::Options("at least one connection, and blocks and bodies of a byte"));
    }
    let kind = ClientKind::Download;
    let crew = Crew {
        buffer: Some(BUFFER),
        ..Crew::new(kind, options.addr, options.connections, options.limits, &options.setup)
    };
    let options = options.clone();
    Running::start(crew, move |worker, crew, conn| {
        let mut watch = Watch::new(crew);
        let mut conn = Some(conn);
        // None: the run has ended meanwhile.
        while let Some(mut link) = conn.take().or_else(|| worker.reopen(crew, &mut watch)) {
            if !download(worker, &mut link, &mut watch, &options, crew)? {
                break;
            }
            worker.outcome.renewed += 1;
        }
        Ok(())
    })
}

/// Reads one body; whether it came to its end, and the run did not.
fn download(
    worker: &mut Worker,
    conn: &mut Conn,
    watch: &mut Watch,
    options: &StreamOptions,
    crew: &Crew,
) -> Result<bool, Cause> {
    conn.send(request(&format!("/{}", options.body), options.addr, true).as_bytes())?;
    let asked_ns = now_ns();
    let head = receive_head(conn, watch, &|watch: &mut Watch| watch.overdue(asked_ns))?;
    if (head.status, head.body) != (200, options.body) {
        return Err(Cause::Protocol(format!("status {} and {} bytes", head.status, head.body)));
    }
    let mut at = 0;
    let mut proof = PROOF;
    while at < options.body {
        let full = worker.is_full(0, &options.limits);
        if full || (watch.is_ending() && proof == 0) {
            return Ok(false);
        }
        let wanted_ns = now_ns();
        let block = usize::try_from(options.body - at).unwrap_or(usize::MAX).min(options.block);
        take(conn, watch, block)?;
        if let Some(first) = pattern::first_difference(at, &conn.data()[..block]) {
            worker.wrong(1, &format!("the byte at {first} is another"));
        }
        conn.consume(block);
        at += block as u64;
        worker.reply(wanted_ns, true);
        if watch.is_ending() {
            proof = proof.saturating_sub(block as u64);
        } else {
            // One that was kept waiting does not catch up.
            let spent = Duration::from_nanos(now_ns().saturating_sub(wanted_ns));
            crew.stop.sleep(options.pace.saturating_sub(spent));
        }
    }
    Ok(!watch.is_ending())
}

/// Waits for `block` bytes, and takes no more out of the kernel's hands.
fn take(conn: &mut Conn, watch: &mut Watch, block: usize) -> Result<(), Cause> {
    let mut since_ns = now_ns();
    while conn.data().len() < block {
        match conn.fill_some(block - conn.data().len())? {
            Fill::Data => since_ns = now_ns(),
            Fill::Tick => watch.overdue(since_ns)?,
        }
    }
    Ok(())
}
