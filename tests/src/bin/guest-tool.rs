//! Servers in the lab's guest that Debian has no small package for: an echo on TCP and UDP, a download whose content
//! is known, a sink for uploads (see `llm_tests::lab::sink`), and work whose progress can be measured (`llm_tests::lab::work`).
//!
//! `GET /BYTES` on the bulk port sends that many bytes of `llm_tests::lab::pattern`; any other path sends its default length.

use llm_tests::lab::{pattern, sink, work};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

fn main() -> io::Result<()> {
    // The unspecified IPv6 address takes IPv4 too.
    let echo = TcpListener::bind((Ipv6Addr::UNSPECIFIED, pattern::ECHO_PORT))?;
    let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, pattern::ECHO_PORT))?;
    let bulk = TcpListener::bind((Ipv6Addr::UNSPECIFIED, pattern::HTTP_PORT))?;
    let uploads = TcpListener::bind((Ipv6Addr::UNSPECIFIED, sink::PORT))?;
    let workers = TcpListener::bind((Ipv6Addr::UNSPECIFIED, work::PORT))?;
    thread::spawn(move || accept(&uploads, sink::serve));
    thread::spawn(move || accept(&workers, work::serve));
    thread::spawn(move || accept(&echo, echo_stream));
    thread::spawn(move || accept(&bulk, send_pattern));
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (count, from) = datagrams.recv_from(&mut buffer)?;
        // A datagram that cannot be sent back is lost, as datagrams are.
        let _ = datagrams.send_to(&buffer[..count], from);
    }
}

fn accept(listener: &TcpListener, serve: fn(TcpStream) -> io::Result<()>) {
    for connection in listener.incoming().flatten() {
        thread::spawn(move || {
            // The client left: nothing to tell anyone.
            let _ = serve(connection);
        });
    }
}

fn echo_stream(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = connection.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        connection.write_all(&buffer[..count])?;
    }
}

fn send_pattern(mut connection: TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or("/");
    let bytes: u64 = path.trim_start_matches('/').parse().unwrap_or(pattern::DOWNLOAD_BYTES);
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n"
    )?;
    let mut block = vec![0; 64 * 1024];
    let mut at = 0;
    while at < bytes {
        let count = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(block.len());
        pattern::fill(at, &mut block[..count]);
        connection.write_all(&block[..count])?;
        at += count as u64;
    }
    Ok(())
}
