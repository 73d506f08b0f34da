//! MPI: what one process tells the others, and how it notices that one is lost.
//!
//! Whichever thread calls, one at a time is in MPI (`Threading::Serialized`). No call blocks there: each is started and then asked
//! about, so that meanwhile a waiting process yields its core and goes on saying that it is alive.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::request::{Request, Scope, scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, Destination, Root, Source};
use nids_nn::peers::Peers;
use nids_store::{Error, Result};
use signal_hook::low_level;

use crate::processes::Launch;
use crate::terminal;

/// Tag of numbers that a step exchanges.
const NUMBERS: i32 = 1;
/// Tag of the sign that a process is alive.
const ALIVE: i32 = 2;
/// How often a process says that it is alive.
const BEAT: Duration = Duration::from_secs(1);
/// How often it looks whether another one does.
const LOOK: Duration = Duration::from_millis(100);
/// A process of which nothing was heard for so long is lost.
const LOST: Duration = Duration::from_secs(8);
/// How long a process waits without sleep, where each has cores of its own.
const AWAKE: Duration = Duration::from_secs(1);
/// The same where processes share cores.
const AWAKE_CROWDED: Duration = Duration::from_micros(100);
/// The most that ending all processes may take.
const END: Duration = Duration::from_millis(500);
/// The exit code where a process is lost: that of an error of the system.
const LOST_CODE: u8 = 6;

/// MPI, from start to end.
pub(crate) struct World {
    universe: Universe,
    peers: Arc<MpiPeers>,
    beat: JoinHandle<()>,
    is_over: Arc<AtomicBool>,
}

impl World {
    /// Starts MPI and joins the other processes.
    pub(crate) fn join(launch: Launch) -> Result<Self> {
        let failed = |what: String| Error::System(format!("MPI: {what}"));
        let (universe, threading) = mpi::initialize_with_threading(Threading::Serialized)
            .ok_or_else(|| failed("it has been started already".to_owned()))?;
        if threading < Threading::Serialized {
            return Err(failed("the library here cannot be called from several threads".to_owned()));
        }
        let world = universe.world();
        let [rank, size] = [world.rank(), world.size()].map(|number| number as usize);
        if size != launch.size {
            let started = launch.size;
            let what = format!("{started} processes were started, but they are a world of {size}: take `mpirun` of the same MPI");
            return Err(failed(what));
        }
        let peers = Arc::new(MpiPeers { rank, size, is_crowded: is_crowded(), pulse: Mutex::new(Pulse::now()) });
        let is_over = Arc::new(AtomicBool::new(false));
        let (beating, over) = (Arc::clone(&peers), Arc::clone(&is_over));
        let beat = thread::Builder::new().name("mpi".to_owned()).spawn(move || {
            while !over.load(Ordering::Relaxed) {
                beating.lock().beat(&beating);
                thread::sleep(LOOK);
            }
        });
        let beat = beat.map_err(|error| failed(format!("no thread for it: {error}")))?;
        Ok(Self { universe, peers, beat, is_over })
    }

    pub(crate) fn peers(&self) -> Arc<dyn Peers> {
        Arc::clone(&self.peers) as _
    }

    /// Waits for the others and ends MPI.
    pub(crate) fn leave(self) {
        let Self { universe, peers, beat, is_over } = self;
        (&*peers as &dyn Peers).meet();
        is_over.store(true, Ordering::Relaxed);
        drop(beat.join()); // nothing to be told after it
        drop(universe);
    }

    /// Ends all processes.
    pub(crate) fn abort(&self, code: u8) -> ! {
        end_soon(code);
        let _alone = self.peers.lock();
        SimpleCommunicator::world().abort(code.into())
    }
}

/// Ends this process even where MPI does not: the launcher then ends the others.
fn end_soon(code: u8) {
    thread::spawn(move || {
        thread::sleep(END);
        low_level::exit(code.into())
    });
}

