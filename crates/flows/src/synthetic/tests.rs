use std::collections::BTreeMap;

use super::*;

fn column<'a>(flows: &'a Flows, name: &str) -> &'a FeatureColumn {
    let idx = flows.schema().features().position(|feature| feature.name == name).unwrap();
    &flows.features()[idx]
}

fn number(flows: &Flows, name: &str, row: usize) -> f64 {
    match column(flows, name) {
        FeatureColumn::Numeric(values) => values[row],
        FeatureColumn::Categorical(_) => panic!("{name} is a text"),
    }
}

#[test]
fn derived_columns_follow_from_packets_bytes_and_duration() {
    let flows = synthetic(3000, 5);
    let FeatureColumn::Categorical(protos) = column(&flows, "proto") else { panic!("proto is a text") };
    for row in 0..flows.len() {
        let get = |name: &str| number(&flows, name, row);
        let near = |name: &str, wanted: f64| {
            let found = get(name);
            assert!((found - wanted).abs() <= 1e-6 * wanted.abs().max(1.0), "row {row}: {name} is {found}, wanted {wanted}");
        };
        let (dur, spkts, dpkts) = (get("dur"), get("spkts"), get("dpkts"));
        assert!(dur > 0.0 && spkts >= 1.0);
        near("rate", (spkts + dpkts - 1.0) / dur);
        near("smean", (get("sbytes") / spkts).round());
        near("dmean", if dpkts > 0.0 { (get("dbytes") / dpkts).round() } else { 0.0 });
        near("sload", 8.0 * get("sbytes") * (spkts - 1.0) / spkts / dur);
        near("tcprtt", get("synack") + get("ackdat"));
        assert!(get("tcprtt") <= dur + 1e-6);
        assert!(get("sinpkt") * (spkts - 1.0) <= 1e3 * dur + 1e-5 * spkts);
        assert!(get("sloss") <= spkts && get("dloss") <= dpkts);
        assert!(get("response_body_len") <= get("dbytes"));
        assert!(get("ct_src_dport_ltm") <= get("ct_src_ltm") && get("ct_dst_sport_ltm") <= get("ct_dst_ltm"));
        if protos.get(row) != "tcp" {
            for name in ["swin", "dwin", "stcpb", "dtcpb", "tcprtt"] {
                near(name, 0.0);
            }
        }
    }
}

#[test]
fn shares_are_those_of_the_real_data() {
    assert_eq!(KINDS.iter().map(|kind| kind.share).sum::<u32>(), 10_000);
    let flows = synthetic(20_000, 1);
    let share = |n: usize| n as f64 / flows.len() as f64;
    let attacks = flows.labels().unwrap().iter().map(|&label| usize::from(label)).sum();
    assert!((share(attacks) - 0.55).abs() < 0.02, "{}", share(attacks));
    let mut categories = BTreeMap::new();
    flows.categories().unwrap().iter().for_each(|text| *categories.entry(text).or_insert(0) += 1);
    assert_eq!(categories.len(), 10);
    let mut rows = BTreeMap::new();
    for row in 0..flows.len() {
        let key: Vec<u64> = ["dur", "sbytes", "sload", "sjit", "ct_srv_src", "ct_dst_ltm", "ct_src_ltm", "ct_srv_dst"]
            .map(|name| number(&flows, name, row).to_bits())
            .to_vec();
        *rows.entry(key).or_insert(0_usize) += 1;
    }
    let repeated = share(flows.len() - rows.len());
    assert!((0.15..0.3).contains(&repeated), "{repeated}");
}

#[test]
fn the_seed_says_it_all() {
    let print = |seed| synthetic(200, seed).fingerprint();
    assert_eq!(print(3), print(3));
    assert_ne!(print(3), print(4));
}

#[test]
fn flows_written_batch_by_batch_are_those_made_at_once() {
    for n in [0, 1, 4095, 4096, 9000] {
        let (mut whole, mut streamed) = (Vec::new(), Vec::new());
        crate::write_csv(&synthetic(n, 7), &mut whole).unwrap();
        write_synthetic(n, 7, &mut streamed).unwrap();
        assert!(streamed == whole, "{n} rows");
    }
}
