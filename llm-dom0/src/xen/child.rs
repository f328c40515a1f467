//! A program of the toolstack as our child: reaped, bound to our life, its messages kept.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use rustix::process::{getppid, kill_process, kill_process_group, set_parent_process_death_signal};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Lines of the program's messages that are kept.
const TAIL_LINES: usize = 30;
/// Longest line kept, bytes.
const LINE_MAX: u64 = 2048;
/// How long the last messages of a child that has failed are waited for. They end with it,
/// unless it leaves a child of its own behind.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// A running or ended child. Clones are handles of the same child.
#[derive(Clone)]
pub(crate) struct Child {
    pid: Pid,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// How the child ended. It is reaped under this lock, so a holder that finds
    /// `None` knows that the pid is still the child's.
    exit: Mutex<Option<ExitStatus>>,
    ended: Condvar,
    tail: Mutex<Tail>,
    all_said: Condvar,
}

/// The last lines that the child wrote to stderr.
#[derive(Default)]
struct Tail {
    lines: VecDeque<String>,
    /// Nothing more will come.
    complete: bool,
}

/// A child that has just been started.
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) stdout: Option<ChildStdout>,
}

impl Child {
    /// Starts `command` in a process group of its own. The kernel sends it `on_death`
    /// when we die. It inherits `inherit` under the same number. What it writes to
    /// stderr is logged and its last lines are kept.
    pub(crate) fn start(
        name: &'static str,
        mut command: Command,
        on_death: Signal,
        inherit: Option<OwnedFd>,
    ) -> io::Result<Started> {
        let parent = rustix::process::getpid();
        let prepare = move || {
            set_parent_process_death_signal(Some(on_death))?;
            if getppid() != Some(parent) {
                // We died before the line above: nobody would send the signal.
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            // The toolstack works at the usual priority, whatever ours is.
            rustix::process::setpriority_process(None, 0)?;
            if let Some(fd) = &inherit {
                rustix::io::fcntl_setfd(fd.as_fd(), rustix::io::FdFlags::empty())?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes only system calls that are safe
        // in a child of a threaded process, and allocates nothing.
        unsafe { command.pre_exec(prepare) };
        command.process_group(0).stderr(Stdio::piped());
        let (sender, receiver) = mpsc::sync_channel(1);
        // The kernel takes the end of the thread that forked for our death, so that
        // thread stays until the child has ended.
        std::thread::Builder::new().name(format!("{name}-child")).spawn(move || {
            let started = command.spawn();
            drop(command);
            match started {
                Ok(child) => reap(name, child, &sender),
                Err(error) => _ = sender.send(Err(error)),
            }
        })?;
        receiver.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends `signal` to the child; false if it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let exit = self.exit();
        exit.is_none() && kill_process(self.pid, signal).is_ok()
    }

    /// Sends `signal` to the child and its descendants; false if the child has ended.
    pub(crate) fn signal_group(&self, signal: Signal) -> bool {
        let exit = self.exit();
        exit.is_none() && kill_process_group(self.pid, signal).is_ok()
    }

    /// Waits until the child has been stopped by a signal; false if it has ended or
    /// `timeout` is over.
    pub(crate) fn wait_stopped(&self, timeout: Duration) -> bool {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let until = Instant::now() + timeout;
        loop {
            {
                let exit = self.exit();
                if exit.is_some() {
                    return false;
                }
                if let Ok(Some(status)) = waitid(WaitId::Pid(self.pid), options) {
                    return status.stopped();
                }
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// How the child ended; `None` if it runs.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        *self.exit()
    }

    /// Waits for the child's end; `None` if it still runs after `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        let running = |exit: &mut Option<ExitStatus>| exit.is_none();
        let waited = self.shared.ended.wait_timeout_while(self.exit(), timeout, running);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The last lines that the child wrote to stderr.
    pub(crate) fn tail(&self) -> String {
        self.shared.tail().text()
    }

    /// As [`Self::tail`], of a child that has failed: another thread collects what it said, and
    /// may still be at it.
    pub(crate) fn last_words(&self) -> String {
        let more = |tail: &mut Tail| !tail.complete;
        let waited = self.shared.all_said.wait_timeout_while(self.shared.tail(), LAST_WORDS_TIMEOUT, more);
        waited.unwrap_or_else(PoisonError::into_inner).0.text()
    }

    fn exit(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.shared.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tail {
    fn text(&self) -> String {
        self.lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("pid", &self.pid).field("ended", &self.ended()).finish()
    }
}

fn reap(name: &'static str, mut child: std::process::Child, started: &mpsc::SyncSender<io::Result<Started>>) {
    let pid = Pid::from_child(&child);
    let shared = Arc::new(Shared::default());
    let handle = Child { pid, shared: Arc::clone(&shared) };
    if let Some(stderr) = child.stderr.take() {
        let shared = Arc::clone(&shared);
        let log = move || keep_messages(name, stderr, &shared);
        if let Err(error) = std::thread::Builder::new().name(format!("{name}-stderr")).spawn(log) {
            tracing::warn!(%error, "The messages of {name} are lost");
        }
    }
    let stdout = child.stdout.take();
    if started.send(Ok(Started { child: handle, stdout })).is_err() {
        tracing::debug!("Nobody waits for {name}");
    }
    // Learn of the end first and reap under the lock.
    while waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        .is_err_and(|error| error == rustix::io::Errno::INTR)
    {}
    let mut exit = shared.exit.lock().unwrap_or_else(PoisonError::into_inner);
    match child.wait() {
        Ok(status) => *exit = Some(status),
        Err(error) => tracing::error!(%error, "Cannot wait for {name}"),
    }
    drop(exit);
    shared.ended.notify_all();
}

fn keep_messages(name: &'static str, stderr: ChildStderr, shared: &Shared) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    while reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if text.is_empty() {
            continue;
        }
        tracing::debug!(target: "toolstack", "{name}: {text}");
        let Tail { lines, .. } = &mut *shared.tail();
        if lines.len() == TAIL_LINES {
            lines.pop_front();
        }
        lines.push_back(text);
    }
    shared.tail().complete = true;
    shared.all_said.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    #[test]
    fn keeps_the_end_of_what_it_says() {
        let script = "i=0; while [ $i -lt 40 ]; do echo line $i >&2; i=$((i+1)); done; exit 3";
        let started = Child::start("test", shell(script), Signal::KILL, None).unwrap();
        let status = started.child.wait(Duration::from_secs(20)).unwrap();
        assert_eq!(status.code(), Some(3));
        assert!(!started.child.signal(Signal::TERM));
        let tail = started.child.last_words();
        assert!(tail.starts_with("line 10\n") && tail.ends_with("\nline 39"), "{tail}");
    }

    #[test]
    fn stops_goes_on_and_ends_with_its_group() {
        let script = "sleep 1000 & while read l; do echo $l; done";
        let (stdin, mut writer) = io::pipe().unwrap();
        let mut command = shell(script);
        command.stdin(stdin);
        let mut started = Child::start("test", command, Signal::KILL, None).unwrap();
        let child = started.child;
        assert!(!child.wait_stopped(Duration::from_millis(5)));
        for _ in 0..2 {
            assert!(child.signal(Signal::STOP));
            assert!(child.wait_stopped(Duration::from_secs(20)));
            assert!(child.wait_stopped(Duration::from_secs(20)), "asking changes nothing");
            assert!(child.signal(Signal::CONT));
        }
        writer.write_all(b"hello\n").unwrap();
        let mut line = [0; 6];
        started.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"hello\n");
        assert_eq!(child.ended(), None);
        assert!(child.signal_group(Signal::KILL));
        assert!(child.wait(Duration::from_secs(20)).is_some());
        // The background process held the pipe: its end is the end of the group.
        let mut rest = Vec::new();
        started.stdout.as_mut().unwrap().read_to_end(&mut rest).unwrap();
    }

    #[test]
    fn inherits_one_descriptor_more() {
        let (mut reader, writer) = io::pipe().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&writer);
        // Not `>&`, since a plain `sh` takes one digit only there.
        let command = shell(&format!("echo over >/proc/self/fd/{number}"));
        let started = Child::start("test", command, Signal::KILL, Some(writer.into())).unwrap();
        let mut text = String::new();
        // The end comes only if we have closed our copy.
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "over\n");
        assert!(started.child.wait(Duration::from_secs(20)).unwrap().success());
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = Child::start("test", Command::new("/nonexistent/xl"), Signal::KILL, None).err();
        assert_eq!(error.unwrap().kind(), io::ErrorKind::NotFound);
    }
}
