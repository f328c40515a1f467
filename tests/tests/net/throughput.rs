//! Figures for docs/network.md; run by hand.

use super::lab::{Lab, run_in, skip_without_root};
use super::{start_open, traffic};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

#[test]
#[ignore = "a measurement, not a test"]
fn measure() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    let row = |name: &str| {
        let out = stream(&lab.guest(), &lab.client(), "10.77.0.3:7000");
        let back = stream(&lab.client(), &lab.guest(), "10.77.0.2:7000");
        let delay = round_trip(&lab, "10.77.0.3:7000");
        println!(
            "{name:24} guest sends {out:6.0} MB/s, guest receives {back:6.0} MB/s, round trip {delay:6.1} us"
        );
    };
    row("kernel bridge");
    let joined = start_open(&lab);
    row("joint, passing through");
    println!("{:?}", joined.joint.stats());
    traffic::tcp(&lab.guest(), &lab.client(), "10.77.0.3:7000", 1_000_000);
}

/// CPU time to read packets one by one into place, and by the batch into slots from which they are copied.
#[test]
#[ignore = "a measurement, not a test"]
fn reading() {
    if skip_without_root() {
        return;
    }
    const SLOT: usize = 66 * 1024;
    let lab = Lab::quiet();
    for (name, count, size) in [("small", 20_000, 60), ("full", 20_000, 1500), ("64 KiB", 1_000, 65_000)] {
        let mut results = [0.0; 2];
        for _ in 0..5 {
            for (batch, result) in [1, 32].into_iter().zip(&mut results) {
                let ns = drain(&lab, count, size, batch, SLOT);
                *result = if *result == 0.0 { ns } else { ns.min(*result) };
            }
        }
        println!(
            "{name:8} one by one {:6.0} ns a packet, 32 at once and copied {:6.0} ns",
            results[0], results[1]
        );
    }
}

/// Nanoseconds of CPU a packet, of `count` that wait in the socket.
fn drain(lab: &Lab, count: usize, size: usize, batch: usize, slot: usize) -> f64 {
    let reader = run_in(&lab.host(), || super::RawSocket::open_with_offload(super::VIF).unwrap());
    reader.widen();
    let sender = run_in(&lab.guest(), || super::RawSocket::open_with_offload("eth0").unwrap());
    // TCP over IPv4 with segments of 1448 bytes where it is too long for one frame.
    let mut packet = vec![0_u8; 10 + size.max(60)];
    if size > 1514 {
        packet[..10].copy_from_slice(&[1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0]);
    }
    packet[10..16].fill(0xff);
    packet[22..24].copy_from_slice(&[8, 0]);
    packet[24] = 0x45;
    packet[26..28].copy_from_slice(&u16::try_from(size.max(60) - 14).unwrap().to_be_bytes());
    packet[33] = 6;
    packet[56] = 0x50;
    for _ in 0..count {
        sender.send(&packet);
    }
    let mut slots = vec![0_u8; batch * slot];
    let mut arena = vec![0_u8; 1 << 20];
    let (mut read, mut at) = (0, 0);
    let start = cpu_time();
    loop {
        let mut vectors: Vec<_> = slots
            .chunks_mut(slot)
            .map(|s| libc::iovec { iov_base: s.as_mut_ptr().cast(), iov_len: slot })
            .collect();
        let n = reader.receive_many(&mut vectors);
        if n == 0 {
            break;
        }
        read += n;
        if batch > 1 {
            for s in slots.chunks(slot).take(n) {
                at = if at + packet.len() > arena.len() { 0 } else { at };
                arena[at..at + packet.len()].copy_from_slice(&s[..packet.len()]);
                at += packet.len();
            }
        }
    }
    let spent = cpu_time() - start;
    assert!(read >= count, "{read} of {count} packets were there");
    std::hint::black_box(&arena);
    spent * 1e9 / read as f64
}

/// Seconds that this thread had a CPU.
fn cpu_time() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

/// Megabytes a second of one TCP connection over two seconds.
fn stream(from: &str, to: &str, at: &'static str) -> f64 {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let receiver = super::lab::spawn_in(to, move || {
        let listener = TcpListener::bind(at).unwrap();
        ready.send(()).unwrap();
        let mut stream = listener.accept().unwrap().0;
        let (mut buf, mut total, start) = (vec![0; 1 << 20], 0, Instant::now());
        loop {
            match stream.read(&mut buf).unwrap() {
                0 => return total as f64 / start.elapsed().as_secs_f64() / 1e6,
                n => total += n,
            }
        }
    });
    is_ready.recv().unwrap();
    run_in(from, move || {
        let mut stream = TcpStream::connect(at).unwrap();
        let (buf, start) = (vec![0; 1 << 20], Instant::now());
        while start.elapsed().as_secs() < 2 {
            stream.write_all(&buf).unwrap();
        }
    });
    receiver.join().unwrap()
}

/// Median microseconds of a byte there and back.
fn round_trip(lab: &Lab, at: &'static str) -> f64 {
    const ROUNDS: usize = 5000;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let echo = super::lab::spawn_in(&lab.client(), move || {
        let listener = TcpListener::bind(at).unwrap();
        ready.send(()).unwrap();
        let mut stream = listener.accept().unwrap().0;
        stream.set_nodelay(true).unwrap();
        for _ in 0..ROUNDS {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(&byte).unwrap();
        }
    });
    is_ready.recv().unwrap();
    let mut times = run_in(&lab.guest(), move || {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_nodelay(true).unwrap();
        (0..ROUNDS)
            .map(|_| {
                let start = Instant::now();
                stream.write_all(&[1]).unwrap();
                stream.read_exact(&mut [0]).unwrap();
                start.elapsed().as_secs_f64() * 1e6
            })
            .collect::<Vec<_>>()
    });
    echo.join().unwrap();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}
