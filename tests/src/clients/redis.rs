//! The Redis writer: numbered writes on several connections, each acknowledged one remembered and, at the
//! end, read back.
//!
//! The server should keep its data in memory only; nothing here depends on persistence. Errors such as
//! `-OOM` are counted and their writes count as not acknowledged.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, thread, time::Duration};

use super::{
    Broken, Cause, ClientError, ClientKind, Limits, Outcome, Progress, Sample, Setup, Stop,
    conn::Conn,
    ledger::{Judgement, Ledger},
    now_ns,
    pool::{Crew, Crewed, Watch},
    resp::{self, Reply},
};

/// The most commands that may be outstanding on a connection.
pub const MAX_DEPTH: usize = 256;
/// Keys read back by one command.
const BATCH: usize = 64;

/// What the writer does.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// The server.
    pub addr: SocketAddr,
    /// Connections, each a thread.
    pub connections: u16,
    /// Commands outstanding on a connection: 1, or more to pipeline (at most [`MAX_DEPTH`]).
    pub depth: usize,
    /// Pause with nothing outstanding before the next command. Zero: none, the pipeline is kept full;
    /// otherwise it is filled in bursts.
    pub pace: Duration,
    /// Bytes of a value, about.
    pub value_len: usize,
    /// Keys of a connection; more writes than that overwrite the oldest.
    pub keys: u32,
    /// After so many writes one value is read back and checked (0: only at the end).
    pub read_back_every: u64,
    /// Every second write increments the connection's counter.
    pub increments: bool,
    /// Bounds.
    pub limits: Limits,
    /// Run first by each thread.
    pub setup: Setup,
}

impl RedisOptions {
    /// Four connections, one command at a time, 2 ms apart, half of them increments, each 16th read back.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            connections: 4,
            depth: 1,
            pace: Duration::from_millis(2),
            value_len: 64,
            keys: 20_000,
            read_back_every: 16,
            increments: true,
            limits: Limits::default(),
            setup: Setup::default(),
        }
    }
}

impl RedisOptions {
    /// How its samples are called: pipelined ones apart, since theirs wait for each other.
    #[must_use]
    pub fn kind(&self) -> ClientKind {
        if self.depth > 1 { ClientKind::RedisPipelined } else { ClientKind::Redis }
    }
}

/// The running writer. Dropping it stops its threads without waiting for them.
#[derive(Debug)]
pub struct RedisClients {
    crew: Crew,
    crewed: Option<Crewed<Worker>>,
    progress: Arc<Progress>,
}

impl RedisClients {
    /// Connects all and starts writing.
    ///
    /// # Errors
    /// [`ClientError`] if a connection or thread cannot be started; none is left running then.
    pub fn start(options: &RedisOptions) -> Result<Self, ClientError> {
        if options.connections == 0 || options.depth == 0 || options.depth > MAX_DEPTH {
            return Err(ClientError::Options("at least one connection, and a depth from 1 to 256"));
        }
        if options.value_len > resp::MAX_BULK / BATCH || options.keys == 0 {
            return Err(ClientError::Options("at least one key, and values of 16 KiB at most"));
        }
        let kind = options.kind();
        let crew = Crew::new(kind, options.addr, options.connections, options.limits, &options.setup);
        let progress = Arc::new(Progress::default());
        let run = now_ns() ^ (u64::from(std::process::id()) << 40);
        let (options, shared) = (options.clone(), Arc::clone(&progress));
        let work_crew = crew.clone();
        let crewed = crew.start(move |connection, conn| {
            let ledger = Ledger::new(run, connection, options.keys, options.value_len);
            let mut worker = Worker {
                conn: Some(conn),
                ledger,
                outcome: Outcome::new(kind, options.connections),
                progress: Arc::clone(&shared),
                connection,
                began_ns: now_ns(),
                open: VecDeque::new(),
                commands: 0,
            };
            worker.run(&options, &work_crew);
            worker
        })?;
        Ok(Self { crew, crewed: Some(crewed), progress })
    }

