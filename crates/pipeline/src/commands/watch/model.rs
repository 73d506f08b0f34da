//! The model that judges: as `predict` opens it, so that it says the same.

use std::path::Path;

use nids_detect::anomaly::AnomalyDetector;
use nids_detect::reasons::{Explainer, Reason};
use nids_detect::watch::{Drift, Watch};
use nids_detect::{Detector, Judge, ReadSummary, batch_rows};
use nids_flows::{Flows, Schema};
use nids_store::progress::Progress;
use nids_store::{Error, Result, Run};

use super::super::anomaly::{self, Score, said_of_both};
use super::super::predict::{self, PredictOptions, said_of};
use super::super::verdict_writer::Cells;
use super::alert::{Model, Said};

/// Alerts explained at once: a signal waits so long.
const AT_ONCE: usize = 16;
/// After so many rows they are compared with those of training anew.
const COMPARED: u64 = 100_000;

enum Scorer {
    Attack(Box<Detector>),
    Unusual(Box<AnomalyDetector>),
}

/// A run, ready to judge.
pub(super) struct Loaded {
    scorer: Scorer,
    explainer: Option<Explainer>,
    pub(super) model: Model,
}

/// What is said of flows.
pub(super) struct Judged<'l> {
    /// The rows that are alerts.
    pub(super) alarms: Vec<u32>,
    /// Why, for each of them.
    pub(super) reasons: Vec<Vec<Reason>>,
    /// The columns of `predict`, of all rows.
    pub(super) columns: Vec<(&'static str, Cells<'l>)>,
}

impl Loaded {
    /// Opens a run as `predict` does.
    pub(super) fn open(folder: &Path, options: &PredictOptions, progress: &mut dyn Progress) -> Result<Self> {
        let run = Run::open(folder)?;
        if options.score != Score::Attack && options.reasons.is_some() {
            let message = "`--reasons` are those of the classifier's probability: leave out `--score` or `--reasons`";
            return Err(Error::Usage(message.to_owned()));
        }
        let (scorer, threshold, explainer) = if options.score == Score::Attack {
            let detector = predict::open(&run, options, progress)?;
            let explainer = options.reasons.map(|_| predict::explainer(&run, &detector, progress)).transpose()?;
            let threshold = detector.threshold();
            (Scorer::Attack(Box::new(detector)), threshold, explainer)
        } else {
            let detector = anomaly::open(&run, options, progress)?;
            let threshold = detector.threshold();
            (Scorer::Unusual(Box::new(detector)), threshold, None)
        };
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = folder.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned());
        Ok(Self { scorer, explainer, model: Model { version: run.identity()?, name, threshold } })
    }

    pub(super) fn schema(&self) -> &Schema {
        match &self.scorer {
            Scorer::Attack(detector) => Judge::tokeniser(&**detector).schema(),
            Scorer::Unusual(detector) => Judge::tokeniser(&**detector).schema(),
        }
    }

    /// Rows that are judged at once, at most.
    pub(super) fn batch_rows(&self) -> usize {
        match &self.scorer {
            Scorer::Attack(detector) => batch_rows(Judge::tokeniser(&**detector)),
            Scorer::Unusual(detector) => batch_rows(Judge::tokeniser(&**detector)),
        }
    }

    /// The columns of no rows.
    pub(super) fn no_columns(&self) -> Result<Vec<(&'static str, Cells<'_>)>> {
        let none = Flows::none(self.schema());
        Ok(Watched::new(self).judge(&none, &mut nids_store::progress::Silent)?.map_or_else(Vec::new, |judged| judged.columns))
    }
}

/// A model and what it has seen.
pub(super) struct Watched<'l> {
    loaded: &'l Loaded,
    watch: Option<Watch<'l>>,
    seen: ReadSummary,
}

impl<'l> Watched<'l> {
    pub(super) fn new(loaded: &'l Loaded) -> Self {
        Self { loaded, watch: loaded.watch(), seen: ReadSummary::default() }
    }

