//! Messages for the driver's log, kept until there is a driver and room in its ring.
//!
//! Each is what defmt makes of one log statement. The statements and the logger that hands them over belong to the kernel
//! and not to this library, as a host program with such a statement would not link.

use heapless::{Deque, Vec};
use llm_core::service::MAX_MESSAGE;
use spin::mutex::SpinMutex;

/// Messages that wait at most: some sessions' worth. What comes when all places are taken is lost, and counted.
pub const WAITING: usize = 32;

/// One message.
pub type Message = Vec<u8, MAX_MESSAGE>;

/// Messages that wait, the oldest first.
#[derive(Debug)]
pub struct Backlog {
    waiting: Deque<Message, WAITING>,
    /// The message that is being written, and whether a part of it had no room. False, so that nothing of a new
    /// value has to lie in the kernel's file.
    open: Message,
    cut: bool,
    lost: u32,
}

impl Backlog {
    /// Without a message.
    #[must_use]
    pub const fn new() -> Self {
        Self { waiting: Deque::new(), open: Vec::new(), cut: false, lost: 0 }
    }

    /// Starts a message.
    pub fn begin(&mut self) {
        self.open.clear();
        self.cut = false;
    }

    /// Goes on with the message that was started.
    pub fn write(&mut self, bytes: &[u8]) {
        self.cut |= self.open.extend_from_slice(bytes).is_err();
    }

    /// Ends the message: it waits from now on, or is lost because it is too long or there is no place.
    pub fn end(&mut self) {
        if self.cut || self.waiting.push_back(self.open.clone()).is_err() {
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// Takes the oldest message.
    pub fn take(&mut self) -> Option<Message> {
        self.waiting.pop_front()
    }

    /// How many messages were lost since this was asked.
    pub const fn take_lost(&mut self) -> u32 {
        core::mem::replace(&mut self.lost, 0)
    }
}

impl Default for Backlog {
    fn default() -> Self {
        Self::new()
    }
}

static BACKLOG: SpinMutex<Backlog> = SpinMutex::new(Backlog::new());

/// Does `what` with the kernel's own backlog. It must not log.
pub fn with<T>(what: impl FnOnce(&mut Backlog) -> T) -> T {
    what(&mut BACKLOG.lock())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(backlog: &mut Backlog, parts: &[&[u8]]) {
        backlog.begin();
        parts.iter().for_each(|part| backlog.write(part));
        backlog.end();
    }

    #[test]
    fn messages_come_out_whole_and_in_order() {
        let mut backlog = Backlog::new();
        assert_eq!(backlog.take(), None);
        log(&mut backlog, &[&[1, 0], &[2; 8], b"text"]);
        log(&mut backlog, &[]);
        // Started and never ended, as by a panic within a statement.
        backlog.begin();
        backlog.write(b"half");
        log(&mut backlog, &[b"whole"]);
        assert_eq!(backlog.take().unwrap(), b"\x01\0\x02\x02\x02\x02\x02\x02\x02\x02text");
        assert_eq!(backlog.take().unwrap(), b"");
        assert_eq!(backlog.take().unwrap(), b"whole");
        assert_eq!((backlog.take(), backlog.take_lost()), (None, 0));
    }

    #[test]
    fn what_has_no_place_is_counted_and_never_cut() {
        let mut backlog = Backlog::new();
        log(&mut backlog, &[&[7; MAX_MESSAGE]]);
        log(&mut backlog, &[&[7; MAX_MESSAGE], b"!"]);
        // Not even if a later part would fit.
        log(&mut backlog, &[&[7; MAX_MESSAGE + 1], b"!"]);
        assert_eq!(backlog.take_lost(), 2);
        for i in 1..=WAITING as u8 {
            log(&mut backlog, &[&[i]]);
        }
        assert_eq!((backlog.take_lost(), backlog.take_lost()), (1, 0), "one more than there are places");
        assert_eq!(backlog.take().unwrap(), [7; MAX_MESSAGE], "what waits stays");
        log(&mut backlog, &[b"again"]);
        let mut last = None;
        while let Some(message) = backlog.take() {
            last = Some(message);
        }
        assert_eq!((last.unwrap(), backlog.take_lost()), (Vec::from_slice(b"again").unwrap(), 0));
    }
}
