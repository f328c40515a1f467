//! The report: its JSON keys, its honesty about what is missing, and a page that needs nothing else.

use std::collections::{BTreeMap, BTreeSet};

use llm_tests::{
    clients::{Broken, Cause, ClientKind, Marks, Outcome, Pauses, Sample},
    report::{
        Bench, ClientLatency, Fact, Fidelity, Quantiles, ReplayTimes, Report, Run, Summary, Verdict, table,
    },
};
use serde_json::Value;

const MS: u64 = 1_000_000;
const MARKS: Marks = Marks {
    started_ns: 5_000 * MS,
    protecting_ns: Some(7_000 * MS),
    protected_ns: Some(8_000 * MS),
    failed_ns: Some(12_000 * MS),
    ended_ns: 18_000 * MS,
};

/// Replies each 20 ms on two connections a client, none for 1.5 s after the fault.
fn outcome(kind: ClientKind) -> Outcome {
    let times = (5_010..18_000u64).step_by(20).filter(|t| !(12_000..13_500).contains(t));
    let samples = times.flat_map(|t| {
        let latency_ms = if (8_000..12_000).contains(&t) { 100 } else { 2 };
        [0, 1].map(|connection| Sample {
            t_ns: (t + u64::from(connection)) * MS,
            latency_ns: latency_ms * MS,
            ok: true,
            kind,
            connection,
        })
    });
    Outcome {
        kind,
        connections: 2,
        samples: samples.collect(),
        broken: Vec::new(),
        errors: 0,
        acked_writes: if kind == ClientKind::Redis { 1_000 } else { 0 },
        lost_acked_writes: 0,
        wrong_values: 0,
        renewed: 0,
        not_opened: 0,
        findings: Vec::new(),
    }
}

fn run() -> Run {
    let outcomes = vec![outcome(ClientKind::Redis), outcome(ClientKind::Http)];
    let mut run = Run::measured("remus", 200, MARKS, outcomes)
        .with_failure("primary host killed", &MARKS)
        .with_pauses(&(1..=100).map(|i| i * MS).collect::<Vec<_>>());
    run.epochs_committed = Some(20);
    run.bytes_raw = Some(80 << 20);
    run.bytes_sent = Some(10 << 20);
    run.detect_ms = Some(1012.5);
    run.event(13_100 * MS, "backup takes over");
    run
}

fn report(runs: Vec<Run>) -> Report {
    let fact = Fact { name: "Xen".into(), value: "4.17".into() };
    Report { title: "Demo".into(), generated: "now".into(), runs, host: vec![fact], ..Report::default() }
}

#[test]
fn json_has_every_key_of_a_run_and_null_for_what_was_not_measured() {
    let text = report(vec![run(), Run::new("xl-remus", 200)]).json();
    let json: Value = serde_json::from_str(&text).unwrap();
    let [remus, stock] = json["runs"].as_array().unwrap().as_slice() else { panic!("{text}") };
    for key in [
        "mode",
        "interval_ms",
        "epochs_committed",
        "pages_sent",
        "bytes_raw",
        "bytes_sent",
        "pause_ms",
        "latency_ms",
        "latency_unprotected_ms",
        "detect_ms",
        "downtime_ms",
        "acked_writes",
        "lost_acked_writes",
        "wrong_values",
        "connections_broken",
    ] {
        assert!(remus.get(key).is_some(), "{key}");
        assert!(stock.get(key).is_some(), "{key}");
        assert!(["mode", "interval_ms"].contains(&key) || stock[key].is_null(), "{key} {}", stock[key]);
    }
    assert!(remus["pages_sent"].is_null(), "not filled in, and not zero");
    assert_eq!(remus["pause_ms"], serde_json::json!({"p50": 50.0, "p99": 99.0}));
    assert_eq!(remus["latency_ms"], serde_json::json!({"p50": 100.0, "p99": 100.0}));
    assert_eq!(remus["latency_unprotected_ms"]["p50"], 2.0);
    // From 11 990 or 11 991 to 13 510 or 13 511.
    assert_eq!(remus["downtime_ms"], 1520.0);
    assert_eq!(remus["failure"]["watched_ms"], 6000.0);
    assert_eq!(remus["series"]["clients"][0]["replies"].as_array().unwrap().len(), 130);
    assert!(text.lines().all(|line| line.len() < 40_000) && text.lines().count() < 400, "readable");
}

