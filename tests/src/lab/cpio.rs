//! A file tree kept as a list, and its writer in the kernel's initramfs format (cpio "newc").

use super::error::{Context as _, Result};
use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// One entry of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Entry {
    Directory,
    Symlink(String),
    Bytes { mode: u32, data: Vec<u8> },
    Copy { mode: u32, from: PathBuf },
}

/// Files for an image, by path in it (without a leading slash). Directories above a file come by themselves.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Tree {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        let mut at = 0;
        while let Some(slash) = path[at..].find('/') {
            self.entries.entry(path[..at + slash].to_owned()).or_insert(Entry::Directory);
            at += slash + 1;
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Adds an empty directory.
    pub fn directory(&mut self, path: &str) {
        self.insert(path, Entry::Directory);
    }

    /// Adds a symbolic link at `path`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.insert(path, Entry::Symlink(target.to_owned()));
    }

    /// Adds a file from memory.
    pub fn bytes(&mut self, path: &str, mode: u32, data: impl Into<Vec<u8>>) {
        self.insert(path, Entry::Bytes { mode, data: data.into() });
    }

    /// Adds a file of this machine, read when the archive is written.
    pub fn copy(&mut self, path: &str, mode: u32, from: &Path) {
        self.insert(path, Entry::Copy { mode, from: from.to_owned() });
    }

    /// Adds all regular files under `from`, at `path`.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn copy_all(&mut self, path: &str, from: &Path) -> Result<()> {
        for item in fs::read_dir(from).context(|| format!("list {}", from.display()))? {
            let item = item.context(|| format!("list {}", from.display()))?;
            let name = format!("{path}/{}", item.file_name().to_string_lossy());
            let kind = item.file_type().context(|| format!("look at {}", item.path().display()))?;
            if kind.is_dir() {
                self.copy_all(&name, &item.path())?;
            } else if kind.is_file() {
                let meta = item.metadata().context(|| format!("look at {}", item.path().display()))?;
                self.copy(&name, meta.permissions().mode() & 0o7777, &item.path());
            }
        }
        Ok(())
    }

    /// A number that changes when any path, mode or content does.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn digest(&self) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        for (path, entry) in &self.entries {
            path.hash(&mut hasher);
            match entry {
                Entry::Copy { mode, from } => {
                    mode.hash(&mut hasher);
                    read(from)?.hash(&mut hasher);
                }
                other => other.hash(&mut hasher),
            }
        }
        Ok(hasher.finish())
    }

    /// Writes the archive. The same tree gives the same bytes: no times, no owners, inode numbers in order.
    ///
    /// # Errors
    /// When a file cannot be read or the archive cannot be written.
    pub fn write(&self, to: &mut impl Write) -> Result<()> {
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            match entry {
                Entry::Directory => header(to, inode, 0o040_755, path, &[])?,
                Entry::Symlink(target) => header(to, inode, 0o120_777, path, target.as_bytes())?,
                Entry::Bytes { mode, data } => header(to, inode, 0o100_000 | mode, path, data)?,
                Entry::Copy { mode, from } => header(to, inode, 0o100_000 | mode, path, &read(from)?)?,
            }
        }
        header(to, 0, 0, "TRAILER!!!", &[])
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).context(|| format!("read {}", path.display()))
}

fn header(to: &mut impl Write, inode: u32, mode: u32, name: &str, data: &[u8]) -> Result<()> {
    // Fields: inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name length with NUL, check.
    let head = format!(
        "070701{inode:08X}{mode:08X}{z:08X}{z:08X}{links:08X}{z:08X}{size:08X}{z:08X}{z:08X}{z:08X}{z:08X}{name_len:08X}{z:08X}",
        z = 0,
        links = 1,
        size = data.len(),
        name_len = name.len() + 1,
    );
    let mut out = head.into_bytes();
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(&mut out);
    let mut body = data.to_vec();
    pad(&mut body);
    to.write_all(&out).and_then(|()| to.write_all(&body)).context(|| format!("write {name} into an image"))
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(tree: &Tree) -> Vec<u8> {
        let mut out = Vec::new();
        tree.write(&mut out).unwrap();
        out
    }

    #[test]
    fn entries_are_aligned_and_directories_come_first() {
        let mut tree = Tree::new();
        tree.bytes("a/b/file", 0o644, "hello");
        tree.symlink("a/link", "b/file");
        let out = archive(&tree);
        assert_eq!(out.len() % 4, 0);
        let starts: Vec<usize> =
            out.windows(6).enumerate().filter(|(_, w)| w == b"070701").map(|(i, _)| i).collect();
        assert_eq!(starts.len(), 5, "a, a/b, a/b/file, a/link and the trailer");
        assert!(starts.iter().all(|s| s % 4 == 0));
        let size = std::str::from_utf8(&out[starts[2] + 54..starts[2] + 62]).unwrap();
        assert_eq!(u32::from_str_radix(size, 16).unwrap(), 5);
    }

    #[test]
    fn the_digest_sees_content_and_mode() {
        let tree = |mode, data: &str| {
            let mut tree = Tree::new();
            tree.bytes("x", mode, data);
            tree.digest().unwrap()
        };
        assert_eq!(tree(0o644, "1"), tree(0o644, "1"));
        assert_ne!(tree(0o644, "1"), tree(0o644, "2"));
        assert_ne!(tree(0o644, "1"), tree(0o755, "1"));
    }
}
