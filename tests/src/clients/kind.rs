//! The kinds of clients.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which client a sample or a broken connection belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientKind {
    /// The Redis writer: one sample a command.
    Redis,
    /// The same with several commands in flight on each connection.
    RedisPipelined,
    /// The web client: one sample a GET.
    Http,
    /// The same with a new connection for each GET; its latency includes the time to connect.
    HttpNew,
    /// The web client with bodies of 64 KiB or more.
    #[serde(rename = "http-64k")]
    Http64k,
    /// The typist: one sample a keystroke.
    Echo,
    /// The uploader: one sample a body, from its first byte to its receipt.
    Upload,
    /// The long download: one sample a block, for as long as its reader had to wait for it.
    Download,
}

impl ClientKind {
    /// Every kind, in the order reports show them.
    pub const ALL: [Self; 8] = [
        Self::Redis,
        Self::RedisPipelined,
        Self::Http,
        Self::HttpNew,
        Self::Http64k,
        Self::Echo,
        Self::Upload,
        Self::Download,
    ];

    /// A short name, also the one in the JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::RedisPipelined => "redis-pipelined",
            Self::Http => "http",
            Self::HttpNew => "http-new",
            Self::Http64k => "http-64k",
            Self::Echo => "echo",
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }

    /// Whether it moves bulk: buffers hide an outage from it, and its samples are no replies to small requests.
    /// Such a client says nothing about downtime; a connection of it that does not go on is broken all the same.
    #[must_use]
    pub fn is_bulk(self) -> bool {
        matches!(self, Self::Upload | Self::Download)
    }

    /// Whether it is one of the two that every run has, so that runs can be compared.
    #[must_use]
    pub fn is_basic(self) -> bool {
        matches!(self, Self::Redis | Self::Http)
    }
}

impl fmt::Display for ClientKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
