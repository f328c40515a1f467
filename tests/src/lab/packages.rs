//! Debian's packages: a few are installed on this machine, most are only downloaded and unpacked under the cache, so that no
//! daemon of theirs starts here and no boot entry appears.

use super::command::{run, words};
use super::error::{Context as _, LabError, Result};
use super::paths::Paths;
use super::progress::Progress;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs that must run on this machine, with the package each is in.
const INSTALLED: [(&str, &str); 7] = [
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/share/seabios/bios-256k.bin", "seabios"),
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/sbin/tc", "iproute2"),
    ("/usr/bin/bash", "bash"),
    ("/usr/bin/ldd", "libc-bin"),
    // Reads what `llm log export` writes.
    ("/usr/bin/tshark", "tshark"),
];

/// Packages to unpack; the kernel comes on top, named by [`KERNEL_META`].
const UNPACKED: [&str; 24] = [
    "busybox-static",
    "kmod",
    "libjemalloc2",
    "liblzf1",
    "libpcap0.8",
    // Its headers and archives, for the peer of `cargo lab bench ring`.
    "libxen-dev",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenmisc4.17",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    "nginx",
    "redis-server",
    "redis-tools",
    "tcpdump",
    "xen-hypervisor-4.17-amd64",
    "xen-utils-4.17",
    "xenstore-utils",
];

/// The package that depends on the newest kernel.
const KERNEL_META: &str = "linux-image-amd64";

/// What the packages hold.
#[derive(Debug, Clone)]
pub struct Packages {
    /// Where they are unpacked.
    pub root: PathBuf,
    /// File names of the packages, which hold their versions; sorted.
    pub names: Vec<String>,
    /// Version of the kernel: the folder under `lib/modules`.
    pub kernel: String,
}

impl Packages {
    /// Makes sure that all is there, downloading what is missing.
    ///
    /// # Errors
    /// When `apt-get` fails, or the machine is not a Debian 12 that has these packages.
    pub fn ensure(paths: &Paths, progress: &Progress) -> Result<Self> {
        install(&INSTALLED, progress)?;
        let debs = paths.debs();
        fs::create_dir_all(&debs).context(|| format!("make {}", debs.display()))?;
        download(&debs, progress)?;
        let mut names = deb_names(&debs)?;
        names.sort();
        let root = paths.root();
        unpack(&debs, &root, &names, progress)?;
        let kernel = fs::read_dir(root.join("lib/modules"))
            .ok()
            .and_then(|mut d| d.next())
            .and_then(std::result::Result::ok)
            .map(|d| d.file_name().to_string_lossy().into_owned())
            .ok_or_else(|| LabError::Missing {
                what: "The kernel's module folder".into(),
                hint: format!("remove {} and try again", paths.cache.display()),
            })?;
        Ok(Self { root, names, kernel })
    }

    /// A program or file of the packages, wherever Debian put it; links are followed.
    ///
    /// # Errors
    /// [`LabError::Missing`].
    pub fn find(&self, name: &str) -> Result<PathBuf> {
        let folders = ["bin", "sbin", "usr/bin", "usr/sbin", "usr/lib/xen-4.17/bin", "."];
        folders.iter().find_map(|f| fs::canonicalize(self.root.join(f).join(name)).ok()).ok_or_else(|| {
            LabError::Missing {
                what: format!("{name} in the unpacked packages"),
                hint: format!("remove {} to fetch them again", self.root.display()),
            }
        })
    }

    /// Folders with libraries, for `LD_LIBRARY_PATH`.
    #[must_use]
    pub fn library_path(&self) -> String {
        ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/xen-4.17/lib/x86_64-linux-gnu"]
            .map(|f| self.root.join(f).display().to_string())
            .join(":")
    }

