//! The replication link.

use crate::lab::{Lab, Link};
use crate::report::Quantiles;
use crate::scenario::{Result, ScenarioError};

/// Its round trip as `ping` sees it between two hosts, with nothing else on it; the largest of 20 stands for the p99.
///
/// # Errors
/// As the lab's, or nothing answers.
pub fn link_rtt(lab: &Lab, from: usize, to: usize) -> Result<Quantiles> {
    let to = Link::Replication.host_address(to + 1);
    // The first one finds the neighbour out.
    let text = lab.host(from).check(&format!("ping -c 21 -i 0.1 {to}"))?.text();
    let mut times: Vec<f64> = text.lines().filter_map(ping_time).skip(1).collect();
    times.sort_by(f64::total_cmp);
    let (Some(&p50), Some(&p99)) = (times.get(times.len() / 2), times.last()) else {
        return Err(ScenarioError::Broken(format!("host{}: no answer to ping: {text}", from + 1)));
    };
    Ok(Quantiles { p50, p99 })
}

/// The time in a line of `ping`, in milliseconds.
fn ping_time(line: &str) -> Option<f64> {
    line.split_once("time=")?.1.split(' ').next()?.parse().ok()
}

/// Bytes that host has received on the link.
///
/// # Errors
/// As the lab's.
pub fn link_bytes(lab: &Lab, host: usize) -> Result<u64> {
    // The second interface of a host, as the lab wires it.
    let file = "/sys/class/net/eth1/statistics/rx_bytes";
    debug_assert_eq!(Link::ALL[1], Link::Replication);
    let text = lab.host(host).check(&format!("cat {file}"))?.text();
    text.trim().parse().map_err(|_| ScenarioError::Broken(format!("{file}: {text}")))
}
