//! Benches: `cargo lab bench NAME`. Each prints tables and leaves its figures in `target/lab/bench/NAME.json`; the
//! machine that they are of is in `NAME.machine.json` beside.

use std::path::PathBuf;
use std::{env, fs, io};

use serde::Serialize;

pub mod codec;
mod command;
mod corpus;
pub mod counts;
pub mod encoder;
pub mod frame;
pub mod fresh;
pub mod link;
pub mod llm;
pub mod packet;
pub mod packets;
pub mod pictures;
pub mod ring;
pub mod stream;

pub use command::Command;

/// A bench that could not be run.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {what}")]
pub struct Error {
    what: String,
    #[source]
    source: io::Error,
}

/// What a bench says of the machine it ran on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor, as it names itself.
    pub processor: String,
    /// Processors there are.
    pub processors: usize,
    /// Bytes of the largest cache.
    pub cache: String,
    /// Those of the processor's instruction sets that a bench may use.
    pub features: Vec<&'static str>,
    /// The kernel's release.
    pub kernel: String,
    /// The compiler this was built with must be at least this one.
    pub rust: &'static str,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let value = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let processor =
            ["model name", "cpu family", "model"].iter().filter_map(|name| value(name)).collect::<Vec<_>>();
        let flags = value("flags").unwrap_or_default();
        let cache = (0..8).rev().map(|i| read(&format!("/sys/devices/system/cpu/cpu0/cache/index{i}/size")));
        Self {
            processor: processor.join(", "),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            cache: cache.map(|size| size.trim().to_owned()).find(|size| !size.is_empty()).unwrap_or_default(),
            features: ["avx2", "bmi2", "avx512f", "avx512bw", "avx512vbmi", "avx512_vbmi2"]
                .into_iter()
                .filter(|name| flags.split(' ').any(|flag| flag == *name))
                .collect(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            rust: env!("CARGO_PKG_RUST_VERSION"),
        }
    }
}

/// Writes `figures` with the machine's facts beside them, and returns the file.
///
/// # Errors
///
/// The folder or the file cannot be written.
pub fn write(name: &str, figures: &impl Serialize) -> Result<PathBuf, Error> {
    let folder = crate::lab::Paths::new("bench").workspace.join("target/lab/bench");
    let save = |name: String, value: serde_json::Value| {
        let path = folder.join(name);
        let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, format!("{value:#}\n")));
        written.map_err(|source| Error { what: format!("write {}", path.display()), source }).map(|()| path)
    };
    save(format!("{name}.machine.json"), serde_json::json!(Machine::this()))?;
    save(format!("{name}.json"), serde_json::json!(figures))
}
