//! The `llm` command.
fn main() {}
