use nids_flows::read;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value as Json, json};
use std::fs;

use super::*;
use crate::stages::finetune;
use crate::testing::{Folder, cells, column, csv, flows};
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

fn verdicts(run: &Run, data: &Path) -> (Vec<Vec<String>>, PredictSummary) {
    let mut out = Vec::new();
    let summary = predict(run, data, &mut out, &mut Silent).unwrap();
    (cells(&String::from_utf8(out).unwrap()), summary)
}

#[test]
fn a_probability_at_the_threshold_is_an_attack() {
    for task in TASKS {
        let folder = folder();
        let data = folder.path("train.csv");
        let detector = Detector::open(&trained(&folder, task, 0.5)).unwrap();
        let flows = read(&data, detector.tokeniser().schema(), Labels::Required).unwrap();
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

            let metrics = evaluate(&run, &data, &mut Silent).unwrap();
            let right = is_attack.iter().zip(flows.labels().unwrap()).filter(|(called, label)| u8::from(**called) == **label);
            assert_eq!(metrics.accuracy, Some(right.count() as f64 / 120.0), "{task}, {at}");
            if let Some(categories) = metrics.categories {
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
        let errors = [
            predict(&run, &data, &mut out, &mut Silent).map(drop).unwrap_err(),
            evaluate(&run, &data, &mut Silent).map(drop).unwrap_err(),
        ];
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
    ] {
        let folder = folder();
        let run = folder.run("run");
        let bits = |threads: usize, cut: usize| {
            let more = [task, &format!("engine.{gemm}"), &format!("model.dim={dim}")].map(str::to_owned);
            let config =
                folder.config(&[SETTINGS, &more.each_ref().map(String::as_str), &[&format!("engine.threads={threads}")]]);
            if !run.has_finished(Stage::Finetune) {
                finetune(&config, &run, &mut Silent).unwrap();
            }
            let detector = Detector::open(&run).unwrap();
            let flows = read(&folder.path("train.csv"), detector.tokeniser().schema(), Labels::Required).unwrap();
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