    /// Live counters.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Whether all connections have ended by themselves: broken, or at a limit.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.crewed.as_ref().is_none_or(Crewed::is_done)
    }

    /// Which client it is.
    #[must_use]
    pub fn kind(&self) -> ClientKind {
        self.crew.kind
    }

    /// Asks for the end without waiting for it.
    pub fn raise_stop(&self) {
        self.crew.stop.raise();
    }

    /// Sends no more, waits for outstanding replies (at most [`Limits::drain`]).
    ///
    /// # Errors
    /// [`ClientError::Panicked`].
    pub fn stop(mut self) -> Result<StoppedRedis, ClientError> {
        self.crew.stop.raise();
        let workers = self.crewed.take().map_or_else(|| Ok(Vec::new()), Crewed::join)?;
        Ok(StoppedRedis { crew: self.crew.clone(), workers })
    }
}

impl Drop for RedisClients {
    fn drop(&mut self) {
        self.crew.stop.raise();
    }
}

/// The writer at rest: connections still open, values not yet read back.
#[derive(Debug)]
pub struct StoppedRedis {
    crew: Crew,
    workers: Vec<Worker>,
}

impl StoppedRedis {
    /// The replies, without reading anything back: for a server that is gone.
    #[must_use]
    pub fn abandon(self) -> Vec<Sample> {
        self.workers.into_iter().flat_map(|worker| worker.outcome.samples).collect()
    }

    /// Reads every value back, over the same connection where it still works and a new one where it broke,
    /// then deletes the keys.
    ///
    /// # Errors
    /// [`ClientError::Verify`] if the values cannot be read; they must not be taken for right then.
    pub fn verify(self) -> Result<Outcome, ClientError> {
        let mut crew = self.crew;
        // The old flag is raised, and would end the new connections.
        crew.stop = Stop::default();
        let kind = crew.kind;
        let mut outcome = Outcome::new(kind, crew.connections);
        let check = move |mut worker: Worker| {
            crew.setup.run().map_err(|source| ClientError::Thread { kind, source })?;
            let connection = worker.connection;
            worker.verify(&crew).map_err(|cause| ClientError::Verify {
                connection,
                addr: crew.addr,
                cause,
            })?;
            Ok(worker.outcome)
        };
        // A thread, because the hook changes the namespace of the thread it runs in.
        let workers = self.workers;
        let checking = thread::Builder::new()
            .name("redis-verify".into())
            .spawn(move || workers.into_iter().map(check).collect::<Result<Vec<_>, _>>());
        let checked = checking
            .map_err(|source| ClientError::Thread { kind, source })?
            .join()
            .map_err(|_| ClientError::Panicked(kind))??;
        checked.into_iter().for_each(|one| outcome.merge(one));
        Ok(outcome)
    }
}

/// A command without its reply yet.
#[derive(Debug, Clone, Copy)]
struct Open {
    sent_ns: u64,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Set(u64),
    Increment,
    /// A slot, and the newest write sent to it before this read.
    Get(usize, u64),
}

/// One connection's thread.
#[derive(Debug)]
struct Worker {
    conn: Option<Conn>,
    ledger: Ledger,
    outcome: Outcome,
    progress: Arc<Progress>,
    connection: u16,
    began_ns: u64,
    open: VecDeque<Open>,
    commands: u64,
}

impl Worker {
    fn run(&mut self, options: &RedisOptions, crew: &Crew) {
        let Some(mut conn) = self.conn.take() else { return };
        match self.work(&mut conn, options, crew) {
            Ok(()) => self.conn = Some(conn),
            Err(cause) => {
                self.progress.broke();
                let kind = self.outcome.kind;
                let broken = Broken { kind, connection: self.connection, t_ns: now_ns(), cause };
                self.outcome.find(broken.to_string());
                self.outcome.broken.push(broken);
            }
        }
    }

