//! The sessions that were taken over on this host, on disk.
//!
//! A primary may be frozen for longer than this service lives. When it thaws it must be told that its domain ran
//! elsewhere, or it would go on with a state that its clients have seen overtaken.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Name of the file in the state directory: a session a line, 16 hexadecimal digits, oldest first.
const FILE: &str = "taken-over";
/// Sessions kept when the file is read; older ones go.
const KEPT: usize = 4096;

/// What is on disk, and in memory.
#[derive(Debug)]
pub(super) struct TakenOver {
    sessions: Mutex<HashSet<u64>>,
    file: Arc<File>,
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
        Ok(Self { sessions: Mutex::new(sessions.into_iter().collect()), file: Arc::new(file) })
    }

    /// Remembers a session whose domain is about to run here. The disk is written meanwhile, by a thread
    /// that is returned: `xl` takes far longer, and a disk that stands still must not stop a take-over.
    pub(super) fn insert(&self, session: u64, domain: &str) -> Option<JoinHandle<()>> {
        self.lock().insert(session);
        let (file, domain) = (Arc::clone(&self.file), domain.to_owned());
        let write = move || {
            // One write, so that lines of two sessions do not mix.
            let written =
                (&*file).write_all(format!("{session:016x}\n").as_bytes()).and_then(|()| file.sync_data());
            if let Err(error) = written {
                tracing::error!(domain, %error, "the take-over is not on disk: should this service be restarted and \
                                 the domain leave, an old primary that thaws would not be told");
            }
        };
        let spawned = std::thread::Builder::new().name("taken-over".into()).spawn(write);
        spawned.inspect_err(|error| tracing::error!(%error, "the take-over is not on disk")).ok()
    }

    /// Whether that session was taken over here, by this service or an earlier one.
    pub(super) fn contains(&self, session: u64) -> bool {
        self.lock().contains(&session)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn insert(register: &TakenOver, session: u64) {
        register.insert(session, "g").expect("a thread").join().expect("written");
    }

    #[test]
    fn a_later_service_knows_what_an_earlier_one_took_over() {
        let parent = TempDir::new().expect("a folder");
        let folder = parent.path().join("not made yet");
        let first = TakenOver::open(&folder).expect("open");
        assert!(!first.contains(7));
        insert(&first, 7);
        insert(&first, u64::MAX);
        drop(first);
        let second = TakenOver::open(&folder).expect("open");
        assert!(second.contains(7) && second.contains(u64::MAX) && !second.contains(8));
        insert(&second, 8);
        assert!(TakenOver::open(&folder).expect("open").contains(8));
    }

    #[test]
    fn damage_costs_the_damaged_line_only() {
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join(FILE), "0000000000000005\nnot a session 16\n00000").expect("write");
        let register = TakenOver::open(folder.path()).expect("open");
        assert!(register.contains(5) && !register.contains(0));
        insert(&register, 6);
        assert!(TakenOver::open(folder.path()).expect("open").contains(6), "not glued to the damaged line");
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let folder = TempDir::new().expect("a folder");
        let text: String = (0..KEPT as u64 + 2).map(|session| format!("{session:016x}\n")).collect();
        fs::write(folder.path().join(FILE), text).expect("write");
        let register = TakenOver::open(folder.path()).expect("open");
        assert!(!register.contains(1) && register.contains(2));
    }
}
