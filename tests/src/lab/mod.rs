//! Two real Xen hosts in QEMU, their network and their guest, for demos and tests.
//!
//! ```no_run
//! use llm_tests::lab::{Lab, Options};
//! let lab = Lab::up(&Options::default())?;
//! lab.guest_create(0)?;
//! println!("{}", lab.host(0).check("xl list")?.text());
//! lab.host(0).kill()?;
//! # Ok::<(), llm_tests::lab::LabError>(())
//! ```
//! Needs root. The lab is taken down when [`Lab`] is dropped, unless it was kept; binaries also call [`clean_on_exit`].

mod capture;
pub mod command;
pub mod cpio;
mod error;
pub mod guest;
mod host;
pub mod image;
mod net;
mod packages;
mod paths;
pub mod pattern;
mod programs;
mod progress;
pub mod qemu;
mod ring;
pub mod sink;
mod state;
pub mod wire;
pub mod work;

pub use capture::Capture;
pub use error::{Context, LabError, Result};
pub use host::{Host, Output, Running};
pub use net::{Link, Namespace};
pub use packages::Packages;
pub use paths::Paths;
pub use programs::Llm;
pub use progress::{Progress, Step};
pub use qemu::log_tail;
pub use ring::{RingFiles, build as build_ring};
pub use state::{Process, State};

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Installs Valgrind, if it is missing.
///
/// # Errors
/// When `apt-get` fails.
pub fn install_valgrind(progress: &Progress) -> Result<()> {
    packages::install(&[VALGRIND], progress)
}

/// Builds a program of the workspace with the release profile, and returns its path.
///
/// # Errors
/// When cargo fails.
pub fn build_program(package: &str, binary: &str, progress: &Progress) -> Result<std::path::PathBuf> {
    let step = progress.step(format!("Building {binary}"));
    let program = programs::cargo(&Paths::new(binary), package, binary)?;
    step.done("built");
    Ok(program)
}

/// Time a host gets to boot.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(180);
/// Time a guest gets from `xl create` to its first answers.
pub const GUEST_TIMEOUT: Duration = Duration::from_secs(90);
/// Programs that tests need on this machine: Xen's stream checker is in Python, libFuzzer in C++.
const TEST_PROGRAMS: [(&str, &str); 3] = [("/usr/bin/python3", "python3"), ("/usr/bin/c++", "g++"), VALGRIND];
/// Counts instructions.
const VALGRIND: (&str, &str) = ("/usr/bin/valgrind", "valgrind");
/// Name of the lab and of its network namespace, when none is given.
pub const DEFAULT_NAME: &str = "llmlab";

/// Whether this process brought a lab up that is to end with it.
static OWNER: AtomicBool = AtomicBool::new(false);

/// How to bring a lab up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the lab and of its network namespace.
    pub name: String,
    /// The `llm` binary for the hosts.
    pub llm: Llm,
    /// Memory of each host in MiB.
    pub memory_mib: u32,
    /// Memory of each host's Dom0 in MiB.
    pub dom0_mib: u32,
    /// What the user sees.
    pub progress: Progress,
    /// More options for each `llm protect` that does not have them yet.
    pub protect: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: DEFAULT_NAME.to_owned(),
            llm: Llm::Build,
            memory_mib: 2048,
            dom0_mib: 1024,
            progress: Progress::new(),
            protect: String::new(),
        }
    }
}

impl Options {
    /// Those of a lab of this name with this `llm`, which tells `progress` what it does.
    #[must_use]
    pub fn of(name: &str, llm: &Llm, progress: Progress) -> Self {
        Self { name: name.to_owned(), llm: llm.clone(), progress, ..Self::default() }
    }
}

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    paths: Paths,
    namespace: Namespace,
    hosts: [Host; 2],
    /// Held while this process owns the lab; `None` for one that was attached to.
    lock: Option<File>,
    keep: bool,
    protect: String,
}

