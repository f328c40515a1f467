//! What goes wrong in a run, and when: drawn from the seed.

use super::rng::Rng;
use super::{MS, Nanos, Options, Side};
use llm_core::replication::{OnBackupLoss, Path, Timing};

/// One thing that goes wrong, or that somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The newest connection of a path breaks.
    Break(Path),
    /// Nothing passes on a path towards one side for a time.
    Cut(Path, Side, Nanos),
    /// Nothing passes at all for a time.
    Partition(Nanos),
    /// A host stands still for a time; its clock does not.
    Freeze(Side, Nanos),
    /// A host is gone for ever.
    KillHost(Side),
    /// A service is killed, and started anew after a time.
    KillService(Side, Nanos),
    /// The backup has no room for epochs for a time.
    Backlog(Nanos),
    /// One bulk data frame is altered.
    Corrupt,
    /// Protection is ended on request.
    Release,
    /// The primary gives up.
    Fail,
    /// The backup's service ends as asked, and is started anew after a time.
    Leave(Nanos),
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) timing: Timing,
    pub(super) policy: OnBackupLoss,
    pub(super) latency: [Nanos; 2],
    /// The primary's driver lets out one packet at a time, so that some wait with their
    /// epoch long committed.
    pub(super) slow_egress: bool,
    /// Speed of each side's clock against true time, parts per million.
    pub(super) drift: [i64; 2],
    pub(super) faults: Vec<(Nanos, Fault)>,
    /// All that can heal has healed.
    pub(super) heal_at: Nanos,
}

impl Plan {
    pub(super) fn draw(rng: &mut Rng, options: &Options) -> Self {
        let detect = rng.pick(&[300, 500, 1000]);
        let heartbeat = detect / rng.pick(&[10, 6]);
        let timing =
            Timing::from_millis(rng.pick(&[20, 50, 100, 200]), detect, heartbeat).expect("good times");
        let latency = [rng.range(MS / 20, 10 * MS), rng.range(MS / 20, 25 * MS)];
        let mut drift = || i64::try_from(rng.range(0, 100_000)).expect("small") - 50_000;
        let drift = [drift(), drift()];
        let go_on = options.go_on;
        let heal_at = 6_000 * MS;
        let mut faults: Vec<(Nanos, Fault)> = (0..rng.range(1, 7))
            .map(|_| {
                let at = rng.range(100 * MS, heal_at - 1_000 * MS);
                (at, if go_on { draw_mild(rng) } else { draw(rng, u64::from(detect) * MS) })
            })
            .collect();
        faults.sort_by_key(|&(at, _)| at);
        Self {
            timing,
            policy: if go_on { OnBackupLoss::GoOn } else { OnBackupLoss::Stop },
            latency,
            slow_egress: rng.chance(40),
            drift,
            faults,
            heal_at,
        }
    }
}

fn side(rng: &mut Rng) -> Side {
    rng.pick(&[Side::Primary, Side::Backup])
}

fn draw(rng: &mut Rng, detect: Nanos) -> Fault {
    let path = rng.pick(&Path::ALL);
    let short = rng.range(MS, detect);
    let long = rng.range(detect / 2, detect * 4);
    match rng.range(0, 100) {
        0..22 => Fault::Break(path),
        22..32 => Fault::Cut(path, side(rng), long),
        32..40 => Fault::Partition(short),
        40..47 => Fault::Partition(long),
        47..55 => Fault::Freeze(side(rng), short),
        55..68 => Fault::Freeze(side(rng), long),
        68..74 => Fault::KillHost(side(rng)),
        74..82 => Fault::KillService(side(rng), long),
        82..87 => Fault::Backlog(long),
        87..90 => Fault::Corrupt,
        90..93 => Fault::Release,
        93..97 => Fault::Fail,
        _ => Fault::Leave(long),
    }
}

/// Without a partition: the policy to go on is unsafe under one, and says so.
fn draw_mild(rng: &mut Rng) -> Fault {
    match rng.range(0, 100) {
        0..50 => Fault::Break(rng.pick(&Path::ALL)),
        50..65 => Fault::KillHost(Side::Backup),
        65..85 => Fault::KillService(Side::Backup, rng.range(MS, 2_000 * MS)),
        85..95 => Fault::Leave(rng.range(MS, 2_000 * MS)),
        _ => Fault::Release,
    }
}
