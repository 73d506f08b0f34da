//! What a pass over one shard needs besides its input: parameters, memory and randomness.

use std::cell::RefCell;
use std::collections::BTreeMap;

use arrayvec::ArrayVec;
use nids_kernels::{Arena, Gemm, Key, Keyed, Mask, Mat, Product, Real, Rows, Store};
use rand::RngExt as _;

use crate::{Param, Prepared};

/// Most samples a shard may hold.
pub const MAX_SHARD: usize = 64;

/// A few numbers for each sample of a shard, on the stack.
pub type Samples = ArrayVec<u32, MAX_SHARD>;

/// Buffers that wait to be used again within a pass.
const MAX_FREE: usize = 32;

/// Activations `[n, b, d]` in the arena.
#[derive(Debug)]
pub struct Tensor<'a, R> {
    /// n·b·d numbers, row-major.
    pub data: &'a mut [R],
    /// [n, b, d]
    pub shape: [usize; 3],
}

impl<R> Tensor<'_, R> {
    /// The tensor's numbers; its memory may be larger than they need ([`Taken::tensor`]).
    pub(crate) fn packed(&self) -> &[R] {
        &self.data[..self.shape.iter().product()]
    }

    /// The tensor's numbers, to write.
    pub(crate) fn packed_mut(&mut self) -> &mut [R] {
        &mut self.data[..self.shape.iter().product()]
    }

    /// Row `[d]` of outer index `n` and sample `j`.
    pub fn row(&mut self, n: usize, j: usize) -> &mut [R] {
        let [_, b, d] = self.shape;
        &mut self.data[(n * b + j) * d..][..d]
    }
}

/// Masks and noise that replace drawn ones, to replay the randomness of another implementation.
#[derive(Clone, Debug, Default)]
pub struct GivenMasks<R> {
    /// Multipliers (0 or 1 / (1 - p)) of each dropout, by site, in this crate's layout, for the
    /// samples that take the branch.
    pub dropout: BTreeMap<u32, Vec<R>>,
    /// Whether each sample takes the branch, by site of the drop-path.
    pub drop_path: BTreeMap<u32, Vec<bool>>,
    /// Standard normal numbers, by the site where they are drawn, in this crate's layout.
    pub noise: BTreeMap<u32, Vec<R>>,
}

/// Whether a pass trains.
#[derive(Clone, Copy, Debug)]
pub enum Mode<'a, R> {
    /// No dropout, no drop-path.
    Eval,
    /// Masks are functions of `key` (seed and step) and of what identifies each sample of the shard.
    Train {
        /// Seed and step.
        key: Key,
        /// One number a sample, unique within the step.
        samples: &'a [u32],
    },
    /// Masks are given.
    Replay(&'a GivenMasks<R>),
}

/// The context of one pass over one shard.
#[derive(Debug)]
pub struct Cx<'a, R: Real> {
    /// Every parameter of the network.
    pub params: &'a [R],
    /// Whether the pass trains.
    pub mode: Mode<'a, R>,
    gemm: Gemm,
    /// Matrices of [`Cx::params`].
    prepared: Option<&'a Prepared<R>>,
    arena: &'a Arena<R>,
    free: RefCell<ArrayVec<&'a mut [R], MAX_FREE>>,
}

impl<'a, R: Real> Cx<'a, R> {
    /// A pass over one shard, with OpenBLAS.
    pub fn new(params: &'a [R], arena: &'a Arena<R>, mode: Mode<'a, R>) -> Self {
        Self { params, mode, gemm: Gemm::default(), prepared: None, arena, free: RefCell::default() }
    }

    /// The pass with another backend, and with what has been prepared of the parameters for it.
    #[must_use]
    pub fn with(self, gemm: Gemm, prepared: Option<&'a Prepared<R>>) -> Self {
        Self { gemm, prepared, ..self }
    }

