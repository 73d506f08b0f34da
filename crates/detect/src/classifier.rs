//! The network that finetune trains and predict runs.

use std::collections::BTreeMap;

use nids_flows::{Classes, TokenTable, Tokeniser};
use nids_models::{Classifier, Input, MembersConfig, MixerConfig};
use nids_nn::engine::Engine;
use nids_nn::{Cx, Init, Param, ParamTable, Prepared, Scope};

use crate::network::{LatentEncoder, features, mixer};
use crate::session::Session;
use crate::verdicts::Outputs;
use nids_config::{Config, FinetuneConfig, FinetuneFrom, Scales, Task};
use nids_store::{Error, Result};

/// A classifier over features, or over the latents of features; or several, whose probabilities are averaged.
#[derive(Debug)]
pub struct Network {
    outputs: Outputs,
    /// Frozen, with `finetune.from: latents`, and shared by all.
    encoder: Option<LatentEncoder>,
    /// Over features, all of it trained, or a Mixer over patches of latents: one for each independent member.
    classifiers: Vec<Classifier>,
}

impl Network {
    /// The network of `finetune.from`, with all its members; `classes` where it learns categories.
    ///
    /// Independent members have their parameters under `members.{k}`.
    pub fn new(config: &Config, tokeniser: &Tokeniser, classes: Option<&Classes>, table: &mut ParamTable) -> Result<Self> {
        Self::with(config, tokeniser, classes, config.finetune.independent(), table)
    }

    /// One independent member of it, alone and under the names of a single network: what is trained at once.
    pub fn one(config: &Config, tokeniser: &Tokeniser, classes: Option<&Classes>, table: &mut ParamTable) -> Result<Self> {
        Self::with(config, tokeniser, classes, 1, table)
    }

    fn with(
        config: &Config,
        tokeniser: &Tokeniser,
        classes: Option<&Classes>,
        independent: usize,
        table: &mut ParamTable,
    ) -> Result<Self> {
        let outputs = Outputs::new(config, classes);
        let features = features(tokeniser);
        let is_latent = config.finetune.from == FinetuneFrom::Latents;
        let encoder = is_latent.then(|| LatentEncoder::new(config, tokeniser, table));
        let (input, n_tokens) = match &encoder {
            None => (Input::Features(&features), features.len()),
            Some(encoder) => patches(encoder, config.finetune.patch_size)?,
        };
        let mixer = mixer(config, n_tokens);
        let mut member = |k: usize| {
            let mut root = table.root();
            let mut scope = if independent > 1 { root.at(format!("members.{k}")) } else { root };
            let build = |scope: &mut Scope<'_>| classifier(&config.finetune, scope, input, &mixer, outputs.width());
            if is_latent { build(&mut scope.at("head")) } else { build(&mut scope) }
        };
        let classifiers = (0..independent).map(&mut member).collect();
        Ok(Self { outputs, encoder, classifiers })
    }

    /// What its outputs are.
    pub fn outputs(&self) -> Outputs {
        self.outputs
    }

    /// The part that is trained; the first member's, where there are several.
    pub fn classifier(&self) -> &Classifier {
        &self.classifiers[0]
    }

    /// Members that share a classifier.
    pub fn members(&self) -> usize {
        self.classifier().encoder().members()
    }

