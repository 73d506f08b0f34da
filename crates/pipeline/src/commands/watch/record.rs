//! What a line says beside its features: who spoke with whom, when, by what protocol. Names are those of Zeek, Suricata, nfdump, nProbe,
//! goflow2, Argus, UNSW-NB15 and CICFlowMeter.

use std::collections::HashMap;
use std::net::IpAddr;

use chrono::{DateTime, NaiveDateTime};
use nids_flows::{Schema, Written, zeek_unescaped};
use serde_json::Value as Json;

use super::community::{ICMP, ICMP6, SCTP, TCP, UDP, community_id};

/// Levels of objects in a line of JSON; what lies deeper says nothing that is asked for.
const MAX_DEPTH: usize = 8;

const SOURCE_IP: &[&str] = &[
    "id.orig_h",
    "src_ip",
    "srcip",
    "ipv4_src_addr",
    "ipv6_src_addr",
    "sa",
    "srcaddr",
    "src4_addr",
    "src6_addr",
    "src ip",
    "source ip",
    "src_addr",
    "saddr",
];
const SOURCE_PORT: &[&str] = &["id.orig_p", "src_port", "sport", "l4_src_port", "sp", "srcport", "src port", "source port"];
const DESTINATION_IP: &[&str] = &[
    "id.resp_h",
    "dest_ip",
    "dst_ip",
    "dstip",
    "ipv4_dst_addr",
    "ipv6_dst_addr",
    "da",
    "dstaddr",
    "dst4_addr",
    "dst6_addr",
    "dst ip",
    "destination ip",
    "dst_addr",
    "daddr",
];
const DESTINATION_PORT: &[&str] =
    &["id.resp_p", "dest_port", "dst_port", "dsport", "dport", "l4_dst_port", "dp", "dstport", "dst port", "destination port"];
const PROTOCOL: &[&str] = &["proto", "protocol", "pr"];
const APPLICATION: &[&str] = &["service", "app_proto"];
const UID: &[&str] = &["uid", "flow_id", "flow id", "id"];
const COMMUNITY: &[&str] = &["community_id"];
const START: &[&str] = &[
    "ts",
    "flow.start",
    "timestamp",
    "firstseen",
    "first",
    "t_first",
    "stime",
    "starttime",
    "time_flow_start_ns",
    "flow_start_milliseconds",
    "@timestamp",
];
const END: &[&str] =
    &["flow.end", "lastseen", "last", "t_last", "te", "ltime", "lasttime", "time_flow_end_ns", "flow_end_milliseconds"];
const DURATION: &[&str] = &["duration", "td", "dur"];
const SOURCE_BYTES: &[&str] =
    &["orig_ip_bytes", "orig_bytes", "flow.bytes_toserver", "in_bytes", "sbytes", "ibyt", "bytes", "srcbytes", "totlen fwd pkts"];
const DESTINATION_BYTES: &[&str] =
    &["resp_ip_bytes", "resp_bytes", "flow.bytes_toclient", "out_bytes", "dbytes", "obyt", "totlen bwd pkts"];
const SOURCE_PACKETS: &[&str] = &["orig_pkts", "flow.pkts_toserver", "in_pkts", "in_packets", "spkts", "ipkt", "packets"];
const DESTINATION_PACKETS: &[&str] = &["resp_pkts", "flow.pkts_toclient", "out_pkts", "out_packets", "dpkts", "opkt"];

/// One side of a flow.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct End {
    pub(super) ip: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) bytes: Option<u64>,
    pub(super) packets: Option<u64>,
}

/// What a line says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Record {
    pub(super) uid: Option<String>,
    /// Seconds since 1970.
    pub(super) start: Option<f64>,
    pub(super) end: Option<f64>,
    /// In seconds.
    pub(super) duration: Option<f64>,
    pub(super) source: End,
    pub(super) destination: End,
    /// The name of the protocol above IP, in lower case.
    pub(super) transport: Option<String>,
    pub(super) application: Option<String>,
    pub(super) community_id: Option<String>,
}

/// The names of the columns of a header.
pub(super) struct Names {
    written: Written,
    separator: Vec<u8>,
    columns: Vec<String>,
}

