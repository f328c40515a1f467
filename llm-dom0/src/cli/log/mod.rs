//! `llm log`: looks into a log that was kept.

mod describe;
mod export;
mod inspect;
mod summary;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::args;
use super::exit::{Exit, Failure};
use crate::keptlog::{KeptLogError, Reader};

/// What ends a walk through a log before its end.
#[derive(Debug)]
enum Trouble {
    Log(KeptLogError),
    /// What was found cannot be written.
    Output(io::Error),
}

impl From<KeptLogError> for Trouble {
    fn from(error: KeptLogError) -> Self {
        Self::Log(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<serde_json::Error> for Trouble {
    fn from(error: serde_json::Error) -> Self {
        Self::Output(error.into())
    }
}

/// An error with the name of the file it is about.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct About(String, #[source] Box<dyn std::error::Error + Send + Sync>);

/// `llm log ...`.
pub(super) fn run(log: &args::Log) -> Result<Exit, Failure> {
    match log {
        args::Log::Inspect(inspect) => inspect::run(inspect),
        args::Log::Export(export) => export::run(export),
    }
}

fn about(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::new(Exit::Failed, About(path.display().to_string(), error.into()))
}

fn open(path: &Path) -> Result<Reader<File>, Failure> {
    let file = File::open(path).map_err(|e| about(path, e))?;
    Reader::new(file).map_err(|e| about(path, e))
}

/// How the command ends; `path` is the log, `output` what was written.
fn ended(result: Result<(), Trouble>, path: &Path, output: &Path) -> Result<Exit, Failure> {
    match result {
        Ok(()) => Ok(Exit::Done),
        Err(Trouble::Log(error)) => Err(about(path, error)),
        // Who reads has seen enough, as `head` has.
        Err(Trouble::Output(e)) if e.kind() == ErrorKind::BrokenPipe => Ok(Exit::Done),
        Err(Trouble::Output(e)) => Err(about(output, e)),
    }
}

/// A point in time as people write it, in UTC.
fn utc(time: SystemTime) -> String {
    let secs = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, secs) = (secs / 86_400, secs % 86_400);
    // Years that start in March, so that a leap day is their last: 400 of them have 146 097 days.
    let from_march = days + 719_468;
    let (era, day) = (from_march / 146_097, from_march % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (year, hour, minute, second) = (era * 400 + year + next, secs / 3600, secs / 60 % 60, secs % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From `date -u -d @N`.
        for (secs, want) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (18_446_744_073, "2554-07-21 23:34:33 UTC"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(secs)), want);
        }
    }
}
