use super::super::message::{Commit, Refusal, RefuseReason, Welcome};
use super::*;
use crate::time::Duration;
use std::vec::Vec;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * MS)
}

/// detect 1000, lease 800, heartbeat 100, silence 500; interval 200 (milliseconds).
fn config(on_backup_loss: OnBackupLoss) -> PrimaryConfig {
    PrimaryConfig {
        session: 9,
        domain: String::try_from("web").unwrap(),
        mode: Mode::Remus,
        timing: Timing::from_millis(200, 1000, 100).unwrap(),
        shadow_pages: 10,
        on_backup_loss,
        features: FEATURES,
        max_open_epochs: 1,
    }
}

fn events(primary: &mut Primary) -> Vec<PrimaryEvent> {
    core::iter::from_fn(|| primary.poll_event()).collect()
}

fn sent(primary: &mut Primary) -> Vec<(Path, Message)> {
    core::iter::from_fn(|| primary.poll_transmit().map(|(c, m)| (c.path, m))).collect()
}

fn dials(primary: &mut Primary) -> Vec<ConnectionId> {
    let connect = |e| if let PrimaryEvent::Connect { connection } = e { Some(connection) } else { None };
    events(primary).into_iter().filter_map(connect).collect()
}

fn welcome(next_seq: u64, committed: Option<u64>, echo: u64) -> Message {
    Message::Welcome(Welcome {
        version: 1,
        features: 0,
        incarnation: 5,
        next_seq,
        committed,
        echo: echo * MS,
    })
}

fn beat(echo: u64) -> Message {
    Message::Heartbeat(Heartbeat { sent: 1, echo: echo * MS })
}

/// Both paths up at `ms`, everything drained.
fn up_at(ms: u64, on_backup_loss: OnBackupLoss) -> (Primary, [ConnectionId; 2]) {
    let mut primary = Primary::new(config(on_backup_loss), at(ms));
    let dialled = dials(&mut primary);
    for &connection in &dialled {
        primary.handle_connected(connection, at(ms)).unwrap();
        assert!(matches!(&sent(&mut primary)[..], [(path, Message::Hello(h))] if *path == h.path));
        primary.handle_message(connection, &welcome(1, None, ms), at(ms)).unwrap();
    }
    let names = events(&mut primary);
    assert!(matches!(
        &names[..],
        [
            PrimaryEvent::Connected { .. },
            PrimaryEvent::Connected { .. },
            PrimaryEvent::Resume { next_seq: 1, .. }
        ]
    ));
    (primary, dialled.try_into().unwrap())
}

#[test]
fn output_waits_for_its_commit_and_for_the_lease() {
    let (mut p, [control, _]) = up_at(1000, OnBackupLoss::Stop);
    assert!(!p.holds_output(), "the first epoch is under way");
    assert!(!p.may_checkpoint(at(1199)) && p.may_checkpoint(at(1200)));
    p.epoch_closed(1, at(1200)).unwrap();
    assert!(p.holds_output() && p.may_release(at(1799)) && !p.may_release(at(1800)));
    assert!(!p.may_checkpoint(at(9999)), "one epoch is open");
    p.handle_message(control, &Message::Commit(Commit { epoch: 1, echo: 1000 * MS }), at(1250)).unwrap();
    assert_eq!(
        events(&mut p),
        [
            PrimaryEvent::Committed { epoch: 1, latency: Duration::from_millis(50) },
            PrimaryEvent::Release { epoch: 1 }
        ]
    );
    assert!(p.may_checkpoint(at(1400)));
}

#[test]
fn commit_after_the_lease_waits_for_a_new_echo() {
    let (mut p, [control, _]) = up_at(0, OnBackupLoss::Stop);
    p.epoch_closed(1, at(10)).unwrap();
    let commit = Message::Commit(Commit { epoch: 1, echo: 0 });
    p.handle_message(control, &commit, at(800)).unwrap();
    let Some([PrimaryEvent::Committed { .. }, PrimaryEvent::BackupLost { since }]) =
        events(&mut p).first_chunk().cloned()
    else {
        panic!("the epoch is committed, and nothing is released")
    };
    assert_eq!(since, at(800));
    p.handle_timeout(at(850));
    assert!(sent(&mut p).iter().any(|(_, m)| matches!(m, Message::Heartbeat(h) if h.sent == 850 * MS)));
    p.handle_message(control, &beat(850), at(900)).unwrap();
    let all = events(&mut p);
    assert!(all.contains(&PrimaryEvent::BackupBack { after: Duration::from_millis(100) }));
    assert!(all.contains(&PrimaryEvent::Release { epoch: 1 }));
}