impl Names {
    /// Those of a batch's header.
    pub(super) fn of(written: Written, header: &[u8], schema: &Schema) -> Self {
        let mut names = Names { written, separator: b"\t".to_vec(), columns: Vec::new() };
        match written {
            Written::Json => {}
            Written::Zeek => {
                for line in header.split(|&byte| byte == b'\n') {
                    if let Some(separator) = line.strip_prefix(b"#separator ") {
                        names.separator = zeek_unescaped(separator.trim_ascii()).into_owned();
                    } else if let Some(fields) = line.strip_prefix(b"#fields") {
                        names.columns = split(fields, &names.separator).skip(1).map(name).collect();
                    }
                }
            }
            Written::Csv { delimiter, has_header, .. } => {
                let header = header.strip_suffix(b"\n").unwrap_or(header);
                let last = header.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
                names.columns = if has_header {
                    cells(last, delimiter).iter().map(|cell| name(cell.as_bytes())).collect()
                } else {
                    schema.columns().iter().map(|column| column.name.to_lowercase()).collect()
                };
            }
        }
        names
    }

    /// What a line says.
    pub(super) fn record(&self, line: &[u8]) -> Record {
        let mut fields: HashMap<String, String> = HashMap::new();
        match self.written {
            Written::Json => {
                if let Ok(object) = serde_json::from_slice::<Json>(line) {
                    flatten(&object, &mut String::new(), 0, &mut fields);
                }
            }
            Written::Zeek => {
                let found = split(line, &self.separator).map(|cell| String::from_utf8_lossy(&zeek_unescaped(cell)).into_owned());
                fields.extend(self.columns.iter().cloned().zip(found));
            }
            Written::Csv { delimiter, .. } => fields.extend(self.columns.iter().cloned().zip(cells(line, delimiter))),
        }
        of(&fields)
    }
}

fn of(fields: &HashMap<String, String>) -> Record {
    let get = |names: &[&str]| {
        let cells = names.iter().filter_map(|name| fields.get(*name)).map(|cell| cell.trim());
        cells.into_iter().find(|cell| !matches!(*cell, "" | "-" | "(empty)"))
    };
    let number = |names: &[&str]| get(names).and_then(|cell| cell.parse::<f64>().ok()).filter(|number| number.is_finite());
    let count = |names: &[&str]| number(names).filter(|&n| (0.0..9e15).contains(&n)).map(|n| n as u64);
    let port = |names: &[&str]| count(names).and_then(|n| u16::try_from(n).ok());
    let ip = |names: &[&str]| {
        let found: Vec<IpAddr> = names.iter().filter_map(|name| fields.get(*name)?.trim().parse().ok()).collect();
        // a column for each version of IP: that of the other one is zero
        found.iter().find(|ip| !ip.is_unspecified()).or(found.first()).copied()
    };
    let end = |address, at, bytes, packets| End { ip: ip(address), port: port(at), bytes: count(bytes), packets: count(packets) };
    let source = end(SOURCE_IP, SOURCE_PORT, SOURCE_BYTES, SOURCE_PACKETS);
    let destination = end(DESTINATION_IP, DESTINATION_PORT, DESTINATION_BYTES, DESTINATION_PACKETS);
    let is_v6 = source.ip.is_some_and(|ip| ip.is_ipv6());
    let protocol = get(PROTOCOL).map(str::to_lowercase);
    let (transport, protocol) = protocol.as_deref().map_or((None, None), |name| of_protocol(name, is_v6));
    let message = port(&["icmp_type"]).zip(port(&["icmp_code"])).filter(|_| matches!(protocol, Some(ICMP | ICMP6)));
    let ports = message.or(source.port.zip(destination.port));
    let computed = || community_id(source.ip?, destination.ip?, protocol?, ports);
    Record {
        uid: get(UID).map(str::to_owned),
        start: get(START).and_then(moment),
        end: get(END).and_then(moment),
        duration: number(DURATION).filter(|&seconds| seconds >= 0.0),
        application: get(APPLICATION).filter(|name| *name != "failed").map(str::to_lowercase),
        community_id: get(COMMUNITY).map(str::to_owned).or_else(computed),
        source,
        destination,
        transport,
    }
}

