//! A page about a trained run.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use ndarray::Array2;
use nids_audit::{CheckName, File, Verdict};
use nids_config::{Config, Stage};
use nids_detect::engine::reserve_openblas;
use nids_detect::read::name_of;
use nids_detect::reasons::{Explainer, Reason};
use nids_detect::verdicts::Scores;
use nids_detect::watch::{Change, Drift, FeatureDrift, MIN_ROWS};
use nids_detect::{Detector, Scored, WeightsFile, at_equal_distances};
use nids_eval::metrics::Evaluation;
use nids_eval::operating::{CONFIDENCE, rows_needed};
use nids_flows::{Flows, KnownRows, is_stdin, row_keys};
use nids_heads::Pca;
use nids_report::{Check, Drifted, Explained, Report, RunFigures, Series, Status, Training};
use nids_store::artefacts::{Digest, digest};
use nids_store::log::Line;
use nids_store::progress::{Event, Progress};
use nids_store::run::{ADAPTATION, CALIBRATION, MODEL, REPORT, Run};
use nids_store::{Error, Result};
use serde_json::Value as Json;

use super::held_out::labelled_of;
use super::predict::{Evaluated, PredictOptions, open};
use super::query::{QueryStrategy, Space};
use super::rebuilt::rebuilt;

/// Rows in the picture of latents, at most.
const POINTS: usize = 500;
/// Alerts with reasons, at most.
const EXPLAINED: usize = 10;
/// Layers whose updates are drawn: those that move least.
const LAYERS: usize = 6;
/// Rows of a category from which on its recall is judged.
const CATEGORY_ROWS: u64 = 20;

/// Writes `report.html` into the run folder: what to trust, metrics on the rows held out, curves of training, settings, and beside
/// them what `others` reached; and the same to `card` as a model card, if that is wanted. The same runs give the same bytes.
///
/// # Errors
/// A run without a classifier, data that have changed since, a classifier that has learned the rows held out.
pub fn report(run: &Run, others: &[Run], card: Option<&mut dyn Write>, progress: &mut dyn Progress) -> Result<PathBuf> {
    let lock = run.lock("report", progress)?;
    let config = run.config_of(Stage::Finetune)?;
    let labelled = labelled_of(run, &config, true, progress)?;
    let detector = open(run, &PredictOptions::default(), progress)?;
    let val = labelled.flows.select(&labelled.split.val);
    let train = labelled.flows.select(&labelled.split.train);
    drop(labelled);
    let scored = detector.scored_flows(&val)?;
    let mut scores = Scores::new(detector.outputs(), detector.classes(), detector.threshold()).with_keys();
    scores.add_all(&val, &scored.outputs, &scored.attacks);
    let known = KnownRows::new(row_keys(&train));
    let held_out = scores.evaluation("the rows held out", Some(&known), progress)?;
    let rows = "rows held out";
    let facts = facts(run, &config, &detector, &format!("{} to train on, {} held out", train.len(), val.len()))?;
    let latents = latents(run, &config, &detector, &val)?;
    let rebuilt = rebuilt(run, &config, &val)?;
    let explained = explained(run, &detector, &val, &scored)?;
    let n_train = train.len();
    let runs = match others {
        [] => Vec::new(),
        _ => [run].into_iter().chain(others).map(|other| compared(other, run, n_train)).collect::<Result<Vec<_>>>()?,
    };
    let checks = [
        of_rows(&held_out, rows),
        audited(train, val),
        of_verdicts(&held_out, rows, corrected(&detector))?,
        vec![of_training(run)?],
    ];
    let page = Report { checks: checks.concat(), latents, rebuilt, explained, facts, runs, ..about(run, &config, held_out) };
    lock.check()?;
    run.export_metrics()?;
    let path = run.write(REPORT, page.html().as_bytes())?;
    if let Some(out) = card {
        out.write_all(page.card().as_bytes()).map_err(Error::io("the card", "write"))?;
    }
    progress.event(Event::Message(&format!("report: {}", path.display())));
    Ok(path)
}

