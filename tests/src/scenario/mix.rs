//! The guest's clients while they run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Result, wait};
use crate::clients::echo::{self, EchoOptions};
use crate::clients::http::{Digest, HttpClients, HttpOptions};
use crate::clients::redis::{RedisClients, RedisOptions};
use crate::clients::stream::{self, StreamOptions};
use crate::clients::timeline::Sample;
use crate::clients::upload::{self, UploadOptions};
use crate::clients::{ClientKind, Outcome, Progress, Running, Snapshot};
use crate::lab::{self, Lab, guest, pattern, sink};

/// Connections that were opened late are numbered from here on.
const LATE: u16 = 100;

/// A service of the guest.
#[must_use]
pub fn service(port: u16) -> SocketAddr {
    SocketAddr::from((guest::ADDRESS, port))
}

/// When a client joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The Redis writer and the web client that every run has.
    Basic,
    /// The rest of the full mix.
    Rest,
    /// Opened just before the fault.
    Late,
}

#[derive(Debug)]
enum Client {
    Redis(RedisClients),
    Other(Running),
}

impl Client {
    fn kind(&self) -> ClientKind {
        match self {
            Self::Redis(c) => c.kind(),
            Self::Other(c) => c.kind(),
        }
    }

    fn progress(&self) -> Arc<Progress> {
        match self {
            Self::Redis(c) => c.progress(),
            Self::Other(c) => c.progress(),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Redis(c) => c.is_done(),
            Self::Other(c) => c.is_done(),
        }
    }

    fn raise_stop(&self) {
        match self {
            Self::Redis(c) => c.raise_stop(),
            Self::Other(c) => c.raise_stop(),
        }
    }
}

/// The guest's clients while they run.
#[derive(Debug, Default)]
pub struct Clients {
    running: Vec<(Part, Client)>,
    /// Of those that were stopped before the others.
    ended: Vec<Outcome>,
}

