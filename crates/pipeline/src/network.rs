//! The networks of the stages, as config and tokeniser describe them.

use std::fs;
use std::path::{Path, PathBuf};

use nids_flows::{TokenKind, TokenTable, Tokeniser};
use nids_kernels::Buffer;
use nids_models::{Encoder, Input, Mae, MaeConfig, MaeEncoder, MixerConfig, Posterior, Target, Vae};
use nids_nn::engine::Engine;
use nids_nn::weights::{self, WeightsError};
use nids_nn::{Cx, Init, ParamTable, Prepared, Scope, Tensor, mean_tokens};

use crate::again;
use crate::data::{all_rows, fill};
use crate::engine::{inference_engine, most_tokens};
use nids_config::{Config, Latents, ObjectiveConfig, Stage};
use nids_store::run::Run;
use nids_store::{Error, Result};

/// Names and widths of a tokeniser's features.
pub(crate) fn features(tokeniser: &Tokeniser) -> Vec<(String, usize)> {
    tokeniser.tokens().iter().map(|token| (token.feature.clone(), token.width)).collect()
}

/// F_t of every feature.
pub(crate) fn widths(tokeniser: &Tokeniser) -> Vec<usize> {
    tokeniser.tokens().iter().map(|token| token.width).collect()
}

/// An encoder's sizes over `of_input` tokens; `model.token_expansion` counts registers, too.
pub(crate) fn mixer(config: &Config, of_input: usize) -> MixerConfig {
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

/// What pretraining trains.
#[derive(Debug)]
pub(crate) enum Pretext {
    Mae(Mae),
    Vae(Vae),
}

impl Pretext {
    /// The network of `pretrain.objective`.
    pub(crate) fn new(config: &Config, tokeniser: &Tokeniser, table: &mut ParamTable) -> Result<Self> {
        let features = features(tokeniser);
        let target = |kind: &TokenKind| match *kind {
            TokenKind::Numeric => Target::Numeric,
            TokenKind::Categorical { n_classes } => Target::Categorical(n_classes),
        };
        let targets: Vec<Target> = tokeniser.tokens().iter().map(|token| target(&token.kind)).collect();
        let mixer = mixer(config, features.len());
        Ok(match &config.pretrain.objective {
            ObjectiveConfig::Mae(_) if features.len() < 2 => {
                let message = format!("`data.schema: {}`: a masked autoencoder needs two features at least", config.data.schema);
                return Err(Error::Usage(message));
            }
            ObjectiveConfig::Mae(settings) => Self::Mae(Mae::new(&mut table.root(), &features, &targets, &mixer, *settings)),
            ObjectiveConfig::Vae(settings) => Self::Vae(Vae::new(&mut table.root(), &features, &targets, &mixer, *settings)),
        })
    }

    /// What it is called in the artefact's metadata.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Mae(_) => "masked autoencoder",
            Self::Vae(_) => "variational autoencoder",
        }
    }

    /// The part that is kept.
    pub(crate) fn encoder(&self) -> &Encoder {
        match self {
            Self::Mae(mae) => mae.encoder(),
            Self::Vae(vae) => vae.encoder(),
        }
    }

    /// Numbers that training keeps of one flow for backward.
    pub(crate) fn activations(&self) -> usize {
        match self {
            Self::Mae(mae) => mae.activations(),
            Self::Vae(vae) => vae.activations(),
        }
    }

    /// Floating-point operations of the matrix products of one flow.
    pub(crate) fn forward_flops(&self) -> f64 {
        match self {
            Self::Mae(mae) => mae.forward_flops(),
            Self::Vae(vae) => vae.forward_flops(),
        }
    }
}

/// Features to latents: the pretrained encoder, and what `encode.latents` keeps of its output.
#[derive(Debug)]
pub(crate) struct LatentEncoder {
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
    pub(crate) fn new(config: &Config, tokeniser: &Tokeniser, table: &mut ParamTable) -> Self {
        let Self { encoder, .. } = Self::mean(config, tokeniser, &mut table.root());
        let latents = match (config.encode.latents, &config.pretrain.objective) {
            (Latents::Mean, _) => Kept::Mean,
            (Latents::Tokens, _) => Kept::Tokens,
            (Latents::Mu, ObjectiveConfig::Vae(settings)) => {
                Kept::Mu(Posterior::new(&mut table.root().at("latent"), encoder.dim(), *settings))
            }
            (Latents::Mu, ObjectiveConfig::Mae(_)) => unreachable!("the config was checked"),
        };
        Self { encoder, latents }
    }

