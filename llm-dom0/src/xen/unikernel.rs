//! The driver's side of a unikernel that encodes (`llm-stubdom`): its configuration for `xl`, and the way to its rings.
//!
//! Nodes, records and who does what when are specified in `docs/stubdom.md`. The unikernel is not trusted with more than
//! its work: what it writes is checked like anything from a peer.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use llm_core::ring::{AttachError, Consumer, Full, Producer, ReserveError, RingError};
use llm_core::service::{MAX_ANSWER, MAX_REQUEST, Request, State, VERSION, node};

use super::evtchn::Evtchn;
use super::gntdev::{self, ForeignPages};
use super::store::{StoreError, XenStore};
use crate::shared::{EventChannel, RingPages, SharedPages};

/// How often the unikernel's state is looked at while it is waited for.
const LOOK: Duration = Duration::from_millis(10);

/// Memory of the unikernel in MiB beside the copies of pages: kernel, rings, buffers, and what Xen takes.
const BESIDE_MIB: u64 = 4;

/// A configuration for `xl create`: a unikernel called `name`, with room for copies of a guest of `guest_mib` MiB.
///
/// The guest's pages may lie scattered, each region of 4 MiB with a page of numbers of its own: 1/64 is for that
/// and for page tables.
#[must_use]
pub fn config(name: &str, kernel: &Path, guest_mib: u64) -> String {
    let memory = guest_mib + guest_mib.div_ceil(64) + BESIDE_MIB;
    let kernel = kernel.display();
    // It is worthless once it has crashed: the driver makes a new one.
    format!(
        "# Written by llm: the unikernel that encodes for a protected domain.\n\
         name = \"{name}\"\n\
         type = \"pv\"\n\
         kernel = \"{kernel}\"\n\
         memory = {memory}\n\
         vcpus = 1\n\
         on_poweroff = \"destroy\"\n\
         on_crash = \"destroy\"\n"
    )
}

