//! Text to the hypervisor's console, one hypercall a line.

use crate::arch::hypercall::{self, Refused};
use core::fmt;
use embedded_io::{ErrorKind, ErrorType, Write};
use heapless::Vec;
use spin::RelaxStrategy;
use spin::mutex::SpinMutex;

/// The longest piece that goes out at once, in bytes; a longer line goes out in pieces.
pub const LINE_BYTES: usize = 128;

/// Where a finished piece of text goes.
pub trait Sink {
    /// Takes the whole of `text`.
    ///
    /// # Errors
    /// [`Refused`] if it could not; `text` is lost then.
    fn put(&mut self, text: &[u8]) -> Result<(), Refused>;
}

/// The hypervisor's console.
#[derive(Debug)]
pub struct Xen;

impl Sink for Xen {
    fn put(&mut self, text: &[u8]) -> Result<(), Refused> {
        hypercall::console_write(text)
    }
}

/// Gathers text into lines before it reaches `S`.
#[derive(Debug)]
pub struct Console<S> {
    line: Vec<u8, LINE_BYTES>,
    sink: S,
}

impl<S: Sink> Console<S> {
    /// A console with an empty line.
    pub const fn new(sink: S) -> Self {
        Self { line: Vec::new(), sink }
    }

    fn send(&mut self) -> Result<(), Refused> {
        if self.line.is_empty() {
            return Ok(());
        }
        let sent = self.sink.put(&self.line);
        self.line.clear();
        sent
    }
}

impl embedded_io::Error for Refused {
    fn kind(&self) -> ErrorKind {
        ErrorKind::PermissionDenied
    }
}

impl<S> ErrorType for Console<S> {
    type Error = Refused;
}

impl<S: Sink> Write for Console<S> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        let room = LINE_BYTES - self.line.len();
        let line = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |newline| newline + 1);
        let (taken, _) = bytes.split_at(line.min(room));
        self.line.extend(taken.iter().copied());
        if self.line.is_full() || taken.ends_with(b"\n") {
            self.send()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> Result<(), Refused> {
        self.send()
    }
}

/// Waits for a lock by letting other domains run.
#[derive(Debug)]
pub struct YieldToXen;

impl RelaxStrategy for YieldToXen {
    fn relax() {
        hypercall::yield_now();
    }
}

static CONSOLE: SpinMutex<Console<Xen>, YieldToXen> = SpinMutex::new(Console::new(Xen));

/// Prints a line to the console; text that Xen refuses is lost.
pub fn print_line(text: fmt::Arguments<'_>) {
    // There is nowhere left to report a console that refuses.
    let _ = CONSOLE.lock().write_fmt(format_args!("{text}\n"));
}

/// Prints without the console's lock and line, which a panic may have left in any state.
pub fn print_in_panic(text: fmt::Arguments<'_>) {
    let mut console = Console::new(Xen);
    let _ = console.write_fmt(text);
    let _ = console.flush();
}

/// Prints a line to the hypervisor's console.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => {
        $crate::console::print_line(format_args!($($arg)*))
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[derive(Default)]
    struct Pieces(vec::Vec<vec::Vec<u8>>);

    impl Sink for &mut Pieces {
        fn put(&mut self, text: &[u8]) -> Result<(), Refused> {
            self.0.push(text.to_vec());
            Ok(())
        }
    }

    struct Closed;

    impl Sink for Closed {
        fn put(&mut self, _: &[u8]) -> Result<(), Refused> {
            Err(Refused(1))
        }
    }

    #[test]
    fn a_line_goes_out_at_once_and_a_rest_on_flush() {
        let mut pieces = Pieces::default();
        let mut console = Console::new(&mut pieces);
        console.write_all(b"one ").unwrap();
        console.write_fmt(format_args!("{}\ntwo\nrest", 1)).unwrap();
        console.flush().unwrap();
        console.flush().unwrap();
        assert_eq!(pieces.0, [b"one 1\n".as_slice(), b"two\n", b"rest"]);
    }

    #[test]
    fn a_long_line_goes_out_in_pieces() {
        let mut pieces = Pieces::default();
        let text = [b'x'; 2 * LINE_BYTES + 1];
        let mut console = Console::new(&mut pieces);
        console.write_all(&text).unwrap();
        console.write_all(b"\n").unwrap();
        let lengths: vec::Vec<usize> = pieces.0.iter().map(vec::Vec::len).collect();
        assert_eq!(lengths, [LINE_BYTES, LINE_BYTES, 2]);
    }

    #[test]
    fn a_refusal_is_reported_and_does_not_block_later_text() {
        let mut console = Console::new(Closed);
        assert_eq!(console.write_all(b"a\n"), Err(Refused(1)));
        assert_eq!(console.write(b"b"), Ok(1));
        assert_eq!(console.flush(), Err(Refused(1)));
        assert_eq!(console.flush(), Ok(()));
    }
}
