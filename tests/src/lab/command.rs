//! Running programs of this machine.

use super::error::{Context as _, LabError, Result};
use std::process::{Command, Output, Stdio};

/// Runs `command` to its end with no stdin and returns its output.
///
/// # Errors
/// [`LabError::Io`] when it cannot be started, [`LabError::Command`] when it ends with an error.
pub fn run(command: &mut Command) -> Result<Output> {
    let text = describe(command);
    let output = command.stdin(Stdio::null()).output().context(|| format!("run `{text}`"))?;
    if output.status.success() {
        return Ok(output);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stderr = tail(stderr.trim(), 15);
    Err(LabError::Command { command: text, status: output.status.to_string(), stderr })
}

/// Runs a command line given as words.
///
/// # Errors
/// As [`run`].
pub fn words(line: &[&str]) -> Result<Output> {
    let (program, args) = line.split_first().ok_or_else(|| LabError::Missing {
        what: "A command".into(),
        hint: "give at least its name".into(),
    })?;
    run(Command::new(program).args(args))
}

/// Program and arguments, separated by blanks.
#[must_use]
pub fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// The last `count` lines of `text`.
#[must_use]
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
