//! Progress on stderr: a bar for a person, lines for a log.

use std::borrow::Cow;
use std::env;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicI8, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nids_store::progress::{Event, Progress, grouped};

use crate::signals::Stop;

/// Number of lines of progress per stage, if stderr is not a terminal.
const LINES: u64 = 20;
/// How often a bar is drawn anew.
const REDRAW: Duration = Duration::from_millis(100);
/// Cells of a curve of losses.
const CELLS: usize = 16;

/// -2: errors alone; -1: warnings, too; 0: as usual; 1: more.
static VERBOSITY: AtomicI8 = AtomicI8::new(0);

/// Sets how much is told, by the number of `-q` and of `-v`.
pub(crate) fn set_verbosity(quiet: u8, verbose: u8) {
    let verbosity = if quiet > 0 { -(quiet.min(2).cast_signed()) } else { verbose.min(1).cast_signed() };
    VERBOSITY.store(verbosity, Ordering::Relaxed);
}

fn verbosity() -> i8 {
    VERBOSITY.load(Ordering::Relaxed)
}

pub(crate) struct Terminal {
    /// Whether stderr is a terminal, and progress wanted.
    has_bar: bool,
    /// Whether rows are counted on it: not where results are written to the same terminal meanwhile.
    counts_rows: bool,
    bar: Option<ProgressBar>,
    label: &'static str,
    steps: u64,
    batch: u64,
    pace: Pace,
    losses: Losses,
    stop: Stop,
    started: Instant,
    /// When the stage under way started.
    stage_started: Instant,
}

/// How fast it goes, since the first event.
#[derive(Default)]
struct Pace {
    first: Option<(Instant, f64)>,
    drawn: Option<Instant>,
}

impl Pace {
    /// Whether it is time to draw; at most [`REDRAW`] often.
    fn is_due(&mut self) -> bool {
        let is_due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW);
        if is_due {
            self.drawn = Some(Instant::now());
        }
        is_due
    }

    /// How many a second, once there is something to measure, when `done` are.
    fn rate(&mut self, done: f64) -> Option<f64> {
        let (since, before) = *self.first.get_or_insert((Instant::now(), done));
        let seconds = since.elapsed().as_secs_f64();
        Some((done - before) / seconds).filter(|rate| seconds > 0.2 && rate.is_finite() && *rate > 0.0)
    }
}

impl Terminal {
    /// `counts_rows`: whether rows are counted on a terminal.
    pub(crate) fn new(stop: Stop, counts_rows: bool) -> Self {
        let now = Instant::now();
        Self {
            has_bar: io::stderr().is_terminal() && verbosity() >= 0,
            counts_rows,
            bar: None,
            label: "",
            steps: 0,
            batch: 0,
            pace: Pace::default(),
            losses: Losses::default(),
            stop,
            started: now,
            stage_started: now,
        }
    }

