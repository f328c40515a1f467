//! The `llm` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    llm_dom0::cli::main()
}