#[test]
fn json_reads_back_as_it_was() {
    let mut report = report(vec![run()]);
    let read: Report = serde_json::from_str(&report.json()).unwrap();
    // The clock's origin is of no use to a reader and is not written.
    let series = report.runs[0].series.as_mut().unwrap();
    assert_eq!(read.runs[0].series.as_ref().unwrap().lanes, series.lanes);
    assert_eq!(read.json(), report.json());
}

#[test]
fn a_run_is_held_only_if_all_was_measured_and_nothing_failed() {
    assert_eq!(run().verdict(), Verdict::Held);
    type Spoil = fn(&mut Run);
    let spoiled: [(&str, Spoil); 6] = [
        ("1 acknowledged writes lost", |r| r.lost_acked_writes = Some(1)),
        ("2 wrong values", |r| r.wrong_values = Some(2)),
        ("1 connections broken", |r| r.connections_broken = Some(1)),
        ("wrong values: not measured", |r| r.wrong_values = None),
        ("no write was acknowledged", |r| r.acked_writes = Some(0)),
        ("service did not come back on every connection", |r| r.downtime_ms = None),
    ];
    for (fault, spoil) in spoiled {
        let mut run = run();
        spoil(&mut run);
        assert_eq!(run.verdict(), Verdict::Broken(vec![fault.into()]));
        let html = report(vec![run]).html();
        assert!(html.contains("Not held") && html.contains(fault) && !html.contains("Held."), "{fault}");
    }
    let mut calm = run();
    calm.failure = None;
    assert_eq!(calm.verdict(), Verdict::Untested);
    assert!(!report(vec![calm]).html().contains("Held."));
}

#[test]
fn broken_connections_of_the_clients_reach_the_report() {
    let mut outcome = outcome(ClientKind::Redis);
    let cause = Cause::Timeout { waited_ms: 60_000 };
    let broken = Broken { kind: ClientKind::Redis, connection: 1, t_ns: 13_000 * MS, cause };
    outcome.samples.retain(|s| s.connection == 0 || s.t_ns < 12_000 * MS);
    outcome.findings.push(broken.to_string());
    outcome.broken.push(broken);
    let run = Run::measured("remus", 200, MARKS, vec![outcome]).with_failure("killed", &MARKS);
    assert_eq!(run.connections_broken, Some(1));
    assert_eq!(run.downtime_ms, None);
    let html = report(vec![run]).html();
    assert!(html.contains("never again") && html.contains("redis connection 1: no reply for 60000 ms"));
}

/// A run of mode `llm` with every client and every measure.
fn full() -> Run {
    let outcomes = ClientKind::ALL.map(outcome).to_vec();
    let mut run = Run::measured("llm", 200, MARKS, outcomes)
        .with_failure("primary host killed", &MARKS)
        .with_pauses(&[40 * MS]);
    run.detect_ms = Some(1012.5);
    run.link_rtt_ms = Some(Quantiles { p50: 0.5, p99: 1.5 });
    run.take_over_ms = Some(120.0);
    run.replay_ms = Some(ReplayTimes { probe: 20.0, walk: 250.0, catch_up: 30.0, total: 300.0 });
    run.go_live_ms = Some(15.0);
    let fidelity = Fidelity { identical: 2048, different: 0, unknown: 512 };
    run.replay_fidelity = Some(BTreeMap::from([(80, fidelity), (6379, Fidelity::default())]));
    run
}

/// The same, with one connection reset during the failure.
fn with_a_reset(cause: Cause) -> Run {
    let mut outcomes = ClientKind::ALL.map(outcome).to_vec();
    let echo = outcomes.iter_mut().find(|o| o.kind == ClientKind::Echo).unwrap();
    echo.samples.retain(|s| s.connection == 0 || s.t_ns < 12_000 * MS);
    echo.broken.push(Broken { kind: ClientKind::Echo, connection: 1, t_ns: 13_000 * MS, cause });
    Run::measured("llm", 200, MARKS, outcomes).with_failure("primary host killed", &MARKS)
}

