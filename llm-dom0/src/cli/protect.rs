//! `llm protect`.

use llm_core::page::PAGE;
use llm_core::replication;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::Path;
use std::time::{Duration, Instant};

use super::args::{self, Common, OnBackupLoss};
use super::config::{File, ProtectConfig};
use super::exit::{Exit, Failure, OrExit};
use super::{host, logging};
use crate::control::{self, ControlError, Request, Response, Status};
use crate::net::{MacAddr, bridge_of};
use crate::session::primary::{Handle, Interface, Outcome, PrimaryConfig, PrimaryError, Protection};
use crate::xen::encoder::EncoderDomain;
use crate::xen::privcmd::open_xen;
use crate::xen::toolstack::{Domain, DomainType, ToolstackError, Xl};

/// A take-over takes less, or has failed.
const REPLAY_PATIENCE: Duration = Duration::from_secs(90);

/// Why a domain cannot be protected.
#[derive(Debug, thiserror::Error)]
enum Unsuitable {
    #[error("Domain 0 cannot be protected: it is the host itself")]
    Dom0,
    #[error(
        "Domain {0} is paravirtual (PV): Xen cannot track the pages that it changes. \
         Make it PVH (type = \"pvh\") or HVM"
    )]
    Pv(String),
    #[error(
        "Domain {domain} has a writable disk ({disk}), and disks are not replicated: after a take-over it would not \
         fit the memory. Use it read-only, or say --unsafe-disks if you know that this does no harm"
    )]
    Disk { domain: String, disk: String },
    #[error(
        "Interface {vif} of domain {domain} is on no bridge: name one in its configuration, and script=llm-vif"
    )]
    NoBridge { domain: String, vif: String },
    #[error(
        "Domain {0} has more than one network interface, and the replay of mode llm serves one: protect it with --mode remus"
    )]
    Interfaces(String),
    #[error("The number of domain {0} is out of range")]
    Domid(String),
}

pub(super) fn run(common: &Common, args: &args::Protect) -> Result<Exit, Failure> {
    logging::start(common)?;
    let file = File::load(common.config.as_deref()).or_exit(Exit::Usage)?;
    let config = ProtectConfig::new(&args.settings, &file).or_exit(Exit::Usage)?;
    host::check()?;
    host::raise_priority();
    let domain = find(&args.domain)?;
    check(&domain, config.unsafe_disks).or_exit(Exit::Domain)?;
    let config = primary_config(&domain, config).or_exit(Exit::Domain)?;
    wait_for_replay(&args.domain);

    let protection = Protection::new(config).map_err(failure)?;
    let handle = protection.handle();
    let socket = control::protect_socket(&args.domain);
    let answers = handle.clone();
    let _server = control::serve(&socket, &format!("Domain {}", args.domain), move |r| answer(&answers, r))
        .map_err(|e| Failure::new(busy_or_failed(&e), e))?;
    end_on_signal(handle)?;
    match protection.run(|| host::notify_ready("protected")).map_err(failure)? {
        Outcome::Released => Ok(Exit::Done),
        Outcome::DomainEnded(how) => {
            tracing::info!(%how, "protection ended with the domain");
            Ok(Exit::Done)
        }
        Outcome::TakenOver => Ok(Exit::TakenOver),
    }
}

/// A domain that has just been taken over on this host is let alone until its clients have it. Whoever does not wait is
/// refused later.
fn wait_for_replay(domain: &str) {
    let replays = || match control::ask(&control::backup_socket(), Request::Status) {
        Ok(Response::Status(status)) => match *status {
            Status::Backup(backup) => backup.sessions.iter().any(|session| {
                session.domain == domain && ["taking-over", "replaying"].contains(&session.state.as_str())
            }),
            Status::Primary(_) => false,
        },
        _ => false,
    };
    let begin = Instant::now();
    while replays() && begin.elapsed() < REPLAY_PATIENCE {
        std::thread::sleep(Duration::from_millis(200));
    }
}

pub(super) fn busy_or_failed(error: &ControlError) -> Exit {
    if matches!(error, ControlError::Busy { .. }) { Exit::Busy } else { Exit::Failed }
}

fn failure(error: PrimaryError) -> Failure {
    let exit = match &error {
        PrimaryError::Refused { .. } | PrimaryError::NoBackup { .. } => Exit::Peer,
        PrimaryError::Name(_) => Exit::Domain,
        PrimaryError::Timing(_) => Exit::Usage,
        PrimaryError::GivenUp { .. } => Exit::TakenOver,
        _ => Exit::Failed,
    };
    Failure::new(exit, error)
}

fn answer(handle: &Handle, request: Request) -> Response {
    match request {
        Request::Status => Response::Status(Box::new(Status::Primary(handle.status()))),
        Request::HandOver { .. } => {
            Response::Error { reason: "A domain is handed over by llm backup".into() }
        }
        Request::Release { force } => match handle.release(force) {
            Ok(note) => Response::Released { note },
            Err(reason) => Response::Error { reason },
        },
    }
}

