//! The ring between two processes: a memfd, eventfds, and both ends asleep again and again.

use std::hint::black_box;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use llm_core::ring::{Consumer, Producer, ReserveError, RingError, Wake, format};
use llm_dom0::embedded::eventfd::Eventfds;
use llm_dom0::embedded::memfd::MemfdPages;
use llm_dom0::embedded::pass;
use llm_dom0::shared::{EventChannel, RingPages, SharedPages};

/// Data pages of each ring: few, so that both ends wait often.
const DATA: usize = 3;
/// Longest record.
const MAX: usize = 5000;
const RECORDS: u64 = 20_000;
/// A wake-up that takes that long is lost.
const LOST: Duration = Duration::from_secs(60);

/// Both directions, and the channel that serves both.
struct Link {
    out: Producer<RingPages>,
    back: Consumer<RingPages>,
    channel: Eventfds,
}

impl Link {
    fn notify(&self, wake: Wake) {
        if wake.peer() {
            self.channel.notify().unwrap();
        }
    }

    fn sleep(&self) {
        assert!(self.channel.wait(Some(LOST)).unwrap(), "a wake-up was lost");
    }

    fn send(&mut self, bytes: &[u8]) -> bool {
        match self.out.reserve(bytes.len()).unwrap() {
            Some(mut record) => {
                record.write_at(0, bytes).unwrap();
                record.commit();
                true
            }
            None => false,
        }
    }
}

/// The other process, started with the socket that `peer` finds as its standard input.
fn start(test: &str) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--ignored", "--nocapture"])
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
    (command.spawn().unwrap(), ours)
}

/// Makes both rings and the channel, and sends them to the peer.
fn link_to(socket: &UnixStream) -> Link {
    let (out, back) = (MemfdPages::new(DATA).unwrap(), MemfdPages::new(DATA).unwrap());
    let (channel, theirs) = Eventfds::pair().unwrap();
    let [own, peer] = theirs.fds();
    let fds = [out.as_fd().try_clone_to_owned().unwrap(), back.as_fd().try_clone_to_owned().unwrap()];
    let (out, back) = (out.map().unwrap(), back.map().unwrap());
    format(&out).unwrap();
    format(&back).unwrap();
    pass::send(socket, &[fds[0].as_fd(), fds[1].as_fd(), own, peer]).unwrap();
    Link { out: Producer::attach(out, MAX).unwrap(), back: Consumer::attach(back, MAX).unwrap(), channel }
}

/// Takes what `link_to` has sent, and maps it once instead of twice.
fn link_from(socket: &UnixStream) -> Link {
    let [out, back, own, peer] = pass::receive(socket).unwrap();
    let map = |fd| MemfdPages::from_peer(fd, DATA).unwrap().once().map().unwrap();
    let (out, back) = (map(out), map(back));
    Link {
        out: Producer::attach(back, MAX).unwrap(),
        back: Consumer::attach(out, MAX).unwrap(),
        channel: Eventfds::new(own, peer),
    }
}

fn stdin() -> UnixStream {
    io::stdin().as_fd().try_clone_to_owned().unwrap().into()
}

fn payload(number: u64) -> Vec<u8> {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let len = match number % 4 {
        0 => mixed % 9,
        1 => mixed % (MAX as u64 + 1),
        _ => mixed % 200,
    };
    (0..len).map(|i| (mixed >> (i % 8 * 8)) as u8 ^ i as u8).collect()
}

#[test]
fn another_process_sends_everything_back() {
    let (mut child, socket) = start("echo");
    let mut link = link_to(&socket);
    let (mut sent, mut received, mut slept) = (0, 0, 0);
    let mut copy = vec![0; MAX];
    while received < RECORDS {
        while sent < RECORDS && link.send(&payload(sent)) {
            sent += 1;
        }
        let wake = link.out.publish();
        link.notify(wake);
        while let Some(record) = link.back.next().unwrap() {
            assert_eq!(record.copy_to(&mut copy).unwrap(), payload(received), "record {received}");
            received += 1;
        }
        let full = sent == RECORDS || {
            let wait = link.out.wait(payload(sent).len()).unwrap();
            link.notify(wait.wake);
            wait.sleep
        };
        let wait = link.back.wait().unwrap();
        link.notify(wait.wake);
        if full && wait.sleep && received < RECORDS {
            slept += 1;
            link.sleep();
        }
    }
    assert!(slept > 10, "the test is to sleep, but did so {slept} times");
    link.channel.notify().unwrap();
    assert_eq!(link.out.close(), Wake::Peer);
    link.channel.notify().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(link.back.next().unwrap_err(), RingError::Closed);
    println!("{RECORDS} records there and back, {slept} sleeps");
}

