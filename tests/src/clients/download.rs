//! One big download, checked by length and digest: bulk TCP through whatever lies on the way.

use std::{net::SocketAddr, time::Duration};

use super::{
    Broken, ClientError, ClientKind, Limits, Setup, Stop,
    conn::Conn,
    http::{Digest, Response, receive, request},
    now_ns,
    pool::{Crew, Watch},
};

/// What to download.
#[derive(Debug, Clone)]
pub struct DownloadOptions {
    /// The server.
    pub addr: SocketAddr,
    /// The path to get, beginning with a slash.
    pub path: String,
    /// What the body must be.
    pub expect: Digest,
    /// Bounds: `reply` is the longest stall allowed, `run` the whole download.
    pub limits: Limits,
    /// Run before the socket is opened, in the calling thread.
    pub setup: Setup,
}

/// What came of a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Bytes and digest received; less than expected if it broke.
    pub got: Digest,
    /// Whether all bytes came, and the right ones.
    pub right: bool,
    /// From the request to the last byte.
    pub took: Duration,
    /// The longest time without a byte.
    pub longest_stall: Duration,
    /// Set if the connection did not go on.
    pub broken: Option<Broken>,
}

/// Downloads once, in the calling thread.
///
/// # Errors
/// [`ClientError`] if the connection cannot be opened. One that breaks later is in [`Download::broken`].
pub fn download(options: &DownloadOptions, stop: &Stop) -> Result<Download, ClientError> {
    let kind = ClientKind::Http;
    let crew =
        Crew { stop: stop.clone(), ..Crew::new(kind, options.addr, 1, options.limits, &options.setup) };
    crew.setup.run().map_err(|source| ClientError::Thread { kind, source })?;
    let failed = |cause| ClientError::Start { kind, connection: 0, addr: options.addr, cause };
    let mut conn = crew.open().map_err(failed)?;
    let mut seen = Seen { began_ns: now_ns(), last_ns: now_ns(), bytes: 0, stall_ns: 0 };
    let got = run(&mut conn, &crew, options, &mut seen);
    let took = Duration::from_nanos(seen.last_ns - seen.began_ns);
    let longest_stall = Duration::from_nanos(seen.stall_ns);
    Ok(match got {
        Ok(response) => {
            let right = response.status == 200 && response.digest == options.expect;
            Download { got: response.digest, right, took, longest_stall, broken: None }
        }
        Err(cause) => {
            let broken = Some(Broken { kind, connection: 0, t_ns: now_ns(), cause });
            let got = Digest { len: seen.bytes, xxh3: 0 };
            Download { got, right: false, took, longest_stall, broken }
        }
    })
}

struct Seen {
    began_ns: u64,
    last_ns: u64,
    bytes: u64,
    stall_ns: u64,
}

fn run(
    conn: &mut Conn,
    crew: &Crew,
    options: &DownloadOptions,
    seen: &mut Seen,
) -> Result<Response, super::Cause> {
    let mut watch = Watch::new(crew);
    conn.send(request(&options.path, options.addr, false).as_bytes())?;
    let last = std::cell::Cell::new(seen.last_ns);
    // Not the whole response is due within the limit, but the next bytes of it.
    let overdue = |watch: &mut Watch| watch.overdue(last.get());
    let progress = |bytes, _| {
        let now = now_ns();
        seen.stall_ns = seen.stall_ns.max(now.saturating_sub(last.get()));
        seen.bytes = bytes;
        last.set(now);
    };
    let response = receive(conn, &mut watch, options.expect.len.max(1 << 20), overdue, progress);
    seen.last_ns = last.get();
    response
}
