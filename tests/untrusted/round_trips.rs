//! What is written is read as it was, whatever it was.

use std::path::Path;

use ndarray::{Array, Array2, Ix2};
use nids_config::Config;
use nids_flows::{FeatureColumn, Normalisation, ReadOptions, Schema, Tokeniser, TokeniserConfig, synthetic, write_csv};
use nids_nn::{Linear, ParamTable, weights};
use nids_store::artefacts::write_atomic;
use nids_store::npy;
use proptest::prelude::*;

use crate::check::SCHEMA;

/// Any finite number of 32 bits.
fn finite() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |value| value.is_finite())
}

/// Settings of all kinds, each in its range.
fn settings() -> impl Strategy<Value = Vec<String>> {
    let choice = |key: &'static str, values: &'static [&'static str]| {
        prop::option::of(prop::sample::select(values)).prop_map(move |value| value.map(|value| format!("{key}={value}")))
    };
    let number = |key: &'static str, values: std::ops::Range<f64>| {
        prop::option::of(values).prop_map(move |value| value.map(|value| format!("{key}={value:?}")))
    };
    let whole = |key: &'static str, values: std::ops::RangeInclusive<u64>| {
        prop::option::of(values).prop_map(move |value| value.map(|value| format!("{key}={value}")))
    };
    let all = (
        whole("seed", 0..=u64::MAX),
        number("pretrain.lr", 1e-9..1e-1),
        number("finetune.lr", 1e-9..1e-1),
        whole("model.depth", 1..=8),
        choice("pretrain.objective", &["mae", "vae"]),
        choice("finetune.optimiser", &["adam", "adamw"]),
        choice("finetune.schedule", &["constant", "cosine", "one_cycle"]),
        choice("monitor", &["null"]),
        prop::option::of("[a-z \"'#:{}é/-]{1,12}").prop_map(|text| text.map(|text| format!("data.train={text}"))),
    );
    all.prop_map(|(a, b, c, d, e, f, g, h, i)| [a, b, c, d, e, f, g, h, i].into_iter().flatten().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn arrays(rows in 0_usize..6, cols in 0_usize..6, bits in any::<u32>()) {
        let array: Array<f32, Ix2> = Array2::from_shape_fn((rows, cols), |(i, j)| {
            f32::from_bits(bits.wrapping_mul(i as u32 * 31 + j as u32 + 1))
        });
        for array in [array.clone(), array.reversed_axes()] {
            let mut bytes = Vec::new();
            npy::write(&array, &mut bytes).unwrap();
            let read = npy::from_bytes::<f32, Ix2>(&bytes, Path::new("x.npy")).unwrap();
            prop_assert_eq!(read.map(|value| value.to_bits()), array.map(|value| value.to_bits()));
        }
    }

    #[test]
    fn parameters(inputs in 1_usize..7, outputs in 1_usize..7, values in prop::collection::vec(finite(), 56), text in ".{0,20}") {
        let mut table = ParamTable::default();
        Linear::new(&mut table.root().at("map"), inputs, outputs);
        let mut params = table.zeros::<f32>();
        params.iter_mut().zip(&values).for_each(|(param, value)| *param = *value);
        let bytes = weights::to_bytes(&table, &params, &text);
        let mut read = table.zeros::<f32>();
        weights::load(&table, &[""], &bytes, &mut read).unwrap();
        let bits = |of: &[f32]| of.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
        for spec in table.specs() {
            prop_assert_eq!(bits(spec.param.of(&read)), bits(spec.param.of(&params)));
        }
        prop_assert_eq!(weights::metadata(&bytes).unwrap(), Some(text));
    }

    #[test]
    fn tokenisers(seed in any::<u64>(), n in 1_usize..60, bins in 0_usize..9, kind in 0..3, min_count in 0_usize..4, one_hot in any::<bool>()) {
        let normalisation = [Normalisation::Features, Normalisation::Standard, Normalisation::GlobalMax][kind as usize];
        let config = TokeniserConfig { normalisation, bins, min_count, one_hot, ..TokeniserConfig::default() };
        let rows: Vec<u32> = (0..n as u32).collect();
        let tokeniser = Tokeniser::fit(&synthetic(n, seed), &rows, &config).unwrap();
        prop_assert_eq!(Tokeniser::from_json(&tokeniser.to_json()).unwrap(), tokeniser);
    }

    #[test]
    fn configs(settings in settings()) {
        if let Ok(config) = Config::parse("name: a", "a.yaml", &settings) {
            prop_assert_eq!(&Config::parse(&config.to_yaml(), "again.yaml", &[]).unwrap(), &config);
        }
    }

    #[test]
    fn flows(rows in prop::collection::vec((finite(), any::<i32>(), "[ -~é\n\"]{0,8}", "\\PC{0,6}", any::<bool>()), 1..8)) {
        let mut text = csv::Writer::from_writer(Vec::new());
        text.write_record(["id", "rate", "size", "proto", "kind", "label"]).unwrap();
        for (i, (rate, size, proto, kind, label)) in rows.iter().enumerate() {
            let cells = [i.to_string(), (rate / 1e9).to_string(), size.to_string(), proto.clone(), kind.clone(), u8::from(*label).to_string()];
            text.write_record(cells).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let toy = Schema::parse("toy", SCHEMA).unwrap();
        let read = |text: &[u8]| {
            write_atomic(&path, |out| out.write_all(text)).unwrap();
            nids_flows::read(&path, &toy, &ReadOptions::labelled()).unwrap()
        };
        let flows = read(&text.into_inner().unwrap());
        prop_assert_eq!(flows.len(), rows.len());
        if let FeatureColumn::Categorical(texts) = &flows.features()[2] {
            let kept = |found: &str, spelt: &str| found == spelt || found.len() <= spelt.len().max(1) || matches!(found, "true" | "false");
            prop_assert!(texts.iter().zip(&rows).all(|(found, row)| kept(found, row.2.trim_ascii())));
        }
        let mut written = Vec::new();
        write_csv(&flows, &mut written).unwrap();
        prop_assert_eq!(read(&written).fingerprint(), flows.fingerprint());
    }
}