    /// Prints a line: a warning but with `-qq`, others but with `-q`.
    fn line(&self, text: &str) {
        let least = if text.starts_with("warning: ") { -1 } else { 0 };
        if verbosity() < least {
            return;
        }
        let text = if verbosity() > 0 {
            Cow::Owned(format!("[{:7.2} s] {text}", self.started.elapsed().as_secs_f64()))
        } else {
            Cow::Borrowed(text)
        };
        match &self.bar {
            Some(bar) if !bar.is_hidden() => bar.println(painted(&text)),
            _ => tell(&text),
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.pace = Pace::default();
    }

    fn show_step(&mut self, step: u64, loss: f64, lr: f64) {
        self.losses.add(step, loss);
        let rate = self.pace.rate(step as f64);
        if step < self.steps && !self.pace.is_due() {
            return;
        }
        let Some(bar) = &self.bar else { return };
        // what a narrow terminal cuts off comes last
        let mut text = format!("{} loss {loss:.4}", self.losses.curve());
        if let Some(rate) = rate {
            let left = Duration::from_secs_f64((self.steps - step.min(self.steps)) as f64 / rate);
            text = format!("{text}, {} left, {} flows/s", duration(left), grouped(rate * self.batch as f64));
        }
        bar.set_position(step);
        bar.set_message(format!("{}, lr {lr:.2e}", text.trim_start()));
    }

    fn show_rows(&mut self, what: &'static str, rows: u64, share: Option<f64>) {
        const PARTS: u64 = 1000;
        let is_done = share.is_some_and(|share| share >= 1.0);
        if !self.has_bar || !self.counts_rows || self.steps > 0 || is_done {
            if is_done && self.steps == 0 {
                self.clear();
            }
            return;
        }
        let rate = self.pace.rate(rows as f64);
        if !self.pace.is_due() {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let template = if share.is_some() { "{wide_bar} {percent}% {msg}" } else { "{spinner} {msg}" };
            ProgressBar::new(PARTS).with_style(ProgressStyle::with_template(template).expect("a fixed template"))
        });
        let mut text = format!("{} rows {what}", grouped(rows as f64));
        if let Some(rate) = rate {
            text = format!("{text}, {} rows/s", grouped(rate));
            if let Some(share) = share.filter(|share| *share > 0.0) {
                let left = Duration::from_secs_f64((rows as f64 / share - rows as f64).max(0.0) / rate);
                text = format!("{text}, {} left", duration(left));
            }
        }
        bar.set_position((share.unwrap_or(0.0) * PARTS as f64) as u64);
        bar.set_message(text);
        bar.tick();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.clear();
        if verbosity() > 0 {
            self.line("ended");
        }
    }
}

/// Losses of a whole run in a few cells, each the mean of the steps that fall into it.
#[derive(Default)]
struct Losses {
    steps: u64,
    cells: [(f64, u32); CELLS],
}

impl Losses {
    fn add(&mut self, step: u64, loss: f64) {
        let cell = ((step.max(1) - 1) * CELLS as u64 / self.steps.max(1)).min(CELLS as u64 - 1) as usize;
        if loss.is_finite() {
            self.cells[cell].0 += loss;
            self.cells[cell].1 += 1;
        }
    }

    /// The cells so far, from the lowest loss of the run to the highest; nothing of fewer than two.
    fn curve(&self) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let means: Vec<f64> = self.cells.iter().filter(|(_, n)| *n > 0).map(|(sum, n)| sum / f64::from(*n)).collect();
        let [low, high] = [f64::min, f64::max].map(|most| means.iter().copied().reduce(most).unwrap_or(0.0));
        if means.len() < 2 {
            return String::new();
        }
        let bar = |mean: &f64| {
            let height = if high > low { (mean - low) / (high - low) } else { 0.0 };
            BARS[(height * (BARS.len() - 1) as f64).round() as usize]
        };
        means.iter().map(bar).collect()
    }
}

/// A time in its two largest units.
pub(crate) fn duration(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds @ 3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        seconds => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Prints a line on stderr. A closed stderr is ignored.
pub(crate) fn tell(text: &str) {
    drop(writeln!(io::stderr(), "{}", painted(text)));
}

/// The same for a line that `--quiet` leaves out.
pub(crate) fn say(text: &str) {
    if verbosity() >= 0 {
        tell(text);
    }
}

/// A line that is safe for a terminal, on which errors and warnings are coloured.
fn painted(text: &str) -> Cow<'_, str> {
    let safe = plain(text);
    let code = [("error: ", "31;1"), ("warning: ", "33;1")].into_iter().find(|(prefix, _)| safe.starts_with(prefix));
    match code {
        Some((prefix, code)) if has_colours() => {
            let (word, rest) = safe.split_at(prefix.len() - 2);
            Cow::Owned(format!("\u{1b}[{code}m{word}\u{1b}[0m{rest}"))
        }
        _ => safe,
    }
}

