//! What `metrics.jsonl` says, once more: as a table (`metrics.csv`), and as event files that TensorBoard draws.

use std::collections::BTreeMap;

use nids_config::Stage;
use prost::Message as _;
use serde_json::Value as Json;

/// The table.
pub(crate) const METRICS_CSV: &str = "metrics.csv";
/// The folder of event files: a folder in it for each stage.
pub(crate) const TENSORBOARD: &str = "tensorboard";

/// The event file of a stage. TensorBoard knows one by `tfevents` in its name.
pub(crate) fn events_name(stage: Stage) -> String {
    format!("{TENSORBOARD}/{stage}/events.out.tfevents.0.nids-mixer")
}

/// A line of `metrics.jsonl`, taken apart.
struct Row {
    stage: String,
    step: i64,
    /// What says of whom the others are.
    about: BTreeMap<&'static str, String>,
    /// By path: `validation/accuracy`. Lists are left out.
    cells: BTreeMap<String, Json>,
}

const ABOUT: [&str; 3] = ["member", "members", "heads"];

fn rows(log: &str) -> impl Iterator<Item = Row> {
    log.lines().filter_map(|line| {
        let Json::Object(mut fields) = serde_json::from_str(line).ok()? else { return None };
        let stage = fields.remove("stage")?.as_str()?.to_owned();
        let step = fields.remove("step").and_then(|step| step.as_i64()).unwrap_or(0);
        let about = ABOUT.into_iter().filter_map(|name| Some((name, fields.remove(name)?.to_string()))).collect();
        let mut cells = BTreeMap::new();
        flatten("", Json::Object(fields), &mut cells);
        Some(Row { stage, step, about, cells })
    })
}

fn flatten(path: &str, value: Json, cells: &mut BTreeMap<String, Json>) {
    match value {
        Json::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                flatten(&path, value, cells);
            }
        }
        Json::Array(_) | Json::Null => {}
        value => drop(cells.insert(path.to_owned(), value)),
    }
}

