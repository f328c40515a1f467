use super::super::{EpochEnd, FEATURES};
use super::*;
use std::vec::Vec;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * MS)
}

/// detect 1000, heartbeat 100 (milliseconds).
fn hello(path: Path, sent: u64) -> Hello {
    Hello {
        min: 1,
        max: 1,
        features: 0,
        session: 9,
        resume: None,
        path,
        mode: Mode::Remus,
        domain: String::try_from("web").unwrap(),
        interval_ms: 200,
        detect_ms: 1000,
        heartbeat_ms: 100,
        shadow_pages: 10,
        sent,
    }
}

fn offer() -> Offer {
    Offer { modes: ModeSet::of(&[Mode::Remus]), shadow_pages_max: 10, features: FEATURES }
}

fn admit(hello: &Hello, holder: Holder<'_>) -> Result<Backup, RefuseReason> {
    Backup::admit(hello, holder, &offer(), 5, at(0)).map_err(|refusal| refusal.reason)
}

fn sent(backup: &mut Backup) -> Vec<(Path, Message)> {
    core::iter::from_fn(|| backup.poll_transmit().map(|(c, m)| (c.path, m))).collect()
}

fn events(backup: &mut Backup) -> Vec<BackupEvent> {
    core::iter::from_fn(|| backup.poll_event()).collect()
}

/// Both paths up at 0, everything drained.
fn up() -> (Backup, [ConnectionId; 2]) {
    let first = hello(Path::Control, 7);
    let mut b = admit(&first, Holder::Nobody).unwrap();
    let ids = Path::ALL.map(|path| b.handle_hello(&hello(path, 7), at(0)).unwrap());
    assert_eq!(sent(&mut b).len(), 2);
    (b, ids)
}

fn end(epoch: u64) -> EpochEnd {
    EpochEnd::new(epoch, 0, 0, 0)
}

/// As [`up`], with epoch 1 committed and handed over.
fn committed() -> (Backup, [ConnectionId; 2]) {
    let (mut b, ids) = up();
    assert_eq!(b.data_received(ids[1], 1), Data::Accept);
    b.epoch_complete(ids[1], &end(1), true, at(0)).unwrap();
    let commit = Message::Commit(Commit { epoch: 1, echo: 7 });
    assert_eq!(sent(&mut b), [(Path::Control, commit.clone()), (Path::Bulk, commit)]);
    assert_eq!(events(&mut b), [BackupEvent::HandOver { epoch: 1 }]);
    (b, ids)
}

/// Calls the machine whenever it wants to be called, up to `ms`.
fn sleep_until(backup: &mut Backup, ms: u64) {
    while let Some(next) = backup.poll_timeout().filter(|&next| next <= at(ms)) {
        backup.handle_timeout(next);
    }
}

fn beat(sent: u64) -> Message {
    Message::Heartbeat(Heartbeat { sent, echo: 0 })
}

#[test]
fn bad_hellos_are_refused_with_their_reason() {
    let good = hello(Path::Control, 7);
    assert!(admit(&good, Holder::Nobody).is_ok());
    let cases = [
        (Hello { min: 2, max: 3, ..good.clone() }, RefuseReason::Version),
        (Hello { min: 0, max: 0, ..good.clone() }, RefuseReason::Version),
        (Hello { min: 3, max: 2, ..good.clone() }, RefuseReason::Version),
        (Hello { mode: Mode::Llm, ..good.clone() }, RefuseReason::Mode),
        (Hello { detect_ms: 1, ..good.clone() }, RefuseReason::Timing),
        (Hello { shadow_pages: 11, ..good.clone() }, RefuseReason::ShadowLimit),
        (Hello { resume: Some(4), ..good.clone() }, RefuseReason::UnknownSession),
        (Hello { session: 0, ..good.clone() }, RefuseReason::Malformed),
    ];
    for (bad, reason) in cases {
        assert_eq!(admit(&bad, Holder::Nobody).unwrap_err(), reason);
    }
    assert!(admit(&Hello { min: 0, max: 9, ..good.clone() }, Holder::Nobody).is_ok());
    assert_eq!(admit(&good, Holder::Domain).unwrap_err(), RefuseReason::TakenOver);
}