    fn work(&mut self, conn: &mut Conn, options: &RedisOptions, crew: &Crew) -> Result<(), Cause> {
        let mut watch = Watch::new(crew);
        let mut out = Vec::new();
        loop {
            let full = self.outcome.samples.len() + self.open.len() >= options.limits.samples;
            let ending = full || watch.is_ending();
            if ending && self.open.is_empty() {
                if full {
                    self.outcome.find(format!(
                        "{} connection {} ended early: its {} samples are used up",
                        self.outcome.kind, self.connection, options.limits.samples
                    ));
                }
                return Ok(());
            }
            out.clear();
            // While it sleeps it cannot see a reply come: only with nothing outstanding.
            let may_send = !ending && (self.open.is_empty() || options.pace.is_zero());
            while may_send && self.open.len() < options.depth {
                self.next(&mut out, options);
            }
            if !out.is_empty() {
                conn.send(&out)?;
            }
            self.receive(conn, &mut watch)?;
            if self.open.is_empty() {
                crew.stop.sleep(options.pace);
            }
        }
    }

    /// Encodes the next command.
    fn next(&mut self, out: &mut Vec<u8>, options: &RedisOptions) {
        self.commands += 1;
        let every = options.read_back_every;
        let what = if every > 0 && self.commands.is_multiple_of(every + 1) {
            // One picked from all over those written; it need not be random, only spread out.
            let written = self.ledger.written().max(1);
            let pick = self.commands.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let slot = usize::try_from(pick).unwrap_or(0) % written;
            resp::command(out, &[b"GET", self.ledger.key(slot).as_bytes()]);
            What::Get(slot, self.ledger.slots()[slot].sent)
        } else if options.increments && self.commands.is_multiple_of(2) {
            self.ledger.send_increment();
            resp::command(out, &[b"INCR", self.ledger.counter_key().as_bytes()]);
            What::Increment
        } else {
            let n = self.ledger.send();
            let key = self.ledger.key(self.ledger.slot_of(n));
            resp::command(out, &[b"SET", key.as_bytes(), &self.ledger.value(n)]);
            What::Set(n)
        };
        self.open.push_back(Open { sent_ns: now_ns(), what });
    }

    /// Waits for one reply and takes all that came with it.
    fn receive(&mut self, conn: &mut Conn, watch: &mut Watch) -> Result<(), Cause> {
        let mut got = false;
        while let Some(&open) = self.open.front() {
            if let Some(reply) = take(conn)? {
                self.open.pop_front();
                self.settle(open, reply, now_ns())?;
                got = true;
            } else if got {
                break;
            } else {
                conn.fill()?;
                watch.overdue(open.sent_ns)?;
            }
        }
        Ok(())
    }

    /// Books a reply.
    fn settle(&mut self, open: Open, reply: Reply, t_ns: u64) -> Result<(), Cause> {
        let ok = !matches!(reply, Reply::Error(_));
        let sample = Sample {
            t_ns,
            latency_ns: t_ns.saturating_sub(open.sent_ns),
            ok,
            kind: self.outcome.kind,
            connection: self.connection,
        };
        self.progress.reply(&sample);
        self.outcome.samples.push(sample);
        let (judgement, about) = match (open.what, reply) {
            (_, Reply::Error(text)) => {
                self.outcome.errors += 1;
                let kind = self.outcome.kind;
                self.outcome.find(format!("{kind} connection {}: error reply {text}", self.connection));
                return Ok(());
            }
            (What::Set(n), Reply::Simple(text)) if text == "OK" => {
                self.ledger.acknowledge(n, open.sent_ns, t_ns);
                self.acked();
                return Ok(());
            }
            (What::Increment, Reply::Integer(value)) => {
                self.acked();
                (self.ledger.judge_increment(value), format!("INCR replied {value}"))
            }
            (What::Get(slot, newest), Reply::Bulk(found)) => {
                let about = self.describe(slot, found.as_deref());
                (self.ledger.judge(slot, newest, found.as_deref()), about)
            }
            (what, reply) => return Err(Cause::Protocol(format!("{reply:?} in reply to {what:?}"))),
        };
        self.book(judgement, &about);
        Ok(())
    }

    fn acked(&mut self) {
        self.outcome.acked_writes += 1;
        self.progress.acked();
    }

