//! What clients that never pause get out of the guest. No others should run meanwhile.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::clients::Limits;
use crate::clients::http::{Digest, HttpClients, HttpOptions};
use crate::clients::redis::{RedisClients, RedisOptions};
use crate::lab::{self, Lab, guest};
use crate::scenario::{Result, ensure_held, service};

/// All that is outstanding at the end may wait for a commit each.
const LIMITS: Limits = Limits {
    connect: Duration::from_secs(30),
    reply: Duration::from_secs(90),
    drain: Duration::from_secs(90),
    run: Duration::from_secs(900),
    samples: 400_000,
};

/// SETs a second on four connections, 32 of them outstanding on each.
///
/// # Errors
/// A client cannot be started, or what it saw was not right.
pub fn sets(lab: &Lab, time: Duration) -> Result<f64> {
    let options = RedisOptions {
        depth: 32,
        pace: Duration::ZERO,
        // Read back batch by batch, each of which waits as long as any reply.
        keys: 1000,
        read_back_every: 0,
        increments: false,
        limits: LIMITS,
        ..RedisOptions::new(service(guest::REDIS))
    };
    lab.in_netns(|| {
        let start = Instant::now();
        let clients = RedisClients::start(&options)?;
        sleep(time);
        let stopped = clients.stop()?;
        // What comes while they drain counts, and so does its time.
        let took = start.elapsed();
        let written = stopped.verify()?;
        let rate = written.acked_writes as f64 / took.as_secs_f64();
        ensure_held(&[written])?;
        Ok(rate)
    })?
}

/// Bytes of 64 KiB web bodies a second, on eight connections.
///
/// # Errors
/// A client cannot be started, or what it saw was not right.
pub fn http_64k(lab: &Lab, time: Duration) -> Result<f64> {
    let page = Digest::of(&lab::image::page_64k());
    let options = HttpOptions {
        connections: 8,
        pace: Duration::ZERO,
        limits: LIMITS,
        ..HttpOptions::new(service(guest::HTTP), "/64k", page)
    };
    lab.in_netns(|| {
        let start = Instant::now();
        let clients = HttpClients::start(&options)?;
        sleep(time);
        let got = clients.stop()?;
        let rate = got.samples.len() as f64 * page.len as f64 / start.elapsed().as_secs_f64();
        ensure_held(&[got])?;
        Ok(rate)
    })?
}
