//! A bounded queue of events that cannot overflow.

/// An event with a slot: of one slot at most one event waits, the newest.
pub(super) trait Slotted {
    /// Below the capacity of the queue it is kept in.
    fn slot(&self) -> usize;
}

/// Events in order of arrival. Capacity is the number of slots, so a push always
/// finds room; with a driver that drains after every call nothing is ever merged.
#[derive(Clone, Debug)]
pub(super) struct Events<E, const N: usize>(heapless::Vec<E, N>);

impl<E: Slotted, const N: usize> Events<E, N> {
    pub(super) const fn new() -> Self {
        Self(heapless::Vec::new())
    }

    pub(super) fn push(&mut self, event: E) {
        debug_assert!(event.slot() < N, "slot outside the queue");
        self.remove(event.slot());
        let pushed = self.0.push(event);
        debug_assert!(pushed.is_ok(), "fewer slots than events");
    }

    pub(super) fn remove(&mut self, slot: usize) {
        self.0.retain(|waiting| waiting.slot() != slot);
    }

    pub(super) fn pop(&mut self) -> Option<E> {
        if self.0.is_empty() { None } else { Some(self.0.remove(0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct E(usize, u32);
    impl Slotted for E {
        fn slot(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn newest_of_a_slot_stays_and_order_is_by_arrival() {
        let mut q = Events::<E, 3>::new();
        for e in [E(0, 1), E(1, 2), E(2, 3), E(0, 4), E(1, 5), E(0, 6)] {
            q.push(e);
        }
        let all: std::vec::Vec<E> = core::iter::from_fn(|| q.pop()).collect();
        assert_eq!(all, [E(2, 3), E(1, 5), E(0, 6)]);
    }
}
