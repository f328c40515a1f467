//! The view of a run while it goes on: two redrawn lines on a terminal, a plain line now and then elsewhere.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use rustix::termios::tcgetwinsize;

use super::format::{count, millis};
use crate::clients::Snapshot;

const REDRAW: Duration = Duration::from_millis(150);
const PLAIN: Duration = Duration::from_secs(2);
/// The rate is the mean of this long, and a step of the sparkline.
const RATE: Duration = Duration::from_millis(500);
const SPARKS: usize = 32;

/// What to show.
#[derive(Debug, Clone, Copy, Default)]
pub struct View<'a> {
    /// Since the start of the clients.
    pub elapsed: Duration,
    /// What is going on, for instance `protected`.
    pub phase: &'a str,
    /// The clients' counters, summed.
    pub clients: Snapshot,
    /// The present time on the clients' clock.
    pub now_ns: u64,
    /// Epochs committed, once there are any.
    pub epochs: Option<u64>,
    /// Anything else worth a few words.
    pub detail: &'a str,
}

/// Draws [`View`]s on a stream.
#[derive(Debug)]
pub struct Live<W: Write> {
    out: W,
    tty: bool,
    width: usize,
    drawn: bool,
    last_draw: Option<Duration>,
    last_rate: (Duration, u64),
    rate: f64,
    sparks: VecDeque<f64>,
}

impl Live<io::Stderr> {
    /// On standard error, redrawn if that is a terminal.
    #[must_use]
    pub fn stderr() -> Self {
        let err = io::stderr();
        let width = tcgetwinsize(&err).map_or(0, |size| usize::from(size.ws_col));
        let tty = err.is_terminal();
        Self::new(err, tty, if width == 0 { 100 } else { width })
    }
}

impl<W: Write> Live<W> {
    /// On any stream; `tty` says whether it understands cursor movement, `width` its columns.
    #[must_use]
    pub fn new(out: W, tty: bool, width: usize) -> Self {
        Self {
            out,
            tty,
            width,
            drawn: false,
            last_draw: None,
            last_rate: (Duration::ZERO, 0),
            rate: 0.0,
            sparks: VecDeque::new(),
        }
    }

    /// Shows the state; call it as often as convenient, it draws only when due.
    pub fn update(&mut self, view: &View<'_>) {
        let (then, replies) = self.last_rate;
        let passed = view.elapsed.saturating_sub(then);
        if passed >= RATE {
            self.rate = view.clients.replies.saturating_sub(replies) as f64 / passed.as_secs_f64();
            self.last_rate = (view.elapsed, view.clients.replies);
            self.sparks.push_back(self.rate);
            if self.sparks.len() > SPARKS {
                self.sparks.pop_front();
            }
        }
        let due = if self.tty { REDRAW } else { PLAIN };
        if self.last_draw.is_some_and(|last| view.elapsed.saturating_sub(last) < due) {
            return;
        }
        self.last_draw = Some(view.elapsed);
        let [first, second] = self.lines(view);
        // Not being able to draw must not end a run: errors are dropped here and below.
        let _ = if self.tty {
            let up = if self.drawn { "\x1b[1A\r" } else { "" };
            let (first, second) = (self.cut(&first), self.cut(&second));
            self.drawn = true;
            write!(self.out, "{up}\x1b[2K{first}\n\r\x1b[2K{second}")
        } else {
            writeln!(self.out, "{first}  {second}")
        };
        let _ = self.out.flush();
    }

    /// Writes a line that stays, above the redrawn ones.
    pub fn event(&mut self, elapsed: Duration, text: &str) {
        self.clear();
        let _ = writeln!(self.out, "{:7.2} s  {text}", elapsed.as_secs_f64());
        let _ = self.out.flush();
        self.last_draw = None;
    }

    /// Removes the redrawn lines; what was written by [`Live::event`] stays.
    pub fn clear(&mut self) {
        if self.drawn {
            let _ = write!(self.out, "\r\x1b[2K\x1b[1A\x1b[2K");
            let _ = self.out.flush();
            self.drawn = false;
        }
    }

