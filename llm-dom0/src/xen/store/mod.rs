//! XenStore, through `/dev/xen/xenbus`: where domains tell each other of references and ports.
//!
//! The protocol is that of Xen's `docs/misc/xenstore.txt` and `xen/include/public/io/xs_wire.h`. Calls are answered one
//! by one; events of watches that come in between are kept for [`XenStore::event`].

mod wire;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use wire::Kind;

/// Most events that are kept while nobody asks for them.
const EVENTS_MAX: usize = 4096;
/// How often a transaction is tried that others disturb.
const TRIES: usize = 100;

/// What went wrong with XenStore.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The device cannot be opened, read or written.
    #[error("Cannot talk to XenStore; is this a Xen domain, and are we root?")]
    Io(#[from] io::Error),
    /// XenStore refused a request.
    #[error("XenStore refuses to {what} {path}: {why}")]
    Refused {
        /// What it was asked to do.
        what: &'static str,
        /// The path; empty if there is none.
        path: String,
        /// Its name of the error, for instance `EACCES`.
        why: String,
    },
    /// A path, token or value that the protocol cannot carry.
    #[error("XenStore cannot carry {0:?}: it is too long, or holds a NUL")]
    Unfit(String),
    /// An answer that is none.
    #[error("XenStore answers nonsense: {0}")]
    Malformed(&'static str),
    /// Others changed the same nodes during each try.
    #[error("XenStore: a transaction was disturbed {TRIES} times")]
    Disturbed,
    /// More events came than are kept.
    #[error("XenStore: more than {EVENTS_MAX} events of watches wait")]
    Events,
}

/// A node that is watched, or one below it, may have changed; or the watch was just set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// The node.
    pub path: String,
    /// The token of the watch.
    pub token: String,
}

/// A connection to XenStore.
#[derive(Debug)]
pub struct XenStore<D = File> {
    device: D,
    events: VecDeque<Event>,
    /// Number of the last request.
    request: u32,
    /// Number of the transaction that is under way; 0 for none.
    transaction: u32,
}

impl XenStore {
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] outside of a Xen domain.
    pub fn open() -> Result<Self, StoreError> {
        Ok(Self::over(OpenOptions::new().read(true).write(true).open("/dev/xen/xenbus")?))
    }
}

impl<D: Read + Write> XenStore<D> {
    /// A connection over a device, or what behaves like one.
    pub fn over(device: D) -> Self {
        Self { device, events: VecDeque::new(), request: 0, transaction: 0 }
    }

