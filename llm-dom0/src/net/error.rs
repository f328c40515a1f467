//! What can go wrong on the packet path.

use std::io;

/// An error of the packet path. Every message names the interface and what to
/// do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// A name that the kernel would not take.
    #[error("Interface name {name:?} is not valid: use 1 to 15 bytes without '/', ':' or white space")]
    BadName {
        /// The name as given.
        name: String,
    },
    /// A domain name that cannot be a file name.
    #[error("Domain name {name:?} cannot be used for a permit: rename the domain without '/' or leading '.'")]
    BadDomainName {
        /// The name as given.
        name: String,
    },
    /// The interface does not exist.
    #[error("No interface {name} on this host: is the domain running? `ip link` lists what there is")]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// The vif belongs to no bridge.
    #[error("{vif} is no port of a bridge: name its bridge, or run `ip link set {vif} master BRIDGE` first")]
    NotBridged {
        /// The vif.
        vif: String,
    },
    /// The vif is a port of another bridge than the one named.
    #[error("{vif} is a port of {actual}, not of {wanted}: name the right bridge, or move the vif first")]
    OtherBridge {
        /// The vif.
        vif: String,
        /// The bridge that the caller named.
        wanted: String,
        /// The bridge that it is on.
        actual: String,
    },
    /// The master is something else, Open vSwitch for instance.
    #[error("{name} is not a Linux bridge but {kind}: only Linux bridges are supported")]
    NotABridge {
        /// The interface.
        name: String,
        /// What the kernel calls it.
        kind: String,
    },
    /// The port's VLAN membership would be lost with its move.
    #[error(
        "Bridge {bridge} filters VLANs, and the port's VLANs would be lost: \
             turn it off (ip link set {bridge} type bridge vlan_filtering 0) or use one bridge per VLAN"
    )]
    VlanFiltering {
        /// The bridge.
        bridge: String,
    },
    /// Who has the vif does not let go of it.
    #[error(
        "Cannot go on with the connections that llm backup translates for domain {domain}: try again once `llm status` shows it as running-here"
    )]
    HandOver {
        /// The domain.
        domain: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A system call failed.
    #[error("Cannot {what}: {hint}")]
    System {
        /// What was tried, with the interface's name.
        what: String,
        /// What to do.
        hint: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl NetError {
    pub(super) fn system(what: impl Into<String>, hint: &'static str, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), hint, source: source.into() }
    }
}

/// Hint for calls that need privilege and little else.
pub(super) const NEEDS_ROOT: &str = "run as root (CAP_NET_ADMIN and CAP_NET_RAW)";

/// Checks an interface name by the kernel's rules (`dev_valid_name`).
///
/// # Errors
/// [`NetError::BadName`].
pub(super) fn check_name(name: &str) -> Result<(), NetError> {
    let valid = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.bytes().any(|b| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace());
    if valid { Ok(()) } else { Err(NetError::BadName { name: name.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_the_kernels_rules() {
        for good in ["vif1.0", "llm12.3", "a", "abcdefghijklmno"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a:1", "abcdefghijklmnop", "a\0"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
