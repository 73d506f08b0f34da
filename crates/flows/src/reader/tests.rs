use std::fs;
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, BooleanArray, DictionaryArray, Float32Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;

use super::*;
use crate::FeatureColumn;

const SCHEMA: &str = "name: toy
id: id
columns:
  - { name: id, kind: ignored }
  - { name: rate, kind: numeric }
  - { name: proto, kind: categorical }
  - { name: kind, kind: category }
  - { name: label, kind: label }
";

fn schema() -> Schema {
    serde_yaml::from_str(SCHEMA).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "half a file in a scratch folder harms nobody")]
fn file(content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("toy.csv");
    fs::write(&path, content).unwrap();
    (folder, path)
}

/// Labels are needed, ids are not.
const REQUIRED: fn() -> ReadOptions = || ReadOptions { ids: Ids::Row, ..ReadOptions::labelled() };
/// Labels are not looked at.
const UNUSED: fn() -> ReadOptions = || ReadOptions { ids: Ids::Row, ..ReadOptions::default() };
/// Rows have names.
const NAMED: fn() -> ReadOptions = ReadOptions::default;

fn read_text(content: impl AsRef<[u8]>, options: fn() -> ReadOptions) -> Result<Flows> {
    let (_folder, path) = file(content);
    read(&path, &schema(), &options())
}

/// The flows of a text by a schema, and what is said of it.
fn read_by(schema: &str, content: impl AsRef<[u8]>, options: &ReadOptions) -> std::result::Result<(Flows, String), String> {
    let (_folder, path) = file(content);
    let schema = Schema::parse("s.yaml", schema).map_err(|error| error.to_string())?;
    let mut reader = FlowReader::open(&[&path], &schema, options).map_err(|error| error.to_string())?;
    let flows = reader.read_all().map_err(|error| error.to_string())?;
    let notes = reader.take_notes().join("\n").replace(&path.display().to_string(), "toy.csv");
    Ok((flows, notes))
}

fn numbers(flows: &Flows) -> &[f64] {
    match &flows.features()[0] {
        FeatureColumn::Numeric(values) => values,
        FeatureColumn::Categorical(_) => panic!("rate is numeric"),
    }
}

fn texts(flows: &Flows) -> Vec<&str> {
    match &flows.features()[1] {
        FeatureColumn::Categorical(texts) => texts.iter().collect(),
        FeatureColumn::Numeric(_) => panic!("proto is a text"),
    }
}

#[test]
fn columns_are_found_by_name_whatever_their_order_case_and_blanks() {
    let content = "\u{feff}Label, PROTO ,extra,rate,ID\r\n1, tcp ,9,-0.0,a\r\n0,-,9, 1e3 ,b\r\n0.0,,9,.5,\"c,d\"\r\n";
    let (_folder, path) = file(content);
    let mut reader = FlowReader::open(&[&path], &schema(), &ReadOptions::labelled()).unwrap();
    assert!(reader.take_notes()[0].ends_with("columns that the schema does not list are not used: extra"));
    let flows = reader.next_batch(10).unwrap().unwrap();
    assert_eq!(flows.ids(), ["a", "b", "c,d"]);
    assert_eq!(numbers(&flows).iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [0.0, 1e3, 0.5].map(f64::to_bits));
    assert_eq!(texts(&flows), ["tcp", "-", "-"]);
    assert_eq!(flows.labels(), Some(&[1, 0, 0][..]));
    assert!(flows.categories().is_none(), "the file has no such column");
    assert!(reader.next_batch(10).unwrap().is_none());
}

#[test]
fn rows_without_id_column_are_numbered_across_batches() {
    let (_folder, path) = file("rate,proto\n1,a\n2,b\n3,a\n");
    let mut reader = FlowReader::open(&[&path], &schema(), &UNUSED()).unwrap();
    let mut all = reader.next_batch(2).unwrap().unwrap();
    all.extend(reader.next_batch(2).unwrap().unwrap());
    assert!(reader.next_batch(2).unwrap().is_none());
    assert_eq!((all.ids().join(" "), texts(&all).join(" "), all.labels()), ("1 2 3".to_owned(), "a b a".to_owned(), None));
    assert_eq!(all.fingerprint(), read(&path, &schema(), &UNUSED()).unwrap().fingerprint());
    assert_eq!(all.select(&[2, 0]).ids(), ["3", "1"]);
}

#[test]
fn bad_files_are_refused_with_place_and_reason() {
    let check = |content: &[u8], wanted: &str| {
        let message = read_text(content, REQUIRED).unwrap_err().to_string();
        assert!(message.contains(wanted), "wanted {wanted}\nfound  {message}");
    };
    let rows = |rows: &str| format!("id,rate,proto,kind,label\n1,2,tcp,x,0\n{rows}").into_bytes();
    check(b"", "toy.csv: the file is empty");
    check(b"id,rate,proto,kind,label\n", "toy.csv: no rows after the header");
    check(b"id,rates,proto\n", "missing columns \"rate\" (did you mean \"rates\"?), \"label\" of schema `toy`");
    check(b"rate,proto,label,Rate\n1,a,0,2\n", "toy.csv:2: column \"Rate\": \"1\" and \"2\" in two columns that stand for one");
    check(&rows("2,\"1,5\",tcp,x,0\n"), "toy.csv:3: column \"rate\": cannot read \"1,5\" as a number");
    for cell in ["1e31", "0xg", "1_000", "1e999"] {
        check(&rows(&format!("2,{cell},tcp,x,0\n")), &format!("toy.csv:3: column \"rate\": cannot read \"{cell}\" as a number"));
    }
    check(&rows("\r\n\r\n2,5,tcp,x,2\r\n"), "toy.csv: column \"label\": 1 row whose label is neither 0 or 1");
    check(&rows("2,5,tcp,x,\n"), "column \"label\": 1 row without a label");
    check(b"rate,proto,label\r\n1,a,0\r\n\r\n\"2\n\",a,0\r\nz,a,0\r\n", "toy.csv:6: column \"rate\": cannot read \"z\"");
    check(&rows("2,5,tcp,x\n"), "toy.csv:3: 4 cells, but the header has 5");
    check(&rows("2,5,tcp,x,0,0\n"), "toy.csv:3: 6 cells");
    check(&[&rows("2,5,t")[..], b"\xff\xfe,x,0\n"].concat(), "toy.csv:3: column \"proto\": \"t\u{fffd}\u{fffd}\" is not UTF-8");
    let missing = read(Path::new("no/such.csv"), &schema(), &REQUIRED()).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }) && missing.to_string().starts_with("cannot read no/such.csv: "));
    let folder = read(Path::new("."), &schema(), &REQUIRED()).unwrap_err();
    assert!(matches!(folder, Error::Io { .. }), "{folder}");
}

