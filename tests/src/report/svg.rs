//! SVG by hand: shapes with classes, so that the page's style sheet decides on colours; and axis scales.

use std::fmt::Write as _;

/// Text that is safe in HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Where a text sits relative to its point.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing under way. Writing to a String cannot fail, so results of `write!` are dropped.
#[derive(Debug)]
pub(super) struct Svg {
    body: String,
    width: f64,
    height: f64,
}

impl Svg {
    /// An empty drawing; `label` says in words what it shows.
    pub(super) fn new(width: f64, height: f64, label: &str) -> Self {
        let body = format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\" \
             xmlns=\"http://www.w3.org/2000/svg\">",
            escape(label)
        );
        Self { body, width, height }
    }

    pub(super) fn width(&self) -> f64 {
        self.width
    }

    pub(super) fn height(&self) -> f64 {
        self.height
    }

    pub(super) fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let _ = write!(
            self.body,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    /// A rectangle; `title` shows when pointed at.
    pub(super) fn rect(&mut self, class: &str, (x, y): (f64, f64), (w, h): (f64, f64), title: &str) {
        let (w, h) = (w.max(0.0), h.max(0.0));
        let _ = write!(
            self.body,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\">"
        );
        if !title.is_empty() {
            let _ = write!(self.body, "<title>{}</title>", escape(title));
        }
        self.body.push_str("</rect>");
    }

    pub(super) fn circle(&mut self, class: &str, (x, y): (f64, f64), r: f64, title: &str) {
        let _ = write!(
            self.body,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\"><title>{}</title></circle>",
            escape(title)
        );
    }

    pub(super) fn path(&mut self, class: &str, d: &str) {
        if !d.is_empty() {
            let _ = write!(self.body, "<path class=\"{class}\" d=\"{d}\"/>");
        }
    }

    pub(super) fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(
            self.body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
            escape(text)
        );
    }

    pub(super) fn finish(mut self) -> String {
        self.body.push_str("</svg>\n");
        self.body
    }
}

/// Maps values to pixels; values outside are clamped to the ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    min: f64,
    max: f64,
    from: f64,
    to: f64,
    log: bool,
}

impl Scale {
    /// A linear scale.
    pub(super) fn linear((min, max): (f64, f64), (from, to): (f64, f64)) -> Self {
        let max = if max > min { max } else { min + 1.0 };
        Self { min, max, from, to, log: false }
    }

    /// A logarithmic scale over the whole decades that hold `min` and `max`.
    pub(super) fn log((min, max): (f64, f64), (from, to): (f64, f64)) -> Self {
        let low = 10f64.powf(min.max(1e-3).log10().floor());
        let high = 10f64.powf(max.max(low * 1.01).log10().ceil());
        Self { min: low, max: high, from, to, log: true }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(self.min) / self.min).ln() / (self.max / self.min).ln()
        } else {
            (value - self.min) / (self.max - self.min)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round values to label: about `count` of them, or each decade.
    pub(super) fn ticks(&self, count: usize) -> Vec<f64> {
        let mut ticks = Vec::new();
        if self.log {
            let mut tick = self.min;
            while tick <= self.max * 1.001 && ticks.len() < 20 {
                ticks.push(tick);
                tick *= 10.0;
            }
            return ticks;
        }
        let step = nice((self.max - self.min) / count.max(1) as f64);
        let mut k = (self.min / step).ceil();
        while k * step <= self.max + step * 1e-6 && ticks.len() < 100 {
            ticks.push(k * step);
            k += 1.0;
        }
        ticks
    }
}

/// The next number not below `x` that is 1, 2 or 5 times a power of ten.
pub(super) fn nice(x: f64) -> f64 {
    let base = 10f64.powf(x.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.into_iter().map(|s| s * base).find(|v| *v >= x * 0.999_999).unwrap_or(base * 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_map_ends_and_clamp() {
        let s = Scale::linear((0.0, 10.0), (100.0, 0.0));
        assert_eq!([0.0, 5.0, 10.0, 99.0].map(|v| s.at(v)), [100.0, 50.0, 0.0, 0.0]);
        let s = Scale::log((0.2, 800.0), (0.0, 4.0));
        assert_eq!(s.ticks(0).len(), 5);
        assert!((s.at(10.0) - 2.0).abs() < 1e-9);
        assert_eq!(s.at(0.0), 0.0);
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(Scale::linear((0.0, 73.0), (0.0, 1.0)).ticks(5), [0.0, 20.0, 40.0, 60.0]);
        assert_eq!(Scale::linear((-1.5, 1.2), (0.0, 1.0)).ticks(5), [-1.0, 0.0, 1.0]);
        assert_eq!(Scale::linear((5.0, 5.0), (0.0, 1.0)).ticks(2), [5.0, 5.5, 6.0]);
        assert_eq!([0.7, 1.0, 1.1, 3.0, 60.0].map(nice), [1.0, 1.0, 2.0, 5.0, 100.0]);
    }

    #[test]
    fn text_cannot_break_out() {
        assert_eq!(escape("<b a=\"1\">&\x1b"), "&lt;b a=&quot;1&quot;&gt;&amp;\u{fffd}");
    }
}
