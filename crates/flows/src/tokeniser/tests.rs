use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::fit::inverse_normal_cdf;
use super::*;
use crate::{FeatureColumn, split, synthetic};

/// Flows with one numeric column `x` and one categorical column `c`.
fn flows(x: &[f64], c: &[&str]) -> Flows {
    let schema = "{ name: toy, columns: [{ name: x, kind: numeric }, { name: c, kind: categorical }] }";
    let mut flows = Flows::empty(&Arc::new(serde_yaml::from_str(schema).unwrap()), false, false);
    for (row, (&x, c)) in x.iter().zip(c).enumerate() {
        flows.ids.push(row.to_string());
        match &mut flows.features[..] {
            [FeatureColumn::Numeric(values), FeatureColumn::Categorical(texts)] => {
                values.push(x);
                texts.push(c);
            }
            _ => unreachable!(),
        }
    }
    flows
}

fn numeric(x: &[f64]) -> Flows {
    flows(x, &vec!["a"; x.len()])
}

fn all_rows(flows: &Flows) -> Vec<u32> {
    (0..flows.len() as u32).collect()
}

fn fit(flows: &Flows, config: &TokeniserConfig) -> Tokeniser {
    Tokeniser::fit(flows, &all_rows(flows), config).unwrap()
}

fn expanded(tokeniser: &Tokeniser, encoded: &TokenTable, row: usize, token: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; tokeniser.tokens()[token].width];
    encoded.expand(row, token, &mut out);
    out
}

fn only_bins(bins: usize) -> TokeniserConfig {
    TokeniserConfig { quantile: false, log1p: false, bins, ..TokeniserConfig::default() }
}

#[test]
fn few_values_get_a_bin_each() {
    let tokeniser = fit(&numeric(&[0.0, 2.0, 10.0, 2.0]), &only_bins(8));
    // edges -2, 0, 2, 10: the first bin is as wide as the second
    let encoded = tokeniser.tokenise(&numeric(&[0.0, 2.0, 10.0, 4.0, -1.0, -9.0, 99.0])).unwrap();
    let wanted =
        [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.25], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]];
    for (row, wanted) in wanted.iter().enumerate() {
        assert_eq!(expanded(&tokeniser, &encoded, row, 0), wanted, "row {row}");
    }
}

#[test]
fn many_values_share_quantile_bins() {
    let x: Vec<f64> = (0..=100).map(|i| f64::from(i * i)).collect();
    let tokeniser = fit(&numeric(&x), &only_bins(4));
    // edges: the squares of 0, 25, 50, 75, 100
    let encoded = tokeniser.tokenise(&numeric(&[0.0, 625.0, 1562.5, 1e4, 7812.5])).unwrap();
    let wanted = [[0.0; 4], [1.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.0, 0.0], [1.0; 4], [1.0, 1.0, 1.0, 0.5]];
    for (row, wanted) in wanted.iter().enumerate() {
        assert_eq!(expanded(&tokeniser, &encoded, row, 0), wanted, "row {row}");
    }
}

/// The targets of numbers, in one column, as classes of what was learnt from `training`.
fn target_classes(training: &[f64], bins: usize, x: &[f64]) -> (usize, Vec<f32>) {
    let (training, config) = (numeric(training), TokeniserConfig { bins, ..TokeniserConfig::default() });
    let tokeniser = fit(&training, &config).with_target_bins(&[(&training, &all_rows(&training))]).unwrap();
    assert_eq!(Tokeniser::from_json(&tokeniser.to_json()).unwrap(), tokeniser);
    let encoded = tokeniser.tokenise_with_targets(&numeric(x)).unwrap();
    assert_eq!(tokeniser.target_classes(1), None, "a category is a class already");
    (tokeniser.target_classes(0).unwrap(), (0..x.len()).map(|row| encoded.target(row, 0)).collect())
}

#[test]
fn few_values_are_a_target_each_and_others_are_told_from_them() {
    let x = [-1.0, 0.0, 2.0, 10.0, 4.0, 99.0, f64::INFINITY, f64::NEG_INFINITY];
    let (n_classes, found) = target_classes(&[0.0, 2.0, 10.0, 2.0], 8, &x);
    // below, 0, 2, 10, between, above
    assert_eq!((n_classes, found), (6, vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 0.0]));
    let (n_classes, found) = target_classes(&[f64::NAN, 3.0, 3.0], 1, &[f64::NAN, 3.0, 2.9, 3.1]);
    assert!(n_classes == 4 && found[0].is_nan() && found[1..] == [1.0, 0.0, 3.0], "{n_classes}: {found:?}");
}

#[test]
fn a_common_value_is_a_target_and_the_others_share_the_bins_that_are_left() {
    // 0 is half of the rows, 7 a quarter; 25 others, from 1 on, have two bins of 4
    let others = (1..=25).map(|i| f64::from(i) / 8.0);
    let training: Vec<f64> = std::iter::repeat_n(0.0, 50).chain(std::iter::repeat_n(7.0, 25)).chain(others).collect();
    let x = [-0.1, 0.0, 7.0, 0.01, 0.125, 1.5, 1.624, 1.625, 3.0, 6.9, 7.1];
    let (n_classes, found) = target_classes(&training, 4, &x);
    // below, 0, 7, up to 13 / 8, from there on, above
    assert_eq!((n_classes, found), (6, vec![0.0, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0, 5.0]));
}

#[test]
fn every_class_but_those_outside_has_its_share_of_the_training_rows() {
    let training: Vec<f64> = (0..1000).map(|i| f64::from(i * i % 977)).collect();
    let (n_classes, found) = target_classes(&training, 10, &training);
    let counts: Vec<usize> = (0..n_classes).map(|class| found.iter().filter(|&&found| found as usize == class).count()).collect();
    assert_eq!((n_classes, counts[0], counts[n_classes - 1]), (12, 0, 0));
    assert!(counts[1..n_classes - 1].iter().all(|count| (90..=110).contains(count)), "{counts:?}");
}

