//! Small learners that vote on a row's probability, and what they see of it.

use ndarray::{Array1, Array2, Axis, Slice};
use nids_config::{Config, FinetuneFrom, Head};
use nids_flows::{TokenTable, Tokeniser};
use nids_heads::{Boosting, ExtraTrees, KernelMachine, LogisticRegression, Pca};
use nids_kernels::Buffer;
use nids_nn::ParamTable;
use nids_nn::engine::Engine;
use nids_nn::loss::sigmoid;
use nids_store::Result;
use rayon::prelude::*;

use crate::engine::inference_engine;
use crate::network::LatentEncoder;
use crate::session::LatentSession;

/// Rows that a worker scores at once: their tokens take some megabytes.
const BLOCK: usize = 256;
/// A vote is at least so far from 0 and 1: trees whose leaves all agree would else decide alone, and a student cannot learn infinity.
const LEAST: f64 = 1e-3;

/// The numbers of a row that principal components are found in. Nothing trains them.
#[derive(Debug)]
pub enum Basis {
    /// Every token of a frozen encoder.
    Tokens(Box<LatentSession>),
    /// The tokenised features; there is no network.
    Features {
        /// Its workers score.
        engine: Engine<f32>,
        /// Numbers of a row.
        width: usize,
    },
}

impl Basis {
    /// That of a config: tokens of the encoder that `params` has the weights of, or features, which have no weights.
    pub fn new(
        config: &Config,
        tokeniser: &Tokeniser,
        params: impl FnOnce(&ParamTable, &LatentEncoder) -> Result<Buffer<f32>>,
    ) -> Result<Self> {
        if config.finetune.from == FinetuneFrom::Frozen {
            return Self::tokens(config, tokeniser, params);
        }
        let width = tokeniser.tokens().iter().map(|token| token.width).sum();
        Ok(Self::Features { engine: inference_engine(config, &ParamTable::default(), 1, 1, width)?, width })
    }

    /// Tokens of the encoder that `params` has the weights of.
    pub fn tokens(
        config: &Config,
        tokeniser: &Tokeniser,
        params: impl FnOnce(&ParamTable, &LatentEncoder) -> Result<Buffer<f32>>,
    ) -> Result<Self> {
        let mut table = ParamTable::default();
        let encoder = LatentEncoder::all_tokens(config, tokeniser, &mut table.root());
        let params = params(&table, &encoder)?;
        Ok(Self::Tokens(Box::new(LatentSession::new(config, &table, encoder, params)?)))
    }

    /// The engine, whose workers score.
    pub fn engine(&self) -> &Engine<f32> {
        match self {
            Self::Tokens(session) => session.engine(),
            Self::Features { engine, .. } => engine,
        }
    }

    /// Numbers of a row.
    pub fn width(&self) -> usize {
        match self {
            Self::Tokens(session) => session.encoder().width(),
            Self::Features { width, .. } => *width,
        }
    }

    /// The numbers of some rows.   -> [rows, width]
    #[expect(clippy::missing_panics_doc, reason = "as many numbers as the width says")]
    pub fn numbers(&self, encoded: &TokenTable, rows: &[u32]) -> Array2<f32> {
        let width = self.width();
        let mut out = vec![0.0; rows.len() * width];
        match self {
            Self::Tokens(session) => session.latents_of(encoded, rows, &mut out),
            Self::Features { .. } => {
                for (&row, out) in rows.iter().zip(out.chunks_exact_mut(width)) {
                    encoded.expand_row(row as usize, out);
                }
            }
        }
        Array2::from_shape_vec((rows.len(), width), out).expect("rows of one width")
    }

    /// The `k` leading principal components of at most 4,096 of the rows: four times as many gain nothing.
    ///
    /// # Errors
    /// Numbers that are not finite.
    pub fn pca(&self, encoded: &TokenTable, rows: &[u32], k: usize) -> nids_heads::Result<Pca> {
        const ROWS: usize = 4096;
        let some: Vec<u32> = rows.iter().copied().step_by(rows.len().div_ceil(ROWS).max(1)).collect();
        Pca::fit(&self.numbers(encoded, &some), k)
    }

