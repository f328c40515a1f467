//! Where the unikernel and its driver find each other: states of Xen's split drivers, in xenstore.

/// Nodes below the unikernel's own, `/local/domain/N/`; by the unikernel, where nothing else is said. `data` is what
/// stock `xl` lets a domain write.
pub mod node {
    /// All of them lie below this one.
    pub const ROOT: &str = "data/llm";
    /// Its state.
    pub const STATE: &str = "data/llm/state";
    /// State of the driver; by the driver.
    pub const DRIVER_STATE: &str = "data/llm/driver-state";
    /// Version of the nodes and of the records.
    pub const VERSION: &str = "data/llm/version";
    /// Copies of pages that there is room for.
    pub const COPIES: &str = "data/llm/copies";
    /// Data pages of each ring.
    pub const PAGES: &str = "data/llm/ring-pages";
    /// First grant of the ring of requests: its header page; its data pages have the numbers that follow.
    pub const REQUEST_REF: &str = "data/llm/request-ref";
    /// The same for the ring of answers.
    pub const ANSWER_REF: &str = "data/llm/answer-ref";
    /// Event channel of both rings.
    pub const PORT: &str = "data/llm/event-channel";
    /// What a toolstack asks for; emptied by the unikernel when it obeys.
    pub const SHUTDOWN: &str = "control/shutdown";
}

/// A state of either side (`XenbusState*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum State {
    /// It is there.
    Initialising = 1,
    /// It waits for the other side's nodes.
    InitWait = 2,
    /// Its nodes are written.
    Initialised = 3,
    /// It uses the rings.
    Connected = 4,
    /// It does not use them any more.
    Closing = 5,
    /// It is gone, and has given all back.
    Closed = 6,
}

impl State {
    /// The state that a node's value stands for, if there is one.
    #[must_use]
    pub fn from_value(value: &[u8]) -> Option<Self> {
        use State::{Closed, Closing, Connected, InitWait, Initialised, Initialising};
        let all = [Initialising, InitWait, Initialised, Connected, Closing, Closed];
        all.into_iter().find(|state| state.value() == value.strip_suffix(b"\0").unwrap_or(value))
    }

    /// What goes into a node.
    #[must_use]
    pub const fn value(self) -> [u8; 1] {
        [b'0' + self as u8]
    }
}

#[cfg(test)]
mod tests {
    use super::State::{Closed, Connected};
    use super::*;

    #[test]
    fn values_are_digits() {
        assert_eq!(State::from_value(b"4"), Some(Connected));
        assert_eq!(State::from_value(&Closed.value()), Some(Closed));
        for value in [&b""[..], b"0", b"7", b"8", b"44", b" 4", b"x"] {
            assert_eq!(State::from_value(value), None);
        }
    }
}
