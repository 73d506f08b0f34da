//! The rows that finetuning works on.

use std::path::Path;
use std::sync::Arc;

use nids_flows::{Flows, KnownRows, RowSample, Split, Tokeniser, all_rows, row_keys};

use super::encoded::{self, Encoded, Read, Sampled};
use super::teachers::Taught;
use crate::data::{Data, Labelled, data, fit_tokeniser, labelled_name, no_labels, warn_of_newly_missing};
use crate::labels::labelled_rows;
use crate::packed::Sources;
use nids_config::{Config, Refit, Stage};
use nids_detect::background::Background;
use nids_detect::profile::FeatureProfile;
use nids_detect::read::{read_tokeniser, warn_of_missing};
use nids_detect::wants_classes;
use nids_store::progress::{Event, Progress};
use nids_store::run::StageRun;
use nids_store::{Error, Result};

/// The rows that finetuning works on.
pub(crate) struct Rows {
    pub(crate) labelled: Labelled,
    pub(crate) tokeniser: Tokeniser,
    /// Rows of `labelled`, then those of `data.unlabelled` if there are teachers.
    pub(crate) encoded: Encoded,
    /// Training rows whose labels are used.
    pub(crate) with_labels: Vec<u32>,
    /// Rows that a mean teacher uses without labels.
    pub(crate) without_labels: Vec<u32>,
    /// What teachers say, if there are any.
    pub(crate) taught: Option<Taught>,
    pub(crate) kept: Kept,
}

/// What a run keeps of its training rows: of more than [`RowSample::ROWS`], what it keeps of a sample.
pub(crate) struct Kept {
    /// Those that the classifier learns from, with labels or without.
    pub(crate) known: KnownRows,
    /// How they are distributed.
    pub(crate) profile: Vec<FeatureProfile>,
    /// Benign ones among them.
    pub(crate) background: Background,
}

impl Kept {
    /// all, with_labels: samples of the training rows, and of those whose labels are used
    fn of(known: KnownRows, [all, with_labels]: [RowSample; 2], n_benign: usize) -> Self {
        let is_same = all.n_rows() == with_labels.n_rows();
        let mut flows = all.finish();
        let rows = all_rows(flows.len());
        let with_labels = if is_same {
            rows.clone()
        } else {
            flows.extend(with_labels.finish());
            all_rows(flows.len()).split_off(rows.len())
        };
        let background = Background { benign: n_benign as u64, ..Background::of(&flows, &rows, &with_labels) };
        Self { known, profile: FeatureProfile::of(&flows, &rows, &with_labels), background }
    }
}

impl Rows {
    /// Reads, splits and tokenises the rows. Without the tokeniser of a pretrained encoder, a tokeniser is fitted. Where `data.cache` says
    /// so and the training can do without them, features are not held in memory.
    pub(crate) fn read(
        config: &Config,
        pretrained_tokeniser: Option<&Path>,
        stage: &mut StageRun<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        match (encoded::folder(config, stage.folder())?, pretrained_tokeniser) {
            (Ok(Some(folder)), Some(tokeniser)) => Self::read_packed(config, &folder, tokeniser, stage, progress),
            (found, _) => {
                if let Err(why) = found {
                    progress.event(Event::Message(&format!("`data.cache`: labelled rows are held in memory, since {why}")));
                }
                Self::read_into_memory(config, pretrained_tokeniser, stage, progress)
            }
        }
    }

    fn read_packed(
        config: &Config,
        folder: &Path,
        tokeniser: &Path,
        stage: &mut StageRun<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        let sources = Sources::of(config, &["data.train"], stage)?;
        let mut keys = Vec::new();
        let each = |flows: &Flows| keys.extend(row_keys(flows));
        let Read { labelled, missing } = Read::from(&sources, config, wants_classes(config), stage, progress, each)?;
        let tokeniser = read_tokeniser(tokeniser, Stage::Pretrain)?;
        let with_labels = labelled_rows(config, &labelled, stage, progress)?;
        warn_of_missing(&tokeniser, &missing.counts(&labelled_name(config)), progress);
        let Sampled { samples, missing } = encoded::sampled(&sources, &labelled.split.train, &with_labels, progress)?;
        stage.missing(&missing);
        let known = known_rows(config, &labelled.split, &keys, None);
        drop(keys);
        let kept = Kept::of(known, samples, n_benign(&labelled, &with_labels));
        let of_rows = (&tokeniser, labelled.flows.len());
        let rows = encoded::open_or_pack(config, folder, &sources, of_rows, stage, progress)?;
        let encoded = Encoded::Packed(Arc::new(rows));
        Ok(Self { labelled, tokeniser, encoded, with_labels, without_labels: Vec::new(), taught: None, kept })
    }

