//! The sessions that were taken over on this host, on disk.
//!
//! A primary may be frozen for longer than this service lives. When it thaws it must be told that its domain ran
//! elsewhere, or it would go on with a state that its clients have seen overtaken.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Name of the file in the state directory: a session a line, 16 hexadecimal digits, oldest first.
const FILE: &str = "taken-over";
/// Sessions kept when the file is read; older ones go.
const KEPT: usize = 4096;

/// What is on disk, and in memory.
#[derive(Debug)]
pub(super) struct TakenOver(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    sessions: HashSet<u64>,
    file: File,
}

impl TakenOver {
    /// Reads what earlier services have left in `state_dir`, which is made if it is missing.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(state_dir)?;
        let path = state_dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        // A line cut short by a power failure belongs to a take-over that did not come to pass.
        let mut sessions: Vec<u64> = text
            .lines()
            .filter(|line| line.len() == 16)
            .filter_map(|line| u64::from_str_radix(line, 16).ok())
            .collect();
        sessions.drain(..sessions.len().saturating_sub(KEPT));
        let kept: String = sessions.iter().map(|session| format!("{session:016x}\n")).collect();
        if kept != text {
            let new = path.with_extension("new");
            fs::write(&new, &kept)?;
            fs::rename(&new, &path)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(Self(Mutex::new(Inner { sessions: sessions.into_iter().collect(), file })))
    }

    /// Remembers a session before its domain runs here.
    ///
    /// # Errors
    /// It is remembered only until this service ends.
    pub(super) fn insert(&self, session: u64) -> io::Result<()> {
        let mut inner = self.lock();
        inner.sessions.insert(session);
        inner.file.write_all(format!("{session:016x}\n").as_bytes())?;
        inner.file.sync_data()
    }

    /// Whether that session was taken over here, by this service or an earlier one.
    pub(super) fn contains(&self, session: u64) -> bool {
        self.lock().sessions.contains(&session)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("llm-taken-over-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_later_service_knows_what_an_earlier_one_took_over() {
        let folder = Folder::new("later");
        let first = TakenOver::open(&folder.0).expect("open");
        assert!(!first.contains(7));
        first.insert(7).expect("insert");
        first.insert(u64::MAX).expect("insert");
        drop(first);
        let second = TakenOver::open(&folder.0).expect("open");
        assert!(second.contains(7) && second.contains(u64::MAX) && !second.contains(8));
        second.insert(8).expect("insert");
        assert!(TakenOver::open(&folder.0).expect("open").contains(8));
    }

    #[test]
    fn damage_costs_the_damaged_line_only() {
        let folder = Folder::new("damage");
        fs::create_dir_all(&folder.0).expect("folder");
        fs::write(folder.0.join(FILE), "0000000000000005\nnot a session 16\n00000").expect("write");
        let register = TakenOver::open(&folder.0).expect("open");
        assert!(register.contains(5) && !register.contains(0));
        register.insert(6).expect("insert");
        assert!(TakenOver::open(&folder.0).expect("open").contains(6), "not glued to the damaged line");
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let folder = Folder::new("many");
        fs::create_dir_all(&folder.0).expect("folder");
        let text: String = (0..KEPT as u64 + 2).map(|session| format!("{session:016x}\n")).collect();
        fs::write(folder.0.join(FILE), text).expect("write");
        let register = TakenOver::open(&folder.0).expect("open");
        assert!(!register.contains(1) && register.contains(2));
    }
}
