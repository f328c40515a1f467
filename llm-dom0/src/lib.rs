//! The Dom0 side of LLM: the driver behind the `llm` command.
//!
//! A dependency points downwards only: [`cli`] -> [`session`] -> [`checkpoint`],
//! [`net`], [`control`] -> [`link`], [`xen`], [`embedded`], [`keptlog`], [`messages`] -> [`digest`], [`shared`], `llm-core`.

pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod control;
pub mod digest;
pub mod embedded;
mod idle;
pub mod keptlog;
pub mod link;
pub mod messages;
pub mod net;
pub mod session;
pub mod shared;
pub mod units;
pub mod xen;
