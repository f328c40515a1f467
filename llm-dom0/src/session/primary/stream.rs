//! A running checkpoint stream: `xl remus`, its pipe, and the encoder.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use llm_core::frame::Kind;

use super::super::queue::ByteQueue;
use super::encoder::make_encoder;
use super::event::{Event, SessionEvent};
use super::network::Marks;
use super::pipe::PipeReader;
use crate::checkpoint::encode::{Encoder, Output};
use crate::checkpoint::stream::StreamError;
use crate::checkpoint::tap::PipeTap;
use crate::control::run_file;
use crate::link::{Closed, Outbox};
use crate::xen::encoder::EncoderDomain;
use crate::xen::remus::{Held, Pacer, Remus, RemusConfig, RemusError};

/// How a stream is started.
#[derive(Clone, Debug)]
pub(crate) struct StreamConfig {
    /// Number of the session it belongs to.
    pub(crate) session: u64,
    /// Name of the domain.
    pub(crate) domain: String,
    /// The timer of `xl`; the real interval is ours.
    pub(crate) xl_interval: Duration,
    /// Pages of which a copy is kept.
    pub(crate) shadow_pages: u32,
    /// Bytes that may wait between the pipe and the encoder.
    pub(crate) buffer_limit: u64,
    /// Who encodes, if not this process.
    pub(crate) encoder: Option<EncoderDomain>,
}

/// Patience with `xl` until it has run our command: xenstore may be busy.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of the first copy that may be under way, before and behind the encoder. The guest
/// runs meanwhile, so `xl` may wait for the link; but its output is held from the first
/// suspension until all of this is with the backup.
pub(crate) const FIRST_COPY_WINDOW: u64 = 4 << 20;

/// Why a stream cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamStartError {
    /// `xl remus` cannot be started.
    #[error(transparent)]
    Remus(#[from] RemusError),
    /// The system refuses a thread, a pipe or our own path.
    #[error("The checkpoint pipe cannot be served")]
    System(#[from] io::Error),
}

/// Figures of a stream, while it runs.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) shadow_bytes: AtomicU64,
    /// Who encodes, and why it is not somebody else.
    encoder: Mutex<String>,
}

impl Figures {
    fn set_encoder(&self, who: String) {
        *self.encoder.lock().unwrap_or_else(PoisonError::into_inner) = who;
    }
}

/// A running `xl remus` and the threads behind its pipe.
#[derive(Debug)]
pub(crate) struct Stream {
    pacer: Pacer,
    remus: Remus,
    queue: Arc<ByteQueue>,
    figures: Arc<Figures>,
}

impl Stream {
    /// Starts `xl remus` and reads what it writes. `pass` is told how far output may
    /// leave before the first checkpoint.
    pub(crate) fn start(
        config: &StreamConfig,
        marks: &Marks,
        bulk: &Arc<Outbox>,
        pass: impl FnMut(u64) + Send + 'static,
        events: &Sender<Event>,
    ) -> Result<Self, StreamStartError> {
        // Ahead of `xl remus`, so that the first copy need not wait in the middle.
        let (encoder, who) = make_encoder(config);
        let remus = RemusConfig {
            xl: PathBuf::from("xl"),
            domain: config.domain.clone(),
            interval: config.xl_interval,
            stdio: vec![std::env::current_exe()?.to_string_lossy().into_owned(), "stdio".into()],
            socket: run_file("stdio", &config.domain, "sock"),
            start_timeout: START_TIMEOUT,
        };
        let (remus, from_xl) = Remus::start(&remus)?;
        let pacer = remus.pacer();
        let tap = Arc::new(PipeTap::new(from_xl)?);
        let base = marks.begin(Arc::clone(&tap));
        let queue = Arc::new(ByteQueue::new(config.buffer_limit));
        let figures = Arc::new(Figures::default());
        figures.set_encoder(who);
        let session = config.session;
        let send = {
            let events = events.clone();
            move |event| {
                let _ = events.send(Event::Session { session, event });
            }
        };
        let reader = PipeReader {
            tap,
            base,
            queue: Arc::clone(&queue),
            hold: {
                let pacer = pacer.clone();
                // In doubt the watcher sees to it that the guest does not stay suspended.
                move |not_before| pacer.hold(not_before) != Held::No
            },
            pass,
            events: {
                let send = send.clone();
                move |event| send(SessionEvent::Pipe(event))
            },
        };
        spawn("pipe", move || reader.run())?;
        let encode = EncodeThread {
            queue: Arc::clone(&queue),
            bulk: Arc::clone(bulk),
            figures: Arc::clone(&figures),
            encoder,
            first_copy: true,
        };
        spawn("encode", move || encode.run(send))?;
        Ok(Self { pacer, remus, queue, figures })
    }

