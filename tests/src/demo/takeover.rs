//! What both hosts say of a failover, beside what its clients saw.

use llm_dom0::control::{FidelityStatus, PrimaryStatus, ReplayStatus, SessionStatus, TakeoverStatus};

use crate::report::{Fidelity, Quantiles, ReplayTimes, Run};

/// The primary's last word before it died.
pub(super) fn with_primary(mut run: Run, primary: &PrimaryStatus) -> Run {
    run.pages_sent = Some(primary.pages_sent);
    run.bytes_raw = Some(primary.bytes_raw);
    run.bytes_sent = Some(primary.bytes_sent);
    if run.pause_ms.is_none() {
        run.pause_ms = Some(Quantiles { p50: primary.pause.p50_ms, p99: primary.pause.p99_ms });
    }
    run.notes.push(format!(
        "Real interval {} ms, {} epochs later than wanted, commit {:.1} ms after a checkpoint's end.",
        primary.real_interval_ms, primary.stretched, primary.commit_ms
    ));
    run
}

/// The backup's report once it serves; `failed_ns` is the fault on the clients' clock.
pub(super) fn with_session(mut run: Run, session: &SessionStatus, failed_ns: u64) -> Run {
    run.epochs_committed = Some(session.epochs_committed);
    let Some(takeover) = &session.takeover else { return run };
    run.detect_ms = Some(takeover.detect_ms);
    let at = |ms: f64| failed_ns + (ms * 1e6) as u64;
    run.event(at(takeover.detect_ms), "the backup takes over");
    run.event(at(takeover.detect_ms + takeover.running_ms), "the guest runs on the backup");
    run.notes.push(format!(
        "Take-over: {:.0} ms of silence, {:.0} ms until xl had every committed epoch, {:.0} ms until the guest ran.",
        takeover.detect_ms, takeover.handover_ms, takeover.running_ms
    ));
    match &takeover.replay {
        Some(replay) => {
            run.event(at(takeover.detect_ms + replay.live_ms), "the log is replayed, clients are served");
            with_replay(run, replay)
        }
        None => without_replay(run, takeover),
    }
}

/// Mode `remus`: the copy runs, and then it is announced.
fn without_replay(mut run: Run, takeover: &TakeoverStatus) -> Run {
    run.take_over_ms = Some(takeover.running_ms);
    run.go_live_ms = Some((takeover.announced_ms - takeover.running_ms).max(0.0));
    run
}

/// What the backup says of its replay.
fn with_replay(mut run: Run, replay: &ReplayStatus) -> Run {
    let total = replay.probing_ms + replay.walking_ms + replay.catching_up_ms;
    run.take_over_ms = Some(replay.begun_ms);
    run.replay_ms = Some(ReplayTimes {
        probe: replay.probing_ms,
        walk: replay.walking_ms,
        catch_up: replay.catching_up_ms,
        total,
    });
    run.go_live_ms = Some((replay.live_ms - replay.begun_ms - total).max(0.0));
    let fidelity = |s: &FidelityStatus| {
        (s.port, Fidelity { identical: s.identical, different: s.different, unknown: s.unknown })
    };
    run.replay_fidelity = Some(replay.services.iter().map(fidelity).collect());
    run.notes.push(told(replay));
    run.with_resets(replay.resets.iter().map(|(cause, count)| (cause.clone(), u64::from(*count))).collect())
}

/// The replay in words.
fn told(replay: &ReplayStatus) -> String {
    let (mut same, mut all) = (0, 0);
    for service in &replay.services {
        same += service.identical;
        all += service.identical + service.different + service.unknown;
    }
    format!(
        "Replay: {} records; begun {:.0} ms after the decision, probing {:.0} ms, walking {:.0} ms, catching up {:.0} ms, live after {:.0} ms. \
         {} connections go on, reset: {:?}. {same} of {all} reply bytes came out identical, {} waits timed out.",
        replay.records,
        replay.begun_ms,
        replay.probing_ms,
        replay.walking_ms,
        replay.catching_up_ms,
        replay.live_ms,
        replay.carried,
        replay.resets,
        replay.stalls
    )
}
