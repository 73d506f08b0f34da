use nids_flows::read;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value as Json, json};
use std::fs;
use std::path::Path;

use super::*;
use crate::stages::{finetune, pretrain};
use crate::testing::{Folder, Told, cells, column, csv, flows};
use nids_config::Stage;
use nids_store::artefacts::digest;
use nids_store::progress::Silent;
use nids_store::run::MODEL;

const SETTINGS: &[&str] = &[
    "name=x",
    "data.schema=DIR/schema.yaml",
    "data.train=DIR/train.csv",
    "tokeniser.normalisation=standard",
    "model.dim=8",
    "model.depth=1",
    "engine.threads=1",
    "finetune.from=scratch",
    "finetune.steps=20",
    "finetune.batch_size=32",
];
const TASKS: [&str; 2] = ["finetune.task=binary", "finetune.task=multiclass"];

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("train.csv", flows(120, 3));
    folder
}

/// A run with a classifier of `task`, for which a row is an attack from `threshold` on.
fn trained(folder: &Folder, task: &str, threshold: f64) -> Run {
    let run = folder.run("run");
    let config = folder.config(&[SETTINGS, &[task, &format!("evaluate.threshold={threshold}")]]);
    finetune(&config, &run, &mut Silent).unwrap();
    run
}

/// `predict` with the options that are usual.
fn predict_into(run: &Run, data: &Path, out: &mut Vec<u8>) -> Result<PredictSummary> {
    predict(run, &[data.to_owned()], &PredictOptions::default(), out, &mut |_| Ok(()), &mut Silent)
}

fn evaluated(run: &Run, data: &Path) -> Result<Evaluation> {
    evaluate(run, &[data.to_owned()], &PredictOptions::default(), &mut |_| Ok(()), &mut Silent).map(|found| found.evaluation)
}

fn verdicts(run: &Run, data: &Path) -> (Vec<Vec<String>>, PredictSummary) {
    let mut out = Vec::new();
    let summary = predict_into(run, data, &mut out).unwrap();
    let mut lines = cells(&String::from_utf8(out).unwrap());
    assert_eq!(lines.remove(0)[..3], ["id", "probability", "verdict"]);
    (lines, summary)
}

#[test]
fn a_probability_at_the_threshold_is_an_attack() {
    for task in TASKS {
        let folder = folder();
        let data = folder.path("train.csv");
        let detector = Detector::open(&trained(&folder, task, 0.5)).unwrap();
        let flows = read(&data, detector.tokeniser().schema(), &ReadOptions::labelled()).unwrap();
        let attacks = detector.attacks(&detector.tokeniser().tokenise(&flows).unwrap());
        let mut sorted = attacks.clone();
        sorted.sort_by(f32::total_cmp);
        for at in [sorted[20], sorted[60], sorted[119]].map(f64::from) {
            // the threshold changes no weight
            let run = trained(&folder, task, at);
            let is_attack: Vec<bool> = attacks.iter().map(|&p| f64::from(p) >= at).collect();
            let (lines, summary) = verdicts(&run, &data);
            for (line, &is_attack) in lines.iter().zip(&is_attack) {
                assert_eq!(line[2], if is_attack { "attack" } else { "normal" }, "{task}, {at}: {line:?}");
                assert!(line.get(3).is_none_or(|category| (category != "Normal") == is_attack), "{task}, {at}: {line:?}");
            }
            let called = is_attack.iter().filter(|&&is_attack| is_attack).count();
            assert_eq!((lines.len(), summary.attacks), (120, called as u64));

            let metrics = evaluated(&run, &data).unwrap();
            let right = is_attack.iter().zip(flows.labels().unwrap()).filter(|(called, label)| u8::from(**called) == **label);
            assert_eq!(metrics.metrics.accuracy, Some(right.count() as f64 / 120.0), "{task}, {at}");
            if let Some(categories) = metrics.metrics.categories {
                let normal = categories.classes.iter().position(|class| class.name == "Normal").unwrap();
                let called_normal: u64 = categories.confusion.iter().map(|row| row[normal]).sum();
                assert_eq!(called_normal, 120 - called as u64, "{task}, {at}");
            }
        }
    }
}

