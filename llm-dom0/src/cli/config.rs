//! The configuration file, and what holds when neither it nor the command line
//! says anything.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::checkpoint::second::Compress;
use llm_core::flow::{Class, Policy, RULES_MAX, Rule, Side, TCP, UDP};
use llm_core::frame::Method;
use serde::Deserialize;

use super::args::{
    BackupSettings, CompressBy, EncoderKind, FlowOutput, FlowRule, FlowWait, Mode, OnBackupLoss,
    OnDivergence, ProtectSettings, Protocol,
};
use crate::units::{Size, Span};

/// Read if it exists and no other is named.
const DEFAULT_FILE: &str = "/etc/llm/llm.toml";
/// Kept over restarts.
const DEFAULT_STATE_DIR: &str = "/var/lib/llm";
/// Where the unikernel is installed.
const DEFAULT_KERNEL: &str = "/usr/lib/llm/llm-stubdom";
/// Shortest interval that `xl` can be paced to.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
/// Longest: beyond it, held output stalls every connection.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Shortest detect time: heartbeats go ten times as often.
const DETECT_MIN: Duration = Duration::from_millis(200);

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("Cannot read the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("Configuration file {}", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("No {what}: give {option}, or `{key}` under [{section}] in /etc/llm/llm.toml")]
    Missing { what: &'static str, option: &'static str, section: &'static str, key: &'static str },
    #[error("More than {RULES_MAX} rules under [[protect.flow]]")]
    Rules,
    #[error(
        "A rule under [[protect.flow]] has wait = \"remus\" and output = \"bytes\": only what waits for the log is logged"
    )]
    NotLogged,
    #[error("A rule under [[protect.flow]] names guest-port and peer-port: make two of it")]
    TwoPorts,
    #[error(
        "There is no kernel for --encoder stubdom at {}: put llm-stubdom there, or name it with --stubdom-kernel",
        .0.display()
    )]
    NoKernel(PathBuf),
    #[error("{option} {given} is out of range: {allowed}")]
    Range { option: &'static str, given: String, allowed: String },
}

/// The file as it stands.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    #[serde(default)]
    protect: ProtectSettings,
    #[serde(default)]
    backup: BackupSettings,
}

impl File {
    /// Reads the file named on the command line, or the default one if it exists.
    pub(crate) fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or_else(|| Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if named.is_none() && e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Read { path: path.into(), source }),
        };
        toml::from_str(&text).map_err(|e| ConfigError::Parse { path: path.into(), source: Box::new(e) })
    }
}

/// How a domain is protected, everything decided.
#[derive(Clone, Debug)]
pub(crate) struct ProtectConfig {
    pub(crate) to: String,
    pub(crate) mode: Mode,
    pub(crate) interval: Duration,
    pub(crate) detect: Duration,
    pub(crate) on_backup_loss: OnBackupLoss,
    pub(crate) shadow_limit: u64,
    pub(crate) buffer_limit: u64,
    pub(crate) egress_limit: u64,
    pub(crate) log_limit: u64,
    pub(crate) log_records: u64,
    pub(crate) policy: Policy,
    pub(crate) compress: Compress,
    /// Kernel of the domain that encodes; none if this process does.
    pub(crate) stubdom: Option<PathBuf>,
    pub(crate) unsafe_disks: bool,
}

impl ProtectConfig {
    /// Command line over file over default, checked.
    pub(crate) fn new(given: &ProtectSettings, file: &File) -> Result<Self, ConfigError> {
        let file = &file.protect;
        let to = given.to.clone().or_else(|| file.to.clone()).ok_or(ConfigError::Missing {
            what: "address of a backup",
            option: "--to HOST:PORT",
            section: "protect",
            key: "to",
        })?;
        let span =
            |a: Option<Span>, b: Option<Span>, ms| a.or(b).map_or_else(|| Duration::from_millis(ms), |s| s.0);
        let size = |a: Option<Size>, b: Option<Size>, mib: u64| a.or(b).map_or(mib << 20, |s| s.0);
        let mode = given.mode.or(file.mode).unwrap_or(Mode::Remus);
        let config = Self {
            to,
            mode,
            interval: span(given.interval, file.interval, if mode == Mode::Remus { 200 } else { 2000 }),
            detect: span(given.detect, file.detect, 1000),
            on_backup_loss: given.on_backup_loss.or(file.on_backup_loss).unwrap_or(OnBackupLoss::Stop),
            shadow_limit: size(given.shadow_limit, file.shadow_limit, 4096),
            buffer_limit: size(given.buffer_limit, file.buffer_limit, 256),
            egress_limit: size(given.egress_limit, file.egress_limit, 16),
            log_limit: size(given.log_limit, file.log_limit, 64),
            log_records: given.log_records.or(file.log_records).unwrap_or(200_000),
            policy: policy(&file.flow)?,
            compress: match given.compress.or(file.compress).unwrap_or_default() {
                CompressBy::Auto => Compress::Auto,
                CompressBy::None => Compress::Never,
                CompressBy::Lz4 => Compress::By(Method::Lz4),
                CompressBy::Zstd => Compress::By(Method::Zstd),
            },
            stubdom: stubdom(given, file)?,
            unsafe_disks: given.unsafe_disks || file.unsafe_disks,
        };
        check_span("--interval", config.interval, INTERVAL_MIN, INTERVAL_MAX)?;
        check_span("--detect", config.detect, DETECT_MIN, Duration::from_secs(3600))?;
        check_size("--buffer-limit", config.buffer_limit, 1 << 20)?;
        check_size("--egress-limit", config.egress_limit, 256 << 10)?;
        check_size("--log-limit", config.log_limit, 1 << 20)?;
        Ok(config)
    }
}

