//! Settings that are valid on their own and contradict each other.

use super::{
    BadRowConfig, BatchEnsembleConfig, Ensemble, FinetuneFrom, GemmBackend, Latents, LossConfig, ObjectiveConfig, Precision,
    RampConfig, Refit, RowsConfig, ScheduleConfig, Settings, SweepStrategy, Task, TrainingConfig,
};

use nids_models::{DrawnRatio, MaeConfig, MaeEncoder, MaskRatio, NumberTarget};

impl Settings {
    /// The keys of settings that contradict others, each with a message.
    pub(super) fn contradictions(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.name.starts_with('.') || self.name.contains(['/', '\\']) {
            found.push(("name", format!("expected a valid name of a folder, found `{}`", self.name)));
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
                found.push((min_lr, "it has no effect with `schedule: constant`: leave it out".to_owned()));
            } else if last > lr {
                found.push((min_lr, format!("expected at most `lr` ({lr}), found {last}")));
            }
        }
        if self.engine.gemm == GemmBackend::Openblas && self.engine.precision == Precision::Bf16 {
            let message = "OpenBLAS multiplies in f32 only: leave it out, or set `engine.gemm: auto`";
            found.push(("engine.precision", message.to_owned()));
        }
        self.contradictions_of_finetuning(&mut found);
        self.contradictions_of_heads(&mut found);
        if let Err(nids_flows::Error::Tokeniser { message }) = self.tokeniser.check() {
            found.push(("tokeniser", message));
        }
        self.of_pretraining(&mut found);
        if matches!(self.encode.latents, Latents::Mu) && !matches!(self.pretrain.objective, ObjectiveConfig::Vae(_)) {
            let message = "only a variational autoencoder has `mu`: set `pretrain.objective: vae`, or take `mean` or `tokens`";
            found.push(("encode.latents", message.to_owned()));
        }
        if let Ensemble::Batch(BatchEnsembleConfig { shared_blocks, .. }) = self.finetune.ensemble
            && shared_blocks > self.model.depth
        {
            let message = format!("expected at most `model.depth` ({}), found `{shared_blocks}`", self.model.depth);
            found.push(("finetune.ensemble.batch.shared_blocks", message));
        }
        if self.finetune.labels.is_some() && self.finetune.label_rows.is_some() {
            found
                .push(("finetune.label_rows", "`finetune.labels` chooses the rows as well: leave one of the two out".to_owned()));
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
        if self.data.train.is_none() && self.data.unlabelled.is_none() && self.data.schema != "unsw-nb15" {
            let message = "without it and without `data.unlabelled`, flows of the schema `unsw-nb15` are generated: name files, or \
                           leave `data.schema` out";
            found.push(("data.train", message.to_owned()));
        }
        if self.data.train.is_none() && self.data.unlabelled.is_none() && self.data.without.is_some() {
            let message = "generated flows have all features of their schema: name files in `data.train`, or leave it out";
            found.push(("data.without", message.to_owned()));
        }
        match (self.data.on_bad_row, &self.data.rejects) {
            (BadRowConfig::Skip, None) => {
                found.push(("data.on_bad_row", "`skip` needs a file for the rows left out: set `data.rejects`".to_owned()));
            }
            (BadRowConfig::Stop, Some(_)) => {
                let message = "it has no effect with `on_bad_row: stop`, which leaves no row out: leave it out, or set `skip`";
                found.push(("data.rejects", message.to_owned()));
            }
            _ => {}
        }
        found
    }

