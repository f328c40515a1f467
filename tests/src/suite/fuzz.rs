//! The fuzz targets, each for a while, two at a time on two cores.
//!
//! `cargo-fuzz` is built into `target/tools`. With a nightly toolchain the targets run
//! under the address sanitizer, without one they run on the pinned toolchain.

use super::commands::{cargo, show, workspace};
use super::{Options, Outcome};
use crate::fuzzing::TARGETS;
use crate::lab::command::tail;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// The version of cargo-fuzz that the targets are known to build with.
const CARGO_FUZZ: &str = "0.13.2";
/// Longest input in bytes: two pages, so that everything has room and runs stay quick.
const LONGEST_INPUT: u32 = 8192;
/// Seconds after which one input counts as a hang.
const HANG: u32 = 25;
/// libFuzzer's name for the number of inputs run.
const EXECUTED: &str = "stat::number_of_executed_units:";

/// A target that did not hold.
struct Find {
    target: &'static str,
    words: String,
}

pub(super) fn run(options: &Options) -> Outcome {
    let built = tool().and_then(|tool| build(&tool));
    let programs = match built {
        Ok(programs) => programs,
        Err(error) => {
            println!("{error}");
            return Outcome::failed(error);
        }
    };
    let (queue, finds) = (Mutex::new(TARGETS.iter().map(|(name, _)| *name)), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(TARGETS.len());
    let next = || queue.lock().ok()?.next();
    let work = || {
        while let Some(target) = next() {
            println!("{target}: {} s", options.fuzz_time.as_secs());
            match fuzz(&programs, target, options.fuzz_time) {
                Ok(runs) => println!("{target}: {runs} inputs, nothing found"),
                Err(words) => {
                    println!("{target}: {words}");
                    if let Ok(mut finds) = finds.lock() {
                        finds.push(Find { target, words });
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    let finds = finds.into_inner().unwrap_or_default();
    let note = finds.iter().map(|f| format!("{}: {}", f.target, f.words)).collect::<Vec<_>>().join("\n");
    Outcome { passed: TARGETS.len() - finds.len(), failed: finds.len(), note }
}

/// cargo-fuzz, built first if it is missing.
fn tool() -> Result<PathBuf, String> {
    let root = workspace().join("target/tools");
    let program = root.join("bin/cargo-fuzz");
    if !program.is_file() {
        println!("Building cargo-fuzz {CARGO_FUZZ} into {}", root.display());
        let mut install = cargo(&["install", "cargo-fuzz", "--locked", "--version", CARGO_FUZZ, "--root"]);
        show(install.arg(&root))?;
    }
    Ok(program)
}

fn has_nightly() -> bool {
    let output = Command::new("rustup").args(["run", "nightly", "cargo", "--version"]).output();
    output.is_ok_and(|output| output.status.success())
}

/// Builds all targets; returns the folder of the programs.
fn build(tool: &Path) -> Result<PathBuf, String> {
    let target = workspace().join("target/fuzz");
    let mut command = Command::new(tool);
    command.args(["fuzz", "build", "--fuzz-dir", "fuzz", "--target-dir"]).arg(&target);
    command.current_dir(workspace());
    if has_nightly() {
        println!("With the address sanitizer, on the nightly toolchain");
        // What runs us has named the pinned toolchain's cargo.
        command.env_remove("CARGO").env("RUSTUP_TOOLCHAIN", "nightly");
    } else {
        println!("Without a sanitizer: there is no nightly toolchain");
        command.args(["--sanitizer", "none"]);
    }
    show(&mut command)?;
    Ok(target.join("x86_64-unknown-linux-gnu/release"))
}

/// Runs a target for that time; the number of inputs tried. An error says what was found and where it is kept.
fn fuzz(programs: &Path, target: &str, time: Duration) -> Result<String, String> {
    let fuzz = workspace().join("fuzz");
    let work = workspace().join("target/fuzz/work").join(target);
    let (corpus, artifacts, log) = (work.join("corpus"), work.join("artifacts"), work.join("log"));
    let failed = |what: &str, error: &io::Error| format!("{what} failed: {error}");
    // Old finds would be taken for new ones.
    let _ = fs::remove_dir_all(&artifacts);
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).map_err(|e| failed("making a folder", &e))?;
    }
    let output = File::create(&log).map_err(|e| failed("writing a log", &e))?;
    let mut command = Command::new(programs.join(target));
    // New inputs go to the first folder; the others are read.
    command.arg(&corpus);
    let others = [fuzz.join("corpus").join(target), fuzz.join("regressions").join(target)];
    command.args(others.iter().filter(|folder| folder.is_dir()));
    command.arg(format!("-max_total_time={}", time.as_secs())).arg(format!("-max_len={LONGEST_INPUT}"));
    command.arg(format!("-timeout={HANG}")).arg("-print_final_stats=1");
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
    let status = command.status().map_err(|e| failed("starting it", &e))?;
    let said = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    if status.success() {
        return executed(&said).ok_or_else(|| format!("it tried nothing: see {}", log.display()));
    }
    let kept = keep(&artifacts, &fuzz.join("regressions").join(target))
        .map_err(|e| failed("keeping what was found", &e))?;
    Err(format!("{status}; kept {}, see {}\n{}", kept.join(", "), log.display(), tail(said.trim_end(), 20)))
}

/// How many inputs were tried, by libFuzzer's own count; `None` for none.
fn executed(log: &str) -> Option<String> {
    let count = log.lines().find_map(|line| line.strip_prefix(EXECUTED))?.trim();
    (count.parse::<u64>().ok()? > 0).then(|| count.to_owned())
}

/// Copies finds to where `cargo test` replays them; their names there.
fn keep(artifacts: &Path, regressions: &Path) -> io::Result<Vec<String>> {
    fs::create_dir_all(regressions)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(artifacts)? {
        let entry = entry?;
        let to = regressions.join(entry.file_name());
        fs::copy(entry.path(), &to)?;
        names.push(to.display().to_string());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_the_statistics() {
        let log = "Done 5 runs in 1 second(s)\nstat::number_of_executed_units: 4711\nstat::peak_rss_mb: 40\n";
        assert_eq!(executed(log).as_deref(), Some("4711"));
        assert_eq!(executed("stat::number_of_executed_units: 0"), None);
        assert_eq!(executed("Done"), None);
    }

    #[test]
    fn finds_are_kept_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(&from).unwrap();
        fs::write(from.join("crash-1"), b"boom").unwrap();
        let names = keep(&from, &to).unwrap();
        assert_eq!(names, [to.join("crash-1").display().to_string()]);
        assert_eq!(fs::read(to.join("crash-1")).unwrap(), b"boom");
    }
}