/// What is said last of a file.
fn lines(reader: &mut FlowReader) -> String {
    let notes = reader.take_notes();
    notes.last().unwrap().split_once(": ").unwrap().1.to_owned()
}

#[test]
fn every_line_of_a_text_file_is_accounted_for() {
    let content = "\nid,rate,proto,note\n1,2,tcp,x\n\r\n2,3,udp,\"a\nb\nc\"\n3,4,\"x\n\",\"d\r\n\"\n";
    let (_folder, path) = file(content);
    let mut reader = FlowReader::open(&[&path], &schema(), &UNUSED()).unwrap();
    let mut all = reader.next_batch(2).unwrap().unwrap();
    all.extend(reader.next_batch(2).unwrap().unwrap());
    assert!(reader.next_batch(2).unwrap().is_none());
    assert_eq!((all.ids().join(" "), texts(&all).join(" ")), ("1 2 3".to_owned(), "tcp udp x".to_owned()));
    assert_eq!(
        lines(&mut reader),
        "3 rows from 10 lines, 2 blank lines passed over, 4 line ends inside of quoted fields of 2 rows (the first on line 5, column \"note\")"
    );
    let (_folder, path) = file("rate,proto\n1,a");
    let mut reader = FlowReader::open(&[&path], &schema(), &UNUSED()).unwrap();
    reader.next_batch(2).unwrap();
    reader.next_batch(2).unwrap();
    assert_eq!(lines(&mut reader), "1 row from 2 lines");
    let (_folder, path) = file(parquet(toy_columns()));
    let mut reader = FlowReader::open(&[&path], &schema(), &UNUSED()).unwrap();
    reader.read_all().unwrap();
    assert!(!reader.take_notes().join("").contains("lines"), "Parquet has none");
}

#[test]
fn a_file_of_one_column_has_a_row_for_every_line() {
    let of = |kind: &str, content: &str| -> std::result::Result<String, String> {
        let schema: Schema = serde_yaml::from_str(&format!("name: one\ncolumns: [{{ name: x, kind: {kind} }}]")).unwrap();
        let (_folder, path) = file(content);
        let flows = read(&path, &schema, &UNUSED()).map_err(|error| error.to_string())?;
        match &flows.features()[0] {
            FeatureColumn::Numeric(values) => Ok(format!("{values:?}")),
            FeatureColumn::Categorical(texts) => Ok(format!("{:?}", texts.iter().collect::<Vec<_>>())),
        }
    };
    assert_eq!(of("categorical", "x\na\n\n\r\nb\n"), Ok("[\"a\", \"-\", \"-\", \"b\"]".to_owned()));
    assert_eq!(of("categorical", "x\na\n\n"), Ok("[\"a\", \"-\"]".to_owned()));
    assert_eq!(of("categorical", "x\na"), Ok("[\"a\"]".to_owned()));
    assert_eq!(of("numeric", "x\n1\n2\n"), Ok("[1.0, 2.0]".to_owned()));
    assert_eq!(of("numeric", "x\n1\n\n2\n"), Ok("[1.0, NaN, 2.0]".to_owned()));
}

#[test]
fn a_fault_of_quotation_marks_is_named_with_line_and_column() {
    let check = |content: &str, wanted: &str| {
        let message = read_text(content, UNUSED).unwrap_err().to_string();
        assert!(message.contains(wanted), "wanted {wanted}\nfound  {message}");
    };
    check(
        "id,rate,proto,note\n1,2,tcp,\"a\n2,3,udp,b\n",
        "toy.csv:2: column \"note\": the quoted field that begins here takes in line 3",
    );
    check("id,rate,proto\n1,2,\"tcp\n", "toy.csv:2: column \"proto\": the quotation mark that opens here is never closed");
    check("id,rate,proto,note\n1,2,tcp,\"a\"b\"\n", "toy.csv:2: column \"note\": text after the closing quotation mark");
    check("id,\"rate,proto\n1,2,tcp\n", "toy.csv:1: a line end inside of a quoted column name");
    check("\n\r\n", "toy.csv: the file has blank lines only");
}

#[test]
fn ids_with_marks_commas_and_line_ends_are_written_and_read_again() {
    let content = "id,rate,proto\n\"a\nb\",1,\"x\"\"y\"\n\"say \"\"hi\"\"\",2,\"c,d\"\n5\",3,\"r\rs\"\n";
    let flows = read_text(content, NAMED).unwrap();
    assert_eq!(
        (flows.ids(), texts(&flows)),
        (&["a\nb", "say \"hi\"", "5\""].map(str::to_owned)[..], vec!["x\"y", "c,d", "r\rs"])
    );
    let mut written = Vec::new();
    crate::write_csv(&flows, &mut written).unwrap();
    assert_eq!(read_text(&written, NAMED).unwrap().fingerprint(), flows.fingerprint());
}

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, cells)| (name, cells, true))).unwrap();
    let mut bytes = Vec::new();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(2)).build();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn toy_columns() -> Vec<(&'static str, ArrayRef)> {
    let proto: DictionaryArray<Int32Type> = ["tcp", "udp", "tcp"].into_iter().collect();
    vec![
        ("label", Arc::new(BooleanArray::from(vec![true, false, false]))),
        ("id", Arc::new(Int64Array::from(vec![7, 8, 9]))),
        ("more", Arc::new(StringArray::from(vec!["x", "y", "z"]))),
        ("proto", Arc::new(proto)),
        ("rate", Arc::new(Float32Array::from(vec![0.5, -0.0, 3.0]))),
    ]
}

#[test]
fn parquet_gives_the_same_flows_as_csv() {
    let (_folder, path) = file(parquet(toy_columns()));
    let mut reader = FlowReader::open(&[&path], &schema(), &ReadOptions::labelled()).unwrap();
    assert!(reader.take_notes()[0].ends_with("not used: more"));
    let mut flows = reader.next_batch(1).unwrap().unwrap();
    while let Some(more) = reader.next_batch(1).unwrap() {
        flows.extend(more);
    }
    let text = read_text("id,rate,proto,label\n7,0.5,tcp,1\n8,0,udp,0\n9,3,tcp,0\n", ReadOptions::labelled).unwrap();
    assert_eq!(flows.fingerprint(), text.fingerprint());
}