    /// The value of a node; `None` if there is no such node.
    ///
    /// # Errors
    ///
    /// All of [`StoreError`].
    pub fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        absent(self.call("read", Kind::READ, &[path], None))
    }

    /// Writes a node; makes it, and all above it, if there is none.
    ///
    /// # Errors
    ///
    /// All of [`StoreError`].
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), StoreError> {
        self.call("write", Kind::WRITE, &[path], Some(value)).map(|_| ())
    }

    /// Removes a node and all below it. That there is none is no error.
    ///
    /// # Errors
    ///
    /// All of [`StoreError`].
    pub fn remove(&mut self, path: &str) -> Result<(), StoreError> {
        absent(self.call("remove", Kind::RM, &[path], None)).map(|_| ())
    }

    /// Names of the nodes right below a node; `None` if there is no such node.
    ///
    /// # Errors
    ///
    /// All of [`StoreError`].
    pub fn list(&mut self, path: &str) -> Result<Option<Vec<String>>, StoreError> {
        absent(self.call("list", Kind::DIRECTORY, &[path], None))?
            .map(|names| wire::strings(&names))
            .transpose()
    }

    /// Gives a node to domain `owner`, lets domain `reader` read it, and nobody else.
    ///
    /// # Errors
    ///
    /// All of [`StoreError`].
    pub fn let_read(&mut self, path: &str, owner: u16, reader: u16) -> Result<(), StoreError> {
        let (owner, reader) = (format!("n{owner}"), format!("r{reader}"));
        self.call("set permissions of", Kind::SET_PERMS, &[path, &owner, &reader], None).map(|_| ())
    }

    /// Watches a node and all below it. There is an event at once.
    ///
    /// # Errors
    ///
    /// All of [`StoreError`].
    pub fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        self.call("watch", Kind::WATCH, &[path, token], None).map(|_| ())
    }

    /// Ends a watch. Events of it may still come.
    ///
    /// # Errors
    ///
    /// All of [`StoreError`].
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        self.call("unwatch", Kind::UNWATCH, &[path, token], None).map(|_| ())
    }

    /// The next event of any watch; waits for it.
    ///
    /// # Errors
    ///
    /// All of [`StoreError`].
    pub fn event(&mut self) -> Result<Event, StoreError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let message = wire::receive(&mut self.device)?;
            if message.kind != Kind::WATCH_EVENT {
                return Err(StoreError::Malformed("an answer that nobody waits for"));
            }
            self.keep(&message.payload)?;
        }
    }

    /// Does what `work` does all at once, or not at all: not if `work` fails, and once more from the start if somebody else
    /// changed the same nodes meanwhile. Transactions do not nest.
    ///
    /// # Errors
    ///
    /// That of `work`; all of [`StoreError`], among them [`StoreError::Disturbed`].
    pub fn transaction<T>(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        for _ in 0..TRIES {
            let id = self.call("begin a transaction", Kind::TRANSACTION_START, &[""], None)?;
            let id = wire::strings(&id)?.first().and_then(|id| id.parse().ok());
            self.transaction = id.filter(|id| *id != 0).ok_or(StoreError::Malformed("no transaction"))?;
            let result = work(self);
            let commit = if result.is_ok() { "T" } else { "F" };
            let ended = self.call("end a transaction", Kind::TRANSACTION_END, &[commit], None);
            self.transaction = 0;
            match (result, ended) {
                (Err(error), _) => return Err(error),
                (Ok(_), Err(StoreError::Refused { why, .. })) if why == "EAGAIN" => {}
                (Ok(_), Err(error)) => return Err(error),
                (Ok(value), Ok(_)) => return Ok(value),
            }
        }
        Err(StoreError::Disturbed)
    }

    /// Makes a request of `strings` and perhaps a value behind them, and waits for the answer.
    fn call(
        &mut self,
        what: &'static str,
        kind: Kind,
        strings: &[&str],
        value: Option<&[u8]>,
    ) -> Result<Vec<u8>, StoreError> {
        self.request = self.request.wrapping_add(1);
        let message = wire::request(kind, self.request, self.transaction, strings, value)?;
        self.device.write_all(&message)?;
        loop {
            let answer = wire::receive(&mut self.device)?;
            if answer.kind == Kind::WATCH_EVENT {
                self.keep(&answer.payload)?;
                continue;
            }
            if answer.request != self.request {
                return Err(StoreError::Malformed("the answer to another request"));
            }
            if answer.kind == Kind::ERROR {
                let why = wire::strings(&answer.payload)?.into_iter().next().unwrap_or_default();
                let path = strings.first().copied().unwrap_or_default().to_owned();
                return Err(StoreError::Refused { what, path, why });
            }
            if answer.kind != kind {
                return Err(StoreError::Malformed("an answer of another kind"));
            }
            return Ok(answer.payload);
        }
    }

    fn keep(&mut self, payload: &[u8]) -> Result<(), StoreError> {
        let mut strings = wire::strings(payload)?.into_iter();
        let (Some(path), Some(token)) = (strings.next(), strings.next()) else {
            return Err(StoreError::Malformed("an event without path or token"));
        };
        if self.events.len() >= EVENTS_MAX {
            return Err(StoreError::Events);
        }
        self.events.push_back(Event { path, token });
        Ok(())
    }
}

fn absent<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Refused { why, .. }) if why == "ENOENT" => Ok(None),
        Err(error) => Err(error),
    }
}
