//! More than the path can carry: a flood of datagrams, and connections that check every byte meanwhile.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::load::connect_echo;
use super::world::{GUEST, World};
use super::{counters, load};

const PORT: u16 = 7003;
/// Bytes of a datagram.
const DATAGRAM: usize = 1400;
/// Connections beside the flood.
const CONNECTIONS: usize = 4;
/// Bytes that a connection has under way at most: each of its threads is ahead of the other by what sockets hold.
const BLOCK: usize = 16 * 1024;
/// After the flood, for what still waits somewhere.
const SETTLE: Duration = Duration::from_millis(500);

/// Datagrams that the guest has got.
static GOT: AtomicU64 = AtomicU64::new(0);

/// What became of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Overload {
    /// Datagrams sent a second.
    pub(super) datagrams: f64,
    /// Of these, which share arrived.
    pub(super) arrived: f64,
    /// Packets that were dropped and counted on their way, those of connections included.
    pub(super) dropped: f64,
    /// Datagrams that neither arrived nor can be among these.
    pub(super) unexplained: f64,
    /// Bytes that connections sent and got back, a second.
    pub(super) echoed: f64,
    /// Bytes that were acknowledged and did not come back, or came back wrong.
    pub(super) lost: f64,
    /// Microseconds of a request when the flood is over.
    pub(super) after: f64,
}

/// Counts datagrams in the guest's place. It goes on as long as this process.
pub(super) fn serve(world: &World) -> crate::lab::Result<io::Result<()>> {
    world.guest.enter(|| {
        let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
        std::thread::spawn(move || {
            let mut buffer = [0; DATAGRAM];
            while socket.recv(&mut buffer).is_ok() {
                GOT.fetch_add(1, Relaxed);
            }
        });
        Ok(())
    })
}

/// Floods the guest for that time.
pub(super) fn run(world: &World, lasts: Duration) -> crate::lab::Result<io::Result<Overload>> {
    let (got, dropped) = (GOT.load(Relaxed), counters::lost_on_the_way(world)?);
    let flooded = world.client.enter(|| flood(lasts))?;
    std::thread::sleep(SETTLE);
    let (got, dropped) = (GOT.load(Relaxed) - got, counters::lost_on_the_way(world)? - dropped);
    let after = world.client.enter(|| load::paced(Duration::from_millis(1), SETTLE))?;
    Ok(flooded.and_then(|(sent, echoed, lost)| {
        Ok(Overload {
            datagrams: sent as f64 / lasts.as_secs_f64(),
            arrived: got as f64 / sent.max(1) as f64 * 100.0,
            dropped: dropped as f64,
            unexplained: sent.saturating_sub(got + dropped) as f64,
            echoed: echoed as f64 / lasts.as_secs_f64() / 1e6,
            lost: lost as f64,
            after: after?.p50,
        })
    }))
}

/// Datagrams sent; bytes that came back, and bytes that did not, or wrong.
fn flood(lasts: Duration) -> io::Result<(u64, u64, u64)> {
    let end = Instant::now() + lasts;
    std::thread::scope(|scope| {
        let checks: Vec<_> = (0..CONNECTIONS).map(|i| scope.spawn(move || check(i as u64, end))).collect();
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((GUEST, PORT))?;
        let mut sent = 0;
        while Instant::now() < end {
            // What the sender's own queue does not take was not sent.
            sent += u64::from(socket.send(&[0x5a; DATAGRAM]).is_ok());
        }
        let (mut echoed, mut lost) = (0, 0);
        for thread in checks {
            let (back, gone) = thread.join().map_err(|_| io::ErrorKind::Other)??;
            (echoed, lost) = (echoed + back, lost + gone);
        }
        Ok((sent, echoed, lost))
    })
}

/// Sends numbers until `end` and reads them back: bytes that came back, and those that did not, or wrong.
fn check(seed: u64, end: Instant) -> io::Result<(u64, u64)> {
    let stream = connect_echo()?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&stream, seed, end));
        let (right, wrong) = read(&stream, seed)?;
        let sent = writer.join().map_err(|_| io::ErrorKind::Other)??;
        Ok((right, wrong + sent.saturating_sub(right + wrong)))
    })
}

fn write(mut stream: &TcpStream, seed: u64, end: Instant) -> io::Result<u64> {
    let (mut sent, mut block) = (0, vec![0; BLOCK]);
    while Instant::now() < end {
        for (i, byte) in block.iter_mut().enumerate() {
            *byte = pattern(seed, sent + i as u64);
        }
        stream.write_all(&block)?;
        sent += BLOCK as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(sent)
}

/// Bytes that were right, and wrong, until the other end closed.
fn read(mut stream: &TcpStream, seed: u64) -> io::Result<(u64, u64)> {
    let (mut at, mut wrong, mut block) = (0_u64, 0, vec![0; BLOCK]);
    loop {
        let n = stream.read(&mut block)?;
        if n == 0 {
            return Ok((at - wrong, wrong));
        }
        for byte in &block[..n] {
            wrong += u64::from(*byte != pattern(seed, at));
            at += 1;
        }
    }
}

/// No two places near each other look alike.
fn pattern(seed: u64, at: u64) -> u8 {
    ((at / 251).wrapping_add(at).wrapping_add(seed * 31) % 256) as u8
}
