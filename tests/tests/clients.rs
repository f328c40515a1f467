//! The clients against servers that misbehave in every way they must notice.

#[path = "clients/fake_streams.rs"]
mod fake_streams;
#[path = "clients/fakes.rs"]
mod fakes;
#[path = "clients/streams.rs"]
mod streams;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use fakes::{HttpFault, RedisFault, fake_http, fake_redis};
use llm_tests::clients::{
    Cause, ClientError, ClientKind, Limits, Marks, Outcome, Setup, Stop, Timeline,
    download::{DownloadOptions, download},
    http::{Digest, HttpClients, HttpOptions},
    now_ns,
    redis::{RedisClients, RedisOptions},
};

const BODY: &[u8] = b"<html>a page of the guest</html>";

fn limits() -> Limits {
    let short = Duration::from_millis(400);
    Limits { reply: short, drain: short, run: Duration::from_secs(20), ..Limits::default() }
}

fn redis_options(fault: RedisFault) -> RedisOptions {
    RedisOptions {
        connections: 2,
        pace: Duration::ZERO,
        keys: 500,
        read_back_every: 8,
        limits: limits(),
        ..RedisOptions::new(fake_redis(fault))
    }
}

/// Runs until about `writes` are acknowledged or no connection is left, then reads back.
fn write(options: &RedisOptions, writes: u64) -> Outcome {
    let clients = RedisClients::start(options).unwrap();
    let progress = clients.progress();
    let began = Instant::now();
    while progress.snapshot().acked_writes < writes && !clients.is_done() {
        assert!(began.elapsed() < Duration::from_secs(10), "stuck at {:?}", progress.snapshot());
        sleep(Duration::from_millis(1));
    }
    clients.stop().unwrap().verify().unwrap()
}

fn causes(outcome: &Outcome) -> Vec<&Cause> {
    outcome.broken.iter().map(|b| &b.cause).collect()
}

#[test]
fn a_faithful_server_is_found_without_fault() {
    for (depth, kind) in [(1, ClientKind::Redis), (16, ClientKind::RedisPipelined)] {
        let options = RedisOptions { depth, ..redis_options(RedisFault::None) };
        let outcome = write(&options, 3000);
        assert!(outcome.acked_writes >= 3000, "depth {depth}");
        assert_eq!((outcome.lost_acked_writes, outcome.wrong_values), (0, 0), "{:?}", outcome.findings);
        assert_eq!((outcome.errors, outcome.broken.len()), (0, 0), "{:?}", outcome.findings);
        assert!(outcome.samples.len() as u64 > outcome.acked_writes, "reads are sampled too");
        assert!(outcome.samples.iter().all(|s| s.ok && s.kind == kind));
    }
}

#[test]
fn one_lost_write_is_found_at_the_end() {
    // Without reading on the way, and without the counter: only the verification can see it.
    for depth in [1, 16] {
        let blind = redis_options(RedisFault::LoseSet(40));
        let outcome = write(&RedisOptions { depth, read_back_every: 0, increments: false, ..blind }, 200);
        assert_eq!((outcome.lost_acked_writes, outcome.wrong_values), (1, 0), "{:?}", outcome.findings);
        assert!(outcome.findings[0].contains("found nothing"), "{:?}", outcome.findings);
    }
}

#[test]
fn a_rollback_under_an_unbroken_connection_is_found() {
    // What a failover without output commit does: the state goes back, the connection goes on.
    for depth in [1, 16] {
        let fault = RedisFault::Rollback { from: 300, to: 200 };
        let options = RedisOptions { connections: 1, depth, ..redis_options(fault) };
        let outcome = write(&options, 600);
        assert!(outcome.broken.is_empty());
        // Of the 100 commands undone 1 in 9 only reads; each other was an acknowledged write.
        assert!((80..=100).contains(&outcome.lost_acked_writes), "depth {depth}: {:?}", outcome.findings);
    }
}

#[test]
fn a_damaged_value_and_a_double_execution_are_wrong() {
    for depth in [1, 16] {
        for fault in [RedisFault::Damage(40), RedisFault::DoubleIncrement(40)] {
            let outcome = write(&RedisOptions { depth, ..redis_options(fault) }, 300);
            assert_eq!((outcome.lost_acked_writes, outcome.wrong_values), (0, 1), "{:?}", outcome.findings);
        }
    }
}

