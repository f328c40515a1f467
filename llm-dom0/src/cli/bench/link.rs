//! The link between two hosts: both ends of its measurement.
//!
//! Frames of kinds that no session has: one that asks for its payload, one that is only counted, one that asks for the count.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use llm_core::frame::{FrameError, HEADER, Kind, Parser, encode_header_with};
use serde::Serialize;

use crate::digest::digest;
use crate::link::{LinkError, dial, tune};
use crate::session::Samples;

/// The receiver sends the payload back.
const ECHO: Kind = Kind(0xb0);
/// The receiver counts the payload's bytes.
const BULK: Kind = Kind(0xb1);
/// The receiver answers with the count so far, 8 bytes.
const COUNT: Kind = Kind(0xb2);

/// Payload of a bulk frame: what a large batch has.
const BULK_LEN: usize = 256 << 10;
/// Payload of an echo: what a log record and its acknowledgement have.
const ECHO_LEN: usize = 128;
/// Silence after which the other end is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Round trips that are not counted: the first ones wake everything up.
const WARM_UP: usize = 20;

/// The link, as measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Link {
    /// Its other end.
    pub(super) peer: String,
    /// Round trip of a small frame, half of them.
    pub(super) round_trip_us_p50: f64,
    /// All but 1 % of them.
    pub(super) round_trip_us_p99: f64,
    /// Millions of bytes a second, with checksums made and checked.
    pub(super) mb_per_s: f64,
}

/// Why the link cannot be measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkBenchError {
    /// Nobody is there.
    #[error("Cannot reach {peer}: run `llm bench --listen {peer}` on the other host, and open the port")]
    Reach {
        /// As given.
        peer: String,
        /// What kept from it.
        #[source]
        source: LinkError,
    },
    /// It broke, or fell silent.
    #[error(
        "The connection broke: it must be `llm bench --listen` that runs at the other end, not `llm backup`"
    )]
    Broken(#[from] io::Error),
    /// What came is no frame.
    #[error("The other end sends no frames; is it `llm bench --listen`?")]
    Frame(#[source] FrameError),
    /// A frame came that was not asked for.
    #[error("The other end answers something else than asked for; is it of the same version?")]
    Answer,
}

/// A connection, and what came over it.
struct Line<'a> {
    stream: &'a TcpStream,
    parser: Parser<Vec<u8>>,
}

impl<'a> Line<'a> {
    fn new(stream: &'a TcpStream) -> io::Result<Self> {
        tune(stream)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let parser = Parser::new(vec![0; 2 * (HEADER + BULK_LEN)], BULK_LEN).map_err(io::Error::other)?;
        Ok(Self { stream, parser: parser.checked_by(digest) })
    }

    fn send(&self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        // One write, so that what is small is one segment.
        let mut stream = self.stream;
        stream.write_all(&[&encode_header_with(digest, kind, 0, 0, payload)[..], payload].concat())
    }

    /// The next frame for `look`; `None` at the end of the connection.
    fn receive<T>(&mut self, mut look: impl FnMut(Kind, &[u8]) -> T) -> Result<Option<T>, LinkBenchError> {
        loop {
            if let Some(frame) = self.parser.next_frame().map_err(LinkBenchError::Frame)? {
                return Ok(Some(look(frame.kind, frame.payload)));
            }
            let mut stream = self.stream;
            let len = match stream.read(self.parser.space()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if len == 0 {
                return Ok(None);
            }
            self.parser.advance(len);
        }
    }

    /// The payload of the answer, which must be of that kind.
    fn answer(&mut self, wanted: Kind) -> Result<Vec<u8>, LinkBenchError> {
        let answer = self.receive(|kind, payload| (kind == wanted).then(|| payload.to_vec()))?;
        answer.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?.ok_or(LinkBenchError::Answer)
    }
}

/// Measures the link to who listens at `peer`: about `time` for round trips and as long for bulk.
pub(super) fn measure(peer: &str, time: Duration) -> Result<Link, LinkBenchError> {
    let stream = dial(peer).map_err(|source| LinkBenchError::Reach { peer: peer.into(), source })?;
    let mut line = Line::new(&stream)?;
    let mut trips = Samples::default();
    let (begin, mut number) = (Instant::now(), 0_usize);
    while number < 2 * WARM_UP || begin.elapsed() < time {
        let payload = [number.to_le_bytes()[0]; ECHO_LEN];
        let sent = Instant::now();
        line.send(ECHO, &payload)?;
        if line.answer(ECHO)? != payload {
            return Err(LinkBenchError::Answer);
        }
        if number >= WARM_UP {
            trips.add(sent.elapsed().as_secs_f64() * 1e6);
        }
        number += 1;
    }
    let payload = vec![0x5a; BULK_LEN];
    let (begin, mut bytes) = (Instant::now(), 0_u64);
    while bytes == 0 || begin.elapsed() < time {
        line.send(BULK, &payload)?;
        bytes += BULK_LEN as u64;
    }
    line.send(COUNT, &[])?;
    if line.answer(COUNT)? != bytes.to_le_bytes() {
        return Err(LinkBenchError::Answer);
    }
    Ok(Link {
        peer: peer.into(),
        round_trip_us_p50: trips.percentile(0.5),
        round_trip_us_p99: trips.percentile(0.99),
        mb_per_s: bytes as f64 / begin.elapsed().as_secs_f64() / 1e6,
    })
}

/// The other end, until it closes.
pub(super) fn serve(stream: &TcpStream) -> Result<(), LinkBenchError> {
    let mut line = Line::new(stream)?;
    let mut count = 0_u64;
    loop {
        let asked = line.receive(|kind, payload| match kind {
            ECHO => Some(Some((ECHO, payload.to_vec()))),
            BULK => {
                count = count.wrapping_add(payload.len() as u64);
                Some(None)
            }
            COUNT => Some(Some((COUNT, count.to_le_bytes().to_vec()))),
            _ => None,
        })?;
        match asked {
            None => return Ok(()),
            Some(None) => return Err(LinkBenchError::Answer),
            Some(Some(None)) => {}
            Some(Some(Some((kind, payload)))) => line.send(kind, &payload)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn listen() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its number").to_string();
        (listener, address)
    }

    #[test]
    fn both_ends_agree() {
        let (listener, address) = listen();
        let server = std::thread::spawn(move || serve(&listener.accept().expect("a client").0));
        let link = measure(&address, Duration::from_millis(50)).expect("a link");
        assert!(link.round_trip_us_p50 > 0.0 && link.round_trip_us_p50 <= link.round_trip_us_p99);
        assert!(link.mb_per_s > 0.0);
        server.join().expect("no panic").expect("a client that ends in order");
    }

    #[test]
    fn strangers_are_told_apart() {
        let (listener, address) = listen();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.write_all(&[b'x'; 64]).expect("room");
            stream
        });
        let error = measure(&address, Duration::from_millis(10)).expect_err("no frames");
        assert!(matches!(error, LinkBenchError::Frame(_) | LinkBenchError::Broken(_)), "{error}");
        drop(server.join());
        let (listener, address) = listen();
        let server = std::thread::spawn(move || serve(&listener.accept().expect("a client").0));
        let mut stream = dial(&address).expect("it listens");
        stream.write_all(&encode_header_with(digest, Kind::MESSAGE, 0, 0, &[])).expect("room");
        assert!(matches!(server.join().expect("no panic"), Err(LinkBenchError::Answer)));
        let nobody = measure("127.0.0.1:1", Duration::ZERO).expect_err("nobody listens there");
        assert!(nobody.to_string().contains("llm bench --listen"), "{nobody}");
    }
}