#[test]
fn what_only_some_runs_measure_has_no_key_in_the_others() {
    let json: Value = serde_json::from_str(&report(vec![full(), Run::new("remus", 200)]).json()).unwrap();
    let [llm, remus] = json["runs"].as_array().unwrap().as_slice() else { panic!() };
    let extra = [
        "latency_by_client",
        "added_latency_ms",
        "link_rtt_ms",
        "connections_total",
        "connections_carried",
        "take_over_ms",
        "replay_ms",
        "go_live_ms",
        "replay_fidelity",
    ];
    for key in extra {
        assert!(llm.get(key).is_some() && remus.get(key).is_none(), "{key}");
    }
    assert_eq!(llm["latency_by_client"]["echo"]["protected"]["p99"], 100.0);
    assert_eq!(llm["added_latency_ms"]["http-64k"], serde_json::json!({"p50": 98.0, "p99": 98.0}));
    assert_eq!(llm["replay_ms"]["catch_up"], 30.0);
    assert_eq!(llm["replay_fidelity"]["80"]["unknown"], 512);
    let names: Vec<&Value> =
        llm["series"]["clients"].as_array().unwrap().iter().map(|c| &c["client"]).collect();
    assert_eq!(names, ClientKind::ALL.map(ClientKind::name), "the same names everywhere");
    // And they read back, those of an older file as well.
    let read: Report = serde_json::from_str(&report(vec![full()]).json()).unwrap();
    assert_eq!(
        (read.runs[0].replay_fidelity.clone(), read.runs[0].replay_ms),
        (full().replay_fidelity, full().replay_ms)
    );
    assert_eq!(read.runs[0].latency_by_client, full().latency_by_client);
}

#[test]
fn latency_is_added_percentile_by_percentile_and_needs_both_sides() {
    let q = |p50, p99| Some(Quantiles { p50, p99 });
    let both =
        ClientLatency { protected: q(5.3, 40.0), unprotected: q(2.1, 41.5), ..ClientLatency::default() };
    assert_eq!(both.added(), q(3.2, -1.5));
    assert_eq!(ClientLatency { unprotected: None, ..both }.added(), None);
    // Bulk and the other clients leave the latency that all runs have alone.
    let mut slow = outcome(ClientKind::Upload);
    slow.samples.iter_mut().for_each(|s| s.latency_ns *= 50);
    let run = Run::measured("llm", 200, MARKS, vec![outcome(ClientKind::Redis), slow]);
    assert_eq!(run.latency_ms, q(100.0, 100.0));
    assert_eq!(run.latency_by_client.unwrap()["upload"].protected, q(5000.0, 5000.0));
}

#[test]
fn connections_count_once_and_short_ones_only_if_the_fault_found_them_open() {
    assert_eq!((full().connections_total, full().connections_carried), (Some(14), Some(14)));
    let mut short = outcome(ClientKind::HttpNew);
    // One was under way when the host died, one came just before.
    let first_after = short.samples.iter_mut().find(|s| s.t_ns > 13_000 * MS).unwrap();
    first_after.latency_ns = 1_600 * MS;
    let run = Run::measured("llm", 200, MARKS, vec![short.clone()]);
    assert_eq!((run.connections_total, run.connections_carried), (Some(1), Some(1)));
    let cause = Cause::Eof;
    short.broken.push(Broken { kind: ClientKind::HttpNew, connection: 1, t_ns: 13_000 * MS, cause });
    let run = Run::measured("llm", 200, MARKS, vec![short]);
    assert_eq!((run.connections_total, run.connections_carried), (Some(2), Some(1)));
}

#[test]
fn a_reset_with_a_cause_is_told_and_not_held_against_the_run() {
    let reset = || Cause::Reset("by peer".into());
    let by_cause = || BTreeMap::from([("diverged".to_owned(), 1)]);
    let held = with_a_reset(reset()).with_resets(by_cause());
    assert_eq!((held.verdict(), held.connections_carried), (Verdict::Held, Some(13)));
    assert_eq!(held.downtime_ms, Some(1520.0), "of those that went on");
    let html = report(vec![held.clone()]).html();
    assert!(html.contains("went on but 1, reset with a cause") && html.contains("13 of 14 went on"));
    assert!(table(&report(vec![held]), false).contains("1 diverged"));
    // Without a cause, for another reason, or one more than there are causes.
    assert!(matches!(with_a_reset(reset()).verdict(), Verdict::Broken(_)));
    let mut late = with_a_reset(Cause::Timeout { waited_ms: 60_000 }).with_resets(by_cause());
    assert!(matches!(late.verdict(), Verdict::Broken(_)));
    late.broken.push(Broken { cause: reset(), ..late.broken[0].clone() });
    late.connections_broken = Some(2);
    assert_eq!(late.unexplained(), Some(1));
}

