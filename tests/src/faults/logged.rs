//! Mode `llm`: the same promises when replies wait for the input log only.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use super::backup::{kill_backup, protected_again, silent};
use super::frames::Frames;
use super::{DETECT, LONG, SOON, Tour, backup, primary};
use crate::clients::now_ns;
use crate::lab::{Link, guest};
use crate::scenario::{
    Result, ensure, primary_status, protect_exit, session_status, start_backup, wait, wait_primary,
    wait_session,
};

/// How the guest is protected.
const OPTIONS: &str = "--mode llm --interval 2s --detect 2s";
/// So rarely that connections of the clients are younger than the checkpoint: they are opened again, and their numbers translated.
const RARELY: &str = "--mode llm --interval 20s --detect 2s";
/// Checkpoints when the log asks for one, and not before.
const BY_BUDGET: &str = "--mode llm --interval 60s --detect 2s --log-limit 1M --log-records 1000";

/// Policy `stop`: without a backup nothing is logged, and not a byte leaves.
pub(super) fn backup_killed(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    kill_backup(tour, 1 - host, "KILL")?;
    wait_primary(tour.lab, host, &["backup-lost", "connecting"], SOON)?;
    silent(&clients)?;
    start_backup(tour.lab, 1 - host)?;
    protected_again(tour, host)?;
    tour.judge(clients)
}

/// Policy `go-on`: what waits for a log that nobody acknowledges leaves after all.
pub(super) fn backup_lost_go_on(tour: &mut Tour<'_>) -> Result<()> {
    backup::go_on_with(tour, OPTIONS)
}

/// The log's bound makes checkpoints long before the interval does, and what it then drops is in them.
pub(super) fn log_budget(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(BY_BUDGET)?;
    let clients = tour.clients()?;
    let before = wait_primary(tour.lab, host, &["protected"], SOON)?;
    wait("checkpoints that the log asks for", LONG, || {
        let now = primary_status(tour.lab, host)?.unwrap_or_default();
        let made = now.early >= before.early + 2 && now.epochs_committed >= before.epochs_committed + 2;
        Ok((made, move || format!("{} early, {} epochs, log {:?}", now.early, now.epochs_committed, now.log)))
    })?;
    primary::kill_protect(tour, host)?;
    tour.take_over(host)?;
    clients.wait_for_replies(now_ns(), LONG)?;
    tour.clear(host)?;
    tour.judge(clients)
}

/// The host that took over dies in its turn: connections that are translated already go on once more.
pub(super) fn protected_again_and_killed(tour: &mut Tour<'_>) -> Result<()> {
    let first = tour.protected(RARELY)?;
    let clients = tour.clients()?;
    primary::kill_protect(tour, first)?;
    tour.take_over(first)?;
    tour.clear(first)?;
    clients.wait_for_replies(now_ns(), LONG)?;
    let second = tour.protected(OPTIONS)?;
    let status = wait_primary(tour.lab, second, &["protected"], SOON)?;
    ensure(status.egress.translated_connections > 0, || "no connection is translated".into())?;
    let links = tour.lab.host(second).check("ip -o link")?.text();
    ensure(!links.contains(": llmr"), || format!("llm backup still passes packets: {links}"))?;
    clients.wait_for_replies(now_ns(), SOON)?;
    primary::kill_protect(tour, second)?;
    tour.take_over(second)?;
    tour.clear(second)?;
    tour.judge(clients)
}

/// The link is away when the backup takes over, and back while it replays: the old primary learns of it, and is silent.
pub(super) fn link_cut_in_replay(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    let frames = Frames::out_of(tour.lab, host)?;
    tour.epochs_go_on(host, 2)?;
    tour.lab.connect(host, Link::Replication, false)?;
    let lease_over = SystemTime::now() + DETECT;
    let begun = wait("the take-over to begin", SOON, || {
        let state = session_status(tour.lab, 1 - host)?.unwrap_or_default().state;
        Ok((["taking-over", "replaying", "running-here"].contains(&state.as_str()), move || state))
    });
    tour.lab.connect(host, Link::Replication, true)?;
    begun?;
    tour.take_over(host)?;
    clients.wait_for_replies(now_ns(), LONG)?;
    let code = protect_exit(tour.lab, host, LONG)?;
    ensure(code == 6, || format!("the old primary ended with {code}"))?;
    sleep(Duration::from_secs(2));
    let (before, late) = frames.around(lease_over)?;
    ensure(before > 0, || "nothing at all of the guest was seen".into())?;
    ensure(late == 0, || format!("the old primary let {late} frames out after its lease"))?;
    let replay = wait_session(tour.lab, 1 - host, "running-here", SOON)?.takeover.and_then(|t| t.replay);
    ensure(replay.is_some(), || "nothing was replayed".into())?;
    let gone = tour.lab.host(host).run(&format!("xl domid {}", guest::NAME))?;
    ensure(!gone.success(), || "the old primary kept its domain".into())?;
    tour.judge(clients)
}

/// A frozen primary has acknowledgements of the log in its sockets when it thaws: they let nothing out.
pub(super) fn primary_frozen(tour: &mut Tour<'_>) -> Result<()> {
    primary::frozen_with(tour, OPTIONS)
}