#[test]
fn target_bins_are_learnt_from_the_same_rows_and_change_no_token() {
    for normalisation in EVERY {
        let config = TokeniserConfig { normalisation, bins: 8, ..TokeniserConfig::default() };
        let mut flows = synthetic(300, 1);
        let rows: Vec<u32> = (0..300).step_by(2).collect();
        let plain = Tokeniser::fit(&flows, &rows, &config).unwrap();
        let tokeniser = plain.clone().with_target_bins(&[(&flows, &rows)]).unwrap();
        assert!(!plain.to_json().contains("target_bins"), "what does not use them is as it was");
        let alone = flows.select(&rows);
        let of_rows = plain.clone().with_target_bins(&[(&alone, &all_rows(&alone))]).unwrap();
        assert_eq!(tokeniser, of_rows, "rows that were not named are not learnt from");
        let [without, with] = [&plain, &tokeniser].map(|tokeniser| tokeniser.tokenise_with_targets(&alone).unwrap());
        let found = tokeniser.tokenise_and_free(vec![(&mut flows, &rows)]).unwrap();
        for (row, token) in (0..rows.len()).flat_map(|row| (0..42).map(move |token| (row, token))) {
            assert_eq!(expanded(&tokeniser, &found, row, token), expanded(&plain, &without, row, token));
            assert_eq!(found.target(row, token).to_bits(), with.target(row, token).to_bits());
            let classes = tokeniser.target_classes(token).map_or(0.0, |n_classes| n_classes as f32);
            let target = found.target(row, token);
            let is_category = classes == 0.0 && target.to_bits() == without.target(row, token).to_bits();
            assert!(is_category || target < classes - 1.0 && target > 0.0, "{target} of {classes}");
        }
    }
}

#[test]
fn a_token_is_found_among_those_of_a_batch() {
    let flows = synthetic(60, 3);
    let tokeniser = fit(&flows, &TokeniserConfig { bins: 8, ..TokeniserConfig::default() });
    let encoded = tokeniser.tokenise(&flows).unwrap();
    let rows = [7, 3, 59];
    let mut x = vec![f32::NAN; rows.len() * encoded.width()];
    encoded.fill(rows.into_iter(), &mut x);
    for (token, (place, row)) in (0..42).flat_map(|token| rows.into_iter().enumerate().map(move |place| (token, place))) {
        let found = &x[encoded.place(token, place, rows.len())];
        assert_eq!(found, expanded(&tokeniser, &encoded, row as usize, token), "token {token} of row {row}");
    }
}

#[test]
fn two_rows_have_the_same_token_where_it_expands_to_the_same_values() {
    for normalisation in EVERY {
        let x = [0.0, 2.0, 2.0, f64::NAN, f64::NAN, 99.0, 98.0, -0.0];
        let flows = flows(&x, &["a", "a", "b", "b", "c", "d", "a", "b"]);
        let config = TokeniserConfig { normalisation, bins: 4, min_count: 2, ..TokeniserConfig::default() };
        let plain = Tokeniser::fit(&flows, &[0, 1, 2, 3, 4, 7], &config).unwrap();
        let tokeniser = plain.with_target_bins(&[(&flows, &[0, 1, 2, 3, 4, 7])]).unwrap();
        let encoded = tokeniser.tokenise_with_targets(&flows).unwrap();
        let pairs = (0..8_u32).flat_map(|a| (0..8_u32).map(move |b| (a, b)));
        for ((a, b), token) in pairs.flat_map(|pair| [(pair, 0), (pair, 1)]) {
            let [one, other] = [a, b].map(|row| expanded(&tokeniser, &encoded, row as usize, token));
            assert_eq!(encoded.is_same([a, b], token), one == other, "{normalisation:?}, rows {a} and {b}, token {token}");
        }
    }
}

#[test]
fn inverse_normal_cdf_inverts_the_cdf() {
    for k in 1..4000 {
        let p = f64::from(k) / 4000.0;
        let back = 0.5 * libm::erfc(-inverse_normal_cdf(p) * std::f64::consts::FRAC_1_SQRT_2);
        assert!((back - p).abs() < 2e-9, "{p}: {back}");
    }
    assert!(inverse_normal_cdf(0.5).abs() < 1e-12);
}

#[test]
fn quantile_value_is_normal_and_ties_share_their_mid_rank() {
    let tokeniser = fit(&numeric(&[5.0, 5.0, 5.0, 7.0]), &TokeniserConfig::default());
    let encoded = tokeniser.tokenise(&numeric(&[5.0, 7.0, 6.0, -1e30, 1e30])).unwrap();
    let z = |p: f64| inverse_normal_cdf(p) as f32;
    // mid-ranks: 1.5 of 4 and 3.5 of 4; half way between them in z; constant beyond
    let wanted = [z(0.375), z(0.875), 0.5 * (z(0.375) + z(0.875)), z(0.375), z(0.875)];
    for (row, wanted) in wanted.into_iter().enumerate() {
        assert!((encoded.target(row, 0) - wanted).abs() < 1e-6);
    }
    let x: Vec<f64> = (0..20_001).map(|i| libm::exp(f64::from(i) / 1000.0)).collect();
    let tokeniser = fit(&numeric(&x), &TokeniserConfig::default());
    let encoded = tokeniser.tokenise(&numeric(&x)).unwrap();
    for (row, p) in [(0, 0.000_025), (2000, 0.1), (10_000, 0.5), (19_000, 0.95), (20_000, 0.999_975)] {
        assert!((encoded.target(row, 0) - z(p).clamp(-4.0, 4.0)).abs() < 0.01, "{p}");
    }
}

