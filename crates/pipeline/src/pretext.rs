//! The networks that pretraining trains.

use std::path::Path;

use nids_config::{Config, ObjectiveConfig, Stage};
use nids_detect::{WeightsFile, features, mixer, targets};
use nids_flows::Tokeniser;
use nids_models::{Encoder, Mae, MaeConfig, MaeEncoder, Replaced, Vae};
use nids_nn::{Init, ParamTable};
use nids_store::run::Run;
use nids_store::{Error, Result};

/// What pretraining trains.
#[derive(Debug)]
pub(crate) enum Pretext {
    Mae(Mae),
    Vae(Vae),
    Replaced(Replaced),
}

impl Pretext {
    /// The network of `pretrain.objective`.
    pub(crate) fn new(config: &Config, tokeniser: &Tokeniser, table: &mut ParamTable) -> Result<Self> {
        let (features, targets) = (features(tokeniser), targets(tokeniser));
        let mixer = mixer(config, features.len());
        Ok(match &config.pretrain.objective {
            ObjectiveConfig::Mae(_) | ObjectiveConfig::Replaced(_) if features.len() < 2 => {
                let message = format!(
                    "`data.schema: {}`: a masked autoencoder and replaced-feature detection need at least two features",
                    config.data.schema
                );
                return Err(Error::Usage(message));
            }
            ObjectiveConfig::Mae(settings) => Self::Mae(Mae::new(&mut table.root(), &features, &targets, &mixer, *settings)),
            ObjectiveConfig::Vae(settings) => Self::Vae(Vae::new(&mut table.root(), &features, &targets, &mixer, *settings)),
            ObjectiveConfig::Replaced(settings) => Self::Replaced(Replaced::new(&mut table.root(), &features, &mixer, *settings)),
        })
    }

    /// Its name in the artefact's metadata.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Mae(_) => "masked autoencoder",
            Self::Vae(_) => "variational autoencoder",
            Self::Replaced(_) => "replaced-feature detection",
        }
    }

    /// The encoder, which later stages use.
    pub(crate) fn encoder(&self) -> &Encoder {
        match self {
            Self::Mae(mae) => mae.encoder(),
            Self::Vae(vae) => vae.encoder(),
            Self::Replaced(replaced) => replaced.encoder(),
        }
    }

    /// Number of values that forward keeps of one flow for backward.
    pub(crate) fn activations(&self) -> usize {
        match self {
            Self::Mae(mae) => mae.activations(),
            Self::Vae(vae) => vae.activations(),
            Self::Replaced(replaced) => replaced.encoder().activations(),
        }
    }

    /// Floating-point operations of the matrix products of one flow.
    pub(crate) fn forward_flops(&self) -> f64 {
        match self {
            Self::Mae(mae) => mae.forward_flops(),
            Self::Vae(vae) => vae.forward_flops(),
            Self::Replaced(replaced) => replaced.encoder().forward_flops(),
        }
    }
}

/// The learned token that replaced hidden features while `run` pretrained its encoder, if there was one.   [D]
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
