//! Tokens to probabilities: what `nids_models::Classifier` does, as operators.

use nids_nn::Activation;

use super::graph::{Attribute, Graph, signed};
use super::proto::{DOUBLE, FLOAT};
use super::tokens::transposed;
use super::{Outputs, Weights};
use crate::Result;

/// Added to the variance: that of `nids_nn::LayerNorm`.
const EPS: f32 = 1e-5;

/// One network, or several members that share one: their numbers lie along a first axis `[K, N, ...]`.
pub(super) struct Network<'n> {
    pub(super) weights: &'n Weights<'n>,
    /// What its names begin with.
    pub(super) prefix: &'n str,
    pub(super) activation: Activation,
    pub(super) shared_blocks: usize,
}

impl Network<'_> {
    fn weight(&self, name: &str) -> Result<(&[usize], &[f32])> {
        self.weights.get(&format!("{}{name}", self.prefix))
    }

    fn has(&self, name: &str) -> bool {
        self.weights.has(&format!("{}{name}", self.prefix))
    }

    /// Whether several members share it.
    pub(super) fn has_members(&self) -> bool {
        self.has("scales.weight")
    }

    /// tokens: [N, 1, D] each   -> mean tokens [N, D] and logits [N, C]; of members [K, N, ...]
    pub(super) fn infer(&self, graph: &mut Graph, tokens: Vec<String>) -> Result<(String, String)> {
        let mut x = self.with_registers(graph, tokens)?;
        for block in 0.. {
            if block == self.shared_blocks && self.has_members() {
                x = self.part(graph, &x)?;
            }
            let name = format!("encoder.blocks.{block}");
            if !self.has(&format!("{name}.token_norm.weight")) {
                break;
            }
            x = self.token_mixing(graph, &name, &x)?;
            x = self.channel_mixing(graph, &name, &x)?;
        }
        let x = self.norm(graph, "encoder.norm", &x)?;
        let attributes = [("axes", Attribute::Ints(vec![-2])), ("keepdims", Attribute::Int(0))];
        let pooled = graph.op("ReduceMean", &[&x], &attributes);
        let (weight, bias) = self.heads(graph)?;
        let product = graph.op("MatMul", &[&pooled, &weight], &[]);
        let logits = graph.op("Add", &[&product, &bias], &[]);
        Ok((pooled, logits))
    }

    /// -> [N, T, D]
    fn with_registers(&self, graph: &mut Graph, mut tokens: Vec<String>) -> Result<String> {
        if self.has("encoder.registers.weight") {
            let (shape, registers) = self.weight("encoder.registers.weight")?;
            let [n, dim] = [shape[0], shape[1]];
            let registers = graph.floats(&[1, n, dim], registers);
            let rows = graph.op("Shape", &[&tokens[0]], &[("start", Attribute::Int(0)), ("end", Attribute::Int(1))]);
            let sizes = graph.ints(&[2], &[signed(n), signed(dim)]);
            let shape = graph.op("Concat", &[&rows, &sizes], &[("axis", Attribute::Int(0))]);
            tokens.push(graph.op("Expand", &[&registers, &shape], &[]));
        }
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        Ok(graph.op("Concat", &tokens, &[("axis", Attribute::Int(1))]))
    }

    /// Every member scales the tokens.   x: [N, T, D]   -> [K, N, T, D]
    fn part(&self, graph: &mut Graph, x: &str) -> Result<String> {
        let (shape, scales) = self.weight("scales.weight")?;
        let scales = graph.floats(&[shape[0], 1, shape[1], shape[2]], scales);
        Ok(graph.op("Mul", &[x, &scales], &[]))
    }

    fn norm(&self, graph: &mut Graph, name: &str, x: &str) -> Result<String> {
        let (shape, weight) = self.weight(&format!("{name}.weight"))?;
        let weight = graph.floats(shape, weight);
        let (shape, bias) = self.weight(&format!("{name}.bias"))?;
        let bias = graph.floats(shape, bias);
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(EPS))];
        Ok(graph.op("LayerNormalization", &[x, &weight, &bias], &attributes))
    }

    /// x + W2 · act(W1 · LN(x) + b1) + b2, over tokens.
    fn token_mixing(&self, graph: &mut Graph, block: &str, x: &str) -> Result<String> {
        let mut y = self.norm(graph, &format!("{block}.token_norm"), x)?;
        for linear in ["linear1", "linear2"] {
            let name = format!("{block}.token_mixing.{linear}");
            let (shape, weight) = self.weight(&format!("{name}.weight"))?;
            let (weight, outputs) = (graph.floats(shape, weight), shape[0]);
            let (_, bias) = self.weight(&format!("{name}.bias"))?;
            let bias = graph.floats(&[outputs, 1], bias);
            let product = graph.op("MatMul", &[&weight, &y], &[]);
            y = graph.op("Add", &[&product, &bias], &[]);
            if linear == "linear1" {
                y = self.activated(graph, &y);
            }
        }
        Ok(graph.op("Add", &[x, &y], &[]))
    }

    /// The same over channels.
    fn channel_mixing(&self, graph: &mut Graph, block: &str, x: &str) -> Result<String> {
        let mut y = self.norm(graph, &format!("{block}.channel_norm"), x)?;
        for linear in ["linear1", "linear2"] {
            let name = format!("{block}.channel_mixing.{linear}");
            let (shape, weight) = self.weight(&format!("{name}.weight"))?;
            let [outputs, inputs] = [shape[0], shape[1]];
            let weight = graph.floats(&[inputs, outputs], &transposed(weight, outputs, inputs));
            let (_, bias) = self.weight(&format!("{name}.bias"))?;
            let bias = graph.floats(&[outputs], bias);
            let product = graph.op("MatMul", &[&y, &weight], &[]);
            y = graph.op("Add", &[&product, &bias], &[]);
            if linear == "linear1" {
                y = self.activated(graph, &y);
            }
        }
        Ok(graph.op("Add", &[x, &y], &[]))
    }

    fn activated(&self, graph: &mut Graph, x: &str) -> String {
        if self.activation == Activation::Tanh {
            return graph.op("Tanh", &[x], &[]);
        }
        // x Φ(x): a `Gelu` is younger than the operators that all runtimes have
        let [root, one, half] = [std::f32::consts::SQRT_2, 1.0, 0.5].map(|number| graph.float(number));
        let along = graph.op("Div", &[x, &root], &[]);
        let erf = graph.op("Erf", &[&along], &[]);
        let twice = graph.op("Add", &[&erf, &one], &[]);
        let product = graph.op("Mul", &[x, &twice], &[]);
        graph.op("Mul", &[&product, &half], &[])
    }

    /// Weight [D, C] and bias [C]; of members [K, D, C] and [K, 1, C].
    fn heads(&self, graph: &mut Graph) -> Result<(String, String)> {
        let of = |name: &str| -> Result<(Vec<usize>, Vec<f32>, &[f32])> {
            let (shape, weight) = self.weight(&format!("{name}.weight"))?;
            let (_, bias) = self.weight(&format!("{name}.bias"))?;
            Ok((shape.to_vec(), transposed(weight, shape[0], shape[1]), bias))
        };
        if !self.has_members() {
            let (shape, weight, bias) = of("classifier")?;
            return Ok((graph.floats(&[shape[1], shape[0]], &weight), graph.floats(&[shape[0]], bias)));
        }
        let (mut weights, mut biases, mut sizes) = (Vec::new(), Vec::new(), [0; 2]);
        for k in (0..).take_while(|k| self.has(&format!("classifier.{k}.weight"))) {
            let (shape, weight, bias) = of(&format!("classifier.{k}"))?;
            sizes = [shape[1], shape[0]];
            weights.extend(weight);
            biases.extend_from_slice(bias);
        }
        let members = biases.len() / sizes[1].max(1);
        Ok((graph.floats(&[members, sizes[0], sizes[1]], &weights), graph.floats(&[members, 1, sizes[1]], &biases)))
    }

    /// The probabilities of logits, averaged over members that share the network.   -> [N, C]
    pub(super) fn probabilities(&self, graph: &mut Graph, logits: &str, outputs: Outputs) -> String {
        let found = match outputs {
            Outputs::Attack => graph.op("Sigmoid", &[logits], &[]),
            Outputs::Classes { .. } => graph.op("Softmax", &[logits], &[("axis", Attribute::Int(-1))]),
        };
        if !self.has_members() {
            return found;
        }
        graph.op("ReduceMean", &[&found], &[("axes", Attribute::Ints(vec![0])), ("keepdims", Attribute::Int(0))])
    }
}

