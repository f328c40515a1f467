//! The replication link, cut.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use super::frames::Frames;
use super::{DETECT, LONG, OPTIONS, SOON, Tour};
use crate::clients::now_ns;
use crate::lab::Link;
use crate::scenario::{Result, ensure, protect_exit, session_status, wait_primary};

/// 300 ms without a link: the connections are made again, or TCP mends them, and the same session goes on.
pub(super) fn short_cut(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    let before = wait_primary(tour.lab, host, &["protected"], SOON)?;
    let copied = session_status(tour.lab, 1 - host)?.unwrap_or_default();
    for _ in 0..3 {
        tour.lab.connect(host, Link::Replication, false)?;
        sleep(Duration::from_millis(300));
        tour.lab.connect(host, Link::Replication, true)?;
        sleep(Duration::from_secs(2));
    }
    tour.epochs_go_on(host, 5)?;
    tour.judge(clients)?;
    let after = wait_primary(tour.lab, host, &["protected"], SOON)?;
    let session = session_status(tour.lab, 1 - host)?.unwrap_or_default();
    ensure(after.pid == before.pid && after.epochs_committed > before.epochs_committed, || {
        format!("not the same protection: {after:?}")
    })?;
    // A session that began anew would count from 0, and send the whole memory again.
    let kept = session.takeover.is_none() && session.epochs_committed > copied.epochs_committed;
    ensure(kept, || format!("not the same session: {session:?}, before {copied:?}"))
}

/// A link that stays away: the backup takes over, the old primary lets nothing out and stops itself once it hears of it.
pub(super) fn cut_for_ever(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    let frames = Frames::out_of(tour.lab, host)?;
    tour.epochs_go_on(host, 3)?;
    tour.lab.connect(host, Link::Replication, false)?;
    let lease_over = SystemTime::now() + DETECT;
    tour.take_over(host)?;
    clients.wait_for_replies(now_ns(), LONG)?;
    wait_primary(tour.lab, host, &["backup-lost"], SOON)?;
    // Long enough for a lease that were counted wrongly.
    sleep(Duration::from_secs(5));
    tour.lab.connect(host, Link::Replication, true)?;
    let code = protect_exit(tour.lab, host, LONG)?;
    ensure(code == 6, || format!("the old primary ended with {code}"))?;
    sleep(Duration::from_secs(2));
    let (before, late) = frames.around(lease_over)?;
    ensure(before > 0, || "nothing at all of the guest was seen".into())?;
    ensure(late == 0, || format!("the old primary let {late} frames out after its lease"))?;
    tour.clear(host)?;
    tour.judge(clients)
}
