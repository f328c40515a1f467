//! Primary and backup on virtual time, seed after seed.

use llm_tests::sim::{Options, Rule, Summary, run};

const SEEDS: u64 = 1000;

/// One seed (`LLM_SEED`), told in full, or all of them.
fn sweep(options: &Options) -> Summary {
    let mut sum = Summary::default();
    if let Some(seed) = std::env::var("LLM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        let options = Options { trace: true, ..options.clone() };
        sum += run(seed, &options).unwrap_or_else(|violation| panic!("{violation:?}"));
        return sum;
    }
    for seed in 0..SEEDS {
        sum += run(seed, options)
            .unwrap_or_else(|violation| panic!("{violation:?}; run again with LLM_SEED={seed}"));
    }
    sum
}

fn one_seed_only() -> bool {
    std::env::var_os("LLM_SEED").is_some()
}

#[test]
fn nothing_leaves_uncommitted_and_one_side_runs() {
    let sum = sweep(&Options::default());
    println!("{sum:?}");
    if !one_seed_only() {
        assert!(sum.commits > 10_000 && sum.released > 100_000, "{sum:?}");
        assert!(sum.take_overs > 100 && sum.stops > 50, "{sum:?}");
        assert!(sum.resumes > 100 && sum.new_sessions > 20 && sum.lease_gaps > 50, "{sum:?}");
        assert!(sum.agreed_releases > 10 && sum.stale > 100, "{sum:?}");
    }
}

#[test]
fn policy_to_go_on_is_safe_while_the_network_holds() {
    let sum = sweep(&Options { go_on: true, ..Options::default() });
    println!("{sum:?}");
    assert!(one_seed_only() || sum.unprotected > 100, "{sum:?}");
    assert_eq!(sum.take_overs, 0, "broken connections alone are no reason");
}

/// How many seeds pass before a checker notices what is wrong with a driver, and what it says.
fn first_bite(options: &Options) -> (u64, Rule) {
    (0..SEEDS).find_map(|seed| run(seed, options).err()).map_or_else(
        || panic!("no checker noticed {options:?}"),
        |violation| (violation.seed, violation.rule),
    )
}

#[test]
fn checkers_notice_output_before_its_commit() {
    let (_, rule) = first_bite(&Options { ignore_commit: true, ..Options::default() });
    assert_eq!(rule, Rule::OutputWithoutCommit);
}

#[test]
fn checkers_notice_output_without_a_lease() {
    let (_, rule) = first_bite(&Options { ignore_lease: true, ..Options::default() });
    assert_eq!(rule, Rule::OutputAfterTakeOver);
}

#[test]
fn checkers_notice_clocks_beyond_the_margin() {
    let (_, rule) = first_bite(&Options { fast_clock: true, ..Options::default() });
    assert_eq!(rule, Rule::OutputAfterTakeOver);
}

#[test]
fn checkers_notice_a_damaged_epoch() {
    let (_, rule) = first_bite(&Options { ignore_digest: true, ..Options::default() });
    assert_eq!(rule, Rule::WholeEpochs);
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in 0..20 {
        let [first, second] = [(); 2].map(|()| run(seed, &Options::default()).expect("passes"));
        assert_eq!(first, second);
    }
}
