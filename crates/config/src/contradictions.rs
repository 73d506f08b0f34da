//! Settings that are good by themselves and not together.

use super::{
    BatchEnsembleConfig, Ensemble, FinetuneFrom, GemmBackend, Latents, LossConfig, ObjectiveConfig, Precision, RampConfig,
    ScheduleConfig, Settings, SweepStrategy, Task, TrainingConfig,
};

impl Settings {
    /// The keys to blame, and why.
    pub(super) fn contradictions(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.name.starts_with('.') || self.name.contains(['/', '\\']) {
            found.push(("name", format!("expected a name that can be a folder's, found `{}`", self.name)));
        }
        for (training, [batch_size, min_lr]) in [
            (&self.pretrain.training, ["pretrain.batch_size", "pretrain.min_lr"]),
            (&self.finetune.training, ["finetune.batch_size", "finetune.min_lr"]),
        ] {
            let &TrainingConfig { batch_size: batch, micro_batch: micro, lr, min_lr: last, .. } = training;
            if batch > micro && !batch.is_multiple_of(micro) {
                found.push((batch_size, format!("expected a multiple of `micro_batch` ({micro}), found `{batch}`")));
            }
            if training.schedule == ScheduleConfig::Constant && last > 0.0 {
                found.push((min_lr, "`schedule: constant` stays at `lr`: leave it out".to_owned()));
            } else if last > lr {
                found.push((min_lr, format!("expected at most `lr` ({lr}), found {last}")));
            }
        }
        if self.engine.gemm == GemmBackend::Openblas && self.engine.precision == Precision::Bf16 {
            let message = "OpenBLAS multiplies in f32 here: leave it out, or take `engine.gemm: auto`";
            found.push(("engine.precision", message.to_owned()));
        }
        if let Some(teacher) = &self.finetune.mean_teacher {
            let mut refuse = |path, message: String| found.push((path, message));
            let RampConfig { from, to } = teacher.ramp;
            if from > to {
                refuse("finetune.mean_teacher.ramp", format!("expected `from` up to `to`, found {from} and {to}"));
            }
            if self.finetune.ema.is_some() {
                refuse("finetune.ema", "the mean teacher is an average already: leave one of the two out".to_owned());
            }
            if matches!(self.finetune.task, Task::Multiclass(_)) {
                let message = "tells attacks from other rows: keep `finetune.task: binary`";
                refuse("finetune.mean_teacher", message.to_owned());
            }
            if self.finetune.batch_ensemble().is_some() {
                refuse("finetune.ensemble", "a mean teacher teaches one network at a time: take `independent`".to_owned());
            }
            if self.finetune.from == FinetuneFrom::Latents {
                let message =
                    "hides features, which frozen latents no longer have: take `pretrained` or `scratch` in `finetune.from`";
                refuse("finetune.mean_teacher", message.to_owned());
            }
        }
        if let Err(nids_flows::Error::Tokeniser { message }) = self.tokeniser.check() {
            found.push(("tokeniser", message));
        }
        if matches!(self.encode.latents, Latents::Mu) && !matches!(self.pretrain.objective, ObjectiveConfig::Vae(_)) {
            let message =
                "`mu` is what a variational autoencoder has: name `vae` in `pretrain.objective`, or take `mean` or `tokens`";
            found.push(("encode.latents", message.to_owned()));
        }
        if let Ensemble::Batch(BatchEnsembleConfig { shared_blocks, .. }) = self.finetune.ensemble
            && shared_blocks > self.model.depth
        {
            let message = format!("expected at most `model.depth` ({}), found `{shared_blocks}`", self.model.depth);
            found.push(("finetune.ensemble.batch.shared_blocks", message));
        }
        if matches!(self.finetune.task, Task::Multiclass(_)) && self.finetune.loss != LossConfig::default() {
            let message = "weighs attacks with `task: binary` alone: leave it out, and set `class_balance`";
            found.push(("finetune.loss.pos_weight", message.to_owned()));
        }
        if self.finetune.labels.is_some() && self.finetune.label_rows.is_some() {
            found.push(("finetune.label_rows", "`finetune.labels` draws rows: leave one of the two out".to_owned()));
        }
        if let SweepStrategy::WidthDepth(sweep) = &self.sweep.strategy {
            for (key, name, [from, to]) in [
                ("sweep.strategy.width_depth.max_dim", "min_dim", [sweep.min_dim, sweep.max_dim]),
                ("sweep.strategy.width_depth.max_depth", "depth", [sweep.depth, sweep.max_depth]),
            ] {
                if to < from {
                    found.push((key, format!("expected `{name}` ({from}) or more, found {to}")));
                }
            }
        }
        if self.data.train.is_none() && self.data.schema != "unsw-nb15" {
            let message = "without it flows shaped like `unsw-nb15` are generated: give the file, or leave `data.schema` out";
            found.push(("data.train", message.to_owned()));
        }
        if self.data.train.is_none() && self.data.unlabelled.is_some() {
            found.push(("data.unlabelled", "is only read beside `data.train`, which is missing".to_owned()));
        }
        found
    }
}
