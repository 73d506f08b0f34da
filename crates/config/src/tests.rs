use std::path::PathBuf;

use nids_models::{DrawnRatio, MaskRatio};
use nids_nn::optim::{AdamConfig, AdamWConfig, OptimiserConfig};

use super::*;

fn config(text: &str, overrides: &[&str]) -> Config {
    check(text, overrides).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Every problem on a line of its own.
fn problems(text: &str, overrides: &[&str]) -> String {
    check(text, overrides).expect_err("a bad config")
}

fn check(text: &str, overrides: &[&str]) -> std::result::Result<Config, String> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    Config::parse(text, "c.yaml", &overrides).map_err(|error| error.to_string())
}

#[test]
fn every_value_of_a_config_has_a_key_and_every_key_a_value() {
    let variants = [
        "name: x",
        "name: x\npretrain: { optimiser: adam, schedule: cosine_restarts }\nfinetune: { optimiser: adam, schedule: cosine_restarts }",
        "name: x\npretrain: { objective: vae }",
        "name: x\npretrain: { objective: { mae: { mask_ratio: {} } } }",
        "name: x\npretrain: { objective: replaced }",
        "name: x\nfinetune: { task: multiclass, ensemble: batch, ema: {} }",
        "name: x\nfinetune: { mean_teacher: {} }",
        "name: x\nsweep: { strategy: halving }",
    ];
    let has_settings =
        |path: &str| keys::find(path).is_some_and(|key| matches!(key.rule, keys::Rule::Choice(_) | keys::Rule::Section));
    let mut named: Vec<String> = variants.iter().flat_map(|text| config(text, &[]).flat().into_keys()).collect();
    named.retain(|path| !has_settings(path)); // a choice without settings is a bare name
    named.sort();
    named.dedup();
    let mut listed: Vec<&str> = every_key().filter(|path| !has_settings(path)).collect();
    listed.sort_unstable();
    assert_eq!(named, listed);
    // 131, and for objectives of pretraining that an anomaly score is to stand on: the two ends of a drawn mask ratio,
    // bins as targets, benign rows alone, the share of swapped features; `refit`, without which a rival that is fitted on all labels
    // has a fifth more of them; `label_smoothing` and `logit_adjustment`, which rivals have;
    // `teachers`, for `distil`; `without`, which says what a feature that gives the label away is worth;
    // `cache`, where rows lie that memory does not hold, and `shuffle`, for one on a slow disk
    assert!(every_key().count() <= 143, "{} keys: which of them does a shipped config or a result need?", every_key().count());
}

#[test]
fn a_declaration_gives_rule_default_scope_and_meaning() {
    let found = |path: &str| {
        let key = keys::find(path).unwrap();
        format!("{}, {}", key.expected(), key.default)
    };
    assert_eq!(found("pretrain.optimiser.adamw.weight_decay"), "a number from 0 up, 0.01");
    assert_eq!(found("finetune.optimiser.adamw.weight_decay"), "a number from 0 up, 0.05"); // the stage's own
    assert_eq!(found("finetune.optimiser.adam.beta2"), "a number from 0 to below 1, 0.99"); // of a choice that is not the default
    assert_eq!(found("finetune.clip_norm"), "a number above 0 or `null`, 1.0");
    assert_eq!(found("tokeniser.bins"), "a whole number between 0 and 1024, 64");
    assert_eq!(found("finetune.ema"), "a mapping of `decay` or `null`, null");
    for key in keys::all() {
        assert!(!key.doc.is_empty(), "`{}` has no doc comment", key.path);
        assert!(!key.doc.contains("Default"), "`{}`: the default stands beside the field", key.path);
    }
    let scopes =
        ["model.dim", "model.dropout", "engine.threads", "engine.gemm", "data.unlabelled", "encode.ridge", "finetune.log_every"];
    let scopes = scopes.map(|path| keys::find(path).unwrap().scope);
    let wanted = [
        Scope::Every,
        Scope::Each,
        Scope::Nothing,
        Scope::Each,
        Scope::Of(Stage::Pretrain),
        Scope::Of(Stage::Encode),
        Scope::Nothing,
    ];
    assert!(scopes == wanted);
}

#[test]
fn the_page_of_settings_is_that_of_the_declarations() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/settings.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(page == reference(), "docs/settings.md is stale: `nids-mixer config reference > docs/settings.md`");
}

