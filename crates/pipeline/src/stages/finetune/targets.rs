//! The targets of a classifier, and its loss.

use nids_flows::Classes;
use nids_models::Classifier;
use nids_nn::Cx;
use nids_nn::loss::{BceWeights, bce_with_logits, class_balance, weighted_cross_entropy};

use super::teachers::Taught;
use crate::data::Labelled;
use crate::labels::smoothed;
use nids_config::{Config, MulticlassConfig, Task};
use nids_detect::wants_classes;
use nids_store::{Error, Result};

/// The class of a validation row whose category no training row has.
const NO_CLASS: u32 = u32::MAX;
/// What the label of a row has in its target beside teachers.
const LABEL_SHARE: f32 = 0.5;

/// The target of every row.
pub(crate) enum Targets {
    /// Whether it is an attack (1 or 0): binary cross-entropy.
    Attack { labels: Vec<f32>, pos_weight: f32 },
    /// Its class: softmax cross-entropy, with a weight for each class and what is added to its logit.
    Class { classes: Vec<u32>, weights: Vec<f32>, offsets: Vec<f32> },
}

impl Targets {
    /// The targets of the config's task. The weights of classes follow from `rows`, the training rows.
    pub(crate) fn new(config: &Config, labelled: &Labelled, classes: Option<&Classes>, rows: &[u32]) -> Self {
        let smoothing = config.finetune.loss.label_smoothing as f32;
        let labels = || labelled.labels().iter().map(|&label| smoothed(label, smoothing)).collect();
        let pos_weight = config.finetune.loss.pos_weight as f32;
        let Some(classes) = classes else { return Self::Attack { labels: labels(), pos_weight } };
        let n_classes = classes.names().len();
        let class = |row| classes.of(&labelled.flows, row).map_or(NO_CLASS, |class| class as u32);
        let row_classes: Vec<u32> = (0..labelled.flows.len()).map(class).collect();
        match &config.finetune.task {
            Task::Multiclass(MulticlassConfig { class_balance: beta, logit_adjustment }) => {
                let mut counts = vec![0; n_classes];
                for &row in rows {
                    counts[row_classes[row as usize] as usize] += 1;
                }
                let weights = class_balance(&counts, *beta).into_iter().map(|weight| weight as f32).collect();
                let offset = |&n: &usize| (logit_adjustment * (n as f64 / rows.len() as f64).ln()) as f32;
                Self::Class { classes: row_classes, weights, offsets: counts.iter().map(offset).collect() }
            }
            Task::Binary => Self::Attack { labels: labels(), pos_weight },
        }
    }

    /// Replaces labels by what teachers say of all rows, the half of it where a label may be looked at.
    pub(crate) fn blend(&mut self, taught: &Taught) {
        let Self::Attack { labels, .. } = self else { unreachable!("the config was checked: teachers teach the binary task") };
        let soft = |row: usize| taught.probabilities[row];
        let of_labelled = labels.iter().enumerate().map(|(row, &label)| {
            if taught.is_labelled(row) { LABEL_SHARE * label + (1.0 - LABEL_SHARE) * soft(row) } else { soft(row) }
        });
        let n_labelled = of_labelled.len();
        *labels = of_labelled.chain((n_labelled..taught.probabilities.len()).map(soft)).collect();
    }

    /// The targets of `rows`, in that order.
    pub(crate) fn select(self, rows: &[u32]) -> Self {
        fn pick<T: Copy>(values: &[T], rows: &[u32]) -> Vec<T> {
            rows.iter().map(|&row| values[row as usize]).collect()
        }
        match self {
            Self::Attack { labels, pos_weight } => Self::Attack { labels: pick(&labels, rows), pos_weight },
            Self::Class { classes, weights, offsets } => Self::Class { classes: pick(&classes, rows), weights, offsets },
        }
    }

