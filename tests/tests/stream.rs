//! A checkpoint stream of real Xen through the engine: parsed, encoded, rebuilt.

use llm_core::page::Kind;
use llm_dom0::checkpoint::encode::{Encoder, EpochSummary, Output};
use llm_dom0::checkpoint::rebuild::{EpochCheck, Rebuilder};
use llm_dom0::checkpoint::stream::MarkKind;
use llm_dom0::checkpoint::tap::PipeTap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The recording, unpacked; the format is told beside it.
fn recording() -> Vec<u8> {
    let packed = fs::read(root().join("llm-dom0/testdata/unikernel.remus.runs")).expect("the recording");
    let (mut rest, mut stream) = (&packed[..], Vec::new());
    while let Some((head, tail)) = rest.split_first_chunk::<8>() {
        let [a, b, c, d, e, f, g, h] = *head;
        let (bytes, tail) = tail.split_at(u32::from_le_bytes([a, b, c, d]) as usize);
        stream.extend_from_slice(bytes);
        stream.resize(stream.len() + u32::from_le_bytes([e, f, g, h]) as usize, 0);
        rest = tail;
    }
    stream
}

fn check(epoch: &EpochSummary) -> EpochCheck {
    EpochCheck { stream_bytes: epoch.stream_bytes, digest: epoch.digest, pages: epoch.pages }
}

/// From a pipe as a toolstack writes it, over batches, into a queue as a backup hands it on.
#[test]
fn a_recorded_stream_is_rebuilt() {
    let stream = recording();
    let (reader, mut writer) = io::pipe().expect("a pipe");
    let tap = PipeTap::new(reader.into()).expect("a tap");
    let mut encoder = Encoder::new(2000);
    let mut rebuilder = Rebuilder::new(2000);
    let (mut epochs, mut checkpoints, mut rebuilt) = (Vec::new(), Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for piece in stream.chunks(65_537) {
                writer.write_all(piece).expect("the pipe");
            }
            drop(writer);
        });
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = match tap.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(tap.wait(Duration::from_secs(20)).expect("a wait"), "the writer is stuck");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let fed = encoder.feed(&buffer[..read], |output| match output {
                Output::Batch(batch) => {
                    rebuilder.apply(batch, |bytes| rebuilt.extend_from_slice(bytes)).expect("a batch");
                }
                Output::Epoch(epoch) => {
                    rebuilder.finish_epoch(check(epoch)).expect("an epoch");
                    epochs.push(epoch.clone());
                }
                Output::Mark(mark) if mark.kind == MarkKind::Checkpoint => checkpoints.push(mark.end),
                Output::Mark(_) => {}
            });
            fed.expect("a stream of Xen");
        }
    });
    assert_eq!(tap.mark().expect("a mark"), stream.len() as u64);
    assert!(rebuilt == stream, "the rebuilt stream differs");

    assert_eq!(epochs.len(), 4);
    assert_eq!(checkpoints, epochs.iter().map(|epoch| epoch.checkpoint_end).collect::<Vec<_>>());
    // A PVH guest has no device model: CHECKPOINT_END follows at once.
    assert!(epochs.iter().all(|epoch| epoch.end == epoch.checkpoint_end + 8));
    assert_eq!(epochs[0].pages, 1081);
    assert_eq!(epochs[0].kinds[Kind::Zero as usize], 993);
    for epoch in &epochs[1..] {
        assert_eq!(epoch.pages, 34);
        assert!(epoch.batch_bytes * 25 < epoch.stream_bytes, "{epoch:?}");
    }
    assert_eq!(encoder.shadow().held(), 1040);
}

/// As `cargo lab bench stream --stream` does: through primary and backup as processes.
#[test]
fn a_compressed_recording_is_replayed() {
    assert!(Path::new(env!("CARGO_BIN_EXE_embedded")).exists());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("recording.zst");
    fs::write(&file, zstd::encode_all(&recording()[..], 1).expect("memory")).expect("a file");
    let carried = llm_tests::bench::stream::check(&file);
    assert_eq!(carried.expect("carried"), (4, 1081 + 3 * 34));
}

/// Xen's own checker takes the first rebuilt epoch, ended as a save ends.
#[test]
fn xens_checker_accepts_a_rebuilt_epoch() {
    let tools = root().join("target/lab/root/usr/lib/xen-4.17");
    let checker = tools.join("bin/verify-stream-v2");
    if !checker.exists() {
        assert!(std::env::var_os("LLM_REQUIRE_LAB").is_none(), "{} is missing", checker.display());
        println!("skipped: {} is missing; run `cargo lab up` first", checker.display());
        return;
    }
    let (stream, mut encoder, mut rebuilder) = (recording(), Encoder::new(2000), Rebuilder::new(2000));
    let (mut rebuilt, mut end) = (Vec::new(), None);
    let fed = encoder.feed(&stream, |output| match output {
        Output::Batch(batch) => {
            rebuilder.apply(batch, |bytes| rebuilt.extend_from_slice(bytes)).expect("a batch");
        }
        Output::Epoch(epoch) => end = end.or(Some(epoch.checkpoint_end)),
        Output::Mark(_) => {}
    });
    fed.expect("a stream of Xen");
    let end = usize::try_from(end.expect("an epoch")).expect("a small stream");
    // CHECKPOINT gives way to the END records of libxc and libxl.
    rebuilt.truncate(end - 8);
    rebuilt.resize(end + 8, 0);
    let dir = tempfile::tempdir().expect("a folder");
    let verify = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        fs::write(&file, bytes).expect("a file");
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", tools.join("lib/python")).arg(&checker).args(["-f", "xl", "-i"]).arg(&file);
        command.output().expect("python3")
    };
    let good = verify("good", &rebuilt);
    rebuilt[end - 8] = 0x7f;
    let bad = verify("bad", &rebuilt);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(!bad.status.success(), "the checker accepts anything");
}