#[test]
fn bulk_clients_do_not_set_the_downtime() {
    let mut slow = outcome(ClientKind::Download);
    slow.samples.retain(|s| !(11_000 * MS..16_000 * MS).contains(&s.t_ns));
    let run = Run::measured("llm", 200, MARKS, vec![outcome(ClientKind::Redis), slow]);
    assert_eq!(run.downtime_ms, Some(1520.0));
}

#[test]
fn table_and_page_show_what_was_measured() {
    let two = report(vec![full(), run()]);
    let text = table(&two, false);
    let row = |label: &str| {
        text.lines().find(|l| l.starts_with(label)).unwrap_or_else(|| panic!("{label}\n{text}"))
    };
    for (label, shown) in [
        ("connections carried on", "14 of 14 (100 %)"),
        ("take-over", "120 ms"),
        ("replay: probe, walk, catch-up", "20.0 ms, 250 ms, 30.0 ms"),
        ("go-live", "15.0 ms"),
        ("round trip of the link p50 / p99", "0.50 ms / 1.50 ms"),
        ("echo: added p50 / p99", "98.0 ms / 98.0 ms"),
        ("http-new: protected p50 / p99", "100 ms / 100 ms"),
        ("replayed bytes, web (port 80)", "2.0 KiB identical, 0 B different, 512 B unknown"),
    ] {
        assert!(row(label).contains(shown), "{label}\n{text}");
    }
    assert!(!table(&report(vec![run()]), false).contains("go-live"));
    let html = two.html();
    assert_well_formed(&html);
    assert!(html.contains("14 of 14 (100 %)") && html.contains("Web, connecting: latency"));
    let style = &html[..html.find("</style>").unwrap()];
    for kind in ClientKind::ALL {
        assert!(style.contains(&format!(".{kind} {{ --kind: var(--{kind}); }}")), "{kind}");
        // Light and dark.
        assert_eq!(style.matches(&format!("--{kind}: #")).count(), 2, "{kind}");
    }
}

