//! What other classifiers say of rows, for a network to learn.

use std::fs;
use std::path::Path;

use nids_flows::{Flows, all_rows};

use crate::data::Labelled;
use nids_config::{Config, Refit, Stage};
use nids_detect::operation::Using;
use nids_detect::{Detector, log_odds};
use nids_nn::loss::sigmoid;
use nids_store::progress::{Event, Progress};
use nids_store::run::{MODEL, StageRun};
use nids_store::{Error, Result, Run};

const KEY: &str = "finetune.teachers";

/// What teachers say.
pub(crate) struct Taught {
    /// Of an attack, for every labelled row and then every unlabelled one.
    pub(super) probabilities: Vec<f32>,
    /// Rows that are learned: training rows, and unlabelled ones.
    pub(super) rows: Vec<u32>,
    /// Rows whose labels count as well, ascending: training rows with labels, and rows held out, which only a refit learns from.
    with_labels: Vec<u32>,
}

impl Taught {
    /// Asks the teachers that the config names. None if there are none.
    pub(super) fn read(
        config: &Config,
        labelled: &Labelled,
        unlabelled: Option<&Flows>,
        with_labels: &[u32],
        stage: &mut StageRun<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Option<Self>> {
        let Some(teachers) = &config.finetune.teachers else { return Ok(None) };
        let mut sums = vec![0.0; labelled.flows.len() + unlabelled.map_or(0, Flows::len)];
        let mut weights = Vec::new();
        for name in teachers.names() {
            let run = Run::open(Path::new(name))?;
            // a calibration may have learned the rows that are held out here
            let detector = Detector::open_using(&run, Using::Model)?;
            check(config, labelled, &run, &detector, stage)?;
            weights.push(run.require(Stage::Finetune, MODEL)?);
            let mut said = Vec::with_capacity(sums.len());
            for flows in [Some(&labelled.flows), unlabelled].into_iter().flatten() {
                said.extend(detector.model_scores(flows)?);
                progress.go_on()?;
            }
            sums.iter_mut().zip(said).for_each(|(sum, p)| *sum += log_odds(f64::from(p)));
        }
        stage.inputs(KEY, &weights)?;
        let n = weights.len() as f64;
        let probabilities = sums.iter().map(|sum| sigmoid(sum / n) as f32).collect();
        let mut with_labels = [with_labels, &labelled.split.val].concat();
        with_labels.sort_unstable();
        let unlabelled = all_rows(sums.len()).into_iter().skip(labelled.flows.len());
        let rows: Vec<u32> = labelled.split.train.iter().copied().chain(unlabelled).collect();
        let text = format!("{} rows to learn from what classifiers say of them: {teachers}", rows.len());
        progress.event(Event::Message(&text));
        Ok(Some(Self { probabilities, rows, with_labels }))
    }

    /// Whether the label of a row may be looked at.
    pub(super) fn is_labelled(&self, row: usize) -> bool {
        self.with_labels.binary_search(&(row as u32)).is_ok()
    }
}

/// Refuses a teacher that has learned the rows held out here: what the student finds on these would say nothing.
fn check(config: &Config, labelled: &Labelled, run: &Run, detector: &Detector, stage: &StageRun<'_>) -> Result<()> {
    let refuse = |what: &str| {
        let folder = run.folder().display();
        Err(Error::Usage(format!("`{KEY}`: {folder}: {what}")))
    };
    let place = |folder: &Path| fs::canonicalize(folder).ok();
    if place(run.folder()) == place(stage.folder()) {
        return refuse("a classifier cannot be its own teacher: give the student another run folder in `--run`");
    }
    let theirs = run.config_of(Stage::Finetune)?;
    if theirs.finetune.refit == Refit::All {
        return refuse("it has learned the rows that are held out here (`finetune.refit: all`): take one without a refit");
    }
    if detector.schema() != labelled.flows.schema() {
        return refuse("its flows have another schema: take one that was trained with this `data.schema`");
    }
    let cut = |config: &Config| {
        let data = &config.data;
        let generated = data.train.is_none().then_some(data.synthetic.rows);
        (config.seed, data.validation_fraction.to_bits(), data.inner_validation, data.on_bad_row, generated)
    };
    let is_same = run.data_of(Stage::Finetune, "data.train")?.as_ref() == stage.data_of("data.train");
    if !is_same || cut(&theirs) != cut(config) {
        return refuse(
            "it was trained on another cut of the data, so that rows held out here may be among those that it has learned: train it \
             with the same `data.train`, `data.validation_fraction` and `seed`",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::labelled;
    use crate::stages::finetune::rows::Rows;
    use crate::stages::finetune::targets::Targets;
    use crate::stages::resume_tests::run_stage;
    use crate::testing::{Folder, flows};
    use nids_store::progress::Silent;

    const SETTINGS: &[&str] = &[
        "name=x",
        "data.schema=DIR/schema.yaml",
        "data.train=DIR/train.csv",
        "data.unlabelled=DIR/more.csv",
        "model.dim=8",
        "model.depth=1",
        "engine.threads=1",
        "finetune.from=scratch",
        "finetune.steps=20",
        "finetune.labels=30",
    ];

    #[test]
    fn teachers_speak_by_their_mean_log_odds_and_labels_have_half_a_say() {
        let folder = Folder::new();
        folder.write("train.csv", flows(100, 1));
        folder.write("more.csv", flows(30, 2));
        for (name, settings) in [("a", "finetune.seed=1"), ("b", "finetune.heads=[extra_trees]")] {
            let config = folder.config(&[SETTINGS, &[settings]]);
            run_stage(Stage::Finetune, &config, &folder.run(name), &mut Silent).unwrap();
        }
        let config = folder.config(&[SETTINGS, &["finetune.teachers=[DIR/a, DIR/b]"]]);
        let (run, stage) = (folder.run("student"), Stage::Finetune);
        let rows = Rows::read(&config, None, &mut run.look(stage, &config), &mut Silent).unwrap();
        let taught = rows.taught.unwrap();
        let (n, n_all) = (rows.labelled.flows.len(), rows.encoded.table().n_rows());
        let split = &rows.labelled.split;
        assert_eq!((n, n_all), (100, 130));
        assert_eq!(taught.rows, [&split.train[..], &all_rows(n_all)[n..]].concat(), "rows held out are learned");

        let flows = labelled(&config, &mut run.look(stage, &config), &mut Silent).unwrap().flows; // those above are freed
        let mut mean = vec![0.0; n];
        for teacher in ["a", "b"] {
            let detector = Detector::open(&folder.run(teacher)).unwrap();
            let encoded = detector.tokeniser().tokenise(&flows).unwrap();
            for (sum, p) in mean.iter_mut().zip(detector.attacks(&encoded)) {
                let p = f64::from(p).clamp(1e-3, 1.0 - 1e-3);
                *sum += (p / (1.0 - p)).ln() / 2.0;
            }
        }
        let mut targets = Targets::new(&config, &rows.labelled, None, &rows.with_labels);
        targets.blend(&taught);
        let Targets::Attack { labels, .. } = targets else { panic!("binary") };
        assert_eq!(labels.len(), n_all);
        for row in 0..n {
            let (soft, label) = (sigmoid(mean[row]), f64::from(rows.labelled.labels()[row]));
            let has_label = rows.with_labels.contains(&(row as u32)) || split.val.contains(&(row as u32));
            let wanted = if has_label { 0.5 * label + 0.5 * soft } else { soft };
            assert!((f64::from(labels[row]) - wanted).abs() < 1e-6, "row {row}: {}, not {wanted}", labels[row]);
        }
        assert_eq!(labels[n..], taught.probabilities[n..]);
    }
}
