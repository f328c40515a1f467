//! Pictures of the newest figures, for the documents.

use std::path::Path;
use std::{fs, io};

use serde_json::Value;

use super::Error;
use crate::report::{Bars, picture};

/// Draws what `target/lab/bench` has figures of into `docs/pictures`, and tells what it had none of.
///
/// # Errors
///
/// Figures cannot be read, or a picture cannot be written.
pub fn run() -> Result<(), Error> {
    let workspace = crate::lab::Paths::new("bench").workspace;
    let (from, to) = (workspace.join("target/lab/bench"), workspace.join("docs/pictures"));
    for (name, label, panels) in PICTURES {
        let Some(rows) = rows(&from.join(format!("{name}.json")))? else {
            println!("{name}: no figures yet; run `cargo lab bench {name}`");
            continue;
        };
        let panels: Vec<_> = panels(&rows).into_iter().filter(|panel| !panel.bars.is_empty()).collect();
        let path = to.join(format!("{name}.svg"));
        let written = fs::create_dir_all(&to).and_then(|()| fs::write(&path, picture(&panels, label)));
        written.map_err(|source| Error { what: format!("write {}", path.display()), source })?;
        println!("{}", path.display());
    }
    Ok(())
}

/// A picture: the bench's name, what it shows in words, and how it is made of the bench's rows.
type Picture = (&'static str, &'static str, fn(&[Value]) -> Vec<Bars>);

const PICTURES: [Picture; 6] = [
    ("codec", "Time and bytes of the page codec and of others", codec),
    ("frame", "Time for small log records, by ours and by others", frame),
    ("stream", "Guest pages a second through the checkpoint pipe", stream),
    ("link", "From an epoch's end to its commit over shaped links, by what is compressed", link),
    ("packet", "Throughput and latency of the packet path", packet),
    ("ring", "Throughput of the ring and of others", ring),
];

/// The rows of a bench; none if it has not run.
fn rows(path: &Path) -> Result<Option<Vec<Value>>, Error> {
    let failed = |source| Error { what: format!("read {}", path.display()), source };
    let text = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let figures: Value = serde_json::from_slice(&text).map_err(|e| failed(e.into()))?;
    let rows = figures.get("rows").unwrap_or(&figures).as_array().cloned();
    Ok(Some(rows.unwrap_or_default()))
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(row: &Value, key: &str) -> Option<f64> {
    row.get(key).and_then(Value::as_f64)
}

/// One panel: a bar for each of `rows`, with `label`, of what `value` takes out of it.
fn bars<'a>(
    name: &str,
    rows: impl IntoIterator<Item = &'a Value>,
    label: impl Fn(&Value) -> String,
    value: impl Fn(&Value) -> Option<f64>,
    digits: usize,
) -> Bars {
    let bar = |row: &Value| {
        let value = value(row);
        (label(row), value, value.map_or_else(String::new, |value| format!("{value:.digits$}")))
    };
    Bars { name: name.into(), bars: rows.into_iter().map(bar).collect() }
}

/// Values of `key` in the order in which they come first.
fn distinct(rows: &[Value], key: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for row in rows {
        if !found.iter().any(|seen| seen == text(row, key)) {
            found.push(text(row, key).to_owned());
        }
    }
    found
}

fn codec(rows: &[Value]) -> Vec<Bars> {
    let label = |row: &Value| match text(row, "width") {
        "" => text(row, "name").to_owned(),
        width => format!("{}, {width}", text(row, "name")),
    };
    let encode: Vec<Value> = rows.iter().filter(|row| text(row, "bench") == "encode").cloned().collect();
    let mut panels = Vec::new();
    for workload in distinct(&encode, "workload") {
        let of = encode.iter().filter(|row| text(row, "workload") == workload);
        panels.push(bars(&format!("{workload}: ns a page"), of, label, |row| number(row, "ns_per_page"), 0));
    }
    for workload in distinct(&encode, "workload") {
        let of = encode.iter().filter(|row| {
            let plain = matches!(text(row, "width"), "" | "portable");
            text(row, "workload") == workload
                && plain
                && number(row, "out_per_in").is_some_and(|out| out > 0.0)
        });
        let name = |row: &Value| text(row, "name").to_owned();
        panels.push(bars(
            &format!("{workload}: bytes out for each byte in"),
            of,
            name,
            |row| number(row, "out_per_in"),
            4,
        ));
    }
    panels
}

fn frame(rows: &[Value]) -> Vec<Bars> {
    let records: Vec<Value> = rows.iter().filter(|row| text(row, "of") == "records").cloned().collect();
    let mut panels = Vec::new();
    let name = |row: &Value| text(row, "name").replace("llm: ", "llm, ");
    for input in distinct(&records, "input") {
        let of = || records.iter().filter(|row| text(row, "input") == input);
        panels.push(bars(&format!("{input}: ns a record"), of(), name, |row| number(row, "ns"), 1));
        panels.push(bars(
            &format!("{input}: bytes out for each byte in"),
            of(),
            name,
            |row| number(row, "out_per_in"),
            2,
        ));
    }
    panels
}

