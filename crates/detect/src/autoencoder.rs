//! A pretrained masked autoencoder, ready to say how surprising each feature of a row is.

use nids_config::{Config, FinetuneFrom, ObjectiveConfig, Stage};
use nids_flows::{TokenTable, Tokeniser, all_rows};
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

    /// That on which the classifier of a run stands; None where it stands on none, or on another objective than a masked autoencoder.
    /// `config` is that of the classifier.
    ///
    /// # Errors
    /// As [`Autoencoder::open`].
    pub fn beneath(run: &Run, config: &Config) -> Result<Option<Self>> {
        let is_pretrained = !matches!(config.finetune.from, FinetuneFrom::Scratch | FinetuneFrom::Features);
        if is_pretrained && matches!(run.config_of(Stage::Pretrain)?.pretrain.objective, ObjectiveConfig::Mae(_)) {
            Self::open(run).map(Some)
        } else {
            Ok(None)
        }
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

    /// [`Mae::infill`] of some rows, each of which hides sets of its own, as many as the others.
    ///
    /// encoded, donors: with targets   hidden: a row and its sets   -> [hidden, sets]
    ///
    /// # Panics
    /// If rows hide different numbers of sets.
    pub fn infill(&self, encoded: &TokenTable, hidden: &[(u32, Vec<Vec<usize>>)], donors: &TokenTable) -> Vec<u32> {
        let (n_donors, n_sets) = (donors.n_rows(), hidden.first().map_or(0, |(_, sets)| sets.len()));
        assert!(hidden.iter().all(|(_, sets)| sets.len() == n_sets), "as many sets of every row");
        let targets = (0..donors.n_tokens()).flat_map(|t| (0..n_donors).map(move |row| donors.target(row, t)));
        let targets: Vec<f32> = targets.collect();
        let mut out = vec![0.0; hidden.len() * n_sets];
        self.session.infer(&all_rows(hidden.len()), n_sets, &mut out, |cx, places, out| {
            let x = cx.alloc(encoded.width());
            for (&place, out) in places.iter().zip(out.chunks_exact_mut(n_sets)) {
                let (row, sets) = &hidden[place as usize];
                encoded.expand_row(*row as usize, x);
                self.mae.infill(cx, x, sets, &targets, out);
            }
        });
        out.into_iter().map(|donor| donor as u32).collect()
    }
}
