//! Where results may go, and what becomes of them when they cannot get there.

use std::fs::{self, OpenOptions};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::bench::{Bench, on_flows, shell, text};

/// Files of a folder that begin as scratch files do.
fn scratch(bench: &Bench) -> Vec<String> {
    let names = fs::read_dir(bench.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".scratch-")).collect()
}

#[cfg(unix)]
#[test]
fn nothing_that_is_read_and_no_artefact_is_written_over() {
    const PREDICT: &str = "predict --run run --data flows.csv";
    let bench = Bench::trained();
    bench.file("other.csv", bench.read("flows.csv")).file("ckpt.npy", "no checkpoint");
    fs::create_dir(bench.path("elsewhere")).unwrap();
    let rows: Vec<String> = bench.training_rows().iter().take(60).map(u32::to_string).collect();
    bench.file("rows.txt", rows.join("\n"));
    bench.prints(&on_flows("finetune", "--set finetune.label_rows=rows.txt"));
    let mut told = String::new();
    for (command, target) in [
        (PREDICT, "flows.csv"),
        ("predict --run run --data other.csv", "other.csv"),
        // what the run was trained on
        ("predict --run run --data other.csv", "flows.csv"),
        ("predict --run run --data other.csv", "rows.txt"),
        (PREDICT, "run/model.safetensors"),
        (PREDICT, "run/tokeniser.json"),
        (PREDICT, "run/profile.json"),
        (PREDICT, "run/manifest-pretrain.json"),
        (PREDICT, "run/config.yaml"),
        (PREDICT, "run/metrics.jsonl"),
        (PREDICT, "run/monitor.jsonl"),
        (PREDICT, "run/.lock"),
        (PREDICT, "run/latents/val.npy"),
        ("query --run run --budget 3 --data other.csv", "other.csv"),
        ("query --run run --budget 3", "flows.csv"),
        ("query --run run --budget 3", "rows.txt"),
        ("query --run run --budget 3", "run/pretrained.safetensors"),
        ("import ckpt.npy", "ckpt.npy"),
        ("import ckpt.npy", "run/model.safetensors"),
        ("synth --rows 5", "run/model.safetensors"),
        ("synth --rows 5", "run/latents/train.npy"),
    ] {
        let before = bench.bytes(target);
        let links = ["hard", "soft"].map(|name| bench.path("elsewhere").join(name));
        fs::hard_link(bench.path(target), &links[0]).unwrap();
        std::os::unix::fs::symlink(bench.path(target), &links[1]).unwrap();
        told.push_str(&bench.fails(&format!("{command} --output {target}")));
        let (folder, file) = target.rsplit_once('/').unwrap_or((".", target));
        let mut names =
            vec![format!("{folder}/../{}/{file}", bench.path(folder).canonicalize().unwrap().file_name().unwrap().display())];
        // a file by another name in another place is an artefact only if the run is known
        let is_known = command.contains("--run") || !target.starts_with("run/");
        names.extend(is_known.then(|| "elsewhere/hard".to_owned()));
        names.push("elsewhere/soft".to_owned());
        for name in names {
            let error = bench.fails(&format!("{command} --output {name}"));
            assert!(
                error.starts_with("exit code 2\nerror: `--output ") && error.contains("write to another file"),
                "{name}: {error}"
            );
        }
        assert!(bench.bytes(target) == before, "{command} --output {target}");
        for link in &links {
            fs::remove_file(link).unwrap();
        }
    }
    // names that a stage will use
    fs::create_dir(bench.path("run/checkpoints")).unwrap();
    for name in ["run/sweep.json", "run/calibration.json", "run/adaptation.json", "run/checkpoints/x", "run/latents/new.npy"] {
        assert!(bench.fails(&format!("{PREDICT} --output {name}")).starts_with("exit code 2"), "{name}");
    }
    let run = bench.path("run").canonicalize().unwrap().display().to_string();
    insta::assert_snapshot!(told.replace(&run, "[RUN]"));
    // and what is neither
    for _ in 0..2 {
        bench.prints(&format!("{PREDICT} --output run/verdicts.csv"));
        bench.prints(&format!("{PREDICT} --output elsewhere/model.safetensors"));
        bench.prints("synth --rows 5 --output elsewhere/tokeniser.json");
    }
    assert_eq!(bench.read("run/verdicts.csv").lines().count(), 301);
}

