//! Where the log statements of this kernel go: to the backlog of messages, with the time.

use llm_stubdom::messages::{self, Backlog};
use llm_stubdom::wait;

#[defmt::global_logger]
struct Logger;

// SAFETY:
// - One virtual CPU and no interrupts: no statement begins before another one has ended, except in a panic within
//   one, and that one logs nothing.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        messages::with(Backlog::begin);
    }

    unsafe fn flush() {}

    unsafe fn release() {
        messages::with(Backlog::end);
    }

    unsafe fn write(bytes: &[u8]) {
        messages::with(|backlog| backlog.write(bytes));
    }
}

// Since Xen booted.
defmt::timestamp!("{=u64:us}", wait::now() / 1000);
