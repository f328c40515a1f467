//! The checkers. They see all hosts at once and trust none.

use super::Summary;
use super::app::Reply;
use super::client::Account;
use super::guest::Bytes;
use super::plan::FIRST_CLIENT;
use super::primary::Snapshot;
use llm_core::flow::{Direction, FlowKey, Packet, VNET_HEADER, flags};
use llm_core::replay::{Cause, OnDivergence};
use std::collections::{HashMap, HashSet};

/// A rule that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// A packet left the primary before an input ahead of it was on the backup.
    LostInput,
    /// An input left the log that no committed checkpoint holds; or something acknowledged was not done.
    LostEffect,
    /// A request was done twice.
    DoneTwice,
    /// A client was told something else than what was done, and nobody said so.
    Contradiction,
    /// A reply came out otherwise although the guest is deterministic.
    Diverged,
    /// A timestamp that a client sees went back.
    ClockWentBack,
    /// An epoch was committed that is not whole.
    WholeEpochs,
    /// Output left the primary after the take-over.
    TwoActive,
    /// A connection was given up for no reason.
    NeedlessReset,
    /// A connection was reset, and nobody said so.
    SilentReset,
    /// A request was done before one that was answered before it was asked.
    Order,
    /// A client does not get to its end, or the replay does not.
    Liveness,
}

/// Which copy of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    Primary,
    Restored,
}

/// What clients could have seen of a connection.
#[derive(Debug, Default)]
struct Tapped {
    /// What the SYN-ACK acknowledged: it tells connections between the same ports apart.
    opened_by: u32,
    isn: u32,
    clock: Option<u32>,
    /// The guest has ended it, or the client has reset it.
    ended: bool,
    bytes: Vec<Option<u8>>,
}

#[derive(Debug, Default)]
pub(super) struct Checker {
    pub(super) broken: Option<(Rule, String)>,
    pub(super) summary: Summary,
    policy: OnDivergence,
    /// Nothing random was put into replies.
    deterministic: bool,
    /// The copy may do requests of different connections in another order.
    reorders: bool,
    taken_over: bool,
    flows: HashMap<FlowKey, Tapped>,
    /// Connections that the replay gave up, or whose replies it said to have changed.
    given_up: HashMap<FlowKey, Cause>,
    diverged: HashSet<FlowKey>,
    /// Bytes that came out otherwise, of all connections.
    different: u64,
    /// Bytes that could not be compared.
    unknown: u64,
    committed: u64,
    /// The newest request that any client knows to be done, and as it was when each request was asked.
    newest: u32,
    asked: HashMap<(u8, u32), u32>,
    answers: Vec<(FlowKey, Reply)>,
    /// Flows that were more than one connection: the replay compares the last one only.
    reused: HashSet<FlowKey>,
}

/// The flow of a client's connection.
pub(super) fn key(client: u8, port: u16) -> FlowKey {
    let v4 = |last| super::stack::address(last).to_ipv6_mapped().octets();
    let guest = (v4(super::guest::ADDRESS), super::guest::PORT);
    FlowKey::new(4, llm_core::flow::TCP, llm_core::flow::NO_VLAN, guest, (v4(FIRST_CLIENT + client), port))
}

impl Checker {
    pub(super) fn new(policy: OnDivergence, deterministic: bool) -> Self {
        Self { policy, deterministic, ..Self::default() }
    }

    pub(super) fn fail(&mut self, rule: Rule, text: String) {
        self.broken.get_or_insert((rule, text));
    }

    /// A new session begins, with another backup.
    pub(super) const fn again(&mut self) {
        (self.taken_over, self.committed) = (false, 0);
    }

    pub(super) const fn taken_over(&mut self) {
        self.taken_over = true;
        self.summary.take_overs += 1;
    }

    /// A packet leaves the primary. `inputs`: the newest that was delivered ahead of it; `have`: what the backup holds.
    pub(super) fn released(&mut self, packet: &[u8], inputs: u64, note: u64, have: u64) {
        self.summary.released += 1;
        if inputs > have {
            self.fail(Rule::LostInput, format!("input {inputs} came before it, the backup has {have}"));
        }
        if note > have {
            self.fail(Rule::LostInput, format!("the backup does not know of it: note {note}, it has {have}"));
        }
        self.leaves(Copy::Primary, packet);
    }

