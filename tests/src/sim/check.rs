//! The checkers. They see both hosts at once and trust neither machine.

use super::{Nanos, Summary};
use std::collections::HashMap;

/// A rule that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Output left that the backup's copy does not explain.
    OutputWithoutCommit,
    /// Output left the primary although the backup runs the domain.
    OutputAfterTakeOver,
    /// Epochs are handed over whole and in order.
    WholeEpochs,
    /// A take-over came before the detect time was over, or too late.
    TakeOverTime,
    /// What ought to go on did not.
    Liveness,
    /// A machine took a message of a connection that is gone, or asked for the impossible.
    Protocol,
}

/// A broken rule, with what is needed to look into it.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The seed of the run.
    pub seed: u64,
    /// When, in true time.
    pub at: Nanos,
    /// What.
    pub rule: Rule,
    /// In detail.
    pub text: String,
}

/// A copy of the domain that the backup could run, or runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) session: u64,
    pub(super) epoch: u64,
    /// Outputs the domain had produced at that checkpoint.
    pub(super) mark: u64,
}

#[derive(Debug, Default)]
pub(super) struct Checker {
    pub(super) broken: Option<(Rule, String)>,
    /// What the primary put into each epoch, by session and number.
    closed: HashMap<(u64, u64), u64>,
    copy: Option<Copy>,
    /// The newest that was ever committed, be the copy there or not.
    committed: Option<Copy>,
    runs: bool,
    /// Newest output that left the primary.
    released: u64,
    pub(super) summary: Summary,
}

impl Checker {
    pub(super) fn fail(&mut self, rule: Rule, text: String) {
        self.broken.get_or_insert((rule, text));
    }

    pub(super) const fn runs(&self) -> bool {
        self.runs
    }

    /// The primary closed an epoch with this content.
    pub(super) fn closed(&mut self, session: u64, epoch: u64, digest: u64) {
        self.closed.insert((session, epoch), digest);
    }

    /// Output number `n` leaves the primary; `protected` names the session, if an epoch of
    /// it was closed and protection has not ended.
    pub(super) fn output(&mut self, n: u64, protected: Option<u64>) {
        self.released = self.released.max(n);
        self.summary.released += 1;
        if self.runs {
            self.fail(Rule::OutputAfterTakeOver, format!("output {n}"));
        }
        if let Some(copy) = self.copy.filter(|copy| copy.mark < n) {
            self.fail(Rule::OutputWithoutCommit, format!("output {n} is newer than {copy:?}"));
        }
        if let Some(session) = protected
            && self.committed.is_none_or(|copy| copy.session != session || copy.mark < n)
        {
            let text = format!("output {n} of session {session:x} after {:?}", self.committed);
            self.fail(Rule::OutputWithoutCommit, text);
        }
    }

    /// The backup handed an epoch with this content to its toolstack.
    pub(super) fn handed_over(&mut self, copy: Copy, digest: u64) {
        let due = match self.copy {
            Some(held) if held.session == copy.session => held.epoch + 1,
            Some(held) => {
                return self.fail(Rule::WholeEpochs, format!("{copy:?} mixed into {held:?}"));
            }
            None => 1,
        };
        if copy.epoch != due {
            self.fail(Rule::WholeEpochs, format!("{copy:?} handed over where {due} was due"));
        }
        if self.closed.get(&(copy.session, copy.epoch)) != Some(&digest) {
            self.fail(Rule::WholeEpochs, format!("{copy:?} is not what the primary closed"));
        }
        if self.runs {
            self.fail(Rule::WholeEpochs, format!("{copy:?} handed over to a running domain"));
        }
        if self.released > copy.mark {
            let text = format!("{copy:?} is committed, output {} had left", self.released);
            self.fail(Rule::OutputWithoutCommit, text);
        }
        self.copy = Some(copy);
        self.committed = Some(copy);
        self.summary.commits += 1;
    }

    /// The backup runs the domain. `wrong`: what is wrong with the moment.
    pub(super) fn taken_over(&mut self, epoch: u64, wrong: Option<String>) {
        if let Some(text) = wrong {
            self.fail(Rule::TakeOverTime, text);
        }
        if self.copy.map(|copy| copy.epoch) != Some(epoch) || self.runs {
            self.fail(Rule::WholeEpochs, format!("take-over at epoch {epoch} with {:?}", self.copy));
        }
        self.runs = true;
        self.summary.take_overs += 1;
    }

    /// The primary gives a session up because the backup is said to have lost it.
    pub(super) fn restarted(&mut self, session: u64) {
        if self.copy.is_some_and(|copy| copy.session == session) {
            self.fail(Rule::Liveness, format!("session {session:x} is given up, the backup holds it"));
        }
    }

    /// The copy is gone (a running domain is not a copy).
    pub(super) const fn discarded(&mut self) {
        if !self.runs {
            self.copy = None;
        }
    }

    /// The backup host is gone with all that ran on it.
    pub(super) const fn backup_died(&mut self) {
        self.runs = false;
        self.copy = None;
    }
}
