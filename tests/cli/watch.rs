//! `nids-mixer watch` as an administrator meets it: rotated, stopped, killed, and with a disk that is full.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::bench::{Bench, shell, text};

/// Half of the flows are alerts.
const WATCH: &str = "watch --run run --data log.csv --output alerts.json --threshold 0.5";

fn append(bench: &Bench, name: &str, bytes: &[u8]) {
    File::options().append(true).create(true).open(bench.path(name)).unwrap().write_all(bytes).unwrap();
}

/// The alerts of a file, each a whole line.
fn alerts(bench: &Bench, name: &str) -> Vec<Json> {
    bench.read(name).lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

fn ids(alerts: &[Json]) -> Vec<String> {
    alerts.iter().map(|alert| alert["event"]["id"].as_str().unwrap().to_owned()).collect()
}

fn counts(bench: &Bench, name: &str) -> Json {
    serde_json::from_str::<Json>(&bench.read(name)).unwrap()["counts"].clone()
}

/// What `predict` says of attacks: id and probability.
fn predicted(bench: &Bench, data: &str) -> Vec<(String, f64)> {
    let verdicts = bench.prints(&format!("predict --run run --data {data} --threshold 0.5"));
    let cells = verdicts.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    cells.filter(|cells| cells[2] == "attack").map(|cells| (cells[0].to_owned(), cells[1].parse().unwrap())).collect()
}

/// A watcher, which does not outlive its test.
struct Watcher(Child);

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(bench: &Bench, args: &str) -> Watcher {
    Watcher(bench.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
}

fn signal(child: &Watcher, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), child.0.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(30), "not in 30 s: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Ends a watcher by SIGTERM; what it told.
fn stop(mut child: Watcher) -> String {
    let since = Instant::now();
    signal(&child, "TERM");
    let status = child.0.wait().unwrap();
    let mut told = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(status.code(), Some(0), "{told}");
    assert!(since.elapsed() < Duration::from_secs(2), "SIGTERM took {:?}", since.elapsed());
    told
}

#[test]
fn alerts_are_the_attacks_of_predict_in_every_format() {
    let bench = Bench::trained();
    bench.file("log.csv", bench.read("flows.csv"));
    let wanted = predicted(&bench, "log.csv");
    assert!((20..280).contains(&wanted.len()), "{}", wanted.len());
    bench.prints(&format!("{WATCH} --once --batch-rows 37"));
    let found = alerts(&bench, "alerts.json");
    let of = |alert: &Json| {
        let id = alert["nids_mixer"]["record"]["id"].as_str().unwrap().to_owned();
        (id, alert["nids_mixer"]["probability"].as_f64().unwrap())
    };
    assert_eq!(found.iter().map(of).collect::<Vec<_>>(), wanted);
    let risk = found[0]["event"]["risk_score"].as_f64().unwrap();
    assert!((risk - 100.0 * wanted[0].1).abs() < 0.006, "{risk}");
    assert_eq!(found[0]["nids_mixer"]["threshold"], 0.5);
    assert_eq!(found[0]["rule"]["name"], "nids-mixer run");
    // the rows of predict, byte for byte
    let verdicts = bench.prints("predict --run run --data log.csv --threshold 0.5 --reasons alerts");
    let attacks: Vec<&str> = verdicts
        .lines()
        .enumerate()
        .filter(|(place, line)| *place == 0 || line.contains(",attack,"))
        .map(|(_, line)| line)
        .collect();
    bench.prints(&WATCH.replace("alerts.json", "alerts.csv --alert-format csv --reasons --once"));
    assert_eq!(bench.read("alerts.csv").lines().collect::<Vec<_>>(), attacks);
    bench.prints(&WATCH.replace("alerts.json", "ocsf.json --alert-format ocsf --once"));
    assert_eq!(alerts(&bench, "ocsf.json").len(), wanted.len());
    // on stdout, where a state is kept if it has a name
    let printed = bench.prints("watch --run run --data log.csv --threshold 0.5 --once --state here.state");
    assert_eq!(printed.lines().count(), wanted.len());
    assert_eq!(bench.prints("watch --run run --data log.csv --threshold 0.5 --once --state here.state"), "");
}

#[test]
fn a_restart_goes_on_with_nothing_lost_or_doubled() {
    let bench = Bench::trained();
    let flows = bench.bytes("flows.csv");
    let wanted = predicted(&bench, "flows.csv").len();
    let mut from = 0;
    // cut in the header, in rows, and at their ends
    for to in [20, 900, 901, 20_000, 33_000, flows.len()] {
        append(&bench, "log.csv", &flows[from..to]);
        let (_, told) = bench.prints_and_tells(&format!("{WATCH} --once"));
        assert_eq!(told.contains("a last line has no line end yet"), to < flows.len() && flows[to - 1] != b'\n', "{to}: {told}");
        from = to;
    }
    let found = alerts(&bench, "alerts.json");
    assert_eq!(found.len(), wanted);
    assert_eq!(ids(&found).into_iter().collect::<BTreeSet<_>>().len(), wanted);
    let counted = counts(&bench, "alerts.json.state");
    assert_eq!((&counted["flows"], &counted["lines"], &counted["alerts"]), (&300.into(), &300.into(), &wanted.into()));
    // the whole log at once gives the same ids
    bench.prints(&WATCH.replace("alerts.json", "again.json --once"));
    assert_eq!(ids(&alerts(&bench, "again.json")), ids(&found));
}

#[test]
fn lines_that_cannot_be_read_are_kept_apart_and_stop_nothing() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let bad = ["nonsense", "\"open", "1,2,3", "\"a\"b,c"];
    let mut lines: Vec<&str> = flows.lines().collect();
    for (place, bad) in bad.iter().enumerate() {
        lines.insert(1 + 60 * place, bad);
    }
    let long = "x".repeat(3 << 20);
    lines.insert(100, &long);
    bench.file("log.csv", lines.join("\n") + "\n");
    let (_, told) = bench.prints_and_tells(&format!("{WATCH} --once --rejects rejects.csv --metrics metrics.prom"));
    assert!(told.contains("305 lines = 300 flows + 5 rejected + 0 passed over"), "{told}");
    assert_eq!(alerts(&bench, "alerts.json").len(), predicted(&bench, "flows.csv").len());
    let rejects = bench.read("rejects.csv");
    assert_eq!((rejects.lines().next(), rejects.lines().count()), (Some("file,place,column,value,reason"), 6));
    let offset = bench.read("log.csv").find(&long).unwrap();
    assert!(rejects.contains(&format!("log.csv,byte {offset},,,a line of more than 1048576 bytes")), "{rejects}");
    let metrics = bench.read("metrics.prom");
    for line in
        ["nids_mixer_flows_total 300", "nids_mixer_rejected_total 5", "nids_mixer_lag_bytes 0", "nids_mixer_threshold 0.5"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
}

#[test]
fn a_log_is_followed_through_rotation_until_sigterm() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let header = flows.lines().next().unwrap().to_owned() + "\n";
    let rows: Vec<&str> = flows.lines().skip(1).collect();
    let wanted = predicted(&bench, "flows.csv").len();
    let part = |range: std::ops::Range<usize>| rows[range].join("\n") + "\n";
    append(&bench, "log.csv", (header.clone() + &part(0..100)).as_bytes());
    let child = start(&bench, &format!("{WATCH} --heartbeat 1"));
    let lines = |n: u64| {
        until("lines are read", || {
            bench.path("alerts.json.state").exists() && counts(&bench, "alerts.json.state")["lines"].as_u64() >= Some(n)
        });
    };
    lines(100);
    fs::rename(bench.path("log.csv"), bench.path("log.csv.1")).unwrap();
    append(&bench, "log.csv.1", part(100..150).as_bytes());
    append(&bench, "log.csv", (header.clone() + &part(150..200)).as_bytes());
    // somebody rotates the alerts, too
    lines(200);
    fs::rename(bench.path("alerts.json"), bench.path("alerts.json.1")).unwrap();
    fs::copy(bench.path("log.csv"), bench.path("log.csv.2")).unwrap();
    File::options().write(true).open(bench.path("log.csv")).unwrap().set_len(0).unwrap();
    append(&bench, "log.csv", (header + &part(200..300)).as_bytes());
    lines(300);
    thread::sleep(Duration::from_millis(1200)); // a heartbeat
    let told = stop(child);
    let [first, second] = ["alerts.json.1", "alerts.json"].map(|name| alerts(&bench, name));
    assert!(!second.is_empty());
    let all: BTreeSet<String> = ids(&first).into_iter().chain(ids(&second)).collect();
    assert_eq!((first.len() + second.len(), all.len()), (wanted, wanted), "{told}");
    for what in ["rotated", "was cut or written anew", "was moved away", "flows/s", "300 flows + 0 rejected"] {
        assert!(told.contains(what), "{what} in {told}");
    }
}

#[test]
fn ten_kills_in_the_middle_lose_and_double_nothing() {
    let bench = Bench::trained();
    let flows = bench.prints("synth --rows 30000 --seed 9");
    bench.file("all.csv", &flows);
    let wanted = predicted(&bench, "all.csv");
    let lines: Vec<&str> = flows.split_inclusive('\n').collect();
    let command = format!("{WATCH} --batch-rows 300 --heartbeat 0");
    let mut at = 0;
    for kill in 0..10_usize {
        let to = lines.len() * (kill + 1) / 10;
        let piece = lines[at..to].concat();
        // written while it reads, with a line in two parts
        let child = start(&bench, &command);
        let (first, rest) = piece.split_at(piece.len() * (kill + 1) / 11);
        append(&bench, "log.csv", first.as_bytes());
        thread::sleep(Duration::from_millis(40 + 37 * kill as u64));
        append(&bench, "log.csv", rest.as_bytes());
        thread::sleep(Duration::from_millis(20 + 23 * (kill as u64 % 4)));
        drop(child); // SIGKILL
        at = to;
    }
    bench.prints(&format!("{command} --once"));
    let found = alerts(&bench, "alerts.json");
    let ids: BTreeSet<String> = ids(&found).into_iter().collect();
    let counted = counts(&bench, "alerts.json.state");
    assert_eq!((&counted["lines"], &counted["flows"]), (&30_000.into(), &30_000.into()));
    assert_eq!((ids.len(), counted["alerts"].as_u64()), (wanted.len(), Some(wanted.len() as u64)), "lost");
    assert_eq!(found.len(), wanted.len(), "doubled");
}

#[test]
fn alerts_that_the_state_does_not_know_of_are_not_written_again_and_a_cut_line_is() {
    let bench = Bench::trained();
    let flows = bench.bytes("flows.csv");
    let half = flows[..20_000].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
    append(&bench, "log.csv", &flows[..half]);
    bench.prints(&format!("{WATCH} --once"));
    let before = bench.bytes("alerts.json.state");
    append(&bench, "log.csv", &flows[half..]);
    bench.prints(&format!("{WATCH} --once"));
    let all = bench.bytes("alerts.json");
    // a crash after the alerts, before the state, and one in the middle of a line
    for len in [all.len(), all.len() - 1, all.len() - 700] {
        bench.file("alerts.json.state", &before);
        File::options().write(true).open(bench.path("alerts.json")).unwrap().set_len(len as u64).unwrap();
        let (_, told) = bench.prints_and_tells(&format!("{WATCH} --once"));
        assert!(told.contains("are not written again"), "{told}");
        assert_eq!(told.contains("that a crash had cut short"), len < all.len(), "{told}");
        let created = |alerts: Vec<Json>| ids(&alerts);
        let whole: Vec<Json> = text(&all).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(created(alerts(&bench, "alerts.json")), created(whole), "{len}");
        bench.file("alerts.json.state", bench.bytes("alerts.json.state"));
    }
}

#[test]
fn sighup_reads_the_run_again_and_a_run_that_cannot_be_read_changes_nothing() {
    let bench = Bench::trained();
    let flows = bench.read("flows.csv");
    let (header, rows) = flows.split_once('\n').unwrap();
    append(&bench, "log.csv", format!("{header}\n").as_bytes());
    let mut child = start(&bench, "watch --run run --data log.csv --output alerts.json --heartbeat 0");
    let mut told = BufReader::new(child.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut wait_for = |what: &str| told.by_ref().find(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what}"));
    let lines = |n: u64| {
        until("lines are read", || {
            bench.path("alerts.json.state").exists() && counts(&bench, "alerts.json.state")["lines"].as_u64() == Some(n)
        });
    };
    append(&bench, "log.csv", rows.as_bytes());
    lines(300);
    let before = alerts(&bench, "alerts.json").len();
    let manifest = bench.bytes("run/manifest-finetune.json");
    bench.file("run/manifest-finetune.json", "{");
    signal(&child, "HUP");
    wait_for("the model of before stays");
    append(&bench, "log.csv", rows.as_bytes());
    lines(600);
    assert_eq!(alerts(&bench, "alerts.json").len(), 2 * before);
    // every flow is an alert from now on
    bench.file("run/manifest-finetune.json", manifest);
    let config = bench.read("run/config.yaml");
    let changed = config.replace("threshold: 0.5", "threshold: 0.0");
    assert_ne!(config, changed);
    bench.file("run/config.yaml", changed);
    signal(&child, "HUP");
    wait_for("is read again, version");
    append(&bench, "log.csv", rows.as_bytes());
    lines(900);
    assert_eq!(alerts(&bench, "alerts.json").len(), 2 * before + 300);
    signal(&child, "INT");
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_disk_that_is_full_is_waited_for_and_nothing_is_lost() {
    let bench = Bench::trained();
    bench.file("log.csv", bench.read("flows.csv"));
    let wanted = predicted(&bench, "log.csv").len();
    // a file of at most 20 KiB: what does not fit is taken back
    let (code, _, told) = shell(&bench, &format!("ulimit -f 20; NIDS {WATCH} --once"));
    assert_eq!(code, Some(6), "{told}");
    assert!(alerts(&bench, "alerts.json").len() < wanted && told.contains("alerts.json: cannot write"), "{told}");
    let (_, _, told) = shell(&bench, &format!("ulimit -f 20; timeout -s TERM 3 NIDS {WATCH}"));
    assert!(told.contains("waiting, nothing is lost"), "{told}");
    bench.prints(&format!("{WATCH} --once"));
    let found = alerts(&bench, "alerts.json");
    assert_eq!((found.len(), ids(&found).into_iter().collect::<BTreeSet<_>>().len()), (wanted, wanted));
}

#[test]
fn what_cannot_be_followed_or_must_not_be_written_is_refused() {
    let bench = Bench::trained();
    bench.file("log.csv", bench.read("flows.csv")).file("other.txt", "root:x\n");
    fs::create_dir(bench.path("logs")).unwrap();
    fs::copy(bench.path("flows.csv"), bench.path("logs/a.csv")).unwrap();
    bench.file("strange.csv", "a,b\n1,2\n").file("bad.state", "{}");
    let watch = |args: &str| bench.fails(&format!("watch --run run --once {args}"));
    let told = [
        watch("--data -"),
        watch("--data log.csv --output log.csv"),
        watch("--data log.csv --output run/model.safetensors"),
        watch("--data log.csv --output other.txt"),
        watch("--data logs --output logs/alerts.json"),
        watch("--data log.csv --output a.json --state a.json"),
        watch("--data log.csv --output a.json --state bad.state"),
        watch("--data strange.csv --output b.json"),
        watch("--data gone.csv --output c.json"),
    ];
    insta::assert_snapshot!(told.join("\n"), @r#"
    exit code 2
    error: `--data -`: standard input has no place to go on from: `nids-mixer predict --data -` reads it

    exit code 2
    error: `--output log.csv` is the file of `--data log.csv`, which is only read: write to another file

    exit code 2
    error: `--output run/model.safetensors` is `model.safetensors` of the run folder run, which is written by its stages alone: write to another file

    exit code 2
    error: other.txt: not a file of what nids-mixer appends here, whose first line begins with `{"@timestamp":`: name another file

    exit code 2
    error: `--output logs/alerts.json` lies in the folder of `--data logs`: it would be read as flows; write to another folder

    exit code 2
    error: `--output` and `--state` name one file

    exit code 4
    error: bad.state: not a state: missing field `kind` at line 1 column 2: remove it to read from the beginning, or name another file by `--state`

    exit code 3
    error: strange.csv: none of the 45 columns of schema `unsw-nb15` is there, and the file has "a", "b"; `nids-mixer schema FILE` proposes a schema for it

    exit code 3
    error: gone.csv: cannot read: No such file or directory (os error 2)
    "#);
    bench.prints("watch --run run --once --data log.csv --output d.json");
    let other = watch("--data flows.csv --output d.json");
    assert!(other.starts_with("exit code 4") && other.contains("a state of `--data log.csv`"), "{other}");
}