#[test]
fn false_echo_or_commit_ends_the_connection_and_releases_nothing() {
    for lie in
        [beat(1), Message::Commit(Commit { epoch: 2, echo: 0 }), Message::TakenOver, welcome(1, None, 0)]
    {
        let (mut p, [control, bulk]) = up_at(0, OnBackupLoss::Stop);
        p.epoch_closed(1, at(0)).unwrap();
        p.handle_message(bulk, &lie, at(5)).unwrap();
        let all = events(&mut p);
        assert!(!all.iter().any(|e| matches!(e, PrimaryEvent::Release { .. })), "{lie:?}");
        assert_eq!(all.contains(&PrimaryEvent::StopDomain), lie == Message::TakenOver);
        assert_eq!(p.handle_message(bulk, &beat(0), at(6)), Err(StaleConnection));
        assert_eq!(p.handle_message(control, &beat(0), at(6)).is_err(), lie == Message::TakenOver);
    }
}

#[test]
fn silent_path_is_dialled_anew_with_back_off() {
    let (mut p, [control, bulk]) = up_at(0, OnBackupLoss::Stop);
    for ms in (100..=500).step_by(100) {
        p.handle_message(control, &beat(0), at(ms)).unwrap();
        p.handle_timeout(at(ms));
    }
    let reason = LostReason::Silent;
    assert_eq!(events(&mut p), [PrimaryEvent::PathLost { connection: bulk, reason }]);
    let mut waits = Vec::new();
    let mut now = at(500);
    for _ in 0..7 {
        // Control goes on; only the bulk path is counted.
        let dialled = loop {
            let next = p.poll_timeout().unwrap();
            p.handle_message(control, &beat(0), next).unwrap();
            p.handle_timeout(next);
            if let [connection] = dials(&mut p)[..] {
                break connection;
            }
        };
        let when = p.now;
        waits.push(when.since(now).as_millis());
        now = when;
        p.handle_disconnected(dialled, now);
    }
    assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000]);
    assert_eq!(p.handle_connected(bulk, now), Err(StaleConnection));
}

#[test]
fn resumes_where_the_backup_stands_and_learns_lost_commits() {
    let (mut p, [control, bulk]) = up_at(0, OnBackupLoss::Stop);
    p.epoch_closed(1, at(20)).unwrap();
    p.handle_disconnected(control, at(30));
    p.handle_disconnected(bulk, at(30));
    p.handle_timeout(at(80));
    for connection in dials(&mut p) {
        p.handle_connected(connection, at(81)).unwrap();
        let hello = sent(&mut p);
        assert!(matches!(&hello[..], [(_, Message::Hello(h))] if h.resume == Some(5)));
        p.handle_message(connection, &welcome(7, Some(1), 81), at(90)).unwrap();
    }
    let all = events(&mut p);
    assert!(all.iter().any(|e| matches!(e, PrimaryEvent::Resume { next_seq: 7, .. })));
    assert!(all.contains(&PrimaryEvent::Release { epoch: 1 }));
}

#[test]
fn commit_that_overtakes_a_welcome_is_no_restart() {
    let (mut p, [control, bulk]) = up_at(0, OnBackupLoss::Stop);
    p.epoch_closed(1, at(0)).unwrap();
    p.handle_disconnected(control, at(2));
    p.handle_timeout(at(52));
    let again = dials(&mut p)[0];
    p.handle_connected(again, at(52)).unwrap();
    let _ = sent(&mut p);
    p.handle_message(bulk, &Message::Commit(Commit { epoch: 1, echo: 52 * MS }), at(54)).unwrap();
    p.handle_message(again, &welcome(1, None, 52), at(55)).unwrap();
    assert_eq!((p.phase(), p.committed()), (PrimaryPhase::Active, Some(1)));
    assert!(p.is_connected(Path::Control));
}

