//! The page of a bench: a picture of each measure, then all figures.

use std::fmt::Write as _;

use super::{
    bars::{self, Bar, Panel},
    bench::{Bench, Measure, kind, shown},
    format::NONE,
    html,
    svg::escape,
};

/// Writing to a String cannot fail, so results of `write!` are dropped.
pub(super) fn page(bench: &Bench) -> String {
    let mut out = html::begin(&bench.title, &bench.generated);
    out.push_str("</header>\n");
    let modes = bench.modes();
    let measures = bench.measures();
    let mut groups: Vec<(&str, Vec<&Measure<'_>>)> = Vec::new();
    for measure in &measures {
        let kind = kind(measure.bench);
        match groups.last_mut() {
            Some((name, group)) if *name == kind => group.push(measure),
            _ => groups.push((kind, vec![measure])),
        }
    }
    for (kind, group) in groups {
        let panels: Vec<Panel> = group.iter().map(|m| panel(m, &modes)).collect();
        let picture = bars::draw(&panels, &format!("{kind}, by mode"));
        let _ =
            writeln!(out, "<figure><h3>{}</h3><div class=\"wide\">{picture}</div></figure>", escape(kind));
    }
    out.push_str("<section><h2>All figures</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th></th>");
    out.extend(modes.iter().map(|mode| format!("<th scope=\"col\">{}</th>", escape(mode))));
    out.push_str("</tr></thead>\n<tbody>\n");
    for measure in &measures {
        let cells = measure.rows.iter().map(|row| row.map_or_else(|| NONE.into(), shown));
        let cells: String = cells.map(|text| format!("<td>{}</td>", escape(&text))).collect();
        let _ = writeln!(out, "<tr><th scope=\"row\">{}</th>{cells}</tr>", escape(measure.bench));
    }
    out.push_str(
        "</tbody></table></div>\n<p class=\"soft\">In brackets: of the unprotected value.</p></section>\n",
    );
    let missing = bench.rows.iter().filter(|row| !row.note.is_empty());
    let missing = missing.map(|row| format!("{}, {}: {}", row.bench, row.mode, row.note)).collect::<Vec<_>>();
    html::list(&mut out, "How to read this", &bench.notes);
    html::list(&mut out, "Remarks", &missing);
    html::machine(&mut out, &bench.host);
    out.push_str("</main></body></html>\n");
    out
}

fn panel(measure: &Measure<'_>, modes: &[&str]) -> Panel {
    let bar = |(row, mode): (&Option<&super::Row>, &&str)| {
        let class = if mode.starts_with("unprotected") { "bar stock" } else { "bar" };
        let text = row.map_or_else(String::new, shown);
        Bar::whole(mode, class, row.and_then(|row| row.value), text)
    };
    Panel {
        name: measure.bench.into(),
        legend: Vec::new(),
        bars: measure.rows.iter().zip(modes).map(bar).collect(),
    }
}
