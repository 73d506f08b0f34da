use std::collections::BTreeMap;

use super::categories::{Cut, CutValues, class_of, cut_bytes};
use super::sampled::Seen;
use super::{Affine, Feature, NORMAL_CLIP, Normalisation, TokeniserConfig};
use crate::{ColumnKind, FeatureColumn, Flows, TextColumn};

/// The most knots of a quantile-normal map.
pub(super) const MAX_KNOTS: usize = 1000;

/// Flows with those of their rows to learn from.
pub(super) type Part<'p> = (&'p Flows, &'p [u32]);

/// Learns every feature from the given rows; what is cut of the categorical ones, where something is. `all` is what is known of all
/// rows, where those given are a sample.
pub(super) fn features(from: &[Part<'_>], config: &TokeniserConfig, all: Option<&[Seen]>) -> (Vec<Feature>, Vec<Cut>) {
    let schema = from[0].0.schema();
    let n_categorical = schema.features().filter(|column| column.kind == ColumnKind::Categorical).count();
    let cut_bytes = cut_bytes(n_categorical);
    let mut cuts = Vec::new();
    let mut features: Vec<Feature> = schema
        .features()
        .enumerate()
        .map(|(feature, column)| match &from[0].0.features[feature] {
            FeatureColumn::Numeric(_) => {
                let (values, missing) = finite(from, feature, all);
                if config.normalisation == Normalisation::Features {
                    parts(values, config.bins, missing)
                } else {
                    let Affine { mean, std } = affine(&values);
                    Feature::Scaled { mean, std, missing }
                }
            }
            FeatureColumn::Categorical(_) => {
                let (learnt, cut) = categorical(from, &column.name, feature, all, config, cut_bytes);
                cuts.extend((cut.rows > 0).then_some(cut));
                learnt
            }
        })
        .collect();
    if config.normalisation == Normalisation::GlobalMax {
        let global = global_affine(from, &features);
        for feature in &mut features {
            match feature {
                Feature::Scaled { mean, std, .. } => (*mean, *std) = (global.mean, global.std),
                Feature::Categorical { code, .. } => *code = global,
                Feature::Parts { .. } => unreachable!("only made for `features`"),
            }
        }
    }
    (features, cuts)
}

/// The finite values of a numeric feature with the smallest and the largest of all rows among them, at least one; and whether it is
/// missing in some row.
pub(super) fn finite(from: &[Part<'_>], feature: usize, all: Option<&[Seen]>) -> (Vec<f64>, bool) {
    let mut values: Vec<f64> = numbers(from, feature).filter(|x| x.is_finite()).collect();
    let mut is_missing = numbers(from, feature).any(f64::is_nan);
    if let Some(Seen::Number { has_missing, range }) = all.map(|all| &all[feature]) {
        is_missing = *has_missing;
        if let Some([low, high]) = *range {
            let of_sample = values.iter().fold([f64::INFINITY, f64::NEG_INFINITY], |[a, b], &x| [a.min(x), b.max(x)]);
            match &mut values[..] {
                [] | [_] => values = vec![low, high],
                values => {
                    // each in the place of the sample's own, so that there are as many values as before
                    let first = values.iter().position(|&x| x <= of_sample[0]).expect("it is there");
                    let last = values.iter().rposition(|&x| x >= of_sample[1]).expect("it is there");
                    (values[first], values[last]) = (low, high);
                }
            }
        }
    }
    if values.is_empty() {
        // nothing to learn: as if it had always been 0
        values.push(0.0);
    }
    (values, is_missing)
}

/// The values of a numeric feature, part by part.
pub(super) fn numbers<'p>(from: &'p [Part<'_>], feature: usize) -> impl Iterator<Item = f64> + 'p {
    from.iter().flat_map(move |(flows, rows)| match &flows.features[feature] {
        FeatureColumn::Numeric(values) => rows.iter().map(|&row| values[row as usize]),
        FeatureColumn::Categorical(_) => unreachable!("one schema gives one kind"),
    })
}

/// The texts of a categorical feature with the rows to learn from, part by part.
fn texts<'p>(from: &'p [Part<'_>], feature: usize) -> impl Iterator<Item = (&'p TextColumn, &'p [u32])> + 'p {
    from.iter().map(move |(flows, rows)| match &flows.features[feature] {
        FeatureColumn::Categorical(texts) => (texts, *rows),
        FeatureColumn::Numeric(_) => unreachable!("one schema gives one kind"),
    })
}

/// The class of every row of a categorical feature, part by part.
fn classes<'p>(from: &'p [Part<'_>], feature: usize, values: &'p [String], cut: &'p CutValues) -> impl Iterator<Item = f64> + 'p {
    texts(from, feature).flat_map(move |(texts, rows)| {
        let classes = class_of(values, cut, texts);
        rows.iter().map(move |&row| classes[texts.codes()[row as usize] as usize].index(values.len()) as f64)
    })
}

fn parts(mut values: Vec<f64>, bins: usize, missing: bool) -> Feature {
    let logs: Vec<f64> = values.iter().map(|&x| signed_log1p(x)).collect();
    values.sort_unstable_by(f64::total_cmp);
    let (knots, normal) = knots(&values);
    Feature::Parts { knots, normal, log1p: affine(&logs), edges: edges(&values, bins), missing }
}

pub(super) fn signed_log1p(x: f64) -> f64 {
    libm::log1p(x.abs()).copysign(x)
}

/// Distinct values at evenly spread ranks, each with Φ⁻¹ of its mid-rank: ties map to one place.
fn knots(sorted: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let n = sorted.len();
    let step = (n - 1) as f64 / (MAX_KNOTS - 1) as f64;
    let mut knots: Vec<f64> = distinct(sorted, MAX_KNOTS)
        .unwrap_or_else(|| (0..MAX_KNOTS).map(|k| sorted[(k as f64 * step).round() as usize]).collect());
    knots.dedup_by(|a, b| a.to_bits() == b.to_bits());
    let normal = knots.iter().map(|&knot| {
        let below = sorted.partition_point(|&x| x < knot);
        let up_to = sorted.partition_point(|&x| x <= knot);
        let mid_rank = (below + up_to) as f64 / (2 * n) as f64;
        inverse_normal_cdf(mid_rank).clamp(-NORMAL_CLIP, NORMAL_CLIP)
    });
    let normal = normal.collect();
    (knots, normal)
}

/// See [`super::Tokeniser`] for what the edges are.
fn edges(sorted: &[f64], bins: usize) -> Vec<f64> {
    if bins == 0 {
        return Vec::new();
    }
    if let Some(values) = distinct(sorted, bins) {
        let width = values.get(1).map_or(1.0, |second| second - values[0]);
        // far from zero a step of 1 may be lost to rounding
        let first = (values[0] - width).min(values[0].next_down());
        return std::iter::once(first).chain(values).collect();
    }
    let mut edges: Vec<f64> = (0..=bins).map(|k| sorted[(k * (sorted.len() - 1) + bins / 2) / bins]).collect();
    edges.dedup_by(|a, b| a.to_bits() == b.to_bits());
    edges
}

/// The distinct values, if there are at most `max`.
pub(super) fn distinct(sorted: &[f64], max: usize) -> Option<Vec<f64>> {
    let runs = sorted.chunk_by(|a, b| a.to_bits() == b.to_bits());
    let values: Vec<f64> = runs.take(max + 1).map(|run| run[0]).collect();
    (values.len() <= max).then_some(values)
}

/// Mean and population std; a std of 1 where the values do not vary.
fn affine(values: &[f64]) -> Affine {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    let std = variance.sqrt();
    // below this, what is left is the rounding of the mean
    let varies = std > 1e-12 * mean.abs() && std.is_normal();
    Affine { mean, std: if varies { std } else { 1.0 } }
}

/// How often each text occurs in some rows of a column.
pub(super) fn text_counts<'t>(texts: &'t TextColumn, rows: &[u32]) -> impl Iterator<Item = (&'t String, usize)> + use<'t> {
    let mut counts = vec![0_usize; texts.vocabulary().len()];
    for &row in rows {
        counts[texts.codes()[row as usize] as usize] += 1;
    }
    texts.vocabulary().iter().zip(counts).filter(|(_, n)| *n > 0)
}

/// Known values by falling count, ties in order of text, and what is cut of the others.
fn categorical(
    from: &[Part<'_>],
    name: &str,
    feature: usize,
    all: Option<&[Seen]>,
    config: &TokeniserConfig,
    cut_bytes: usize,
) -> (Feature, Cut) {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    let of_all = all.map(|all| &all[feature]);
    if let Some(Seen::Category { counts: Some(of_all) }) = of_all {
        counts.extend(of_all.iter().map(|(text, &n)| (text, n)));
    } else {
        for (text, n) in texts(from, feature).flat_map(|(texts, rows)| text_counts(texts, rows)) {
            *counts.entry(text).or_default() += n;
        }
    }
    let n_rows = counts.values().sum();
    let mut all: Vec<(usize, &String)> = counts.into_iter().map(|(text, n)| (n, text)).collect();
    all.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    let n_frequent = all.partition_point(|(count, _)| *count >= config.min_count.max(1));
    let frequent: Vec<usize> = all[..n_frequent].iter().map(|(count, _)| *count).collect();
    let n_kept = config.max_categories.kept(&frequent, n_rows);
    let (kept, cut) = all.split_at(n_kept);
    let values: Vec<String> = kept.iter().map(|(_, text)| (*text).clone()).collect();
    let report = Cut {
        feature: name.to_owned(),
        kept: n_kept,
        by_max_categories: n_frequent - n_kept,
        by_min_count: all.len() - n_frequent,
        rows: cut.iter().map(|(count, _)| count).sum(),
        n_rows,
        max_categories: config.max_categories,
        min_count: config.min_count,
        is_of_sample: matches!(of_all, Some(Seen::Category { counts: None })),
    };
    let cut = CutValues::new(cut.iter().map(|(_, text)| *text), cut_bytes);
    let codes: Vec<f64> = classes(from, feature, &values, &cut).collect();
    (Feature::Categorical { values, code: affine(&codes), cut }, report)
}

/// scale = largest raw value; mean and std of raw / scale over all features and rows, here times scale.
fn global_affine(from: &[Part<'_>], features: &[Feature]) -> Affine {
    let mut raw = Vec::with_capacity(from.iter().map(|(_, rows)| rows.len()).sum::<usize>() * features.len());
    for (place, feature) in features.iter().enumerate() {
        match feature {
            Feature::Categorical { values, cut, .. } => raw.extend(classes(from, place, values, cut)),
            _ => raw.extend(numbers(from, place).filter(|x| x.is_finite())),
        }
    }
    if raw.is_empty() {
        raw.push(0.0);
    }
    // the scale cancels out: (raw - mean scale) / (std scale)
    affine(&raw)
}

/// Φ⁻¹(p), to about 1e-9: Acklam's rational approximation.
pub(super) fn inverse_normal_cdf(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 6] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 5] = [7.784_695_709_041_462e-3, 3.224_671_290_700_398e-1, 2.445_134_137_142_996, 3.754_408_661_907_416, 1.0];
    let horner = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    if p > 0.5 {
        return -inverse_normal_cdf(1.0 - p);
    }
    if p < 0.024_25 {
        let q = (-2.0 * libm::log(p)).sqrt();
        return horner(&C, q) / horner(&D, q);
    }
    let q = p - 0.5;
    let r = q * q;
    q * horner(&A, r) / horner(&B, r)
}
