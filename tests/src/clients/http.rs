//! The web client: GETs in a row on several connections, each body checked by length and digest.
//!
//! On keep-alive connections the server may announce the end of one (`Connection: close`; nginx does so
//! after `keepalive_requests`). That is orderly: the connection is replaced and counted as renewed. Set the
//! server's limit high enough that it does not happen in a run.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use xxhash_rust::xxh3::Xxh3;

use super::{
    Broken, Cause, ClientError, ClientKind, Limits, Outcome, Progress, Sample, Setup, Stop,
    conn::Conn,
    now_ns,
    pool::{Crew, Crewed, Watch},
};

/// The longest response header accepted.
const MAX_HEAD: usize = 16 * 1024;

/// Length and XXH3-64 digest of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// Bytes.
    pub len: u64,
    /// XXH3-64 of them.
    pub xxh3: u64,
}

impl Digest {
    /// Of bytes at hand.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { len: bytes.len() as u64, xxh3: xxhash_rust::xxh3::xxh3_64(bytes) }
    }
}

/// What the web client does.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// The server.
    pub addr: SocketAddr,
    /// The path to get, beginning with a slash.
    pub path: String,
    /// What each body must be.
    pub expect: Digest,
    /// Connections, each a thread.
    pub connections: u16,
    /// Pause between a response and the next request.
    pub pace: Duration,
    /// False: a new connection for each request.
    pub keep_alive: bool,
    /// The largest body read.
    pub max_body: u64,
    /// Bounds.
    pub limits: Limits,
    /// Run first by each thread.
    pub setup: Setup,
}

impl HttpOptions {
    /// Two keep-alive connections, a request each 5 ms, bodies up to 1 MiB.
    #[must_use]
    pub fn new(addr: SocketAddr, path: impl Into<String>, expect: Digest) -> Self {
        Self {
            addr,
            path: path.into(),
            expect,
            connections: 2,
            pace: Duration::from_millis(5),
            keep_alive: true,
            max_body: 1 << 20,
            limits: Limits::default(),
            setup: Setup::default(),
        }
    }
}

/// The running web client. Dropping it stops its threads without waiting for them.
#[derive(Debug)]
pub struct HttpClients {
    crew: Crew,
    crewed: Option<Crewed<Outcome>>,
    progress: Arc<Progress>,
}

