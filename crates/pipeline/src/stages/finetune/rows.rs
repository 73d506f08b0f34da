//! The rows that finetuning works on.

use std::path::Path;

use nids_flows::{Flows, KnownRows, TokenTable, Tokeniser, all_rows, row_keys};

use super::teachers::Taught;
use crate::data::{Data, Labelled, data, fit_tokeniser, labelled_name, no_labels, warn_of_newly_missing};
use crate::labels::labelled_rows;
use nids_config::{Config, Refit, Stage};
use nids_detect::background::Background;
use nids_detect::profile::FeatureProfile;
use nids_detect::read::read_tokeniser;
use nids_store::progress::{Event, Progress};
use nids_store::run::StageRun;
use nids_store::{Error, Result};

/// The rows that finetuning works on.
pub(crate) struct Rows {
    pub(crate) labelled: Labelled,
    pub(crate) tokeniser: Tokeniser,
    /// Rows of `labelled`, then those of `data.unlabelled` if there are teachers.
    pub(crate) encoded: TokenTable,
    /// Training rows whose labels are used.
    pub(crate) with_labels: Vec<u32>,
    /// Rows that a mean teacher uses without labels.
    pub(crate) without_labels: Vec<u32>,
    /// What teachers say, if there are any.
    pub(crate) taught: Option<Taught>,
    pub(crate) kept: Kept,
}

/// What a run keeps of its training rows.
pub(crate) struct Kept {
    /// Those that the classifier learns from, with labels or without.
    pub(crate) known: KnownRows,
    /// How they are distributed.
    pub(crate) profile: Vec<FeatureProfile>,
    /// Benign ones among them.
    pub(crate) background: Background,
}

impl Rows {
    /// Reads, splits and tokenises the rows. Without the tokeniser of a pretrained encoder, a tokeniser is fitted.
    pub(crate) fn read(
        config: &Config,
        pretrained_tokeniser: Option<&Path>,
        stage: &mut StageRun<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        let has_teacher = config.finetune.mean_teacher.is_some();
        let uses_unlabelled = has_teacher || config.finetune.teachers.is_some();
        let is_wanted = uses_unlabelled || pretrained_tokeniser.is_none();
        let Data { labelled, unlabelled } = data(config, is_wanted, stage, progress)?;
        let mut labelled = labelled.ok_or_else(no_labels)?;
        let tokeniser = match pretrained_tokeniser {
            Some(path) => read_tokeniser(path, Stage::Pretrain)?,
            None => fit_tokeniser(config, Some(&labelled), unlabelled.as_ref(), progress)?,
        };
        let with_labels = labelled_rows(config, &labelled, stage, progress)?;
        let mut unlabelled = unlabelled.filter(|_| uses_unlabelled);
        let taught = Taught::read(config, &labelled, unlabelled.as_ref(), &with_labels, stage, progress)?;
        let (all, all_unlabelled) = (all_rows(labelled.flows.len()), all_rows(unlabelled.as_ref().map_or(0, Flows::len)));
        warn_of_newly_missing(&tokeniser, &labelled.flows, &labelled_name(config), progress);
        let learned = if uses_unlabelled { &labelled.split.train } else { &with_labels };
        let mut missing = labelled.flows.missing_counts(learned.iter().copied());
        if let Some(unlabelled) = &unlabelled {
            let name = config.data.unlabelled.as_ref().map_or_else(|| "generated flows".to_owned(), ToString::to_string);
            warn_of_newly_missing(&tokeniser, unlabelled, &name, progress);
            let more = unlabelled.missing_counts(all_unlabelled.iter().copied());
            missing.iter_mut().zip(more).for_each(|((_, sum), (_, n))| *sum += n);
        }
        stage.missing(&missing);
        // the features are freed below
        let kept = Kept {
            known: known_rows(config, &labelled, unlabelled.as_ref()),
            profile: FeatureProfile::of(&labelled.flows, &labelled.split.train, &with_labels),
            background: Background::of(&labelled.flows, &labelled.split.train, &with_labels),
        };
        let mut parts = vec![(&mut labelled.flows, all.as_slice())];
        parts.extend(unlabelled.as_mut().map(|unlabelled| (unlabelled, all_unlabelled.as_slice())));
        let encoded = tokeniser.tokenise_and_free(parts)?;
        let mut without_labels = Vec::new();
        if has_teacher {
            without_labels.extend(labelled.split.train.iter().filter(|row| with_labels.binary_search(row).is_err()));
            without_labels.extend(all_rows(encoded.n_rows()).into_iter().skip(labelled.flows.len()));
            if without_labels.is_empty() {
                let message = "`finetune.mean_teacher`: there are no rows without labels: name a file of them in `data.unlabelled`, or \
                               lower `finetune.labels`";
                return Err(Error::Usage(message.to_owned()));
            }
            let (n, labels) = (without_labels.len(), with_labels.len());
            progress
                .event(Event::Message(&format!("a mean teacher on {n} rows without labels, beside {labels} rows with labels")));
        }
        Ok(Self { labelled, tokeniser, encoded, with_labels, without_labels, taught, kept })
    }
}

/// The training part whether or not its labels are used, with a refit the rows held out, too, and the rows without labels that the
/// stage uses.
fn known_rows(config: &Config, labelled: &Labelled, unlabelled: Option<&Flows>) -> KnownRows {
    let keys = row_keys(&labelled.flows);
    let held_out = match config.finetune.refit {
        Refit::All => labelled.split.val.as_slice(),
        Refit::None => &[],
    };
    let of_labelled = labelled.split.train.iter().chain(held_out).map(|&row| keys[row as usize]);
    KnownRows::new(of_labelled.chain(unlabelled.into_iter().flat_map(row_keys)).collect())
}

#[cfg(test)]
mod tests {
    use nids_flows::{Split, equal_rows, synthetic};

    use super::*;

    #[test]
    fn rows_are_known_that_the_stage_learns_from() {
        let flows = synthetic(100, 1);
        let different: Vec<u32> = equal_rows(&flows).iter().map(|rows| rows[0]).take(30).collect();
        let flows = flows.select(&different);
        let keys = row_keys(&flows);
        let split = Split { train: (0..20).collect(), val: (20..30).collect() };
        let labelled = Labelled { flows, split };
        let unlabelled = synthetic(5, 2);
        let config = |settings: &[&str]| {
            let overrides: Vec<String> = settings.iter().map(ToString::to_string).collect();
            Config::parse("name: x", "c.yaml", &overrides).unwrap()
        };
        let among = |known: &KnownRows| keys.iter().filter(|&&key| known.contains(key)).count();
        let known = known_rows(&config(&["finetune.labels=4"]), &labelled, None);
        assert_eq!((among(&known), known.contains(keys[19]), known.contains(keys[20])), (20, true, false));
        let known = known_rows(&config(&["finetune.refit=all"]), &labelled, Some(&unlabelled));
        assert_eq!(among(&known), 30);
        assert!(row_keys(&unlabelled).iter().all(|&key| known.contains(key)));
    }
}