    /// What to read of the pretrained weights.
    pub fn prefixes(&self) -> &'static [&'static str] {
        self.encoder.as_ref().map_or(&["encoder."], LatentEncoder::prefixes)
    }

    /// Whether a parameter is among what is read of the pretrained weights.
    pub fn is_pretrained(&self, name: &str) -> bool {
        self.prefixes().iter().any(|prefix| name.starts_with(prefix))
    }

    /// Numbers that training keeps of one flow for backward.
    pub fn activations(&self) -> usize {
        self.classifier().encoder().activations()
    }

    /// Numbers of a row's tokens.
    pub fn tokens(&self) -> usize {
        self.encoder.as_ref().map_or(0, LatentEncoder::tokens) + self.classifier().encoder().token_numbers()
    }

    /// Floating-point operations of the matrix products of one flow.
    pub fn forward_flops(&self) -> f64 {
        let of_encoder = self.encoder.as_ref().map_or(0.0, |encoder| encoder.encoder().forward_flops());
        of_encoder + self.classifiers.len() as f64 * self.classifier().encoder().forward_flops()
    }

    /// Copies the parameters of member `k`, which was trained alone, to where this network has them. `table` is of this network,
    /// `of_one` of [`Network::one`].
    pub fn adopt(&self, k: usize, table: &ParamTable, of_one: &ParamTable, member: &[f32], params: &mut [f32]) {
        let places: BTreeMap<&str, Param> = table.specs().iter().map(|spec| (spec.name.as_str(), spec.param)).collect();
        for spec in of_one.specs() {
            let is_shared = self.classifiers.len() == 1 || (self.encoder.is_some() && self.is_pretrained(&spec.name));
            let name = if is_shared { spec.name.clone() } else { format!("members.{k}.{}", spec.name) };
            places[name.as_str()].of_mut(params).copy_from_slice(spec.param.of(member));
        }
    }

    /// The mean over members of what `add` makes of the logits of each, sample by sample.
    ///
    /// x: b samples as the network takes them, overwritten   logits: [C], overwritten   out: [b, width]
    fn infer<'a>(&self, cx: &Cx<'a, f32>, b: usize, mut x: &'a mut [f32], add: impl Fn(&mut [f32], &mut [f32]), out: &mut [f32]) {
        let (n_logits, width) = (self.outputs.width(), out.len() / b);
        let add_members = |logits: &mut [f32], out: &mut [f32]| {
            for logits in logits.chunks_exact_mut(b * n_logits) {
                logits.chunks_exact_mut(n_logits).zip(out.chunks_exact_mut(width)).for_each(|(logits, out)| add(logits, out));
            }
        };
        if let Some(encoder) = &self.encoder {
            let z = cx.alloc(b * encoder.width());
            encoder.infer(cx, b, x, z);
            x = z;
        }
        out.fill(0.0);
        for classifier in &self.classifiers[1..] {
            let copy = cx.alloc(x.len());
            copy.copy_from_slice(x);
            add_members(classifier.infer(cx, b, copy).data, out);
        }
        add_members(self.classifier().infer(cx, b, x).data, out);
        let n = self.classifiers.len() * self.members();
        for mean in out {
            *mean /= n as f32;
        }
    }

    /// The probabilities of [`Outputs`] for `rows`: [rows, C].
    pub fn probabilities(
        &self,
        engine: &Engine<f32>,
        params: &[f32],
        prepared: &Prepared<f32>,
        encoded: &TokenTable,
        rows: &[u32],
    ) -> Vec<f32> {
        let width = self.outputs.width();
        let mut out = vec![0.0; rows.len() * width];
        engine.infer(params, prepared, rows, width, &mut out, |cx, rows, out| {
            let x = cx.alloc(rows.len() * encoded.width());
            encoded.fill(rows.iter().copied(), x);
            self.infer(cx, rows.len(), x, |logits, out| self.outputs.add_probabilities(logits, out), out);
        });
        out
    }

    /// ln of the probability of an attack over that of a benign row, for samples whose `fill` gives the input: also where the
    /// probability, as a number near 1, no longer tells two rows apart.   -> [rows]
    pub fn log_odds(&self, session: &Session, rows: &[u32], fill: impl Fn(&[u32], &mut [f32]) + Sync) -> Vec<f64> {
        let width = self.encoder.as_ref().map_or(self.classifier().encoder(), LatentEncoder::encoder).input_width();
        let mut odds = vec![0.0; 2 * rows.len()];
        session.infer(rows, 2, &mut odds, |cx, rows, out| {
            let x = cx.alloc(rows.len() * width);
            fill(rows, x);
            let add = |logits: &mut [f32], out: &mut [f32]| {
                let [attack, benign] = out else { unreachable!("two numbers a row") };
                self.outputs.add_odds(logits, [attack, benign]);
            };
            self.infer(cx, rows.len(), x, add, out);
        });
        let ln = |p: f32| f64::from(p.max(f32::MIN_POSITIVE)).ln();
        odds.chunks_exact(2).map(|odds| ln(odds[0]) - ln(odds[1])).collect()
    }
}

/// One classifier, or one that members share.
fn classifier(
    config: &FinetuneConfig,
    scope: &mut Scope<'_>,
    input: Input<'_>,
    mixer: &MixerConfig,
    n_outputs: usize,
) -> Classifier {
    let Some((members, settings)) = config.batch_ensemble() else { return Classifier::new(scope, input, mixer, n_outputs) };
    let init = match settings.scales {
        Scales::Normal => Init::AroundOne { std: 0.5 },
        Scales::Signs => Init::Signs,
    };
    let config = MembersConfig { members, init, shared_blocks: settings.shared_blocks };
    Classifier::ensemble(scope, input, mixer, n_outputs, config)
}

/// Latents cut into patches of `width` numbers, and how many there are.
fn patches(encoder: &LatentEncoder, width: usize) -> Result<(Input<'static>, usize)> {
    let total = encoder.width();
    if !total.is_multiple_of(width) {
        let message = format!("`finetune.patch_size: {width}` does not divide the {total} numbers of a flow's latents");
        return Err(Error::Usage(message));
    }
    let n_tokens = total / width;
    Ok((Input::Patches { n_tokens, width }, n_tokens))
}

/// Whether there is something to learn of categories.
pub fn wants_classes(config: &Config) -> bool {
    matches!(config.finetune.task, Task::Multiclass(_))
}
