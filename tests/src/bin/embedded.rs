//! The driver's processes on a machine without Xen, for measuring the packet path and the checkpoint pipe: what stands for the domain runs
//! always, and what stands for `xl` writes a stream of checkpoints and never restores one.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use llm_tests::bench::packet::{backup, fake_xl, primary};
use llm_tests::bench::stream::child;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Protects what is behind an interface.
    Primary(primary::Args),
    /// Receives what is protected.
    Backup {
        /// HOST:PORT
        listen: String,
        /// Where it keeps its state.
        state: PathBuf,
    },
    /// What the driver has `xl remus` run.
    Stdio { socket: PathBuf },
    /// One end of a relay of a checkpoint stream.
    Stream(child::Args),
    /// Stands for `xl`.
    #[command(trailing_var_arg = true, allow_hyphen_values = true)]
    Xl { args: Vec<String> },
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Primary(args) => primary::run(&args),
        Command::Backup { listen, state } => backup::run(listen, state),
        Command::Stdio { socket } => llm_dom0::xen::stdio::stdio_client(&socket).map_err(io::Error::other),
        Command::Stream(args) => child::run(&args),
        Command::Xl { args } => fake_xl::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("embedded: {error}");
            // An error of the driver is wrapped, and its causes say what failed.
            let mut cause = error.get_ref().and_then(|e| e.source());
            while let Some(e) = cause {
                eprint!(": {e}");
                cause = e.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}
