//! The network that finetune trains and predict runs.

use nids_flows::{Classes, Encoded, Tokeniser};
use nids_models::{Classifier, Input};
use nids_nn::engine::Engine;
use nids_nn::{Cx, ParamTable, Transposed};

use super::data::fill;
use super::network::{LatentEncoder, Moment, features, mixer};
use super::verdicts::Outputs;
use crate::config::{Config, FinetuneFrom};
use crate::error::{Error, Result};

/// A classifier over features, or over the latents of features.
#[derive(Debug)]
pub(super) struct Network {
    outputs: Outputs,
    /// Frozen, with `finetune.from: latents`.
    encoder: Option<LatentEncoder>,
    /// Over features, all of it trained, or a Mixer over patches of latents.
    classifier: Classifier,
}

impl Network {
    /// The network of `finetune.from`; `classes` where it learns categories.
    pub(super) fn new(config: &Config, tokeniser: &Tokeniser, classes: Option<&Classes>, table: &mut ParamTable) -> Result<Self> {
        let outputs = Outputs::new(config, classes);
        let features = features(tokeniser);
        if config.finetune.from != FinetuneFrom::Latents {
            let mixer = mixer(config, features.len());
            let classifier = Classifier::new(&mut table.root(), Input::Features(&features), &mixer, outputs.n());
            return Ok(Self { outputs, encoder: None, classifier });
        }
        let encoder = LatentEncoder::new(config, tokeniser, table);
        let total = encoder.width();
        let width = config.finetune.patch_size;
        if !total.is_multiple_of(width) {
            let message = format!("`finetune.patch_size: {width}` does not divide the {total} numbers of a flow's latents");
            return Err(Error::Usage(message));
        }
        let n_tokens = total / width;
        let input = Input::Patches { n_tokens, width };
        let classifier = Classifier::new(&mut table.root().at("head"), input, &mixer(config, n_tokens), outputs.n());
        Ok(Self { outputs, encoder: Some(encoder), classifier })
    }

    /// What its outputs are.
    pub(super) fn outputs(&self) -> Outputs {
        self.outputs
    }

    /// The part that is trained.
    pub(super) fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// What to read of the pretrained weights.
    pub(super) fn prefixes(&self) -> &'static [&'static str] {
        self.encoder.as_ref().map_or(&["encoder."], LatentEncoder::prefixes)
    }

    /// Numbers that training keeps of one flow for backward.
    pub(super) fn activations(&self) -> usize {
        self.classifier.encoder().activations()
    }

    /// Floating-point operations of the matrix products of one flow.
    pub(super) fn forward_flops(&self) -> f64 {
        self.encoder.as_ref().map_or(0.0, |encoder| encoder.encoder().forward_flops()) + self.classifier.encoder().forward_flops()
    }

    /// What it makes of a shard.   out: [b, W]
    fn infer(&self, cx: &Cx<'_, f32>, encoded: &Encoded, widths: &[usize], rows: &[u32], out: &mut [f32]) {
        let b = rows.len();
        let mut x = cx.alloc(b * widths.iter().sum::<usize>());
        fill(encoded, widths, rows.iter().copied(), x);
        if let Some(encoder) = &self.encoder {
            let z = cx.alloc(b * encoder.width());
            encoder.infer(cx, b, x, Moment::Mean, z);
            x = z;
        }
        let logits = self.classifier.infer(cx, b, x);
        let of_rows = logits.data.chunks_exact_mut(self.outputs.n()).zip(out.chunks_exact_mut(self.outputs.width()));
        of_rows.for_each(|(logits, out)| self.outputs.probabilities(logits, out));
    }

    /// The probabilities of [`Outputs`] for `rows`: [rows, W].
    pub(super) fn probabilities(
        &self,
        engine: &Engine<f32>,
        params: &[f32],
        transposed: &Transposed<f32>,
        encoded: &Encoded,
        widths: &[usize],
        rows: &[u32],
    ) -> Vec<f32> {
        let width = self.outputs.width();
        let mut out = vec![0.0; rows.len() * width];
        engine.infer(params, transposed, rows, width, &mut out, |cx, rows, out| self.infer(cx, encoded, widths, rows, out));
        out
    }
}