#[test]
fn bad_parquet_cells_are_refused_with_their_row() {
    let check = |name: &str, cells: ArrayRef, wanted: &str| {
        let mut columns = toy_columns();
        columns.retain(|(column, _)| *column != name);
        columns.push((name, cells));
        let message = read_text(parquet(columns), REQUIRED).unwrap_err().to_string();
        assert!(message.contains(wanted), "wanted {wanted}\nfound  {message}");
    };
    check("rate", Arc::new(Float32Array::from(vec![1.0, 2.0, 2e30])), ": row 3: column \"rate\": cannot read");
    check("rate", Arc::new(StringArray::from(vec!["1", "2", "1,5"])), ": row 3: column \"rate\": cannot read \"1,5\"");
    check("label", Arc::new(Int64Array::from(vec![0, 1, 3])), "column \"label\": 1 row whose label is neither 0 or 1");
}

#[test]
fn damaged_parquet_is_an_error_and_never_a_panic() {
    let whole = parquet(toy_columns());
    let attempt = |bytes: &[u8]| read_text(bytes, REQUIRED);
    for len in (4..whole.len()).step_by(7) {
        assert!(attempt(&whole[..len]).is_err());
    }
    for at in (4..whole.len()).step_by(2) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at / 2 % 8);
        // some bits do not matter; what matters is that this returns
        let _ = attempt(&bytes);
    }
}

#[test]
fn a_missing_cell_is_missing_whatever_the_format() {
    let text = "id,rate,proto,label\n1,,tcp,0\n2,-,-,0\n3,Infinity,(empty),1\n4,NaN,,1\n5,2.5,NA,1\n";
    let from_text = read_text(text, ReadOptions::labelled).unwrap();
    assert_eq!(format!("{:?}", numbers(&from_text)), "[NaN, NaN, NaN, NaN, 2.5]");
    assert_eq!(texts(&from_text), ["tcp", "-", "-", "-", "-"]);
    let from_parquet = read_text(
        parquet(vec![
            ("id", Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]))),
            ("rate", Arc::new(Float32Array::from(vec![None, Some(f32::NAN), Some(f32::INFINITY), None, Some(2.5)]))),
            ("proto", Arc::new(StringArray::from(vec![Some("tcp"), None, Some("-"), Some(""), Some("NA")]))),
            ("label", Arc::new(BooleanArray::from(vec![false, false, true, true, true]))),
        ]),
        ReadOptions::labelled,
    );
    assert_eq!(from_parquet.unwrap().fingerprint(), from_text.fingerprint());
}

#[test]
fn a_category_is_the_same_in_every_spelling_and_format() {
    let from_text = read_text("rate,proto\n1,6\n1,06\n1,6.0\n1,True\n1,T\n1,true\n", UNUSED).unwrap();
    assert_eq!(texts(&from_text), ["6", "6", "6", "true", "true", "true"]);
    let rate = || -> ArrayRef { Arc::new(Float32Array::from(vec![1.0; 3])) };
    for proto in [
        Arc::new(Int64Array::from(vec![6; 3])) as ArrayRef,
        Arc::new(Float32Array::from(vec![6.0; 3])),
        Arc::new(StringArray::from(vec!["06", "6", "6.0"])),
    ] {
        let flows = read_text(parquet(vec![("rate", rate()), ("proto", proto)]), UNUSED).unwrap();
        assert_eq!(texts(&flows), ["6", "6", "6"]);
    }
    let flows =
        read_text(parquet(vec![("rate", rate()), ("proto", Arc::new(BooleanArray::from(vec![true; 3])))]), UNUSED).unwrap();
    assert_eq!(texts(&flows), ["true"; 3]);
}

#[test]
fn times_are_seconds_whatever_their_unit() {
    use arrow_array::*;
    let proto = || -> ArrayRef { Arc::new(StringArray::from(vec!["a", "b"])) };
    let read = |rate: ArrayRef| {
        let flows = read_text(parquet(vec![("rate", rate), ("proto", proto())]), UNUSED).unwrap();
        numbers(&flows).to_vec()
    };
    let durations: [ArrayRef; 3] = [
        Arc::new(DurationMillisecondArray::from(vec![1500, -250])),
        Arc::new(DurationMicrosecondArray::from(vec![1_500_000, -250_000])),
        Arc::new(DurationNanosecondArray::from(vec![1_500_000_000, -250_000_000])),
    ];
    for cells in durations {
        assert_eq!(read(cells), [1.5, -0.25]);
    }
    let moments: [ArrayRef; 3] = [
        Arc::new(TimestampMillisecondArray::from(vec![1_540_469_303_123, 500])),
        Arc::new(TimestampMicrosecondArray::from(vec![1_540_469_303_123_000, 500_000])),
        Arc::new(TimestampNanosecondArray::from(vec![1_540_469_303_123_000_000, 500_000_000])),
    ];
    let wanted = [1_540_469_303.123, 0.5];
    for cells in moments {
        assert_eq!(read(cells), wanted);
    }
    assert_eq!(read(Arc::new(Date32Array::from(vec![1, 0]))), [86_400.0, 0.0]);
    assert_eq!(read(Arc::new(Time64MicrosecondArray::from(vec![1_500_000, 0]))), [1.5, 0.0]);
    let schema = "name: toy\ncolumns: [{ name: rate, kind: numeric }]";
    let (flows, notes) = read_by(schema, "rate\n2018-10-25 12:08:23.123\n1970-01-01T00:00:00.5Z\n", &UNUSED()).unwrap();
    assert_eq!(numbers(&flows), wanted);
    assert!(notes.contains("column \"rate\": 2 dates and times, read as seconds since 1970 (UTC)"), "{notes}");
}

