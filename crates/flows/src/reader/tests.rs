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

fn read_text(content: impl AsRef<[u8]>, labels: Labels) -> Result<Flows> {
    let (_folder, path) = file(content);
    read(&path, &schema(), labels)
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
    let mut reader = FlowReader::open(&path, &schema(), Labels::Required).unwrap();
    assert_eq!(reader.ignored_columns(), ["extra"]);
    let flows = reader.next_batch(10).unwrap().unwrap();
    assert_eq!(flows.ids(), ["a", "b", "c,d"]);
    assert_eq!(numbers(&flows).iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [0.0, 1e3, 0.5].map(f64::to_bits));
    assert_eq!(texts(&flows), ["tcp", "-", ""]);
    assert_eq!(flows.labels(), Some(&[1, 0, 0][..]));
    assert!(flows.categories().is_none());
    assert!(reader.next_batch(10).unwrap().is_none());
}

#[test]
fn rows_without_id_column_are_numbered_across_batches() {
    let (_folder, path) = file("rate,proto\n1,a\n2,b\n3,a\n");
    let mut reader = FlowReader::open(&path, &schema(), Labels::Optional).unwrap();
    let mut all = reader.next_batch(2).unwrap().unwrap();
    all.extend(reader.next_batch(2).unwrap().unwrap());
    assert!(reader.next_batch(2).unwrap().is_none());
    assert_eq!((all.ids().join(" "), texts(&all).join(" "), all.labels()), ("1 2 3".to_owned(), "a b a".to_owned(), None));
    assert_eq!(all.fingerprint(), read(&path, &schema(), Labels::Optional).unwrap().fingerprint());
    assert_eq!(all.select(&[2, 0]).ids(), ["3", "1"]);
}

#[test]
fn bad_files_are_refused_with_place_and_reason() {
    let check = |content: &[u8], wanted: &str| {
        let message = read_text(content, Labels::Required).unwrap_err().to_string();
        assert!(message.contains(wanted), "wanted {wanted}\nfound  {message}");
    };
    let rows = |rows: &str| format!("id,rate,proto,kind,label\n1,2,tcp,x,0\n{rows}").into_bytes();
    check(b"", "toy.csv: the file is empty");
    check(b"id,rate,proto,kind,label\n", "toy.csv: no rows after the header");
    check(b"id,rates,proto\n", "missing columns \"rate\" (did you mean \"rates\"?), \"label\" of schema `toy`");
    check(b"id;rate;proto;label\n1;2;3;0\n", "separate cells by commas");
    check(b"rate,proto,label,Rate\n", "column \"Rate\": named twice in the header");
    check(&rows("2,\"1,5\",tcp,x,0\n"), "toy.csv:3: column \"rate\": cannot read \"1,5\" as a number");
    for cell in ["", "NaN", "inf", "-Infinity", "1e31", "0x10", "1_000"] {
        check(&rows(&format!("2,{cell},tcp,x,0\n")), &format!("toy.csv:3: column \"rate\": cannot read \"{cell}\" as a number"));
    }
    check(&rows("\r\n\r\n2,5,tcp,x,2\r\n"), "toy.csv:5: column \"label\": label \"2\" is neither 0 nor 1");
    check(&rows("2,5,tcp,x,\n"), "toy.csv:3: column \"label\": label \"\" is neither");
    check(b"rate,proto,label\r\n1,a,0\r\n\r\n\"2\n\",a,0\r\n3,a,x\r\n", "toy.csv:6: column \"label\": label \"x\"");
    check(&rows("2,5,tcp,x\n"), "toy.csv:3: 4 cells, but the header has 5");
    check(&rows("2,5,tcp,x,0,0\n"), "toy.csv:3: 6 cells");
    check(&[&rows("2,5,t")[..], b"\xff\xfe,x,0\n"].concat(), "toy.csv:3: column \"proto\": \"t\u{fffd}\u{fffd}\" is not UTF-8");
    check(b"\xff\xfer\0a\0", "toy.csv:1: the header is not UTF-8");
    let missing = read(Path::new("no/such.csv"), &schema(), Labels::Required).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }) && missing.to_string().starts_with("cannot read no/such.csv: "));
    let folder = read(Path::new("."), &schema(), Labels::Required).unwrap_err();
    assert!(matches!(folder, Error::Io { .. }), "{folder}");
}