#[test]
fn the_schema_accepts_what_the_checker_accepts() {
    let schema = schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let is_valid = |text: &str| validator.is_valid(&serde_yaml::from_str::<Json>(text).unwrap());
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                is_valid(&text),
                "{}: {:?}",
                path.display(),
                validator.validate(&serde_yaml::from_str::<Json>(&text).unwrap())
            );
        }
    }
    for text in [
        "name: x",
        "name: x\npretrain: { optimiser: adam, schedule: one_cycle }",
        "name: x\npretrain: { objective: { mae: { mask_ratio: 0.6 } } }",
        "name: x\npretrain: { objective: { mae: { mask_ratio: { to: 0.6 } } } }",
        "name: x\nfinetune: { ema: {}, mean_teacher: null, labels: 2, optimiser: { adam: { beta1: 0 } } }",
    ] {
        assert!(is_valid(text) && check(text, &[]).is_ok(), "{text}");
    }
    for text in [
        "seed: 1",
        "name: x\nsead: 1",
        "name: x\npretrain: { steps: 0 }",
        "name: x\npretrain: { optimiser: lion }",
        "name: x\npretrain: { optimiser: { adamw: { beta3: 1 } } }",
        "name: x\nmodel: { dropout: 1 }",
        "name: x\npretrain: { objective: { mae: { mask_ratio: 1 } } }",
        "name: x\npretrain: { objective: { mae: { mask_ratio: { to: 1 } } } }",
        "name: x\npretrain: { objective: { mae: { mask_ratio: { too: 0.5 } } } }",
        "name: x\nfinetune: { labels: many }",
        "name: x\npretrain: { schedule: { cosine: { warmup: 0.1 } } }",
    ] {
        assert!(!is_valid(text) && check(text, &[]).is_err(), "{text}");
    }
    assert_eq!(schema.pointer("/properties/finetune/properties/lr/default"), Some(&Json::from(0.004)));
}

#[test]
fn a_key_of_an_older_version_says_what_to_write() {
    let text = "
name: x
engine: { gemm: bf16 }
pretrain:
  sam: null
  schedule: { cosine: { warmup: 0.1, per: step } }
  optimiser: { adamw: { decay: all } }
  monitor: { every: 50, stop: true }
  nonfinite: { skip: { max: 10 } }
encode: { latents: { mu: { samples: 2 } }, noise: { sigma: { min: 0.1, max: 1 } } }
finetune:
  schedule: { cosine_restarts: { warmup: 0.1, min_lr: 0, per: epoch, warmup_start_lr: 0 } }
  optimiser: { sgd: { momentum: 0.9 } }
  monitor: null
  layer_lr_decay: 1
  auxiliary: null
";
    insta::assert_snapshot!(problems(text, &["finetune.update_noise=null"]));
}

#[test]
fn defaults_of_a_section_survive_a_partial_choice() {
    let config = config("name: x\nfinetune: { optimiser: { adamw: { beta1: 0.8 } } }", &[]);
    assert_eq!(
        config.finetune.training.optimiser,
        OptimiserConfig::AdamW(AdamWConfig { beta1: 0.8, weight_decay: 0.05, ..AdamWConfig::default() })
    );
}

#[test]
fn another_choice_starts_from_its_own_defaults() {
    let by_file = config("name: x\nfinetune: { optimiser: { adam: {} } }", &[]);
    assert_eq!(by_file.finetune.training.optimiser, OptimiserConfig::Adam(AdamConfig::default()));
    for set in ["finetune.optimiser=adam", "finetune.optimiser={adam: {}}", "finetune.optimiser.adam.beta1=0.9"] {
        assert_eq!(config("name: x\nfinetune: { optimiser: { adamw: { beta1: 0.3 } } }", &[set]), by_file, "{set}");
    }
}

#[test]
fn a_choice_without_settings_is_a_bare_name() {
    let vae = "name: x\npretrain: { objective: vae }\nencode: { latents: mu }";
    assert_eq!(config(vae, &[]).encode.latents, Latents::Mu);
    assert_eq!(config(vae, &["encode.latents=tokens"]).encode.latents, Latents::Tokens);
    assert!(config("name: x", &[]).to_yaml().contains("latents: mean\n"));
    insta::assert_snapshot!(problems("name: x\nencode: { latents: { mean: {} } }", &[]), @"c.yaml:2:22: `encode.latents.mean` has no settings of its own: write `encode.latents: mean`");
    insta::assert_snapshot!(problems("name: x\nencode: { latents: mu }", &[]), @"c.yaml:2:20: `encode.latents`: only a variational autoencoder has `mu`: set `pretrain.objective: vae`, or take `mean` or `tokens`");
}