    /// The principal components of some rows, block by block: their numbers would take some thirty times as much.   -> [rows, k]
    pub fn components(&self, pca: &Pca, encoded: &TokenTable, rows: &[u32]) -> Array2<f64> {
        let mut out = Array2::zeros((rows.len(), pca.n_components()));
        let blocks: Vec<_> = rows.chunks(BLOCK).zip(out.axis_chunks_iter_mut(Axis(0), BLOCK)).collect();
        let each = |(rows, mut out): (&[u32], ndarray::ArrayViewMut2<'_, f64>)| {
            out.assign(&pca.transform(&self.numbers(encoded, rows)));
        };
        self.engine().join(|| blocks.into_par_iter().for_each(each), || ());
        out
    }
}

/// The features of some rows as one number each, as trees want them: the quantile-normal value of a number (the scaled value under
/// `standard` and `global_max`), NaN where it is missing, the index of a category.   -> [rows, features]
pub fn feature_values(encoded: &TokenTable, rows: &[u32]) -> Array2<f32> {
    Array2::from_shape_fn((rows.len(), encoded.n_tokens()), |(row, token)| encoded.value(rows[row] as usize, token))
}

/// Fitted heads. Each has one vote: the committee's log odds are the mean of theirs. Means of probabilities rank as well, and are less
/// sure than they could be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Committee {
    /// The components that `logistic` and `kernel_machine` see.
    pub pca: Option<Pca>,
    /// On components.
    pub logistic: Option<LogisticRegression>,
    /// On components.
    pub kernel_machine: Option<KernelMachine>,
    /// On [`feature_values`].
    pub extra_trees: Option<ExtraTrees>,
    /// On [`feature_values`].
    pub boosting: Option<Boosting>,
}

impl Committee {
    /// Which heads it has.
    pub fn heads(&self) -> Vec<Head> {
        let has = |head: &Head| match head {
            Head::Logistic => self.logistic.is_some(),
            Head::KernelMachine => self.kernel_machine.is_some(),
            Head::ExtraTrees => self.extra_trees.is_some(),
            Head::Boosting => self.boosting.is_some(),
        };
        Head::ALL.into_iter().filter(has).collect()
    }

    /// The probabilities by the mean log odds of heads and of a network, if there is one: its probabilities of an attack, or of classes
    /// where there are no heads. A row's are a function of the row alone.   components: [rows, k]   of_network: [rows, C]   -> [rows, C]
    ///
    /// # Panics
    /// Without the components that heads see, or without anybody to vote.
    pub fn average(
        &self,
        engine: &Engine<f32>,
        components: Option<&Array2<f64>>,
        encoded: &TokenTable,
        rows: &[u32],
        of_network: Option<Vec<f32>>,
    ) -> Vec<f32> {
        let votes = self.heads().len() + usize::from(of_network.is_some());
        match of_network {
            Some(probabilities) if votes == 1 => probabilities,
            of_network => {
                assert!(votes > 0, "somebody votes");
                let mut sums = vec![0.0; rows.len()];
                engine.join(|| self.add(components, &feature_values(encoded, rows), &mut sums), || ());
                for (sum, &p) in sums.iter_mut().zip(of_network.iter().flatten()) {
                    *sum += log_odds(f64::from(p));
                }
                sums.into_iter().map(|sum| sigmoid(sum / votes as f64) as f32).collect()
            }
        }
    }

    /// Adds the log odds of every head.   features: [rows, F]   sums: [rows]
    fn add(&self, components: Option<&Array2<f64>>, features: &Array2<f32>, sums: &mut [f64]) {
        let blocks = features.axis_chunks_iter(Axis(0), BLOCK).zip(sums.chunks_mut(BLOCK)).enumerate();
        blocks.collect::<Vec<_>>().into_par_iter().for_each(|(block, (features, sums))| {
            let mut vote =
                |probabilities: Array1<f64>| sums.iter_mut().zip(probabilities).for_each(|(sum, p)| *sum += log_odds(p));
            if self.logistic.is_some() || self.kernel_machine.is_some() {
                let first = block * BLOCK;
                let range = Slice::from(first..first + features.nrows());
                let x = components.expect("components to stand on").slice_axis(Axis(0), range);
                self.logistic.iter().for_each(|head| vote(head.probabilities(&x)));
                self.kernel_machine.iter().for_each(|head| vote(head.probabilities(&x)));
            }
            self.extra_trees.iter().for_each(|head| vote(head.probabilities(&features)));
            self.boosting.iter().for_each(|head| vote(head.probabilities(&features)));
        });
    }
}

/// The log odds of a vote, whose probability is drawn in to .001 from 0 and 1. NaN stays NaN.
pub fn log_odds(p: f64) -> f64 {
    let p = p.clamp(LEAST, 1.0 - LEAST);
    (p / (1.0 - p)).ln()
}