impl Lab {
    fn new(paths: Paths, lock: Option<File>) -> Self {
        let namespace = Namespace::new(&paths.name);
        let hosts = [Host::new(&paths, 1), Host::new(&paths, 2)];
        Self { paths, namespace, hosts, lock, keep: false, protect: String::new() }
    }

    /// Builds what is missing, makes the network and boots both hosts; returns when both are ready.
    ///
    /// # Errors
    /// When the lab is running already, something cannot be built, or a host does not boot. Nothing is left running then.
    pub fn up(options: &Options) -> Result<Self> {
        require_root()?;
        let paths = Paths::new(&options.name);
        let lock = lock(&paths)?;
        refuse_second(&paths)?;
        OWNER.store(true, Ordering::SeqCst);
        let images = {
            // Labs of other names share the cache: one of them fills it at a time.
            let _alone = lock_cache(&paths)?;
            let packages = Packages::ensure(&paths, &options.progress)?;
            let programs = programs::build(&paths, &options.llm, &options.progress)?;
            image::build(&paths, &packages, &programs, &options.progress)?
        };
        let machine = qemu::Machine {
            images: paths.images(),
            xen: images.xen,
            kernel: images.kernel,
            initrd: images.dom0,
            memory_mib: options.memory_mib,
            dom0_mib: options.dom0_mib,
        };
        take_down(&paths)?;
        State { machine, ..State::default() }.store(&paths)?;
        // From here on, dropping it cleans up.
        let mut lab = Self::new(paths, Some(lock));
        lab.protect.clone_from(&options.protect);
        lab.namespace.create()?;
        let step = options.progress.step("Booting two hosts");
        for host in &lab.hosts {
            host.start()?;
        }
        for host in &lab.hosts {
            host.wait_ready(BOOT_TIMEOUT)?;
            step.detail(&format!("host{} is ready", host.number()));
        }
        step.done("ready");
        Ok(lab)
    }

    /// Installs and downloads what a lab needs, and installs what the tests need beside it; boots nothing.
    ///
    /// # Errors
    /// When this is not root, or `apt-get` fails.
    pub fn prepare(paths: &Paths, progress: &Progress) -> Result<()> {
        require_root()?;
        let _alone = lock_cache(paths)?;
        packages::install(&TEST_PROGRAMS, progress)?;
        packages::install(&crate::bare::FILES, progress)?;
        Packages::ensure(paths, progress).map(drop)
    }

    /// The lab that an earlier command brought up; it stays up when this is dropped.
    ///
    /// # Errors
    /// [`LabError::NotUp`].
    pub fn attach(name: &str) -> Result<Self> {
        require_root()?;
        let paths = Paths::new(name);
        if State::load(&paths)?.is_none() {
            return Err(LabError::NotUp { name: name.to_owned() });
        }
        let mut lab = Self::new(paths, None);
        lab.keep = true;
        Ok(lab)
    }

    /// More options for each `llm protect`.
    #[must_use]
    pub fn protect(&self) -> &str {
        &self.protect
    }

    /// Lets the lab run on after this is dropped.
    pub fn keep(mut self) {
        self.keep = true;
        OWNER.store(false, Ordering::SeqCst);
    }