    /// A packet leaves for a client.
    pub(super) fn leaves(&mut self, copy: Copy, packet: &[u8]) {
        if copy == Copy::Primary && self.taken_over {
            self.fail(Rule::TwoActive, "output of the primary after the take-over".into());
        }
        let frame = &packet[VNET_HEADER..];
        let Some(parsed) = Packet::parse(frame) else { return };
        let Some(segment) = parsed.segment() else { return };
        if segment.has(flags::RST) {
            return;
        }
        let key = parsed.key(Direction::FromGuest);
        let flow = self.flows.entry(key).or_default();
        let mut wrong = None;
        if segment.has(flags::SYN) && flow.opened_by != 0 && flow.opened_by != segment.ack {
            self.reused.insert(key);
        }
        if segment.has(flags::SYN) {
            if flow.opened_by != segment.ack || flow.ended || flow.opened_by == 0 {
                *flow = Tapped { opened_by: segment.ack, isn: segment.seq, ..Tapped::default() };
            } else if flow.isn != segment.seq && !flow.bytes.is_empty() {
                // A late copy of its SYN opens another connection, which nobody wants.
                *flow = Tapped { opened_by: segment.ack, isn: segment.seq, ..Tapped::default() };
            } else if flow.isn != segment.seq {
                wrong = Some((Rule::Contradiction, format!("{key} opened with two numbers")));
            }
        }
        flow.ended |= segment.has(flags::FIN);
        if let Some(timestamp) = segment.timestamp {
            let last = *flow.clock.get_or_insert(timestamp.value);
            let back = last.wrapping_sub(timestamp.value).cast_signed();
            if back > 0 {
                wrong = Some((Rule::ClockWentBack, format!("{key} by {back} ms")));
            }
            flow.clock = Some(timestamp.value);
        }
        let at = segment.seq.wrapping_sub(flow.isn).wrapping_sub(1) as usize;
        let payload = &frame[segment.payload_range()];
        if !payload.is_empty() && !segment.has(flags::SYN) {
            if at > 10_000_000 {
                wrong = Some((Rule::Contradiction, format!("{key} has sent a number of another world")));
            } else {
                if flow.bytes.len() < at + payload.len() {
                    flow.bytes.resize(at + payload.len(), None);
                }
                for (known, byte) in flow.bytes[at..].iter_mut().zip(payload) {
                    if *known.get_or_insert(*byte) != *byte && !self.diverged.contains(&key) {
                        wrong = Some((Rule::Contradiction, format!("{key} sent other bytes at {at}")));
                    }
                }
            }
        }
        if let Some((rule, text)) = wrong
            && !(rule == Rule::Contradiction && self.may_differ())
        {
            self.fail(rule, text);
        }
    }

    /// A client has sent a packet. Once it has reset a connection, a late copy of its SYN may open another one, which nobody
    /// wants.
    pub(super) fn client_sent(&mut self, packet: &[u8]) {
        let Some(parsed) = Packet::parse(&packet[VNET_HEADER..]) else { return };
        let resets =
            parsed.segment().is_some_and(|segment| segment.has(flags::RST) && segment.has(flags::ACK));
        if let Some(flow) = self.flows.get_mut(&parsed.key(Direction::ToGuest)).filter(|_| resets) {
            flow.ended = true;
        }
    }

    /// The backup holds an epoch, of which so many pieces came, of so many.
    pub(super) fn committed(&mut self, epoch: u64, came: u64, of: u64) {
        self.summary.commits += 1;
        if epoch != self.committed + 1 || came != of {
            self.fail(
                Rule::WholeEpochs,
                format!("epoch {epoch} after {}, {came} of {of} pieces", self.committed),
            );
        }
        self.committed = epoch;
    }

    /// Whether it was counted that connections go on with other bytes than before, as the policy wants it.
    pub(super) fn may_differ(&self) -> bool {
        !self.deterministic && self.policy != OnDivergence::Reset && self.different > 0
    }

    /// The guest is restored from this epoch. `refused`: segments that the lost guest did not take when they came, for
    /// their timestamps. Its copy may, and so do requests of different connections in another order.
    pub(super) fn restored(&mut self, epoch: u64, refused: u64) {
        if refused > 0 && self.deterministic {
            self.deterministic = false;
            self.reorders = true;
            self.summary.exempt += 1;
        }
        if epoch != self.committed {
            self.fail(Rule::WholeEpochs, format!("restored from {epoch}, committed is {}", self.committed));
        }
    }