/// The kernel of the domain that encodes, if one is wanted.
fn stubdom(given: &ProtectSettings, file: &ProtectSettings) -> Result<Option<PathBuf>, ConfigError> {
    if given.encoder.or(file.encoder).unwrap_or_default() == EncoderKind::Dom0 {
        return Ok(None);
    }
    let kernel = given.stubdom_kernel.as_ref().or(file.stubdom_kernel.as_ref());
    let kernel = kernel.map_or_else(|| DEFAULT_KERNEL.into(), PathBuf::clone);
    if kernel.is_file() { Ok(Some(kernel)) } else { Err(ConfigError::NoKernel(kernel)) }
}

/// How this host serves as a backup, everything decided.
#[derive(Clone, Debug)]
pub(crate) struct BackupConfig {
    pub(crate) listen: String,
    pub(crate) shadow_limit: u64,
    pub(crate) buffer_limit: u64,
    pub(crate) on_divergence: OnDivergence,
    pub(crate) keep_log: bool,
    pub(crate) state_dir: PathBuf,
}

impl BackupConfig {
    /// Command line over file over default, checked.
    pub(crate) fn new(given: &BackupSettings, file: &File) -> Result<Self, ConfigError> {
        let file = &file.backup;
        let listen = given.listen.clone().or_else(|| file.listen.clone()).ok_or(ConfigError::Missing {
            what: "address to listen on",
            option: "--listen HOST:PORT",
            section: "backup",
            key: "listen",
        })?;
        let size = |a: Option<Size>, b: Option<Size>, mib: u64| a.or(b).map_or(mib << 20, |s| s.0);
        let config = Self {
            listen,
            shadow_limit: size(given.shadow_limit, file.shadow_limit, 4096),
            buffer_limit: size(given.buffer_limit, file.buffer_limit, 256),
            on_divergence: given.on_divergence.or(file.on_divergence).unwrap_or(OnDivergence::Reset),
            keep_log: given.keep_log || file.keep_log,
            state_dir: given
                .state_dir
                .clone()
                .or_else(|| file.state_dir.clone())
                .unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
        };
        check_size("--buffer-limit", config.buffer_limit, 1 << 20)?;
        Ok(config)
    }
}

/// The rules of the file.
fn policy(rules: &[FlowRule]) -> Result<Policy, ConfigError> {
    let rule = |given: &FlowRule| {
        let port = match (given.guest_port, given.peer_port) {
            (Some(_), Some(_)) => return Err(ConfigError::TwoPorts),
            (Some(port), None) => Some((Side::Guest, port)),
            (None, Some(port)) => Some((Side::Peer, port)),
            (None, None) => None,
        };
        let protocol = given.protocol.map(|protocol| match protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        });
        let class = match (given.wait, given.output) {
            (FlowWait::Remus, FlowOutput::Digest) => Class::Remus,
            (FlowWait::Remus, FlowOutput::Bytes) => return Err(ConfigError::NotLogged),
            (FlowWait::Llm, FlowOutput::Digest) => Class::Llm,
            (FlowWait::Llm, FlowOutput::Bytes) => Class::LlmBytes,
        };
        Ok(Rule { protocol, port, class })
    };
    let rules: Vec<Rule> = rules.iter().map(rule).collect::<Result<_, _>>()?;
    Policy::new(&rules).ok_or(ConfigError::Rules)
}