#[test]
fn labels_are_words_of_the_schema() {
    let schema =
        |labels: &str| format!("name: toy\n{labels}\ncolumns: [{{ name: x, kind: numeric }}, {{ name: Label, kind: label }}]");
    let text = "x,Label\n1,BENIGN\n2,DoS Hulk\n3,Background\n4,benign\n5,PortScan\n";
    let lists = "labels: { benign: [BENIGN], attack: any, ignore: [Background] }";
    let (_folder, path) = file(text);
    let by_lists = Schema::parse("s", &schema(lists)).unwrap();
    let mut reader = FlowReader::open(&[&path], &by_lists, &REQUIRED()).unwrap();
    let flows = reader.read_all().unwrap();
    assert_eq!(flows.labels(), Some(&[0, 1, 0, 1][..]));
    assert_eq!(flows.ids(), ["1", "2", "4", "5"], "rows keep their numbers");
    let categories: Vec<&str> = flows.categories().unwrap().iter().collect();
    assert_eq!(
        categories,
        ["BENIGN", "DoS Hulk", "benign", "PortScan"],
        "words of the label are categories where there is no column"
    );
    let unlabelled = reader.take_unlabelled().unwrap();
    assert_eq!((unlabelled.ids(), unlabelled.labels()), (&["3".to_owned()][..], None));
    assert!(
        reader
            .take_notes()
            .join("\n")
            .contains("1 row of labels that the schema ignores, taken as unlabelled: \"Background\" (1)")
    );

    let message = read_by(&schema(""), text, &REQUIRED()).unwrap_err();
    assert!(message.contains("column \"Label\": 3 rows whose label is neither 0 or 1"), "{message}");
    assert!(message.contains("\"Background\" (1), \"DoS Hulk\" (1), \"PortScan\" (1)"), "{message}");
    // they are not looked at where they are not needed
    assert_eq!(read_by(&schema(""), text, &UNUSED()).unwrap().0.len(), 5);
}

#[test]
fn labels_are_read_where_a_file_has_them() {
    const PRESENT: fn() -> ReadOptions = || ReadOptions { ids: Ids::Row, labels: Labels::WherePresent, ..ReadOptions::default() };
    let labels = |text: &str| read_text(text, PRESENT).map(|flows| flows.labels().map(<[u8]>::to_vec));
    assert_eq!(labels("rate,proto,label\n1,tcp,0\n2,udp,1\n").unwrap(), Some(vec![0, 1]));
    assert_eq!(labels("rate,proto\n1,tcp\n2,udp\n").unwrap(), None);
    // a word that nobody knows is an error, where labels are looked at
    assert!(labels("rate,proto,label\n1,tcp,perhaps\n").is_err());
    let none = "name: toy\ncolumns:\n  - { name: rate, kind: numeric }\n";
    assert!(read_by(none, "rate\n1\n", &PRESENT()).unwrap().0.labels().is_none());
    assert!(read_by(none, "rate\n1\n", &REQUIRED()).unwrap_err().contains("labels are needed here"));
}

#[test]
fn labels_come_from_the_category_where_the_schema_says_so() {
    let schema = |labels: &str| {
        format!(
            "name: toy\nlabels: {labels}\ncolumns: [{{ name: x, kind: numeric }}, {{ name: attack, kind: category }}, {{ name: y, kind: label }}]"
        )
    };
    let text = "x,attack\n1,normal\n2,neptune\n";
    let (flows, notes) = read_by(&schema("{ benign: [normal], from_category: true }"), text, &REQUIRED()).unwrap();
    assert_eq!(flows.labels(), Some(&[0, 1][..]));
    assert_eq!(flows.categories().unwrap().iter().collect::<Vec<_>>(), ["normal", "neptune"]);
    assert!(notes.contains("labels are taken from \"attack\""), "{notes}");
    let message = read_by(&schema("{ benign: [normal] }"), text, &REQUIRED()).unwrap_err();
    assert!(message.contains("missing column \"y\""), "{message}");
}

#[test]
fn csv_is_read_as_it_is_written() {
    let wanted = read_text("rate,proto\n1,a\n2,b\n", UNUSED).unwrap().fingerprint();
    for (content, note) in [
        ("rate;proto\n1;a\n2;b\n", "cells are separated by `;`"),
        ("rate\tproto\n1\ta\n2\tb\n", "cells are separated by tabs"),
        ("sep=|\nrate|proto\n1|a\n2|b\n", "cells are separated by `|`"),
        ("# made by x\n# on a day\nrate,proto\n1,a\n2,b\n", "2 lines that begin with # are passed over"),
        ("rate,proto\n1,a\nrate,proto\n2,b\n", "2 rows from 4 lines, 1 repeated header line passed over"),
        ("rate,proto\n0x1,a\n2,b\n", "2 rows"),
        ("rate,proto,rate\n1,a,1\n2,b,2\n", "2 columns stand for `rate` and are compared"),
    ] {
        let (flows, notes) = read_by(SCHEMA, content, &UNUSED()).unwrap();
        assert_eq!(flows.fingerprint(), wanted, "{content}");
        assert!(notes.contains(note), "{content}: {notes}");
    }
}

#[test]
fn a_file_without_a_header_is_read_in_the_order_of_the_schema() {
    let schema = |header: &str| {
        format!(
            "name: toy\n{header}\ncolumns: [{{ name: a, kind: numeric }}, {{ name: b, kind: categorical }}, {{ name: c, kind: numeric }}]"
        )
    };
    let (flows, notes) = read_by(&schema(""), "1,x,2\n3,y,4\n", &UNUSED()).unwrap();
    assert_eq!((flows.len(), numbers(&flows)), (2, &[1.0, 3.0][..]));
    assert!(notes.contains("no header line: columns are taken in the order of the schema"), "{notes}");
    // one cell less is another table
    let message = read_by(&schema(""), "1,x\n3,y\n", &UNUSED()).unwrap_err();
    assert!(message.contains("none of the 3 columns of schema `toy` is there"), "{message}");
    assert!(read_by(&schema("header: true"), "1,x,2\n3,y,4\n", &UNUSED()).is_err());
    let (flows, _) = read_by(&schema("header: false"), "c,b,a\n1,x,2\n", &UNUSED()).unwrap();
    assert_eq!(numbers(&flows), [2.0], "a header is understood, too");
}

