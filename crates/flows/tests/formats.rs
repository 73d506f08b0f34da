//! Files as the tools and data sets of the built-in schemas write them. The small ones in `formats` are invented, the others real.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nids_flows::{FeatureColumn, FlowReader, ProposalOptions, ReadOptions, Schema, data_files, propose, write_synthetic};

/// What a file holds by a schema: rows, attacks, unlabelled rows, kinds of attacks, missing cells, lines passed over.
fn read(schema: &str, paths: &[PathBuf], is_labelled: bool) -> String {
    let schema = Schema::builtin(schema).unwrap();
    let options = if is_labelled { ReadOptions::labelled() } else { ReadOptions::default() };
    let mut reader = FlowReader::open(paths, &schema, &options).unwrap();
    let flows = reader.read_all().unwrap();
    let mut found = vec![format!("{} rows", flows.len())];
    if let Some(labels) = flows.labels() {
        found.push(format!("{} attacks", labels.iter().map(|&label| usize::from(label)).sum::<usize>()));
    }
    found.extend(reader.take_unlabelled().map(|flows| format!("{} unlabelled", flows.len())));
    let missing = flows.features().iter().map(|feature| match feature {
        FeatureColumn::Numeric(values) => values.iter().filter(|value| value.is_nan()).count(),
        FeatureColumn::Categorical(texts) => texts.iter().filter(|text| *text == "-").count(),
    });
    found.push(format!("{} missing", missing.sum::<usize>()));
    if let Some(kinds) = flows.categories() {
        let kinds: BTreeSet<&str> = kinds.iter().filter(|kind| !kind.is_empty()).collect();
        found.extend((!kinds.is_empty()).then(|| kinds.into_iter().take(4).collect::<Vec<_>>().join("|")));
    }
    let notes = reader.take_notes();
    found.extend(notes.iter().filter_map(|note| note.split_once("lines, ")).map(|(_, passed)| passed.to_owned()));
    found.extend(
        notes
            .iter()
            .filter_map(|note| note.split_once(": "))
            .filter(|(_, note)| note.starts_with(|c: char| c.is_ascii_digit()) && note.contains("passed over: rows"))
            .map(|(_, note)| note.to_owned()),
    );
    found.join(", ")
}

