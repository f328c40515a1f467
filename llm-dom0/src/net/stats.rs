//! Counters of a joint.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a joint did since it started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        #[non_exhaustive]
        pub struct JointStats { $($(#[$doc])* pub $name: u64,)* }

        /// The same, counted by the joint's thread and read by others.
        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub(super) $name: AtomicU64,)* }

        impl Counters {
            pub(super) fn snapshot(&self) -> JointStats {
                JointStats { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Packets that the guest sent.
    egress_packets,
    /// Bytes that the guest sent, virtio-net headers included.
    egress_bytes,
    /// Packets handed to the bridge.
    released_packets,
    /// Bytes handed to the bridge.
    released_bytes,
    /// Packets delivered to the guest's vif.
    ingress_packets,
    /// Bytes delivered to the guest's vif.
    ingress_bytes,
    /// Packets held now.
    held_packets,
    /// Bytes held now.
    held_bytes,
    /// The most bytes ever held.
    held_peak_bytes,
    /// The guest's packets dropped because the hold was full.
    dropped_full,
    /// The guest's packets dropped by the kernel before the joint could read them.
    dropped_socket,
    /// The guest's packets whose offload has no virtio-net form, or which are longer than 64 KiB.
    dropped_unreadable,
    /// The guest's packets that the TAP would not take.
    dropped_egress,
    /// Packets for the guest that its vif would not take: its queue was full, or it was down.
    dropped_ingress,
    /// Times that packets were due and the lease was over.
    lease_waits,
    /// Packets that were sent while the lease ran out: the thread lost the CPU between the check and the system call.
    sent_late,
}

pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}

pub(super) fn set(counter: &AtomicU64, n: usize) {
    counter.store(n as u64, Relaxed);
}
