//! The two measures: as many records as go at once, and one at a time.

use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Bytes of the number that each record starts with.
const NUMBER: usize = 8;

/// A way for records to another domain and back.
pub trait Way {
    /// Sends a record; false if there is no room for it now.
    ///
    /// # Errors
    /// The way is broken.
    fn send(&mut self, record: &[u8]) -> io::Result<bool>;

    /// The next record of `len` bytes that has come back, if one has.
    ///
    /// # Errors
    /// The way is broken.
    fn receive(&mut self, len: usize) -> io::Result<Option<&[u8]>>;

    /// Shows the other end all that was sent.
    ///
    /// # Errors
    /// The way is broken.
    fn show(&mut self) -> io::Result<()>;

    /// Does that too, and sleeps until there may be a record, or room for one of `room` bytes if that is asked for.
    ///
    /// # Errors
    /// The way is broken, or nothing came for a long time.
    fn wait(&mut self, room: Option<usize>) -> io::Result<()>;
}

/// What was measured with records of one size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Bytes of each record.
    pub record_bytes: usize,
    /// Bytes that went there and came back, in 10^6 a second.
    pub mb_per_s: f64,
    /// Microseconds for one record there and back: half of them took no longer.
    pub round_trip_us_p50: f64,
    /// The same for 99 of 100.
    pub round_trip_us_p99: f64,
}

/// Both measures with records of `len` bytes, at least 8; each takes `time`.
///
/// # Errors
/// The way is broken, or brings back something else.
pub fn measure(way: &mut impl Way, len: usize, time: Duration) -> io::Result<Figures> {
    let mut record = vec![0x5a; len.max(NUMBER)];
    let mb_per_s = throughput(way, &mut record, time)?;
    let trips = round_trips(way, &mut record, time)?;
    Ok(figures(len, mb_per_s, trips))
}

/// The bytes of a record's copies on a way through memory: into the ring and out of it at each end. No other domain is in it.
#[must_use]
pub fn memcpy(len: usize, time: Duration) -> Figures {
    /// Bytes that the copies go through, as much as both rings have.
    const AREA: usize = 256 << 10;
    let record = vec![0x5a; len];
    let (mut there, mut copy, mut back, mut last) =
        (vec![0_u8; AREA], vec![0; len], vec![0_u8; AREA], vec![0; len]);
    let mut once = |number: usize| {
        let at = number % (AREA / len.max(1)) * len;
        let place = at..at + len;
        there[place.clone()].copy_from_slice(black_box(&record));
        copy.copy_from_slice(black_box(&there[place.clone()]));
        back[place.clone()].copy_from_slice(black_box(&copy));
        last.copy_from_slice(black_box(&back[place]));
        black_box(&mut last);
    };
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < time {
        // The clock is no part of it.
        for number in count..count + 64 {
            once(number);
        }
        count += 64;
    }
    let mb_per_s = rate(count, len, start);
    let (start, mut trips) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let before = Instant::now();
        once(trips.len());
        trips.push(before.elapsed());
    }
    figures(len, mb_per_s, trips)
}

fn throughput(way: &mut impl Way, record: &mut [u8], time: Duration) -> io::Result<f64> {
    let (mut sent, mut got, mut open) = (0_u64, 0_u64, true);
    let start = Instant::now();
    while open || got < sent {
        let before = (sent, got);
        if open {
            sent = fill(way, record, sent)?;
        }
        way.show()?;
        while got < sent
            && let Some(back) = way.receive(record.len())?
        {
            check(back, record.len(), got)?;
            got += 1;
        }
        open = start.elapsed() < time;
        if (sent, got) == before && got < sent {
            way.wait(open.then_some(record.len()))?;
        }
    }
    Ok(rate(usize::try_from(got).unwrap_or_default(), record.len(), start))
}

/// Sends until there is no room, and returns the number of the next record.
fn fill(way: &mut impl Way, record: &mut [u8], mut sent: u64) -> io::Result<u64> {
    loop {
        number(record, sent);
        if !way.send(record)? {
            return Ok(sent);
        }
        sent += 1;
    }
}

fn round_trips(way: &mut impl Way, record: &mut [u8], time: Duration) -> io::Result<Vec<Duration>> {
    let mut trips = Vec::new();
    let start = Instant::now();
    let mut before = start;
    while before - start < time {
        let count = trips.len() as u64;
        number(record, count);
        while !way.send(record)? {
            way.wait(Some(record.len()))?;
        }
        way.show()?;
        loop {
            if let Some(back) = way.receive(record.len())? {
                check(back, record.len(), count)?;
                break;
            }
            way.wait(None)?;
        }
        let after = Instant::now();
        trips.push(after - before);
        before = after;
    }
    Ok(trips)
}

/// Writes a record's number into it.
fn number(record: &mut [u8], number: u64) {
    if let Some(place) = record.first_chunk_mut::<NUMBER>() {
        *place = number.to_le_bytes();
    }
}

fn check(back: &[u8], len: usize, number: u64) -> io::Result<()> {
    let same = back.len() == len && back.first_chunk() == Some(&number.to_le_bytes());
    let error =
        || io::Error::new(io::ErrorKind::InvalidData, format!("Record {number} came back as another"));
    same.then_some(()).ok_or_else(error)
}

fn rate(records: usize, len: usize, start: Instant) -> f64 {
    records as f64 * len as f64 / start.elapsed().as_secs_f64() / 1e6
}

fn figures(record_bytes: usize, mb_per_s: f64, mut trips: Vec<Duration>) -> Figures {
    trips.sort_unstable();
    let at = |percent: usize| trips.get(trips.len() * percent / 100).map_or(0.0, |t| t.as_secs_f64() * 1e6);
    Figures { record_bytes, mb_per_s, round_trip_us_p50: at(50), round_trip_us_p99: at(99) }
}