#[test]
fn only_training_rows_are_learnt_from() {
    let all = flows(&[1.0, 2.0, 3.0, 900.0], &["a", "b", "b", "c"]);
    let config = TokeniserConfig { min_count: 1, ..TokeniserConfig::default() };
    let fitted = Tokeniser::fit(&all, &[0, 1, 2], &config).unwrap();
    assert_eq!(fitted, fit(&all.select(&[0, 1, 2]), &config));
    assert_eq!(fitted.tokens()[1].kind, TokenKind::Categorical { n_classes: 3 });
}

#[test]
fn categories_are_ordered_by_count_and_the_rest_is_one_class_and_counted() {
    let train = flows(&[0.0; 9], &["b", "a", "b", "c", "d", "a", "b", "d", "e"]);
    let config = TokeniserConfig { min_count: 2, max_categories: MaxCategories::AtMost(2), ..TokeniserConfig::default() };
    let tokeniser = fit(&train, &config);
    let encoded = tokeniser.tokenise(&flows(&[0.0; 4], &["d", "b", "a", "new"])).unwrap();
    let classes: Vec<f32> = (0..4).map(|row| encoded.target(row, 1)).collect();
    assert_eq!(classes, [2.0, 0.0, 1.0, 2.0]);
    assert_eq!(expanded(&tokeniser, &encoded, 0, 1), [0.0, 0.0, 1.0]);
    assert_eq!(expanded(&tokeniser, &encoded, 1, 1), [1.0, 0.0, 0.0]);
    assert_eq!(encoded.unknown_counts(), [("c".to_owned(), 1)]);
    assert_eq!(encoded.other_counts(), [("c".to_owned(), 1)], "`d` was cut");
}

#[test]
fn standard_is_the_z_score() {
    let config = TokeniserConfig { normalisation: Normalisation::Standard, one_hot: false, min_count: 1, ..Default::default() };
    let all = flows(&[1.0, 2.0, 3.0, 6.0], &["a", "a", "b", "b"]);
    let tokeniser = fit(&all, &config);
    let encoded = tokeniser.tokenise(&all).unwrap();
    // mean 3, population variance 3.5; classes 0, 0, 1, 1 have mean and std 1/2
    assert!((expanded(&tokeniser, &encoded, 3, 0)[0] - 3.0 / 3.5_f32.sqrt()).abs() < 1e-6);
    assert_eq!(expanded(&tokeniser, &encoded, 0, 1), [-1.0]);
    assert!(encoded.target(3, 1) > 0.9, "the target is the class, not its code");
}

