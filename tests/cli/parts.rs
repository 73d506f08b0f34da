//! `predict --part`: verdicts in parts, by processes that may be killed, in a folder that they share.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::bench::{Bench, text};

const PREDICT: &str = "predict --run run --data days";

/// A trained run, and flows in three files of a folder.
fn with_days(rows: usize) -> Bench {
    let bench = Bench::trained();
    let flows = bench.prints(&format!("synth --rows {rows} --seed 4"));
    let (header, rows) = flows.split_once('\n').unwrap();
    let lines: Vec<&str> = rows.lines().collect();
    fs::create_dir(bench.path("days")).unwrap();
    let (first, second) = (lines.len() / 7, lines.len() / 2);
    for (name, rows) in [("a.csv", &lines[..first]), ("b.csv", &lines[first..second]), ("c.csv", &lines[second..])] {
        bench.file(&format!("days/{name}"), format!("{header}\n{}\n", rows.join("\n")));
    }
    bench
}

fn part(number: usize, of: usize, folder: &str) -> String {
    format!("{PREDICT} --part {number}/{of} --output {folder}")
}

#[test]
fn parts_one_after_the_other_are_the_verdicts_of_one_process() {
    let bench = with_days(500);
    for (of, format) in [(8, "csv"), (3, "csv"), (2, "jsonl"), (1, "csv"), (40, "jsonl")] {
        let options = format!("--format {format} --columns proto --id row");
        let wanted = bench.prints(&format!("{PREDICT} {options}"));
        let folder = format!("out-{of}");
        // in any order
        let numbers = (0..of).map(|number| (number * 7 + 3) % of);
        numbers.for_each(|number| drop(bench.prints(&format!("{} {options}", part(number, of, &folder)))));
        let told = bench.prints(&format!("parts {folder}"));
        assert_eq!(told, format!("{folder}: {of} parts, whole and of one input: 500 rows\n"));
        bench.prints(&format!("parts {folder} --output joined"));
        assert!(bench.read("joined") == wanted, "{of} parts, {format}");
    }
    assert_eq!(bench.read("out-8/part-00000-of-00008.csv").lines().next(), Some("id,probability,verdict,proto"));
    let parquet = |number| drop(bench.prints(&format!("{} --format parquet", part(number, 2, "columns"))));
    (0..2).for_each(parquet);
    assert!(bench.fails("parts columns --output joined").contains("only parts of CSV and JSON lines"));
    assert!(bench.fails("parts out-8 --output out-8/part-00003-of-00008.csv").starts_with("exit code 2"));
}

#[test]
fn a_part_that_is_whole_stays_and_one_that_is_not_is_made_again() {
    let bench = with_days(500);
    let (verdicts, manifest) = ("out/part-00001-of-00004.csv", "out/part-00001-of-00004.json");
    let make = || bench.prints_and_tells(&part(1, 4, "out")).1;
    assert!(make().contains("part 1 of 4, counted from 0: 2 of 3 files, rows by where they begin"));
    let (bytes, list) = (bench.bytes(verdicts), bench.bytes(manifest));
    assert!(make().contains("predict: part 1/4 is there and whole: "));
    let spoil: [(&str, &dyn Fn()); 4] = [
        ("its content is not that of the manifest", &|| _ = bench.file(verdicts, "id\n")),
        ("No such file", &|| fs::remove_file(bench.path(verdicts)).unwrap()),
        ("not the manifest of a part", &|| _ = bench.file(manifest, &list[..99])),
        ("predict: part 1/4: ", &|| fs::remove_file(bench.path(manifest)).unwrap()),
    ];
    for (wanted, spoil) in spoil {
        spoil();
        assert!(bench.fails("parts out").starts_with("exit code 4"));
        let told = make();
        assert!(told.contains(wanted) && !told.contains("whole: "), "{wanted}: {told}");
        assert!(bench.bytes(verdicts) == bytes && bench.bytes(manifest) == list, "{wanted}");
    }
    let error = bench.fails("parts out");
    assert!(error.contains("1 of 4 parts are whole: part 0 is missing, part 2 is missing, part 3 is missing"), "{error}");
}