    /// An input leaves the log; `taken` says when the guest took it out of its ring, in steps.
    pub(super) fn dropped(&mut self, lsn: u64, packet: &Bytes, snapshot: &Snapshot, taken: Option<usize>) {
        self.summary.dropped += 1;
        let Some(parsed) = Packet::parse(&packet[VNET_HEADER..]) else { return };
        let Some(segment) = parsed.segment().filter(|segment| segment.seq_len() > 0) else { return };
        if taken.is_some_and(|taken| taken <= snapshot.steps) {
            return;
        }
        let held = snapshot.acks.get(&(parsed.source, segment.source));
        if held.is_none_or(|ack| ack.wrapping_sub(segment.seq_end()).cast_signed() < 0) {
            let text = format!("input {lsn} is not in epoch {}, and not in the log any more", snapshot.epoch);
            self.fail(Rule::LostEffect, text);
        }
    }

    pub(super) fn gave_up(&mut self, key: FlowKey, cause: Cause) {
        self.summary.resets += 1;
        self.given_up.insert(key, cause);
        if self.deterministic {
            self.fail(Rule::NeedlessReset, format!("{key}: {cause}"));
        }
    }

    pub(super) fn diverged(&mut self, key: FlowKey, from: u32, to: u32) {
        self.summary.divergences += 1;
        self.diverged.insert(key);
        if self.deterministic {
            self.fail(Rule::Diverged, format!("{key} at {from}..{to}"));
        }
    }

    pub(super) fn live(&mut self, different: u64, unknown: u64) {
        self.different += different;
        self.unknown += unknown;
        if self.deterministic && different > 0 {
            self.fail(Rule::Diverged, format!("{different} bytes came out otherwise"));
        }
    }

    pub(super) fn asked(&mut self, client: u8, id: u32) {
        self.asked.insert((client, id), self.newest);
    }

    pub(super) fn answered(&mut self, client: u8, port: u16, reply: Reply) {
        self.summary.replies += 1;
        let floor = self.asked.get(&(client, reply.id)).copied().unwrap_or(0);
        // Another order, if it was told, makes numbers that cannot be compared with those before.
        let renumbered = self.may_differ() || self.reorders && self.different > 0;
        if reply.serial <= floor && !renumbered {
            self.fail(Rule::Order, format!("{reply:?} was asked when {floor} was known to be done"));
        }
        self.newest = self.newest.max(reply.serial);
        self.answers.push((key(client, port), reply));
    }

    /// A client's connection was reset from outside.
    pub(super) fn reset(&mut self, client: u8, port: u16) {
        let key = key(client, port);
        if !self.given_up.contains_key(&key) {
            self.fail(Rule::SilentReset, key.to_string());
        }
    }

    /// The end: what the surviving guest has done, and what each client knows.
    pub(super) fn end(&mut self, done: &[Reply], accounts: &[(u8, Vec<Account>)]) {
        let mut found = HashMap::new();
        for reply in done {
            if found.insert((reply.client, reply.id), *reply).is_some() {
                self.fail(Rule::DoneTwice, format!("{reply:?}"));
            }
        }
        for (key, reply) in std::mem::take(&mut self.answers) {
            let excused = self.unknown > 0 || self.reused.contains(&key) || self.given_up.contains_key(&key);
            let told = self.diverged.contains(&key) || self.may_differ() || !self.deterministic && excused;
            match found.get(&(reply.client, reply.id)) {
                None if !self.deterministic && self.given_up.contains_key(&key) => {}
                None => self.fail(Rule::LostEffect, format!("{reply:?} was told, and is not done")),
                Some(is) if *is != reply && !told => {
                    self.fail(Rule::Contradiction, format!("{key}: {reply:?} was told, {is:?} is done"));
                }
                Some(_) => {}
            }
        }
        for (client, accounts) in accounts {
            for account in accounts {
                let acknowledged = account.asked.iter().filter(|(_, end)| *end <= account.acknowledged);
                for (id, _) in acknowledged {
                    let key = key(*client, account.port);
                    let reported = !self.deterministic && self.given_up.contains_key(&key);
                    if !found.contains_key(&(*client, *id)) && !reported {
                        self.fail(
                            Rule::LostEffect,
                            format!("{key}: request {id} was acknowledged, and is not done"),
                        );
                    }
                }
            }
        }
    }
}
