//! Schemas that are proposed for tables of which nothing is known.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use nids_flows::{FlowReader, Flows, Proposal, ProposalOptions, ReadOptions, Schema, propose};
use proptest::prelude::*;
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    #[expect(clippy::disallowed_methods, reason = "half a file in a scratch folder harms nobody")]
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn proposed(files: &[PathBuf]) -> Proposal {
    propose(files, &ProposalOptions::default()).unwrap()
}

/// What is proposed for a file of this content.
fn of(content: impl AsRef<[u8]>) -> Proposal {
    let folder = Folder::new();
    let path = folder.file("own.csv", content);
    proposed(&[path])
}

/// The flows of files by what was proposed for them.
fn read(files: &[PathBuf], proposal: &Proposal) -> Result<Flows, String> {
    let schema = Schema::parse("p.yaml", &proposal.yaml).map_err(|error| error.to_string())?;
    let options = if proposal.has_labels { ReadOptions::labelled() } else { ReadOptions::default() };
    FlowReader::open(files, &schema, &options).and_then(|mut reader| reader.read_all()).map_err(|error| error.to_string())
}

/// Kind of a column and what is said beside it.
fn line<'y>(yaml: &'y str, column: &str) -> &'y str {
    let start = format!("  - {{ name: {column}, kind: ");
    yaml.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no column {column} in\n{yaml}"))
}

/// Numbers below `n`, one after the other, the same in every run.
fn numbers() -> impl FnMut(u64) -> u64 {
    let mut state = 7_u64;
    move |n| {
        state = (state * 1_103_515_245 + 12_345) & 0x7fff_ffff;
        (state >> 8) % n
    }
}

const HEADER: &str = "Start Time;Source IP;Source Port;Dst IP;Dest Port;proto;Duration (s);bytes: in;state;site;host;copy;note;session id;is_bad;kind";

/// A table as somebody's own tool writes it.
fn table(header: &str, n: u64) -> String {
    let mut below = numbers();
    let mut csv = header.to_owned() + if header.is_empty() { "" } else { "\n" };
    for row in 0..n {
        let bad = u64::from(below(10) < 3);
        let bytes = below(3000) * (1 + bad);
        let cells = [
            format!("2024-05-0{} 10:{:02}:{:02}", 1 + row % 3, row % 60, row % 59),
            format!("10.0.{}.{}", below(4), below(250)),
            (1024 + below(60_000)).to_string(),
            format!("192.168.1.{}", below(9)),
            [80, 443, 53, 22][below(4) as usize].to_string(),
            [6, 17][below(2) as usize].to_string(),
            if row % 20 == 3 { "n.a.".to_owned() } else { format!("{}.{}", below(3 + bad), below(1000)) },
            bytes.to_string(),
            ["SF", "S0", "REJ"][below(2 + bad) as usize].to_owned(),
            "A".to_owned(),
            format!("pc-{}", below(5)),
            bytes.to_string(),
            format!("n{}-{row}", below(100)),
            format!("s{row:05}"),
            bad.to_string(),
            if bad == 1 { ["scan", "dos"][below(2) as usize].to_owned() } else { String::new() },
        ];
        csv.push_str(&cells.join(";"));
        csv.push('\n');
    }
    csv
}

