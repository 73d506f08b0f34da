//! What the names of columns say.

/// Letters and digits of a name, in lower case.
fn compact(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The words of a name, in lower case: `Source IP`, `srcIp` and `src_ip` have two. Digits end a word.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        if !c.is_alphabetic() || c.is_uppercase() && was_lower {
            words.push(String::new());
        }
        if c.is_alphabetic() {
            words.last_mut().expect("it has one").extend(c.to_lowercase());
        }
        was_lower = c.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether the name, or its part after the last dot, is one of `names`.
fn is_one_of(name: &str, names: &[&str]) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    [name, last].iter().any(|name| names.contains(&compact(name).as_str()))
}

fn has_word(name: &str, wanted: &[&str]) -> bool {
    words(name).iter().any(|word| wanted.contains(&word.as_str()))
}

/// Names of columns that say whether a row is an attack, the likeliest first.
const LABELS: &[&str] = &[
    "label",
    "labels",
    "islabel",
    "binarylabel",
    "labelbinary",
    "class",
    "isattack",
    "attack",
    "attackflag",
    "ismalicious",
    "malicious",
    "isanomaly",
    "isbad",
    "isintrusion",
    "isthreat",
    "anomaly",
    "target",
    "y",
    "truth",
    "groundtruth",
    "outcome",
    "verdict",
    "threat",
    "tag",
    "result",
];

/// Names of columns that say what kind of attack it is, the likeliest first.
const CATEGORIES: &[&str] = &[
    "attackcat",
    "attackcategory",
    "attacktype",
    "attackname",
    "attackclass",
    "attackfamily",
    "attack",
    "detailedlabel",
    "labeldetail",
    "detaillabel",
    "labelname",
    "labeltext",
    "classname",
    "category",
    "family",
    "threattype",
    "subcategory",
    "traffictype",
    "class",
    "label",
    "type",
    "malware",
    "kind",
];

/// Names of columns that name the row, the best first.
const IDS: &[&str] = &[
    "uid",
    "flowid",
    "uuid",
    "guid",
    "id",
    "connectionid",
    "connid",
    "sessionid",
    "recordid",
    "eventid",
    "rowid",
    "communityid",
    "index",
    "idx",
    "unnamed0",
    "rownumber",
    "rowno",
    "sequencenum",
    "sequencenumber",
    "seqnum",
    "no",
    "nr",
];

/// How good a name is among `LABELS`: 0 is the best.
pub(super) fn label_rank(name: &str) -> Option<usize> {
    rank(name, LABELS)
}

pub(super) fn category_rank(name: &str) -> Option<usize> {
    rank(name, CATEGORIES)
}

pub(super) fn id_rank(name: &str) -> Option<usize> {
    rank(name, IDS)
}

fn rank(name: &str, names: &[&str]) -> Option<usize> {
    let name = compact(name);
    names.iter().position(|known| *known == name)
}

/// Whether a category's name may as well be that of a feature.
pub(super) fn is_vague_category(name: &str) -> bool {
    ["type", "class", "label", "category", "family", "traffictype", "kind"].contains(&compact(name).as_str())
}

/// The port of the side that opens the connection.
pub(super) fn is_source_port(name: &str) -> bool {
    let names = ["sport", "sp", "spt", "srcport", "sourceport", "origp", "idorigp", "origport", "clientport", "srcprt", "sprt"];
    let ends_so = words(name).last().is_some_and(|word| word == "port");
    is_one_of(name, &names) || ends_so && has_word(name, &["src", "source", "orig", "originator", "client"])
}

/// The address or the name of a host.
pub(super) fn is_host(name: &str) -> bool {
    let names = [
        "sa",
        "da",
        "saddr",
        "daddr",
        "srcaddr",
        "dstaddr",
        "srcip",
        "dstip",
        "srcipaddr",
        "dstipaddr",
        "sip",
        "dip",
        "sourceip",
        "destinationip",
        "destip",
        "sourceaddress",
        "destinationaddress",
        "origh",
        "resph",
        "idorigh",
        "idresph",
        "hostname",
        "srchost",
        "dsthost",
        "mac",
        "smac",
        "dmac",
        "srcmac",
        "dstmac",
        "server",
        "client",
        "sourcename",
        "destinationname",
    ];
    is_one_of(name, &names)
}

/// A name that a host's address or name may have, and a number as well: `dst_host_count`.
pub(super) fn may_be_host(name: &str) -> bool {
    has_word(
        name,
        &[
            "ip", "ipv", "ipaddr", "addr", "address", "mac", "host", "hostname", "domain", "fqdn", "user", "username", "url",
            "uri",
        ],
    )
}

/// The moment when something began, ended or was seen.
pub(super) fn is_time(name: &str) -> bool {
    let names = [
        "ts",
        "te",
        "time",
        "timestamp",
        "datetime",
        "date",
        "stime",
        "ltime",
        "starttime",
        "endtime",
        "start",
        "end",
        "first",
        "last",
        "firstseen",
        "lastseen",
        "tfirst",
        "tlast",
        "received",
        "flowstart",
        "flowend",
        "eventtime",
        "unixtime",
        "epoch",
    ];
    is_one_of(name, &names) || has_word(name, &["timestamp", "datetime", "epoch"])
}

/// A code whose size means nothing, although it is a number.
pub(super) fn is_code(name: &str) -> bool {
    let names = [
        "proto",
        "protocol",
        "ipproto",
        "ipprotocol",
        "protocolid",
        "protocolidentifier",
        "pr",
        "l4proto",
        "l7proto",
        "l7protocol",
        "tcpflags",
        "clienttcpflags",
        "servertcpflags",
        "flags",
        "flg",
        "tos",
        "stos",
        "dtos",
        "iptos",
        "srctos",
        "dsttos",
        "dscp",
        "service",
        "state",
        "connstate",
        "icmptype",
        "icmpcode",
        "type",
        "version",
        "ipversion",
        "vlan",
        "vlanid",
        "appid",
        "applicationid",
    ];
    is_one_of(name, &names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_however_they_are_written() {
        for name in ["src_port", "Source Port", "srcPort", "L4_SRC_PORT", "id.orig_p", "sport", "Sport", "client.port"] {
            assert!(is_source_port(name), "{name}");
        }
        for name in ["dst_port", "dport", "id.resp_p", "dst_host_same_src_port_rate", "ports", "ct_dst_sport_ltm"] {
            assert!(!is_source_port(name), "{name}");
        }
        for name in ["srcip", "Source IP", "id.orig_h", "saddr", "Dst IP"] {
            assert!(is_host(name), "{name}");
        }
        assert!(
            is_time("StartTime") && is_time("flow.start") && is_time("ts") && !is_time("duration") && !is_time("flow_iat_mean")
        );
        assert_eq!(label_rank("Label"), Some(0));
        assert!(category_rank("detailed-label").is_some() && id_rank("Unnamed: 0").is_some());
    }
}