fn stream(rows: &[Value]) -> Vec<Bars> {
    let name = |row: &Value| text(row, "name").to_owned();
    let panel = |workload: String| {
        let of = rows.iter().filter(|row| text(row, "workload") == workload);
        bars(&format!("{workload}: GB/s of guest pages"), of, name, |row| number(row, "gb_per_s"), 2)
    };
    let mut panels: Vec<_> = distinct(rows, "workload").into_iter().map(panel).collect();
    panels.extend(rows.iter().find(|row| text(row, "name") == "llm").map(threads));
    panels
}

/// Where the processor time of one stream goes.
fn threads(row: &Value) -> Bars {
    let stages = row.get("cpu_ns_per_page").and_then(Value::as_object);
    let bar = |(stage, ns): (&String, &Value)| {
        (stage.clone(), ns.as_f64(), ns.as_f64().map_or_else(String::new, |ns| format!("{ns:.0}")))
    };
    Bars {
        name: format!("{}: processor time of llm by thread, ns a page", text(row, "workload")),
        bars: stages.into_iter().flatten().map(bar).collect(),
    }
}

fn link(rows: &[Value]) -> Vec<Bars> {
    let mut panels = Vec::new();
    let rate = |row: &Value| row.get("link_bits_per_s").and_then(Value::as_u64).unwrap_or(0);
    let mut rates: Vec<u64> = rows.iter().map(rate).collect();
    rates.sort_unstable();
    rates.dedup();
    for bits in rates {
        for workload in distinct(rows, "workload") {
            let of = rows.iter().filter(|row| rate(row) == bits && text(row, "workload") == workload);
            let title =
                format!("{} Mb/s, {workload}: ms from an epoch's end to its commit, p50", bits / 1_000_000);
            let name = |row: &Value| text(row, "name").to_owned();
            panels.push(bars(&title, of, name, |row| number(row.get("commit_ms")?, "p50"), 1));
        }
    }
    panels
}

/// Mode `remus` is left out: its bars would be ten thousand times as long.
fn packet(rows: &[Value]) -> Vec<Bars> {
    const SHOWN: [(&str, &str); 6] = [
        ("upload", "bulk into the guest, MB/s"),
        ("download", "bulk out of the guest, MB/s"),
        ("paced: p50", "a request each millisecond: p50, us"),
        ("paced: p99", "a request each millisecond: p99, us"),
        ("busy: requests", "16 connections without a pause: requests a second"),
        ("flows: p50", "connections that take turns: p50, us"),
    ];
    let panel = |(bench, title): (&str, &str)| {
        let of = rows.iter().filter(|row| text(row, "bench") == bench && text(row, "mode") != "remus");
        bars(title, of, |row| text(row, "mode").to_owned(), |row| number(row, "value"), 0)
    };
    SHOWN.map(panel).into()
}

fn ring(rows: &[Value]) -> Vec<Bars> {
    let panel = |size: u64| {
        let of = rows.iter().filter(|row| row.get("record_bytes").and_then(Value::as_u64) == Some(size));
        let name = |row: &Value| text(row, "peer").to_owned();
        bars(&format!("records of {size} bytes: MB/s"), of, name, |row| number(row, "mb_per_s"), 1)
    };
    [64, 1024, 4096, 16384, 65536].map(panel).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stream_has_a_panel_for_each_workload_and_one_for_the_threads() {
        let row = |name, workload| json!({"name": name, "workload": workload, "gb_per_s": 1.5, "cpu_ns_per_page": {"a: b": 7.4, "c": 9}});
        let panels = stream(&[row("llm", "guest"), row("splice", "guest"), row("llm", "pg")]);
        let names: Vec<_> = panels.iter().map(|panel| panel.name.as_str()).collect();
        assert_eq!(names[..2], ["guest: GB/s of guest pages", "pg: GB/s of guest pages"]);
        assert_eq!(names[2], "guest: processor time of llm by thread, ns a page");
        assert_eq!(panels[2].bars[0], ("a: b".into(), Some(7.4), "7".into()));
    }

    #[test]
    fn each_workload_has_its_bars() {
        let row = |bench, workload, name, width, ns, out| json!({"bench": bench, "workload": workload, "name": name, "width": width, "ns_per_page": ns, "out_per_in": out});
        let rows = [
            row("encode", "pg", "memcmp", "", 300.0, 0.0),
            row("encode", "pg", "llm", "avx2", 600.0, 0.1),
            row("encode", "pg", "llm", "portable", 900.0, 0.1),
            row("encode", "cc", "llm", "avx2", 700.0, 0.2),
            row("decode", "pg", "llm", "portable", 1.0, 0.0),
        ];
        let panels = codec(&rows);
        let lens: Vec<_> = panels.iter().map(|panel| panel.bars.len()).collect();
        assert_eq!(lens, [3, 1, 1, 0]);
        assert_eq!(panels[0].bars[1], ("llm, avx2".into(), Some(600.0), "600".into()));
    }
}
