//! The training engine: depth-first shards, one worker a core, gradients that do not depend on the number of workers.
//!
//! A micro-batch is cut into a fixed number of gradient groups, each with a buffer of its own, and each group into shards of a
//! few samples. A worker takes one shard through the whole network forward and back before the next, so that activations stay
//! in its cache. Which worker takes which group is left to chance; the groups are then added in order. The only threads of the
//! project are here.

use std::fmt;
use std::sync::Mutex;

use nids_kernels::{Arena, Buffer, Key, Real, add_assign};
use rayon::prelude::*;

use crate::{Cx, MAX_SHARD, Mode, ParamTable, Samples};

/// One sample of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its row in the data set.
    pub row: u32,
    /// What its masks are drawn by, unique within the step.
    pub key: u32,
}

/// Something to minimise.
pub trait Objective<R: Real>: Sync {
    /// Takes one shard through the network and back: adds to `grads`, returns the shard's share of the step's loss. What it
    /// divides by is the whole step's, so that shards add up.
    fn shard(&self, cx: &Cx<'_, R>, grads: &mut [R], samples: &[Sample]) -> f64;
}

/// How a batch is cut; both numbers are part of the algorithm, unlike the number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Samples a shard: 1 to [`MAX_SHARD`].
    pub shard: usize,
    /// Gradient groups a micro-batch.
    pub groups: usize,
}

/// Workers, their memory and the gradient groups.
pub struct Engine<R: Real> {
    pool: rayon::ThreadPool,
    arenas: Vec<Mutex<Arena<R>>>,
    groups: Vec<Group<R>>,
    cut: Cut,
}

struct Group<R: Real> {
    grads: Buffer<R>,
    loss: f64,
}

impl<R: Real> fmt::Debug for Engine<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({} threads, {:?})", self.arenas.len(), self.cut)
    }
}

impl<R: Real> Engine<R> {
    /// `threads` workers (0: one a core).
    ///
    /// # Errors
    /// If the system refuses to start threads.
    ///
    /// # Panics
    /// If `cut` has no groups, or a shard of no samples or more than [`MAX_SHARD`].
    pub fn new(table: &ParamTable, threads: usize, cut: Cut) -> Result<Self, rayon::ThreadPoolBuildError> {
        assert!((1..=MAX_SHARD).contains(&cut.shard) && cut.groups > 0);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let arenas = (0..pool.current_num_threads()).map(|_| Mutex::default()).collect();
        let groups = (0..cut.groups).map(|_| Group { grads: table.zeros(), loss: 0.0 }).collect();
        Ok(Self { pool, arenas, groups, cut })
    }

    /// Workers.
    pub fn threads(&self) -> usize {
        self.arenas.len()
    }

    /// Bytes that the engine holds: activations and gradient groups.
    pub fn memory_bytes(&self) -> usize {
        let arenas: usize = self.arenas.iter().map(|arena| lock(arena).capacity()).sum();
        let groups: usize = self.groups.iter().map(|group| group.grads.len()).sum();
        (arenas + groups) * size_of::<R>()
    }

    /// Adds the gradient of one micro-batch to `grads`; returns its share of the step's loss.
    pub fn accumulate(
        &mut self,
        objective: &dyn Objective<R>,
        params: &[R],
        key: Key,
        samples: &[Sample],
        grads: &mut [R],
    ) -> f64 {
        let Self { pool, arenas, groups, cut } = self;
        let n_groups = groups.len();
        pool.install(|| {
            groups.par_iter_mut().with_max_len(1).enumerate().for_each(|(g, group)| {
                let worker = rayon::current_thread_index().expect("a group runs on a worker of the pool");
                let mut arena = lock(&arenas[worker]);
                group.grads.fill(R::zero());
                group.loss = 0.0;
                let of_group = &samples[g * samples.len() / n_groups..(g + 1) * samples.len() / n_groups];
                for shard in of_group.chunks(cut.shard) {
                    let keys: Samples = shard.iter().map(|sample| sample.key).collect();
                    let cx = Cx::new(params, &arena, Mode::Train { key, samples: &keys });
                    group.loss += objective.shard(&cx, &mut group.grads, shard);
                    drop(cx);
                    arena.reset();
                }
            });
            let groups = &*groups;
            grads.par_chunks_mut(REDUCE).enumerate().for_each(|(i, grads)| {
                for group in groups {
                    add_assign(grads, &group.grads[i * REDUCE..][..grads.len()]);
                }
            });
        });
        groups.iter().map(|group| group.loss).sum()
    }

    /// Runs `forward` over `rows` in shards, without training: it gets a shard's rows and writes their part of
    /// `out: [rows, width]`.
    ///
    /// # Panics
    /// If `out` is not rows·width long.
    pub fn infer(
        &self,
        params: &[R],
        rows: &[u32],
        width: usize,
        out: &mut [R],
        forward: impl Fn(&Cx<'_, R>, &[u32], &mut [R]) + Sync,
    ) {
        assert_eq!(out.len(), rows.len() * width);
        if out.is_empty() {
            return;
        }
        let Self { pool, arenas, cut, .. } = self;
        pool.install(|| {
            out.par_chunks_mut(cut.shard * width).zip(rows.par_chunks(cut.shard)).for_each(|(out, rows)| {
                let worker = rayon::current_thread_index().expect("a shard runs on a worker of the pool");
                let mut arena = lock(&arenas[worker]);
                forward(&Cx::new(params, &arena, Mode::Eval), rows, out);
                arena.reset();
            });
        });
    }
}

/// Numbers of a gradient added up by one task.
const REDUCE: usize = 1 << 14;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // an arena holds no invariant that a panicking worker could have broken
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