    fn book(&mut self, judgement: Judgement, about: &str) {
        let (verdict, n) = match judgement {
            Judgement::Right => return,
            Judgement::Lost(n) => {
                self.outcome.lost_acked_writes += n;
                ("lost", n)
            }
            Judgement::Wrong(n) => {
                self.outcome.wrong_values += n;
                ("wrong", n)
            }
        };
        self.progress.suspect(n);
        let kind = self.outcome.kind;
        self.outcome.find(format!("{kind} connection {}: {n} {verdict}: {about}", self.connection));
    }

    fn describe(&self, slot: usize, found: Option<&[u8]>) -> String {
        let expected = self.ledger.slots().get(slot).copied().unwrap_or_default();
        let found = found.map_or_else(|| "nothing".into(), |v| format!("{:.60}", String::from_utf8_lossy(v)));
        format!(
            "key {}: write {} sent at {:.3} s and acknowledged {:.3} ms later, found {found}",
            self.ledger.key(slot),
            expected.acked,
            expected.acked_sent_ns.saturating_sub(self.began_ns) as f64 / 1e9,
            expected.acked_ns.saturating_sub(expected.acked_sent_ns) as f64 / 1e6,
        )
    }

    /// Reads everything back, once the work is over.
    fn verify(&mut self, crew: &Crew) -> Result<(), Cause> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => crew.open()?,
        };
        let mut watch = Watch::new(crew);
        let written = self.ledger.written();
        for first in (0..written).step_by(BATCH) {
            let slots: Vec<usize> = (first..written.min(first + BATCH)).collect();
            let keys: Vec<String> = slots.iter().map(|slot| self.ledger.key(*slot)).collect();
            let values = ask_all(&mut conn, &mut watch, &keys)?;
            for (slot, found) in slots.into_iter().zip(values) {
                let newest = self.ledger.slots()[slot].sent;
                let judgement = self.ledger.judge(slot, newest, found.as_deref());
                if judgement != Judgement::Right {
                    self.book(judgement, &self.describe(slot, found.as_deref()));
                }
            }
        }
        if self.ledger.increments() > 0 {
            let found = ask_all(&mut conn, &mut watch, &[self.ledger.counter_key()])?.pop().flatten();
            let judgement = self.ledger.judge_counter(found.as_deref());
            let about =
                format!("counter read back as {:?}", found.map(|v| String::from_utf8_lossy(&v).into_owned()));
            self.book(judgement, &about);
        }
        Ok(())
    }
}

/// Reads the values of `keys` and deletes them.
fn ask_all(conn: &mut Conn, watch: &mut Watch, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, Cause> {
    let with = |name: &'static [u8]| -> Vec<&[u8]> {
        std::iter::once(name).chain(keys.iter().map(String::as_bytes)).collect()
    };
    let mut out = Vec::new();
    resp::command(&mut out, &with(b"MGET"));
    resp::command(&mut out, &with(b"DEL"));
    let sent_ns = now_ns();
    conn.send(&out)?;
    let mut next = || loop {
        if let Some(reply) = take(conn)? {
            return Ok(reply);
        }
        conn.fill()?;
        watch.overdue(sent_ns)?;
    };
    let (values, _deleted) = (next()?, next()?);
    let Reply::Array(items) = values else {
        return Err(Cause::Protocol(format!("{values:?} in reply to MGET")));
    };
    if items.len() != keys.len() {
        return Err(Cause::Protocol(format!("{} values for {} keys", items.len(), keys.len())));
    }
    let value = |item| match item {
        Reply::Bulk(value) => Ok(value),
        other => Err(Cause::Protocol(format!("{other:?} as a value"))),
    };
    items.into_iter().map(value).collect()
}

/// Takes one whole reply from what was received.
fn take(conn: &mut Conn) -> Result<Option<Reply>, Cause> {
    let parsed = resp::parse(conn.data()).map_err(|e| Cause::Protocol(e.to_string()))?;
    let Some((reply, n)) = parsed else { return Ok(None) };
    conn.consume(n);
    Ok(Some(reply))
}
