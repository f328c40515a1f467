//! The typist, the uploader, the long download and the web client that connects anew, each against what it must notice.

use std::{
    sync::atomic::Ordering,
    thread::sleep,
    time::{Duration, Instant},
};

use llm_tests::clients::{
    Cause, ClientKind, Limits, Outcome, Running,
    echo::{self, EchoOptions},
    http::{Digest, HttpClients, HttpOptions},
    stream::{self, StreamOptions},
    upload::{self, UploadOptions},
};

use super::{
    BODY, causes,
    fake_streams::{BulkFault, EchoFault, Leave, SinkFault, fake_bulk, fake_echo, fake_restart, fake_sink},
    fakes::{HttpFault, fake_http},
    limits,
};

const LONG: Duration = Duration::from_secs(5);
const LEAVES: [(Leave, &str); 3] =
    [(Leave::Reset, "reset"), (Leave::Close, "closed by the peer"), (Leave::Stall, "no reply for ")];

/// Runs until there are so many replies, or no connection is left.
fn run(clients: Running, replies: u64) -> Outcome {
    let progress = clients.progress();
    let began = Instant::now();
    while progress.snapshot().replies < replies && !clients.is_done() {
        assert!(began.elapsed() < Duration::from_secs(10), "stuck at {:?}", progress.snapshot());
        sleep(Duration::from_millis(1));
    }
    clients.stop().unwrap()
}

/// Lost, wrong, broken.
fn faults(outcome: &Outcome) -> (u64, u64, usize) {
    (outcome.lost_acked_writes, outcome.wrong_values, outcome.broken.len())
}

fn assert_clean(outcome: &Outcome, kind: ClientKind) {
    assert_eq!(outcome.kind, kind);
    assert_eq!((faults(outcome), outcome.errors), ((0, 0, 0), 0), "{:?}", outcome.findings);
    assert!(outcome.findings.is_empty(), "{:?}", outcome.findings);
    assert!(outcome.samples.iter().all(|s| s.ok && s.kind == kind));
}

fn type_at(fault: EchoFault, reply: Duration, replies: u64) -> Outcome {
    let options = EchoOptions {
        connections: 1,
        pace: Duration::from_millis(2),
        limits: Limits { reply, ..limits() },
        ..EchoOptions::new(fake_echo(fault))
    };
    run(echo::start(&options).unwrap(), replies)
}

#[test]
fn every_keystroke_comes_back() {
    let outcome = type_at(EchoFault::None, LONG, 300);
    assert_clean(&outcome, ClientKind::Echo);
    assert!(outcome.samples.len() >= 300, "more than the numbers that there are");
}

#[test]
fn keystrokes_go_on_while_echoes_stay_away_and_are_all_delayed() {
    let outcome = type_at(EchoFault::Pause(50, Duration::from_millis(200)), LONG, 300);
    assert_clean(&outcome, ClientKind::Echo);
    // The loop is open: what fell into the pause waited for its end.
    let late: Vec<u64> =
        outcome.samples.iter().map(|s| s.latency_ns / 1_000_000).filter(|ms| *ms > 50).collect();
    assert!(late.len() > 20 && late.iter().any(|ms| *ms >= 199), "{late:?}");
}

#[test]
fn a_keystroke_changed_skipped_or_doubled_is_wrong() {
    // A changed one is an echo of nothing, and its own never comes.
    for (fault, wrong) in [(EchoFault::Damage(40), 2), (EchoFault::Skip(40), 1), (EchoFault::Twice(40), 1)] {
        let outcome = type_at(fault, LONG, 200);
        assert_eq!(faults(&outcome), (0, wrong, 0), "{fault:?}: {:?}", outcome.findings);
    }
}

#[test]
fn a_broken_echo_is_noticed() {
    for (how, expected) in LEAVES {
        let outcome = type_at(EchoFault::Leave(40, how), limits().reply, 10_000);
        assert_eq!(faults(&outcome), (0, 0, 1), "{:?}", outcome.findings);
        let cause = causes(&outcome)[0].to_string();
        assert!(cause.starts_with(expected), "{how:?} gave {cause}");
        assert!(outcome.samples.len() < 40);
    }
}

