//! Progress on stderr: a bar for a person, lines for a log.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use nids_pipeline::progress::{Event, Progress};

use crate::signals::Stop;

/// Lines of a log per stage.
const LINES: u64 = 20;

pub(crate) struct Terminal {
    /// None where stderr is no terminal.
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
            Some(bar) if !bar.is_hidden() => bar.println(text),
            // A closed stderr is no reason to stop.
            _ => drop(writeln!(io::stderr(), "{text}")),
        }
    }
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
