//! Finetuning beside a mean teacher, on labelled rows and on rows without labels.

use std::sync::{PoisonError, RwLock};

use nids_flows::Encoded;
use nids_models::{Classifier, Masked, Student, StudentLoss, random_masking};
use nids_nn::engine::{Objective, Sample};
use nids_nn::loss::sigmoid;
use nids_nn::{Cx, Ema, Mode, Prepared};

use super::data::fill;
use super::part::{OfStep, Part};
use crate::config::{Finetune, MeanTeacher, Ramp};

/// Binary cross-entropy with the labels of the first rows of a step and with what the teacher says of the others
/// ([`nids_models::Classifier::student_loss`]).
pub(super) struct TaughtFlows<'d> {
    classifier: &'d Classifier,
    encoded: &'d Encoded,
    widths: &'d [usize],
    labels: &'d [u8],
    /// Stands for a hidden feature, where pretraining has made the encoder used to it.
    mask_token: Option<Vec<f32>>,
    teacher: &'d RwLock<Ema<f32>>,
    /// The teacher's matrices, as of the last update.
    prepared: RwLock<Prepared<f32>>,
    settings: &'d MeanTeacher,
    steps: u64,
    n_labelled: usize,
    pos_weight: f32,
    weight: OfStep,
    consistency: Part,
}

impl<'d> TaughtFlows<'d> {
    pub(super) fn new(
        config: &'d Finetune,
        settings: &'d MeanTeacher,
        prepared: Prepared<f32>,
        classifier: &'d Classifier,
        (encoded, widths, labels): (&'d Encoded, &'d [usize], &'d [u8]),
        mask_token: Option<Vec<f32>>,
        teacher: &'d RwLock<Ema<f32>>,
    ) -> Self {
        Self {
            classifier,
            encoded,
            widths,
            labels,
            mask_token,
            teacher,
            prepared: RwLock::new(prepared),
            settings,
            steps: config.training.steps,
            n_labelled: config.training.batch_size,
            pos_weight: config.loss.pos_weight as f32,
            weight: OfStep::default(),
            consistency: Part::new(config.training.batch_size + settings.batch_size),
        }
    }

    /// The teacher's probabilities of rows without labels.
    fn teach(&self, cx: &Cx<'_, f32>, samples: &[Sample], probabilities: &mut [f32]) {
        let teacher = self.teacher.read().unwrap_or_else(PoisonError::into_inner);
        let prepared = self.prepared.read().unwrap_or_else(PoisonError::into_inner);
        let cx = cx.with_params(teacher.params(), &prepared);
        let x = cx.alloc(samples.len() * self.widths.iter().sum::<usize>());
        fill(self.encoded, self.widths, samples.iter().map(|sample| sample.row), x);
        let logits = self.classifier.infer(&cx, samples.len(), x);
        probabilities.iter_mut().zip(&*logits.data).for_each(|(p, &logit)| *p = sigmoid(logit));
    }
}

impl Objective<f32> for TaughtFlows<'_> {
    fn shard(&self, cx: &Cx<'_, f32>, grads: &mut [f32], samples: &[Sample]) -> f64 {
        let Mode::Train { key, samples: keys } = cx.mode else { unreachable!("an engine trains") };
        let (b, n) = (samples.len(), self.widths.len());
        let labelled = keys.iter().filter(|&&key| (key as usize) < self.n_labelled).count();
        let (known, unknown) = samples.split_at(labelled);
        let targets = cx.alloc(b);
        targets.iter_mut().zip(known).for_each(|(target, sample)| *target = f32::from(self.labels[sample.row as usize]));
        if !unknown.is_empty() {
            self.teach(cx, unknown, &mut targets[labelled..]);
        }
        let mask = cx.alloc(n * b);
        random_masking(key, keys, n, n_masked(self.settings.mask_ratio, n), mask);
        mask.chunks_exact_mut(b).for_each(|mask| mask[..labelled].fill(0.0));
        let x = cx.alloc(b * self.widths.iter().sum::<usize>());
        fill(self.encoded, self.widths, samples.iter().map(|sample| sample.row), x);
        let weight = self.weight.get();
        let student = Student {
            pos_weight: self.pos_weight,
            n_labelled: self.n_labelled as f32,
            n_unlabelled: self.settings.batch_size as f32,
            weight: weight as f32,
        };
        let masked = Masked { mask, token: self.mask_token.as_deref() };
        let StudentLoss { supervised, consistency } =
            self.classifier.student_loss(cx, grads, b, x, masked, targets, labelled, student);
        self.consistency.set(keys[0], consistency);
        supervised + weight * consistency
    }

    fn begin(&self, step: u64) {
        self.weight.set(self.settings.weight * risen(self.settings.ramp, step as f64 / self.steps as f64));
        self.consistency.begin();
        let teacher = self.teacher.read().unwrap_or_else(PoisonError::into_inner);
        self.prepared.write().unwrap_or_else(PoisonError::into_inner).update(teacher.params());
    }

    fn parts(&self, loss: f64, each: &mut dyn FnMut(&'static str, f64)) {
        let consistency = self.consistency.sum();
        each("supervised", loss - self.weight.get() * consistency);
        each("consistency", consistency);
    }
}

/// How many of n features are hidden; one is left to see.
fn n_masked(mask_ratio: f64, n: usize) -> usize {
    ((n as f64 * mask_ratio).round() as usize).min(n - 1)
}

/// How far a ramp has risen, from 0 to 1, after a share of the steps.
fn risen(Ramp { from, to }: Ramp, share: f64) -> f64 {
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
    use super::*;

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
            let found = risen(Ramp { from, to }, share);
            assert!((found - wanted).abs() < 1e-12, "{from} to {to} at {share}: {found}, not {wanted}");
        }
    }

    #[test]
    fn one_feature_is_left_to_see() {
        assert_eq!([(0.0, 42), (0.4, 42), (0.99, 42), (0.9, 1)].map(|(ratio, n)| n_masked(ratio, n)), [0, 17, 41, 0]);
    }
}
