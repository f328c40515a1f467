//! The unikernel on real Xen: it must show llm-core at work, and every guard in it
//! must hold when its fault is provoked.
//!
//! Skipped, with the reason, where QEMU or Xen is not installed; with
//! `LLM_REQUIRE_LAB=1` that is a failure.

use llm_dom0::messages::Table;
use llm_tests::stubdom::{self, Boot, End, Error, Machine, Profile};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// A boot takes some two seconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);

/// The shipped kernel, without its debug information, is at most this long in bytes.
const SIZE_MAX: u64 = 256 * 1024;

/// Beside the copies of pages it uses at most so many pages of 64 MiB: 4 MiB.
const OTHER_PAGES_MAX: u64 = 1024;

/// `None` if the machine for it is missing and may be.
fn boot(profile: Profile, options: &str) -> Option<Boot> {
    let machine = match Machine::find() {
        Ok(machine) => machine,
        Err(error @ Error::Missing { .. })
            if std::env::var_os("LLM_REQUIRE_LAB").is_none_or(|v| v != "1") =>
        {
            // Past the test harness, which shows what a passed test printed to nobody.
            let _ = writeln!(std::io::stderr(), "skipped: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let kernel = stubdom::build(profile).unwrap_or_else(|error| panic!("{error}"));
    Some(machine.boot(&kernel, options, LIMIT).unwrap_or_else(|error| panic!("{error}")))
}

fn assert_console(boot: &Boot, end: End, wanted: &[&str]) {
    assert_eq!(boot.end, end, "console:\n{}", boot.console);
    for text in wanted {
        assert!(boot.console.contains(text), "no `{text}` on the console:\n{}", boot.console);
    }
}

fn boots(profile: Profile) {
    let Some(boot) = boot(profile, "") else { return };
    let hello =
        concat!("llm-stubdom ", env!("CARGO_PKG_VERSION"), " on xen-3.0-x86_64, 16384 pages of memory");
    assert_console(&boot, End::PoweredOff, &[hello, "llm-stubdom: done, powering off"]);
    let page = boot.console.lines().find(|line| line.starts_with("llm-core: page 4096 bytes -> diff "));
    let whole = |line: &str| line.contains(" -> frame ") && line.ends_with(" equal");
    assert!(page.is_some_and(whole), "console:\n{}", boot.console);
    // It is its own peer here: memory, time, an event channel, grants, and the service over both rings.
    let loopback = " pages hold what is written, 10 ms of sleep took ";
    assert_console(
        &boot,
        End::PoweredOff,
        &[loopback, "event and grant came through, 32 pages twice became 3 frames of "],
    );
    let room = boot.console.lines().find_map(|line| line.strip_prefix("llm-stubdom: room for copies of "));
    let numbers: Vec<u64> =
        room.unwrap_or_default().split(' ').filter_map(|word| word.parse().ok()).collect();
    let [copies, other] = numbers[..] else { panic!("no room is told:\n{}", boot.console) };
    assert_eq!(copies + other, 16384);
    assert!(other <= OTHER_PAGES_MAX, "{other} pages are used beside copies");
    let told = messages(&stubdom::build(profile).expect("it was built just now"), &boot.console);
    let version = env!("CARGO_PKG_VERSION");
    let wanted = [
        format!("info started: version {version} on xen-3.0-x86_64, 16384 pages of memory"),
        format!("info room for copies of {copies} pages, {other} pages used otherwise"),
    ];
    assert_eq!(told, wanted, "console:\n{}", boot.console);
}

/// What a driver's log would say: a kernel without a driver shows its messages as they would go out. They must be decoded
/// by the kernel's own file, and their times must be some of this boot.
fn messages(kernel: &Path, console: &str) -> Vec<String> {
    let table = Table::read(kernel).expect("the kernel has a table");
    let lines = console.lines().filter_map(|line| line.strip_prefix("llm-stubdom: message "));
    let mut last = 0.0;
    let words = lines.map(|hex| {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
        let message: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        let message = table.decode(&message).expect("a good message");
        let time: f64 = message.time.parse().expect("seconds");
        assert!(last < time && time < LIMIT.as_secs_f64(), "{message:?}");
        last = time;
        format!("{} {}", message.level.as_str(), message.text)
    });
    words.collect()
}

#[test]
fn debug_kernel_boots_and_powers_off() {
    boots(Profile::Debug);
}

#[test]
fn release_kernel_boots_and_powers_off() {
    boots(Profile::Release);
}

#[test]
fn a_wrong_digest_fails_the_self_test() {
    let Some(boot) = boot(Profile::Release, "fault=digest") else { return };
    assert_console(&boot, End::Crashed, &["llm-stubdom: panicked", "Self-test failed"]);
}

#[test]
fn a_panic_says_why_and_crashes_the_domain() {
    let Some(boot) = boot(Profile::Release, "fault=panic") else { return };
    assert_console(&boot, End::Crashed, &["llm-stubdom: panicked at ", "as asked by fault=panic"]);
}

#[test]
fn a_null_pointer_crashes_the_domain() {
    let Some(boot) = boot(Profile::Release, "fault=null") else { return };
    assert_console(&boot, End::Crashed, &["Pagetable walk from 0000000000000000:"]);
}

#[test]
fn a_stack_overflow_crashes_the_domain() {
    let Some(boot) = boot(Profile::Release, "fault=stack") else { return };
    assert_console(&boot, End::Crashed, &["Unhandled: vec 14, #PF"]);
}

#[test]
fn an_unknown_fault_is_refused() {
    let Some(boot) = boot(Profile::Release, "fault=other") else { return };
    assert_console(&boot, End::Crashed, &["Kernel option fault=other is unknown"]);
}

#[test]
fn what_xen_loads_is_small() {
    let kernel = stubdom::build(Profile::Release).unwrap_or_else(|error| panic!("{error}"));
    let elf = std::fs::read(&kernel).expect("the kernel was built just now");
    let loaded = loaded_bytes(&elf);
    assert!((1..=SIZE_MAX).contains(&loaded), "{loaded} bytes are loaded from the file");
}

/// Bytes of the file that its `PT_LOAD` segments hold: what is left after `strip`.
fn loaded_bytes(elf: &[u8]) -> u64 {
    const PT_LOAD: u64 = 1;
    let number = |at: usize, bytes: usize| {
        elf[at..at + bytes].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
    };
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01", "a 64-bit little-endian ELF file");
    let (table, entry, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    let headers = (0..count).map(|i| usize::try_from(table + i * entry).expect("inside the file"));
    headers.filter(|at| number(*at, 4) == PT_LOAD).map(|at| number(at + 0x20, 8)).sum()
}
