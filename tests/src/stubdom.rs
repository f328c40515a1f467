//! Builds the unikernel and boots it on real Xen, which QEMU emulates whole.
//!
//! Xen starts the unikernel as its first domain, so that neither a Linux nor a
//! toolstack is needed and a boot takes some two seconds.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, fs};

use crate::lab::Paths;

/// The hypervisor, as Debian's package `xen-hypervisor-4.17-amd64` installs it; the lab unpacks that package under its cache.
pub const XEN: &str = "/boot/xen-4.17-amd64.gz";
/// The emulator, of Debian's package `qemu-system-x86`.
pub const QEMU: &str = "qemu-system-x86_64";

/// Why the unikernel could not be built, or how its boot went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part of the emulated machine is not installed.
    #[error("{part} is missing: install the Debian package {package}")]
    Missing {
        /// The file or program.
        part: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// A program could not be run.
    #[error("Running {program} failed")]
    Run {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{program} failed ({status}): {stderr}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// A file of the build could not be written.
    #[error("Writing {} failed", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the build could not be read, or is not what it should be.
    #[error("Reading {} failed", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The machine was still running when the time was over.
    #[error("The machine did not come to its end within {limit:?}; its console:\n{console}")]
    TimeOut {
        /// The time it had.
        limit: Duration,
        /// What the console said until then.
        console: String,
    },
    /// QEMU ended although Xen had not halted.
    #[error("QEMU ended before the domain did; the console:\n{console}")]
    Gone {
        /// What the console said until then.
        console: String,
    },
}

/// A Cargo profile the unikernel is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Unoptimised, with overflow checks.
    Debug,
    /// As shipped.
    Release,
}

/// How a domain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It asked to be powered off.
    PoweredOff,
    /// It asked for a crash, or Xen crashed it.
    Crashed,
}

/// A boot from start to end.
#[derive(Debug)]
pub struct Boot {
    /// How the domain ended.
    pub end: End,
    /// What the hypervisor and the domain wrote to the serial console.
    pub console: String,
}

/// Builds the unikernel in a build folder of its own, so that its dependencies
/// never share features with those of host programs. Returns the ELF file.
///
/// # Errors
/// [`Error::Run`] and [`Error::Failed`] for cargo.
pub fn build(profile: Profile) -> Result<PathBuf, Error> {
    let target = target_dir();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).args([
        "build",
        "--quiet",
        "--package",
        "llm-stubdom",
        "--bin",
        "llm-stubdom",
    ]);
    cargo.arg("--target-dir").arg(&target);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    run(&mut cargo)?;
    let folder = match profile {
        Profile::Debug => "debug",
        Profile::Release => "release",
    };
    Ok(target.join(folder).join("llm-stubdom"))
}

/// An emulated machine with Xen.
#[derive(Debug)]
pub struct Machine {
    xen: PathBuf,
}

impl Machine {
    /// The machine made of what is installed here.
    ///
    /// # Errors
    /// [`Error::Missing`] if the emulator or the hypervisor is not installed, others if
    /// the hypervisor cannot be unpacked.
    pub fn find() -> Result<Self, Error> {
        let path = env::var_os("PATH").unwrap_or_default();
        if !env::split_paths(&path).any(|folder| folder.join(QEMU).is_file()) {
            return Err(Error::Missing { part: QEMU, package: "qemu-system-x86" });
        }
        let installed = [PathBuf::from(XEN), Paths::new("").root().join(XEN.trim_start_matches('/'))];
        let Some(packed) = installed.into_iter().find(|file| file.is_file()) else {
            return Err(Error::Missing { part: XEN, package: "xen-hypervisor-4.17-amd64" });
        };
        // QEMU wants the ELF file, the package has it packed.
        let unpacked = run(Command::new("zcat").arg(packed))?;
        let folder = target_dir();
        let xen = folder.join("xen.elf");
        // Renamed into place, as several tests may do this at once.
        let partial =
            folder.join(format!("xen.elf.{}.{:?}", std::process::id(), std::thread::current().id()));
        let write = |path: &Path, result: io::Result<()>| {
            result.map_err(|source| Error::Write { path: path.to_owned(), source })
        };
        write(&folder, fs::create_dir_all(&folder))?;
        write(&partial, fs::write(&partial, unpacked))?;
        write(&xen, fs::rename(&partial, &xen))?;
        Ok(Self { xen })
    }