#[test]
fn what_is_no_table_of_flows_is_named() {
    for (content, wanted) in [
        (&b"<!DOCTYPE html>\n<html>"[..], "the file is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"PK\x03\x04rest", "a zip archive or an Excel workbook"),
        (b"\xd4\xc3\xb2\xa1rest", "captured packets (pcap)"),
        (b"name: toy\ncolumns:\n  - { name: x, kind: numeric }\n", "a schema, not flows"),
        (b"\xfd7zXZ\0rest", "compressed by xz"),
    ] {
        let message = read_text(content, UNUSED).unwrap_err().to_string();
        assert!(message.contains(wanted), "{message}");
    }
}

#[test]
fn compressed_and_encoded_texts_are_read() {
    use std::io::Write as _;
    let text = "rate,proto\n1,a\n2,b\n";
    let wanted = read_text(text, UNUSED).unwrap().fingerprint();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let utf16: Vec<u8> = "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let zstd = zstd::encode_all(text.as_bytes(), 1).unwrap();
    for (content, note) in [(&gzip, "gzip"), (&zstd, "zstd"), (&utf16, "UTF-16")] {
        let (flows, notes) = read_by(SCHEMA, content, &UNUSED()).unwrap();
        assert_eq!(flows.fingerprint(), wanted, "{note}");
        assert!(notes.contains(note), "{notes}");
    }
    // members one after the other, as `cat a.gz b.gz` makes them
    let more = [gzip.clone(), gzip[..gzip.len() - 3].to_vec()].concat();
    assert!(read_text(&more, UNUSED).is_err(), "a cut file is no shorter file");
    let latin = b"rate,proto,note\n1,caf\xe9,\x96\n";
    let message = read_text(latin, UNUSED).unwrap_err().to_string();
    assert!(
        message.contains("column \"proto\": \"caf\u{fffd}\" is not UTF-8") && message.contains("encoding: windows-1252"),
        "{message}"
    );
    let options = ReadOptions { encoding: Some(Encoding::Windows1252), ..UNUSED() };
    assert_eq!(texts(&read_by(SCHEMA, latin, &options).unwrap().0), ["café"]);
    let utf8 = "rate,proto\n1,café\n";
    assert_eq!(texts(&read_by(SCHEMA, utf8, &options).unwrap().0), ["café"], "UTF-8 is read as what it is");
}

#[test]
fn all_bad_rows_are_named_at_once_or_left_out() {
    let mut content = "rate,proto\n".to_owned();
    for row in 0..40 {
        let rate = if row % 3 == 0 { "bad".to_owned() } else { row.to_string() };
        content.extend([rate, format!(",{row}\n")]);
    }
    content.push_str("7\n");
    let message = read_text(&content, UNUSED).unwrap_err().to_string();
    assert!(message.contains("15 cells in 15 of 41 rows cannot be read"), "{message}");
    assert!(
        message.contains("column \"rate\": 14 times\n    line 2: cannot read \"bad\"") && message.contains("and 4 more"),
        "{message}"
    );
    assert!(message.contains("rows: 1 time\n    line 42: 1 cells, but the header has 2"), "{message}");

    let skip = |max_bad_rows| ReadOptions { on_bad_row: OnBadRow::Skip, max_bad_rows, ..UNUSED() };
    let (_folder, path) = file(&content);
    let mut reader = FlowReader::open(&[&path], &schema(), &skip(0.5)).unwrap();
    let mut flows = reader.next_batch(10).unwrap().unwrap();
    while let Some(more) = reader.next_batch(10).unwrap() {
        flows.extend(more);
    }
    let rejects = reader.take_rejects();
    assert_eq!((flows.len(), rejects.len(), reader.n_rejected()), (26, 15, 15));
    assert_eq!((rejects[0].at, rejects[0].value.as_str(), rejects[0].column.as_deref()), (At::Line(2), "bad", Some("rate")));
    assert!(reader.take_notes().join("\n").contains("41 rows = 26 rows read + 15 rows that cannot be"));
    assert_eq!(texts(&flows)[..3], ["1", "2", "4"], "cells of a bad row are not left behind");
    assert_eq!(flows.ids()[..3], ["2", "3", "5"], "a row keeps the number that it has in the file");
    let message = read_by(SCHEMA, &content, &skip(0.1)).unwrap_err();
    assert!(message.contains("more than the share of 0.1 that `max_bad_rows` allows"), "{message}");
}

#[test]
fn bad_rows_of_parquet_are_left_out_alike() {
    let columns = vec![
        ("rate", Arc::new(StringArray::from(vec!["1", "x", "3", "4"])) as ArrayRef),
        ("proto", Arc::new(StringArray::from(vec!["a", "b", "c", "d"]))),
    ];
    let options = ReadOptions { on_bad_row: OnBadRow::Skip, max_bad_rows: 0.5, ..UNUSED() };
    let (_folder, path) = file(parquet(columns));
    let mut reader = FlowReader::open(&[&path], &schema(), &options).unwrap();
    let flows = reader.read_all().unwrap();
    assert_eq!((numbers(&flows), texts(&flows)), (&[1.0, 3.0, 4.0][..], vec!["a", "c", "d"]));
    assert_eq!(flows.ids(), ["1", "3", "4"], "a row keeps the number that it has in the file");
    assert_eq!(reader.take_rejects().iter().map(|reject| reject.at).collect::<Vec<_>>(), [At::Row(2)]);
}

#[test]
fn an_id_column_that_is_missing_is_an_error_unless_rows_have_numbers() {
    let message = read_text("rate,proto\n1,a\n", NAMED).unwrap_err().to_string();
    assert!(message.contains("column \"id\" is missing, which names the rows") && message.contains("--id row"), "{message}");
    assert_eq!(read_text("rate,proto\n1,a\n", UNUSED).unwrap().ids(), ["1"]);
    assert_eq!(read_text("id,rate,proto\nx,1,a\n", UNUSED).unwrap().ids(), ["1"], "asked for is asked for");
}

#[test]
fn columns_that_are_not_needed_are_not_parsed() {
    let content = b"id,rate,proto,kind,label,label\n1,2,tcp,\x96,NeedManualLabel,x\n";
    assert_eq!(read_text(content, NAMED).unwrap().len(), 1);
}

const ZEEK: &str = "#separator \\x09\n#set_separator\t,\n#empty_field\t(none)\n#unset_field\t~\n#path\tconn\n\
    #fields\tts\tid\trate\tproto\tlabel\n#types\ttime\tstring\tinterval\tenum\tstring\n\
    1.5\tC1\t0.5\ttcp\tBenign\n2.5\tC2\t~\t~\tMalicious\n3.5\tC3\t2\t(none)\tBenign\n#close\t2022\n";

#[test]
fn a_log_of_zeek_says_how_it_is_written() {
    let (flows, notes) = read_by(SCHEMA, ZEEK, &ReadOptions::labelled()).unwrap();
    assert_eq!(format!("{:?}", numbers(&flows)), "[0.5, NaN, 2.0]");
    assert_eq!((texts(&flows), flows.labels()), (vec!["tcp", "-", "-"], Some(&[0, 1, 0][..])));
    assert_eq!(flows.ids(), ["C1", "C2", "C3"]);
    assert!(notes.contains("a log of Zeek") && notes.contains("3 rows from 11 lines, 8 comment lines passed over"), "{notes}");
    let message = read_text(ZEEK.replace("0.5\ttcp", "0.5"), NAMED).unwrap_err().to_string();
    assert!(message.contains("toy.csv:8: 4 cells, but `#fields` names 5"), "{message}");
    // the last columns of some labelled logs are one of Zeek's, with blanks between
    let joined = ZEEK
        .replace("proto\tlabel", "proto   label")
        .replace("tcp\tBenign", "tcp   Benign")
        .replace("~\tMalicious", "~   Malicious")
        .replace("(none)\tBenign", "(none)   Benign");
    assert_eq!(read_text(joined, ReadOptions::labelled).unwrap().fingerprint(), flows.fingerprint());
}

#[test]
fn what_a_log_declares_holds_for_that_log() {
    let folder = tempfile::tempdir().unwrap();
    let [log, csv] = ["a.log", "b.csv"].map(|name| folder.path().join(name));
    write(&log, ZEEK);
    write(&csv, "id,rate,proto\nx,~,tcp\n");
    let message = FlowReader::open(&[&log, &csv], &schema(), &NAMED()).unwrap().read_all().unwrap_err().to_string();
    assert!(message.contains("b.csv:2: column \"rate\": cannot read \"~\" as a number"), "{message}");
}

#[test]
fn objects_of_json_are_rows_and_what_is_nested_has_dots() {
    let schema = "name: toy\nid: uid\nwhere: { event_type: [flow] }\ncolumns:\n  - { name: uid, kind: ignored }\n  - { name: event_type, kind: ignored }\n  \
        - { name: flow.bytes, kind: numeric }\n  - { name: proto, kind: categorical }\n  - { name: tcp.syn, kind: numeric }\n";
    let lines = "{\"uid\": 1, \"event_type\": \"flow\", \"flow\": {\"bytes\": 7}, \"proto\": \"TCP\", \"tcp\": {\"syn\": true}}\n\
        {\"uid\": 2, \"event_type\": \"alert\"}\n\n\
        {\"event_type\": \"flow\", \"uid\": \"a}\\\"{\", \"flow\": {\"bytes\": null, \"more\": [1, {\"x\": 2}]}, \"proto\": \"UDP\"}\n";
    let (flows, notes) = read_by(schema, lines, &NAMED()).unwrap();
    assert_eq!(flows.ids(), ["1", "a}\"{"]);
    assert_eq!(format!("{:?}", flows.features()[0]), "Numeric([7.0, NaN])");
    assert_eq!(texts(&flows), ["TCP", "UDP"]);
    assert_eq!(format!("{:?}", flows.features()[2]), "Numeric([1.0, NaN])");
    assert!(notes.contains("1 row passed over: rows are those whose `event_type` is flow"), "{notes}");
    let numbered = ReadOptions { ids: Ids::Row, ..NAMED() };
    assert_eq!(read_by(schema, lines, &numbered).unwrap().0.ids(), ["1", "3"], "a row that is passed over has a number, too");
    let list = format!("[\n{}\n]", lines.trim().replace("\n\n", "\n").replace("}\n{", "},\n{"));
    assert_eq!(read_by(schema, list, &NAMED()).unwrap().0.fingerprint(), flows.fingerprint());
    let message = read_by(schema, &lines[..lines.len() - 3], &NAMED()).unwrap_err();
    assert!(message.contains("the object that begins here is not closed"), "{message}");
    let message = read_by(schema, "{\"a\": 1}\n", &NAMED()).unwrap_err();
    assert!(message.contains("\"a\""), "{message}");
}

#[test]
fn arrow_gives_the_same_flows_as_parquet() {
    let batch = RecordBatch::try_from_iter(toy_columns()).unwrap();
    let wanted = read_text(parquet(toy_columns()), ReadOptions::labelled).unwrap().fingerprint();
    let mut stream = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    stream.write(&batch.slice(0, 2)).unwrap();
    stream.write(&batch.slice(2, 1)).unwrap();
    let stream = stream.into_inner().unwrap();
    let mut whole = arrow_ipc::writer::FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    whole.write(&batch).unwrap();
    let whole = whole.into_inner().unwrap();
    for bytes in [&stream, &whole] {
        assert_eq!(read_text(bytes, ReadOptions::labelled).unwrap().fingerprint(), wanted);
        for len in (8..bytes.len() - 20).step_by(5) {
            let _ = read_text(&bytes[..len], ReadOptions::labelled);
        }
        for at in (4..bytes.len()).step_by(3) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            let _ = read_text(bytes, ReadOptions::labelled);
        }
    }
}

