//! Telling the network that the guest has moved to this host.
//!
//! The MAC address moves along, so what must change is the switches' and bridges' idea of the port behind which it
//! is: any broadcast frame from it does that. Gratuitous ARP and unsolicited neighbour advertisements also refresh
//! neighbours, and a reverse ARP request (as other hypervisors send) serves a guest whose addresses are unknown.

use super::bridge;
use super::error::{NEEDS_ROOT, NetError};
use super::learn::{Learnt, MacAddr};
use super::sys::PacketSocket;
use llm_core::flow::{FlowKey, ICMPV6, NO_VLAN, transport_checksum};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Waits before each round: a frame may be lost, and a switch port may need a while to forward.
const ROUNDS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(1000),
    Duration::from_millis(2000),
];

const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IPV6: u16 = 0x86dd;
const BROADCAST: MacAddr = [0xff; 6];
/// Ethernet frames are at least this long (without the frame check sequence).
const MIN_FRAME: usize = 60;

/// What to announce, and where.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// The guest's vif, a port of `bridge` by now.
    pub vif: String,
    /// The bridge.
    pub bridge: String,
    /// The guest's MAC address.
    pub mac: MacAddr,
    /// Its addresses, of those that [`AddressBook::announceable`](super::AddressBook::announceable) gives.
    pub addresses: Vec<Learnt>,
}

/// Sends one round: the bridge learns the guest's port (once that forwards), then every other port carries the frames. Gives their number.
///
/// # Errors
/// [`NetError::NoInterface`], [`NetError::NotABridge`] or a failed system call.
pub fn announce(a: &Announcement) -> Result<usize, NetError> {
    let mut nl = bridge::open()?;
    let port = bridge::find(&mut nl, &a.vif)?;
    let master = bridge::find_bridge(&mut nl, &a.bridge)?;
    // Sent from the bridge itself, the frames teach the other switches but not this bridge.
    // A port that does not forward yet refuses; the others must hear of the guest all the same.
    if let Err(error) = nl.learn_address(port.index, a.mac) {
        tracing::debug!(bridge = a.bridge, vif = a.vif, %error, "the port is not forwarding yet");
    }
    let failed = |e| {
        let hint = "see that the bridge is up (`ip link set BRIDGE up`) and run as root";
        NetError::system(format!("announce the guest of {} on bridge {}", a.vif, a.bridge), hint, e)
    };
    let socket = PacketSocket::sender(master.index).map_err(|e| {
        NetError::system(format!("open a packet socket on bridge {}", a.bridge), NEEDS_ROOT, e)
    })?;
    let frames = frames(a.mac, &a.addresses);
    for frame in &frames {
        socket.send(frame).map_err(failed)?;
    }
    Ok(frames.len())
}

/// Sends several rounds within four seconds, in a thread of its own. A failed round is logged and
/// does not end the others.
///
/// # Errors
/// The system has no thread to give.
pub fn announce_repeatedly(a: Announcement) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("llm-announce".into()).spawn(move || {
        for wait in ROUNDS {
            thread::sleep(wait);
            match announce(&a) {
                Ok(frames) => tracing::debug!(vif = a.vif, frames, "announced the guest"),
                Err(e) => {
                    let error: &dyn std::error::Error = &e;
                    tracing::warn!(vif = a.vif, error, "announcing failed");
                }
            }
        }
    })
}

/// The frames of a round.
fn frames(mac: MacAddr, addresses: &[Learnt]) -> Vec<Vec<u8>> {
    let mut vlans: Vec<_> = addresses.iter().map(|a| a.vlan).collect();
    vlans.push(None);
    vlans.sort_unstable();
    vlans.dedup();
    let mut frames: Vec<_> = vlans.into_iter().map(|vlan| reverse_arp(mac, vlan)).collect();
    for a in addresses {
        match a.addr {
            IpAddr::V4(ip) => {
                frames.push(gratuitous_arp(mac, ip, a.vlan, false));
                frames.push(gratuitous_arp(mac, ip, a.vlan, true));
            }
            IpAddr::V6(ip) => frames.push(neighbour_advertisement(mac, ip, a.vlan, a.router)),
        }
    }
    frames
}

/// A gratuitous ARP (RFC 5227, 3): some hosts heed only requests, some only replies.
#[must_use]
pub fn gratuitous_arp(mac: MacAddr, ip: Ipv4Addr, vlan: Option<u16>, reply: bool) -> Vec<u8> {
    let target = if reply { BROADCAST } else { [0; 6] };
    arp(ARP, if reply { 2 } else { 1 }, mac, ip, target, ip, vlan)
}

/// A reverse ARP request for `mac` (RFC 903): claims no IP address.
#[must_use]
pub fn reverse_arp(mac: MacAddr, vlan: Option<u16>) -> Vec<u8> {
    arp(RARP, 3, mac, Ipv4Addr::UNSPECIFIED, mac, Ipv4Addr::UNSPECIFIED, vlan)
}

