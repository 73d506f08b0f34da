//! Every key of a config: what it accepts, and which stage's output depends on it.
//!
//! The checker, the suggestions and the stage hashes all walk this one table; a test holds it against [`super::Settings`].

use std::ops::Bound::{self, Excluded, Included, Unbounded};

use super::Stage;

/// One setting.
pub(super) struct Key {
    pub(super) path: &'static str,
    pub(super) rule: Rule,
    pub(super) nullable: bool,
    pub(super) scope: Scope,
}

/// What a setting accepts.
pub(super) enum Rule {
    Whole(u64, u64),
    Number(Bound<f64>, Bound<f64>),
    Switch,
    Text,
    OneOf(&'static [&'static str]),
    /// Exactly one of these, each a mapping of its own settings; a bare name where there are none.
    Choice(&'static [&'static str]),
    /// A mapping of the settings below it, where it is not `null`.
    Section,
}

/// Whose output a setting changes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scope {
    /// Nobody's: a name, a number of threads, how often to print.
    Nothing,
    Every,
    /// Every stage's, each for itself: a later stage may differ, as what it reads means the same whatever this was.
    Each,
    Of(Stage),
}

const ANY: u64 = u64::MAX;
const FRACTION: Rule = Rule::Number(Included(0.0), Excluded(1.0));
const UP_TO_ONE: Rule = Rule::Number(Included(0.0), Included(1.0));
const INSIDE: Rule = Rule::Number(Excluded(0.0), Excluded(1.0));
const SHARE: Rule = Rule::Number(Excluded(0.0), Included(1.0));
const FACTOR: Rule = Rule::Number(Included(1.0), Unbounded);
const POSITIVE: Rule = Rule::Number(Excluded(0.0), Unbounded);
const NOT_NEGATIVE: Rule = Rule::Number(Included(0.0), Unbounded);
const EXPANSION: Rule = Rule::Number(Excluded(0.0), Included(64.0));
const PER: Rule = Rule::OneOf(&["step", "epoch"]);

const NOTHING: Scope = Scope::Nothing;
const EVERY: Scope = Scope::Every;
const EACH: Scope = Scope::Each;
const PRETRAIN: Scope = Scope::Of(Stage::Pretrain);
const ENCODE: Scope = Scope::Of(Stage::Encode);
const FINETUNE: Scope = Scope::Of(Stage::Finetune);

const fn key(path: &'static str, rule: Rule, scope: Scope) -> Key {
    Key { path, rule, nullable: false, scope }
}

const fn nullable(path: &'static str, rule: Rule, scope: Scope) -> Key {
    Key { path, rule, nullable: true, scope }
}

/// What is off as `null`, and on with the settings below it.
const fn optional(path: &'static str, scope: Scope) -> Key {
    nullable(path, Rule::Section, scope)
}

