//! What a joint tells the keeper of an input log.

use std::fmt;

use llm_core::log::Carry;

/// Keeps the log of what goes into and out of one interface. All calls come from the joint's thread; none may wait.
/// Packets have a virtio-net header of ten bytes in front.
pub trait Recorder: fmt::Debug + Send {
    /// There is no room for more input: it stays where it is until [`Releaser::acknowledge`](super::Releaser::acknowledge).
    fn is_full(&self) -> bool;
    /// A packet goes to the guest next.
    fn input(&mut self, packet: &[u8]);
    /// Whether what the guest has sent waits for the log. If not, it waits for a checkpoint.
    fn waits_for_log(&mut self, packet: &[u8]) -> bool;
    /// The guest has sent a packet before the place `mark` of the checkpoint stream. Its number in the log, or
    /// `u64::MAX` if it has none and must wait for a checkpoint.
    fn output(&mut self, packet: &[u8], mark: u64) -> u64;
    /// What is added to the numbers of a connection has changed. What is recorded counts as the guest does.
    fn carry(&mut self, carry: &Carry);
    /// All that is recorded goes to the backup now.
    fn flush(&mut self);
}