fn upload_to(fault: SinkFault, bodies: u64) -> Outcome {
    let options = UploadOptions {
        body: 40_000,
        pace: Duration::ZERO,
        limits: limits(),
        ..UploadOptions::new(fake_sink(fault))
    };
    run(upload::start(&options).unwrap(), bodies)
}

#[test]
fn uploads_to_the_guests_own_sink_are_acknowledged_each() {
    let outcome = upload_to(SinkFault::None, 50);
    assert_clean(&outcome, ClientKind::Upload);
    assert!(outcome.acked_writes >= 50 && outcome.acked_writes == outcome.samples.len() as u64);
}

#[test]
fn a_forgotten_upload_is_lost_and_a_changed_one_wrong() {
    for (fault, expected) in [
        (SinkFault::Forget(5), (1, 0, 0)),
        (SinkFault::Twice(5), (0, 1, 0)),
        (SinkFault::Damage(5), (0, 1, 0)),
        (SinkFault::Short(5), (0, 1, 0)),
    ] {
        let outcome = upload_to(fault, 40);
        assert_eq!(faults(&outcome), expected, "{fault:?}: {:?}", outcome.findings);
    }
}

#[test]
fn a_broken_upload_is_noticed() {
    for (how, expected) in LEAVES {
        let outcome = upload_to(SinkFault::Leave(5, how), 10_000);
        assert_eq!(faults(&outcome), (0, 0, 1), "{:?}", outcome.findings);
        assert!(causes(&outcome)[0].to_string().starts_with(expected), "{how:?}: {:?}", outcome.broken);
        assert_eq!(outcome.acked_writes, 4, "the body without a receipt is no promise");
    }
    for fault in [SinkFault::Garbage(5), SinkFault::Endless(5)] {
        let outcome = upload_to(fault, 10_000);
        assert!(matches!(causes(&outcome)[0], Cause::Protocol(_)), "{fault:?}: {:?}", outcome.broken);
    }
}

#[test]
fn an_upload_that_nobody_takes_ends() {
    let options = UploadOptions {
        body: 64 << 20,
        chunk: 1 << 20,
        pace: Duration::ZERO,
        limits: limits(),
        ..UploadOptions::new(fake_sink(SinkFault::Clog(1)))
    };
    let outcome = run(upload::start(&options).unwrap(), 1);
    assert!(matches!(causes(&outcome)[..], [Cause::Timeout { waited_ms: 400.. }]), "{:?}", outcome.broken);
}

fn stream_options(fault: BulkFault) -> StreamOptions {
    let pace = Duration::from_millis(1);
    StreamOptions { pace, limits: limits(), ..StreamOptions::new(fake_bulk(fault).0) }
}

#[test]
fn a_long_download_is_right_byte_by_byte_and_over_several_bodies() {
    let outcome = run(stream::start(&stream_options(BulkFault::None)).unwrap(), 100);
    assert_clean(&outcome, ClientKind::Download);
    assert_eq!(outcome.renewed, 0);
    let short = StreamOptions { body: 100_001, ..stream_options(BulkFault::None) };
    let outcome = run(stream::start(&short).unwrap(), 50);
    assert_clean(&outcome, ClientKind::Download);
    assert!(outcome.renewed > 3, "{}", outcome.renewed);
}

#[test]
fn the_reader_sets_the_rate() {
    let (addr, sent) = fake_bulk(BulkFault::None);
    let options = StreamOptions { limits: limits(), ..StreamOptions::new(addr) };
    let began = Instant::now();
    let clients = stream::start(&options).unwrap();
    sleep(Duration::from_millis(500));
    let blocks = clients.progress().snapshot().replies;
    let time = began.elapsed();
    assert!(u128::from(blocks) <= time.as_millis() / 100 + 1, "{blocks} blocks within {time:?}");
    let read = blocks * options.block as u64;
    // The server's own buffer takes something too.
    let ahead = sent.load(Ordering::Relaxed) - read;
    assert!(ahead < 5 << 20, "{ahead} bytes ahead of its reader");
    let outcome = clients.stop().unwrap();
    let proof = outcome.samples.len() as u64 * options.block as u64 - read;
    assert!(proof >= 256 << 10, "{proof} bytes read at the end");
    assert_clean(&outcome, ClientKind::Download);
}

