//! Keys and values that only older versions accept, and what to write instead.

/// The message for a key that is no longer a setting.
pub(super) fn key(path: &str) -> Option<String> {
    let gone = |what: &str| Some(format!("`{path}` is no longer a setting: {what}"));
    let (stage, rest) = path.split_once('.')?;
    match (stage, rest) {
        ("pretrain" | "finetune", rest) => match rest {
            "sam" => gone("sharpness-aware minimisation was removed because it gained nothing: leave it out"),
            "update_noise" => gone("noise on gradients was removed because it gained nothing: leave it out"),
            "optimiser.sgd" => gone("write `adamw` or `adam`"),
            "optimiser.adamw.decay" => gone("the decay of AdamW always spares biases and norms: leave it out"),
            "optimiser.adam.decay" => gone("the decay of Adam always applies to every parameter: leave it out"),
            "schedule.one_cycle" | "schedule.cosine" | "schedule.constant" => {
                let name = rest.trim_start_matches("schedule.");
                gone(&format!(
                    "write `{stage}.schedule: {name}`, and `{stage}.warmup`, `{stage}.min_lr` and `{stage}.schedule_per` beside it"
                ))
            }
            "schedule.cosine_restarts.warmup" => gone(&format!("write `{stage}.warmup`")),
            "schedule.cosine_restarts.min_lr" => gone(&format!("write `{stage}.min_lr`")),
            "schedule.cosine_restarts.per" => gone(&format!("write `{stage}.schedule_per`")),
            "schedule.cosine_restarts.warmup_start_lr" => gone("warm-up always starts at 0: leave it out"),
            "nonfinite.skip" | "nonfinite.rollback" => {
                gone(&format!("write `{stage}.{}`: its limits are fixed", rest.replacen('.', ": ", 1)))
            }
            "layer_lr_decay" => {
                gone("leave it out, or set `finetune.encoder_lr_scale`, which scales the learning rate of the whole encoder")
            }
            "auxiliary" => {
                gone("the second head was removed because it gained nothing: leave it out, or set `finetune.task: multiclass`")
            }
            _ => None,
        },
        ("encode", "latents.mu") => gone("write `encode.latents: mu`; samples from the posterior were removed"),
        _ => None,
    }
}

/// The advice for a value that is no longer accepted. `found` is the value as an error shows it.
pub(super) fn value(path: &str, found: &str) -> Option<String> {
    let (stage, rest) = path.split_once('.')?;
    match rest {
        "monitor" if found == "nothing" => Some(format!("write `{stage}.monitor: off`")),
        "monitor" => Some(format!("write `{stage}.monitor: warn`, or `stop` to end the run: its limits are fixed")),
        "gemm" if found == "`bf16`" => Some("write `engine.precision: bf16`, and leave `engine.gemm` out".to_owned()),
        "noise.sigma" if found.contains("mapping") => Some("a range is no longer accepted: write one number".to_owned()),
        _ => None,
    }
}