#[test]
fn what_names_a_host_a_row_or_a_moment_is_no_feature() {
    let folder = Folder::new();
    let files = [folder.file("own table.csv", table(HEADER, 400))];
    let proposal = proposed(&files);
    let yaml = &proposal.yaml;
    for (column, wanted) in [
        ("Start Time", "time } # a moment"),
        ("Source IP", "ignored } # an address"),
        ("Source Port", "ignored } # the port of the side that asks"),
        ("Dst IP", "ignored } # an address"),
        ("Dest Port", "numeric }"),
        ("proto", "categorical } # a code"),
        ("\"Duration (s)\"", "numeric }"),
        ("\"bytes: in\"", "numeric }"),
        ("state", "categorical }"),
        ("site", "ignored } # the same in every row"),
        ("host", "ignored } # names a host"),
        ("copy", "ignored } # equals bytes: in in every row"),
        ("note", "ignored } # nearly every row has one of its own"),
        ("session id", "ignored } # names the row"),
        ("is_bad", "label }"),
        ("kind", "category }"),
    ] {
        let found = line(yaml, column);
        assert!(found.starts_with(wanted), "{column}: {found}");
    }
    assert!(yaml.contains("\nname: own table\nid: session id #"), "{yaml}");
    assert!(yaml.contains("?, n.a.]") || yaml.contains("\"?\", n.a.]"), "{yaml}");
    assert!(yaml.contains("  benign: [\"0\"]\n  attack: [\"1\"]\n"), "{yaml}");
    let said = proposal.warnings.join("\n");
    assert!(said.contains("ignored: \"site\"") && said.contains("\"copy\" = \"bytes: in\""), "{said}");
    assert!(said.contains("ignored: \"note\""), "{said}");
    assert!(yaml.contains("# - the same in every row"), "warnings are in the file, too:\n{yaml}");
    let flows = read(&files, &proposal).unwrap();
    assert_eq!((flows.len(), flows.ids()[3].as_str(), flows.features().len()), (400, "s00003", 5));
    assert_eq!(
        flows.labels().unwrap().iter().map(|label| usize::from(*label)).sum::<usize>(),
        table(HEADER, 400).matches(";1;").count()
    );
    assert_eq!(proposed(&files).yaml, *yaml, "the same every time");
}

#[test]
fn a_file_without_a_header_line_gets_names_and_loses_no_row() {
    let folder = Folder::new();
    let files = [folder.file("own.csv", table("", 300))];
    let proposal = proposed(&files);
    assert!(proposal.yaml.contains("\nheader: false #"), "{}", proposal.yaml);
    assert!(line(&proposal.yaml, "column_2").starts_with("ignored } # an address"));
    assert!(line(&proposal.yaml, "column_8").starts_with("numeric }"));
    assert!(proposal.warnings.iter().any(|warning| warning.starts_with("no header line")));
    assert!(!proposal.has_labels, "a column of 0 and 1 without a name may be anything");
    assert_eq!(read(&files, &proposal).unwrap().len(), 300);
    let options = ProposalOptions { label: Some("column_15".to_owned()), ..ProposalOptions::default() };
    let proposal = propose(&files, &options).unwrap();
    assert!(proposal.has_labels && line(&proposal.yaml, "column_15").starts_with("label }"));
    assert_eq!(read(&files, &proposal).unwrap().labels().unwrap().len(), 300);
}

/// A table of a label and columns that are given for each row and label.
fn labelled(names: &str, cells: impl Fn(u64, u64, &mut dyn FnMut(u64) -> u64) -> String) -> Proposal {
    let mut below = numbers();
    let mut csv = format!("{names},label\n");
    for row in 0..400 {
        let label = below(2);
        writeln!(csv, "{},{label}", cells(row, label, &mut below)).unwrap();
    }
    of(csv)
}

#[test]
fn a_column_that_alone_gives_the_label_away_is_said() {
    let proposal = labelled("score,code,noise,copy", |_, label, below| {
        let code = ["a", "b", "c"][(2 * label + below(2 - label)) as usize];
        format!("{}.{},{code},{},{}", 3 * label, below(100), below(50), ["ok", "bad"][label as usize])
    });
    for name in ["score", "code"] {
        assert!(line(&proposal.yaml, name).contains("# alone gives the label away (AUC 1.0000)"), "{}", proposal.yaml);
        assert!(proposal.warnings.iter().any(|warning| warning.starts_with(&format!("\"{name}\" alone tells"))));
    }
    assert_eq!(line(&proposal.yaml, "noise"), "numeric }");
    assert_eq!(line(&proposal.yaml, "copy"), "ignored } # says what the label says");
    assert!(!proposal.warnings.iter().any(|warning| warning.contains("noise")));
    // a text that only attacks have is the kind of attack, and a second one is no feature either
    let proposal = labelled("x,detail,more", |_, label, below| {
        let kind = ["scan", "dos"][below(2) as usize];
        if label == 1 { format!("{},{kind},{kind}-{}", below(50), below(3)) } else { format!("{},,none-at-all", below(50)) }
    });
    assert_eq!(line(&proposal.yaml, "detail"), "category }");
    assert_eq!(line(&proposal.yaml, "more"), "ignored } # says what the label says");
    // what is learned of a text that comes twice, with any label, says nothing of the other half of the rows
    let proposal = labelled("x,text", |row, _, below| format!("{},t{}", below(9), row / 2));
    assert!(!proposal.warnings.join("").contains("alone tells"), "{:?}", proposal.warnings);
}

