//! Both replication machines under any sequence of calls: a peer that lies, a clock that
//! jumps, and a driver that mixes up its connections.

mod backup;
mod primary;

use super::Input;
use backup::BackupHost;
use llm_core::replication::{
    Addresses, Commit, Goodbye, GoodbyeReason, Heartbeat, Hello, MESSAGE_MAX, Message, Mode, OnBackupLoss,
    Path, Refusal, RefuseReason, Timing, Welcome,
};
use primary::PrimaryHost;

/// Interprets `data` as operations on a primary and a backup of the same session.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let policy = if input.u8() & 1 == 0 { OnBackupLoss::Stop } else { OnBackupLoss::GoOn };
    let timing = Timing::from_millis(20, 100, 10).expect("good times");
    let mut primary = PrimaryHost::new(timing, policy);
    let mut backup = BackupHost::new(timing);
    while !input.is_empty() {
        let op = input.u8();
        match op & 3 {
            0 => primary.operate(op >> 2, &mut input),
            1 => backup.operate(op >> 2, &mut input),
            // What one machine says reaches the other, or its hello does.
            2 => {
                if let Some((path, message)) = take(&mut primary.said, input.u8()) {
                    backup.hear(path, &message);
                }
            }
            _ => {
                if let Some((path, message)) = take(&mut backup.said, input.u8()) {
                    primary.hear(path, &message);
                }
            }
        }
        primary.check();
        backup.check();
    }
}

type Said = Vec<(Path, Message)>;

fn take(said: &mut Said, at: u8) -> Option<(Path, Message)> {
    if said.is_empty() { None } else { Some(said.remove(usize::from(at) % said.len())) }
}

fn path(byte: u8) -> Path {
    Path::ALL[usize::from(byte & 1)]
}

const fn index(path: Path) -> usize {
    match path {
        Path::Control => 0,
        Path::Bulk => 1,
    }
}

/// Mostly small steps forward; now and then anywhere.
fn step(now: &mut u64, input: &mut Input<'_>) {
    *now = match input.u8() {
        255 => input.u64(),
        254 => now.saturating_sub(input.u64() >> 32),
        ms => now.saturating_add(u64::from(ms) * 1_000_000),
    };
}

/// A number near `near`, or any.
fn number(near: u64, input: &mut Input<'_>) -> u64 {
    match input.u8() {
        255 => input.u64(),
        byte => near.wrapping_add(u64::from(byte & 3)).wrapping_sub(1),
    }
}

fn round_trip(message: &Message) {
    let mut buf = [0; MESSAGE_MAX];
    let bytes = message.encode(&mut buf).expect("room for any message");
    assert_eq!(Message::decode(bytes).as_ref(), Ok(message));
}

fn hostile(input: &mut Input<'_>, sent: u64, epoch: u64, timing: (u32, u32, u32)) -> Message {
    let echo = number(sent, input);
    let reasons = [GoodbyeReason::Released, GoodbyeReason::Failing, GoodbyeReason::ShuttingDown];
    let refusals = [
        RefuseReason::Version,
        RefuseReason::DomainBusy,
        RefuseReason::TakenOver,
        RefuseReason::UnknownSession,
        RefuseReason::Corrupt,
    ];
    match input.u8() % 10 {
        0 => Message::Hello(hello(input, sent, timing)),
        1 => Message::Welcome(Welcome {
            version: u16::from(input.u8() % 3),
            features: input.u64(),
            incarnation: u64::from(input.u8() % 3),
            next_seq: number(1, input),
            committed: (input.u8() & 1 == 0).then(|| number(epoch, input)),
            echo,
        }),
        2 => {
            let reason = refusals[usize::from(input.u8()) % refusals.len()];
            Message::Refuse(Refusal::new(reason, format_args!("{echo}")))
        }
        3 | 4 => Message::Heartbeat(Heartbeat { sent: number(sent, input), echo }),
        5 | 6 => Message::Commit(Commit { epoch: number(epoch, input), echo }),
        7 => Message::Addresses(Addresses { mac: [2; 6], ips: [[10, 0, 0, 1].into()].into_iter().collect() }),
        8 => Message::Goodbye(Goodbye { reason: reasons[usize::from(input.u8()) % reasons.len()] }),
        // Ends most runs, so it is rare.
        _ if input.u8() == 0 => Message::TakenOver,
        _ => Message::decode(input.bytes(9)).unwrap_or(Message::Heartbeat(Heartbeat { sent, echo })),
    }
}

fn hello(input: &mut Input<'_>, sent: u64, (interval_ms, detect_ms, heartbeat_ms): (u32, u32, u32)) -> Hello {
    let odd = input.u8();
    Hello {
        min: u16::from(odd == 1) * 2,
        max: 2,
        features: input.u64(),
        session: if odd == 2 { 8 } else { 7 },
        resume: (odd & 16 != 0).then(|| u64::from(input.u8() % 3)),
        path: path(odd >> 3),
        mode: if odd == 4 { Mode::Llm } else { Mode::Remus },
        domain: "web".try_into().expect("short"),
        interval_ms: if odd == 5 { 0 } else { interval_ms },
        detect_ms,
        heartbeat_ms,
        shadow_pages: if odd == 6 { u64::MAX } else { 16 },
        sent: number(sent, input),
    }
}
