//! The MLP-Mixer (Tolstikhin et al. 2021) over tokens made from flow features.

use arrayvec::ArrayVec;
use nids_kernels::add_assign;
use nids_nn::{
    Activation, Axis, Cx, FeatureEmbedding, LayerNorm, Linear, MemberScales, Mixing, MixingConfig, PreNormResidual, Real,
    RegisterTokens, Scope, Tensor, Visible, patchify,
};

use crate::masking::Masked;

/// Most blocks that a network may have; what backward needs of them lies on the stack.
pub const MAX_DEPTH: usize = 32;

/// Sizes and regularisation of an encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixerConfig {
    /// D
    pub dim: usize,
    /// Blocks, at most [`MAX_DEPTH`].
    pub depth: usize,
    /// Hidden units of token mixing.
    pub token_hidden: usize,
    /// Hidden units of channel mixing.
    pub channel_hidden: usize,
    /// Learned tokens beside those of the input.
    pub n_registers: usize,
    /// Activation of both MLPs.
    pub activation: Activation,
    /// Dropout rate inside both MLPs.
    pub dropout: f64,
    /// Stochastic depth: 0 at the first block, this at the last, linear between (Huang et al. 2016).
    pub drop_path: f64,
}

impl MixerConfig {
    /// Numbers that a block keeps of one sample for backward: two normed inputs, and of both MLPs the hidden numbers and their
    /// derivatives.
    pub(crate) fn block_activations(&self, n_tokens: usize) -> usize {
        2 * (n_tokens * self.dim + self.token_hidden * self.dim + n_tokens * self.channel_hidden)
    }

    /// Floating-point operations of the matrix products of one sample in one block.
    pub(crate) fn block_flops(&self, n_tokens: usize) -> f64 {
        (4 * n_tokens * self.dim * (self.token_hidden + self.channel_hidden)) as f64
    }
}

/// What an encoder reads.
#[derive(Clone, Copy, Debug)]
pub enum Input<'n> {
    /// A sequence cut into tokens of equal width, sharing one linear map: x is [b, N·P].
    Patches {
        /// N
        n_tokens: usize,
        /// P
        width: usize,
    },
    /// Named features of their own widths, a linear map each: x holds them one after the other, each [b, F_t].
    Features(&'n [(String, usize)]),
}

/// One Mixer block: x + TokenMixing(LN(x)), then x + ChannelMixing(LN(x)).
#[derive(Clone, Copy, Debug)]
pub struct Block {
    token: PreNormResidual,
    channel: PreNormResidual,
}

/// What [`Block::backward`] needs.
#[derive(Debug)]
pub struct BlockCache<'a, R> {
    token: nids_nn::PreNormResidualCache<'a, R>,
    channel: nids_nn::PreNormResidualCache<'a, R>,
}

impl Block {
    /// Adds `token_norm`, `token_mixing`, `channel_norm` and `channel_mixing`.
    pub fn new(scope: &mut Scope<'_>, n_tokens: usize, config: &MixerConfig, drop_path: f64) -> Self {
        let mut branch = |name: &str, axis, size, hidden| {
            let norm = LayerNorm::new(&mut scope.at(format!("{name}_norm")), config.dim);
            let MixerConfig { activation, dropout, .. } = *config;
            let mixing =
                Mixing::new(&mut scope.at(format!("{name}_mixing")), MixingConfig { axis, size, hidden, activation, dropout });
            PreNormResidual::new(scope, norm, mixing, drop_path)
        };
        Self {
            token: branch("token", Axis::Token, n_tokens, config.token_hidden),
            channel: branch("channel", Axis::Channel, config.dim, config.channel_hidden),
        }
    }

    /// The two residual branches, token then channel.
    pub fn branches(&self) -> [&PreNormResidual; 2] {
        [&self.token, &self.channel]
    }

    /// x, y: [N, b, D]
    pub fn forward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        visible: Option<Visible<'a, R>>,
        x: Tensor<'a, R>,
    ) -> (Tensor<'a, R>, BlockCache<'a, R>) {
        let (x, token) = self.token.forward(cx, visible, x);
        let (y, channel) = self.channel.forward(cx, visible, x);
        (y, BlockCache { token, channel })
    }

    /// x, y: [N, b, D], for passes without backward.
    pub fn infer<'a, R: Real>(&self, cx: &Cx<'a, R>, x: Tensor<'a, R>) -> Tensor<'a, R> {
        let x = self.token.infer(cx, x);
        self.channel.infer(cx, x)
    }

    /// dx from dy.
    pub fn backward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: BlockCache<'a, R>,
        dy: Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let BlockCache { token, channel } = cache;
        let dx = self.channel.backward(cx, grads, channel, dy);
        self.token.backward(cx, grads, token, dx)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Embedding {
    Patches { proj: Linear, n_tokens: usize, width: usize },
    Features(FeatureEmbedding),
}

