//! Reads the test vectors of `docs/wire-format.md` and `docs/ring.md`, so that documents and code cannot drift apart.

use std::string::String;
use std::vec::Vec;

const DOCUMENTS: [&str; 2] =
    [include_str!("../../../docs/wire-format.md"), include_str!("../../../docs/ring.md")];

/// The lines of the block fenced as "```vector NAME", without comments.
fn lines(name: &str) -> Vec<&'static str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in DOCUMENTS.iter().flat_map(|document| document.lines()) {
        if let Some(info) = line.strip_prefix("```") {
            if inside {
                return lines;
            }
            inside = info.split_whitespace().eq(["vector", name]);
        } else if inside {
            lines.push(line.split('#').next().unwrap_or(""));
        }
    }
    panic!("no document has a vector {name}");
}

/// The bytes of a vector: pairs of hex digits, and `BB*N` for N times the same byte.
pub(crate) fn hex(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in lines(name).iter().flat_map(|line| line.split_whitespace()) {
        let (digits, times) = word.split_once('*').unwrap_or((word, "1"));
        let byte = u8::from_str_radix(digits, 16).unwrap_or_else(|e| panic!("{name}: {word}: {e}"));
        let times: usize = times.parse().unwrap_or_else(|e| panic!("{name}: {word}: {e}"));
        bytes.extend(core::iter::repeat_n(byte, times));
    }
    bytes
}

/// A table of a vector: the cells of each line.
pub(crate) fn table(name: &str) -> Vec<Vec<String>> {
    lines(name)
        .iter()
        .map(|line| line.split_whitespace().map(String::from).collect())
        .filter(|cells: &Vec<_>| !cells.is_empty())
        .collect()
}
