//! The commands that ask: status, release, watch; and the end of the pipe.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::args;
use super::exit::{Exit, Failure, OrExit};
use crate::control::{self, ControlError, PrimaryStatus, Request, Response, SessionStatus, Status};
use crate::session::primary::look;
use crate::session::{PauseMeter, Samples};
use crate::xen::privcmd::Privcmd;
use crate::xen::stdio::stdio_client;
use crate::xen::toolstack::{ToolstackError, Xl};

/// `llm status`: everything that runs on this host.
pub(super) fn status(args: &args::Status) -> Result<Exit, Failure> {
    let mut all = Vec::new();
    for socket in control::sockets().or_exit(Exit::Failed)? {
        match control::ask(&socket, Request::Status) {
            Ok(Response::Status(status)) => all.push(*status),
            Ok(other) => tracing::debug!(?other, "unexpected answer"),
            // A socket that a killed llm left behind.
            Err(ControlError::Connect { .. }) => {}
            Err(error) => eprintln!("llm: {error}"),
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&all).or_exit(Exit::Failed)?);
    } else if all.is_empty() {
        println!("No llm runs on this host. Start `llm backup` or `llm protect DOMAIN`; see llm --help.");
    } else {
        let mut text = String::new();
        for status in &all {
            describe(status, &mut text).or_exit(Exit::Failed)?;
        }
        print!("{text}");
    }
    Ok(Exit::Done)
}

fn describe(status: &Status, out: &mut String) -> std::fmt::Result {
    match status {
        Status::Primary(primary) => describe_primary(primary, out),
        Status::Backup(backup) => {
            writeln!(out, "backup on {} (pid {})", backup.listen, backup.pid)?;
            if backup.sessions.is_empty() {
                writeln!(out, "  no domain is protected here")?;
            }
            backup.sessions.iter().try_for_each(|s| describe_session(s, out))
        }
    }
}

fn describe_primary(p: &PrimaryStatus, out: &mut String) -> std::fmt::Result {
    let up = |up| if up { "up" } else { "down" };
    writeln!(out, "{} (domain {}, pid {}): {}", p.domain, p.domid, p.pid, p.state)?;
    if !p.note.is_empty() {
        writeln!(out, "  note         {}", p.note)?;
    }
    writeln!(
        out,
        "  backup       {}  control {}, bulk {}  lost {} times",
        p.backup,
        up(p.control_up),
        up(p.bulk_up),
        p.backup_losses
    )?;
    let last = p.last_commit_ms.map_or_else(|| "never".into(), |ms| format!("{ms} ms ago"));
    writeln!(
        out,
        "  epochs       {} committed, last {last}, commit takes {:.1} ms",
        p.epochs_committed, p.commit_ms
    )?;
    writeln!(
        out,
        "  interval     {} ms wanted, {} ms real, {} late, {} early",
        p.interval_ms, p.real_interval_ms, p.stretched, p.early
    )?;
    writeln!(
        out,
        "  pause        {:.1} ms half of the time, {:.1} ms at most but for 1 %, {:.1} ms ever",
        p.pause.p50_ms, p.pause.p99_ms, p.pause.max_ms
    )?;
    writeln!(
        out,
        "  sent         {} pages, {} bytes as {} bytes ({:.1} %)",
        p.pages_sent,
        p.bytes_raw,
        p.bytes_sent,
        100.0 * p.bytes_sent as f64 / p.bytes_raw.max(1) as f64
    )?;
    writeln!(
        out,
        "  output held  {} packets, {} bytes; {} dropped",
        p.egress.held_packets, p.egress.held_bytes, p.egress.dropped_packets
    )?;
    if !p.encoder.is_empty() {
        writeln!(out, "  encoder      {}", p.encoder)?;
    }
    let second = &p.second_stage;
    if !second.method.is_empty() {
        writeln!(
            out,
            "  compressed   {} bytes as {} bytes ({}), {:.0} ms of processor time",
            second.bytes_before, second.bytes_after, second.method, second.cpu_ms
        )?;
    }
    writeln!(out, "  memory       {} bytes shadow, {} bytes not yet committed", p.shadow_bytes, p.buffered)
}

