//! A student that agrees with its teacher on rows without labels (Tarvainen & Valpola 2017, "Mean teachers are better role
//! models"). The teacher is the average of the student's weights over the steps ([`nids_nn::Ema`]). It sees whole flows and
//! drops nothing, while features are hidden from the student: what the two must agree on cannot hang on a single feature.

use nids_nn::loss::{BceWeights, bce_with_logits};
use nids_nn::{Cx, Real};

use crate::{Classifier, Masked};

/// Weights and divisors of the two parts of [`Classifier::student_loss`].
#[derive(Clone, Copy, Debug)]
pub struct Student<R> {
    /// Weight of an attack over that of a normal row, where labels are known.
    pub pos_weight: R,
    /// Labelled rows of a whole step.
    pub n_labelled: R,
    /// Rows without labels of a whole step.
    pub n_unlabelled: R,
    /// Weight of agreeing with the teacher.
    pub weight: R,
}

/// The shares of a shard in the two parts of a step's loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StudentLoss {
    /// Binary cross-entropy with the labels.
    pub supervised: f64,
    /// Binary cross-entropy with the teacher's probabilities, before it is weighted.
    pub consistency: f64,
}

impl Classifier {
    /// Takes a shard of labelled rows and, after them, rows without labels through the network and back:
    /// Σ over the labelled rows of bce / n_labelled + weight · Σ over the others of bce / n_unlabelled.
    ///
    /// Cross-entropy with soft targets rather than the squared error of probabilities that the paper has: its gradient does not
    /// vanish where a student is sure and wrong.
    ///
    /// x: b samples   targets: [b], 0 or 1 for the first `labelled` rows, the teacher's probability of the others
    pub fn student_loss<'a, R: Real>(
        &self,
        cx: &Cx<'a, R>,
        grads: &mut [R],
        b: usize,
        x: &'a mut [R],
        masked: Masked<'_, R>,
        targets: &[R],
        labelled: usize,
        student: Student<R>,
    ) -> StudentLoss {
        let Student { pos_weight, n_labelled, n_unlabelled, weight } = student;
        let (logits, cache) = self.forward_masked(cx, b, x, masked);
        let dlogits = cx.tensor(logits.shape);
        let ((known, unknown), (dknown, dunknown)) = (logits.data.split_at(labelled), dlogits.data.split_at_mut(labelled));
        let (labels, taught) = targets.split_at(labelled);
        let weights = BceWeights { pos_weight, weight: None };
        let supervised = bce_with_logits(known, labels, weights, n_labelled, dknown);
        let consistency = bce_with_logits(unknown, taught, BceWeights::default(), n_unlabelled, dunknown);
        for dlogit in dunknown {
            *dlogit *= weight;
        }
        self.backward(cx, grads, cache, dlogits);
        StudentLoss { supervised, consistency }
    }
}