/// The lines of `metrics.jsonl` as a table: a row a line, and a column for each number and text that any of them has.
pub(crate) fn csv(log: &str) -> Vec<u8> {
    let rows: Vec<Row> = rows(log).collect();
    let mut names: Vec<&str> = Vec::new();
    for name in rows.iter().flat_map(|row| row.cells.keys()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut table = csv::Writer::from_writer(Vec::new());
    let written = "text is written to memory";
    table.write_record(["stage", "step"].iter().chain(&ABOUT).chain(&names)).expect(written);
    for row in &rows {
        let about = ABOUT.iter().map(|name| row.about.get(name).cloned().unwrap_or_default());
        let cell = |name: &&str| match row.cells.get(*name) {
            Some(Json::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        };
        let cells = names.iter().map(cell);
        table.write_record([row.stage.clone(), row.step.to_string()].into_iter().chain(about).chain(cells)).expect(written);
    }
    table.into_inner().expect(written)
}

/// A record of an event file (tensorboard/compat/proto/event.proto); fields that are not written are left out.
#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    /// Seconds since 1970: one a step from 0 on, because a clock would give the same run other bytes.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// tensorboard/compat/proto/summary.proto
#[derive(Clone, PartialEq, prost::Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `Summary.Value`
#[derive(Clone, PartialEq, prost::Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    /// Part of a `oneof` there, so that 0 is written, too.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// The numbers that `stage` logged, as the content of an event file.
pub(crate) fn events(log: &str, stage: Stage) -> Vec<u8> {
    let version = Event { file_version: Some("brain.Event:2".to_owned()), ..Event::default() };
    let mut out = record(&version);
    for Row { step, about, cells, .. } in rows(log).filter(|row| row.stage == stage.name()) {
        let of_whom = match about.get("member") {
            Some(member) => format!("member {member}/"),
            None if about.is_empty() => String::new(),
            None => "averaged/".to_owned(),
        };
        let scalar = |(path, value): (String, Json)| {
            Some(Scalar { tag: format!("{of_whom}{path}"), simple_value: Some(value.as_f64()? as f32) })
        };
        let value: Vec<Scalar> = cells.into_iter().filter_map(scalar).collect();
        if !value.is_empty() {
            out.extend(record(&Event { wall_time: step as f64, step, file_version: None, summary: Some(Summary { value }) }));
        }
    }
    out
}

/// An event between its length and the checksums of both.
fn record(event: &Event) -> Vec<u8> {
    let content = event.encode_to_vec();
    let length = (content.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), &content, &masked(&content)].concat()
}

/// The checksum of a TFRecord.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"stage":"pretrain","step":50,"loss":0.5,"lr":0.001,"grad_norm":2.0}
{"stage":"finetune","step":3,"member":1,"loss":0.0,"lr":0.1,"grad_norm":null}
{"stage":"finetune","step":7,"nonfinite":"the loss, again","rows":["row 3"],"action":"skipped"}
{"stage":"finetune","step":9,"members":2,"validation":{"accuracy":0.75,"roc_auc":null,"n":4}}
{"stage":"finetune","step":9,"lo
"#;

    #[test]
    fn a_table_has_a_row_a_line_and_a_column_a_number() {
        let wanted = "stage,step,member,members,heads,grad_norm,loss,lr,action,nonfinite,validation/accuracy,validation/n
pretrain,50,,,,2.0,0.5,0.001,,,,
finetune,3,1,,,,0.0,0.1,,,,
finetune,7,,,,,,,skipped,\"the loss, again\",,
finetune,9,,2,,,,,,,0.75,4
";
        assert_eq!(String::from_utf8(csv(LOG)).unwrap(), wanted);
    }

    /// Records, read by their lengths; each checksum must be right.
    fn read(mut bytes: &[u8]) -> Vec<Event> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(bytes[8..12], masked(&bytes[..8]));
            let content = &bytes[12..12 + length];
            assert_eq!(bytes[12 + length..16 + length], masked(content));
            found.push(Event::decode(content).unwrap());
            bytes = &bytes[16 + length..];
        }
        found
    }

    #[test]
    fn events_are_the_numbers_of_one_stage_by_their_steps() {
        let found = read(&events(LOG, Stage::Finetune));
        let tags: Vec<(i64, Vec<(String, f32)>)> = found
            .iter()
            .map(|event| {
                let values = event.summary.iter().flat_map(|summary| &summary.value);
                (event.step, values.map(|value| (value.tag.clone(), value.simple_value.unwrap())).collect())
            })
            .collect();
        let of = |tag: &str, value| (tag.to_owned(), value);
        assert_eq!(tags[0], (0, vec![]));
        assert_eq!(tags[1], (3, vec![of("member 1/loss", 0.0), of("member 1/lr", 0.1)]));
        assert_eq!(tags[2], (9, vec![of("averaged/validation/accuracy", 0.75), of("averaged/validation/n", 4.0)]));
        assert_eq!((tags.len(), found[0].file_version.as_deref()), (3, Some("brain.Event:2")));
        assert!(found.iter().all(|event| event.wall_time.to_bits() == (event.step as f64).to_bits()));
        assert_eq!(read(&events(LOG, Stage::Encode)).len(), 1);
    }

    #[test]
    fn a_record_has_the_bytes_that_tensorboard_writes() {
        // python: from tensorboard.compat.proto.event_pb2 import Event; EventFileWriter's first record with wall_time 0, which
        // is file_version alone: 1a 0d, then the text; length and checksums by crc32c.crc32c of the PyPI package of that name
        let event = Event { file_version: Some("brain.Event:2".to_owned()), ..Event::default() };
        let bytes = record(&event);
        assert_eq!(bytes[..8], 15_u64.to_le_bytes());
        assert_eq!(&bytes[12..27], b"\x1a\x0dbrain.Event:2");
        assert_eq!(masked(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes());
    }
}
