//! A host of the lab, as the tests use it: commands and files in its Dom0, and its death.

use super::error::{Context as _, LabError, Result};
use super::net::{Link, Namespace};
use super::paths::Paths;
use super::state::{Process, State};
use super::{qemu, wire};
use crate::clients::now_ns;
use rustix::net::sockopt;
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// What a command in a host wrote, and how it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit code; minus the signal's number if a signal killed it.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it ended with code 0.
    #[must_use]
    pub const fn success(&self) -> bool {
        self.code == 0
    }

    /// Its standard output as text, without blanks at either end.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// One of the two hosts.
#[derive(Debug, Clone)]
pub struct Host {
    paths: Paths,
    namespace: Namespace,
    number: usize,
}

/// A command running in a host. Dropping it closes the connection, and the agent kills the command.
#[derive(Debug)]
pub struct Running {
    host: usize,
    command: String,
    pid: u32,
    connection: TcpStream,
}

impl Host {
    pub(super) fn new(paths: &Paths, number: usize) -> Self {
        Self { paths: paths.clone(), namespace: Namespace::new(&paths.name), number }
    }

    /// Its number, 1 or 2.
    #[must_use]
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Its address on a link.
    #[must_use]
    pub fn address(&self, link: Link) -> Ipv4Addr {
        link.host_address(self.number)
    }

    /// Its QEMU process, if it runs.
    ///
    /// # Errors
    /// When the lab's state cannot be read.
    pub fn process(&self) -> Result<Option<Process>> {
        let state = State::load(&self.paths)?;
        Ok(state.and_then(|s| s.hosts[self.number - 1]).filter(|p| p.alive()))
    }

    fn alive(&self) -> Result<Process> {
        self.process()?.ok_or_else(|| qemu::down(&self.paths, self.number))
    }

    fn agent_error(&self, reason: impl std::fmt::Display) -> LabError {
        LabError::Agent { host: self.number, reason: reason.to_string() }
    }

