//! Hiding some of a flow's features from a network.

use std::borrow::Cow;

use nids_kernels::Key;
use nids_nn::{FeatureEmbedding, Real};
use rand::RngExt as _;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

/// Share of a row's feature tokens that is masked, rounded to whole tokens; at least one is masked and one visible.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number, or a mapping of `from` and `to`")]
pub enum MaskRatio {
    /// The same share of every row.
    Fixed(f64),
    /// A share drawn for every row.
    Drawn(DrawnRatio),
}

/// A share drawn for every row, each between the two as likely.
#[derive(Clone, Copy, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DrawnRatio {
    /// The smallest share; 0 stands for one token.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub from: f64,
    /// The largest share, above `from`.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.6)]
    pub to: f64,
}

impl From<f64> for MaskRatio {
    fn from(ratio: f64) -> Self {
        Self::Fixed(ratio)
    }
}

impl JsonSchema for MaskRatio {
    fn schema_name() -> Cow<'static, str> {
        "MaskRatio".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let fixed = json_schema!({ "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1 });
        json_schema!({ "anyOf": [fixed, generator.subschema_for::<DrawnRatio>()] })
    }
}

impl MaskRatio {
    /// Masked tokens of a sample with `n_features` of them, as a function of the key and the sample.
    pub fn n_masked(self, key: Key, sample: u32, n_features: usize) -> usize {
        let ratio = match self {
            Self::Fixed(ratio) => ratio,
            Self::Drawn(DrawnRatio { from, to }) => from + (to - from) * key.stream(RATIO_SITE, sample).random::<f64>(),
        };
        ((n_features as f64 * ratio).round() as usize).clamp(1, n_features - 1)
    }

    /// The mean of [`MaskRatio::n_masked`] over samples.
    pub fn mean_masked(self, n_features: usize) -> f64 {
        match self {
            Self::Fixed(_) => self.n_masked(Key::new(0), 0, n_features) as f64,
            // Σ over k of the probability that k or more are masked, which is sure for one and impossible for all
            Self::Drawn(DrawnRatio { from, to }) => {
                let at_least = |k: usize| ((to - (k as f64 - 0.5) / n_features as f64) / (to - from)).clamp(0.0, 1.0);
                1.0 + (2..n_features).map(at_least).sum::<f64>()
            }
        }
    }
}

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
    mask_each(key, samples, n_features, |_| n_masked, targets, mask);
}

/// [`random_masking`] of as many tokens as `n_masked` says of each sample.
pub(crate) fn mask_each<R: Real>(
    key: Key,
    samples: &[u32],
    n_features: usize,
    n_masked: impl Fn(u32) -> usize,
    targets: Option<&[R]>,
    mask: &mut [R],
) {
    let b = samples.len();
    assert_eq!(mask.len(), n_features * b);
    for (j, &sample) in samples.iter().enumerate() {
        let n_masked = n_masked(sample);
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
/// Site of the share that is masked.
const RATIO_SITE: u32 = u32::MAX - 1;

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