#[test]
fn restarted_backup_ends_the_session() {
    let gone = Message::Refuse(Refusal::new(RefuseReason::UnknownSession, format_args!("")));
    let mut other = welcome(1, Some(1), 30);
    if let Message::Welcome(w) = &mut other {
        w.incarnation = 6;
    }
    for message in [gone, other] {
        let (mut p, [control, _]) = up_at(0, OnBackupLoss::GoOn);
        p.epoch_closed(1, at(0)).unwrap();
        p.handle_message(control, &Message::Commit(Commit { epoch: 1, echo: 0 }), at(1)).unwrap();
        p.handle_disconnected(control, at(2));
        p.handle_timeout(at(52));
        let again = dials(&mut p)[0];
        p.handle_connected(again, at(52)).unwrap();
        let _ = sent(&mut p);
        p.handle_message(again, &message, at(60)).unwrap();
        assert!(events(&mut p).contains(&PrimaryEvent::BackupRestarted), "{message:?}");
        assert_eq!((p.phase(), p.poll_timeout()), (PrimaryPhase::Restarted, None));
        assert!(!p.may_release(at(60)));
    }
}

#[test]
fn policy_decides_without_a_backup() {
    for policy in [OnBackupLoss::Stop, OnBackupLoss::GoOn] {
        let (mut p, _) = up_at(0, policy);
        p.epoch_closed(1, at(0)).unwrap();
        while let Some(next) = p.poll_timeout().filter(|&next| next <= at(5000)) {
            p.handle_timeout(next);
            for connection in dials(&mut p) {
                p.handle_disconnected(connection, next);
            }
            if next < at(1800) {
                assert!(!p.may_release(at(800)) && p.phase() == PrimaryPhase::Active);
            }
        }
        assert_eq!(p.may_release(at(1800)), policy == OnBackupLoss::GoOn);
        assert_eq!(p.holds_output(), policy == OnBackupLoss::Stop);
        p.go_on(at(5001));
        assert!(p.may_release(at(5001)) && !p.holds_output());
    }
}

#[test]
fn release_waits_for_the_answer() {
    let (mut p, [control, _]) = up_at(0, OnBackupLoss::Stop);
    p.epoch_closed(1, at(0)).unwrap();
    p.release(at(10));
    let reason = GoodbyeReason::Released;
    let goodbye = Message::Goodbye(Goodbye { reason });
    assert_eq!(sent(&mut p), [(Path::Control, goodbye.clone()), (Path::Bulk, goodbye.clone())]);
    assert!(p.holds_output() && !p.may_checkpoint(at(900)));
    let mut unanswered = p.clone();
    p.handle_message(control, &goodbye, at(20)).unwrap();
    assert_eq!(events(&mut p).last(), Some(&PrimaryEvent::Released));
    assert!(!p.holds_output() && p.poll_timeout().is_none());
    unanswered.handle_timeout(at(2010));
    assert!(events(&mut unanswered).contains(&PrimaryEvent::ReleaseUnanswered));
    assert!(unanswered.holds_output());

    let (mut early, _) = up_at(0, OnBackupLoss::Stop);
    early.release(at(10));
    assert_eq!(events(&mut early), [PrimaryEvent::Released], "nothing is held there yet");
    assert_eq!(sent(&mut early).len(), 2);

    // Never welcomed: the backup may hold the copy of a session before this one.
    let mut unknown = Primary::new(config(OnBackupLoss::GoOn), at(0));
    unknown.release(at(10));
    unknown.handle_timeout(at(5000));
    assert!(events(&mut unknown).contains(&PrimaryEvent::ReleaseUnanswered));
    assert!(unknown.holds_output() && !unknown.may_release(at(5000)));
}

#[test]
fn failing_is_for_ever() {
    let (mut p, [control, bulk]) = up_at(0, OnBackupLoss::Stop);
    p.epoch_closed(1, at(0)).unwrap();
    p.handle_disconnected(bulk, at(1));
    p.handle_timeout(at(60));
    let dialled = dials(&mut p)[0];
    p.fail(at(70));
    assert_eq!(p.handle_connected(dialled, at(71)), Err(StaleConnection), "no Hello after the goodbye");
    assert!(matches!(&sent(&mut p)[..], [(Path::Control, Message::Goodbye(_))]));
    p.handle_message(control, &Message::Commit(Commit { epoch: 1, echo: 0 }), at(72)).unwrap();
    p.handle_timeout(at(400));
    assert!(!p.may_release(at(72)) && sent(&mut p).is_empty());
    assert!(!events(&mut p).iter().any(|e| matches!(e, PrimaryEvent::Release { .. })));
}

