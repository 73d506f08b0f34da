//! Files under other names, and folders that are not a run's.

use std::fs;

use crate::bench::{Bench, small};

#[test]
fn a_file_is_known_by_its_content() {
    let bench = Bench::new();
    bench.flows();
    let on = |stage: &str, data: &str, more: &str| small(stage, "run", &format!("--set data.train={data} {more}"));
    bench.prints(&on("pretrain", "flows.csv", ""));
    fs::create_dir(bench.path("elsewhere")).unwrap();
    fs::rename(bench.path("flows.csv"), bench.path("elsewhere/rows.csv")).unwrap();
    bench.prints(&on("encode", "elsewhere/rows.csv", ""));
    bench.prints(&on("finetune", "./elsewhere/rows.csv", ""));
    bench.prints("query --run run --budget 3 --data elsewhere/rows.csv");
    // other content is a change, under the same name as well
    let rows = bench.read("elsewhere/rows.csv");
    bench.file("flows.csv", rows.lines().take(200).collect::<Vec<_>>().join("\n"));
    let error = bench.fails(&on("finetune", "flows.csv", ""));
    assert!(
        error.starts_with("exit code 4") && error.contains("the file behind `data.train` has changed since `pretrain` ran"),
        "{error}"
    );
    // and so are generated flows, and a file that is not there
    let error = bench.fails(&on("finetune", "null", ""));
    assert!(error.starts_with("exit code 4") && error.contains("`data.train` was"), "{error}");
    bench.fails(&on("finetune", "none.csv", ""));
}

#[test]
fn a_stage_that_was_stopped_goes_on_with_its_file_under_another_name() {
    let bench = Bench::new();
    bench.flows();
    let on = |data: &str, steps: u32| {
        small("pretrain", "run", &format!("--set data.train={data} --set checkpoint.every=5 --set pretrain.steps={steps}"))
    };
    let mut child = bench.command(&on("flows.csv", 2000)).stderr(std::process::Stdio::null()).spawn().unwrap();
    while !bench.path("run/checkpoints/pretrain.json").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it has not ended");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    fs::copy(bench.path("flows.csv"), bench.path("copy.csv")).unwrap();
    let (_, told) = bench.prints_and_tells(&on("copy.csv", 2000));
    assert!(told.contains("goes on"), "{told}");
}

#[test]
fn a_config_of_the_user_is_not_written_over() {
    let bench = Bench::new();
    bench.flows();
    bench.file("config.yaml", "name: mine # and a remark\n");
    let error = bench.fails(&small("pretrain", ".", "--set data.train=flows.csv"));
    assert!(error.starts_with("exit code 2") && error.contains("the folder is not a run folder"), "{error}");
    assert_eq!(bench.read("config.yaml"), "name: mine # and a remark\n");
    assert!(!bench.path(".lock").exists() && !bench.path("manifest-pretrain.json").exists());
    // without it the folder may become a run's, whose own file is replaced
    fs::rename(bench.path("config.yaml"), bench.path("mine.yaml")).unwrap();
    for stage in ["pretrain", "finetune"] {
        bench.prints(&small(stage, ".", "--set data.train=flows.csv"));
    }
}
