//! A masked autoencoder (He et al. 2022) over feature tokens: some features of each flow are hidden and predicted from the
//! others.
//!
//! Two encoders share the names and shapes of all weights. `mask_token` encodes the full length,
//! with a learned token in the place of what is hidden. `visible_only` encodes the K visible tokens
//! alone and is faster by about the share that is hidden; [`Visible`] says what token mixing does
//! with a shortened sequence. Weights pretrained either way load into the full-length encoder that
//! classifies.

use nids_kernels::{Key, add_assign};
use nids_nn::{Cx, Init, LayerNorm, Param, Real, Scope, Tensor, Visible};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use crate::heads::{Heads, Target};
use crate::masking::{MaskRatio, Masked, mask_each};
use crate::mixer::{
    Block, EmbeddingCache, Encoder, Input, MembersCache, MixerConfig, TrunkCache, backward_trunk, blocks, forward_trunk,
};

/// Copies of a row that are taken forward together.
const AT_ONCE: usize = 8;

/// What the encoder sees of a masked flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaeEncoder {
    /// All N tokens, the masked ones replaced by a learned token.
    #[default]
    MaskToken,
    /// Only the K visible tokens.
    VisibleOnly,
}

/// What is predicted of a hidden number. A hidden category is always predicted as a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NumberTarget {
    /// Its quantile-normal value (the scaled value with `normalisation: standard` or `global_max`): squared error.
    #[default]
    Value,
    /// Its class: cross-entropy. Common values have a class each, the others share quantile bins, at most `tokeniser.bins`
    /// together; two more classes are below the smallest and above the largest value of training.
    Bins,
}

/// Settings of the pretext task.
#[derive(Clone, Copy, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MaeConfig {
    /// Share of the feature tokens that is masked, rounded to whole tokens; at least one is masked and one visible. With
    /// `{ from: 0, to: 0.6 }` it is drawn for every row.
    #[default(MaskRatio::Fixed(0.4))]
    pub mask_ratio: MaskRatio,
    /// What is predicted of a hidden number.
    #[schemars(extend("x-newer" = true))]
    pub target: NumberTarget,
    /// What the encoder sees.
    pub encoder: MaeEncoder,
    /// Mixer blocks of the decoder.
    #[schemars(range(min = 0, max = 32))]
    #[default(1)]
    pub decoder_depth: usize,
}

/// What backward needs of [`Mae::forward`].
struct MaeCache<'a, R> {
    embedding: EmbeddingCache<'a, R>,
    trunk: MembersCache<'a, R>,
    visible: Option<Visible<'a, R>>,
    decoder: TrunkCache<'a, R>,
}

/// Encoder, decoder and a head for every feature.
#[derive(Clone, Debug)]
pub struct Mae {
    encoder: Encoder,
    mask_token: Param,
    decoder: Vec<Block>,
    decoder_norm: LayerNorm,
    heads: Heads,
    config: MaeConfig,
}

impl Mae {
    /// Adds `encoder`, `mask_token`, `decoder.blocks.{i}`, `decoder.norm` and `heads.{feature}`. `targets` says what is
    /// predicted of each of the `features`.
    pub fn new(
        scope: &mut Scope<'_>,
        features: &[(String, usize)],
        targets: &[Target],
        mixer: &MixerConfig,
        config: MaeConfig,
    ) -> Self {
        assert!(features.len() > 1, "one feature has nothing to be predicted from");
        let encoder = Encoder::new(&mut scope.at("encoder"), Input::Features(features), mixer);
        let mask_token = scope.param("mask_token", &[mixer.dim], Init::Normal { std: 0.02 });
        // the decoder is thrown away after pretraining: nothing is gained by regularising it
        let plain = MixerConfig { dropout: 0.0, drop_path: 0.0, ..*mixer };
        let decoder = blocks(&mut scope.at("decoder").at("blocks"), encoder.n_tokens(), config.decoder_depth, &plain);
        let decoder_norm = LayerNorm::new(&mut scope.at("decoder").at("norm"), mixer.dim);
        let heads = Heads::new(&mut scope.at("heads"), features, targets, mixer.dim);
        Self { encoder, mask_token, decoder, decoder_norm, heads, config }
    }

