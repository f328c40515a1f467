//! Latency under a light load, with the pauses of the checkpoints apart.

use std::thread::sleep;
use std::time::Duration;

use super::run::pair;
use crate::clients::echo::{self, EchoOptions};
use crate::clients::http::{Digest, HttpClients, HttpOptions};
use crate::clients::redis::{RedisClients, RedisOptions};
use crate::clients::{ClientKind, Limits, Pauses, Running, Sample, now_ns};
use crate::lab::{self, Lab, guest, pattern};
use crate::measure::{HostClock, PauseLog};
use crate::report::{Bench, Quantiles};
use crate::scenario::{Result, ensure_held, primary_status, service};

/// What the clients saw.
struct Seen {
    samples: Vec<Sample>,
    pauses: Pauses,
    lengths_ns: Vec<u64>,
}

/// Adds the latencies of all clients, and the guest's pauses meanwhile.
pub(super) fn measure(lab: &Lab, host: usize, time: Duration, bench: &mut Bench, mode: &str) {
    let seen = take(lab, host, time).map_err(|e| e.to_string());
    for (kind, name) in
        [(ClientKind::Echo, "echo"), (ClientKind::Redis, "redis-set"), (ClientKind::Http, "http")]
    {
        let of = |wanted: &dyn Fn(&Seen, &Sample) -> bool| {
            seen.as_ref().map_err(Clone::clone).map(|seen| {
                let mine = seen.samples.iter().filter(|s| s.ok && s.kind == kind && wanted(seen, s));
                Quantiles::of(mine.map(|s| s.latency_ns).collect())
            })
        };
        let all = of(&|_, _| true).and_then(|q| q.ok_or_else(|| "no reply came".into()).map(Some));
        pair(bench, &format!("latency: {name}"), mode, all);
        if !seen.as_ref().is_ok_and(|seen| seen.pauses.is_empty()) {
            pair(bench, &format!("latency: {name}, no pause met"), mode, of(&|seen, s| !seen.pauses.meet(s)));
            pair(bench, &format!("latency: {name}, pause met"), mode, of(&|seen, s| seen.pauses.meet(s)));
        }
        if let Ok(seen) = &seen
            && !seen.pauses.is_empty()
        {
            let mine = || seen.samples.iter().filter(|s| s.ok && s.kind == kind);
            let met = mine().filter(|s| seen.pauses.meet(s)).count();
            let share = met as f64 * 100.0 / mine().count().max(1) as f64;
            bench.add(&format!("latency: {name}, share that met a pause"), mode, "%", Ok(share));
        }
    }
    if let Ok(seen) = &seen
        && !seen.pauses.is_empty()
    {
        bench.add("pause: clocks apart at most", mode, "ms", Ok(seen.pauses.slack_ns() as f64 / 1e6));
    }
    if let Ok(seen) = seen
        && let Some(pause) = Quantiles::of(seen.lengths_ns.clone())
    {
        pair(bench, "pause: guest", mode, Ok(Some(pause)));
        let total: u64 = seen.lengths_ns.iter().sum();
        bench.add("pause: share of the time", mode, "%", Ok(total as f64 / time.as_nanos() as f64 * 100.0));
    }
}

fn take(lab: &Lab, host: usize, time: Duration) -> Result<Seen> {
    // What was asked at the end of the measure may wait for another checkpoint.
    let limits = Limits { drain: Duration::from_secs(60), ..Limits::default() };
    let redis = RedisOptions {
        limits,
        connections: 2,
        pace: Duration::from_millis(20),
        keys: 4000,
        read_back_every: 0,
        increments: false,
        ..RedisOptions::new(service(guest::REDIS))
    };
    let index = Digest::of(lab::image::INDEX_HTML.as_bytes());
    let http = HttpOptions {
        limits,
        connections: 1,
        pace: Duration::from_millis(50),
        ..HttpOptions::new(service(guest::HTTP), "/", index)
    };
    let (redis, others) = lab.in_netns(|| -> Result<_> {
        let redis = RedisClients::start(&redis)?;
        let http: Running = HttpClients::start(&http)?.into();
        let echo = EchoOptions { limits, ..EchoOptions::new(service(pattern::ECHO_PORT)) };
        Ok((redis, [http, echo::start(&echo)?]))
    })??;
    let from = now_ns();
    sleep(time);
    let to = now_ns();
    redis.raise_stop();
    others.iter().for_each(Running::raise_stop);
    let outcomes = lab.in_netns(|| -> Result<_> {
        let mut outcomes = vec![redis.stop()?.verify()?];
        for client in others {
            outcomes.push(client.stop()?);
        }
        Ok(outcomes)
    })??;
    // At the end only: each look costs the guest's host some of its one CPU.
    let mut log = PauseLog::default();
    let asked_ns = now_ns();
    let pauses = match primary_status(lab, host)? {
        Some(status) => {
            log.add(&status, asked_ns);
            log.on(&HostClock::of(lab, host)?)
        }
        None => Pauses::default(),
    };
    ensure_held(&outcomes)?;
    let samples = outcomes.into_iter().flat_map(|o| o.samples).collect();
    let lengths_ns = pauses.lengths(from, to);
    Ok(Seen { samples, pauses, lengths_ns })
}
