//! Fine-tuning with a mean teacher, on labelled rows and on rows without labels.

use std::sync::{PoisonError, RwLock};

use nids_flows::TokenTable;
use nids_models::{Classifier, Masked, Student, StudentLoss, random_masking};
use nids_nn::engine::{Loss, Objective, Sample};
use nids_nn::loss::sigmoid;
use nids_nn::{Cx, Ema, Mode, Prepared};

use crate::labels::smoothed;
use nids_config::{FinetuneConfig, MeanTeacherConfig, RampConfig};

/// Binary cross-entropy with the labels of the first rows of a step and with the teacher's probabilities of the others
/// ([`nids_models::Classifier::student_loss`]).
pub(super) struct MeanTeacherObjective<'d> {
    classifier: &'d Classifier,
    encoded: &'d TokenTable,
    labels: &'d [u8],
    /// The learned token that replaces a hidden feature, if pretraining used one.
    mask_token: Option<Vec<f32>>,
    teacher: &'d RwLock<Ema<f32>>,
    /// The teacher's matrices, as of the last update.
    prepared: RwLock<Prepared<f32>>,
    settings: &'d MeanTeacherConfig,
    steps: u64,
    n_labelled: usize,
    pos_weight: f32,
    smoothing: f32,
}

impl<'d> MeanTeacherObjective<'d> {
    pub(super) fn new(
        config: &'d FinetuneConfig,
        settings: &'d MeanTeacherConfig,
        prepared: Prepared<f32>,
        classifier: &'d Classifier,
        (encoded, labels): (&'d TokenTable, &'d [u8]),
        mask_token: Option<Vec<f32>>,
        teacher: &'d RwLock<Ema<f32>>,
    ) -> Self {
        Self {
            classifier,
            encoded,
            labels,
            mask_token,
            teacher,
            prepared: RwLock::new(prepared),
            settings,
            steps: config.training.steps,
            n_labelled: config.training.batch_size,
            pos_weight: config.loss.pos_weight as f32,
            smoothing: config.loss.label_smoothing as f32,
        }
    }

    /// The weight of the rows without labels at a step.
    fn weight(&self, step: u64) -> f64 {
        self.settings.weight * risen(self.settings.ramp, step as f64 / self.steps as f64)
    }

    /// The teacher's probabilities of rows without labels.
    fn teach(&self, cx: &Cx<'_, f32>, samples: &[Sample], probabilities: &mut [f32]) {
        let teacher = self.teacher.read().unwrap_or_else(PoisonError::into_inner);
        let prepared = self.prepared.read().unwrap_or_else(PoisonError::into_inner);
        let cx = cx.with_params(teacher.params(), &prepared);
        let x = cx.alloc(samples.len() * self.encoded.width());
        self.encoded.fill(samples.iter().map(|sample| sample.row), x);
        let logits = self.classifier.infer(&cx, samples.len(), x);
        probabilities.iter_mut().zip(&*logits.data).for_each(|(p, &logit)| *p = sigmoid(logit));
    }
}

impl Objective<f32> for MeanTeacherObjective<'_> {
    fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], step: u64, samples: &[Sample]) -> Loss {
        let Mode::Train { key, samples: keys } = cx.mode else { unreachable!("an engine trains") };
        let (b, n) = (samples.len(), self.encoded.n_tokens());
        let labelled = keys.iter().filter(|&&key| (key as usize) < self.n_labelled).count();
        let (known, unknown) = samples.split_at(labelled);
        let targets = cx.alloc(b);
        targets
            .iter_mut()
            .zip(known)
            .for_each(|(target, sample)| *target = smoothed(self.labels[sample.row as usize], self.smoothing));
        if !unknown.is_empty() {
            self.teach(cx, unknown, &mut targets[labelled..]);
        }
        let mask = cx.alloc(n * b);
        random_masking(key, keys, n, n_masked(self.settings.mask_ratio, n), None, mask);
        mask.chunks_exact_mut(b).for_each(|mask| mask[..labelled].fill(0.0));
        let x = cx.alloc(b * self.encoded.width());
        self.encoded.fill(samples.iter().map(|sample| sample.row), x);
        let weight = self.weight(step);
        let student = Student {
            pos_weight: self.pos_weight,
            n_labelled: self.n_labelled as f32,
            n_unlabelled: self.settings.batch_size as f32,
            weight: weight as f32,
        };
        let masked = Masked { mask, token: self.mask_token.as_deref() };
        let StudentLoss { supervised, consistency } =
            self.classifier.student_loss(cx, grads, b, x, masked, targets, labelled, student);
        Loss { total: supervised + weight * consistency, term: consistency }
    }

    fn begin(&self, _step: u64) {
        let teacher = self.teacher.read().unwrap_or_else(PoisonError::into_inner);
        self.prepared.write().unwrap_or_else(PoisonError::into_inner).update(teacher.params());
    }

    fn terms(&self, step: u64, Loss { total, term: consistency }: Loss, each: &mut dyn FnMut(&'static str, f64)) {
        each("supervised", total - self.weight(step) * consistency);
        each("consistency", consistency);
    }
}

/// Number of features that are hidden, of n. At least one stays visible.
fn n_masked(mask_ratio: f64, n: usize) -> usize {
    ((n as f64 * mask_ratio).round() as usize).min(n - 1)
}

