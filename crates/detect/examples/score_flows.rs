//! A trained run as a library: a tiny classifier is trained into a temporary run folder, opened and asked for verdicts.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use std::error::Error;

use nids_config::Config;
use nids_detect::Detector;
use nids_pipeline::stages;
use nids_store::Run;
use nids_store::progress::Silent;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let settings = ["finetune.from=scratch", "finetune.steps=40", "engine.threads=2"].map(str::to_owned);
    let config = Config::parse(include_str!("../../../configs/tiny.yaml"), "configs/tiny.yaml", &settings)?;
    let run = Run::create(&folder.path().join("run"))?;
    stages::finetune(&config, &run, &mut Silent)?;

    // all that another program needs
    let detector = Detector::open(&run)?;
    let flows = nids_flows::synthetic(200, 7);
    let verdicts = detector.score(&flows)?;
    for (id, verdict) in flows.ids().iter().zip(&verdicts).take(5) {
        println!("flow {id}: {:.3}{}", verdict.probability, if verdict.is_attack { ", attack" } else { "" });
    }
    let labels = flows.labels().ok_or("generated flows have labels")?;
    let right = verdicts.iter().zip(labels).filter(|(verdict, label)| verdict.is_attack == (**label == 1)).count();
    println!("{right} of {} verdicts agree with the labels", verdicts.len());
    assert!(right > 120, "a guess is right for half of them");

    // a verdict is a function of the row alone
    let alone = detector.score(&flows.select(&[3]))?;
    assert_eq!(alone[0], verdicts[3]);
    Ok(())
}
