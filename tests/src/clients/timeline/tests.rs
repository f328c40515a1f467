use super::*;

const MS: u64 = 1_000_000;

fn marks() -> Marks {
    Marks {
        started_ns: 0,
        protecting_ns: Some(1000 * MS),
        protected_ns: Some(2000 * MS),
        failed_ns: Some(3000 * MS),
        ended_ns: 6000 * MS,
    }
}

fn at(ms: u64, latency_ms: u64, connection: u16) -> Sample {
    Sample { t_ns: ms * MS, latency_ns: latency_ms * MS, ok: true, kind: ClientKind::Redis, connection }
}

#[test]
fn percentiles_are_exact_ranks() {
    let hundred: Vec<u64> = (1..=100).collect();
    let p = Percentiles::of(&hundred).unwrap();
    assert_eq!((p.n, p.p50_ns, p.p99_ns, p.max_ns), (100, 50, 99, 100));
    assert_eq!(Percentiles::of(&[7]).unwrap().p99_ns, 7);
    assert_eq!(quantile(&[1, 2, 3], 0.0), Some(1));
    assert_eq!(quantile(&[1, 2, 3], 0.34), Some(2));
    assert_eq!(Percentiles::of(&[]), None);
}

#[test]
fn a_reply_counts_where_it_came() {
    let samples =
        [at(500, 1, 0), at(1500, 2, 0), at(2500, 3, 0), at(2990, 4, 0), at(4000, 1005, 0), at(4500, 6, 0)];
    let timeline = Timeline::new(marks(), samples);
    assert_eq!(timeline.recovered_ns(), Some(4000 * MS));
    let of = |phase| timeline.latencies(phase, None).iter().map(|ns| ns / MS).collect::<Vec<_>>();
    assert_eq!(of(Phase::Unprotected), [1]);
    assert_eq!(of(Phase::Protecting), [2]);
    assert_eq!(of(Phase::Protected), [3, 4]);
    assert_eq!(of(Phase::Failure), [1005]);
    assert_eq!(of(Phase::After), [6]);
    assert!(timeline.latencies(Phase::After, Some(ClientKind::Http)).is_empty());
    let spans: u64 = timeline.phases().iter().map(|(_, from, to)| to - from).sum();
    assert_eq!(spans, 6000 * MS, "phases cover the run without overlap");
}

#[test]
fn downtime_spans_the_fault_and_forgives_replies_in_flight() {
    // Connection 0 gets a reply 100 ms after the kill that was under way already.
    let zero = [at(2900, 1, 0), at(3100, 1, 0), at(4600, 1, 0), at(4610, 1, 0)];
    let one = [at(2950, 1, 1), at(4200, 1, 1), at(5900, 1, 1)];
    let timeline = Timeline::new(marks(), zero.into_iter().chain(one));
    let gaps = timeline.gaps();
    assert_eq!(gaps[0].length_ns(), Some(1500 * MS));
    assert_eq!(gaps[1].length_ns(), Some(1250 * MS), "the later pause is no part of the outage");
    assert_eq!(timeline.downtime_ns(), Some(1500 * MS));
}

#[test]
fn a_connection_that_never_comes_back_has_no_downtime() {
    let back = [at(2900, 1, 0), at(4000, 1, 0)];
    let gone = [at(2900, 1, 1), at(3050, 1, 1)];
    let timeline = Timeline::new(marks(), back.into_iter().chain(gone));
    assert_eq!(timeline.gaps()[1].to_ns, None);
    assert_eq!(timeline.downtime_ns(), None);
    assert_eq!(timeline.recovered_ns(), Some(4000 * MS));
    let unfailed = Timeline::new(Marks { failed_ns: None, ..marks() }, back);
    assert!(unfailed.gaps().is_empty());
    assert_eq!(unfailed.downtime_ns(), None);
}

#[test]
fn a_refusal_is_no_reply() {
    let refused = Sample { ok: false, ..at(3500, 1, 0) };
    let timeline = Timeline::new(marks(), [at(2900, 1, 0), refused, at(4000, 1, 0)]);
    assert_eq!(timeline.downtime_ns(), Some(1100 * MS));
}

#[test]
fn buckets_hold_every_reply_of_the_run_once() {
    let samples = (0..600).map(|i| at(i * 10, i % 7 + 1, 0));
    let timeline = Timeline::new(marks(), samples.chain([at(6100, 1, 0)]));
    let buckets = timeline.buckets(ClientKind::Redis, 100 * MS);
    assert_eq!(buckets.len(), 60);
    assert!(buckets.iter().all(|b| b.replies == 10));
    assert_eq!(buckets[0], Bucket { replies: 10, p50_ns: Some(3 * MS), max_ns: Some(7 * MS) });
    assert_eq!(timeline.buckets(ClientKind::Http, 100 * MS)[5], Bucket::default());
}
