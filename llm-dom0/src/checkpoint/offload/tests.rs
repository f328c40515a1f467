//! The unikernel's own service at the other end of a line that breaks when it is told to.

use super::*;
use crate::checkpoint::encode::{Encoder, Output};
use crate::checkpoint::rebuild::{EpochCheck, Rebuilder};
use crate::checkpoint::stream::{Guest, StreamWriter};
use llm_core::ring;
use llm_core::service::{MAX_LOG, MAX_REQUEST};
use llm_stubdom::service::{Copies, Service};
use proptest::prelude::*;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};

/// How the other side fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// It does not.
    None,
    /// Its ring ends.
    Ring,
    /// It is destroyed: nothing comes any more, and it is not there.
    Killed,
    /// It hangs.
    Hung,
    /// It hangs, and talks.
    Talks,
    /// A byte of an answer is wrong.
    Damage,
}

#[derive(Debug, Default)]
struct Answers(VecDeque<Vec<u8>>);

impl llm_stubdom::service::Output for Answers {
    type Error = Infallible;

    fn answer(&mut self, parts: &[&[u8]]) -> Result<(), Infallible> {
        self.0.push_back(parts.concat());
        Ok(())
    }
}

#[derive(Debug)]
struct Fake {
    service: Service<'static>,
    requests: VecDeque<Vec<u8>>,
    shown: usize,
    answers: Answers,
    /// Answers before the failure.
    left: u32,
    failure: Failure,
    /// Messages that came here, and came out.
    said: u32,
    heard: Arc<AtomicU32>,
}

impl Fake {
    fn new(pages: usize, left: u32, failure: Failure) -> Box<Self> {
        // Tests are short: nothing is given back.
        let pages = Vec::leak(vec![ring::Page::ZERO; pages]);
        let (batch, log) = (Vec::leak(vec![0; MAX_BATCH]), Vec::leak(vec![0; MAX_LOG]));
        Box::new(Self {
            service: Service::new(Copies::new(pages), batch, log),
            requests: VecDeque::new(),
            shown: 0,
            answers: Answers::default(),
            left,
            failure,
            said: 0,
            heard: Arc::default(),
        })
    }

    fn failed(&self) -> bool {
        self.failure != Failure::None && self.left == 0
    }

    fn check(&self) -> Result<(), LineError> {
        if self.failed() && self.failure == Failure::Ring { Err("the ring has ended".into()) } else { Ok(()) }
    }
}

impl Line for Fake {
    fn send(&mut self, request: &Request<'_>) -> Result<bool, LineError> {
        self.check()?;
        if self.requests.len() >= 40 {
            return Ok(false);
        }
        let mut bytes = vec![0; MAX_REQUEST];
        self.requests.push_back(request.write(&mut bytes).expect("fits").to_vec());
        Ok(true)
    }

    fn show(&mut self) -> Result<(), LineError> {
        self.shown = self.requests.len();
        self.check()
    }

    fn answer(&mut self, into: &mut [u8]) -> Result<Option<usize>, LineError> {
        self.check()?;
        if self.failed() && matches!(self.failure, Failure::Killed | Failure::Hung) {
            return Ok(None);
        }
        // One now and then, at any place.
        self.said += 1;
        if self.said.is_multiple_of(3) || self.failed() && self.failure == Failure::Talks {
            let message = [&Answer::Message.head()[..], b"a message"].concat();
            into[..message.len()].copy_from_slice(&message);
            return Ok(Some(message.len()));
        }
        let Some(mut answer) = self.answers.0.pop_front() else { return Ok(None) };
        if self.failed() {
            // Behind the end that it tells, so that it is a lie that can be seen at once.
            let at = (FRAME_HEAD + 5).min(answer.len() - 1);
            answer[at] ^= 1;
        }
        self.left = self.left.saturating_sub(1);
        into[..answer.len()].copy_from_slice(&answer);
        Ok(Some(answer.len()))
    }

    fn wait(&mut self, _: bool, _: Duration) -> Result<bool, LineError> {
        self.show()?;
        if self.failed() && self.failure == Failure::Talks {
            return Ok(true);
        }
        if self.failed() && matches!(self.failure, Failure::Killed | Failure::Hung) {
            std::thread::sleep(Duration::from_millis(1));
            return Ok(false);
        }
        for request in self.requests.drain(..self.shown) {
            self.service.handle(&request, &mut self.answers).expect("a good request");
        }
        self.shown = 0;
        Ok(!self.answers.0.is_empty())
    }