/// The mean of what several networks say.
pub(super) fn mean(graph: &mut Graph, probabilities: &[String]) -> String {
    let names: Vec<&str> = probabilities.iter().map(String::as_str).collect();
    if let [one] = *names { one.to_owned() } else { graph.op("Mean", &names, &[]) }
}

/// The probability of an attack.   -> [N, 1]
pub(super) fn attack(graph: &mut Graph, probabilities: &str, outputs: Outputs) -> String {
    let Outputs::Classes { n, normal } = outputs else { return probabilities.to_owned() };
    let others: Vec<f32> = (0..n).map(|class| if class == normal { 0.0 } else { 1.0 }).collect();
    let (others, one) = (graph.floats(&[n, 1], &others), graph.float(1.0));
    let sum = graph.op("MatMul", &[probabilities, &others], &[]);
    graph.op("Min", &[&sum, &one], &[])
}

/// sigmoid(slope · log odds + offset), as `nids_eval::calibration` has it.
pub(super) fn scaled(graph: &mut Graph, probability: &str, [slope, offset]: [f64; 2]) -> String {
    let [least, most] = [f64::from(f32::MIN_POSITIVE), 1.0 - f64::from(f32::EPSILON) / 4.0].map(|number| graph.double(number));
    let [slope, offset, one] = [slope, offset, 1.0].map(|number| graph.double(number));
    let p = graph.cast(probability, DOUBLE);
    let p = graph.op("Max", &[&p, &least], &[]);
    let p = graph.op("Min", &[&p, &most], &[]);
    let rest = graph.op("Sub", &[&one, &p], &[]);
    let (log, log_rest) = (graph.op("Log", &[&p], &[]), graph.op("Log", &[&rest], &[]));
    let odds = graph.op("Sub", &[&log, &log_rest], &[]);
    let steeper = graph.op("Mul", &[&odds, &slope], &[]);
    let moved = graph.op("Add", &[&steeper, &offset], &[]);
    // tract 0.23 has no sigmoid of doubles
    let moved = graph.cast(&moved, FLOAT);
    graph.op("Sigmoid", &[&moved], &[])
}