/// The page about a run's verdicts on the rows of files, of which `evaluate` has found what is given. It has no picture of latents.
///
/// # Errors
/// A run without a classifier.
pub fn report_of(run: &Run, data: &[PathBuf], found: Evaluated) -> Result<String> {
    let Evaluated { evaluation, drift } = found;
    let config = run.config_of(Stage::Finetune)?;
    let detector = Detector::open(run)?;
    let rows = format!("rows of {}", name_of(data));
    let mut facts = facts(run, &config, &detector, &format!("{} evaluated", evaluation.metrics.n))?;
    for path in data.iter().filter(|path| path.to_str().is_none_or(|name| !is_stdin(name))) {
        let Digest { sha256, bytes } = digest(path)?;
        facts.push((path.display().to_string(), format!("sha256 {sha256}, {bytes} bytes")));
    }
    let adapted = if detector.operation().adaptation.is_some() { "; `adapt` has corrected them" } else { "" };
    let checks = [
        of_rows(&evaluation, "rows"),
        vec![of_drift(drift.as_ref())],
        of_verdicts(&evaluation, "rows", adapted)?,
        vec![of_training(run)?],
    ];
    let drift = drift.map_or_else(Vec::new, |drift| drift.features.iter().map(drifted).collect());
    Ok(Report { checks: checks.concat(), drift, facts, rows, ..about(run, &config, evaluation) }.html())
}

/// What every page says of a run.
fn about(run: &Run, config: &Config, evaluation: Evaluation) -> Report {
    Report {
        name: config.name.clone(),
        trainings: [Stage::Pretrain, Stage::Finetune].into_iter().filter_map(|stage| training(run, stage)).collect(),
        config: config.to_yaml(),
        ..Report::of(evaluation)
    }
}

/// Some alerts among rows, at equal distances, with their reasons; none of a run that keeps no benign rows to compare them with.
fn explained(run: &Run, detector: &Detector, rows: &Flows, scored: &Scored) -> Result<Vec<Explained>> {
    let Some(explainer) = Explainer::open(run, detector)? else { return Ok(Vec::new()) };
    let verdicts = detector.verdicts(scored);
    let alerts: Vec<u32> = (0..).zip(&verdicts).filter(|(_, verdict)| verdict.is_attack).map(|(row, _)| row).collect();
    let alerts = at_equal_distances(&alerts, EXPLAINED);
    let truth = |row: u32| match (rows.categories(), labels(rows)[row as usize]) {
        (Some(categories), _) => categories.get(row as usize).to_owned(),
        (None, 1) => "attack".to_owned(),
        (None, _) => "benign".to_owned(),
    };
    let found = explainer.reasons(detector, &rows.select(&alerts))?;
    let explained = |(&row, reasons): (&u32, Vec<Reason>)| Explained {
        id: rows.ids()[row as usize].clone(),
        probability: verdicts[row as usize].probability,
        truth: truth(row),
        reasons: reasons.iter().map(Reason::text).collect(),
    };
    Ok(alerts.iter().zip(found).map(explained).collect())
}

fn labels(flows: &Flows) -> &[u8] {
    flows.labels().expect("labels were required of the reader")
}

fn check(is_good: bool, what: &'static str, found: String, advice: &str) -> Check {
    let (status, advice) = if is_good { (Status::Pass, "") } else { (Status::Warn, advice) };
    Check { status, what, found, advice: advice.to_owned() }
}

fn skipped(what: &'static str, found: &str) -> Check {
    Check { status: Status::Skipped, what, found: found.to_owned(), advice: String::new() }
}

/// What a reader should ask of the rows before metrics are trusted.
fn of_rows(held_out: &Evaluation, rows: &str) -> Vec<Check> {
    let n = held_out.metrics.n;
    let Some(by_rows) = &held_out.by_rows else { return Vec::new() };
    let share = |part: u64| part as f64 / n.max(1) as f64;
    let leak = match by_rows.rows_in_training {
        Some(leaked) => check(
            leaked == 0,
            "Leak",
            format!("{leaked} of {n} {rows} equal a training row"),
            "metrics are too good by these rows: read those of the new rows",
        ),
        None => skipped("Leak", "the run keeps no list of its training rows: train again"),
    };
    let duplicates = check(
        share(by_rows.repeated_rows) < 0.2,
        "Duplicates",
        format!(
            "{:.1} % of the {rows} equal another one; the largest group has {}",
            100.0 * share(by_rows.repeated_rows),
            by_rows.largest_group
        ),
        "a few kinds of flows weigh much in every metric: look at metrics without duplicates",
    );
    let contradicting = check(
        share(by_rows.contradicting_rows) < 0.01,
        "Contradicting labels",
        format!("equal rows with different labels cap the accuracy at {:.4}", 1.0 - share(by_rows.contradicting_rows)),
        "look for a column that would tell these rows apart, or for wrong labels",
    );
    vec![leak, duplicates, contradicting]
}