    /// A teacher's pass over the same shard: it does not train, and has other numbers for the same
    /// parameters. `prepared` belongs to those numbers.
    pub fn with_params<'t>(&'t self, params: &'t [R], prepared: &'t Prepared<R>) -> Cx<'t, R> {
        Cx::new(params, self.arena, Mode::Eval).with(self.gemm, Some(prepared))
    }

    /// Whether backward may follow.
    pub fn trains(&self) -> bool {
        !matches!(self.mode, Mode::Eval)
    }

    /// `len` numbers with unspecified content. The buffer that was recycled last is handed out
    /// first, since it is still in the cache.
    pub fn alloc(&self, len: usize) -> &'a mut [R] {
        let mut free = self.free.borrow_mut();
        match free.iter().rposition(|slice| slice.len() == len) {
            Some(i) => {
                let slice = free.remove(i);
                if cfg!(debug_assertions) {
                    slice.fill(R::nan());
                }
                slice
            }
            None => self.arena.alloc(len),
        }
    }

    /// A tensor with unspecified content.
    pub fn tensor(&self, shape: [usize; 3]) -> Tensor<'a, R> {
        Tensor { data: self.alloc(shape.iter().product()), shape }
    }

    /// A tensor of zeros.
    pub fn zeros(&self, shape: [usize; 3]) -> Tensor<'a, R> {
        let tensor = self.tensor(shape);
        tensor.data.fill(R::zero());
        tensor
    }

    /// Gives a buffer back before the pass ends.
    pub fn recycle(&self, slice: &'a mut [R]) {
        // where the list is full the arena takes it back at the end
        let _ = self.free.borrow_mut().try_push(slice);
    }

    /// c = a · b, c += a · b or c *= a · b.   a: [m, k]   b: [k, n]   c: [m, n], rows `ldc` apart
    pub(crate) fn gemm(&self, sizes: [usize; 3], a: Mat<'_, R>, b: Mat<'_, R>, store: Store, c: &mut [R], ldc: usize) {
        let product = Product::new(sizes, a, b, store);
        product.run(self.gemm, c, ldc, &mut self.arena.scratch(product.scratch_len(self.gemm)));
    }

    /// Makes room for the scratch of a product. The sizes are those of all samples, drawn or not,
    /// so that the first step settles memory even where no block takes every sample.
    pub(crate) fn reserve(&self, sizes: [usize; 3], a: Mat<'_, R>, b: Mat<'_, R>, store: Store) {
        let _ = self.arena.scratch(Product::new(sizes, a, b, store).scratch_len(self.gemm));
    }

    /// A weight W: [outputs, inputs].
    pub(crate) fn weight(&self, weight: Param, inputs: usize) -> Mat<'a, R> {
        match self.prepared {
            Some(prepared) => prepared.weight(self.params, weight),
            None => Mat::new(weight.of(self.params), inputs),
        }
    }

    /// Wᵀ of a weight W: [outputs, inputs].
    pub(crate) fn transposed(&self, weight: Param, inputs: usize) -> Mat<'a, R> {
        match self.prepared {
            Some(prepared) => prepared.transposed(weight),
            None => Mat::new(weight.of(self.params), inputs).t(),
        }
    }

    /// The mask of a dropout with probability `p` at `site`; `samples` are the keys from [`Taken::keys`].
    pub(crate) fn mask<'m>(&'m self, site: u32, p: f64, samples: &'m [u32]) -> Mask<'m, R> {
        match self.mode {
            Mode::Eval => Mask::Off,
            Mode::Replay(masks) => masks.dropout.get(&site).map_or(Mask::Off, |mask| Mask::Given(mask)),
            Mode::Train { .. } if p == 0.0 => Mask::Off,
            Mode::Train { key, .. } => Mask::Keyed(Keyed { key, site, samples, p }),
        }
    }

    /// Which of a shard's `b` samples take a branch that is dropped with probability `p`
    /// (stochastic depth, Huang et al. 2016, per sample). Draws and scale use the rate as rounded
    /// to R.
    pub(crate) fn drop_path(&self, site: u32, p: f64, b: usize) -> Taken {
        let rate = R::from_f64(p);
        let keep = |i: u32| match self.mode {
            Mode::Eval => true,
            Mode::Replay(masks) => masks.drop_path.get(&site).is_none_or(|kept| kept[i as usize]),
            Mode::Train { key, samples } => {
                p == 0.0 || R::from_f64(key.stream(site, samples[i as usize]).random::<f32>().into()) >= rate
            }
        };
        let scale = if self.trains() { 1.0 / (1.0 - rate.to_f64()) } else { 1.0 };
        Taken { kept: (0..b as u32).filter(|&i| keep(i)).collect(), b, scale }
    }
}

/// The samples of a shard that take a branch.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) kept: Samples,
    pub(crate) b: usize,
    /// 1 / (1 - p), which keeps the expectation.
    pub(crate) scale: f64,
}

impl Taken {
    /// Every one of `b` samples.
    pub(crate) fn all(b: usize) -> Self {
        Self { kept: (0..b as u32).collect(), b, scale: 1.0 }
    }

    /// A tensor `[n, taken, d]` in memory for all samples, like every other tensor of a branch.
    /// What a pass allocates then does not depend on what was drawn, and the first step settles it.
    pub(crate) fn tensor<'a, R: Real>(&self, cx: &Cx<'a, R>, n: usize, d: usize) -> Tensor<'a, R> {
        Tensor { data: cx.alloc(n * self.b * d), shape: [n, self.kept.len(), d] }
    }

    /// Their rows in `[outer, b, cols]`.
    pub(crate) fn rows(&self, outer: usize, cols: usize) -> Rows<'_> {
        Rows { outer, b: self.b, cols, kept: &self.kept }
    }

    /// The keys by which the masks of these samples are drawn.
    pub(crate) fn keys<R: Real>(&self, cx: &Cx<'_, R>) -> Samples {
        match cx.mode {
            Mode::Train { samples, .. } => self.kept.iter().map(|&i| samples[i as usize]).collect(),
            Mode::Eval | Mode::Replay(_) => self.kept.clone(),
        }
    }
}