    fn message(&mut self, message: &[u8]) {
        assert_eq!(message, b"a message");
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    fn is_there(&mut self) -> Result<bool, LineError> {
        Ok(!(self.failed() && self.failure == Failure::Killed))
    }
}

/// A stream of these epochs of pages: number, seed, how much of it is new.
fn stream(epochs: &[Vec<(u64, u8, usize)>]) -> Vec<u8> {
    let (mut w, mut guest) = (StreamWriter::new(), std::collections::BTreeMap::new());
    w.start(br#"{"c_info":{}}"#, Guest::Hvm, 3);
    for epoch in epochs {
        for &(pfn, seed, new) in epoch {
            let page = guest.entry(pfn).or_insert([0_u8; PAGE]);
            for at in 0..new {
                page[(at * 61 + usize::from(seed)) % PAGE] = seed.wrapping_mul(at as u8 | 1);
            }
            w.pages([(pfn, Some(&*page))]);
        }
        w.epoch_end(&[3; 40_000], None);
    }
    w.take()
}

/// Encodes and rebuilds the stream; what ended the offload.
fn round_trip(stream: &[u8], piece: usize, shadow: u32, fake: Box<Fake>) -> Option<OffloadError> {
    let mut encoder = match Offload::begin(fake, shadow, Duration::from_millis(20)) {
        Ok(offload) => Encoder::with_offload(shadow, offload),
        Err(_) => Encoder::new(shadow),
    };
    let (mut rebuilder, mut out) = (Rebuilder::new(shadow), Vec::new());
    for piece in stream.chunks(piece) {
        let take = |output: Output<'_>| match output {
            Output::Batch(batch) => {
                rebuilder.apply(batch, |bytes| out.extend_from_slice(bytes)).expect("a good batch");
            }
            Output::Epoch(epoch) => {
                let (stream_bytes, digest, pages) = (epoch.stream_bytes, epoch.digest, epoch.pages);
                rebuilder.finish_epoch(EpochCheck { stream_bytes, digest, pages }).expect("whole");
            }
            Output::Mark(_) => {}
        };
        encoder.feed_chunk(piece.to_vec(), take).expect("a good stream");
    }
    assert!(out == stream, "the stream differs");
    encoder.take_fault()
}

fn epochs() -> impl Strategy<Value = Vec<Vec<(u64, u8, usize)>>> {
    let page = (0..90_u64, any::<u8>(), prop_oneof![Just(0), 0..20_usize, Just(PAGE)]);
    prop::collection::vec(prop::collection::vec(page, 0..150), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn the_stream_survives_any_failure_at_any_time(
        epochs in epochs(),
        piece in prop_oneof![Just(usize::MAX), 1000..200_000_usize],
        shadow in prop_oneof![Just(0), 1..90_u32, Just(1000)],
        room in prop_oneof![4..90_usize, Just(200)],
        left in 0..30_u32,
        failure in prop::sample::select(vec![
            Failure::None, Failure::Ring, Failure::Killed, Failure::Hung, Failure::Talks, Failure::Damage,
        ]),
    ) {
        let fault = round_trip(&stream(&epochs), piece, shadow, Fake::new(room, left, failure));
        if failure == Failure::None {
            prop_assert!(fault.is_none(), "{fault:?}");
        }
    }
}

#[test]
fn each_failure_is_named() {
    let pages: Vec<_> = (0..200).map(|pfn| (pfn, 1 + pfn as u8, PAGE)).collect();
    let stream = stream(&[pages.clone(), pages]);
    let fault = |failure| {
        let fault = round_trip(&stream, 100_000, 300, Fake::new(300, 6, failure));
        fault.map_or_else(String::new, |fault| fault.to_string())
    };
    assert_eq!(fault(Failure::None), "");
    assert_eq!(fault(Failure::Ring), "The encoder's rings cannot be used: the ring has ended");
    assert_eq!(fault(Failure::Killed), "The encoder's domain is gone");
    assert_eq!(fault(Failure::Hung), "The encoder has been silent for 20ms");
    assert_eq!(fault(Failure::Talks), "The encoder has been silent for 20ms");
    assert_eq!(fault(Failure::Damage), "The encoder gives a wrong answer: a frame with a bad header");
}

#[test]
fn messages_come_through_and_a_second_session_does_not() {
    let fake = Fake::new(100, 0, Failure::None);
    let heard = Arc::clone(&fake.heard);
    let mut offload = Offload::begin(fake, 100, PATIENCE).expect("there");
    offload.finish(&mut |_| {}).expect("there");
    assert!(heard.load(Ordering::Relaxed) > 0);
    let mut fake = Fake::new(100, 0, Failure::None);
    fake.answers.0.push_back(Answer::Ready.head().to_vec());
    let error = Offload::begin(fake, 100, PATIENCE).err().map(|error| error.to_string());
    assert_eq!(error.as_deref(), Some("The encoder gives a wrong answer: a session that was not asked for"));
}

#[test]
fn little_is_kept_here_while_somebody_else_encodes() {
    // Pages that do not change make tiny records: a batch could hold thousands.
    let same: Vec<_> = (0..2000_u64).map(|i| (i % 50, 0, 0)).collect();
    let stream = stream(&[same]);
    let mut offload = Offload::begin(Fake::new(100, 0, Failure::None), 100, PATIENCE).expect("there");
    let chunk = Arc::new(stream);
    offload.chunk(Arc::clone(&chunk));
    let (mut most, mut batches) = (0, 0);
    for i in 0..2000_u64 {
        let page = [0; PAGE];
        offload.page(i % 50, &page, &mut |_| batches += 1).expect("there");
        most = most.max(offload.pending.len() * PAGE);
    }
    offload.finish(&mut |_| batches += 1).expect("there");
    assert!(offload.pending.is_empty() && batches >= 4, "{batches}");
    assert!(most as u64 <= 2 * FLUSH, "{most}");
}
