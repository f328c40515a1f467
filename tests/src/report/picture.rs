//! Pictures that stand alone, for documents: bars, ours in a colour of their own.

use super::bars::{Bar, Panel, draw};

/// Light and dark, by what the reader prefers; a document's own style sheet does not reach into a picture.
const STYLE: &str = "<style>\
text{font:12px system-ui,sans-serif;fill:#333}.panel{font-weight:600;font-size:13px}\
.tick{fill:#888}.peer{fill:#b4bac4}.ours{fill:#2f6fdf}\
@media(prefers-color-scheme:dark){text{fill:#ddd}.tick{fill:#999}.peer{fill:#596270}.ours{fill:#6fa0ff}}\
</style>";

/// Bars that share a scale.
#[derive(Debug)]
pub struct Bars {
    /// What they show, and in which unit.
    pub name: String,
    /// Label, value (`None`: not measured), and the value in words. Those whose label begins with `llm` are ours.
    pub bars: Vec<(String, Option<f64>, String)>,
}

/// An SVG of these; `label` says in words what it shows.
#[must_use]
pub fn picture(panels: &[Bars], label: &str) -> String {
    let panel = |bars: &Bars| Panel {
        name: bars.name.clone(),
        legend: Vec::new(),
        bars: bars
            .bars
            .iter()
            .map(|(label, value, text)| {
                let class = if label.starts_with("llm") { "ours" } else { "peer" };
                Bar::whole(label, class, *value, text.clone())
            })
            .collect(),
    };
    let svg = draw(&panels.iter().map(panel).collect::<Vec<_>>(), label);
    // Behind the opening tag.
    svg.replacen('>', &format!(">{STYLE}"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_told_from_peers() {
        let bars = vec![
            ("llm".into(), Some(2.0), "2".into()),
            ("a<b".into(), Some(1.0), "1".into()),
            ("c".into(), None, String::new()),
        ];
        let svg = picture(&[Bars { name: "GB/s".into(), bars }], "a picture");
        assert!(svg.starts_with("<svg ") && svg.contains("><style>") && svg.trim_end().ends_with("</svg>"));
        assert_eq!((svg.matches("class=\"ours\"").count(), svg.matches("class=\"peer\"").count()), (1, 1));
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"));
    }
}
