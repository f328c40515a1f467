//! Where the lab keeps its things.

use std::path::{Path, PathBuf};

/// Folders of the lab.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The workspace's root.
    pub workspace: PathBuf,
    /// Cache of packages and images.
    pub cache: PathBuf,
    /// Name of the lab: of its network namespace and its state file.
    pub name: String,
}

impl Paths {
    /// Paths of the lab called `name`: the cache is `target/lab`, or the folder named in `LLM_LAB_DIR`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = crate_dir.parent().unwrap_or(crate_dir).to_owned();
        let cache = std::env::var_os("LLM_LAB_DIR")
            .map_or_else(|| workspace.join("target").join("lab"), PathBuf::from);
        Self { workspace, cache, name: name.to_owned() }
    }

    /// Downloaded packages.
    #[must_use]
    pub fn debs(&self) -> PathBuf {
        self.cache.join("debs")
    }

    /// The packages unpacked; nothing of them is installed.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.cache.join("root")
    }

    /// Built images.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.cache.join("images")
    }

    /// Logs of this lab's hosts.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.cache.join("logs")
    }

    /// Console log of host `number` (1 or 2).
    #[must_use]
    pub fn console_log(&self, number: usize) -> PathBuf {
        self.logs().join(format!("{}-host{number}.log", self.name))
    }

    /// Sockets, state and lock; on /run, so that they do not outlive the machine's boot.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        PathBuf::from("/run/llm-lab")
    }

    /// State of this lab: its processes.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.run().join(format!("{}.json", self.name))
    }

    /// Lock of this lab.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.run().join(format!("{}.lock", self.name))
    }

    /// Socket `what` of host `number`.
    #[must_use]
    pub fn socket(&self, number: usize, what: &str) -> PathBuf {
        self.run().join(format!("{}-host{number}.{what}", self.name))
    }
}