#[test]
fn a_name_is_free_again_once_its_session_is_over() {
    let next = Hello { session: 10, ..hello(Path::Control, 1) };
    let (mut b, _) = up();
    assert_eq!(admit(&next, Holder::Session(&b)).unwrap_err(), RefuseReason::DomainBusy);
    // A first copy is dear: it is kept five times as long.
    sleep_until(&mut b, 4900);
    assert!(!events(&mut b).iter().any(|e| matches!(e, BackupEvent::Discard { .. })));
    sleep_until(&mut b, 5000);
    assert_eq!(events(&mut b), [BackupEvent::Discard { reason: DiscardReason::NeverCommitted }]);
    assert!(admit(&next, Holder::Session(&b)).is_ok());
    let late = b.handle_hello(&hello(Path::Bulk, 9), at(5100)).unwrap_err();
    assert_eq!(late.reason, RefuseReason::UnknownSession);

    let (mut b, _) = committed();
    sleep_until(&mut b, 1000);
    assert_eq!(admit(&next, Holder::Session(&b)).unwrap_err(), RefuseReason::TakenOver);
}

#[test]
fn further_hellos_must_agree_and_be_newer() {
    let (mut b, [_, bulk]) = up();
    let other = Hello { shadow_pages: 9, ..hello(Path::Bulk, 8) };
    assert_eq!(b.handle_hello(&other, at(1)).unwrap_err().reason, RefuseReason::Mismatch);
    let lost = Hello { resume: Some(6), ..hello(Path::Bulk, 8) };
    assert_eq!(b.handle_hello(&lost, at(1)).unwrap_err().reason, RefuseReason::UnknownSession);
    assert_eq!(b.handle_hello(&hello(Path::Bulk, 6), at(1)).unwrap_err().reason, RefuseReason::Stale);
    let again = Hello { resume: Some(5), ..hello(Path::Bulk, 8) };
    let newer = b.handle_hello(&again, at(2)).unwrap();
    let reason = LostReason::Superseded;
    assert_eq!(events(&mut b), [BackupEvent::PathLost { connection: bulk, reason }]);
    assert_eq!(b.data_received(bulk, 1), Data::Stale);
    assert_eq!(b.handle_message(bulk, &beat(99), at(3)), Err(StaleConnection));
    assert_eq!(b.data_received(newer, 1), Data::Accept);
}

#[test]
fn data_comes_in_order_or_not_at_all() {
    let (mut b, [control, bulk]) = up();
    assert_eq!(b.data_received(control, 1), Data::Stale);
    assert_eq!(b.data_received(bulk, 1), Data::Accept);
    assert_eq!(b.data_received(bulk, 1), Data::Duplicate);
    assert_eq!(b.data_received(bulk, 3), Data::Gap { expected: 2 });
    assert_eq!(b.data_received(bulk, 2), Data::Stale, "the connection is given up");
    let again = b.handle_hello(&hello(Path::Bulk, 8), at(1)).unwrap();
    assert!(matches!(&sent(&mut b)[..], [(_, Message::Welcome(w))] if w.next_seq == 2 && w.echo == 8));
    assert_eq!(b.data_received(again, 2), Data::Accept);
}

#[test]
fn bad_epoch_is_never_committed_nor_any_after_it() {
    for (bad, digest_ok) in [(2, false), (3, true), (1, true)] {
        let (mut b, [control, bulk]) = committed();
        let Err(EpochError::Corrupt(refusal)) = b.epoch_complete(bulk, &end(bad), digest_ok, at(1)) else {
            panic!("epoch {bad} passed")
        };
        assert_eq!(refusal.reason, RefuseReason::Corrupt);
        assert_eq!(b.epoch_complete(bulk, &end(2), true, at(1)), Err(EpochError::Stale));
        assert_eq!(b.handle_hello(&hello(Path::Bulk, 8), at(2)).unwrap_err().reason, RefuseReason::Corrupt);
        b.handle_message(control, &beat(8), at(2)).unwrap();
        sleep_until(&mut b, 1002);
        let [BackupEvent::TakeOver { committed: 1, .. }] = events(&mut b)[..] else {
            panic!("epoch 1 is good")
        };
    }
}

#[test]
fn backlog_delays_the_commit() {
    let (mut b, [_, bulk]) = committed();
    b.set_backlog(true, at(1));
    b.epoch_complete(bulk, &end(2), true, at(1)).unwrap();
    assert_eq!((b.committed(), events(&mut b).len(), sent(&mut b).len()), (Some(1), 0, 0));
    b.set_backlog(false, at(2));
    assert_eq!(events(&mut b), [BackupEvent::HandOver { epoch: 2 }]);
    assert_eq!(sent(&mut b).len(), 2);
}

