//! The guest's addresses, learnt from what it sends.
//!
//! They are what a backup announces after a take-over. An address that the guest claims itself (ARP sender, neighbour
//! solicitation or advertisement) is *claimed*; a source address alone may be somebody else's, since a guest that
//! routes sends foreign packets under its own MAC address, so it is announced only if it is the only one of its family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub type MacAddr = [u8; 6];

/// Addresses kept for a guest's interface; the protocol has room for as many.
pub const MAX_ADDRESSES: usize = 16;

/// An address of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learnt {
    /// The address.
    pub addr: IpAddr,
    /// VLAN identifier (1 to 4094) of the frame that showed it.
    pub vlan: Option<u16>,
    /// The guest claimed it, rather than having sent from it.
    pub claimed: bool,
    /// The guest advertised itself as an IPv6 router.
    pub router: bool,
}

impl From<IpAddr> for Learnt {
    /// A claimed address of the untagged network.
    fn from(addr: IpAddr) -> Self {
        Self { addr, vlan: None, claimed: true, router: false }
    }
}

/// The addresses of one interface of a guest, [`MAX_ADDRESSES`] at most.
#[derive(Debug)]
pub struct AddressBook {
    mac: Option<MacAddr>,
    entries: Vec<Learnt>,
}

impl AddressBook {
    /// A book for the guest's address `mac`. Without it the first unicast sender counts as the guest.
    #[must_use]
    pub fn new(mac: Option<MacAddr>) -> Self {
        Self { mac, entries: Vec::new() }
    }

    /// The guest's MAC address, if it is known by now.
    #[must_use]
    pub fn mac(&self) -> Option<MacAddr> {
        self.mac
    }

    /// All that was learnt, in order of appearance.
    #[must_use]
    pub fn entries(&self) -> &[Learnt] {
        &self.entries
    }

    /// The entries that may be announced (see the module).
    #[must_use]
    pub fn announceable(&self) -> Vec<Learnt> {
        // Every interface has a link-local IPv6 address beside its others.
        let family = |a: IpAddr| (a.is_ipv4(), is_link_local(a));
        let alone =
            |e: &Learnt| self.entries.iter().filter(|o| family(o.addr) == family(e.addr)).count() == 1;
        self.entries.iter().filter(|e| e.claimed || alone(e)).copied().collect()
    }

    /// Looks at a frame that the guest sent (Ethernet header first). True if the book changed.
    pub fn observe(&mut self, frame: &[u8]) -> bool {
        let Some((source, vlan, ethertype, payload)) = split(frame) else { return false };
        if source[0] & 1 != 0 || source == [0; 6] || self.mac.is_some_and(|m| m != source) {
            return false;
        }
        let found = match ethertype {
            0x0806 => arp(payload, source),
            0x0800 => ipv4(payload),
            0x86dd => ipv6(payload),
            _ => None,
        };
        let first = self.mac.is_none();
        self.mac = Some(source);
        let Some(found) = found.filter(|f| is_unicast(f.addr)) else { return first };
        self.insert(Learnt { vlan, ..found }) || first
    }

    fn insert(&mut self, new: Learnt) -> bool {
        if let Some(old) = self.entries.iter_mut().find(|e| e.addr == new.addr && e.vlan == new.vlan) {
            let merged =
                Learnt { claimed: old.claimed || new.claimed, router: old.router || new.router, ..*old };
            return std::mem::replace(old, merged) != merged;
        }
        if self.entries.len() == MAX_ADDRESSES {
            // A claim displaces the oldest guess; a guess displaces nothing.
            let Some(guess) = self.entries.iter().position(|e| !e.claimed).filter(|_| new.claimed) else {
                return false;
            };
            self.entries.remove(guess);
        }
        self.entries.push(new);
        true
    }
}

/// Source address, VLAN, ethertype and payload of a frame with at most one tag.
fn split(frame: &[u8]) -> Option<(MacAddr, Option<u16>, u16, &[u8])> {
    let source = frame.get(6..12)?.try_into().ok()?;
    match u16_at(frame, 12)? {
        0x8100 | 0x88a8 => {
            let id = u16_at(frame, 14)? & 0x0fff;
            Some((source, Some(id).filter(|&v| v != 0), u16_at(frame, 16)?, frame.get(18..)?))
        }
        ethertype => Some((source, None, ethertype, frame.get(14..)?)),
    }
}

/// RFC 826: the sender of an ARP packet for IPv4 over Ethernet. A probe (RFC 5227) has the sender 0.0.0.0.
fn arp(p: &[u8], source: MacAddr) -> Option<Learnt> {
    if p.get(..6)? != [0, 1, 8, 0, 6, 4] || p.get(8..14)? != source {
        return None;
    }
    Some(Learnt::from(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(p.get(14..18)?).ok()?))))
}

fn ipv4(p: &[u8]) -> Option<Learnt> {
    if p.first()? >> 4 != 4 {
        return None;
    }
    let addr = Ipv4Addr::from(<[u8; 4]>::try_from(p.get(12..16)?).ok()?);
    Some(Learnt { claimed: false, ..Learnt::from(IpAddr::V4(addr)) })
}