fn small(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

/// Small file, schema, whether it has labels, what is read of it.
const SMALL: [(&str, &str, bool, &str); 29] = [
    (
        "argus-ctu13.csv",
        "argus",
        true,
        "12 rows, 8 attacks, 4 unlabelled, 9 missing, flow=From-Botnet-V90-TCP-Attempt|flow=From-Botnet-V90-UDP-DNS|flow=From-Normal-V90-HTTP|flow=From-Normal-V90-Invented",
    ),
    ("argus-fields.csv", "argus", true, "16 rows, 8 attacks, 9 missing"),
    ("argus.csv", "argus", false, "16 rows, 9 missing"),
    (
        "cicflowmeter-2018.csv",
        "cicflowmeter",
        true,
        "16 rows, 8 attacks, 4 missing, Benign|Bot|Infilteration, 1 repeated header line passed over",
    ),
    ("cicflowmeter-corrected.csv", "cicflowmeter", true, "16 rows, 4 attacks, 4 missing, BENIGN|DoS Hulk|DoS Hulk - Attempted"),
    ("cicflowmeter-live.csv", "cicflowmeter", false, "16 rows, 4 missing"),
    ("cicflowmeter-original.csv", "cicflowmeter", true, "16 rows, 8 attacks, 20 missing, BENIGN|PortScan|Web Attack – XSS"),
    ("cicflowmeter-python.csv", "cicflowmeter-python", true, "16 rows, 8 attacks, 0 missing, Attack|Benign"),
    ("goflow2.csv", "goflow2", true, "16 rows, 8 attacks, 0 missing, attack|benign"),
    ("goflow2.json", "goflow2", true, "16 rows, 8 attacks, 0 missing, attack|benign"),
    ("netflow-v1.csv", "netflow-v1", true, "16 rows, 8 attacks, 0 missing, Benign|DDoS"),
    ("netflow-v2.csv", "netflow-v2", true, "16 rows, 8 attacks, 1 missing, Benign|DDoS"),
    ("nfdump-1.6-labelled.csv", "nfdump", true, "16 rows, 8 attacks, 0 missing"),
    ("nfdump-1.6.csv", "nfdump", false, "16 rows, 0 missing, 3 lines of totals passed over"),
    ("nfdump-1.7-all.csv", "nfdump", false, "16 rows, 0 missing"),
    ("nfdump-1.7.csv", "nfdump", false, "16 rows, 80 missing"),
    ("nfdump-array.json", "nfdump", true, "16 rows, 8 attacks, 51 missing"),
    ("nfdump.json", "nfdump", true, "16 rows, 8 attacks, 51 missing"),
    ("nsl-kdd-header.csv", "nsl-kdd", true, "16 rows, 8 attacks, 0 missing, neptune|normal"),
    ("nsl-kdd-kdd99.csv", "nsl-kdd", true, "16 rows, 8 attacks, 0 missing, neptune.|normal."),
    ("nsl-kdd.csv", "nsl-kdd", true, "16 rows, 8 attacks, 0 missing, neptune|normal"),
    ("suricata-flow-labelled.json", "suricata-flow", true, "16 rows, 8 attacks, 32 missing"),
    (
        "suricata-flow.json",
        "suricata-flow",
        false,
        "16 rows, 32 missing, 2 rows passed over: rows are those whose `event_type` is flow",
    ),
    ("unsw-nb15-raw.csv", "unsw-nb15-raw", true, "16 rows, 8 attacks, 23 missing, Backdoors|Fuzzers|Reconnaissance"),
    ("zeek-conn-iot23.csv", "zeek-conn", true, "15 rows, 8 attacks, 1 unlabelled, 15 missing, C&C"),
    ("zeek-conn-iot23.log", "zeek-conn", true, "15 rows, 8 attacks, 15 missing, C&C, 9 comment lines passed over"),
    (
        "zeek-conn-labelled.log",
        "zeek-conn",
        true,
        "15 rows, 8 attacks, 1 unlabelled, 15 missing, C&C, 9 comment lines passed over",
    ),
    ("zeek-conn.json", "zeek-conn", false, "16 rows, 15 missing"),
    ("zeek-conn.log", "zeek-conn", false, "16 rows, 15 missing, 9 comment lines passed over"),
];

#[test]
fn files_of_every_built_in_schema_are_read() {
    let found = SMALL.map(|(name, schema, is_labelled, _)| (name, read(schema, &[small(name)], is_labelled)));
    assert_eq!(found, SMALL.map(|(name, _, _, wanted)| (name, wanted.to_owned())));
    let files = std::fs::read_dir(small("")).unwrap().count();
    assert_eq!(files, SMALL.len(), "each file is read by a schema");
}

#[test]
fn files_of_every_built_in_schema_are_recognised() {
    for (name, schema, is_labelled, _) in SMALL {
        let proposal = propose(&[small(name)], &ProposalOptions::default()).unwrap();
        assert_eq!((name, proposal.builtin, proposal.has_labels), (name, Some(schema), is_labelled));
        assert!(Schema::parse("p.yaml", &proposal.yaml).unwrap() == Schema::builtin(schema).unwrap());
        assert!(proposal.yaml.contains(&format!("`data.schema: {schema}` does")));
    }
}

#[test]
fn a_built_in_schema_is_recognised_without_its_header_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.csv");
    let mut csv = Vec::new();
    write_synthetic(60, 5, &mut csv).unwrap();
    let csv = String::from_utf8(csv).unwrap();
    let (header, rows) = csv.split_once('\n').unwrap();
    assert_eq!(header.split(',').count(), Schema::builtin("unsw-nb15").unwrap().columns().len());
    write(&path, rows);
    let proposal = propose(std::slice::from_ref(&path), &ProposalOptions::default()).unwrap();
    assert_eq!((proposal.builtin, proposal.has_labels), (Some("unsw-nb15"), true));
    assert!(read("unsw-nb15", std::slice::from_ref(&path), true).starts_with("60 rows, "));
    // texts where the schema has numbers, and one more cell
    for other in [rows.replace('.', "x"), rows.replace('\n', ",1\n")] {
        write(&path, &other);
        assert_eq!(propose(std::slice::from_ref(&path), &ProposalOptions::default()).unwrap().builtin, None, "{other}");
    }
}

