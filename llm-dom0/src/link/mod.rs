//! The link between two hosts: TCP connections that carry frames, and the
//! outboxes that survive them.

mod connection;
mod direct;
mod drain;
mod outbox;

pub use connection::{Connection, Incoming, LinkError, MAX_PAYLOAD, dial, read_loop, tune};
pub use outbox::{Closed, DataFrame, Fill, Found, Outbox, Outgoing, Run, Wanted};
