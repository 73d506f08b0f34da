//! A variational autoencoder (Kingma & Welling 2014, "Auto-encoding variational Bayes") over feature tokens: every flow is
//! encoded as a Gaussian, and rebuilt from one draw of it.
//!
//! The encoder is the Mixer, under the names that it has in every network. Two linear heads on its tokens, or on their mean,
//! give q(z|x) = N(μ, diag σ²); z = μ + σ·ε is the reparametrisation of §2.4 there, and what it costs to deviate from the prior
//! N(0, 1) is the KL divergence of appendix B. The decoder is thrown away, like that of the masked
//! autoencoder.

use nids_kernels::{Bias, add_assign, add_bias, add_column_sums, hadamard, scale};
use nids_nn::loss::gaussian_kl;
use nids_nn::{Cx, Init, LayerNorm, Linear, Mode, Param, Real, Scope, Tensor, mean_tokens, mean_tokens_backward};
use rand_distr::{Distribution, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use crate::heads::{Heads, Target};
use crate::mixer::{Block, Encoder, Input, MixerConfig, backward_trunk, blocks, forward_trunk};

/// log σ² stays within ± this: see [`Posterior`].
const LOG_VARIANCE_BOUND: f64 = 10.0;

/// What has a latent of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VaeLatent {
    /// Every token: `[N, Z]` a flow.
    #[default]
    Token,
    /// The flow: `[Z]`, from the mean over its tokens.
    Pooled,
}

/// Settings of the autoencoder.
#[derive(Clone, Copy, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VaeConfig {
    /// Z, the width of a latent.
    // what encode and the stages after it read has this shape
    #[schemars(range(min = 1, max = 4096), extend("x-changes" = "every"))]
    #[default(16)]
    pub latent_dim: usize,
    /// What has a latent of its own.
    #[schemars(extend("x-changes" = "every"))]
    pub latent: VaeLatent,
    /// Weight of the KL divergence; 1 is the evidence lower bound of a decoder of variance ½.
    #[schemars(extend("minimum" = 0))]
    #[default(0.01)]
    pub beta: f64,
    /// Share of the steps over which `beta` rises from 0.
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    #[default(0.2)]
    pub beta_warmup: f64,
    /// Mixer blocks of the decoder.
    #[schemars(range(min = 0, max = 32))]
    #[default(1)]
    pub decoder_depth: usize,
}

/// q(z|x) = N(μ, diag e^s):   μ = h W₁ᵀ + b₁,   s = L·tanh((h W₂ᵀ + b₂) / L),   h the tokens or their mean.
///
/// s, the log-variance, is softly bounded by L = 10, so that no step can make its exponential overflow, and still has a
/// gradient; within ±2 that moves it by 3 % at most.
#[derive(Clone, Copy, Debug)]
pub struct Posterior {
    mu: Linear,
    log_variance: Linear,
    config: VaeConfig,
}

/// What [`Posterior::backward`] needs.
#[derive(Debug)]
struct PosteriorCache<'a, R> {
    h: Tensor<'a, R>,
    /// ds of the bound.
    slope: &'a mut [R],
    n_tokens: usize,
}

impl Posterior {
    /// Adds `mu` and `log_variance`.
    pub fn new(scope: &mut Scope<'_>, dim: usize, config: VaeConfig) -> Self {
        let mut head = |name| Linear::new(&mut scope.at(name), dim, config.latent_dim);
        Self { mu: head("mu"), log_variance: head("log_variance"), config }
    }

    /// Shape of a sample's latents, given N.
    pub fn shape(&self, n_tokens: usize) -> [usize; 2] {
        [if self.config.latent == VaeLatent::Token { n_tokens } else { 1 }, self.config.latent_dim]
    }

