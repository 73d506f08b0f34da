use std::collections::BTreeSet;

use nids_flows::{Tokeniser, TokeniserConfig, all_rows};
use nids_models::{Classifier as Network, Input, MembersConfig, MixerConfig};
use nids_nn::{Init, ParamTable};
use prost::Message as _;

use super::proto::{GraphProto, ModelProto};
use super::*;

fn tokeniser(config: &TokeniserConfig) -> Tokeniser {
    let flows = nids_flows::synthetic(200, 1);
    Tokeniser::fit(&flows, &all_rows(200), config).unwrap()
}

/// The graph of a small network, with random weights.
fn graph(config: &TokeniserConfig, members: usize, independent: usize, outputs: Outputs, inputs: Inputs) -> ModelProto {
    let tokeniser = tokeniser(config);
    let features: Vec<(String, usize)> = tokeniser.tokens().iter().map(|token| (token.feature.clone(), token.width)).collect();
    let mixer = MixerConfig {
        dim: 8,
        depth: 2,
        token_hidden: 4,
        channel_hidden: 8,
        n_registers: 1,
        activation: Activation::Gelu,
        dropout: 0.0,
        drop_path: 0.0,
    };
    let n = if let Outputs::Classes { n, .. } = outputs { n } else { 1 };
    let mut table = ParamTable::default();
    for k in 0..independent {
        let mut root = table.root();
        let mut scope = if independent > 1 { root.at(format!("members.{k}")) } else { root };
        let input = Input::Features(&features);
        if members > 1 {
            Network::ensemble(&mut scope, input, &mixer, n, MembersConfig { members, init: Init::Signs, shared_blocks: 1 });
        } else {
            Network::new(&mut scope, input, &mixer, n);
        }
    }
    let params = table.init::<f32>(3);
    let classifier = Classifier {
        tokeniser: &tokeniser,
        weights: Weights::of(&table, &params),
        activation: Activation::Gelu,
        independent,
        shared_blocks: usize::from(members > 1),
        outputs,
        scaling: Some([1.5, -0.25]),
        properties: vec![("nids_mixer.schema", "x".to_owned())],
    };
    ModelProto::decode(export(&classifier, inputs).unwrap().as_slice()).unwrap()
}

/// Every value is made once, before it is used, and constants have as many numbers as their sizes say.
fn check(graph: &GraphProto) {
    let mut known: BTreeSet<&str> = BTreeSet::new();
    let given = graph.input.iter().map(|input| &input.name).chain(graph.initializer.iter().map(|tensor| &tensor.name));
    given.for_each(|name| assert!(known.insert(name), "{name} twice"));
    for node in &graph.node {
        node.input.iter().for_each(|name| assert!(known.contains(name.as_str()), "{}: {name} is not there", node.name));
        node.output.iter().for_each(|name| assert!(known.insert(name), "{name} twice"));
    }
    graph.output.iter().for_each(|output| assert!(known.contains(output.name.as_str()), "{}", output.name));
    for tensor in &graph.initializer {
        let n = tensor.dims.iter().product::<i64>();
        let size = if tensor.data_type == FLOAT { 4 } else { 8 };
        assert_eq!(tensor.raw_data.len(), n as usize * size, "{}", tensor.name);
    }
}

fn names(values: &[proto::ValueInfoProto]) -> Vec<&str> {
    values.iter().map(|value| value.name.as_str()).collect()
}

#[test]
fn every_value_of_a_graph_is_made_before_it_is_used() {
    let config =
        |quantile, log1p, bins, one_hot| TokeniserConfig { quantile, log1p, bins, one_hot, ..TokeniserConfig::default() };
    let classes = Outputs::Classes { n: 4, normal: 1 };
    for (config, members, independent, outputs, inputs) in [
        (config(true, true, 8, true), 1, 1, Outputs::Attack, Inputs::Raw),
        (config(true, false, 0, false), 3, 1, classes, Inputs::Raw),
        (config(false, true, 4, true), 1, 2, classes, Inputs::Codes),
    ] {
        let model = graph(&config, members, independent, outputs, inputs);
        let graph = model.graph.unwrap();
        check(&graph);
        let wanted = match (outputs, members * independent) {
            (Outputs::Attack, _) => &["probability", "latents"][..],
            (Outputs::Classes { .. }, _) => &["probability", "classes"],
        };
        assert_eq!(names(&graph.output), wanted);
        let n_inputs = if inputs == Inputs::Codes { 2 } else { tokeniser(&config).tokens().len() };
        assert_eq!(graph.input.len(), n_inputs);
        assert_eq!(model.metadata_props[0].key, "nids_mixer.schema");
    }
}

#[test]
fn a_network_without_a_parameter_is_refused() {
    let tokeniser = tokeniser(&TokeniserConfig::default());
    let classifier = Classifier {
        tokeniser: &tokeniser,
        weights: Weights::default(),
        activation: Activation::Tanh,
        independent: 1,
        shared_blocks: 0,
        outputs: Outputs::Attack,
        scaling: None,
        properties: Vec::new(),
    };
    let error = export(&classifier, Inputs::Raw).unwrap_err().to_string();
    assert!(error.contains("no parameter `encoder.embed.dur.weight`"), "{error}");
}
