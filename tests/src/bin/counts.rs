//! What `cargo lab bench counts` runs under Valgrind: one case, named by the only argument.

use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    if llm_tests::bench::counts::run_case(&name) {
        return ExitCode::SUCCESS;
    }
    eprintln!("No case `{name}`: `cargo lab bench counts` runs them all");
    ExitCode::FAILURE
}
