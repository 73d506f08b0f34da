//! Non-finite values (NaN, Inf) in a loss, a gradient or a weight: where they are, and the message about them.

use nids_nn::ParamTable;

use crate::plan::TrainPlan;
use nids_config::NonfinitePolicy;

/// The most rows that a message names.
const SHOWN: usize = 8;

/// The quantity that was non-finite first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonfiniteKind {
    /// The loss.
    Loss,
    /// The gradient.
    Gradient,
    /// A weight after the update.
    Weight,
}

impl NonfiniteKind {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Loss => "the loss",
            Self::Gradient => "the gradient",
            Self::Weight => "a weight after the update",
        }
    }
}

/// A step with non-finite values.
#[derive(Debug)]
pub(crate) struct NonfiniteFinding {
    pub(crate) kind: NonfiniteKind,
    /// Counted from 1.
    pub(crate) step: u64,
    /// The first parameter whose gradient is non-finite, or whose value is after the update.
    pub(crate) layer: Option<String>,
    /// The rows of the batch that give non-finite values on their own; empty if only several rows together do.
    pub(crate) rows: Vec<u32>,
}

/// The first parameter with a non-finite number.
pub(crate) fn layer(table: &ParamTable, numbers: &[f32]) -> Option<String> {
    let is_bad = |numbers: &[f32]| numbers.iter().any(|number| !number.is_finite());
    table.specs().iter().find(|spec| is_bad(spec.param.of(numbers))).map(|spec| spec.name.clone())
}

impl NonfiniteFinding {
    /// The text of an error or a warning. `why` says why the stage stops although the policy is to go on.
    pub(crate) fn text(&self, plan: &TrainPlan, row: &dyn Fn(u32) -> String, why: &str) -> String {
        let stage = plan.stage;
        let member_label = plan.member.map_or_else(String::new, |member| format!(" member {member},"));
        let layer = self.layer.as_ref().map_or_else(String::new, |layer| format!(", first in `{layer}`"));
        let rows = match (self.kind, self.rows.as_slice()) {
            (NonfiniteKind::Weight, _) => String::new(),
            (_, []) => ", caused by no single row of the batch".to_owned(),
            (_, rows) => format!(", caused by {}", names(rows, row)),
        };
        let why = if why.is_empty() { String::new() } else { format!("; {why}") };
        let rescue = if plan.nonfinite == NonfinitePolicy::Stop {
            format!(", or set `{stage}.nonfinite: rollback`")
        } else {
            String::new()
        };
        let (step, what) = (self.step, self.kind.text());
        format!("{stage}{member_label} step {step}: {what} is not finite{layer}{rows}{why}: lower `{stage}.lr`{rescue}")
    }
}

fn names(rows: &[u32], row: &dyn Fn(u32) -> String) -> String {
    let names: Vec<String> = rows.iter().take(SHOWN).map(|&index| row(index)).collect();
    match rows.len().saturating_sub(SHOWN) {
        0 => names.join(", "),
        more => format!("{} and {more} more rows of the batch", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nids_config::{NonfinitePolicy as Policy, Stage, TrainingConfig};

    #[test]
    fn a_message_names_step_layer_and_rows() {
        let plan = |nonfinite| TrainPlan::new(Stage::Pretrain, &TrainingConfig { nonfinite, ..TrainingConfig::default() }, 100);
        let text = |kind, rows: &[u32], policy, why: &str| {
            let finding = NonfiniteFinding { kind, step: 7, layer: Some("encoder.norm.weight".to_owned()), rows: rows.to_vec() };
            finding.text(&plan(policy), &|row| format!("row {row}"), why)
        };
        insta::assert_snapshot!(text(NonfiniteKind::Loss, &[3, 5], Policy::Stop, ""), @"pretrain step 7: the loss is not finite, first in `encoder.norm.weight`, caused by row 3, row 5: lower `pretrain.lr`, or set `pretrain.nonfinite: rollback`");
        insta::assert_snapshot!(text(NonfiniteKind::Gradient, &[], Policy::Stop, ""), @"pretrain step 7: the gradient is not finite, first in `encoder.norm.weight`, caused by no single row of the batch: lower `pretrain.lr`, or set `pretrain.nonfinite: rollback`");
        insta::assert_snapshot!(text(NonfiniteKind::Weight, &[], Policy::Rollback, "it has gone back 5 times"), @"pretrain step 7: a weight after the update is not finite, first in `encoder.norm.weight`; it has gone back 5 times: lower `pretrain.lr`");
    }
}
