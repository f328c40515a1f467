//! The packet path between bridge and guest.
//!
//! An unprotected guest's vif is a port of its bridge, put there by the hotplug script `llm-vif`. A [`Joint`] takes it off and joins
//! the two itself: a packet socket on the vif, a TAP on the bridge. What the guest sends waits until its epoch is committed and
//! the lease holds ([`Joint::release`], [`Joint::lease`]); what it is sent passes at once. The TAP dies with the
//! process, so a driver that is gone lets nothing out.
//!
//! After a take-over the new host holds a [`Permit`] for the domain's vifs and then calls [`announce_repeatedly`].

mod announce;
mod bridge;
mod error;
mod hold;
mod joint;
mod lanes;
mod learn;
mod netlink;
mod patience;
mod permit;
mod pump;
mod recorder;
mod replayer;
mod stats;
mod sys;
mod translations;
mod vnet;

pub use announce::{
    Announcement, announce, announce_repeatedly, gratuitous_arp, neighbour_advertisement, reverse_arp,
};
pub use bridge::{HOLDING_BRIDGE, bridge_of, isolate, rejoin};
pub use error::NetError;
pub use joint::{Joint, JointConfig, NetEvent, Releaser};
pub use learn::{AddressBook, Learnt, MAX_ADDRESSES, MacAddr};
pub use permit::{Isolated, Permit, RUN_DIR};
pub use recorder::Recorder;
pub use replayer::{Ending, ReplayConfig, ReplayNews, Replayer, prepare_isolation};
pub use stats::JointStats;
pub use translations::{Former, Translations};
