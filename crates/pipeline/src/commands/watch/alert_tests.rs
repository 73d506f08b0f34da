use serde_json::Value as Json;

use super::alert::{Alert, AlertFormat, Model, Said, id_of};
use super::record::Names;
use nids_flows::{Schema, Written};

/// Fields of the Elastic Common Schema 8.17 that alerts may have, and their types.
/// <https://www.elastic.co/guide/en/ecs/8.17/ecs-field-reference.html>
const ECS: &[(&str, &str)] = &[
    ("@timestamp", "date"),
    ("message", "text"),
    ("ecs.version", "keyword"),
    ("event.kind", "keyword"),
    ("event.category", "keywords"),
    ("event.type", "keywords"),
    ("event.module", "keyword"),
    ("event.dataset", "keyword"),
    ("event.id", "keyword"),
    ("event.risk_score", "float"),
    ("event.created", "date"),
    ("event.start", "date"),
    ("event.end", "date"),
    ("event.duration", "long"),
    ("source.address", "keyword"),
    ("source.ip", "ip"),
    ("source.port", "long"),
    ("source.bytes", "long"),
    ("source.packets", "long"),
    ("destination.address", "keyword"),
    ("destination.ip", "ip"),
    ("destination.port", "long"),
    ("destination.bytes", "long"),
    ("destination.packets", "long"),
    ("network.transport", "keyword"),
    ("network.protocol", "keyword"),
    ("network.type", "keyword"),
    ("network.bytes", "long"),
    ("network.packets", "long"),
    ("network.community_id", "keyword"),
    ("related.ip", "ips"),
    ("rule.name", "keyword"),
    ("rule.category", "keyword"),
    ("rule.ruleset", "keyword"),
    ("rule.version", "keyword"),
    ("log.file.path", "keyword"),
];

const ZEEK: &str = "#separator \\x09\n#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\torig_ip_bytes\tresp_ip_bytes\torig_pkts\tresp_pkts\n";
const LINE: &str = "1714979289.415\tCx1\t128.232.110.120\t34855\t66.35.250.204\t80\ttcp\thttp\t1.5\t100\t23\t4\t5";

fn model() -> Model {
    Model { version: "abc".to_owned(), name: "zeek".to_owned(), threshold: 0.5 }
}

fn alert<'m>(model: &'m Model, line: &str) -> Alert<'m> {
    let names = Names::of(Written::Zeek, ZEEK.as_bytes(), &Schema::builtin("zeek-conn").unwrap());
    Alert {
        id: id_of(line.as_bytes(), 7),
        record: names.record(line.as_bytes()),
        said: Said {
            probability: Some(0.9),
            p_value: Some(0.01),
            verdict: "attack".to_owned(),
            reasons: vec!["because".to_owned()],
            ..Said::default()
        },
        model,
        file: "conn.log".to_owned(),
        offset: 7,
        read_at: 1_714_979_300.0,
    }
}

/// The leaves of an object by their dotted names.
fn leaves(value: &Json, path: &str, found: &mut Vec<(String, Json)>) {
    match value {
        Json::Object(object) => {
            for (key, value) in object {
                leaves(value, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, found);
            }
        }
        leaf => found.push((path.to_owned(), leaf.clone())),
    }
}

#[test]
fn every_field_is_one_of_the_schema_and_of_its_type_or_our_own() {
    let model = model();
    for line in [LINE, "-\tCx2\tfe80::1\t1\tfe80::2\t2\t-\t-\t-\t-\t-\t-\t-"] {
        let mut found = Vec::new();
        leaves(&alert(&model, line).ecs(), "", &mut found);
        for (name, value) in found.iter().filter(|(name, _)| !name.starts_with("nids_mixer.")) {
            let (_, kind) = ECS.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name} is no field of ECS"));
            let is_ip = |value: &Json| value.as_str().is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok());
            let fits = match *kind {
                "date" => value.as_str().is_some_and(|text| chrono::DateTime::parse_from_rfc3339(text).is_ok()),
                "keyword" | "text" => value.as_str().is_some_and(|text| !text.is_empty()),
                "keywords" => value.as_array().is_some_and(|texts| texts.iter().all(Json::is_string)),
                "ip" => is_ip(value),
                "ips" => value.as_array().is_some_and(|ips| ips.iter().all(is_ip)),
                "long" => value.is_u64(),
                _ => value.is_f64(),
            };
            assert!(fits, "{name} is to be {kind}: {value}");
        }
        if line == LINE {
            let missing: Vec<&str> =
                ECS.iter().map(|(name, _)| *name).filter(|name| !found.iter().any(|(known, _)| known == name)).collect();
            assert_eq!(missing, ["event.end"]);
        }
    }
}

