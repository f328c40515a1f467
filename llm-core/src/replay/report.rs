//! What a replay did.

use crate::flow::{FlowKey, RangeDigest};
use crate::time::Duration;

/// Services told apart in a [`Report`]; the others count together.
pub const SERVICES_MAX: usize = 16;

/// Why a connection was not carried over the take-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Cause {
    /// A reply came out otherwise than its client has seen it.
    Diverged,
    /// The guest did not send again, in time, what its client has seen.
    NotRegenerated,
    /// The guest did not take in what it had acknowledged.
    NotTaken,
    /// The guest refused the connection.
    Refused,
    /// A TLS handshake since the checkpoint: its random numbers do not come again.
    TlsHandshake,
    /// More connections than can be carried.
    TooMany,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Diverged,
        Self::NotRegenerated,
        Self::NotTaken,
        Self::Refused,
        Self::TlsHandshake,
        Self::TooMany,
    ];

    const fn index(self) -> usize {
        match self {
            Self::Diverged => 0,
            Self::NotRegenerated => 1,
            Self::NotTaken => 2,
            Self::Refused => 3,
            Self::TlsHandshake => 4,
            Self::TooMany => 5,
        }
    }
}

impl core::fmt::Display for Cause {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Diverged => "diverged",
            Self::NotRegenerated => "not-regenerated",
            Self::NotTaken => "not-taken",
            Self::Refused => "refused",
            Self::TlsHandshake => "tls-handshake",
            Self::TooMany => "too-many",
        })
    }
}

/// A reply that came out otherwise than it was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The connection.
    pub key: FlowKey,
    /// First sequence number of the range, as the client counts.
    pub from: u32,
    /// The sequence number behind it.
    pub to: u32,
    /// Of what was released.
    pub released: RangeDigest,
    /// Of what came now.
    pub regenerated: RangeDigest,
}

/// Reply bytes of one service of the guest's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fidelity {
    /// Port of the service.
    pub port: u16,
    /// Came out as released.
    pub identical: u64,
    /// Came out otherwise.
    pub different: u64,
    /// Could not be compared.
    pub unknown: u64,
}

/// Counts and times of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Connections that go on.
    pub carried: u32,
    /// Connections that were reset, by cause.
    resets: [u32; Cause::ALL.len()],
    /// Records walked.
    pub records: u64,
    /// Packets given to the guest.
    pub fed: u64,
    /// Of them, given once more.
    pub fed_again: u64,
    /// Waits that ended by time-out.
    pub stalls: u64,
    /// Reply bytes by service.
    pub services: heapless::Vec<Fidelity, SERVICES_MAX>,
    /// From the start until every connection had said where it stands.
    pub probing: Duration,
    /// From then until the last record was walked.
    pub walking: Duration,
    /// From then until all replies had come again.
    pub catching_up: Duration,
}

impl Report {
    /// Connections reset for this cause.
    #[must_use]
    pub fn resets(&self, cause: Cause) -> u32 {
        self.resets.get(cause.index()).copied().unwrap_or(0)
    }

    pub(super) fn reset(&mut self, cause: Cause) {
        if let Some(count) = self.resets.get_mut(cause.index()) {
            *count += 1;
        }
    }

    /// The counters of a service; the last place is shared by those that find none of their own.
    pub(super) fn service(&mut self, port: u16) -> Option<&mut Fidelity> {
        let at = match self.services.iter().position(|s| s.port == port) {
            Some(at) => at,
            None => {
                let _ = self.services.push(Fidelity { port, ..Fidelity::default() });
                self.services.len().checked_sub(1)?
            }
        };
        self.services.get_mut(at)
    }
}
