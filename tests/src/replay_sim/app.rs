//! The service's protocol, and the service: it counts its requests, remembers values, and says both in its replies.

use crate::sim::{Rng, mix};
use std::collections::VecDeque;

/// Values that the service remembers.
pub(super) const KEYS: usize = 8;
/// Bytes of a request's, or of a reply's, header.
const REQUEST: usize = 14;
const REPLY: usize = 22;

/// What a client asks for: to set a value, and to be told the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) client: u8,
    pub(super) id: u32,
    pub(super) key: u8,
    pub(super) value: u32,
    /// Bytes in all.
    pub(super) len: u16,
    /// The reply holds something random, if the service is of that kind.
    pub(super) random: bool,
}

/// What the service has done, and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) client: u8,
    pub(super) id: u32,
    /// Which request it was, of all.
    pub(super) serial: u32,
    pub(super) old: u32,
    pub(super) random: u32,
    pub(super) len: u16,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("a whole header")
}

/// The first message of a stream of them, each with its length in front; nothing if it is not all there.
fn first(stream: &mut VecDeque<u8>, least: usize) -> Result<Option<Vec<u8>>, String> {
    if stream.len() < 2 {
        return Ok(None);
    }
    let len = usize::from(u16::from_be_bytes([stream[0], stream[1]]));
    if len < least {
        return Err(format!("a message of {len} bytes"));
    }
    Ok((stream.len() >= len).then(|| stream.drain(..len).collect()))
}

/// Byte `at` of what fills up a message.
#[allow(clippy::cast_possible_truncation, reason = "a pattern of bytes")]
const fn filler(start: u32, at: usize) -> u8 {
    (start as usize).wrapping_mul(31).wrapping_add(at * 7) as u8
}

fn fill(mut bytes: Vec<u8>, len: u16, start: u32) -> Vec<u8> {
    let header = bytes.len();
    bytes.extend((header..usize::from(len)).map(|at| filler(start, at)));
    bytes
}

impl Request {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.len.to_be_bytes().to_vec();
        bytes.extend([self.client, self.key, u8::from(self.random), 0]);
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.value.to_be_bytes());
        fill(bytes, self.len.max(REQUEST as u16), self.value)
    }

    pub(super) fn take(stream: &mut VecDeque<u8>) -> Result<Option<Self>, String> {
        let Some(bytes) = first(stream, REQUEST)? else { return Ok(None) };
        let request = Self {
            len: u16::from_be_bytes(field(&bytes, 0)),
            client: bytes[2],
            key: bytes[3],
            random: bytes[4] != 0,
            id: u32::from_be_bytes(field(&bytes, 6)),
            value: u32::from_be_bytes(field(&bytes, 10)),
        };
        if request.bytes() != bytes {
            return Err(format!("a request with strange bytes: {request:?}"));
        }
        Ok(Some(request))
    }
}

impl Reply {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.len.to_be_bytes().to_vec();
        bytes.extend([self.client, 0, 0, 0]);
        for value in [self.id, self.serial, self.old, self.random] {
            bytes.extend(value.to_be_bytes());
        }
        fill(bytes, self.len, self.serial ^ self.old)
    }

    pub(super) fn take(stream: &mut VecDeque<u8>) -> Result<Option<Self>, String> {
        let Some(bytes) = first(stream, REPLY)? else { return Ok(None) };
        let value = |at| u32::from_be_bytes(field(&bytes, at));
        let reply = Self {
            len: u16::from_be_bytes(field(&bytes, 0)),
            client: bytes[2],
            id: value(6),
            serial: value(10),
            old: value(14),
            random: value(18),
        };
        if reply.bytes() != bytes {
            return Err(format!("a reply with strange bytes: {reply:?}"));
        }
        Ok(Some(reply))
    }
}

/// The service's state. It does one request after the other, in the order in which they came.
#[derive(Debug)]
pub(super) struct Service {
    values: [u32; KEYS],
    /// Replies are up to so long.
    reply_max: u64,
    pub(super) random: Rng,
    pub(super) done: Vec<Reply>,
}

impl Service {
    pub(super) const fn new(reply_max: u64) -> Self {
        Self { values: [0; KEYS], reply_max, random: Rng::new(1), done: Vec::new() }
    }

    pub(super) fn answer(&mut self, request: &Request) -> Reply {
        let serial = u32::try_from(self.done.len()).expect("few requests") + 1;
        let place = &mut self.values[usize::from(request.key) % KEYS];
        let old = std::mem::replace(place, request.value);
        // What was before decides on the length, so that a contradiction is seen in many ways.
        let extra = mix(u64::from(serial) << 32 | u64::from(old)) % self.reply_max;
        let len = u16::try_from(REPLY as u64 + extra).expect("short");
        #[allow(clippy::cast_possible_truncation, reason = "any value will do")]
        let random = if request.random { self.random.next() as u32 } else { 0 };
        let reply = Reply { client: request.client, id: request.id, serial, old, random, len };
        self.done.push(reply);
        reply
    }
}
