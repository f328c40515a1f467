//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

use super::exit;
use crate::units::{Size, Span};

const AFTER_HELP: &str = "\
A protected domain in three steps:
  1. On the backup host:   llm backup --listen 10.0.0.2:7707
  2. In the domain's file: vif = [ 'bridge=xenbr0,script=llm-vif' ]   (both hosts)
  3. On the primary host:  llm protect web1 --to 10.0.0.2:7707
Then `llm status` on either host tells how it stands. Kill the primary host: the
backup takes over within the detect time, and the clients' connections go on.
To stop protecting, `llm release web1` (or SIGTERM to `llm protect`).

Files:
  /etc/llm/llm.toml   configuration; what the command line gives wins
  /run/llm/           sockets and locks of running commands
  /var/lib/llm/       which domains this host has taken over";

/// Protects a Xen domain against the loss of its host.
#[derive(Debug, Parser)]
#[command(name = "llm", version, about, max_term_width = 100)]
#[command(after_help = format!("{AFTER_HELP}\n\n{}", exit::TABLE))]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct Common {
    /// Configuration file [default: /etc/llm/llm.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Write the log to FILE instead of standard error; a full disk does not stop the protection
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// What to log, as in `info` or `llm_dom0::session=debug`
    #[arg(long, global = true, value_name = "FILTER", default_value = "info", env = "LLM_LOG")]
    pub(crate) log: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Protect a running domain of this host; stays in the foreground
    Protect(Protect),
    /// Receive the domains of other hosts and take over when these die
    Backup(Backup),
    /// Tell what runs on this host, as primary and as backup
    Status(Status),
    /// Stop protecting a domain; the guest goes on here
    Release(Release),
    /// Measure how long a domain is suspended, whoever suspends it
    Watch(Watch),
    /// Measure this host and the link to another one, and tell which checkpoints and modes they can carry
    ///
    /// Needs neither root nor Xen. On the other host: llm bench --listen HOST:PORT
    Bench(Bench),
    /// Look into an input log that was kept
    Log {
        #[command(subcommand)]
        log: Log,
    },
    /// The end of the checkpoint pipe; `xl` starts it, nobody else
    #[command(hide = true)]
    Stdio(Stdio),
}

/// What `llm protect` can be told; each but DOMAIN may stand in the configuration file.
#[derive(Debug, ClapArgs)]
pub(crate) struct Protect {
    /// Name of the domain
    pub(crate) domain: String,
    #[command(flatten)]
    pub(crate) settings: ProtectSettings,
}

/// The settings of a protection, as given; `None` means: look further.
#[derive(Clone, Debug, Default, ClapArgs, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ProtectSettings {
    /// Address of the backup, HOST:PORT
    #[arg(long, value_name = "ADDR")]
    pub(crate) to: Option<String>,
    /// When output may leave [default: remus]
    ///
    /// With `llm`, checkpoints can be rare: what goes into the guest is logged on the backup and replayed after a crash.
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,
    /// Time between two checkpoints [default: 200ms, in modes with a log 2s]
    #[arg(long, value_name = "SPAN")]
    pub(crate) interval: Option<Span>,
    /// Silence after which the backup takes over [default: 1s]
    #[arg(long, value_name = "SPAN")]
    pub(crate) detect: Option<Span>,
    /// What to do while the backup is unreachable [default: stop]
    #[arg(long, value_enum)]
    pub(crate) on_backup_loss: Option<OnBackupLoss>,
    /// Memory for the copy of committed pages, on each side [default: 4GiB]
    ///
    /// Pages beyond it are sent whole instead of as differences.
    #[arg(long, value_name = "SIZE")]
    pub(crate) shadow_limit: Option<Size>,
    /// Memory for what is not yet committed [default: 256MiB]
    ///
    /// When it is full, the time between checkpoints grows.
    #[arg(long, value_name = "SIZE")]
    pub(crate) buffer_limit: Option<Size>,
    /// Memory for output that waits, per network interface [default: 16MiB]
    ///
    /// At half of it a checkpoint is made early.
    #[arg(long, value_name = "SIZE")]
    pub(crate) egress_limit: Option<Size>,
    /// Memory for the input log between two checkpoints, and on its way to the backup [default: 64MiB]
    ///
    /// At half of it a checkpoint is made early.
    #[arg(long, value_name = "SIZE")]
    pub(crate) log_limit: Option<Size>,
    /// Records of the input log after which a checkpoint is made [default: 200000]
    #[arg(long, value_name = "N")]
    pub(crate) log_records: Option<u64>,
    /// Who encodes the pages: this process, or a small domain of its own [default: dom0]
    ///
    /// That domain is called llm-enc-DOMAIN and needs the memory of the domain and some MiB more. If it fails, this process
    /// goes on.
    #[arg(long, value_enum)]
    pub(crate) encoder: Option<EncoderKind>,
    /// The kernel of that domain [default: /usr/lib/llm/llm-stubdom]
    #[arg(long, value_name = "FILE")]
    pub(crate) stubdom_kernel: Option<PathBuf>,
    /// What to compress while it waits for the link [default: auto]
    ///
    /// No checkpoint waits for it, and nothing is compressed unless the backup knows how.
    #[arg(long, value_enum)]
    pub(crate) compress: Option<CompressBy>,
    /// Rules for flows, in the configuration file only: the first that fits decides
    #[arg(skip)]
    #[serde(default)]
    pub(crate) flow: Vec<FlowRule>,
    /// Protect a domain with writable disks, which are NOT replicated
    #[arg(long)]
    #[serde(default)]
    pub(crate) unsafe_disks: bool,
}