/// Whether rows are like those of training.
fn of_drift(drift: Option<&Drift>) -> Check {
    const WHAT: &str = "Drift since training";
    let Some(drift) = drift else { return skipped(WHAT, "the run has no profile.json: `finetune` leaves one now") };
    let line = drift.line();
    let found = line.strip_prefix("drift: ").unwrap_or(&line).to_owned();
    if drift.rows < MIN_ROWS {
        return skipped(WHAT, &found);
    }
    let advice = format!("verdicts should not be trusted: {}", drift.warnings.join("; "));
    check(drift.warnings.is_empty(), WHAT, found, &advice)
}

/// A feature as the page shows how it has drifted.
fn drifted(of: &FeatureDrift) -> Drifted {
    Drifted {
        feature: of.feature.clone(),
        psi: of.size(),
        change: match of.change {
            Change::None => "",
            Change::Shifted => "shifted",
            Change::Moved => "moved",
        },
        missing: [of.training_missing, of.missing],
        never_seen: of.never_seen,
    }
}

/// What a reader should ask of verdicts. `corrected` says what was done to probabilities.
fn of_verdicts(held_out: &Evaluation, rows: &str, corrected: &str) -> Result<Vec<Check>> {
    let n = held_out.metrics.n;
    let [benign, attacks] = held_out.confusion.map(|row| row.iter().sum::<u64>());
    let mut found = vec![check(
        benign.min(attacks) as f64 >= 0.05 * n as f64,
        "Balance",
        format!("{benign} benign rows and {attacks} attacks are among the {rows}"),
        "accuracy says little where one class is rare: read recall, precision and PR-AUC",
    )];
    if let Some(accuracy) = held_out.metrics.accuracy {
        let majority = benign.max(attacks) as f64 / n.max(1) as f64;
        found.push(check(
            accuracy > majority,
            "Better than one answer for all",
            format!("accuracy {accuracy:.4}; whoever says the same of every row has {majority:.4}"),
            "the classifier has learned nothing at this threshold: look at the losses below, and at the threshold",
        ));
    }
    found.push(match held_out.ece_debiased {
        Some(ece) => check(
            ece < 0.03,
            "Calibration",
            format!("probabilities are off by {ece:.4} in the mean (ECE without its bias){corrected}"),
            "`nids-mixer calibrate` makes scores probabilities",
        ),
        None => skipped("Calibration", "there are no rows to compare probabilities with"),
    });
    let budgets = [1e-4, 1e-3, 1e-2].map(|fpr| rows_needed(fpr, CONFIDENCE).map(|needed| (fpr, needed)));
    let budgets = budgets.into_iter().collect::<nids_eval::Result<Vec<_>>>()?;
    let (text, is_enough) = match budgets.iter().find(|(_, needed)| *needed <= benign) {
        Some((fpr, _)) => (format!("{benign} benign {rows} can certify {} % of false alarms", 100.0 * fpr), true),
        None => (format!("{benign} benign {rows} cannot certify even 1 % of false alarms, which takes 299"), false),
    };
    found.push(check(is_enough, "Enough benign rows", text, "name a file with more of them in `nids-mixer calibrate --data`"));
    found.push(match &held_out.found_by_category {
        Some(categories) => {
            let missed = categories.iter().filter(|(_, of)| of.rows >= CATEGORY_ROWS && of.recall < 0.5);
            let missed: Vec<String> = missed.map(|(name, of)| format!("{name} ({:.2} of {})", of.recall, of.rows)).collect();
            let text = if missed.is_empty() {
                format!("at least half of every category with {CATEGORY_ROWS} rows is found")
            } else {
                format!("fewer than half are found of: {}", missed.join(", "))
            };
            check(missed.is_empty(), "Every kind of attack", text, "label more rows of these, or lower the threshold")
        }
        None => skipped("Every kind of attack", "the rows have no categories"),
    });
    Ok(found)
}

/// Whether training met numbers that are not finite.
fn of_training(run: &Run) -> Result<Check> {
    let nonfinite = |stage| {
        let lines = if run.has_finished(stage) { run.metrics(stage)? } else { Vec::new() };
        Ok::<_, Error>(lines.iter().filter(|line| matches!(line, Line::Nonfinite { .. })).count())
    };
    let n_nonfinite = nonfinite(Stage::Pretrain)? + nonfinite(Stage::Finetune)?;
    Ok(check(
        n_nonfinite == 0,
        "Numbers",
        format!("{n_nonfinite} steps of training had non-finite values (NaN, Inf)"),
        "lower the learning rate of that stage and train again",
    ))
}