#[test]
fn a_line_of_zeek_gives_this_alert() {
    insta::assert_snapshot!(format!("{:#}", alert(&model(), LINE).ecs()), @r#"
    {
      "@timestamp": "2024-05-06T07:08:09.415000Z",
      "destination": {
        "address": "66.35.250.204",
        "bytes": 23,
        "ip": "66.35.250.204",
        "packets": 5,
        "port": 80
      },
      "ecs": {
        "version": "8.17.0"
      },
      "event": {
        "category": [
          "network"
        ],
        "created": "2024-05-06T07:08:20.000000Z",
        "dataset": "nids_mixer.alert",
        "duration": 1500000000,
        "id": "e8eb14fb81402fb99bc23fad3a23f6b8",
        "kind": "alert",
        "module": "nids_mixer",
        "risk_score": 90.0,
        "start": "2024-05-06T07:08:09.415000Z",
        "type": [
          "connection"
        ]
      },
      "log": {
        "file": {
          "path": "conn.log"
        }
      },
      "message": "a machine-learning model says that the flow looks like an attack: probability 0.9, threshold 0.5",
      "network": {
        "bytes": 123,
        "community_id": "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        "packets": 9,
        "protocol": "http",
        "transport": "tcp",
        "type": "ipv4"
      },
      "nids_mixer": {
        "p_value": 0.01,
        "probability": 0.9,
        "reasons": [
          "because"
        ],
        "record": {
          "id": "Cx1",
          "offset": 7,
          "time_is_that_of_reading": false
        },
        "threshold": 0.5,
        "verdict": "attack"
      },
      "related": {
        "ip": [
          "128.232.110.120",
          "66.35.250.204"
        ]
      },
      "rule": {
        "category": "machine learning",
        "name": "nids-mixer zeek",
        "ruleset": "machine learning",
        "version": "abc"
      },
      "source": {
        "address": "128.232.110.120",
        "bytes": 100,
        "ip": "128.232.110.120",
        "packets": 4,
        "port": 34855
      }
    }
    "#);
}

#[test]
fn what_ocsf_requires_is_there() {
    let model = model();
    let found = alert(&model, LINE).ocsf();
    let number = |path: &str| found.pointer(path).and_then(Json::as_i64).unwrap_or_else(|| panic!("{path} in {found:#}"));
    // https://schema.ocsf.io/1.3.0/classes/detection_finding
    assert_eq!(["/class_uid", "/category_uid", "/activity_id", "/type_uid"].map(number), [2004, 2, 1, 200_401]);
    assert_eq!((number("/time"), number("/severity_id")), (1_714_979_289_415, 0));
    let text = |path: &str| found.pointer(path).and_then(Json::as_str).unwrap_or_else(|| panic!("{path} in {found:#}"));
    assert_eq!(text("/finding_info/uid"), id_of(LINE.as_bytes(), 7));
    assert!(text("/finding_info/title").starts_with("nids-mixer"));
    assert_eq!((text("/metadata/version"), text("/metadata/product/vendor_name")), ("1.3.0", "nids-mixer"));
    assert_eq!(number("/finding_info/analytic/type_id"), 4, "a model that has learned, not a rule");
    assert_eq!((text("/evidences/0/src_endpoint/ip"), number("/evidences/0/dst_endpoint/port")), ("128.232.110.120", 80));
    assert_eq!(text("/evidences/0/connection_info/community_uid"), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
    assert_eq!(number("/evidences/0/connection_info/direction_id"), 0);
}

#[test]
fn an_alert_begins_as_its_format_does_and_gives_its_id_back() {
    let model = model();
    let alert = alert(&model, LINE);
    for (format, line) in [(AlertFormat::Ecs, alert.ecs()), (AlertFormat::Ocsf, alert.ocsf())] {
        let line = line.to_string();
        assert!(line.starts_with(format.beginning()), "{line}");
        assert_eq!(format.id_of(line.as_bytes()).as_deref(), Some(alert.id.as_str()));
        assert_eq!(format.id_of(&line.as_bytes()[..line.len() - 3]), None);
    }
    assert_ne!(id_of(LINE.as_bytes(), 7), id_of(LINE.as_bytes(), 8));
    assert_eq!(id_of(LINE.as_bytes(), 7).len(), 32);
}
