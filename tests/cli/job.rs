//! The job and its variants: three stages, metrics, verdicts.

use ndarray::{Array2, Array3, ArrayD, s};
use nids_store::npy;
use safetensors::SafeTensors;
use serde_json::Value as Json;

use crate::bench::{Bench, column, edit, on_flows, small};

/// Metrics of `run` on `flows.csv`.
fn evaluate(bench: &Bench) -> Json {
    serde_json::from_str(&bench.prints("evaluate --run run --data flows.csv --json")).unwrap()
}

#[test]
fn evaluate_prints_one_json_object_with_every_metric() {
    let bench = Bench::trained();
    let metrics = evaluate(&bench);
    let names = "accuracy balanced_accuracy precision recall f1 roc_auc pr_auc recall_at_fpr_1pct";
    for name in names.split(' ') {
        let value = metrics[name].as_f64().unwrap_or_else(|| panic!("{name} in {metrics}"));
        assert!((0.0..=1.0).contains(&value), "{name}: {value}");
    }
    assert_eq!(metrics["n"], 300);
    assert!(metrics["roc_auc"].as_f64() > Some(0.7), "not even the obvious is learned: {metrics}");
    let table = bench.prints("evaluate --run run --data flows.csv");
    assert!(table.contains("balanced accuracy") && table.contains("at the threshold") && table.lines().count() > 30, "{table}");
}

#[test]
fn evaluate_says_what_repeated_and_known_rows_make_of_metrics() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let known = evaluate(&bench);
    // the rows held out are the new ones
    assert_eq!((&known["rows_in_training"], &known["new_rows"]["n"]), (&240.into(), &60.into()));
    let held_out = bench.metrics("run", "finetune").last().unwrap()["validation"].clone();
    assert_eq!((&known["new_rows"]["accuracy"], &known["new_rows"]["roc_auc"]), (&held_out["accuracy"], &held_out["roc_auc"]));
    let again: Vec<&str> = flows.lines().chain(flows.lines().skip(1).take(200)).collect();
    bench.file("again.csv", again.join("\n"));
    let found: Json = serde_json::from_str(&bench.prints("evaluate --run run --data again.csv --json")).unwrap();
    assert_eq!((&found["n"], &found["different_rows"]), (&500.into(), &known["different_rows"]));
    let [repeated, at_first] = [&found, &known].map(|of| of["repeated_rows"].as_u64().unwrap());
    assert!(repeated >= 400 && at_first < 200, "{repeated} {at_first}");
    assert_eq!(found["without_duplicates"], known["without_duplicates"]);
    assert_ne!(found["accuracy"], found["without_duplicates"]["accuracy"]);
    let [low, high] = [0, 1].map(|end| found["intervals"]["accuracy"][end].as_f64().unwrap());
    let accuracy = found["accuracy"].as_f64().unwrap();
    assert!(low < accuracy && accuracy < high, "{low} {accuracy} {high}");
    let table = bench.prints("evaluate --run run --data again.csv");
    assert!(table.contains("no duplicates") && table.contains("new rows"), "{table}");
}

#[test]
fn a_run_without_a_list_of_its_training_rows_says_so() {
    let bench = Bench::trained();
    let manifest = bench.read("run/manifest-finetune.json");
    let mut older: Json = serde_json::from_str(&manifest).unwrap();
    older["outputs"].as_object_mut().unwrap().remove("training-rows.bin").unwrap();
    bench.file("run/manifest-finetune.json", older.to_string());
    let (printed, told) = bench.prints_and_tells("evaluate --run run --data flows.csv --json");
    let found: Json = serde_json::from_str(&printed).unwrap();
    assert!(found["new_rows"].is_null() && found["rows_in_training"].is_null() && found["without_duplicates"]["n"].is_u64());
    assert!(told.contains("nobody knows which rows equal a training row: `new_rows` is null"), "{told}");
    bench.file("run/manifest-finetune.json", manifest);
    bench.file("run/training-rows.bin", "nmrows01");
    let error = bench.fails("evaluate --run run --data flows.csv");
    assert!(error.starts_with("exit code 4") && error.contains("training-rows.bin: truncated"), "{error}");
}

