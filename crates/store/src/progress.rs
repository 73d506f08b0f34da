//! Events that a stage reports while it works. The caller decides how to show them.

use nids_config::Stage;

use crate::{Error, Result};

/// An event of a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// A stage has started. `steps` is 0 if the stage counts no steps.
    Started {
        /// The stage.
        stage: Stage,
        /// Number of steps that it takes.
        steps: u64,
        /// Rows of a step.
        batch: u64,
    },
    /// A step is done.
    Step {
        /// Counted from 1.
        step: u64,
        /// The batch's loss.
        loss: f64,
        /// The learning rate used.
        lr: f64,
    },
    /// Rows have been worked on.
    Rows {
        /// What was done to them: `read`, `scored`, `encoded`.
        what: &'static str,
        /// How many so far.
        rows: u64,
        /// About which share of all that is, where it is known; 1 at the end.
        share: Option<f64>,
    },
    /// A line for the reader.
    Message(&'a str),
    /// A line for a reader who wants to know more.
    Detail(&'a str),
    /// The stage has finished.
    Finished {
        /// The stage.
        stage: Stage,
        /// A line about the results.
        summary: &'a str,
    },
}

/// A whole number with commas, as people are told it.
pub fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A receiver of events. Every `FnMut(Event)` that is `Send` is one.
pub trait Progress: Send {
    /// Receives an event. Events come in order, from one thread at a time.
    fn event(&mut self, event: Event<'_>);

    /// Called between steps. Returns a signal if the stage should save a checkpoint and stop.
    fn stop(&mut self) -> Option<u8> {
        None
    }

    /// Whether a signal has asked since the last call that what is served be read again.
    fn reload(&mut self) -> bool {
        false
    }

    /// Ends work that keeps no checkpoint, where a signal asks for it.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    fn go_on(&mut self) -> Result<()> {
        self.stop().map_or(Ok(()), |signal| Err(Error::Interrupted { signal }))
    }
}

impl<F: FnMut(Event<'_>) + Send> Progress for F {
    fn event(&mut self, event: Event<'_>) {
        self(event);
    }
}

/// A receiver that ignores all events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&mut self, _: Event<'_>) {}
}