    /// Host 0 or 1. In names and addresses they are host1 (10.x.0.11) and host2 (10.x.0.12).
    ///
    /// # Panics
    /// For another index.
    #[must_use]
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// The network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The lab's folders.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Runs `f` on a thread inside the lab's network, where the clients are.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn in_netns<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.enter(f)
    }

    /// Captures the service network into a pcap file until the result is dropped; 256 bytes of each packet.
    ///
    /// # Errors
    /// When tcpdump cannot be started.
    pub fn capture(&self, to: &Path) -> Result<Capture> {
        Capture::start(&self.paths, Link::Service, 256, to)
    }

    /// Creates the guest on a host and waits until redis and nginx answer.
    ///
    /// # Errors
    /// When `xl create` fails or nothing answers.
    pub fn guest_create(&self, host: usize) -> Result<()> {
        self.create(host, guest::NAME)
    }

    /// Creates the guest `name` of [`guest::configs`] on a host; one with a network is waited for until it answers.
    ///
    /// # Errors
    /// When `xl create` fails or nothing answers.
    pub fn create(&self, host: usize, name: &str) -> Result<()> {
        if name == guest::TINY {
            return guest::create_tiny(self.host(host));
        }
        guest::create(self.host(host), &self.namespace, name, GUEST_TIMEOUT)
    }

    /// Takes a host off a link, or back on it.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn connect(&self, host: usize, link: Link, connected: bool) -> Result<()> {
        let number = self.host(host).number();
        if connected { self.namespace.heal(number, link) } else { self.namespace.cut(number, link) }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = take_down(&self.paths) {
            eprintln!("{error}");
        }
        // Released only now, after all is gone.
        self.lock.take();
    }
}

fn require_root() -> Result<()> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(LabError::NotRoot) }
}

fn lock(paths: &Paths) -> Result<File> {
    let folder = paths.run();
    fs::create_dir_all(&folder).context(|| format!("make {}", folder.display()))?;
    let path = paths.lock();
    let file = File::create(&path).context(|| format!("create {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| LabError::Busy {
        name: paths.name.clone(),
        who: format!("another process holds {}", path.display()),
    })?;
    Ok(file)
}

fn lock_cache(paths: &Paths) -> Result<File> {
    fs::create_dir_all(&paths.cache).context(|| format!("make {}", paths.cache.display()))?;
    let path = paths.cache.join("lock");
    let file = File::create(&path).context(|| format!("create {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive).context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

fn refuse_second(paths: &Paths) -> Result<()> {
    let namespace = Namespace::new(&paths.name);
    let mut who: Vec<String> = Vec::new();
    match State::load(paths)? {
        Some(state) => {
            who.extend(
                state.hosts.iter().flatten().filter(|p| p.alive()).map(|p| format!("process {}", p.pid)),
            );
        }
        None if namespace.exists() => {
            // Not ours to kill: say who is in it.
            who = namespace.pids()?.iter().map(|pid| format!("process {pid} in the namespace")).collect();
        }
        None => {}
    }
    if who.is_empty() {
        Ok(())
    } else {
        Err(LabError::Busy { name: paths.name.clone(), who: who.join(", ") })
    }
}

/// Ends the lab: kills its processes, removes its network and its state. Nothing happens when it is not up.
///
/// # Errors
/// When a process does not die or the network cannot be removed.
pub fn take_down(paths: &Paths) -> Result<()> {
    if let Some(state) = State::load(paths)? {
        for process in state.hosts.iter().flatten().chain(&state.helpers) {
            process.kill()?;
        }
        for number in [1, 2] {
            for what in ["console", "monitor"] {
                // QEMU removes its sockets itself, unless it was killed.
                let _ = fs::remove_file(paths.socket(number, what));
            }
        }
    }
    Namespace::new(&paths.name).remove()?;
    match fs::remove_file(paths.state()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).context(|| format!("remove {}", paths.state().display()))
        }
        _ => Ok(()),
    }
}

/// For binaries: on SIGINT, SIGTERM, SIGHUP and on a panic takes the lab down that this process brought up, then exits.
///
/// # Errors
/// When the signal handler cannot be set.
pub fn clean_on_exit(name: &str) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let paths = Paths::new(name);
    let on_panic = paths.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        // Where a panic aborts no destructor runs.
        if OWNER.load(Ordering::SeqCst) {
            let _ = take_down(&on_panic);
        }
    }));
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .context(|| "set a signal handler".to_owned())?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            if OWNER.load(Ordering::SeqCst) {
                eprintln!("\nStopping the lab");
                if let Err(error) = take_down(&paths) {
                    eprintln!("{error}");
                }
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}
