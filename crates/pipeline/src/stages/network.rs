//! The networks of the stages, as config and tokeniser describe them.

use std::fs;
use std::path::Path;

use nids_flows::{Encoded, TokenKind, Tokeniser};
use nids_kernels::{Activation, Buffer};
use nids_models::{Classifier, Encoder, Input, Mae, MaeConfig, MaeEncoder, MixerConfig, Target};
use nids_nn::engine::Engine;
use nids_nn::{Cx, ParamTable, Tensor, Transposed, mean_tokens, weights};

use super::again;
use super::data::fill;
use crate::config::{self, Config, FinetuneFrom, Latents, Objective, Stage};
use crate::error::{Error, Result};

/// Names and widths of a tokeniser's features.
pub(super) fn features(tokeniser: &Tokeniser) -> Vec<(String, usize)> {
    tokeniser.tokens().iter().map(|token| (token.feature.clone(), token.width)).collect()
}

/// F_t of every feature.
pub(super) fn widths(tokeniser: &Tokeniser) -> Vec<usize> {
    tokeniser.tokens().iter().map(|token| token.width).collect()
}

/// An encoder's sizes over `of_input` tokens; `model.token_expansion` counts registers, too.
fn mixer(config: &Config, of_input: usize) -> MixerConfig {
    let model = &config.model;
    let hidden = |size: usize, expansion: f64| ((size as f64 * expansion) as usize).max(1);
    MixerConfig {
        dim: model.dim,
        depth: model.depth,
        token_hidden: hidden(of_input + model.n_registers, model.token_expansion),
        channel_hidden: hidden(model.dim, model.channel_expansion),
        n_registers: model.n_registers,
        activation: match model.activation {
            config::Activation::Gelu => Activation::Gelu,
            config::Activation::Tanh => Activation::Tanh,
        },
        dropout: model.dropout as f32,
        drop_path: model.drop_path as f32,
    }
}

/// The masked autoencoder.
pub(super) fn mae(config: &Config, tokeniser: &Tokeniser, table: &mut ParamTable) -> Result<Mae> {
    let features = features(tokeniser);
    if features.len() < 2 {
        let message = format!("`data.schema: {}`: a masked autoencoder needs two features at least", config.data.schema);
        return Err(Error::Usage(message));
    }
    let target = |kind: &TokenKind| match *kind {
        TokenKind::Numeric => Target::Numeric,
        TokenKind::Categorical { n_classes } => Target::Categorical(n_classes),
    };
    let targets: Vec<Target> = tokeniser.tokens().iter().map(|token| target(&token.kind)).collect();
    let Objective::Mae(settings) = &config.pretrain.objective;
    let settings = MaeConfig {
        mask_ratio: settings.mask_ratio,
        encoder: match settings.encoder {
            config::MaskedEncoder::MaskToken => MaeEncoder::MaskToken,
            config::MaskedEncoder::VisibleOnly => MaeEncoder::VisibleOnly,
        },
        decoder_depth: settings.decoder_depth,
    };
    Ok(Mae::new(&mut table.root(), &features, &targets, &mixer(config, features.len()), settings))
}

/// The encoder alone, under the names it has in every network.
pub(super) fn encoder(config: &Config, tokeniser: &Tokeniser, table: &mut ParamTable) -> Encoder {
    let features = features(tokeniser);
    Encoder::new(&mut table.root().at("encoder"), Input::Features(&features), &mixer(config, features.len()))
}

/// What finetune trains and predict runs.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub(super) enum Network {
    /// Features to logit, all of it trained.
    Direct(Classifier),
    /// Features through the frozen encoder to latents, and a Mixer over patches of those.
    Latent { encoder: Encoder, latents: Latents, head: Classifier },
}

impl Network {
    /// The network of `finetune.from`.
    pub(super) fn new(config: &Config, tokeniser: &Tokeniser, table: &mut ParamTable) -> Result<Self> {
        let features = features(tokeniser);
        if config.finetune.from != FinetuneFrom::Latents {
            let mixer = mixer(config, features.len());
            return Ok(Self::Direct(Classifier::new(&mut table.root(), Input::Features(&features), &mixer, 1)));
        }
        let encoder = encoder(config, tokeniser, table);
        let latents = config.encode.latents;
        let total = latent_width(&encoder, latents);
        let width = config.finetune.patch_size;
        if !total.is_multiple_of(width) {
            let message = format!("`finetune.patch_size: {width}` does not divide the {total} numbers of a flow's latents");
            return Err(Error::Usage(message));
        }
        let n_tokens = total / width;
        let input = Input::Patches { n_tokens, width };
        let head = Classifier::new(&mut table.root().at("head"), input, &mixer(config, n_tokens), 1);
        Ok(Self::Latent { encoder, latents, head })
    }

