//! What the kernel counted: packets lost on their way, bytes of a packet, processor time.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use super::world::{CLIENT_PORT, Running, TAP, VIF, World};
use crate::lab::{Result, command::words};

/// Figures of an interface, since it is there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Interface {
    received: (u64, u64),
    sent: (u64, u64),
    /// Packets that it should have sent and dropped.
    send_drops: u64,
}

/// Bytes of an average packet that went to the client and that came from it, since `before` was taken.
pub(super) fn bytes_a_packet(world: &World, before: Interface) -> Result<(f64, f64)> {
    let now = client_port(world)?;
    let mean = |(packets, bytes): (u64, u64), (old_packets, old_bytes): (u64, u64)| {
        (bytes - old_bytes) as f64 / (packets - old_packets).max(1) as f64
    };
    Ok((mean(now.sent, before.sent), mean(now.received, before.received)))
}

/// The host's end of the client's cable.
pub(super) fn client_port(world: &World) -> Result<Interface> {
    world.host.enter(|| interface(CLIENT_PORT))
}

/// Packets on their way from client to guest that the kernel dropped and counted.
pub(super) fn lost_on_the_way(world: &World) -> Result<u64> {
    let sent = world.client.enter(|| interface("eth0").send_drops)?;
    let passed = world.host.enter(|| interface(TAP).send_drops + interface(VIF).send_drops)?;
    let queued = match words(&[
        "ip",
        "netns",
        "exec",
        world.host.name(),
        "tc",
        "-s",
        "-j",
        "qdisc",
        "show",
        "dev",
        TAP,
    ]) {
        Ok(shown) => queue_drops(&String::from_utf8_lossy(&shown.stdout)),
        // There is no TAP.
        Err(_) => 0,
    };
    let taken = world.guest.enter(udp_overflows)?;
    Ok(sent + passed + queued + taken)
}

fn interface(name: &str) -> Interface {
    // That of this thread: the process is in another namespace.
    parse(&fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default(), name)
}

/// All zero for an interface that is not there.
fn parse(text: &str, name: &str) -> Interface {
    let line = text.lines().filter_map(|line| line.trim().split_once(':')).find(|(found, _)| *found == name);
    let values: Vec<u64> =
        line.map_or("", |(_, values)| values).split_whitespace().flat_map(str::parse).collect();
    let value = |at: usize| values.get(at).copied().unwrap_or(0);
    Interface { received: (value(1), value(0)), sent: (value(9), value(8)), send_drops: value(11) }
}

/// Datagrams that a socket of this thread's namespace had no room for.
fn udp_overflows() -> u64 {
    overflows(&fs::read_to_string("/proc/thread-self/net/snmp").unwrap_or_default())
}

fn overflows(text: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "RcvbufErrors");
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

fn queue_drops(json: &str) -> u64 {
    let queues: Vec<serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    queues.iter().filter_map(|queue| queue.get("drops")?.as_u64()).sum()
}

/// Processor time of a process so far: of its thread whose name begins with `net-`, and of all threads.
pub(super) fn cpu_time(process: &Running) -> io::Result<(Duration, Duration)> {
    let (mut path, mut all) = (Duration::ZERO, Duration::ZERO);
    for task in fs::read_dir(format!("/proc/{}/task", process.id()))? {
        let task = task?.path();
        let (Ok(name), Ok(time)) = (fs::read_to_string(task.join("comm")), on_cpu(&task)) else { continue };
        all += time;
        if name.starts_with("net-") {
            path += time;
        }
    }
    Ok((path, all))
}

fn on_cpu(task: &Path) -> io::Result<Duration> {
    let text = fs::read_to_string(task.join("schedstat"))?;
    let nanos = text.split(' ').next().and_then(|first| first.parse().ok());
    nanos.map(Duration::from_nanos).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       1       2    0    0    0     0          0         0        3       4    0    5    0     0       0          0
llm1.0:    1000      10    1    2    3     4          5         6     7000      70    8    9    0     0       0          0
";

    #[test]
    fn an_interface_is_read_by_its_name() {
        let found = parse(DEV, "llm1.0");
        assert_eq!((found.received, found.sent, found.send_drops), ((10, 1000), (70, 7000), 9));
        assert_eq!(parse(DEV, "llm1").send_drops, 0);
    }

    #[test]
    fn overflows_are_found_by_name() {
        let text = "Udp: InDatagrams NoPorts RcvbufErrors SndbufErrors\nUdp: 1 2 3 4\nUdpLite: RcvbufErrors\nUdpLite: 9\n";
        assert_eq!((overflows(text), overflows("")), (3, 0));
    }

    #[test]
    fn drops_of_all_queues_are_added() {
        assert_eq!(queue_drops(r#"[{"kind":"pfifo_fast","drops":7},{"kind":"x","drops":2},{}]"#), 9);
        assert_eq!(queue_drops("no json"), 0);
    }
}
