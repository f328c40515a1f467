//! The hotplug script against stand-ins for `ip` and the xenstore tools. Needs no root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A directory with tools that note their calls, a store (a file per key), and the run directory.
struct Stage {
    dir: TempDir,
}

impl Stage {
    /// A domain 7 of that name with a vif for a bridge.
    fn new(domain: &str) -> Self {
        let stage = Self { dir: TempDir::new().unwrap() };
        for sub in ["bin", "store", "run/allow"] {
            fs::create_dir_all(stage.dir.path().join(sub)).unwrap();
        }
        stage.tool("ip", "echo ip \"$@\" >>$STAGE/calls");
        stage.tool("logger", ":");
        stage.tool("xenstore-read", "cat \"$STAGE/store/$(echo \"$1\" | tr / _)\"");
        let write =
            "while [ $# -gt 1 ]; do echo \"$2\" >\"$STAGE/store/$(echo \"$1\" | tr / _)\"; shift 2; done";
        stage.tool("xenstore-write", write);
        stage.put("/local/domain/7/name", domain);
        stage.put("backend/vif/7/0/bridge", "xenbr0");
        stage.put("backend/vif/7/0/mtu", "1400");
        stage
    }

    fn tool(&self, name: &str, body: &str) {
        let path = self.dir.path().join("bin").join(name);
        // By a child: one that another test forks would hold our descriptor open for writing,
        // and such a program does not start.
        let write = r#"printf '#!/bin/sh\n%s\n' "$1" >"$0" && chmod +x "$0""#;
        assert!(Command::new("sh").args(["-c", write]).arg(&path).arg(body).status().unwrap().success());
    }

    fn put(&self, key: &str, value: &str) {
        fs::write(self.dir.path().join("store").join(key.replace('/', "_")), value).unwrap();
    }

    fn get(&self, key: &str) -> String {
        fs::read_to_string(self.dir.path().join("store").join(key.replace('/', "_")))
            .unwrap_or_default()
            .trim()
            .into()
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default()
    }

    fn script() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../llm-dom0/hotplug/llm-vif")
    }

    fn prepare(&self, command: &mut Command) -> Output {
        let path = format!("{}:{}", self.dir.path().join("bin").display(), std::env::var("PATH").unwrap());
        command
            .env("STAGE", self.dir.path())
            .env("PATH", path)
            .env("LLM_RUN_DIR", self.dir.path().join("run"));
        command.env("XENBUS_PATH", "backend/vif/7/0").env("vif", "vif7.0").env_remove("LLM_INCOMING");
        command.output().unwrap()
    }

    fn run(&self, args: &[&str]) -> bool {
        self.prepare(Command::new(Self::script()).args(args)).status.success()
    }

    /// Runs the script as the child of a process with this command line, as `xl` runs it.
    fn run_under(&self, command_line: &[&str], permit: bool) -> bool {
        // Bash sets argv[0] and the rest by `exec -a` and `sh -c BODY ARGS`; the script is then its child.
        let body = if permit {
            "echo $$ >$LLM_RUN_DIR/allow/web; $SCRIPT online type_if=vif; exit $?"
        } else {
            "$SCRIPT online type_if=vif; exit $?"
        };
        let mut command = Command::new("sh");
        command.arg("-c").arg(body).args(command_line).env("SCRIPT", Self::script());
        self.prepare(&mut command).status.success()
    }

    fn refused(&self) -> bool {
        self.get("backend/vif/7/0/hotplug-status") == "error"
            && self.get("backend/vif/7/0/hotplug-error").contains("no permit")
            && self.calls().is_empty()
    }
}

#[test]
fn an_ordinary_domain_is_connected_and_disconnected() {
    let stage = Stage::new("web");
    assert!(stage.run(&["online", "type_if=vif"]));
    assert_eq!(stage.get("backend/vif/7/0/hotplug-status"), "connected");
    assert_eq!(stage.get("/local/domain/7/device/vif/0/mtu"), "1400");
    let expected = "ip link show dev xenbr0\n\
        ip link set dev vif7.0 mtu 1400\n\
        ip link set dev vif7.0 address fe:ff:ff:ff:ff:ff\n\
        ip link set dev vif7.0 master xenbr0\n\
        ip link set dev vif7.0 up\n";
    assert_eq!(stage.calls(), expected);
    assert!(stage.run(&["offline", "type_if=vif"]));
    assert!(stage.calls().ends_with("ip link set dev vif7.0 down\nip link set dev vif7.0 nomaster\n"));
}

#[test]
fn a_received_domain_needs_the_permit_of_its_receiver() {
    let stage = Stage::new("web--incoming");
    assert!(!stage.run(&["online", "type_if=vif"]));
    assert!(stage.refused());
    // One that was left for another process.
    fs::write(stage.dir.path().join("run/allow/web"), "1\n").unwrap();
    assert!(!stage.run(&["online", "type_if=vif"]));
    assert!(stage.refused());
    fs::write(stage.dir.path().join("run/allow/web"), format!("{}\n", std::process::id())).unwrap();
    assert!(stage.run(&["online", "type_if=vif"]));
    assert_eq!(stage.get("backend/vif/7/0/hotplug-status"), "connected");
}

#[test]
fn only_a_plain_migration_needs_no_permit() {
    for line in [&["xl", "-vvv", "migrate-receive"][..], &["xl", "migrate-receive", "-e", "--pause"]] {
        assert!(Stage::new("web--incoming").run_under(line, false), "{line:?}");
    }
    for line in [
        &["xl", "migrate-receive", "-r"][..],
        &["xl", "-vvv", "migrate-receive", "-er"],
        &["xl", "migrate-receive", "--colo"],
        &["xl", "migrate-receive", "--remus"],
        &["something", "else"],
    ] {
        let stage = Stage::new("web--incoming");
        assert!(!stage.run_under(line, false), "{line:?}");
        assert!(stage.refused(), "{line:?}");
        assert!(stage.run_under(line, true), "{line:?}");
    }
}

#[test]
fn a_domain_marked_by_the_driver_needs_a_permit_under_any_name() {
    let stage = Stage::new("web");
    let mut command = Command::new("env");
    command.arg("LLM_INCOMING=1").arg(Stage::script()).args(["online", "type_if=vif"]);
    assert!(!stage.prepare(&mut command).status.success());
    assert!(stage.refused());
}

#[test]
fn an_emulated_card_stays_off_the_bridge() {
    let stage = Stage::new("web");
    assert!(stage.run(&["add", "type_if=tap"]));
    assert_eq!(stage.calls(), "");
}

#[test]
fn a_missing_bridge_is_named() {
    let stage = Stage::new("web");
    stage.tool("ip", "exit 1");
    assert!(!stage.run(&["online", "type_if=vif"]));
    assert!(stage.get("backend/vif/7/0/hotplug-error").contains("no bridge xenbr0"));
}
