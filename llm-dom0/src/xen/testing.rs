//! A shell script in the place of `xl`, for tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A directory of its own with an `xl` in it; removed on drop.
pub(super) struct FakeXl {
    dir: TempDir,
    program: PathBuf,
}

impl FakeXl {
    /// An `xl` that notes its pid in a side file `pid` and then does what `script` says.
    pub(super) fn new(script: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let program = dir.path().join("xl");
        // Written by a child: a child that another test forks would hold our descriptor open,
        // and a program that is open for writing does not start.
        let write = r#"printf '#!/bin/sh\necho $$ >$0.pid\n%s\n' "$1" >"$0" && chmod +x "$0""#;
        assert!(Command::new("sh").args(["-c", write]).arg(&program).arg(script).status().unwrap().success());
        Self { dir, program }
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The contents of the file that the script knows as `$0.suffix`; empty if there is none.
    pub(super) fn side(&self, suffix: &str) -> String {
        fs::read_to_string(self.dir().join(format!("xl.{suffix}"))).unwrap_or_default()
    }

    /// Whether the script has ended, or is dead and not reaped yet; or was before it could note its pid.
    pub(super) fn gone(&self) -> bool {
        let pid = self.side("pid");
        let line = fs::read(format!("/proc/{}/cmdline", pid.trim()));
        pid.is_empty() || line.map_or(true, |line| line.is_empty())
    }
}

#[test]
fn two_at_a_time_are_two() {
    let (one, two) = (FakeXl::new("exit 1"), FakeXl::new("exit 2"));
    let path = one.dir().to_owned();
    drop(one);
    assert_eq!(Command::new(two.program()).status().unwrap().code(), Some(2));
    assert!(!path.exists() && two.dir().exists());
}
