//! The lines that stages log: what `metrics.jsonl` and `monitor.jsonl` of a run folder hold.

use std::borrow::Cow;
use std::collections::BTreeMap;

use nids_config::Stage;
use nids_eval::metrics::Metrics;
use nids_eval::probe::ProbeScore;
use serde::{Deserialize, Serialize};

/// A line of `metrics.jsonl`, after the stage that wrote it. A reader tells them apart by their fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// What the steps since the last line came to.
    Step {
        /// Steps taken.
        step: u64,
        /// Of several trainings, this one: independent networks, and then each of them again where there is a refit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        member: Option<usize>,
        /// Mean loss over the steps since the last line.
        loss: f64,
        /// Learning rate of the last step.
        lr: f64,
        /// Gradient norm of the last step, before clipping.
        grad_norm: f64,
        /// Means of the terms of the loss, where it has several.
        #[serde(flatten)]
        terms: BTreeMap<Cow<'static, str>, f64>,
    },
    /// How good a classifier is on the rows that are held out.
    Validation {
        /// Steps taken.
        step: u64,
        /// Of several independent networks, this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        member: Option<usize>,
        /// So many networks, averaged.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        members: Option<usize>,
        /// So many heads vote, beside the network if there are steps.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        heads: Option<usize>,
        /// How good it is.
        validation: Box<Metrics>,
    },
    /// How good linear probes of a frozen encoder are.
    Probe {
        /// Ridge regression on the latents.
        ridge_probe: ProbeScore,
        /// Logistic regression on the principal components of all tokens; runs of an earlier version have none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token_probe: Option<ProbeScore>,
    },
    /// A step with non-finite values (NaN, Inf), after which the stage went on.
    Nonfinite {
        /// The step, counted from 1.
        step: u64,
        /// Of several independent networks, this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        member: Option<usize>,
        /// What is not finite, in words.
        nonfinite: Cow<'static, str>,
        /// The first parameter in whose gradient it shows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layer: Option<String>,
        /// The rows of the batch that show it each on their own, in words.
        rows: Vec<String>,
        /// What was done about it, in words.
        action: String,
    },
}

/// A line of `monitor.jsonl`, after the stage that wrote it: how far linear layers moved in one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MonitorLine<'m> {
    /// The step, counted from 1.
    pub step: u64,
    /// Of several independent networks, this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<usize>,
    /// max |w_after - w_before|, by layer.
    pub max_update: BTreeMap<&'m str, f32>,
}

/// A line of either file, with the stage before its fields.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StageLine<T> {
    pub(crate) stage: Stage,
    #[serde(flatten)]
    pub(crate) line: T,
}

/// A file that stages append lines to. Each replaces its own lines when it runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFile {
    Metrics,
    Monitor,
}

impl LogFile {
    pub(crate) const ALL: [Self; 2] = [Self::Metrics, Self::Monitor];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics.jsonl",
            Self::Monitor => "monitor.jsonl",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_back_as_what_it_was() {
        let validation = Metrics::new(&[0.25, 0.75, 0.5], &[0, 1, 1], 0.5).unwrap();
        let terms = [("kl".into(), 1.0 / 3.0), ("reconstruction".into(), 2.0)].into();
        let row = |member| Line::Nonfinite {
            step: 7,
            member,
            nonfinite: "the loss".into(),
            layer: member.map(|_| "encoder.norm.weight".to_owned()),
            rows: vec!["row 3 of `data.train`".to_owned()],
            action: "skipped".to_owned(),
        };
        for (line, text) in [
            (
                Line::Step { step: 50, member: None, loss: 0.1 + 0.2, lr: 1e-3, grad_norm: 2.0, terms },
                r#"{"stage":"finetune","step":50,"loss":0.30000000000000004,"lr":0.001,"grad_norm":2.0,"kl":0.3333333333333333,"reconstruction":2.0}"#,
            ),
            (
                Line::Step { step: 1, member: Some(2), loss: 0.0, lr: 0.0, grad_norm: 0.0, terms: BTreeMap::new() },
                r#"{"stage":"finetune","step":1,"member":2,"loss":0.0,"lr":0.0,"grad_norm":0.0}"#,
            ),
            (
                Line::Validation { step: 9, member: None, members: Some(3), heads: None, validation: Box::new(validation) },
                r#"{"stage":"finetune","step":9,"members":3,"validation":{"accuracy":1.0,"balanced_accuracy":1.0,"precision":1.0,"recall":1.0,"f1":1.0,"roc_auc":1.0,"pr_auc":1.0,"recall_at_fpr_1pct":1.0,"n":3,"log_loss":0.4228371084878357,"brier":0.125}}"#,
            ),
            (
                Line::Probe { ridge_probe: ProbeScore { accuracy: Some(0.5), roc_auc: None }, token_probe: None },
                r#"{"stage":"finetune","ridge_probe":{"accuracy":0.5,"roc_auc":null}}"#,
            ),
            (
                row(None),
                r#"{"stage":"finetune","step":7,"nonfinite":"the loss","rows":["row 3 of `data.train`"],"action":"skipped"}"#,
            ),
            (
                row(Some(1)),
                r#"{"stage":"finetune","step":7,"member":1,"nonfinite":"the loss","layer":"encoder.norm.weight","rows":["row 3 of `data.train`"],"action":"skipped"}"#,
            ),
        ] {
            let written = serde_json::to_string(&StageLine { stage: Stage::Finetune, line: &line }).unwrap();
            assert_eq!(written, text);
            let StageLine { stage, line: read } = serde_json::from_str::<StageLine<Line>>(text).unwrap();
            assert_eq!((stage, read), (Stage::Finetune, line));
        }
    }
}