    /// Connects to the agent.
    fn connect(&self) -> Result<TcpStream> {
        self.alive()?;
        let address = SocketAddr::from((self.address(Link::Management), wire::PORT));
        let connection = self
            .namespace
            .enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))?
            .map_err(|e| self.agent_error(format_args!("the agent cannot be reached: {e}")))?;
        // A killed host sends no FIN: without probes a reader would wait for ever.
        sockopt::set_tcp_keepidle(&connection, Duration::from_secs(5))
            .and_then(|()| sockopt::set_tcp_keepintvl(&connection, Duration::from_secs(2)))
            .and_then(|()| sockopt::set_tcp_keepcnt(&connection, 15))
            .and_then(|()| sockopt::set_socket_keepalive(&connection, true))
            .and_then(|()| sockopt::set_tcp_nodelay(&connection, true))
            .context(|| "set up the connection to an agent".to_owned())?;
        Ok(connection)
    }

    fn read(&self, connection: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
        match wire::read_frame(connection).map_err(|e| self.agent_error(e))? {
            Some((wire::ERROR, reason)) => Err(self.agent_error(String::from_utf8_lossy(&reason))),
            Some(frame) => Ok(frame),
            None => Err(self.agent_error("the agent closed the connection")),
        }
    }

    fn request(&self, flags: u8, command: &str) -> Result<Running> {
        let mut connection = self.connect()?;
        let mut payload = vec![flags];
        payload.extend_from_slice(command.as_bytes());
        wire::write_frame(&mut connection, wire::RUN, &payload).map_err(|e| self.agent_error(e))?;
        let (kind, payload) = self.read(&mut connection)?;
        let pid = <[u8; 4]>::try_from(payload.as_slice()).map(u32::from_le_bytes);
        match (kind, pid) {
            (wire::PID, Ok(pid)) => {
                Ok(Running { host: self.number, command: command.to_owned(), pid, connection })
            }
            _ => Err(self.agent_error(format_args!("unexpected answer {kind:#04x} to a command"))),
        }
    }

    /// Starts a shell command whose output goes to [`Running`].
    ///
    /// # Errors
    /// When the host is down or its agent does not answer.
    pub fn spawn(&self, command: &str) -> Result<Running> {
        self.request(0, command)
    }

    /// Starts a shell command that goes on by itself, its output appended to the file `log` in the host. Returns its
    /// process id there, which is also its process group.
    ///
    /// # Errors
    /// When the host is down or its agent does not answer.
    pub fn spawn_detached(&self, command: &str, log: &str) -> Result<u32> {
        let command = format!("exec >>{log} 2>&1\n{command}");
        self.request(wire::FLAG_DETACH, &command).map(|r| r.pid)
    }

    /// Runs a shell command to its end, whatever its exit code.
    ///
    /// # Errors
    /// When the host is down or its agent does not answer.
    pub fn run(&self, command: &str) -> Result<Output> {
        self.spawn(command)?.wait()
    }

    /// Runs a shell command that must succeed.
    ///
    /// # Errors
    /// As [`Self::run`], and [`LabError::Remote`] when its exit code is not 0.
    pub fn check(&self, command: &str) -> Result<Output> {
        let output = self.run(command)?;
        if output.success() {
            return Ok(output);
        }
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        Err(LabError::Remote {
            host: self.number,
            command: command.to_owned(),
            code: output.code,
            stderr: super::command::tail(String::from_utf8_lossy(said).trim(), 15),
        })
    }

    /// Runs a shell command every 100 ms until it succeeds.
    ///
    /// # Errors
    /// [`LabError::Timeout`] with what it last said.
    pub fn wait_for(&self, command: &str, timeout: Duration) -> Result<Output> {
        let start = Instant::now();
        loop {
            let output = self.run(command)?;
            if output.success() {
                return Ok(output);
            }
            if start.elapsed() > timeout {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(LabError::Timeout {
                    what: format!("`{command}` on host{}", self.number),
                    seconds: timeout.as_secs(),
                    detail: format!(": {}{}", output.text(), said.trim()),
                });
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Asks the host so often for the time: `CLOCK_BOOTTIME` there in nanoseconds, each between the clients' clock
    /// before and after.
    ///
    /// # Errors
    /// When the host is down or its agent does not answer.
    pub fn clock(&self, times: usize) -> Result<Vec<(u64, u64, u64)>> {
        let mut connection = self.connect()?;
        let mut looks = Vec::new();
        for _ in 0..times {
            let asked = now_ns();
            wire::write_frame(&mut connection, wire::CLOCK, &[]).map_err(|e| self.agent_error(e))?;
            let (kind, told) = self.read(&mut connection)?;
            match <[u8; 8]>::try_from(told.as_slice()) {
                Ok(told) if kind == wire::CLOCK => {
                    looks.push((asked, u64::from_le_bytes(told), now_ns()));
                }
                _ => return Err(self.agent_error(format_args!("unexpected answer {kind:#04x} for the time"))),
            }
        }
        Ok(looks)
    }

    /// Copies a file of this machine into the host, with its mode.
    ///
    /// # Errors
    /// When it cannot be read here or written there.
    pub fn put(&self, from: &Path, to: &str) -> Result<()> {
        let mut file = File::open(from).context(|| format!("open {}", from.display()))?;
        let mode = file.metadata().context(|| format!("look at {}", from.display()))?.permissions().mode();
        let mut connection = self.start_put(mode & 0o7777, to)?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = file.read(&mut buffer).context(|| format!("read {}", from.display()))?;
            if count == 0 {
                return self.end_put(&mut connection);
            }
            self.data(&mut connection, &buffer[..count])?;
        }
    }

    /// Writes a file in the host.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_bytes(&self, content: &[u8], mode: u32, to: &str) -> Result<()> {
        let mut connection = self.start_put(mode, to)?;
        for part in content.chunks(64 * 1024) {
            self.data(&mut connection, part)?;
        }
        self.end_put(&mut connection)
    }

    fn start_put(&self, mode: u32, to: &str) -> Result<TcpStream> {
        let mut connection = self.connect()?;
        let mut payload = mode.to_le_bytes().to_vec();
        payload.extend_from_slice(to.as_bytes());
        wire::write_frame(&mut connection, wire::PUT, &payload).map_err(|e| self.agent_error(e))?;
        Ok(connection)
    }

    fn data(&self, connection: &mut TcpStream, part: &[u8]) -> Result<()> {
        wire::write_frame(connection, wire::DATA, part).map_err(|e| self.agent_error(e))
    }

    fn end_put(&self, connection: &mut TcpStream) -> Result<()> {
        wire::write_frame(connection, wire::END, &[]).map_err(|e| self.agent_error(e))?;
        self.read(connection).map(drop)
    }

    /// Writes a file of the host into `to`; returns its length in bytes.
    ///
    /// # Errors
    /// When it cannot be read there or written here.
    pub fn get_into(&self, from: &str, to: &mut impl Write) -> Result<u64> {
        let mut connection = self.connect()?;
        wire::write_frame(&mut connection, wire::GET, from.as_bytes()).map_err(|e| self.agent_error(e))?;
        let mut length = 0;
        loop {
            match self.read(&mut connection)? {
                (wire::DATA, part) => {
                    to.write_all(&part).context(|| format!("store {from} of host{}", self.number))?;
                    length += part.len() as u64;
                }
                (wire::END, _) => return Ok(length),
                (kind, _) => return Err(self.agent_error(format_args!("unexpected frame {kind:#04x}"))),
            }
        }
    }

    /// Copies a file of the host to this machine.
    ///
    /// # Errors
    /// As [`Self::get_into`].
    pub fn get(&self, from: &str, to: &Path) -> Result<u64> {
        let mut file = File::create(to).context(|| format!("create {}", to.display()))?;
        self.get_into(from, &mut file)
    }

    /// Kills the host, as a power cut does: no process in it runs another instruction.
    ///
    /// # Errors
    /// When it is down already or cannot be killed.
    pub fn kill(&self) -> Result<()> {
        self.alive()?.kill()
    }

    /// Stops the host's clock and all in it; its network card stays where it is.
    ///
    /// # Errors
    /// When it is down.
    pub fn freeze(&self) -> Result<()> {
        self.alive()?.signal(Signal::STOP)
    }

    /// Undoes [`Self::freeze`].
    ///
    /// # Errors
    /// When it is down.
    pub fn thaw(&self) -> Result<()> {
        self.alive()?.signal(Signal::CONT)
    }

    /// Kills the host if it runs, and starts it anew without waiting for it to be ready. Its old console log is kept as
    /// `...-hostN.START.log`.
    ///
    /// # Errors
    /// When the lab is not up or QEMU cannot be started.
    pub fn start(&self) -> Result<()> {
        let not_up = || LabError::NotUp { name: self.paths.name.clone() };
        let mut state = State::load(&self.paths)?.ok_or_else(not_up)?;
        if let Some(old) = state.hosts[self.number - 1].take() {
            old.kill()?;
        }
        let log = self.paths.console_log(self.number);
        let started = &mut state.starts[self.number - 1];
        // There is none before the first start.
        let _ = fs::rename(&log, log.with_extension(format!("{started}.log")));
        *started += 1;
        let process = qemu::start(&self.paths, &self.namespace, &state.machine, self.number)?;
        state.hosts[self.number - 1] = Some(process);
        state.store(&self.paths)
    }

    /// Waits until the host's Dom0 is up: xenstored, the bridge and the agent.
    ///
    /// # Errors
    /// [`LabError::HostDown`] when QEMU ends, [`LabError::Timeout`] with the end of the console.
    pub fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            // The agent is the last thing that init starts.
            match self.run("xl list >/dev/null") {
                Ok(output) if output.success() => return Ok(()),
                Err(error @ LabError::HostDown { .. }) => return Err(error),
                Ok(_) | Err(_) if start.elapsed() < timeout => thread::sleep(Duration::from_millis(250)),
                Ok(_) | Err(_) => {
                    let tail = qemu::log_tail(&self.paths, self.number, 25);
                    return Err(LabError::Timeout {
                        what: format!("host{} to boot", self.number),
                        seconds: timeout.as_secs(),
                        detail: format!("; the end of its console:\n{tail}"),
                    });
                }
            }
        }
    }

    /// [`Self::start`] and [`Self::wait_ready`].
    ///
    /// # Errors
    /// As these.
    pub fn restart(&self) -> Result<()> {
        self.start()?;
        self.wait_ready(super::BOOT_TIMEOUT)
    }
}

