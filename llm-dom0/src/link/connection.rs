//! One TCP connection that carries frames.

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use llm_core::frame::{self, FrameError, HEADER, Kind, Parser};

use super::outbox::{Outbox, Outgoing};
use crate::digest::digest;

/// How long a dial may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Room for one frame of the largest size the link carries, and a little of the next.
const READ_BUFFER: usize = HEADER + MAX_PAYLOAD + 64 * 1024;
/// Largest payload accepted on the link, in bytes.
pub const MAX_PAYLOAD: usize = 512 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address could not be resolved.
    #[error("Cannot resolve {addr}: write the backup's address as HOST:PORT")]
    Resolve {
        /// As it was given.
        addr: String,
        /// The resolver's word.
        #[source]
        source: io::Error,
    },
    /// Nobody answered at the address.
    #[error("Cannot connect to {addr}: is `llm backup` running there, and the port open?")]
    Connect {
        /// As it was given.
        addr: String,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// A read or a write failed.
    #[error("Connection with {peer} broke")]
    Io {
        /// The other end.
        peer: SocketAddr,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// The peer closed the connection.
    #[error("{peer} closed the connection")]
    Closed {
        /// The other end.
        peer: SocketAddr,
    },
    /// The peer sent something that is not a frame of ours.
    #[error("{peer} sent a bad frame: {error}")]
    Frame {
        /// The other end.
        peer: SocketAddr,
        /// What is wrong with it, and where.
        error: FrameError,
    },
}

/// Opens a connection to `addr` (`HOST:PORT`), trying each of its addresses.
///
/// # Errors
/// [`LinkError::Resolve`] or [`LinkError::Connect`].
pub fn dial(addr: &str) -> Result<TcpStream, LinkError> {
    let resolve = |source| LinkError::Resolve { addr: addr.into(), source };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    for socket in addr.to_socket_addrs().map_err(resolve)? {
        match TcpStream::connect_timeout(&socket, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(LinkError::Connect { addr: addr.into(), source: last })
}

/// Sets what both ends of a link want of their sockets.
///
/// # Errors
/// The system's, if the socket is already dead.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)
}

/// Writes what `outbox` hands out until the connection of that `generation` is
/// over, then closes the sending side.
///
/// # Errors
/// The system's, when a write fails.
fn write_loop(mut stream: &TcpStream, outbox: &Outbox, generation: u64) -> io::Result<()> {
    while let Some(out) = outbox.next(generation) {
        match out {
            Outgoing::Rest(rest) => stream.write_all(&rest)?,
            Outgoing::Message(seq, payload) => {
                write_frame(stream, &header(Kind::MESSAGE, seq, &payload), &payload)?;
            }
            Outgoing::Data(data) => {
                let header = header(data.kind, data.seq, &data.payload);
                write_frame(stream, &header, &data.payload)?;
            }
        }
    }
    stream.shutdown(std::net::Shutdown::Write)
}

fn header(kind: Kind, seq: u64, payload: &[u8]) -> [u8; HEADER] {
    frame::encode_header_with(digest, kind, 0, seq, payload)
}

/// Writes both with one system call where that is possible, so that a small frame is one segment.
fn write_frame(mut stream: &TcpStream, header: &[u8], payload: &[u8]) -> io::Result<()> {
    let parts = &mut [IoSlice::new(header), IoSlice::new(payload)][..];
    let written = loop {
        match stream.write_vectored(parts) {
            Ok(written) => break written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    stream.write_all(header.get(written..).unwrap_or_default())?;
    stream.write_all(payload.get(written.saturating_sub(header.len())..).unwrap_or_default())
}

/// A frame that has come in.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// Frame kind.
    pub kind: Kind,
    /// Sequence from the header.
    pub seq: u64,
    /// The payload, checked against its checksum.
    pub payload: &'a [u8],
}

/// Reads frames and hands each to `on_frame` until that says stop, the
/// connection ends, or the peer sends something else than frames.
///
/// The link does not resynchronise: TCP loses nothing, so a bad frame means a
/// broken or foreign peer, and the connection is not to be trusted further.
///
/// # Errors
/// Always, but when `on_frame` said stop: a connection ends with a reason.
pub fn read_loop(
    mut stream: &TcpStream,
    peer: SocketAddr,
    mut on_frame: impl FnMut(Incoming<'_>) -> ControlFlow<()>,
) -> Result<(), LinkError> {
    // The buffer is larger than a header and a payload, which is all that can be wrong with it.
    let mut parser = Parser::new(vec![0u8; READ_BUFFER], MAX_PAYLOAD)
        .map_err(|e| LinkError::Io { peer, source: io::Error::other(e.to_string()) })?
        .checked_by(digest);
    loop {
        loop {
            match parser.next_frame() {
                Ok(Some(frame)) => {
                    let incoming = Incoming { kind: frame.kind, seq: frame.seq, payload: frame.payload };
                    if on_frame(incoming).is_break() {
                        return Ok(());
                    }
                }
                Ok(None) => break,
                Err(error) => return Err(LinkError::Frame { peer, error }),
            }
        }
        match stream.read(parser.space()) {
            Ok(0) => return Err(LinkError::Closed { peer }),
            Ok(n) => parser.advance(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(LinkError::Io { peer, source }),
        }
    }
}

/// A connection in use: its socket can be shut down from any thread.
#[derive(Debug)]
pub struct Connection {
    stream: Arc<TcpStream>,
    /// The outbox's generation that this connection serves.
    pub generation: u64,
    /// The other end.
    pub peer: SocketAddr,
}

impl Connection {
    /// Takes over `outbox` with a fresh socket and starts its writer thread.
    ///
    /// # Errors
    /// The system's, if the socket is dead or no thread can be had.
    pub fn start(stream: TcpStream, outbox: &Arc<Outbox>, name: &str) -> io::Result<Self> {
        tune(&stream)?;
        let peer = stream.peer_addr()?;
        let stream = Arc::new(stream);
        let generation = outbox.connect(Some(Arc::clone(&stream)));
        let writer = (Arc::clone(&stream), Arc::clone(outbox));
        std::thread::Builder::new().name(format!("{name}-tx")).spawn(move || {
            let (stream, outbox) = writer;
            if let Err(error) = write_loop(&stream, &outbox, generation) {
                tracing::debug!(%peer, %error, "writing ended");
                // Wakes the reader, which reports the end of the connection.
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        })?;
        Ok(Self { stream, generation, peer })
    }

    /// The socket, for the reader.
    #[must_use]
    pub fn stream(&self) -> Arc<TcpStream> {
        Arc::clone(&self.stream)
    }

    /// Breaks the connection off.
    pub fn shutdown(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}
