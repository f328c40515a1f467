//! Short commands of the stock toolstack: look up, make, rename, pause, destroy.

use serde::Deserialize;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What `xl` adds to the name of a domain that is being received.
pub const INCOMING: &str = "--incoming";

/// What went wrong with a command of `xl`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolstackError {
    /// The program could not be run.
    #[error("Cannot run {}; is xen-utils installed?", xl.display())]
    Run {
        /// The program.
        xl: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The command failed.
    #[error("The command xl {command} failed ({status}): {said}")]
    Failed {
        /// The command with its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to stderr.
        said: String,
    },
    /// The command did not end.
    #[error("The command xl {command} did not end within {waited:?}; is xenstored running?")]
    Hangs {
        /// The command with its arguments.
        command: String,
        /// The time-out.
        waited: Duration,
    },
    /// There is no such domain.
    #[error("There is no domain {0:?} on this host; `xl list` shows those there are")]
    NoDomain(String),
    /// The answer was not understood.
    #[error("The answer of xl {command} is not understood: {answer}")]
    Answer {
        /// The command with its arguments.
        command: String,
        /// What is wrong with the answer.
        answer: String,
    },
}

/// Runs commands of `xl`.
#[derive(Clone, Debug)]
pub struct Xl {
    program: PathBuf,
    timeout: Duration,
}

impl Default for Xl {
    /// `xl` as the search path has it, with patience for a busy host.
    fn default() -> Self {
        Self::new("xl", Duration::from_secs(30))
    }
}

impl Xl {
    /// Commands of the program `program` (found by `PATH` if it has no slash), each
    /// killed if it takes longer than `timeout`.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { program: program.into(), timeout }
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The number of the domain called `name`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`ToolstackError`].
    pub fn domid(&self, name: &str) -> Result<Option<u32>, ToolstackError> {
        match self.run(&["domid", name]) {
            Ok(number) => number
                .trim()
                .parse()
                .map(Some)
                .map_err(|_| ToolstackError::Answer { command: format!("domid {name}"), answer: number }),
            Err(ToolstackError::Failed { said, .. }) if said.contains("domain does not exist") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The configuration of the domain called `name`.
    ///
    /// # Errors
    ///
    /// [`ToolstackError::NoDomain`] if there is none, or as for any command.
    pub fn domain(&self, name: &str) -> Result<Domain, ToolstackError> {
        if self.domid(name)?.is_none() {
            return Err(ToolstackError::NoDomain(name.to_owned()));
        }
        let json = self.run(&["list", "-l", name])?;
        let answer = |answer| ToolstackError::Answer { command: format!("list -l {name}"), answer };
        let mut domains: Vec<Domain> =
            serde_json::from_str(&json).map_err(|error| answer(error.to_string()))?;
        domains.pop().ok_or_else(|| answer("an empty list".into()))
    }

    /// Renames a domain.
    ///
    /// # Errors
    ///
    /// [`ToolstackError`], also if the new name is taken.
    pub fn rename(&self, domain: &str, to: &str) -> Result<(), ToolstackError> {
        self.run(&["rename", domain, to]).map(drop)
    }

    /// Makes a domain from a configuration file.
    ///
    /// # Errors
    ///
    /// [`ToolstackError`].
    pub fn create(&self, file: &Path) -> Result<(), ToolstackError> {
        self.run(&["create", &file.to_string_lossy()]).map(drop)
    }

    /// Destroys a domain at once.
    ///
    /// # Errors
    ///
    /// [`ToolstackError`].
    pub fn destroy(&self, domain: &str) -> Result<(), ToolstackError> {
        self.run(&["destroy", domain]).map(drop)
    }

    /// Destroys what a killed `xl migrate-receive` left of the domain `name`; true if
    /// there was anything.
    ///
    /// # Errors
    ///
    /// [`ToolstackError`].
    pub fn destroy_incoming(&self, name: &str) -> Result<bool, ToolstackError> {
        let incoming = format!("{name}{INCOMING}");
        let found = self.domid(&incoming)?.is_some();
        if found {
            self.destroy(&incoming)?;
        }
        Ok(found)
    }

    /// Pauses a domain.
    ///
    /// # Errors
    ///
    /// [`ToolstackError`].
    pub fn pause(&self, domain: &str) -> Result<(), ToolstackError> {
        self.run(&["pause", domain]).map(drop)
    }

    /// Lets a paused domain go on.
    ///
    /// # Errors
    ///
    /// [`ToolstackError`].
    pub fn unpause(&self, domain: &str) -> Result<(), ToolstackError> {
        self.run(&["unpause", domain]).map(drop)
    }

    /// Runs one command and returns what it wrote to stdout.
    fn run(&self, args: &[&str]) -> Result<String, ToolstackError> {
        let run = |source| ToolstackError::Run { xl: self.program.clone(), source };
        let mut command = Command::new(&self.program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(run)?;
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let until = Instant::now() + self.timeout;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(run)? {
                break status;
            }
            if Instant::now() >= until {
                child.kill().and_then(|()| child.wait()).map_err(run)?;
                return Err(ToolstackError::Hangs { command: args.join(" "), waited: self.timeout });
            }
            thread::sleep(Duration::from_millis(2));
        };
        let text = |thread: thread::JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
        };
        let (stdout, stderr) = (text(stdout), text(stderr));
        if status.success() {
            return Ok(stdout);
        }
        Err(ToolstackError::Failed { command: args.join(" "), status, said: stderr.trim().to_owned() })
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still worth showing.
        _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        bytes
    })
}

