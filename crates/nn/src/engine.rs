//! The training engine: depth-first shards, one worker a core, gradients that do not depend on the number of workers.
//!
//! A micro-batch is cut into a fixed number of gradient groups, each with a buffer of its own, and each group into shards of a
//! few samples. A worker takes one shard through the whole network forward and back before the next, so that activations stay
//! in its cache. Which worker takes which group is left to chance; the groups are then added in order. All threads that compute
//! are here.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nids_kernels::{Arena, Buffer, Gemm, Key, Real, add_assign, peak, sum_of_squares};
use rayon::prelude::*;

use crate::optim::Optimiser;
use crate::{Cx, MAX_SHARD, Mode, ParamTable, Prepared, Samples};

/// One sample of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its row in the data set.
    pub row: u32,
    /// Key of its masks, unique within the step.
    pub key: u32,
}

/// A loss, or a shard's share of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// What is minimised.
    pub total: f64,
    /// The term of it that is logged beside it, without its weight; 0 where it has only one.
    pub term: f64,
}

impl From<f64> for Loss {
    fn from(total: f64) -> Self {
        Self { total, term: 0.0 }
    }
}

/// Something to minimise.
pub trait Objective<R: Real>: Sync {
    /// Takes one shard of `step`, counted from 0, through the network and back: adds to `grads`, returns
    /// the shard's share of the step's loss. The divisor is that of the whole step, so that shards add
    /// up.
    fn shard(&self, cx: &Cx<'_, R>, grads: &mut [R], step: u64, samples: &[Sample]) -> Loss;

    /// Called before the shards of `step`.
    fn begin(&self, _step: u64) {}

    /// Members of an ensemble that see each sample ([`crate::MemberScales`]). Member k of sample j has the mask key at k·b + j of a
    /// shard of b samples, the first one the sample's own.
    fn members(&self) -> usize {
        1
    }

    /// Names the terms of the `loss` of `step`, for the log, where it has several.
    fn terms(&self, _step: u64, _loss: Loss, _each: &mut dyn FnMut(&'static str, f64)) {}
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
    pool: Arc<rayon::ThreadPool>,
    arenas: Vec<Mutex<Arena<R>>>,
    /// A gradient a group, one after the other.
    groups: Buffer<R>,
    /// A loss a group.
    losses: Vec<f64>,
    /// [`Loss::term`] a shard, group after group.
    terms: Vec<f64>,
    prepared: Prepared<R>,
    /// Σ g² of each piece of a gradient.
    squares: Vec<f64>,
    gemm: Gemm,
    cut: Cut,
}

impl<R: Real> fmt::Debug for Engine<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({} threads, {:?}, {:?})", self.arenas.len(), self.gemm, self.cut)
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
    pub fn new(table: &ParamTable, threads: usize, gemm: Gemm, cut: Cut) -> Result<Self, rayon::ThreadPoolBuildError> {
        assert!(cut.groups > 0, "gradients need a group");
        Self::with(table, threads, gemm, cut)
    }

    /// An engine that only infers, on [`Gemm::for_inference`]: it holds no gradients.
    ///
    /// # Errors
    /// If the system refuses to start threads.
    ///
    /// # Panics
    /// If a shard has no samples or more than [`MAX_SHARD`].
    pub fn for_inference(threads: usize, gemm: Gemm, shard: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        Self::with(&ParamTable::default(), threads, gemm.for_inference(), Cut { shard, groups: 0 })
    }

    fn with(table: &ParamTable, threads: usize, gemm: Gemm, cut: Cut) -> Result<Self, rayon::ThreadPoolBuildError> {
        assert!((1..=MAX_SHARD).contains(&cut.shard));
        let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build()?);
        pool.broadcast(|_| ()); // every worker is up
        let arenas = (0..pool.current_num_threads()).map(|_| Mutex::default()).collect();
        let (groups, losses) = (Buffer::zeros(cut.groups * table.buffer_len()), vec![0.0; cut.groups]);
        let squares = vec![0.0; table.buffer_len().div_ceil(PIECE)];
        Ok(Self { pool, arenas, groups, losses, terms: Vec::new(), prepared: Prepared::new(table, gemm), squares, gemm, cut })
    }

    /// Runs `work` on one of the workers. A training loop belongs here: from outside of the pool
    /// every pass would be handed over, which allocates now and then.
    pub fn run<T: Send>(&mut self, work: impl FnOnce(&mut Self) -> T + Send) -> T {
        let pool = Arc::clone(&self.pool);
        pool.install(|| work(self))
    }

    /// Number of workers.
    pub fn threads(&self) -> usize {
        self.arenas.len()
    }

    /// Does two things at once, on two of the workers where there are two.
    pub fn join<A: Send, B: Send>(&self, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
        self.pool.join(a, b)
    }

    /// Fused multiply-adds a second that all workers together can at most make of f32, as measured now; two operations each.
    pub fn peak_flops(&self) -> f64 {
        const FLOPS: u64 = 1 << 30; // some milliseconds
        let rates = self.pool.broadcast(|_| {
            let started = Instant::now();
            peak(FLOPS) as f64 / started.elapsed().as_secs_f64()
        });
        rates.iter().sum()
    }

    /// How a batch is cut.
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// GEMM backend.
    pub fn gemm(&self) -> Gemm {
        self.gemm
    }

    /// Bytes that the engine holds: activations, gradient groups and prepared matrices.
    pub fn memory_bytes(&self) -> usize {
        let arenas: usize = self.arenas.iter().map(|arena| lock(arena).capacity()).sum();
        (arenas + self.groups.len() + self.prepared.capacity()) * size_of::<R>()
    }

    /// Adds the gradient of one micro-batch of `step` to `grads`, and its share of the step's loss to `loss`: `total` by group, as
    /// gradients are added, `term` shard by shard.
    pub fn accumulate(
        &mut self,
        objective: &dyn Objective<R>,
        params: &[R],
        key: Key,
        grads: &mut [R],
        loss: &mut Loss,
        step: u64,
        samples: &[Sample],
    ) {
        let Self { pool, arenas, groups, losses, terms, prepared, gemm, cut, .. } = self;
        let (n_groups, len, members) = (losses.len(), grads.len(), objective.members());
        assert!(n_groups > 0, "an engine for inference has no gradients");
        assert!(cut.shard * members <= MAX_SHARD, "a shard of {} samples for {members} members", cut.shard);
        assert_eq!(groups.len(), n_groups * len, "a gradient of the table's length");
        let shards = samples.len().div_ceil(n_groups).div_ceil(cut.shard).max(1); // of the largest group
        terms.clear();
        terms.resize(n_groups * shards, 0.0);
        pool.install(|| {
            prepared.update(params);
            let group_buffers = groups.par_chunks_mut(len).zip(losses.par_iter_mut()).zip(terms.par_chunks_mut(shards));
            group_buffers.with_max_len(1).enumerate().for_each(|(g, ((grads, total), terms))| {
                let worker = rayon::current_thread_index().expect("a group runs on a worker of the pool");
                let mut arena = lock(&arenas[worker]);
                grads.fill(R::zero());
                *total = 0.0;
                let group_samples = &samples[g * samples.len() / n_groups..(g + 1) * samples.len() / n_groups];
                for (shard, shard_term) in group_samples.chunks(cut.shard).zip(terms) {
                    let member_keys = |k: u32| shard.iter().map(move |sample| sample.key ^ (k << MEMBER_BIT));
                    let keys: Samples = (0..members as u32).flat_map(member_keys).collect();
                    let mode = Mode::Train { key, samples: &keys };
                    let cx = Cx::new(params, &arena, mode).with(*gemm, Some(prepared));
                    let loss = objective.shard(&cx, grads, step, shard);
                    *total += loss.total;
                    *shard_term = loss.term;
                    drop(cx);
                    arena.reset();
                }
            });
            // a worker that came too late for this pass is ready for the next
            let sizes = arenas.iter().map(|arena| lock(arena).sizes());
            let needed = sizes.fold([0; 2], |[a, b], [slices, scratch]| [a.max(slices), b.max(scratch)]);
            for arena in &*arenas {
                lock(arena).reserve(needed);
            }
            let groups = &*groups;
            grads.par_chunks_mut(PIECE).enumerate().for_each(|(i, grads)| {
                for group in groups.chunks(len) {
                    add_assign(grads, &group[i * PIECE..][..grads.len()]);
                }
            });
        });
        loss.total += losses.iter().sum::<f64>();
        for term in terms {
            loss.term += *term;
        }
    }

    /// The Euclidean norm of a gradient.
    pub fn grad_norm(&mut self, grads: &[R]) -> f64 {
        let Self { pool, squares, .. } = self;
        pool.install(|| {
            squares.par_iter_mut().zip(grads.par_chunks(PIECE)).for_each(|(squares, grads)| *squares = sum_of_squares(grads));
        });
        squares.iter().sum::<f64>().sqrt()
    }

    /// [`Optimiser::step`], by all workers.
    pub fn update(&self, optimiser: &mut Optimiser<R>, lr: f64, grad_scale: f64, params: &mut [R], grads: &[R]) {
        let (update, m, v) = optimiser.begin(lr, grad_scale);
        self.pool.install(|| {
            let buffers = params.par_chunks_mut(PIECE).zip(grads.par_chunks(PIECE));
            let moments = m.par_chunks_mut(PIECE).zip(v.par_chunks_mut(PIECE));
            buffers.zip(moments).enumerate().for_each(|(i, ((params, grads), (m, v)))| {
                update.apply(i * PIECE, params, grads, m, v);
            });
        });
    }

    /// Runs `forward` over `rows` in shards, without training: it gets a shard's rows and writes their part of
    /// `out: [rows, width]`. `prepared` is of the same parameters. What a row gets does not depend on the others: the backend is
    /// [`Gemm::for_inference`], and a shard of bfloat16, whose products look at their sizes, is filled up with its last row.
    ///
    /// # Panics
    /// If `out` is not rows·width long.
    pub fn infer(
        &self,
        params: &[R],
        prepared: &Prepared<R>,
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
        let gemm = self.gemm.for_inference();
        pool.install(|| {
            out.par_chunks_mut(cut.shard * width).zip(rows.par_chunks(cut.shard)).for_each(|(out, rows)| {
                let worker = rayon::current_thread_index().expect("a shard runs on a worker of the pool");
                let mut arena = lock(&arenas[worker]);
                let cx = Cx::new(params, &arena, Mode::Eval).with(gemm, Some(prepared));
                if gemm == Gemm::Bf16 && rows.len() < cut.shard {
                    let mut full = rows.to_vec();
                    full.resize(cut.shard, rows[rows.len() - 1]);
                    let mut full_out = vec![R::zero(); cut.shard * width];
                    forward(&cx, &full, &mut full_out);
                    out.copy_from_slice(&full_out[..out.len()]);
                } else {
                    forward(&cx, rows, out);
                }
                drop(cx);
                arena.reset();
            });
        });
    }
}

/// Keys of samples lie below 2 to this power, the number of the member above.
const MEMBER_BIT: u32 = 24;

/// Numbers of a flat buffer that one task takes.
const PIECE: usize = 1 << 14;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // an arena holds no invariant that a panicking worker could have broken
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Init;

