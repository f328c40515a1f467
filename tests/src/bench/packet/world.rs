//! Namespaces of a guest, its host, a client and a backup, and the driver's processes in them.

use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::{env, fs};

use crate::lab::{Context as _, LabError, Namespace, Result, command::words};

/// The guest's address, where its servers are.
pub(super) const GUEST: &str = "10.77.0.2";
/// The backup's address on the link.
pub(super) const BACKUP: &str = "10.78.0.2";
const PORT: u16 = 7707;
/// What stands for the guest's vif.
pub(super) const VIF: &str = "vif1.0";
/// The driver's TAP.
pub(super) const TAP: &str = "llm1.0";
/// The bridge's end of the client's cable.
pub(super) const CLIENT_PORT: &str = "c0";
const BRIDGE: &str = "br0";

/// The namespaces. Dropped, they go with all that is in them.
#[derive(Debug)]
pub(super) struct World {
    pub(super) guest: Namespace,
    pub(super) host: Namespace,
    pub(super) client: Namespace,
    pub(super) backup: Namespace,
    dir: PathBuf,
}

impl World {
    pub(super) fn new() -> Result<Self> {
        let pid = std::process::id();
        let space = |part: &str| Namespace::new(&format!("llmp{pid}{part}"));
        let world = Self {
            guest: space("g"),
            host: space("h"),
            client: space("c"),
            backup: space("b"),
            dir: env::temp_dir().join(format!("llm-packet-{pid}")),
        };
        world.build()?;
        Ok(world)
    }

    fn build(&self) -> Result<()> {
        let (g, h, c, b) = (self.guest.name(), self.host.name(), self.client.name(), self.backup.name());
        for name in [g, h, c, b] {
            words(&["ip", "netns", "add", name])?;
        }
        let lines = [
            format!("-n {h} link add {BRIDGE} type bridge mcast_snooping 0"),
            format!("-n {h} link set {BRIDGE} up"),
            format!("-n {g} link add eth0 type veth peer name {VIF} netns {h}"),
            format!("-n {c} link add eth0 type veth peer name {CLIENT_PORT} netns {h}"),
            format!("-n {b} link add eth0 type veth peer name rep0 netns {h}"),
            format!("-n {h} link set {VIF} master {BRIDGE} up"),
            format!("-n {h} link set {CLIENT_PORT} master {BRIDGE} up"),
            format!("-n {h} addr add 10.78.0.1/24 dev rep0"),
            format!("-n {h} link set rep0 up"),
            format!("-n {g} addr add {GUEST}/24 dev eth0"),
            format!("-n {c} addr add 10.77.0.3/24 dev eth0"),
            format!("-n {b} addr add {BACKUP}/24 dev eth0"),
            format!("-n {g} link set eth0 up"),
            format!("-n {c} link set eth0 up"),
            format!("-n {b} link set eth0 up"),
            format!("-n {b} link set lo up"),
        ];
        for line in &lines {
            let mut all = vec!["ip"];
            all.extend(line.split(' '));
            words(&all)?;
        }
        // Many connections, mode after mode: those that have ended keep their ports for a while.
        words(&["ip", "netns", "exec", c, "sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535"])?;
        let script = self.dir.join("xl");
        fs::create_dir_all(&self.dir).context(|| format!("make {}", self.dir.display()))?;
        let text = format!("#!/bin/sh\nexec '{}' xl -- \"$@\"\n", program()?.display());
        fs::write(&script, text).context(|| format!("write {}", script.display()))?;
        words(&["chmod", "755", &script.to_string_lossy()]).map(drop)
    }

    fn command(&self, space: &Namespace) -> Result<Command> {
        let mut command = space.command(&program()?.to_string_lossy());
        let path = env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.dir.display()));
        Ok(command)
    }

    /// Starts a backup.
    pub(super) fn start_backup(&self) -> Result<Running> {
        let mut command = self.command(&self.backup)?;
        command.args(["backup", &format!("{BACKUP}:{PORT}")]).arg(self.dir.join("state"));
        let running = Running::start(&mut command, true)?;
        let listens = || self.host.enter(|| std::net::TcpStream::connect((BACKUP, PORT)).is_ok());
        for _ in 0..500 {
            if listens()? {
                return Ok(running);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err(missing("The backup does not listen"))
    }

    /// Protects the guest; returns once it is protected.
    pub(super) fn protect(&self, mode: &str, interval_ms: u64) -> Result<Running> {
        let name = format!("packet-{}", std::process::id());
        let mut command = self.command(&self.host)?;
        command.args([
            "primary",
            &name,
            VIF,
            BRIDGE,
            &format!("{BACKUP}:{PORT}"),
            mode,
            &interval_ms.to_string(),
        ]);
        let mut running = Running::start(&mut command, false)?;
        let line = running.line()?;
        if line.trim() != "protected" {
            return Err(missing(&format!("The driver is not protecting, it said {line:?}")));
        }
        Ok(running)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for space in [&self.guest, &self.host, &self.client, &self.backup] {
            if let Err(error) = space.remove() {
                eprintln!("{error}");
            }
        }
        // Left behind it does no harm.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A process of the driver; dropped, it is told to end and waited for.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// It does not end with its input.
    kill: bool,
}

impl Running {
    fn start(command: &mut Command, kill: bool) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(|| "start a process of the driver".to_owned())?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = output.ok_or_else(|| missing("The driver's output"))?;
        Ok(Self { child, input, output: BufReader::new(output), kill })
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context(|| "read what the driver says".to_owned())?;
        Ok(line)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.input.take());
        if self.kill {
            // It may have ended already.
            let _ = self.child.kill();
        }
        if let Err(error) = self.child.wait() {
            eprintln!("waiting for the driver: {error}");
        }
    }
}

/// The program that holds the driver's processes: beside this one.
fn program() -> Result<PathBuf> {
    let me = env::current_exe().context(|| "find this program".to_owned())?;
    let found = me.parent().map(|dir| dir.join("embedded")).filter(|path| Path::is_file(path));
    found.ok_or_else(|| missing("The program `embedded`"))
}

fn missing(what: &str) -> LabError {
    LabError::Missing { what: what.into(), hint: "build it with `cargo build --release -p llm-tests`".into() }
}

/// For the loads, whose errors are the system's.
pub(super) fn failed(what: &str) -> impl FnOnce(io::Error) -> LabError + '_ {
    move |source| LabError::Io { what: what.into(), source }
}