    fn lines(&self, view: &View<'_>) -> [String; 2] {
        let c = view.clients;
        let silence = Duration::from_nanos(view.now_ns.saturating_sub(c.last_reply_ns));
        // Between two checkpoints silence is normal; beyond a second it is worth saying.
        let waiting = if c.last_reply_ns > 0 && silence > Duration::from_secs(1) {
            format!("  no reply for {}", millis(silence.as_secs_f64() * 1e3))
        } else {
            String::new()
        };
        let first = format!(
            "{:7.2} s  {:<12} {:>6} replies/s  latency {}{waiting}",
            view.elapsed.as_secs_f64(),
            view.phase,
            count(self.rate.round() as u64),
            millis(c.last_latency_ns as f64 / 1e6),
        );
        let mut second = if self.tty { format!("{}  ", self.sparkline()) } else { String::new() };
        second.push_str(&format!("{} writes acknowledged", count(c.acked_writes)));
        for (n, what) in [(c.suspect, "LOST OR WRONG"), (c.broken, "BROKEN CONNECTIONS")] {
            if n > 0 {
                second.push_str(&format!(", {n} {what}"));
            }
        }
        if let Some(epochs) = view.epochs {
            second.push_str(&format!(", {} epochs", count(epochs)));
        }
        if !view.detail.is_empty() {
            second.push_str(", ");
            second.push_str(view.detail);
        }
        [first, second]
    }

    fn sparkline(&self) -> String {
        const STEPS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let most = self.sparks.iter().copied().fold(1.0, f64::max);
        let step = |rate: &f64| {
            // Nothing at all looks different from little.
            let at = if *rate > 0.0 { (rate / most * 8.0).ceil() as usize } else { 0 };
            STEPS[at.min(8)]
        };
        self.sparks.iter().map(step).collect()
    }

    /// A line that wraps cannot be redrawn.
    fn cut(&self, line: &str) -> String {
        line.chars().filter(|c| !c.is_control()).take(self.width.saturating_sub(1)).collect()
    }
}

impl<W: Write> Drop for Live<W> {
    /// Leaves the terminal clean, also when a run is given up.
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(ms: u64, replies: u64) -> View<'static> {
        let clients = Snapshot {
            replies,
            acked_writes: replies,
            last_reply_ns: 1,
            last_latency_ns: 2_500_000,
            ..Snapshot::default()
        };
        let elapsed = Duration::from_millis(ms);
        View { elapsed, phase: "protected", clients, now_ns: ms * 1_000_000, epochs: Some(7), detail: "" }
    }

    fn shown(tty: bool, views: &[View<'_>]) -> String {
        let mut out = Vec::new();
        let mut live = Live::new(&mut out, tty, 60);
        views.iter().for_each(|view| live.update(view));
        live.event(Duration::from_secs(9), "primary host killed");
        drop(live);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn elsewhere_a_plain_line_each_two_seconds() {
        let views: Vec<View<'_>> = (0..60).map(|i| view(i * 100, i * 50)).collect();
        let text = shown(false, &views);
        assert_eq!(text.lines().count(), 4, "at 0, 2 and 4 s, and the event\n{text}");
        assert!(!text.contains('\x1b'));
        let last = text.lines().nth(2).unwrap();
        assert!(last.contains("500 replies/s") && last.contains("latency 2.50 ms"), "{last}");
        assert!(last.contains("no reply for 4000 ms") && last.contains("7 epochs"), "{last}");
    }

    #[test]
    fn a_terminal_is_redrawn_within_its_width_and_left_clean() {
        let text = shown(true, &[view(0, 0), view(100, 9), view(700, 90)]);
        assert_eq!(text.matches("replies/s").count(), 2, "100 ms is too soon");
        let visible = text.replace("\x1b[2K", "").replace("\x1b[1A", "\n");
        assert!(visible.lines().all(|line| line.trim_matches('\r').chars().count() < 60), "{visible:?}");
        assert!(text.ends_with("primary host killed\n"));
        assert_eq!(text.matches("\x1b[1A").count(), 2, "one to redraw, one to clear");
    }

    #[test]
    fn faults_are_shouted() {
        let mut bad = view(0, 10);
        bad.clients.broken = 2;
        assert!(shown(false, &[bad]).contains("2 BROKEN CONNECTIONS"));
        assert!(!shown(false, &[view(0, 10)]).contains("BROKEN"));
    }
}