/// What a run reached in validation, and from how many labels. It is comparable with `to`, which has `n_train` rows to train on, where
/// both have held out the same rows.
fn compared(run: &Run, to: &Run, n_train: usize) -> Result<RunFigures> {
    let config = run.config_of(Stage::Finetune)?;
    let rows_of = |run: &Run| -> Result<_> {
        let config = run.config_of(Stage::Finetune)?;
        let (content, data) = (run.data_of(Stage::Finetune, "data.train")?, config.data.clone());
        let cut = (config.seed, data.validation_fraction.to_bits(), data.inner_validation);
        Ok((content, data.schema, data.without, data.synthetic, cut))
    };
    let has_same_rows = rows_of(run)? == rows_of(to)?;
    let labels = match (config.finetune.labels, &config.finetune.label_rows) {
        (Some(n), _) => Some(n),
        (None, Some(path)) => fs::read_to_string(path).ok().map(|text| text.lines().count()),
        (None, None) => has_same_rows.then_some(n_train),
    };
    let last = run.metrics(Stage::Finetune)?.into_iter().rev().find_map(|line| match line {
        Line::Validation { validation, .. } => Some(*validation),
        _ => None,
    });
    let folder = run.folder();
    let metrics = last.ok_or_else(|| Error::artefact(folder, "has no validation metrics", "run `nids-mixer finetune` again"))?;
    let name = folder.file_name().map_or_else(|| config.name.clone(), |name| name.to_string_lossy().into_owned());
    Ok(RunFigures { name, labels, has_same_rows, metrics })
}

/// Points over steps, by member.
type Members = BTreeMap<Option<usize>, Vec<(f64, f64)>>;

/// What has been done to the model's scores since it was trained.
fn corrected(detector: &Detector) -> &'static str {
    let operation = detector.operation();
    match &operation.calibration {
        _ if operation.adaptation.is_some() => "; they are adapted to other flows than these",
        Some((calibration, _)) if calibration.rows.files.is_none() => {
            "; they were calibrated on these very rows, so that this, and the threshold, look somewhat too good"
        }
        _ => "",
    }
}

/// What an audit of both parts says of columns: whether one gives the label away, names a row or a time, or has drifted.
fn audited(train: Flows, val: Flows) -> Vec<Check> {
    let of = [
        (CheckName::Leaks, "Columns that give the label away"),
        (CheckName::Ids, "Columns that name a row"),
        (CheckName::Times, "Columns that tell the time"),
        (CheckName::Drift, "Drift of the rows held out"),
    ];
    let files = [("training rows", train), ("rows held out", val)].map(|(name, flows)| File::new(name, flows));
    let audit = nids_audit::audit(files.into());
    let found = audit.checks.into_iter().filter_map(|check| {
        let (_, what) = *of.iter().find(|(name, _)| *name == check.check)?;
        let columns: Vec<String> = check.findings.iter().filter_map(|finding| finding.column.clone()).collect();
        let columns = if columns.is_empty() { String::new() } else { format!(": {}", columns.join(", ")) };
        let status = match check.verdict {
            Verdict::Pass | Verdict::Note => Status::Pass,
            Verdict::Warn => Status::Warn,
            Verdict::Skipped => Status::Skipped,
        };
        let advice = check.advice.filter(|_| status == Status::Warn).unwrap_or_default();
        Some(Check { status, what, found: format!("{}{columns}", check.found), advice })
    });
    found.collect()
}

/// What a stage logged over its steps; None where it took none.
fn training(run: &Run, stage: Stage) -> Option<Training> {
    let lines = if run.has_finished(stage) { run.metrics(stage).ok()? } else { return None };
    let mut found: [Members; 4] = Default::default();
    let [loss, validation, rate, norm] = &mut found;
    for line in lines {
        let add = |to: &mut Members, member, step: u64, value: f64| {
            to.entry(member).or_default().push((step as f64, value));
        };
        match line {
            Line::Step { step, member, loss: mean, lr, grad_norm, .. } => {
                add(loss, member, step, mean);
                add(rate, member, step, lr);
                add(norm, member, step, grad_norm);
            }
            Line::Validation { step, member, members: None, heads: None, validation: metrics } => {
                metrics.log_loss.iter().for_each(|&mean| add(validation, member, step, mean));
            }
            _ => {}
        }
    }
    if found[0].is_empty() {
        return None;
    }
    let [loss, validation, lr, grad_norm] = found;
    let named = |what: &str, members: Members| -> Vec<Series> {
        let name = |member: Option<usize>| member.map_or_else(|| what.to_owned(), |k| format!("{what}, member {k}"));
        members.into_iter().map(|(member, points)| Series { name: name(member), points }).collect()
    };
    Some(Training {
        stage: stage.name().to_owned(),
        loss: [named("training", loss), named("validation", validation)].concat(),
        lr: named("learning rate", lr),
        grad_norm: named("gradient norm", grad_norm),
        max_update: updates(run, stage),
    })
}

