//! What `llm status` tells; the JSON keys are an interface.

use serde::{Deserialize, Serialize};

/// The state of one running command.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "role", rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "one at a time, on its way to a socket or a screen")]
pub enum Status {
    /// `llm protect`.
    Primary(PrimaryStatus),
    /// `llm backup`.
    Backup(BackupStatus),
}

/// The state of a protected domain, as its primary sees it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct PrimaryStatus {
    /// Name of the domain.
    pub domain: String,
    /// Its number on this host.
    pub domid: u32,
    /// Process of `llm protect`.
    pub pid: u32,
    /// Mode of output commit.
    pub mode: String,
    /// Address of the backup.
    pub backup: String,
    /// `connecting`, `first-copy`, `protected`, `backup-lost`, `unprotected`, `releasing`, `released`, `taken-over`.
    pub state: String,
    /// In words: what it waits for, or what went wrong last.
    pub note: String,
    /// Connections that are up.
    pub control_up: bool,
    /// Connections that are up.
    pub bulk_up: bool,
    /// Epochs committed by the backup, all sessions of this process.
    pub epochs_committed: u64,
    /// Time since the last commit, in milliseconds; none before the first.
    pub last_commit_ms: Option<u64>,
    /// Wanted time between two checkpoints, in milliseconds.
    pub interval_ms: u64,
    /// Real time between the last two, in milliseconds.
    pub real_interval_ms: u64,
    /// Epochs that began later than wanted.
    pub stretched: u64,
    /// Checkpoints made early because output was waiting.
    pub early: u64,
    /// From the checkpoint's end to its commit, in milliseconds, of the last epoch.
    pub commit_ms: f64,
    /// Pages seen in the stream.
    pub pages_sent: u64,
    /// Bytes of the checkpoint stream.
    pub bytes_raw: u64,
    /// Bytes of the batches made of it, before the second stage.
    pub bytes_sent: u64,
    /// Bytes kept until their epoch is committed.
    pub buffered: u64,
    /// Times that the checkpoint pipe had to wait for room in the buffer.
    pub buffer_waits: u64,
    /// Who encodes: `dom0`, `dom0: ` and why not a domain of its own, or `stubdom ` and its name. Empty without a stream.
    #[serde(default)]
    pub encoder: String,
    /// What was compressed while it waited for the link; all sessions of this process.
    #[serde(default)]
    pub second_stage: SecondStageStatus,
    /// Memory of the copy of committed pages in this process, in bytes.
    pub shadow_bytes: u64,
    /// How long the guest was suspended.
    pub pause: PauseStatus,
    /// The newest of these suspensions one by one, oldest first; 64 at most.
    #[serde(default)]
    pub pauses: Vec<PauseSpan>,
    /// Output that waits, all interfaces together.
    pub egress: EgressStatus,
    /// Times that the backup was lost.
    pub backup_losses: u64,
    /// The input log; none in mode `remus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogStatus>,
}

/// Batches compressed together while they waited for the link.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct SecondStageStatus {
    /// What was used last: `lz4`, `zstd 1`, `zstd 3`; `none` if nothing pays now, `waiting` if nothing had to wait yet. Empty if it is
    /// switched off, or the backup knows no method that is allowed.
    pub method: String,
    /// Frames that were made of batches.
    pub frames: u64,
    /// Bytes of these batches.
    pub bytes_before: u64,
    /// Bytes of these frames, of which so many are sent instead.
    pub bytes_after: u64,
    /// Times that the work was of no use: nothing became shorter, or the link came first.
    pub in_vain: u64,
    /// Processor time, in milliseconds.
    pub cpu_ms: f64,
}

/// Times that the guest was suspended for a checkpoint, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct PauseStatus {
    /// Suspensions measured.
    pub count: u64,
    /// The last one.
    pub last_ms: f64,
    /// Half are shorter.
    pub p50_ms: f64,
    /// One in a hundred is longer.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// One suspension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct PauseSpan {
    /// Its begin on the host's `CLOCK_BOOTTIME`, in nanoseconds.
    pub began_ns: u64,
    /// Its length in nanoseconds.
    pub length_ns: u64,
}

