//! A trained network for the runtimes of others.

use std::collections::BTreeMap;
use std::io::Write;

use nids_config::{FinetuneFrom, Stage};
use nids_detect::{Detector, Network, WeightsFile, verdicts};
use nids_flows::Learnt;
use nids_interop::onnx::{self, Classifier, Outputs, Weights};
use nids_nn::ParamTable;
use nids_store::run::{MODEL, Run};
use nids_store::{Error, Result};

/// How features come into the graph.
pub use nids_interop::onnx::Inputs;

/// Writes the classifier of a run as an ONNX graph: see [`onnx::export`].
///
/// # Errors
/// Heads, a network over frozen latents, and an adaptation by segments, which the graph has no form for.
pub fn export(run: &Run, inputs: Inputs, out: &mut dyn Write) -> Result<()> {
    let bytes = run.steadily(|| graph(run, inputs))?;
    out.write_all(&bytes).map_err(Error::io("the graph", "write"))
}

fn graph(run: &Run, inputs: Inputs) -> Result<Vec<u8>> {
    let detector = Detector::open(run)?;
    let config = run.config_of(Stage::Finetune)?;
    let refuse = |what: &str| Err(Error::Usage(format!("{}: {what}", run.folder().display())));
    if !config.finetune.heads().is_empty() {
        return refuse("heads vote here, which an ONNX graph has no form for yet: export a run with a network alone");
    }
    if config.finetune.from == FinetuneFrom::Latents {
        return refuse(
            "`finetune.from: latents` has no ONNX form yet: export a run with `from: pretrained`, `frozen` or `scratch`",
        );
    }
    let operation = detector.operation();
    let scaling = match &operation.adaptation {
        Some(adaptation) if !adaptation.correction.segments.is_empty() => {
            let what = "`adapt` corrects this run by segments, which an ONNX graph has no form for yet: `nids-mixer \
                        adapt --undo` takes that back";
            return refuse(what);
        }
        Some(adaptation) => Some([adaptation.correction.slope, adaptation.correction.offset]),
        None => operation
            .calibration
            .as_ref()
            .and_then(|(calibration, _)| calibration.scaling)
            .map(|scaling| [scaling.slope, scaling.offset]),
    };
    let (tokeniser, classes) = (detector.tokeniser(), detector.classes());
    let mut table = ParamTable::default();
    let network = Network::new(&config, tokeniser, classes, &mut table)?;
    let weights = WeightsFile::read(&run.require(Stage::Finetune, MODEL)?, Stage::Finetune)?;
    let params = weights.params(&table, &[""], network.tokens())?;
    let mut values: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (place, token) in tokeniser.tokens().iter().enumerate() {
        if let Learnt::Categorical { n_classes, classes, .. } = tokeniser.learnt(place) {
            let name = |class: usize| classes.iter().find(|(_, of)| *of == class).map_or(String::new(), |(text, _)| text.clone());
            values.insert(&token.feature, (0..n_classes - 1).map(name).collect());
        }
    }
    let mut properties = vec![
        ("nids_mixer.schema", tokeniser.schema().name().to_owned()),
        ("nids_mixer.threshold", detector.threshold().to_string()),
        ("nids_mixer.calibrated", scaling.is_some().to_string()),
        ("nids_mixer.values", serde_json::to_string(&values).expect("texts under names")),
    ];
    properties.extend(operation.model.as_ref().map(|model| ("nids_mixer.model", model.sha256.clone())));
    properties.extend(classes.map(|classes| {
        let names = serde_json::to_string(classes.names()).expect("texts");
        ("nids_mixer.classes", names)
    }));
    let classifier = Classifier {
        tokeniser,
        weights: Weights::of(&table, &params),
        activation: config.model.activation,
        independent: config.finetune.independent(),
        shared_blocks: config.finetune.batch_ensemble().map_or(0, |(_, settings)| settings.shared_blocks),
        outputs: match network.outputs() {
            verdicts::Outputs::Attack => Outputs::Attack,
            verdicts::Outputs::Classes { n, normal } => Outputs::Classes { n, normal },
        },
        scaling,
        properties,
    };
    onnx::export(&classifier, inputs).map_err(|error| weights.refuse(error.to_string()))
}