    /// Terms whose sum depends on the order in which they are added.
    struct Terms(ParamTable);

    fn share(samples: &[Sample]) -> f64 {
        samples.iter().map(|sample| 0.1 * f64::from(sample.key + 1)).sum()
    }

    impl Objective<f32> for Terms {
        fn shard(&self, _: &Cx<'_, f32>, _: &mut [f32], step: u64, samples: &[Sample]) -> Loss {
            assert_eq!(step, 7);
            Loss { total: 1.0, term: share(samples) }
        }
    }

    #[test]
    fn terms_are_added_shard_by_shard_whatever_the_threads_and_groups() {
        let mut table = ParamTable::default();
        table.root().param("weight", &[1], Init::Zeros);
        let (params, terms) = (table.zeros(), Terms(table));
        let samples: Vec<Sample> = (0..27).map(|row| Sample { row, key: row }).collect();
        for (groups, threads) in [(1, 1), (3, 1), (3, 2), (3, 4), (9, 2), (20, 4)] {
            let cut = Cut { shard: 2, groups };
            let mut engine = Engine::new(&terms.0, threads, Gemm::Tiles, cut).unwrap();
            let mut found = Loss::default();
            let mut wanted = Loss::default();
            // the second micro-batch is the smaller one
            for samples in samples.chunks(18) {
                engine.accumulate(&terms, &params, Key::new(1), &mut terms.0.zeros(), &mut found, 7, samples);
                for group in 0..groups {
                    let group = &samples[group * samples.len() / groups..(group + 1) * samples.len() / groups];
                    for shard in group.chunks(2) {
                        wanted.total += 1.0;
                        wanted.term += share(shard);
                    }
                }
            }
            let bits = |loss: Loss| [loss.total, loss.term].map(f64::to_bits);
            assert_eq!(bits(found), bits(wanted), "{groups} groups, {threads} threads: {found:?}, not {wanted:?}");
        }
    }
}