    /// Starts the next checkpoint.
    pub(crate) fn go(&self) {
        // False if `xl` has ended, which is seen elsewhere.
        self.pacer.go();
    }

    /// How `xl` ended, if it has.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        self.remus.ended()
    }

    /// Ends the stream as stock Remus ends: `xl` finds its pipe broken, resumes the
    /// guest and exits.
    pub(crate) fn break_off(&self) {
        // The pipe's thread ends at the next byte and closes the pipe.
        self.queue.break_off();
        self.pacer.go();
    }

    /// Ends `xl` at once, whatever state that leaves the guest in.
    pub(crate) fn kill(&self) {
        self.queue.break_off();
        self.remus.kill();
    }

    /// The last words of `xl`.
    pub(crate) fn last_words(&self) -> String {
        self.remus.said()
    }

    /// Bytes between pipe and encoder, and how often the pipe had to wait for room.
    pub(crate) fn fill(&self) -> (u64, u64) {
        self.queue.fill()
    }

    /// Who encodes.
    pub(crate) fn encoder(&self) -> String {
        self.figures.encoder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Memory of the copy of committed pages.
    pub(crate) fn shadow_bytes(&self) -> u64 {
        self.figures.shadow_bytes.load(Ordering::Relaxed)
    }
}

/// Turns the stream into batches.
pub(super) struct EncodeThread {
    pub(super) queue: Arc<ByteQueue>,
    pub(super) bulk: Arc<Outbox>,
    pub(super) figures: Arc<Figures>,
    pub(super) encoder: Encoder,
    pub(super) first_copy: bool,
}

impl EncodeThread {
    pub(super) fn run(mut self, send: impl Fn(SessionEvent)) {
        // Encoding must not keep heartbeats waiting.
        let _ = rustix::process::setpriority_process(None, 0);
        while let Some(chunk) = self.queue.pop() {
            match self.feed(chunk, &send) {
                Ok(Ok(())) => {}
                Ok(Err(Closed)) => break,
                Err(error) => {
                    send(SessionEvent::EncodeFailed(error));
                    break;
                }
            }
            if let Some(fault) = self.encoder.take_fault() {
                tracing::warn!(%fault, "encoding in Dom0 from here on; protection goes on");
                self.figures.set_encoder(format!("dom0: {fault}"));
            }
            self.figures.shadow_bytes.store(self.encoder.shadow().memory() as u64, Ordering::Relaxed);
        }
        // Frees the pipe thread, should it wait for room.
        self.queue.break_off();
    }

    fn feed(
        &mut self,
        chunk: Vec<u8>,
        send: &impl Fn(SessionEvent),
    ) -> Result<Result<(), Closed>, StreamError> {
        let mut sent = Ok(());
        let unsent_max = if self.first_copy { FIRST_COPY_WINDOW } else { u64::MAX };
        let Self { queue, encoder, bulk, first_copy, .. } = self;
        let done = encoder.feed_chunk(chunk, |output| match output {
            Output::Batch(batch) => {
                if sent.is_ok() {
                    sent = bulk.data(Kind::BATCH, batch.to_vec(), unsent_max).map(|_| ());
                }
            }
            Output::Epoch(summary) => {
                *first_copy = false;
                send(SessionEvent::Encoded(summary.clone()));
            }
            Output::Mark(_) => {}
        })?;
        if let Some(chunk) = done {
            queue.give_back(chunk);
        }
        Ok(sent)
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(run).map(|_| ())
}
