//! Hiding some of a flow's features from a network.

use nids_kernels::Key;
use nids_nn::{FeatureEmbedding, Real};
use rand::RngExt as _;

/// Which feature tokens of a shard are hidden, and what stands in their place.
#[derive(Clone, Copy, Debug)]
pub struct Masked<'m, R> {
    /// [F, b], 1 = hidden
    pub mask: &'m [R],
    /// The mask token, [D]. It is added to the bias of a hidden feature, which says which feature
    /// that is. None: the bias alone.
    pub token: Option<&'m [R]>,
}

/// Masks exactly `n_masked` of `n_features` tokens for every sample, each subset as likely as any other, as a function of the
/// key and the sample (selection sampling, Knuth 3.4.2 S: one pass, no sorting).   mask: [F, b], 1 = masked
///
/// With `targets`, [F, b], tokens that are missing in a sample (their target is NaN) are not masked: the subsets are those of the
/// tokens that are present. A sample with fewer of them than `n_masked` has all of them masked, and as many missing ones as are
/// wanted beside them, since every sample hides as many tokens; for those there is no loss. A sample of which nothing is missing
/// has the mask that it has without `targets`.
pub fn random_masking<R: Real>(
    key: Key,
    samples: &[u32],
    n_features: usize,
    n_masked: usize,
    targets: Option<&[R]>,
    mask: &mut [R],
) {
    let b = samples.len();
    assert_eq!(mask.len(), n_features * b);
    for (j, &sample) in samples.iter().enumerate() {
        let mut stream = key.stream(MASKING_SITE, sample);
        let is_missing = |t: usize| targets.is_some_and(|targets| targets[t * b + j].is_nan());
        let n_missing = (0..n_features).filter(|&t| is_missing(t)).count();
        let mut present = Selection::new(n_masked, n_features - n_missing);
        let mut missing = Selection::new(n_masked - present.left, n_missing);
        for t in 0..n_features {
            let of = if is_missing(t) { &mut missing } else { &mut present };
            mask[t * b + j] = if of.takes_next(|n| stream.random_range(0..n)) { R::one() } else { R::zero() };
        }
    }
}

/// Takes `left` of the `of` tokens that are still to come.
struct Selection {
    left: usize,
    of: usize,
}

impl Selection {
    /// All, where more are asked for than there are.
    fn new(n: usize, of: usize) -> Self {
        Self { left: n.min(of), of }
    }

    fn takes_next(&mut self, draw: impl FnOnce(usize) -> usize) -> bool {
        let is_taken = draw(self.of) < self.left;
        self.left -= usize::from(is_taken);
        self.of -= 1;
        is_taken
    }
}

/// Site of masking, different from those of layers, which count from 1.
const MASKING_SITE: u32 = u32::MAX;

impl<R: Real> Masked<'_, R> {
    /// Calls `apply` with every hidden token and its sample.   b: samples of the shard
    pub(crate) fn each(&self, b: usize, mut apply: impl FnMut(usize, usize)) {
        for (t, mask) in self.mask.chunks_exact(b).enumerate() {
            (0..b).filter(|&j| mask[j] != R::zero()).for_each(|j| apply(t, j));
        }
    }

    /// Zeroes the input of hidden tokens, so that their embedding is their bias alone.
    pub(crate) fn hide(&self, embedding: &FeatureEmbedding, b: usize, x: &mut [R]) {
        let mut rest = x;
        for (width, mask) in embedding.widths().zip(self.mask.chunks_exact(b)) {
            let (token, after) = rest.split_at_mut(b * width);
            for (row, &masked) in token.chunks_exact_mut(width).zip(mask) {
                if masked != R::zero() {
                    row.fill(R::zero());
                }
            }
            rest = after;
        }
    }
}