    /// Boots `kernel` with `options` on its command line, and waits at most `limit`
    /// for its end. QEMU is gone when this returns, however it returns.
    ///
    /// # Errors
    /// [`Error::Run`] if QEMU does not start, [`Error::TimeOut`] and [`Error::Gone`] if
    /// the domain's end is not seen.
    pub fn boot(&self, kernel: &Path, options: &str, limit: Duration) -> Result<Boot, Error> {
        let mut module = OsString::from(kernel);
        module.push(" ");
        module.push(options);
        let mut qemu = Command::new(QEMU);
        qemu.args(["-M", "pc", "-cpu", "max", "-accel", "tcg", "-m", "512", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio", "-monitor", "none", "-kernel"])
            .arg(&self.xen)
            .args([
                "-append",
                "console=com1 com1=115200,8n1 loglvl=warning dom0_mem=64M no-watchdog noreboot",
            ])
            .arg("-initrd")
            .arg(module)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let deadline = Instant::now() + limit;
        let mut qemu =
            Killed(qemu.spawn().map_err(|source| Error::Run { program: QEMU.to_owned(), source })?);
        let stdout = qemu.0.stdout.take().expect("stdout is piped");

        // A thread of its own, since a read of a pipe has no time-out; it ends with QEMU.
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).replace('\r', "")).is_err() {
                    break;
                }
            }
        });
        let mut console = String::new();
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    console.push_str(&line);
                    console.push('\n');
                    if let Some(end) = end_of(&line) {
                        return Ok(Boot { end, console });
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Err(Error::TimeOut { limit, console }),
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Gone { console }),
            }
        }
    }
}

/// What a line of Xen's log says about the end of the first domain, after which Xen halts.
fn end_of(line: &str) -> Option<End> {
    if !line.starts_with("(XEN) ") {
        None
    } else if line.contains("Hardware Dom0 halted") {
        Some(End::PoweredOff)
    } else if line.contains("Hardware Dom0 crashed") {
        Some(End::Crashed)
    } else {
        None
    }
}

/// A child process that does not outlive its owner.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Fails only if it is gone already, and then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace")
}

fn target_dir() -> PathBuf {
    workspace().join("target/stubdom")
}

pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.stdin(Stdio::null()).output() {
        Err(source) => Err(Error::Run { program, source }),
        Ok(done) if done.status.success() => Ok(done.stdout),
        Ok(done) => Err(Error::Failed {
            program,
            status: done.status,
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_xen_tells_of_the_end() {
        assert_eq!(end_of("(XEN) Hardware Dom0 halted: halting machine"), Some(End::PoweredOff));
        assert_eq!(
            end_of("(XEN) Hardware Dom0 crashed: 'noreboot' set - not rebooting."),
            Some(End::Crashed)
        );
        assert_eq!(end_of("(XEN) Domain 0 (vcpu#0) crashed on cpu#0:"), None);
        assert_eq!(end_of("llm-stubdom: Hardware Dom0 halted"), None);
    }

    #[test]
    fn a_failed_program_is_reported_with_its_words() {
        let error = run(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).unwrap_err();
        assert!(matches!(&error, Error::Failed { stderr, .. } if stderr == "no\n"), "{error}");
        assert!(matches!(run(&mut Command::new("no-such-program")), Err(Error::Run { .. })));
    }

    #[test]
    fn a_killed_child_is_gone() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        drop(Killed(child));
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
