//! What gives probabilities: a network, heads, or both.

use ndarray::Array2;
use nids_config::Config;
use nids_eval::calibration::log_odds;
use nids_flows::{Classes, TokenTable, Tokeniser, all_rows};
use nids_kernels::Buffer;
use nids_nn::ParamTable;
use nids_nn::engine::Engine;
use nids_store::Result;

use crate::classifier::Network;
use crate::committee::{Basis, Committee};
use crate::session::Session;
use crate::verdicts::Outputs;
use crate::weights_file::WeightsFile;

/// What gives probabilities. Each head has one vote, and where they stand beside a network, that has one, too.
#[derive(Debug)]
pub struct Model {
    base: Base,
    committee: Committee,
}

/// What heads stand on, or beside.
#[derive(Debug)]
enum Base {
    Trained { network: Box<Network>, session: Session },
    Frozen(Basis),
}

impl Model {
    /// What `finetune` left in `weights` for a config.
    pub fn read(config: &Config, tokeniser: &Tokeniser, classes: Option<&Classes>, weights: &WeightsFile) -> Result<Self> {
        let (heads, n_features) = (config.finetune.heads(), tokeniser.tokens().len());
        if config.finetune.has_network() {
            let model = Self::trained(config, tokeniser, classes, |table, network| {
                if heads.is_empty() {
                    weights.params(table, &[""], network.tokens())
                } else {
                    weights.params_beside_heads(table, network.tokens())
                }
            })?;
            let committee = if heads.is_empty() { Committee::default() } else { weights.committee(heads, n_features, 0)? };
            return Ok(Self { committee, ..model });
        }
        let basis = Basis::new(config, tokeniser, |table, encoder| weights.params_beside_heads(table, encoder.tokens()))?;
        let committee = weights.committee(heads, n_features, basis.width())?;
        Ok(Self::frozen(basis, committee))
    }

    /// A network alone, with weights of the caller's.
    pub fn trained(
        config: &Config,
        tokeniser: &Tokeniser,
        classes: Option<&Classes>,
        params: impl FnOnce(&ParamTable, &Network) -> Result<Buffer<f32>>,
    ) -> Result<Self> {
        let mut table = ParamTable::default();
        let network = Network::new(config, tokeniser, classes, &mut table)?;
        let params = params(&table, &network)?;
        let sizes = [network.activations(), network.members(), network.tokens()];
        let session = Session::new(config, &table, sizes, params)?;
        Ok(Self { base: Base::Trained { network: Box::new(network), session }, committee: Committee::default() })
    }

    /// Heads on what is not trained.
    pub fn frozen(basis: Basis, committee: Committee) -> Self {
        Self { base: Base::Frozen(basis), committee }
    }

    /// The heads that vote.
    pub fn committee(&self) -> &Committee {
        &self.committee
    }

    /// What heads alone stand on; None beside a network.
    pub fn basis(&self) -> Option<&Basis> {
        match &self.base {
            Base::Trained { .. } => None,
            Base::Frozen(basis) => Some(basis),
        }
    }

    /// The engine that it runs on.
    pub fn engine(&self) -> &Engine<f32> {
        match &self.base {
            Base::Trained { session, .. } => session.engine(),
            Base::Frozen(basis) => basis.engine(),
        }
    }

    /// What its outputs are.
    pub fn outputs(&self) -> Outputs {
        match &self.base {
            Base::Trained { network, .. } => network.outputs(),
            Base::Frozen(_) => Outputs::Attack,
        }
    }

    /// Floating-point operations of a network's matrix products for one flow; None where heads vote.
    pub fn forward_flops(&self) -> Option<f64> {
        match &self.base {
            Base::Trained { network, .. } if self.committee.heads().is_empty() => Some(network.forward_flops()),
            _ => None,
        }
    }

    /// The components of `rows` that heads stand on; None beside a network.   -> [rows, k]
    pub fn components(&self, encoded: &TokenTable, rows: &[u32]) -> Option<Array2<f64>> {
        let Base::Frozen(basis) = &self.base else { return None };
        Some(basis.components(self.committee.pca.as_ref()?, encoded, rows))
    }

    /// The probabilities of [`Outputs`] for `rows`: [rows, C].
    pub fn probabilities(&self, encoded: &TokenTable, rows: &[u32]) -> Vec<f32> {
        let sees_components = self.committee.heads().iter().any(|head| head.needs_components());
        let components = if sees_components { self.components(encoded, rows) } else { None };
        self.probabilities_on(components.as_ref(), encoded, rows)
    }

    /// ln of the probability of an attack over that of a benign row: also where a network is so sure that the probabilities of two rows
    /// are one number. Where heads vote, of their probability.   -> [rows]
    pub fn log_odds(&self, encoded: &TokenTable) -> Vec<f64> {
        let rows = all_rows(encoded.n_rows());
        match &self.base {
            Base::Trained { network, session } if self.committee.heads().is_empty() => {
                network.log_odds(session, &rows, |rows, x| encoded.fill(rows.iter().copied(), x))
            }
            _ => {
                let width = self.outputs().width();
                let probabilities = self.probabilities(encoded, &rows);
                probabilities.chunks_exact(width).map(|row| log_odds(self.outputs().attack(row))).collect()
            }
        }
    }

    /// [`Model::log_odds`] of inputs that need be no rows of a table, as points between two rows are: of a network alone, else None.
    /// inputs: one row each, as [`TokenTable::expand_row`] writes it
    pub fn log_odds_between(&self, inputs: &[Vec<f32>], widths: &[usize]) -> Option<Vec<f64>> {
        let Base::Trained { network, session } = &self.base else { return None };
        let fill = |rows: &[u32], x: &mut [f32]| {
            let (mut from, mut rest) = (0, x);
            for &width in widths {
                let (token, after) = rest.split_at_mut(rows.len() * width);
                for (out, &row) in token.chunks_exact_mut(width).zip(rows) {
                    out.copy_from_slice(&inputs[row as usize][from..from + width]);
                }
                (from, rest) = (from + width, after);
            }
        };
        self.committee.heads().is_empty().then(|| network.log_odds(session, &all_rows(inputs.len()), fill))
    }

    /// The same with [`Model::components`] that are there already.
    pub fn probabilities_on(&self, components: Option<&Array2<f64>>, encoded: &TokenTable, rows: &[u32]) -> Vec<f32> {
        let of_network = match &self.base {
            Base::Trained { network, session } => {
                Some(network.probabilities(session.engine(), session.params(), session.prepared(), encoded, rows))
            }
            Base::Frozen(_) => None,
        };
        self.committee.average(self.engine(), components, encoded, rows, of_network)
    }
}
