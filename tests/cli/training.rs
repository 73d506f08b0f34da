//! How the stages learn: schedules, optimisers, the monitor.

use safetensors::SafeTensors;

use crate::bench::{Bench, on_flows};

/// The learning rates that `pretrain` logs, a line a step.
fn rates(bench: &Bench, settings: &str) -> Vec<f64> {
    bench.prints(&on_flows("pretrain", &format!("--set pretrain.log_every=1 --set pretrain.lr=0.01 {settings}")));
    bench.metrics("run", "pretrain").iter().map(|line| line["lr"].as_f64().unwrap()).collect()
}

#[test]
fn the_rate_follows_the_schedule() {
    let bench = Bench::new();
    bench.flows();
    let wave = |share: f64| 0.002 + 0.004 * (1.0 + (std::f64::consts::PI * share).cos());
    for (settings, want) in [
        ("warmup=0 min_lr=0.002", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0].map(wave)),
        ("warmup=0 schedule.cosine_restarts.t_0=2 schedule.cosine_restarts.t_mult=1", [0.01, 0.005, 0.01, 0.005, 0.01, 0.005]),
        ("schedule=one_cycle warmup=0.5 min_lr=0.001", [0.000_4, 0.005_2, 0.01, 0.007_75, 0.003_25, 0.001]),
        ("schedule=constant warmup=0.5", [0.01 / 3.0, 0.02 / 3.0, 0.01, 0.01, 0.01, 0.01]),
        // 240 rows, 96 a step: steps 0 to 2 begin in epoch 0, steps 3 and 4 in epoch 1, the last one in epoch 2
        ("warmup=0 schedule_per=epoch", [0.01, 0.01, 0.01, 0.005, 0.005, 0.0]),
    ] {
        let set: Vec<String> = settings.split(' ').map(|setting| format!("--set pretrain.{setting}")).collect();
        let found = rates(&bench, &format!("--set pretrain.batch_size=96 {}", set.join(" ")));
        let is_close = found.len() == 6 && found.iter().zip(want).all(|(found, want)| (found - want).abs() < 1e-12);
        assert!(is_close, "{settings}: {found:?}, not {want:?}");
    }
}

/// The weights that `pretrain` and then `finetune` leave.
fn weights(settings: &str, threads: usize) -> [Vec<u8>; 2] {
    let bench = Bench::new();
    bench.flows();
    let of = |stage: &str| -> Vec<String> { settings.split_whitespace().map(|set| format!("--set {stage}.{set}")).collect() };
    let all = format!("{} --set engine.threads={threads}", [of("pretrain"), of("finetune")].concat().join(" "));
    bench.prints(&on_flows("pretrain", &all));
    bench.prints(&on_flows("finetune", &all));
    ["pretrained", "model"].map(|name| tensors(&bench.bytes(&format!("run/{name}.safetensors"))))
}

/// The numbers alone: the metadata before them name the settings.
fn tensors(bytes: &[u8]) -> Vec<u8> {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let mut names = tensors.names();
    names.sort_unstable();
    names.into_iter().flat_map(|name| tensors.tensor(name).unwrap().data().to_vec()).collect()
}

#[test]
fn every_optimiser_and_option_trains_otherwise_and_the_same_for_any_number_of_threads() {
    let mut all = Vec::new();
    for settings in ["optimiser=adamw", "optimiser=adam", "schedule=one_cycle", "clip_norm=0.01"] {
        let [one, two] = [1, 2].map(|threads| weights(settings, threads));
        assert!(one == two, "{settings}");
        all.push(one);
    }
    for (i, one) in all.iter().enumerate() {
        for other in &all[..i] {
            assert!(one[0] != other[0] && one[1] != other[1]);
        }
    }
}

#[test]
fn layers_that_no_longer_learn_are_named() {
    let bench = Bench::new();
    bench.flows();
    let watched = "--set pretrain.steps=300 --set pretrain.batch_size=8 --set model.activation=tanh";
    let (_, told) = bench.prints_and_tells(&on_flows("pretrain", watched));
    assert!(!told.contains("vanishes"), "{told}");
    assert!(bench.metrics("run", "pretrain").iter().all(|line| line.get("max_update").is_none()));
    let looks = bench.lines("run/monitor.jsonl", "pretrain");
    assert_eq!(
        looks.iter().map(|look| look["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        (1..=6).map(|i| 50 * i).collect::<Vec<_>>()
    );
    let layer = "encoder.blocks.0.token_mixing.linear1";
    assert!(looks[0]["max_update"][layer].as_f64() > Some(1e-5) && looks[0]["max_update"].get("encoder.registers").is_none());

    // a rate so small that it is lost in the rounding of every weight
    let vanishing = format!("{watched} --set pretrain.lr=1e-20");
    let (_, told) = bench.prints_and_tells(&on_flows("pretrain", &vanishing));
    let warnings: Vec<&str> = told.lines().filter(|line| line.contains("the gradient vanishes in `encoder.embed.")).collect();
    // not before five looks, and once
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("warning: pretrain step ") && !told.contains("step 200: the gr"),
        "{told}"
    );
    let error = bench.fails(&on_flows("pretrain", &format!("{vanishing} --set pretrain.monitor=stop")));
    assert_eq!(error, format!("exit code 5\nerror: {}\n", warnings[0].strip_prefix("warning: ").unwrap()));
    let (_, told) = bench.prints_and_tells(&on_flows("pretrain", &format!("{vanishing} --set pretrain.monitor=off")));
    assert!(!told.contains("vanishes"), "{told}");
}
