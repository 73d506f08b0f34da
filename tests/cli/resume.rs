//! Stages that are stopped from outside, and what the next one makes of it.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::bench::{Bench, small};

const LONG: &str = "--set pretrain.steps=600 --set pretrain.log_every=1 --set checkpoint.every=50";

/// Starts a stage in the background, and waits until it has taken some steps, each of which is a line.
fn start(bench: &Bench, args: &str) -> Child {
    let before = lines(bench);
    let mut command = Command::new(env!("CARGO_BIN_EXE_nids-mixer"));
    let child = command.args(args.split_whitespace()).current_dir(bench.path(""));
    let child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let waited = Instant::now();
    while lines(bench) < before + 20 {
        assert!(waited.elapsed() < Duration::from_secs(60), "no step was taken");
        thread::sleep(Duration::from_millis(5));
    }
    child
}

fn lines(bench: &Bench) -> usize {
    fs::read_to_string(bench.path("run/metrics.jsonl")).map_or(0, |text| text.lines().count())
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// What a run that nobody stops leaves.
fn wanted(args: &str) -> [Vec<u8>; 4] {
    let bench = Bench::new();
    bench.prints(args);
    left(&bench)
}

fn left(bench: &Bench) -> [Vec<u8>; 4] {
    assert!(!bench.path("run/checkpoints").exists(), "a finished stage keeps no checkpoints");
    ["pretrained.safetensors", "metrics.jsonl", "monitor.jsonl", "manifest-pretrain.json"]
        .map(|name| fs::read(bench.path("run").join(name)).unwrap())
}

#[test]
fn a_signal_saves_the_step_and_the_next_run_goes_on() {
    let args = small("pretrain", "run", LONG);
    let wanted = wanted(&args);
    let bench = Bench::new();
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut child = start(&bench, &args);
        let told = Instant::now();
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(told.elapsed() < Duration::from_secs(10), "{signal}: stopped after {:?}", told.elapsed());
    }
    let (_, told) = bench.prints_and_tells(&args);
    assert!(told.contains("pretrain: goes on after step "), "{told}");
    assert!(left(&bench) == wanted, "other bytes than without a stop");
}

#[test]
fn a_kill_loses_what_came_after_the_last_checkpoint_and_nothing_else() {
    let args = small("pretrain", "run", LONG);
    let wanted = wanted(&args);
    let bench = Bench::new();
    let mut child = start(&bench, &args);
    send("-KILL", &child);
    child.wait().unwrap();
    let (_, told) = bench.prints_and_tells(&args);
    assert!(told.contains("run: process ") && told.contains(", was stopped before it had ended"), "{told}");
    assert!(left(&bench) == wanted, "other bytes than without a kill");
}

#[test]
fn the_second_process_is_refused() {
    let bench = Bench::new();
    let args = small("pretrain", "run", LONG);
    let mut child = start(&bench, &args);
    let told = bench.fails(&args).replace(&child.id().to_string(), "PID");
    let wanted = "exit code 4\nerror: run: in use by process PID (`nids-mixer pretrain`), started ";
    assert!(told.starts_with(wanted) && told.contains("ago: wait until it has ended, or give another folder"), "{told}");
    send("-KILL", &child);
    child.wait().unwrap();
}

#[test]
fn a_changed_setting_is_shown_and_needs_a_word() {
    let bench = Bench::new();
    let args = small("pretrain", "run", LONG);
    let mut child = start(&bench, &args);
    send("-INT", &child);
    child.wait().unwrap();
    let changed = format!("{args} --set seed=9 --set pretrain.steps=200");
    insta::assert_snapshot!(bench.fails(&changed), @r"
    exit code 4
    error: run: `pretrain` was stopped here before its end, and since then `pretrain.steps` was 600 and is 200; `seed` was 0 and is 9: undo the change to go on from where it was, `--fresh` starts the stage anew, `--allow-changes` goes on as it is now
    ");
    assert!(bench.fails(&format!("{changed} --fresh --allow-changes")).starts_with("exit code 2"));
    let (_, told) = bench.prints_and_tells(&format!("{changed} --fresh"));
    assert!(!told.contains("goes on"), "{told}");
}
