//! The lab's images: Dom0's and the guests' initramfs. An image is built anew only when something in it changed.

use super::command::run;
use super::cpio::Tree;
use super::error::{Context as _, LabError, Result};
use super::packages::Packages;
use super::paths::Paths;
use super::progress::Progress;
use super::{guest, pattern};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufWriter, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const DOM0_INIT: &str = include_str!("../../images/dom0-init");
const GUEST_INIT: &str = include_str!("../../images/guest-init");
const TINY: &str = include_str!("../../images/tiny.S");
const TINY_LINK: &str = include_str!("../../images/tiny.ld");
const NGINX_CONF: &str = include_str!("../../images/nginx.conf");
const REDIS_CONF: &str = include_str!("../../images/redis.conf");
/// What the guest serves at `/`.
pub const INDEX_HTML: &str = "<!doctype html><title>guest</title><p>The guest is alive.</p>\n";
const LAB_VIF: &str = include_str!("../../images/lab-vif");

/// What the guest serves at `/64k`.
#[must_use]
pub fn page_64k() -> Vec<u8> {
    let mut page = vec![0; 64 * 1024];
    pattern::fill(0, &mut page);
    page
}

/// Modules of Dom0's kernel; those they need come along.
const DOM0_MODULES: [&str; 25] = [
    "virtio_pci",
    "virtio_net",
    "xen_evtchn",
    "xen_gntdev",
    "xen_gntalloc",
    "xen_privcmd",
    "xenfs",
    "xen_netback",
    "xen_blkback",
    "bridge",
    "tun",
    "veth",
    "ifb",
    "dummy",
    "nbd",
    "sch_plug",
    "sch_netem",
    "sch_tbf",
    "sch_prio",
    "sch_ingress",
    "cls_u32",
    "cls_matchall",
    "act_mirred",
    "8021q",
    "macvtap",
];

/// Programs of Dom0 from the unpacked packages.
const DOM0_PROGRAMS: [&str; 16] = [
    "xl",
    "libxl-save-helper",
    "xenstored",
    "xenconsoled",
    "xenconsole",
    "xen-init-dom0",
    "xentop",
    "xen-diag",
    "xenstore-read",
    "xenstore-write",
    "xenstore-ls",
    "xenstore-rm",
    "xenstore-list",
    "xenstore-watch",
    "tcpdump",
    "busybox",
];

/// Programs of Dom0 from this machine.
/// dash is /bin/sh, as on Debian: busybox' shell runs its own small `ip` whatever `PATH` says.
const DOM0_HOST_PROGRAMS: [&str; 5] =
    ["/usr/bin/bash", "/usr/bin/dash", "/usr/sbin/ip", "/usr/sbin/tc", "/usr/sbin/bridge"];

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Programs of the workspace that go into the images.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `lab-agent`, for Dom0.
    pub agent: PathBuf,
    /// `guest-tool`, for the guest.
    pub guest_tool: PathBuf,
    /// `llm`, if it is to be in Dom0.
    pub llm: Option<PathBuf>,
    /// The unikernel that `llm` may use.
    pub stubdom: Option<PathBuf>,
}

/// File names in the image folder.
#[derive(Debug, Clone)]
pub struct Images {
    /// Xen, unpacked.
    pub xen: String,
    /// Linux, for Dom0 and guests.
    pub kernel: String,
    /// Dom0's initramfs.
    pub dom0: String,
}

