//! A trained run as one HTML page, and as a model card.
//!
//! Numbers in, a text out: the same numbers give the same bytes. The page needs no script, no network and no second file.
//!
//! ```
//! use nids_eval::metrics::{Evaluation, Metrics};
//! use nids_report::{Check, Report, Status};
//!
//! let (p, labels) = ([0.9, 0.2, 0.7, 0.1], [1, 0, 1, 0]);
//! let held_out = Evaluation::new(Metrics::new(&p, &labels, 0.5)?, &p, &labels, 0.5, None);
//! let found = "none of 4 rows equals a training row".to_owned();
//! let check = Check { status: Status::Pass, what: "Leak", found, advice: String::new() };
//! let report = Report { name: "demo".to_owned(), checks: vec![check], ..Report::of(held_out) };
//! assert!(report.html().contains("none of 4 rows equals a training row"));
//! # Ok::<(), nids_eval::Error>(())
//! ```
#![forbid(unsafe_code)]

mod card;
mod chart;

use std::collections::BTreeMap;

use askama::Template;
use nids_eval::metrics::{Evaluation, Metrics};

use chart::{Chart, Scale};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing to worry about.
    Pass,
    /// Something to look at before the run is trusted.
    Warn,
    /// There is nothing to check it on.
    Skipped,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warning",
            Self::Skipped => "skipped",
        }
    }
}

/// One question that a reader should ask of a run, and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// How it ended.
    pub status: Status,
    /// What was looked at.
    pub what: &'static str,
    /// What was found, with numbers.
    pub found: String,
    /// What to do about it; empty where it passed.
    pub advice: String,
}

/// Points of one name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// What the legend calls them.
    pub name: String,
    /// In the order in which a line joins them.
    pub points: Vec<(f64, f64)>,
}

/// What a stage logged while it trained, over its steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Training {
    /// The stage.
    pub stage: String,
    /// Mean losses, of training and of validation.
    pub loss: Vec<Series>,
    /// Learning rate.
    pub lr: Vec<Series>,
    /// Norm of the gradient before clipping.
    pub grad_norm: Vec<Series>,
    /// The largest update of each layer in a step.
    pub max_update: Vec<Series>,
}

/// A feature, as a masked autoencoder rebuilds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rebuilt {
    /// Its name.
    pub feature: String,
    /// The share of the loss of one guess for all rows that is gone where the other features are seen: 1 is all, 0 none, and less
    /// is worse than that guess.
    pub share: f64,
}

/// An alert, and why it is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// Of the row.
    pub id: String,
    /// Of an attack.
    pub probability: f32,
    /// What it is: its category where that is known, else `attack` or `benign`.
    pub truth: String,
    /// What says most first.
    pub reasons: Vec<String>,
}

/// How a feature differs from the rows of training.
#[derive(Clone, Debug, PartialEq)]
pub struct Drifted {
    /// Its name.
    pub feature: String,
    /// Population stability index.
    pub psi: f64,
    /// What is made of it, in a word; empty if nothing.
    pub change: &'static str,
    /// The share of rows where it is missing, in training and here.
    pub missing: [f64; 2],
    /// The share of rows whose value training has never seen.
    pub never_seen: f64,
}

/// A run among several, which had more or fewer labels.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFigures {
    /// Of its folder.
    pub name: String,
    /// Rows whose labels it has learned; None where nobody knows.
    pub labels: Option<usize>,
    /// Whether it has held out the same rows as the run that the page is about, and can be compared.
    pub has_same_rows: bool,
    /// On the rows that it has held out.
    pub metrics: Metrics,
}

/// All that the page shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Of the run.
    pub name: String,
    /// What to trust, in the order in which they are read.
    pub checks: Vec<Check>,
    /// Stages that trained.
    pub trainings: Vec<Training>,
    /// The classifier on rows that it has not learned from.
    pub held_out: Evaluation,
    /// What messages call these rows: "rows held out".
    pub rows: String,
    /// Two principal components of the rows held out, by class.
    pub latents: Vec<Series>,
    /// What a masked autoencoder tells of hidden features, the best told first.
    pub rebuilt: Vec<Rebuilt>,
    /// Some alerts with reasons.
    pub explained: Vec<Explained>,
    /// How the rows differ from those of training, what differs most first; none where they were not compared.
    pub drift: Vec<Drifted>,
    /// Runs to compare by their labels; none where the page is about one run alone.
    pub runs: Vec<RunFigures>,
    /// Names and values: files with their content hashes, versions, sizes.
    pub facts: Vec<(String, String)>,
    /// The settings as YAML.
    pub config: String,
}

/// A row of the table of metrics.
struct Metric {
    name: &'static str,
    value: String,
    /// The interval.
    between: String,
    /// On rows without duplicates, and on rows that equal no training row.
    elsewhere: [String; 2],
}

/// A row of the table of categories.
struct Category<'r> {
    name: &'r str,
    recall: String,
    /// Per cent, for bars.
    at: String,
    low: String,
    width: String,
    between: String,
    found: u64,
    rows: u64,
}

