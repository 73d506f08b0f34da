//! Replaced-feature detection over feature tokens: some features of each flow are swapped for those of other flows, and the network
//! says which.
//!
//! The pretext task RTD of Rubachev et al. 2022 ("Revisiting pretraining objectives for tabular deep learning"); the corruption is
//! that of VIME (Yoon et al. 2020), which draws each feature from its own distribution. Nothing is rebuilt, so there is no decoder.

use nids_kernels::Key;
use nids_nn::{Cx, Real, Scope};
use rand::RngExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use crate::heads::{Heads, Target};
use crate::masking::{MaskRatio, random_masking};
use crate::mixer::{Encoder, Input, MixerConfig};

/// Settings of the pretext task.
#[derive(Clone, Copy, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReplacedConfig {
    /// Share of a row's features that is swapped for those of other rows, rounded to whole features; at least one is swapped and one
    /// is not. A swap that leaves the feature as it was does not count as one.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.3)]
    pub swap_ratio: f64,
}

/// Encoder and a logit for every feature.
#[derive(Clone, Debug)]
pub struct Replaced {
    encoder: Encoder,
    heads: Heads,
    config: ReplacedConfig,
}

impl Replaced {
    /// Adds `encoder` and `heads.{feature}`.
    pub fn new(scope: &mut Scope<'_>, features: &[(String, usize)], mixer: &MixerConfig, config: ReplacedConfig) -> Self {
        assert!(features.len() > 1, "one feature has nothing to be judged by");
        let encoder = Encoder::new(&mut scope.at("encoder"), Input::Features(features), mixer);
        let heads = Heads::new(&mut scope.at("heads"), features, &vec![Target::Flag; features.len()], mixer.dim);
        Self { encoder, heads, config }
    }

    /// The encoder, which is kept after pretraining.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// F
    pub fn n_features(&self) -> usize {
        self.heads.n_features()
    }

    /// Draws which features of each sample are swapped, and calls `swap` with each of them: the feature, the place of the sample
    /// in `samples`, and the row that it is taken from, any of `n_rows`. `swap` says whether that changed it. A function of the key
    /// and the sample.   swapped: [F, b], 1 = another value
    pub fn draw_swaps<R: Real>(
        &self,
        key: Key,
        samples: &[u32],
        n_rows: u32,
        swapped: &mut [R],
        mut swap: impl FnMut(usize, usize, u32) -> bool,
    ) {
        let (n_features, b) = (self.n_features(), samples.len());
        let n_swapped = MaskRatio::Fixed(self.config.swap_ratio).n_masked(key, 0, n_features);
        random_masking(key, samples, n_features, n_swapped, None, swapped);
        for (j, &sample) in samples.iter().enumerate() {
            let mut stream = key.stream(DONOR_SITE, sample);
            for t in 0..n_features {
                let swapped = &mut swapped[t * b + j];
                if *swapped != R::zero() && !swap(t, j, stream.random_range(0..n_rows)) {
                    *swapped = R::zero();
                }
            }
        }
    }

    /// Takes a shard forward and, where `grads` is given, back. Returns Σ over features of the binary cross-entropy of their logit /
    /// `divisor`.
    ///
    /// x: b samples as [`Input::Features`] has them, swapped   swapped: [F, b], 1 = another value
    pub fn loss<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: Option<&mut [R]>,
        b: usize,
        x: &'a mut [R],
        swapped: &[R],
        divisor: R,
    ) -> f64 {
        let (tokens, cache) = self.encoder.forward(cx, b, x);
        let Some(grads) = grads else { return self.heads.loss(cx, None, &tokens, None, swapped, divisor).0 };
        let (loss, dtokens) = self.heads.loss(cx, Some(grads), &tokens, None, swapped, divisor);
        cx.recycle(tokens.data);
        self.encoder.backward(cx, grads, cache, dtokens);
        loss
    }
}

/// Site of the rows that features are taken from, different from those of layers, which count from 1, and of masks.
const DONOR_SITE: u32 = u32::MAX - 2;