    /// What the model says of flows; None where a signal came first.
    pub(super) fn judge(&mut self, flows: &Flows, progress: &mut dyn Progress) -> Result<Option<Judged<'l>>> {
        match &self.loaded.scorer {
            Scorer::Attack(detector) => {
                let scored = self.judged(&**detector, flows)?;
                let verdicts = detector.verdicts(&scored);
                let alarms: Vec<u32> =
                    (0..).zip(&verdicts).filter(|(_, verdict)| verdict.is_attack).map(|(row, _)| row).collect();
                let mut columns = said_of(detector, &verdicts);
                let mut reasons = vec![Vec::new(); alarms.len()];
                if let Some(explainer) = &self.loaded.explainer {
                    let mut all = vec![Vec::new(); flows.len()];
                    for (rows, reasons) in alarms.chunks(AT_ONCE).zip(reasons.chunks_mut(AT_ONCE)) {
                        if progress.stop().is_some() {
                            return Ok(None);
                        }
                        for ((found, reasons), &row) in
                            explainer.reasons(detector, &flows.select(rows))?.into_iter().zip(reasons).zip(rows)
                        {
                            reasons.clone_from(&found);
                            all[row as usize] = found;
                        }
                    }
                    columns.push(("reasons", Cells::Reasons(all)));
                }
                Ok(Some(Judged { alarms, reasons, columns }))
            }
            Scorer::Unusual(detector) => {
                let found = self.judged(&**detector, flows)?;
                let is_alarm: Vec<bool> = found.scores.iter().map(|&score| detector.is_alarm(score)).collect();
                let alarms: Vec<u32> = (0..).zip(&is_alarm).filter(|(_, alarm)| **alarm).map(|(row, _)| row).collect();
                let columns = said_of_both(detector, &found, &is_alarm);
                Ok(Some(Judged { reasons: vec![Vec::new(); alarms.len()], alarms, columns }))
            }
        }
    }

    fn judged<J: Judge>(&mut self, judge: &J, flows: &Flows) -> Result<J::Said> {
        if flows.is_empty() {
            return Ok(J::Said::default());
        }
        let encoded = judge.tokenise(flows)?;
        let said = judge.judge(&encoded);
        judge.check(flows, &said, "the flows")?;
        if let Some(watch) = &mut self.watch {
            watch.add_flows(flows);
            if let Some(scored) = J::scored(&said) {
                watch.add_scored(scored);
            }
        }
        self.seen.add(flows.len(), J::counts(&encoded));
        Ok(said)
    }

    /// How the flows of late differ from those of training; None where nobody knows.
    pub(super) fn drift_now(&self) -> Option<Drift> {
        Some(self.watch.as_ref()?.drift(&self.seen))
    }

    /// The same; after enough flows they are counted anew.
    pub(super) fn drift(&mut self) -> Option<Drift> {
        let drift = self.drift_now();
        if self.seen.rows >= COMPARED {
            (self.watch, self.seen) = (self.loaded.watch(), ReadSummary::default());
        }
        drift
    }
}

impl Loaded {
    fn watch(&self) -> Option<Watch<'_>> {
        let classifier = match &self.scorer {
            Scorer::Attack(detector) => detector.classifier(),
            Scorer::Unusual(detector) => detector.classifier(),
        };
        classifier.and_then(Watch::new)
    }
}

/// What is said of a row.
pub(super) fn said_of_row(columns: &[(&'static str, Cells<'_>)], row: u32, reasons: &[Reason]) -> Said {
    let row = row as usize;
    let mut said = Said { reasons: reasons.iter().map(Reason::text).collect(), ..Said::default() };
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    for (name, cells) in columns {
        match (*name, cells) {
            ("probability", Cells::Single(values)) => said.probability = Some(values[row]),
            ("score", Cells::Single(values)) => said.score = Some(values[row]),
            ("p_value", Cells::Double(values)) => said.p_value = Some(values[row]),
            ("verdict", Cells::Text(values)) => values[row].clone_into(&mut said.verdict),
            ("category", Cells::Text(values)) => said.category = text(values[row]),
            ("surprising", Cells::Text(values)) => said.surprising = text(values[row]),
            _ => {}
        }
    }
    said
}
