//! Our ring, one each way: the end that measures and the end that echoes.

use std::io;
use std::time::Duration;

use llm_core::ring::{Consumer, PAGE, Producer, ReserveError, RingError, Wake};
use llm_dom0::shared::{EventChannel, RingPages};

use super::load::Way;
use super::{DATA_PAGES, MAX_RECORD, PATIENCE};

/// Bytes after which an end shows what it has while it has more, half a ring: the other may begin, if it has a processor of
/// its own. Where both share one, each time costs a switch.
const SHOW: usize = DATA_PAGES * PAGE / 2;

/// Both directions, with the channel that serves both.
#[derive(Debug)]
pub struct Link<C> {
    out: Producer<RingPages>,
    back: Consumer<RingPages>,
    channel: C,
    copy: Vec<u8>,
    /// Bytes sent that were not shown yet.
    hidden: usize,
}

impl<C: EventChannel> Link<C> {
    /// An end that sends to `out` and receives from `back`. Both are rings that nothing has used yet.
    ///
    /// # Errors
    /// The pages are no rings, or too small for a record of [`MAX_RECORD`] bytes.
    pub fn new(out: RingPages, back: RingPages, channel: C) -> io::Result<Self> {
        let (out, back) = (Producer::attach(out, MAX_RECORD), Consumer::attach(back, MAX_RECORD));
        let (out, back) = (out.map_err(io::Error::other)?, back.map_err(io::Error::other)?);
        Ok(Self { out, back, channel, copy: vec![0; MAX_RECORD], hidden: 0 })
    }

    /// Sends everything back until the other end closes.
    ///
    /// # Errors
    /// The ring or the channel is broken.
    pub fn echo(mut self) -> io::Result<()> {
        loop {
            match self.back.next() {
                Ok(Some(record)) => {
                    let len = record.copy_to(&mut self.copy).map_or(0, |copy| copy.len());
                    while !put(&mut self.out, self.copy.get(..len).unwrap_or_default())? {
                        self.sleep(false, Some(len), None)?;
                    }
                    self.sent(len)?;
                }
                Ok(None) => self.sleep(true, None, None)?,
                Err(RingError::Closed) => return Ok(()),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    /// Tells the other end that nothing follows.
    ///
    /// # Errors
    /// The channel is broken.
    pub fn close(self) -> io::Result<()> {
        let _: (Wake, Wake) = (self.out.close(), self.back.close());
        self.channel.notify()
    }

    fn sent(&mut self, len: usize) -> io::Result<()> {
        self.hidden += len;
        if self.hidden >= SHOW { self.show() } else { Ok(()) }
    }

    /// Shows and gives back all that there is, and sleeps if neither a record is there, if one is wanted, nor room, if
    /// some is wanted. Without `patience` for ever.
    fn sleep(&mut self, record: bool, room: Option<usize>, patience: Option<Duration>) -> io::Result<()> {
        self.hidden = 0;
        let mut notify = self.out.publish().peer() | self.back.release().peer();
        let mut sleep = true;
        if record {
            match self.back.wait() {
                Ok(wait) => (notify, sleep) = (notify | wait.wake.peer(), wait.sleep),
                // What is left of the ring is for the next look.
                Err(RingError::Closed) => sleep = false,
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        if let Some(len) = room {
            let wait = self.out.wait(len).map_err(ended)?;
            (notify, sleep) = (notify | wait.wake.peer(), sleep && wait.sleep);
        }
        if notify {
            self.channel.notify()?;
        }
        if sleep && !self.channel.wait(patience)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl<C: EventChannel> Way for Link<C> {
    fn send(&mut self, record: &[u8]) -> io::Result<bool> {
        if !put(&mut self.out, record)? {
            return Ok(false);
        }
        self.sent(record.len()).map(|()| true)
    }

    fn receive(&mut self, _: usize) -> io::Result<Option<&[u8]>> {
        let record = self.back.next().map_err(io::Error::other)?;
        Ok(record.and_then(|record| record.copy_to(&mut self.copy)).map(|copy| &*copy))
    }

    fn show(&mut self) -> io::Result<()> {
        self.hidden = 0;
        if self.out.publish().peer() | self.back.release().peer() {
            self.channel.notify()?;
        }
        Ok(())
    }

    fn wait(&mut self, room: Option<usize>) -> io::Result<()> {
        self.sleep(true, room, Some(PATIENCE))
    }
}

/// Puts a record into a ring; false if there is no room.
fn put(ring: &mut Producer<RingPages>, record: &[u8]) -> io::Result<bool> {
    let Some(mut room) = ring.reserve(record.len()).map_err(ended)? else { return Ok(false) };
    room.write_at(0, record).map_err(io::Error::other)?;
    room.commit();
    Ok(true)
}

fn ended(error: ReserveError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use super::super::load::measure;
    use super::*;
    use llm_core::ring::format;
    use llm_dom0::embedded::eventfd::Eventfds;
    use llm_dom0::embedded::memfd::MemfdPages;
    use llm_dom0::shared::SharedPages;
    use std::os::fd::AsFd;

    const DATA: usize = 20;

    fn pair() -> (Link<Eventfds>, Link<Eventfds>) {
        let (there, back) = (MemfdPages::new(DATA).unwrap(), MemfdPages::new(DATA).unwrap());
        let other = |pages: &MemfdPages| {
            let fd = pages.as_fd().try_clone_to_owned().unwrap();
            MemfdPages::from_peer(fd, DATA).unwrap().map().unwrap()
        };
        let (ours, theirs) = Eventfds::pair().unwrap();
        let (there_again, back_again) = (other(&there), other(&back));
        let (there, back) = (there.map().unwrap(), back.map().unwrap());
        format(&there).unwrap();
        format(&back).unwrap();
        (Link::new(there, back, ours).unwrap(), Link::new(back_again, there_again, theirs).unwrap())
    }

    #[test]
    fn records_of_every_size_come_back() {
        let (mut here, there) = pair();
        let echo = std::thread::spawn(|| there.echo());
        for len in [8, 64, 4096, MAX_RECORD] {
            let figures = measure(&mut here, len, Duration::from_millis(20)).unwrap();
            assert_eq!(figures.record_bytes, len);
            assert!(figures.mb_per_s > 0.0 && figures.round_trip_us_p50 > 0.0, "{figures:?}");
            assert!(figures.round_trip_us_p50 <= figures.round_trip_us_p99, "{figures:?}");
        }
        here.close().unwrap();
        echo.join().unwrap().unwrap();
    }
}
