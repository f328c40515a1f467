//! A shell script in the place of `xl migrate-receive`.

use super::*;
use crate::xen::orphans::kill_orphaned_helpers;
use crate::xen::testing::FakeXl;

const WAIT: Duration = Duration::from_secs(30);

/// Ready, and then at the end of its input writes down how that ended, as `xl` would start the domain.
const RECEIVER: &str = r#"
printf 'xl migration receiver ready, send binary domain data.\n'
head -c 16 >"$0.epoch"
ln -sf /bin/sh "$0-libxl-save-helper"
"$0-libxl-save-helper" -c 'echo $$ >"$0.helper"; dd bs=8 count=1 status=none | od -An -tx1 >"$0.order"' "$0" --restore-domain
echo "Remus Failover for domain 7" >&2
"#;

fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + WAIT;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn takes_over_by_a_record() {
    let xl = FakeXl::new(RECEIVER);
    let mut receiver = Receiver::start(xl.program(), WAIT).unwrap();
    receiver.write_all(b"one whole epoch.").unwrap();
    receiver.take_over(WAIT).unwrap();
    assert_eq!(xl.side("epoch"), "one whole epoch.");
    assert_eq!(xl.side("order").trim(), "00 00 00 00 00 00 00 00");
}

#[test]
fn a_dropped_receiver_is_no_order() {
    let xl = FakeXl::new(RECEIVER);
    let mut receiver = Receiver::start(xl.program(), WAIT).unwrap();
    receiver.write_all(b"one whole epoch.").unwrap();
    until("the helper", || !xl.side("helper").is_empty());
    drop(receiver);
    assert!(xl.gone());
    assert_eq!(xl.side("order"), "");
}

/// Our own death at any moment must not look like the end of the stream either.
#[test]
fn our_death_is_no_order() {
    let xl = FakeXl::new(RECEIVER);
    let status = Command::new(std::env::current_exe().unwrap())
        .env("LLM_TEST_XL", xl.program())
        .args(["--ignored", "--exact", "xen::receive::tests::victim"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success());
    assert_eq!(xl.side("epoch"), "one whole epoch.");
    until("the end of xl", || xl.gone());
    // Its helper waits for ever, as it holds the writing end itself.
    until("the orphan", || kill_orphaned_helpers() > 0);
    // The fake helper has children, unlike the real one.
    let group = xl.side("pid").trim().parse().ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process_group(group.unwrap(), Signal::KILL).unwrap();
    assert_eq!(xl.side("order"), "");
}

/// Not a test by itself: the process that dies.
#[test]
#[ignore = "run by another test of this file"]
fn victim() {
    if let Some(xl) = std::env::var_os("LLM_TEST_XL").map(PathBuf::from) {
        let mut receiver = Receiver::start(&xl, WAIT).unwrap();
        receiver.write_all(b"one whole epoch.").unwrap();
        let helper = xl.with_file_name("xl.helper");
        until("the helper", || std::fs::read(&helper).is_ok_and(|pid| !pid.is_empty()));
        std::process::abort();
    }
}

#[test]
fn failures_are_told_with_its_words() {
    let xl = FakeXl::new("echo 'no memory for the domain' >&2; exit 1");
    let error = Receiver::start(xl.program(), WAIT).unwrap_err().to_string();
    assert!(error.contains("exit status: 1") && error.contains("no memory"), "{error}");

    let xl = FakeXl::new("sleep 1000");
    let error = Receiver::start(xl.program(), Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, ReceiveError::NotReady { .. }));
    assert!(xl.gone());

    let xl = FakeXl::new(&format!("{RECEIVER}\nsleep 1; exit 9"));
    let mut receiver = Receiver::start(xl.program(), WAIT).unwrap();
    receiver.write_all(b"one whole epoch.").unwrap();
    let error = receiver.take_over(WAIT).unwrap_err().to_string();
    assert!(error.contains("exit status: 9") && error.contains("Remus Failover"), "{error}");

    let xl = FakeXl::new("printf 'xl migration receiver ready, send binary domain data.\n'; sleep 1000");
    let mut receiver = Receiver::start(xl.program(), WAIT).unwrap();
    let killer = receiver.killer();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let full = receiver.write_all(&vec![1; 4 << 20]);
            full.unwrap_err().kind()
        });
        std::thread::sleep(Duration::from_millis(20));
        killer.kill();
        assert_eq!(writer.join().unwrap(), io::ErrorKind::BrokenPipe);
    });
    assert!(receiver.take_over(WAIT).is_err());
}
