//! A write that never waits.

use std::io::{self, IoSlice};
use std::net::TcpStream;

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

/// Writes a frame as far as the socket takes it now, and says how many bytes that were.
///
/// # Errors
/// The system's; [`io::ErrorKind::WouldBlock`] if the socket takes nothing.
pub(super) fn write(stream: &TcpStream, header: &[u8], payload: &[u8]) -> io::Result<usize> {
    let parts = [IoSlice::new(header), IoSlice::new(payload)];
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(sendmsg(stream, &parts, &mut SendAncillaryBuffer::default(), flags)?)
}