#[test]
fn stdout_is_not_what_is_read() {
    let bench = Bench::trained();
    let flows = bench.bytes("flows.csv");
    let rows: Vec<String> = bench.training_rows().iter().take(60).map(|row| format!("{row}\n")).collect();
    bench.file("rows.txt", rows.concat()).file("config.yaml", "name: a\n");
    bench.prints(&on_flows("finetune", "--set finetune.label_rows=rows.txt"));
    let mut told = String::new();
    for line in [
        "NIDS predict --run run --data flows.csv >> flows.csv",
        "NIDS evaluate --run run --data flows.csv >> run/metrics.jsonl",
        "NIDS query --run run --budget 3 >> flows.csv",
        "NIDS config --config config.yaml >> config.yaml",
        &format!("NIDS {} >> flows.csv", on_flows("finetune", "")),
    ] {
        let (code, _, stderr) = shell(&bench, line);
        assert_eq!(code, Some(2), "{line}: {stderr}");
        told.push_str(&stderr);
    }
    assert!(bench.bytes("flows.csv") == flows && bench.read("config.yaml") == "name: a\n");
    insta::assert_snapshot!(told, @r"
    error: stdout is the file of `--data flows.csv`, which is only read: write to another file
    error: stdout is `metrics.jsonl` of the run folder run, which is written by its stages alone: write to another file
    error: stdout is the `data.train` of the run folder run, which is only read: write to another file
    error: stdout is the file of `--config config.yaml`, which is only read: write to another file
    error: stdout is the file of `data.train: flows.csv`, which is only read: write to another file
    ");
    // labelling in rounds
    let (code, _, stderr) = shell(&bench, "NIDS query --run run --budget 3 >> rows.txt");
    assert_eq!((code, bench.read("rows.txt").lines().count()), (Some(0), 63), "{stderr}");
}

#[test]
fn a_stdout_that_takes_nothing_is_an_error_and_one_that_is_not_wanted_is_not() {
    let bench = Bench::new();
    bench.file("config.yaml", "name: a\n");
    for command in ["synth --rows 5", "config --config config.yaml"] {
        let (code, _, stderr) = shell(&bench, &format!("NIDS {command} >&-"));
        assert_eq!((code, stderr.as_str()), (Some(6), "error: stdout: cannot write: it is closed\n"), "{command}");
        let (code, _, stderr) = shell(&bench, &format!("NIDS {command} 1< /dev/null"));
        assert!(code == Some(6) && stderr.contains("cannot write: Bad file descriptor"), "{command}: {code:?} {stderr}");
        // as the standard library puts it in the place of a closed one, and as other programs do on purpose
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        let output = bench.command(command).stdout(null).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{command}");
    }
    // there is a file to write to
    let (code, ..) = shell(&bench, "NIDS synth --rows 5 --output flows.csv >&-");
    assert_eq!((code, bench.read("flows.csv").lines().count()), (Some(0), 6));
}

#[test]
fn a_file_that_grows_too_large_is_an_error_and_leaves_what_was_there() {
    let bench = Bench::new();
    bench.file("flows.csv", "old");
    let (code, _, stderr) = shell(&bench, "ulimit -f 8; NIDS synth --rows 5000 --output flows.csv");
    assert!(code == Some(6) && stderr.contains("cannot write: File too large"), "{code:?} {stderr}");
    assert_eq!((bench.read("flows.csv"), scratch(&bench)), ("old".to_owned(), Vec::new()));
    let (code, ..) = shell(&bench, "ulimit -f 8; NIDS synth --rows 5000 > printed.csv");
    assert_eq!(code, Some(6));
    bench.flows();
    let (code, _, stderr) = shell(&bench, &format!("ulimit -f 8; NIDS {}", on_flows("pretrain", "")));
    assert!(code == Some(6) && stderr.contains("cannot write: File too large"), "{code:?} {stderr}");
    assert!(!bench.path("run/manifest-pretrain.json").exists());
}

#[test]
fn what_a_killed_command_left_is_removed_by_the_next() {
    let bench = Bench::new();
    let mut command = bench.command("synth --rows 100000000 --output flows.csv");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let waited = Instant::now();
    while scratch(&bench).is_empty() {
        assert!(waited.elapsed() < Duration::from_secs(60), "nothing is written");
        thread::sleep(Duration::from_millis(5));
    }
    // another that writes there does not touch what is still being written
    bench.prints("synth --rows 5 --output few.csv");
    assert_eq!(scratch(&bench).len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(scratch(&bench).len(), 1);
    bench.prints("synth --rows 5 --output few.csv");
    assert!(scratch(&bench).is_empty());
}