#[test]
fn a_batch_of_no_rows_takes_no_others_with_it() {
    let batch = RecordBatch::try_from_iter([
        ("rate", Arc::new(Float32Array::from(vec![1.0, 2.0, 3.0])) as ArrayRef),
        ("proto", Arc::new(Int64Array::from(vec![4, 5, 6]))),
    ])
    .unwrap();
    let mut stream = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    for (first, n) in [(0, 0), (0, 1), (1, 0), (1, 0), (1, 2), (3, 0)] {
        stream.write(&batch.slice(first, n)).unwrap();
    }
    let flows = read_text(stream.into_inner().unwrap(), UNUSED).unwrap();
    assert_eq!(numbers(&flows), [1.0, 2.0, 3.0]);
    // only the columns are known
    let none = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap().into_inner().unwrap();
    let may_be_empty = || ReadOptions { may_be_empty: true, ..UNUSED() };
    let (_folder, path) = file(&none);
    assert!(FlowReader::open(&[&path], &schema(), &may_be_empty()).unwrap().next_batch(9).unwrap().is_none());
    assert!(read_text(&none, UNUSED).unwrap_err().to_string().contains("no rows"));
}

/// The flows of all parts of some files, one after the other, read a few rows at a time, and the places of rows left out.
fn read_parts(files: &[PathBuf], schema: &Schema, of: u32, options: &ReadOptions) -> (Flows, Vec<Reject>) {
    let (mut all, mut rejects) = (Flows::none(schema), Vec::new());
    for index in 0..of {
        let options = ReadOptions { part: Part::new(index, of), ..options.clone() };
        let mut reader = FlowReader::open(files, schema, &options).unwrap();
        while let Some(flows) = reader.next_batch(4).unwrap() {
            all.extend(flows);
        }
        rejects.extend(reader.take_rejects());
    }
    (all, rejects)
}

