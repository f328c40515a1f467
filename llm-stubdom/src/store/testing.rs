//! A xenstored for tests, in the same thread.

use super::{HEADER, Header, Kind, Line};
use crate::abi::store_ring::{REQ, REQ_CONS, REQ_PROD, RSP, RSP_CONS, RSP_PROD};
use crate::random::Random;
use crate::shared::ByteRing;
use crate::shared::testing::TestPage;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::format;
use std::rc::Rc;
use std::string::String;
use std::vec::Vec;

/// Takes what is in the request ring in small pieces, and has replies to give.
pub(crate) struct Daemon {
    requests: ByteRing,
    replies: ByteRing,
    input: Vec<u8>,
    answer: fn(&mut Self, Header, &[u8]),
    watches: Vec<(String, String)>,
    pub(crate) page: TestPage,
    pub(crate) output: Vec<u8>,
    pub(crate) nodes: BTreeMap<String, Vec<u8>>,
    pub(crate) random: Random,
}

impl Daemon {
    pub(crate) fn new(page: TestPage, seed: u64, answer: fn(&mut Self, Header, &[u8])) -> Self {
        Self {
            requests: ByteRing::new(&page, REQ, REQ_CONS, REQ_PROD),
            replies: ByteRing::new(&page, RSP, RSP_PROD, RSP_CONS),
            page,
            input: Vec::new(),
            output: Vec::new(),
            nodes: BTreeMap::new(),
            watches: Vec::new(),
            random: Random::new(seed),
            answer,
        }
    }

    pub(crate) fn reply(&mut self, header: Header, payload: &[u8]) {
        self.output.extend(Header { len: payload.len() as u32, ..header }.to_bytes());
        self.output.extend_from_slice(payload);
    }

    pub(crate) fn event(&mut self, path: &str, token: &str) {
        let header = Header { kind: Kind::WATCH_EVENT, id: 0, transaction: 0, len: 0 };
        self.reply(header, format!("{path}\0{token}\0").as_bytes());
    }

    /// Sets a node, as any domain may do it, and tells those who watch.
    pub(crate) fn put(&mut self, path: &str, value: &[u8]) {
        self.nodes.insert(path.into(), value.to_vec());
        for (watched, token) in self.watches.clone() {
            if path.starts_with(&watched) {
                self.event(path, &token);
            }
        }
    }

    /// A bit of progress; false if there was none.
    pub(crate) fn step(&mut self) -> bool {
        let mut piece = [0; 40];
        let (piece, _) = piece.split_at_mut(1 + self.random.below(39) as usize);
        let got = self.requests.read(&self.page, piece).unwrap();
        self.input.extend_from_slice(&piece[..got]);
        let header = self.input.first_chunk().map(|bytes| Header::from_bytes(*bytes));
        if let Some(header) = header.filter(|header| self.input.len() >= HEADER + header.len as usize) {
            let rest = self.input.split_off(HEADER + header.len as usize);
            let message = std::mem::replace(&mut self.input, rest);
            (self.answer)(self, header, &message[HEADER..]);
        }
        let count = self.output.len().min(1 + self.random.below(39) as usize);
        let put = self.replies.write(&self.page, &self.output[..count]).unwrap();
        self.output.drain(..put);
        got > 0 || put > 0
    }
}

/// An honest xenstored. Transactions are carried out as they come, and every fifth is said to have failed.
pub(crate) fn honest(daemon: &mut Daemon, header: Header, payload: &[u8]) {
    let mut parts = payload.splitn(2, |byte| *byte == 0);
    let path = String::from_utf8(parts.next().unwrap().to_vec()).unwrap();
    let value = parts.next().unwrap_or_default().to_vec();
    if daemon.random.below(3) == 0 {
        // A watch that somebody else set.
        daemon.event("data/llm", "03");
    }
    match header.kind {
        Kind::WRITE => {
            daemon.put(&path, &value);
            daemon.reply(header, b"OK\0");
        }
        Kind::READ => match daemon.nodes.get(&path).cloned() {
            Some(value) => daemon.reply(header, &value),
            None => daemon.reply(Header { kind: Kind::ERROR, ..header }, b"ENOENT\0"),
        },
        Kind::RM => {
            daemon.nodes.remove(&path);
            daemon.reply(header, b"OK\0");
        }
        Kind::DIRECTORY => {
            let prefix = path + "/";
            let children = daemon.nodes.keys().filter_map(|node| node.strip_prefix(&prefix));
            let names: Vec<u8> = children.flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
            daemon.reply(header, &names);
        }
        Kind::WATCH => {
            daemon.reply(header, b"OK\0");
            let token = String::from_utf8(value).unwrap();
            let token = token.trim_end_matches('\0');
            daemon.event(&path, token);
            daemon.watches.push((path, token.into()));
        }
        Kind::TRANSACTION_START => daemon.reply(header, b"17\0"),
        Kind::TRANSACTION_END if header.transaction != 17 => {
            daemon.reply(Header { kind: Kind::ERROR, ..header }, b"ENOENT\0");
        }
        Kind::TRANSACTION_END if daemon.random.below(5) == 0 => {
            daemon.reply(Header { kind: Kind::ERROR, ..header }, b"EAGAIN\0");
        }
        Kind::TRANSACTION_END => daemon.reply(header, b"OK\0"),
        _ => daemon.reply(Header { kind: Kind::ERROR, ..header }, b"EINVAL\0"),
    }
}

/// The line to it: a wait lets it do a bit.
pub(crate) struct Turns(pub(crate) Rc<RefCell<Daemon>>);

impl Line for Turns {
    fn notify(&mut self) {}

    fn wait(&mut self) -> bool {
        self.0.borrow_mut().step()
    }
}
