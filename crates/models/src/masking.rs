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
pub fn random_masking<R: Real>(key: Key, samples: &[u32], n_features: usize, n_masked: usize, mask: &mut [R]) {
    let b = samples.len();
    assert_eq!(mask.len(), n_features * b);
    for (j, &sample) in samples.iter().enumerate() {
        let mut stream = key.stream(MASKING_SITE, sample);
        let mut left = n_masked;
        for t in 0..n_features {
            let masked = (stream.random_range(0..n_features - t)) < left;
            mask[t * b + j] = if masked { R::one() } else { R::zero() };
            left -= usize::from(masked);
        }
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
