//! The widths of the page codec on an emulated processor with AVX-512: they must make the bytes that the portable one makes on this host.
//!
//! Skipped, with the reason, where Bochs is not installed; with `LLM_REQUIRE_LAB=1` that is a failure.

use llm_bare::compare::{Comparison, Summary};
use llm_bare::pairs;
use llm_core::page::Features;
use llm_dom0::checkpoint::width;
use llm_tests::bare::{Machine, Said};
use llm_tests::stubdom::Error;
use std::io::Write as _;
use std::time::Duration;

/// A run takes some thirty seconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(300);

/// With AVX-512 F, BW, VBMI and VBMI2.
const ICE_LAKE: &str = "corei7_icelake_u";
/// With AVX2 and nothing wider.
const HASWELL: &str = "corei7_haswell_4770";

/// `None` if Bochs is missing and may be.
fn run(name: &str, cpu: &str, option: u8) -> Option<Said> {
    let machine = match Machine::build() {
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
    Some(machine.run(name, cpu, option, LIMIT).unwrap_or_else(|error| panic!("{error}")))
}

/// All pairs with the widths that this host has.
fn on_this_host() -> Summary {
    let available = width::available();
    let width = |name| available.iter().copied().find(|features: &Features| features.name() == name);
    let widths = [Some(Features::PORTABLE), width("avx2"), width("avx512")];
    let mut comparison = Box::new(Comparison::new(widths, None));
    for number in 0..pairs::COUNT {
        comparison.pair(number).unwrap_or_else(|difference| panic!("{difference}"));
    }
    comparison.summary()
}

/// Of two densities: with an old page, the same with an update, without an old page.
fn check(said: &Said, here: &Summary) -> Result<(), String> {
    said.check(pairs::COUNT, 2 * 3 * pairs::COUNT, here.bytes, here.digest)
}

#[test]
fn all_widths_make_the_same_records_with_avx_512() {
    let Some(said) = run("all", ICE_LAKE, 0) else { return };
    println!("{}", said.text);
    let here = on_this_host();
    assert_eq!(here.pairs, pairs::COUNT);
    check(&said, &here).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_turned_bit_is_found_and_told() {
    let Some(said) = run("fault", ICE_LAKE, 3) else { return };
    let told = said.text.lines().find(|line| line.starts_with("different: "));
    let start = "different: pair 3 (masks), Fast, with an old page, avx512: byte ";
    assert!(told.is_some_and(|line| line.starts_with(start)), "{}", said.text);
}

#[test]
fn a_processor_without_avx_512_is_no_proof() {
    let Some(said) = run("narrow", HASWELL, 3) else { return };
    let start = "different: pair 3 (masks), Fast, with an old page, avx2: byte ";
    assert!(said.text.contains(start), "{}", said.text);
    let here = Summary { pairs: 0, records: 0, bytes: 0, digest: 0 };
    let error = check(&said, &here).unwrap_err();
    assert!(error.starts_with("The processor has no AVX-512"), "{error}");
}

#[test]
fn every_mask_of_a_word_is_there_in_every_place() {
    let mut seen = vec![0_u8; 1 << 16];
    let mut pair = Box::new(pairs::Pair::ZERO);
    for number in 0..pairs::COUNT {
        if pair.make(number).to_string() != "masks" {
            break;
        }
        let bits = |f: &dyn Fn(usize) -> bool| (0..8).fold(0, |bits, i| bits | usize::from(f(i)) << i);
        for at in 0..512 {
            let (old, new) = (&pair.old[8 * at..], &pair.new[8 * at..]);
            let (changed, set) = (bits(&|i| old[i] != new[i]), bits(&|i| new[i] != 0));
            seen[changed | set << 8] |= 1 << (at % 8);
        }
    }
    assert_eq!(seen.iter().position(|places| *places != 0xff), None);
}
