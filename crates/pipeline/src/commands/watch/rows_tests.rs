use std::path::Path;

use nids_flows::{FeatureColumn, Flows, Ids, ReadOptions, Schema, read as read_file};
use nids_store::artefacts::write_atomic;
use tempfile::TempDir;

use super::follow::Follower;
use super::rows::{Rows, read};
use super::tail::Batch;

/// A text as the follower gives it.
fn batch(folder: &TempDir, name: &str, text: &str, schema: &Schema) -> Batch {
    let path = folder.path().join(name);
    write_atomic(&path, |out| out.write_all(text.as_bytes())).unwrap();
    let mut told = Vec::new();
    let mut follower = Follower::open(&path.display().to_string(), &[], true, &mut told).unwrap();
    follower.next(schema, 100_000, &mut told).unwrap().unwrap()
}

/// The text of each flow's line, and its features.
fn flows_of(rows: &Rows, batch: &Batch) -> Vec<(String, String)> {
    let pieces = rows.pieces.iter().flat_map(|(flows, lines)| features(flows).into_iter().zip(lines));
    pieces.map(|(features, line)| (String::from_utf8_lossy(batch.line(line)).into_owned(), features)).collect()
}

fn features(flows: &Flows) -> Vec<String> {
    let cell = |column: &FeatureColumn, row: usize| match column {
        FeatureColumn::Numeric(values) => format!("{:?}", values[row]),
        FeatureColumn::Categorical(texts) => texts.get(row).to_owned(),
    };
    (0..flows.len()).map(|row| flows.features().iter().map(|column| cell(column, row)).collect::<Vec<_>>().join("|")).collect()
}

fn format(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../flows/tests/formats").join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn lines_give_the_flows_that_the_file_gives() {
    let folder = tempfile::tempdir().unwrap();
    for (name, schema) in [
        ("zeek-conn.log", "zeek-conn"),
        ("zeek-conn.json", "zeek-conn"),
        ("zeek-conn-labelled.log", "zeek-conn"),
        ("zeek-conn-iot23.log", "zeek-conn"),
        ("suricata-flow.json", "suricata-flow"),
        ("nfdump-1.7.csv", "nfdump"),
        ("nfdump-1.6.csv", "nfdump"),
        ("nfdump.json", "nfdump"),
        ("goflow2.json", "goflow2"),
        ("netflow-v2.csv", "netflow-v2"),
        ("unsw-nb15-raw.csv", "unsw-nb15-raw"),
        ("argus.csv", "argus"),
    ] {
        let schema = Schema::builtin(schema).unwrap();
        let text = format(name);
        let batch = batch(&folder, name, &text, &schema);
        let rows = read(&batch, &schema, &ReadOptions::default());
        let options = ReadOptions { ids: Ids::Row, ..ReadOptions::default() };
        let wanted = read_file(&folder.path().join(name), &schema, &options).unwrap();
        let found: Vec<String> = flows_of(&rows, &batch).into_iter().map(|(_, features)| features).collect();
        assert_eq!(found, features(&wanted), "{name}");
        // what nfdump 1.6 writes after its rows is no row
        assert!(rows.bad.is_empty() || name == "nfdump-1.6.csv", "{name}: {:?}", rows.bad);
    }
}

#[test]
fn a_bad_line_costs_that_line_alone_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let zeek = format("zeek-conn.log");
    let suricata = format("suricata-flow.json");
    let nfdump = format("nfdump-1.7.csv");
    let cases: [(&str, &str, &str, &[&str]); 3] = [
        ("zeek.log", "zeek-conn", &zeek, &["1\t2\t3", "nonsense", "\u{7f}\t\t\t"]),
        (
            "eve.json",
            "suricata-flow",
            &suricata,
            &[
                "{",
                "}",
                "[",
                "{\"event_type\":",
                "nonsense",
                "{\"event_type\":\"flow\"}{\"event_type\":\"flow\"}",
                "\"{\"",
                "[[[",
            ],
        ),
        (
            "nfdump.csv",
            "nfdump",
            &nfdump,
            &["\"open", "closed\",1", "a,b", "\"x\"y,1,2", "1,2\r3,4", "Summary", "\"2024\n05\",\""],
        ),
    ];
    for (name, schema, text, bad) in cases {
        let schema = Schema::builtin(schema).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let whole = batch(&folder, name, text, &schema);
        let wanted = flows_of(&read(&whole, &schema, &ReadOptions::default()), &whole);
        let n_header =
            lines.len() - whole.lines.len() - text.lines().filter(|line| line.is_empty() || line.starts_with("#close")).count();
        for bad in bad {
            for place in [n_header, n_header + 1, lines.len()] {
                let mut edited = lines.clone();
                edited.insert(place.min(lines.len()), bad);
                let batch = batch(&folder, name, &(edited.join("\n") + "\n"), &schema);
                let rows = read(&batch, &schema, &ReadOptions::default());
                assert_eq!(flows_of(&rows, &batch), wanted, "{name}: {bad:?} at {place}");
                assert!(!rows.bad.is_empty(), "{name}: {bad:?} at {place} is not said to be bad");
                assert_eq!(batch.lines.len() as u64, rows.n_flows() as u64 + rows.n_passed + n_bad(&rows), "{name}: {bad:?}");
            }
        }
    }
}

fn n_bad(rows: &Rows) -> u64 {
    let mut places: Vec<u64> = rows.bad.iter().map(|bad| bad.offset).collect();
    places.dedup();
    places.len() as u64
}

#[test]
fn events_that_are_no_flows_are_passed_over_also_where_there_are_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let schema = Schema::builtin("suricata-flow").unwrap();
    let text = "{\"event_type\":\"stats\",\"stats\":{\"uptime\":7}}\n{\"event_type\":\"dns\"}\n";
    let batch = batch(&folder, "eve.json", text, &schema);
    let rows = read(&batch, &schema, &ReadOptions::default());
    assert_eq!((rows.n_passed, rows.n_flows(), rows.bad.len()), (2, 0, 0));
}

#[test]
fn a_thousand_bad_lines_do_not_hide_a_flow() {
    let folder = tempfile::tempdir().unwrap();
    let schema = Schema::builtin("nfdump").unwrap();
    let text = format("nfdump-1.7.csv");
    let mut lines = text.lines();
    let (header, flow) = (lines.next().unwrap(), lines.next().unwrap());
    let many = "\"1\"x\n".repeat(1000);
    let batch = batch(&folder, "f.csv", &format!("{header}\n{many}{flow}\n{many}"), &schema);
    let rows = read(&batch, &schema, &ReadOptions::default());
    assert_eq!((rows.n_flows(), n_bad(&rows)), (1, 2000));
}
