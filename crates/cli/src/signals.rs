//! Ctrl-C and SIGTERM. The first signal asks the program to stop, the second ends it at once. SIGHUP asks a program that serves to read
//! again what it serves.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level;

/// The time that a command without steps has to remove its scratch files.
const PATIENCE: Duration = Duration::from_secs(1);

/// The signal that came, and whether training is under way, whose current step is finished first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    signal: Arc<AtomicU8>,
    in_training: Arc<AtomicBool>,
    /// Whether the first signal is answered.
    answers: bool,
    /// Whether the program looks for signals by itself all the time.
    serves: bool,
    reload: Arc<AtomicBool>,
}

impl Stop {
    /// Starts to listen for signals. `answers`: whether the first one is answered with a line on stderr.
    pub(crate) fn listen(answers: bool) -> io::Result<Self> {
        Self { answers, ..Self::default() }.start(&[SIGINT, SIGTERM])
    }

    /// The same for a program that looks at [`Stop::signal`] all the time, and at [`Stop::take_reload`].
    pub(crate) fn listen_and_serve() -> io::Result<Self> {
        Self { serves: true, ..Self::default() }.start(&[SIGINT, SIGTERM, SIGHUP])
    }

    fn start(self, wanted: &[i32]) -> io::Result<Self> {
        let stop = self;
        let mut signals = Signals::new(wanted)?;
        // a write beyond `ulimit -f` then fails, as on a full disk, and does not end the process
        flag::register(SIGXFSZ, Arc::default())?;
        let heard = stop.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                if signal == SIGHUP {
                    heard.reload.store(true, SeqCst);
                    continue;
                }
                heard.hear(u8::try_from(signal).unwrap_or(u8::MAX));
            }
        })?;
        Ok(stop)
    }

    fn hear(&self, signal: u8) {
        let now = move || low_level::exit(128 + i32::from(signal));
        if self.signal.swap(signal, SeqCst) != 0 {
            now();
        }
        if self.serves {
            return;
        }
        if self.in_training.load(SeqCst) {
            let text =
                "stopping: this step is finished and saved first; once more stops at once, with the last checkpoint intact";
            if self.answers {
                let _ = writeln!(io::stderr(), "{text}"); // a closed stderr is no reason to go on
            }
        } else {
            // in another thread, so that this one receives the next signal
            thread::spawn(move || {
                thread::sleep(PATIENCE);
                now()
            });
        }
    }

    /// The signal that came, if any.
    pub(crate) fn signal(&self) -> Option<u8> {
        Some(self.signal.load(SeqCst)).filter(|&signal| signal != 0)
    }

    /// Whether SIGHUP came since the last call.
    pub(crate) fn take_reload(&self) -> bool {
        self.reload.swap(false, SeqCst)
    }

    /// Sets whether training is under way, which calls [`Stop::signal`] after each step.
    pub(crate) fn set_in_training(&self, in_training: bool) {
        self.in_training.store(in_training, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_serves_ends_by_itself_after_the_first_signal() {
        let stop = Stop { serves: true, ..Stop::default() };
        stop.hear(15);
        // another program would have been ended by now, with code 143
        thread::sleep(PATIENCE + Duration::from_millis(300));
        assert_eq!(stop.signal(), Some(15));
    }
}
