//! How this domain and its driver come together and part: by the states of Xen's split drivers, in xenstore.
//!
//! This domain offers its rings, the driver maps them and says that it is connected. When either leaves, the rings are
//! taken back, and offered anew to the next driver. Source: xen/include/public/io/xenbus.h.

pub use llm_core::service::{State, node};

/// What is to be done next; when it is done, the own state changes by [`Handshake::done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing until the driver's state changes.
    Wait,
    /// Grant the rings and write the nodes.
    Offer,
    /// Use the rings.
    Connect,
    /// Stop using them.
    Close,
    /// Take the grants back, as soon as the driver has unmapped all; until then, try again.
    Retire,
}

/// This domain's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    own: State,
}

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}

impl Handshake {
    /// The start: nothing is offered.
    #[must_use]
    pub const fn new() -> Self {
        Self { own: State::Initialising }
    }

    /// The own state, to be written to [`node::STATE`] whenever it changes.
    #[must_use]
    pub const fn own(self) -> State {
        self.own
    }

    /// What to do when the driver's state is `driver`; `None` if it has none or one that does not exist.
    #[must_use]
    pub const fn next(self, driver: Option<State>) -> Step {
        match (self.own, driver) {
            // At boot nothing is known of a driver, and what an earlier one left says nothing.
            (State::Initialising | State::InitWait, _) => Step::Offer,
            (State::Initialised, Some(State::Connected)) => Step::Connect,
            // Until the driver has seen that this domain left, it may still be connected.
            (State::Initialised, _)
            | (State::Connected, Some(State::Connected))
            | (State::Closed, Some(State::Connected)) => Step::Wait,
            (State::Connected, _) => Step::Close,
            (State::Closing, _) => Step::Retire,
            (State::Closed, _) => Step::Offer,
        }
    }

    /// The own state once `step` is done.
    #[must_use]
    pub const fn done(self, step: Step) -> Self {
        let own = match step {
            Step::Wait => self.own,
            Step::Offer => State::Initialised,
            Step::Connect => State::Connected,
            Step::Close => State::Closing,
            Step::Retire => State::Closed,
        };
        Self { own }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use State::{Closed, Closing, Connected, Initialised, Initialising};

    /// What happens until there is nothing to do for a driver in this state.
    fn settle(mut side: Handshake, driver: Option<State>) -> Handshake {
        for _ in 0..4 {
            side = side.done(side.next(driver));
        }
        assert_eq!(side.next(driver), Step::Wait, "{side:?} {driver:?}");
        side
    }

    #[test]
    fn a_driver_comes_leaves_and_comes_again() {
        let side = settle(Handshake::new(), None);
        assert_eq!(side.own(), Initialised);
        let side = settle(side, Some(Initialising));
        assert_eq!(side.own(), Initialised);
        let side = settle(side, Some(Connected));
        assert_eq!(side.own(), Connected);
        assert_eq!(side.next(Some(Closing)), Step::Close);
        let closing = side.done(Step::Close);
        assert_eq!((closing.own(), closing.next(Some(Closing))), (Closing, Step::Retire));
        assert_eq!(settle(side, Some(Closed)).own(), Initialised, "offered to the next driver");
        assert_eq!(settle(side, Some(Initialising)).own(), Initialised, "a new driver came at once");
        assert_eq!(settle(side, None).own(), Initialised);
    }

    #[test]
    fn nothing_is_offered_to_a_driver_that_has_not_seen_the_end() {
        let closing = settle(Handshake::new(), Some(Connected)).done(Step::Close);
        let closed = closing.done(closing.next(Some(Connected)));
        assert_eq!((closed.own(), closed.next(Some(Connected))), (Closed, Step::Wait));
        assert_eq!(closed.next(Some(Closed)), Step::Offer);
    }

    /// Whatever a driver writes, the rings are used only between an offer and the end of their grants.
    #[test]
    fn rings_are_never_used_when_they_are_not_granted() {
        let mut random = Random::new(1);
        let (mut side, mut granted, mut used) = (Handshake::new(), false, false);
        for _ in 0..10_000 {
            let digit = [b'0' + random.below(10) as u8];
            let step = side.next(State::from_value(&digit));
            match step {
                Step::Wait => {}
                Step::Offer => {
                    assert!(!granted);
                    granted = true;
                }
                Step::Connect => {
                    assert!(granted && !used);
                    used = true;
                }
                Step::Close => used = false,
                Step::Retire => {
                    assert!(granted && !used);
                    granted = false;
                }
            }
            side = side.done(step);
        }
    }
}
