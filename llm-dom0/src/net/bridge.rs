//! Bridges and their ports.

use super::error::{NEEDS_ROOT, NetError, check_name};
use super::netlink::{Change, Link, Netlink};
use std::thread;
use std::time::{Duration, Instant};

/// The bridge that keeps joined vifs: always down, so that it drops everything.
///
/// A vif on no bridge at all would be an interface of the host, whose stack answers the guest's broadcasts (ARP
/// for the host's own addresses, DHCP). A port of a bridge that is down hands nothing to the stack, and packet
/// sockets still see its frames. It stays when the driver goes, and so does the guest's isolation.
pub const HOLDING_BRIDGE: &str = "llm-hold";

/// The address of bridge ports that have none of their own. It is the highest, since a
/// bridge takes the lowest of its ports' as its own.
const PORT_ADDRESS: [u8; 6] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];

/// Twice the spanning tree protocol's usual forward delay of 15 s, and a little.
const FORWARDING_TIMEOUT: Duration = Duration::from_secs(35);

/// The bridge that `port` is on; `None` if it is on none or only held ([`HOLDING_BRIDGE`]).
///
/// # Errors
/// [`NetError::NoInterface`], [`NetError::NotABridge`] or a failed system call.
pub fn bridge_of(port: &str) -> Result<Option<String>, NetError> {
    let mut nl = open()?;
    let link = find(&mut nl, port)?;
    let Some(master) = master_of(&mut nl, &link)? else { return Ok(None) };
    if master.kind != "bridge" {
        return Err(NetError::NotABridge { name: master.name, kind: master.kind });
    }
    Ok(Some(master.name).filter(|n| n != HOLDING_BRIDGE))
}

/// Puts `port` on `bridge` and up, wherever it was before. For a guest that a dead driver left isolated.
///
/// # Errors
/// [`NetError::NoInterface`], [`NetError::NotABridge`] or a failed system call.
pub fn rejoin(port: &str, bridge: &str) -> Result<(), NetError> {
    let mut nl = open()?;
    let link = find(&mut nl, port)?;
    let master = find_bridge(&mut nl, bridge)?;
    enslave(&mut nl, &link, &master)
}

/// Takes `port` off its bridge and isolates it on [`HOLDING_BRIDGE`].
///
/// # Errors
/// [`NetError::NoInterface`] or a failed system call.
pub fn isolate(port: &str) -> Result<(), NetError> {
    let mut nl = open()?;
    let link = find(&mut nl, port)?;
    let holder = holding_bridge(&mut nl)?;
    enslave(&mut nl, &link, &holder)
}

pub(super) fn open() -> Result<Netlink, NetError> {
    Netlink::open().map_err(|e| NetError::system("open a netlink socket", NEEDS_ROOT, e))
}

pub(super) fn find(nl: &mut Netlink, name: &str) -> Result<Link, NetError> {
    check_name(name)?;
    nl.link(name)
        .map_err(|e| NetError::system(format!("look up interface {name}"), NEEDS_ROOT, e))?
        .ok_or_else(|| NetError::NoInterface { name: name.to_owned() })
}

pub(super) fn find_bridge(nl: &mut Netlink, name: &str) -> Result<Link, NetError> {
    let link = find(nl, name)?;
    if link.kind == "bridge" {
        return Ok(link);
    }
    let kind = if link.kind.is_empty() { "a device".to_owned() } else { link.kind };
    Err(NetError::NotABridge { name: name.to_owned(), kind })
}

pub(super) fn master_of(nl: &mut Netlink, link: &Link) -> Result<Option<Link>, NetError> {
    let Some(index) = link.master else { return Ok(None) };
    nl.link_by_index(index)
        .map_err(|e| NetError::system(format!("look up the bridge of {}", link.name), NEEDS_ROOT, e))
}

/// The holding bridge, made if need be.
pub(super) fn holding_bridge(nl: &mut Netlink) -> Result<Link, NetError> {
    let failed = |e| {
        let hint = "load the kernel module `bridge`, and run as root (CAP_NET_ADMIN)";
        NetError::system(format!("make the bridge {HOLDING_BRIDGE}"), hint, e)
    };
    match nl.add_bridge(HOLDING_BRIDGE) {
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
        other => other.map_err(failed)?,
    }
    let link = find_bridge(nl, HOLDING_BRIDGE)?;
    if link.up {
        let down = Change { up: Some(false), ..Change::default() };
        nl.change(link.index, down).map_err(failed)?;
    }
    Ok(link)
}

/// Makes `port` a port of `bridge` in one request, and up.
pub(super) fn enslave(nl: &mut Netlink, port: &Link, bridge: &Link) -> Result<(), NetError> {
    let change = Change { master: Some(bridge.index), up: Some(true), ..Change::default() };
    nl.change(port.index, change).map_err(|e| {
        let what = format!("put {} on bridge {}", port.name, bridge.name);
        NetError::system(what, "run as root, and see that both still exist (`ip link`)", e)
    })
}

/// Readies a TAP that was just made: the guest's MTU, an address that does not change the bridge's, no IPv6 of
/// the host on it (its router solicitations would go to the guest), up, on the bridge and forwarding.
pub(super) fn set_up_tap(nl: &mut Netlink, tap: &Link, mtu: u32, bridge: &Link) -> Result<(), NetError> {
    let failed = |e| NetError::system(format!("set up {}", tap.name), NEEDS_ROOT, e);
    // No such file: a kernel without IPv6, which then sends none.
    match std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", tap.name), "1") {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let change = Change { mtu: Some(mtu), address: Some(PORT_ADDRESS), ..Change::default() };
    nl.change(tap.index, change).map_err(failed)?;
    enslave(nl, tap, bridge)?;
    // A port forwards once the kernel knows its link to be up, with the spanning tree protocol after twice
    // the forward delay. What is sent before is lost without a word.
    let start = Instant::now();
    while !nl.link_by_index(tap.index).map_err(failed)?.is_some_and(|l| l.forwarding) {
        if start.elapsed() > FORWARDING_TIMEOUT {
            let hint = "turn its spanning tree protocol off (ip link set BRIDGE type bridge stp_state 0), or see `bridge link`";
            let what = format!("get port {} of bridge {} to forward", tap.name, bridge.name);
            return Err(NetError::system(what, hint, std::io::ErrorKind::TimedOut));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// There is an interface of that index.
pub(super) fn exists(index: u32) -> std::io::Result<bool> {
    Ok(Netlink::open()?.link_by_index(index)?.is_some())
}
