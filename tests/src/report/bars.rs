//! Bars below each other, whole or in parts.

use super::{
    format::NONE,
    svg::{Anchor, Svg},
};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 230.0;
const LABELS: f64 = 150.0;
const ROW: f64 = 20.0;
const HEAD: f64 = 26.0;
const GAP: f64 = 8.0;

/// A stretch of a bar.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) class: &'static str,
    pub(super) value: f64,
    /// Shown when pointed at.
    pub(super) title: String,
}

/// One bar; without parts it was not measured.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) parts: Vec<Part>,
    /// Its value in words.
    pub(super) text: String,
}

impl Bar {
    /// In one part, or not measured.
    pub(super) fn whole(label: &str, class: &'static str, value: Option<f64>, text: String) -> Self {
        let part = |value| Part { class, value, title: String::new() };
        Self { label: label.into(), parts: value.map(part).into_iter().collect(), text }
    }
}

/// Bars that share a scale.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    pub(super) name: String,
    /// What the classes of the parts mean, if there is more than one.
    pub(super) legend: Vec<(&'static str, String)>,
    pub(super) bars: Vec<Bar>,
}

impl Panel {
    fn height(&self) -> f64 {
        HEAD + ROW * self.bars.len() as f64 + GAP
    }

    fn draw(&self, svg: &mut Svg, top: f64) {
        svg.text("panel", (0.0, top + 17.0), Anchor::Start, &self.name);
        let mut right = svg.width();
        for (class, name) in self.legend.iter().rev() {
            right -= name.chars().count() as f64 * 6.8 + 10.0;
            svg.text("legend", (right, top + 17.0), Anchor::Start, name);
            right -= 16.0;
            svg.rect(class, (right, top + 8.0), (11.0, 10.0), "");
        }
        let whole = |bar: &Bar| bar.parts.iter().map(|part| part.value.max(0.0)).sum::<f64>();
        let largest = self.bars.iter().map(whole).fold(f64::MIN_POSITIVE, f64::max);
        for (i, bar) in self.bars.iter().enumerate() {
            let y = top + HEAD + ROW * i as f64;
            svg.text("legend", (LEFT - 10.0, y + 14.0), Anchor::End, &bar.label);
            if bar.parts.is_empty() {
                let text = if bar.text.is_empty() { NONE } else { &bar.text };
                svg.text("tick", (LEFT, y + 14.0), Anchor::Start, text);
                continue;
            }
            let mut x = LEFT;
            for part in &bar.parts {
                let width = part.value.max(0.0) / largest * (WIDTH - LEFT - LABELS);
                // What is there can be seen.
                let width = if part.value > 0.0 || bar.parts.len() == 1 { width.max(1.0) } else { 0.0 };
                svg.rect(part.class, (x, y + 3.0), (width, ROW - 6.0), &part.title);
                x += width;
            }
            svg.text("legend", (x + 8.0, y + 14.0), Anchor::Start, &bar.text);
        }
    }
}

/// All panels in one picture; `label` says in words what it shows.
pub(super) fn draw(panels: &[Panel], label: &str) -> String {
    let mut svg = Svg::new(WIDTH, panels.iter().map(Panel::height).sum(), label);
    let mut top = 0.0;
    for panel in panels {
        panel.draw(&mut svg, top);
        top += panel.height();
    }
    debug_assert!(top <= svg.height() + 0.5);
    svg.finish()
}
