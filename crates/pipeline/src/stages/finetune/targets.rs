//! The targets of a classifier, and its loss.

use nids_flows::Classes;
use nids_models::Classifier;
use nids_nn::Cx;
use nids_nn::loss::{BceWeights, bce_with_logits, class_balance, weighted_cross_entropy};

use crate::data::Labelled;
use nids_config::{Config, MulticlassConfig, Task};
use nids_detect::wants_classes;
use nids_store::{Error, Result};

/// The class of a validation row whose category no training row has.
const NO_CLASS: u32 = u32::MAX;

/// The target of every row.
pub(crate) enum Targets {
    /// Whether it is an attack (1 or 0): binary cross-entropy.
    Attack { labels: Vec<f32>, pos_weight: f32 },
    /// Its class: softmax cross-entropy, with a weight for each class.
    Class { classes: Vec<u32>, weights: Vec<f32> },
}

impl Targets {
    /// The targets of the config's task. The weights of classes follow from `rows`, the training rows.
    pub(crate) fn new(config: &Config, labelled: &Labelled, classes: Option<&Classes>, rows: &[u32]) -> Self {
        let labels = || labelled.labels().iter().map(|&label| f32::from(label)).collect();
        let pos_weight = config.finetune.loss.pos_weight as f32;
        let Some(classes) = classes else { return Self::Attack { labels: labels(), pos_weight } };
        let n_classes = classes.names().len();
        let class = |row| classes.of(&labelled.flows, row).map_or(NO_CLASS, |class| class as u32);
        let row_classes: Vec<u32> = (0..labelled.flows.len()).map(class).collect();
        match &config.finetune.task {
            Task::Multiclass(MulticlassConfig { class_balance: beta }) => {
                let mut counts = vec![0; n_classes];
                for &row in rows {
                    counts[row_classes[row as usize] as usize] += 1;
                }
                let weights = class_balance(&counts, *beta).into_iter().map(|weight| weight as f32).collect();
                Self::Class { classes: row_classes, weights }
            }
            Task::Binary => Self::Attack { labels: labels(), pos_weight },
        }
    }

    /// The targets of `rows`, in that order.
    pub(crate) fn select(self, rows: &[u32]) -> Self {
        fn pick<T: Copy>(values: &[T], rows: &[u32]) -> Vec<T> {
            rows.iter().map(|&row| values[row as usize]).collect()
        }
        match self {
            Self::Attack { labels, pos_weight } => Self::Attack { labels: pick(&labels, rows), pos_weight },
            Self::Class { classes, weights } => Self::Class { classes: pick(&classes, rows), weights },
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
            Self::Class { classes, weights } => {
                let classes = rows.map(|row| classes[row as usize] as usize);
                weighted_cross_entropy(logits, classes, weights, divisor, dlogits)
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