#[test]
fn predict_writes_one_line_a_row_in_order() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let (verdicts, told) = bench.prints_and_tells("predict --run run --data flows.csv");
    assert_eq!((verdicts.lines().count(), verdicts.lines().next()), (301, Some("id,probability,verdict")));
    let mut attacks = 0;
    for (verdict, row) in verdicts.lines().skip(1).zip(flows.lines().skip(1)) {
        let [id, probability, verdict] = verdict.split(',').collect::<Vec<_>>()[..] else { panic!("{verdict}") };
        assert_eq!(Some(id), row.split(',').next());
        let probability: f64 = probability.parse().unwrap();
        assert!((0.0..=1.0).contains(&probability));
        assert_eq!(verdict, if probability >= 0.5 { "attack" } else { "normal" });
        attacks += u32::from(verdict == "attack");
    }
    assert!(told.contains(&format!("predict: 300 rows, {attacks} attacks")), "{told}");
    assert_eq!(bench.prints("predict --run run --data flows.csv --output verdicts.csv"), "");
    assert_eq!(bench.read("verdicts.csv"), verdicts);
}

#[test]
fn labels_do_not_reach_a_verdict() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let n_features = column(&flows, "attack_cat");
    bench.file("unlabelled.csv", edit(&flows, |_, cells| cells.truncate(n_features)));
    let verdicts = bench.prints("predict --run run --data flows.csv");
    assert_eq!(bench.prints("predict --run run --data unlabelled.csv"), verdicts);
}

#[test]
fn unknown_categories_are_counted() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let proto = column(&flows, "proto");
    bench.file(
        "new.csv",
        edit(&flows, |line, cells| {
            if (7..10).contains(&line) {
                cells[proto] = "quic".to_owned();
            }
        }),
    );
    let count = |args: &str| {
        let (_, told) = bench.prints_and_tells(args);
        let line = told.lines().find(|line| line.contains("300 rows: `proto` has a value that was never seen in training"));
        line.map_or(0, |line| line.split(' ').nth(1).unwrap().parse::<u32>().unwrap())
    };
    // rows held out may have values of their own
    let before = count("predict --run run --data flows.csv");
    let after = count("predict --run run --data new.csv");
    assert!((before + 1..=before + 3).contains(&after), "{before}, then {after}");
    assert_eq!(count("evaluate --run run --data new.csv --json"), after);
}

#[test]
fn a_stage_without_its_input_names_the_command() {
    let bench = Bench::new();
    bench.flows();
    let all = [
        on_flows("encode", ""),
        on_flows("finetune", ""),
        on_flows("finetune", "--set finetune.from=latents"),
        "evaluate --run run --data flows.csv".to_owned(),
    ]
    .map(|args| bench.fails(&args));
    insta::assert_snapshot!(all.join("\n"));
    bench.prints(&on_flows("pretrain", ""));
    insta::assert_snapshot!(bench.fails(&on_flows("finetune", "--set finetune.from=latents")));
}

#[test]
fn a_stage_with_other_settings_than_its_input_is_refused() {
    let bench = Bench::trained();
    let all = [
        on_flows("encode", "--set model.dim=16"),
        on_flows("finetune", "--set seed=1 --set data.validation_fraction=0.3"),
        on_flows("finetune", "--set finetune.from=latents --set encode.latents=tokens"),
    ]
    .map(|args| bench.fails(&args));
    insta::assert_snapshot!(all.join("\n"));
    // what is only the earlier stage's own, or each stage's for itself, may differ
    bench.prints(&on_flows("finetune", "--set pretrain.steps=99 --set engine.threads=1 --set model.dropout=0.3"));
    bench.file("flows.csv", bench.read("flows.csv") + "\n");
    insta::assert_snapshot!(bench.fails(&on_flows("finetune", "")));
}

#[test]
fn pretraining_again_makes_what_came_after_stale() {
    let bench = Bench::trained();
    bench.prints(&on_flows("pretrain", "--set pretrain.steps=7"));
    insta::assert_snapshot!(bench.fails("evaluate --run run --data flows.csv"));
}

