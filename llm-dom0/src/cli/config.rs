//! The configuration file, and what holds when neither it nor the command line
//! says anything.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::args::{BackupSettings, Mode, OnBackupLoss, ProtectSettings};
use crate::units::{Size, Span};

/// Read if it exists and no other is named.
const DEFAULT_FILE: &str = "/etc/llm/llm.toml";
/// Kept over restarts.
const DEFAULT_STATE_DIR: &str = "/var/lib/llm";
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
        let config = Self {
            to,
            mode: given.mode.or(file.mode).unwrap_or(Mode::Remus),
            interval: span(given.interval, file.interval, 200),
            detect: span(given.detect, file.detect, 1000),
            on_backup_loss: given.on_backup_loss.or(file.on_backup_loss).unwrap_or(OnBackupLoss::Stop),
            shadow_limit: size(given.shadow_limit, file.shadow_limit, 4096),
            buffer_limit: size(given.buffer_limit, file.buffer_limit, 256),
            egress_limit: size(given.egress_limit, file.egress_limit, 16),
            unsafe_disks: given.unsafe_disks || file.unsafe_disks,
        };
        check_span("--interval", config.interval, INTERVAL_MIN, INTERVAL_MAX)?;
        check_span("--detect", config.detect, DETECT_MIN, Duration::from_secs(3600))?;
        check_size("--buffer-limit", config.buffer_limit, 1 << 20)?;
        check_size("--egress-limit", config.egress_limit, 256 << 10)?;
        Ok(config)
    }
}

/// How this host serves as a backup, everything decided.
#[derive(Clone, Debug)]
pub(crate) struct BackupConfig {
    pub(crate) listen: String,
    pub(crate) shadow_limit: u64,
    pub(crate) buffer_limit: u64,
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
    fn a_misspelt_key_is_refused() {
        let error = file("[protect]\nintervall = '1s'\n").unwrap_err();
        assert!(error.contains("intervall"), "{error}");
        assert!(file("[protect]\ninterval = '1x'\n").unwrap_err().contains("is not a span of time"));
    }
}