impl Running {
    /// Its process id in the host, which is also its process group.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end and returns all it wrote.
    ///
    /// # Errors
    /// When the host dies or the connection breaks.
    pub fn wait(self) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let code = self.copy_to(&mut stdout, &mut stderr)?;
        Ok(Output { code, stdout, stderr })
    }

    /// Waits for its end, passing on what it writes as it comes. Returns the exit code.
    ///
    /// # Errors
    /// When the host dies, the connection breaks, or a writer fails.
    pub fn copy_to(mut self, stdout: &mut impl Write, stderr: &mut impl Write) -> Result<i32> {
        let error = |reason: String| LabError::Agent { host: self.host, reason };
        loop {
            let frame = wire::read_frame(&mut self.connection)
                .map_err(|e| error(format!("`{}` was cut off: {e}", self.command)))?;
            let stored = match &frame {
                Some((wire::STDOUT, part)) => stdout.write_all(part).and_then(|()| stdout.flush()),
                Some((wire::STDERR, part)) => stderr.write_all(part).and_then(|()| stderr.flush()),
                Some((wire::EXIT, code)) => {
                    let code = <[u8; 4]>::try_from(code.as_slice()).map(i32::from_le_bytes);
                    return code.map_err(|_| error("an exit code of a wrong length".to_owned()));
                }
                Some((wire::ERROR, reason)) => {
                    return Err(error(String::from_utf8_lossy(reason).into_owned()));
                }
                _ => return Err(error(format!("`{}` was cut off", self.command))),
            };
            stored.context(|| format!("pass on the output of `{}`", self.command))?;
        }
    }

    /// Makes another thread's wait for it end, and kills it: closes the connection.
    ///
    /// # Errors
    /// When the connection cannot be shut down.
    pub fn killer(&self) -> Result<impl FnOnce() + Send + use<>> {
        let connection =
            self.connection.try_clone().context(|| "copy a connection to an agent".to_owned())?;
        Ok(move || {
            // Closed already: then the command has ended.
            let _ = connection.shutdown(Shutdown::Both);
        })
    }
}