#[test]
fn a_later_stage_finds_the_config_in_the_run_folder() {
    let bench = Bench::trained();
    let before = bench.bytes("run/model.safetensors");
    bench.prints("finetune --run run");
    assert!(before == bench.bytes("run/model.safetensors"));
}

#[test]
fn frozen_latents_train_the_head_alone() {
    let bench = Bench::trained();
    for settings in ["", "--set encode.noise.fresh=false", "--set finetune.labels=50", "--set encode.noise.sigma=0"] {
        bench.prints(&on_flows("encode", settings));
        bench.prints(&on_flows("finetune", &format!("--set finetune.from=latents {settings}")));
        assert_eq!(evaluate(&bench)["n"], 300);
    }
    let (before, after) = (bench.bytes("run/pretrained.safetensors"), bench.bytes("run/model.safetensors"));
    let (before, after) = (SafeTensors::deserialize(&before).unwrap(), SafeTensors::deserialize(&after).unwrap());
    let frozen: Vec<&str> = after.names().into_iter().filter(|name| name.starts_with("encoder.")).collect();
    assert!(!frozen.is_empty() && frozen.len() < after.len());
    for name in frozen {
        assert!(before.tensor(name).unwrap().data() == after.tensor(name).unwrap().data(), "{name}");
    }
}

#[test]
fn a_pretrained_encoder_is_trained_further() {
    let bench = Bench::trained();
    let (before, after) = (bench.bytes("run/pretrained.safetensors"), bench.bytes("run/model.safetensors"));
    let (before, after) = (SafeTensors::deserialize(&before).unwrap(), SafeTensors::deserialize(&after).unwrap());
    let name = "encoder.blocks.0.token_mixing.linear1.weight";
    assert!(before.tensor(name).unwrap().data() != after.tensor(name).unwrap().data());
}

#[test]
fn from_scratch_needs_no_other_stage() {
    let bench = Bench::new();
    bench.flows();
    bench.prints(&on_flows("finetune", "--set finetune.from=scratch"));
    assert_eq!(evaluate(&bench)["n"], 300);
    assert!(!bench.path("run/pretrained.safetensors").exists());
}

#[test]
fn noisy_copies_follow_the_clean_latents() {
    let bench = Bench::trained();
    let latents = |settings: &str| -> Array2<f32> {
        bench.prints(&on_flows("encode", settings));
        let z: Array2<f32> = npy::read(&bench.path("run/latents/train.npy")).unwrap();
        let labels: ndarray::Array1<u8> = npy::read(&bench.path("run/latents/labels_train.npy")).unwrap();
        let rows: ndarray::Array1<u32> = npy::read(&bench.path("run/latents/rows_train.npy")).unwrap();
        assert_eq!((labels.len(), rows.len()), (z.nrows(), z.nrows()));
        z
    };
    let clean = latents("--set encode.noise.copies=0");
    let n = clean.nrows();
    for (sigma, copies) in [(0.1_f32, 3), (0.0, 1)] {
        let noisy = latents(&format!("--set encode.noise.copies={copies} --set encode.noise.sigma={sigma}"));
        assert_eq!(noisy.dim(), ((1 + copies) * n, clean.ncols()));
        assert_eq!(noisy.slice(s![..n, ..]), clean);
        for copy in 1..=copies {
            let noise = &noisy.slice(s![copy * n..(copy + 1) * n, ..]) - &clean;
            for (noise, z) in noise.columns().into_iter().zip(clean.columns()) {
                // 240 draws: their spread is within a fifth of sigma, at four standard errors
                let (found, wanted) = (noise.std(0.0), sigma * z.std(0.0));
                assert!((found - wanted).abs() <= 0.2 * wanted + 1e-9, "{found} {wanted}");
            }
        }
    }
}

