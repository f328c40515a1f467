//! The figures as rows and as tables.

use std::collections::BTreeMap;

use serde::Serialize;

use super::input::Input;
use super::run::Carried;

/// What one way of carrying one stream came to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    bench: &'static str,
    name: &'static str,
    workload: String,
    /// Of the stream.
    epochs: u64,
    /// Guest pages in the stream, those of its first epoch among them.
    pages: u64,
    first_pages: u64,
    /// Guest memory in 10^9 bytes a second, from the first byte in to the last one out.
    gb_per_s: f64,
    /// The same behind the first epoch, which holds every page of the guest; `null` if it was not looked at.
    later_gb_per_s: Option<f64>,
    /// Nanoseconds for each page.
    ns_per_page: f64,
    /// Processor time for each page, of both processes, by their threads; `other` is what is no named thread's, above all the one
    /// that writes to the connection. `source` and `sink` stand for the toolstack.
    cpu_ns_per_page: BTreeMap<String, f64>,
    /// Most memory that each process had at a time.
    peak_rss_bytes: BTreeMap<&'static str, u64>,
}

impl Row {
    pub(super) fn new(name: &'static str, workload: &str, input: &Input, carried: &Carried) -> Self {
        let per_page = |seconds: f64| round(seconds * 1e9 / input.pages as f64);
        let mut cpu = BTreeMap::new();
        let mut peak_rss_bytes = BTreeMap::new();
        for (end, report) in ["primary", "backup"].into_iter().zip(&carried.ends) {
            for (thread, seconds) in &report.threads {
                cpu.insert(format!("{end}: {thread}"), per_page(*seconds));
            }
            let other = report.cpu - report.threads.values().sum::<f64>();
            cpu.insert(format!("{end}: other"), per_page(other));
            peak_rss_bytes.insert(end, report.peak_rss_bytes);
        }
        for (end, seconds) in ["source", "sink"].into_iter().zip(carried.outside) {
            cpu.insert(end.to_owned(), per_page(seconds));
        }
        let later = (input.pages - input.first_pages) * llm_core::page::PAGE as u64;
        Self {
            bench: "stream",
            name,
            workload: workload.to_owned(),
            epochs: input.epochs,
            pages: input.pages,
            first_pages: input.first_pages,
            gb_per_s: round(input.page_bytes() as f64 / carried.all / 1e9),
            later_gb_per_s: Some(round(later as f64 / (carried.all - carried.first) / 1e9)),
            ns_per_page: per_page(carried.all),
            cpu_ns_per_page: cpu,
            peak_rss_bytes,
        }
    }

    /// One copy in memory.
    pub(super) fn memcpy(workload: &str, input: &Input, seconds: f64) -> Self {
        Self {
            bench: "stream",
            name: "memcpy",
            workload: workload.to_owned(),
            epochs: input.epochs,
            pages: input.pages,
            first_pages: input.first_pages,
            gb_per_s: round(input.page_bytes() as f64 / seconds / 1e9),
            later_gb_per_s: None,
            ns_per_page: round(seconds * 1e9 / input.pages as f64),
            cpu_ns_per_page: BTreeMap::new(),
            peak_rss_bytes: BTreeMap::new(),
        }
    }
}

fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Tables: of rates, of memory, and where the processor time goes.
pub(super) fn print(rows: &[Row]) {
    let unique = |of: fn(&Row) -> &str| {
        let mut seen: Vec<&str> = Vec::new();
        rows.iter().map(of).for_each(|name| {
            if !seen.contains(&name) {
                seen.push(name);
            }
        });
        seen
    };
    let (workloads, names) = (unique(|r| &r.workload), unique(|r| r.name));
    let find = |name: &str, workload: &str| rows.iter().find(|r| r.name == name && r.workload == workload);
    let line = |title: &str, cell: &dyn Fn(&str) -> String| {
        let cells: String = workloads.iter().map(|w| format!(" {} |", cell(w))).collect();
        println!("| {title} |{cells}");
    };
    let head = |title: &str| {
        println!();
        line(title, &str::to_owned);
        println!("|---|{}", "---:|".repeat(workloads.len()));
    };
    head("GB/s of guest pages (behind the first epoch)");
    for name in &names {
        line(name, &|w| {
            find(name, w).map_or(String::new(), |r| match r.later_gb_per_s {
                Some(later) => format!("{:.2} ({later:.2})", r.gb_per_s),
                None => format!("{:.2}", r.gb_per_s),
            })
        });
    }
    head("pages (in the first epoch); epochs");
    line("of the stream", &|w| {
        let row = rows.iter().find(|r| r.workload == w);
        row.map_or(String::new(), |r| format!("{} ({}); {}", r.pages, r.first_pages, r.epochs))
    });
    let ways = || names.iter().filter(|name| **name != "memcpy");
    head("most memory of the primary, of the backup, MiB");
    for name in ways() {
        line(name, &|w| {
            let row = find(name, w);
            let end = |end| row.and_then(|r| r.peak_rss_bytes.get(end)).copied().unwrap_or(0);
            format!("{}, {}", end("primary") >> 20, end("backup") >> 20)
        });
    }
    for name in ways() {
        head(&format!("{name}: processor time, ns a page"));
        let stages = rows.iter().find(|r| r.name == *name).map(|r| &r.cpu_ns_per_page);
        for stage in stages.into_iter().flat_map(BTreeMap::keys) {
            line(stage, &|w| {
                let value = find(name, w).and_then(|r| r.cpu_ns_per_page.get(stage));
                value.map_or(String::new(), |ns| format!("{ns:.0}"))
            });
        }
        line("all", &|w| {
            find(name, w).map_or(String::new(), |r| format!("{:.0}", r.cpu_ns_per_page.values().sum::<f64>()))
        });
    }
}