/// A picture and what it is called.
struct Figure {
    title: String,
    svg: String,
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'r> {
    report: &'r Report,
    n_warnings: usize,
    metrics: Vec<Metric>,
    categories: Vec<Category<'r>>,
    curves: Vec<Figure>,
    trainings: Vec<(String, Vec<Figure>)>,
    latents: Option<Figure>,
    /// Features, with the cells of the table: a number, and the width of a bar.
    rebuilt: Vec<(&'r Rebuilt, [String; 2])>,
    /// Features that have changed, and the others, with the cells of the table.
    drift: [Vec<(&'r Drifted, [String; 4])>; 2],
    runs: Vec<(&'r RunFigures, [String; 4])>,
    labels: Option<Figure>,
}

impl Report {
    /// A report of what a classifier does on rows held out, and of nothing else.
    pub fn of(held_out: Evaluation) -> Self {
        Self {
            name: String::new(),
            checks: Vec::new(),
            trainings: Vec::new(),
            held_out,
            rows: "rows held out".to_owned(),
            latents: Vec::new(),
            rebuilt: Vec::new(),
            explained: Vec::new(),
            drift: Vec::new(),
            runs: Vec::new(),
            facts: Vec::new(),
            config: String::new(),
        }
    }

    /// The page.
    ///
    /// # Panics
    /// Never: text is written to memory.
    pub fn html(&self) -> String {
        let n_warnings = self.checks.iter().filter(|check| check.status == Status::Warn).count();
        let page = Page {
            report: self,
            n_warnings,
            metrics: self.metrics(),
            categories: self.categories(),
            curves: self.curves(),
            trainings: self.trainings.iter().map(|training| (training.stage.clone(), training.figures())).collect(),
            latents: (!self.latents.is_empty()).then(|| Figure {
                title: "First and second component".to_owned(),
                svg: Chart { x: "component 1", y: "component 2", is_scatter: true, ..Chart::of(&self.latents) }.svg(),
            }),
            rebuilt: self
                .rebuilt
                .iter()
                .map(|of| (of, [shown(Some(of.share)), format!("{:.2}", 100.0 * of.share.clamp(0.0, 1.0))]))
                .collect(),
            drift: self.drifted(),
            runs: self.runs_by_labels(),
            labels: self.label_efficiency(),
        };
        page.render().expect("text is written to memory")
    }

    fn metrics(&self) -> Vec<Metric> {
        let all = &self.held_out;
        let by_rows = all.by_rows.as_ref();
        let some = [by_rows.map(|by_rows| &by_rows.without_duplicates), by_rows.and_then(|by_rows| by_rows.new_rows.as_ref())];
        let intervals = by_rows.map(|by_rows| by_rows.intervals).unwrap_or_default();
        let row = |name, of: fn(&Metrics) -> Option<f64>, interval: Option<[f64; 2]>| {
            Metric::new(name, of(&all.metrics), interval, some.map(|some| of(&some?.metrics)))
        };
        // where no bootstrap sample has an error, the interval of rows drawn one by one says more
        let wide = |interval: Option<[f64; 2]>, exact| interval.filter(|[low, high]| low < high).or(exact);
        let recall = wide(intervals.recall, all.recall_interval);
        let fpr = wide(intervals.fpr, all.fpr_interval);
        vec![
            row("accuracy", |of| of.accuracy, intervals.accuracy),
            row("recall: attacks found", |of| of.recall, recall),
            Metric::new("false alarms of benign rows", all.fpr, fpr, some.map(|some| some?.fpr)),
            row("precision: attacks of alarms", |of| of.precision, intervals.precision),
            row("F1", |of| of.f1, intervals.f1),
            row("ROC-AUC", |of| of.roc_auc, intervals.roc_auc),
            row("PR-AUC", |of| of.pr_auc, intervals.pr_auc),
            row("recall at 1 % false alarms", |of| of.recall_at_fpr_1pct, intervals.recall_at_fpr_1pct),
            row("log loss", |of| of.log_loss, intervals.log_loss),
            row("Brier score", |of| of.brier, intervals.brier),
            Metric::new("calibration error (ECE)", all.ece, None, [None; 2]),
            Metric::new("calibration error without its bias", all.ece_debiased, None, [None; 2]),
        ]
    }

    fn categories(&self) -> Vec<Category<'_>> {
        let percent = |share: f64| format!("{:.2}", 100.0 * share);
        let found = self.held_out.found_by_category.iter().flatten();
        found
            .map(|(name, of)| Category {
                name,
                recall: shown(Some(of.recall)),
                at: percent(of.recall),
                low: percent(of.low),
                width: percent(of.high - of.low),
                between: format!("{:.3} to {:.3}", of.low, of.high),
                found: of.found,
                rows: of.rows,
            })
            .collect()
    }

    fn drifted(&self) -> [Vec<(&Drifted, [String; 4])>; 2] {
        let percent = |share: f64| if share > 0.0 { format!("{:.1} %", 100.0 * share) } else { String::new() };
        let cells = |of: &Drifted| {
            let [training, here] = of.missing;
            [format!("{:.3}", of.psi), percent(training), percent(here), percent(of.never_seen)]
        };
        let (changed, others) = self.drift.iter().map(|of| (of, cells(of))).partition(|(of, _)| !of.change.is_empty());
        [changed, others]
    }

    /// Those of fewest labels first, with the cells of the table.
    fn runs_by_labels(&self) -> Vec<(&RunFigures, [String; 4])> {
        let mut runs: Vec<&RunFigures> = self.runs.iter().collect();
        runs.sort_by(|a, b| a.labels.cmp(&b.labels).then_with(|| a.name.cmp(&b.name)));
        let cells = |run: &RunFigures| {
            let Metrics { accuracy, roc_auc, recall_at_fpr_1pct, log_loss, .. } = run.metrics;
            [accuracy, roc_auc, recall_at_fpr_1pct, log_loss].map(shown)
        };
        runs.into_iter().map(|run| (run, cells(run))).collect()
    }

    /// Metrics over labels, of the runs that can be compared; the mean where several have as many.
    fn label_efficiency(&self) -> Option<Figure> {
        let series = |name: &str, of: fn(&Metrics) -> Option<f64>| {
            let mut by_labels: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
            for run in self.runs.iter().filter(|run| run.has_same_rows) {
                if let Some((labels, value)) = run.labels.zip(of(&run.metrics)) {
                    by_labels.entry(labels).or_default().push(value);
                }
            }
            let mean = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
            let points = by_labels.iter().map(|(&labels, values)| (labels as f64, mean(values))).collect();
            Series { name: name.to_owned(), points }
        };
        let series = [
            series("accuracy", |of| of.accuracy),
            series("ROC-AUC", |of| of.roc_auc),
            series("recall at 1 % false alarms", |of| of.recall_at_fpr_1pct),
        ];
        let chart = Chart { x: "labels", y: "metric", has_dots: true, ..Chart::of(&series) };
        (series[0].points.len() > 1).then(|| Figure { title: "Metrics by labels".to_owned(), svg: chart.svg() })
    }

    fn curves(&self) -> Vec<Figure> {
        let Evaluation { curve, reliability, .. } = &self.held_out;
        let points = |of: &dyn Fn(&nids_eval::metrics::CurvePoint) -> Option<(f64, f64)>| curve.iter().filter_map(of).collect();
        let roc: Vec<(f64, f64)> = points(&|point| point.fpr.zip(point.recall));
        let pr: Vec<(f64, f64)> = points(&|point| point.recall.zip(point.precision));
        let calibrated = reliability.iter().map(|bin| (bin.probability, bin.attacks)).collect();
        let one = |name: &str, points| Series { name: name.to_owned(), points };
        let diagonal = one("calibrated", vec![(0.0, 0.0), (1.0, 1.0)]);
        let unit = Scale { x: Some([0.0, 1.0]), y: Some([0.0, 1.0]), has_log_y: false };
        let roc = [one("classifier", [vec![(0.0, 0.0)], roc].concat())];
        let [pr, reliability] = [[one("classifier", pr)].to_vec(), vec![diagonal, one("bins of equally many rows", calibrated)]];
        let figure = |title: &str, x, y, series: &[Series], has_dots| Figure {
            title: title.to_owned(),
            svg: Chart { x, y, scale: unit, has_dots, ..Chart::of(series) }.svg(),
        };
        vec![
            figure("ROC", "false alarms", "recall", &roc, false),
            figure("Precision and recall", "recall", "precision", &pr, false),
            figure("Reliability", "mean probability", "share of attacks", &reliability, true),
        ]
    }
}

impl Metric {
    fn new(name: &'static str, value: Option<f64>, interval: Option<[f64; 2]>, elsewhere: [Option<f64>; 2]) -> Self {
        let between = interval.map_or_else(String::new, |[low, high]| format!("{low:.4} to {high:.4}"));
        Self { name, value: shown(value), between, elsewhere: elsewhere.map(shown) }
    }
}

impl Training {
    fn figures(&self) -> Vec<Figure> {
        let of = [
            ("Loss", "mean loss", &self.loss, false),
            ("Learning rate", "learning rate", &self.lr, false),
            ("Gradient norm", "norm before clipping", &self.grad_norm, true),
            ("Largest update of each layer", "largest change of a weight", &self.max_update, true),
        ];
        let has_points = |series: &[Series]| series.iter().any(|series| series.points.len() > 1);
        let figure = |(title, y, series, has_log_y): (&str, &'static str, &Vec<Series>, bool)| {
            let scale = Scale { has_log_y, ..Scale::default() };
            let chart = Chart { x: "step", y, scale, ..Chart::of(series) };
            has_points(series).then(|| Figure { title: title.to_owned(), svg: chart.svg() })
        };
        of.into_iter().filter_map(figure).collect()
    }
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"))
}

#[cfg(test)]
mod tests;
