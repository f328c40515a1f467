//! Traffic between two namespaces whose content is checked to the last byte.

use super::lab::{Lab, address, spawn_in};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const BLOCK: usize = 64 * 1024;
const TIMEOUT: Duration = Duration::from_secs(30);

/// A stream of bytes that both ends can make (xorshift64).
struct Pattern(u64);

impl Pattern {
    fn fill(&mut self, block: &mut [u8]) {
        for chunk in block.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Sends `bytes` (rounded up to whole blocks) over one connection, from `from` to a listener in `to`, and compares
/// what arrives with what was sent.
pub(crate) fn tcp(from: &str, to: &str, listen: &str, bytes: u64) {
    let at = address(listen);
    let blocks = bytes.div_ceil(BLOCK as u64);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let receiver = spawn_in(to, move || {
        let listener = TcpListener::bind(at).unwrap();
        ready.send(()).unwrap();
        let mut stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let (mut got, mut want, mut pattern) = (vec![0; BLOCK], vec![0; BLOCK], Pattern(1));
        for n in 0..blocks {
            stream.read_exact(&mut got).unwrap_or_else(|e| panic!("block {n} of {blocks}: {e}"));
            pattern.fill(&mut want);
            assert!(got == want, "block {n} of {blocks} differs");
        }
        assert_eq!(stream.read(&mut got).unwrap(), 0, "more arrived than was sent");
    });
    is_ready.recv().unwrap();
    let sender = spawn_in(from, move || {
        let mut stream = TcpStream::connect_timeout(&at, TIMEOUT).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        let (mut block, mut pattern) = (vec![0; BLOCK], Pattern(1));
        for _ in 0..blocks {
            pattern.fill(&mut block);
            stream.write_all(&block).unwrap();
        }
    });
    sender.join().unwrap();
    receiver.join().unwrap();
}

/// Datagrams of several sizes, fragmented ones included, from the guest to the client and back.
pub(crate) fn udp_echo(lab: &Lab, listen: &str) {
    let at = address(listen);
    let sizes = [0, 1, 17, 1472, 1473, 9000];
    let (ready, is_ready) = std::sync::mpsc::channel();
    let echo = spawn_in(&lab.client(), move || {
        let socket = UdpSocket::bind(at).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        ready.send(()).unwrap();
        let mut buf = vec![0; BLOCK];
        for _ in sizes {
            let (n, peer) = socket.recv_from(&mut buf).unwrap();
            socket.send_to(&buf[..n], peer).unwrap();
        }
    });
    is_ready.recv().unwrap();
    spawn_in(&lab.guest(), move || {
        let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        socket.connect(at).unwrap();
        let mut buf = vec![0; BLOCK];
        for size in sizes {
            let mut sent = vec![0; size];
            Pattern(size as u64 + 1).fill(&mut sent);
            socket.send(&sent).unwrap();
            let n = socket.recv(&mut buf).unwrap();
            assert!(buf[..n] == sent[..], "datagram of {size} bytes");
        }
    })
    .join()
    .unwrap();
    echo.join().unwrap();
}

/// An IPv4 header and a UDP datagram to nobody, its checksum left to the hardware.
pub(crate) fn udp_with_partial_checksum() -> ([u8; 20], Vec<u8>) {
    let ip = [0x45, 0, 0, 68, 0, 1, 0x40, 0, 64, 17, 0x26, 0x0a, 10, 77, 0, 2, 10, 77, 0, 3];
    let udp = [&[0x1f, 0x90, 0x1f, 0x91, 0, 48, 0x14, 0xe0][..], &[b'x'; 40]].concat();
    (ip, udp)
}
