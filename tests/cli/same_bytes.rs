//! The same run gives the same bytes, whatever the number of threads.

use crate::bench::{Bench, on_flows};

/// Every artefact of a run that trains for 50 steps.
fn artefacts(gemm: &str, threads: usize) -> Vec<(&'static str, Vec<u8>)> {
    let bench = Bench::new();
    bench.flows();
    let settings = "--set pretrain.steps=50 --set finetune.steps=50 --set pretrain.batch_size=64 --set finetune.batch_size=64";
    for stage in ["pretrain", "encode", "finetune"] {
        bench.prints(&on_flows(stage, &format!("{settings} --set engine.gemm={gemm} --set engine.threads={threads}")));
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
    for gemm in ["openblas", "tiles"] {
        let first = artefacts(gemm, 1);
        for threads in [1, 2, 4, 8] {
            for ((name, first), (_, again)) in first.iter().zip(artefacts(gemm, threads)) {
                assert!(*first == again, "{gemm}: {name} differs with {threads} threads");
            }
        }
    }
}
