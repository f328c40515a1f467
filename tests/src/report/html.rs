//! The page: one file, no script, nothing fetched; light or dark as the reader's system is.

use std::fmt::Write as _;

use super::{
    Fact, Report, Run, Summary, Verdict, charts, compare,
    figures::{self, Figure},
    format::{NONE, bytes, count, millis},
    svg::{escape, nice},
    table::{self, Tone},
};

/// Up to so many runs are shown side by side and with open pictures; of more, the numbers come first and
/// all pictures but the first run's unfold.
const FEW: usize = 4;

/// Writing to a String cannot fail, so results of `write!` are dropped.
pub(super) fn page(report: &Report) -> String {
    let title = if report.title.is_empty() { "Failover report" } else { &report.title };
    let mut out = begin(title, &report.generated);
    headline(&mut out, &report.runs);
    out.push_str("</header>\n");

    if let Some(summary) = &report.summary {
        together(&mut out, summary);
    }
    let few = report.runs.len() <= FEW;
    if !few {
        all_numbers(&mut out, &report.runs);
    }
    let pause_max = round_up(report.runs.iter().flat_map(|r| &r.pauses_ms).copied().fold(0.0, f64::max));
    for (i, run) in report.runs.iter().enumerate().filter(|(_, run)| has_pictures(run)) {
        let name = escape(&run.name);
        let (begin, end) = if few || i == 0 {
            (format!("<section><h2>{name}</h2>"), "</section>\n")
        } else {
            (format!("<details><summary>{name}</summary>"), "</details>\n")
        };
        out.push_str(&begin);
        pictures(&mut out, run, pause_max);
        out.push_str(end);
    }
    if few {
        all_numbers(&mut out, &report.runs);
    }
    remarks(&mut out, report);
    out.push_str("</main></body></html>\n");
    out
}

/// The end of an axis: a little more than a round number does not need the next one.
fn round_up(longest: f64) -> f64 {
    nice(longest / 12.0) * (longest / nice(longest / 12.0)).ceil().max(1.0)
}

/// The page up to and with its heading; the header is still open.
pub(super) fn begin(title: &str, generated: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{0}</title>\n<style>\n{1}</style></head>\n<body><main>\n<header><h1>{0}</h1>\n\
         <p class=\"soft\">{2}</p>\n",
        escape(title),
        include_str!("style.css"),
        escape(generated)
    )
}

/// The runs that were to keep the promise.
fn tested(runs: &[Run]) -> Vec<(&Run, Verdict)> {
    let verdicts = runs.iter().filter(|run| !run.is_stock()).map(|run| (run, run.verdict()));
    verdicts.filter(|(_, verdict)| *verdict != Verdict::Untested).collect()
}

