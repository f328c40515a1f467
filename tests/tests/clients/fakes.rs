//! Small servers on loopback that do one thing wrong, at a moment of the test's choosing.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use llm_tests::clients::resp::{self, Reply};
use rustix::net::sockopt::set_socket_linger;

/// What the Redis server does wrong; numbers count commands over all connections, from 1.
#[derive(Debug, Clone, Copy)]
pub(super) enum RedisFault {
    None,
    /// Acknowledges the first SET from here on without doing it.
    LoseSet(u64),
    /// Stores one byte of the first SET from here on wrongly.
    Damage(u64),
    /// Executes the first INCR from here on twice.
    DoubleIncrement(u64),
    /// Refuses the first SET from here on.
    Refuse(u64),
    /// At command `from`, goes back to the state after command `to`.
    Rollback {
        from: u64,
        to: u64,
    },
    /// Resets the connection, the command done but not answered.
    Reset(u64),
    /// Ends the stream likewise.
    Close(u64),
    /// Never answers this connection again.
    Stall(u64),
    /// Answers with bytes of another protocol.
    Garbage(u64),
    /// Answers late, once.
    Pause(u64, Duration),
    /// Resets this connection and all later ones.
    Vanish(u64),
}

/// What the web server does wrong; numbers count requests over all connections, from 1.
#[derive(Debug, Clone, Copy)]
pub(super) enum HttpFault {
    None,
    /// One byte of the body is wrong.
    Damage(u64),
    Status500(u64),
    /// Half the body, then the end of the stream.
    Truncate(u64),
    Reset(u64),
    /// Half the body, then nothing.
    Stall(u64),
    /// `Connection: close`, and does it.
    AnnouncedClose(u64),
    /// Every response in pieces of a few bytes.
    Dribble,
}

pub(super) fn serve(each: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_nodelay(true).unwrap();
            let each = each.clone();
            thread::spawn(move || each(stream));
        }
    });
    addr
}

pub(super) fn reset(stream: &TcpStream) {
    set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}

/// Waits for the peer to give up.
pub(super) fn stall(mut stream: TcpStream) {
    let mut sink = [0; 4096];
    while stream.read(&mut sink).is_ok_and(|n| n > 0) {}
}

type Store = HashMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
struct Redis {
    /// Commands so far, the data, and the data as it was at a rollback's aim.
    state: Mutex<(u64, Store, Option<Store>)>,
    fired: AtomicBool,
}

/// Starts a server with one fault; it lives as long as the test's process.
pub(super) fn fake_redis(fault: RedisFault) -> SocketAddr {
    let redis = Arc::new(Redis::default());
    serve(move |stream| redis.serve(stream, fault))
}

