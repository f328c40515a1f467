use super::*;
use crate::random::Random;
use core::convert::Infallible;
use llm_core::frame::{Header, Parser};
use llm_core::log::{Flags, RecordKind, records};
use llm_core::page::PAGE;
use llm_core::page::batch::{BatchReader, Op};
use llm_core::ring;
use llm_core::service::{ANSWER_HEAD, FRAME_HEAD, MAX_ANSWER, MAX_REQUEST};
use llm_core::time::Instant;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

#[derive(Default)]
struct Answers(Vec<Vec<u8>>);

impl Output for Answers {
    type Error = Infallible;

    fn answer(&mut self, parts: &[&[u8]]) -> Result<(), Infallible> {
        let answer = parts.concat();
        assert!(answer.len() <= MAX_ANSWER);
        self.0.push(answer);
        Ok(())
    }
}

impl Answers {
    /// How far each frame goes.
    fn ends(&self) -> Vec<u64> {
        let frames = self.0.iter().filter(|answer| answer.starts_with(&Answer::Frame.head()));
        frames.map(|answer| u64::from_le_bytes(*answer[ANSWER_HEAD..].first_chunk().unwrap())).collect()
    }

    /// The frames among the answers, checked as a receiver does.
    fn frames(&self) -> Vec<(Kind, u64, Vec<u8>)> {
        let mut frames = Vec::new();
        for answer in &self.0 {
            let (head, rest) = answer.split_first_chunk().unwrap();
            if Answer::from_head(*head).unwrap() == Answer::Frame {
                let mut frame = &rest[FRAME_HEAD - ANSWER_HEAD..];
                let mut parser = Parser::new(vec![0; 1 << 20], MAX_LOG).unwrap();
                parser.push(&mut frame);
                let frame = parser.next_frame().unwrap().expect("one whole frame");
                frames.push((frame.kind, frame.seq, frame.payload.to_vec()));
            }
        }
        frames
    }
}

struct Memory {
    pages: Vec<ring::Page>,
    batch: Vec<u8>,
    log: Vec<u8>,
}

impl Memory {
    fn new(pages: usize) -> Self {
        Self { pages: vec![ring::Page::ZERO; pages], batch: vec![0; MAX_BATCH], log: vec![0; MAX_LOG + 9] }
    }

    fn service(&mut self) -> Service<'_> {
        Service::new(Copies::new(&mut self.pages), &mut self.batch, &mut self.log)
    }
}

fn ask(service: &mut Service<'_>, request: Request<'_>, out: &mut Answers) {
    let mut bytes = vec![0; MAX_REQUEST];
    let bytes = request.write(&mut bytes).unwrap();
    assert_eq!(service.handle(bytes, out), Ok(()));
}

const BEGIN: Request<'_> = Request::Begin(Begin { copies: 100, batch_seq: 7, log_seq: 11, lsn: 1000 });

/// What a backup makes of the batches: the stream, and the copies.
#[derive(Default)]
struct Backup {
    stream: Vec<u8>,
    copies: BTreeMap<u64, Page>,
}

impl Backup {
    fn take(&mut self, batch: &[u8]) {
        for op in BatchReader::new(batch) {
            match op.expect("a good batch") {
                Op::Bytes(bytes) => self.stream.extend_from_slice(bytes),
                Op::Page { pfn, keep, record } => {
                    let old = self.copies.get(&pfn).copied();
                    let mut page = old.unwrap_or([0; PAGE]);
                    page::decode(record, &mut page, old.is_some()).expect("a good record");
                    assert!(keep || old.is_none(), "what is held is kept");
                    if keep {
                        self.copies.insert(pfn, page);
                    }
                    self.stream.extend_from_slice(&page);
                }
            }
        }
    }
}

#[test]
fn an_echo_needs_no_session_and_frames_nothing() {
    let mut memory = Memory::new(20);
    let mut service = memory.service();
    let mut out = Answers::default();
    ask(&mut service, Request::Echo(b""), &mut out);
    ask(&mut service, BEGIN, &mut out);
    ask(&mut service, Request::Page { pfn: 1, page: &[3; PAGE] }, &mut out);
    let longest = vec![9; MAX_REQUEST - ANSWER_HEAD];
    ask(&mut service, Request::Echo(&longest), &mut out);
    assert_eq!(out.0.len(), 3, "no frame");
    assert_eq!(out.0[0], Answer::Echoed.head());
    assert_eq!(out.0[2], [&Answer::Echoed.head()[..], &longest].concat());
}