/// Members that share the blocks of an encoder, but for how each scales the tokens before block `shared_blocks`.
#[derive(Clone, Copy, Debug)]
struct Members {
    scales: MemberScales,
    shared_blocks: usize,
}

/// Embedding, registers, blocks and a last norm: x -> tokens [N, b, D], or [N, K·b, D] of K members.
#[derive(Clone, Debug)]
pub struct Encoder {
    pub(crate) embedding: Embedding,
    registers: Option<RegisterTokens>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    n_tokens: usize,
    members: Option<Members>,
    config: MixerConfig,
}

/// What [`Encoder::backward`] needs.
#[derive(Debug)]
pub struct EncoderCache<'a, R> {
    embedding: EmbeddingCache<'a, R>,
    trunk: MembersCache<'a, R>,
}

/// Of blocks before members part, of their scales, and of the blocks after.
#[derive(Debug)]
pub(crate) struct MembersCache<'a, R> {
    shared: BlockCaches<'a, R>,
    scales: Option<nids_nn::MemberScalesCache<'a, R>>,
    trunk: TrunkCache<'a, R>,
}

type BlockCaches<'a, R> = ArrayVec<BlockCache<'a, R>, MAX_DEPTH>;

#[derive(Debug)]
pub(crate) enum EmbeddingCache<'a, R> {
    Patches(nids_nn::LinearCache<'a, R>),
    Features(nids_nn::FeatureEmbeddingCache<'a, R>),
}

#[derive(Debug)]
pub(crate) struct TrunkCache<'a, R> {
    blocks: BlockCaches<'a, R>,
    norm: nids_nn::LayerNormCache<'a, R>,
}

impl Encoder {
    /// Adds `proj` or `embed.{feature}`, `registers` where there are any, `blocks.{i}` and `norm`.
    pub fn new(scope: &mut Scope<'_>, input: Input<'_>, config: &MixerConfig) -> Self {
        let dim = config.dim;
        let (embedding, n_inputs) = match input {
            Input::Patches { n_tokens, width } => {
                (Embedding::Patches { proj: Linear::new(&mut scope.at("proj"), width, dim), n_tokens, width }, n_tokens)
            }
            Input::Features(features) => {
                let named = features.iter().map(|(name, width)| (name.as_str(), *width));
                (Embedding::Features(FeatureEmbedding::new(&mut scope.at("embed"), named, dim)), features.len())
            }
        };
        let n_tokens = n_inputs + config.n_registers;
        Self {
            embedding,
            registers: (config.n_registers > 0).then(|| RegisterTokens::new(&mut scope.at("registers"), config.n_registers, dim)),
            blocks: blocks(&mut scope.at("blocks"), n_tokens, config.depth, config),
            norm: LayerNorm::new(&mut scope.at("norm"), dim),
            n_tokens,
            members: None,
            config: *config,
        }
    }

    /// Lets members part after `shared_blocks` blocks.
    pub(crate) fn part(&mut self, scales: MemberScales, shared_blocks: usize) {
        assert!(shared_blocks <= self.config.depth, "blocks that members share");
        self.members = Some(Members { scales, shared_blocks });
    }

    /// K
    pub fn members(&self) -> usize {
        self.members.map_or(1, |members| members.scales.members())
    }

    /// Blocks that a sample passes, once for each member where they have parted.
    fn passes(&self) -> usize {
        let shared = self.members.map_or(0, |members| members.shared_blocks);
        shared + self.members() * (self.config.depth - shared)
    }

    /// The blocks before members part, and those after.
    fn parted(&self) -> (&[Block], &[Block]) {
        self.blocks.split_at(self.members.map_or(0, |members| members.shared_blocks))
    }

    /// N, registers included.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// D
    pub fn dim(&self) -> usize {
        self.config.dim
    }

    /// Sizes and regularisation.
    pub fn config(&self) -> &MixerConfig {
        &self.config
    }

    /// Numbers that training keeps of one sample for backward, except some that do not grow with
    /// depth.
    pub fn activations(&self) -> usize {
        self.passes() * self.config.block_activations(self.n_tokens)
    }

    /// Numbers of one sample's tokens, those of all members: what a pass without backward holds a few times over.
    pub fn token_numbers(&self) -> usize {
        self.members() * self.n_tokens * self.config.dim
    }

    /// Floating-point operations of the matrix products of one sample forward; backward takes twice as many.
    pub fn forward_flops(&self) -> f64 {
        (self.passes() as f64).mul_add(self.config.block_flops(self.n_tokens), (2 * self.input_width() * self.config.dim) as f64)
    }

