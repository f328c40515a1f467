//! Makes a kept log: under another name first, so that a file with the right name is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use llm_core::log::Cursor;

use super::{Header, Order};

/// Writes a kept log. It holds what the domain's clients have sent: only its owner may read it.
///
/// The file gets its name in [`Self::finish`]; a writer that is dropped before leaves nothing behind.
/// A disk may stand still: call it where nobody waits.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<File>,
    new: PathBuf,
    path: PathBuf,
    order: Order,
    bytes: u64,
    finished: bool,
}

impl Writer {
    /// Starts the log that is to be `path`, next to it, as `path` with `.new` added. The folder must be there.
    ///
    /// # Errors
    /// The file cannot be made; [`ErrorKind::InvalidInput`] for a name that no domain can have.
    pub fn create(path: &Path, header: &Header) -> io::Result<Self> {
        let invalid = || io::Error::new(ErrorKind::InvalidInput, "No domain can have this name");
        let bytes = header.to_bytes().ok_or_else(invalid)?;
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        match fs::remove_file(&new) {
            // Left behind by a process that was killed.
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        let mut writer = Self {
            file: BufWriter::with_capacity(1 << 16, file),
            new,
            path: path.into(),
            order: Order::default(),
            bytes: bytes.len() as u64,
            finished: false,
        };
        writer.file.write_all(&bytes)?;
        Ok(writer)
    }

    /// Appends records: one, or several without anything between them.
    ///
    /// # Errors
    /// The disk is full or broken. [`ErrorKind::InvalidInput`], and nothing appended, if the bytes are no whole records,
    /// or their numbers or epochs do not go on from what is there.
    pub fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let mut order = self.order;
        let mut rest = records;
        while !rest.is_empty() {
            // A fresh one each time: numbers may be missing.
            let mut cursor = Cursor::new(None);
            let reason = match cursor.take(&mut rest) {
                Ok(Some(record)) => order.next(&record).err(),
                Ok(None) => cursor.finish(rest).err().map(|error| error.reason),
                Err(error) => Some(error.reason),
            };
            if let Some(reason) = reason {
                return Err(io::Error::new(
                    ErrorKind::InvalidInput,
                    format!("Cannot keep a record: {reason}"),
                ));
            }
        }
        self.file.write_all(records)?;
        self.order = order;
        self.bytes += records.len() as u64;
        Ok(())
    }

    /// Bytes of the file so far, header included.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Brings everything to disk and gives the file its name, in place of an older one.
    ///
    /// # Errors
    /// The disk is full or broken. The file has its name only if it is whole; an older one stays otherwise.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.new, &self.path)?;
        self.finished = true;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.new);
        }
    }
}
