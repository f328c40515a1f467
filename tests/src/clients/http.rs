//! The web client: GETs in a row on several connections, each body checked by length and digest.
//!
//! On keep-alive connections the server may announce the end of one (`Connection: close`; nginx does so
//! after `keepalive_requests`). That is orderly: the connection is replaced and counted as renewed. Set the
//! server's limit high enough that it does not happen in a run.
//!
//! With a new connection for each request, one that was established and then did not answer counts as broken. One
//! that could not be opened is tried again and only counted.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use xxhash_rust::xxh3::Xxh3;

use super::{
    Cause, ClientError, ClientKind, Limits, Outcome, Progress, Running, Setup,
    conn::Conn,
    now_ns,
    pool::{Crew, Watch},
    running::Worker,
};

/// The longest response header accepted.
const MAX_HEAD: usize = 16 * 1024;
/// A worker with a new connection for each request ends when so many of them broke.
const MAX_BROKEN: usize = 8;

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

impl HttpOptions {
    /// How its samples are called.
    #[must_use]
    pub fn kind(&self) -> ClientKind {
        match (self.keep_alive, self.expect.len) {
            (false, _) => ClientKind::HttpNew,
            (true, 65_536..) => ClientKind::Http64k,
            (true, _) => ClientKind::Http,
        }
    }
}

/// The running web client. Dropping it stops its threads without waiting for them.
#[derive(Debug)]
pub struct HttpClients(Running);

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
        let crew =
            Crew::new(options.kind(), options.addr, options.connections, options.limits, &options.setup);
        let options = options.clone();
        Running::start(crew, move |worker, crew, conn| work(worker, conn, &options, crew)).map(Self)
    }

    /// Live counters.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        self.0.progress()
    }

    /// Whether all connections have ended by themselves: broken, or at a limit.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }

    /// Asks no more, waits for outstanding responses (at most [`Limits::drain`]).
    ///
    /// # Errors
    /// [`ClientError::Panicked`].
    pub fn stop(self) -> Result<Outcome, ClientError> {
        self.0.stop()
    }
}

impl From<HttpClients> for Running {
    fn from(clients: HttpClients) -> Self {
        clients.0
    }
}

fn work(worker: &mut Worker, conn: Conn, options: &HttpOptions, crew: &Crew) -> Result<(), Cause> {
    let mut watch = Watch::new(crew);
    let request = request(&options.path, options.addr, options.keep_alive);
    let mut conn = Some(conn);
    while !watch.is_ending() && !worker.is_full(0, &options.limits) {
        // The time to connect is part of what the user of a new connection waits for.
        let began_ns = now_ns();
        let Some(link) = conn.take().or_else(|| worker.reopen(crew, &mut watch)) else { break };
        match exchange(link, &request, &mut watch, options.max_body) {
            Ok((link, response)) => {
                settle(worker, &response, began_ns, &options.expect);
                if options.keep_alive && !response.close {
                    conn = Some(link);
                } else if options.keep_alive {
                    worker.outcome.renewed += 1;
                }
            }
            // The next connection is another one, and what comes of it is of interest too.
            Err(cause) if !options.keep_alive && worker.outcome.broken.len() + 1 < MAX_BROKEN => {
                worker.broke(cause);
            }
            Err(cause) => return Err(cause),
        }
        crew.stop.sleep(options.pace);
    }
    Ok(())
}

/// One request and its response.
fn exchange(
    mut link: Conn,
    request: &str,
    watch: &mut Watch,
    max_body: u64,
) -> Result<(Conn, Response), Cause> {
    let sent_ns = now_ns();
    link.send(request.as_bytes())?;
    let response = receive(&mut link, watch, max_body, |watch| watch.overdue(sent_ns), |_, _| {})?;
    Ok((link, response))
}

fn settle(worker: &mut Worker, response: &Response, began_ns: u64, expect: &Digest) {
    let ok = response.status == 200;
    worker.reply(began_ns, ok);
    if !ok {
        worker.outcome.errors += 1;
        worker.find(&format!("status {}", response.status));
    } else if response.digest != *expect {
        let about = format!(
            "body of {} bytes with digest {:016x}, expected {} and {:016x}",
            response.digest.len, response.digest.xxh3, expect.len, expect.xxh3
        );
        worker.wrong(1, &about);
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
    let head = receive_head(conn, watch, &overdue)?;
    if head.body > max_body {
        return Err(Cause::Protocol(format!("body of {} bytes, at most {max_body} wanted", head.body)));
    }
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

/// Receives and consumes the head of a response.
pub(super) fn receive_head(
    conn: &mut Conn,
    watch: &mut Watch,
    overdue: &impl Fn(&mut Watch) -> Result<(), Cause>,
) -> Result<Head, Cause> {
    loop {
        if let Some(head) = Head::parse(conn.data()).map_err(|e| Cause::Protocol(e.into()))? {
            conn.consume(head.len);
            return Ok(head);
        }
        conn.fill()?;
        overdue(watch)?;
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Of the head itself.
    len: usize,
    /// Of the body that follows.
    pub(super) body: u64,
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