/// Makes the weights of a feature so large that they overflow where the feature is large, and nowhere else: numbers that are all
/// equal are normed away.
fn overflow_at_large(run: &Run, feature: &str) {
    let path = run.folder().join(MODEL);
    let bytes = fs::read(&path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let large = |name: &str, view: &TensorView<'_>| match name.strip_prefix(&format!("encoder.embed.{feature}.")) {
        Some("weight") => 1e35_f32.to_le_bytes().repeat(view.data().len() / 4),
        Some("bias") => vec![0; view.data().len()],
        _ => view.data().to_vec(),
    };
    let changed: Vec<(String, TensorView<'_>, Vec<u8>)> =
        file.iter().map(|(name, view)| (name.to_owned(), view.clone(), large(name, &view))).collect();
    let views =
        changed.iter().map(|(name, view, data)| (name, TensorView::new(view.dtype(), view.shape().to_vec(), data).unwrap()));
    let forged = safetensors::serialize(views, metadata.metadata().clone()).unwrap();
    nids_store::artefacts::write_atomic(&path, |out| out.write_all(&forged)).unwrap();
    let manifest_path = run.folder().join("manifest-finetune.json");
    let mut manifest: Json = serde_json::from_slice(&fs::read(&manifest_path).unwrap()).unwrap();
    manifest["outputs"][MODEL] = json!(digest(&path).unwrap());
    nids_store::artefacts::write_atomic(&manifest_path, |out| write!(out, "{manifest}")).unwrap();
}

#[test]
fn a_row_without_a_probability_gets_no_verdict() {
    for task in TASKS {
        let folder = folder();
        let run = trained(&folder, task, 0.5);
        overflow_at_large(&run, "sbytes");
        let mut rows = cells(&flows(40, 8));
        let sbytes = column(&rows, "sbytes");
        folder.write("flows.csv", csv(&rows));
        assert_eq!(verdicts(&run, &folder.path("flows.csv")).0.len(), 40);
        "1e30".clone_into(&mut rows[23][sbytes]);
        folder.write("flows.csv", csv(&rows));
        let (data, mut out) = (folder.path("flows.csv"), Vec::new());
        let errors = [predict_into(&run, &data, &mut out).map(drop).unwrap_err(), evaluated(&run, &data).map(drop).unwrap_err()];
        assert!(out.is_empty(), "{task}: {}", String::from_utf8_lossy(&out));
        for error in errors {
            assert!(error.exit_code() == 5 && error.to_string().ends_with("no number for row `23`"), "{task}: {error}");
        }
    }
}

#[test]
fn a_verdict_is_a_function_of_the_row_alone() {
    // narrow, and with as many classes as bfloat16 multiplies: products of one row are on one side of its limit, of many on the other
    for (gemm, dim, task) in [
        ("gemm=openblas", 64, TASKS[0]),
        ("gemm=openblas", 8, TASKS[1]),
        ("gemm=tiles", 16, TASKS[1]),
        ("precision=bf16", 16, TASKS[1]),
        ("precision=bf16", 8, TASKS[0]),
        ("gemm=tiles", 8, "finetune.from=features"),
        ("precision=bf16", 8, "finetune.from=frozen"),
        ("gemm=tiles", 8, "finetune.heads=[extra_trees, boosting]"),
    ] {
        let folder = folder();
        let run = folder.run("run");
        let bits = |threads: usize, cut: usize| {
            let more = [task, &format!("engine.{gemm}"), &format!("model.dim={dim}")].map(str::to_owned);
            let config =
                folder.config(&[SETTINGS, &more.each_ref().map(String::as_str), &[&format!("engine.threads={threads}")]]);
            if !run.has_finished(Stage::Finetune) {
                if task == "finetune.from=frozen" {
                    pretrain(&config, &run, &mut Silent).unwrap();
                }
                finetune(&config, &run, &mut Silent).unwrap();
            }
            let detector = Detector::open(&run).unwrap();
            let flows = read(&folder.path("train.csv"), detector.tokeniser().schema(), &ReadOptions::labelled()).unwrap();
            let rows: Vec<u32> = (0..flows.len() as u32).collect();
            let probabilities =
                |rows: &[u32]| detector.probabilities(&detector.tokeniser().tokenise(&flows.select(rows)).unwrap());
            rows.chunks(cut).flat_map(probabilities).map(f32::to_bits).collect::<Vec<u32>>()
        };
        let whole = bits(1, 1000);
        for (threads, cut) in [(1, 1), (1, 2), (2, 3), (1, 7), (3, 50)] {
            assert!(bits(threads, cut) == whole, "{gemm}, {dim}, {task}: in pieces of {cut}, {threads} threads");
        }
    }
}

/// The probabilities that a run with these settings gives each of 120 rows.
fn probabilities_with(folder: &Folder, settings: &[&str]) -> Vec<f32> {
    let config = folder.config(&[SETTINGS, &["pretrain.steps=5", "pretrain.batch_size=16", "finetune.labels=40"], settings]);
    let run = folder.run("votes");
    if config.upstream(Stage::Finetune).contains(&Stage::Pretrain) && !run.has_finished(Stage::Pretrain) {
        pretrain(&config, &run, &mut Silent).unwrap();
    }
    finetune(&config, &run, &mut Silent).unwrap();
    let detector = Detector::open(&run).unwrap();
    let flows = read(&folder.path("train.csv"), detector.schema(), &ReadOptions::labelled()).unwrap();
    detector.score(&flows).unwrap().iter().map(|verdict| verdict.probability).collect()
}

#[test]
fn log_odds_are_the_mean_of_the_votes() {
    let folder = folder();
    let log_odds = |p: f32| {
        let p = p.clamp(1e-3, 1.0 - 1e-3);
        (p / (1.0 - p)).ln()
    };
    let assert_mean = |what: &str, p: f32, votes: &[f32]| {
        let mean = votes.iter().map(|&p| log_odds(p)).sum::<f32>() / votes.len() as f32;
        let wanted = 1.0 / (1.0 + (-mean).exp());
        assert!((p - wanted).abs() < 1e-5, "{what}: {p} of {votes:?}");
    };
    let heads = ["logistic", "kernel_machine", "extra_trees", "boosting"];
    let mut of_trees = Vec::new();
    for from in ["finetune.from=frozen", "finetune.from=features"] {
        let together = probabilities_with(&folder, &[from]);
        let alone = heads.map(|head| probabilities_with(&folder, &[from, &format!("finetune.heads=[{head}]")]));
        for (row, &p) in together.iter().enumerate() {
            assert_mean(&format!("{from}, row {row}"), p, &alone.each_ref().map(|of_head| of_head[row]));
        }
        assert!((0..4).all(|a| (0..a).all(|b| alone[a] != alone[b])), "{from}: heads that say the same would not show");
        of_trees = alone[2..].to_vec();
        // trees whose leaves are pure are as sure as a vote may be of the rows that they have learned
        let mut sorted = of_trees[0].clone();
        sorted.sort_by(f32::total_cmp);
        assert!((sorted[0] - 1e-3).abs() < 1e-6 && (sorted[119] - 0.999).abs() < 1e-6, "{from}: {sorted:?}");
    }
    let together = probabilities_with(&folder, &["finetune.heads=[extra_trees, boosting]"]);
    let network = probabilities_with(&folder, &[]);
    for (row, &p) in together.iter().enumerate() {
        assert_mean(&format!("network and trees, row {row}"), p, &[network[row], of_trees[0][row], of_trees[1][row]]);
    }
}

#[test]
fn frozen_heads_stand_on_the_pretrained_encoder() {
    let of_seed = |seed: &str| {
        let folder = folder();
        probabilities_with(&folder, &["finetune.from=frozen", "finetune.heads=[logistic]", "finetune.seed=1", seed])
    };
    let folder = folder();
    let of_features = probabilities_with(&folder, &["finetune.from=features", "finetune.heads=[logistic]"]);
    // more steps of pretraining, the same cut
    let other = {
        let folder = self::folder();
        probabilities_with(&folder, &["finetune.from=frozen", "finetune.heads=[logistic]", "finetune.seed=1", "pretrain.steps=6"])
    };
    let first = of_seed("seed=0");
    assert!(first != other && first != of_features);
    assert!(first == of_seed("seed=0"));
}

/// What a command says.
fn told(command: impl FnOnce(&mut dyn Progress)) -> Vec<String> {
    let mut told = Told::default();
    command(&mut told);
    told.0
}

/// Generated flows with other texts: `text` of a row.
fn with_texts(n: usize, seed: u64, name: &str, text: impl Fn(usize) -> &'static str) -> String {
    let mut rows = cells(&flows(n, seed));
    let place = column(&rows, name);
    (0..n).for_each(|row| text(row).clone_into(&mut rows[row + 1][place]));
    csv(&rows)
}

#[test]
fn a_file_is_told_of_with_what_training_has_cut_and_never_seen() {
    let folder = Folder::new();
    let train = |row: usize| if row < 4 { "rare" } else { ["tcp", "udp"][row % 2] };
    folder.write("train.csv", with_texts(120, 3, "proto", train));
    let run = trained(&folder, TASKS[0], 0.5);
    let of = |text: &dyn Fn(usize) -> &'static str| {
        folder.write("flows.csv", with_texts(40, 8, "proto", text));
        let data = folder.path("flows.csv");
        let predicted = told(|progress| {
            drop(
                predict(
                    &run,
                    std::slice::from_ref(&data),
                    &PredictOptions::default(),
                    &mut Vec::new(),
                    &mut |_| Ok(()),
                    progress,
                )
                .unwrap(),
            );
        });
        let evaluated = told(|progress| {
            drop(evaluate(&run, std::slice::from_ref(&data), &PredictOptions::default(), &mut |_| Ok(()), progress).unwrap());
        });
        assert_eq!(predicted, evaluated);
        let path = data.display().to_string();
        let of_proto = predicted.iter().filter(|text| text.contains("`proto`"));
        of_proto.map(|text| text.replace(&path, "FILE")).collect::<Vec<_>>()
    };
    assert_eq!(of(&|_| "tcp"), [""; 0]);
    assert_eq!(
        of(&|row| if row < 21 { "new" } else { "tcp" }),
        [
            "warning: FILE: more than half of the rows (21 of 40) have a value of `proto` that was never seen in training, read as \
         \"other\": compare how training data and this file spell it"
        ]
    );
    assert_eq!(
        of(&|row| if row < 4 { "new" } else { ["rare", "udp"][row % 2] }),
        [
            "FILE: 4 of 40 rows: `proto` has a value that was never seen in training, read as \"other\"",
            "FILE: 18 of 40 rows: `proto` has a value that training has cut, read as \"other\"",
        ]
    );
    assert_eq!(
        of(&|row| if row == 5 { "-" } else { "tcp" }),
        [
            "FILE: 40 rows, missing: `proto` in 1",
            "warning: FILE: 40 rows, missing here but never in training: `proto` in 1: the network has not learnt what that means",
            "FILE: 1 of 40 rows: `proto` has a value that was never seen in training, read as \"other\"",
        ]
    );
}