    /// μ and σ.   tokens: [N, b, D]   both: [N, b, Z], or [1, b, Z] where tokens are pooled
    pub fn infer<'a, R: Real>(&self, cx: &Cx<'a, R>, tokens: Tensor<'a, R>) -> [Tensor<'a, R>; 2] {
        let (mu, log_variance, _) = self.forward(cx, tokens);
        log_variance.data.iter_mut().for_each(|s| *s = half(*s).exp());
        [mu, log_variance]
    }

    /// μ and s.   tokens: [N, b, D]
    fn forward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        tokens: Tensor<'a, R>,
    ) -> (Tensor<'a, R>, Tensor<'a, R>, PosteriorCache<'a, R>) {
        let n_tokens = tokens.shape[0];
        let h = match self.config.latent {
            VaeLatent::Token => tokens,
            VaeLatent::Pooled => mean_tokens(cx, tokens),
        };
        let shape = [h.shape[0], h.shape[1], self.config.latent_dim];
        let (mu, log_variance) = (cx.tensor(shape), cx.tensor(shape));
        self.mu.apply(cx, h.data, mu.data);
        self.log_variance.apply(cx, h.data, log_variance.data);
        let slope = cx.alloc(mu.data.len());
        let bound = R::from_f64(LOG_VARIANCE_BOUND);
        for (s, slope) in log_variance.data.iter_mut().zip(&mut *slope) {
            let (tanh, derivative) = (*s / bound).tanh_and_derivative();
            (*s, *slope) = (bound * tanh, derivative);
        }
        (mu, log_variance, PosteriorCache { h, slope, n_tokens })
    }

    /// The gradient of the tokens.
    fn backward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: PosteriorCache<'a, R>,
        dmu: Tensor<'a, R>,
        dlog_variance: Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let PosteriorCache { h, slope, n_tokens } = cache;
        hadamard(dlog_variance.data, slope);
        self.mu.add_gradients(cx, grads, h.data, dmu.data);
        self.log_variance.add_gradients(cx, grads, h.data, dlog_variance.data);
        let dh = cx.tensor(h.shape);
        self.mu.input_gradient(cx, dmu.data, dh.data);
        self.log_variance.input_gradient(cx, dlog_variance.data, h.data);
        add_assign(dh.data, h.data);
        for buffer in [h.data, slope, dmu.data, dlog_variance.data] {
            cx.recycle(buffer);
        }
        match self.config.latent {
            VaeLatent::Token => dh,
            VaeLatent::Pooled => mean_tokens_backward(cx, n_tokens, dh),
        }
    }
}

/// The two sides of the evidence lower bound; the loss is `reconstruction + beta · kl`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Elbo {
    /// Loss of the rebuilt features.
    pub reconstruction: f64,
    /// KL(q(z|x) ‖ N(0, 1)).
    pub kl: f64,
}

/// Encoder, posterior, decoder and a head for every feature.
#[derive(Clone, Debug)]
pub struct Vae {
    encoder: Encoder,
    posterior: Posterior,
    /// Site where ε is drawn.
    site: u32,
    from_latent: Linear,
    /// [N, D]: positions of the tokens, which z then need not encode.
    places: Param,
    decoder: Vec<Block>,
    decoder_norm: LayerNorm,
    heads: Heads,
}

impl Vae {
    /// Adds `encoder`, `latent.mu`, `latent.log_variance`, `decoder.input`, `decoder.places`, `decoder.blocks.{i}`,
    /// `decoder.norm` and `heads.{feature}`. `targets` says what is predicted of each of the `features`.
    pub fn new(
        scope: &mut Scope<'_>,
        features: &[(String, usize)],
        targets: &[Target],
        mixer: &MixerConfig,
        config: VaeConfig,
    ) -> Self {
        let encoder = Encoder::new(&mut scope.at("encoder"), Input::Features(features), mixer);
        let posterior = Posterior::new(&mut scope.at("latent"), mixer.dim, config);
        let site = scope.site();
        let mut below = scope.at("decoder");
        let from_latent = Linear::without_bias(&mut below.at("input"), config.latent_dim, mixer.dim);
        let places = below.param("places", &[encoder.n_tokens(), mixer.dim], Init::Normal { std: 0.02 });
        // the decoder is thrown away after pretraining: nothing is gained by regularising it
        let plain = MixerConfig { dropout: 0.0, drop_path: 0.0, ..*mixer };
        let decoder = blocks(&mut below.at("blocks"), encoder.n_tokens(), config.decoder_depth, &plain);
        let decoder_norm = LayerNorm::new(&mut below.at("norm"), mixer.dim);
        let heads = Heads::new(&mut scope.at("heads"), features, targets, mixer.dim);
        Self { encoder, posterior, site, from_latent, places, decoder, decoder_norm, heads }
    }

    /// The encoder, which is kept after pretraining.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The number under which ε is drawn or given.
    pub fn noise_site(&self) -> u32 {
        self.site
    }

    /// F
    pub fn n_features(&self) -> usize {
        self.heads.n_features()
    }

    /// [`Encoder::activations`] and those of the decoder.
    pub fn activations(&self) -> usize {
        let decoder = self.decoder.len() * self.encoder.config().block_activations(self.encoder.n_tokens());
        self.encoder.activations() + decoder
    }

    /// Floating-point operations of the matrix products of one sample forward.
    pub fn forward_flops(&self) -> f64 {
        let n_tokens = self.encoder.n_tokens();
        let [n, z] = self.posterior.shape(n_tokens);
        let decoder = self.decoder.len() as f64 * self.encoder.config().block_flops(n_tokens);
        self.encoder.forward_flops() + (6 * n * z * self.encoder.dim()) as f64 + decoder
    }

