//! How the stages learn: schedules.

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
    for (settings, want) in [
        // down after two of the five steps that follow the first one
        ("cosine.warmup=0 cosine.min_lr=0.002 cosine.t_max=0.4", [0.01, 0.006, 0.002, 0.002, 0.002, 0.002]),
        ("cosine_restarts.warmup=0 cosine_restarts.t_0=2 cosine_restarts.t_mult=1", [0.01, 0.005, 0.01, 0.005, 0.01, 0.005]),
        (
            "one_cycle.pct_start=0.5 one_cycle.div_factor=5 one_cycle.final_div_factor=2",
            [0.002, 0.006, 0.01, 0.007_75, 0.003_25, 0.001],
        ),
        ("constant.warmup=0.5 constant.warmup_start_lr=0.004", [0.006, 0.008, 0.01, 0.01, 0.01, 0.01]),
        // 240 rows, 96 a step: steps 0 to 2 begin in epoch 0, steps 3 and 4 in epoch 1, the last one in epoch 2
        ("cosine.warmup=0 cosine.per=epoch", [0.01, 0.01, 0.01, 0.005, 0.005, 0.0]),
    ] {
        let set: Vec<String> = settings.split(' ').map(|setting| format!("--set pretrain.schedule.{setting}")).collect();
        let found = rates(&bench, &format!("--set pretrain.batch_size=96 {}", set.join(" ")));
        let is_close = found.len() == 6 && found.iter().zip(want).all(|(found, want)| (found - want).abs() < 1e-12);
        assert!(is_close, "{settings}: {found:?}, not {want:?}");
    }
}
