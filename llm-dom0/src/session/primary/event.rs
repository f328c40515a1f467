//! What reaches the primary's main thread.

use std::net::TcpStream;
use std::sync::mpsc::SyncSender;

use llm_core::replication::{ConnectionId, Message, MessageError};

use super::pipe::PipeEvent;
use super::stream::{Stream, StreamStartError};
use super::watcher::Seen;
use crate::checkpoint::encode::EpochSummary;
use crate::checkpoint::stream::StreamError;
use crate::link::LinkError;
use crate::net::NetEvent;

/// Anything that the main thread acts on.
#[derive(Debug)]
pub(crate) enum Event {
    /// From a thread of a session; one of an earlier session is too late to matter.
    Session {
        /// Number of the session.
        session: u64,
        /// What happened.
        event: SessionEvent,
    },
    /// From the packet path.
    Net(NetEvent),
    /// From the look at the domain.
    Domain(Seen),
    /// `llm release` asks.
    Release {
        /// Where the answer goes.
        reply: SyncSender<Result<String, String>>,
        /// Without the backup's agreement.
        force: bool,
    },
    /// SIGTERM or SIGINT.
    Terminate,
}

/// What happens within a session.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// A dial has ended.
    Dialled {
        /// As the machine named it.
        connection: ConnectionId,
        /// The socket, or why there is none.
        result: Result<TcpStream, LinkError>,
    },
    /// The backup has said something.
    Message {
        /// Where.
        connection: ConnectionId,
        /// What.
        message: Box<Message>,
    },
    /// A connection can't be read on.
    PathEnd {
        /// Which.
        connection: ConnectionId,
        /// Why.
        end: PathEnd,
    },
    /// `xl remus` runs, or could not be started.
    Started(Result<Box<Stream>, StreamStartError>),
    /// From the checkpoint pipe.
    Pipe(PipeEvent),
    /// All batches of an epoch are queued.
    Encoded(EpochSummary),
    /// The encoder can't go on.
    EncodeFailed(StreamError),
}

/// Why a connection can't be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PathEnd {
    #[error("{0}")]
    Link(#[source] LinkError),
    #[error("The backup sent an unreadable message: {0}")]
    Message(MessageError),
    #[error("The backup sent a frame of {0:?}, which it may not")]
    Kind(llm_core::frame::Kind),
}
