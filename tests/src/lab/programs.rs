//! The workspace's programs that go into the images, built by cargo.

use super::command::run;
use super::error::{Context as _, LabError, Result};
use super::image::Programs;
use super::paths::Paths;
use super::progress::Progress;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which `llm` the hosts get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Llm {
    /// Built from the workspace, with the release profile.
    Build,
    /// This file.
    File(PathBuf),
    /// None.
    Without,
}

pub(super) fn build(paths: &Paths, llm: &Llm, progress: &Progress) -> Result<Programs> {
    let step = progress.step("Building the lab's programs");
    let agent = strip(paths, &cargo(paths, "llm-tests", "lab-agent")?)?;
    let guest_tool = strip(paths, &cargo(paths, "llm-tests", "guest-tool")?)?;
    let llm = match llm {
        Llm::Build => Some(strip(paths, &cargo(paths, "llm-dom0", "llm")?)?),
        Llm::File(file) if file.is_file() => Some(strip(paths, file)?),
        Llm::File(file) => {
            return Err(LabError::Missing {
                what: format!("{}", file.display()),
                hint: "name an llm binary, or use --no-llm".into(),
            });
        }
        Llm::Without => None,
    };
    // The drivers' encoder; without `llm` nobody makes it.
    let stubdom = match &llm {
        Some(_) => Some(strip_kernel(paths, &cargo(paths, "llm-stubdom", "llm-stubdom")?)?),
        None => None,
    };
    step.done("built");
    Ok(Programs { agent, guest_tool, llm, stubdom })
}

/// A copy without symbols and debug information, which would fill the memory that an initramfs lives in.
pub(super) fn strip(paths: &Paths, program: &Path) -> Result<PathBuf> {
    strip_by(paths, program, "--strip-all")
}

/// The same of the unikernel, whose symbols are the texts of its messages.
fn strip_kernel(paths: &Paths, kernel: &Path) -> Result<PathBuf> {
    strip_by(paths, kernel, "--strip-debug")
}

fn strip_by(paths: &Paths, program: &Path, how: &str) -> Result<PathBuf> {
    let folder = paths.cache.join("programs");
    fs::create_dir_all(&folder).context(|| format!("make {}", folder.display()))?;
    let to = folder.join(program.file_name().unwrap_or_default());
    run(Command::new("strip").arg(how).arg("-o").arg(&to).arg(program))?;
    Ok(to)
}

/// Builds a binary and returns its path, as cargo reports it.
pub(super) fn cargo(paths: &Paths, package: &str, binary: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = run(Command::new(cargo)
        .args([
            "build",
            "--release",
            "--message-format=json-render-diagnostics",
            "-p",
            package,
            "--bin",
            binary,
        ])
        .current_dir(&paths.workspace))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == binary)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| LabError::Missing {
            what: format!("The binary {binary} of {package}"),
            hint: "cargo built none: is it declared?".into(),
        })
}