/// Builds what changed.
///
/// # Errors
/// When a file is missing or an image cannot be written.
pub fn build(paths: &Paths, packages: &Packages, programs: &Programs, progress: &Progress) -> Result<Images> {
    let folder = paths.images();
    fs::create_dir_all(&folder).context(|| format!("make {}", folder.display()))?;
    let step = progress.step("Building images");
    let mut built = Vec::new();

    let xen = format!("xen-{:016x}.elf", digest(&packages.names.join("\n")));
    once(&folder.join(&xen), &mut built, |out| {
        let packed = packages.find("boot/xen-4.17-amd64.gz")?;
        let output = run(Command::new("gzip").arg("-dc").arg(packed))?;
        out.write_all(&output.stdout).context(|| "unpack Xen".to_owned())
    })?;
    let kernel = format!("vmlinuz-{}", packages.kernel);
    let kernel_path = folder.join(&kernel);
    once(&kernel_path, &mut built, |out| {
        let data =
            fs::read(packages.find(&format!("boot/{kernel}"))?).context(|| "read the kernel".to_owned())?;
        out.write_all(&data).context(|| "copy the kernel".to_owned())
    })?;

    let modules = ModuleSource::new(paths, packages)?;
    let guest = store(&folder, "guest", &guest_tree(packages, &modules, programs)?, &mut built)?;
    let tiny = tiny(&folder, &mut built)?;

    let base_key = format!("{DOM0_MODULES:?}{DOM0_PROGRAMS:?}{DOM0_HOST_PROGRAMS:?}{:?}", packages.names);
    let base = format!("base-{:016x}.cpio", digest(&base_key));
    once(&folder.join(&base), &mut built, |out| base_tree(packages, &modules)?.write(out))?;

    let mut overlay = overlay_tree(paths, packages, programs)?;
    overlay.copy("lab/vmlinuz", 0o644, &kernel_path);
    overlay.copy("lab/guest.cpio", 0o644, &folder.join(guest));
    overlay.copy("lab/tiny.elf", 0o644, &folder.join(tiny));
    let dom0 = format!("dom0-{:016x}.cpio", overlay.digest()? ^ digest(&base));
    once(&folder.join(&dom0), &mut built, |out| {
        // The kernel unpacks archives one after the other; a later file replaces an earlier one.
        let data = fs::read(folder.join(&base)).context(|| format!("read {base}"))?;
        out.write_all(&data).context(|| "write the base image".to_owned())?;
        overlay.write(out)
    })?;
    step.done(&if built.is_empty() { "nothing changed".to_owned() } else { built.join(", ") });
    Ok(Images { xen, kernel, dom0 })
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Images of a kind that are kept: another lab may be running with an older one, and need it to restart a host.
const KEPT: usize = 6;

/// Writes a file unless it is there, and removes the oldest ones of its kind.
fn once(
    path: &Path,
    built: &mut Vec<String>,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kind = name.split_once('-').map_or(name.as_str(), |(kind, _)| kind).to_owned();
    prune(path.parent().unwrap_or(path), &kind);
    let part = path.with_extension("part");
    let mut out = BufWriter::new(File::create(&part).context(|| format!("create {}", part.display()))?);
    write(&mut out)?;
    out.flush().and_then(|()| fs::rename(&part, path)).context(|| format!("write {}", path.display()))?;
    built.push(name);
    Ok(())
}

fn prune(folder: &Path, kind: &str) {
    let Ok(list) = fs::read_dir(folder) else { return };
    let mut old: Vec<_> = list
        .flatten()
        .filter(|d| d.file_name().to_string_lossy().starts_with(&format!("{kind}-")))
        .filter_map(|d| Some((d.metadata().ok()?.modified().ok()?, d.path())))
        .collect();
    old.sort();
    for (_, path) in old.iter().rev().skip(KEPT - 1) {
        // One that stays takes room and nothing else.
        let _ = fs::remove_file(path);
    }
}

/// Writes an image as `KIND-DIGEST.cpio`, if it is not there yet, and returns its name.
pub(super) fn store(folder: &Path, kind: &str, tree: &Tree, built: &mut Vec<String>) -> Result<String> {
    let name = format!("{kind}-{:016x}.cpio", tree.digest()?);
    once(&folder.join(&name), built, |out| tree.write(out))?;
    Ok(name)
}

/// Folders and links that both full images have.
fn skeleton() -> Tree {
    let mut tree = Tree::new();
    for folder in [
        "dev", "proc", "sys", "run", "tmp", "root", "etc", "var/lib", "var/log", "usr/bin", "usr/sbin",
        LIBRARIES,
    ] {
        tree.directory(folder);
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        tree.symlink(name, &format!("usr/{name}"));
    }
    tree.symlink("var/run", "/run");
    tree.bytes(
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    );
    tree.bytes("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n");
    tree.bytes("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files\n");
    tree
}

/// Adds a program with its libraries.
pub(super) fn program(tree: &mut Tree, packages: &Packages, at: &str, from: &Path) -> Result<()> {
    tree.copy(at, 0o755, from);
    for library in packages.libraries(from)? {
        let name = library.file_name().unwrap_or_default().to_string_lossy();
        let at = if name.starts_with("ld-linux") {
            format!("usr/lib64/{name}")
        } else {
            format!("{LIBRARIES}/{name}")
        };
        tree.copy(&at, 0o755, &library);
    }
    Ok(())
}

/// Busybox, and a link for each of its commands in a folder that comes last in `PATH`.
fn busybox(tree: &mut Tree, packages: &Packages) -> Result<()> {
    let busybox = packages.find("busybox")?;
    tree.copy("usr/bin/busybox", 0o755, &busybox);
    let list = run(Command::new(&busybox).arg("--list"))?;
    for name in String::from_utf8_lossy(&list.stdout).lines() {
        tree.symlink(&format!("usr/lib/busybox/{name}"), "/usr/bin/busybox");
    }
    Ok(())
}

fn base_tree(packages: &Packages, modules: &ModuleSource<'_>) -> Result<Tree> {
    let mut tree = skeleton();
    busybox(&mut tree, packages)?;
    tree.symlink("usr/bin/sh", "dash");
    for name in DOM0_HOST_PROGRAMS {
        program(&mut tree, packages, name, Path::new(name))?;
    }
    for name in DOM0_PROGRAMS {
        let from = packages.find(name)?;
        // libxl starts its helpers by their full path.
        let xen = from.to_string_lossy().contains("/xen-4.17/");
        let at = if xen { format!("usr/lib/xen-4.17/bin/{name}") } else { format!("usr/bin/{name}") };
        program(&mut tree, packages, &at, &from)?;
    }
    program(&mut tree, packages, "usr/sbin/kmod", &packages.find("kmod")?)?;
    for name in ["modprobe", "insmod", "lsmod", "rmmod"] {
        tree.symlink(&format!("usr/sbin/{name}"), "kmod");
    }
    // Loaded by name when a thread is cancelled, which `xl` does at the end of each save.
    let gcc = Path::new("/usr/lib/x86_64-linux-gnu/libgcc_s.so.1");
    let gcc = if gcc.exists() { gcc } else { Path::new("/lib/x86_64-linux-gnu/libgcc_s.so.1") };
    tree.copy(&format!("{LIBRARIES}/libgcc_s.so.1"), 0o644, gcc);
    for folder in ["var/lib/xen", "var/log/xen/console", "etc/xen/scripts"] {
        tree.directory(folder);
    }
    let stage = modules.stage(&DOM0_MODULES)?;
    tree.copy_all(
        &format!("usr/lib/modules/{}", packages.kernel),
        &stage.join("lib/modules").join(&packages.kernel),
    )?;
    Ok(tree)
}

fn overlay_tree(paths: &Paths, packages: &Packages, programs: &Programs) -> Result<Tree> {
    let mut tree = Tree::new();
    tree.bytes("init", 0o755, DOM0_INIT);
    program(&mut tree, packages, "usr/sbin/lab-agent", &programs.agent)?;
    if let Some(llm) = &programs.llm {
        program(&mut tree, packages, "usr/sbin/llm", llm)?;
    }
    if let Some(stubdom) = &programs.stubdom {
        // A kernel: it needs no libraries.
        tree.copy("usr/lib/llm/llm-stubdom", 0o644, stubdom);
    }
    tree.bytes("etc/xen/xl.conf", 0o644, "# The defaults.\n");
    tree.bytes("etc/xen/scripts/lab-vif", 0o755, LAB_VIF);
    let shipped = paths.workspace.join("llm-dom0/hotplug/llm-vif");
    if shipped.exists() {
        tree.copy("etc/xen/scripts/llm-vif", 0o755, &shipped);
    }
    for config in guest::configs(shipped.exists()) {
        tree.bytes(&config.path(), 0o644, config.text());
    }
    Ok(tree)
}

/// A tree with busybox alone.
pub(super) fn linux(packages: &Packages) -> Result<Tree> {
    let mut tree = skeleton();
    busybox(&mut tree, packages)?;
    tree.symlink("usr/bin/sh", "busybox");
    // What the kernel runs at `xl shutdown`; busybox' own asks an init that is none here.
    tree.bytes("usr/sbin/poweroff", 0o755, "#!/bin/sh\nexec /usr/bin/busybox poweroff -f\n");
    Ok(tree)
}

/// Adds modules of the kernel, for `insmod`; what one needs must be there or named before it.
pub(super) fn modules(paths: &Paths, packages: &Packages, tree: &mut Tree, names: &[&str]) -> Result<()> {
    let source = ModuleSource::new(paths, packages)?;
    for name in names {
        tree.copy(&format!("lib-modules/{}.ko", name.replace('_', "-")), 0o644, &source.file(name)?);
    }
    Ok(())
}

fn guest_tree(packages: &Packages, modules: &ModuleSource<'_>, programs: &Programs) -> Result<Tree> {
    let mut tree = linux(packages)?;
    program(&mut tree, packages, "usr/bin/redis-server", &packages.find("redis-server")?)?;
    program(&mut tree, packages, "usr/sbin/nginx", &packages.find("nginx")?)?;
    program(&mut tree, packages, "usr/bin/guest-tool", &programs.guest_tool)?;
    for folder in ["var/lib/nginx", "var/log/nginx"] {
        tree.directory(folder);
    }
    tree.bytes("init", 0o755, GUEST_INIT);
    tree.bytes("etc/nginx.conf", 0o644, NGINX_CONF);
    tree.bytes("etc/redis.conf", 0o644, REDIS_CONF);
    tree.bytes("srv/www/index.html", 0o644, INDEX_HTML);
    tree.bytes("srv/www/64k", 0o644, page_64k());
    tree.copy("lib-modules/xen-netfront.ko", 0o644, &modules.file("xen_netfront")?);
    Ok(tree)
}

/// Assembles the smallest guest; the C compiler is there wherever Rust can link.
fn tiny(folder: &Path, built: &mut Vec<String>) -> Result<String> {
    let name = format!("tiny-{:016x}.elf", digest(&[TINY, TINY_LINK].concat()));
    once(&folder.join(&name), built, |out| {
        let [source, script, binary] = ["S", "ld", "elf"].map(|end| folder.join(format!("assembled.{end}")));
        fs::write(&source, TINY)
            .and_then(|()| fs::write(&script, TINY_LINK))
            .context(|| "write tiny.S".to_owned())?;
        let mut command = Command::new("cc");
        command.args([
            "-m32",
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,--build-id=none,--no-warn-rwx-segments,-T",
        ]);
        run(command.arg(&script).arg("-o").arg(&binary).arg(&source))?;
        let data = fs::read(&binary).context(|| format!("read {}", binary.display()))?;
        out.write_all(&data).context(|| "store tiny.elf".to_owned())
    })?;
    Ok(name)
}

/// The kernel's modules and what each needs.
#[derive(Debug)]
struct ModuleSource<'a> {
    packages: &'a Packages,
    stage: PathBuf,
    lines: Vec<(String, Vec<String>)>,
}

