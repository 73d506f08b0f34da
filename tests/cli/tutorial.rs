//! docs/tutorial.md, typed as it stands.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::bench::{Bench, text};

#[test]
fn the_tutorial_works_as_it_stands() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tutorial.md");
    let page = fs::read_to_string(page).unwrap();
    let commands: Vec<&str> = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(commands.len() > 8, "{} blocks of commands", commands.len());
    let bench = Bench::new();
    let program = Path::new(env!("CARGO_BIN_EXE_nids-mixer")).parent().unwrap();
    for block in commands {
        let script = format!("PATH='{}':$PATH\n{block}", program.display());
        let output = Command::new("bash").args(["-euc", &script]).current_dir(bench.path("")).output().unwrap();
        assert!(output.status.success(), "{block}\n{}", text(&output.stderr));
    }
    let verdicts = bench.read("verdicts.csv");
    assert!(verdicts.starts_with("id,probability,verdict,p_value\n") && verdicts.lines().count() == 3001);
    assert!(bench.read("runs/mine/report.html").contains("Can it be trusted?"));
    let attacks = verdicts.lines().filter(|line| line.contains(",attack,")).count();
    assert!((300..1700).contains(&attacks), "{attacks} of about 1,700 attacks");
}
