//! One path as the primary sees it.

use super::super::{ConnectionId, Timing};
use crate::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be dialled at this time.
    Down { retry_at: Instant },
    /// The driver is at it.
    Dialling { connection: ConnectionId },
    /// Hello is sent (`up` false), or answered.
    Open { connection: ConnectionId, up: bool, heard: Instant, beat_at: Instant, excused: bool },
    /// Not to be dialled again.
    Barred,
}

/// Messages that wait for the driver.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due {
    pub(super) hello: bool,
    pub(super) goodbye: bool,
    pub(super) addresses: bool,
    pub(super) heartbeat: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) state: State,
    pub(super) due: Due,
    backoff: Duration,
}

impl Link {
    pub(super) fn new(timing: &Timing, now: Instant) -> Self {
        Self { state: State::Down { retry_at: now }, due: Due::default(), backoff: timing.retry_min() }
    }

    pub(super) const fn connection(&self) -> Option<ConnectionId> {
        match self.state {
            State::Dialling { connection } | State::Open { connection, .. } => Some(connection),
            State::Down { .. } | State::Barred => None,
        }
    }

    pub(super) const fn is_up(&self) -> bool {
        matches!(self.state, State::Open { up: true, .. })
    }

    pub(super) fn opened(&mut self, connection: ConnectionId, now: Instant) {
        self.state = State::Open { connection, up: false, heard: now, beat_at: now, excused: false };
        self.due = Due { hello: true, ..Due::default() };
    }

    pub(super) fn welcomed(&mut self, timing: &Timing, now: Instant) {
        self.backoff = timing.retry_min();
        if let State::Open { up, beat_at, .. } = &mut self.state {
            *up = true;
            *beat_at = now + timing.heartbeat();
        }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        if let State::Open { heard, excused, .. } = &mut self.state {
            *heard = now;
            *excused = false;
        }
    }

    /// This side did not run for a while: its silence counts anew, once.
    pub(super) fn excuse(&mut self, now: Instant) {
        if let State::Open { heard, excused, .. } = &mut self.state
            && !*excused
        {
            *heard = now;
            *excused = true;
        }
    }

    pub(super) fn is_silent(&self, timing: &Timing, now: Instant) -> bool {
        matches!(self.state, State::Open { heard, .. } if now >= heard + timing.silence())
    }

    /// Notes a heartbeat as due when its time has come.
    pub(super) fn beat(&mut self, timing: &Timing, now: Instant) {
        if let State::Open { up: true, beat_at, .. } = &mut self.state
            && now >= *beat_at
        {
            *beat_at = now + timing.heartbeat();
            self.due.heartbeat = true;
        }
    }

    /// Gives the connection up and plans the next one.
    pub(super) fn down(&mut self, timing: &Timing, now: Instant) {
        self.due = Due::default();
        self.state = State::Down { retry_at: now + self.backoff };
        self.backoff = (self.backoff * 2).min(timing.retry_max());
    }

    pub(super) fn bar(&mut self) {
        self.due = Due::default();
        self.state = State::Barred;
    }

    pub(super) fn timeout(&self, timing: &Timing) -> Option<Instant> {
        match self.state {
            State::Down { retry_at } => Some(retry_at),
            State::Open { up: false, heard, .. } => Some(heard + timing.silence()),
            State::Open { up: true, heard, beat_at, .. } => Some(beat_at.min(heard + timing.silence())),
            State::Dialling { .. } | State::Barred => None,
        }
    }
}