fn arp(
    ethertype: u16,
    operation: u16,
    sender: MacAddr,
    sender_ip: Ipv4Addr,
    target: MacAddr,
    target_ip: Ipv4Addr,
    vlan: Option<u16>,
) -> Vec<u8> {
    let mut f = ethernet(BROADCAST, sender, vlan, ethertype);
    f.extend([0, 1, 8, 0, 6, 4]);
    f.extend(operation.to_be_bytes());
    f.extend(sender);
    f.extend(sender_ip.octets());
    f.extend(target);
    f.extend(target_ip.octets());
    f.resize(f.len().max(MIN_FRAME), 0);
    f
}

/// An unsolicited neighbour advertisement to all nodes (RFC 4861, 4.4 and 7.2.6), override set. `router` must be what
/// the guest says of itself: without the flag its neighbours drop it as their router.
#[must_use]
pub fn neighbour_advertisement(mac: MacAddr, ip: Ipv6Addr, vlan: Option<u16>, router: bool) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    const ROUTER: u8 = 0x80;
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![136, 0, 0, 0, OVERRIDE | if router { ROUTER } else { 0 }, 0, 0, 0];
    message.extend(ip.octets());
    // Option 2, target link-layer address, one unit of eight bytes.
    message.extend([2, 1]);
    message.extend(mac);
    let sum = icmpv6_checksum(ip, all_nodes, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut f = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, vlan, IPV6);
    // Version 6, 32 bytes of ICMPv6, hop limit 255.
    f.extend([0x60, 0, 0, 0, 0, 32, 58, 255]);
    f.extend(ip.octets());
    f.extend(all_nodes.octets());
    f.extend(message);
    f
}

/// Of a message whose own checksum field is zero (RFC 4443, 2.3); 0 of one that carries its own.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let ends = ((source.octets(), 0), (destination.octets(), 0));
    transport_checksum(&FlowKey::new(6, ICMPV6, NO_VLAN, ends.0, ends.1), message)
}

fn ethernet(to: MacAddr, from: MacAddr, vlan: Option<u16>, ethertype: u16) -> Vec<u8> {
    let mut f = Vec::with_capacity(96);
    f.extend(to);
    f.extend(from);
    if let Some(id) = vlan {
        f.extend([0x81, 0x00]);
        f.extend((id & 0x0fff).to_be_bytes());
    }
    f.extend(ethertype.to_be_bytes());
    f
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = [0x00, 0x16, 0x3e, 0x01, 0x02, 0x03];

    #[test]
    fn arp_request_byte_by_byte() {
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x16, 0x3e, 0x01, 0x02, 0x03, 0x08, 0x06,
            0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01,
            0x00, 0x16, 0x3e, 0x01, 0x02, 0x03, 192, 0, 2, 7,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 192, 0, 2, 7,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(gratuitous_arp(MAC, Ipv4Addr::new(192, 0, 2, 7), None, false), expected);
    }

    #[test]
    fn arp_reply_with_a_tag() {
        let f = gratuitous_arp(MAC, Ipv4Addr::new(192, 0, 2, 7), Some(5), true);
        assert_eq!(f[12..18], [0x81, 0x00, 0x00, 0x05, 0x08, 0x06]);
        assert_eq!(f[24..26], [0, 2]);
        assert_eq!(f[36..42], [0xff; 6]);
        assert_eq!(f.len(), MIN_FRAME);
    }

    #[test]
    fn reverse_arp_claims_no_address() {
        let f = reverse_arp(MAC, None);
        assert_eq!(f[12..14], [0x80, 0x35]);
        assert_eq!(f[20..22], [0, 3]);
        assert_eq!((&f[28..32], &f[38..42]), (&[0; 4][..], &[0; 4][..]));
        assert_eq!(f[32..38], MAC);
    }

    #[test]
    fn advertisement_byte_by_byte() {
        let f = neighbour_advertisement(MAC, "2001:db8::7".parse().unwrap(), None, false);
        #[rustfmt::skip]
        let expected = [
            0x33, 0x33, 0x00, 0x00, 0x00, 0x01, 0x00, 0x16, 0x3e, 0x01, 0x02, 0x03, 0x86, 0xdd,
            0x60, 0x00, 0x00, 0x00, 0x00, 0x20, 0x3a, 0xff,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x07,
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01,
            0x88, 0x00, 0xbb, 0x05, 0x20, 0x00, 0x00, 0x00,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x07,
            0x02, 0x01, 0x00, 0x16, 0x3e, 0x01, 0x02, 0x03,
        ];
        assert_eq!(f, expected);
        let router = neighbour_advertisement(MAC, "2001:db8::7".parse().unwrap(), None, true);
        assert_eq!(router[58], 0xa0);
        assert_eq!(
            icmpv6_checksum("2001:db8::7".parse().unwrap(), "ff02::1".parse().unwrap(), &router[54..]),
            0
        );
    }

    #[test]
    fn a_round_has_every_vlan_and_both_forms() {
        let a = Learnt::from(IpAddr::from([10, 0, 0, 1]));
        let b = Learnt { vlan: Some(9), ..Learnt::from("fd00::1".parse::<IpAddr>().unwrap()) };
        let kinds: Vec<_> = frames(MAC, &[a, b]).iter().map(|f| [f[12], f[13]]).collect();
        assert_eq!(kinds, [[0x80, 0x35], [0x81, 0], [8, 6], [8, 6], [0x81, 0]]);
        assert_eq!(frames(MAC, &[]).len(), 1);
    }
}
