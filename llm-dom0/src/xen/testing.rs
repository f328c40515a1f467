//! A shell script in the place of `xl`, for tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A directory of its own with an `xl` in it; removed on drop.
pub(super) struct FakeXl {
    dir: PathBuf,
    program: PathBuf,
}

impl FakeXl {
    /// An `xl` that notes its pid in a side file `pid` and then does what `script` says.
    pub(super) fn new(name: &str, script: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("llm-xl-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let program = dir.join("xl");
        fs::write(&program, format!("#!/bin/sh\necho $$ >$0.pid\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir, program }
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The contents of the file that the script knows as `$0.suffix`; empty if there is none.
    pub(super) fn side(&self, suffix: &str) -> String {
        fs::read_to_string(self.dir.join(format!("xl.{suffix}"))).unwrap_or_default()
    }

    /// Whether the script has ended, or is dead and not reaped yet.
    pub(super) fn gone(&self) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", self.side("pid").trim()));
        line.map_or(true, |line| line.is_empty())
    }
}

impl Drop for FakeXl {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.dir);
    }
}
