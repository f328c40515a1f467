//! Permits for a received domain to come onto the network.
//!
//! `xl migrate-receive -r` takes the end of its stream for a failover, whatever ended it, and connects the domain. The hotplug
//! script `llm-vif` refuses that without a permit, which is a file `allow/NAME` in the run directory with the
//! process number of the receiving `xl`, and whether the vif stays off the network; so one left behind by a killed driver is worth nothing to the next.

use super::error::NetError;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The run directory that `llm-vif` looks in, unless `LLM_RUN_DIR` is in the environment of `xl`.
pub const RUN_DIR: &str = "/run/llm";

/// A permit; dropping it takes it back. It must live until `xl` has ended, since every vif asks for it.
#[derive(Debug)]
pub struct Permit {
    path: PathBuf,
}

impl Permit {
    /// Lets domain `name` (without `--incoming`), received by the `xl` with process number `receiver`, connect: to its bridge, or,
    /// if `isolated`, to [`HOLDING_BRIDGE`](super::HOLDING_BRIDGE), which must exist.
    ///
    /// # Errors
    /// [`NetError::BadDomainName`], or the file cannot be written.
    pub fn grant(run_dir: &Path, name: &str, receiver: u32, isolated: bool) -> Result<Self, NetError> {
        let path = path_of(run_dir, name)?;
        let write = || {
            fs::create_dir_all(run_dir.join("allow"))?;
            // Renamed into place, so that the script never reads half a number.
            let temporary = run_dir.join(format!("allow/.{name}.new"));
            let mut file = fs::File::create(&temporary)?;
            writeln!(file, "{receiver} {}", if isolated { "isolated" } else { "bridged" })?;
            drop(file);
            fs::rename(&temporary, &path)
        };
        write().map_err(|e| {
            let hint = "see that the directory can be written and has room";
            NetError::system(format!("write the permit {}", path.display()), hint, e)
        })?;
        Ok(Self { path })
    }

    /// Removes a permit that an earlier driver left. To be called before a receiver starts.
    ///
    /// # Errors
    /// [`NetError::BadDomainName`], or the file is there and cannot be removed.
    pub fn clear(run_dir: &Path, name: &str) -> Result<(), NetError> {
        let path = path_of(run_dir, name)?;
        let _ = fs::remove_file(vif_file(&path));
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(NetError::system(
                format!("remove the old permit {}", path.display()),
                "remove it by hand",
                e,
            )),
            _ => Ok(()),
        }
    }
}

/// Where the hotplug script has put a vif that nobody may hear yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isolated {
    /// The guest's interface, up, on [`HOLDING_BRIDGE`](super::HOLDING_BRIDGE).
    pub vif: String,
    /// The bridge that it belongs to.
    pub bridge: String,
}

impl Isolated {
    /// What the script has told of domain `name`; `None` before it has.
    #[must_use]
    pub fn read(run_dir: &Path, name: &str) -> Option<Self> {
        let text = fs::read_to_string(vif_file(&path_of(run_dir, name).ok()?)).ok()?;
        let (vif, bridge) = text.trim().split_once(' ')?;
        Some(Self { vif: vif.to_owned(), bridge: bridge.to_owned() })
    }

    /// All that the script has told and nobody has taken back: the domains' names, and where their vifs are.
    #[must_use]
    pub fn all(run_dir: &Path) -> Vec<(String, Self)> {
        let Ok(entries) = fs::read_dir(run_dir.join("allow")) else { return Vec::new() };
        let domain = |entry: fs::DirEntry| {
            let name = entry.file_name();
            let name = name.to_str()?.strip_prefix('.')?.strip_suffix(".vif")?;
            Some((name.to_owned(), Self::read(run_dir, name)?))
        };
        entries.flatten().filter_map(domain).collect()
    }

    /// The vif of domain `name` is where it belongs now.
    pub fn forget(run_dir: &Path, name: &str) {
        if let Ok(path) = path_of(run_dir, name) {
            let _ = fs::remove_file(vif_file(&path));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot take a permit back");
        }
    }
}

/// Written by the script, for an isolated vif.
fn vif_file(permit: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(permit.file_name().unwrap_or_default());
    name.push(".vif");
    permit.with_file_name(name)
}

fn path_of(run_dir: &Path, name: &str) -> Result<PathBuf, NetError> {
    if name.is_empty() || name.starts_with('.') || name.bytes().any(|b| b == b'/' || b.is_ascii_control()) {
        return Err(NetError::BadDomainName { name: name.to_owned() });
    }
    Ok(run_dir.join("allow").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granted_taken_back_and_cleared() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("not made yet");
        let file = dir.join("allow/web1");
        let permit = Permit::grant(&dir, "web1", 4711, false).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "4711 bridged\n");
        drop(permit);
        assert!(!file.exists());
        assert_eq!(Isolated::read(&dir, "web1"), None);
        fs::write(dir.join("allow/.web1.vif"), "vif3.0 xenbr0\n").unwrap();
        let place = Isolated { vif: "vif3.0".into(), bridge: "xenbr0".into() };
        assert_eq!(Isolated::read(&dir, "web1"), Some(place.clone()));
        assert_eq!(Isolated::all(&dir), [("web1".to_owned(), place)]);
        Permit::clear(&dir, "web1").unwrap();
        std::mem::forget(Permit::grant(&dir, "web1", 1, true).unwrap());
        Permit::clear(&dir, "web1").unwrap();
        assert!(!file.exists());
        assert_eq!(Isolated::read(&dir, "web1"), None);
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a\nb"] {
            let error = Permit::grant(Path::new("/nonexistent"), name, 1, false).unwrap_err();
            assert!(matches!(error, NetError::BadDomainName { .. }), "{name:?}");
        }
    }
}