#[test]
fn takes_over_after_silence_on_both_paths_and_says_so() {
    let (mut b, [control, bulk]) = committed();
    b.handle_message(bulk, &beat(50), at(500)).unwrap();
    b.handle_disconnected(control, at(510));
    b.handle_disconnected(bulk, at(510));
    assert_eq!(b.poll_timeout(), Some(at(1500)));
    b.handle_timeout(at(1499));
    assert_eq!(b.phase(), BackupPhase::Protecting);
    b.handle_timeout(at(1500));
    let all = events(&mut b);
    let lasted = crate::time::Duration::from_secs(1);
    let reason = TakeOverReason::Silence { lasted };
    assert_eq!(all.last(), Some(&BackupEvent::TakeOver { committed: 1, reason }));
    let late = b.handle_hello(&hello(Path::Bulk, 60), at(1600)).unwrap();
    assert_eq!(sent(&mut b), [(Path::Bulk, Message::TakenOver)]);
    b.handle_message(late, &beat(61), at(1700)).unwrap();
    assert_eq!(sent(&mut b), [(Path::Bulk, Message::TakenOver)]);
    assert_eq!(b.data_received(late, 2), Data::Stale);
    assert!(b.epoch_complete(late, &end(2), true, at(1700)).is_err());
}

#[test]
fn thawed_backup_listens_once_before_it_acts() {
    let (mut b, [control, _]) = committed();
    b.handle_timeout(at(5000));
    assert_eq!(b.phase(), BackupPhase::Protecting);
    let mut alive = b.clone();
    alive.handle_message(control, &beat(70), at(5010)).unwrap();
    alive.handle_timeout(at(5500));
    assert_eq!(alive.phase(), BackupPhase::Protecting);
    b.handle_timeout(at(5199));
    assert_eq!(b.phase(), BackupPhase::Protecting);
    b.handle_timeout(at(9000));
    assert_eq!(b.phase(), BackupPhase::TakenOver, "the excuse counts once");
}

#[test]
fn goodbyes_of_the_primary() {
    let bye = |reason| Message::Goodbye(Goodbye { reason });
    let cases = [
        (GoodbyeReason::Failing, BackupPhase::TakenOver, Message::TakenOver),
        (
            GoodbyeReason::Released,
            BackupPhase::Discarded(DiscardReason::Released),
            bye(GoodbyeReason::Released),
        ),
        (
            GoodbyeReason::ShuttingDown,
            BackupPhase::Discarded(DiscardReason::DomainEnded),
            bye(GoodbyeReason::ShuttingDown),
        ),
    ];
    for (reason, phase, answer) in cases {
        let (mut b, [control, _]) = committed();
        b.handle_message(control, &bye(reason), at(10)).unwrap();
        assert_eq!(b.phase(), phase);
        assert_eq!(sent(&mut b), [(Path::Control, answer.clone()), (Path::Bulk, answer.clone())]);
        assert_eq!(events(&mut b).len(), 1);
        b.handle_hello(&hello(Path::Bulk, 9), at(20)).unwrap();
        assert_eq!(sent(&mut b), [(Path::Bulk, answer)], "a lost answer is given again");
    }
    let (mut b, [control, _]) = up();
    b.handle_message(control, &bye(GoodbyeReason::Failing), at(10)).unwrap();
    assert_eq!(b.phase(), BackupPhase::Discarded(DiscardReason::NeverCommitted));
}

#[test]
fn service_that_ends_says_goodbye() {
    let (mut b, _) = committed();
    b.shutdown(at(5));
    assert_eq!(events(&mut b), [BackupEvent::Discard { reason: DiscardReason::ShuttingDown }]);
    let reason = GoodbyeReason::ShuttingDown;
    assert_eq!(sent(&mut b)[0], (Path::Control, Message::Goodbye(Goodbye { reason })));
    b.handle_timeout(at(9999));
    assert_eq!(b.phase(), BackupPhase::Discarded(DiscardReason::ShuttingDown));
}

#[test]
fn what_only_a_backup_says_ends_the_connection() {
    let (mut b, [control, bulk]) = committed();
    b.handle_message(control, &Message::TakenOver, at(1)).unwrap();
    b.handle_message(bulk, &Message::Hello(hello(Path::Bulk, 9)), at(1)).unwrap();
    assert_eq!(events(&mut b).len(), 2);
    assert!(!b.is_connected(Path::Control) && !b.is_connected(Path::Bulk));
}

