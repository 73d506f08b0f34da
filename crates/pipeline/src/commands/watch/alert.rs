//! Alerts as other programs take them: the Elastic Common Schema, OCSF's Detection Finding, or the columns of `predict`.

use nids_store::artefacts::sha256;
use serde_json::{Map, Value as Json, json};

use super::record::{End, Record, iso};

/// The version of the Elastic Common Schema that fields are those of.
const ECS: &str = "8.17.0";
/// The version of OCSF that fields are those of.
const OCSF: &str = "1.3.0";

/// How alerts are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AlertFormat {
    /// Elastic Common Schema, a JSON object a line.
    #[default]
    Ecs,
    /// Detection Finding (2004) of OCSF, a JSON object a line.
    Ocsf,
    /// The columns of `predict`.
    Csv,
}

impl AlertFormat {
    /// Its name in `--alert-format`.
    pub const NAMES: [&str; 3] = ["ecs", "ocsf", "csv"];

    /// The format of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Ecs, Self::Ocsf, Self::Csv].into_iter().zip(Self::NAMES).find(|(_, own)| *own == name).map(|(format, _)| format)
    }

    /// How every line of it begins.
    pub(super) fn beginning(self) -> &'static str {
        match self {
            Self::Ecs => "{\"@timestamp\":",
            Self::Ocsf => "{\"activity_id\":",
            Self::Csv => "",
        }
    }

    /// The id of an alert that a line holds.
    pub(super) fn id_of(self, line: &[u8]) -> Option<String> {
        if self == Self::Csv {
            return Some(String::from_utf8_lossy(line).into_owned());
        }
        let found: Json = serde_json::from_slice(line).ok()?;
        let id = if self == Self::Ecs { &found["event"]["id"] } else { &found["finding_info"]["uid"] };
        id.as_str().map(str::to_owned)
    }
}

/// What all alerts of a run have.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Model {
    /// The hash of the run's model and of how it is operated.
    pub(super) version: String,
    pub(super) name: String,
    pub(super) threshold: f64,
}

/// What is said of a flow.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Said {
    /// Of an attack, by the classifier.
    pub(super) probability: Option<f32>,
    /// What the threshold is compared with where that is not the probability.
    pub(super) score: Option<f32>,
    pub(super) p_value: Option<f64>,
    pub(super) verdict: String,
    pub(super) category: Option<String>,
    pub(super) surprising: Option<String>,
    pub(super) reasons: Vec<String>,
}

/// An alert.
pub(super) struct Alert<'a> {
    pub(super) id: String,
    pub(super) record: Record,
    pub(super) said: Said,
    pub(super) model: &'a Model,
    /// The file of the line, and where the line begins.
    pub(super) file: String,
    pub(super) offset: u64,
    /// When the line was read, in seconds since 1970.
    pub(super) read_at: f64,
}

/// The id of the alert of a line: the same whenever and wherever the line is read, also from a copy, or packed.
pub(super) fn id_of(line: &[u8], offset: u64) -> String {
    let mut bytes = line.to_vec();
    bytes.extend(offset.to_be_bytes());
    let mut id = sha256(&bytes);
    id.truncate(32);
    id
}

/// The shortest digits that read back as this f32.
fn single(value: f32) -> Json {
    serde_json::from_str(&format!("{value:?}")).unwrap_or(Json::Null)
}

/// An object of what is there.
fn object<const N: usize>(fields: [(&str, Option<Json>); N]) -> Json {
    let there = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Json::Object(there.filter(|(_, value)| !value.as_object().is_some_and(Map::is_empty)).collect())
}

fn text(value: Option<impl ToString>) -> Option<Json> {
    value.map(|value| Json::from(value.to_string()))
}

/// The sum of what is there.
fn sum(of: [Option<u64>; 2]) -> Option<u64> {
    of.into_iter().flatten().reduce(u64::saturating_add)
}