/// How a domain is virtualised.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum DomainType {
    /// Paravirtual.
    Pv,
    /// Hardware virtualisation without a device model.
    Pvh,
    /// Hardware virtualisation with a device model.
    Hvm,
    /// One that we do not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A domain with the parts of its configuration that matter to us.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Domain {
    /// Its number.
    pub domid: u32,
    /// Its configuration.
    pub config: DomainConfig,
}

/// Parts of a domain's configuration, named as libxl names them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct DomainConfig {
    /// Identity.
    pub c_info: CreateInfo,
    /// Resources.
    #[serde(default)]
    pub b_info: BuildInfo,
    /// Network interfaces.
    #[serde(default)]
    pub nics: Vec<Vif>,
    /// Disks.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// What to do when the domain switches itself off; libxl leaves the default of `destroy` out.
    pub on_poweroff: Option<String>,
}

/// A domain's identity.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct CreateInfo {
    /// How it is virtualised.
    #[serde(default, rename = "type")]
    pub kind: DomainType,
    /// Its name.
    pub name: String,
    /// Its UUID.
    #[serde(default)]
    pub uuid: String,
}

/// A domain's resources.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct BuildInfo {
    /// Most virtual CPUs; libxl leaves the default of 1 out.
    pub max_vcpus: Option<u32>,
    /// Most memory, KiB.
    #[serde(default)]
    pub max_memkb: u64,
}

/// A network interface.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Vif {
    /// Number of the interface in its domain; libxl leaves it out where it is not set yet.
    #[serde(default)]
    pub devid: u32,
    /// Hardware address, six hexadecimal bytes with colons.
    #[serde(default)]
    pub mac: String,
    /// The bridge that it is to be a port of.
    pub bridge: Option<String>,
    /// The hotplug script; none stands for `vif-bridge`.
    pub script: Option<String>,
    /// The name given to the device in Dom0, if it is not the usual one.
    pub ifname: Option<String>,
}

impl Vif {
    /// Name of the network device in Dom0 for the domain `domid`.
    #[must_use]
    pub fn device(&self, domid: u32) -> String {
        self.ifname.clone().unwrap_or_else(|| format!("vif{domid}.{}", self.devid))
    }
}

/// A disk.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Disk {
    /// File or device in Dom0.
    pub pdev_path: Option<String>,
    /// Name in the guest.
    #[serde(default)]
    pub vdev: String,
    /// Whether the guest may write: 0 or 1.
    #[serde(default)]
    pub readwrite: u32,
}

#[cfg(test)]
mod tests {
    use super::super::testing::FakeXl;
    use super::*;

