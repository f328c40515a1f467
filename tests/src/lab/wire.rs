//! Frames between the runner and the agent that runs in each host.
//!
//! One connection carries one request. Frame: kind (1 byte), length (u32, little-endian), payload of at most
//! [`MAX_PAYLOAD`] bytes. Requests are [`RUN`] (payload: one flag byte, then the shell command), [`PUT`] (payload: mode as
//! u32 little-endian, then the path; [`DATA`] frames and [`END`] follow), [`GET`] (payload: path) and [`CLOCK`] (no payload), which may be repeated.

use std::io::{self, Read, Write};

/// Port of the agent on the management network.
pub const PORT: u16 = 7070;
/// Largest payload of a frame, in bytes.
pub const MAX_PAYLOAD: usize = 256 * 1024;

/// Request: run a shell command.
pub const RUN: u8 = b'R';
/// Request: write a file.
pub const PUT: u8 = b'P';
/// Request: read a file.
pub const GET: u8 = b'G';
/// Request: tell the time; the answer has this kind too, with `CLOCK_BOOTTIME` in nanoseconds as u64.
pub const CLOCK: u8 = b'C';
/// A piece of a file.
pub const DATA: u8 = b'D';
/// End of a file.
pub const END: u8 = b'E';
/// A piece of the command's stdout.
pub const STDOUT: u8 = b'o';
/// A piece of the command's stderr.
pub const STDERR: u8 = b'e';
/// The command's end: exit code as i32, minus the signal's number if one killed it.
pub const EXIT: u8 = b'x';
/// The command's process id in the host, as u32; the first answer to [`RUN`].
pub const PID: u8 = b'p';
/// The request failed; payload: reason.
pub const ERROR: u8 = b'!';

/// Flag of [`RUN`]: the command goes on when the connection closes.
pub const FLAG_DETACH: u8 = 1;

/// Writes one frame.
///
/// # Errors
/// Of the writer; `InvalidInput` when the payload is above [`MAX_PAYLOAD`].
pub fn write_frame(to: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    if payload.len() > MAX_PAYLOAD {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "Frame payload above the limit"));
    }
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(5 + payload.len());
    frame.push(kind);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(payload);
    to.write_all(&frame)
}

/// Reads one frame; `None` at a clean end of the stream.
///
/// # Errors
/// Of the reader; `UnexpectedEof` inside a frame; `InvalidData` for a length above [`MAX_PAYLOAD`].
pub fn read_frame(from: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut kind = [0; 1];
    loop {
        match from.read(&mut kind) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_PAYLOAD {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "Frame length above the limit"));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok(Some((kind[0], payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_the_end_is_clean() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, RUN, b"xl list").unwrap();
        write_frame(&mut bytes, END, b"").unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(read_frame(&mut from).unwrap(), Some((RUN, b"xl list".to_vec())));
        assert_eq!(read_frame(&mut from).unwrap(), Some((END, Vec::new())));
        assert_eq!(read_frame(&mut from).unwrap(), None);
    }

    #[test]
    fn a_cut_frame_and_a_huge_length_are_errors() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, DATA, b"abcdef").unwrap();
        for cut in 1..bytes.len() {
            let error = read_frame(&mut &bytes[..cut]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
        let error = read_frame(&mut &b"D\xff\xff\xff\xff"[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(write_frame(&mut Vec::new(), DATA, &vec![0; MAX_PAYLOAD + 1]).is_err());
    }
}