/// Name and number of a protocol.
fn of_protocol(found: &str, is_v6: bool) -> (Option<String>, Option<u8>) {
    const KNOWN: [(&str, u8); 8] =
        [("icmp", ICMP), ("tcp", TCP), ("udp", UDP), ("ipv6-icmp", ICMP6), ("sctp", SCTP), ("gre", 47), ("esp", 50), ("igmp", 2)];
    let number = found.parse::<f64>().ok().filter(|n| n.fract() == 0.0 && (0.0..256.0).contains(n)).map(|n| n as u8);
    if let Some(number) = number {
        let known = KNOWN.iter().find(|(_, own)| *own == number);
        return (Some(known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())), Some(number));
    }
    let found = match found {
        "icmp6" | "icmpv6" | "icmp-ipv6" => "ipv6-icmp",
        "icmp" if is_v6 => "ipv6-icmp",
        other => other,
    };
    let number = KNOWN.iter().find(|(name, _)| *name == found).map(|(_, number)| *number);
    (Some(found.to_owned()), number)
}

/// Seconds since 1970: of seconds, milliseconds, microseconds or nanoseconds, or of a date and a time, which is UTC where it does not say
/// another zone.
pub(super) fn moment(text: &str) -> Option<f64> {
    if let Ok(number) = text.parse::<f64>() {
        // a second of 2001 or later in each unit, before the year 5138
        let unit = match number.abs() {
            n if n < 1e9 => return None,
            n if n < 1e11 => 1.0,
            n if n < 1e14 => 1e3,
            n if n < 1e17 => 1e6,
            n if n < 1e20 => 1e9,
            _ => return None,
        };
        return Some(number / unit);
    }
    let seconds = |micros: i64| micros as f64 / 1e6;
    for format in ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z"] {
        if let Ok(found) = DateTime::parse_from_str(text, format) {
            return Some(seconds(found.timestamp_micros()));
        }
    }
    for format in
        ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y/%m/%d %H:%M:%S%.f", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %I:%M:%S %p"]
    {
        if let Ok(found) = NaiveDateTime::parse_from_str(text, format) {
            return Some(seconds(found.and_utc().timestamp_micros()));
        }
    }
    None
}

/// A moment as Elastic writes it.
pub(super) fn iso(seconds: f64) -> String {
    let micros = (seconds * 1e6).round();
    let found = if micros.abs() < 8e18 { DateTime::from_timestamp_micros(micros as i64) } else { None };
    found.unwrap_or_default().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn name(cell: &[u8]) -> String {
    String::from_utf8_lossy(cell.trim_ascii()).trim().to_lowercase()
}

fn cells(line: &[u8], delimiter: u8) -> Vec<String> {
    let mut lines = csv::ReaderBuilder::new().has_headers(false).delimiter(delimiter).flexible(true).from_reader(line);
    let mut record = csv::ByteRecord::new();
    let _ = lines.read_byte_record(&mut record); // bytes in memory are always read
    record.iter().map(|cell| String::from_utf8_lossy(cell).trim().to_owned()).collect()
}

/// The parts between separators.
fn split<'l>(line: &'l [u8], separator: &'l [u8]) -> impl Iterator<Item = &'l [u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let end = if separator.is_empty() { None } else { memchr::memmem::find(line, separator) };
        rest = end.map(|end| &line[end + separator.len()..]);
        Some(&line[..end.unwrap_or(line.len())])
    })
}

