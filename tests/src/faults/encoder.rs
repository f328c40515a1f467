//! A domain of its own encodes, and fails in every way: the guest stays protected, without a gap.

use super::{LONG, SOON, Tour, primary};
use crate::clients::now_ns;
use crate::lab::guest;
use crate::scenario::{PROTECT_LOG, Result, ensure, primary_status, protect_exit, wait};

/// How the guest is protected.
const OPTIONS: &str = "--interval 200ms --detect 2s --encoder stubdom";
/// A domain of that name, made beforehand, is taken by `llm protect` as one that an earlier run has left.
const HOSTILE: &str = "name = \"NAME\"\ntype = \"pv\"\nkernel = \"/usr/lib/llm/llm-stubdom\"\nmemory = 134\nvcpus = 1\n\
                       cmdline = \"fault=ring\"\non_poweroff = \"destroy\"\non_crash = \"destroy\"\n";

fn name() -> String {
    format!("llm-enc-{}", guest::NAME)
}

/// Destroyed in the middle of its work; then the driver dies as well, and the backup takes over with what both have encoded.
pub(super) fn killed(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    tour.epochs_go_on(host, 3)?;
    let before = encodes(tour, host)?;
    tour.lab.host(host).check(&format!("xl destroy {}", name()))?;
    falls_back(tour, host, before, "is gone")?;
    primary::kill_protect(tour, host)?;
    tour.take_over(host)?;
    clients.wait_for_replies(now_ns(), LONG)?;
    tour.clear(host)?;
    tour.judge(clients)
}

/// Paused, as one that hangs; a release takes it away all the same.
pub(super) fn hung(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    let before = encodes(tour, host)?;
    tour.lab.host(host).check(&format!("xl pause {}", name()))?;
    falls_back(tour, host, before, "silent")?;
    tour.lab.host(host).check(&format!("llm release {}", guest::NAME))?;
    tour.options = None;
    let code = protect_exit(tour.lab, host, SOON)?;
    ensure(code == 0, || format!("llm protect ended with {code} after a release"))?;
    nothing_left(tour, host)?;
    tour.judge(clients)
}

/// It writes nonsense into a ring; Dom0 names it, and the take-over has what was right.
pub(super) fn hostile(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.unprotected()?;
    let config = HOSTILE.replace("NAME", &name());
    tour.lab
        .host(host)
        .check(&format!("printf '%s' '{config}' >/run/hostile.cfg && xl create /run/hostile.cfg"))?;
    tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    falls_back(tour, host, 0, "The encoder's rings cannot be used")?;
    primary::kill_protect(tour, host)?;
    tour.take_over(host)?;
    clients.wait_for_replies(now_ns(), LONG)?;
    tour.lab.host(host).check(&format!("xl destroy {}", name()))?;
    tour.clear(host)?;
    tour.judge(clients)
}

/// A driver that was killed leaves the domain behind: the next one takes it over, and takes it away at its end.
pub(super) fn left_behind(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    encodes(tour, host)?;
    let domid = tour.lab.host(host).check(&format!("xl domid {}", name()))?.text();
    let clients = tour.clients()?;
    primary::kill_protect(tour, host)?;
    tour.take_over(host)?;
    clients.wait_for_replies(now_ns(), LONG)?;
    tour.clear(host)?;
    // Back to where the encoder was left.
    let other = tour.protected(OPTIONS)?;
    encodes(tour, other)?;
    primary::kill_protect(tour, other)?;
    tour.take_over(other)?;
    clients.wait_for_replies(now_ns(), LONG)?;
    tour.clear(other)?;
    let host = tour.protected(OPTIONS)?;
    encodes(tour, host)?;
    let again = tour.lab.host(host).check(&format!("xl domid {}", name()))?.text();
    ensure(domid == again, || format!("the encoder that was left behind, {domid}, was not used: {again}"))?;
    tour.unprotected()?;
    nothing_left(tour, host)?;
    tour.lab.host(other).check(&format!("xl destroy {}", name()))?;
    tour.judge(clients)
}

/// The domain does encode. How often the backup was lost until now.
fn encodes(tour: &Tour<'_>, host: usize) -> Result<u64> {
    let status = primary_status(tour.lab, host)?.unwrap_or_default();
    ensure(status.encoder == format!("stubdom {}", name()), || format!("who encodes: {:?}", status.encoder))?;
    // Copies of pages are where encoding is done.
    ensure(status.shadow_bytes == 0, || format!("{} bytes of copies in Dom0", status.shadow_bytes))?;
    says(tour, host)?;
    Ok(status.backup_losses)
}

/// The driver's log has what the domain says, with the domain's name and time.
fn says(tour: &Tour<'_>, host: usize) -> Result<()> {
    let said = format!(
        "INFO a session has begun, with copies of [0-9]+ pages domain=\"{}\" time=\"[0-9]+[.][0-9]{{6}}\"$",
        name()
    );
    tour.lab.host(host).check(&format!("grep -Eq '{said}' {PROTECT_LOG}"))?;
    Ok(())
}

/// Dom0 encodes from now on, since the domain is as `why` says; the protection goes on and never stopped, with the backup
/// lost `losses` times before.
fn falls_back(tour: &Tour<'_>, host: usize, losses: u64, why: &str) -> Result<()> {
    wait("the encoder to be given up", SOON, || {
        let status = primary_status(tour.lab, host)?.unwrap_or_default();
        Ok((status.encoder.starts_with("dom0: "), move || status.encoder))
    })?;
    let status = primary_status(tour.lab, host)?.unwrap_or_default();
    ensure(status.encoder.contains(why), || format!("not {why:?}: {}", status.encoder))?;
    tour.epochs_go_on(host, 3)?;
    let after = primary_status(tour.lab, host)?.unwrap_or_default();
    ensure(after.backup_losses == losses, || {
        format!("the backup was lost {} times, {losses} before", after.backup_losses)
    })?;
    ensure(after.epochs_committed > status.epochs_committed, || "no epoch was committed".into())
}

/// No encoder, and no `xl` that watches one.
fn nothing_left(tour: &Tour<'_>, host: usize) -> Result<()> {
    tour.lab
        .host(host)
        .wait_for(&format!("! xl domid {} 2>/dev/null && ! pidof xl >/dev/null", name()), SOON)?;
    Ok(())
}
