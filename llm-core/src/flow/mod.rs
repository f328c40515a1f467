//! Flows: what a packet is, which conversation it belongs to, and how its numbers are changed.
//!
//! | module | what it is |
//! |---|---|
//! | [`FlowKey`] | the two ends of a conversation |
//! | [`Packet`] | where things are in an Ethernet frame |
//! | [`RangeDigest`] | a digest that does not depend on how bytes were cut up |
//! | [`Translation`] | sequence numbers and timestamps that differ by a constant |
//! | [`build`] | packets that are made here |
//! | [`Policy`], [`Tracker`] | what the output of a flow waits for |

pub mod build;
mod checksum;
mod digest;
mod key;
mod packet;
mod policy;
mod translate;

#[cfg(test)]
mod tests;

pub(crate) use checksum::resum;
pub use checksum::{ipv4_header as ipv4_header_checksum, transport as transport_checksum};
pub use digest::RangeDigest;
pub use key::{Direction, FlowKey, ICMP, ICMPV6, NO_VLAN, TCP, UDP};
pub use packet::{Body, Packet, Segment, Timestamp, VNET_HEADER, flags, is_checksum_partial};
pub use policy::{Class, Policy, RULES_MAX, Rule, Side, Tracker};
pub use translate::{Translation, readdress};
