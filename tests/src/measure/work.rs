//! How fast a process of the guest goes on.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::lab::work::{self, Work};
use crate::lab::{Context as _, Lab};
use crate::scenario::{Result, service};

/// Longer than any output is held.
const REPLY: Duration = Duration::from_secs(60);

/// Rounds a second of a work in the guest, counted there.
///
/// # Errors
/// The guest's worker does not answer.
pub fn work(lab: &Lab, work: Work, time: Duration) -> Result<f64> {
    let rate = lab.in_netns(|| rate(work, time))?;
    Ok(rate.context(|| format!("measure the {work} work in the guest"))?)
}

fn rate(work: Work, time: Duration) -> io::Result<f64> {
    let address = service(work::PORT);
    let mut connection = TcpStream::connect_timeout(&address, REPLY)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(REPLY))?;
    connection.write_all(format!("{work}\n").as_bytes())?;
    let start = Instant::now();
    sleep(time);
    let took = start.elapsed();
    // Its answer may be held, but not the order to stop.
    let rounds = work::stop(connection)?;
    Ok(rounds as f64 / took.as_secs_f64())
}
