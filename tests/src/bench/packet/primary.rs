//! The primary's process: the real driver over a domain that is said to run always.

use std::io;
use std::time::Duration;

use llm_core::replication::{Mode, OnBackupLoss};
use llm_dom0::session::primary::{Interface, PrimaryConfig, Protection};
use llm_dom0::xen::privcmd::{DomainInfo, DomainStates, PrivcmdError};

/// What to protect.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A name that no other driver on this machine has.
    pub name: String,
    /// The interface that stands for the vif.
    pub vif: String,
    /// Its bridge.
    pub bridge: String,
    /// The backup, HOST:PORT.
    pub to: String,
    /// remus, llm or llm-paper.
    pub mode: String,
    /// Milliseconds between checkpoints.
    pub interval: u64,
}

#[derive(Debug)]
struct AlwaysRunning;

impl DomainStates for AlwaysRunning {
    fn domain(&mut self, domid: u16) -> Result<Option<DomainInfo>, PrivcmdError> {
        Ok(Some(DomainInfo {
            domid,
            flags: 0,
            pages: 0,
            max_pages: 0,
            cpu_time: 0,
            vcpus: 1,
            handle: [0; 16],
        }))
    }
}

/// Protects until its input ends. Says `protected` once, and its status as JSON for each line of input.
///
/// # Errors
/// As `llm protect`.
pub fn run(args: &Args) -> io::Result<()> {
    let mode = match args.mode.as_str() {
        "remus" => Mode::Remus,
        "llm" => Mode::Llm,
        "llm-paper" => Mode::LlmPaper,
        other => return Err(io::Error::other(format!("no mode {other}"))),
    };
    let config = PrimaryConfig {
        domain: args.name.clone(),
        domid: 1,
        states: || Ok(Box::new(AlwaysRunning)),
        interfaces: vec![Interface {
            vif: args.vif.clone(),
            bridge: args.bridge.clone(),
            tap: "llm1.0".into(),
            mac: None,
        }],
        backup: args.to.clone(),
        mode,
        interval: Duration::from_millis(args.interval),
        detect: Duration::from_secs(10),
        on_backup_loss: OnBackupLoss::Stop,
        shadow_pages: 1 << 20,
        buffer_limit: 256 << 20,
        egress_limit: 64 << 20,
        log_limit: 256 << 20,
        log_records: u64::MAX,
        policy: llm_core::flow::Policy::default(),
        compress: llm_dom0::checkpoint::second::Compress::Never,
        encoder: None,
    };
    std::fs::create_dir_all(llm_dom0::control::RUN_DIR)?;
    // As the command does it.
    rustix::process::setpriority_process(None, -15)?;
    let protection = Protection::new(config).map_err(io::Error::other)?;
    let handle = protection.handle();
    std::thread::spawn(move || {
        for line in io::stdin().lines() {
            if line.is_err() {
                break;
            }
            println!("{}", serde_json::to_string(&handle.status()).unwrap_or_default());
        }
        handle.terminate();
    });
    let outcome = protection.run(|| println!("protected")).map_err(io::Error::other)?;
    eprintln!("embedded: {outcome:?}");
    Ok(())
}
