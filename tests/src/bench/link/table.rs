//! The figures as rows and as tables.

use std::collections::BTreeMap;

use llm_core::page::PAGE;
use serde::Serialize;

use super::run::Carried;
use crate::bench::stream::child::CompressWith;
use crate::bench::stream::input::Input;

/// What one way of carrying one stream over one link came to, all rounds together, behind the first epoch.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    bench: &'static str,
    /// Ours begin with `llm`.
    name: String,
    workload: String,
    /// The link's bits a second, and those that one connection carries of them.
    link_bits_per_s: u64,
    carried_bits_per_s: f64,
    /// Epochs that the figures are of.
    epochs: usize,
    /// From the end of an epoch to its commit.
    commit_ms: Spread,
    /// Guest memory in 10^9 bytes a second, from an epoch's first byte in to its last one out.
    gb_per_s: f64,
    /// Bytes on the link for each byte of guest pages.
    out_per_in: f64,
    /// Processor time for each page, of both processes, by their threads, the first epoch included; `other` is above all what writes to the connection.
    cpu_ns_per_page: BTreeMap<String, f64>,
    /// Seconds from the begin of the first epoch until it was out, of the quickest round.
    first_s: f64,
    /// By what was compressed last.
    method: String,
    /// Compressed bytes for each byte that was.
    compressed_ratio: Option<f64>,
    /// Times that the work was of no use, for each frame that was compressed.
    in_vain: Option<f64>,
}

/// A distribution.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Spread {
    p10: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let at = |part: f64| round(values[((part * last as f64).round() as usize).min(last)]);
        Some(Self { p10: at(0.1), p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) })
    }
}

impl Row {
    pub(super) fn new(
        way: CompressWith,
        link: u64,
        rate: f64,
        workload: &str,
        input: &Input,
        taken: &[Carried],
    ) -> Option<Self> {
        let later = |all: &[f64]| all.get(1..).unwrap_or_default().to_vec();
        let commits: Vec<f64> =
            taken.iter().flat_map(|c| later(&c.ends[0].commits)).map(|seconds| seconds * 1e3).collect();
        let seconds: f64 = taken.iter().flat_map(|c| later(&c.epochs)).sum();
        let rounds = taken.len() as f64;
        let later_bytes = rounds * ((input.pages - input.first_pages) * PAGE as u64) as f64;
        let mut cpu = BTreeMap::<String, f64>::new();
        let per_page = |seconds: f64| seconds * 1e9 / (rounds * input.pages as f64);
        let (mut before, mut after, mut frames, mut in_vain) = (0, 0, 0, 0);
        for carried in taken {
            for (end, report) in ["primary", "backup"].into_iter().zip(&carried.ends) {
                let squeeze = report.second_stage.cpu_ms / 1e3;
                for (thread, seconds) in &report.threads {
                    *cpu.entry(format!("{end}: {thread}")).or_default() += per_page(*seconds);
                }
                let other = report.cpu - report.threads.values().sum::<f64>() - squeeze;
                *cpu.entry(format!("{end}: other")).or_default() += per_page(other);
                if end == "primary" {
                    *cpu.entry("primary: compress".into()).or_default() += per_page(squeeze);
                }
            }
            let stage = &carried.ends[0].second_stage;
            before += stage.bytes_before;
            after += stage.bytes_after;
            frames += stage.frames;
            in_vain += stage.in_vain;
        }
        cpu.values_mut().for_each(|ns| *ns = round(*ns));
        let bytes: u64 = taken.iter().map(|c| c.later_bytes).sum();
        Some(Self {
            bench: "link",
            name: format!("llm, {}", way.name()),
            workload: workload.to_owned(),
            link_bits_per_s: link,
            carried_bits_per_s: (rate * 8.0).round(),
            epochs: commits.len(),
            commit_ms: Spread::of(commits)?,
            gb_per_s: round(later_bytes / seconds / 1e9),
            out_per_in: (bytes as f64 / later_bytes * 1e5).round() / 1e5,
            cpu_ns_per_page: cpu,
            first_s: taken
                .iter()
                .filter_map(|c| c.epochs.first().copied())
                .min_by(f64::total_cmp)
                .map(round)?,
            method: taken.last()?.ends[0].second_stage.method.clone(),
            compressed_ratio: (before > 0).then(|| round(after as f64 / before as f64)),
            in_vain: (frames > 0).then(|| round(in_vain as f64 / frames as f64)),
        })
    }
}

fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// A line for each way and workload of one link.
pub(super) fn print(rows: &[Row]) {
    println!(
        "\n| | by | commit after its end, ms: p10 | p50 | p90 | p99 | max | p50, none 1 | GB/s | bytes on the link | ratio | in vain | first, s |"
    );
    println!("|---|---|{}", "---:|".repeat(11));
    let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.2}"));
    for row in rows {
        let none = rows.iter().find(|r| r.workload == row.workload).map_or(1.0, |r| r.commit_ms.p50);
        let c = &row.commit_ms;
        println!(
            "| {}: {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.3} | {:.4} | {} | {} | {:.2} |",
            row.workload,
            row.name,
            row.method,
            c.p10,
            c.p50,
            c.p90,
            c.p99,
            c.max,
            c.p50 / none,
            row.gb_per_s,
            row.out_per_in,
            number(row.compressed_ratio),
            number(row.in_vain),
            row.first_s
        );
    }
    let stages: Vec<&String> = rows.first().into_iter().flat_map(|row| row.cpu_ns_per_page.keys()).collect();
    print!("\n| processor time, ns a page |");
    stages.iter().for_each(|stage| print!(" {stage} |"));
    println!("\n|---|{}", "---:|".repeat(stages.len()));
    for row in rows {
        print!("| {}: {} |", row.workload, row.name);
        stages.iter().for_each(|stage| print!(" {:.0} |", row.cpu_ns_per_page.get(*stage).unwrap_or(&0.0)));
        println!();
    }
}
