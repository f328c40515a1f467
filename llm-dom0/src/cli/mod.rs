//! The `llm` command: what it is told, what it answers.

mod args;
mod backup;
mod bench;
mod config;
mod exit;
mod host;
mod log;
mod logging;
mod protect;
mod query;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
pub use exit::{Exit, Failure};

/// Runs the command line and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.command {
        Command::Protect(protect) => protect::run(&args.common, &protect),
        Command::Backup(backup) => backup::run(&args.common, &backup),
        Command::Status(status) => query::status(&status),
        Command::Release(release) => query::release(&release),
        Command::Watch(watch) => query::watch(&watch),
        Command::Bench(bench) => bench::run(&bench),
        Command::Log { log } => log::run(&log),
        Command::Stdio(stdio) => query::stdio(&stdio),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("llm: {failure}");
            failure.exit.into()
        }
    }
}