fn describe_session(s: &SessionStatus, out: &mut String) -> std::fmt::Result {
    writeln!(out, "  {} from {}: {}", s.domain, s.primary, s.state)?;
    if !s.note.is_empty() {
        writeln!(out, "    note       {}", s.note)?;
    }
    writeln!(
        out,
        "    epochs     {} committed; primary heard {} ms ago; {} bytes not yet restored",
        s.epochs_committed, s.silence_ms, s.backlog_bytes
    )?;
    if let Some(t) = &s.takeover {
        writeln!(
            out,
            "    take-over  after {:.0} ms of silence; running after {:.0} ms, announced after {:.0} ms",
            t.detect_ms, t.running_ms, t.announced_ms
        )?;
    }
    Ok(())
}

/// `llm release DOMAIN`.
pub(super) fn release(args: &args::Release) -> Result<Exit, Failure> {
    let request = Request::Release { force: args.force };
    match control::ask(&control::protect_socket(&args.domain), request) {
        Ok(Response::Released { note }) => {
            println!("{}: {note}", args.domain);
            Ok(Exit::Done)
        }
        Ok(Response::Error { reason }) => Err(Failure::new(Exit::Failed, reason)),
        Ok(other) => Err(Failure::new(Exit::Failed, format!("Unexpected answer: {other:?}"))),
        Err(ControlError::Connect { .. }) => Err(Failure::new(
            Exit::Domain,
            format!(
                "Domain {} is not protected on this host; `llm status` lists those that are",
                args.domain
            ),
        )),
        Err(error) => Err(Failure::new(Exit::Failed, error)),
    }
}

/// Longest time between two looks of `llm watch`, to which nobody says when a pause is due.
const LOOK: Duration = Duration::from_millis(2);

/// `llm watch DOMAIN`.
pub(super) fn watch(args: &args::Watch) -> Result<Exit, Failure> {
    let found = Xl::default().domid(&args.domain).or_exit(Exit::Host)?;
    let domid =
        found.ok_or_else(|| Failure::new(Exit::Domain, ToolstackError::NoDomain(args.domain.clone())))?;
    let domid = u16::try_from(domid).or_exit(Exit::Domain)?;
    let mut privcmd = Privcmd::open().or_exit(Exit::Host)?;
    let mut samples = Samples::default();
    let mut meter = PauseMeter::default();
    let end = Instant::now() + args.duration.0;
    while Instant::now() < end {
        let suspended = match look(&mut privcmd, domid) {
            Ok(suspended) => suspended,
            // What was measured until then is still worth telling.
            Err(gone) => {
                eprintln!("llm: domain {}: {}", args.domain, gone.how);
                break;
            }
        };
        let at = Instant::now();
        if let Some(pause) = meter.observe(suspended, at) {
            samples.add(pause.as_secs_f64() * 1e3);
        }
        std::thread::sleep(meter.until_next(at).min(LOOK));
    }
    let status = samples.to_status();
    if args.json {
        println!("{}", serde_json::to_string(&status).or_exit(Exit::Failed)?);
    } else {
        println!(
            "{} pauses in {}: half up to {:.1} ms, 99 % up to {:.1} ms, longest {:.1} ms",
            status.count, args.duration, status.p50_ms, status.p99_ms, status.max_ms
        );
    }
    Ok(Exit::Done)
}

/// `llm stdio SOCKET`: hands the pipe that `xl` gave us to the `llm` that waits for it.
pub(super) fn stdio(args: &args::Stdio) -> Result<Exit, Failure> {
    stdio_client(&args.socket).or_exit(Exit::Failed)?;
    Ok(Exit::Done)
}