    /// Settings of a mean teacher and of a refit that cannot be met.
    fn contradictions_of_finetuning(&self, found: &mut Vec<(&'static str, String)>) {
        if let Some(teacher) = &self.finetune.mean_teacher {
            let mut refuse = |path, message: String| found.push((path, message));
            let RampConfig { from, to } = teacher.ramp;
            if from > to {
                refuse("finetune.mean_teacher.ramp", format!("expected `from` to be at most `to`, found {from} and {to}"));
            }
            if self.finetune.ema.is_some() {
                refuse(
                    "finetune.ema",
                    "`finetune.mean_teacher` already averages the weights: leave one of the two out".to_owned(),
                );
            }
            if matches!(self.finetune.task, Task::Multiclass(_)) {
                let message = "a mean teacher supports two classes only: set `finetune.task: binary`";
                refuse("finetune.mean_teacher", message.to_owned());
            }
            if self.finetune.batch_ensemble().is_some() {
                refuse(
                    "finetune.ensemble",
                    "a mean teacher trains one network at a time: set `finetune.ensemble: independent`".to_owned(),
                );
            }
            if self.finetune.from == FinetuneFrom::Latents {
                let message = "a mean teacher hides features, which frozen latents do not have: set `finetune.from` to `pretrained` or `scratch`";
                refuse("finetune.mean_teacher", message.to_owned());
            }
        }
        if matches!(self.finetune.task, Task::Multiclass(_)) {
            let loss = &self.finetune.loss;
            let mut refuse = |path, is_set: bool, advice| {
                if is_set {
                    found.push((path, format!("it applies to `finetune.task: binary` only: leave it out{advice}")));
                }
            };
            let advice = ", and set `finetune.task.multiclass.class_balance`";
            refuse("finetune.loss.pos_weight", (loss.pos_weight - LossConfig::default().pos_weight).abs() > 0.0, advice);
            refuse("finetune.loss.label_smoothing", loss.label_smoothing > 0.0, "");
        }
        if self.finetune.teachers.is_some() {
            let finetune = &self.finetune;
            let mut refuse = |path, is_set: bool, message: &str| {
                if is_set {
                    found.push((path, message.to_owned()));
                }
            };
            let is_multiclass = matches!(finetune.task, Task::Multiclass(_));
            let message = "teachers say how likely an attack is, not of which kind: set `finetune.task: binary`";
            refuse("finetune.teachers", is_multiclass, message);
            let message = "`finetune.teachers` already teaches on rows without labels: leave one of the two out";
            refuse("finetune.mean_teacher", finetune.mean_teacher.is_some(), message);
            let message = "what teachers say is smooth already: leave it out, or `finetune.teachers`";
            refuse("finetune.loss.label_smoothing", finetune.loss.label_smoothing > 0.0, message);
            let is_from_features = matches!(finetune.from, FinetuneFrom::Pretrained | FinetuneFrom::Scratch);
            let message = "teachers teach a network on features: set `finetune.from` to `pretrained` or `scratch`";
            refuse("finetune.teachers", !is_from_features, message);
        }
        if self.finetune.refit == Refit::All && self.finetune.from == FinetuneFrom::Latents {
            let message =
                "`encode` leaves no latents to train on of the rows held out: set another `finetune.from`, or leave it out";
            found.push(("finetune.refit", message.to_owned()));
        }
    }

    /// Heads without what they stand on, and settings that they would ignore.
    fn contradictions_of_heads(&self, found: &mut Vec<(&'static str, String)>) {
        let finetune = &self.finetune;
        let from = if finetune.from == FinetuneFrom::Frozen { "frozen" } else { "features" };
        let mut refuse = |path, message: String| found.push((path, message));
        if finetune.has_network() {
            if finetune.heads().iter().any(|head| head.needs_components()) {
                let message = "`logistic` and `kernel_machine` stand on what is not trained: set `finetune.from` to `frozen` or \
                               `features`, or name `extra_trees` and `boosting` alone";
                refuse("finetune.heads", message.to_owned());
            }
        } else {
            let ignored = [
                ("finetune.mean_teacher", finetune.mean_teacher.is_some(), "leave it out"),
                ("finetune.ema", finetune.ema.is_some(), "leave it out"),
                ("finetune.members", finetune.members > 1, "leave it out"),
                ("finetune.task", finetune.task != Task::Binary, "set `finetune.task: binary`"),
            ];
            for (path, is_set, advice) in ignored {
                if is_set {
                    refuse(path, format!("it has no effect with `finetune.from: {from}`, which trains no network: {advice}"));
                }
            }
        }
        if finetune.has_network() && !finetune.heads().is_empty() && finetune.task != Task::Binary {
            let message = "heads tell attacks from benign rows only: set `finetune.task: binary`";
            refuse("finetune.heads", message.to_owned());
        }
    }

    /// Those of the settings of pretraining.
    fn of_pretraining(&self, found: &mut Vec<(&'static str, String)>) {
        if self.pretrain.rows == RowsConfig::Benign && self.data.train.is_none() && self.data.unlabelled.is_some() {
            let message = "which rows are benign is known of labelled rows alone: name a file of them in `data.train`";
            found.push(("pretrain.rows", message.to_owned()));
        }
        if let ObjectiveConfig::Mae(MaeConfig { target: NumberTarget::Bins, .. }) = self.pretrain.objective
            && self.tokeniser.bins == 0
        {
            let message = "`tokeniser.bins` is 0, and it says how many bins there are: set it, or take `target: value`";
            found.push(("pretrain.objective.mae.target", message.to_owned()));
        }
        if let ObjectiveConfig::Mae(MaeConfig { mask_ratio: MaskRatio::Drawn(DrawnRatio { from, to }), encoder, .. }) =
            self.pretrain.objective
        {
            let key = "pretrain.objective.mae.mask_ratio";
            if from >= to {
                found.push((
                    key,
                    format!("expected `from` to be below `to`, found {from} and {to}: for one ratio write one number"),
                ));
            }
            if encoder == MaeEncoder::VisibleOnly {
                let message = "with `encoder: visible_only` every row hides as many features: write one number, or set \
                               `encoder: mask_token`";
                found.push((key, message.to_owned()));
            }
        }
    }
}
