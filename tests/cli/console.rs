//! How much is told, what would be done, completions and manual pages.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::bench::{Bench, filled, on_flows, text};

/// What a command tells on stderr.
fn told(bench: &Bench, args: &str) -> String {
    bench.prints_and_tells(args).1
}

#[test]
fn quiet_leaves_warnings_and_quieter_errors_alone() {
    let bench = Bench::trained();
    bench.file("other.csv", filled(&bench.read("flows.csv"), "proto", "other"));
    let predict = "predict --run run --data other.csv --output verdicts.csv";
    let plain = told(&bench, predict);
    assert!(plain.contains("predict: 300 rows") && plain.contains("drift: 1 of 42"), "{plain}");
    let warnings: Vec<&str> = plain.split_inclusive('\n').filter(|line| line.starts_with("warning: ")).collect();
    let warnings = warnings.concat();
    assert!(warnings.lines().count() > 1, "{plain}");
    assert_eq!(told(&bench, &format!("{predict} -q")), warnings);
    assert_eq!(told(&bench, &format!("--quiet {predict}")), warnings);
    assert_eq!(told(&bench, &format!("{predict} -qq")), "");
    assert_eq!(told(&bench, "evaluate --run run --data flows.csv --report page.html -qq"), "");
    assert!(bench.fails("-qq predict --run run --data missing.csv").contains("error: "));
    assert!(bench.fails("predict -q -v --run run --data flows.csv").contains("cannot be used with"));
}

/// What a command writes to a terminal of 100 columns, on stdout and stderr, which are one there (`script` of bsdutils, which every Debian
/// has).
fn on_a_terminal(bench: &Bench, args: &str, redirect: &str, no_color: &str) -> String {
    let mut script = bench.command_of(Path::new("script"), "--quiet --return --flush --command");
    let program = env!("CARGO_BIN_EXE_nids-mixer");
    script.arg(format!("stty cols 100; {program} {args} {redirect}")).arg("/dev/null");
    let output = script
        .env_remove("COLUMNS")
        .env("TERM", "xterm")
        .env("NO_COLOR", no_color)
        .stdin(Stdio::null())
        .output()
        .expect("script of bsdutils");
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{args}: {shown}");
    shown
}

#[test]
fn a_terminal_has_a_bar_and_a_log_has_lines() {
    const ERASED: &str = "\u{1b}[2K";
    let bench = Bench::trained();
    bench.prints("synth --rows 20000 --seed 5 --output many.csv");
    let steps = on_flows("finetune", "--set finetune.steps=200 --set finetune.from=scratch");
    let shown = on_a_terminal(&bench, &steps, "", "");
    let bars: Vec<&str> = shown.split(['\r', '\n']).filter(|line| line.contains("/200") && line.contains(" loss 0.")).collect();
    assert!(bars.len() > 2 && bars.iter().any(|bar| bar.contains(" left, ") && bar.contains(" flows/s")), "{shown:?}");
    assert!(shown.contains(ERASED) && shown.contains("finetune: "), "{shown:?}");
    let piped = told(&bench, &steps);
    assert!(!piped.contains('\u{1b}') && !piped.contains('\r') && piped.contains("loss 0."), "{piped:?}");

    // rows are counted where verdicts go elsewhere, and not among them
    let predict = "predict --run run --data many.csv";
    let shown = on_a_terminal(&bench, predict, "> verdicts.csv", "");
    assert!(shown.contains("% ") && shown.contains(" rows scored") && shown.contains("predict: 20000 rows"), "{shown:?}");
    assert_eq!(bench.read("verdicts.csv"), bench.prints(predict));
    let shown = on_a_terminal(&bench, predict, "", "");
    assert!(!shown.contains(" rows scored") && shown.contains("id,probability,verdict"), "a bar among verdicts");
    // whoever wants it quiet has no bar, and whoever sets NO_COLOR no colour
    assert!(!on_a_terminal(&bench, &format!("{predict} -q --output verdicts.csv"), "", "").contains("rows scored"));
    bench.file("few.csv", filled(&bench.read("flows.csv"), "proto", "other"));
    let [with, without] = ["", "1"].map(|no_color| {
        let args = "-q predict --run run --data few.csv --output verdicts.csv";
        on_a_terminal(&bench, args, "", no_color)
    });
    assert!(with.contains("\u{1b}[33;1mwarning\u{1b}[0m: few.csv: "), "{with:?}");
    assert!(!without.contains('\u{1b}') && without.contains("warning: "), "{without:?}");
}

#[test]
fn verbose_tells_files_threads_and_times() {
    let bench = Bench::trained();
    let told = told(&bench, "predict --run run --data flows.csv --output verdicts.csv -v");
    let size = bench.bytes("flows.csv").len();
    assert!(told.contains(&format!("reads flows.csv, {size} bytes")) && told.contains(" threads, "), "{told}");
    let is_timed = |line: &&str| line.starts_with('[') && line.contains(" s] ");
    assert!(told.lines().filter(is_timed).count() > 4, "{told}");
    let stage = self::told(&bench, &on_flows("finetune", "--verbose"));
    assert!(stage.contains("finetune: took "), "{stage}");
}

#[test]
fn a_dry_run_tells_the_plan_in_a_moment_and_leaves_no_trace() {
    let bench = Bench::trained();
    let names = |folder: &str| {
        let mut names: Vec<_> = fs::read_dir(bench.path(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.into_iter().map(|path| (fs::metadata(&path).unwrap().modified().unwrap(), path)).collect::<Vec<_>>()
    };
    let before = [names("."), names("run"), names("run/latents")];
    for (stage, told) in [
        ("pretrain", "pretrain         has finished here before"),
        ("encode", "pretrain         current"),
        ("finetune", "pretrain         current"),
        ("finetune --set finetune.from=latents", "encode           current"),
        ("distil --teacher run", "pretrain         current"),
        ("sweep", "at most "),
    ] {
        let started = Instant::now();
        let plan = bench.prints(&on_flows(stage, "--dry-run"));
        assert!(started.elapsed() < Duration::from_secs(20), "a build without optimisation, beside other tests");
        assert!(plan.contains(told), "{stage}: {plan}");
        for what in ["run folder", "data.train       flows.csv: 300 rows", "network", "work", "time", "memory", "disk"] {
            assert!(plan.lines().any(|line| line.starts_with(what)), "{stage}: {what}: {plan}");
        }
    }
    assert_eq!([names("."), names("run"), names("run/latents")], before);
    let other = bench.prints("finetune --config run/config.yaml --run new --set data.train=flows.csv --dry-run");
    assert!(other.contains("(to be made)") && !bench.path("new").exists(), "{other}");
    assert!(bench.fails("pretrain --config run/config.yaml --set data.train=none.csv --dry-run").starts_with("exit code 3"));
}

#[test]
fn shells_complete_commands_and_every_command_has_a_page() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = bench.prints(&format!("completions {shell}"));
        assert!(script.contains("finetune") && script.contains("dry-run"), "{shell}");
    }
    fs::create_dir(bench.path("man1")).unwrap();
    assert_eq!(told(&bench, "man --output man1 -q"), "");
    let help = bench.prints("--help");
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands = commands.filter(|line| !line.starts_with("   "));
    for command in commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        let page = text(&bench.bytes(&format!("man1/nids-mixer-{command}.1")));
        assert!(page.contains(".TH") && page.contains("SYNOPSIS"), "{command}: {page}");
    }
    assert!(text(&bench.bytes("man1/nids-mixer.1")).contains("Exit codes"));
    assert!(bench.fails("man --output nowhere").contains("no such folder"));
}
