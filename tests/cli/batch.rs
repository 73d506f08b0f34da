//! The contract of batch scoring (docs/scaling.md): rows on standard input, verdicts on standard output, and an exit code to go by.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::bench::{Bench, column, edit, shell, text};

const FILTER: &str = "predict --run run --data -";

/// What a command makes of its standard input.
fn filter(bench: &Bench, args: &str, input: &[u8]) -> Output {
    let mut command = bench.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // a command that refuses its input reads no further
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let stderr = text(&output.stderr);
    assert!(output.status.code().is_some() && !stderr.contains("panicked at"), "{args}: {}: {stderr}", output.status);
    output
}

/// stdout of a filter that must succeed.
fn passes(bench: &Bench, args: &str, input: &[u8]) -> Vec<u8> {
    let output = filter(bench, args, input);
    assert!(output.status.success(), "{args}: {}", text(&output.stderr));
    output.stdout
}

/// The error of a filter that must end with exit code 3.
fn refuses(bench: &Bench, args: &str, input: &[u8]) -> String {
    let output = filter(bench, args, input);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{args}: {stderr}");
    stderr[stderr.find("error: ").unwrap()..].lines().next().unwrap().to_owned()
}

/// `flows.csv` as an Arrow stream of texts, which the program itself writes.
fn arrow(bench: &Bench) -> Vec<u8> {
    let flows = bench.read("flows.csv");
    let names: Vec<&str> = flows.lines().next().unwrap().split(',').filter(|name| *name != "id").collect();
    bench.prints(&format!("predict --run run --data flows.csv --columns {} --output flows.arrow", names.join(",")));
    bench.bytes("flows.arrow")
}

/// `flows.csv` as objects of JSON, one a line.
fn objects(bench: &Bench) -> Vec<u8> {
    let flows = bench.read("flows.csv");
    let names: Vec<&str> = flows.lines().next().unwrap().split(',').collect();
    let object = |line: &str| {
        let cells = names.iter().zip(line.split(',')).map(|(name, cell)| ((*name).to_owned(), cell.into()));
        serde_json::Value::Object(cells.collect()).to_string() + "\n"
    };
    flows.lines().skip(1).map(object).collect::<String>().into_bytes()
}

#[test]
fn every_kind_of_stream_gives_a_verdict_a_row_in_order_with_its_id() {
    let bench = Bench::trained();
    let shuffled = edit(&bench.read("flows.csv"), |line, cells| {
        if line > 0 {
            cells[0] = format!("flow {}", line * 7919 % 300);
        }
    });
    bench.file("flows.csv", shuffled);
    let inputs = [("csv", bench.bytes("flows.csv")), ("jsonl", objects(&bench)), ("arrow", arrow(&bench))];
    for format in ["csv", "jsonl", "arrow"] {
        bench.prints(&format!("predict --run run --data flows.csv --columns proto,dur --output wanted --format {format}"));
        let wanted = bench.bytes("wanted");
        for (kind, input) in &inputs {
            let found = passes(&bench, &format!("{FILTER} --columns proto,dur --format {format}"), input);
            assert!(found == wanted, "{kind} to {format}");
        }
    }
    let ids: Vec<String> = bench
        .prints("predict --run run --data flows.csv")
        .lines()
        .skip(1)
        .map(|line| line[..line.find(',').unwrap()].to_owned())
        .collect();
    assert_eq!(ids, (1..=300).map(|line| format!("flow {}", line * 7919 % 300)).collect::<Vec<_>>());
}