#[test]
fn tokens_are_kept_where_the_config_says_so() {
    let bench = Bench::trained();
    let tokens = "--set encode.latents=tokens";
    bench.prints(&on_flows("encode", tokens));
    let z: Array3<f32> = npy::read(&bench.path("run/latents/val.npy")).unwrap();
    assert_eq!(z.dim(), (60, 48, 8));
    let mean: Array2<f32> = z.mean_axis(ndarray::Axis(1)).unwrap();
    bench.prints(&on_flows("finetune", &format!("{tokens} --set finetune.from=latents --set finetune.patch_size=8")));
    assert_eq!(evaluate(&bench)["n"], 300);
    bench.prints(&on_flows("encode", ""));
    let pooled: Array2<f32> = npy::read(&bench.path("run/latents/val.npy")).unwrap();
    assert!((mean - pooled).iter().all(|difference| difference.abs() < 1e-5));
}

#[test]
fn an_encoder_that_saw_visible_tokens_only_is_finetuned_on_all() {
    let bench = Bench::new();
    bench.flows();
    for stage in ["pretrain", "encode", "finetune"] {
        bench.prints(&on_flows(stage, "--set pretrain.objective.mae.encoder=visible_only"));
    }
    assert_eq!(evaluate(&bench)["n"], 300);
}

#[test]
fn a_number_of_labels_is_drawn() {
    let bench = Bench::trained();
    let (_, told) = bench.prints_and_tells(&on_flows("finetune", "--set finetune.labels=20"));
    assert!(told.contains("20 labels drawn of 240"), "{told}");
    assert_eq!(evaluate(&bench)["n"], 300);
    insta::assert_snapshot!(bench.fails(&on_flows("finetune", "--set finetune.labels=241")));
}

