//! The upload sink of the lab's guest.
//!
//! A client sends `PUT BYTES\n` and so many bytes, as often as it likes on a connection. Each body is answered by its
//! receipt, a line `NUMBER BYTES XXH3`: how many bodies this connection has brought, the length of this one, and its
//! XXH3-64 in 16 hexadecimal digits. A server that went back to an earlier state repeats a number.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::str::FromStr;

use xxhash_rust::xxh3::Xxh3;

/// Port of the sink.
pub const PORT: u16 = 9;
/// The largest body.
pub const MAX_BODY: u64 = 1 << 30;
/// The longest line, its end included.
pub const MAX_LINE: usize = 64;

/// What the sink has to say about a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Bodies on this connection, this one included.
    pub number: u64,
    /// Bytes of this one.
    pub bytes: u64,
    /// XXH3-64 of them.
    pub xxh3: u64,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:016x}", self.number, self.bytes, self.xxh3)
    }
}

impl FromStr for Receipt {
    type Err = &'static str;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let bad = "a receipt is `NUMBER BYTES XXH3`";
        let [number, bytes, xxh3] = line.split(' ').collect::<Vec<_>>()[..] else { return Err(bad) };
        Ok(Self {
            number: number.parse().map_err(|_| bad)?,
            bytes: bytes.parse().map_err(|_| bad)?,
            xxh3: u64::from_str_radix(xxh3, 16).map_err(|_| bad)?,
        })
    }
}

/// Serves one connection until its client leaves.
///
/// # Errors
/// The connection fails, or the client speaks another protocol.
pub fn serve(connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(32 * 1024, connection);
    for number in 1.. {
        let mut line = Vec::new();
        let limit = MAX_LINE as u64;
        if reader.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let bytes = size(&line).ok_or_else(|| io::Error::other("not `PUT BYTES`"))?;
        let receipt = Receipt { number, bytes, xxh3: digest(&mut reader, bytes)? };
        reader.get_mut().write_all(format!("{receipt}\n").as_bytes())?;
    }
    Ok(())
}

fn size(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?;
    let bytes = text.strip_suffix('\n')?.strip_prefix("PUT ")?.parse().ok()?;
    (bytes <= MAX_BODY).then_some(bytes)
}

fn digest(reader: &mut BufReader<TcpStream>, bytes: u64) -> io::Result<u64> {
    let mut hasher = Xxh3::new();
    let mut left = bytes;
    while left > 0 {
        let data = reader.fill_buf()?;
        if data.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
        hasher.update(&data[..count]);
        reader.consume(count);
        left -= count as u64;
    }
    Ok(hasher.digest())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_read_back_and_others_do_not() {
        let receipt = Receipt { number: 3, bytes: 65_536, xxh3: 0x12ab };
        assert_eq!(receipt.to_string().parse(), Ok(receipt));
        assert!(receipt.to_string().len() < MAX_LINE);
        for bad in ["", "1 2", "1 2 3 4", "1 -2 3", "1 2 x"] {
            assert!(bad.parse::<Receipt>().is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_have_a_limit() {
        assert_eq!(size(b"PUT 0\n"), Some(0));
        for bad in [&b"PUT 1"[..], b"PUT -1\n", b"GET 1\n", b"PUT 1073741825\n", b"\xff\n"] {
            assert_eq!(size(bad), None, "{bad:?}");
        }
    }
}