#[test]
fn a_stream_that_was_cut_is_an_error_wherever_it_was_cut() {
    let bench = Bench::trained();
    let (csv, jsonl, arrow) = (bench.bytes("flows.csv"), objects(&bench), arrow(&bench));
    let list =
        [b"[", &jsonl.strip_suffix(b"\n").unwrap().iter().map(|&b| if b == b'\n' { b',' } else { b }).collect::<Vec<_>>()[..]]
            .concat();
    assert_eq!(passes(&bench, FILTER, &[&list[..], b"]"].concat()), passes(&bench, FILTER, &csv));
    let end = arrow.len() - 8;
    assert_eq!(arrow[end..], [255, 255, 255, 255, 0, 0, 0, 0]);
    let told = [
        ("CSV in the last cell", &csv[..csv.len() - 1]),
        ("CSV in a row", &csv[..csv.len() - 20]),
        ("CSV in the header", &csv[..20]),
        ("JSON in an object", &jsonl[..jsonl.len() - 20]),
        ("JSON in a list", &list[..]),
        ("Arrow before its end", &arrow[..end]),
        ("Arrow in the mark of its end", &arrow[..end + 4]),
        ("Arrow in the mark of its end", &arrow[..end + 6]),
        ("Arrow in a batch", &arrow[..end - 100]),
        ("Arrow in a header", &arrow[..200]),
        ("Arrow twice", &[&arrow[..], &arrow].concat()),
        ("Arrow twice, the first without its end", &[&arrow[..end], &arrow].concat()),
        ("nothing", b""),
    ]
    .map(|(what, input)| format!("{what}: {}", refuses(&bench, FILTER, input)));
    insta::assert_snapshot!(told.join("\n"), @r"
    CSV in the last cell: error: -:301: the last line has no line end: what wrote it may have been stopped; wanted a line end after every row
    CSV in a row: error: -:301: the last line has no line end: what wrote it may have been stopped; wanted a line end after every row
    CSV in the header: error: -:1: the last line has no line end: what wrote it may have been stopped; wanted a line end after every row
    JSON in an object: error: -:300: the object that begins here is not closed
    JSON in a list: error: -:1: the list that begins here is not closed: the file was cut short
    Arrow before its end: error: -: not a readable Arrow file: it ends without the mark of its end: it was cut short, or its writer was not closed
    Arrow in the mark of its end: error: -: not a readable Arrow file: it ends without the mark of its end: it was cut short, or its writer was not closed
    Arrow in the mark of its end: error: -: not a readable Arrow file: it ends without the mark of its end: it was cut short, or its writer was not closed
    Arrow in a batch: error: -: not a readable Arrow file: it ends in the middle of a batch
    Arrow in a header: error: -: not a readable Arrow file: it ends in the middle of a header
    Arrow twice: error: -: not a readable Arrow file: it goes on after the mark of its end: give streams that were put one after the other one by one
    Arrow twice, the first without its end: error: -: not a readable Arrow file: Ipc error: Not expecting a schema when messages are read
    nothing: error: -: the file is empty; wanted a header line and rows
    ");
    // each verdict that was written is whole, and a stream of Arrow lacks its end
    let output = filter(&bench, &format!("{FILTER} --format arrow"), &arrow[..end]);
    assert!(!output.stdout.ends_with(&[255, 255, 255, 255, 0, 0, 0, 0]));
    for packed in ["gzip -c", "zstd -qc"] {
        let (code, _, stderr) = shell(&bench, &format!("{packed} flows.csv | head -c 9000 | NIDS {FILTER}"));
        assert!(code == Some(3) || code == Some(6), "{packed}: {code:?} {stderr}");
    }
}

#[test]
fn no_rows_are_no_error_where_the_columns_are_known() {
    let bench = Bench::trained();
    let (csv, arrow) = (bench.read("flows.csv"), arrow(&bench));
    let header = csv.lines().next().unwrap().to_owned() + "\n";
    assert_eq!(text(&passes(&bench, FILTER, header.as_bytes())), "id,probability,verdict\n");
    assert_eq!(text(&passes(&bench, &format!("{FILTER} --format jsonl"), header.as_bytes())), "");
    // the schema and the mark of the end
    let head = u32::from_le_bytes(arrow[4..8].try_into().unwrap()) as usize + 8;
    let none = [&arrow[..head], &[255, 255, 255, 255, 0, 0, 0, 0]].concat();
    let verdicts = passes(&bench, &format!("{FILTER} --format arrow"), &none);
    assert!(verdicts.len() > 100 && verdicts.ends_with(&[255, 255, 255, 255, 0, 0, 0, 0]));
    // a file without rows is still one that somebody has named
    bench.file("header.csv", header);
    assert!(bench.fails("predict --run run --data header.csv").contains("no rows after the header"));
}

#[test]
fn a_row_that_cannot_be_read_is_an_error_after_the_verdicts_before_it() {
    let bench = Bench::trained();
    let flows = bench.prints("synth --rows 9000 --seed 4");
    let dur = column(&flows, "dur");
    let bad = edit(&flows, |line, cells| {
        if line == 8000 {
            cells[dur] = "{}".to_owned();
        }
    });
    let output = filter(&bench, FILTER, bad.as_bytes());
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("-:8001: column \"dur\": cannot read \"{}\" as a number"), "{}", text(&output.stderr));
    let all = text(&passes(&bench, FILTER, flows.as_bytes()));
    let written = text(&output.stdout);
    assert!(all.starts_with(&written) && written.ends_with('\n') && written.lines().count() > 1, "{}", written.lines().count());
}

#[test]
fn verdicts_come_while_the_input_goes_on() {
    let bench = Bench::trained();
    let flows = bench.prints("synth --rows 9000 --seed 4");
    let mut command = bench.command(FILTER);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut stdin, (all_written, wait)) = (child.stdin.take().unwrap(), mpsc::channel::<()>());
    let input = flows.clone();
    let writer = thread::spawn(move || {
        stdin.write_all(input.as_bytes()).unwrap();
        wait.recv().unwrap_err(); // open until the other side is dropped
    });
    let mut verdicts = BufReader::new(child.stdout.take().unwrap());
    let (early, is_early) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut found = String::new();
        // the header, and two batches: two more have been read before the second is written, and the input is open still
        for _ in 0..=2 * 2048 {
            verdicts.read_line(&mut found).unwrap();
        }
        early.send(()).unwrap();
        verdicts.read_to_string(&mut found).unwrap();
        found
    });
    let in_time = is_early.recv_timeout(Duration::from_secs(60));
    drop(all_written);
    writer.join().unwrap();
    let found = reader.join().unwrap();
    assert!(in_time.is_ok(), "verdicts are held back until the input ends");
    assert!(child.wait().unwrap().success());
    assert_eq!(found, text(&passes(&bench, FILTER, flows.as_bytes())));
}

#[test]
fn verdicts_that_nobody_takes_are_an_error() {
    let bench = Bench::trained();
    bench.prints("synth --rows 20000 --seed 4 --output many.csv");
    let (code, _, stderr) = shell(&bench, &format!("NIDS {FILTER} < many.csv > /dev/full"));
    assert!(code == Some(6) && stderr.contains("No space left on device"), "{code:?} {stderr}");
    // a reader that leaves early has not got all
    let (code, _, stderr) = shell(&bench, &format!("NIDS {FILTER} < many.csv | head -c 9; exit ${{PIPESTATUS[0]}}"));
    assert!(code == Some(6) && stderr.contains("stdout: cannot write: broken pipe"), "{code:?} {stderr}");
    let (code, _, stderr) = shell(&bench, "NIDS predict --run run --data many.csv | head -c 9; exit ${PIPESTATUS[0]}");
    assert_eq!(code, Some(0), "a person who looks at the first lines: {stderr}");
}
