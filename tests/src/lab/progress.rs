//! What the runner is doing: spinners on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// Shows steps on stderr.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    start: Instant,
    fancy: bool,
    quiet: bool,
}

/// A step in progress; it says nothing more when dropped unfinished.
#[derive(Debug)]
pub struct Step {
    bar: Option<ProgressBar>,
    start: Instant,
    quiet: bool,
    text: String,
    origin: Instant,
}

impl Progress {
    /// Spinners when stderr is a terminal and `CI` is not set, lines otherwise.
    #[must_use]
    pub fn new() -> Self {
        let fancy = std::io::stderr().is_terminal() && std::env::var_os("CI").is_none();
        Self { start: Instant::now(), fancy, quiet: false }
    }

    /// Says nothing at all.
    #[must_use]
    pub fn silent() -> Self {
        Self { start: Instant::now(), fancy: false, quiet: true }
    }

    /// Begins a step: "Booting two hosts".
    #[must_use]
    pub fn step(&self, text: impl Into<String>) -> Step {
        let text = text.into();
        let bar = self.fancy.then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is fixed; were it wrong, the default one serves.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.set_message(text.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() && !self.quiet {
            eprintln!("[{:6.1}s] {text} ...", self.start.elapsed().as_secs_f64());
        }
        Step { bar, start: Instant::now(), quiet: self.quiet, text, origin: self.start }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Step {
    /// Adds a detail to the line.
    pub fn detail(&self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {detail}", self.text));
        }
    }

    /// Ends the step; `result` says how: "3 packages".
    pub fn done(self, result: &str) {
        let took = self.start.elapsed().as_secs_f64();
        let line = format!("{}: {result} ({took:.1} s)", self.text);
        match self.bar {
            Some(bar) => bar.finish_with_message(line),
            None if self.quiet => {}
            None => eprintln!("[{:6.1}s] {line}", self.origin.elapsed().as_secs_f64()),
        }
    }
}
