//! Two network namespaces with a shaped link between them.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::lab::{LabError, Namespace, Result, command::words};

/// The backup's address.
const BACKUP: &str = "10.79.0.2";
const DEVICE: &str = "rep0";
/// The namespaces. Dropped, they go with the link.
#[derive(Debug)]
pub(super) struct World {
    primary: Namespace,
    backup: Namespace,
}

impl World {
    /// Namespaces with a link of so many bits a second in either direction; as fast as it goes if that is 0.
    pub(super) fn new(bits_per_s: u64) -> Result<Self> {
        let pid = std::process::id();
        let space = |part: &str| Namespace::new(&format!("llml{pid}{part}"));
        let world = Self { primary: space("p"), backup: space("b") };
        let (p, b) = (world.primary.name(), world.backup.name());
        for name in [p, b] {
            words(&["ip", "netns", "add", name])?;
        }
        let mut lines = vec![
            format!("ip -n {p} link add {DEVICE} type veth peer name {DEVICE} netns {b}"),
            format!("ip -n {p} addr add 10.79.0.1/24 dev {DEVICE}"),
            format!("ip -n {b} addr add {BACKUP}/24 dev {DEVICE}"),
            format!("ip -n {p} link set {DEVICE} up"),
            format!("ip -n {b} link set {DEVICE} up"),
        ];
        if bits_per_s > 0 {
            // A bucket of what goes in half a millisecond, and never less than the largest packet that TCP makes.
            let burst = (bits_per_s / 8 / 2000).max(96 << 10);
            lines.extend([p, b].map(|name| {
                // And a queue of a millisecond: a network card's.
                let limit = burst + bits_per_s / 8 / 1000;
                format!(
                    "ip netns exec {name} tc qdisc add dev {DEVICE} root tbf rate {bits_per_s}bit burst {burst} limit {limit}"
                )
            }));
        }
        for line in &lines {
            words(&line.split(' ').collect::<Vec<_>>())?;
        }
        Ok(world)
    }

    /// A connection from the primary's namespace to the backup's: its ends.
    pub(super) fn connect(&self) -> Result<(TcpStream, TcpStream)> {
        let system = |source| LabError::Io { what: "connect over the shaped link".into(), source };
        let listener = self.backup.enter(|| TcpListener::bind((BACKUP, 0)))?.map_err(system)?;
        let port = listener.local_addr().map_err(system)?.port();
        let near = self.primary.enter(|| TcpStream::connect((BACKUP, port)))?.map_err(system)?;
        Ok((near, listener.accept().map_err(system)?.0))
    }

    /// Bytes that have left the primary, with all headers.
    pub(super) fn sent(&self) -> Result<u64> {
        let table = self.primary.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?;
        let table =
            table.map_err(|source| LabError::Io { what: "read the link's counters".into(), source })?;
        // After the name, 8 figures of what was received; the first of what was sent is bytes.
        let line = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{DEVICE}:")));
        line.and_then(|line| line.split_whitespace().nth(8)?.parse().ok()).ok_or_else(|| LabError::Missing {
            what: "The link's counter of bytes".into(),
            hint: "it is read from /proc/net/dev".into(),
        })
    }

    /// Bytes a second that one connection carries for so long.
    pub(super) fn rate(&self, time: Duration) -> Result<f64> {
        let (mut near, mut far) = self.connect()?;
        let system = |source| LabError::Io { what: "measure the shaped link".into(), source };
        let sender = std::thread::spawn(move || {
            let piece = vec![0x5a; 256 << 10];
            // Until the other end has seen enough.
            while near.write_all(&piece).is_ok() {}
        });
        let (mut buffer, mut bytes) = (vec![0; 256 << 10], 0_u64);
        let mut read = |until: Duration| -> io::Result<f64> {
            let begin = Instant::now();
            bytes = 0;
            while begin.elapsed() < until {
                bytes += far.read(&mut buffer)? as u64;
            }
            Ok(bytes as f64 / begin.elapsed().as_secs_f64())
        };
        // The first part is the kernel growing its windows.
        let rate = read(time / 4).and_then(|_| read(time)).map_err(system);
        drop(far);
        // It has nothing to say.
        let _ = sender.join();
        rate
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for space in [&self.primary, &self.backup] {
            if let Err(error) = space.remove() {
                eprintln!("{error}");
            }
        }
    }
}
