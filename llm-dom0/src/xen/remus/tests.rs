//! A shell script in the place of `xl remus`, and this test program in the place of `llm stdio`.

use super::*;
use crate::xen::stdio::stdio_client;
use crate::xen::testing::FakeXl;
use std::io::Read;

const WAIT: Duration = Duration::from_secs(30);

fn config(fake: &FakeXl) -> RemusConfig {
    let me = std::env::current_exe().unwrap().to_string_lossy().into_owned();
    let client = ["env", "LLM_TEST_STDIO=1", &me, "--ignored", "--exact"];
    let mut stdio: Vec<String> = client.map(String::from).into();
    stdio.push("xen::remus::tests::client".into());
    RemusConfig {
        xl: fake.program().to_owned(),
        domain: "it's g".into(),
        interval: Duration::from_secs(3600),
        stdio,
        socket: fake.dir().join("stdio.sock"),
        start_timeout: WAIT,
    }
}

/// Not a test by itself: `xl`'s transport command.
#[test]
#[ignore = "run by the other tests of this file"]
fn client() {
    if std::env::var_os("LLM_TEST_STDIO").is_some() {
        stdio_client(std::path::Path::new(&std::env::args().next_back().unwrap())).unwrap();
        std::process::exit(0);
    }
}

/// As `xl` does: runs its last argument between two pipes, waits for the banner, writes the stream.
const SENDER: &str = r#"
for rune; do :; done
echo "$@" >&2
mkfifo "$0.to" "$0.from"
sh -c "$rune" <"$0.to" >"$0.from" &
exec 3>"$0.to" 4<"$0.from"
rm "$0.to" "$0.from"
while read -r line <&4; do
  case "$line" in "xl migration receiver ready, send binary domain data.") break;; esac
done
while printf tick >&3 2>/dev/null; do sleep 0.05; done
echo "pipe broken" >&2
exit 7
"#;

#[test]
fn starts_is_paced_and_ends_with_its_stream() {
    let fake = FakeXl::new(SENDER);
    let (remus, stream) = Remus::start(&config(&fake)).unwrap();
    let mut stream = File::from(stream);
    let mut tick = [0; 4];
    stream.read_exact(&mut tick).unwrap();
    assert_eq!(&tick, b"tick");
    // Another thread collects its words.
    let until = Instant::now() + WAIT;
    while remus.said().is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(remus.said().contains("remus -Fdn -i 3600000 -s  it's g exec 'env'"), "{}", remus.said());

    let pacer = remus.pacer();
    assert_eq!(pacer.hold(Instant::now()), Held::Yes);
    let pending = rustix::io::ioctl_fionread(&stream).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(rustix::io::ioctl_fionread(&stream).unwrap(), pending, "held, it writes nothing");
    assert!(pacer.go());
    let until = Instant::now() + WAIT;
    while rustix::io::ioctl_fionread(&stream).unwrap() == pending && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_ne!(rustix::io::ioctl_fionread(&stream).unwrap(), pending, "let go, it writes again");

    // Held when the stream is closed, it must still find out.
    assert_eq!(pacer.hold(Instant::now()), Held::Yes);
    drop(stream);
    let status = remus.wait(WAIT).unwrap();
    assert!(!status.success());
    assert_eq!(pacer.hold(Instant::now()), Held::No);
    assert!(!pacer.go());
}

#[test]
fn a_late_stop_is_in_doubt() {
    let fake = FakeXl::new(SENDER);
    let config = RemusConfig { interval: Duration::from_millis(40), ..config(&fake) };
    let (remus, stream) = Remus::start(&config).unwrap();
    let long_ago = Instant::now();
    std::thread::sleep(config.interval);
    let mut held = remus.pacer().hold(long_ago);
    while held == Held::No && long_ago.elapsed() < WAIT {
        // On a busy machine a stop may take longer than it is waited for.
        held = remus.pacer().hold(long_ago);
    }
    assert_eq!(held, Held::InDoubt);
    // It stands still until somebody who knows better lets it go.
    assert!(remus.pacer().go());
    let mut stream = File::from(stream);
    // More than a pipe holds would have to come if it ran for ever; some ticks suffice.
    let mut ticks = [0; 40];
    stream.read_exact(&mut ticks).unwrap();
    drop(stream);
    assert!(remus.wait(WAIT).is_some());
}

#[test]
fn its_complaint_is_passed_on() {
    let fake = FakeXl::new("echo 'libxl: error: no such domain' >&2; exit 4");
    let error = Remus::start(&config(&fake)).unwrap_err().to_string();
    assert!(error.contains("exit status: 4") && error.contains("no such domain"), "{error}");

    let fake = FakeXl::new("sleep 1000");
    let config = RemusConfig { start_timeout: Duration::from_millis(50), ..config(&fake) };
    assert!(matches!(Remus::start(&config), Err(RemusError::Slow { .. })));
    let missing = RemusConfig { xl: fake.dir().join("missing"), ..config };
    assert!(matches!(Remus::start(&missing), Err(RemusError::Run { .. })));
    assert!(!fake.dir().join("stdio.sock").exists());
}