/// When output may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// When the checkpoint that explains it is committed
    Remus,
    /// When the backup has the log of what went in before it
    Llm,
    /// At once, as the 2010 paper has it. UNSAFE: what a client has seen may be lost. For comparison only
    LlmPaper,
}

/// Who encodes pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EncoderKind {
    /// `llm protect` itself
    #[default]
    Dom0,
    /// A domain with the unikernel of LLM
    Stubdom,
}

/// What is compressed while it waits for the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CompressBy {
    /// By what gets it to the backup soonest; nothing, if nothing does
    #[default]
    Auto,
    /// Nothing
    None,
    /// By LZ4, whether it pays or not
    Lz4,
    /// By zstd, whether it pays or not
    Zstd,
}

/// What the output of some flows waits for: `[[protect.flow]]` in the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FlowRule {
    /// `tcp` or `udp`; both if absent.
    pub(crate) protocol: Option<Protocol>,
    /// A port of the guest's: a service of its own.
    pub(crate) guest_port: Option<u16>,
    /// A port of the peer's: a service that the guest uses.
    pub(crate) peer_port: Option<u16>,
    /// `remus` or `llm`.
    pub(crate) wait: FlowWait,
    /// With `wait = "llm"`: what is logged of its output.
    #[serde(default)]
    pub(crate) output: FlowOutput,
}

/// What is logged of a flow's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FlowOutput {
    /// Its digests, to compare with.
    #[default]
    Digest,
    /// Its bytes as well, to be served after a take-over.
    Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// As the modes of these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FlowWait {
    Remus,
    Llm,
}

/// What the primary does while the backup is unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnBackupLoss {
    /// Hold the guest's output until the backup is back or an operator acts
    Stop,
    /// Run on unprotected; unsafe if the backup lives and only the link is cut
    GoOn,
}

/// What a backup does with a connection whose replayed reply differs from the one that was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnDivergence {
    /// Reset it: its client would go on with a contradiction
    Reset,
    /// Report it, and let it go on with what was released
    Serve,
    /// Count it, and let it go on
    Ignore,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Backup {
    #[command(flatten)]
    pub(crate) settings: BackupSettings,
}

/// The settings of a backup, as given; `None` means: look further.
#[derive(Clone, Debug, Default, ClapArgs, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct BackupSettings {
    /// Address to listen on, HOST:PORT
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Most memory for the copy of a domain's committed pages [default: 4GiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) shadow_limit: Option<Size>,
    /// Memory for epochs that `xl` has not taken in yet [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) buffer_limit: Option<Size>,
    /// What follows when a replayed reply differs from the one that was released [default: reset]
    #[arg(long, value_enum)]
    pub(crate) on_divergence: Option<OnDivergence>,
    /// After a take-over, keep the input log as DOMAIN.llmlog in the state directory, for `llm log`
    ///
    /// It holds what the domain's clients have sent.
    #[arg(long)]
    #[serde(default)]
    pub(crate) keep_log: bool,
    /// Where to remember which domains were taken over [default: /var/lib/llm]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Status {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Release {
    /// Name of the domain
    pub(crate) domain: String,
    /// Do not wait for the backup's agreement. If it is alive it will run the domain too: make sure that it is dead
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Watch {
    /// Name of the domain
    pub(crate) domain: String,
    /// How long to measure
    #[arg(long = "for", value_name = "SPAN", default_value = "10s")]
    pub(crate) duration: Span,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Bench {
    /// Measure the link to `llm bench --listen` at this address, HOST:PORT
    #[arg(long, value_name = "ADDR", conflicts_with = "listen")]
    pub(crate) peer: Option<String>,
    /// Be the other end: answer whoever measures, on this address, until Ctrl-C
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["pages", "time", "json"])]
    pub(crate) listen: Option<String>,
    /// Pages to measure with; each takes 12 KiB of memory
    #[arg(long, value_name = "N", default_value_t = 8192)]
    pub(crate) pages: u32,
    /// How long to measure round trips, and again throughput
    #[arg(long = "for", value_name = "SPAN", default_value = "2s")]
    pub(crate) time: Span,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Print what a kept log holds, a line for each record
    ///
    /// A log that is damaged or cut short is shown up to there; then comes an error with offset and reason, and the
    /// exit code is 1.
    Inspect(Inspect),
    /// Write the packets of a kept log for Wireshark
    ///
    /// The file is pcapng. Each input is an inbound packet on an interface for its vif, with a comment that tells lsn
    /// and epoch, without its virtio-net header, and with a whole checksum; segments that were merged stay merged.
    /// Notes, cuts and carries have no bytes and are left out. Times count from the boot of the primary host.
    Export(Export),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Inspect {
    /// The kept log
    pub(crate) file: PathBuf,
    /// Print totals by kind and by flow instead of the records
    #[arg(long)]
    pub(crate) summary: bool,
    /// Print JSON, an object a line: the header, then each record (or the summary)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Export {
    /// The kept log
    pub(crate) file: PathBuf,
    /// File to write, replaced if it is there; `-` is standard output
    #[arg(long, value_name = "OUT")]
    pub(crate) pcap: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Stdio {
    /// Socket of the `llm` that waits for the pipe
    pub(crate) socket: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn help_tells_the_three_steps_and_the_exit_codes() {
        let help = Args::command().render_long_help().to_string();
        for part in ["llm backup --listen", "script=llm-vif", "llm protect", "Exit codes:"] {
            assert!(help.contains(part), "{part}");
        }
    }
}