#[test]
fn parts_of_another_input_model_or_options_are_refused() {
    let bench = with_days(500);
    bench.prints(&part(0, 4, "out"));
    let mut told = Vec::new();
    let again = |change: &str| bench.fails(&format!("{} {change}", part(1, 4, "out")));
    for change in ["--threshold 0.7", "--columns proto", "--format jsonl", "--id row", "--on-bad-row skip"] {
        told.push(again(change));
    }
    told.push(bench.fails(&part(1, 3, "out")));
    told.push(bench.fails(&part(1, 4, "out").replace("days", "days/a.csv")));
    // as long as before
    let a = bench.read("days/a.csv");
    bench.file("days/a.csv", a.replacen("tcp", "udp", 1));
    told.push(bench.fails(&part(0, 4, "out")));
    bench.file("days/a.csv", &a);
    bench.file("run/calibration.json", "{}");
    told.push(again("").split(" was").next().unwrap().to_owned());
    fs::remove_file(bench.path("run/calibration.json")).unwrap();
    for args in [
        "predict --run run --data - --part 0/2 --output new",
        "predict --run run --data days --part 2/2 --output new",
        "predict --run run --data days --part 0/2",
        "predict --run run --data days --part 0/2 --output new --rejects r.csv --on-bad-row skip",
        "predict --run run --data days --part 0/2 --output new --drift d.json",
        "predict --run run --data days --part 0/2 --output days",
        "predict --run run --data days --part 0/2 --output flows.csv",
    ] {
        let error = bench.fails(args);
        told.push(error.lines().take(2).collect::<Vec<_>>().join("\n"));
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    exit code 4
    error: out/part-00000-of-00004.json: does not belong to this part: `threshold` was "that of the run, 0.5 in its config.yaml" and is "threshold 0.7": write to another folder, or remove the parts that are in this one

    exit code 4
    error: out/part-00000-of-00004.json: does not belong to this part: `columns` was "" and is "proto": write to another folder, or remove the parts that are in this one

    exit code 4
    error: out/part-00000-of-00004.json: does not belong to this part: `format` was "csv" and is "jsonl": write to another folder, or remove the parts that are in this one

    exit code 4
    error: out/part-00000-of-00004.json: does not belong to this part: `id` was "schema" and is "row": write to another folder, or remove the parts that are in this one

    exit code 4
    error: out/part-00000-of-00004.json: does not belong to this part: `on_bad_row` was "stop" and is "skip": write to another folder, or remove the parts that are in this one

    exit code 4
    error: out/part-00000-of-00004.json: does not belong to this part: one of 4 parts, and this is one of 3: write to another folder, or remove the parts that are in this one

    exit code 4
    error: out/part-00000-of-00004.json: does not belong to this part: `data` was "3 files of 93092 bytes" and is "1 files of 12769 bytes": write to another folder, or remove the parts that are in this one

    exit code 4
    error: out/part-00000-of-00004.json: does not belong to this part: `days/a.csv` has another content now: write to another folder, or remove the parts that are in this one

    exit code 4
    error: out/part-00000-of-00004.json: does not belong to this part: `model`
    exit code 3
    error: -: no file on the disk: parts are dealt by the size of files
    exit code 2
    error: invalid value '2/2' for '--part <I/K>': expected I/K with I from 0 to K - 1, such as 0/8 to 7/8; K is at most 100,000
    exit code 2
    error: the following required arguments were not provided:
    exit code 2
    error: the argument '--part <I/K>' cannot be used with '--rejects <FILE>'
    exit code 2
    error: the argument '--part <I/K>' cannot be used with '--drift <FILE>'
    exit code 2
    error: `--output days` is the folder of `--data days/a.csv`: parts would be read as flows; write to another folder
    exit code 6
    error: flows.csv: cannot make the folder of the parts: File exists (os error 17)
    "#);
    bench.prints(&part(1, 4, "out"));
}

#[test]
fn rows_that_cannot_be_read_lie_beside_their_part() {
    let bench = with_days(500);
    let b = bench.read("days/b.csv");
    let line = b.lines().nth(60).unwrap();
    bench.file("days/b.csv", b.replace(line, &line.replacen(',', ",x", 1)));
    let options = "--on-bad-row skip --max-bad-rows 0.1";
    (0..5).for_each(|number| drop(bench.prints(&format!("{} {options}", part(number, 5, "out")))));
    assert_eq!(bench.prints("parts out"), "out: 5 parts, whole and of one input: 499 rows, 1 rejected\n");
    let rejects: Vec<String> = (0..5).map(|number| bench.read(&format!("out/part-{number:05}-of-00005.rejects.csv"))).collect();
    assert_eq!(rejects.iter().filter(|file| file.contains("days/b.csv,line 61,dur,x")).count(), 1, "{rejects:?}");
    assert!(rejects.iter().all(|file| file.starts_with("file,row,column,value,reason\n")));
}

#[test]
fn a_launcher_may_start_a_process_a_part_and_nothing_else_that_one_process_does() {
    let bench = with_days(60);
    // as `mpirun -n 2` says it in the environment
    let of_rank = |rank: &str, args: &str| {
        let mut command = bench.command(args);
        let output = command.env("OMPI_COMM_WORLD_SIZE", "2").env("OMPI_COMM_WORLD_RANK", rank).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    for (rank, number) in [("0", 0), ("1", 1)] {
        let (code, told) = of_rank(rank, &part(number, 2, "out"));
        assert!(code == Some(0) && told.contains(&format!("part {number} of 2")), "{told}");
    }
    bench.prints("parts out");
    let (code, told) = of_rank("0", PREDICT);
    assert_eq!(code, Some(2));
    insta::assert_snapshot!(told, @"error: 2 processes were started: only `pretrain`, `finetune` and `distil`, which train a network, and `predict --part` are done by several processes: start one");
}

/// A thousand kills: `scripts/torture --parts`.
#[test]
fn parts_whose_processes_are_killed_are_in_the_end_the_verdicts_of_one_process() {
    const PARTS: usize = 3;
    let bench = with_days(30_000);
    let begun = Instant::now();
    let wanted = bench.prints(PREDICT);
    let whole = begun.elapsed();
    let (mut kills, mut random) = (0, 1_u64);
    for number in (0..PARTS).cycle() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // the later, the more likely to be done: the test ends
        let patience = whole.mul_f64((random >> 40) as f64 / (1 << 24) as f64 * (0.2 + kills as f64 / 10.0));
        let mut command = bench.command(&part(number, PARTS, "out"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + patience;
        while Instant::now() < until && child.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_millis(2));
        }
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
        let found = bench.run("parts out");
        if found.status.success() {
            break;
        }
        assert_eq!(found.status.code(), Some(4), "{}", text(&found.stderr));
    }
    assert!(kills > 2, "{kills} kills");
    bench.prints("parts out --output joined");
    assert!(bench.read("joined") == wanted, "after {kills} kills");
    let names = fs::read_dir(bench.path("out")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| !name.starts_with(".scratch-")).count(), 2 * PARTS);
}
