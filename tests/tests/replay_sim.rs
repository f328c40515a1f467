//! The replay with real TCP, seed after seed.

use llm_core::replay::Faults;
use llm_tests::replay_sim::{Options, Rule, Summary, run};

const SEEDS: u64 = 1000;

/// How many seeds (`LLM_SEEDS`).
fn seeds() -> u64 {
    std::env::var("LLM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS)
}

/// The one seed asked for (`LLM_SEED`), which is told in full.
fn one_seed() -> Option<u64> {
    std::env::var("LLM_SEED").ok().and_then(|seed| seed.parse().ok())
}

#[test]
fn the_guarantee_holds_with_real_tcp() {
    let options = Options::default();
    if let Some(seed) = one_seed() {
        let options = Options { trace: true, ..options };
        let sum = run(seed, &options).unwrap_or_else(|violation| panic!("{violation:?}"));
        println!("{sum:?}");
        return;
    }
    let mut sum = Summary::default();
    for seed in 0..seeds() {
        sum += run(seed, &options)
            .unwrap_or_else(|violation| panic!("{violation:?}; run again with LLM_SEED={seed}"));
    }
    println!("{sum:?}");
    if seeds() >= SEEDS {
        assert!(sum.requests > 30_000 && sum.commits > 5_000 && sum.dropped > 30_000, "{sum:?}");
        assert!(sum.take_overs > 400 && sum.carried > 800 && sum.compared > 1_000_000, "{sum:?}");
        assert!(sum.divergences > 20 && sum.resets > 5, "{sum:?}");
        assert!(sum.exempt < sum.take_overs / 4, "{sum:?}");
    }
}

/// The rules that are found broken with something switched off, seed by seed until one of `wanted` is.
fn bites(options: &Options, wanted: &[Rule]) -> u64 {
    let found = (0..SEEDS).find_map(|seed| run(seed, options).err());
    let violation = found.unwrap_or_else(|| panic!("no checker noticed {options:?}"));
    println!("seed {}: {:?}, {}", violation.seed, violation.rule, violation.text);
    assert!(wanted.contains(&violation.rule), "{violation:?}");
    violation.seed
}

fn without(faults: Faults) -> Options {
    Options { faults, ..Options::default() }
}

#[test]
fn checkers_notice_inputs_that_do_not_wait() {
    let options = without(Faults { no_pacing: true, ..Faults::default() });
    bites(&options, &[Rule::Diverged, Rule::NeedlessReset]);
}

#[test]
fn checkers_notice_numbers_that_are_not_translated() {
    let options = without(Faults { no_translation: true, ..Faults::default() });
    bites(&options, &[Rule::NeedlessReset, Rule::Contradiction]);
}

#[test]
fn checkers_notice_a_clock_that_is_not_shifted() {
    let options = without(Faults { no_shift: true, ..Faults::default() });
    bites(&options, &[Rule::ClockWentBack]);
}

#[test]
fn checkers_notice_output_that_does_not_wait() {
    bites(&Options { release_at_once: true, ..Options::default() }, &[Rule::LostInput]);
}

#[test]
fn checkers_notice_inputs_that_are_in_the_ring_only() {
    bites(&Options { drop_delivered: true, ..Options::default() }, &[Rule::LostEffect]);
}

#[test]
fn checkers_notice_output_without_a_lease() {
    bites(&Options { ignore_lease: true, ..Options::default() }, &[Rule::TwoActive]);
}

/// The host that took over dies, too, and the one after it.
#[test]
fn the_guarantee_holds_for_take_overs_in_a_row() {
    let options = Options { again: 2, trace: one_seed().is_some(), ..Options::default() };
    let seeds = one_seed().map_or_else(|| 0..seeds(), |seed| seed..seed + 1);
    let (few, mut sum) = (seeds.end - seeds.start < SEEDS, Summary::default());
    for seed in seeds {
        sum += run(seed, &options)
            .unwrap_or_else(|violation| panic!("{violation:?}; run again with LLM_SEED={seed}"));
    }
    println!("{sum:?}");
    assert!(few || sum.take_overs > 1000 && sum.carried > 1000, "{sum:?}");
}

#[test]
fn checkers_notice_a_translation_that_is_forgotten_when_protected_again() {
    let options = Options { again: 1, forget_carry: true, ..Options::default() };
    bites(&options, &[Rule::Contradiction, Rule::ClockWentBack, Rule::Liveness]);
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in 0..20 {
        let [first, second] = [(); 2].map(|()| run(seed, &Options::default()).expect("passes"));
        assert_eq!(first, second);
    }
}