/// Rows of CSV with all that makes it hard to say where a row begins.
fn odd_rows() -> String {
    let row = |n: usize| match n % 7 {
        0 => format!("{n},{n}.5,\"a\n{n}\"\r\n"),
        1 => format!("\n\n{n},1e{},tcp\n", n % 9),
        2 => format!("id,rate,proto\n{n},,\"u\"\"d\"\n"),
        3 => format!("{n},rate?,tcp\n"),
        _ => format!("{n},{n},udp\n"),
    };
    (0..60).fold("id,rate,proto\n".to_owned(), |text, n| text + &row(n))
}

fn arrow_batches(batch: &RecordBatch) -> Vec<u8> {
    let mut stream = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    for first in (0..batch.num_rows()).step_by(5) {
        stream.write(&batch.slice(first, 5.min(batch.num_rows() - first))).unwrap();
    }
    stream.into_inner().unwrap()
}

fn row_groups(batch: &RecordBatch) -> Vec<u8> {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(7)).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn the_parts_of_a_file_one_after_the_other_are_the_file_however_it_is_written() {
    use std::io::Write as _;
    let objects: Vec<String> = (0..60).map(|n| format!("{{\"id\": {n}, \"rate\": {n},\n \"proto\": \"p{}\"}}", n % 5)).collect();
    let zeek = (0..60).fold("#separator \\x09\n#fields\tid\trate\tproto\n".to_owned(), |text, n| {
        text + &format!("{}{n}\t{n}.25\tudp\n", if n % 9 == 0 { "# a line\n\n" } else { "" })
    });
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from_iter_values(0..60)) as ArrayRef),
        ("rate", Arc::new(Float32Array::from_iter_values((0..60).map(|n| n as f32)))),
        ("proto", Arc::new(StringArray::from_iter_values((0..60).map(|n| format!("p{}", n % 5))))),
    ])
    .unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(odd_rows().as_bytes()).unwrap();
    let utf16: Vec<u8> = format!("\u{feff}{}", odd_rows()).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let nfdump = odd_rows() + "Summary\nflows,bytes,packets\n1,2,3\n";
    let kinds = [
        ("CSV", odd_rows().into_bytes()),
        ("CSV with totals", nfdump.into_bytes()),
        ("CSV as UTF-16", utf16),
        ("CSV by gzip", gzip.finish().unwrap()),
        ("JSON lines", objects.join("\n").into_bytes()),
        ("JSON list", format!("[{}]", objects.join(",\n")).into_bytes()),
        ("Zeek", zeek.into_bytes()),
        ("Parquet", row_groups(&batch)),
        ("Arrow", arrow_batches(&batch)),
    ];
    let schema = schema();
    for ids in [Ids::Schema, Ids::Row] {
        let options = ReadOptions { ids, on_bad_row: OnBadRow::Skip, max_bad_rows: 1.0, ..ReadOptions::default() };
        let files: Vec<(TempDir, PathBuf)> = kinds.iter().map(|(_, bytes)| file(bytes)).collect();
        let paths: Vec<PathBuf> = files.iter().map(|(_, path)| path.clone()).collect();
        let alone = kinds.iter().zip(&paths).map(|((kind, _), path)| (*kind, std::slice::from_ref(path)));
        for (kind, paths) in alone.chain([("all of them", &paths[..])]) {
            let mut whole = FlowReader::open(paths, &schema, &options).unwrap();
            let flows = whole.read_all().unwrap();
            let rejects = whole.take_rejects();
            for of in [1, 2, 3, 7, 40, 1000] {
                let (found, left_out) = read_parts(paths, &schema, of, &options);
                assert_eq!(found.ids(), flows.ids(), "{kind} in {of} parts");
                assert_eq!(found.fingerprint(), flows.fingerprint(), "{kind} in {of} parts");
                assert_eq!(left_out, rejects, "{kind} in {of} parts");
            }
        }
    }
}

#[test]
fn several_files_are_read_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("day=1");
    fs::create_dir(&inner).unwrap();
    write(&folder.path().join("b.csv"), "rate,proto\n3,c\n");
    write(&inner.join("z.csv"), "rate,proto\n4,d\n");
    write(&folder.path().join("a.csv"), "proto,rate\na,1\nb,2\n");
    write(&folder.path().join(".hidden"), "no flows");
    let root = folder.path().display().to_string();
    let files = data_files(&[&root]).unwrap();
    let names: Vec<String> = files.iter().map(|file| file.strip_prefix(&root).unwrap().display().to_string()).collect();
    assert_eq!(names, ["a.csv", "b.csv", "day=1/z.csv"]);
    let mut reader = FlowReader::open(&files, &schema(), &UNUSED()).unwrap();
    let flows = reader.read_all().unwrap();
    assert_eq!(numbers(&flows), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(flows.ids()[1], format!("{root}/a.csv:2"));
    assert_eq!(flows.ids()[2], format!("{root}/b.csv:1"));
    assert_eq!(data_files(&[format!("{root}/*.csv")]).unwrap().len(), 2);
    for (name, wanted) in
        [(format!("{root}/*.log"), "a pattern that no file matches"), (format!("{root}/[").clone(), "cannot be read")]
    {
        let message = data_files(&[name]).unwrap_err().to_string();
        assert!(message.contains(wanted), "{message}");
    }
    assert!(data_files(&[&root, &root]).unwrap_err().to_string().contains("named twice"));
}