#[test]
fn totals_after_the_rows_are_passed_over_and_nothing_else_is() {
    const TOY: &str = "name: toy\ncolumns:\n  - { name: rate, kind: numeric }\n  - { name: proto, kind: categorical }\n";
    let totals = "Summary\nflows,bytes,packets,avg_bps\n2,70,3,1\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("toy.csv");
    let schema = Schema::parse("toy.yaml", TOY).unwrap();
    let read = |content: &str| -> Result<(usize, String), String> {
        write(&path, content);
        let mut reader = FlowReader::open(&[&path], &schema, &ReadOptions::default()).map_err(|error| error.to_string())?;
        let flows = reader.read_all().map_err(|error| error.to_string())?;
        Ok((flows.len(), reader.take_notes()[0].split_once(": ").unwrap().1.to_owned()))
    };
    let rows = "rate,proto\n1,a\n2,b\n";
    let wanted = "2 rows from 6 lines, 3 lines of totals passed over";
    assert_eq!(read(&format!("{rows}{totals}")), Ok((2, wanted.to_owned())));
    // two outputs, one after the other
    let (n, notes) = read(&format!("{rows}{totals}{rows}{totals}")).unwrap();
    assert_eq!(
        (n, notes.as_str()),
        (4, "4 rows from 12 lines, 1 repeated header line passed over, 6 lines of totals passed over")
    );
    for after in ["", "3,c\n", "Summary\n", "flows,bytes\n", "sums,bytes,packets\n1,2,3\n"] {
        let error = read(&format!("{rows}Summary\n{after}4,d\n")).unwrap_err();
        assert!(error.contains("1 cells, but the header has 2"), "{after:?}: {error}");
    }
    // what comes after the names is a row like any, unless it has the sums
    let error = read(&format!("{rows}Summary\nflows,bytes,packets\n1,2,x\n")).unwrap_err();
    assert!(error.contains("toy.csv:6: 3 cells, but the header has 2"), "{error}");
    assert_eq!(read(&format!("{rows}Summary\nflows,bytes,packets\n3,c\n")).unwrap().0, 3);
}

#[expect(clippy::disallowed_methods, reason = "half a file in a scratch folder harms nobody")]
fn write(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
}

/// A file or a folder of real data.
#[expect(clippy::disallowed_methods, reason = "a test may be told where the data are")]
fn real(name: &str) -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    std::env::var_os("NIDS_MIXER_DATA").map_or_else(default, PathBuf::from).join(name)
}

/// The files of a folder are recognised, and hold `wanted`.
fn reads_real(folder: &str, schema: &str, is_labelled: bool, wanted: &str) {
    let files = data_files(&[real(folder).to_str().unwrap()]).unwrap();
    let files: Vec<PathBuf> = files.into_iter().filter(|file| !file.ends_with("README.md")).collect();
    assert_eq!(read(schema, &files, is_labelled), wanted);
    assert_eq!(propose(&files, &ProposalOptions::default()).unwrap().builtin, Some(schema));
}

#[test]
#[ignore = "needs iot-23 in ../shared/data (NIDS_MIXER_DATA)"]
fn captures_of_iot_23_are_read() {
    reads_real("iot-23", "zeek-conn", true, "17717 rows, 8278 attacks, 39812 missing, C&C|C&C-FileDownload|C&C-Torii|DDoS");
}

#[test]
#[ignore = "needs zeek in ../shared/data (NIDS_MIXER_DATA)"]
fn labelled_logs_of_zeek_are_read() {
    reads_real(
        "zeek",
        "zeek-conn",
        true,
        "10913 rows, 7574 attacks, 97 unlabelled, 10080 missing, Cert-Validation|Dropbox|ESET|External-Attack-to-Device, 8 comment lines passed over, 8 comment lines passed over",
    );
}

#[test]
#[ignore = "needs suricata/eve.json in ../shared/data (NIDS_MIXER_DATA)"]
fn flows_of_suricata_are_read() {
    reads_real(
        "suricata/eve.json",
        "suricata-flow",
        false,
        "215 rows, 207 missing, 38 rows passed over: rows are those whose `event_type` is flow",
    );
}

#[test]
#[ignore = "needs netflow in ../shared/data (NIDS_MIXER_DATA)"]
fn flows_of_nf_unsw_nb15_are_read() {
    reads_real("netflow", "netflow-v1", true, "24347 rows, 1086 attacks, 0 missing, Analysis|Backdoor|Benign|DoS");
}

#[test]
#[ignore = "needs cic-ids2017 in ../shared/data (NIDS_MIXER_DATA)"]
fn flows_of_cic_ids2017_are_read() {
    reads_real(
        "cic-ids2017",
        "cicflowmeter",
        true,
        "30614 rows, 25807 attacks, 0 missing, BENIGN|DoS GoldenEye|DoS Hulk|DoS Slowhttptest",
    );
}

#[test]
#[ignore = "needs nsl-kdd/train.csv in ../shared/data (NIDS_MIXER_DATA)"]
fn flows_of_nsl_kdd_are_read() {
    reads_real(
        "nsl-kdd/train.csv",
        "nsl-kdd",
        true,
        "125973 rows, 58630 attacks, 0 missing, back|buffer_overflow|ftp_write|guess_passwd",
    );
}

#[test]
#[ignore = "needs unsw-nb15/train.csv in ../shared/data (NIDS_MIXER_DATA)"]
fn flows_of_unsw_nb15_are_read() {
    reads_real(
        "unsw-nb15/train.csv",
        "unsw-nb15",
        true,
        "20000 rows, 11136 attacks, 11296 missing, Analysis|Backdoor|DoS|Exploits",
    );
}
