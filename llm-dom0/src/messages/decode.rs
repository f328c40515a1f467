//! One message by a table.

use std::fmt::Write as _;

use defmt_parser::Level;
use llm_core::service::MAX_MESSAGE;

use super::table::{Format, Kind, Piece, Show, Table};

/// A message as words.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Its level.
    pub level: Level,
    /// When it was made, by the clock of its domain; empty if the kernel does not tell.
    pub time: String,
    /// What it says. Arguments are free of control characters and of all that is not ASCII.
    pub text: String,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadMessage {
    /// It is longer than any may be.
    #[error("{0} bytes are longer than any message")]
    TooLong(usize),
    /// It ends within an argument.
    #[error("it ends too early")]
    Short,
    /// There is more behind its last argument.
    #[error("{0} bytes are left over")]
    Rest(usize),
    /// No statement has this place.
    #[error("there is no statement {0}")]
    Statement(u16),
    /// An argument has a value that its type does not have.
    #[error("an argument makes no sense")]
    Argument,
}

enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Bool(bool),
    Text(&'a str),
}

impl Table {
    /// Decodes one message.
    ///
    /// # Errors
    /// [`BadMessage`].
    pub fn decode(&self, message: &[u8]) -> Result<Message, BadMessage> {
        if message.len() > MAX_MESSAGE {
            return Err(BadMessage::TooLong(message.len()));
        }
        let (place, mut rest) = message.split_first_chunk().ok_or(BadMessage::Short)?;
        let place = u16::from_le_bytes(*place);
        let (level, format) = self.statements.get(&place).ok_or(BadMessage::Statement(place))?;
        let time = match &self.time {
            Some(time) => self.words(time, &mut rest)?,
            None => String::new(),
        };
        let text = self.words(format, &mut rest)?;
        if rest.is_empty() {
            Ok(Message { level: *level, time, text })
        } else {
            Err(BadMessage::Rest(rest.len()))
        }
    }

    /// Takes the arguments of `format` from the front of `rest`.
    fn words<'a>(&'a self, format: &Format, rest: &mut &'a [u8]) -> Result<String, BadMessage> {
        let values = format.arguments.iter().map(|kind| self.value(*kind, rest));
        let values: Vec<Value<'_>> = values.collect::<Result<_, _>>()?;
        let mut words = String::new();
        for piece in &format.pieces {
            match piece {
                Piece::Literal(text) => words.push_str(text),
                // Each number has its value: a table is made so.
                Piece::Argument(number, show) => {
                    if let Some(value) = values.get(*number) {
                        put(&mut words, value, *show);
                    }
                }
            }
        }
        Ok(words)
    }

    fn value<'a>(&'a self, kind: Kind, rest: &mut &'a [u8]) -> Result<Value<'a>, BadMessage> {
        Ok(match kind {
            Kind::Unsigned(len) => Value::Unsigned(number(rest, len)?),
            Kind::Signed(len) => {
                // What is above its sign is made equal to it.
                let above = 64 - 8 * u32::try_from(len).unwrap_or(8);
                Value::Signed((number(rest, len)? << above).cast_signed() >> above)
            }
            Kind::Bool => match number(rest, 1)? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return Err(BadMessage::Argument),
            },
            Kind::Text => {
                let len = usize::try_from(number(rest, 4)?).map_err(|_| BadMessage::Short)?;
                Value::Text(std::str::from_utf8(take(rest, len)?).map_err(|_| BadMessage::Argument)?)
            }
            Kind::Interned => {
                let place = u16::try_from(number(rest, 2)?).map_err(|_| BadMessage::Argument)?;
                Value::Text(self.interned.get(&place).ok_or(BadMessage::Argument)?)
            }
        })
    }
}

/// A number of up to eight bytes.
fn number(rest: &mut &[u8], len: usize) -> Result<u64, BadMessage> {
    let bytes = take(rest, len)?;
    Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], BadMessage> {
    let (taken, left) = rest.split_at_checked(len).ok_or(BadMessage::Short)?;
    *rest = left;
    Ok(taken)
}

fn put(words: &mut String, value: &Value<'_>, show: Show) {
    // Writing to a string does not fail.
    let _ = match (value, show) {
        (Value::Unsigned(number), Show::Plain) => write!(words, "{number}"),
        (Value::Unsigned(number), Show::Hex) => write!(words, "{number:#x}"),
        (Value::Unsigned(micros), Show::Seconds) => {
            write!(words, "{}.{:06}", micros / 1_000_000, micros % 1_000_000)
        }
        (Value::Signed(number), _) => write!(words, "{number}"),
        (Value::Bool(truth), _) => write!(words, "{truth}"),
        (Value::Text(text), _) => {
            for letter in text.chars() {
                // A new line, or what a terminal obeys, would pass for words of this process.
                if letter == ' ' || letter.is_ascii_graphic() {
                    words.push(letter);
                } else {
                    words.extend(letter.escape_default());
                }
            }
            Ok(())
        }
    };
}
