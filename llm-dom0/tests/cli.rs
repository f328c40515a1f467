//! The `llm` command on a machine that is no Xen host: what it says, and its exit codes.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

const TO: [&str; 2] = ["--to", "127.0.0.1:9"];

fn llm() -> Command {
    Command::new(env!("CARGO_BIN_EXE_llm"))
}

fn end(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(words.iter().all(|w| said.contains(w)), "{said} does not say {words:?}");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn without_xen_the_host_is_named_as_the_reason() {
    if Path::new("/dev/xen").exists() || Path::new("/proc/xen/privcmd").exists() {
        println!("skipped: this is a Xen host");
        return;
    }
    let wanted = if is_root() { "/dev/xen" } else { "root" };
    for command in [&["protect", "guest", TO[0], TO[1]][..], &["backup", "--listen", "127.0.0.1:0"]] {
        end(&llm().args(command).output().expect("llm"), 4, &[wanted]);
    }
}

#[test]
fn without_root_that_is_said_first() {
    let mut command = llm();
    if is_root() {
        // Nobody can read a build folder below /root: the program goes along under a name of its own.
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("for all");
        let copy = folder.path().join("llm");
        std::fs::copy(env!("CARGO_BIN_EXE_llm"), &copy).expect("a copy");
        command = Command::new(&copy);
        command.args(["protect", "guest"]).args(TO).uid(65534).gid(65534);
        let output = loop {
            match command.output() {
                // A child that another test has just forked holds the copy open for a moment.
                Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                output => break output,
            }
        };
        end(&output.expect("llm"), 4, &["root"]);
    } else {
        end(&command.args(["protect", "guest"]).args(TO).output().expect("llm"), 4, &["root"]);
    }
}

#[test]
fn a_wrong_configuration_is_told_before_anything_is_touched() {
    end(&llm().args(["protect", "guest"]).output().expect("llm"), 2, &["--to HOST:PORT"]);
    let interval = llm().args(["protect", "guest", "--interval", "1ms"]).args(TO).output();
    end(&interval.expect("llm"), 2, &["--interval 1ms", "50ms"]);
    end(&llm().args(["--config", "/no/such", "backup"]).output().expect("llm"), 2, &["/no/such"]);
    end(&llm().arg("protect").output().expect("llm"), 2, &["DOMAIN"]);
}

#[test]
fn a_bench_measures_host_and_link() {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;
    let mut peer =
        llm().args(["bench", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().expect("llm");
    let mut line = String::new();
    BufReader::new(peer.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let address = line.split(['`', ' ']).find(|word| word.starts_with("127.")).expect("the address");
    let arguments = ["bench", "--pages", "1024", "--for", "50ms", "--peer", address];
    let text = llm().args(arguments).output().expect("llm");
    let json = llm().args(arguments).arg("--json").output().expect("llm");
    peer.kill().expect("it runs");
    peer.wait().expect("it ended");
    end(&text, 0, &[]);
    let said = String::from_utf8_lossy(&text.stdout);
    assert!(said.contains("round trip") && said.contains("mode remus, interval 200ms"), "{said}");
    end(&json, 0, &[]);
    let said: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert!(said["link"]["mb_per_s"].as_f64().is_some_and(|n| n > 0.0), "{said}");
    assert!(said["codec"]["checksum_ns"].as_f64().is_some_and(|n| n > 0.0), "{said}");
    assert!(said["advice"]["pages_per_s"].as_f64().is_some_and(|n| n > 0.0), "{said}");
    // Nobody listens there any more.
    end(&llm().args(arguments).output().expect("llm"), 5, &[address, "llm bench --listen"]);
    end(&llm().args(["bench", "--pages", "5"]).output().expect("llm"), 2, &["--pages 5", "1024"]);
}

#[test]
fn a_release_of_what_is_not_protected_names_it() {
    end(&llm().args(["release", "nobody-here"]).output().expect("llm"), 3, &["nobody-here", "not protected"]);
}
