//! The Dom0 side of LLM: the driver behind the `llm` command.
//!
//! A dependency points downwards only: `cli` -> `session` -> `checkpoint`, `net`
//! -> `link`, `xen` -> `llm-core`.
pub mod checkpoint;
pub mod net;
pub mod xen;
