//! The domain that sends records back, for `cargo lab bench ring`: its programs and its image.

use super::command::run;
use super::error::{Context as _, Result};
use super::packages::Packages;
use super::paths::Paths;
use super::progress::Progress;
use super::{image, lock_cache, programs};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const INIT: &str = include_str!("../../images/ring-init");
const VCHAN_PEER: &str = include_str!("../../images/vchan-peer.c");

/// What libxenvchan needs, in the order in which a linker wants it.
const VCHAN_LIBRARIES: [&str; 6] =
    ["-lxenvchan", "-lxenstore", "-lxengnttab", "-lxenevtchn", "-lxentoollog", "-lxentoolcore"];

/// Files of this machine.
#[derive(Clone, Debug)]
pub struct RingFiles {
    /// `ring-peer`, for Dom0.
    pub ring_peer: PathBuf,
    /// `vchan-peer`, for Dom0; it needs no library there.
    pub vchan_peer: PathBuf,
    /// The domain's initramfs, which holds both as well.
    pub image: PathBuf,
}

/// Builds them; `sizes` are those of libxenvchan's records, in their order.
///
/// # Errors
/// When a package, the C compiler or cargo fails.
pub fn build(paths: &Paths, sizes: &[usize], progress: &Progress) -> Result<RingFiles> {
    let _alone = lock_cache(paths)?;
    let packages = Packages::ensure(paths, progress)?;
    let step = progress.step("Building the ring's peers");
    let ring_peer = programs::strip(paths, &programs::cargo(paths, "llm-tests", "ring-peer")?)?;
    let vchan_peer = vchan_peer(paths, &packages)?;
    let mut tree = image::linux(&packages)?;
    image::program(&mut tree, &packages, "usr/bin/ring-peer", &ring_peer)?;
    tree.copy("usr/bin/vchan-peer", 0o755, &vchan_peer);
    tree.bytes("init", 0o755, INIT);
    let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
    tree.bytes("etc/sizes", 0o644, sizes.join(" "));
    image::modules(paths, &packages, &mut tree, &["xen_evtchn", "xen_gntalloc", "xen_netfront"])?;
    let folder = paths.images();
    fs::create_dir_all(&folder).context(|| format!("make {}", folder.display()))?;
    let name = image::store(&folder, "ring", &tree, &mut Vec::new())?;
    step.done("built");
    Ok(RingFiles { ring_peer, vchan_peer, image: folder.join(name) })
}

/// Compiles the peer that uses libxenvchan. It is linked with nothing that is shipped.
fn vchan_peer(paths: &Paths, packages: &Packages) -> Result<PathBuf> {
    let folder = paths.cache.join("programs");
    fs::create_dir_all(&folder).context(|| format!("make {}", folder.display()))?;
    let (source, program) = (folder.join("vchan-peer.c"), folder.join("vchan-peer"));
    fs::write(&source, VCHAN_PEER).context(|| format!("write {}", source.display()))?;
    let in_root =
        |option: &str, path: &str| format!("{option}{}", packages.root.join(Path::new(path)).display());
    run(Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-static"])
        .arg(in_root("-I", "usr/include"))
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .arg(in_root("-L", "usr/lib/x86_64-linux-gnu"))
        .args(VCHAN_LIBRARIES))?;
    Ok(program)
}