#[test]
fn every_line_of_a_text_file_is_accounted_for() {
    let content = "\nid,rate,proto,note\n1,2,tcp,x\n\r\n2,3,udp,\"a\nb\nc\"\n3,4,\"t\n\",\"d\r\n\"\n";
    let (_folder, path) = file(content);
    let mut reader = FlowReader::open(&path, &schema(), Labels::Optional).unwrap();
    let mut all = reader.next_batch(2).unwrap().unwrap();
    all.extend(reader.next_batch(2).unwrap().unwrap());
    assert!(reader.next_batch(2).unwrap().is_none());
    assert_eq!((all.ids().join(" "), texts(&all).join(" ")), ("1 2 3".to_owned(), "tcp udp t".to_owned()));
    let first_quoted = Some((5, "note".to_owned()));
    assert_eq!(reader.lines().unwrap(), Lines { total: 10, rows: 3, blank: 2, quoted: 4, quoted_rows: 2, first_quoted });
    assert_eq!(
        reader.lines().unwrap().to_string(),
        "3 rows from 10 lines, 2 blank lines passed over, 4 line ends inside of quoted fields of 2 rows (the first on line 5, column \"note\")"
    );
    let (_folder, path) = file("rate,proto\n1,a");
    let mut reader = FlowReader::open(&path, &schema(), Labels::Optional).unwrap();
    reader.next_batch(2).unwrap();
    assert_eq!(reader.lines().unwrap().to_string(), "1 row from 2 lines");
    let (_folder, path) = file(parquet(toy_columns()));
    assert_eq!(FlowReader::open(&path, &schema(), Labels::Optional).unwrap().lines(), None);
}

#[test]
fn a_file_of_one_column_has_a_row_for_every_line() {
    let of = |kind: &str, content: &str| -> std::result::Result<String, String> {
        let schema: Schema = serde_yaml::from_str(&format!("name: one\ncolumns: [{{ name: x, kind: {kind} }}]")).unwrap();
        let (_folder, path) = file(content);
        let flows = read(&path, &schema, Labels::Optional).map_err(|error| error.to_string())?;
        match &flows.features()[0] {
            FeatureColumn::Numeric(values) => Ok(format!("{values:?}")),
            FeatureColumn::Categorical(texts) => Ok(format!("{:?}", texts.iter().collect::<Vec<_>>())),
        }
    };
    assert_eq!(of("categorical", "x\na\n\n\r\nb\n"), Ok("[\"a\", \"\", \"\", \"b\"]".to_owned()));
    assert_eq!(of("categorical", "x\na\n\n"), Ok("[\"a\", \"\"]".to_owned()));
    assert_eq!(of("categorical", "x\na"), Ok("[\"a\"]".to_owned()));
    assert_eq!(of("numeric", "x\n1\n2\n"), Ok("[1.0, 2.0]".to_owned()));
    let message = of("numeric", "x\n1\n\n2\n").unwrap_err();
    assert!(message.contains("toy.csv:3: column \"x\": cannot read \"\" as a number"), "{message}");
}

#[test]
fn a_fault_of_quotation_marks_is_named_with_line_and_column() {
    let check = |content: &str, wanted: &str| {
        let message = read_text(content, Labels::Optional).unwrap_err().to_string();
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
    let flows = read_text(content, Labels::Optional).unwrap();
    assert_eq!(
        (flows.ids(), texts(&flows)),
        (&["a\nb", "say \"hi\"", "5\""].map(str::to_owned)[..], vec!["x\"y", "c,d", "r\rs"])
    );
    let mut written = Vec::new();
    crate::write_csv(&flows, &mut written).unwrap();
    assert_eq!(read_text(&written, Labels::Optional).unwrap().fingerprint(), flows.fingerprint());
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
    let mut reader = FlowReader::open(&path, &schema(), Labels::Required).unwrap();
    assert_eq!(reader.ignored_columns(), ["more"]);
    let mut flows = reader.next_batch(1).unwrap().unwrap();
    while let Some(more) = reader.next_batch(1).unwrap() {
        flows.extend(more);
    }
    let text = read_text("id,rate,proto,label\n7,0.5,tcp,1\n8,0,udp,0\n9,3,tcp,0\n", Labels::Required).unwrap();
    assert_eq!(flows.fingerprint(), text.fingerprint());
}

#[test]
fn bad_parquet_cells_are_refused_with_their_row() {
    let check = |name: &str, cells: ArrayRef, wanted: &str| {
        let mut columns = toy_columns();
        columns.retain(|(column, _)| *column != name);
        columns.push((name, cells));
        let message = read_text(parquet(columns), Labels::Required).unwrap_err().to_string();
        assert!(message.contains(wanted), "wanted {wanted}\nfound  {message}");
    };
    check("rate", Arc::new(Float32Array::from(vec![1.0, 2.0, f32::NAN])), ": row 3: column \"rate\": cannot read \"NaN\"");
    check("rate", Arc::new(Float32Array::from(vec![Some(1.0), None, None])), ": row 2: column \"rate\": the cell is null");
    check("rate", Arc::new(StringArray::from(vec!["1", "2", "1,5"])), ": row 3: column \"rate\": cannot read \"1,5\"");
    check("proto", Arc::new(StringArray::from(vec![Some("a"), None, None])), ": row 2: column \"proto\": the cell is null");
    check("label", Arc::new(Int64Array::from(vec![0, 1, 3])), ": row 3: column \"label\": label \"3\" is neither");
}

#[test]
fn damaged_parquet_is_an_error_and_never_a_panic() {
    let whole = parquet(toy_columns());
    let attempt = |bytes: &[u8]| read_text(bytes, Labels::Required);
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
