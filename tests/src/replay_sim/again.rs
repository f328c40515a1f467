//! The copy that runs after a take-over is protected again, towards a new backup, and its host dies, too.

use super::backup::Backup;
use super::check::Copy;
use super::primary::{Primary, Snapshot};
use super::world::{Event, World};
use super::{MS, plan::Fault};
use llm_core::flow::{Packet, Translation, VNET_HEADER, is_checksum_partial};
use llm_core::log::{Carry, Flags, RecordKind};
use llm_core::replay::{Fate, Handed};
use llm_core::time::Instant;
use std::rc::Rc;

impl World {
    /// The copy has gone live.
    pub(super) fn live_again(&mut self) {
        if self.again < self.options.again && self.primary.dead {
            self.again += 1;
            let at = self.now + self.rng.range(0, 400 * MS);
            self.at(at, Event::ProtectAgain);
        }
    }

    pub(super) fn protect_again(&mut self) {
        let now = Instant::from_nanos(self.now);
        let Some(mut restored) = self.backup.restored.take() else { return };
        let mut buf = [0; llm_core::flow::build::BUILT_MAX];
        while let Some(len) = restored.replay.part(&mut buf) {
            restored.ring.push(buf[..len].into());
        }
        let handed: Vec<Handed> = restored.replay.handed().collect();
        // The first copy is made at once, and what is in the ring is lost with it or not.
        let committed = Snapshot {
            epoch: 0,
            steps: restored.guest.steps.len(),
            clock: self.now - restored.behind,
            acks: restored.guest.stack.nic.acks(),
        };
        self.trace(|| format!("protected again: {handed:?}"));
        self.primary = Primary::again(restored.guest, restored.behind, restored.ring);
        self.backup = Backup::new();
        self.backup.begin(Rc::new(committed), self.now);
        self.check.again();
        self.new_hosts();
        for one in &handed {
            assert!(self.primary.carried.insert(one, now), "room for all");
            if !one.closed {
                let carry = Carry::new(one.key, one.translation);
                self.append(RecordKind::Carry, Flags::NONE, carry.as_wire());
            }
        }
        self.at(self.now, Event::Heartbeat);
        self.at(self.now + self.plan.interval / 4, Event::Suspend);
        self.wake_guest(Copy::Primary, self.now);
        let dies = self.now + self.rng.range(20 * MS, 2000 * MS);
        self.fault_at(dies, Fault::KillPrimary);
    }

    /// A packet for the guest, as the guest counts.
    pub(super) fn carried_in(&mut self, bytes: &mut [u8]) {
        let (header, frame) = bytes.split_at_mut(VNET_HEADER);
        let Some(packet) = Packet::parse(frame) else { return };
        let partial = is_checksum_partial(header);
        self.primary.carried.incoming(frame, &packet, partial, Instant::from_nanos(self.now));
    }

    /// Whether a packet of the guest's goes on.
    pub(super) fn carried_on(&mut self, packet: &Packet) -> bool {
        match self.primary.carried.sent(packet, Instant::from_nanos(self.now)) {
            Fate::Passes => true,
            Fate::Drops => false,
            Fate::Opens(key) => {
                let none = Carry::new(key, Translation::default());
                self.append(RecordKind::Carry, Flags::NONE, none.as_wire());
                true
            }
        }
    }

    /// A packet of the guest's, as its client counts.
    pub(super) fn carried_out(&self, bytes: &mut [u8]) {
        if self.options.forget_carry {
            return;
        }
        let (header, frame) = bytes.split_at_mut(VNET_HEADER);
        let Some(packet) = Packet::parse(frame) else { return };
        self.primary.carried.outgoing(frame, &packet, is_checksum_partial(header));
    }
}