impl HttpClients {
    /// Connects all and starts asking.
    ///
    /// # Errors
    /// [`ClientError`] if a connection or thread cannot be started; none is left running then.
    pub fn start(options: &HttpOptions) -> Result<Self, ClientError> {
        if options.connections == 0 {
            return Err(ClientError::Options("at least one connection"));
        }
        if !options.path.starts_with('/') || options.path.contains(|c: char| c.is_ascii_control() || c == ' ')
        {
            return Err(ClientError::Options(
                "a path begins with a slash and has neither blanks nor controls",
            ));
        }
        let crew = Crew {
            kind: ClientKind::Http,
            addr: options.addr,
            connections: options.connections,
            limits: options.limits,
            setup: options.setup.clone(),
            stop: Stop::default(),
        };
        let progress = Arc::new(Progress::default());
        let (options, shared, work_crew) = (options.clone(), Arc::clone(&progress), crew.clone());
        let crewed = crew.start(move |connection, conn| {
            let mut worker = Worker {
                outcome: Outcome::new(ClientKind::Http, options.connections),
                progress: Arc::clone(&shared),
                connection,
            };
            worker.run(conn, &options, &work_crew);
            worker.outcome
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

    /// Asks no more, waits for outstanding responses (at most [`Limits::drain`]).
    ///
    /// # Errors
    /// [`ClientError::Panicked`].
    pub fn stop(mut self) -> Result<Outcome, ClientError> {
        self.crew.stop.raise();
        let mut all = Outcome::new(ClientKind::Http, self.crew.connections);
        let ended = self.crewed.take().map_or_else(|| Ok(Vec::new()), Crewed::join)?;
        ended.into_iter().for_each(|one| all.merge(one));
        Ok(all)
    }
}

impl Drop for HttpClients {
    fn drop(&mut self) {
        self.crew.stop.raise();
    }
}

struct Worker {
    outcome: Outcome,
    progress: Arc<Progress>,
    connection: u16,
}

impl Worker {
    fn run(&mut self, conn: Conn, options: &HttpOptions, crew: &Crew) {
        if let Err(cause) = self.work(conn, options, crew) {
            self.progress.broke();
            let broken =
                Broken { kind: ClientKind::Http, connection: self.connection, t_ns: now_ns(), cause };
            self.outcome.find(broken.to_string());
            self.outcome.broken.push(broken);
        }
    }

    fn work(&mut self, conn: Conn, options: &HttpOptions, crew: &Crew) -> Result<(), Cause> {
        let mut watch = Watch::new(crew);
        let request = request(&options.path, options.addr, options.keep_alive);
        let mut conn = Some(conn);
        while !watch.is_ending() {
            if self.outcome.samples.len() >= options.limits.samples {
                self.outcome.find(format!(
                    "http connection {} ended early: its {} samples are used up",
                    self.connection, options.limits.samples
                ));
                break;
            }
            // The time to connect is part of what the user of a new connection waits for.
            let sent_ns = now_ns();
            let mut link = match conn.take() {
                Some(link) => link,
                None => match crew.open() {
                    Err(_) if crew.stop.is_raised() => break,
                    opened => opened?,
                },
            };
            link.send(request.as_bytes())?;
            let overdue = |watch: &mut Watch| watch.overdue(sent_ns);
            let response = receive(&mut link, &mut watch, options.max_body, overdue, |_, _| {})?;
            self.settle(&response, sent_ns, &options.expect);
            if options.keep_alive && !response.close {
                conn = Some(link);
            } else if options.keep_alive {
                self.outcome.renewed += 1;
            }
            crew.stop.sleep(options.pace);
        }
        Ok(())
    }

    fn settle(&mut self, response: &Response, sent_ns: u64, expect: &Digest) {
        let t_ns = now_ns();
        let ok = response.status == 200;
        let sample = Sample {
            t_ns,
            latency_ns: t_ns.saturating_sub(sent_ns),
            ok,
            kind: ClientKind::Http,
            connection: self.connection,
        };
        self.progress.reply(&sample);
        self.outcome.samples.push(sample);
        if !ok {
            self.outcome.errors += 1;
            self.outcome.find(format!("http connection {}: status {}", self.connection, response.status));
        } else if response.digest != *expect {
            self.outcome.wrong_values += 1;
            self.progress.suspect(1);
            self.outcome.find(format!(
                "http connection {}: body of {} bytes with digest {:016x}, expected {} and {:016x}",
                self.connection, response.digest.len, response.digest.xxh3, expect.len, expect.xxh3
            ));
        }
    }
}

pub(super) fn request(path: &str, addr: SocketAddr, keep_alive: bool) -> String {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nAccept: */*\r\nConnection: {connection}\r\n\r\n")
}

/// A whole response; the body is digested, not kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) digest: Digest,
    /// The server will close the connection.
    pub(super) close: bool,
}

/// Receives one response. `overdue` is asked at each wait, `progress` told of each piece (bytes so far, all).
pub(super) fn receive(
    conn: &mut Conn,
    watch: &mut Watch,
    max_body: u64,
    overdue: impl Fn(&mut Watch) -> Result<(), Cause>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Response, Cause> {
    let head = loop {
        if let Some(head) = Head::parse(conn.data()).map_err(|e| Cause::Protocol(e.into()))? {
            break head;
        }
        conn.fill()?;
        overdue(watch)?;
    };
    if head.body > max_body {
        return Err(Cause::Protocol(format!("body of {} bytes, at most {max_body} wanted", head.body)));
    }
    conn.consume(head.len);
    let mut hasher = Xxh3::new();
    let mut got = 0u64;
    while got < head.body {
        let data = conn.data();
        if data.is_empty() {
            conn.fill()?;
            overdue(watch)?;
            continue;
        }
        let left = usize::try_from(head.body - got).unwrap_or(usize::MAX);
        let piece = &data[..data.len().min(left)];
        hasher.update(piece);
        let n = piece.len();
        conn.consume(n);
        got += n as u64;
        progress(got, head.body);
    }
    Ok(Response {
        status: head.status,
        digest: Digest { len: got, xxh3: hasher.digest() },
        close: head.close,
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Of the head itself.
    len: usize,
    body: u64,
    close: bool,
}

impl Head {
    /// Parses a response head; `None` if it is not whole yet.
    fn parse(data: &[u8]) -> Result<Option<Self>, &'static str> {
        let window = data.get(..data.len().min(MAX_HEAD)).unwrap_or_default();
        let Some(end) = window.windows(4).position(|w| w == b"\r\n\r\n") else {
            return if data.len() >= MAX_HEAD { Err("response header too long") } else { Ok(None) };
        };
        let text = std::str::from_utf8(&window[..end]).map_err(|_| "response header is not text")?;
        let mut lines = text.split("\r\n");
        let status =
            lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).ok_or("not an HTTP/1.1 response")?;
        let status = status.get(..3).and_then(|code| code.parse().ok()).ok_or("bad status code")?;
        let (mut body, mut close) = (None, false);
        for line in lines {
            let (name, value) = line.split_once(':').ok_or("header line without a colon")?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                let length: u64 = value.parse().map_err(|_| "bad Content-Length")?;
                if body.is_some_and(|other| other != length) {
                    return Err("two Content-Lengths");
                }
                body = Some(length);
            } else if name.eq_ignore_ascii_case("connection") {
                close = value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err("transfer encodings are not supported: serve a static file");
            }
        }
        let body = body.ok_or("no Content-Length: serve a static file")?;
        Ok(Some(Self { status, len: end + 4, body, close }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_parsed_whole_only() {
        let wire = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 12\r\nConnection: Close\r\n\r\nbody";
        let whole = Head { status: 200, len: wire.len() - 4, body: 12, close: true };
        for cut in 0..whole.len {
            assert_eq!(Head::parse(&wire[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(Head::parse(wire), Ok(Some(whole)));
    }

    #[test]
    fn bad_heads_are_refused() {
        for (wire, reason) in [
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", "not an HTTP/1.1 response"),
            ("HTTP/1.1 2x0 OK\r\n\r\n", "bad status code"),
            ("HTTP/1.1 200 OK\r\n\r\n", "no Content-Length: serve a static file"),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "bad Content-Length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "two Content-Lengths"),
            ("HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "header line without a colon"),
        ] {
            assert_eq!(Head::parse(wire.as_bytes()), Err(reason), "{wire}");
        }
        assert_eq!(Head::parse(&[b'x'; MAX_HEAD]), Err("response header too long"));
    }
}