    fn read_into_memory(
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
        let known = known_rows(config, &labelled.split, &row_keys(&labelled.flows), unlabelled.as_ref());
        let samples = [&labelled.split.train, &with_labels].map(|rows| {
            let mut sample = RowSample::keeping(RowSample::ROWS, labelled.flows.schema(), true);
            sample.add(&labelled.flows, rows);
            sample
        });
        let kept = Kept::of(known, samples, n_benign(&labelled, &with_labels));
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
        let encoded = Encoded::Memory(encoded);
        Ok(Self { labelled, tokeniser, encoded, with_labels, without_labels, taught, kept })
    }
}

fn n_benign(labelled: &Labelled, rows: &[u32]) -> usize {
    rows.iter().filter(|&&row| labelled.labels()[row as usize] == 0).count()
}

/// The training part whether or not its labels are used, with a refit the rows held out, too, and the rows without labels that the
/// stage uses.   keys: of the labelled rows
fn known_rows(config: &Config, split: &Split, keys: &[u64], unlabelled: Option<&Flows>) -> KnownRows {
    let held_out = match config.finetune.refit {
        Refit::All => split.val.as_slice(),
        Refit::None => &[],
    };
    let of_labelled = split.train.iter().chain(held_out).map(|&row| keys[row as usize]);
    KnownRows::new(of_labelled.chain(unlabelled.into_iter().flat_map(row_keys)).collect())
}

#[cfg(test)]
mod tests {
    use nids_flows::{equal_rows, synthetic};

    use super::*;

    #[test]
    fn rows_are_known_that_the_stage_learns_from() {
        let flows = synthetic(100, 1);
        let different: Vec<u32> = equal_rows(&flows).iter().map(|rows| rows[0]).take(30).collect();
        let flows = flows.select(&different);
        let keys = row_keys(&flows);
        let split = Split { train: (0..20).collect(), val: (20..30).collect() };
        let unlabelled = synthetic(5, 2);
        let config = |settings: &[&str]| {
            let overrides: Vec<String> = settings.iter().map(ToString::to_string).collect();
            Config::parse("name: x", "c.yaml", &overrides).unwrap()
        };
        let among = |known: &KnownRows| keys.iter().filter(|&&key| known.contains(key)).count();
        let known = known_rows(&config(&["finetune.labels=4"]), &split, &keys, None);
        assert_eq!((among(&known), known.contains(keys[19]), known.contains(keys[20])), (20, true, false));
        let known = known_rows(&config(&["finetune.refit=all"]), &split, &keys, Some(&unlabelled));
        assert_eq!(among(&known), 30);
        assert!(row_keys(&unlabelled).iter().all(|&key| known.contains(key)));
    }

    #[test]
    fn few_labels_are_all_kept_beside_a_sample_of_the_rows() {
        let flows = synthetic(900, 4);
        let labels = flows.labels().unwrap();
        let (train, with_labels) = (all_rows(900), (0..900).step_by(30).collect::<Vec<u32>>());
        let n_benign = with_labels.iter().filter(|&&row| labels[row as usize] == 0).count();
        let kept = |most: usize| {
            let samples = [&train, &with_labels].map(|rows| {
                let mut sample = RowSample::keeping(most, flows.schema(), true);
                sample.add(&flows, rows);
                sample
            });
            Kept::of(KnownRows::default(), samples, n_benign)
        };
        let sums = |kept: &Kept| {
            let of = &kept.profile[0];
            [&of.all, &of.benign, &of.attacks].map(|counts| counts.iter().sum::<u64>() as usize)
        };
        let (all, some) = (kept(900), kept(100));
        assert_eq!(sums(&all), [900, n_benign, 30 - n_benign]);
        assert_eq!(sums(&some), [100, n_benign, 30 - n_benign]);
        assert_eq!(all.background.features, some.background.features, "benign rows with labels");
        assert_eq!((some.background.benign, some.background.n_rows()), (n_benign as u64, n_benign));
        let (profile, background) =
            (FeatureProfile::of(&flows, &train, &with_labels), Background::of(&flows, &train, &with_labels));
        assert_eq!((&all.profile, &all.background), (&profile, &background), "all rows are looked at");
        // of many labels, what is counted is a sample, and what is told is not
        let many = {
            let samples = [(); 2].map(|()| {
                let mut sample = RowSample::keeping(100, flows.schema(), true);
                sample.add(&flows, &train);
                sample
            });
            Kept::of(KnownRows::default(), samples, 400)
        };
        let [n, benign, attacks] = sums(&many);
        assert_eq!((n, benign + attacks, many.background.benign), (100, 100, 400));
    }
}
