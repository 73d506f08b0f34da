//! The training engine: depth-first shards, one worker a core, gradients that do not depend on the number of workers.
//!
//! A micro-batch is cut into a fixed number of gradient groups, each with a buffer of its own, and each group into shards of a
//! few samples. A worker takes one shard through the whole network forward and back before the next, so that activations stay
//! in its cache. Which worker takes which group is left to chance; the groups are then added in order. All threads that compute
//! are here.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nids_kernels::{Arena, Buffer, Gemm, Key, Real, add_assign, peak, sum_of_squares};
use rayon::prelude::*;

use crate::optim::Optimiser;
use crate::peers::Peers;
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
    dealt: Option<Box<Dealt>>,
}

/// What an engine needs that shares its steps with those of other processes.
struct Dealt {
    peers: Arc<dyn Peers>,
    /// What this process wants all to know, and what is the most that any wanted.
    flag: u8,
    agreed: u8,
    /// The flag, a loss a group and a term a shard, as they go from process to process.
    said: Vec<f64>,
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
        Ok(Self {
            pool,
            arenas,
            groups,
            losses,
            terms: Vec::new(),
            prepared: Prepared::new(table, gemm),
            squares,
            gemm,
            cut,
            dealt: None,
        })
    }

    /// The same engine, which computes its share of the gradient groups and adds them up with those of other processes: to the same
    /// bytes.
    ///
    /// # Panics
    /// If there are fewer groups than processes.
    #[must_use]
    pub fn with_peers(self, peers: Arc<dyn Peers>) -> Self {
        let (n_groups, len) = (self.cut.groups, self.groups.len() / self.cut.groups);
        assert!(peers.size() <= n_groups, "{n_groups} gradient groups for {} processes", peers.size());
        let groups = Buffer::zeros(peers.own(n_groups).len() * len);
        let dealt = Dealt { peers, flag: 0, agreed: 0, said: Vec::new() };
        Self { groups, dealt: Some(Box::new(dealt)), ..self }
    }

    /// The processes that steps are dealt to, if there are several.
    pub fn peers(&self) -> Option<&dyn Peers> {
        self.dealt.as_ref().map(|dealt| &*dealt.peers)
    }

    /// Tells the other processes a number along with the next gradient: a signal, or 0.
    pub fn tell(&mut self, flag: u8) {
        if let Some(dealt) = &mut self.dealt {
            dealt.flag = flag;
        }
    }

    /// The highest number that any process told before the last gradient; None if there is only one process.
    pub fn agreed(&self) -> Option<u8> {
        self.dealt.as_ref().map(|dealt| dealt.agreed)
    }

    /// Those samples of a micro-batch that this process computes.
    pub fn own_samples<'s>(&self, samples: &'s [Sample]) -> &'s [Sample] {
        let groups = self.own_groups();
        let first_of = |group: usize| group * samples.len() / self.cut.groups;
        &samples[first_of(groups.start)..first_of(groups.end)]
    }

    fn own_groups(&self) -> Range<usize> {
        self.peers().map_or(0..self.cut.groups, |peers| peers.own(self.cut.groups))
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
        let own = self.own_groups();
        let Self { pool, arenas, groups, losses, terms, prepared, gemm, cut, dealt, .. } = self;
        let (n_groups, len, members) = (losses.len(), grads.len(), objective.members());
        assert!(n_groups > 0, "an engine for inference has no gradients");
        assert!(cut.shard * members <= MAX_SHARD, "a shard of {} samples for {members} members", cut.shard);
        assert_eq!(groups.len(), own.len() * len, "a gradient of the table's length");
        let shards = samples.len().div_ceil(n_groups).div_ceil(cut.shard).max(1); // of the largest group
        terms.clear();
        terms.resize(n_groups * shards, 0.0);
        pool.install(|| {
            prepared.update(params);
            let (own_losses, own_terms) = (&mut losses[own.clone()], &mut terms[own.start * shards..own.end * shards]);
            let group_buffers = groups.par_chunks_mut(len).zip(own_losses).zip(own_terms.par_chunks_mut(shards));
            group_buffers.with_max_len(1).enumerate().for_each(|(g, ((grads, total), terms))| {
                let g = own.start + g;
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
            let add_groups = |first: usize, grads: &mut [R]| {
                for group in groups.chunks(len) {
                    add_assign(grads, &group[first..][..grads.len()]);
                }
            };
            let Some(dealt) = dealt else {
                return grads.par_chunks_mut(PIECE).enumerate().for_each(|(i, grads)| add_groups(i * PIECE, grads));
            };
            dealt.peers.chain(grads, SENT, arenas.len(), |first, grads| {
                grads.par_chunks_mut(SENT).enumerate().for_each(|(i, grads)| add_groups(first + i * SENT, grads));
            });
            dealt.exchange(own, losses, terms);
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

impl Dealt {
    /// Fills in the losses and terms of the other processes' groups, and agrees on the flag.
    fn exchange(&mut self, own: Range<usize>, losses: &mut [f64], terms: &mut [f64]) {
        let Self { peers, flag, agreed, said } = self;
        let (n_groups, shards) = (losses.len(), terms.len() / losses.len());
        said.clear();
        said.resize(1 + n_groups + terms.len(), 0.0);
        let all = said.len();
        peers.chain(said, all, 1, |_, said| {
            said[0] = said[0].max(f64::from(*flag));
            let (said_losses, said_terms) = said[1..].split_at_mut(n_groups);
            said_losses[own.clone()].copy_from_slice(&losses[own.clone()]);
            let own_terms = own.start * shards..own.end * shards;
            said_terms[own_terms.clone()].copy_from_slice(&terms[own_terms]);
        });
        *agreed = said[0] as u8;
        losses.copy_from_slice(&said[1..=n_groups]);
        terms.copy_from_slice(&said[1 + n_groups..]);
    }
}

/// Keys of samples lie below 2 to this power, the number of the member above.
const MEMBER_BIT: u32 = 24;

/// Numbers of a flat buffer that one task takes.
const PIECE: usize = 1 << 14;

/// Numbers that go from process to process in one message: 32 KiB, which Open MPI sends over TCP before the other asks for them.
const SENT: usize = 1 << 13;

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

    /// Gradients, losses and terms whose sums depend on the order in which they are added.
    struct Slopes(ParamTable);

    impl Objective<f32> for Slopes {
        fn shard(&self, _: &Cx<'_, f32>, grads: &mut [f32], _: u64, samples: &[Sample]) -> Loss {
            for (i, grad) in grads.iter_mut().enumerate() {
                for sample in samples {
                    *grad += 0.1 * (sample.key + 1) as f32 + 0.3 * i as f32;
                }
            }
            Loss { total: share(samples) / 3.0, term: share(samples) }
        }
    }

    /// The bits of a gradient, a loss and a term of 37 samples in two micro-batches, in each of so many processes, and what they
    /// agree on, where each tells ten times its rank.
    fn bits_of_processes(n: usize, threads: usize, groups: usize) -> Vec<(Vec<u32>, [u64; 2], Option<u8>)> {
        let mut table = ParamTable::default();
        table.root().param("weight", &[2 * SENT + 100], Init::Zeros);
        let slopes = Slopes(table);
        let samples: Vec<Sample> = (0..37).map(|row| Sample { row, key: row }).collect();
        let work = |peers: Option<Arc<dyn Peers>>| {
            let table = &slopes.0;
            let mut engine = Engine::new(table, threads, Gemm::Tiles, Cut { shard: 2, groups }).unwrap();
            if let Some(peers) = peers {
                let rank = peers.rank() as u8;
                engine = engine.with_peers(peers);
                engine.tell(10 * rank);
            }
            let (mut grads, mut loss) = (table.zeros(), Loss::default());
            for samples in samples.chunks(20) {
                engine.accumulate(&slopes, &table.zeros(), Key::new(1), &mut grads, &mut loss, 0, samples);
            }
            (grads.iter().map(|grad| grad.to_bits()).collect(), [loss.total, loss.term].map(f64::to_bits), engine.agreed())
        };
        if n == 0 {
            return vec![work(None)];
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                crate::peers::ThreadPeers::new(n).into_iter().map(|peers| scope.spawn(|| work(Some(Arc::new(peers))))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn several_processes_give_the_bits_of_one_and_agree_on_the_highest_flag() {
        for groups in [5, 8] {
            let (grads, loss, agreed) = bits_of_processes(0, 2, groups).remove(0);
            assert_eq!(agreed, None);
            for (processes, threads) in [(1, 1), (2, 1), (3, 2), (4, 1), (5, 3)] {
                let wanted = (grads.clone(), loss, Some(10 * (processes as u8 - 1)));
                let found = bits_of_processes(processes, threads, groups);
                assert!(
                    found.iter().all(|found| *found == wanted),
                    "{processes} processes of {threads} threads, {groups} groups"
                );
            }
        }
    }

    #[test]
    fn samples_are_dealt_out_with_their_groups() {
        let table = ParamTable::default();
        let samples: Vec<Sample> = (0..37).map(|row| Sample { row, key: row }).collect();
        let mut dealt = Vec::new();
        for peers in crate::peers::ThreadPeers::new(3) {
            let engine = Engine::<f32>::new(&table, 1, Gemm::Tiles, Cut { shard: 2, groups: 5 }).unwrap();
            dealt.push(engine.with_peers(Arc::new(peers)).own_samples(&samples).to_vec());
        }
        assert_eq!(dealt.concat(), samples);
        assert_eq!(dealt.iter().map(Vec::len).collect::<Vec<_>>(), [7, 15, 15]); // of 1, 2 and 2 groups
    }
}