#[test]
fn folders_named_by_hive_give_columns() {
    let folder = tempfile::tempdir().unwrap();
    let write_in = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write(&path, content);
        path
    };
    let read = |path: &Path| {
        let mut reader = FlowReader::open(&[path], &schema(), &REQUIRED())?;
        reader.read_all().map(|flows| (flows, reader.take_notes().join("\n")))
    };
    let columns: Vec<_> = toy_columns().into_iter().filter(|(name, _)| !["label", "proto"].contains(name)).collect();
    for (name, content) in [
        ("label=1/proto=a%20b/x.csv", b"rate\n1\n2\n3\n".to_vec()),
        ("Label=1/proto=a%20b/x.json", br#"{"rate": 1} {"rate": 2} {"rate": 3}"#.to_vec()),
        ("label=1/day=2/proto=a%20b/x.parquet", parquet(columns)),
    ] {
        let (flows, notes) = read(&write_in(name, &content)).unwrap();
        assert_eq!((flows.labels(), texts(&flows)), (Some([1, 1, 1].as_slice()), vec!["a b"; 3]), "{name}");
        assert!(notes.contains("column \"proto\" is \"a b\", as the folder's name says"), "{notes}");
        assert_eq!(notes.contains("day (of a folder's name)"), name.contains("day"), "{notes}");
    }
    let (flows, _) = read(&write_in("label=0/proto=__HIVE_DEFAULT_PARTITION__/x.csv", b"rate\n1\n")).unwrap();
    assert_eq!(texts(&flows), ["-"]);
    let (flows, notes) = read(&write_in("proto=udp/x.csv", b"rate,proto,label\n1,tcp,0\n")).unwrap();
    assert_eq!(texts(&flows), ["tcp"]);
    assert!(notes.contains("column \"proto\" is read from the file"), "{notes}");
    for (name, content) in
        [("rate=x/y.csv", b"proto,label\na,1\n".to_vec()), ("rate=x/y.parquet", parquet(toy_columns()[..4].to_vec()))]
    {
        let message = read(&write_in(name, &content)).unwrap_err().to_string();
        assert!(message.contains("column \"rate\"") && message.contains("cannot read \"x\""), "{message}");
    }
}

#[expect(clippy::disallowed_methods, reason = "half a file in a scratch folder harms nobody")]
fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).unwrap();
}

/// Rows of two files: the second has a column that the first has not, and no label.
#[test]
fn all_other_columns_are_carried_along_file_by_file() {
    let (_one, one) = file("id,rate,proto,label,when\na,1,tcp,0,2017-07-03\nb,2,udp,1,-\n");
    let (_two, two) = file("extra,proto,rate\nx,tcp,3\n");
    let options = ReadOptions { labels: Labels::IfPresent, ids: Ids::Row, others: true, ..ReadOptions::default() };
    let mut reader = FlowReader::open(&[one, two], &schema(), &options).unwrap();
    let first = reader.next_batch(usize::MAX).unwrap().unwrap();
    assert_eq!((reader.file(), reader.others()), (0, ["id", "when"].map(str::to_owned).as_slice()));
    assert_eq!(first.carried(), [["a", "b"], ["2017-07-03", "-"]]);
    assert_eq!(first.labels(), Some([0, 1].as_slice()));
    let second = reader.next_batch(usize::MAX).unwrap().unwrap();
    assert_eq!((reader.file(), reader.others()), (1, ["extra".to_owned()].as_slice()));
    assert_eq!((second.carried(), second.labels()), ([vec!["x".to_owned()]].as_slice(), None));
    assert!(reader.next_batch(1).unwrap().is_none());
}

#[test]
fn a_list_in_a_columnar_file_is_not_carried_along() {
    let mut columns = toy_columns();
    let lists = arrow_array::ListArray::from_iter_primitive::<Int32Type, _, _>((0..columns[0].1.len()).map(|_| Some([Some(1)])));
    columns.push(("list", Arc::new(lists)));
    columns.push(("again", Arc::clone(&columns[0].1)));
    let (_folder, path) = file(parquet(columns));
    let options = ReadOptions { others: true, ..ReadOptions::labelled() };
    let mut reader = FlowReader::open(&[path], &schema(), &options).unwrap();
    let flows = reader.next_batch(usize::MAX).unwrap().unwrap();
    assert_eq!(reader.others(), ["id", "more", "again"]);
    assert!(flows.carried().iter().all(|cells| cells.len() == flows.len()));
}

#[test]
fn rows_whose_label_is_ignored_stay_in_place_where_labels_may_be_absent() {
    let schema = format!("labels: {{ benign: [ok], attack: any, ignore: [maybe] }}\n{SCHEMA}");
    let options = ReadOptions { labels: Labels::IfPresent, ids: Ids::Row, ..ReadOptions::default() };
    let text = "rate,proto,label\n1,tcp,ok\n2,tcp,maybe\n3,tcp,scan\n4,tcp,\n";
    let (flows, notes) = read_by(&schema, text, &options).unwrap();
    assert_eq!((flows.labels(), flows.ids().len()), (Some([0, NO_LABEL, 1, NO_LABEL].as_slice()), 4));
    assert_eq!(notes, "toy.csv: 4 rows from 5 lines");
    let (flows, _) = read_by(&schema, "rate,proto\n1,tcp\n", &options).unwrap();
    assert_eq!(flows.labels(), None);
    // a word that no list has is an error here, too
    let error = read_by(SCHEMA, text, &options).unwrap_err();
    assert!(error.contains("\"maybe\" (1)"), "{error}");
}

#[test]
fn infinite_numbers_can_be_told_from_missing_ones() {
    let (_folder, path) = file("rate,proto\n1,a\nInfinity,a\nNaN,a\n-inf,a\n");
    let mut flows = read(&path, &schema().keeping_infinite(), &UNUSED()).unwrap();
    assert_eq!(flows.infinite_as_missing(), [(2, Some(1)), (0, None)]);
    let plain = read(&path, &schema(), &UNUSED()).unwrap();
    assert_eq!(flows.fingerprint(), plain.fingerprint());
}

#[test]
fn texts_are_numbers_where_all_are_read_as_one() {
    let seconds = super::numbers(&["1970-01-01 00:01:00", " 2 ", "-", "0x10"]).unwrap();
    assert_eq!((&seconds[..2], seconds[2].is_nan(), seconds[3]), ([60.0, 2.0].as_slice(), true, 16.0));
    assert_eq!((super::numbers(&["1", "tcp"]), super::numbers(&["-", ""])), (None, None));
}
