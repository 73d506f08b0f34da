//! A classifier on the mean token of an encoder, and members that share one.

use nids_nn::{Cx, Init, Linear, MemberScales, Real, Scope, Tensor, mean_tokens, mean_tokens_backward};

use crate::masking::Masked;
use crate::mixer::{Encoder, EncoderCache, Input, MixerConfig};

/// logits = mean over tokens of Encoder(x) · Wᵀ + b.   logits: [1, b, C]
///
/// Of K members that share the encoder, each has a head of its own, and logits are [1, K·b, C]: those of the first member for all
/// samples, then those of the second.
#[derive(Clone, Debug)]
pub struct Classifier {
    encoder: Encoder,
    /// One, or one for each member.
    heads: Vec<Linear>,
}

/// How members share an encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MembersConfig {
    /// K
    pub members: usize,
    /// Where their scales start.
    pub init: Init,
    /// Blocks before they part, 0 to the encoder's depth: these are passed once for all of them.
    pub shared_blocks: usize,
}

/// What [`Classifier::backward`] needs.
#[derive(Debug)]
pub struct ClassifierCache<'a, R> {
    encoder: EncoderCache<'a, R>,
    pooled: Tensor<'a, R>,
}

impl Classifier {
    /// Adds the encoder under `encoder` and the head under `classifier`.
    pub fn new(scope: &mut Scope<'_>, input: Input<'_>, config: &MixerConfig, n_outputs: usize) -> Self {
        let encoder = Encoder::new(&mut scope.at("encoder"), input, config);
        let head = Linear::new(&mut scope.at("classifier"), config.dim, n_outputs);
        Self { encoder, heads: vec![head] }
    }

    /// Members that share the encoder (Gorishniy et al. 2025, "TabM", the variant with scales in one place). Adds the encoder
    /// under `encoder`, `scales` and the heads under `classifier.{k}`.
    pub fn ensemble(
        scope: &mut Scope<'_>,
        input: Input<'_>,
        config: &MixerConfig,
        n_outputs: usize,
        MembersConfig { members, init, shared_blocks }: MembersConfig,
    ) -> Self {
        let mut encoder = Encoder::new(&mut scope.at("encoder"), input, config);
        let scales = MemberScales::new(&mut scope.at("scales"), [members, encoder.n_tokens(), config.dim], init);
        encoder.part(scales, shared_blocks);
        let mut heads = scope.at("classifier");
        Self { encoder, heads: (0..members).map(|k| Linear::new(&mut heads.at(k), config.dim, n_outputs)).collect() }
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// x: b samples, as [`Input`] says   logits: [1, K·b, C]
    pub fn forward<'a, R: Real>(&self, cx: &Cx<'a, R>, b: usize, x: &'a mut [R]) -> (Tensor<'a, R>, ClassifierCache<'a, R>) {
        let (tokens, encoder) = self.encoder.forward(cx, b, x);
        self.classify(cx, tokens, encoder)
    }

    /// [`Classifier::forward`] of features some of which are hidden; what is hidden of `x` is overwritten.
    pub fn forward_masked<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        b: usize,
        x: &'a mut [R],
        masked: Masked<'_, R>,
    ) -> (Tensor<'a, R>, ClassifierCache<'a, R>) {
        let (tokens, encoder) = self.encoder.forward_masked(cx, b, x, masked);
        self.classify(cx, tokens, encoder)
    }

    fn classify<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        tokens: Tensor<'a, R>,
        encoder: EncoderCache<'a, R>,
    ) -> (Tensor<'a, R>, ClassifierCache<'a, R>) {
        let pooled = mean_tokens(cx, tokens);
        let logits = self.logits(cx, &pooled);
        (logits, ClassifierCache { encoder, pooled })
    }

    /// [`Classifier::forward`] without what backward needs.
    pub fn infer<'a, R: Real>(&self, cx: &Cx<'a, R>, b: usize, x: &'a mut [R]) -> Tensor<'a, R> {
        let pooled = mean_tokens(cx, self.encoder.infer(cx, b, x));
        let logits = self.logits(cx, &pooled);
        cx.recycle(pooled.data);
        logits
    }

    /// Every head on the mean tokens of its member.   pooled: [1, K·b, D]
    fn logits<'a, R: Real>(&self, cx: &Cx<'a, R>, pooled: &Tensor<'a, R>) -> Tensor<'a, R> {
        let [n, b, _] = pooled.shape;
        let logits = cx.tensor([n, b, self.n_outputs()]);
        let (pooled_len, logits_len) = (self.chunk(pooled), self.chunk(&logits));
        for ((head, x), y) in
            self.heads.iter().zip(pooled.data.chunks_exact(pooled_len)).zip(logits.data.chunks_exact_mut(logits_len))
        {
            head.apply(cx, x, y);
        }
        logits
    }

    /// C
    pub fn n_outputs(&self) -> usize {
        self.heads[0].outputs()
    }

    /// Numbers of one member.
    fn chunk<R>(&self, x: &Tensor<'_, R>) -> usize {
        x.data.len() / self.heads.len()
    }

    /// Adds every gradient; returns that of the patches, if the input is one of patches.
    pub fn backward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: ClassifierCache<'a, R>,
        dlogits: Tensor<'a, R>,
    ) -> Option<Tensor<'a, R>> {
        let ClassifierCache { encoder, pooled } = cache;
        let (pooled_len, logits_len) = (self.chunk(&pooled), self.chunk(&dlogits));
        for ((head, x), dy) in
            self.heads.iter().zip(pooled.data.chunks_exact_mut(pooled_len)).zip(dlogits.data.chunks_exact(logits_len))
        {
            head.add_gradients(cx, grads, x, dy);
            head.input_gradient(cx, dy, x);
        }
        cx.recycle(dlogits.data);
        let dtokens = mean_tokens_backward(cx, self.encoder.n_tokens(), pooled);
        self.encoder.backward(cx, grads, encoder, dtokens)
    }
}
