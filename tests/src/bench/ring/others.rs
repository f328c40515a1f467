//! What our ring between two Linux domains is compared with, as far as it is written in Rust: TCP, and our ring to a unikernel.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use llm_core::service::{ANSWER_HEAD, Answer, MAX_ANSWER, Request};
use llm_dom0::xen::unikernel::Unikernel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::load::Way;
use super::{MAX_RECORD, PATIENCE};

/// A TCP connection to an [`echo`].
#[derive(Debug)]
pub struct Tcp {
    connection: TcpStream,
    /// The end of a record that had no room yet.
    rest: Vec<u8>,
    /// Bytes of the record under way that have come back.
    got: usize,
    copy: Vec<u8>,
}

impl Tcp {
    /// Connects.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let connection = TcpStream::connect_timeout(&address, PATIENCE)?;
        connection.set_nodelay(true)?;
        connection.set_nonblocking(true)?;
        Ok(Self { connection, rest: Vec::new(), got: 0, copy: vec![0; MAX_RECORD] })
    }

    /// Sends the end of the last record, as far as it goes.
    fn send_rest(&mut self) -> io::Result<()> {
        if !self.rest.is_empty() {
            let count = write(&mut self.connection, &self.rest)?;
            self.rest.drain(..count);
        }
        Ok(())
    }
}

impl Way for Tcp {
    fn send(&mut self, record: &[u8]) -> io::Result<bool> {
        self.send_rest()?;
        if !self.rest.is_empty() {
            return Ok(false);
        }
        let count = write(&mut self.connection, record)?;
        if count == 0 {
            return Ok(false);
        }
        self.rest.extend_from_slice(record.get(count..).unwrap_or_default());
        Ok(true)
    }

    fn receive(&mut self, len: usize) -> io::Result<Option<&[u8]>> {
        while self.got < len {
            match self.connection.read(self.copy.get_mut(self.got..len).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.got += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        self.got = 0;
        Ok(self.copy.get(..len))
    }

    fn show(&mut self) -> io::Result<()> {
        self.send_rest()
    }

    fn wait(&mut self, room: Option<usize>) -> io::Result<()> {
        self.send_rest()?;
        let out = room.is_some() || !self.rest.is_empty();
        let wanted = if out { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let patience = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.connection, wanted)], Some(&patience))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

/// How many of the bytes there was room for.
fn write(connection: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match connection.write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

/// Sends back what comes over connections, one after the other, for ever.
///
/// # Errors
/// The port cannot be listened on.
pub fn echo(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let mut buffer = vec![0; MAX_RECORD];
    for connection in listener.incoming() {
        // A client that is gone is followed by the next.
        let _ = connection.and_then(|connection| echo_one(connection, &mut buffer));
    }
    Ok(())
}

fn echo_one(mut connection: TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    connection.set_nodelay(true)?;
    loop {
        let count = connection.read(buffer)?;
        if count == 0 {
            return Ok(());
        }
        connection.write_all(buffer.get(..count).unwrap_or_default())?;
    }
}

/// A unikernel that is asked for echoes.
#[derive(Debug)]
pub struct Echoes {
    unikernel: Unikernel,
    answer: Vec<u8>,
}

impl Echoes {
    /// Connects to the one in domain `domid`.
    ///
    /// # Errors
    /// None is there.
    pub fn connect(domid: u16) -> io::Result<Self> {
        let unikernel = Unikernel::connect(domid, PATIENCE).map_err(io::Error::other)?;
        Ok(Self { unikernel, answer: vec![0; MAX_ANSWER] })
    }
}

impl Way for Echoes {
    fn send(&mut self, record: &[u8]) -> io::Result<bool> {
        self.unikernel.send(&Request::Echo(record)).map_err(io::Error::other)
    }

    fn receive(&mut self, _: usize) -> io::Result<Option<&[u8]>> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "The unikernel answers with something else");
        while let Some(len) = self.unikernel.answer(&mut self.answer).map_err(io::Error::other)? {
            let kind = self.answer.first_chunk().copied().and_then(Answer::from_head);
            match kind {
                Some(Answer::Echoed) => return self.answer.get(ANSWER_HEAD..len).map(Some).ok_or_else(bad),
                Some(Answer::Message) => {}
                _ => return Err(bad()),
            }
        }
        Ok(None)
    }

    fn show(&mut self) -> io::Result<()> {
        self.unikernel.show().map_err(io::Error::other)
    }

    fn wait(&mut self, room: Option<usize>) -> io::Result<()> {
        match self.unikernel.wait(room.is_some(), PATIENCE).map_err(io::Error::other)? {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::measure;
    use super::*;
    use std::time::Duration;

    #[test]
    fn records_come_back_over_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let connection = listener.accept().unwrap().0;
            // The client closes without having read all, or not.
            let _ = echo_one(connection, &mut vec![0; MAX_RECORD]);
        });
        let mut tcp = Tcp::connect(address).unwrap();
        for len in [8, 1000, MAX_RECORD] {
            let figures = measure(&mut tcp, len, Duration::from_millis(20)).unwrap();
            assert!(figures.mb_per_s > 0.0 && figures.round_trip_us_p99 > 0.0, "{figures:?}");
        }
        drop(tcp);
        server.join().unwrap();
    }
}
