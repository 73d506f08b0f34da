//! A config with two mistakes is refused with both, each with its place; without them it is read, defaults filled in.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use nids_config::{Config, Stage};

const BAD: &str = "\
name: demo
model: { dim: 32, dept: 2 }
finetune: { lr: fast }
";

const GOOD: &str = "\
name: demo
model: { dim: 32, depth: 2 }
finetune: { lr: 2e-3 }
";

fn main() -> Result<(), nids_config::Error> {
    let error = Config::parse(BAD, "bad.yaml", &[]).expect_err("two mistakes");
    println!("{error}");
    assert_eq!(error.0.len(), 2, "all problems are told at once");
    assert!(error.0[0].at.starts_with("bad.yaml:2:") && error.0[1].at.starts_with("bad.yaml:3:"), "each with its place");

    // an override counts as if it had been written in the file
    let config = Config::parse(GOOD, "good.yaml", &["pretrain.steps=100".to_owned()])?;
    println!("\n`{}`: dim {}, {} steps of pretraining", config.name, config.model.dim, config.pretrain.training.steps);
    assert_eq!((config.model.dim, config.model.depth, config.pretrain.training.steps), (32, 2, 100));

    // the text with every default written out gives the same config
    let text = config.to_yaml();
    println!("written out: {} lines", text.lines().count());
    assert_eq!(Config::parse(&text, "again.yaml", &[])?.hash(), config.hash());

    // the number of threads changes no result, so it is in no hash; a learning rate is in its stage's
    let hash_with = |setting: &str| config.with(&[setting.to_owned()]).map(|config| config.stage_hash(Stage::Finetune));
    assert_eq!(hash_with("engine.threads=7")?, config.stage_hash(Stage::Finetune));
    assert_ne!(hash_with("finetune.lr=1e-3")?, config.stage_hash(Stage::Finetune));
    Ok(())
}
