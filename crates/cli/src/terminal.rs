//! Progress on stderr: a bar for a person, lines for a log.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use nids_store::progress::{Event, Progress};

use crate::signals::Stop;

/// Number of lines of progress per stage, if stderr is not a terminal.
const LINES: u64 = 20;

pub(crate) struct Terminal {
    /// `None` if stderr is not a terminal.
    bar: Option<ProgressBar>,
    label: &'static str,
    steps: u64,
    stop: Stop,
}

impl Terminal {
    pub(crate) fn new(stop: Stop) -> Self {
        Self { bar: io::stderr().is_terminal().then(ProgressBar::hidden), label: "", steps: 0, stop }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) if !bar.is_hidden() => bar.println(plain(text)),
            _ => tell(text),
        }
    }
}

/// Prints a line on stderr. A closed stderr is ignored.
pub(crate) fn tell(text: &str) {
    drop(writeln!(io::stderr(), "{}", plain(text)));
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
            Event::Started { stage, steps } => {
                (self.label, self.steps) = (stage.name(), steps);
                self.stop.set_in_training(steps > 0);
                match &mut self.bar {
                    Some(bar) if steps > 0 => {
                        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta}");
                        *bar = ProgressBar::new(steps).with_prefix(self.label).with_style(style.expect("a fixed template"));
                    }
                    _ if steps > 0 => self.line(&format!("{}: {steps} steps", self.label)),
                    _ => self.line(&format!("{}: started", self.label)),
                }
            }
            Event::Step { step, loss, lr } => {
                let text = format!("loss {loss:.4} lr {lr:.2e}");
                if let Some(bar) = &self.bar {
                    bar.set_position(step);
                    bar.set_message(text);
                } else if step == self.steps || step.is_multiple_of(self.steps.div_ceil(LINES)) {
                    self.line(&format!("{}: step {step}/{} {text}", self.label, self.steps));
                }
            }
            Event::Message(text) => self.line(text),
            Event::Finished { stage, summary } => {
                self.stop.set_in_training(false);
                if let Some(bar) = &self.bar {
                    bar.finish_and_clear();
                }
                self.line(&format!("{stage}: {summary}"));
            }
        }
    }

    fn stop(&mut self) -> Option<u8> {
        self.stop.signal()
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
}
