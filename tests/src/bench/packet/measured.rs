//! The measures of one mode, and the names of their figures.

use std::time::Duration;

use super::load::{self, Latency};
use super::overload::{self, Overload};
use super::world::{Running, World};
use super::{BRIDGE_AND_LINK, BUSY, Options, counters};
use crate::report::Bench;
use crate::scenario::Result;

/// What a figure tells, its unit, and where it is.
type Figure<T> = (&'static str, &'static str, fn(&T) -> f64);

/// What is measured, and where the figures go.
pub(super) struct Measured<'a> {
    pub(super) world: &'a World,
    pub(super) mode: &'a str,
    /// Primary and backup.
    pub(super) driver: Option<(&'a Running, &'a Running)>,
    pub(super) options: &'a Options,
    pub(super) bench: &'a mut Bench,
}

impl Measured<'_> {
    /// Measures all that is wanted.
    pub(super) fn all(&mut self) -> Result<()> {
        println!("Measuring: {}", self.mode);
        let (world, time, every) = (self.world, self.options.time, Duration::from_millis(1));
        if self.wants("link") {
            let latency = world.host.enter(|| load::link(every, time))?;
            self.delays("link", self.mode, latency);
        }
        if self.wants("paced") {
            let latency = world.client.enter(|| load::paced(every, time))?;
            self.delays("paced", self.mode, latency);
            if self.driver.is_none() {
                let ends = (world.client.enter(load::connect_echo)?, world.host.enter(load::connect_link)?);
                let both = |ends| load::paced_both(ends, every, time);
                let latency = ends.0.and_then(|first| Ok((first, ends.1?))).and_then(both);
                self.delays("paced", BRIDGE_AND_LINK, latency);
            }
        }
        if self.wants("busy") {
            let latency = world.client.enter(|| load::busy(BUSY, time))?;
            self.delays("busy", self.mode, latency);
        }
        // Each connection would wait for a checkpoint to be opened.
        let flows = if self.mode == "remus" { 0 } else { self.options.flows };
        if flows > 0 && self.wants("flows") {
            for (name, count) in [("one flow", 1), ("flows", flows)] {
                let latency = world.client.enter(|| load::flows(count, time))?;
                self.delays(name, self.mode, latency);
            }
        }
        if self.wants("upload") {
            self.bulk("upload", load::upload)?;
        }
        if self.wants("download") {
            self.bulk("download", load::download)?;
        }
        // Nothing would come back before a checkpoint.
        if self.mode != "remus" && self.wants("overload") {
            let overload = overload::run(world, time)?;
            self.overload(overload);
        }
        Ok(())
    }

    fn wants(&self, load: &str) -> bool {
        self.options.has_load(load)
    }

    fn add(&mut self, name: &str, unit: &str, value: std::result::Result<f64, String>) {
        self.bench.add(name, self.mode, unit, value);
    }

    fn delays(&mut self, load: &str, mode: &str, latency: std::io::Result<Latency>) {
        let latency = latency.map_err(|e| e.to_string());
        let figures: [Figure<Latency>; 5] = [
            ("p50", "us", |l| l.p50),
            ("p90", "us", |l| l.p90),
            ("p99", "us", |l| l.p99),
            ("p99.9", "us", |l| l.p999),
            ("requests", "1/s", |l| l.per_second),
        ];
        for (what, unit, of) in figures {
            let value = latency.as_ref().map(of).map_err(Clone::clone);
            self.bench.add(&format!("{load}: {what}"), mode, unit, value);
        }
    }

    /// Throughput, how large the packets of the bridge are at the client, and what each process needs for a gigabyte.
    fn bulk(&mut self, name: &str, load: fn(Duration) -> std::io::Result<f64>) -> Result<()> {
        let (world, time) = (self.world, self.options.time);
        let cpu = |driver: Option<(&Running, &Running)>| {
            let (primary, backup) = driver?;
            counters::cpu_time(primary).ok().zip(counters::cpu_time(backup).ok())
        };
        let (port, before) = (counters::client_port(world)?, cpu(self.driver));
        let rate = world.client.enter(|| load(time))?.map_err(|e| e.to_string());
        let (after, (to_client, from_client)) = (cpu(self.driver), counters::bytes_a_packet(world, port)?);
        self.add(name, "MB/s", rate.clone());
        self.add(&format!("{name}: bytes a packet"), "B", Ok(to_client.max(from_client)));
        let (Some((primary, backup)), Some((primary_then, backup_then))) = (after, before) else {
            return Ok(());
        };
        let gigabytes = rate.map(|rate| rate * time.as_secs_f64() / 1e3);
        for (whose, now, then) in [
            ("packet path", primary.0, primary_then.0),
            ("driver", primary.1, primary_then.1),
            ("backup", backup.1, backup_then.1),
        ] {
            let each =
                gigabytes.as_ref().map(|gigabytes| now.saturating_sub(then).as_secs_f64() * 1e3 / gigabytes);
            self.add(&format!("{name}: CPU of a GB, {whose}"), "ms", each.map_err(Clone::clone));
        }
        Ok(())
    }

    fn overload(&mut self, overload: std::io::Result<Overload>) {
        let overload = overload.map_err(|e| e.to_string());
        let figures: [Figure<Overload>; 7] = [
            ("datagrams", "1/s", |o| o.datagrams),
            ("datagrams arrived", "%", |o| o.arrived),
            ("packets dropped and counted", "", |o| o.dropped),
            ("datagrams lost and not counted", "", |o| o.unexplained),
            ("TCP echoed", "MB/s", |o| o.echoed),
            ("TCP bytes lost", "B", |o| o.lost),
            ("a request afterwards, p50", "us", |o| o.after),
        ];
        for (what, unit, of) in figures {
            self.add(&format!("overload: {what}"), unit, overload.as_ref().map(of).map_err(Clone::clone));
        }
    }
}
