//! Peers that are none: garbage, and other versions of the protocol.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use llm_core::frame::{self, Header, Kind, Parser, encode_header};
use llm_core::replication::{
    Hello, MESSAGE_MAX, Message, Mode, PROTOCOL_MAX, PROTOCOL_MIN, Path, Refusal, RefuseReason,
};

use super::{OPTIONS, SOON, Tour, here};
use crate::lab::{Link, guest};
use crate::scenario::{Result, ScenarioError, backup_address, ensure, session_status, wait_primary};

/// What the other version speaks.
const OTHER: (u16, u16) = (99, 100);

/// Connections that send no protocol of ours, or another version, are refused and disturb nothing.
pub(super) fn garbage(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    let before = wait_primary(tour.lab, host, &["protected"], SOON)?;
    let address = backup_address(1 - host);

    let hello = message(&Message::Hello(Hello {
        min: OTHER.0,
        max: OTHER.1,
        features: 0,
        session: 7,
        resume: None,
        path: Path::Control,
        mode: Mode::Remus,
        domain: guest::NAME.parse().map_err(|_| broken("the guest's name is too long"))?,
        interval_ms: 200,
        detect_ms: 2000,
        heartbeat_ms: 200,
        shadow_pages: 1000,
        sent: 1,
    }))?;
    let mut other_frame = hello.clone();
    let (header, _) = other_frame.split_first_chunk_mut().ok_or_else(|| broken("a short frame"))?;
    let mut other = Header::parse(header).ok_or_else(|| broken("our own header cannot be read"))?;
    other.version ^= 0x55;
    *header = other.to_bytes();
    let mut noise = vec![0; 100_000];
    crate::lab::pattern::fill(0, &mut noise);

    tour.lab.in_netns(|| {
        for (what, bytes) in [("noise", &noise), ("a frame of another version", &other_frame)] {
            let answer = ask(&address, bytes)?;
            let refused = answer.is_none_or(|m| matches!(m, Message::Refuse(_)));
            ensure(refused, || format!("{what} was not refused"))?;
        }
        match ask(&address, &hello)? {
            Some(Message::Refuse(r)) => {
                ensure(r.reason == RefuseReason::Version, || {
                    format!("another version was refused with {r:?}")
                })?;
                let words = r.to_string();
                let told = [OTHER.0, OTHER.1, PROTOCOL_MIN, PROTOCOL_MAX].map(|v| v.to_string());
                ensure(told.iter().all(|v| words.contains(v)), || {
                    format!("not all versions are named: {words}")
                })
            }
            other => Err(broken(&format!("another version was answered with {other:?}"))),
        }
    })??;

    tour.epochs_go_on(host, 5)?;
    let after = wait_primary(tour.lab, host, &["protected"], SOON)?;
    ensure((after.backup_losses, after.pid) == (before.backup_losses, before.pid), || {
        format!("the protection was disturbed: {after:?}")
    })?;
    let session = session_status(tour.lab, 1 - host)?.unwrap_or_default();
    // A new session would count anew.
    ensure(session.epochs_committed >= before.epochs_committed, || format!("another session: {session:?}"))?;
    tour.judge(clients)
}

/// A backup of another version: `llm protect` says which, and gives in.
pub(super) fn other_version(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.unprotected()?;
    let address = format!("{}:7709", Link::Replication.own_address());
    let listener = tour.lab.in_netns(|| TcpListener::bind(&address))?;
    let listener = here("listen as a backup", listener)?;
    here("listen as a backup", listener.set_nonblocking(true))?;
    let mut refusal =
        Refusal::new(RefuseReason::Version, format_args!("primary speaks {PROTOCOL_MIN} to {PROTOCOL_MAX}"));
    (refusal.min, refusal.max) = OTHER;
    let refusal = message(&Message::Refuse(refusal))?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.write_all(&refusal);
                    // Reads what comes, so that the close is no reset.
                    let _ = stream.set_nonblocking(false);
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                    while stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {}
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let command = format!("timeout 60 llm protect {} --to {address}", guest::NAME);
        let words = ["version", "backup speaks 99 to 100", "primary speaks"];
        let result = tour.refused(host, &command, 5, &words);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        result
    })?;
    tour.on_its_bridge(host)
}

/// The first message in reply to `bytes`, if one comes before the connection ends.
fn ask(address: &str, bytes: &[u8]) -> Result<Option<Message>> {
    let mut stream = here("connect to the backup", TcpStream::connect(address))?;
    here("set a time-out", stream.set_read_timeout(Some(Duration::from_secs(20))))?;
    // It may well close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut parser = Parser::new(vec![0; frame::HEADER + 8192], 4096).map_err(|e| broken(&e.to_string()))?;
    loop {
        match parser.next_frame() {
            Ok(Some(frame)) => {
                return Message::decode(frame.payload).map(Some).map_err(|e| broken(&e.to_string()));
            }
            Ok(None) => {}
            Err(error) => return Err(broken(&format!("the backup sent a bad frame: {error}"))),
        }
        match stream.read(parser.space()) {
            Ok(0) => return Ok(None),
            Ok(n) => parser.advance(n),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(e) => return here("read what the backup says", Err(e)),
        }
    }
}

/// A message in its frame.
fn message(message: &Message) -> Result<Vec<u8>> {
    let mut buffer = [0; MESSAGE_MAX];
    let payload = message.encode(&mut buffer).map_err(|e| broken(&e.to_string()))?;
    Ok([&encode_header(Kind::MESSAGE, 0, 0, payload)[..], payload].concat())
}

fn broken(what: &str) -> ScenarioError {
    ScenarioError::Broken(what.into())
}