    /// The loss of rows, and its gradient.   logits, dlogits: [rows, C]; `dlogits` is overwritten
    fn loss(
        &self,
        cx: &Cx<'_, f32>,
        rows: impl ExactSizeIterator<Item = u32> + Clone,
        logits: &[f32],
        divisor: f32,
        dlogits: &mut [f32],
    ) -> f64 {
        match self {
            Self::Attack { labels, pos_weight } => {
                let target = cx.alloc(rows.len());
                target.iter_mut().zip(rows).for_each(|(target, row)| *target = labels[row as usize]);
                let weights = BceWeights { pos_weight: *pos_weight, weight: None };
                let loss = bce_with_logits(logits, target, weights, divisor, dlogits);
                cx.recycle(target);
                loss
            }
            Self::Class { classes, weights, offsets } => {
                let classes = rows.map(|row| classes[row as usize] as usize);
                let adjusted = cx.alloc(logits.len());
                let sums = logits.iter().zip(offsets.iter().cycle()).map(|(logit, offset)| logit + offset);
                adjusted.iter_mut().zip(sums).for_each(|(adjusted, sum)| *adjusted = sum);
                let loss = weighted_cross_entropy(adjusted, classes, weights, divisor, dlogits);
                cx.recycle(adjusted);
                loss
            }
        }
    }
}

/// Forward and backward of a shard. Returns the mean of the members' losses.   x: b samples   rows: [b], of the targets
pub(crate) fn classify<'a>(
    cx: &Cx<'a, f32>,
    grads: &mut [f32],
    classifier: &Classifier,
    b: usize,
    x: &'a mut [f32],
    targets: &Targets,
    rows: &(impl ExactSizeIterator<Item = u32> + Clone),
    divisor: f32,
) -> f64 {
    let (logits, cache) = classifier.forward(cx, b, x);
    let dlogits = cx.tensor(logits.shape);
    let members = classifier.encoder().members();
    let chunk = logits.data.len() / members;
    let member_logits = logits.data.chunks_exact(chunk).zip(dlogits.data.chunks_exact_mut(chunk));
    let member_loss =
        |(logits, dlogits): (&[f32], &mut [f32])| targets.loss(cx, rows.clone(), logits, divisor * members as f32, dlogits);
    let loss = member_logits.map(member_loss).sum();
    classifier.backward(cx, grads, cache, dlogits);
    loss
}

/// The classes of the training rows, if the config asks for them.
pub(crate) fn classes(config: &Config, labelled: &Labelled, rows: &[u32]) -> Result<Option<Classes>> {
    if !wants_classes(config) {
        return Ok(None);
    }
    let key = "finetune.task: multiclass";
    let schema = labelled.flows.schema();
    if schema.category().is_none() {
        let advice = "name one in the schema, or leave the setting out";
        let message = format!("`{key}`: schema `{}` has no column of kind `category`: {advice}", schema.name());
        return Err(Error::Usage(message));
    }
    let path = config.data.train.as_ref().map_or_else(|| "generated flows".to_owned(), ToString::to_string);
    let classes = Classes::fit(&labelled.flows, rows).map_err(|error| Error::Data(format!("{path}: {error} (`{key}`)")))?;
    Ok(Some(classes))
}

#[cfg(test)]
mod tests {
    use nids_flows::{Split, all_rows, synthetic};

    use super::*;

    fn targets(rows: usize, settings: &[&str]) -> (Targets, Labelled) {
        let settings: Vec<String> = ["name=x"].iter().chain(settings).map(ToString::to_string).collect();
        let config = Config::parse("{}", "c.yaml", &settings).unwrap();
        let split = Split { train: all_rows(rows), val: Vec::new() };
        let labelled = Labelled { flows: synthetic(rows, 1), split };
        let classes = classes(&config, &labelled, &labelled.split.train).unwrap();
        (Targets::new(&config, &labelled, classes.as_ref(), &labelled.split.train), labelled)
    }

    #[test]
    fn a_smoothed_label_is_nearer_to_a_half() {
        let (found, labelled) = targets(20, &["finetune.loss.label_smoothing=0.25"]);
        let Targets::Attack { labels, .. } = found else { panic!("binary") };
        let wanted: Vec<f32> = labelled.labels().iter().map(|&label| if label == 1 { 0.875 } else { 0.125 }).collect();
        assert_eq!(labels, wanted);
    }

    /// Menon et al. 2021, eq. 10: what is added is τ ln π, π the share of a class in training.
    #[test]
    fn a_logit_is_adjusted_by_the_share_of_its_class() {
        let (found, _) = targets(200, &["finetune.task.multiclass.logit_adjustment=0.5"]);
        let Targets::Class { classes, offsets, .. } = found else { panic!("multiclass") };
        for (class, offset) in offsets.iter().enumerate() {
            let share = classes.iter().filter(|&&found| found as usize == class).count() as f32 / 200.0;
            assert!((offset - 0.5 * share.ln()).abs() < 1e-6, "{class}: {offset}");
        }
        assert!(offsets.len() > 3);
    }
}
