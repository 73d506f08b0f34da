//! What is drawn at random is drawn by the seed, and anew at every step.

use std::collections::BTreeSet;

use nids_flows::draw_labelled;
use serde_json::Value as Json;

use super::resume_tests::run_stage;
use crate::data::{Labelled, labelled};
use crate::testing::{Folder, cells, column, csv, flows, metrics};
use nids_config::Stage;
use nids_flows::all_rows;
use nids_store::progress::Silent;
use nids_train::Sampler;

const STEPS: usize = 6;

/// Every step sees all rows, which are equal, and its rate is too small to move a weight: losses differ by what is drawn.
const SETTINGS: &[&str] = &[
    "name=x",
    "data.schema=DIR/schema.yaml",
    "data.train=DIR/train.csv",
    "tokeniser.bins=4",
    "tokeniser.min_count=1",
    "model.dim=8",
    "model.depth=2",
    "model.dropout=0",
    "model.drop_path=0",
    "engine.threads=1",
    "pretrain.steps=6",
    "pretrain.batch_size=8",
    "pretrain.log_every=1",
    "pretrain.lr=1e-30",
    "pretrain.schedule=constant",
    "pretrain.warmup=0",
    "finetune.from=scratch",
    "finetune.steps=6",
    "finetune.batch_size=8",
    "finetune.log_every=1",
    "finetune.lr=1e-30",
    "finetune.schedule=constant",
    "finetune.warmup=0",
];

/// Four attacks and four benign rows that are equal, and one more of each, which are held out: the eight stay together, and
/// there is no room for them.
fn folder() -> Folder {
    let all = cells(&flows(60, 5));
    let [category, label] = ["attack_cat", "label"].map(|name| column(&all, name));
    let labelled = |row: usize, is_attack: bool| {
        let mut cells = all[row].clone();
        let [category_cell, label_cell] = if is_attack { ["DoS", "1"] } else { ["Normal", "0"] };
        category_cell.clone_into(&mut cells[category]);
        label_cell.clone_into(&mut cells[label]);
        cells
    };
    let equal = (0..8).map(|i| labelled(1, i % 2 == 0));
    let rows: Vec<Vec<String>> =
        [all[0].clone()].into_iter().chain(equal).chain([labelled(2, true), labelled(3, false)]).collect();
    let folder = Folder::new();
    folder.write("train.csv", csv(&rows));
    folder.write("unlabelled.csv", csv(&rows[..9]));
    folder
}

/// How many different values a part of the loss has over the steps.
fn distinct(stage: Stage, part: &str, settings: &[&str]) -> usize {
    let folder = folder();
    let run = folder.run("run");
    run_stage(stage, &folder.config(&[SETTINGS, settings]), &run, &mut Silent).unwrap();
    let values: Vec<f64> = metrics(run.folder()).iter().filter_map(|line| line.get(part)?.as_f64()).collect();
    assert_eq!(values.len(), STEPS, "{settings:?}");
    values.into_iter().map(f64::to_bits).collect::<BTreeSet<u64>>().len()
}

#[test]
fn no_two_steps_hide_the_same_features() {
    for of_mae in ["encoder=mask_token", "encoder=visible_only", "mask_ratio={}"] {
        let settings = format!("pretrain.objective.mae.{of_mae}");
        assert_eq!(distinct(Stage::Pretrain, "loss", &[&settings]), STEPS, "{of_mae}");
    }
}

#[test]
fn no_two_steps_draw_the_same_latents() {
    assert_eq!(distinct(Stage::Pretrain, "loss", &["pretrain.objective.vae.beta_warmup=0"]), STEPS);
}

#[test]
fn no_two_steps_drop_or_hide_the_same_from_a_student() {
    // rows without labels are equal in all that the loss knows of them, whatever their order
    let teacher =
        ["data.unlabelled=DIR/unlabelled.csv", "finetune.mean_teacher.batch_size=8", "finetune.mean_teacher.mask_ratio=0"];
    let consistency = |draw: &str| distinct(Stage::Finetune, "consistency", &[&teacher[..], &[draw]].concat());
    for draw in ["finetune.mean_teacher.mask_ratio=0.4", "model.dropout=0.5", "model.drop_path=0.5"] {
        // branches that are dropped for as many of the eight rows cost the same
        assert!(consistency(draw) > STEPS / 2, "{draw}");
    }
    assert_eq!(consistency("finetune.mean_teacher.mask_ratio=0"), 1, "nothing is drawn, and yet steps differ");
}

#[test]
fn steps_take_the_rows_that_the_seed_gives_them() {
    // weights overflow at the first step, and every step after it names the rows that it took
    const DIVERGES: &[&str] = &[
        "pretrain.lr=1e30",
        "pretrain.nonfinite=skip",
        "finetune.lr=1e30",
        "finetune.nonfinite=skip",
        "data.unlabelled=DIR/unlabelled.csv",
    ];
    const LABELS: usize = 20;
    let folder = Folder::new();
    folder.write("train.csv", flows(60, 5));
    folder.write("unlabelled.csv", flows(30, 6));
    let teacher = ["finetune.labels=20", "finetune.mean_teacher.batch_size=4"];
    for (stage, settings) in [(Stage::Pretrain, &[][..]), (Stage::Finetune, &[]), (Stage::Finetune, &teacher)] {
        for seed in [0, 7] {
            let seed_setting = format!("seed={seed}");
            let config = folder.config(&[SETTINGS, DIVERGES, settings, &[&seed_setting]]);
            let run = folder.run(&format!("{stage}-{}-{seed}", settings.len()));
            let Labelled { flows, split } = labelled(&config, &mut run.look(stage, &config), &mut Silent).unwrap();
            // indices as the stage counts them, and how it names them
            let (n, train) = (split.train.len(), &split.train);
            let (mut sampler, n_labelled) = match (stage, settings) {
                (Stage::Pretrain, _) => (Sampler::new(seed, all_rows(n + 30)), n),
                (_, []) => (Sampler::new(seed, train.clone()), 60),
                _ => {
                    let with = draw_labelled(flows.labels().unwrap(), train, LABELS, seed).unwrap();
                    let without = train.iter().copied().filter(|row| !with.contains(row)).chain(60..90).collect();
                    (Sampler::new(seed, with).beside(seed, without, 4), 60)
                }
            };
            let name = |index: u32| match (stage, (index as usize).checked_sub(n_labelled)) {
                (_, Some(index)) => format!("row {index} of `data.unlabelled`"),
                (Stage::Pretrain, None) => format!("row {} of `data.train`", train[index as usize]),
                (_, None) => format!("row {index} of `data.train`"),
            };
            if let Err(error) = run_stage(stage, &config, &run, &mut Silent) {
                assert_eq!(error.exit_code(), 5, "{error}"); // what is left has no probabilities for validation rows
            }
            let mut samples = Vec::new();
            let mut n_named = 0;
            for line in metrics(run.folder()) {
                let Some(rows) = line.get("rows").and_then(Json::as_array) else { continue };
                sampler.batch(line["step"].as_u64().unwrap() - 1, 8, &mut samples);
                let wanted: Vec<String> = samples.iter().map(|sample| name(sample.row)).collect();
                assert_eq!(
                    rows.iter().map(|row| row.as_str().unwrap()).collect::<Vec<_>>(),
                    wanted,
                    "{stage}, {settings:?}, {line}"
                );
                n_named += 1;
            }
            assert!(n_named >= STEPS - 2, "{stage}, {settings:?}: {n_named} steps name their rows");
        }
    }
}