#[test]
fn an_average_of_the_weights_is_kept() {
    let bench = Bench::trained();
    let last = bench.bytes("run/model.safetensors");
    let kept = |settings: &str| {
        bench.prints(&on_flows("finetune", settings));
        assert_eq!(evaluate(&bench)["n"], 300);
        bench.bytes("run/model.safetensors")
    };
    let average = kept("--set finetune.ema={}");
    assert!(average != last);
    let loss = |stage| bench.metrics("run", stage).iter().filter_map(|line| line["loss"].as_f64()).collect::<Vec<_>>();
    let losses = loss("finetune");
    let weights = |bytes: &[u8]| -> Vec<f32> {
        let file = SafeTensors::deserialize(bytes).unwrap();
        let data = file.tensor("classifier.weight").unwrap().data();
        data.chunks_exact(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect()
    };
    // a step leaves nothing of the average, hence it is the last step's weights; training itself is the same
    let of_last = weights(&kept("--set finetune.ema.decay=0"));
    assert!(of_last.iter().zip(weights(&last)).all(|(kept, last)| (kept - last).abs() < 1e-6));
    assert_eq!(loss("finetune"), losses);
    kept("--set finetune.ema={} --set finetune.from=scratch");
}

#[test]
fn every_optimiser_and_schedule_trains() {
    let bench = Bench::new();
    for setting in ["optimiser=adam", "optimiser.adam.weight_decay=0.1", "schedule=constant", "clip_norm=null"] {
        bench.prints(&small("pretrain", "run", &format!("--set pretrain.{setting}")));
        bench.prints(&small("finetune", "run", &format!("--set pretrain.{setting} --set finetune.{setting}")));
    }
}

#[test]
fn a_batch_may_be_cut_up_and_may_be_larger_than_the_data() {
    let bench = Bench::new();
    let losses = |run: &str, settings: &str| -> Vec<f64> {
        bench.prints(&small("pretrain", run, settings));
        bench.metrics(run, "pretrain").iter().map(|line| line["loss"].as_f64().unwrap()).collect()
    };
    let whole = losses("whole", "");
    let cut = losses("cut", "--set pretrain.micro_batch=8");
    assert_eq!(whole.len(), 3);
    for (whole, cut) in whole.iter().zip(&cut) {
        // the same sum in another order
        assert!((whole - cut).abs() < 1e-4 * whole, "{whole} {cut}");
    }
    assert_eq!(losses("large", "--set pretrain.batch_size=1024 --set pretrain.steps=2").len(), 1);
}

#[test]
fn a_loss_that_is_no_number_ends_the_stage() {
    let bench = Bench::new();
    insta::assert_snapshot!(bench.fails(&small("pretrain", "run", "--set pretrain.lr=1e30 --set pretrain.warmup=0")));
    insta::assert_snapshot!(bench.fails("finetune --run run"));
}

#[test]
fn a_log_has_about_twenty_lines_of_progress_a_stage() {
    let bench = Bench::new();
    for steps in [1, 39, 41] {
        let (_, told) = bench.prints_and_tells(&small("pretrain", "run", &format!("--set pretrain.steps={steps}")));
        let lines = told.lines().filter(|line| line.starts_with("pretrain: step")).count();
        assert!((1..=21).contains(&lines), "{steps} steps: {told}");
    }
}

#[test]
fn a_variational_autoencoder_takes_the_place_of_the_masked_one() {
    for latent in ["token", "pooled"] {
        let bench = Bench::new();
        bench.flows();
        let vae = format!("--set pretrain.objective.vae.latent={latent} --set pretrain.objective.vae.latent_dim=4");
        let mu = format!("{vae} --set encode.latents=mu");
        bench.prints(&on_flows("pretrain", &vae));
        let lines = bench.metrics("run", "pretrain");
        assert_eq!(lines.len(), 3);
        for (line, beta) in lines.iter().zip([0.01; 3]) {
            let [loss, reconstruction, kl] = ["loss", "reconstruction", "kl"].map(|name| line[name].as_f64().unwrap());
            // the last steps' beta: warm-up is one step of six
            assert!(kl > 0.0 && (loss - reconstruction - beta * kl).abs() < 0.01 * kl, "{line}");
        }

        bench.prints(&on_flows("encode", &mu));
        let z: ArrayD<f32> = npy::read(&bench.path("run/latents/val.npy")).unwrap();
        assert_eq!(z.shape(), if latent == "token" { &[60, 48, 4][..] } else { &[60, 4] });
        let latents = format!("{mu} --set finetune.from=latents --set finetune.patch_size=4");
        bench.prints(&on_flows("finetune", &latents));
        assert_eq!(evaluate(&bench)["n"], 300);
        let (before, after) = (bench.bytes("run/pretrained.safetensors"), bench.bytes("run/model.safetensors"));
        let (before, after) = (SafeTensors::deserialize(&before).unwrap(), SafeTensors::deserialize(&after).unwrap());
        for name in ["latent.mu.weight", "encoder.blocks.0.token_mixing.linear1.weight"] {
            assert!(before.tensor(name).unwrap().data() == after.tensor(name).unwrap().data(), "{name} is frozen");
        }

        for settings in [&vae, &format!("{vae} --set finetune.from=latents"), &format!("{vae} --set encode.latents=tokens")] {
            bench.prints(&on_flows("encode", settings));
            bench.prints(&on_flows("finetune", settings));
            assert_eq!(evaluate(&bench)["n"], 300);
        }
    }
}

#[test]
fn mu_needs_a_variational_autoencoder_of_the_same_shape() {
    let bench = Bench::trained();
    let mut all = vec![bench.fails(&on_flows("encode", "--set encode.latents=mu"))];
    let mu = "--set pretrain.objective=vae --set encode.latents=mu";
    all.push(bench.fails(&on_flows("encode", mu)));
    bench.prints(&on_flows("pretrain", "--set pretrain.objective=vae"));
    all.push(bench.fails(&on_flows("encode", &format!("{mu} --set pretrain.objective.vae.latent_dim=8"))));
    // how it was trained is nothing to a later stage
    bench.prints(&on_flows("encode", &format!("{mu} --set pretrain.objective.vae.beta=0.5")));
    insta::assert_snapshot!(all.join("\n"), @r#"
    exit code 2
    error: --set encode.latents=mu: `encode.latents`: only a variational autoencoder has `mu`: set `pretrain.objective: vae`, or take `mean` or `tokens`

    exit code 4
    error: run/pretrained.safetensors: made by another config: `pretrain.objective.vae.latent` was unset and is "token"; `pretrain.objective.vae.latent_dim` was unset and is 16: run `nids-mixer pretrain --config FILE --run run` first, or keep its settings

    exit code 4
    error: run/pretrained.safetensors: made by another config: `pretrain.objective.vae.latent_dim` was 16 and is 8: run `nids-mixer pretrain --config FILE --run run` first, or keep its settings
    "#);
}