/// Whether stderr is a terminal that takes colours, and nobody minds: <https://no-color.org>.
#[expect(clippy::disallowed_methods, reason = "the CLI alone looks at the environment")]
fn has_colours() -> bool {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !is_set("NO_COLOR") && env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// Makes a text that may contain names from files safe for a terminal. Control characters, which move the cursor or set the
/// window's title, are escaped, and so are those that change the direction of writing. Every line after the first is indented, so
/// that no file can forge a message.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let is_harmless = |c: char| !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if text.chars().all(is_harmless) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\n  "),
            c if is_harmless(c) => out.push(c),
            c => out.extend(c.escape_default()),
        }
    }
    Cow::Owned(out)
}

impl Progress for Terminal {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Started { stage, steps, batch } => {
                self.clear();
                (self.label, self.steps, self.batch) = (stage.name(), steps, batch);
                (self.stage_started, self.losses) = (Instant::now(), Losses { steps, ..Losses::default() });
                self.stop.set_in_training(steps > 0);
                if self.has_bar && steps > 0 {
                    let style = ProgressStyle::with_template("{prefix} {bar:12} {pos}/{len} {wide_msg}");
                    let bar = ProgressBar::new(steps).with_prefix(self.label).with_style(style.expect("a fixed template"));
                    self.bar = Some(bar);
                } else if steps > 0 {
                    self.line(&format!("{}: {steps} steps", self.label));
                } else {
                    self.line(&format!("{}: started", self.label));
                }
            }
            Event::Step { step, loss, lr } => {
                if self.has_bar {
                    self.show_step(step, loss, lr);
                } else if step == self.steps || step.is_multiple_of(self.steps.div_ceil(LINES)) {
                    self.line(&format!("{}: step {step}/{} loss {loss:.4} lr {lr:.2e}", self.label, self.steps));
                }
            }
            Event::Rows { what, rows, share } => self.show_rows(what, rows, share),
            Event::Message(text) => self.line(text),
            Event::Detail(text) => {
                if verbosity() > 0 {
                    self.line(text);
                }
            }
            Event::Finished { stage, summary } => {
                self.stop.set_in_training(false);
                self.clear();
                self.steps = 0;
                if verbosity() > 0 {
                    self.line(&format!("{stage}: took {:.2} s", self.stage_started.elapsed().as_secs_f64()));
                }
                self.line(&format!("{stage}: {summary}"));
            }
        }
    }

    fn stop(&mut self) -> Option<u8> {
        self.stop.signal()
    }

    fn reload(&mut self) -> bool {
        self.stop.take_reload()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_supplies_cannot_steer_the_terminal_or_forge_a_line() {
        let text = "column \"\u{1b}]0;owned\u{7}\r\u{9b}2J\u{202e}a\nerror: forged\tü\"";
        assert_eq!(plain(text), "column \"\\u{1b}]0;owned\\u{7}\\r\\u{9b}2J\\u{202e}a\n  error: forged\\tü\"");
        assert!(matches!(plain("größer"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_curve_goes_from_the_highest_loss_to_the_lowest() {
        let mut losses = Losses { steps: 4, ..Losses::default() };
        losses.add(1, 8.0);
        assert_eq!(losses.curve(), "");
        for (step, loss) in [(2, 1.0), (3, 4.5), (4, f64::NAN)] {
            losses.add(step, loss);
        }
        assert_eq!(losses.curve(), "█▁▅");
        // several steps a cell: their mean, whatever number of them has one
        let mut losses = Losses { steps: 2 * CELLS as u64, ..Losses::default() };
        for (step, loss) in [(1, 1.0), (2, 3.0), (3, 4.0), (4, f64::NAN), (2 * CELLS as u64, 3.0)] {
            losses.add(step, loss);
        }
        assert_eq!(losses.curve(), "▁█▅");
        assert_eq!(losses.cells[CELLS - 1], (3.0, 1));
    }

    #[test]
    fn numbers_and_times_are_short() {
        assert_eq!([0.0, 999.4, 1000.0, 1_234_567.0].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let times = [0, 59, 61, 3725, 90_000].map(|seconds| duration(Duration::from_secs(seconds)));
        assert_eq!(times, ["0 s", "59 s", "1 min 1 s", "1 h 2 min", "1 d 1 h"]);
    }
}
