//! Text to a console, a line at a time.
//!
//! A domain that a toolstack has made has a console of its own, a ring that Dom0 reads. The first domain of a host
//! has the hypervisor's; that of others is shown only by a hypervisor with verbose debugging.

use crate::abi::console_ring;
use crate::arch::event::{self, Port};
use crate::arch::hypercall::{self, Refused};
use crate::arch::page::SharedPage;
use crate::shared::{ByteRing, Shared};
use crate::wait::{self, MS};
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

/// The console that there is: the domain's own, once [`init`] was called, and the hypervisor's until then.
#[derive(Debug)]
pub struct Output {
    tty: Option<Tty<SharedPage>>,
}

impl Sink for Output {
    fn put(&mut self, text: &[u8]) -> Result<(), Refused> {
        match &mut self.tty {
            Some(tty) => tty.put(text),
            None => hypercall::console_write(text),
        }
    }
}

/// The hypervisor's console.
#[derive(Debug)]
pub struct Xen;

impl Sink for Xen {
    fn put(&mut self, text: &[u8]) -> Result<(), Refused> {
        hypercall::console_write(text)
    }
}

/// Nanoseconds that text waits for room in the domain's console. Then it is dropped: no console may stop the kernel.
const PATIENCE: u64 = 100 * MS;
/// Nanoseconds that the console's reader has to take the last text when the domain ends.
const DRAIN: u64 = 1000 * MS;

/// The domain's own console: a ring that Dom0 reads.
#[derive(Debug)]
pub struct Tty<S> {
    page: S,
    port: Port,
    ring: ByteRing,
}

impl<S: Shared> Tty<S> {
    /// The console in `page`, whose reader is notified over `port`.
    pub fn new(page: S, port: Port) -> Self {
        let ring = ByteRing::new(&page, console_ring::OUT, console_ring::OUT_PROD, console_ring::OUT_CONS);
        Self { page, port, ring }
    }

    /// Waits until the reader has taken everything, for a second at most.
    fn drain(&mut self) {
        let deadline = wait::now() + DRAIN;
        while !self.ring.is_drained(&self.page) && wait::now() < deadline {
            // If waiting is refused, the deadline ends this as well.
            let _ = wait::wait(&[self.port], deadline);
        }
    }
}

impl<S: Shared> Sink for Tty<S> {
    fn put(&mut self, mut text: &[u8]) -> Result<(), Refused> {
        let mut deadline = None;
        loop {
            let count = self.ring.write(&self.page, text).map_err(|_| Refused(NO_CONSOLE))?;
            if count > 0 {
                event::send(self.port)?;
            }
            text = text.split_at(count).1;
            if text.is_empty() {
                return Ok(());
            }
            let deadline = *deadline.get_or_insert_with(|| wait::now() + PATIENCE);
            if wait::now() >= deadline {
                return Err(Refused(NO_CONSOLE));
            }
            wait::wait(&[self.port], deadline)?;
        }
    }
}

/// `XEN_EBUSY`: the console's reader does not read, or is broken.
const NO_CONSOLE: i64 = 16;

impl<S: Sink> Sink for &mut S {
    fn put(&mut self, text: &[u8]) -> Result<(), Refused> {
        (**self).put(text)
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

static CONSOLE: SpinMutex<Console<Output>, YieldToXen> = SpinMutex::new(Console::new(Output { tty: None }));

/// From here on text goes to the domain's own console.
pub fn init(page: SharedPage, port: Port) {
    CONSOLE.lock().sink.tty = Some(Tty::new(page, port));
}

/// Prints a line to the console; text that cannot go out is lost.
pub fn print_line(text: fmt::Arguments<'_>) {
    // There is nowhere left to report a console that refuses.
    let _ = CONSOLE.lock().write_fmt(format_args!("{text}\n"));
}

/// Writes bytes that are not lines, such as frames of a log, to the console.
pub fn write_raw(bytes: &[u8]) {
    let mut console = CONSOLE.lock();
    let _ = console.send().and_then(|()| console.sink.put(bytes));
}

/// Prints to both consoles, past the line that a panic may have left unfinished. Does not wait for the lock: if it
/// is held, the panic happened under it, and the domain's own console is left out.
pub fn print_in_panic(text: fmt::Arguments<'_>) {
    let mut console = Console::new(Xen);
    let _ = console.write_fmt(text);
    let _ = console.flush();
    if let Some(mut held) = CONSOLE.try_lock()
        && let Some(tty) = held.sink.tty.as_mut()
    {
        let mut console = Console::new(tty);
        let _ = console.write_fmt(text);
        let _ = console.flush();
    }
}

/// Waits until the console's reader has taken all text, for a second at most. To be called before the domain ends.
pub fn drain() {
    if let Some(mut console) = CONSOLE.try_lock()
        && let Some(tty) = console.sink.tty.as_mut()
    {
        tty.drain();
    }
}

/// Prints a line to the console.
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

    impl Sink for Pieces {
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