fn headline(out: &mut String, runs: &[Run]) {
    let tested = tested(runs);
    let held = tested.iter().filter(|(_, verdict)| *verdict == Verdict::Held).count();
    let sum = |value: fn(&Run) -> Option<u64>| tested.iter().filter_map(|(run, _)| value(run)).sum::<u64>();
    let acked = count(sum(|r| r.acked_writes));
    let resets = sum(|r| Some(r.resets()));
    match &tested[..] {
        [] => out.push_str(
            "<p class=\"claim\">No run was put to the test: there was no fault or no client.</p>\n",
        ),
        [(_, Verdict::Held)] => {
            let but = match resets {
                0 => String::new(),
                n => format!(" but {}, reset with a cause", count(n)),
            };
            let _ = writeln!(
                out,
                "<p class=\"claim\"><span class=\"good\">\u{2713} Held.</span> The guest outlived its host: \
                 {acked} acknowledged writes, none lost; every TCP connection went on{but}.</p>"
            );
        }
        [(_, Verdict::Broken(faults))] => {
            let _ = writeln!(
                out,
                "<p class=\"claim\"><span class=\"bad\">\u{2717} Not held:</span> {}.</p>",
                escape(&faults.join(", "))
            );
        }
        all => {
            let (class, sign) = if held == all.len() { ("good", '\u{2713}') } else { ("bad", '\u{2717}') };
            let _ = writeln!(
                out,
                "<p class=\"claim\"><span class=\"{class}\">{sign} {held} of {} failovers held</span>, \
                 over {acked} acknowledged writes.</p>",
                all.len()
            );
        }
    }
    if tested.is_empty() {
        return;
    }
    out.push_str("<dl class=\"tiles\">\n");
    let mut tile = |name: &str, value: &str, class: &str, remark: &str| {
        let _ = writeln!(
            out,
            "<div><dt>{name}</dt><dd class=\"{class}\">{}<small>{}</small></dd></div>",
            escape(value),
            escape(remark)
        );
    };
    let zero = |n: u64| if n == 0 { "good" } else { "bad" };
    let (lost, wrong) = (sum(|r| r.lost_acked_writes), sum(|r| r.wrong_values));
    tile("Acknowledged writes lost", &count(lost), zero(lost), &format!("of {acked}"));
    tile("Wrong values", &count(wrong), zero(wrong), "altered, or executed twice");
    let broken = sum(Run::unexplained);
    let total = sum(|r| r.connections_total);
    let remark = match (total, resets) {
        (0, _) => "the same TCP connections go on".into(),
        (_, 0) => format!("{} of {} went on", count(sum(|r| r.connections_carried)), count(total)),
        (_, n) => format!(
            "{} of {} went on, {} reset with a cause",
            count(sum(|r| r.connections_carried)),
            count(total),
            count(n)
        ),
    };
    tile("Connections broken", &count(broken), zero(broken), &remark);
    let times = |value: fn(&Run) -> Option<f64>| {
        let mut known: Vec<f64> = tested.iter().filter_map(|(run, _)| value(run)).collect();
        known.sort_by(f64::total_cmp);
        known
    };
    let down = times(|r| r.downtime_ms);
    let class = if down.len() < tested.len() { "bad" } else { "" };
    let shown = down.last().map_or_else(|| "never back".into(), |t| millis(*t));
    let detected = times(|r| r.detect_ms);
    let remark =
        detected.last().map_or_else(String::new, |t| format!("of it until detected: {}", millis(*t)));
    tile(if tested.len() > 1 { "Worst downtime" } else { "Downtime" }, &shown, class, &remark);
    let median = |values: Vec<f64>| values.get(values.len() / 2).copied();
    if let Some(protected) = median(times(|r| r.latency_ms.map(|q| q.p50))) {
        let before = median(times(|r| r.latency_unprotected_ms.map(|q| q.p50)));
        let remark = before.map_or_else(String::new, |t| format!("unprotected: {}", millis(t)));
        tile("Median latency, protected", &millis(protected), "", &remark);
    }
    let (raw, sent) = (sum(|r| r.bytes_raw), sum(|r| r.bytes_sent));
    if raw > 0 && sent > 0 {
        let remark = format!("{} instead of {}", bytes(sent as f64), bytes(raw as f64));
        tile("Less on the link", &format!("{:.1} : 1", raw as f64 / sent as f64), "", &remark);
    }
    out.push_str("</dl>\n");
}

fn has_pictures(run: &Run) -> bool {
    run.series.is_some() || !run.pauses_ms.is_empty()
}

fn pictures(out: &mut String, run: &Run, pause_max: f64) {
    let fault = run.failure.as_ref().map_or("the fault", |f| f.what.as_str());
    if let Some(series) = &run.series {
        let _ =
            write!(out, "<figure><div class=\"wide\">{}</div><ol class=\"marks\">", charts::course(series));
        for (i, event) in series.events.iter().enumerate() {
            let label = if event.label == "the fault" { fault } else { &event.label };
            let _ = write!(
                out,
                "<li><b>{}</b><time>{}</time>{}</li>",
                i + 1,
                charts::seconds(event.t_ms),
                escape(label)
            );
        }
        out.push_str("</ol></figure>\n");
        if let Some(svg) = charts::lanes(series) {
            let _ = writeln!(
                out,
                "<figure><h3>The outage, reply by reply</h3><div class=\"wide\">{svg}</div><figcaption>Each line is a reply on one TCP \
                 connection; time counts from the moment: {}.</figcaption></figure>",
                escape(fault)
            );
        }
    }
    out.push_str("<div class=\"pair\">\n");
    for client in run.series.iter().flat_map(|series| &series.clients).filter(|c| !c.latency.is_empty()) {
        let _ = writeln!(
            out,
            "<figure><h3>{}: replies within a latency</h3>{}</figure>",
            charts::client_name(client.client),
            charts::distribution(client)
        );
    }
    if !run.pauses_ms.is_empty() {
        let _ = writeln!(
            out,
            "<figure><h3>Pauses of the guest</h3>{}<figcaption>{} pauses.</figcaption></figure>",
            charts::histogram("pauses of the guest", &run.pauses_ms, pause_max),
            count(run.pauses_ms.len() as u64)
        );
    }
    out.push_str("</div>\n");
}

