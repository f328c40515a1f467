//! The steps that are runs of cargo.

use super::{Options, Outcome};
use crate::bench;
use crate::lab::Paths;
use crate::lab::command::describe;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The workspace's root.
pub(super) fn workspace() -> PathBuf {
    Paths::new("").workspace
}

/// Cargo in the workspace's root.
pub(super) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(workspace());
    command
}

/// Runs a program that says itself what it does; an error names it and how it ended.
pub(super) fn show(command: &mut Command) -> Result<(), String> {
    let text = describe(command);
    // Where cargo lies is nobody's concern.
    let folder = Path::new(command.get_program()).parent().map_or(0, |f| f.as_os_str().len());
    let text = text.get(folder..).unwrap_or(&text).trim_start_matches('/');
    println!("$ {text}");
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{text}` ended with {status}")),
        Err(error) => Err(format!("`{text}` cannot be run: {error}")),
    }
}

/// Whether that part of the toolchain is there.
fn has(component: &str) -> bool {
    let output = cargo(&[component, "--version"]).stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success())
}

fn missing(component: &str) -> Outcome {
    let note = format!("{component} is missing: `rustup component add {component}`");
    println!("{note}");
    Outcome::skipped(note)
}

pub(super) fn format(_: &Options) -> Outcome {
    if !has("fmt") {
        return missing("rustfmt");
    }
    let fuzz = ["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"];
    let all = show(&mut cargo(&["fmt", "--all", "--check"])).and_then(|()| show(&mut cargo(&fuzz)));
    Outcome::of(all.map(|()| String::new()))
}

pub(super) fn lints(_: &Options) -> Outcome {
    if !has("clippy") {
        return missing("clippy");
    }
    let members = ["clippy", "--all-targets", "--", "-D", "warnings"];
    // Apart from the others: features must not be unified with theirs.
    let kernel = |name| show(&mut cargo(&["clippy", "-p", name, "--all-targets", "--", "-D", "warnings"]));
    let all =
        show(&mut cargo(&members)).and_then(|()| kernel("llm-stubdom")).and_then(|()| kernel("llm-bare"));
    Outcome::of(all.map(|()| String::new()))
}

pub(super) fn tests(_: &Options) -> Outcome {
    let mut command = cargo(&["test", "--no-fail-fast"]);
    // What is missing is an error here, not a reason to skip.
    command.env("LLM_REQUIRE_ROOT", "1").env("LLM_REQUIRE_LAB", "1");
    Outcome::of(show(&mut command).map(|()| String::new()))
}

pub(super) fn stubdom(_: &Options) -> Outcome {
    Outcome::of(show(&mut cargo(&["test", "-p", "llm-stubdom", "--lib"])).map(|()| String::new()))
}

pub(super) fn counts(_: &Options) -> Outcome {
    match bench::counts::run(false) {
        Ok(counted) => {
            counted.complaints.iter().for_each(|complaint| println!("{complaint}"));
            let note = match counted.absent.as_slice() {
                [] => counted.complaints.join("\n"),
                absent => format!("not on this processor: {}", absent.join("; ")),
            };
            let failed = counted.complaints.len();
            Outcome { passed: counted.counted.saturating_sub(failed), failed, note }
        }
        Err(error) => {
            println!("{error}");
            Outcome::failed(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_named() {
        assert_eq!(show(&mut Command::new("true")), Ok(()));
        let error = show(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert!(error.contains("`sh -c exit 3`") && error.contains('3'), "{error}");
        assert!(show(&mut Command::new("no-such-program")).unwrap_err().contains("no-such-program"));
        assert!(has("tree") && !has("no-such-component"));
    }
}