#[test]
fn a_refused_write_is_neither_acknowledged_nor_lost() {
    let outcome = write(&redis_options(RedisFault::Refuse(40)), 300);
    assert_eq!(outcome.errors, 1);
    assert_eq!((outcome.lost_acked_writes, outcome.wrong_values, outcome.broken.len()), (0, 0, 0));
    assert_eq!(outcome.samples.iter().filter(|s| !s.ok).count(), 1);
}

#[test]
fn a_broken_connection_is_recorded_and_never_replaced() {
    for depth in [1, 16] {
        for (fault, expected) in [
            (RedisFault::Reset(50), "reset"),
            (RedisFault::Close(50), "closed by the peer"),
            (RedisFault::Stall(50), "no reply for 4"),
            (RedisFault::Garbage(50), "protocol violated"),
        ] {
            let options = RedisOptions { connections: 1, depth, ..redis_options(fault) };
            let outcome = write(&options, 10_000);
            assert_eq!(outcome.broken.len(), 1, "{fault:?}");
            let cause = causes(&outcome)[0].to_string();
            assert!(cause.starts_with(expected), "{fault:?} gave {cause}");
            assert!(outcome.acked_writes < 60, "{fault:?}: it went on after the break");
            // The write whose reply never came may have happened or not; neither is a fault.
            assert_eq!((outcome.lost_acked_writes, outcome.wrong_values), (0, 0), "{:?}", outcome.findings);
        }
    }
}

#[test]
fn a_reply_still_missing_at_the_stop_breaks_the_connection() {
    let mut options = redis_options(RedisFault::Stall(50));
    options.limits.reply = Duration::from_secs(60);
    let clients = RedisClients::start(&options).unwrap();
    sleep(Duration::from_millis(300));
    let outcome = clients.stop().unwrap().verify().unwrap();
    assert!(matches!(causes(&outcome)[..], [Cause::Timeout { .. }]), "{:?}", outcome.broken);
}

#[test]
fn an_outage_that_ends_is_measured_and_breaks_nothing() {
    let pause = Duration::from_millis(350);
    let options = RedisOptions {
        pace: Duration::from_millis(1),
        limits: Limits { reply: Duration::from_secs(5), ..limits() },
        ..redis_options(RedisFault::Pause(200, pause))
    };
    let started_ns = now_ns();
    let clients = RedisClients::start(&options).unwrap();
    let progress = clients.progress();
    // The server pauses at its 200th command; the mark comes a little before, as a kill's would.
    while progress.snapshot().replies < 190 {
        sleep(Duration::from_micros(200));
    }
    let failed_ns = now_ns();
    sleep(Duration::from_millis(700));
    let ended_ns = now_ns();
    let outcome = clients.stop().unwrap().verify().unwrap();
    assert!(outcome.broken.is_empty(), "{:?}", outcome.broken);
    assert_eq!((outcome.lost_acked_writes, outcome.wrong_values), (0, 0));
    let marks =
        Marks { started_ns, protecting_ns: None, protected_ns: None, failed_ns: Some(failed_ns), ended_ns };
    let timeline = Timeline::new(marks, outcome.samples);
    let downtime = Duration::from_nanos(timeline.downtime_ns().unwrap());
    assert!(downtime >= pause && downtime < pause * 3 / 2, "{downtime:?}");
}

#[test]
fn void_verification_is_an_error_not_a_clean_bill() {
    let options = RedisOptions { connections: 1, ..redis_options(RedisFault::Vanish(50)) };
    let clients = RedisClients::start(&options).unwrap();
    while !clients.is_done() {
        sleep(Duration::from_millis(5));
    }
    let stopped = clients.stop().unwrap();
    assert!(matches!(stopped.verify(), Err(ClientError::Verify { connection: 0, .. })));
}

#[test]
fn limits_end_a_client_and_say_so() {
    let mut options = redis_options(RedisFault::None);
    options.limits.samples = 100;
    let outcome = write(&options, u64::MAX);
    assert_eq!(outcome.samples.len(), 200);
    assert!(outcome.findings.iter().all(|f| f.contains("samples are used up")), "{:?}", outcome.findings);
    options.limits = Limits { run: Duration::from_millis(200), ..limits() };
    let began = Instant::now();
    let outcome = write(&options, u64::MAX);
    assert!(began.elapsed() < Duration::from_secs(3) && outcome.broken.is_empty());
}

