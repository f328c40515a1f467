//! The typist: single keystrokes on long-lived connections, as over SSH, each timed until its echo.
//!
//! It types on while echoes stay away, as people do, so an outage delays every keystroke that falls into it.
//! Keystrokes are numbered, which tells one that was skipped from one that came twice.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use super::{
    Cause, ClientError, ClientKind, Limits, Running, Setup,
    conn::Conn,
    now_ns,
    pool::{Crew, Watch},
    running::Worker,
};

/// The most keystrokes without an echo; then it waits.
pub const MAX_OPEN: usize = 2048;
/// Keystrokes are numbered modulo this, a prime, so that no power of two goes unnoticed.
const NUMBERS: u64 = 251;

/// What the typist does.
#[derive(Debug, Clone)]
pub struct EchoOptions {
    /// The server.
    pub addr: SocketAddr,
    /// Connections, each a thread.
    pub connections: u16,
    /// From one keystroke to the next.
    pub pace: Duration,
    /// Bounds.
    pub limits: Limits,
    /// Run first by each thread.
    pub setup: Setup,
}

impl EchoOptions {
    /// Two connections, a keystroke each 50 ms.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            connections: 2,
            pace: Duration::from_millis(50),
            limits: Limits::default(),
            setup: Setup::default(),
        }
    }
}

/// Connects all and starts typing.
///
/// # Errors
/// [`ClientError`] if a connection or thread cannot be started; none is left running then.
pub fn start(options: &EchoOptions) -> Result<Running, ClientError> {
    if options.connections == 0 {
        return Err(ClientError::Options("at least one connection"));
    }
    let kind = ClientKind::Echo;
    let crew = Crew::new(kind, options.addr, options.connections, options.limits, &options.setup);
    let pace = options.pace;
    Running::start(crew, move |worker, crew, conn| {
        Typist { worker, open: VecDeque::new(), typed: 0 }.work(conn, crew, pace)
    })
}

/// A keystroke without its echo.
#[derive(Debug, Clone, Copy)]
struct Open {
    key: u8,
    sent_ns: u64,
}

struct Typist<'a> {
    worker: &'a mut Worker,
    open: VecDeque<Open>,
    typed: u64,
}

impl Typist<'_> {
    fn work(&mut self, mut conn: Conn, crew: &Crew, pace: Duration) -> Result<(), Cause> {
        let mut watch = Watch::new(crew);
        let pace_ns = u64::try_from(pace.as_nanos()).unwrap_or(u64::MAX);
        let mut due_ns = now_ns();
        loop {
            let full = self.worker.is_full(self.open.len(), &crew.limits);
            let ending = watch.is_ending() || full;
            if ending && self.open.is_empty() {
                return Ok(());
            }
            let now = now_ns();
            let may_type = !ending && self.open.len() < MAX_OPEN;
            if may_type && now >= due_ns {
                let key = u8::try_from(self.typed % NUMBERS).unwrap_or(0);
                self.typed += 1;
                self.open.push_back(Open { key, sent_ns: now });
                conn.send(&[key])?;
                due_ns = now.saturating_add(pace_ns);
            }
            let wait = if may_type { due_ns.saturating_sub(now_ns()) } else { u64::MAX };
            if conn.wait(Duration::from_nanos(wait))? {
                conn.fill()?;
                self.take(&mut conn);
            }
            if let Some(oldest) = self.open.front() {
                watch.overdue(oldest.sent_ns)?;
            }
        }
    }

    fn take(&mut self, conn: &mut Conn) {
        let keys = conn.data().to_vec();
        conn.consume(keys.len());
        keys.into_iter().for_each(|key| self.echoed(key));
    }

    /// Finds the keystroke of an echo: the oldest, or else those before it were skipped.
    fn echoed(&mut self, key: u8) {
        match self.open.iter().position(|open| open.key == key) {
            Some(skipped) => {
                if skipped > 0 {
                    self.worker.wrong(skipped as u64, &format!("{skipped} keystrokes skipped before {key}"));
                }
                if let Some(open) = self.open.drain(..=skipped).next_back() {
                    self.worker.reply(open.sent_ns, true);
                }
            }
            None => self.worker.wrong(1, &format!("an echo {key} of no open keystroke")),
        }
    }
}
