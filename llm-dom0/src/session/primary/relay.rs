//! The primary's half of a relay.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use llm_core::frame::Kind;
use llm_core::replication::{EpochEnd, FIRST_EPOCH, Message};

use super::super::queue::ByteQueue;
use super::super::relay::{Limits, RelayError, Sent, Usages};
use super::event::SessionEvent;
use super::pipe::{PipeError, PipeEvent, PipeReader};
use super::squeeze::{self, SecondStage};
use super::stream::EncodeThread;
use crate::checkpoint::encode::Encoder;
use crate::checkpoint::tap::PipeTap;
use crate::clock;
use crate::link::{Connection, LinkError, Outbox, read_loop};

/// Epochs that are not committed, and their last frames.
type Open = Mutex<VecDeque<(u64, u64)>>;

/// Reads the stream from the pipe `from` and sends it over `to`, until it ends and all is committed. The time of its threads
/// comes back, and how long each epoch took from its end to its commit.
///
/// # Errors
/// See [`RelayError`]. Epochs that were committed before stay good.
pub fn send(from: OwnedFd, to: TcpStream, limits: &Limits) -> Result<Sent, RelayError> {
    let tap = Arc::new(PipeTap::new(from)?);
    let queue = Arc::new(ByteQueue::new(limits.buffer));
    let bulk = Arc::new(Outbox::new(limits.buffer));
    let link = Connection::start(to, &bulk, "bulk")?;
    // An outbox that has had no frame goes on with the first.
    let _ = bulk.resume(1);
    let stage = Arc::new(SecondStage::default());
    squeeze::start(limits.compress, limits.compress.features(), &bulk, &stage)?;
    let (usages, open) = (Usages::default(), Open::default());
    // Ends of epochs that are not committed, and what became of the others.
    let (ends, took) = (Mutex::new(VecDeque::new()), Mutex::new(Vec::new()));
    let fault: Mutex<Option<RelayError>> = Mutex::default();
    let fail = |error| {
        fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    };
    let is_done = || open.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
    thread::scope(|scope| {
        let (news, commits) = channel();
        scope.spawn(|| {
            let news = news;
            let ended = read_loop(&link.stream(), link.peer, |frame| match Message::decode(frame.payload) {
                Ok(Message::Commit(commit)) => {
                    committed(&open, &bulk, commit.epoch);
                    let now = clock::now();
                    let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
                    while let Some((_, end)) = ends.pop_front_if(|(number, _)| *number <= commit.epoch) {
                        took.lock().unwrap_or_else(PoisonError::into_inner).push(now.since(end));
                    }
                    let _ = news.send(());
                    ControlFlow::Continue(())
                }
                _ => {
                    fail(RelayError::Unexpected);
                    ControlFlow::Break(())
                }
            });
            match ended {
                Err(LinkError::Closed { .. }) if is_done() => {}
                Err(error) => fail(error.into()),
                Ok(()) => {}
            }
            // Whoever waits for room would wait for ever.
            bulk.close();
        });
        let reader = PipeReader {
            tap,
            base: 0,
            queue: Arc::clone(&queue),
            hold: |_| true,
            pass: |_| (),
            events: |event| match event {
                PipeEvent::Ended(Err(PipeError::Io(error))) => fail(error.into()),
                PipeEvent::Ended(Err(PipeError::Stream(error))) => fail(error.into()),
                PipeEvent::Ended(Err(PipeError::Broken)) => fail(RelayError::CutOff),
                PipeEvent::Read { epoch, at, .. } => {
                    ends.lock().unwrap_or_else(PoisonError::into_inner).push_back((epoch, at));
                }
                PipeEvent::Ended(Ok(())) | PipeEvent::Boundary { .. } => {}
            },
        };
        let pipe = scope.spawn(|| usages.of("pipe", || reader.run()));
        let encode = EncodeThread {
            queue: Arc::clone(&queue),
            bulk: Arc::clone(&bulk),
            figures: Arc::default(),
            encoder: Encoder::new(limits.shadow_pages),
            first_copy: true,
        };
        let encode = scope.spawn(|| {
            usages.of("encode", || {
                encode.run(|event| match event {
                    SessionEvent::Encoded(epoch) => {
                        let number = FIRST_EPOCH + epoch.index;
                        let end = EpochEnd::new(number, epoch.stream_bytes, epoch.digest, epoch.pages);
                        // Locked meanwhile: the commit may come before this returns.
                        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                        match bulk.data_over(Kind::EPOCH_END, end.as_wire().to_vec()) {
                            Ok(seq) => open.push_back((number, seq)),
                            Err(_) => fail(RelayError::CutOff),
                        }
                    }
                    SessionEvent::EncodeFailed(error) => fail(error.into()),
                    _ => {}
                });
            });
        });
        let _ = (pipe.join(), encode.join());
        while !is_done() && commits.recv().is_ok() {}
        // The writer ends, the other end sees that, and closes what the reader waits for.
        bulk.close();
    });
    match fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(Sent {
            threads: usages.into_vec(),
            commits: took.into_inner().unwrap_or_else(PoisonError::into_inner),
            second_stage: stage.status(),
        }),
    }
}

fn committed(open: &Open, bulk: &Outbox, epoch: u64) {
    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some((_, seq)) = open.pop_front_if(|(number, _)| *number <= epoch) {
        bulk.committed(seq);
    }
}
