//! What `llm protect` refuses before it touches anything, and how it says so.

use super::{LONG, OPTIONS, SOON, Tour};
use crate::lab::guest;
use crate::scenario::{Result, backup_address, ensure, protect, wait_primary};

/// No such domain, a PV domain, no backup, a wrong configuration, not root.
pub(super) fn refusals(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.unprotected()?;
    let to = backup_address(1 - host);
    tour.refused(host, &format!("llm protect nobody-here --to {to}"), 3, &["\"nobody-here\"", "xl list"])?;
    // As it stands, but PV.
    let make = format!(
        "sed -e 's/\"{}\"/\"pv\"/; s/\"pvh\"/\"pv\"/; s/128/192/; /^vif/d' /lab/{}.cfg >/tmp/pv.cfg && xl create -q -p /tmp/pv.cfg",
        guest::NAME,
        guest::NAME
    );
    tour.lab.host(host).check(&make)?;
    let pv = tour.refused(host, &format!("llm protect pv --to {to}"), 3, &["pv", "(PV)", "PVH"]);
    tour.lab.host(host).check("xl destroy pv")?;
    pv?;
    tour.refused(host, "llm protect Domain-0 --to 10.78.0.1:1", 3, &["Domain 0"])?;
    let name = guest::NAME;
    // Nobody listens there; and an address that nobody has.
    for address in ["10.78.0.1:9", "10.78.0.99:7707"] {
        tour.refused(host, &format!("timeout 60 llm protect {name} --to {address}"), 5, &[address])?;
        tour.on_its_bridge(host)?;
    }
    tour.refused(host, &format!("llm protect {name} --to {to} --interval 1ms"), 2, &["--interval", "50ms"])?;
    tour.refused(host, &format!("llm protect {name}"), 2, &["--to HOST:PORT"])?;
    let wrong =
        "printf '[protect]\\nintervall = \"1s\"\\n' >/tmp/llm.toml; llm --config /tmp/llm.toml protect";
    tour.refused(host, &format!("{wrong} {name} --to {to}"), 2, &["/tmp/llm.toml", "intervall"])?;
    tour.refused(host, &format!("su -s /bin/sh nobody -c 'llm protect {name} --to {to}'"), 4, &["root"])?;
    tour.refused(host, &format!("llm release {name}"), 3, &[name, "not protected"])
}

/// A domain that another `llm` protects already.
pub(super) fn twice(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let before = wait_primary(tour.lab, host, &["protected"], SOON)?;
    let command = format!("llm protect {} --to {}", guest::NAME, backup_address(1 - host));
    tour.refused(host, &command, 7, &[guest::NAME, "already in use"])?;
    tour.epochs_go_on(host, 3)?;
    let after = wait_primary(tour.lab, host, &["protected"], SOON)?;
    ensure(after.pid == before.pid && after.backup_losses == before.backup_losses, || {
        format!("the first one was disturbed: {after:?}")
    })
}

/// A log that cannot be written does not stop the protection.
pub(super) fn full_log(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.unprotected()?;
    let full =
        "mkdir -p /tmp/full && mount -t tmpfs -o size=16k none /tmp/full && cat /dev/zero >/tmp/full/rest";
    tour.lab.host(host).run(full)?;
    let left = tour.lab.host(host).run("echo one more line >/tmp/full/probe && test -s /tmp/full/probe")?;
    ensure(!left.success(), || "the disk for the log is not full".into())?;
    let clients = tour.clients()?;
    protect(tour.lab, host, &format!("{OPTIONS} --log-file /tmp/full/llm.log"))?;
    tour.epochs_go_on(host, 5)?;
    tour.judge(clients)?;
    tour.unprotected()?;
    tour.lab.host(host).wait_for("umount /tmp/full", LONG)?;
    Ok(())
}
