//! What a stage tells while it works. The caller decides how to show it.

use nids_config::Stage;

/// Something worth showing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// A stage begins; `steps` is 0 where there are none to count.
    Started {
        /// Which.
        stage: Stage,
        /// How many steps it takes.
        steps: u64,
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
    /// A line for the reader.
    Message(&'a str),
    /// The stage has finished, with a line on what it left.
    Finished {
        /// Which.
        stage: Stage,
        /// What it left.
        summary: &'a str,
    },
}

/// Whoever listens. Any `FnMut(Event)` does that may move to another thread.
pub trait Progress: Send {
    /// Called in order, from one thread at a time.
    fn event(&mut self, event: Event<'_>);

    /// Asked between steps: the signal that wants the stage to save what it has and stop.
    fn stop(&mut self) -> Option<u8> {
        None
    }
}

impl<F: FnMut(Event<'_>) + Send> Progress for F {
    fn event(&mut self, event: Event<'_>) {
        self(event);
    }
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&mut self, _: Event<'_>) {}
}