#[test]
fn training_says_what_it_cuts_and_what_is_missing_and_its_manifest_counts_the_rows_that_it_trains_on() {
    let folder = Folder::new();
    let train = |row: usize| if row < 2 { "rare" } else { ["tcp", "-", "udp"][row % 3] };
    folder.write("train.csv", with_texts(120, 3, "proto", train));
    let config = folder.config(&[SETTINGS, &["pretrain.steps=2", "pretrain.batch_size=32", "tokeniser.min_count=10"]]);
    let run = folder.run("run");
    let data = folder.path("train.csv");
    let schema = nids_flows::Schema::resolve(&config.data.schema).unwrap();
    let flows = read(&data, &schema, &ReadOptions::labelled()).unwrap();
    let split = nids_flows::split(&flows, config.data.validation_fraction, config.seed).unwrap();
    let missing = |rows: &[u32]| json!({ "proto": rows.iter().filter(|&&row| row > 1 && row % 3 == 1).count() });
    for (stage, said) in [
        ("pretrain", told(|progress| crate::stages::pretrain(&config, &run, progress).unwrap())),
        ("finetune", told(|progress| drop(finetune(&config, &run, progress).unwrap()))),
    ] {
        let n_missing = (2..120).filter(|row| row % 3 == 1).count();
        let wanted = format!("{}: 120 rows, missing: `proto` in {n_missing}", data.display());
        assert_eq!(said.iter().filter(|text| text.contains("missing")).collect::<Vec<_>>(), [&wanted], "{stage}");
        let cuts: Vec<&String> = said.iter().filter(|text| text.starts_with("`proto`: 3 of 4 categories are kept; ")).collect();
        assert_eq!(cuts.len(), 1, "{said:?}");
        let manifest = fs::read(run.folder().join(format!("manifest-{stage}.json"))).unwrap();
        assert_eq!(serde_json::from_slice::<Json>(&manifest).unwrap()["missing"], missing(&split.train), "{stage}");
    }
    // of few labels, only those
    let few = folder.config(&[SETTINGS, &["finetune.labels=20"]]);
    let run = folder.run("few");
    finetune(&few, &run, &mut Silent).unwrap();
    let manifest: Json = serde_json::from_slice(&fs::read(run.folder().join("manifest-finetune.json")).unwrap()).unwrap();
    let n = manifest["missing"]["proto"].as_u64().unwrap();
    assert!((1..20).contains(&n), "{n} of 20 rows");
}