/// Those of the config but for [`super::Training`]'s.
static KEYS: &[Key] = &[
    key("name", Rule::Text, NOTHING),
    key("seed", Rule::Whole(0, ANY), EVERY),
    key("data.schema", Rule::Text, EVERY),
    nullable("data.train", Rule::Text, EVERY),
    nullable("data.unlabelled", Rule::Text, PRETRAIN),
    key("data.validation_fraction", INSIDE, EVERY),
    key("data.inner_validation", Rule::Switch, EVERY),
    key("data.synthetic.rows", Rule::Whole(10, 100_000_000), EVERY),
    key("data.synthetic.unlabelled_rows", Rule::Whole(0, 100_000_000), PRETRAIN),
    key("tokeniser.normalisation", Rule::OneOf(&["features", "standard", "global_max"]), EVERY),
    key("tokeniser.quantile", Rule::Switch, EVERY),
    key("tokeniser.log1p", Rule::Switch, EVERY),
    key("tokeniser.bins", Rule::Whole(0, 1024), EVERY),
    key("tokeniser.one_hot", Rule::Switch, EVERY),
    key("tokeniser.min_count", Rule::Whole(1, ANY), EVERY),
    key("tokeniser.max_categories", Rule::Whole(1, 65_535), EVERY),
    key("model.dim", Rule::Whole(1, 4096), EVERY),
    key("model.depth", Rule::Whole(1, 32), EVERY),
    key("model.token_expansion", EXPANSION, EVERY),
    key("model.channel_expansion", EXPANSION, EVERY),
    key("model.n_registers", Rule::Whole(0, 1024), EVERY),
    key("model.activation", Rule::OneOf(&["gelu", "tanh"]), EVERY),
    key("model.dropout", FRACTION, EACH),
    key("model.drop_path", FRACTION, EACH),
    key("engine.threads", Rule::Whole(0, 1024), NOTHING),
    key("engine.gemm", Rule::OneOf(&["openblas", "tiles", "bf16"]), EACH),
    key("engine.shard", Rule::Whole(0, 64), EACH),
    key("engine.gradient_groups", Rule::Whole(0, 256), EACH),
    key("checkpoint.every", Rule::Whole(1, ANY), NOTHING),
    key("checkpoint.keep", Rule::Whole(1, 100), NOTHING),
    key("pretrain.objective", Rule::Choice(&["mae", "vae"]), PRETRAIN),
    key("pretrain.objective.mae.mask_ratio", INSIDE, PRETRAIN),
    key("pretrain.objective.mae.encoder", Rule::OneOf(&["mask_token", "visible_only"]), PRETRAIN),
    key("pretrain.objective.mae.decoder_depth", Rule::Whole(0, 32), PRETRAIN),
    // the shape of the latents, which encode and what comes after it read
    key("pretrain.objective.vae.latent_dim", Rule::Whole(1, 4096), EVERY),
    key("pretrain.objective.vae.latent", Rule::OneOf(&["token", "pooled"]), EVERY),
    key("pretrain.objective.vae.beta", NOT_NEGATIVE, PRETRAIN),
    key("pretrain.objective.vae.beta_warmup", UP_TO_ONE, PRETRAIN),
    key("pretrain.objective.vae.decoder_depth", Rule::Whole(0, 32), PRETRAIN),
    key("encode.latents", Rule::Choice(&["mean", "tokens", "mu"]), ENCODE),
    key("encode.noise.sigma", NOT_NEGATIVE, ENCODE),
    key("encode.noise.copies", Rule::Whole(0, 1024), ENCODE),
    key("encode.noise.fresh", Rule::Switch, ENCODE),
    key("encode.ridge", POSITIVE, ENCODE),
    key("finetune.from", Rule::OneOf(&["pretrained", "latents", "scratch"]), FINETUNE),
    nullable("finetune.labels", Rule::Whole(2, ANY), FINETUNE),
    nullable("finetune.label_rows", Rule::Text, FINETUNE),
    key("finetune.task", Rule::Choice(&["binary", "multiclass"]), FINETUNE),
    key("finetune.task.multiclass.class_balance", FRACTION, FINETUNE),
    key("finetune.members", Rule::Whole(1, 64), FINETUNE),
    key("finetune.ensemble", Rule::Choice(&["independent", "batch"]), FINETUNE),
    key("finetune.ensemble.batch.scales", Rule::OneOf(&["normal", "signs"]), FINETUNE),
    key("finetune.ensemble.batch.shared_blocks", Rule::Whole(0, 32), FINETUNE),
    key("finetune.patch_size", Rule::Whole(1, 65_536), FINETUNE),
    key("finetune.encoder_lr_scale", NOT_NEGATIVE, FINETUNE),
    key("finetune.loss.pos_weight", POSITIVE, FINETUNE),
    optional("finetune.ema", FINETUNE),
    key("finetune.ema.decay", FRACTION, FINETUNE),
    optional("finetune.mean_teacher", FINETUNE),
    key("finetune.mean_teacher.decay", FRACTION, FINETUNE),
    key("finetune.mean_teacher.weight", NOT_NEGATIVE, FINETUNE),
    key("finetune.mean_teacher.ramp.from", UP_TO_ONE, FINETUNE),
    key("finetune.mean_teacher.ramp.to", UP_TO_ONE, FINETUNE),
    key("finetune.mean_teacher.batch_size", Rule::Whole(1, 1 << 20), FINETUNE),
    key("finetune.mean_teacher.mask_ratio", FRACTION, FINETUNE),
    key("finetune.eval_every", Rule::Whole(1, ANY), FINETUNE),
    key("evaluate.threshold", UP_TO_ONE, NOTHING),
    key("sweep.strategy", Rule::Choice(&["width_depth", "halving"]), NOTHING),
    key("sweep.strategy.width_depth.iterations", Rule::Whole(10, ANY), NOTHING),
    key("sweep.strategy.width_depth.min_drop", FRACTION, NOTHING),
    key("sweep.strategy.width_depth.tolerance", FRACTION, NOTHING),
    key("sweep.strategy.width_depth.min_dim", Rule::Whole(1, 4096), NOTHING),
    key("sweep.strategy.width_depth.max_dim", Rule::Whole(1, 4096), NOTHING),
    key("sweep.strategy.width_depth.depth", Rule::Whole(1, 32), NOTHING),
    key("sweep.strategy.width_depth.max_depth", Rule::Whole(1, 32), NOTHING),
    key("sweep.strategy.halving.min_steps", Rule::Whole(10, ANY), NOTHING),
    key("sweep.strategy.halving.eta", Rule::Whole(2, 1024), NOTHING),
    key("sweep.strategy.halving.max_candidates", Rule::Whole(1, 100_000), NOTHING),
];

