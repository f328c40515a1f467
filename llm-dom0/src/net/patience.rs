//! How long to look for the next event before sleeping.
//!
//! A thread that sleeps is woken late: the processor may have halted, and on a virtual one that costs tens of microseconds. The next event is
//! near while a request is under way: the guest's reply, the log's acknowledgement. So the packet path looks on
//! for a moment, if that would have helped lately. An idle one does not: its last waits were long.

use std::time::Duration;

/// The longest look. It covers a round trip of a quick link, and what a quick service takes.
pub(super) const LOOK: Duration = Duration::from_micros(60);
/// Of so many waits one must have been short.
const REMEMBERED: u8 = 0b1111;

/// Whether to look, learnt from how long the last waits were.
#[derive(Debug)]
pub(super) struct Patience {
    /// With one processor, looking would keep the others from what is waited for.
    alone: bool,
    /// The last waits, the newest in bit 0: 1 for one shorter than [`LOOK`].
    short: u8,
}

impl Patience {
    /// For a machine with that many processors.
    pub(super) fn new(processors: usize) -> Self {
        Self { alone: processors < 2, short: 0 }
    }

    /// Whether the next wait is worth a look first.
    pub(super) fn looks(&self) -> bool {
        !self.alone && self.short & REMEMBERED != 0
    }

    /// A wait took that long, the look included.
    pub(super) fn waited(&mut self, time: Duration) {
        self.short = self.short << 1 | u8::from(time < LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(20);
    const LONG: Duration = Duration::from_millis(1);

    #[test]
    fn looks_while_one_of_four_waits_was_short() {
        let mut patience = Patience::new(2);
        assert!(!patience.looks(), "nothing is known yet");
        patience.waited(SHORT);
        for _ in 0..3 {
            patience.waited(LONG);
            assert!(patience.looks());
        }
        patience.waited(LONG);
        assert!(!patience.looks(), "four long ones");
        patience.waited(LOOK);
        assert!(!patience.looks(), "a look would not have seen it");
    }

    #[test]
    fn an_idle_path_looks_four_times_at_most() {
        let mut patience = Patience::new(8);
        for _ in 0..100 {
            patience.waited(SHORT);
        }
        let looks = (0..100).filter(|_| {
            let looks = patience.looks();
            patience.waited(LONG);
            looks
        });
        assert_eq!(looks.count(), 4);
    }

    #[test]
    fn a_single_processor_is_left_to_the_others() {
        let mut patience = Patience::new(1);
        patience.waited(SHORT);
        assert!(!patience.looks());
    }
}
