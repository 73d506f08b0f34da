//! A stage writes an artefact into a run folder; it is read back, found in the manifest, and refused once it was changed.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;

use nids_config::{Config, Stage};
use nids_store::Run;
use nids_store::artefacts::write_atomic;
use nids_store::log::Line;
use nids_store::progress::Silent;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let config = Config::parse("name: demo", "demo.yaml", &[])?;
    let run = Run::create(&folder.path().join("run"))?;
    let mut stage = run.begin(Stage::Pretrain, &config, &mut Silent)?;
    stage.write("weights.bin", &[1, 2, 3, 4])?;
    stage.log(&Line::Step { step: 1, member: None, loss: 0.5, lr: 1e-3, grad_norm: 2.0, terms: BTreeMap::new() })?;
    // the manifest is written last; before it, the artefact does not count
    assert!(run.require(Stage::Pretrain, "weights.bin").is_err());
    stage.finish("no kernels")?;

    let path = run.require(Stage::Pretrain, "weights.bin")?;
    assert_eq!(fs::read(&path)?, [1, 2, 3, 4]);
    let manifest = fs::read_to_string(run.folder().join("manifest-pretrain.json"))?;
    let manifest: serde_json::Value = serde_json::from_str(&manifest)?;
    println!("manifest-pretrain.json lists {}", manifest["outputs"]);
    assert_eq!(manifest["outputs"]["weights.bin"]["bytes"], 4);
    println!("metrics.jsonl: {}", fs::read_to_string(run.folder().join("metrics.jsonl"))?.trim_end());

    // a file that differs from its manifest is refused, with the command that makes it again
    write_atomic(&path, |out| out.write_all(&[4, 3, 2, 1]))?;
    let error = run.require(Stage::Pretrain, "weights.bin").expect_err("the content has changed");
    println!("{}", error.to_string().replace(&folder.path().display().to_string(), "."));
    assert_eq!(error.exit_code(), 4);

    // a write that fails half way leaves the old file as it was
    let failed = write_atomic(&path, |out| {
        out.write_all(&[9])?;
        Err(std::io::ErrorKind::StorageFull.into())
    });
    assert!(failed.is_err() && fs::read(&path)? == [4, 3, 2, 1]);
    Ok(())
}