/// The keys of [`super::Training`] in the section of a stage.
macro_rules! training {
    ($stage:literal, $scope:expr) => {
        &[
            key(concat!($stage, ".steps"), Rule::Whole(1, ANY), $scope),
            key(concat!($stage, ".batch_size"), Rule::Whole(1, 1 << 20), $scope),
            key(concat!($stage, ".micro_batch"), Rule::Whole(1, 1 << 20), $scope),
            key(concat!($stage, ".optimiser"), Rule::Choice(&["adamw", "adam"]), $scope),
            key(concat!($stage, ".optimiser.adamw.beta1"), FRACTION, $scope),
            key(concat!($stage, ".optimiser.adamw.beta2"), FRACTION, $scope),
            key(concat!($stage, ".optimiser.adamw.eps"), POSITIVE, $scope),
            key(concat!($stage, ".optimiser.adamw.weight_decay"), NOT_NEGATIVE, $scope),
            key(concat!($stage, ".optimiser.adam.beta1"), FRACTION, $scope),
            key(concat!($stage, ".optimiser.adam.beta2"), FRACTION, $scope),
            key(concat!($stage, ".optimiser.adam.eps"), POSITIVE, $scope),
            key(concat!($stage, ".optimiser.adam.weight_decay"), NOT_NEGATIVE, $scope),
            key(concat!($stage, ".lr"), POSITIVE, $scope),
            key(concat!($stage, ".schedule"), Rule::Choice(&["cosine", "constant", "cosine_restarts", "one_cycle"]), $scope),
            key(concat!($stage, ".schedule.cosine.warmup"), UP_TO_ONE, $scope),
            key(concat!($stage, ".schedule.cosine.warmup_start_lr"), NOT_NEGATIVE, $scope),
            key(concat!($stage, ".schedule.cosine.min_lr"), NOT_NEGATIVE, $scope),
            key(concat!($stage, ".schedule.cosine.t_max"), SHARE, $scope),
            key(concat!($stage, ".schedule.cosine.per"), PER, $scope),
            key(concat!($stage, ".schedule.constant.warmup"), UP_TO_ONE, $scope),
            key(concat!($stage, ".schedule.constant.warmup_start_lr"), NOT_NEGATIVE, $scope),
            key(concat!($stage, ".schedule.constant.per"), PER, $scope),
            key(concat!($stage, ".schedule.cosine_restarts.warmup"), UP_TO_ONE, $scope),
            key(concat!($stage, ".schedule.cosine_restarts.warmup_start_lr"), NOT_NEGATIVE, $scope),
            key(concat!($stage, ".schedule.cosine_restarts.min_lr"), NOT_NEGATIVE, $scope),
            key(concat!($stage, ".schedule.cosine_restarts.t_0"), Rule::Whole(1, 1 << 32), $scope),
            key(concat!($stage, ".schedule.cosine_restarts.t_mult"), Rule::Whole(1, 1 << 16), $scope),
            key(concat!($stage, ".schedule.cosine_restarts.per"), PER, $scope),
            key(concat!($stage, ".schedule.one_cycle.pct_start"), UP_TO_ONE, $scope),
            key(concat!($stage, ".schedule.one_cycle.div_factor"), FACTOR, $scope),
            key(concat!($stage, ".schedule.one_cycle.final_div_factor"), FACTOR, $scope),
            key(concat!($stage, ".schedule.one_cycle.per"), PER, $scope),
            nullable(concat!($stage, ".clip_norm"), POSITIVE, $scope),
            key(concat!($stage, ".nonfinite"), Rule::Choice(&["stop", "skip", "rollback"]), $scope),
            key(concat!($stage, ".nonfinite.skip.max"), Rule::Whole(1, ANY), $scope),
            key(concat!($stage, ".nonfinite.rollback.every"), Rule::Whole(1, ANY), $scope),
            key(concat!($stage, ".nonfinite.rollback.lr_factor"), INSIDE, $scope),
            key(concat!($stage, ".nonfinite.rollback.max"), Rule::Whole(1, ANY), $scope),
            key(concat!($stage, ".log_every"), Rule::Whole(1, ANY), NOTHING),
            optional(concat!($stage, ".monitor"), NOTHING),
            key(concat!($stage, ".monitor.every"), Rule::Whole(1, ANY), NOTHING),
            key(concat!($stage, ".monitor.threshold"), POSITIVE, NOTHING),
            key(concat!($stage, ".monitor.patience"), Rule::Whole(1, 1024), NOTHING),
            key(concat!($stage, ".monitor.stop"), Rule::Switch, NOTHING),
        ]
    };
}