    /// The encoder, which is kept after pretraining.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// [`Encoder::activations`] and those of the decoder.
    pub fn activations(&self) -> usize {
        let decoder = self.decoder.len() * self.encoder.config().block_activations(self.encoder.n_tokens());
        self.encoder.activations() + decoder
    }

    /// Floating-point operations of the matrix products of one sample forward, as if no token were left out.
    pub fn forward_flops(&self) -> f64 {
        let decoder = self.decoder.len() as f64 * self.encoder.config().block_flops(self.encoder.n_tokens());
        self.encoder.forward_flops() + decoder
    }

    /// Masked tokens a sample, on average where their number is drawn.
    pub fn n_masked(&self) -> f64 {
        self.config.mask_ratio.mean_masked(self.heads.n_features())
    }

    /// Draws which tokens of each sample are masked: [`random_masking`](crate::random_masking) of the share `mask_ratio`.
    pub fn draw_mask<R: Real>(&self, key: Key, samples: &[u32], targets: Option<&[R]>, mask: &mut [R]) {
        let n_features = self.heads.n_features();
        let n_masked = |sample| self.config.mask_ratio.n_masked(key, sample, n_features);
        mask_each(key, samples, n_features, n_masked, targets, mask);
    }

    /// Takes a shard forward and, where `grads` is given, back. Returns Σ over masked tokens of their loss / `divisor`.
    ///
    /// x: b samples as [`Input::Features`] has them; what `mask` hides is overwritten   mask, targets: [F, b]; a class is a
    /// small integer, and NaN is missing: it has no loss. With [`MaeEncoder::VisibleOnly`] all samples hide as many tokens.
    pub fn loss<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: Option<&mut [R]>,
        b: usize,
        x: &'a mut [R],
        mask: &'a [R],
        targets: &[R],
        divisor: R,
    ) -> f64 {
        let seen = self.config.encoder == MaeEncoder::MaskToken;
        let masked = Masked { mask, token: seen.then(|| self.mask_token.of(cx.params)) };
        let (decoded, MaeCache { embedding, trunk, visible, decoder }) = self.forward(cx, b, x, masked);
        let Some(grads) = grads else { return self.heads.loss(cx, None, &decoded, Some(mask), targets, divisor).0 };
        let (loss, ddecoded) = self.heads.loss(cx, Some(grads), &decoded, Some(mask), targets, divisor);
        cx.recycle(decoded.data);
        let mut dinput = backward_trunk(cx, grads, &self.decoder, &self.decoder_norm, decoder, ddecoded);
        let dencoded = match visible {
            None => dinput,
            Some(visible) => {
                masked.each(b, |t, j| {
                    add_assign(self.mask_token.of_mut(grads), dinput.row(t, j));
                    self.encoder.features().add_bias_gradient(grads, t, dinput.row(t, j));
                });
                gather(cx, visible, dinput)
            }
        };
        let mut dtokens = self.encoder.mix_backward(cx, grads, trunk, dencoded);
        match visible {
            None => masked.each(b, |t, j| add_assign(self.mask_token.of_mut(grads), dtokens.row(t, j))),
            Some(visible) => dtokens = scatter(cx, visible, self.encoder.n_tokens(), dtokens),
        }
        self.encoder.embed_backward(cx, grads, embedding, dtokens);
        loss
    }

    /// The loss of each feature of a row while it is hidden: -ln p(value | what is seen), in nats, of what is predicted as a class, the
    /// squared error of a number. The features are hidden `passes` times, those at places `p`, `p + passes`, `p + 2 passes`... together,
    /// so that each is hidden once; with as many passes as features each is hidden alone. NaN of what is missing. Without dropout if
    /// `cx` is that of [`nids_nn::Mode::Eval`]. The arena keeps every pass until it is reset.
    ///
    /// x: one row, as [`Input::Features`] has it   targets: [F], NaN is missing   out: [F]
    ///
    /// # Panics
    /// If there are no passes, or more than features.
    pub fn hidden_losses<R: Real>(&self, cx: &Cx<'_, R>, passes: usize, x: &[R], targets: &[R], out: &mut [R]) {
        let n_features = self.heads.n_features();
        assert!((1..=n_features).contains(&passes), "a feature is hidden once");
        assert!(targets.len() == n_features && out.len() == n_features);
        // an encoder of visible tokens needs as many hidden ones in every pass: the first features are hidden once more
        let hidden_together = n_features.div_ceil(passes);
        let is_hidden = |pass: usize, t: usize| (0..hidden_together).any(|k| (pass + k * passes) % n_features == t);
        for first in (0..passes).step_by(AT_ONCE) {
            let b = AT_ONCE.min(passes - first);
            let (all_targets, losses) = (cx.alloc(n_features * b), cx.alloc(n_features * b));
            targets.iter().zip(all_targets.chunks_exact_mut(b)).for_each(|(&target, targets)| targets.fill(target));
            let (decoded, mask) = self.decode_hidden(cx, b, x, |j, t| is_hidden(first + j, t));
            self.heads.losses(cx, &decoded, mask, all_targets, losses);
            for (t, out) in out.iter_mut().enumerate() {
                if (first..first + b).contains(&(t % passes)) {
                    *out = losses[t * b + t % passes - first];
                }
            }
        }
    }

    /// For each of some sets of features, hidden in turn: which of D donors has the values of these features that are the most probable
    /// beside what is left of the row, that is the least [`Mae::hidden_losses`]; the first of several. A donor's missing value counts as
    /// the mean of the others. Without dropout if `cx` is that of [`nids_nn::Mode::Eval`]. The arena keeps every pass until it is reset.
    ///
    /// x: one row, as [`Input::Features`] has it   donors: [F, D], targets, NaN is missing   out: one a set
    ///
    /// # Panics
    /// If a set is empty, a feature is out of range, or there is no donor.
    pub fn infill<R: Real>(&self, cx: &Cx<'_, R>, x: &[R], hidden: &[Vec<usize>], donors: &[R], out: &mut [R]) {
        let n_donors = donors.len() / self.heads.n_features();
        assert!(
            n_donors > 0 && hidden.len() == out.len() && hidden.iter().all(|set| !set.is_empty()),
            "features, and donors of them"
        );
        // an encoder of visible tokens needs as many hidden ones in every pass
        let at_once = if self.config.encoder == MaeEncoder::MaskToken { AT_ONCE } else { 1 };
        let sums = cx.alloc(n_donors);
        for (hidden, out) in hidden.chunks(at_once).zip(out.chunks_mut(at_once)) {
            let (mut decoded, _) = self.decode_hidden(cx, hidden.len(), x, |j, t| hidden[j].contains(&t));
            for (j, (set, out)) in hidden.iter().zip(out).enumerate() {
                sums.fill(R::zero());
                for &t in set {
                    self.heads.add_surprise(cx, t, decoded.row(t, j), &donors[t * n_donors..][..n_donors], sums);
                }
                let least = (1..n_donors).fold(0, |least, donor| if sums[donor] < sums[least] { donor } else { least });
                *out = R::from_f64(least as f64);
            }
        }
    }

    /// `b` copies of a row, of which copy `j` hides token `t` where `is_hidden(j, t)`: the decoded tokens, [N, b, D], and the mask, [F, b].
    fn decode_hidden<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        b: usize,
        x: &[R],
        is_hidden: impl Fn(usize, usize) -> bool,
    ) -> (Tensor<'a, R>, &'a [R]) {
        assert_eq!(x.len(), self.encoder.input_width(), "one row");
        let (copies, mask) = (cx.alloc(b * x.len()), cx.alloc(self.heads.n_features() * b));
        let mut from = 0;
        for width in self.encoder.features().widths() {
            let token = &x[from..from + width];
            copies[from * b..][..width * b].chunks_exact_mut(width).for_each(|copy| copy.copy_from_slice(token));
            from += width;
        }
        for (t, mask) in mask.chunks_exact_mut(b).enumerate() {
            for (j, mask) in mask.iter_mut().enumerate() {
                *mask = if is_hidden(j, t) { R::one() } else { R::zero() };
            }
        }
        let token = (self.config.encoder == MaeEncoder::MaskToken).then(|| self.mask_token.of(cx.params));
        let (decoded, _) = self.forward(cx, b, copies, Masked { mask, token });
        (decoded, mask)
    }

    /// The decoded tokens, [N, b, D].
    fn forward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        b: usize,
        x: &'a mut [R],
        masked: Masked<'_, R>,
    ) -> (Tensor<'a, R>, MaeCache<'a, R>) {
        let mask = masked.mask;
        let (mut tokens, embedding) = self.encoder.embed_masked(cx, b, x, masked);
        let visible = masked.token.is_none().then(|| self.visible(cx, b, mask));
        if let Some(visible) = visible {
            tokens = gather(cx, visible, tokens);
        }
        let (encoded, trunk) = self.encoder.mix(cx, visible, tokens);
        let decoder_input = match visible {
            None => encoded,
            Some(visible) => {
                let mut full = scatter(cx, visible, self.encoder.n_tokens(), encoded);
                masked.each(b, |t, j| {
                    let row = full.row(t, j);
                    row.copy_from_slice(self.mask_token.of(cx.params));
                    add_assign(row, self.encoder.features().bias(cx.params, t));
                });
                full
            }
        };
        let (decoded, decoder) = forward_trunk(cx, &self.decoder, &self.decoder_norm, None, decoder_input);
        (decoded, MaeCache { embedding, trunk, visible, decoder })
    }

    /// Which tokens each sample still has: its visible features, then the registers.
    fn visible<'a, R: Real>(&self, cx: &Cx<'a, R>, b: usize, mask: &[R]) -> Visible<'a, R> {
        let features = self.heads.n_features();
        let n_masked = (0..features).filter(|t| mask[t * b] != R::zero()).count();
        let n_visible = self.encoder.n_tokens() - n_masked;
        let index = cx.alloc(n_visible * b);
        for j in 0..b {
            let kept = (0..self.encoder.n_tokens()).filter(|&t| t >= features || mask[t * b + j] == R::zero());
            let mut k = 0;
            for t in kept {
                index[k * b + j] = R::from_f64(t as f64);
                k += 1;
            }
            assert_eq!(k, n_visible, "every sample hides as many tokens");
        }
        Visible { index, b }
    }
}

/// packed[k, j] = full[token(k, j), j].   full: [N, b, D]   packed: [K, b, D]
fn gather<'a, R: Real>(cx: &Cx<'a, R>, visible: Visible<'a, R>, mut full: Tensor<'a, R>) -> Tensor<'a, R> {
    let [_, b, d] = full.shape;
    let mut packed = cx.tensor([visible.index.len() / b, b, d]);
    for k in 0..packed.shape[0] {
        (0..b).for_each(|j| packed.row(k, j).copy_from_slice(full.row(visible.token(k, j as u32), j)));
    }
    cx.recycle(full.data);
    packed
}

/// full[token(k, j), j] = packed[k, j], 0 elsewhere.   packed: [K, b, D]   full: [N, b, D]
fn scatter<'a, R: Real>(cx: &Cx<'a, R>, visible: Visible<'a, R>, n_tokens: usize, mut packed: Tensor<'a, R>) -> Tensor<'a, R> {
    let [n_visible, b, d] = packed.shape;
    let mut full = cx.zeros([n_tokens, b, d]);
    for k in 0..n_visible {
        (0..b).for_each(|j| full.row(visible.token(k, j as u32), j).copy_from_slice(packed.row(k, j)));
    }
    cx.recycle(packed.data);
    full
}