fn check_span(
    option: &'static str,
    given: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), ConfigError> {
    if (min..=max).contains(&given) {
        return Ok(());
    }
    let allowed = format!("{} to {}", Span(min), Span(max));
    Err(ConfigError::Range { option, given: Span(given).to_string(), allowed })
}

fn check_size(option: &'static str, given: u64, min: u64) -> Result<(), ConfigError> {
    if given >= min {
        return Ok(());
    }
    let allowed = format!("at least {}", Size(min));
    Err(ConfigError::Range { option, given: Size(given).to_string(), allowed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<File, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn command_line_over_file_over_default() {
        let file = file("[protect]\nto = 'b:1'\ninterval = '100ms'\ndetect = '2s'\n").expect("valid");
        let given =
            ProtectSettings { interval: Some(Span(Duration::from_millis(300))), ..Default::default() };
        let config = ProtectConfig::new(&given, &file).expect("valid");
        assert_eq!(config.to, "b:1");
        assert_eq!(config.interval, Duration::from_millis(300));
        assert_eq!(config.detect, Duration::from_secs(2));
        assert_eq!(config.egress_limit, 16 << 20);
        assert_eq!(config.on_backup_loss, OnBackupLoss::Stop);
    }

    #[test]
    fn what_is_missing_or_out_of_range_is_named() {
        let none = ProtectConfig::new(&ProtectSettings::default(), &File::default()).unwrap_err().to_string();
        assert!(none.contains("--to HOST:PORT"), "{none}");
        let given = ProtectSettings {
            to: Some("b:1".into()),
            interval: Some(Span(Duration::from_millis(5))),
            ..Default::default()
        };
        let range = ProtectConfig::new(&given, &File::default()).unwrap_err().to_string();
        assert!(range.contains("--interval 5ms") && range.contains("50ms to 60s"), "{range}");
        let none = BackupConfig::new(&BackupSettings::default(), &File::default()).unwrap_err().to_string();
        assert!(none.contains("--listen HOST:PORT"), "{none}");
    }

    #[test]
    fn with_a_log_checkpoints_are_rare_and_flows_have_rules() {
        let text =
            "[protect]\nto = 'b:1'\nmode = 'llm'\n[[protect.flow]]\nguest-port = 443\nwait = 'remus'\n";
        let config =
            ProtectConfig::new(&ProtectSettings::default(), &file(text).expect("valid")).expect("valid");
        assert_eq!((config.mode, config.interval), (Mode::Llm, Duration::from_secs(2)));
        let rule = Rule { protocol: None, port: Some((Side::Guest, 443)), class: Class::Remus };
        assert_eq!(config.policy, Policy::new(&[rule]).expect("few"));
        let two = text.replace("wait", "peer-port = 1\nwait");
        let error = ProtectConfig::new(&ProtectSettings::default(), &file(&two).expect("valid")).unwrap_err();
        assert!(error.to_string().contains("make two of it"), "{error}");
        let bytes = text.replace("'remus'", "'llm'\noutput = 'bytes'");
        let config =
            ProtectConfig::new(&ProtectSettings::default(), &file(&bytes).expect("valid")).expect("valid");
        let rule = Rule { class: Class::LlmBytes, ..rule };
        assert_eq!(config.policy, Policy::new(&[rule]).expect("few"));
        let none = text.replace("'remus'", "'remus'\noutput = 'bytes'");
        let error =
            ProtectConfig::new(&ProtectSettings::default(), &file(&none).expect("valid")).unwrap_err();
        assert!(error.to_string().contains("only what waits for the log"), "{error}");
    }

    #[test]
    fn a_domain_that_encodes_needs_its_kernel() {
        let given = ProtectSettings { to: Some("b:1".into()), ..Default::default() };
        let new = |text: &str| ProtectConfig::new(&given, &file(text).expect("valid"));
        assert_eq!(new("[protect]\nstubdom-kernel = '/'\n").expect("not wanted").stubdom, None);
        let error = new("[protect]\nencoder = 'stubdom'\nstubdom-kernel = '/nonexistent/k'\n").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/k: put llm-stubdom there"), "{error}");
        let this = std::env::current_exe().expect("a file");
        let text = format!("[protect]\nencoder = 'stubdom'\nstubdom-kernel = '{}'\n", this.display());
        assert_eq!(new(&text).expect("there").stubdom, Some(this));
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        let error = file("[protect]\nintervall = '1s'\n").unwrap_err();
        assert!(error.contains("intervall"), "{error}");
        assert!(file("[protect]\ninterval = '1x'\n").unwrap_err().contains("is not a span of time"));
    }
}