/// SIGTERM and SIGINT release the domain.
fn end_on_signal(handle: Handle) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).or_exit(Exit::Failed)?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                host::notify_stopping();
                handle.terminate();
            }
        })
        .or_exit(Exit::Failed)?;
    Ok(())
}

fn find(name: &str) -> Result<Domain, Failure> {
    Xl::default().domain(name).map_err(|e| {
        let exit = if matches!(e, ToolstackError::NoDomain(_)) { Exit::Domain } else { Exit::Host };
        Failure::new(exit, e)
    })
}

fn check(domain: &Domain, unsafe_disks: bool) -> Result<(), Unsuitable> {
    let name = || domain.config.c_info.name.clone();
    if domain.domid == 0 {
        return Err(Unsuitable::Dom0);
    }
    if domain.config.c_info.kind == DomainType::Pv {
        return Err(Unsuitable::Pv(name()));
    }
    match domain.config.disks.iter().find(|d| d.readwrite != 0) {
        Some(disk) if !unsafe_disks => Err(Unsuitable::Disk { domain: name(), disk: disk.vdev.clone() }),
        _ => Ok(()),
    }
}

fn primary_config(domain: &Domain, config: ProtectConfig) -> Result<PrimaryConfig, Unsuitable> {
    let name = domain.config.c_info.name.clone();
    let domid = u16::try_from(domain.domid).map_err(|_| Unsuitable::Domid(name.clone()))?;
    let interface = |(at, nic): (usize, &crate::xen::toolstack::Vif)| {
        let vif = nic.device(domain.domid);
        // Where it is beats what the configuration says: an operator may have moved it.
        let bridge = bridge_of(&vif).ok().flatten().or_else(|| nic.bridge.clone());
        Ok(Interface {
            bridge: bridge.ok_or_else(|| Unsuitable::NoBridge { domain: name.clone(), vif: vif.clone() })?,
            tap: format!("llm{domid}.{at}"),
            mac: parse_mac(&nic.mac),
            vif,
        })
    };
    let interfaces: Vec<_> =
        domain.config.nics.iter().enumerate().map(interface).collect::<Result<_, _>>()?;
    if config.mode != args::Mode::Remus && interfaces.len() > 1 {
        return Err(Unsuitable::Interfaces(name));
    }
    if config.mode == args::Mode::LlmPaper {
        tracing::warn!("mode llm-paper is UNSAFE: replies leave before the backup has their requests");
    }
    Ok(PrimaryConfig {
        domid,
        states: open_xen,
        interfaces,
        backup: config.to,
        mode: match config.mode {
            args::Mode::Remus => replication::Mode::Remus,
            args::Mode::Llm => replication::Mode::Llm,
            args::Mode::LlmPaper => replication::Mode::LlmPaper,
        },
        interval: config.interval,
        detect: config.detect,
        on_backup_loss: match config.on_backup_loss {
            OnBackupLoss::Stop => replication::OnBackupLoss::Stop,
            OnBackupLoss::GoOn => replication::OnBackupLoss::GoOn,
        },
        shadow_pages: host::pages(config.shadow_limit),
        buffer_limit: config.buffer_limit,
        egress_limit: config.egress_limit,
        log_limit: config.log_limit,
        log_records: config.log_records,
        policy: config.policy,
        compress: config.compress,
        encoder: config.stubdom.map(|kernel| {
            let mib = domain.config.b_info.max_memkb.div_ceil(1024);
            EncoderDomain::new(Xl::default(), &name, &kernel, mib, Path::new(control::RUN_DIR))
        }),
        domain: name,
    })
}

fn parse_mac(text: &str) -> Option<MacAddr> {
    let mut mac = MacAddr::default();
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

const _: () = assert!(PAGE == 4096, "limits are given in bytes and counted in pages");

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(kind: &str, disks: &str) -> Domain {
        let json = format!(
            r#"{{"domid": 3, "config": {{"c_info": {{"type": "{kind}", "name": "g"}}, "disks": [{disks}]}}}}"#
        );
        serde_json::from_str(&json).expect("valid")
    }

    #[test]
    fn unsuitable_domains_are_told_why() {
        let words = |d: &Domain, unsafe_disks| check(d, unsafe_disks).map_err(|e| e.to_string());
        let pv = words(&domain("pv", ""), true).unwrap_err();
        assert!(pv.contains("(PV)") && pv.contains("pvh"), "{pv}");
        let disk = domain("pvh", r#"{"vdev": "xvda", "readwrite": 1}"#);
        let refused = words(&disk, false).unwrap_err();
        assert!(refused.contains("xvda") && refused.contains("--unsafe-disks"), "{refused}");
        assert_eq!(words(&disk, true), Ok(()));
        assert_eq!(words(&domain("hvm", r#"{"vdev": "xvda", "readwrite": 0}"#), false), Ok(()));
        let mut dom0 = domain("pvh", "");
        dom0.domid = 0;
        assert!(words(&dom0, false).unwrap_err().contains("Domain 0"));
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(parse_mac("00:16:3e:0a:FF:01"), Some([0, 0x16, 0x3e, 0x0a, 0xff, 1]));
        for bad in ["", "00:16:3e:0a:ff", "00:16:3e:0a:ff:01:02", "x:1:2:3:4:5"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