    /// Numbers that training keeps of one flow for backward.
    pub(super) fn activations(&self) -> usize {
        match self {
            Self::Direct(classifier) => classifier.encoder().activations(),
            Self::Latent { head, .. } => head.encoder().activations(),
        }
    }

    /// Floating-point operations of the matrix products of one flow.
    pub(super) fn forward_flops(&self) -> f64 {
        match self {
            Self::Direct(classifier) => classifier.encoder().forward_flops(),
            Self::Latent { encoder, head, .. } => encoder.forward_flops() + head.encoder().forward_flops(),
        }
    }

    /// Logits of a shard.   out: [b]
    fn logits(&self, cx: &Cx<'_, f32>, encoded: &Encoded, widths: &[usize], rows: &[u32], out: &mut [f32]) {
        let b = rows.len();
        let x = cx.alloc(b * widths.iter().sum::<usize>());
        fill(encoded, widths, rows.iter().copied(), x);
        let logits = match self {
            Self::Direct(classifier) => classifier.infer(cx, b, x),
            Self::Latent { encoder, latents, head } => {
                let tokens = encoder.infer(cx, b, x);
                let z = cx.alloc(b * latent_width(encoder, *latents));
                write_latents(cx, *latents, tokens, z);
                head.infer(cx, b, z)
            }
        };
        out.copy_from_slice(logits.data);
    }

    /// The probability of an attack for `rows`.
    pub(super) fn probabilities(
        &self,
        engine: &Engine<f32>,
        params: &[f32],
        transposed: &Transposed<f32>,
        encoded: &Encoded,
        widths: &[usize],
        rows: &[u32],
    ) -> Vec<f32> {
        let mut out = vec![0.0; rows.len()];
        engine.infer(params, transposed, rows, 1, &mut out, |cx, rows, out| {
            self.logits(cx, encoded, widths, rows, out);
            for logit in out {
                *logit = nids_nn::loss::sigmoid(*logit);
            }
        });
        out
    }
}

/// Numbers of one flow's latents.
pub(super) fn latent_width(encoder: &Encoder, latents: Latents) -> usize {
    match latents {
        Latents::Mean => encoder.dim(),
        Latents::Tokens => encoder.n_tokens() * encoder.dim(),
    }
}

/// The latents of a shard from its tokens.   tokens: [N, b, D]   z: [b, D], or [b, N·D] where tokens are kept
pub(super) fn write_latents<'a>(cx: &Cx<'a, f32>, latents: Latents, mut tokens: Tensor<'a, f32>, z: &mut [f32]) {
    match latents {
        Latents::Mean => {
            let pooled = mean_tokens(cx, tokens);
            z.copy_from_slice(pooled.data);
        }
        Latents::Tokens => {
            let [n, b, d] = tokens.shape;
            for (j, z) in z.chunks_exact_mut(n * d).enumerate() {
                for (token, z) in z.chunks_exact_mut(d).enumerate() {
                    z.copy_from_slice(tokens.row(token, j));
                }
            }
            debug_assert_eq!(z.len(), n * b * d);
        }
    }
}

/// Reads the weights under `prefixes` from a safetensors artefact of `stage`.
pub(super) fn load_weights(
    path: &Path,
    stage: Stage,
    table: &ParamTable,
    prefixes: &[&str],
    params: &mut Buffer<f32>,
) -> Result<()> {
    const SHOWN: usize = 4;
    let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
    weights::load(table, prefixes, &bytes, params).map_err(|error| {
        let text = error.to_string();
        let (lines, more) = (text.lines().take(SHOWN).collect::<Vec<_>>().join("\n"), text.lines().count().saturating_sub(SHOWN));
        let what = if more == 0 { lines } else { format!("{lines}\n  and {more} more") };
        Error::artefact(path, what, again(stage))
    })
}
