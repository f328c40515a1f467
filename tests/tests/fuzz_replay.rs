//! Replays the inputs of `fuzz/corpus` and `fuzz/regressions` without a fuzzer.

use std::fs;
use std::path::{Path, PathBuf};

use llm_tests::fuzzing::TARGETS;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.sort();
    files
}

/// The inputs of every target pass. The test harness shows the last name printed when one panics.
#[test]
fn every_recorded_input_passes() {
    for (name, body) in TARGETS {
        let corpus = files(&fuzz_dir().join("corpus").join(name));
        assert!(!corpus.is_empty(), "fuzz/corpus/{name} has no seed");
        let regressions = files(&fuzz_dir().join("regressions").join(name));
        for path in corpus.iter().chain(&regressions) {
            println!("{name}: {}", path.display());
            body(&fs::read(path).expect("a readable input"));
        }
    }
}

/// Bodies take any bytes at all: a short sweep for those who have no fuzzer.
#[test]
fn bodies_take_inputs_of_every_length() {
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..3000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    for (name, body) in TARGETS {
        println!("{name}");
        for start in 0..300 {
            body(&noise[start..start + start * start % 2700]);
        }
    }
}

#[test]
fn targets_files_and_table_agree() {
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for (name, _) in TARGETS {
        assert!(fuzz_dir().join(format!("fuzz_targets/{name}.rs")).is_file(), "{name} has no target file");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
    }
    for path in files(&fuzz_dir().join("fuzz_targets")) {
        let name = path.file_stem().expect("a file name").to_string_lossy().into_owned();
        assert!(TARGETS.iter().any(|(target, _)| *target == name), "{name} is not in the table of bodies");
    }
}
