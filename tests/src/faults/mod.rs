//! Faults that must be survived, one scenario each, on one lab.
//!
//! A scenario takes the lab as the one before left it: the guest runs on one of
//! the hosts, protected or not. What it breaks it mends; after a scenario that
//! failed, both hosts start anew.

mod backup;
mod bulk;
mod encoder;
mod frames;
mod link;
mod logged;
mod preflight;
mod primary;
mod strangers;
mod stream;

use std::fs;
use std::time::{Duration, Instant};

use crate::clients::now_ns;
use crate::demo::keep_logs;
use crate::lab::{BOOT_TIMEOUT, Lab, LabError, Link, guest};
use crate::scenario::{
    Clients, Result, ScenarioError, ensure, ensure_held, primary_status, protect, protect_exit, wait,
    wait_primary, wait_session,
};

/// Detect time of most scenarios: emulated hosts that share two cores stall now and then.
const DETECT: Duration = Duration::from_secs(2);
/// How most scenarios protect the guest.
const OPTIONS: &str = "--interval 200ms --detect 2s";
/// Time for what takes a moment.
const SOON: Duration = Duration::from_secs(30);
/// Time for a first copy of the guest's memory, or for a take-over, on busy hosts.
const LONG: Duration = Duration::from_secs(240);

/// A scenario.
pub type Scenario = fn(&mut Tour<'_>) -> Result<()>;

/// All scenarios, those that leave the protection as it is first.
pub const TOUR: &[(&str, Scenario)] = &[
    ("preflight", preflight::refusals),
    ("preflight-peer-version", strangers::other_version),
    ("stream-saved", stream::saved),
    ("strangers", strangers::garbage),
    ("preflight-protected-twice", preflight::twice),
    ("bulk", bulk::download),
    ("link-cut-short", link::short_cut),
    ("backup-killed", backup::killed),
    ("backup-terminated", backup::terminated),
    ("backup-host-killed", backup::host_killed),
    ("backup-lost-go-on", backup::go_on),
    ("release", primary::release),
    ("terminate", primary::terminate),
    ("protect-killed", primary::killed),
    ("link-cut-for-ever", link::cut_for_ever),
    ("primary-frozen", primary::frozen),
    ("packet-path-lost", primary::path_lost),
    ("protect-killed-again", primary::killed_again),
    ("log-disk-full", preflight::full_log),
    ("release-forced", backup::forced),
    ("primary-frozen-forgotten", primary::frozen_and_forgotten),
    ("llm-backup-killed", logged::backup_killed),
    ("llm-backup-lost-go-on", logged::backup_lost_go_on),
    ("llm-protected-again", logged::protected_again_and_killed),
    ("llm-link-cut-in-replay", logged::link_cut_in_replay),
    ("llm-primary-frozen", logged::primary_frozen),
    ("llm-log-budget", logged::log_budget),
    ("encoder-killed", encoder::killed),
    ("encoder-hung", encoder::hung),
    ("encoder-hostile", encoder::hostile),
    ("encoder-left-behind", encoder::left_behind),
    ("guest-destroyed", primary::guest_destroyed),
    ("guest-shut-down", primary::guest_shut_down),
];

/// Scenarios left out where time is short: others try most of what they do.
const LEFT_OUT: &[&str] = &[
    "protect-killed-again",
    "llm-backup-killed",
    "llm-backup-lost-go-on",
    "llm-protected-again",
    "llm-log-budget",
    "encoder-hung",
    "encoder-left-behind",
];

/// Which scenarios to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick<'a> {
    /// All.
    All,
    /// All but those that others make up for.
    Short,
    /// The one of that name, or those whose name contains it.
    Named(&'a str),
}

impl Pick<'_> {
    fn wants(self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Short => !LEFT_OUT.contains(&name),
            Self::Named(only) if TOUR.iter().any(|(name, _)| *name == only) => name == only,
            Self::Named(only) => name.contains(only),
        }
    }
}

/// How the scenarios ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Those that held.
    pub passed: Vec<&'static str>,
    /// Those that did not, with the reason.
    pub failed: Vec<(&'static str, String)>,
}

