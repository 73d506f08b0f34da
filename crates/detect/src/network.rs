//! The networks of the stages, as config and tokeniser describe them.

use nids_config::{Config, Latents, ObjectiveConfig};
use nids_flows::{TokenKind, TokenSpec, Tokeniser};
use nids_models::{Encoder, Input, MixerConfig, Posterior, Target};
use nids_nn::{Cx, ParamTable, Scope, Tensor, mean_tokens};

/// Names and widths of a tokeniser's features.
pub fn features(tokeniser: &Tokeniser) -> Vec<(String, usize)> {
    tokeniser.tokens().iter().map(|token| (token.feature.clone(), token.width)).collect()
}

/// What pretraining predicts of each feature.
pub fn targets(tokeniser: &Tokeniser) -> Vec<Target> {
    let target = |(place, token): (usize, &TokenSpec)| match token.kind {
        TokenKind::Numeric => tokeniser.target_classes(place).map_or(Target::Numeric, Target::Categorical),
        TokenKind::Categorical { n_classes } => Target::Categorical(n_classes),
    };
    tokeniser.tokens().iter().enumerate().map(target).collect()
}

/// An encoder's sizes over `of_input` tokens; `model.token_expansion` counts registers, too.
pub fn mixer(config: &Config, of_input: usize) -> MixerConfig {
    let model = &config.model;
    let hidden = |size: usize, expansion: f64| ((size as f64 * expansion) as usize).max(1);
    MixerConfig {
        dim: model.dim,
        depth: model.depth,
        token_hidden: hidden(of_input + model.n_registers, model.token_expansion),
        channel_hidden: hidden(model.dim, model.channel_expansion),
        n_registers: model.n_registers,
        activation: model.activation,
        dropout: model.dropout,
        drop_path: model.drop_path,
    }
}

/// Features to latents: the pretrained encoder, and what `encode.latents` keeps of its output.
#[derive(Debug)]
pub struct LatentEncoder {
    encoder: Encoder,
    latents: Kept,
}

#[derive(Debug)]
enum Kept {
    Mean,
    Tokens,
    Mu(Posterior),
}

impl LatentEncoder {
    /// The encoder under the names it has in every network, and the posterior under those of [`Vae`], where it is read.
    pub fn new(config: &Config, tokeniser: &Tokeniser, table: &mut ParamTable) -> Self {
        let Self { encoder, .. } = Self::mean(config, tokeniser, &mut table.root());
        let latents = match (config.encode.latents, &config.pretrain.objective) {
            (Latents::Mean, _) => Kept::Mean,
            (Latents::Tokens, _) => Kept::Tokens,
            (Latents::Mu, ObjectiveConfig::Vae(settings)) => {
                Kept::Mu(Posterior::new(&mut table.root().at("latent"), encoder.dim(), *settings))
            }
            (Latents::Mu, ObjectiveConfig::Mae(_) | ObjectiveConfig::Replaced(_)) => unreachable!("the config was checked"),
        };
        Self { encoder, latents }
    }

    /// The encoder alone, whose mean token is kept whatever the config says.
    pub fn mean(config: &Config, tokeniser: &Tokeniser, scope: &mut Scope<'_>) -> Self {
        let features = features(tokeniser);
        let encoder = Encoder::new(&mut scope.at("encoder"), Input::Features(&features), &mixer(config, features.len()));
        Self { encoder, latents: Kept::Mean }
    }

    /// The encoder alone, all of whose tokens are kept whatever the config says.
    pub fn all_tokens(config: &Config, tokeniser: &Tokeniser, scope: &mut Scope<'_>) -> Self {
        Self { latents: Kept::Tokens, ..Self::mean(config, tokeniser, scope) }
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Numbers of a row's tokens.
    pub fn tokens(&self) -> usize {
        self.encoder.token_numbers()
    }

    /// What to read of the pretrained weights.
    pub fn prefixes(&self) -> &'static [&'static str] {
        if let Kept::Mu(_) = self.latents { &["encoder.", "latent."] } else { &["encoder."] }
    }

    /// Shape of one flow's latents: `[D]`, `[N, D]`, `[Z]` or `[N, Z]`.
    pub fn shape(&self) -> Vec<usize> {
        let (n, d) = (self.encoder.n_tokens(), self.encoder.dim());
        match &self.latents {
            Kept::Mean => vec![d],
            Kept::Tokens => vec![n, d],
            Kept::Mu(posterior) => match posterior.shape(n) {
                [1, z] => vec![z],
                [n, z] => vec![n, z],
            },
        }
    }

    /// Numbers of one flow's latents.
    pub fn width(&self) -> usize {
        self.shape().iter().product()
    }

    /// The latents of a shard.   x: b samples   z: [b, width]
    pub fn infer<'a>(&self, cx: &Cx<'a, f32>, b: usize, x: &'a mut [f32], z: &mut [f32]) {
        let tokens = self.encoder.infer(cx, b, x);
        let mut kept = match &self.latents {
            Kept::Mu(posterior) => {
                let [mu, _] = posterior.infer(cx, tokens);
                mu
            }
            Kept::Mean => mean_tokens(cx, tokens),
            Kept::Tokens => tokens,
        };
        by_sample(&mut kept, z);
    }
}

/// z[j, n] = tokens[n, j].   tokens: [N, b, D]   z: [b, N·D]
fn by_sample(tokens: &mut Tensor<'_, f32>, z: &mut [f32]) {
    let [n, b, d] = tokens.shape;
    debug_assert_eq!(z.len(), n * b * d);
    for (j, z) in z.chunks_exact_mut(n * d).enumerate() {
        for (token, z) in z.chunks_exact_mut(d).enumerate() {
            z.copy_from_slice(tokens.row(token, j));
        }
    }
}
