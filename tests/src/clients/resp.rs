//! RESP2, the Redis protocol, as far as a client needs it: commands out, replies in.

use std::io::Write as _;

/// The largest string accepted.
pub const MAX_BULK: usize = 1 << 20;
/// The most elements accepted in an array.
pub const MAX_ARRAY: usize = 4096;
/// The longest line accepted.
const MAX_LINE: usize = 4096;

/// A reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK` and the like.
    Simple(String),
    /// `-ERR ...`: the command was not executed.
    Error(String),
    /// `:42`.
    Integer(i64),
    /// A string, or nil.
    Bulk(Option<Vec<u8>>),
    /// Flat array of replies (nested ones are refused: no command used here yields them).
    Array(Vec<Self>),
}

/// Bytes that are no RESP reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {offset} of a reply")]
pub struct RespError {
    /// Where, from the start of the reply.
    pub offset: usize,
    /// What is wrong.
    pub reason: &'static str,
}

/// Appends a command with its arguments to `out`.
pub fn command(out: &mut Vec<u8>, args: &[&[u8]]) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "*{}\r\n", args.len());
    for arg in args {
        let _ = write!(out, "${}\r\n", arg.len());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// Parses one reply from the start of `data`: the reply and its length, or `None` if more bytes are needed.
///
/// # Errors
/// [`RespError`] if `data` cannot be the beginning of a reply, or one beyond the limits.
pub fn parse(data: &[u8]) -> Result<Option<(Reply, usize)>, RespError> {
    let mut cursor = Cursor { data, at: 0 };
    Ok(cursor.reply(true)?.map(|reply| (reply, cursor.at)))
}

struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn reply(&mut self, outer: bool) -> Result<Option<Reply>, RespError> {
        let offset = self.at;
        let Some(line) = self.line()? else { return Ok(None) };
        let Some((&kind, rest)) = line.split_first() else {
            return Err(RespError { offset, reason: "empty line" });
        };
        let text = || String::from_utf8_lossy(rest).into_owned();
        let number = || {
            let digits = std::str::from_utf8(rest).ok();
            digits.and_then(|d| d.parse::<i64>().ok()).ok_or(RespError { offset, reason: "bad number" })
        };
        match kind {
            b'+' => Ok(Some(Reply::Simple(text()))),
            b'-' => Ok(Some(Reply::Error(text()))),
            b':' => Ok(Some(Reply::Integer(number()?))),
            b'$' => match number()? {
                -1 => Ok(Some(Reply::Bulk(None))),
                n => {
                    let n = bounded(n, MAX_BULK, offset)?;
                    Ok(self.bulk(n)?.map(|b| Reply::Bulk(Some(b.to_vec()))))
                }
            },
            b'*' if outer => {
                let n = bounded(number()?, MAX_ARRAY, offset)?;
                let mut items = Vec::with_capacity(n);
                for _ in 0..n {
                    let Some(item) = self.reply(false)? else { return Ok(None) };
                    items.push(item);
                }
                Ok(Some(Reply::Array(items)))
            }
            _ => Err(RespError { offset, reason: "unknown type" }),
        }
    }

    fn line(&mut self) -> Result<Option<&'a [u8]>, RespError> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let Some(end) = rest.windows(2).take(MAX_LINE).position(|w| w == b"\r\n") else {
            let too_long = rest.len() > MAX_LINE;
            return if too_long {
                Err(RespError { offset: self.at, reason: "line too long" })
            } else {
                Ok(None)
            };
        };
        self.at += end + 2;
        Ok(rest.get(..end))
    }

    fn bulk(&mut self, n: usize) -> Result<Option<&'a [u8]>, RespError> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let Some(body) = rest.get(..n + 2) else { return Ok(None) };
        let Some(bytes) = body.strip_suffix(b"\r\n") else {
            return Err(RespError { offset: self.at + n, reason: "string without its end" });
        };
        self.at += n + 2;
        Ok(Some(bytes))
    }
}

fn bounded(n: i64, max: usize, offset: usize) -> Result<usize, RespError> {
    let n = usize::try_from(n).map_err(|_| RespError { offset, reason: "negative length" })?;
    if n > max { Err(RespError { offset, reason: "length beyond the limit" }) } else { Ok(n) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIRE: &[u8] = b"+OK\r\n-ERR no\r\n:-7\r\n$-1\r\n$5\r\na\r\nbc\r\n*2\r\n$0\r\n\r\n:1\r\n";

    fn all(mut data: &[u8]) -> Result<Vec<Reply>, RespError> {
        let mut replies = Vec::new();
        while let Some((reply, n)) = parse(data)? {
            replies.push(reply);
            data = &data[n..];
        }
        assert!(data.is_empty() || parse(data)?.is_none());
        Ok(replies)
    }

    #[test]
    fn every_type_is_read() {
        let expected = [
            Reply::Simple("OK".into()),
            Reply::Error("ERR no".into()),
            Reply::Integer(-7),
            Reply::Bulk(None),
            Reply::Bulk(Some(b"a\r\nbc".to_vec())),
            Reply::Array(vec![Reply::Bulk(Some(Vec::new())), Reply::Integer(1)]),
        ];
        assert_eq!(all(WIRE).unwrap(), expected);
    }

    #[test]
    fn a_prefix_is_never_an_error_nor_a_whole_reply_too_many() {
        let whole = all(WIRE).unwrap();
        for cut in 0..WIRE.len() {
            let part = all(&WIRE[..cut]).unwrap();
            assert!(part.len() < whole.len(), "cut at {cut}");
            assert_eq!(part, whole[..part.len()], "cut at {cut}");
        }
    }

    #[test]
    fn bad_bytes_are_refused_with_their_place() {
        let cases: [(&[u8], &str); 7] = [
            (b"\r\n", "empty line"),
            (b"!x\r\n", "unknown type"),
            (b":1x\r\n", "bad number"),
            (b"$-2\r\n", "negative length"),
            (b"$9999999\r\n", "length beyond the limit"),
            (b"$1\r\nabc", "string without its end"),
            (b"*1\r\n*0\r\n", "unknown type"),
        ];
        for (bytes, reason) in cases {
            assert_eq!(parse(bytes).unwrap_err().reason, reason, "{bytes:?}");
        }
        assert_eq!(parse(&vec![b'+'; MAX_LINE + 2]).unwrap_err().reason, "line too long");
    }

    #[test]
    fn commands_are_arrays_of_strings() {
        let mut out = Vec::new();
        command(&mut out, &[b"SET", b"k", b"a b"]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\na b\r\n");
    }
}