#[test]
fn what_only_the_binary_task_reads_contradicts_the_other() {
    let text = "name: x\nfinetune: { task: multiclass, loss: { pos_weight: 2 } }";
    insta::assert_snapshot!(problems(text, &[]), @r"
    c.yaml:2:51: `finetune.loss.pos_weight`: it applies to `finetune.task: binary` only: leave it out, and set `finetune.task.multiclass.class_balance`
    ");
    let task = config("name: x", &["finetune.task.multiclass.class_balance=0"]).finetune.task.clone();
    assert_eq!(task, Task::Multiclass(MulticlassConfig { class_balance: 0.0, logit_adjustment: 0.0 }));
}

#[test]
fn members_share_what_the_network_has() {
    let finetune = |set: &[&str]| config("name: x", set).finetune.clone();
    let batch = "finetune.ensemble.batch.shared_blocks=4";
    assert_eq!((finetune(&[batch]).batch_ensemble(), finetune(&[batch, "finetune.members=8"]).independent()), (None, 1));
    assert_eq!(finetune(&["finetune.members=8"]).independent(), 8);
    let set = ["finetune.ensemble.batch.shared_blocks=3", "model.depth=2"];
    insta::assert_snapshot!(problems("name: x", &set), @"--set finetune.ensemble.batch.shared_blocks=3: `finetune.ensemble.batch.shared_blocks`: expected at most `model.depth` (2), found `3`");
}

#[test]
fn an_optional_section_is_off_as_null_and_on_with_its_defaults() {
    assert_eq!(config("name: x", &[]).finetune.ema, None);
    let on = "name: x\nfinetune: { ema: { decay: 0.9 } }";
    for (text, set, decay) in [
        (on, &[][..], Some(0.9)),
        (on, &["finetune.ema.decay=0.5"], Some(0.5)),
        (on, &["finetune.ema="], None),
        (on, &["finetune.ema={}"], Some(0.998)),
        ("name: x", &["finetune.ema={}"], Some(0.998)),
        ("name: x", &["finetune.ema.decay=0.5"], Some(0.5)),
        ("name: x", &["finetune.ema.decay=0.5", "finetune.ema=null"], None),
    ] {
        assert_eq!(config(text, set).finetune.ema.as_ref().map(|ema| ema.decay), decay, "{text} {set:?}");
    }
    let all =
        ["0.9", "{ decay: 1 }", "{ deacy: 0.9 }", "[]"].map(|ema| problems(&format!("name: x\nfinetune: {{ ema: {ema} }}"), &[]));
    insta::assert_snapshot!(all.join("\n"), @r"
    c.yaml:2:18: `finetune.ema`: expected a mapping of `decay` or `null`, found `0.9`
    c.yaml:2:27: `finetune.ema.decay`: expected a number from 0 to below 1, found `1`
    c.yaml:2:20: unknown key `finetune.ema.deacy`: did you mean `finetune.ema.decay`?
    c.yaml:2:18: `finetune.ema`: expected a mapping of `decay` or `null`, found a list
    ");
}

#[test]
fn a_mean_teacher_has_defaults_and_contradictions() {
    let teacher = |set: &[&str]| config("name: x", set).finetune.mean_teacher.clone().unwrap();
    assert_eq!(teacher(&["finetune.mean_teacher={}"]), MeanTeacherConfig::default());
    let later = MeanTeacherConfig { ramp: RampConfig { from: 0.1, to: 0.6 }, ..MeanTeacherConfig::default() };
    assert_eq!(teacher(&["finetune.mean_teacher.ramp.to=0.6"]), later);
    let set = ["finetune.mean_teacher={ramp: {from: 0.5}}", "finetune.ema={}", "finetune.from=latents"];
    insta::assert_snapshot!(problems("name: x", &set), @r"
    --set finetune.mean_teacher={ramp: {from: 0.5}}: `finetune.mean_teacher.ramp`: expected `from` to be at most `to`, found 0.5 and 0.4
    --set finetune.ema={}: `finetune.ema`: `finetune.mean_teacher` already averages the weights: leave one of the two out
    --set finetune.mean_teacher={ramp: {from: 0.5}}: `finetune.mean_teacher`: a mean teacher hides features, which frozen latents do not have: set `finetune.from` to `pretrained` or `scratch`
    ");
    let set = ["finetune.mean_teacher={}", "finetune.task=multiclass", "finetune.ensemble=batch", "finetune.members=2"];
    insta::assert_snapshot!(problems("name: x", &set), @r"
    --set finetune.mean_teacher={}: `finetune.mean_teacher`: a mean teacher supports two classes only: set `finetune.task: binary`
    --set finetune.ensemble=batch: `finetune.ensemble`: a mean teacher trains one network at a time: set `finetune.ensemble: independent`
    ");
}

#[test]
fn heads_are_a_list_and_stand_on_what_is_frozen() {
    let heads = |set: &[&str]| config("name: x", set).finetune.heads().to_vec();
    assert_eq!(heads(&[]), []);
    assert_eq!(heads(&["finetune.from=frozen"]), Head::ALL);
    assert_eq!(heads(&["finetune.from=features", "finetune.heads=[boosting, logistic]"]), [Head::Boosting, Head::Logistic]);
    assert_eq!(heads(&["finetune.heads=[boosting]"]), [Head::Boosting]);
    for from in ["frozen", "features", "pretrained", "latents", "scratch"] {
        let config = config("name: x", &[&format!("finetune.from={from}"), "finetune.heads=[extra_trees]"]);
        assert_eq!(config.finetune.has_network(), !["frozen", "features"].contains(&from), "{from}");
        let reads_encoder = config.upstream(Stage::Finetune).contains(&Stage::Pretrain);
        assert_eq!(reads_encoder, ["frozen", "pretrained", "latents"].contains(&from), "{from}");
    }
    let all = ["[boosted]", "[boosting, boosting]", "[]", "boosting", "[{ boosting: {} }]"]
        .map(|heads| problems(&format!("name: x\nfinetune: {{ heads: {heads} }}"), &[]));
    insta::assert_snapshot!(all.join("\n"), @r"
    c.yaml:2:21: `finetune.heads`: expected a list of some of `logistic`, `kernel_machine`, `extra_trees`, `boosting`, each at most once or `null`, found `boosted`
    c.yaml:2:31: `finetune.heads`: `boosting` is in the list twice: name it once
    c.yaml:2:20: `finetune.heads`: expected a list of some of `logistic`, `kernel_machine`, `extra_trees`, `boosting`, each at most once or `null`, found a list
    c.yaml:2:20: `finetune.heads`: expected a list of some of `logistic`, `kernel_machine`, `extra_trees`, `boosting`, each at most once or `null`, found `boosting`: write `[boosting]`
    c.yaml:2:21: `finetune.heads`: expected a list of some of `logistic`, `kernel_machine`, `extra_trees`, `boosting`, each at most once or `null`, found a mapping
    ");
    insta::assert_snapshot!(problems("name: x", &["finetune.heads=[logistic, extra_trees]"]), @"--set finetune.heads=[logistic, extra_trees]: `finetune.heads`: `logistic` and `kernel_machine` stand on what is not trained: set `finetune.from` to `frozen` or `features`, or name `extra_trees` and `boosting` alone");
    insta::assert_snapshot!(problems("name: x", &["finetune.task=multiclass", "finetune.heads=[extra_trees]"]), @"--set finetune.heads=[extra_trees]: `finetune.heads`: heads tell attacks from benign rows only: set `finetune.task: binary`");
    let ignored = ["finetune.from=frozen", "finetune.ema={}", "finetune.members=2", "finetune.task=multiclass"];
    insta::assert_snapshot!(problems("name: x", &ignored), @r"
    --set finetune.ema={}: `finetune.ema`: it has no effect with `finetune.from: frozen`, which trains no network: leave it out
    --set finetune.members=2: `finetune.members`: it has no effect with `finetune.from: frozen`, which trains no network: leave it out
    --set finetune.task=multiclass: `finetune.task`: it has no effect with `finetune.from: frozen`, which trains no network: set `finetune.task: binary`
    ");
    insta::assert_snapshot!(problems("name: x", &["finetune.from=features", "finetune.mean_teacher={}"]), @"--set finetune.mean_teacher={}: `finetune.mean_teacher`: it has no effect with `finetune.from: features`, which trains no network: leave it out");
}

#[test]
fn what_heads_alone_ignore_is_known() {
    let set = ["finetune.lr=0.1", "finetune.labels=50", "finetune.eval_every=7", "finetune.patch_size=4", "pretrain.lr=0.1"];
    let from = |from: &str| config("name: x", &[&set[..], &[from]].concat()).without_effect();
    assert_eq!(from("finetune.from=frozen"), ["finetune.eval_every", "finetune.lr"]);
    assert_eq!(from("finetune.from=features"), ["finetune.eval_every", "finetune.lr"]);
    assert!(from("finetune.from=pretrained").is_empty());
    assert!(config("name: x", &["finetune.from=frozen", "finetune.heads=[logistic]"]).without_effect().is_empty());
}

#[test]
fn overrides_win_and_the_last_wins() {
    let config = config("name: x\nseed: 1", &["seed=2", "seed=3", "data.train=a: b #c.csv", "finetune.labels=100"]);
    assert_eq!(
        (config.seed, config.data.train.clone(), config.finetune.labels),
        (3, Some(Files::One("a: b #c.csv".to_owned())), Some(100))
    );
}

#[test]
fn null_takes_a_value_back() {
    let text = "name: x\ndata: { train: a.csv }\npretrain: { clip_norm: 2 }";
    let config = config(text, &["data.train=", "pretrain.clip_norm=null"]);
    assert_eq!((config.data.train.clone(), config.pretrain.training.clip_norm), (None, None));
}

#[test]
fn resolved_text_gives_the_same_config() {
    let settings = [
        "seed=18446744073709551615",
        "pretrain.lr=3.3333333333333335e-4",
        "finetune.optimiser=adam",
        "finetune.optimiser.adam.eps=1e-12",
        "data.train=true.csv",
        "name=0123",
        "pretrain.schedule=cosine_restarts",
        "finetune.schedule=one_cycle",
        "finetune.schedule_per=epoch",
        "finetune.seed=18446744073709551615",
        "pretrain.objective=vae",
        "encode.latents=mu",
        "finetune.ema.decay=0.99",
    ];
    let first = config("name: x", &settings);
    let again = config(&first.to_yaml(), &[]);
    assert_eq!((again.to_yaml(), again.hash(), &again), (first.to_yaml(), first.hash(), &first));
}

#[test]
fn every_shipped_config_loads_and_round_trips() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let config = Config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(Config::parse(&config.to_yaml(), "again", &[]).unwrap(), config, "{}", path.display());
            assert_eq!(Some(config.name.as_str()), path.file_stem().and_then(std::ffi::OsStr::to_str));
            names.push(config.name.clone());
        }
    }
    names.sort();
    assert_eq!(
        names,
        [
            "nsl-kdd",
            "synthetic",
            "tiny",
            "unsw-nb15",
            "unsw-nb15-anomaly",
            "unsw-nb15-batch4096",
            "unsw-nb15-d128",
            "unsw-nb15-ensemble",
            "unsw-nb15-few-labels",
            "unsw-nb15-heads",
            "unsw-nb15-small"
        ]
    );
}

#[test]
fn shipped_unsw_nb15_is_the_default_on_real_data() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../configs/unsw-nb15.yaml");
    let shipped = Config::load(&path, &["data.train=".to_owned(), "data.unlabelled=".to_owned()]).unwrap();
    assert_eq!(shipped, config("name: unsw-nb15", &["tokeniser.max_categories=31"]));
}

#[test]
fn a_setting_may_be_a_word_or_a_number() {
    use nids_flows::MaxCategories::{AtMost, Auto};
    for (written, wanted) in [("auto", Auto), ("31", AtMost(31)), ("65535", AtMost(65_535))] {
        let found = config(&format!("name: x\ntokeniser: {{ max_categories: {written} }}"), &[]);
        assert_eq!(found.tokeniser.max_categories, wanted);
        assert_eq!(config(&found.to_yaml(), &[]), found);
        assert_eq!(config(&found.to_json().to_string(), &[]), found);
    }
    assert_eq!(config("name: x", &[]).tokeniser.max_categories, Auto);
    let wrong =
        ["0", "65536", "aut", "'31'", "[31]"].map(|value| problems("name: x", &[&format!("tokeniser.max_categories={value}")]));
    insta::assert_snapshot!(wrong.join("\n"));
}

#[test]
fn a_mask_ratio_is_a_number_or_two_ends() {
    let ratio = |set: &[&str]| {
        let config = config("name: x", set);
        let ObjectiveConfig::Mae(mae) = config.pretrain.objective else { panic!("the default") };
        mae.mask_ratio
    };
    let key = "pretrain.objective.mae.mask_ratio";
    let drawn = |from, to| MaskRatio::Drawn(DrawnRatio { from, to });
    assert_eq!(ratio(&[]), MaskRatio::Fixed(0.4));
    assert_eq!(ratio(&[&format!("{key}={{}}")]), drawn(0.0, 0.6));
    assert_eq!(ratio(&[&format!("{key}.from=0.1")]), drawn(0.1, 0.6));
    assert_eq!(ratio(&[&format!("{key}={{from: 0.1, to: 0.3}}"), &format!("{key}=0.3")]), MaskRatio::Fixed(0.3));
    let both = config("name: x", &[&format!("{key}.to=0.7")]);
    assert_eq!(config(&both.to_yaml(), &[]), both);
    let wrong = ["2", "{to: 1}", "{too: 0.5}", "[0.1]", "null", "{from: 0.5, to: 0.5}"];
    let mut wrong: Vec<String> = wrong.map(|value| problems("name: x", &[&format!("{key}={value}")])).to_vec();
    wrong.push(problems("name: x", &[&format!("{key}={{}}"), "pretrain.objective.mae.encoder=visible_only"]));
    insta::assert_snapshot!(wrong.join("\n"), @r"
    --set pretrain.objective.mae.mask_ratio=2: `pretrain.objective.mae.mask_ratio`: expected a number between 0 and 1, both excluded, or a mapping of `from`, `to`, found `2`
    --set pretrain.objective.mae.mask_ratio={to: 1}: `pretrain.objective.mae.mask_ratio.to`: expected a number between 0 and 1, both excluded, found `1`
    --set pretrain.objective.mae.mask_ratio={too: 0.5}: unknown key `pretrain.objective.mae.mask_ratio.too`: did you mean `pretrain.objective.mae.mask_ratio.to`?
    --set pretrain.objective.mae.mask_ratio=[0.1]: `pretrain.objective.mae.mask_ratio`: expected a number between 0 and 1, both excluded, or a mapping of `from`, `to`, found a list
    --set pretrain.objective.mae.mask_ratio=null: `pretrain.objective.mae.mask_ratio`: expected a number between 0 and 1, both excluded, or a mapping of `from`, `to`, found nothing
    --set pretrain.objective.mae.mask_ratio={from: 0.5, to: 0.5}: `pretrain.objective.mae.mask_ratio`: expected `from` to be below `to`, found 0.5 and 0.5: for one ratio write one number
    --set pretrain.objective.mae.mask_ratio={}: `pretrain.objective.mae.mask_ratio`: with `encoder: visible_only` every row hides as many features: write one number, or set `encoder: mask_token`
    ");
}

#[test]
fn hashes_move_with_what_matters_and_nothing_else() {
    let base = config("name: x", &[]);
    let moved = |set: &str| {
        let other = config("name: x", &[set]);
        let stages: Vec<&str> =
            Stage::ALL.into_iter().filter(|&s| base.stage_hash(s) != other.stage_hash(s)).map(Stage::name).collect();
        format!("{}{}", if base.hash() == other.hash() { "" } else { "whole " }, stages.join(" "))
    };
    assert_eq!(moved("engine.threads=7"), "");
    assert_eq!(moved("pretrain.log_every=7"), "whole ");
    assert_eq!(moved("finetune.monitor=off"), "whole ");
    assert_eq!(moved("seed=7"), "whole pretrain encode finetune");
    assert_eq!(moved("data.unlabelled="), "");
    assert_eq!(moved("pretrain.steps=7"), "whole pretrain encode finetune");
    assert_eq!(moved("encode.noise.sigma=0.7"), "whole encode");
    assert_eq!(moved("finetune.labels=7"), "whole finetune");
    // newer than older runs: only another value than the default counts
    assert_eq!(moved("pretrain.objective.mae.target=bins"), "whole pretrain encode finetune");
    assert_eq!(moved("pretrain.objective.mae.target=value"), "");
    assert_eq!(moved("pretrain.rows=benign"), "whole pretrain encode finetune");
    assert_eq!(moved("pretrain.rows=all"), "");
    assert_eq!(moved("evaluate.threshold=0.7"), "whole ");
    let scratch = config("name: x", &["finetune.from=scratch"]);
    let moved = config("name: x", &["finetune.from=scratch", "pretrain.steps=7"]);
    assert_eq!(scratch.stage_hash(Stage::Finetune), moved.stage_hash(Stage::Finetune));
}

#[test]
fn hash_is_stable_across_versions() {
    // It moves with a new key that is not declared as `x-newer`, and with a new default; both make old runs stale: say so in the
    // changelog.
    insta::assert_snapshot!(config("name: x", &[]).stage_hash(Stage::Finetune), @"1a5c4a7081887aa37b59a2e1690bd24fb1cd45909d42e5a466d8937296f37696");
}

#[test]
fn unknown_keys_are_named_with_a_suggestion() {
    let text = "name: x\nsead: 1\nmodel:\n  dims: 3\n  lr: 0.1\n  zzzz: 1\nfintune: {}\npretrain: { objective: { mea: {} } }";
    insta::assert_snapshot!(problems(text, &["model.dpeth=3", "engine=3", "seed.x=1"]), @r"
    c.yaml:2:1: unknown key `sead`: did you mean `seed`?
    c.yaml:4:3: unknown key `model.dims`: did you mean `model.dim`?
    c.yaml:5:3: unknown key `model.lr`: did you mean `pretrain.lr` or `finetune.lr`?
    c.yaml:6:3: unknown key `model.zzzz`: expected one of `dim`, `depth`, `token_expansion`, `channel_expansion`, `n_registers`, `activation`, `dropout`, `drop_path`
    --set model.dpeth=3: unknown key `model.dpeth`: did you mean `model.depth`?
    c.yaml:7:1: unknown key `fintune`: did you mean `finetune`?
    c.yaml:8:26: unknown key `pretrain.objective.mea`: did you mean `pretrain.objective.mae`?
    --set engine=3: `engine`: expected a mapping, found `3`
    --set seed.x=1: `seed`: expected a whole number from 0 up, found a mapping
    ");
}

#[test]
fn mistyped_and_out_of_range_values_say_what_was_wanted() {
    let text = r#"
name: 2024
seed: -1
data: { train: true, validation_fraction: 1 }
tokeniser: { quantile: yes, normalisation: standart, bins: 3.5 }
model: { dim: "64", depth: [4], dropout: abc, token_expansion: 0, activation: relu }
pretrain:
  steps: 1e3
  lr: .inf
  clip_norm: 0
  objective: { mae: { mask_ratio: 1.5, encoder: visible } }
  optimiser: lion
  schedule: { cosine_restarts: {}, constant: {} }
encode: { noise: 3 }
finetune: { labels: many, steps: null, optimiser: {} }
"#;
    insta::assert_snapshot!(problems(text, &["evaluate.threshold=2", "engine.gemm=mkl"]), @r#"
    c.yaml:2:7: `name`: expected text (in quotes where it looks like a number), found `2024`
    c.yaml:3:7: `seed`: expected a whole number from 0 up, found `-1`
    c.yaml:4:16: `data.train`: expected text (in quotes where it looks like a number) or a list of texts or `null`, found `true`
    c.yaml:4:43: `data.validation_fraction`: expected a number between 0 and 1, both excluded, found `1`
    c.yaml:5:24: `tokeniser.quantile`: expected `true` or `false`, found `yes`
    c.yaml:5:44: `tokeniser.normalisation`: expected one of `features`, `standard`, `global_max`, found `standart`: did you mean `standard`?
    c.yaml:5:60: `tokeniser.bins`: expected a whole number between 0 and 1024, found `3.5`
    c.yaml:6:15: `model.dim`: expected a whole number between 1 and 4096, found `"64"`
    c.yaml:6:28: `model.depth`: expected a whole number between 1 and 32, found a list
    c.yaml:6:42: `model.dropout`: expected a number from 0 to below 1, found `abc`
    c.yaml:6:64: `model.token_expansion`: expected a number above 0, at most 64, found `0`
    c.yaml:6:79: `model.activation`: expected one of `gelu`, `tanh`, found `relu`: did you mean `gelu`?
    c.yaml:8:10: `pretrain.steps`: expected a whole number from 1 up, found `1e3`
    c.yaml:9:7: `pretrain.lr`: expected a number above 0, found `.inf`
    c.yaml:10:14: `pretrain.clip_norm`: expected a number above 0 or `null`, found `0`
    c.yaml:11:35: `pretrain.objective.mae.mask_ratio`: expected a number between 0 and 1, both excluded, or a mapping of `from`, `to`, found `1.5`
    c.yaml:11:49: `pretrain.objective.mae.encoder`: expected one of `mask_token`, `visible_only`, found `visible`: did you mean `visible_only`?
    c.yaml:12:14: `pretrain.optimiser`: expected one of `adamw`, `adam`, found `lion`
    c.yaml:13:36: `pretrain.schedule`: expected exactly one of `cosine`, `constant`, `cosine_restarts`, `one_cycle`, found `cosine_restarts` and `constant`
    c.yaml:14:18: `encode.noise`: expected a mapping, found `3`
    c.yaml:15:21: `finetune.labels`: expected a whole number from 2 up or `null`, found `many`
    c.yaml:15:34: `finetune.steps`: expected a whole number from 1 up, found nothing
    c.yaml:15:51: `finetune.optimiser`: expected one of `adamw`, `adam`, found an empty mapping
    --set evaluate.threshold=2: `evaluate.threshold`: expected a number between 0 and 1, found `2`
    --set engine.gemm=mkl: `engine.gemm`: expected one of `auto`, `tiles`, `openblas`, found `mkl`
    "#);
}

#[test]
fn contradictions_are_found_once_the_values_are_good() {
    let text = "name: ../x\ndata: { schema: nsl-kdd, on_bad_row: skip }\npretrain: { batch_size: 100, micro_batch: 30 }";
    let off = "tokeniser={quantile: false, log1p: false, bins: 0}";
    insta::assert_snapshot!(problems(text, &[off]), @r"
    c.yaml:1:7: `name`: expected a valid name of a folder, found `../x`
    c.yaml:3:25: `pretrain.batch_size`: expected a multiple of `micro_batch` (30), found `100`
    --set tokeniser={quantile: false, log1p: false, bins: 0}: `tokeniser`: `quantile`, `log1p` and `bins` are all off; switch one on, or use `normalisation: standard`
    c.yaml:2:7: `data.train`: without it and without `data.unlabelled`, flows of the schema `unsw-nb15` are generated: name files, or leave `data.schema` out
    c.yaml:2:38: `data.on_bad_row`: `skip` needs a file for the rows left out: set `data.rejects`
    ");
    let set = ["tokeniser.bins=0", "pretrain.objective.mae.target=bins"];
    insta::assert_snapshot!(problems("name: x", &set), @"--set pretrain.objective.mae.target=bins: `pretrain.objective.mae.target`: `tokeniser.bins` is 0, and it says how many bins there are: set it, or take `target: value`");
    let set = ["data.unlabelled=u.csv", "pretrain.rows=benign"];
    insta::assert_snapshot!(problems("name: x", &set), @"--set pretrain.rows=benign: `pretrain.rows`: which rows are benign is known of labelled rows alone: name a file of them in `data.train`");
    let rates = "name: x\npretrain: { lr: 0.01, min_lr: 0.02 }";
    let set = [
        "finetune.schedule=constant",
        "finetune.min_lr=0.001",
        "engine.gemm=openblas",
        "engine.precision=bf16",
        "data.rejects=bad.csv",
    ];
    insta::assert_snapshot!(problems(rates, &set), @r"
    c.yaml:2:31: `pretrain.min_lr`: expected at most `lr` (0.01), found 0.02
    --set finetune.min_lr=0.001: `finetune.min_lr`: it has no effect with `schedule: constant`: leave it out
    --set engine.precision=bf16: `engine.precision`: OpenBLAS multiplies in f32 only: leave it out, or set `engine.gemm: auto`
    --set data.rejects=bad.csv: `data.rejects`: it has no effect with `on_bad_row: stop`, which leaves no row out: leave it out, or set `skip`
    ");
    let two = problems("name: x\nfinetune: { labels: 100 }", &["finetune.label_rows=rows.txt"]);
    insta::assert_snapshot!(two, @"--set finetune.label_rows=rows.txt: `finetune.label_rows`: `finetune.labels` chooses the rows as well: leave one of the two out");
    // A batch below the micro-batch is taken whole.
    config("name: x", &["pretrain.batch_size=100"]);
}

#[test]
fn what_is_no_config_is_refused_early() {
    let cases = [
        ("", &[][..]),
        ("- a\n- b", &[]),
        ("name: x\nseed: 1\nseed: 2", &[]),
        ("name: &a x\nseed: *a", &[]),
        ("name: !!str x", &[]),
        ("name: [", &[]),
        ("name: x\n---\nname: y", &[]),
        ("name: x\n? {a: b}\n: 1", &[]),
        ("name: x\n\tseed: 1", &[]),
        ("name: x", &["seed", "=1", "a..b=1", "seed=[", "seed=*a"]),
    ];
    let all: Vec<String> = cases.iter().map(|(text, overrides)| problems(text, overrides)).collect();
    insta::assert_snapshot!(all.join("\n"), @r"
    c.yaml: `name` is missing: give the run a name, as in `name: unsw-nb15`
    c.yaml:1:1: the config: expected a mapping, found a list
    c.yaml:3:1: `seed` is written twice (first at c.yaml:2:1)
    c.yaml:2:7: aliases (`*name`) are not read here: write the value out
    c.yaml:1:13: tags (`tag:yaml.org,2002:!str`) are not read here: write the plain value
    c.yaml:2:1: not YAML: while parsing a node, did not find expected node content
    c.yaml:2:1: a second document: only one is read
    c.yaml:2:3: expected a key, found a mapping
    c.yaml:1:7: not YAML: while scanning a plain scalar, found a tab
    --set seed: expected `dotted.key=value`, found no `=`
    --set =1: expected `dotted.key=value`, found an empty key
    --set a..b=1: expected `dotted.key=value`, found an empty key
    --set seed=[: not YAML: while parsing a node, did not find expected node content
    --set seed=*a: not YAML: while parsing node, found unknown anchor
    ");
    assert!(problems(&format!("name: {}", "[".repeat(200)), &[]).contains("nested deeper"));
    assert!(problems(&format!("name: {}", "[".repeat(100_000)), &[]).contains("not YAML")); // the scanner's own limit
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test makes its own bad files")]
fn a_missing_huge_or_binary_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for (name, content) in [("none", None), ("huge", Some(vec![b'#'; (1 << 20) + 1])), ("binary", Some(vec![0xff, 0xfe]))] {
        let path = folder.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, &content).unwrap();
        }
        let error = Config::load(&path, &[]).unwrap_err();
        all.push(error.to_string().replace(&folder.path().display().to_string(), "F"));
    }
    insta::assert_snapshot!(all.join("\n"), @r"
    F/none: cannot read the config: No such file or directory (os error 2)
    F/huge: the file is larger than 256 KiB, the limit for a config
    F/binary: not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
    ");
}
