//! Where the log goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::Arc;

use tracing_subscriber::EnvFilter;

use super::args::Common;
use super::exit::{Exit, Failure, OrExit};

/// Starts logging as the command line says.
///
/// # Errors
/// A filter that cannot be read, or a log file that cannot be opened.
pub(crate) fn start(common: &Common) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&common.log).or_exit(Exit::Usage)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    match &common.log_file {
        None => builder.with_writer(io::stderr).with_ansi(false).init(),
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path).map_err(|e| {
                Failure::new(Exit::Failed, format!("Cannot open the log file {}: {e}", path.display()))
            })?;
            let file = Arc::new(file);
            builder.with_writer(move || LogFile(Arc::clone(&file))).with_ansi(false).init();
        }
    }
    Ok(())
}

/// A log file that a full disk does not turn into a failure: a line that
/// cannot be written goes to standard error instead.
#[derive(Debug)]
struct LogFile(Arc<File>);

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if (&*self.0).write_all(line).is_err() {
            let _ = io::stderr().write_all(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_failure() {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let mut log = LogFile(Arc::new(full));
        assert_eq!(log.write(b"a line\n").ok(), Some(7));
    }
}
