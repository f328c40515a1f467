//! Wall time, by divan, of the hot paths whose instructions `cargo lab bench counts` counts: `cargo bench -p llm-tests`.

use divan::Bencher;
use divan::counter::ItemsCount;
use llm_tests::bench::counts::cases::{CASES, Case};

fn main() {
    divan::main();
}

/// Those that this processor can do.
fn cases() -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(|case| case.make().is_some())
}

#[divan::bench(args = cases())]
fn hot_path(bencher: Bencher<'_, '_>, case: &Case) {
    if let Some(mut work) = case.make() {
        bencher.counter(ItemsCount::new(work.units)).bench_local(|| (work.pass)());
    }
}
