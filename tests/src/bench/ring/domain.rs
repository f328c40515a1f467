//! Our ring between two domains: one offers it, with pages of its own, and Dom0 connects.

use std::io;
use std::time::Instant;

use llm_core::ring;
use llm_dom0::shared::SharedPages as _;
use llm_dom0::xen::evtchn::Evtchn;
use llm_dom0::xen::gntalloc::OwnPages;
use llm_dom0::xen::gntdev::ForeignPages;
use llm_dom0::xen::store::XenStore;

use super::link::Link;
use super::{DATA_PAGES, PATIENCE};

/// Where the offering domain tells of the rings, below its own folder.
const FOLDER: &str = "data/llm-ring";

/// What it tells: references of the pages of both rings, and the port of the channel.
const NODES: [&str; 3] = ["there", "back", "port"];

/// Offers both rings to Dom0: this domain's end of them, that echoes.
///
/// # Errors
/// This is no Xen domain, or one that cannot grant so many pages.
pub fn offer() -> io::Result<Link<Evtchn>> {
    let (there, back) = (OwnPages::new(0, DATA_PAGES)?, OwnPages::new(0, DATA_PAGES)?);
    let channel = Evtchn::offer(0)?;
    let text = |refs: &[u32]| refs.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let values = [text(there.references()), text(back.references()), channel.port().to_string()];
    let (there, back) = (there.map()?, back.map()?);
    ring::format(&there).map_err(io::Error::other)?;
    ring::format(&back).map_err(io::Error::other)?;
    let mut store = XenStore::open().map_err(io::Error::other)?;
    let told = store.transaction(|store| {
        let nodes = NODES.iter().zip(&values);
        nodes
            .into_iter()
            .try_for_each(|(node, value)| store.write(&format!("{FOLDER}/{node}"), value.as_bytes()))
    });
    told.map_err(io::Error::other)?;
    Link::new(back, there, channel)
}

/// Connects to the rings that domain `domid` offers, and takes their nodes away: the next one who connects waits for others.
///
/// # Errors
/// It offers none in time, or they cannot be mapped.
pub fn connect(domid: u16) -> io::Result<Link<Evtchn>> {
    let folder = format!("/local/domain/{domid}/{FOLDER}");
    let mut store = XenStore::open().map_err(io::Error::other)?;
    let start = Instant::now();
    let [there, back, port] = loop {
        let values = store.transaction(|store| {
            let mut values = [const { None }; NODES.len()];
            for (value, node) in values.iter_mut().zip(NODES) {
                *value = store.read(&format!("{folder}/{node}"))?;
            }
            Ok(values)
        });
        if let [Some(there), Some(back), Some(port)] = values.map_err(io::Error::other)? {
            break [there, back, port];
        }
        if start.elapsed() > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("Domain {domid} offers no ring")));
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    store.remove(&folder).map_err(io::Error::other)?;
    let map = |refs: &[u8]| ForeignPages::new(domid, &numbers(refs)?)?.map();
    let port = numbers(&port)?.first().copied().unwrap_or_default();
    Link::new(map(&there)?, map(&back)?, Evtchn::bind(domid, port)?)
}

fn numbers(text: &[u8]) -> io::Result<Vec<u32>> {
    let text = std::str::from_utf8(text).map_err(io::Error::other)?;
    text.split(' ').map(|number| number.parse().map_err(io::Error::other)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_they_are_written() {
        assert_eq!(numbers(b"8 9 300").unwrap(), [8, 9, 300]);
        for bad in [&b""[..], b"8  9", b"-1", b"\xff"] {
            assert!(numbers(bad).is_err(), "{bad:?}");
        }
    }
}