/// How far a ramp has risen, from 0 to 1, after a share of the steps.
fn risen(RampConfig { from, to }: RampConfig, share: f64) -> f64 {
    if share < from {
        0.0
    } else if share >= to {
        1.0
    } else {
        (share - from) / (to - from)
    }
}

#[cfg(test)]
mod tests {
    use nids_flows::{Tokeniser, synthetic};
    use nids_kernels::{Buffer, Key};
    use nids_nn::ParamTable;
    use nids_nn::engine::Engine;

    use super::*;
    use nids_config::Config;
    use nids_detect::Network;
    use nids_detect::engine::engine;
    use nids_flows::all_rows;

    #[test]
    fn a_ramp_rises_in_its_share_of_the_steps() {
        for ([from, to], share, wanted) in [
            ([0.1, 0.4], 0.0, 0.0),
            ([0.1, 0.4], 0.1, 0.0),
            ([0.1, 0.4], 0.25, 0.5),
            ([0.1, 0.4], 0.4, 1.0),
            ([0.1, 0.4], 0.9, 1.0),
            ([0.0, 0.0], 0.0, 1.0),
            ([0.5, 0.5], 0.49, 0.0),
            ([0.5, 0.5], 0.5, 1.0),
            ([1.0, 1.0], 0.99, 0.0),
        ] {
            let found = risen(RampConfig { from, to }, share);
            assert!((found - wanted).abs() < 1e-12, "{from} to {to} at {share}: {found}, not {wanted}");
        }
    }

    #[test]
    fn one_feature_is_left_to_see() {
        assert_eq!([(0.0, 42), (0.4, 42), (0.99, 42), (0.9, 1)].map(|(ratio, n)| n_masked(ratio, n)), [0, 17, 41, 0]);
    }

    /// What the loss of rows without labels is by the probabilities of teacher and student: the cross-entropy of the two.
    #[test]
    fn a_student_learns_what_its_teacher_says() {
        let settings =
            ["name=x", "model.dim=8", "model.depth=1", "model.dropout=0", "finetune.from=scratch", "finetune.batch_size=4"];
        let teacher = "finetune.mean_teacher={batch_size: 12, mask_ratio: 0, ramp: {from: 0, to: 0}}";
        for gemm in ["openblas", "tiles"] {
            let gemm_setting = format!("engine.gemm={gemm}");
            let overrides: Vec<String> = settings.iter().chain([&teacher, &&*gemm_setting]).map(ToString::to_string).collect();
            let config = Config::parse("{}", "c.yaml", &overrides).unwrap();
            let flows = synthetic(16, 1);
            let tokeniser = Tokeniser::fit(&flows, &all_rows(16), &config.tokeniser).unwrap();
            let encoded = tokeniser.tokenise(&flows).unwrap();
            let mut table = ParamTable::default();
            let network = Network::one(&config, &tokeniser, None, &mut table).unwrap();
            let mut engine = engine(&config, &table, network.activations(), 1, 16).unwrap();
            let [student, mut first, mut second] = [1, 2, 3].map(|seed| table.init::<f32>(seed));
            // sure of what they say
            for spec in table.specs().iter().filter(|spec| spec.name == "classifier.weight") {
                for teacher in [&mut first, &mut second] {
                    spec.param.of_mut::<f32>(teacher).iter_mut().for_each(|weight| *weight *= 20.0);
                }
            }
            let average = RwLock::new(Ema::new(&first, 0.9));
            let teacher_config = config.finetune.mean_teacher.as_ref().unwrap();
            let prepared = Prepared::new(&table, engine.gemm());
            let flows = (&encoded, flows.labels().unwrap());
            let taught = MeanTeacherObjective::new(
                &config.finetune,
                teacher_config,
                prepared,
                network.classifier(),
                flows,
                None,
                &average,
            );
            let samples: Vec<Sample> = (0..16).map(|row| Sample { row, key: row }).collect();
            let attacks = |params: &Buffer<f32>, engine: &Engine<f32>| {
                let prepared = Prepared::of(&table, engine.gemm(), params);
                network.probabilities(engine, params, &prepared, &encoded, &all_rows(16)[4..])
            };
            for (step, [teacher, other]) in [(0, [&first, &second]), (1, [&second, &first])] {
                average.write().unwrap().set_state(teacher, 0);
                taught.begin(step);
                let mut loss = Loss::default();
                engine.accumulate(&taught, &student, Key::new(1), &mut table.zeros(), &mut loss, step, &samples);
                let mut found = f64::NAN;
                taught.terms(step, loss, &mut |name, term| found = if name == "consistency" { term } else { found });
                let cross_entropy = |teacher: &Buffer<f32>| {
                    let pairs = attacks(teacher, &engine).into_iter().zip(attacks(&student, &engine));
                    let row_entropy =
                        |(t, s): (f32, f32)| -f64::from(t) * f64::from(s).ln() - (1.0 - f64::from(t)) * (1.0 - f64::from(s)).ln();
                    pairs.map(row_entropy).sum::<f64>() / 12.0
                };
                let [wanted, other_entropy, own_entropy] = [teacher, other, &student].map(cross_entropy);
                assert!((found - wanted).abs() < 1e-5, "{gemm}, step {step}: {found}, not {wanted}");
                let shows = |other: f64| (wanted - other).abs() > 1e-2;
                assert!(shows(other_entropy) && shows(own_entropy), "{gemm}: {wanted}, {other_entropy}, {own_entropy}");
            }
        }
    }
}