    /// The encoder alone, whose mean token is kept whatever the config says.
    pub(crate) fn mean(config: &Config, tokeniser: &Tokeniser, scope: &mut Scope<'_>) -> Self {
        let features = features(tokeniser);
        let encoder = Encoder::new(&mut scope.at("encoder"), Input::Features(&features), &mixer(config, features.len()));
        Self { encoder, latents: Kept::Mean }
    }

    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Numbers of a row's tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.encoder.token_numbers()
    }

    /// The engine of a config for it.
    pub(crate) fn engine(&self, config: &Config, table: &ParamTable) -> Result<Engine<f32>> {
        inference_engine(config, table, self.encoder.activations(), 1, self.tokens())
    }

    /// What to read of the pretrained weights.
    pub(crate) fn prefixes(&self) -> &'static [&'static str] {
        if let Kept::Mu(_) = self.latents { &["encoder.", "latent."] } else { &["encoder."] }
    }

    /// Shape of one flow's latents: `[D]`, `[N, D]`, `[Z]` or `[N, Z]`.
    pub(crate) fn shape(&self) -> Vec<usize> {
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
    pub(crate) fn width(&self) -> usize {
        self.shape().iter().product()
    }

    /// The latents of all rows.   out: [rows, width]
    pub(crate) fn latents(
        &self,
        engine: &Engine<f32>,
        params: &[f32],
        prepared: &Prepared<f32>,
        encoded: &TokenTable,
        widths: &[usize],
        out: &mut [f32],
    ) {
        let width = widths.iter().sum::<usize>();
        engine.infer(params, prepared, &all_rows(encoded.n_rows()), self.width(), out, |cx, rows, out| {
            let x = cx.alloc(rows.len() * width);
            fill(encoded, widths, rows.iter().copied(), x);
            self.infer(cx, rows.len(), x, out);
        });
    }

    /// The latents of a shard.   x: b samples   z: [b, width]
    pub(crate) fn infer<'a>(&self, cx: &Cx<'a, f32>, b: usize, x: &'a mut [f32], z: &mut [f32]) {
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

/// The token that stood for what was hidden from the encoder while `run` pretrained it, if one did.   [D]
pub(crate) fn mask_token(run: &Run, pretrained: &Path) -> Result<Option<Vec<f32>>> {
    let config = run.config_of(Stage::Pretrain)?;
    let ObjectiveConfig::Mae(MaeConfig { encoder: MaeEncoder::MaskToken, .. }) = config.pretrain.objective else {
        return Ok(None);
    };
    let mut table = ParamTable::default();
    let token = table.root().param("mask_token", &[config.model.dim], Init::Zeros);
    let params = WeightsFile::read(pretrained, Stage::Pretrain)?.params(&table, &["mask_token"], 0)?;
    Ok(Some(token.of(&params).to_vec()))
}

/// An artefact of `stage` with weights, in memory. Whoever made it chose the settings of its network, too: that network is compared
/// with what the file holds before anything of its size is allocated.
pub(crate) struct WeightsFile {
    path: PathBuf,
    stage: Stage,
    bytes: Vec<u8>,
}

impl WeightsFile {
    pub(crate) fn read(path: &Path, stage: Stage) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
        Ok(Self { path: path.to_owned(), stage, bytes })
    }

    pub(crate) fn refuse(&self, what: impl Into<String>) -> Error {
        Error::artefact(&self.path, what, again(self.stage))
    }

    pub(crate) fn metadata(&self) -> Result<Option<String>> {
        weights::metadata(&self.bytes).map_err(|error| self.refuse(error.to_string()))
    }

    /// Refuses a network over so many features that the file cannot have their embeddings. To be asked before it is built, as the
    /// other numbers that networks are built by have limits.
    pub(crate) fn check_features(&self, n: usize) -> Result<()> {
        let n_tensors = weights::n_tensors(&self.bytes).map_err(|error| self.refuse(error.to_string()))?;
        if n > n_tensors {
            return Err(self.refuse(format!("{n_tensors} tensors do not fit a network over {n} features")));
        }
        Ok(())
    }

    /// Requires the parameters of `table` under `prefixes`, by name and shape; `tokens` are the numbers of a row's tokens.
    pub(crate) fn check(&self, table: &ParamTable, prefixes: &[&str], tokens: usize) -> Result<()> {
        weights::check(table, prefixes, &self.bytes).map_err(|error| self.misfit(&error))?;
        let n = table.n_params();
        if tokens > most_tokens(table) {
            return Err(self.refuse(format!("a row would take {tokens} numbers in a network of {n}: none that was trained here")));
        }
        Ok(())
    }

    /// The parameters of `table`, those under `prefixes` read and the others 0, after [`WeightsFile::check`].
    pub(crate) fn params(&self, table: &ParamTable, prefixes: &[&str], tokens: usize) -> Result<Buffer<f32>> {
        self.check(table, prefixes, tokens)?;
        let mut params = table.zeros();
        self.load(table, prefixes, &mut params)?;
        Ok(params)
    }

    /// Reads the parameters under `prefixes`.
    pub(crate) fn load(&self, table: &ParamTable, prefixes: &[&str], params: &mut Buffer<f32>) -> Result<()> {
        weights::load(table, prefixes, &self.bytes, params).map_err(|error| self.misfit(&error))
    }

    fn misfit(&self, error: &WeightsError) -> Error {
        const SHOWN: usize = 4;
        let text = error.to_string();
        let (lines, more) = (text.lines().take(SHOWN).collect::<Vec<_>>().join("\n"), text.lines().count().saturating_sub(SHOWN));
        self.refuse(if more == 0 { lines } else { format!("{lines}\n  and {more} more") })
    }
}