    /// The blocks, first to last.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Numbers a sample in the input.
    pub fn input_width(&self) -> usize {
        match &self.embedding {
            Embedding::Patches { n_tokens, width, .. } => n_tokens * width,
            Embedding::Features(embedding) => embedding.width(),
        }
    }

    /// x: b samples, as [`Input`] says   tokens: [N, K·b, D]
    pub fn forward<'a, R: Real>(&self, cx: &Cx<'a, R>, b: usize, x: &'a mut [R]) -> (Tensor<'a, R>, EncoderCache<'a, R>) {
        let (tokens, embedding) = self.embed(cx, b, x);
        let (tokens, trunk) = self.mix(cx, None, tokens);
        (tokens, EncoderCache { embedding, trunk })
    }

    /// [`Encoder::forward`] of features some of which are hidden; what is hidden of `x` is overwritten.
    pub fn forward_masked<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        b: usize,
        x: &'a mut [R],
        masked: Masked<'_, R>,
    ) -> (Tensor<'a, R>, EncoderCache<'a, R>) {
        let (tokens, embedding) = self.embed_masked(cx, b, x, masked);
        let (tokens, trunk) = self.mix(cx, None, tokens);
        (tokens, EncoderCache { embedding, trunk })
    }

    /// [`Encoder::forward`] without what backward needs: no caches, no dropout.
    pub fn infer<'a, R: Real>(&self, cx: &Cx<'a, R>, b: usize, x: &'a mut [R]) -> Tensor<'a, R> {
        let (tokens, _) = self.embed(cx, b, x);
        let through = |blocks: &[Block], tokens| blocks.iter().fold(tokens, |tokens, block| block.infer(cx, tokens));
        let (shared, own_blocks) = self.parted();
        let tokens = through(shared, tokens);
        let tokens = if let Some(members) = &self.members { members.scales.infer(cx, tokens) } else { tokens };
        let tokens = through(own_blocks, tokens);
        let normed = cx.tensor(tokens.shape);
        self.norm.infer(cx, tokens.data, normed.data);
        cx.recycle(tokens.data);
        normed
    }

    /// Adds every gradient; returns that of the patches `[N, b, P]` (None for features).
    pub fn backward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: EncoderCache<'a, R>,
        dtokens: Tensor<'a, R>,
    ) -> Option<Tensor<'a, R>> {
        let EncoderCache { embedding, trunk } = cache;
        let dtokens = self.mix_backward(cx, grads, trunk, dtokens);
        self.embed_backward(cx, grads, embedding, dtokens)
    }

    /// The linear maps of its features.
    ///
    /// # Panics
    /// If it reads patches.
    pub(crate) fn features(&self) -> &FeatureEmbedding {
        match &self.embedding {
            Embedding::Features(embedding) => embedding,
            Embedding::Patches { .. } => unreachable!("built over features"),
        }
    }

    /// The tokens before the first block.
    pub(crate) fn embed<'a, R: Real>(&self, cx: &Cx<'a, R>, b: usize, x: &'a mut [R]) -> (Tensor<'a, R>, EmbeddingCache<'a, R>) {
        let d = self.config.dim;
        let mut tokens = cx.tensor([self.n_tokens, b, d]);
        let cache = match &self.embedding {
            Embedding::Patches { proj, n_tokens, width } => {
                let patches = cx.tensor([*n_tokens, b, *width]);
                patchify(x, patches.shape, patches.data);
                cx.recycle(x);
                let (projected, cache) = proj.forward(cx, patches);
                tokens.data[..projected.data.len()].copy_from_slice(projected.data);
                cx.recycle(projected.data);
                EmbeddingCache::Patches(cache)
            }
            Embedding::Features(embedding) => EmbeddingCache::Features(embedding.forward(cx, x, &mut tokens)),
        };
        if let Some(registers) = &self.registers {
            registers.forward(cx, &mut tokens);
        }
        (tokens, cache)
    }

    /// The tokens before the first block, some features hidden; backward is that of [`Encoder::embed`], and the gradient of
    /// the token that stands in their place is the sum of theirs.   x: what is hidden is overwritten
    pub(crate) fn embed_masked<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        b: usize,
        x: &'a mut [R],
        masked: Masked<'_, R>,
    ) -> (Tensor<'a, R>, EmbeddingCache<'a, R>) {
        masked.hide(self.features(), b, x);
        let (mut tokens, cache) = self.embed(cx, b, x);
        if let Some(token) = masked.token {
            masked.each(b, |t, j| add_assign(tokens.row(t, j), token));
        }
        (tokens, cache)
    }

    pub(crate) fn embed_backward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: EmbeddingCache<'a, R>,
        dtokens: Tensor<'a, R>,
    ) -> Option<Tensor<'a, R>> {
        if let Some(registers) = &self.registers {
            registers.backward(grads, &dtokens);
        }
        match (&self.embedding, cache) {
            (Embedding::Features(embedding), EmbeddingCache::Features(cache)) => {
                embedding.backward(cx, grads, cache, &dtokens);
                cx.recycle(dtokens.data);
                None
            }
            (Embedding::Patches { proj, n_tokens, .. }, EmbeddingCache::Patches(cache)) => {
                let [_, b, d] = dtokens.shape;
                let projected = cx.tensor([*n_tokens, b, d]);
                projected.data.copy_from_slice(&dtokens.data[..n_tokens * b * d]);
                cx.recycle(dtokens.data);
                Some(proj.backward(cx, grads, cache, projected))
            }
            _ => unreachable!("an embedding makes its own kind of cache"),
        }
    }

    /// Blocks and norm.   tokens: [N or K, b, D]
    pub(crate) fn mix<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        visible: Option<Visible<'a, R>>,
        tokens: Tensor<'a, R>,
    ) -> (Tensor<'a, R>, MembersCache<'a, R>) {
        let (shared_blocks, own_blocks) = self.parted();
        let (tokens, shared) = forward_blocks(cx, shared_blocks, visible, tokens);
        let (tokens, scales) = match &self.members {
            Some(members) => {
                let (tokens, cache) = members.scales.forward(cx, tokens);
                (tokens, Some(cache))
            }
            None => (tokens, None),
        };
        let (tokens, trunk) = forward_trunk(cx, own_blocks, &self.norm, visible, tokens);
        (tokens, MembersCache { shared, scales, trunk })
    }

    pub(crate) fn mix_backward<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        cache: MembersCache<'a, R>,
        dtokens: Tensor<'a, R>,
    ) -> Tensor<'a, R> {
        let MembersCache { shared, scales, trunk } = cache;
        let (shared_blocks, own_blocks) = self.parted();
        let mut dtokens = backward_trunk(cx, grads, own_blocks, &self.norm, trunk, dtokens);
        if let Some((members, cache)) = self.members.as_ref().zip(scales) {
            dtokens = members.scales.backward(cx, grads, cache, dtokens);
        }
        backward_blocks(cx, grads, shared_blocks, shared, dtokens)
    }
}

