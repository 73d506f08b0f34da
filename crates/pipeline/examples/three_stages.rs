//! The whole job as a library: pretraining, latents and fine-tuning on generated flows in a temporary run folder.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use std::error::Error;

use nids_config::{Config, Stage};
use nids_pipeline::stages;
use nids_store::Run;
use nids_store::progress::Event;

const CONFIG: &str = include_str!("../../../configs/tiny.yaml");

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let settings = ["pretrain.steps=10", "finetune.steps=40", "engine.threads=2"].map(str::to_owned);
    let config = Config::parse(CONFIG, "configs/tiny.yaml", &settings)?;
    let run = Run::create(&folder.path().join("run"))?;

    // stages tell what they do; here the lines without the steps
    let mut progress = |event: Event<'_>| match event {
        Event::Message(text) => println!("  {text}"),
        Event::Started { stage, steps, .. } => println!("{stage}: {steps} steps"),
        Event::Step { .. } | Event::Rows { .. } | Event::Detail(_) | Event::Finished { .. } => (),
    };
    stages::pretrain(&config, &run, &mut progress)?;
    stages::encode(&config, &run, &mut progress)?;
    let metrics = stages::finetune(&config, &run, &mut progress)?;

    println!("accuracy {:.3?}, ROC-AUC {:.3?} on {} held-out rows", metrics.accuracy, metrics.roc_auc, metrics.n);
    assert!(metrics.roc_auc.is_some_and(|auc| auc > 0.7), "a chance classifier has .5");
    for (stage, artefact) in [(Stage::Pretrain, "pretrained.safetensors"), (Stage::Finetune, "model.safetensors")] {
        let path = run.require(stage, artefact)?;
        println!("{artefact}: {} bytes", path.metadata()?.len());
    }
    Ok(())
}
