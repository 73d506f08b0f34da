//! Several processes under `mpirun`: which one this is, and how all of them end when one does.

use std::env;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nids_flows::is_stdin;
use nids_nn::peers::Peers;
use nids_store::{Error, Result};

use crate::args::Command;
use crate::mpi::World;
use crate::signals::Stop;
use crate::terminal;

/// The time that the first process has to say what has failed, before another one does.
const FIRST_SAYS: Duration = Duration::from_millis(700);

/// What the launcher says in the environment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    /// The number of this process, counted from 0.
    pub(crate) rank: usize,
    /// Number of processes.
    pub(crate) size: usize,
}

impl Launch {
    #[expect(clippy::disallowed_methods, reason = "the CLI alone looks at the environment")]
    pub(crate) fn from_env() -> Self {
        let number = |name: &str| env::var(name).ok()?.parse::<usize>().ok();
        let first_of = |names: &[&str]| names.iter().find_map(|name| number(name));
        // mpirun of Open MPI, mpirun of MPICH, srun
        let of_slurm = number("PMIX_RANK").and(number("SLURM_NTASKS"));
        let size = first_of(&["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"]).or(of_slurm).unwrap_or(1);
        let rank = first_of(&["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"]).unwrap_or(0);
        Self { rank: if size > 1 { rank } else { 0 }, size }
    }

    /// The same for a command. A process that scores a part of its own has nothing to do with the others.
    pub(crate) fn of(self, command: &Command) -> Self {
        let is_alone = matches!(command, Command::Predict { part: Some(_), .. });
        if is_alone { Self { rank: 0, size: 1 } } else { self }
    }

    /// Whether this is the process that writes and tells.
    pub(crate) fn leads(self) -> bool {
        self.rank == 0
    }
}

/// This process and those that work with it.
pub(crate) struct Processes {
    launch: Launch,
    stop: Stop,
    world: Option<World>,
    /// Whether it stands between two programs, so that verdicts are lost where the reader leaves.
    is_filter: bool,
}

impl Processes {
    /// Joins the others, if there are any. If that fails, all end.
    pub(crate) fn join(launch: Launch, stop: Stop, command: &Command) -> std::result::Result<Self, ExitCode> {
        let is_filter = matches!(command, Command::Predict { model, .. } if model.data.iter().any(|name| is_stdin(name)));
        let mut processes = Self { launch, stop, world: None, is_filter };
        if launch.size > 1 {
            match processes.check(command).and_then(|()| World::join(launch)) {
                Ok(world) => processes.world = Some(world),
                Err(error) => return Err(processes.fail(&error)),
            }
        }
        Ok(processes)
    }

    /// Refuses a command that one process does.
    fn check(&self, command: &Command) -> Result<()> {
        match command {
            Command::Pretrain(args) | Command::Finetune(args) | Command::Distil { stage: args, .. } if !args.dry_run => Ok(()),
            _ => {
                let what = "only `pretrain`, `finetune` and `distil`, which train a network, and `predict --part` are done by several processes";
                Err(Error::Usage(format!("{} processes were started: {what}: start one", self.launch.size)))
            }
        }
    }

    /// The processes that a stage is dealt to, if there are several.
    pub(crate) fn peers(&self) -> Option<Arc<dyn Peers>> {
        self.world.as_ref().map(World::peers)
    }

    /// Whether this process writes and tells what all have done.
    pub(crate) fn leads(&self) -> bool {
        self.launch.leads()
    }

    /// Does the work of this process. If it fails or panics, all processes end.
    pub(crate) fn run(self, work: impl FnOnce(&Self) -> Result<()>) -> ExitCode {
        if self.launch.size == 1 {
            return work(&self).map_or_else(
                |error| if self.needs_no_more(&error) { ExitCode::SUCCESS } else { report(&error, "") },
                |()| ExitCode::SUCCESS,
            );
        }
        match panic::catch_unwind(AssertUnwindSafe(|| work(&self))) {
            Ok(Err(error)) if !self.needs_no_more(&error) => self.fail(&error),
            Ok(_) => {
                if let Some(world) = self.world {
                    world.leave();
                }
                ExitCode::SUCCESS
            }
            Err(_) => self.end(PANICKED), // it has said why
        }
    }

    /// Whether the reader of stdout has closed it, as in `nids-mixer predict … | head`.
    fn needs_no_more(&self, error: &Error) -> bool {
        !self.is_filter && matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Says what went wrong, and ends all processes.
    fn fail(&self, error: &Error) -> ExitCode {
        let Launch { rank, .. } = self.launch;
        // most errors are the same in all processes: the first one says so and ends the others
        let is_told = !self.leads() && self.is_ended_within(FIRST_SAYS);
        if !is_told {
            report(error, &if self.leads() { String::new() } else { format!("rank {rank}: ") });
        }
        self.end(error.exit_code())
    }

    /// Whether the launcher ends this process before the time is over. To one that has had a signal already it sends the second, which
    /// ends it here.
    fn is_ended_within(&self, time: Duration) -> bool {
        let since = Instant::now();
        if self.stop.signal().is_some() {
            thread::sleep(time);
            return false;
        }
        while since.elapsed() < time {
            if self.stop.signal().is_some() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    fn end(&self, code: u8) -> ExitCode {
        if let Some(world) = &self.world {
            world.abort(code);
        }
        ExitCode::from(code)
    }
}

/// The exit code of a program of Rust that panics.
const PANICKED: u8 = 101;

/// Prints an error, and returns its exit code.
pub(crate) fn report(error: &Error, who: &str) -> ExitCode {
    for message in error.messages() {
        terminal::tell(&format!("error: {who}{message}"));
    }
    ExitCode::from(error.exit_code())
}