/// What went wrong with a unikernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnikernelError {
    /// It did not offer its rings, or did not connect, in time.
    #[error("Unikernel in domain {domid} is not there: {what} within {patience:?}")]
    Absent {
        /// Its domain.
        domid: u16,
        /// What did not happen.
        what: &'static str,
        /// The time it had.
        patience: Duration,
    },
    /// It says something that no unikernel of ours says.
    #[error("Unikernel in domain {domid} writes {value:?} to {node}")]
    Node {
        /// Its domain.
        domid: u16,
        /// The node.
        node: &'static str,
        /// What is there.
        value: String,
    },
    /// XenStore cannot be used.
    #[error("Talking to XenStore failed")]
    Store(#[from] StoreError),
    /// Its pages or its event channel cannot be used.
    #[error("Using the pages and events of the unikernel failed")]
    Io(#[from] io::Error),
    /// Its pages are no ring.
    #[error("Attaching to the unikernel's rings failed")]
    Attach(#[from] AttachError),
    /// A ring has ended.
    #[error("A ring of the unikernel has ended")]
    Ring(#[from] RingError),
    /// A request that is longer than any may be; nothing was sent.
    #[error("A request to the unikernel is longer than {MAX_REQUEST} bytes")]
    TooLong,
}

/// A unikernel that is connected. Dropped, it is told that the driver has left, and offers its rings anew.
#[derive(Debug)]
pub struct Unikernel {
    store: XenStore,
    domid: u16,
    /// Copies of pages that it has room for.
    copies: u32,
    requests: Producer<RingPages>,
    answers: Consumer<RingPages>,
    channel: Evtchn,
}

impl Unikernel {
    /// Connects to the unikernel in domain `domid`; waits at most `patience` for each of its steps.
    ///
    /// # Errors
    ///
    /// All of [`UnikernelError`].
    pub fn connect(domid: u16, patience: Duration) -> Result<Self, UnikernelError> {
        let mut store = XenStore::open()?;
        // What an earlier driver left would be taken for this one's.
        set_state(&mut store, domid, State::Initialising)?;
        wait_for(&mut store, domid, patience, State::Initialised, "it did not offer its rings")?;
        let version = number(&mut store, domid, node::VERSION)?;
        if version != VERSION {
            return Err(bad(domid, node::VERSION, version.to_string()));
        }
        let pages = number(&mut store, domid, node::PAGES)?;
        let refs = |first: u32| first.checked_add(pages).map(|last| (first..=last).collect::<Vec<u32>>());
        let mut ring = |node: &'static str| {
            let first = number(&mut store, domid, node)?;
            if pages as usize >= gntdev::MAX_PAGES {
                return Err(bad(domid, node::PAGES, pages.to_string()));
            }
            let refs = refs(first).ok_or_else(|| bad(domid, node, first.to_string()))?;
            Ok(ForeignPages::new(domid, &refs)?.map()?)
        };
        let (request, answer) = (ring(node::REQUEST_REF)?, ring(node::ANSWER_REF)?);
        let port = number(&mut store, domid, node::PORT)?;
        let copies = number(&mut store, domid, node::COPIES)?;
        let mut unikernel = Self {
            domid,
            copies,
            requests: Producer::attach(request, MAX_REQUEST)?,
            answers: Consumer::attach(answer, MAX_ANSWER)?,
            channel: Evtchn::bind(domid, port)?,
            store,
        };
        set_state(&mut unikernel.store, domid, State::Connected)?;
        wait_for(&mut unikernel.store, domid, patience, State::Connected, "it did not connect")?;
        Ok(unikernel)
    }

    /// Copies of pages that it has room for.
    #[must_use]
    pub const fn copies(&self) -> u32 {
        self.copies
    }

    /// Whether it is still connected: the nodes of a domain go with it, and one that has parted says so. One that has
    /// crashed or hangs says nothing.
    ///
    /// # Errors
    ///
    /// [`UnikernelError::Store`].
    pub fn is_connected(&mut self) -> Result<bool, UnikernelError> {
        let state = self.store.read(&path(self.domid, node::STATE))?;
        Ok(state.as_deref().and_then(State::from_value) == Some(State::Connected))
    }

    /// Puts a request into the ring; false if there is no room: take answers, then [`wait`](Self::wait). It is shown to the
    /// unikernel by `wait` or [`show`](Self::show).
    ///
    /// # Errors
    ///
    /// [`UnikernelError::Ring`], or [`UnikernelError::TooLong`] when the request has more bytes than [`MAX_REQUEST`].
    pub fn send(&mut self, request: &Request<'_>) -> Result<bool, UnikernelError> {
        let room = match self.requests.reserve(request.len()) {
            Ok(room) => room,
            Err(ReserveError::Ended(error)) => return Err(error.into()),
            Err(ReserveError::TooLong { .. }) => return Err(UnikernelError::TooLong),
        };
        let Some(mut room) = room else { return Ok(false) };
        request.write_to(&mut room).map_err(|Full| UnikernelError::TooLong)?;
        room.commit();
        Ok(true)
    }

    /// Shows the unikernel all requests so far.
    ///
    /// # Errors
    ///
    /// [`UnikernelError::Io`].
    pub fn show(&mut self) -> Result<(), UnikernelError> {
        if self.requests.publish().peer() {
            self.channel.notify()?;
        }
        Ok(())
    }

    /// Copies the next answer to the front of `into`, which has [`MAX_ANSWER`] bytes, and returns its length; `None`
    /// if there is none now.
    ///
    /// # Errors
    ///
    /// [`UnikernelError::Ring`].
    pub fn answer(&mut self, into: &mut [u8]) -> Result<Option<usize>, UnikernelError> {
        let len = self.answers.next()?.map(|record| record.copy_to(into).map_or(0, |copy| copy.len()));
        if len.is_some() && self.answers.release().peer() {
            self.channel.notify()?;
        }
        Ok(len)
    }

    /// Shows all requests, then waits until there is an answer or, with `room`, room for a request of any length; at
    /// most `patience`. Whether to look again at once.
    ///
    /// # Errors
    ///
    /// [`UnikernelError::Ring`], [`UnikernelError::Io`].
    pub fn wait(&mut self, room: bool, patience: Duration) -> Result<bool, UnikernelError> {
        self.show()?;
        let mut sleep = self.answers.wait()?;
        if room {
            match self.requests.wait(MAX_REQUEST) {
                Ok(wait) => sleep.sleep &= wait.sleep,
                Err(ReserveError::Ended(error)) => return Err(error.into()),
                Err(ReserveError::TooLong { .. }) => {}
            }
        }
        if sleep.wake.peer() {
            self.channel.notify()?;
        }
        Ok(!sleep.sleep || self.channel.wait(Some(patience))?)
    }
}

impl Drop for Unikernel {
    fn drop(&mut self) {
        // The nodes of a domain that is gone must not come to life again.
        if !matches!(self.store.read(&path(self.domid, node::STATE)), Ok(Some(_))) {
            return;
        }
        // It takes its pages back once they are unmapped, which is when this value is gone. If XenStore is gone, so
        // is everything else.
        let _ = set_state(&mut self.store, self.domid, State::Closed);
    }
}

fn path(domid: u16, node: &str) -> String {
    format!("/local/domain/{domid}/{node}")
}

fn set_state(store: &mut XenStore, domid: u16, state: State) -> Result<(), StoreError> {
    store.write(&path(domid, node::DRIVER_STATE), &state.value())
}

fn wait_for(
    store: &mut XenStore,
    domid: u16,
    patience: Duration,
    state: State,
    what: &'static str,
) -> Result<(), UnikernelError> {
    let start = Instant::now();
    loop {
        let value = store.read(&path(domid, node::STATE))?;
        if value.as_deref().and_then(State::from_value) == Some(state) {
            return Ok(());
        }
        if start.elapsed() > patience {
            return Err(UnikernelError::Absent { domid, what, patience });
        }
        std::thread::sleep(LOOK);
    }
}

fn number(store: &mut XenStore, domid: u16, node: &'static str) -> Result<u32, UnikernelError> {
    let value = store.read(&path(domid, node))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&value).into_owned();
    text.parse().map_err(|_| bad(domid, node, text))
}

fn bad(domid: u16, node: &'static str, value: String) -> UnikernelError {
    UnikernelError::Node { domid, node, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_room_for_the_guest_and_the_kernel() {
        let config = config("llm-web1", Path::new("/usr/lib/llm/llm-stubdom"), 128);
        assert!(config.starts_with("# Written by llm"), "{config}");
        for line in ["name = \"llm-web1\"", "type = \"pv\"", "memory = 134", "on_crash = \"destroy\""] {
            assert!(config.lines().any(|l| l == line), "no {line} in\n{config}");
        }
    }
}