impl Redis {
    fn serve(&self, mut stream: TcpStream, fault: RedisFault) {
        let mut data = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let Some((command, n)) = resp::parse(&data).unwrap() else {
                match stream.read(&mut chunk) {
                    Ok(n @ 1..) => data.extend_from_slice(&chunk[..n]),
                    _ => return,
                }
                continue;
            };
            data.drain(..n);
            let Reply::Array(items) = command else { panic!("not a command: {command:?}") };
            let args: Vec<Vec<u8>> = items
                .into_iter()
                .map(|item| if let Reply::Bulk(Some(arg)) = item { arg } else { panic!("{item:?}") })
                .collect();
            let (number, reply) = self.execute(&args, fault);
            match fault {
                RedisFault::Vanish(at) if number >= at => return reset(&stream),
                RedisFault::Reset(at) if self.once(number >= at) => return reset(&stream),
                RedisFault::Close(at) if self.once(number >= at) => {
                    // Reading on keeps the kernel from sending a reset for what is unread.
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                    return stall(stream);
                }
                RedisFault::Stall(at) if self.once(number >= at) => return stall(stream),
                RedisFault::Pause(at, time) if self.once(number >= at) => {
                    // The lock stops the other connections as well, as a dead host would.
                    let _held = self.state.lock().unwrap();
                    thread::sleep(time);
                }
                _ => {}
            }
            let garbage = matches!(fault, RedisFault::Garbage(at) if self.once(number >= at));
            let bytes = if garbage { b"HTTP/1.1 400 Bad Request\r\n" } else { reply.as_slice() };
            if stream.write_all(bytes).is_err() {
                return;
            }
        }
    }

    fn once(&self, now: bool) -> bool {
        now && !self.fired.swap(true, Ordering::Relaxed)
    }

    fn execute(&self, args: &[Vec<u8>], fault: RedisFault) -> (u64, Vec<u8>) {
        let mut state = self.state.lock().unwrap();
        let (count, store, kept) = &mut *state;
        *count += 1;
        let number = *count;
        if let RedisFault::Rollback { from, to } = fault {
            if number == to + 1 {
                *kept = Some(store.clone());
            }
            if number == from {
                *store = kept.take().unwrap();
            }
        }
        let bulk = |value: Option<&Vec<u8>>| match value {
            None => b"$-1\r\n".to_vec(),
            Some(v) => [format!("${}\r\n", v.len()).as_bytes(), v, b"\r\n"].concat(),
        };
        let reply = match args[0].as_slice() {
            b"SET" => {
                let mut value = args[2].clone();
                match fault {
                    RedisFault::Refuse(at) if self.once(number >= at) => {
                        return (number, b"-OOM command not allowed\r\n".to_vec());
                    }
                    RedisFault::LoseSet(at) if self.once(number >= at) => {}
                    fault => {
                        if matches!(fault, RedisFault::Damage(at) if self.once(number >= at)) {
                            *value.last_mut().unwrap() ^= 1;
                        }
                        store.insert(args[1].clone(), value);
                    }
                }
                b"+OK\r\n".to_vec()
            }
            b"INCR" => {
                let old = store.get(&args[1]).map_or(0, |v| String::from_utf8_lossy(v).parse().unwrap());
                let twice = matches!(fault, RedisFault::DoubleIncrement(at) if self.once(number >= at));
                let new: i64 = old + 1 + i64::from(twice);
                store.insert(args[1].clone(), new.to_string().into_bytes());
                format!(":{new}\r\n").into_bytes()
            }
            b"GET" => bulk(store.get(&args[1])),
            b"MGET" => {
                let values = args[1..].iter().flat_map(|key| bulk(store.get(key)));
                format!("*{}\r\n", args.len() - 1).into_bytes().into_iter().chain(values).collect()
            }
            b"DEL" => {
                let gone = args[1..].iter().filter(|key| store.remove(*key).is_some()).count();
                format!(":{gone}\r\n").into_bytes()
            }
            other => panic!("unexpected command {}", String::from_utf8_lossy(other)),
        };
        (number, reply)
    }
}

/// Starts a web server with one fault that has `body` at every path.
pub(super) fn fake_http(body: &'static [u8], fault: HttpFault) -> SocketAddr {
    let count = Arc::new(AtomicU64::new(0));
    serve(move |stream| {
        // An error means that the client went away.
        let _ = serve_http(stream, body, fault, &count);
    })
}

fn serve_http(
    mut stream: TcpStream,
    body: &[u8],
    fault: HttpFault,
    count: &AtomicU64,
) -> std::io::Result<()> {
    let mut data = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let Some(end) = data.windows(4).position(|w| w == b"\r\n\r\n") else {
            let n = stream.read(&mut chunk)?;
            if n == 0 {
                return Ok(());
            }
            data.extend_from_slice(&chunk[..n]);
            continue;
        };
        let request: Vec<u8> = data.drain(..end + 4).collect();
        let asked_to_close = String::from_utf8_lossy(&request).contains("Connection: close");
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut body = body.to_vec();
        let (mut status, mut close) = ("200 OK", asked_to_close);
        match fault {
            HttpFault::Damage(at) if at == number => *body.last_mut().unwrap() ^= 1,
            HttpFault::Status500(at) if at == number => status = "500 Internal Server Error",
            HttpFault::AnnouncedClose(at) if at == number => close = true,
            HttpFault::Reset(at) if at <= number => {
                reset(&stream);
                return Ok(());
            }
            _ => {}
        }
        let connection = if close { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        );
        let whole = [head.as_bytes(), &body].concat();
        let half = head.len() + body.len() / 2;
        match fault {
            HttpFault::Truncate(at) if at <= number => return stream.write_all(&whole[..half]),
            HttpFault::Stall(at) if at <= number => {
                stream.write_all(&whole[..half])?;
                stall(stream);
                return Ok(());
            }
            HttpFault::Dribble => {
                for piece in whole.chunks(17) {
                    stream.write_all(piece)?;
                    thread::sleep(Duration::from_micros(200));
                }
            }
            _ => stream.write_all(&whole)?,
        }
        if close {
            return Ok(());
        }
    }
}