#[test]
fn stretched_intervals_and_early_checkpoints() {
    let (mut p, [control, _]) = up_at(0, OnBackupLoss::Stop);
    p.epoch_closed(1, at(5000)).unwrap();
    assert_eq!(events(&mut p), [], "the first epoch is long by nature");
    assert_eq!(p.epoch_closed(3, at(5001)), Err(SequenceError::Order { expected: 2, found: 3 }));
    p.handle_message(control, &Message::Commit(Commit { epoch: 1, echo: 0 }), at(5001)).unwrap();
    let _ = events(&mut p);
    assert_eq!(p.next_checkpoint_at(), Some(at(5200)));
    p.request_checkpoint(CheckpointReason::EgressPressure);
    assert!(p.may_checkpoint(at(5010)));
    p.epoch_closed(2, at(5251)).unwrap();
    let (wanted, real) = (Duration::from_millis(200), Duration::from_millis(251));
    assert_eq!(events(&mut p), [PrimaryEvent::IntervalStretched { wanted, real }]);
    assert_eq!(p.checkpoint_requested(), None);
    for epoch in 3..=17 {
        p.epoch_closed(epoch, at(5251)).unwrap();
    }
    assert_eq!(p.epoch_closed(18, at(5251)), Err(SequenceError::TooManyOpen { committed: 1 }));
}

#[test]
fn thawed_primary_reads_before_it_judges_but_its_lease_is_over() {
    let (mut p, [control, bulk]) = up_at(0, OnBackupLoss::Stop);
    p.epoch_closed(1, at(0)).unwrap();
    p.handle_timeout(at(9000));
    let all = events(&mut p);
    assert_eq!(all, [PrimaryEvent::BackupLost { since: at(800) }], "no path is given up yet");
    assert!(!p.may_release(at(9000)));
    p.handle_message(control, &Message::TakenOver, at(9001)).unwrap();
    assert_eq!(events(&mut p).last(), Some(&PrimaryEvent::StopDomain));
    assert!(p.handle_message(bulk, &beat(0), at(9001)).is_err());
}

#[test]
fn handled_timeouts_are_in_the_future() {
    let (mut p, _) = up_at(0, OnBackupLoss::GoOn);
    let mut now = at(0);
    for _ in 0..100 {
        let Some(next) = p.poll_timeout() else { break };
        assert!(next > now || now == at(0), "no spinning at {now:?}");
        now = next;
        p.handle_timeout(now);
        let _ = (events(&mut p), sent(&mut p));
    }
    assert_eq!(p.phase(), PrimaryPhase::Unprotected);
}

#[test]
fn every_event_has_a_slot_of_its_own() {
    use super::super::events::Slotted;
    let ids = Path::ALL.map(|path| ConnectionId { session: 9, path, number: 1 });
    let refusal = Refusal::new(RefuseReason::Full, format_args!(""));
    let zero = Duration::ZERO;
    let mut all = Vec::new();
    for connection in ids {
        all.push(PrimaryEvent::Connect { connection });
        all.push(PrimaryEvent::Connected { connection, version: 1, features: 0 });
        all.push(PrimaryEvent::PathLost { connection, reason: LostReason::Closed });
        all.push(PrimaryEvent::Refused { connection, refusal: refusal.clone() });
        all.push(PrimaryEvent::Resume { connection, next_seq: 1 });
    }
    all.push(PrimaryEvent::Committed { epoch: 1, latency: zero });
    all.push(PrimaryEvent::Release { epoch: 1 });
    all.push(PrimaryEvent::IntervalStretched { wanted: zero, real: zero });
    all.push(PrimaryEvent::BackupLost { since: at(0) });
    all.push(PrimaryEvent::BackupLeft);
    all.push(PrimaryEvent::BackupRestarted);
    all.push(PrimaryEvent::GoneUnprotected);
    all.push(PrimaryEvent::ReleaseUnanswered);
    all.push(PrimaryEvent::Released);
    all.push(PrimaryEvent::StopDomain);
    let mut slots: Vec<usize> = all.iter().map(Slotted::slot).collect();
    slots.sort_unstable();
    assert_eq!(slots, (0..PrimaryEvent::SLOTS).collect::<Vec<_>>());
}