/// The hold queue of the guest's output.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct EgressStatus {
    /// Packets that wait.
    pub held_packets: u64,
    /// Their bytes.
    pub held_bytes: u64,
    /// Packets released so far.
    pub released_packets: u64,
    /// Packets dropped because the queue was at its hard limit.
    pub dropped_packets: u64,
    /// Packets for the guest that its interface would not take: its queue was full, or it was down.
    #[serde(default)]
    pub dropped_incoming_packets: u64,
    /// Connections whose numbers are translated, since the domain was taken over on this host before.
    #[serde(default)]
    pub translated_connections: u64,
}

/// The input log, as its primary keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct LogStatus {
    /// Records so far.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What they took on their way, packed where the backup can read that.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Bytes that the backup has not acknowledged.
    pub unacknowledged_bytes: u64,
    /// Bytes since the last checkpoint.
    pub since_checkpoint_bytes: u64,
}

/// The state of `llm backup`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct BackupStatus {
    /// Address it listens on.
    pub listen: String,
    /// Process of `llm backup`.
    pub pid: u32,
    /// One for each domain that is, or was last, protected here.
    pub sessions: Vec<SessionStatus>,
}

/// One protected domain, as its backup sees it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct SessionStatus {
    /// Name of the domain.
    pub domain: String,
    /// Address of the primary.
    pub primary: String,
    /// `first-copy`, `protected`, `taking-over`, `running-here`, `discarded`, `failed`.
    pub state: String,
    /// In words: why it is in that state.
    pub note: String,
    /// Epochs committed.
    pub epochs_committed: u64,
    /// Time since the primary was last heard, in milliseconds.
    pub silence_ms: u64,
    /// Bytes of committed epochs that `xl` has not read yet.
    pub backlog_bytes: u64,
    /// Memory of the copy of committed pages, in bytes.
    pub shadow_bytes: u64,
    /// Records of the input log that are kept; 0 in mode `remus`.
    #[serde(default)]
    pub log_records: u64,
    /// Their bytes.
    #[serde(default)]
    pub log_bytes: u64,
    /// Times of the take-over in milliseconds, once there was one.
    pub takeover: Option<TakeoverStatus>,
}

/// How long each part of a take-over took, in milliseconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct TakeoverStatus {
    /// Wall-clock time of the decision, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Silence before the decision.
    pub detect_ms: f64,
    /// From the decision until `xl` had all committed epochs and the end of its pipe.
    pub handover_ms: f64,
    /// From the decision until the domain ran.
    pub running_ms: f64,
    /// From the decision until it was announced to the network.
    pub announced_ms: f64,
    /// The replay of the input log; none in mode `remus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayStatus>,
}

/// What the replay of the input log did. Times are in milliseconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ReplayStatus {
    /// From the decision until the guest had connected to its interface.
    pub begun_ms: f64,
    /// Until every connection had said where it stands.
    pub probing_ms: f64,
    /// Until the last record was given.
    pub walking_ms: f64,
    /// Until all that clients had seen had come again.
    pub catching_up_ms: f64,
    /// From the decision until guest and network were joined; 0 before.
    pub live_ms: f64,
    /// Records walked.
    pub records: u64,
    /// Packets given to the guest.
    pub fed: u64,
    /// Of them, given once more.
    pub fed_again: u64,
    /// Waits that ended by time-out.
    pub stalls: u64,
    /// Connections that go on.
    pub carried: u32,
    /// Connections that were reset, by cause.
    pub resets: std::collections::BTreeMap<String, u32>,
    /// Replayed reply bytes, by the guest's port.
    pub services: Vec<FidelityStatus>,
}

/// Replayed reply bytes of one service of the guest's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct FidelityStatus {
    /// Its port.
    pub port: u16,
    /// Came out as released.
    pub identical: u64,
    /// Came out otherwise.
    pub different: u64,
    /// Could not be compared.
    pub unknown: u64,
}