    /// Takes a shard forward and, where `grads` is given, back. Returns Σ over features of their loss / `divisor`, and
    /// Σ KL / `divisor`; the gradient is that of `reconstruction + beta · kl`. Without a key z is μ.
    ///
    /// x: b samples as [`Input::Features`] has them   targets: [F, b]; a class is a small integer, and NaN is
    /// missing: it has no loss
    pub fn loss<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: Option<&mut [R]>,
        b: usize,
        x: &'a mut [R],
        targets: &[R],
        beta: R,
        divisor: R,
    ) -> Elbo {
        let (tokens, encoder) = self.encoder.forward(cx, b, x);
        let (mu, log_variance, posterior) = self.posterior.forward(cx, tokens);
        let (dmu, dlog_variance) = (cx.tensor(mu.shape), cx.tensor(mu.shape));
        let kl = gaussian_kl(mu.data, log_variance.data, divisor, dmu.data, dlog_variance.data);
        let noise = self.noise(cx, mu.shape);
        let dz_ds = log_variance.data;
        let z = mu;
        for ((z, s), &noise) in z.data.iter_mut().zip(&mut *dz_ds).zip(&*noise.data) {
            let deviation = half(*s).exp() * noise;
            *z += deviation;
            *s = half(deviation);
        }
        cx.recycle(noise.data);
        let (projected, from_latent) = self.from_latent.forward(cx, z);
        let placed = self.place(cx, projected);
        let (decoded, decoder) = forward_trunk(cx, &self.decoder, &self.decoder_norm, None, placed);
        let Some(grads) = grads else {
            let (reconstruction, _) = self.heads.loss(cx, None, &decoded, None, targets, divisor);
            return Elbo { reconstruction, kl };
        };

        let (reconstruction, ddecoded) = self.heads.loss(cx, Some(grads), &decoded, None, targets, divisor);
        cx.recycle(decoded.data);
        let dplaced = backward_trunk(cx, grads, &self.decoder, &self.decoder_norm, decoder, ddecoded);
        let dprojected = self.place_backward(cx, grads, dplaced);
        let dz = self.from_latent.backward(cx, grads, from_latent, dprojected);
        // z = μ + σ ε:   dμ += dz,   ds += dz · σ ε / 2
        scale(beta, dmu.data);
        scale(beta, dlog_variance.data);
        add_assign(dmu.data, dz.data);
        hadamard(dz.data, dz_ds);
        add_assign(dlog_variance.data, dz.data);
        cx.recycle(dz.data);
        cx.recycle(dz_ds);
        let dtokens = self.posterior.backward(cx, grads, posterior, dmu, dlog_variance);
        self.encoder.backward(cx, grads, encoder, dtokens);
        Elbo { reconstruction, kl }
    }

    /// ε ~ N(0, 1), a function of the key, the site and the sample, or given; 0 where neither.   ε: [n, b, Z]
    fn noise<'a, R: Real>(&self, cx: &Cx<'a, R>, shape: [usize; 3]) -> Tensor<'a, R> {
        let mut noise = cx.zeros(shape);
        match cx.mode {
            Mode::Eval => {}
            Mode::Train { key, samples } => {
                for (j, &sample) in samples.iter().enumerate() {
                    let mut stream = key.stream(self.site, sample);
                    for n in 0..shape[0] {
                        noise.row(n, j).fill_with(|| R::from_f64(StandardNormal.sample(&mut stream)));
                    }
                }
            }
            Mode::Replay(masks) => {
                if let Some(given) = masks.noise.get(&self.site) {
                    noise.data.copy_from_slice(given);
                }
            }
        }
        noise
    }

    /// Each token's own latent, or that of the flow for all of them, and where the token stands.
    /// projected: [N or 1, b, D]   placed: [N, b, D]
    fn place<'a, R: Real>(&self, cx: &Cx<'a, R>, projected: Tensor<'a, R>) -> Tensor<'a, R> {
        let [n, b, d] = projected.shape;
        let n_tokens = self.encoder.n_tokens();
        let placed = if n == n_tokens {
            projected
        } else {
            let placed = cx.tensor([n_tokens, b, d]);
            placed.data.chunks_exact_mut(b * d).for_each(|token| token.copy_from_slice(projected.data));
            cx.recycle(projected.data);
            placed
        };
        for (token, place) in placed.data.chunks_exact_mut(b * d).zip(self.places.of(cx.params).chunks_exact(d)) {
            add_bias(Bias::PerColumn(place), d, token);
        }
        placed
    }

    /// dplaces += Σ over samples of dplaced; dprojected is dplaced, summed over tokens where they share one latent.
    fn place_backward<'a, R: Real>(&self, cx: &Cx<'a, R>, grads: &mut [R], dplaced: Tensor<'a, R>) -> Tensor<'a, R> {
        let [n_tokens, b, d] = dplaced.shape;
        for (token, dplace) in dplaced.data.chunks_exact(b * d).zip(self.places.of_mut(grads).chunks_exact_mut(d)) {
            add_column_sums(token, dplace);
        }
        if self.posterior.shape(n_tokens)[0] == n_tokens {
            return dplaced;
        }
        let dprojected = cx.zeros([1, b, d]);
        dplaced.data.chunks_exact(b * d).for_each(|token| add_assign(dprojected.data, token));
        cx.recycle(dplaced.data);
        dprojected
    }
}

fn half<R: Real>(x: R) -> R {
    x * R::from_f64(0.5)
}