fn all_numbers(out: &mut String, runs: &[Run]) {
    out.push_str("<section><h2>All numbers</h2>\n");
    if let Some(svg) = compare::bars(runs).filter(|_| runs.len() <= FEW) {
        let _ = writeln!(out, "<figure>{svg}<figcaption>Shorter is better.</figcaption></figure>");
    }
    for figure in figures::all(runs, runs.len() <= FEW) {
        let Figure { name, svg, caption } = figure;
        let _ = writeln!(
            out,
            "<figure><h3>{name}</h3><div class=\"wide\">{svg}</div><figcaption>{caption}</figcaption></figure>"
        );
    }
    downtimes(out, runs);
    numbers(out, runs);
    out.push_str("</section>\n");
}

/// The sums over all failovers.
fn together(out: &mut String, summary: &Summary) {
    out.push_str("<section><h2>Together</h2>\n<div class=\"scroll\"><table><tbody>\n");
    for (what, how) in summary.lines() {
        let _ = writeln!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(&what), escape(&how));
    }
    out.push_str("</tbody></table></div></section>\n");
}

/// How the downtimes of many failovers spread.
fn downtimes(out: &mut String, runs: &[Run]) {
    let times: Vec<f64> = runs.iter().filter_map(|run| run.downtime_ms).collect();
    if runs.len() > FEW && !times.is_empty() {
        let max = round_up(times.iter().copied().fold(0.0, f64::max));
        let _ = writeln!(
            out,
            "<div class=\"pair\"><figure><h3>Downtimes</h3>{}<figcaption>{} failovers.</figcaption></figure></div>",
            charts::histogram("downtimes", &times, max),
            count(times.len() as u64)
        );
    }
}

fn numbers(out: &mut String, runs: &[Run]) {
    let lines = table::lines(runs);
    let cell = |cell: &table::Cell| {
        let class = match cell.tone {
            Tone::Plain => "",
            Tone::Good => " class=\"good\"",
            Tone::Bad => " class=\"bad\"",
        };
        format!("<td{class}>{}</td>", escape(&cell.text))
    };
    let column = |name: &str| format!("<th scope=\"col\">{}</th>", escape(name));
    out.push_str("<div class=\"scroll\"><table>\n<thead><tr><th></th>");
    // Few runs stand beside each other, many below each other.
    if runs.len() <= FEW {
        out.extend(runs.iter().map(|run| column(&run.name)));
        out.push_str("</tr></thead>\n<tbody>\n");
        for line in &lines {
            let cells: String = line.cells.iter().map(cell).collect();
            let _ = writeln!(out, "<tr><th scope=\"row\">{}</th>{cells}</tr>", escape(&line.label));
        }
    } else {
        out.extend(lines.iter().map(|line| column(&line.label)));
        out.push_str("</tr></thead>\n<tbody>\n");
        for (i, run) in runs.iter().enumerate() {
            let cells: String = lines.iter().map(|line| cell(&line.cells[i])).collect();
            let _ = writeln!(out, "<tr><th scope=\"row\">{}</th>{cells}</tr>", escape(&run.name));
        }
    }
    let _ = writeln!(out, "</tbody></table></div>\n<p class=\"soft\">{NONE} means not measured.</p>");
}

fn remarks(out: &mut String, report: &Report) {
    list(out, "How to read this", &report.notes);
    for run in &report.runs {
        let mut items = run.notes.clone();
        if let Verdict::Broken(faults) = run.verdict() {
            items.extend(faults);
        }
        // The clients' findings name broken connections as well.
        items.extend(run.findings.iter().cloned());
        list(out, &format!("Remarks: {}", run.name), &items);
    }
    machine(out, &report.host);
}

/// Sentences under a heading; nothing if there are none.
pub(super) fn list(out: &mut String, title: &str, items: &[String]) {
    if !items.is_empty() {
        let items: String = items.iter().map(|item| format!("<li>{}</li>", escape(item))).collect();
        let _ = writeln!(out, "<h2>{}</h2><div class=\"card\"><ul>{items}</ul></div>", escape(title));
    }
}

/// What the figures come from.
pub(super) fn machine(out: &mut String, facts: &[Fact]) {
    if facts.is_empty() {
        return;
    }
    out.push_str("<h2>The machine</h2><div class=\"card\"><dl class=\"facts\">\n");
    for fact in facts {
        let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(&fact.name), escape(&fact.value));
    }
    out.push_str("</dl></div>\n");
}
