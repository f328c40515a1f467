//! A run, drawn from its seed.

use super::app::{KEYS, Request};
use super::client::Talk;
use super::guest::{ADDRESS, Build};
use super::stack::Setup;
use super::{MS, Nanos, Options};
use crate::sim::Rng;
use llm_core::replay::OnDivergence;

/// Last byte of the first client's address.
pub(super) const FIRST_CLIENT: u8 = 10;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    KillPrimary,
    KillBackup,
    /// The primary stands still for a time; its clock does not.
    Freeze(Nanos),
    /// Nothing passes between the hosts for a time.
    Partition(Nanos),
}

/// A step of the protocol that a fault can be tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Suspended,
    CutLogged,
    Piece,
    Committed,
    Noted,
    Released,
}

/// Packets between clients and service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Net {
    pub(super) latency: (Nanos, Nanos),
    /// Percent.
    pub(super) loss: u64,
    pub(super) twice: u64,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) build: Build,
    pub(super) clients: Vec<(Setup, Vec<Talk>)>,
    pub(super) net: Net,
    /// Between the hosts: latency, and percent of messages that TCP has to send again.
    pub(super) link: (Nanos, Nanos),
    pub(super) link_loss: u64,
    /// Time between checkpoints, and most of: a pause, the way of the cut into the log, a wait in the ring, on the
    /// vif, and for a batch of the log.
    pub(super) interval: Nanos,
    pub(super) pause: Nanos,
    pub(super) cut_late: Nanos,
    pub(super) ring: Nanos,
    pub(super) vif: Nanos,
    pub(super) batch: Nanos,
    pub(super) pieces: u64,
    pub(super) detect: Nanos,
    pub(super) faults: Vec<(Nanos, Fault)>,
    /// A fault at the so-many-th such moment, and a little later.
    pub(super) tied: Option<(Moment, u64, Nanos, Fault)>,
    pub(super) policy: OnDivergence,
    /// Some replies hold something random.
    pub(super) random: bool,
}

impl Plan {
    pub(super) fn draw(rng: &mut Rng, options: &Options) -> Self {
        let random = rng.chance(15) && options.replay_faults_off();
        let timestamps = rng.chance(90);
        let setup = |rng: &mut Rng, address| Setup {
            address,
            secret: rng.next(),
            mtu: rng.pick(&[576, 1500, 1500]),
            partial: rng.chance(50),
            delayed_ack: rng.chance(60),
            timestamps,
        };
        let slow = rng.range(1, 30) * MS;
        let build = Build {
            setup: setup(rng, ADDRESS),
            reply_max: rng.pick(&[40, 600, 3000]),
            work_max: rng.pick(&[MS, 10 * MS, 60 * MS]),
        };
        let clients = (0..u8::try_from(rng.range(1, 6)).expect("few"))
            .map(|n| (setup(rng, FIRST_CLIENT + n), talks(rng, n, random)))
            .collect();
        let near = rng.range(MS / 20, 4 * MS);
        let net = Net {
            latency: (near, near + rng.pick(&[MS / 10, MS, 8 * MS])),
            loss: rng.pick(&[0, 0, 1, 4]),
            twice: rng.pick(&[0, 0, 2]),
        };
        let near = rng.range(MS / 20, 3 * MS);
        let detect = rng.pick(&[300, 500, 1000]) * MS;
        let (mut faults, mut tied) = (Vec::new(), None);
        let fault = match rng.range(0, 100) {
            0..62 => Some(Fault::KillPrimary),
            62..70 => Some(Fault::Partition(detect + rng.range(0, 4000 * MS))),
            70..78 => Some(Fault::Freeze(rng.range(detect / 2, detect * 4))),
            78..86 => Some(Fault::KillBackup),
            86..93 => Some(Fault::Partition(rng.range(10 * MS, detect))),
            _ => None,
        };
        if let Some(fault) = fault {
            if rng.chance(40) {
                use Moment::{Committed, CutLogged, Noted, Piece, Released, Suspended};
                let moment = rng.pick(&[Suspended, CutLogged, Piece, Committed, Noted, Released]);
                let often = matches!(moment, Noted | Released);
                let count = if often { rng.range(1, 200) } else { rng.range(1, 12) };
                tied = Some((moment, count, rng.pick(&[0, 10_000, MS, 6 * MS]), fault));
            } else {
                faults.push((rng.range(120 * MS, 2200 * MS), fault));
            }
        }
        Self {
            build,
            clients,
            net,
            link: (near, near + rng.pick(&[MS / 10, 2 * MS])),
            link_loss: rng.pick(&[0, 0, 2]),
            interval: rng.pick(&[60, 200, 500, 1500]) * MS,
            pause: slow,
            cut_late: rng.pick(&[MS / 10, 10 * MS, 40 * MS]),
            ring: rng.pick(&[MS / 20, MS, 5 * MS]),
            vif: rng.pick(&[MS / 20, MS / 2, 3 * MS]),
            batch: rng.pick(&[MS / 20, MS / 2, 2 * MS]),
            pieces: rng.range(1, 8),
            detect,
            faults,
            tied,
            policy: rng.pick(&[OnDivergence::Reset, OnDivergence::Serve, OnDivergence::Ignore]),
            random,
        }
    }
}

fn talks(rng: &mut Rng, client: u8, random: bool) -> Vec<Talk> {
    let (mut id, mut talks) = (0, Vec::new());
    let size = rng.pick(&[40, 40, 700, 2500]);
    for n in 0..rng.range(1, 5) {
        let requests: Vec<Request> = (0..rng.range(1, 16))
            .map(|_| {
                id += 1;
                Request {
                    client,
                    id,
                    key: u8::try_from(rng.range(0, KEYS as u64)).expect("few"),
                    value: u32::try_from(rng.range(1, 1 << 32)).expect("32 bits"),
                    len: u16::try_from(rng.range(20, 21 + size)).expect("short"),
                    random: random && rng.chance(30),
                }
            })
            .collect();
        let abort_at = rng.chance(8).then(|| usize::try_from(rng.range(0, 6)).expect("few"));
        talks.push(Talk {
            gap: if n == 0 { rng.range(20 * MS, 400 * MS) } else { rng.range(MS, 100 * MS) },
            depth: usize::try_from(rng.pick(&[1, 1, 2, 5])).expect("few"),
            think: rng.pick(&[0, 5, 40, 150]) * MS,
            abort_at,
            same_port: n > 0 && rng.chance(25),
            requests,
        });
    }
    talks
}