#[test]
fn nothing_is_ever_nan_or_infinite() {
    let extreme = [0.0, 1e30, -1e30, 5e-324, 1.0, f64::MIN_POSITIVE];
    for train in [vec![3.0; 4], extreme.to_vec(), vec![1e30; 3], vec![5e-324, 0.0], vec![1e16, 1e16]] {
        for normalisation in [Normalisation::Features, Normalisation::Standard, Normalisation::GlobalMax] {
            let tokeniser = fit(&numeric(&train), &TokeniserConfig { normalisation, ..Default::default() });
            let encoded = tokeniser.tokenise(&numeric(&extreme)).unwrap();
            for row in 0..extreme.len() {
                for token in 0..2 {
                    let values = expanded(&tokeniser, &encoded, row, token);
                    assert!(!values.is_empty() && values.iter().all(|x| x.is_finite()), "{train:?}: {values:?}");
                }
            }
            Tokeniser::from_json(&tokeniser.to_json()).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The doc comment of [`Tokeniser`], bin by bin.
    #[test]
    fn expand_agrees_with_the_definition(
        train in prop::collection::vec(prop_oneof![Just(0.0), -50.0..50.0, (0..5_i32).prop_map(f64::from)], 1..120),
        test in prop::collection::vec(-60.0..60.0, 1..20),
        (quantile, log1p, bins) in (any::<bool>(), any::<bool>(), 1_usize..40),
    ) {
        let config = TokeniserConfig { quantile, log1p, bins, ..Default::default() };
        let tokeniser = fit(&numeric(&train), &config);
        let encoded = tokeniser.tokenise(&numeric(&test)).unwrap();
        let Feature::Parts { edges, log1p: scale, .. } = &tokeniser.features[0] else { unreachable!() };
        for (row, &x) in test.iter().enumerate() {
            let mut wanted = Vec::new();
            if quantile {
                wanted.push(encoded.target(row, 0));
            }
            if log1p {
                let y: f64 = if x < 0.0 { -(1.0 - x).ln() } else { (1.0 + x).ln() };
                wanted.push(((y - scale.mean) / scale.std).clamp(-6.0, 6.0) as f32);
            }
            wanted.extend(edges.windows(2).map(|edge| ((x - edge[0]) / (edge[1] - edge[0])).clamp(0.0, 1.0) as f32));
            let found = expanded(&tokeniser, &encoded, row, 0);
            prop_assert_eq!(found.len(), wanted.len());
            for (found, wanted) in found.iter().zip(&wanted) {
                // the place among up to 40 bins is one f32: 40 * 2^-24
                prop_assert!((found - wanted).abs() < 5e-6, "{} {:?} {:?}", x, found, wanted);
            }
        }
    }
}

#[test]
fn json_round_trip_keeps_every_bit() {
    let flows = synthetic(600, 11);
    let split = split(&flows, 0.3, 1).unwrap();
    for normalisation in [Normalisation::Features, Normalisation::Standard, Normalisation::GlobalMax] {
        let config = TokeniserConfig { normalisation, ..Default::default() };
        let tokeniser = Tokeniser::fit(&flows, &split.train, &config).unwrap();
        let back = Tokeniser::from_json(&tokeniser.to_json()).unwrap();
        assert_eq!(back, tokeniser);
        assert_eq!(back.to_json(), tokeniser.to_json());
    }
}

#[test]
fn hostile_json_is_refused() {
    let all = flows(&[0.0, 1.5, 2.0], &["a", "a", "b"]);
    let good = fit(&all, &TokeniserConfig { min_count: 1, bins: 4, ..Default::default() }).to_json();
    let check = |from: &str, to: &str, wanted: &str| {
        assert!(good.contains(from), "{from} is not in {good}");
        let message = Tokeniser::from_json(&good.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(message.starts_with("tokeniser: ") && message.contains(wanted), "{to}: {message}");
    };
    check("nids-mixer/tokeniser", "other", "format `other` version 1");
    check("\"version\":1", "\"version\":2", "version 2");
    check("\"version\":1", "\"version\":1,\"more\":0", "unknown field `more`");
    check("\"knots\":[0.0,1.5,2.0]", "\"knots\":[0.0,1.5,1.5]", "feature `x`: `knots` does not ascend");
    check("\"knots\":[0.0,1.5,2.0]", "\"knots\":[0.0,2.0]", "3 values of `normal` for 2 `knots`");
    check("\"knots\":[0.0,1.5,2.0]", "\"knots\":[]", "0 values of `knots`; wanted 1 to 1000");
    check("\"knots\":[0.0,1.5,2.0]", "\"knots\":[0.0,1.5,1e999]", "not a tokeniser file");
    check("\"normal\":[", "\"normal\":[-9.0,", "4 values of `normal`");
    check("\"edges\":[-1.5,", "\"edges\":[-1.5,-1.4,-1.3,-1.2,", "values of `edges`; wanted 2 to 5");
    check("\"edges\":[-1.5,", "\"edges\":[1e40,", "`edges` does not ascend");
    check("\"bins\":4", "\"bins\":400000000", "`bins` is 400000000; at most");
    check("\"values\":[\"a\",\"b\"]", "\"values\":[\"a\",\"a\"]", "feature `c`: value \"a\" stands there twice");
    check("\"max_categories\":\"auto\"", "\"max_categories\":1", "2 values; its config says at most 1");
    check("\"max_categories\":\"auto\"", "\"max_categories\":\"all\"", "`auto` or a whole number");
    check("\"max_categories\":\"auto\"", "\"max_categories\":65537", "`max_categories` is 65537; at most 65536");
    let code = good.split("\"code\":").nth(1).unwrap().split('}').next().unwrap();
    let cut = |cut: &str| format!("{code}}},\"cut\":{cut}");
    check(&format!("{code}}}"), &cut("{\"values\":[\"b\"]}"), "feature `c`: value \"b\" stands there twice");
    check(&format!("{code}}}"), &cut("{\"values\":[\"d\",\"d\"]}"), "feature `c`: value \"d\" stands there twice");
    check(&format!("{code}}}"), &cut("{\"values\":[],\"less\":1}"), "unknown field `less`");
    let long: Vec<String> = (0..4096).map(|i| format!("{i:016}")).collect();
    check(&format!("{code}}}"), &cut(&format!("{{\"values\":{long:?}}}")), "feature `c`: 4096 values of `cut`: more than are");
    check("\"kind\":\"numeric\"", "\"kind\":\"categorical\"", "feature `x`: its kind is not that");
    check("\"kind\":\"numeric\"", "\"kind\":\"ignored\"", "2 features, but its schema has 1");
    check("\"features\":[{", "\"features\":[{\"scaled\":{\"mean\":0.0,\"std\":1.0}},{", "3 features");
    let std = good.split("\"std\":").nth(1).unwrap().split('}').next().unwrap();
    for bad in ["0.0", "-1.0", "1e-320"] {
        check(&format!("\"std\":{std}"), &format!("\"std\":{bad}"), "are no scale");
    }
    let rows = all_rows(&all);
    let config = TokeniserConfig { min_count: 1, bins: 4, ..Default::default() };
    let good = fit(&all, &config).with_target_bins(&[(&all, &rows)]).unwrap().to_json();
    let check = |from: &str, to: &str, wanted: &str| {
        assert!(good.contains(from), "{from} is not in {good}");
        let message = Tokeniser::from_json(&good.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(message.starts_with("tokeniser: ") && message.contains(wanted), "{to}: {message}");
    };
    let bins = "{\"range\":[0.0,2.0],\"common\":[0.0,1.5,2.0],\"edges\":[]}";
    check(bins, "null", "feature `x`: `target_bins` are of numeric features");
    check(&format!("[{bins},null]"), "[null,null,null]", "3 `target_bins`, but its schema has 2 features");
    check("\"common\":[0.0,1.5,2.0]", "\"common\":[0.0,1.5,1.5]", "`target_bins` do not ascend");
    check("\"common\":[0.0,1.5,2.0]", "\"common\":[0.0,1.5,2.5]", "`target_bins` do not ascend, or are out of range");
    check("\"range\":[0.0,2.0]", "\"range\":[-1e40,2.0]", "out of range");
    check("\"edges\":[]", "\"edges\":[0.5,1.0]", "8 classes of `target_bins`; its config says at most 7");
    for text in ["", "null", "[]", "{}", &good[..good.len() / 2]] {
        assert!(Tokeniser::from_json(text).is_err());
    }
}

#[test]
fn what_cannot_be_fitted_or_encoded_is_an_error() {
    let all = flows(&[0.0, 1.0], &["a", "b"]);
    let check = |result: Result<()>, wanted: &str| assert!(result.unwrap_err().to_string().contains(wanted));
    let off = TokeniserConfig { quantile: false, log1p: false, bins: 0, ..Default::default() };
    check(Tokeniser::fit(&all, &[0], &off).map(drop), "all off");
    check(Tokeniser::fit(&all, &[], &TokeniserConfig::default()).map(drop), "no rows");
    let tokeniser = fit(&all, &TokeniserConfig::default());
    check(tokeniser.tokenise(&synthetic(1, 1)).map(drop), "fitted on the features of schema `toy`");
}

/// A file of tensors.
struct Golden(Vec<u8>);

impl Golden {
    fn read(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self(std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// Every tensor, as f64.
    fn tensors(&self) -> BTreeMap<String, Vec<f64>> {
        let tensors = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        let numbers = tensors.iter().map(|(name, view)| {
            let bytes = view.data();
            let numbers = match view.dtype() {
                safetensors::Dtype::F64 => bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect(),
                safetensors::Dtype::I64 => bytes.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes) as f64).collect(),
                _ => bytes.as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect(),
            };
            (name.to_owned(), numbers)
        });
        numbers.collect()
    }

    fn settings(&self) -> serde_json::Value {
        let (_, header) = safetensors::SafeTensors::read_metadata(&self.0).unwrap();
        serde_json::from_str(&header.metadata().as_ref().unwrap()["settings"]).unwrap()
    }
}

/// What `scripts/golden` makes of the same table with numpy.
#[test]
fn tokens_are_those_of_numpy() {
    let golden = Golden::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/data/features.f64.safetensors"));
    let (mut tensors, settings) = (golden.tensors(), golden.settings());
    let mut take = |name: &str| tensors.remove(name).unwrap_or_else(|| panic!("no tensor `{name}`"));
    let numbers: Vec<f64> = serde_json::from_value(settings["numbers"].clone()).unwrap();
    let texts: Vec<&str> = settings["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let size = |key: &str| settings[key].as_u64().unwrap() as usize;
    let all = flows(&numbers, &texts);
    let fitted: Vec<u32> = (0..size("fitted") as u32).collect();
    let check = |config: TokeniserConfig, token: usize, name: &str, wanted: &[f64]| {
        let config = TokeniserConfig {
            min_count: size("min_count"),
            max_categories: MaxCategories::AtMost(size("max_categories")),
            ..config
        };
        let tokeniser = Tokeniser::fit(&all, &fitted, &config).unwrap();
        let encoded = tokeniser.tokenise(&all).unwrap();
        let found: Vec<f32> = (0..all.len()).flat_map(|row| expanded(&tokeniser, &encoded, row, token)).collect();
        assert_eq!(found.len(), wanted.len(), "{name}");
        for (i, (&found, wanted)) in found.iter().zip(wanted).enumerate() {
            // the place among up to 64 bins is one f32: 64 * 2^-24
            let error = (f64::from(found) - wanted).abs();
            assert!(error <= 4e-6 * wanted.abs().max(1.0), "{name}[{i}]: {found}, wanted {wanted}");
        }
    };
    let of = |normalisation| TokeniserConfig { normalisation, ..TokeniserConfig::default() };
    for bins in [4, 64] {
        let name = format!("features.{bins}.number");
        check(TokeniserConfig { bins, ..of(Normalisation::Features) }, 0, &name, &take(&name));
    }
    check(of(Normalisation::Features), 1, "one_hot.text", &take("one_hot.text"));
    check(of(Normalisation::Standard), 0, "standard.number", &take("standard.number"));
    let codes = TokeniserConfig { one_hot: false, ..of(Normalisation::Standard) };
    check(codes, 1, "standard.text", &take("standard.text"));

    let [raw, x] = ["raw", "x"].map(|name| take(&format!("global_max.{name}")));
    let [scale, mean, std] = ["scale", "mean", "std"].map(|name| take(&format!("global_max.{name}"))[0]);
    check_global_max("global_max", &raw, [scale, mean, std], &x);
    for (token, name) in ["number", "text"].into_iter().enumerate() {
        let clipped: Vec<f64> = x.iter().skip(token).step_by(2).map(|x| x.clamp(-1e6, 1e6)).collect();
        check(of(Normalisation::GlobalMax), token, name, &clipped);
    }
    assert!(tensors.is_empty(), "not compared: {:?}", tensors.keys());
}

fn check_global_max(what: &str, raw: &[f64], [scale, mean, std]: [f64; 3], wanted: &[f64]) {
    let mut x = vec![0.0; raw.len()];
    global_max(raw, scale, mean, std, &mut x);
    for (&found, wanted) in x.iter().zip(wanted) {
        assert!((f64::from(found) - wanted).abs() <= 1e-6 * wanted.abs().max(1.0), "{what}: {found}, wanted {wanted}");
    }
}

#[test]
#[ignore = "needs features.safetensors in ../shared/golden (NIDS_MIXER_GOLDEN)"]
#[expect(clippy::disallowed_methods, reason = "a test may be told where the golden tensors are")]
fn global_max_matches_the_predecessor() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden");
    let folder = std::env::var_os("NIDS_MIXER_GOLDEN").map_or_else(|| PathBuf::from(default), PathBuf::from);
    let tensors = Golden::read(folder.join("features.safetensors")).tensors();
    for part in ["train", "val", "test"] {
        let affine = [&format!("scale.{part}"), "train_mean", "train_std"].map(|name| tensors[name][0]);
        check_global_max(part, &tensors[&format!("{part}.raw")], affine, &tensors[&format!("{part}.x")]);
    }
}

#[test]
fn global_max_has_one_scale_for_all_features() {
    let config = TokeniserConfig { normalisation: Normalisation::GlobalMax, min_count: 1, ..Default::default() };
    let all = flows(&[10.0, 30.0], &["a", "b"]);
    let tokeniser = fit(&all, &config);
    let encoded = tokeniser.tokenise(&all).unwrap();
    // over 10, 30 and the codes 0, 1: scale 30, mean and std of raw / 30
    let raw = [10.0, 0.0, 30.0, 1.0];
    let mean = raw.iter().sum::<f64>() / 4.0 / 30.0;
    let std = (raw.iter().map(|x| (x / 30.0 - mean).powi(2)).sum::<f64>() / 4.0).sqrt();
    let mut wanted = [0.0; 4];
    global_max(&raw, 30.0, mean, std, &mut wanted);
    for (cell, wanted) in wanted.into_iter().enumerate() {
        assert!((expanded(&tokeniser, &encoded, cell / 2, cell % 2)[0] - wanted).abs() < 1e-6);
    }
}

#[test]
fn parts_are_fitted_and_encoded_like_one_file_and_then_hold_no_features() {
    for normalisation in [Normalisation::Features, Normalisation::Standard, Normalisation::GlobalMax] {
        let config = TokeniserConfig { normalisation, bins: 8, min_count: 3, ..TokeniserConfig::default() };
        let (mut one, mut two) = (synthetic(300, 1), synthetic(70, 2));
        let (rows_of_one, rows_of_two): (Vec<u32>, Vec<u32>) = ((0..300).step_by(2).collect(), (3..70).collect());
        let mut joined = one.select(&rows_of_one);
        joined.extend(two.select(&rows_of_two));
        let whole = Tokeniser::fit(&joined, &all_rows(&joined), &config).unwrap();
        let (fitted, _) = Tokeniser::fit_parts(&[(&one, &rows_of_one), (&two, &rows_of_two)], &config).unwrap();
        assert_eq!(fitted.to_json(), whole.to_json());

        let wanted = whole.tokenise(&joined).unwrap();
        let found = fitted.tokenise_and_free(vec![(&mut one, &rows_of_one), (&mut two, &rows_of_two)]).unwrap();
        assert_eq!(found.n_rows(), wanted.n_rows());
        assert_eq!(found.unknown_counts(), wanted.unknown_counts());
        for (row, token) in (0..wanted.n_rows()).flat_map(|row| (0..42).map(move |token| (row, token))) {
            assert_eq!(expanded(&fitted, &found, row, token), expanded(&whole, &wanted, row, token), "row {row}, token {token}");
        }
        for flows in [&one, &two] {
            let held = flows.features().iter().map(|column| match column {
                FeatureColumn::Numeric(values) => values.capacity(),
                FeatureColumn::Categorical(texts) => texts.codes().len(),
            });
            assert_eq!((flows.labels().unwrap().len(), held.sum::<usize>()), (flows.len(), 0));
        }
    }
}

const EVERY: [Normalisation; 3] = [Normalisation::Features, Normalisation::Standard, Normalisation::GlobalMax];

#[test]
fn a_missing_number_is_a_value_of_its_own() {
    let (gaps, present) = (numeric(&[1.0, f64::NAN, 3.0, f64::NAN, 8.0]), numeric(&[1.0, 3.0, 8.0]));
    for normalisation in EVERY {
        let config = TokeniserConfig { normalisation, bins: 4, ..Default::default() };
        let (tokeniser, without) = (fit(&gaps, &config), fit(&present, &config));
        let width = without.tokens()[0].width;
        assert_eq!(tokeniser.tokens()[0].width, width + 1, "{normalisation:?}");
        let encoded = tokeniser.tokenise(&gaps).unwrap();
        if normalisation != Normalisation::GlobalMax {
            // which shares its scale with the category, of which there are more rows
            let wanted = without.tokenise(&gaps).unwrap();
            for row in [0, 2, 4] {
                let found = expanded(&tokeniser, &encoded, row, 0);
                assert_eq!(found, [expanded(&without, &wanted, row, 0), vec![0.0]].concat(), "{normalisation:?}, row {row}");
            }
        }
        for row in [1, 3] {
            assert_eq!(expanded(&tokeniser, &encoded, row, 0), [vec![0.0; width], vec![1.0]].concat());
            assert!(encoded.target(row, 0).is_nan(), "nothing to predict");
        }
        let json = tokeniser.to_json();
        assert!(json.contains("\"missing\":true"), "{json}");
        assert_eq!(Tokeniser::from_json(&json).unwrap(), tokeniser);
        assert!(!without.to_json().contains("missing"), "a feature that was never missing is saved as before");
    }
}

#[test]
fn what_was_never_missing_in_training_is_like_its_median_when_it_is() {
    let train = numeric(&[5.0, 1.0, 9.0, 5.0, 5.0]);
    for normalisation in EVERY {
        let tokeniser = fit(&train, &TokeniserConfig { normalisation, bins: 4, ..Default::default() });
        let encoded = tokeniser.tokenise(&numeric(&[f64::NAN, 5.0, 1.0])).unwrap();
        let [missing, median, other] = [0, 1, 2].map(|row| expanded(&tokeniser, &encoded, row, 0));
        if normalisation == Normalisation::Features {
            assert_eq!(missing[..2], [0.0, 0.0]);
            assert_eq!(missing[2..], median[2..]);
            assert_ne!(missing[2..], other[2..]);
        } else {
            assert_eq!(missing, [0.0]);
        }
        assert_eq!(encoded.missing_counts(), [("x".to_owned(), 1), ("c".to_owned(), 0)]);
    }
}

#[test]
fn an_infinite_number_is_beyond_those_of_training_and_not_learnt_from() {
    let infinite = numeric(&[1.0, f64::INFINITY, 3.0, f64::NEG_INFINITY, 8.0]);
    for normalisation in EVERY {
        let config = TokeniserConfig { normalisation, bins: 4, ..Default::default() };
        let tokeniser = fit(&infinite, &config);
        if normalisation != Normalisation::GlobalMax {
            assert_eq!(tokeniser.features[0], fit(&numeric(&[1.0, 3.0, 8.0]), &config).features[0]);
        }
        let encoded = tokeniser.tokenise(&numeric(&[f64::INFINITY, 1e30, f64::NEG_INFINITY, -1e30])).unwrap();
        for (infinite, finite) in [(0, 1), (2, 3)] {
            assert_eq!(expanded(&tokeniser, &encoded, infinite, 0), expanded(&tokeniser, &encoded, finite, 0));
        }
        assert_eq!(encoded.missing_counts()[0].1, 0, "infinite is not missing");
    }
}

#[test]
fn missing_cells_are_counted_by_feature_in_the_rows_that_are_tokenised() {
    let mut one = flows(&[1.0, f64::NAN, 2.0, f64::NAN], &["-", "a", "-", "-"]);
    let mut two = flows(&[f64::NAN, 3.0], &["a", "-"]);
    let tokeniser = fit(&one, &TokeniserConfig::default());
    let counts = |x, c| [("x".to_owned(), x), ("c".to_owned(), c)];
    assert_eq!(tokeniser.tokenise(&one).unwrap().missing_counts(), counts(2, 3));
    let encoded = tokeniser.tokenise_and_free(vec![(&mut one, &[0, 1, 3]), (&mut two, &[0, 1])]).unwrap();
    assert_eq!(encoded.missing_counts(), counts(3, 3));
}

proptest! {
    #[test]
    fn a_token_is_finite_whatever_is_missing_or_infinite(
        train in prop::collection::vec(number(), 1..30),
        test in prop::collection::vec(number(), 1..10),
        (quantile, log1p, bins, normalisation) in (any::<bool>(), any::<bool>(), 1_usize..9, 0_usize..3),
    ) {
        let config = TokeniserConfig { quantile, log1p, bins, normalisation: EVERY[normalisation], ..Default::default() };
        let tokeniser = fit(&numeric(&train), &config);
        for x in [&train, &test] {
            let encoded = tokeniser.tokenise(&numeric(x)).unwrap();
            for (row, x) in x.iter().enumerate() {
                let token = expanded(&tokeniser, &encoded, row, 0);
                prop_assert!(token.iter().all(|x| x.is_finite()), "{:?}", token);
                prop_assert_eq!(encoded.target(row, 0).is_nan(), x.is_nan());
            }
        }
        prop_assert_eq!(Tokeniser::from_json(&tokeniser.to_json()).unwrap(), tokeniser);
    }

    #[test]
    fn what_is_missing_moves_no_number_of_the_others(values in prop::collection::vec(-50.0..50.0, 1..40), gaps in prop::collection::vec(0_usize..40, 1..9)) {
        let mut x = values.clone();
        for &gap in &gaps {
            x.insert(gap % (x.len() + 1), f64::NAN);
        }
        for normalisation in [Normalisation::Features, Normalisation::Standard] {
            let config = TokeniserConfig { normalisation, ..Default::default() };
            let mut wanted = fit(&numeric(&values), &config).features.swap_remove(0);
            match &mut wanted {
                Feature::Parts { missing, .. } | Feature::Scaled { missing, .. } => *missing = true,
                Feature::Categorical { .. } => unreachable!(),
            }
            prop_assert_eq!(&fit(&numeric(&x), &config).features[0], &wanted);
        }
    }
}

/// A number as flows may have it: missing, infinite, or of any size.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(0.0),
        -50.0..50.0,
        prop::sample::select(vec![1e30, -1e30, 5e-324])
    ]
}

/// `counts[i]` rows of each category `i`.
fn counted(counts: &[usize]) -> Flows {
    let texts: Vec<String> = counts.iter().enumerate().flat_map(|(i, &n)| vec![format!("c{i:04}"); n]).collect();
    flows(&vec![0.0; texts.len()], &texts.iter().map(String::as_str).collect::<Vec<_>>())
}

fn fit_with_cuts(flows: &Flows, config: &TokeniserConfig) -> (Tokeniser, Vec<Cut>) {
    Tokeniser::fit_parts(&[(flows, &all_rows(flows))], config).unwrap()
}

#[test]
fn auto_keeps_the_categories_of_99_5_percent_of_the_rows_within_bounds() {
    let auto = TokeniserConfig::default();
    let kept = |counts: &[usize]| fit(&counted(counts), &auto).tokens()[1].width - 1;
    assert_eq!(kept(&[10; 200]), 199, "1,990 of 2,000 rows are 99.5 %");
    assert_eq!(kept(&[[25; 38].as_slice(), &[45, 5]].concat()), 39, "995 of 1,000");
    assert_eq!(kept(&[[25; 38].as_slice(), &[44, 6]].concat()), 40, "994 of 1,000 are not enough");
    assert_eq!(kept(&[[10_000].as_slice(), &[5; 60]].concat()), 51, "10,250 of 10,300");
    assert_eq!(kept(&[[60_000].as_slice(), &[5; 60]].concat()), 31, "one is enough, but 31 are kept");
    assert_eq!(kept(&[5; 1200]), 1024);
    assert_eq!(kept(&[[5; 100].as_slice(), &[4; 100]].concat()), 100, "`min_count` holds as well");
    let number = TokeniserConfig { max_categories: MaxCategories::AtMost(31), ..auto };
    assert_eq!(fit(&counted(&[10; 200]), &number).tokens()[1].width - 1, 31);
}

#[test]
fn what_is_cut_is_told_with_its_rule_and_its_share_of_the_rows() {
    let told = |counts: &[usize], max_categories| {
        let config = TokeniserConfig { max_categories, ..TokeniserConfig::default() };
        fit_with_cuts(&counted(counts), &config).1.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let counts = [[10; 3].as_slice(), &[6; 3], &[1; 2]].concat();
    assert_eq!(
        told(&counts, MaxCategories::AtMost(4)),
        [
            "`c`: 4 of 8 categories are kept; `max_categories: 4` cuts 2 and `min_count: 5` cuts 2: 14 of 50 training rows (28.00 %) \
             are read as \"other\""
        ]
    );
    assert_eq!(
        told(&counts, MaxCategories::Auto),
        ["`c`: 6 of 8 categories are kept; `min_count: 5` cuts 2: 2 of 50 training rows (4.00 %) are read as \"other\""]
    );
    assert_eq!(
        told(&[10; 200], MaxCategories::Auto),
        [
            "`c`: 199 of 200 categories are kept; `max_categories: auto` cuts 1: 10 of 2000 training rows (0.50 %) are read as \"other\""
        ]
    );
    assert_eq!(told(&[5; 3], MaxCategories::AtMost(3)), [""; 0], "nothing is cut");
}

#[test]
fn a_value_that_was_cut_is_told_from_one_that_training_has_not_seen() {
    let all = flows(&[0.0; 10], &["a", "a", "a", "b", "a", "a", "c", "a", "a", "d"]);
    // `d` is in a row that is not one of training
    let training: Vec<u32> = (0..9).collect();
    let tokeniser = Tokeniser::fit(&all, &training, &TokeniserConfig::default()).unwrap();
    let back = Tokeniser::from_json(&tokeniser.to_json()).unwrap();
    assert_eq!(back, tokeniser);
    for tokeniser in [tokeniser, back] {
        let encoded = tokeniser.tokenise(&flows(&[0.0; 6], &["b", "c", "d", "d", "d", "a"])).unwrap();
        assert_eq!(encoded.other_counts(), [("c".to_owned(), 2)]);
        assert_eq!(encoded.unknown_counts(), [("c".to_owned(), 3)]);
        assert_eq!((0..6).map(|row| encoded.target(row, 1)).collect::<Vec<_>>(), [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
        assert!(tokeniser.remembers_all(1));
    }
    let nothing_cut = fit(&flows(&[0.0; 5], &["a"; 5]), &TokeniserConfig::default());
    assert!(!nothing_cut.to_json().contains("\"cut\""), "a file in which nothing was cut is as before");
}

#[test]
fn the_cut_values_that_are_remembered_are_bounded() {
    let texts: Vec<String> = (0..9000).map(|i| format!("{i:09}x")).collect();
    let all = flows(&vec![0.0; 9000], &texts.iter().map(String::as_str).collect::<Vec<_>>());
    let tokeniser = fit(&all, &TokeniserConfig::default());
    assert!(!tokeniser.remembers_all(1) && tokeniser.remembers_all(0));
    let encoded = tokeniser.tokenise(&all).unwrap();
    let (other, unknown) = (encoded.other_counts()[0].1, encoded.unknown_counts()[0].1);
    // 13 bytes each of 64 KiB
    assert_eq!((other, unknown), (5041, 9000 - 5041));
    assert!(tokeniser.to_json().len() < 80 << 10);
    assert_eq!(Tokeniser::from_json(&tokeniser.to_json()).unwrap(), tokeniser);
}

#[test]
fn a_category_is_found_in_its_canonical_form() {
    let train = flows(&[0.0; 20], &["06", "True", "", "tcp"].repeat(5));
    let tokeniser = fit(&train, &TokeniserConfig::default());
    let classes = |c: &[&str]| {
        let encoded = tokeniser.tokenise(&flows(&vec![0.0; c.len()], c)).unwrap();
        (0..c.len()).map(|row| encoded.target(row, 1)).collect::<Vec<_>>()
    };
    assert_eq!(classes(&["6", "true", "-", "tcp"]), classes(&["06", "True", "", "tcp"]));
    assert_eq!(classes(&["6.0", "T", "TCP", "60"]), [classes(&["06", "True"]), vec![4.0, 4.0]].concat());

    // two spellings that were two classes stay two
    let tokeniser = fit(&flows(&[0.0; 11], &[["06"; 5].as_slice(), &["6"; 6]].concat()), &TokeniserConfig::default());
    let encoded = tokeniser.tokenise(&flows(&[0.0; 3], &["6", "06", "6.0"])).unwrap();
    assert_eq!((0..3).map(|row| encoded.target(row, 1)).collect::<Vec<_>>(), [0.0, 1.0, 0.0]);
}

#[test]
fn what_was_missing_in_training_is_known_by_feature() {
    let had = |x: &[f64], c: &[&str]| {
        let tokeniser = fit(&flows(x, c), &TokeniserConfig::default());
        [0, 1].map(|token| tokeniser.had_missing(token))
    };
    assert_eq!(had(&[0.0, 1.0], &["a", "a"]), [false, false]);
    assert_eq!(had(&[0.0, f64::NAN], &["a", "-"]), [true, true]);
    assert_eq!(had(&[0.0, 1.0], &["a", ""]), [false, true]);
}

#[test]
fn a_row_has_its_tokens_whatever_rows_stand_beside_it() {
    let mut flows = synthetic(2000, 5);
    (0..2000).step_by(3).for_each(|row| flows.put(row, 0, f64::NAN));
    let tokeniser = fit(&flows, &TokeniserConfig::default());
    let values = |encoded: &TokenTable, row: usize| -> Vec<u32> {
        let mut x = vec![0.0; encoded.width()];
        encoded.fill(std::iter::once(row as u32), &mut x);
        x.iter().map(|x| x.to_bits()).collect()
    };
    let together = tokeniser.tokenise(&flows).unwrap();
    for row in 0..2000 {
        let alone = tokeniser.tokenise(&flows.select(&[row])).unwrap();
        assert_eq!(values(&together, row as usize), values(&alone, 0), "row {row}");
    }
}
