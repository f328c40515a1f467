//! The backup's half of a relay.

use std::io::Write;
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;

use llm_core::frame::{CompressedHead, Kind};
use llm_core::replication::{Commit, EpochEnd, FIRST_EPOCH, MESSAGE_MAX, Message};

use super::super::queue::ByteQueue;
use super::super::relay::{Limits, RelayError, Usage, Usages};
use super::intake::{Intake, IntakeError};
use crate::checkpoint::second::unpack::UnpackError;
use crate::link::{Connection, Incoming, LinkError, Outbox, read_loop};

/// Rebuilds the stream that comes in by `from` and writes its epochs to `into`, each when it is whole, until the other end closes.
/// The time of its threads comes back.
///
/// # Errors
/// See [`RelayError`]. What `into` got is good.
pub fn receive(
    from: TcpStream,
    mut into: impl Write + Send,
    limits: &Limits,
) -> Result<Vec<Usage>, RelayError> {
    let outbox = Arc::new(Outbox::new(0));
    let link = Connection::start(from, &outbox, "backup")?;
    let queue = ByteQueue::new(limits.buffer);
    let usages = Usages::default();
    let mut half = Half {
        intake: Intake::new(limits.shadow_pages, FIRST_EPOCH),
        features: limits.compress.features(),
        next_seq: 1,
        first: true,
        fault: None,
    };
    thread::scope(|scope| {
        let feeder = scope.spawn(|| {
            usages.of("feeder", || {
                let mut fed = Ok(());
                while let Some(chunk) = queue.pop() {
                    fed = into.write_all(&chunk);
                    if fed.is_err() {
                        queue.break_off();
                    }
                    queue.give_back(chunk);
                }
                fed
            })
        });
        let ended = usages.of("rx", || {
            read_loop(&link.stream(), link.peer, |frame| match half.take(&frame, &queue, &outbox) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    half.fault = Some(error);
                    ControlFlow::Break(())
                }
            })
        });
        queue.end();
        let fed = feeder.join();
        outbox.close();
        link.shutdown();
        match (half.fault, ended) {
            (Some(error), _) => return Err(error),
            (None, Err(LinkError::Closed { .. }) | Ok(())) => {}
            (None, Err(error)) => return Err(error.into()),
        }
        fed.unwrap_or(Ok(())).map_err(RelayError::System)
    })?;
    let mut usages = usages.into_vec();
    usages.sort_unstable_by_key(|usage| usage.thread);
    Ok(usages)
}

struct Half {
    intake: Intake,
    features: u64,
    next_seq: u64,
    first: bool,
    fault: Option<RelayError>,
}

impl Half {
    fn take(&mut self, frame: &Incoming<'_>, queue: &ByteQueue, outbox: &Outbox) -> Result<(), RelayError> {
        if frame.seq != self.next_seq {
            return Err(RelayError::Unexpected);
        }
        self.next_seq += match frame.kind {
            Kind::COMPRESSED => {
                let (head, _) = CompressedHead::parse(frame.payload).map_err(UnpackError::Head)?;
                u64::from(head.batches)
            }
            _ => 1,
        };
        let pass = |chunks: Vec<Vec<u8>>| {
            let all = chunks.into_iter().all(|chunk| queue.push(chunk));
            if all { Ok(()) } else { Err(RelayError::CutOff) }
        };
        match frame.kind {
            Kind::BATCH => {
                self.intake.batch(frame.payload, || queue.buffer())?;
                if self.first { pass(self.intake.pass()) } else { Ok(()) }
            }
            Kind::COMPRESSED => {
                self.intake.compressed(frame.payload, self.features, 0, || queue.buffer()).map_err(
                    |error| match error {
                        IntakeError::Rebuild(error) => error.into(),
                        IntakeError::Unpack(error) => RelayError::from(error),
                    },
                )?;
                if self.first { pass(self.intake.pass()) } else { Ok(()) }
            }
            Kind::EPOCH_END => {
                let end = EpochEnd::parse(frame.payload).map_err(|_| RelayError::Unexpected)?;
                self.intake.end(&end)?;
                self.first = false;
                let message = Message::Commit(Commit { epoch: end.epoch(), echo: 0 });
                let mut buffer = [0; MESSAGE_MAX];
                let message = message.encode(&mut buffer).map_err(|_| RelayError::Unexpected)?;
                outbox.message(message.to_vec());
                pass(self.intake.committed(end.epoch()))
            }
            _ => Err(RelayError::Unexpected),
        }
    }
}