impl Summary {
    /// Whether something was run and all of it held.
    #[must_use]
    pub fn held(&self) -> bool {
        self.failed.is_empty() && !self.passed.is_empty()
    }
}

/// Runs scenarios on a lab that is up; prints a line for each.
///
/// A scenario that ends by a time-out or an error of the lab is tried again, up to `attempts` times in all, each time on
/// hosts that were booted anew: emulated hosts on two cores stall now and then. A broken promise is never tried again. Each
/// attempt is told.
pub fn run(lab: &Lab, pick: Pick<'_>, attempts: u32) -> Summary {
    let mut tour = Tour { lab, host: None, options: None, lost: false };
    let mut summary = Summary::default();
    for &(name, scenario) in TOUR.iter().filter(|(name, _)| pick.wants(name)) {
        let mut result = tour.attempt(name, scenario);
        for _ in 1..attempts {
            if !tour.lost && matches!(&result, Err(error) if error.may_pass()) {
                result = tour.attempt(name, scenario);
            }
        }
        match result {
            Ok(()) => summary.passed.push(name),
            Err(error) => summary.failed.push((name, error.to_string())),
        }
        if tour.lost {
            summary.failed.push(("the lab", "its hosts do not come back".into()));
            break;
        }
    }
    summary
}

/// The lab on its way through the scenarios.
#[derive(Debug)]
pub struct Tour<'a> {
    lab: &'a Lab,
    /// Where the guest runs.
    host: Option<usize>,
    /// What the running `llm protect` was told.
    options: Option<String>,
    /// The hosts do not come back.
    lost: bool,
}