#[test]
fn every_thread_runs_the_setup_before_its_socket() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let setup = Setup::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    write(&RedisOptions { connections: 3, setup, ..redis_options(RedisFault::None) }, 50);
    assert!(calls.load(Ordering::Relaxed) >= 4, "three writers and the verification");

    let refuses = Setup::new(|| Err(io::Error::from_raw_os_error(1)));
    let options = RedisOptions { setup: refuses, ..redis_options(RedisFault::None) };
    assert!(matches!(RedisClients::start(&options), Err(ClientError::Thread { .. })));
}

#[test]
fn a_start_without_server_fails_and_leaves_nothing_running() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let failed = RedisClients::start(&RedisOptions::new(addr));
    assert!(matches!(failed, Err(ClientError::Start { cause: Cause::Connect(_), .. })), "{failed:?}");
    let none = RedisOptions { connections: 0, ..RedisOptions::new(addr) };
    assert!(matches!(RedisClients::start(&none), Err(ClientError::Options(_))));
}

fn browse(fault: HttpFault, keep_alive: bool, requests: u64) -> Outcome {
    let options = HttpOptions {
        pace: Duration::ZERO,
        keep_alive,
        limits: limits(),
        ..HttpOptions::new(fake_http(BODY, fault), "/index.html", Digest::of(BODY))
    };
    let clients = HttpClients::start(&options).unwrap();
    let progress = clients.progress();
    let began = Instant::now();
    while progress.snapshot().replies < requests && !clients.is_done() {
        assert!(began.elapsed() < Duration::from_secs(10), "stuck at {:?}", progress.snapshot());
        sleep(Duration::from_millis(1));
    }
    clients.stop().unwrap()
}

#[test]
fn pages_are_right_on_lasting_and_on_new_connections() {
    for (keep_alive, fault) in [(true, HttpFault::None), (false, HttpFault::None), (true, HttpFault::Dribble)]
    {
        let outcome = browse(fault, keep_alive, 60);
        assert!(outcome.samples.len() >= 60);
        assert_eq!(
            (outcome.wrong_values, outcome.errors, outcome.renewed),
            (0, 0, 0),
            "{:?}",
            outcome.findings
        );
        assert!(outcome.broken.is_empty(), "{:?}", outcome.broken);
    }
}

#[test]
fn a_wrong_page_and_a_refusal_are_told_apart() {
    let outcome = browse(HttpFault::Damage(20), true, 60);
    assert_eq!(
        (outcome.wrong_values, outcome.errors, outcome.broken.len()),
        (1, 0, 0),
        "{:?}",
        outcome.findings
    );
    let outcome = browse(HttpFault::Status500(20), true, 60);
    assert_eq!(
        (outcome.wrong_values, outcome.errors, outcome.broken.len()),
        (0, 1, 0),
        "{:?}",
        outcome.findings
    );
}

#[test]
fn an_announced_close_renews_and_any_other_breaks() {
    let outcome = browse(HttpFault::AnnouncedClose(20), true, 60);
    assert_eq!((outcome.renewed, outcome.broken.len()), (1, 0), "{:?}", outcome.findings);
    for (fault, expected) in [
        (HttpFault::Truncate(20), "closed by the peer"),
        (HttpFault::Reset(20), "reset"),
        (HttpFault::Stall(20), "no reply for 4"),
    ] {
        for keep_alive in [true, false] {
            let outcome = browse(fault, keep_alive, 100_000);
            let cause = causes(&outcome)[0].to_string();
            assert!(cause.starts_with(expected), "{fault:?} gave {cause}");
        }
    }
}

#[test]
fn a_download_is_checked_to_the_last_byte() {
    let body: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let body: &'static [u8] = body.leak();
    let get = |fault| {
        let options = DownloadOptions {
            addr: fake_http(body, fault),
            path: "/bulk".into(),
            expect: Digest::of(body),
            limits: limits(),
            setup: Setup::default(),
        };
        download(&options, &Stop::default()).unwrap()
    };
    let right = get(HttpFault::None);
    assert!(right.right && right.broken.is_none(), "{right:?}");
    let damaged = get(HttpFault::Damage(1));
    assert!(!damaged.right && damaged.broken.is_none() && damaged.got.len == 3_000_000, "{damaged:?}");
    let short = get(HttpFault::Truncate(1));
    assert!(!short.right && short.broken.unwrap().cause == Cause::Eof && short.got.len < 3_000_000);
    let stalled = get(HttpFault::Stall(1));
    assert!(matches!(stalled.broken.unwrap().cause, Cause::Timeout { waited_ms: 400.. }));
}
