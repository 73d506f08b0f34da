//! Keys and values of older versions that went, and what to write now.

/// What to say of a key that is no setting any more.
pub(super) fn key(path: &str) -> Option<String> {
    let gone = |what: &str| Some(format!("`{path}` is no setting any more: {what}"));
    let (stage, rest) = path.split_once('.')?;
    match (stage, rest) {
        ("pretrain" | "finetune", rest) => match rest {
            "sam" => gone("sharpness-aware minimisation gained nothing and is gone: leave it out"),
            "update_noise" => gone("noise on gradients gained nothing and is gone: leave it out"),
            "optimiser.sgd" => gone("write `adamw` or `adam`"),
            "optimiser.adamw.decay" => gone("AdamW's decay spares biases and norms: leave it out"),
            "optimiser.adam.decay" => gone("Adam's decay is on every parameter: leave it out"),
            "schedule.one_cycle" | "schedule.cosine" | "schedule.constant" => {
                let name = rest.trim_start_matches("schedule.");
                gone(&format!(
                    "write `{stage}.schedule: {name}`, and `{stage}.warmup`, `{stage}.min_lr` and `{stage}.schedule_per` beside it"
                ))
            }
            "schedule.cosine_restarts.warmup" => gone(&format!("write `{stage}.warmup`")),
            "schedule.cosine_restarts.min_lr" => gone(&format!("write `{stage}.min_lr`")),
            "schedule.cosine_restarts.per" => gone(&format!("write `{stage}.schedule_per`")),
            "schedule.cosine_restarts.warmup_start_lr" => gone("warm-up starts at 0: leave it out"),
            "nonfinite.skip" | "nonfinite.rollback" => {
                gone(&format!("write `{stage}.{}`: its limits are fixed", rest.replacen('.', ": ", 1)))
            }
            "layer_lr_decay" => gone("`finetune.encoder_lr_scale` slows the whole encoder down: leave it out"),
            "auxiliary" => gone("a second head gained nothing and is gone: leave it out, or set `finetune.task: multiclass`"),
            _ => None,
        },
        ("encode", "latents.mu") => gone("write `encode.latents: mu`; draws from the posterior are gone"),
        _ => None,
    }
}

/// What to say of a value that is none any more.   text: as an error shows it
pub(super) fn value(path: &str, found: &str) -> Option<String> {
    let (stage, rest) = path.split_once('.')?;
    match rest {
        "monitor" if found == "nothing" => Some(format!("write `{stage}.monitor: off`")),
        "monitor" => Some(format!("write `{stage}.monitor: warn`, or `stop` to end the run: its limits are fixed")),
        "gemm" if found == "`bf16`" => Some("write `engine.precision: bf16`, and leave `engine.gemm` out".to_owned()),
        "noise.sigma" if found.contains("mapping") => Some("a range is no setting any more: write one number".to_owned()),
        _ => None,
    }
}