/// `depth` blocks whose drop-path rises from 0 to the config's.
pub(crate) fn blocks(scope: &mut Scope<'_>, n_tokens: usize, depth: usize, config: &MixerConfig) -> Vec<Block> {
    assert!(depth <= MAX_DEPTH, "a network of {depth} blocks");
    let rate = |i: usize| if depth > 1 { config.drop_path * i as f64 / (depth - 1) as f64 } else { 0.0 };
    (0..depth).map(|i| Block::new(&mut scope.at(i), n_tokens, config, rate(i))).collect()
}

fn forward_blocks<'a, R: Real>(
    cx: &Cx<'a, R>,
    blocks: &[Block],
    visible: Option<Visible<'a, R>>,
    tokens: Tensor<'a, R>,
) -> (Tensor<'a, R>, BlockCaches<'a, R>) {
    let mut x = tokens;
    let mut caches = ArrayVec::new();
    for block in blocks {
        let (y, cache) = block.forward(cx, visible, x);
        caches.push(cache);
        x = y;
    }
    (x, caches)
}

fn backward_blocks<'a, R: Real>(
    cx: &Cx<'a, R>,
    grads: &mut [R],
    blocks: &[Block],
    caches: BlockCaches<'a, R>,
    dtokens: Tensor<'a, R>,
) -> Tensor<'a, R> {
    let mut dx = dtokens;
    for (block, cache) in blocks.iter().zip(caches).rev() {
        dx = block.backward(cx, grads, cache, dx);
    }
    dx
}

pub(crate) fn forward_trunk<'a, R: Real>(
    cx: &Cx<'a, R>,
    blocks: &[Block],
    norm: &LayerNorm,
    visible: Option<Visible<'a, R>>,
    tokens: Tensor<'a, R>,
) -> (Tensor<'a, R>, TrunkCache<'a, R>) {
    let (x, blocks) = forward_blocks(cx, blocks, visible, tokens);
    let (y, norm) = norm.forward(cx, x);
    (y, TrunkCache { blocks, norm })
}

pub(crate) fn backward_trunk<'a, R: Real>(
    cx: &Cx<'a, R>,
    grads: &mut [R],
    blocks: &[Block],
    norm: &LayerNorm,
    cache: TrunkCache<'a, R>,
    dtokens: Tensor<'a, R>,
) -> Tensor<'a, R> {
    let TrunkCache { blocks: caches, norm: norm_cache } = cache;
    let dx = norm.backward(cx, grads, norm_cache, dtokens);
    backward_blocks(cx, grads, blocks, caches, dx)
}