#[test]
fn a_changed_byte_of_a_download_is_wrong() {
    let outcome = run(stream::start(&stream_options(BulkFault::Damage(300_000))).unwrap(), 50);
    assert_eq!(faults(&outcome), (0, 1, 0), "{:?}", outcome.findings);
    assert!(outcome.findings[0].contains("byte at 299008"), "{:?}", outcome.findings);
    // What comes again shifts all that follows.
    let outcome = run(stream::start(&stream_options(BulkFault::Repeat(300_000))).unwrap(), 50);
    assert!(outcome.wrong_values > 10 && outcome.broken.is_empty(), "{:?}", outcome.findings);
}

#[test]
fn a_broken_download_is_noticed() {
    for (how, expected) in LEAVES {
        let outcome = run(stream::start(&stream_options(BulkFault::Leave(300_000, how))).unwrap(), 10_000);
        assert_eq!(faults(&outcome), (0, 0, 1), "{:?}", outcome.findings);
        assert!(causes(&outcome)[0].to_string().starts_with(expected), "{how:?}: {:?}", outcome.broken);
    }
    let outcome = run(stream::start(&stream_options(BulkFault::Refuse)).unwrap(), 10);
    assert!(matches!(causes(&outcome)[..], [Cause::Protocol(_)]), "{:?}", outcome.broken);
}

#[test]
fn a_download_that_stops_at_the_end_does_not_go_on() {
    // All that was on the way is read, and then nothing comes: only the proof at the end shows it.
    let fault = BulkFault::Leave(50_000, Leave::Stall);
    let options = StreamOptions {
        pace: Duration::from_millis(200),
        limits: Limits { reply: Duration::from_secs(60), ..limits() },
        ..StreamOptions::new(fake_bulk(fault).0)
    };
    let outcome = run(stream::start(&options).unwrap(), 2);
    assert!(matches!(causes(&outcome)[..], [Cause::Timeout { .. }]), "{:?}", outcome.broken);
}

fn connecting(addr: std::net::SocketAddr) -> HttpOptions {
    HttpOptions {
        keep_alive: false,
        connections: 1,
        pace: Duration::ZERO,
        limits: limits(),
        ..HttpOptions::new(addr, "/", Digest::of(BODY))
    }
}

#[test]
fn a_connection_never_established_breaks_no_promise() {
    let addr = fake_restart(BODY, 10, Duration::from_millis(350));
    let outcome = run(HttpClients::start(&connecting(addr)).unwrap().into(), 30);
    assert_eq!((outcome.kind, faults(&outcome)), (ClientKind::HttpNew, (0, 0, 0)), "{:?}", outcome.findings);
    assert!(outcome.not_opened > 0, "{:?}", outcome.findings);
    // Who asks for the page waits all the time that nobody listens.
    let longest = outcome.samples.iter().map(|s| s.latency_ns).max().unwrap();
    assert!(longest > 250_000_000, "{longest}");
}

#[test]
fn each_connection_that_was_established_and_broke_counts() {
    let addr = fake_http(BODY, HttpFault::Reset(20));
    let outcome = run(HttpClients::start(&connecting(addr)).unwrap().into(), 10_000);
    assert_eq!((outcome.samples.len(), faults(&outcome)), (19, (0, 0, 8)), "{:?}", outcome.findings);
}

#[test]
fn large_bodies_are_told_apart() {
    let large: &'static [u8] = vec![7; 64 << 10].leak();
    let options = HttpOptions::new(fake_http(large, HttpFault::None), "/64k", Digest::of(large));
    let outcome = run(HttpClients::start(&options).unwrap().into(), 20);
    assert_clean(&outcome, ClientKind::Http64k);
}