/// The texts and numbers of an object, by names with dots.
fn flatten(value: &Json, path: &mut String, depth: usize, fields: &mut HashMap<String, String>) {
    let leaf = match value {
        Json::Object(object) if depth < MAX_DEPTH => {
            let len = path.len();
            for (key, value) in object {
                if len > 0 {
                    path.push('.');
                }
                path.push_str(&key.to_lowercase());
                flatten(value, path, depth + 1, fields);
                path.truncate(len);
            }
            return;
        }
        Json::String(text) => text.clone(),
        Json::Number(number) => number.to_string(),
        Json::Bool(value) => value.to_string(),
        _ => return,
    };
    fields.insert(path.clone(), leaf);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_the_ways_of_the_sensors() {
        let at = 1_714_979_289.524;
        for text in [
            "1714979289.524000",
            "1714979289524",
            "1714979289524000",
            "1714979289524000000",
            "2024-05-06T07:08:09.524000+0000",
            "2024-05-06T09:08:09.524+02:00",
            "2024-05-06T07:08:09.524Z",
            "2024-05-06 07:08:09.524",
            "2024/05/06 07:08:09.524000",
        ] {
            assert!((moment(text).unwrap() - at).abs() < 1e-3, "{text}: {:?}", moment(text));
        }
        assert_eq!(moment("06/05/2024 07:08:09"), Some(1_714_979_289.0));
        for text in ["", "7", "today", "nan", "1e300"] {
            assert_eq!(moment(text), None, "{text}");
        }
        assert_eq!(iso(at), "2024-05-06T07:08:09.524000Z");
        assert_eq!((iso(f64::MAX), iso(0.0)), (iso(0.0), "1970-01-01T00:00:00.000000Z".to_owned()));
    }

    fn record(written: Written, header: &str, line: &str) -> Record {
        Names::of(written, header.as_bytes(), &Schema::builtin("zeek-conn").unwrap()).record(line.as_bytes())
    }

    #[test]
    fn a_line_of_each_sensor_says_who_spoke_with_whom() {
        let csv = |delimiter| Written::Csv { delimiter, n_preamble: 0, has_header: true };
        let zeek = "#separator \\x09\n#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\torig_bytes\n";
        let lines = [
            (Written::Zeek, zeek, "1714979289.415\tCx1\t128.232.110.120\t34855\t66.35.250.204\t80\ttcp\thttp\t-"),
            (
                Written::Json,
                "",
                r#"{"ts":1714979289.415,"uid":"Cx1","id.orig_h":"128.232.110.120","id.orig_p":34855,"id":{"resp_h":"66.35.250.204","resp_p":80},"proto":"tcp","service":"http"}"#,
            ),
            (
                csv(b','),
                "timestamp,uid,Src IP,Src Port,Dst IP,Dst Port,Protocol,service\n",
                "2024-05-06 07:08:09.415,Cx1,128.232.110.120,34855,66.35.250.204,80,6,HTTP",
            ),
            (
                csv(b';'),
                "first;\"id\";sa;sp;da;dp;pr;app_proto\n",
                "1714979289415;Cx1;128.232.110.120;34855;\"66.35.250.204\";80.0;TCP;http",
            ),
        ];
        for (written, header, line) in lines {
            let found = record(written, header, line);
            let ends = [&found.source, &found.destination].map(|end| (end.ip.unwrap().to_string(), end.port.unwrap()));
            assert_eq!(ends, [("128.232.110.120".to_owned(), 34855), ("66.35.250.204".to_owned(), 80)], "{line}");
            assert_eq!(found.uid.as_deref(), Some("Cx1"), "{line}");
            assert!((found.start.unwrap() - 1_714_979_289.415).abs() < 1e-3, "{line}");
            assert_eq!([found.transport.as_deref(), found.application.as_deref()], [Some("tcp"), Some("http")], "{line}");
            assert_eq!(found.community_id.as_deref(), Some("1:LQU9qZlK+B5F3KDmev6m5PMibrg="), "{line}");
            assert_eq!(found.source.bytes, None);
        }
    }

    #[test]
    fn what_a_line_does_not_say_or_says_wrongly_is_left_out() {
        let csv = Written::Csv { delimiter: b',', n_preamble: 0, has_header: true };
        let found = record(csv, "sa,sp,da,dp,pr,ibyt\n", "somewhere,99999,10.0.0.1,-1,999,1e40");
        assert_eq!((found.source, found.transport), (End::default(), Some("999".to_owned())));
        assert_eq!((found.destination.port, found.community_id, found.start), (None, None, None));
        assert_eq!(record(Written::Json, "", "[1, 2"), Record::default());
        assert_eq!(record(Written::Zeek, "#separator \n#fields", "a\tb"), Record::default());
    }
}