impl Clients {
    /// Starts a Redis writer on four connections and a web client on two, in the clients' network.
    ///
    /// # Errors
    /// A first connection fails.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mut clients = Self::default();
        // Threads inherit the namespace that they are started in.
        lab.in_netns(|| clients.basic())??;
        Ok(clients)
    }

    /// Starts the full mix: [`Self::start`] and [`Self::add_rest`].
    ///
    /// # Errors
    /// A first connection fails.
    pub fn start_all(lab: &Lab) -> Result<Self> {
        let mut clients = Self::start(lab)?;
        clients.add_rest(lab)?;
        Ok(clients)
    }

    fn basic(&mut self) -> Result<()> {
        let redis = RedisOptions {
            pace: Duration::from_millis(20),
            keys: 4000,
            ..RedisOptions::new(service(guest::REDIS))
        };
        let http = HttpOptions {
            pace: Duration::from_millis(50),
            ..HttpOptions::new(service(guest::HTTP), "/", index())
        };
        self.running.push((Part::Basic, Client::Redis(RedisClients::start(&redis)?)));
        self.running.push((Part::Basic, Client::Other(HttpClients::start(&http)?.into())));
        Ok(())
    }

    /// Adds the rest of the full mix: a pipelining Redis writer, web clients with a new connection for each request
    /// and with bodies of 64 KiB, a typist, an uploader and a long download. 15 connections with those of
    /// [`Self::start`]; about 0.6 MB/s towards the clients and 0.2 MB/s towards the guest where it keeps up.
    ///
    /// # Errors
    /// A first connection fails.
    pub fn add_rest(&mut self, lab: &Lab) -> Result<()> {
        let pipelined = RedisOptions {
            connections: 2,
            depth: 8,
            pace: Duration::from_millis(100),
            keys: 4000,
            ..RedisOptions::new(service(guest::REDIS))
        };
        let connecting = HttpOptions {
            keep_alive: false,
            pace: Duration::from_millis(200),
            ..HttpOptions::new(service(guest::HTTP), "/", index())
        };
        let large = HttpOptions {
            connections: 1,
            pace: Duration::from_millis(150),
            ..HttpOptions::new(service(guest::HTTP), "/64k", Digest::of(&lab::image::page_64k()))
        };
        lab.in_netns(|| -> Result<()> {
            let mut add = |client| self.running.push((Part::Rest, client));
            add(Client::Redis(RedisClients::start(&pipelined)?));
            add(Client::Other(HttpClients::start(&connecting)?.into()));
            add(Client::Other(HttpClients::start(&large)?.into()));
            add(Client::Other(echo::start(&EchoOptions::new(service(pattern::ECHO_PORT)))?));
            add(Client::Other(upload::start(&UploadOptions::new(service(sink::PORT)))?));
            add(Client::Other(stream::start(&StreamOptions::new(service(pattern::HTTP_PORT)))?));
            Ok(())
        })?
    }

    /// Adds a Redis writer and a typist on a connection each: opened just before a fault, no checkpoint knows them.
    ///
    /// # Errors
    /// A first connection fails.
    pub fn add_late(&mut self, lab: &Lab) -> Result<()> {
        let redis = RedisOptions {
            connections: 1,
            pace: Duration::from_millis(20),
            keys: 1000,
            ..RedisOptions::new(service(guest::REDIS))
        };
        let echo = EchoOptions { connections: 1, ..EchoOptions::new(service(pattern::ECHO_PORT)) };
        lab.in_netns(|| -> Result<()> {
            self.running.push((Part::Late, Client::Redis(RedisClients::start(&redis)?)));
            self.running.push((Part::Late, Client::Other(echo::start(&echo)?)));
            Ok(())
        })?
    }

    /// Stops what [`Self::add_rest`] has added and reads its writes back. Its connections end here, and none is expected to
    /// go on later.
    ///
    /// # Errors
    /// The values cannot be read back.
    pub fn stop_rest(&mut self, lab: &Lab) -> Result<()> {
        let (rest, others) = std::mem::take(&mut self.running).into_iter().partition(|c| c.0 == Part::Rest);
        self.running = others;
        let mut outcomes = lab.in_netns(|| stop(rest))??;
        outcomes.iter_mut().for_each(|outcome| outcome.connections = 0);
        self.ended.append(&mut outcomes);
        Ok(())
    }

    /// How it goes.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshots().into_iter().fold(Snapshot::default(), |sum, (_, one)| sum + one)
    }

    /// How it goes with each client.
    #[must_use]
    pub fn snapshots(&self) -> Vec<(ClientKind, Snapshot)> {
        self.running.iter().map(|(_, c)| (c.kind(), c.progress().snapshot())).collect()
    }

    /// When Redis and the web server last replied, on the clients' clock.
    #[must_use]
    pub fn last_replies(&self) -> (u64, u64) {
        let all = self.snapshots();
        let last = |kind| all.iter().find(|one| one.0 == kind).map_or(0, |one| one.1.last_reply_ns);
        (last(ClientKind::Redis), last(ClientKind::Http))
    }

    /// Which clients have had no reply after `since_ns`, and when their last one was: of the two of [`Self::start`],
    /// and of each other client that has a connection left.
    #[must_use]
    pub fn silent(&self, since_ns: u64) -> Vec<(ClientKind, u64)> {
        let last = |c: &Client| (c.kind(), c.progress().snapshot().last_reply_ns);
        let due = self.running.iter().filter(|(part, c)| *part == Part::Basic || !c.is_done());
        let due = due.map(|(_, c)| last(c));
        due.filter(|(_, last)| *last <= since_ns).collect()
    }

    /// Waits until replies come again after `since_ns` to all that [`Self::silent`] asks of.
    ///
    /// # Errors
    /// They do not.
    pub fn wait_for_replies(&self, since_ns: u64, timeout: Duration) -> Result<()> {
        wait("replies of the guest", timeout, || {
            let late = self.silent(since_ns);
            let seen = format!("asked {since_ns} ns, last replies before that: {late:?}");
            Ok((late.is_empty(), move || seen))
        })
    }

    /// Stops them without reading anything back: for a guest that is gone.
    ///
    /// # Errors
    /// A client thread has failed.
    pub fn abandon(self, lab: &Lab) -> Result<Vec<Sample>> {
        lab.in_netns(|| {
            self.running.iter().for_each(|(_, c)| c.raise_stop());
            let mut samples: Vec<Sample> = self.ended.into_iter().flat_map(|o| o.samples).collect();
            for (_, client) in self.running {
                match client {
                    Client::Redis(client) => samples.append(&mut client.stop()?.abandon()),
                    Client::Other(client) => samples.append(&mut client.stop()?.samples),
                }
            }
            Ok(samples)
        })?
    }

    /// Stops them and reads every acknowledged write back.
    ///
    /// # Errors
    /// The values cannot be read back.
    pub fn stop(self, lab: &Lab) -> Result<Vec<Outcome>> {
        let mut outcomes = self.ended;
        outcomes.append(&mut lab.in_netns(|| stop(self.running))??);
        Ok(outcomes)
    }
}

/// All are told to stop at once, so that none works on while another drains.
fn stop(clients: Vec<(Part, Client)>) -> Result<Vec<Outcome>> {
    clients.iter().for_each(|(_, c)| c.raise_stop());
    let (mut outcomes, mut writers) = (Vec::new(), Vec::new());
    for (part, client) in clients {
        let first = if part == Part::Late { LATE } else { 0 };
        match client {
            Client::Redis(client) => writers.push((first, client.stop()?)),
            Client::Other(client) => outcomes.push(client.stop()?.numbered_from(first)),
        }
    }
    // What is read back loads the guest: only when nobody is waited for any more.
    for (first, writer) in writers {
        outcomes.push(writer.verify()?.numbered_from(first));
    }
    Ok(outcomes)
}

fn index() -> Digest {
    Digest::of(lab::image::INDEX_HTML.as_bytes())
}
