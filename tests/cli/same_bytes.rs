//! The same run gives the same bytes, whatever the number of threads.

use crate::bench::{Bench, on_flows};

/// Every artefact of a run that trains for 50 steps.
fn artefacts(gemm: &str, objective: &str, threads: usize) -> Vec<(&'static str, Vec<u8>)> {
    let bench = Bench::new();
    bench.flows();
    let of_objective = if objective == "vae" { "--set encode.latents.mu.samples=1 --set finetune.from=latents" } else { "" };
    let settings = "--set pretrain.steps=50 --set finetune.steps=50 --set pretrain.batch_size=64 --set finetune.batch_size=64";
    for stage in ["pretrain", "encode", "finetune"] {
        let more = format!(
            "{of_objective} --set pretrain.objective={objective} --set engine.gemm={gemm} --set engine.threads={threads}"
        );
        bench.prints(&on_flows(stage, &format!("{settings} {more}")));
    }
    let names = [
        "pretrained.safetensors",
        "tokeniser.json",
        "latents/train.npy",
        "latents/val.npy",
        "latents/rows_train.npy",
        "model.safetensors",
        "metrics.jsonl",
        "manifest-pretrain.json",
        "manifest-encode.json",
        "manifest-finetune.json",
    ];
    names.map(|name| (name, bench.bytes(&format!("run/{name}")))).to_vec()
}

#[test]
fn threads_and_time_change_no_byte() {
    for (gemm, objective) in [("openblas", "mae"), ("tiles", "mae"), ("tiles", "vae")] {
        let first = artefacts(gemm, objective, 1);
        for threads in [1, 2, 4, 8] {
            for ((name, first), (_, again)) in first.iter().zip(artefacts(gemm, objective, threads)) {
                assert!(*first == again, "{gemm}, {objective}: {name} differs with {threads} threads");
            }
        }
    }
}

#[test]
fn threads_change_no_byte_of_any_classifier() {
    let of_ensemble = ["members=3", "members=3 --set finetune.ensemble=batch"];
    let taught = "labels=60 --set finetune.mean_teacher.batch_size=32";
    for settings in ["task=multiclass", "auxiliary.weight=0.3", taught].into_iter().chain(of_ensemble) {
        let model = |threads: usize| {
            let bench = Bench::new();
            bench.flows();
            let more = format!("--set finetune.from=scratch --set finetune.{settings} --set engine.threads={threads}");
            bench.prints(&on_flows("finetune", &more));
            ["model.safetensors", "metrics.jsonl", "manifest-finetune.json"].map(|name| bench.bytes(&format!("run/{name}")))
        };
        assert!([2, 8].iter().all(|&threads| model(threads) == model(1)), "{settings}");
    }
}

#[test]
fn stages_of_a_run_use_the_same_kernels_and_verdicts_say_where_they_do_not() {
    const TOLD: &str = "rounds differently here: probabilities can differ in the sixth decimal";
    let bench = Bench::new();
    bench.flows();
    bench.prints(&on_flows("pretrain", "--set engine.gemm=openblas"));
    for stage in ["encode", "finetune"] {
        let on_tiles = on_flows(stage, "--set engine.gemm=tiles --set finetune.labels=60");
        let error = bench.fails(&on_tiles);
        assert!(error.starts_with("exit code 4\n") && error.contains("`pretrain` ran on OpenBLAS"), "{error}");
        assert!(error.contains(&format!("`{stage}` would run on tiles")) && error.contains("`--allow-changes`"), "{error}");
        let (_, told) = bench.prints_and_tells(&format!("{on_tiles} --allow-changes"));
        assert!(told.contains(&format!("{stage}: goes on although `pretrain` ran on OpenBLAS")), "{told}");
    }
    for command in ["predict --run run --data flows.csv", "evaluate --run run --data flows.csv", "select --run run --budget 3"] {
        assert!(!bench.prints_and_tells(command).1.contains(TOLD), "{command}");
    }
    // as if another machine had trained it
    let manifest = bench.read("run/manifest-finetune.json");
    let elsewhere = manifest.replace("\"kernels\": \"tiles, ", "\"kernels\": \"OpenBLAS 0.3.0 (Elsewhere), ");
    assert_ne!(elsewhere, manifest);
    bench.file("run/manifest-finetune.json", elsewhere);
    for command in ["predict --run run --data flows.csv", "evaluate --run run --data flows.csv", "select --run run --budget 3"] {
        let (_, told) = bench.prints_and_tells(command);
        assert!(told.matches(TOLD).count() == 1 && told.contains("trained on OpenBLAS 0.3.0 (Elsewhere)"), "{command}: {told}");
    }
}
