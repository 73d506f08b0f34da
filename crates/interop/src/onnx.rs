//! A trained network as an ONNX graph: from raw values to probabilities, for the runtimes of others.
//!
//! The tokeniser is in the graph: knots of quantiles, bins, classes of texts. Numbers are computed as in `nids_flows::Tokeniser`, in
//! double precision, and the network in single precision. Sums are added in another order than here, so that results agree to some
//! 1e-6 and not to the bit.

mod graph;
mod network;
mod proto;
mod tokens;

use std::collections::BTreeMap;

use nids_flows::{Infinite, Tokeniser};
use nids_nn::{Activation, ParamTable};

use crate::{Error, Result};
use graph::Graph;
use network::Network;
use proto::FLOAT;
pub use tokens::Inputs;
use tokens::{IsMissing, Map, Reader};

/// What is written.
#[derive(Clone, Debug)]
pub struct Classifier<'a> {
    /// From flows to tokens.
    pub tokeniser: &'a Tokeniser,
    /// The parameters, by the names that they have in `model.safetensors`.
    pub weights: Weights<'a>,
    /// Between the two products of an MLP.
    pub activation: Activation,
    /// Networks that were trained one by one, whose probabilities are averaged.
    pub independent: usize,
    /// Blocks before members that share a network part.
    pub shared_blocks: usize,
    /// What its outputs are.
    pub outputs: Outputs,
    /// From the log odds of its probability to those of the calibrated one: slope and offset.
    pub scaling: Option<[f64; 2]>,
    /// What others need to know, as properties of the file.
    pub properties: Vec<(&'static str, String)>,
}

/// What the outputs of a classifier are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// The logit of an attack.
    Attack,
    /// A logit a class.
    Classes {
        /// How many.
        n: usize,
        /// The place of the benign one.
        normal: usize,
    },
}

/// Parameters by name, with their shapes.
#[derive(Clone, Debug, Default)]
pub struct Weights<'a>(BTreeMap<String, (Vec<usize>, &'a [f32])>);

impl<'a> Weights<'a> {
    /// The parameters of a table.
    pub fn of(table: &ParamTable, params: &'a [f32]) -> Self {
        Self(table.specs().iter().map(|spec| (spec.name.clone(), (spec.shape.clone(), spec.param.of(params)))).collect())
    }

    fn get(&self, name: &str) -> Result<(&[usize], &'a [f32])> {
        let found = self.0.get(name).map(|(shape, numbers)| (shape.as_slice(), *numbers));
        found.ok_or_else(|| Error::Export(format!("the network has no parameter `{name}`")))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// The classifier as a file.
///
/// | output | |
/// |---|---|
/// | `probability: [N, 1]` | of an attack, calibrated where `scaling` is given |
/// | `classes: [N, C]` | the probability of each class, where there are several, not calibrated |
/// | `latents: [N, D]` | the mean token of the encoder, where there is one network |
///
/// # Errors
/// Parameters that are not there.
pub fn export(classifier: &Classifier<'_>, inputs: Inputs) -> Result<Vec<u8>> {
    let Classifier { tokeniser, weights, activation, independent, shared_blocks, outputs, .. } = classifier;
    let features: Vec<_> = tokeniser.tokens().iter().enumerate().map(|(place, token)| (token, tokeniser.learnt(place))).collect();
    let is_missing =
        if tokeniser.schema().cells().infinite == Some(Infinite::Clip) { IsMissing::Nan } else { IsMissing::NotFinite };
    let mut graph = Graph::default();
    let reader = Reader::new(&mut graph, inputs, &features);
    let mut of_networks = Vec::new();
    let mut latents = None;
    for k in 0..*independent {
        let prefix = if *independent > 1 { format!("members.{k}.") } else { String::new() };
        let network = Network { weights, prefix: &prefix, activation: *activation, shared_blocks: *shared_blocks };
        let mut tokens = Vec::new();
        for (place, (token, learnt)) in features.iter().enumerate() {
            let map = Map::new(weights, &format!("{prefix}encoder.embed.{}", token.feature), token.width)?;
            tokens.push(reader.token(&mut graph, place, learnt, is_missing, &map));
        }
        let (pooled, logits) = network.infer(&mut graph, tokens)?;
        latents = Some(pooled).filter(|_| *independent == 1 && !network.has_members());
        of_networks.push(network.probabilities(&mut graph, &logits, *outputs));
    }
    let probabilities = network::mean(&mut graph, &of_networks);
    let attack = network::attack(&mut graph, &probabilities, *outputs);
    let attack = match classifier.scaling {
        Some(scaling) => network::scaled(&mut graph, &attack, scaling),
        None => attack,
    };
    graph.output("probability", FLOAT, 1, &attack);
    if let Outputs::Classes { n, .. } = outputs {
        graph.output("classes", FLOAT, *n, &probabilities);
    }
    if let Some(latents) = latents {
        let dim = weights.get("encoder.norm.weight")?.1.len();
        graph.output("latents", FLOAT, dim, &latents);
    }
    let about = "From the values of a flow to the probability that it is an attack. See docs/onnx.md of nids-mixer.";
    Ok(graph.into_bytes("nids-mixer", about, &classifier.properties))
}

#[cfg(test)]
mod tests;
