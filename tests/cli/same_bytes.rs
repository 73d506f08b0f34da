//! The same run gives the same bytes, whatever the number of threads.

use crate::bench::{Bench, on_flows};

/// Every artefact of a run that trains for 50 steps.
fn artefacts(gemm: &str, objective: &str, threads: usize) -> Vec<(&'static str, Vec<u8>)> {
    let bench = Bench::new();
    bench.flows();
    let of_objective = if objective == "objective=vae" {
        "--set encode.latents=mu --set encode.noise.copies=1 --set finetune.from=latents"
    } else {
        ""
    };
    let settings = "--set pretrain.steps=50 --set finetune.steps=50 --set pretrain.batch_size=64 --set finetune.batch_size=64";
    for stage in ["pretrain", "encode", "finetune"] {
        let more = format!("{of_objective} --set pretrain.{objective} --set engine.gemm={gemm} --set engine.threads={threads}");
        bench.prints(&on_flows(stage, &format!("{settings} {more}")));
    }
    let names = [
        "pretrained.safetensors",
        "tokeniser.json",
        "latents/train.npy",
        "latents/val.npy",
        "latents/rows_train.npy",
        "model.safetensors",
        "profile.json",
        "metrics.jsonl",
        "monitor.jsonl",
        "manifest-pretrain.json",
        "manifest-encode.json",
        "manifest-finetune.json",
    ];
    names.map(|name| (name, bench.bytes(&format!("run/{name}")))).to_vec()
}

#[test]
fn threads_and_time_change_no_byte() {
    let bins = "objective.mae.target=bins --set pretrain.objective.mae.mask_ratio.from=0 --set pretrain.rows=benign";
    for (gemm, objective) in [
        ("openblas", "objective=mae"),
        ("tiles", "objective=mae"),
        ("tiles", "objective=vae"),
        ("tiles", bins),
        ("tiles", "objective=replaced"),
    ] {
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
    let of_heads = ["from=features --set finetune.labels=60", "heads=[extra_trees,boosting]", "from=frozen"];
    for settings in ["task=multiclass", taught].into_iter().chain(of_ensemble).chain(of_heads) {
        let model = |threads: usize| {
            let bench = Bench::new();
            bench.flows();
            let more = format!("--set finetune.from=scratch --set finetune.{settings} --set engine.threads={threads}");
            if settings == "from=frozen" {
                bench.prints(&on_flows("pretrain", &format!("--set engine.threads={threads}")));
            }
            bench.prints(&on_flows("finetune", &more));
            ["model.safetensors", "metrics.jsonl", "monitor.jsonl", "manifest-finetune.json"]
                .map(|name| bench.bytes(&format!("run/{name}")))
        };
        assert!([2, 8].iter().all(|&threads| model(threads) == model(1)), "{settings}");
    }
}

#[test]
fn fine_tuning_uses_the_kernels_of_pretraining() {
    let bench = Bench::new();
    bench.flows();
    bench.prints(&on_flows("pretrain", "--set engine.gemm=openblas"));
    let on_tiles = on_flows("finetune", "--set engine.gemm=tiles --set finetune.labels=60");
    let error = bench.fails(&on_tiles);
    assert!(error.starts_with("exit code 4\n") && error.contains("`pretrain` ran on OpenBLAS"), "{error}");
    assert!(error.contains("`finetune` would run on tiles") && error.contains("`--allow-changes`"), "{error}");
    let (_, told) = bench.prints_and_tells(&format!("{on_tiles} --allow-changes"));
    assert!(told.contains("finetune: goes on although `pretrain` ran on OpenBLAS"), "{told}");
    // latents are made by the same kernels whatever trained the encoder
    bench.prints(&on_flows("encode", "--set engine.gemm=openblas"));
    bench.prints(&on_flows("finetune", "--set engine.gemm=openblas --set finetune.from=latents --fresh"));
}

/// OpenBLAS takes its kernels by the CPU, or by a variable of its own; others add in another order. Where the variable changes
/// bytes, OpenBLAS has multiplied.
#[test]
#[cfg(target_arch = "x86_64")]
fn openblas_multiplies_where_it_is_asked_for_and_nowhere_else() {
    let weights = |gemm: &str, kernels: &str| {
        let bench = Bench::new();
        bench.flows();
        let settings = format!("--set engine.gemm={gemm} --set model.dim=32");
        let mut command = bench.command(&on_flows("pretrain", &settings));
        let output = command.env("OPENBLAS_CORETYPE", kernels).output().unwrap();
        assert!(output.status.success(), "{gemm}, {kernels}");
        bench.bytes("run/pretrained.safetensors")
    };
    assert!(weights("openblas", "Prescott") != weights("openblas", "Haswell"), "OpenBLAS was not called");
    assert!(weights("auto", "Prescott") == weights("auto", "Haswell"), "OpenBLAS was called");
}
