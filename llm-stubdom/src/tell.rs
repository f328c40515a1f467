//! What happens, told on the console and in messages for the driver's log.
//!
//! Messages have numbers and texts only: the driver decodes no other types, since whoever sends them is not trusted.

use core::fmt::{self, Write};
use heapless::String;
use llm_stubdom::messages::{self, Backlog};
use llm_stubdom::println;
use llm_stubdom::server::Event;

/// The kernel runs, on `hypervisor`, with `pages` of memory.
pub(crate) fn started(hypervisor: &str, pages: usize) {
    let version = env!("CARGO_PKG_VERSION");
    println!("llm-stubdom {version} on {hypervisor}, {pages} pages of memory");
    defmt::info!(
        "started: version {=str} on {=str}, {=u64} pages of memory",
        version,
        hypervisor,
        pages as u64
    );
}

/// What becomes of the memory.
pub(crate) fn room(pages: usize, copies: usize) {
    let other = pages - copies;
    println!("llm-stubdom: room for copies of {copies} pages, {other} pages used otherwise");
    defmt::info!("room for copies of {=u64} pages, {=u64} pages used otherwise", copies as u64, other as u64);
}

/// Something has happened in the server.
pub(crate) fn event(event: Event) {
    match event {
        Event::Offered => {
            println!("llm-stubdom: rings are offered");
            defmt::info!("rings are offered");
        }
        Event::Connected => {
            println!("llm-stubdom: a driver is connected");
            defmt::info!("a driver is connected");
        }
        Event::Begun { copies } => {
            println!("llm-stubdom: a session has begun, with copies of {copies} pages");
            defmt::info!("a session has begun, with copies of {=u32} pages", copies);
        }
        Event::Parted { why, counts } => {
            println!(
                "llm-stubdom: parted after {} pages, {} log records, {} frames of {} bytes",
                counts.pages, counts.records, counts.frames, counts.bytes
            );
            defmt::info!(
                "parted after {=u64} pages, {=u64} log records, {=u64} frames of {=u64} bytes",
                counts.pages,
                counts.records,
                counts.frames,
                counts.bytes
            );
            if let Some(why) = why {
                println!("llm-stubdom: {why}");
                defmt::warn!("the session has failed: {=str}", text(&why));
            }
        }
        Event::Lost(messages) => {
            println!("llm-stubdom: {messages} messages of the log were lost");
            defmt::warn!("{=u32} messages of this log were lost", messages);
        }
        // No driver will read a message after this.
        Event::Shutdown => println!("llm-stubdom: asked to end"),
    }
}

/// Messages that no driver will read, to the console, for who has the table of this kernel.
pub(crate) fn messages() {
    while let Some(message) = messages::with(Backlog::take) {
        println!("llm-stubdom: message {}", Hex(&message));
    }
}

/// The beginning of what `value` says.
fn text(value: &impl fmt::Display) -> String<160> {
    let mut text = String::new();
    // What does not fit is left out.
    let _ = write!(text, "{value}");
    text
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