#[test]
fn heartbeats_echo_the_newest_of_both_paths() {
    let (mut b, [control, bulk]) = up();
    b.handle_message(bulk, &beat(90), at(90)).unwrap();
    b.handle_message(control, &beat(80), at(95)).unwrap();
    b.handle_timeout(at(100));
    let expected = Message::Heartbeat(Heartbeat { sent: 100 * MS, echo: 90 });
    assert_eq!(sent(&mut b), [(Path::Control, expected.clone()), (Path::Bulk, expected)]);
    assert_eq!(b.poll_timeout(), Some(at(200)));
}

/// As [`up`], with an input log.
fn up_with_log() -> (Backup, [ConnectionId; 2]) {
    let with_log = |path| Hello { mode: Mode::Llm, ..hello(path, 7) };
    let offer = Offer { modes: ModeSet::of(&[Mode::Llm]), shadow_pages_max: 10, features: FEATURES };
    let mut b = Backup::admit(&with_log(Path::Control), Holder::Nobody, &offer, 5, at(0)).unwrap();
    let ids = Path::ALL.map(|path| b.handle_hello(&with_log(path), at(0)).unwrap());
    assert_eq!(sent(&mut b).len(), 2);
    (b, ids)
}

#[test]
fn log_frames_are_acknowledged_in_order_and_once_kept() {
    let (mut b, ids) = up_with_log();
    assert_eq!(b.log_received(ids[1], 1), Data::Stale, "not on the bulk path");
    assert_eq!(b.log_received(ids[0], 1), Data::Accept);
    assert_eq!(b.log_received(ids[0], 2), Data::Accept);
    let ack = |next_seq| (Path::Control, Message::LogAck(LogAck { next_seq }));
    assert_eq!(sent(&mut b), [ack(3)], "one answer for both");
    assert_eq!(b.log_received(ids[0], 2), Data::Duplicate);
    assert_eq!(sent(&mut b), [ack(3)]);
    let again = b.handle_hello(&Hello { mode: Mode::Llm, ..hello(Path::Control, 8) }, at(1)).unwrap();
    let next = sent(&mut b).into_iter().find_map(|(path, message)| match message {
        Message::Welcome(welcome) if path == Path::Control => Some(welcome.next_seq),
        _ => None,
    });
    assert_eq!(next, Some(3), "a new connection goes on where the old one ended");
    assert_eq!(b.log_received(ids[0], 3), Data::Stale);
    assert_eq!(b.log_received(again, 4), Data::Gap { expected: 3 });
    assert_eq!(sent(&mut b), []);
}

#[test]
fn without_a_log_its_frames_are_refused() {
    let (mut b, ids) = up();
    assert_eq!(b.log_received(ids[0], 1), Data::Stale);
    assert_eq!(sent(&mut b), []);
}

#[test]
fn an_epoch_waits_for_its_cut_in_the_log() {
    let (mut b, ids) = up_with_log();
    assert_eq!(b.data_received(ids[1], 1), Data::Accept);
    b.epoch_complete(ids[1], &end(1), true, at(0)).unwrap();
    assert_eq!((b.committed(), events(&mut b).len()), (None, 0));
    b.cut_received(1, at(0));
    assert_eq!(b.committed(), Some(1));
    assert_eq!(events(&mut b), [BackupEvent::HandOver { epoch: 1 }]);
    b.cut_received(2, at(0));
    assert_eq!(b.committed(), Some(1), "the cut alone is no epoch");
    b.epoch_complete(ids[1], &end(2), true, at(0)).unwrap();
    assert_eq!(b.committed(), Some(2));
}

#[test]
fn only_what_both_have_is_agreed_on() {
    let features = |offered, given| {
        let hello = |path| Hello { features: offered, ..hello(path, 7) };
        let offer = Offer { features: given, ..offer() };
        let mut b = Backup::admit(&hello(Path::Control), Holder::Nobody, &offer, 5, at(0)).unwrap();
        // The same abilities are offered on both paths, whatever came of it.
        for path in Path::ALL {
            b.handle_hello(&hello(path), at(0)).unwrap();
        }
        for (_, message) in sent(&mut b) {
            assert!(matches!(message, Message::Welcome(welcome) if welcome.features == b.features()));
        }
        b.features()
    };
    assert_eq!(features(3, 3), 3);
    assert_eq!(features(3, 2), 2);
    assert_eq!(features(1, 2), 0);
    assert_eq!(features(0, 3), 0, "an older primary");
    assert_eq!(features(u64::MAX, 3), 3, "a newer one");
    assert_eq!(features(u64::MAX, u64::MAX), FEATURES);
}