impl<'a> ModuleSource<'a> {
    fn new(paths: &Paths, packages: &'a Packages) -> Result<Self> {
        let list = packages.root.join("lib/modules").join(&packages.kernel).join("modules.dep");
        if !list.exists() {
            depmod(packages, &packages.root)?;
        }
        let text = fs::read_to_string(&list).context(|| format!("read {}", list.display()))?;
        let lines = text
            .lines()
            .filter_map(|l| l.split_once(':'))
            .map(|(file, needs)| (file.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
            .collect();
        Ok(Self { packages, stage: paths.cache.join("modules"), lines })
    }

    fn line(&self, module: &str) -> Result<&(String, Vec<String>)> {
        let named = |file: &str| {
            let name = file.rsplit('/').next().unwrap_or(file);
            name.split('.').next().unwrap_or(name).replace('-', "_") == module
        };
        self.lines.iter().find(|(file, _)| named(file)).ok_or_else(|| LabError::Missing {
            what: format!("The kernel module {module}"),
            hint: format!("{} does not have it", self.packages.kernel),
        })
    }

    fn folder(&self) -> PathBuf {
        self.packages.root.join("lib/modules").join(&self.packages.kernel)
    }

    fn file(&self, module: &str) -> Result<PathBuf> {
        self.line(module).map(|(file, _)| self.folder().join(file))
    }

    /// Copies the modules and all they need into a folder of their own, with the index that modprobe wants.
    fn stage(&self, names: &[&str]) -> Result<PathBuf> {
        let mut files = BTreeSet::new();
        for name in names {
            let (file, needs) = self.line(name)?;
            files.insert(file);
            files.extend(needs);
        }
        if self.stage.exists() {
            fs::remove_dir_all(&self.stage).context(|| format!("remove {}", self.stage.display()))?;
        }
        let target = self.stage.join("lib/modules").join(&self.packages.kernel);
        for file in files {
            let to = target.join(file);
            let copied = fs::create_dir_all(to.parent().unwrap_or(&to))
                .and_then(|()| fs::copy(self.folder().join(file), &to));
            copied.context(|| format!("copy module {file}"))?;
        }
        for list in ["modules.builtin", "modules.order"] {
            fs::copy(self.folder().join(list), target.join(list)).context(|| format!("copy {list}"))?;
        }
        depmod(self.packages, &self.stage)?;
        Ok(self.stage.clone())
    }
}

fn depmod(packages: &Packages, base: &Path) -> Result<()> {
    let mut command = Command::new(packages.find("kmod")?);
    // kmod is told by its name what to be.
    command.arg0("depmod").arg("-b").arg(base).arg(&packages.kernel);
    command.env("LD_LIBRARY_PATH", packages.library_path());
    run(&mut command).map(drop)
}
