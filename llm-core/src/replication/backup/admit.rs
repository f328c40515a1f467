//! Who may begin a session.

use super::super::message::{Hello, Mode, Refusal, RefuseReason};
use super::super::{FEATURES, PROTOCOL_MAX, PROTOCOL_MIN, Timing};
use super::{Backup, BackupPhase};

/// A set of modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModeSet(u8);

impl ModeSet {
    /// The set of `modes`.
    #[must_use]
    pub fn of(modes: &[Mode]) -> Self {
        Self(modes.iter().fold(0, |set, &mode| set | Self::bit(mode)))
    }

    /// Whether `mode` is in it.
    #[must_use]
    pub const fn contains(self, mode: Mode) -> bool {
        self.0 & Self::bit(mode) != 0
    }

    const fn bit(mode: Mode) -> u8 {
        match mode {
            Mode::Remus => 1,
            Mode::Llm => 2,
            Mode::LlmPaper => 4,
        }
    }
}

/// What a backup host gives.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Modes it knows.
    pub modes: ModeSet,
    /// Most shadow pages for one domain.
    pub shadow_pages_max: u64,
    /// Abilities, of [`FEATURES`].
    pub features: u64,
}

/// Who has the domain's name on the backup host.
#[derive(Clone, Copy, Debug)]
pub enum Holder<'a> {
    /// Nobody.
    Nobody,
    /// Another session's machine.
    Session(&'a Backup),
    /// A domain of that name runs, or exists without a machine: also when a restarted
    /// service finds it.
    Domain,
}

/// What both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) version: u16,
    /// Those of the Hello.
    pub(super) features: u64,
    pub(super) timing: Timing,
    pub(super) mode: Mode,
    pub(super) shadow_pages: u64,
}

impl Terms {
    /// Checks what depends on nothing but the Hello and this build.
    pub(super) fn of(hello: &Hello) -> Result<Self, Refusal> {
        let version = hello.max.min(PROTOCOL_MAX);
        if version < hello.min.max(PROTOCOL_MIN) {
            return Err(Refusal::new(
                RefuseReason::Version,
                format_args!("primary speaks {} to {}", hello.min, hello.max),
            ));
        }
        let timing =
            hello.timing().map_err(|error| Refusal::new(RefuseReason::Timing, format_args!("{error}")))?;
        Ok(Self {
            version,
            features: hello.features & FEATURES,
            timing,
            mode: hello.mode,
            shadow_pages: hello.shadow_pages,
        })
    }
}

pub(super) fn check(hello: &Hello, holder: Holder<'_>, offer: &Offer) -> Result<Terms, Refusal> {
    let terms = Terms::of(hello)?;
    let domain = &hello.domain;
    if hello.session == 0 || !Hello::domain_is_valid(domain) {
        return Err(Refusal::new(RefuseReason::Malformed, format_args!("domain {domain:?}")));
    }
    if !offer.modes.contains(hello.mode) {
        return Err(Refusal::new(RefuseReason::Mode, format_args!("{}", hello.mode)));
    }
    if hello.shadow_pages > offer.shadow_pages_max {
        return Err(Refusal::new(
            RefuseReason::ShadowLimit,
            format_args!("{} pages asked, {} given at most", hello.shadow_pages, offer.shadow_pages_max),
        ));
    }
    match holder {
        Holder::Domain => {
            Err(Refusal::new(RefuseReason::TakenOver, format_args!("{domain} exists on this host")))
        }
        Holder::Session(other) => match other.phase() {
            BackupPhase::TakenOver => {
                Err(Refusal::new(RefuseReason::TakenOver, format_args!("{domain} was taken over")))
            }
            // It ends by itself: taken over or discarded once silent, or released.
            BackupPhase::Protecting => Err(Refusal::new(
                RefuseReason::DomainBusy,
                format_args!("session {:016x} protects {domain}", other.session()),
            )),
            BackupPhase::Discarded(_) => known(hello),
        },
        Holder::Nobody => known(hello),
    }
    .map(|()| terms)
}

/// A session that was begun elsewhere, or before this service was restarted, cannot go on here.
fn known(hello: &Hello) -> Result<(), Refusal> {
    match hello.resume {
        None => Ok(()),
        Some(_) => Err(Refusal::new(
            RefuseReason::UnknownSession,
            format_args!("session {:016x} is not held here", hello.session),
        )),
    }
}