fn ipv6(p: &[u8]) -> Option<Learnt> {
    const ICMPV6: u8 = 58;
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    if p.first()? >> 4 != 6 {
        return None;
    }
    let source = Learnt { claimed: false, ..Learnt::from(IpAddr::V6(v6_at(p, 8)?)) };
    if *p.get(6)? != ICMPV6 {
        return Some(source);
    }
    // RFC 4861: neighbour discovery that did not come straight from its sender has another hop limit.
    match (p.get(40), p.get(7)) {
        (Some(&SOLICITATION), Some(255)) => Some(Learnt { claimed: true, ..source }),
        (Some(&ADVERTISEMENT), Some(255)) => {
            let router = p.get(44)? & 0x80 != 0;
            Some(Learnt { router, ..Learnt::from(IpAddr::V6(v6_at(p, 48)?)) })
        }
        _ => Some(source),
    }
}

fn is_unicast(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => {
            !(a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_broadcast())
                && a.octets()[0] != 0
        }
        IpAddr::V6(a) => !(a.is_unspecified() || a.is_loopback() || a.is_multicast()),
    }
}

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local())
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

fn v6_at(b: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(b.get(at..at + 16)?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::announce::{gratuitous_arp, neighbour_advertisement};
    use super::*;

    const MAC: MacAddr = [0x00, 0x16, 0x3e, 0x01, 0x02, 0x03];

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn ethernet(ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
        [&[0xff; 6][..], &MAC, &ethertype, payload].concat()
    }

    fn ipv4_from(addr: [u8; 4]) -> Vec<u8> {
        let mut p = [0; 20];
        p[0] = 0x45;
        p[12..16].copy_from_slice(&addr);
        ethernet([8, 0], &p)
    }

    fn ipv6_from(addr: &str) -> Vec<u8> {
        let mut p = [0; 40];
        p[0] = 0x60;
        p[6] = 17;
        p[8..24].copy_from_slice(&addr.parse::<Ipv6Addr>().unwrap().octets());
        ethernet([0x86, 0xdd], &p)
    }

    #[test]
    fn an_arp_request_claims_its_sender() {
        let frame = ethernet(
            [8, 6],
            &[0, 1, 8, 0, 6, 4, 0, 1, 0, 0x16, 0x3e, 1, 2, 3, 10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1],
        );
        let mut book = AddressBook::new(None);
        assert!(book.observe(&frame));
        assert!(!book.observe(&frame));
        assert_eq!(book.mac(), Some(MAC));
        assert_eq!(book.entries(), [Learnt::from(ip("10.0.0.5"))]);
    }

    #[test]
    fn what_we_announce_is_what_we_learn() {
        let mut book = AddressBook::new(Some(MAC));
        assert!(book.observe(&gratuitous_arp(MAC, Ipv4Addr::new(192, 0, 2, 7), Some(5), false)));
        assert!(book.observe(&neighbour_advertisement(MAC, "2001:db8::7".parse().unwrap(), None, true)));
        let v4 = Learnt { vlan: Some(5), ..Learnt::from(ip("192.0.2.7")) };
        let v6 = Learnt { router: true, ..Learnt::from(ip("2001:db8::7")) };
        assert_eq!(book.announceable(), [v4, v6]);
    }

    #[test]
    fn a_lone_source_is_announced_and_a_routers_are_not() {
        let mut book = AddressBook::new(Some(MAC));
        book.observe(&ipv4_from([10, 0, 0, 5]));
        book.observe(&ipv6_from("fe80::1"));
        book.observe(&ipv6_from("2001:db8::1"));
        assert_eq!(
            book.announceable().iter().map(|e| e.addr).collect::<Vec<_>>(),
            [ip("10.0.0.5"), ip("fe80::1"), ip("2001:db8::1")]
        );
        book.observe(&ipv4_from([198, 51, 100, 1]));
        assert!(!book.announceable().iter().any(|e| e.addr.is_ipv4()));
    }

    #[test]
    fn strangers_probes_and_groups_are_not_learnt() {
        let mut book = AddressBook::new(Some([2; 6]));
        assert!(!book.observe(&ipv4_from([10, 0, 0, 5])));
        let mut book = AddressBook::new(Some(MAC));
        for addr in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
            assert!(!book.observe(&ipv4_from(addr)), "{addr:?}");
        }
        assert!(book.entries().is_empty());
    }

    #[test]
    fn bounded_and_claims_displace_guesses() {
        let mut book = AddressBook::new(Some(MAC));
        for i in 0..40 {
            book.observe(&ipv4_from([10, 0, 1, i + 1]));
        }
        assert_eq!(book.entries().len(), MAX_ADDRESSES);
        assert!(book.observe(&gratuitous_arp(MAC, Ipv4Addr::new(10, 0, 0, 9), None, false)));
        assert_eq!(book.entries().len(), MAX_ADDRESSES);
        assert_eq!(book.announceable(), [Learnt::from(ip("10.0.0.9"))]);
    }

    #[test]
    fn any_cut_of_a_frame_is_harmless() {
        let frames = [
            gratuitous_arp(MAC, Ipv4Addr::new(10, 0, 0, 9), Some(1), true),
            neighbour_advertisement(MAC, "fd00::1".parse().unwrap(), Some(2), false),
            ipv4_from([10, 0, 0, 1]),
        ];
        for frame in frames {
            for n in 0..frame.len() {
                AddressBook::new(None).observe(&frame[..n]);
            }
        }
    }
}