impl Alert<'_> {
    fn risk(&self) -> f64 {
        let score = self.said.score.or(self.said.probability).unwrap_or(0.0);
        (f64::from(score) * 1e4).round() / 1e2
    }

    fn message(&self) -> String {
        let of = match (&self.said.score, &self.said.probability) {
            (Some(score), _) => format!("score {score:?}"),
            (None, Some(probability)) => format!("probability {probability:?}"),
            (None, None) => "score".to_owned(),
        };
        let what = if self.said.verdict == "anomaly" { "is unlike benign flows" } else { "looks like an attack" };
        format!("a machine-learning model says that the flow {what}: {of}, threshold {}", self.model.threshold)
    }

    /// A line of the Elastic Common Schema.
    pub(super) fn ecs(&self) -> Json {
        let Alert { record, said, model, .. } = self;
        let end = |end: &End| {
            object([
                ("address", text(end.ip)),
                ("ip", text(end.ip)),
                ("port", end.port.map(Json::from)),
                ("bytes", end.bytes.map(Json::from)),
                ("packets", end.packets.map(Json::from)),
            ])
        };
        let addresses: Vec<String> =
            [record.source.ip, record.destination.ip].into_iter().flatten().map(|ip| ip.to_string()).collect();
        let kind = [record.source.ip, record.destination.ip].into_iter().flatten().next();
        let nanoseconds = |seconds: f64| Json::from((seconds * 1e9).round() as u64);
        let event = object([
            ("kind", Some("alert".into())),
            ("category", Some(json!(["network"]))),
            ("type", Some(json!(["connection"]))),
            ("module", Some("nids_mixer".into())),
            ("dataset", Some("nids_mixer.alert".into())),
            ("id", Some(self.id.as_str().into())),
            ("risk_score", Some(self.risk().into())),
            ("created", Some(iso(self.read_at).into())),
            ("start", record.start.map(|at| iso(at).into())),
            ("end", record.end.map(|at| iso(at).into())),
            ("duration", record.duration.filter(|&seconds| seconds < 1e9).map(nanoseconds)),
        ]);
        let own = object([
            ("probability", said.probability.map(single)),
            ("score", said.score.map(single)),
            ("p_value", said.p_value.map(Json::from)),
            ("threshold", Some(model.threshold.into())),
            ("verdict", Some(said.verdict.as_str().into())),
            ("category", text(said.category.as_ref())),
            ("surprising", text(said.surprising.as_ref())),
            ("reasons", (!said.reasons.is_empty()).then(|| json!(said.reasons))),
            (
                "record",
                Some(object([
                    ("id", text(record.uid.as_ref())),
                    ("offset", Some(self.offset.into())),
                    ("time_is_that_of_reading", Some(record.start.is_none().into())),
                ])),
            ),
        ]);
        object([
            ("@timestamp", Some(iso(record.start.unwrap_or(self.read_at)).into())),
            ("ecs", Some(json!({ "version": ECS }))),
            ("message", Some(self.message().into())),
            ("event", Some(event)),
            ("source", Some(end(&record.source))),
            ("destination", Some(end(&record.destination))),
            (
                "network",
                Some(object([
                    ("transport", text(record.transport.as_ref())),
                    ("protocol", text(record.application.as_ref())),
                    ("type", kind.map(|ip| if ip.is_ipv4() { "ipv4" } else { "ipv6" }.into())),
                    ("bytes", sum([record.source.bytes, record.destination.bytes]).map(Json::from)),
                    ("packets", sum([record.source.packets, record.destination.packets]).map(Json::from)),
                    ("community_id", text(record.community_id.as_ref())),
                ])),
            ),
            ("related", (!addresses.is_empty()).then(|| json!({ "ip": addresses }))),
            (
                "rule",
                Some(json!({
                    "name": format!("nids-mixer {}", model.name),
                    "category": "machine learning",
                    "ruleset": "machine learning",
                    "version": model.version,
                })),
            ),
            ("log", Some(json!({ "file": { "path": self.file } }))),
            ("nids_mixer", Some(own)),
        ])
    }

    /// A Detection Finding of OCSF.
    pub(super) fn ocsf(&self) -> Json {
        let Alert { record, said, model, .. } = self;
        let millis = |seconds: f64| Json::from((seconds * 1e3).round() as i64);
        let end = |end: &End| object([("ip", text(end.ip)), ("port", end.port.map(Json::from))]);
        let evidence = object([
            ("src_endpoint", Some(end(&record.source))),
            ("dst_endpoint", Some(end(&record.destination))),
            (
                "connection_info",
                Some(object([
                    ("direction_id", Some(0.into())),
                    ("protocol_name", text(record.transport.as_ref())),
                    ("community_uid", text(record.community_id.as_ref())),
                ])),
            ),
        ]);
        object([
            ("activity_id", Some(1.into())),
            ("activity_name", Some("Create".into())),
            ("category_uid", Some(2.into())),
            ("category_name", Some("Findings".into())),
            ("class_uid", Some(2004.into())),
            ("class_name", Some("Detection Finding".into())),
            ("type_uid", Some(200_401.into())),
            ("time", Some(millis(record.start.unwrap_or(self.read_at)))),
            ("severity_id", Some(0.into())),
            ("severity", Some("Unknown".into())),
            ("status_id", Some(1.into())),
            ("is_alert", Some(true.into())),
            ("message", Some(self.message().into())),
            ("confidence_score", Some((self.risk().round() as i64).into())),
            ("risk_score", Some((self.risk().round() as i64).into())),
            (
                "finding_info",
                Some(json!({
                    "uid": self.id,
                    "title": format!("nids-mixer {}: {}", model.name, said.verdict),
                    "created_time": millis(self.read_at),
                    "analytic": {
                        "name": format!("nids-mixer {}", model.name),
                        "type": "Learning (ML/DL)",
                        "type_id": 4,
                        "version": model.version,
                    },
                })),
            ),
            (
                "metadata",
                Some(object([
                    ("version", Some(OCSF.into())),
                    ("product", Some(json!({ "name": "nids-mixer", "vendor_name": "nids-mixer" }))),
                    ("original_time", text(record.start.map(iso))),
                    ("log_name", Some(self.file.as_str().into())),
                ])),
            ),
            ("evidences", Some(json!([evidence]))),
            (
                "unmapped",
                Some(object([
                    ("nids_mixer.probability", said.probability.map(single)),
                    ("nids_mixer.score", said.score.map(single)),
                    ("nids_mixer.p_value", said.p_value.map(Json::from)),
                    ("nids_mixer.threshold", Some(model.threshold.into())),
                    ("nids_mixer.category", text(said.category.as_ref())),
                    ("nids_mixer.surprising", text(said.surprising.as_ref())),
                    ("nids_mixer.reasons", (!said.reasons.is_empty()).then(|| json!(said.reasons))),
                    ("nids_mixer.record.id", text(record.uid.as_ref())),
                    ("nids_mixer.record.offset", Some(self.offset.into())),
                    ("nids_mixer.time_is_that_of_reading", Some(record.start.is_none().into())),
                ])),
            ),
        ])
    }
}