/// The largest update of the layers that move least in the end, as the monitor has observed them; of the first member.
fn updates(run: &Run, stage: Stage) -> Vec<Series> {
    let text = fs::read_to_string(run.folder().join("monitor.jsonl")).unwrap_or_default();
    let mut layers: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for line in text.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok()) {
        let is_wanted = line["stage"] == stage.name() && line["member"].as_u64().unwrap_or(0) == 0;
        let Some((step, updates)) = line["step"].as_f64().zip(line["max_update"].as_object()).filter(|_| is_wanted) else {
            continue;
        };
        for (layer, update) in updates {
            update.as_f64().into_iter().for_each(|update| layers.entry(layer.clone()).or_default().push((step, update)));
        }
    }
    let mut series: Vec<Series> = layers.into_iter().map(|(name, points)| Series { name, points }).collect();
    let last = |series: &Series| series.points.last().map_or(0.0, |point| point.1);
    series.sort_by(|a, b| last(a).total_cmp(&last(b)).then_with(|| a.name.cmp(&b.name)));
    series.truncate(LAYERS);
    series
}

/// Two principal components of what the classifier sees of rows held out, by class.
fn latents(run: &Run, config: &Config, detector: &Detector, val: &Flows) -> Result<Vec<Series>> {
    let step = val.len().div_ceil(POINTS).max(1);
    let rows: Vec<u32> = (0..val.len() as u32).step_by(step).collect();
    if rows.len() < 3 {
        return Ok(Vec::new());
    }
    reserve_openblas(1, "")?; // components use LAPACK, whatever `engine.gemm` is
    let some = val.select(&rows);
    let weights = WeightsFile::read(&run.require(Stage::Finetune, MODEL)?, Stage::Finetune)?;
    let space = Space::new(config, QueryStrategy::Uncertainty, Some(detector), detector.tokeniser(), &weights)?;
    let (numbers, _) = space.of(&detector.tokeniser().tokenise(&some)?, None);
    let width = numbers.len() / rows.len();
    let numbers = Array2::from_shape_vec((rows.len(), width), numbers).expect("as many numbers a row");
    let refuse = |error: nids_heads::Error| Error::Numerics(format!("principal components of latents: {error}"));
    let pca = Pca::fit(&numbers, 2).map_err(refuse)?;
    if pca.n_components() < 2 {
        return Ok(Vec::new());
    }
    let places = pca.transform(&numbers);
    let of_class = |class: u8, name: &str| {
        let rows = places.rows().into_iter().zip(labels(&some)).filter(|&(_, &label)| label == class);
        Series { name: name.to_owned(), points: rows.map(|(place, _)| (place[0], place[1])).collect() }
    };
    Ok(vec![of_class(0, "benign"), of_class(1, "attacks")])
}

/// What the run was made from.
fn facts(run: &Run, config: &Config, detector: &Detector, rows: &str) -> Result<Vec<(String, String)>> {
    let mut facts = vec![
        ("nids-mixer".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("settings".to_owned(), format!("sha256 {}", config.hash())),
        ("rows".to_owned(), rows.to_owned()),
    ];
    if let Some(model) = &detector.operation().model {
        facts.push((MODEL.to_owned(), format!("sha256 {}, {} bytes", model.sha256, model.bytes)));
    }
    for role in ["data.train", "data.unlabelled", "finetune.label_rows", "finetune.teachers"] {
        if let Some(digest) = run.data_of(Stage::Finetune, role)? {
            facts.push((role.to_owned(), format!("sha256 {}, {} bytes", digest.sha256, digest.bytes)));
        }
    }
    for name in [CALIBRATION, ADAPTATION].into_iter().filter(|name| run.has(name)) {
        let Digest { sha256, bytes } = digest(&run.folder().join(name))?;
        facts.push((name.to_owned(), format!("sha256 {sha256}, {bytes} bytes")));
    }
    if config.data.train.is_none() {
        facts.push(("data.train".to_owned(), format!("{} generated flows", config.data.synthetic.rows)));
    }
    Ok(facts)
}