/// Whether other processes of this machine run on the same cores: where they were not bound to some.
#[expect(clippy::disallowed_methods, reason = "the CLI alone looks at the environment")]
fn is_crowded() -> bool {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    let is_bound = number("OMPI_MCA_orte_bound_at_launch").is_some_and(|bound| bound > 0);
    !is_bound && number("OMPI_COMM_WORLD_LOCAL_SIZE").is_some_and(|local| local > 1)
}

struct MpiPeers {
    rank: usize,
    size: usize,
    is_crowded: bool,
    /// Held by the one thread that is in MPI.
    pulse: Mutex<Pulse>,
}

impl fmt::Debug for MpiPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MpiPeers({} of {})", self.rank, self.size)
    }
}

/// When something was last said to the process after this one, and heard of the one before: each watches one other, in a ring.
struct Pulse {
    said: Instant,
    heard: Instant,
    looked: Instant,
}

impl Pulse {
    fn now() -> Self {
        let now = Instant::now();
        Self { said: now, heard: now, looked: now }
    }

    fn beat(&mut self, peers: &MpiPeers) {
        let now = Instant::now();
        if now - self.looked < LOOK {
            return;
        }
        self.looked = now;
        let world = SimpleCommunicator::world();
        let before = (peers.rank + peers.size - 1) % peers.size;
        let process = world.process_at_rank(before as i32);
        while process.immediate_probe_with_tag(ALIVE).is_some() {
            process.receive_into_with_tag(&mut [0_u8][..], ALIVE);
            self.heard = now;
        }
        if now - self.said >= BEAT {
            self.said = now;
            // so few bytes are on their way at once: this does not wait for the other
            world.process_at_rank(((peers.rank + 1) % peers.size) as i32).send_with_tag(&[0_u8][..], ALIVE);
        }
        if now - self.heard > LOST {
            let (rank, seconds) = (peers.rank, LOST.as_secs());
            terminal::tell(&format!(
                "error: rank {rank}: nothing was heard of rank {before} for {seconds} s: it hangs, or the link to it is cut; the last \
                 checkpoint is intact: give the command again to go on"
            ));
            end_soon(LOST_CODE);
            world.abort(LOST_CODE.into());
        }
    }
}

impl MpiPeers {
    fn lock(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a call is complete.
    fn wait<'a, D: ?Sized, S: Scope<'a>>(&self, pulse: &mut Pulse, mut request: Request<'a, D, S>) {
        let since = Instant::now();
        loop {
            match request.test() {
                Ok(_) => return,
                Err(pending) => request = pending,
            }
            pulse.beat(self);
            let waited = since.elapsed();
            if waited > AWAKE {
                thread::sleep(Duration::from_millis(1));
            } else if self.is_crowded && waited > AWAKE_CROWDED {
                thread::sleep(Duration::from_micros(20));
            } else {
                thread::yield_now();
            }
        }
    }
}

impl Peers for MpiPeers {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn send(&self, to: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return; // MPI takes the address of an empty slice for a constant of its own
        }
        let (mut pulse, world) = (self.lock(), SimpleCommunicator::world());
        let process = world.process_at_rank(to as i32);
        scope(|scope| self.wait(&mut pulse, process.immediate_send_with_tag(scope, bytes, NUMBERS)));
    }

    fn receive(&self, from: usize, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        let (mut pulse, world) = (self.lock(), SimpleCommunicator::world());
        let process = world.process_at_rank(from as i32);
        scope(|scope| self.wait(&mut pulse, process.immediate_receive_into_with_tag(scope, bytes, NUMBERS)));
    }

    fn broadcast(&self, from: usize, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        let (mut pulse, world) = (self.lock(), SimpleCommunicator::world());
        let process = world.process_at_rank(from as i32);
        scope(|scope| self.wait(&mut pulse, process.immediate_broadcast_into(scope, bytes)));
    }
}