impl Tour<'_> {
    /// Runs a scenario once; after a failure both hosts start anew.
    fn attempt(&mut self, name: &str, scenario: Scenario) -> Result<()> {
        let start = Instant::now();
        let result = scenario(self);
        let seconds = start.elapsed().as_secs_f64();
        let Err(error) = result else {
            println!("{name:<28} held      {seconds:6.1} s");
            return Ok(());
        };
        println!("{name:<28} NOT HELD  {seconds:6.1} s  {error}");
        let folder = self.lab.paths().logs().with_file_name("failed").join(name);
        if fs::create_dir_all(&folder).is_ok() {
            keep_logs(self.lab, &folder);
            println!("{:<28} logs of both hosts are in {}", "", folder.display());
        }
        if let Err(error) = self.start_over() {
            println!("The hosts do not come back, the other scenarios are not run: {error}");
            self.lost = true;
        }
        Err(error)
    }

    /// The host that the guest runs on, protected or not; creates it if there is none.
    fn guest(&mut self) -> Result<usize> {
        if let Some(host) = self.host {
            return Ok(host);
        }
        for host in [0, 1] {
            if self.lab.host(host).run(&format!("xl domid {}", guest::NAME))?.success() {
                self.host = Some(host);
                return Ok(host);
            }
        }
        self.lab.guest_create(0)?;
        self.host = Some(0);
        Ok(0)
    }

    /// The host that the guest runs on, not protected.
    fn unprotected(&mut self) -> Result<usize> {
        let host = self.guest()?;
        if primary_status(self.lab, host)?.is_some() {
            self.lab.host(host).check(&format!("llm release {}", guest::NAME))?;
            let code = protect_exit(self.lab, host, SOON)?;
            ensure(code == 0, || format!("llm protect ended with {code} after a release"))?;
        }
        self.options = None;
        Ok(host)
    }

    /// The host that the guest runs on, protected with these options.
    fn protected(&mut self, options: &str) -> Result<usize> {
        let host = self.guest()?;
        if self.options.as_deref() == Some(options) && primary_status(self.lab, host)?.is_some() {
            wait_primary(self.lab, host, &["protected"], SOON)?;
            return Ok(host);
        }
        self.unprotected()?;
        protect(self.lab, host, options)?;
        self.options = Some(options.into());
        Ok(host)
    }

    /// Clients that have had their first replies.
    fn clients(&self) -> Result<Clients> {
        let clients = Clients::start(self.lab)?;
        clients.wait_for_replies(now_ns(), SOON)?;
        Ok(clients)
    }

    /// Ends the clients, which still get replies, and judges what they saw.
    fn judge(&self, clients: Clients) -> Result<()> {
        clients.wait_for_replies(now_ns(), LONG)?;
        ensure_held(&clients.stop(self.lab)?)
    }

    /// Waits until the backup of `from` has taken over; the guest now runs there.
    fn take_over(&mut self, from: usize) -> Result<()> {
        let to = 1 - from;
        let session = wait_session(self.lab, to, "running-here", LONG)?;
        (self.host, self.options) = (Some(to), None);
        let detect = session.takeover.map_or(f64::MAX, |t| t.detect_ms);
        let most = (DETECT + Duration::from_secs(2)).as_millis() as f64;
        ensure(detect <= most, || format!("the take-over was decided after {detect:.0} ms of silence"))
    }

    /// Cleans a former primary, so that it can be the backup.
    fn clear(&self, host: usize) -> Result<()> {
        let guest = guest::NAME;
        let clear = format!("xl destroy {guest} 2>/dev/null; ! xl domid {guest} 2>/dev/null");
        self.lab.host(host).wait_for(&clear, SOON)?;
        Ok(())
    }

    /// After a failure nothing is known: both hosts boot anew, all links in place.
    fn start_over(&mut self) -> Result<()> {
        (self.host, self.options) = (None, None);
        for host in [0, 1] {
            for link in Link::ALL {
                self.lab.connect(host, link, true)?;
            }
            self.lab.host(host).start()?;
        }
        [0, 1].into_iter().try_for_each(|host| self.lab.host(host).wait_ready(BOOT_TIMEOUT))?;
        Ok(())
    }

    /// No copy of the guest is left on that host: neither a domain nor the `xl` that receives it.
    fn no_copy(&self, host: usize) -> Result<()> {
        let command = "! xl list | grep -q incoming && ! pidof xl >/dev/null";
        self.lab.host(host).wait_for(command, SOON)?;
        Ok(())
    }

    /// The guest's vif is a port of its bridge, and nothing of ours is left.
    fn on_its_bridge(&self, host: usize) -> Result<()> {
        let links = self.lab.host(host).check("ip -o link")?.text();
        let vif = links.lines().find(|l| l.contains(" vif")).unwrap_or_default();
        ensure(vif.contains("master xenbr0"), || format!("the guest's vif is on no bridge: {links}"))?;
        nothing_left(&links)
    }

    /// Runs a command that must end with `code` and say `words`.
    fn refused(&self, host: usize, command: &str, code: i32, words: &[&str]) -> Result<()> {
        let output = self.lab.host(host).run(command)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure(output.code == code && words.iter().all(|w| said.contains(w)), || {
            format!(
                "`{command}` ended with {} instead of {code}, or did not say {words:?}: {said}",
                output.code
            )
        })
    }

    /// Waits until at least `more` further epochs are committed.
    fn epochs_go_on(&self, host: usize, more: u64) -> Result<()> {
        let before = wait_primary(self.lab, host, &["protected"], SOON)?.epochs_committed;
        wait("further epochs", SOON, || {
            let now = primary_status(self.lab, host)?.map_or(0, |p| p.epochs_committed);
            Ok((now >= before + more, move || format!("{now} epochs, {before} before")))
        })
    }
}

/// Among these links is no TAP of ours; the bridge for isolated vifs may stay, without a port.
fn nothing_left(links: &str) -> Result<()> {
    let ours =
        |l: &&str| l.contains("master llm-hold") || (l.contains(": llm") && !l.contains(": llm-hold:"));
    let left: Vec<_> = links.lines().filter(ours).collect();
    ensure(left.is_empty(), || format!("something of llm is left: {left:?}"))
}

/// Fails with what an operation of this machine's said.
fn here<T>(what: &str, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|source| ScenarioError::Lab(LabError::Io { what: what.into(), source }))
}
