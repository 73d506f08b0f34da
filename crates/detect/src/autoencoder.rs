//! A pretrained masked autoencoder, ready to say how surprising each feature of a row is.

use nids_config::{ObjectiveConfig, Stage};
use nids_flows::{TokenTable, Tokeniser};
use nids_models::Mae;
use nids_nn::ParamTable;
use nids_nn::engine::Engine;
use nids_store::artefacts::Digest;
use nids_store::run::{PRETRAINED, Run, TOKENISER};
use nids_store::{Error, Result};

use crate::network::{features, mixer, targets};
use crate::read::read_tokeniser;
use crate::session::Session;
use crate::weights_file::WeightsFile;

/// Features that may be hidden together where nothing depends on it: alone they find as much, and take as many times as long.
pub(crate) const HIDDEN_TOGETHER: usize = 6;

/// The masked autoencoder that `pretrain` left.
#[derive(Debug)]
pub struct Autoencoder {
    mae: Mae,
    session: Session,
    tokeniser: Tokeniser,
    digest: Digest,
}

impl Autoencoder {
    /// That of a run folder.
    ///
    /// # Errors
    /// Artefacts that are missing, stale or damaged, or of another objective than a masked autoencoder.
    pub fn open(run: &Run) -> Result<Self> {
        run.steadily(|| Self::read(run))
    }

    fn read(run: &Run) -> Result<Self> {
        let config = run.config_of(Stage::Pretrain)?;
        let tokeniser = read_tokeniser(&run.require(Stage::Pretrain, TOKENISER)?, Stage::Pretrain)?;
        let (path, digest) = run.require_with_digest(Stage::Pretrain, PRETRAINED)?;
        let weights = WeightsFile::read(&path, Stage::Pretrain)?;
        weights.check_features(tokeniser.tokens().len())?;
        let ObjectiveConfig::Mae(settings) = &config.pretrain.objective else {
            let message = "`pretrain.objective`: an anomaly score needs a masked autoencoder (`mae`): pretrain with that";
            return Err(Error::Usage(message.to_owned()));
        };
        let (features, targets) = (features(&tokeniser), targets(&tokeniser));
        let mut table = ParamTable::default();
        let mae = Mae::new(&mut table.root(), &features, &targets, &mixer(&config, features.len()), *settings);
        let params = weights.params(&table, &[""], mae.encoder().token_numbers())?;
        // a worker holds all passes of a row
        let passes = features.len().div_ceil(HIDDEN_TOGETHER);
        let numbers = passes * mae.encoder().token_numbers();
        let session = Session::new(&config, &table, [mae.activations(), passes, numbers], params)?;
        Ok(Self { mae, session, tokeniser, digest })
    }

    /// What it makes of columns.
    pub fn tokeniser(&self) -> &Tokeniser {
        &self.tokeniser
    }

    /// The engine that it runs on.
    pub fn engine(&self) -> &Engine<f32> {
        self.session.engine()
    }

    /// The content of its weights.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// [`Mae::hidden_losses`] of each row, so many features being hidden at once.   encoded: with targets   -> [rows, F]
    ///
    /// # Panics
    /// If no feature is hidden.
    pub fn hidden_losses(&self, encoded: &TokenTable, rows: &[u32], together: usize) -> Vec<f32> {
        let n = encoded.n_tokens();
        let passes = n.div_ceil(together);
        let mut out = vec![0.0; rows.len() * n];
        self.session.infer(rows, n, &mut out, |cx, rows, out| {
            let (x, targets) = (cx.alloc(encoded.width()), cx.alloc(n));
            for (&row, out) in rows.iter().zip(out.chunks_exact_mut(n)) {
                encoded.expand_row(row as usize, x);
                targets.iter_mut().enumerate().for_each(|(t, target)| *target = encoded.target(row as usize, t));
                self.mae.hidden_losses(cx, passes, x, targets, out);
            }
        });
        out
    }
}