#[test]
fn a_backup_rebuilds_the_stream_over_many_epochs() {
    let mut random = Random::new(1);
    for copies in [0, 30, 100, u32::MAX] {
        let mut memory = Memory::new(60);
        let mut service = memory.service();
        let mut out = Answers::default();
        let begin = Begin { copies, batch_seq: 7, log_seq: 11, lsn: 1000 };
        ask(&mut service, Request::Begin(begin), &mut out);
        let kept = copies.min(service.capacity() as u32);
        assert_eq!(out.0, [[&Answer::Ready.head()[..], &kept.to_le_bytes()].concat()]);
        let (mut sent, mut guest) = (Vec::new(), vec![[0; PAGE]; 90]);
        for epoch in 0..10_u64 {
            for _ in 0..40 {
                let pfn = random.below(90);
                let page = &mut guest[pfn as usize];
                match random.below(4) {
                    0 => page.iter_mut().for_each(|byte| *byte = random.next() as u8),
                    1 => page.fill(0),
                    _ => page[random.below(4096) as usize] = random.next() as u8,
                }
                ask(&mut service, Request::Page { pfn, page }, &mut out);
                sent.extend_from_slice(page);
            }
            let bytes: Vec<u8> = (0..random.below(60_000)).map(|_| random.next() as u8).collect();
            ask(&mut service, Request::Bytes(&bytes), &mut out);
            sent.extend_from_slice(&bytes);
            ask(&mut service, Request::Flush(epoch), &mut out);
            assert_eq!(
                *out.0.last().unwrap(),
                [&Answer::Flushed.head()[..], &epoch.to_le_bytes()].concat(),
                "behind all frames"
            );
        }
        let mut backup = Backup::default();
        for (((kind, seq, payload), expected), end) in out.frames().into_iter().zip(7..).zip(out.ends()) {
            assert_eq!((kind, seq), (Kind::BATCH, expected));
            assert!(payload.len() <= MAX_BATCH);
            backup.take(&payload);
            assert_eq!(backup.stream.len() as u64, end, "told how far the frame goes");
        }
        assert!(backup.stream == sent, "the stream differs");
        assert!(backup.copies.len() <= kept as usize);
        let counts = service.counts();
        assert_eq!((counts.pages, counts.frames), (400, out.frames().len() as u64));
    }
}

#[test]
fn the_log_is_framed_when_there_is_nothing_else_to_do_or_it_is_full() {
    let mut memory = Memory::new(4);
    let mut service = memory.service();
    let mut out = Answers::default();
    ask(&mut service, BEGIN, &mut out);
    let packet = vec![7; llm_core::log::MAX_PACKET];
    let entry = |len: usize| Entry {
        kind: RecordKind::Input,
        epoch: 1,
        time: Instant::from_nanos(2),
        vif: 0,
        flags: Flags::NONE,
        packet: &packet[..len],
    };
    service.idle(&mut out).unwrap();
    assert_eq!(out.frames().len(), 0, "an empty log is no frame");
    for len in [60, 0] {
        ask(&mut service, Request::Log(entry(len)), &mut out);
    }
    assert_eq!(out.frames().len(), 0);
    service.idle(&mut out).unwrap();
    for len in [packet.len(), packet.len(), 1] {
        ask(&mut service, Request::Log(entry(len)), &mut out);
    }
    assert_eq!(out.frames().len(), 2, "two long packets do not fit into one piece");
    ask(&mut service, Request::Flush(0), &mut out);
    let frames = out.frames();
    assert_eq!(
        frames.iter().map(|(kind, seq, _)| (*kind, *seq)).collect::<Vec<_>>(),
        [(Kind::LOG, 11), (Kind::LOG, 12), (Kind::LOG, 13)]
    );
    assert_eq!(out.ends(), [1002, 1003, 1005]);
    let log = frames.into_iter().flat_map(|frame| frame.2).collect::<Vec<u8>>();
    let lens: Vec<usize> =
        records(&log, Some(1000)).map(|record| record.unwrap().entry.packet.len()).collect();
    assert_eq!(lens, [60, 0, packet.len(), packet.len(), 1]);
}

#[test]
fn requests_need_a_session_and_sense() {
    let mut memory = Memory::new(4);
    let mut service = memory.service();
    let mut out = Answers::default();
    let flush = [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(service.handle(&flush, &mut out), Err(BadRequest::NoSession.into()));
    ask(&mut service, BEGIN, &mut out);
    assert_eq!(service.handle(&flush, &mut out), Ok(()));
    assert_eq!(service.handle(&[9; 8], &mut out), Err(BadRequest::Reserved { kind: 9 }.into()));
    service.end();
    assert_eq!(service.handle(&flush, &mut out), Err(BadRequest::NoSession.into()));
    let last = Begin { copies: 0, batch_seq: 0, log_seq: 0, lsn: u64::MAX };
    ask(&mut service, Request::Begin(last), &mut out);
    let mut log = [0; 40];
    log[0] = 5;
    assert_eq!(service.handle(&log, &mut out), Ok(()));
    assert_eq!(service.handle(&log, &mut out), Err(BadRequest::LogExhausted.into()));
}

#[test]
fn a_new_session_forgets_the_old_one() {
    let mut memory = Memory::new(10);
    let mut service = memory.service();
    for _ in 0..2 {
        let mut out = Answers::default();
        ask(&mut service, BEGIN, &mut out);
        ask(&mut service, Request::Page { pfn: 5, page: &[9; PAGE] }, &mut out);
        ask(&mut service, Request::Flush(1), &mut out);
        ask(&mut service, Request::Bytes(b"cut off"), &mut out);
        let frames = out.frames();
        let mut backup = Backup::default();
        backup.take(&frames[0].2);
        assert!(backup.stream == [9; PAGE], "the page comes without an old copy");
        let header = Header::parse(out.0[1][FRAME_HEAD..].first_chunk().unwrap()).unwrap();
        assert_eq!((header.seq, frames.len()), (7, 1));
    }
}
