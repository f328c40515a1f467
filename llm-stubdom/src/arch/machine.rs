//! What Xen hands to this domain, made ready for use by the boot code.

use super::event::Port;
use super::memory::Frames;
use super::page::SharedPage;
use crate::arena::Arena;

/// A page that is shared with a service of Dom0, and the event channel beside it.
#[derive(Debug)]
pub struct Channel {
    /// The page.
    pub page: SharedPage,
    /// The event channel.
    pub port: Port,
}

/// What a toolstack gives to each domain it makes; the first domain of a host has none of it.
#[derive(Debug)]
pub struct Toolstack {
    /// Console: `struct xencons_interface`.
    pub console: Channel,
    /// Xenstore: `struct xenstore_domain_interface`.
    pub store: Channel,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    /// Version of the interface, as Xen names it.
    pub magic: [u8; 32],
    /// The kernel command line, up to the first NUL.
    pub cmd_line: [u8; 1024],
    /// The grant table's frame.
    pub grants: SharedPage,
    /// Machine frames of this domain's pages.
    pub frames: Frames,
    /// Memory that nothing lies in.
    pub arena: Arena,
    /// None in the first domain of a host.
    pub toolstack: Option<Toolstack>,
}