    /// As `xl list -l` of Xen 4.17 prints it, cut short.
    const LIST: &str = r#"[
        { "domid": 3, "config": {
            "c_info": { "type": "pvh", "name": "g", "uuid": "c6b4ee2f-7a3b-4c8e-9c61-b1a6f3f0a0aa",
                        "run_hotplug_scripts": "True" },
            "b_info": { "max_vcpus": 2, "max_memkb": 131072, "target_memkb": 131072, "type.pvh": {} },
            "nics": [ { "devid": 1, "mac": "00:16:3e:00:00:50", "bridge": "xenbr0", "script": "llm-vif",
                        "nictype": "vif" } ],
            "disks": [ { "pdev_path": "/dev/vg/g", "vdev": "xvda", "readwrite": 1, "format": "raw" } ],
            "on_reboot": "restart" } } ]"#;

    fn xl(script: &str) -> (Xl, FakeXl) {
        let fake = FakeXl::new(script);
        (Xl::new(fake.program(), Duration::from_secs(30)), fake)
    }

    #[test]
    fn reads_a_domain() {
        let (xl, _fake) = xl(&format!("case $1 in domid) echo 3;; *) cat <<'END'\n{LIST}\nEND\nesac"));
        let domain = xl.domain("g").unwrap();
        assert_eq!((domain.domid, domain.config.c_info.name.as_str()), (3, "g"));
        assert_eq!(domain.config.c_info.kind, DomainType::Pvh);
        assert_eq!((domain.config.b_info.max_vcpus, domain.config.b_info.max_memkb), (Some(2), 131_072));
        let vif = &domain.config.nics[0];
        assert_eq!(vif.device(domain.domid), "vif3.1");
        assert_eq!((vif.bridge.as_deref(), vif.script.as_deref()), (Some("xenbr0"), Some("llm-vif")));
        assert_eq!(domain.config.disks[0].vdev, "xvda");
        assert_eq!(domain.config.disks[0].readwrite, 1);
    }

    #[test]
    fn little_of_a_domain_is_needed() {
        let (xl, _fake) = xl(r#"echo '[{"domid":1,"config":{"c_info":{"type":"new","name":"a"}}}]'"#);
        // This one answers every command alike, so ask for the list only.
        let json = xl.run(&["list"]).unwrap();
        let domains: Vec<Domain> = serde_json::from_str(&json).unwrap();
        assert_eq!(domains[0].config.c_info.kind, DomainType::Unknown);
    }

    #[test]
    fn tells_no_domain_from_no_xen() {
        let said = "Can't get domid of domain name 'g', maybe this domain does not exist.";
        let (none, _fake) = xl(&format!("echo \"{said}\" >&2; exit 1"));
        assert_eq!(none.domid("g").unwrap(), None);
        assert!(!none.destroy_incoming("g").unwrap());
        assert!(matches!(none.domain("g"), Err(ToolstackError::NoDomain(name)) if name == "g"));
        let (broken, _fake) = xl("echo 'cannot init xl context' >&2; exit 1");
        let error = broken.domid("g").unwrap_err().to_string();
        assert!(error.contains("xl domid g") && error.contains("cannot init xl context"), "{error}");
        assert!(matches!(
            Xl::new("/nonexistent/xl", Duration::ZERO).domid("g"),
            Err(ToolstackError::Run { .. })
        ));
    }

    #[test]
    fn passes_arguments_and_does_not_wait_for_ever() {
        let (xl, fake) = xl("echo \"$@\" >>$0.log; case $1 in domid) echo 9;; pause) exec sleep 1000;; esac");
        assert!(xl.destroy_incoming("g").unwrap());
        xl.rename("g", "h").unwrap();
        xl.unpause("g").unwrap();
        let quick = Xl::new(xl.program(), Duration::from_millis(100));
        assert!(matches!(quick.pause("g"), Err(ToolstackError::Hangs { .. })));
        assert_eq!(
            fake.side("log"),
            "domid g--incoming\ndestroy g--incoming\nrename g h\nunpause g\npause g\n"
        );
    }
}