/// Walks the tags: every one closed, in order.
fn assert_well_formed(html: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("an unclosed tag");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        match tag {
            _ if tag.starts_with('!') || ["meta"].contains(&name) || tag.ends_with('/') => {}
            _ if tag.starts_with('/') => assert_eq!(open.pop(), Some(name), "near {rest:.60}"),
            _ => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_page_is_whole_and_needs_nothing_else() {
    let mut stock = Run::new("xl-remus", 200).with_pauses(&[40 * MS, 60 * MS]);
    stock = stock.with_failure("primary host killed", &MARKS);
    let html = report(vec![run(), stock]).html();
    assert_well_formed(&html);
    for foreign in ["<script", "<link", "<img", "url(", "@import", "src=", "href="] {
        assert!(!html.contains(foreign), "{foreign}");
    }
    // The name space of SVG is the only address.
    assert_eq!(html.matches("http://").count(), html.matches("xmlns=").count());
    assert!(!html.contains("https://") && !html.contains("NaN") && !html.contains("inf"));
    for shown in
        ["Held.", "backup takes over", "1520 ms", "8.0 : 1", "never (in 6000 ms)", "prefers-color-scheme"]
    {
        assert!(html.contains(shown), "{shown}");
    }
    // The course, the lanes, two distributions, two histograms, the comparison, downtime, latencies, connections.
    assert_eq!(html.matches("<svg").count(), 10);
    assert_coloured(&html);
}

/// Every class of a drawing has a colour: none is left black by mistake.
fn assert_coloured(html: &str) {
    let style = &html[..html.find("</style>").unwrap()];
    let classes: BTreeSet<&str> =
        html.split("class=\"").skip(1).flat_map(|c| c.split('"').next().unwrap().split(' ')).collect();
    for class in classes.into_iter().filter(|c| !c.is_empty() && *c != "legend") {
        assert!(style.contains(&format!(".{class}")), "{class}");
    }
}

#[test]
fn requests_that_met_a_pause_are_told_apart() {
    // Protected replies take 100 ms; those that came from 9 000 to 9 140 ms were open at 9 000 to 9 040.
    let pauses = Pauses::new(vec![(9_000 * MS, 9_040 * MS), (30_000 * MS, 30_001 * MS)], 0, 11_000 * MS);
    let mut outcome = outcome(ClientKind::Echo);
    outcome.samples.iter_mut().filter(|s| pauses.meet(s)).for_each(|s| s.latency_ns += 300 * MS);
    // Nobody knows of pauses then.
    let late = outcome.samples.iter_mut().find(|s| s.t_ns > 11_500 * MS).unwrap();
    late.latency_ns = 5_000 * MS;
    let run = Run::measured_with("llm", 2000, MARKS, vec![outcome.clone()], &pauses);
    let echo = run.latency_by_client.as_ref().unwrap()["echo"];
    let q = |p50, p99| Some(Quantiles { p50, p99 });
    assert_eq!((echo.no_pause_met, echo.pause_met), (q(100.0, 100.0), q(400.0, 400.0)));
    let share = echo.pause_met_share.unwrap();
    assert!(share > 0.0 && share < 0.1, "{share}");
    assert_eq!((run.pauses_ms.as_slice(), run.pause_ms), ([40.0].as_slice(), q(40.0, 40.0)));
    let page = report(vec![run]);
    assert_well_formed(&page.html());
    assert!(page.html().contains("no pause met") && table(&page, false).contains("echo: pause met p50"));
    // Without pauses nothing is told apart, and there are no keys for it.
    let blind = Run::measured("llm", 2000, MARKS, vec![outcome]);
    let json: Value = serde_json::from_str(&report(vec![blind]).json()).unwrap();
    let echo = &json["runs"][0]["latency_by_client"]["echo"];
    assert!(echo.get("protected").is_some() && echo.get("pause_met").is_none(), "{echo}");
}

#[test]
fn failovers_add_up() {
    let cause = || Cause::Reset("by peer".into());
    let reset = with_a_reset(cause()).with_resets(BTreeMap::from([("diverged".to_owned(), 1)]));
    let runs = [full(), reset, with_a_reset(cause()), Run::new("llm", 2000)];
    let sum = Summary::of(&runs);
    assert_eq!((sum.failovers, sum.held, sum.connections_unexplained), (3, 2, 1));
    assert_eq!((sum.connections.total, sum.connections.carried), (42, 40));
    assert_eq!(sum.carried_share, Some(0.9523), "never rounded up");
    let echo = sum.connections_by_client["echo"];
    assert_eq!((echo.total, echo.carried), (6, 4));
    assert_eq!(sum.resets_by_cause, BTreeMap::from([("diverged".to_owned(), 1)]));
    assert_eq!(sum.fidelity_share, BTreeMap::from([("web (port 80)".to_owned(), 1.0)]));
    let downtime = sum.downtime_ms.as_ref().unwrap();
    assert_eq!((downtime.min, downtime.max, downtime.all.len()), (1520.0, 1520.0, 2));
    assert_eq!(sum.steps_ms["replay"].median, 300.0);
    let lines = sum.lines();
    for (what, how) in [
        ("connections", "40 of 42 went on (95.23 %), 1 reset with a cause, 1 without one"),
        ("reset: diverged", "1"),
        ("connections, echo", "4 of 6 went on"),
        ("downtime", "1520 ms to 1520 ms, median 1520 ms"),
        ("replayed bytes, web (port 80)", "100.00 % identical of 2.0 KiB compared"),
    ] {
        assert!(lines.contains(&(what.into(), how.into())), "{what}: {lines:?}");
    }
    // Nothing at all is no share, and not all of it.
    assert_eq!(Summary::of(&[]).carried_share, None);
    let mut many = report([full(), full(), full(), full(), with_a_reset(cause())].to_vec());
    many.summary = Some(Summary::of(&many.runs));
    let html = many.html();
    assert_well_formed(&html);
    assert_coloured(&html);
    for shown in
        ["Where the downtime went", "Downtimes", "Connections by client", "Replay fidelity by workload"]
    {
        assert!(html.contains(shown), "{shown}");
    }
    let json: Value = serde_json::from_str(&many.json()).unwrap();
    assert_eq!(json["summary"]["connections_by_client"]["echo"]["carried"], 9);
}

#[test]
fn a_bench_says_what_could_not_be_taken() {
    let mut bench = Bench { title: "<Bench>".into(), ..Bench::default() };
    bench.add("throughput: redis-set", "unprotected", "SET/s", Ok(800.0));
    bench.add("throughput: redis-set", "llm, 2000 ms", "SET/s", Ok(600.0));
    bench.add("latency: echo p99", "unprotected", "ms", Ok(10.0));
    bench.add("latency: echo p99", "llm, 2000 ms", "ms", Ok(420.0));
    bench.add("latency: echo, pause met p99", "llm, 2000 ms", "ms", Ok(900.0));
    assert!(bench.is_whole());
    bench.add("throughput: redis-set", "remus, 200 ms", "SET/s", Err("no reply".into()));
    assert!(!bench.is_whole());
    let json: Value = serde_json::from_str(&bench.json()).unwrap();
    let row = |i: usize| &json["rows"][i];
    assert_eq!((&row(1)["of_unprotected"], &row(1)["value"]), (&0.75.into(), &600.0.into()));
    assert_eq!((&row(5)["value"], &row(5)["note"]), (&Value::Null, &"no reply".into()));
    assert!(row(5)["of_unprotected"].is_null() && row(0).get("note").is_none());
    assert!(row(4)["of_unprotected"].is_null(), "there is no unprotected value");
    let text = bench.table(false);
    let line = |name: &str| text.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
    assert!(line("throughput: redis-set").contains("600 SET/s (75 %)"), "{text}");
    assert!(line("throughput: redis-set").ends_with("not taken"), "{text}");
    assert!(line("latency: echo p99").contains("420 ms (\u{d7}42.0)"), "{text}");
    assert!(line("latency: echo p99").ends_with('\u{2013}'), "a mode that did not run: {text}");
    let html = bench.html();
    assert_well_formed(&html);
    assert_coloured(&html);
    assert_eq!(html.matches("<svg").count(), 2, "a picture of each kind");
    assert!(html.contains("&lt;Bench&gt;") && html.contains("redis-set, remus, 200 ms: no reply"));
    assert_well_formed(&Bench::default().html());
}

#[test]
fn strange_text_stays_text() {
    let mut run = run();
    run.name = "<script>alert(1)</script>".into();
    run.notes.push("a & b \"c\"".into());
    let html = report(vec![run]).html();
    assert_well_formed(&html);
    assert!(!html.contains("<script") && html.contains("a &amp; b &quot;c&quot;"));
}

#[test]
fn empty_runs_draw_and_many_fold() {
    assert_well_formed(&report(Vec::new()).html());
    // A run broken off before anything happened.
    let marks =
        Marks { protecting_ns: None, protected_ns: None, failed_ns: None, ended_ns: 5_000 * MS, ..MARKS };
    let nothing = Run::measured(
        "remus",
        200,
        marks,
        vec![Outcome { samples: Vec::new(), ..outcome(ClientKind::Http) }],
    );
    let html = report(vec![nothing]).html();
    assert_well_formed(&html);
    assert!(!html.contains("NaN"));
    let html = report(vec![run(); 10]).html();
    assert_well_formed(&html);
    assert_eq!(html.matches("<details>").count(), 9);
    assert!(html.contains("10 of 10 failovers held"));
}

#[test]
fn the_table_lines_up_and_tells_never_from_unknown() {
    let mut stock = Run::new("xl-remus", 200);
    stock = stock.with_failure("primary host killed", &MARKS);
    let two = report(vec![run(), stock]);
    let text = table(&two, false);
    let row = |label: &str| {
        text.lines().find(|l| l.starts_with(label)).unwrap_or_else(|| panic!("{label}\n{text}"))
    };
    assert!(row("detection").contains("1012 ms") && row("detection").ends_with("never (in 6000 ms)"));
    assert!(row("downtime").contains("1520 ms") && row("downtime").ends_with('–'));
    assert!(row("lost acknowledged writes").ends_with('–'));
    let ends: BTreeSet<usize> = text.lines().skip(1).map(|l| l.chars().count()).collect();
    assert_eq!(ends.len(), 1, "{text}");
    assert!(!text.contains('\x1b') && table(&two, true).contains("\x1b[32m"));
    // Ten runs: a head, a rule and a line each.
    assert_eq!(table(&report(vec![run(); 10]), false).lines().count(), 12);
}

#[test]
fn both_files_are_written_whole_or_the_failure_names_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let report = report(vec![run()]);
    let [json, html] = report.write(&folder.join("deep")).unwrap();
    assert_eq!(std::fs::read_to_string(json).unwrap(), report.json());
    assert_eq!(std::fs::read_to_string(html).unwrap(), report.html());
    assert_eq!(std::fs::read_dir(folder.join("deep")).unwrap().count(), 2, "nothing else is left");
    std::fs::write(folder.join("file"), "").unwrap();
    let failed = report.write(&folder.join("file")).unwrap_err();
    assert!(failed.to_string().contains("file"), "{failed}");
}