/// The other process of the test above.
#[test]
#[ignore = "needs a peer on its standard input"]
fn echo() {
    let mut link = link_from(&stdin());
    let mut copy = vec![0; MAX];
    loop {
        let len = match link.back.next() {
            Ok(Some(record)) => record.copy_to(&mut copy).unwrap().len(),
            Ok(None) => {
                let wake = link.out.publish();
                link.notify(wake);
                match link.back.wait() {
                    Ok(wait) => {
                        link.notify(wait.wake);
                        if wait.sleep {
                            link.sleep();
                        }
                        continue;
                    }
                    Err(error) => break assert_eq!(error, RingError::Closed),
                }
            }
            Err(error) => break assert_eq!(error, RingError::Closed),
        };
        while !link.send(&copy[..len]) {
            // What was read may be what the peer waits for.
            let wake = link.back.release();
            link.notify(wake);
            let wait = link.out.wait(len).unwrap();
            link.notify(wait.wake);
            if wait.sleep {
                link.sleep();
            }
        }
    }
    let Link { out, channel, .. } = link;
    let _ = out.close();
    channel.notify().unwrap();
}

#[test]
fn a_process_that_spoils_the_ring_is_found_out() {
    let (mut child, socket) = start("spoil");
    let mut link = link_to(&socket);
    let error = loop {
        match link.back.wait() {
            Ok(wait) if wait.sleep => link.sleep(),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, RingError::Index { got: u64::MAX, .. }), "{error}");
    assert_eq!(link.back.next().unwrap_err(), error);
    assert!(link.out.reserve(MAX).unwrap().is_some(), "the other ring goes on");
    assert_eq!(
        link.out.reserve(MAX + 1).unwrap_err(),
        ReserveError::TooLong { len: MAX + 1, max: MAX as u32 }
    );
    assert!(child.wait().unwrap().success());
}

/// The other process of the test above.
#[test]
#[ignore = "needs a peer on its standard input"]
fn spoil() {
    use llm_core::ring::{Field, Memory};
    let [_out, back, _own, peer] = pass::receive(&stdin()).unwrap();
    let memory = MemfdPages::from_peer(back, DATA).unwrap().map().unwrap();
    memory.store(Field::ProducerIndex, u64::MAX, std::sync::atomic::Ordering::Release);
    Eventfds::new(_own, peer).notify().unwrap();
}

/// `cargo test --release -p llm-dom0 --test ring -- --ignored --nocapture throughput`
#[test]
#[ignore = "a measurement"]
fn throughput() {
    const TOTAL: usize = 1 << 31;
    println!("{:>8} {:>14} {:>14} {:>14}", "record", "ring, GB/s", "memcpy, GB/s", "ring, ns each");
    for len in [16, 64, 256, 1024, 4096, 16384, 65536] {
        let pages = MemfdPages::new(64).unwrap();
        let twice =
            MemfdPages::from_peer(pages.as_fd().try_clone_to_owned().unwrap(), 64).unwrap().map().unwrap();
        let memory = pages.map().unwrap();
        format(&memory).unwrap();
        let (mut producer, mut consumer) =
            (Producer::attach(memory, len).unwrap(), Consumer::attach(twice, len).unwrap());
        let (from, mut to) = (vec![1; len], vec![0; len]);
        let batch = (128 * 1024 / len).max(1);
        let rounds = TOTAL / 8 / (batch * (len + 64));
        let start = Instant::now();
        for _ in 0..rounds {
            for _ in 0..batch {
                let mut record = producer.reserve(len).unwrap().unwrap();
                record.write_at(0, black_box(&from)).unwrap();
                record.commit();
            }
            let _ = producer.publish();
            while let Some(record) = consumer.next().unwrap() {
                black_box(record.copy_to(&mut to).unwrap());
            }
            let _ = consumer.release();
        }
        let ring = start.elapsed().as_secs_f64();

        // The same two copies through a buffer of the same size, and nothing else.
        let mut buffer = vec![0; 64 * 4096];
        let start = Instant::now();
        let mut at = 0;
        for _ in 0..rounds {
            let first = at;
            for _ in 0..batch {
                at = if at + 2 * len > buffer.len() { 0 } else { at + len };
                buffer[at..at + len].copy_from_slice(black_box(&from));
            }
            at = first;
            for _ in 0..batch {
                at = if at + 2 * len > buffer.len() { 0 } else { at + len };
                to.copy_from_slice(black_box(&buffer[at..at + len]));
                black_box(&to);
            }
        }
        let memcpy = start.elapsed().as_secs_f64();
        let count = (rounds * batch) as f64;
        let rate = |seconds: f64| count * len as f64 / seconds / 1e9;
        println!("{len:>8} {:>14.2} {:>14.2} {:>14.1}", rate(ring), rate(memcpy), ring / count * 1e9);
    }
}