    /// The libraries that a program needs, as the loader finds them, with the loader itself.
    ///
    /// # Errors
    /// When one cannot be found.
    pub fn libraries(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let mut command = Command::new("ldd");
        command.arg(program).env("LD_LIBRARY_PATH", self.library_path());
        let output = match run(&mut command) {
            Ok(output) => output,
            // A static program needs none.
            Err(LabError::Command { stderr, .. }) if stderr.contains("not a dynamic executable") => {
                return Ok(Vec::new());
            }
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let line = line.trim();
            if line.contains("not found") {
                return Err(LabError::Missing {
                    what: format!("A library of {}: {line}", program.display()),
                    hint: "install its package".into(),
                });
            }
            let path = line.split_once("=> ").map_or(line, |(_, p)| p);
            if let Some(path) = path.split(' ').next().filter(|p| p.starts_with('/')) {
                found.push(PathBuf::from(path));
            }
        }
        Ok(found)
    }
}

fn apt(args: &[&str], folder: &Path) -> Result<()> {
    run(Command::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root"])
        .args(args)
        .current_dir(folder)
        .env("DEBIAN_FRONTEND", "noninteractive"))
    .map(drop)
}

/// Runs `apt-get`, and once more after `apt-get update`: the indexes may be missing or old.
fn apt_fresh(args: &[&str], folder: &Path) -> Result<()> {
    apt(args, folder).or_else(|_| {
        apt(&["update"], folder)?;
        apt(args, folder)
    })
}

/// Installs the packages whose file is missing; each is given as a file and the package it is in.
///
/// # Errors
/// When `apt-get` fails.
pub(super) fn install(wanted: &[(&str, &str)], progress: &Progress) -> Result<()> {
    let mut missing: Vec<&str> =
        wanted.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let step = progress.step(format!("Installing Debian packages {}", missing.join(", ")));
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(&missing);
    apt_fresh(&args, Path::new("/"))?;
    step.done("installed");
    Ok(())
}

fn newest_kernel() -> Result<String> {
    let output = words(&["apt-cache", "depends", KERNEL_META])?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|l| l.trim().strip_prefix("Depends: "))
        .find(|p| p.starts_with("linux-image-"))
        .map(str::to_owned)
        .ok_or_else(|| LabError::Missing {
            what: format!("A kernel named by {KERNEL_META}"),
            hint: "the lab needs Debian 12 on amd64, and `apt-get update`".into(),
        })
}

fn deb_names(debs: &Path) -> Result<Vec<String>> {
    let list = fs::read_dir(debs).context(|| format!("list {}", debs.display()))?;
    Ok(list
        .filter_map(std::result::Result::ok)
        .map(|d| d.file_name().to_string_lossy().into_owned())
        .filter(|n| n.ends_with(".deb"))
        .collect())
}

fn download(debs: &Path, progress: &Progress) -> Result<()> {
    let have = deb_names(debs)?;
    let has = |prefix: &str| have.iter().any(|n| n.starts_with(prefix));
    let mut missing: Vec<String> =
        UNPACKED.iter().filter(|p| !has(&format!("{p}_"))).map(|p| (*p).to_owned()).collect();
    let kernel_missing = !has("linux-image-");
    if missing.is_empty() && !kernel_missing {
        return Ok(());
    }
    let count = missing.len() + usize::from(kernel_missing);
    let step = progress.step(format!("Downloading {count} Debian packages (not installed)"));
    if kernel_missing {
        let kernel = newest_kernel().or_else(|_| {
            apt(&["update"], debs)?;
            newest_kernel()
        })?;
        missing.push(kernel);
    }
    let mut args = vec!["download"];
    args.extend(missing.iter().map(String::as_str));
    apt_fresh(&args, debs)?;
    step.done(&missing.join(", "));
    Ok(())
}

fn unpack(debs: &Path, root: &Path, names: &[String], progress: &Progress) -> Result<()> {
    let stamp = root.join(".unpacked");
    let wanted = names.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    let step = progress.step("Unpacking packages");
    if root.exists() {
        fs::remove_dir_all(root).context(|| format!("remove {}", root.display()))?;
    }
    fs::create_dir_all(root).context(|| format!("make {}", root.display()))?;
    for name in names {
        run(Command::new("dpkg").arg("-x").arg(debs.join(name)).arg(root))?;
    }
    fs::write(&stamp, wanted).context(|| format!("write {}", stamp.display()))?;
    step.done(&format!("{} packages", names.len()));
    Ok(())
}