static OF_PRETRAIN: &[Key] = training!("pretrain", PRETRAIN);
static OF_FINETUNE: &[Key] = training!("finetune", FINETUNE);

/// Every setting there is.
pub(super) fn all() -> impl Iterator<Item = &'static Key> {
    [KEYS, OF_PRETRAIN, OF_FINETUNE].into_iter().flatten()
}

/// The setting of that name.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    all().find(|key| key.path == path)
}

/// Whether settings lie below `path` (the empty path is the whole config).
pub(super) fn is_section(path: &str) -> bool {
    !children(path).is_empty()
}

/// The names directly below `path`, in the order of the table.
pub(super) fn children(path: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for key in all() {
        let below =
            if path.is_empty() { Some(key.path) } else { key.path.strip_prefix(path).and_then(|rest| rest.strip_prefix('.')) };
        if let Some(name) = below.and_then(|rest| rest.split('.').next())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

impl Key {
    pub(super) fn is_choice(&self) -> bool {
        matches!(self.rule, Rule::Choice(_))
    }

    /// Whether it has settings below it, hence none of its own.
    #[cfg(test)]
    pub(super) fn has_settings(&self) -> bool {
        matches!(self.rule, Rule::Choice(_) | Rule::Section)
    }

    /// "a number between 0 and 1", for "expected …".
    pub(super) fn expected(&self) -> String {
        let mut text = match &self.rule {
            Rule::Whole(low, ANY) => format!("a whole number from {low} up"),
            Rule::Whole(low, high) => format!("a whole number between {low} and {high}"),
            Rule::Number(low, high) => match (low, high) {
                (Included(low), Included(high)) => format!("a number between {low} and {high}"),
                (Included(low), Excluded(high)) => format!("a number from {low} to below {high}"),
                (Excluded(low), Included(high)) => format!("a number above {low}, at most {high}"),
                (Excluded(low), Excluded(high)) => format!("a number between {low} and {high}, both excluded"),
                (Included(low), Unbounded) => format!("a number from {low} up"),
                (Excluded(low), Unbounded) => format!("a number above {low}"),
                (Unbounded, _) => "a number".to_owned(),
            },
            Rule::Switch => "`true` or `false`".to_owned(),
            Rule::Text => "text (in quotes where it looks like a number)".to_owned(),
            Rule::OneOf(names) | Rule::Choice(names) => {
                let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                match names.as_slice() {
                    [only] => only.clone(),
                    _ => format!("one of {}", names.join(", ")),
                }
            }
            Rule::Section => {
                let names: Vec<String> = children(self.path).iter().map(|name| format!("`{name}`")).collect();
                format!("a mapping of {}", names.join(", "))
            }
        };
        if self.nullable {
            text.push_str(" or `null`");
        }
        text
    }
}