#[test]
fn words_of_labels_are_listed_by_what_they_mean() {
    let lists = |words: &[&str], name: &str| {
        let rows = (0..60).map(|row| format!("{},{}\n", row * 7 % 13, words[row % words.len()])).collect::<Vec<_>>().concat();
        let proposal = of(format!("x,{name}\n{rows}"));
        let yaml = proposal.yaml;
        let start = yaml.find("labels:\n").unwrap_or_else(|| panic!("{yaml}")) + 8;
        let text = yaml[start..yaml.find("columns:").unwrap()].replace("  ", "");
        text.lines().map(|line| line.split(" #").next().unwrap().to_owned()).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(lists(&["BENIGN", "DoS Hulk", "Bot"], "Label"), "benign: [BENIGN]; attack: any");
    assert_eq!(lists(&["True", "False"], "is_attack"), "benign: [\"False\"]; attack: [\"True\"]");
    assert_eq!(lists(&["normal", "anomaly"], "class"), "benign: [normal]; attack: [anomaly]");
    assert_eq!(lists(&["Normal", "scan", "Background", ""], "y"), "benign: [Normal]; attack: any; ignore: [\"\", Background]");
    assert_eq!(lists(&["-1", "1", "1"], "target"), "benign: [\"-1\"]; attack: [\"1\"]");
    assert_eq!(lists(&["0", "1", "2", "3"], "label"), "benign: [\"0\"]; attack: any");
    assert_eq!(lists(&["ok", "ok", "bad"], "verdict"), "benign: [ok]; attack: any");
    assert_eq!(lists(&["benign", "worm"], "whatever"), "benign: [benign]; attack: any");
}

#[test]
fn texts_that_are_not_utf_8_are_read_and_said() {
    let folder = Folder::new();
    let files = [folder.file("l.csv", b"x,y,label\n1,a,Benign\n2,b,Web Attack \x96 XSS\n4,a,Benign\n")];
    let proposal = proposed(&files);
    assert!(proposal.yaml.contains("\nencoding: windows-1252 #"), "{}", proposal.yaml);
    assert_eq!(read(&files, &proposal).unwrap().categories().unwrap().get(1), "Web Attack \u{2013} XSS");
}

#[test]
fn files_of_one_kind_have_one_schema() {
    let folder = Folder::new();
    let first = folder.file("a.csv", "bytes,proto,label\n1,tcp,0\n2,udp,1\n3,tcp,0\n");
    let other = folder.file("b.csv", "proto,extra,label,bytes\ntcp,7,0,5\nudp,8,1,6\n");
    let files = [first.clone(), other];
    let proposal = proposed(&files);
    assert_eq!(line(&proposal.yaml, "extra"), "numeric, optional: true }");
    assert_eq!(line(&proposal.yaml, "bytes"), "numeric }");
    assert_eq!(read(&files, &proposal).unwrap().len(), 5);
    let headerless = folder.file("c.csv", "1,tcp,0\n");
    let error = propose(&[first, headerless], &ProposalOptions::default()).unwrap_err().to_string();
    assert!(error.contains("c.csv: 3 columns, no header line; ") && error.contains("name files of one kind"), "{error}");
}

#[test]
fn columns_that_a_schema_cannot_tell_apart_are_said() {
    let folder = Folder::new();
    let files = [folder.file("d.csv", ",rate,Rate,len,len,label\n5,1,2,7,7,0\n6,2,2,8,8,1\n9,4,4,9,9,0\n")];
    let proposal = proposed(&files);
    let said = proposal.warnings.join("\n");
    assert!(said.contains("1 column without a name") && said.contains("two columns are called \"rate\" and differ"), "{said}");
    assert!(line(&proposal.yaml, "rate").starts_with("ignored }"));
    assert_eq!(line(&proposal.yaml, "len"), "numeric }");
    assert_eq!(read(&files, &proposal).unwrap().len(), 3);
}

#[test]
fn nested_json_has_dotted_names() {
    let folder = Folder::new();
    let row = |n: u32| {
        format!(
            "{{\"net\": {{\"src\": \"10.0.0.{n}\", \"bytes\": {n}}}, \"app\": \"{}\", \"tags\": [1, {n}]}}\n",
            ["a", "b"][(n % 2) as usize]
        )
    };
    let files = [folder.file("j.json", (1..30).map(row).collect::<String>())];
    let proposal = proposed(&files);
    assert!(line(&proposal.yaml, "net.src").starts_with("ignored } # an address"));
    assert_eq!(line(&proposal.yaml, "app"), "categorical }");
    assert_eq!(read(&files, &proposal).unwrap().len(), 29);
}

#[test]
fn what_cannot_be_proposed_is_said() {
    let folder = Folder::new();
    let error = |content: &str, label: Option<&str>| {
        let files = [folder.file("e.csv", content)];
        propose(&files, &ProposalOptions { label: label.map(str::to_owned), encoding: None }).unwrap_err().to_string()
    };
    assert!(error("", None).ends_with("the file is empty; wanted a header line and rows"));
    assert!(error("a,b\n", None).contains("no rows"));
    assert!(error("src_ip,label\n10.0.0.1,0\n10.0.0.2,1\n", None).contains("no column is a feature"));
    assert!(error("rate,label\n1,0\n2,1\n", Some("lable")).contains("did you mean \"label\"?"));
    let rows = (0..300).map(|row| format!("{row},w{row}\n")).collect::<Vec<_>>().concat();
    assert!(error(&format!("rate,word\n{rows}"), Some("word")).contains("column \"word\": too many values for labels"));
}

fn cell() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[0-9]{1,4}",
        2 => "-?[0-9]{1,3}\\.[0-9]{1,2}",
        2 => "[a-c]",
        1 => "[ -~]{0,8}",
        1 => any::<String>().prop_map(|text| text.chars().filter(|c| !matches!(c, '\n' | '\r')).take(8).collect()),
        1 => prop::sample::select(vec!["", "-", "NA", "Infinity", "10.0.0.1", "2024-05-06 10:11:12", "benign", "attack", "0", "1"]).prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever a table holds, what is proposed for it is a schema that reads it, the same every time.
    #[test]
    fn a_proposal_reads_the_file_that_it_was_made_from(
        names in prop::collection::vec(prop_oneof![cell(), prop::sample::select(vec!["label", "class", "id", "src_ip", "proto", "ts"]).prop_map(str::to_owned)], 2..7),
        rows in prop::collection::vec(prop::collection::vec(cell(), 7), 2..40),
        kinds in prop::collection::vec(0_usize..4, 7),
    ) {
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record(&names).unwrap();
        for row in &rows {
            // most columns hold cells of one kind, as those of real tables do
            let of_kind = |at: usize| match kinds[at] {
                0 => row[at].len().to_string(),
                1 => ["tcp", "udp"][row[at].len() % 2].to_owned(),
                2 => format!("{}.5", row[at].len()),
                _ => row[at].clone(),
            };
            csv.write_record((0..names.len()).map(of_kind)).unwrap();
        }
        let folder = Folder::new();
        let files = [folder.file("p.csv", csv.into_inner().unwrap())];
        match propose(&files, &ProposalOptions::default()) {
            Ok(proposal) => {
                prop_assert_eq!(&propose(&files, &ProposalOptions::default()).unwrap().yaml, &proposal.yaml);
                if let Err(error) = read(&files, &proposal) {
                    // rows that cannot be read were said
                    let is_said = proposal.warnings.iter().any(|warning| warning.contains("rows cannot be read"));
                    prop_assert!(is_said || error.contains("no row has a label"), "{}\n{}", error, proposal.yaml);
                }
            }
            Err(error) => prop_assert!(!error.to_string().contains("the proposal"), "{}", error),
        }
    }
}
