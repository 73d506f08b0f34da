//! How files differ from the first one.

use std::collections::BTreeSet;

use nids_eval::drift::{Bins, Psi, psi};

use crate::report::{Check, CheckName, Drift, FeatureDrift, Finding, NewValue, Verdict};
use crate::table::{Column, Part, Table, Values};
use crate::{DRIFT, count, passed, percent, skipped};

/// Bins of a numeric feature.
const BINS: usize = 10;
/// The share of the first file's rows from which on a category has a bin of its own.
const OWN_BIN: f64 = 0.01;
/// New categories that are named.
const NAMED: usize = 10;

pub(crate) fn drift(table: &Table) -> Vec<Drift> {
    let Some((first, others)) = table.files.split_first() else { return Vec::new() };
    let of_file = |part: &Part| {
        let mut features: Vec<FeatureDrift> = table.features().filter_map(|column| feature(table, column, first, part)).collect();
        features.sort_by(|a, b| b.psi.total_cmp(&a.psi));
        Drift { file: part.name.clone(), reference: first.name.clone(), features }
    };
    others.iter().map(of_file).collect()
}

/// None where a file has no rows.
fn feature(table: &Table, column: &Column, first: &Part, part: &Part) -> Option<FeatureDrift> {
    let [reference, here] = [first, part].map(|part| &column.codes[part.rows.clone()]);
    let (found, new_values) = match &column.values {
        Values::Numbers(values) => {
            let numbers = |codes: &[u32]| codes.iter().map(|code| values[*code as usize]).collect::<Vec<f64>>();
            let (reference, here) = (numbers(reference), numbers(here));
            let bins = Bins::fit(&reference, BINS);
            (psi(&bins.counts(&reference), &bins.counts(&here)), Vec::new())
        }
        Values::Texts(values) => of_texts(table, values, reference, here, part),
    };
    let Psi { psi, noise, .. } = found?;
    Some(FeatureDrift { column: column.name.clone(), psi, noise, new_values })
}

/// Categories have a bin each, but for rare ones, which share one, and those that the reference does not have, which share another.
fn of_texts(table: &Table, values: &[String], reference: &[u32], here: &[u32], part: &Part) -> (Option<Psi>, Vec<NewValue>) {
    let count = |codes: &[u32]| {
        let mut counts = vec![0_u64; values.len()];
        for code in codes {
            counts[*code as usize] += 1;
        }
        counts
    };
    let (before, now) = (count(reference), count(here));
    let mut bins: [Vec<u64>; 2] = [vec![0, 0], vec![0, 0]];
    for (&a, &b) in before.iter().zip(&now) {
        match a {
            0 => bins[1][0] += b,
            a if (a as f64) < OWN_BIN * reference.len() as f64 => (bins[0][1], bins[1][1]) = (bins[0][1] + a, bins[1][1] + b),
            a => {
                bins[0].push(a);
                bins[1].push(b);
            }
        }
    }
    let is_new = |code: usize| before[code] == 0 && now[code] > 0;
    let mut new: Vec<NewValue> = (0..values.len())
        .filter(|code| is_new(*code))
        .map(|code| {
            let place = here.iter().position(|found| *found as usize == code).expect("a value of some row");
            NewValue { value: values[code].clone(), rows: now[code] as usize, row: table.numbers[part.rows.start + place] }
        })
        .collect();
    new.sort_by(|a, b| b.rows.cmp(&a.rows).then(a.value.cmp(&b.value)));
    (psi(&bins[0], &bins[1]), new)
}

pub(crate) fn check(table: &Table, drift: &[Drift]) -> Check {
    if drift.is_empty() {
        return skipped(CheckName::Drift, "one file");
    }
    let [shift, large] = DRIFT;
    let mut found: Vec<(f64, Finding)> = Vec::new();
    for (file, part) in drift.iter().zip(&table.files[1..]) {
        for feature in &file.features {
            let has_drifted = feature.psi >= shift && feature.psi > feature.noise;
            let new: usize = feature.new_values.iter().map(|new| new.rows).sum();
            if !has_drifted && new == 0 {
                continue;
            }
            let named: Vec<String> =
                feature.new_values.iter().take(NAMED).map(|new| format!("\"{}\" ({})", new.value, new.rows)).collect();
            let more = feature.new_values.len().saturating_sub(NAMED);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            let news = if new == 0 {
                String::new()
            } else {
                format!(
                    "; values that {} does not have in {} ({}): {}{more}",
                    file.reference,
                    count(new, "row"),
                    percent(new, part.rows.len()),
                    named.join(", ")
                )
            };
            let finding = Finding {
                column: Some(feature.column.clone()),
                file: Some(file.file.clone()),
                row: feature.new_values.first().map(|new| new.row),
                rows: (new > 0).then_some(new),
                value: Some(feature.psi),
                what: format!("PSI {:.3}{news}", feature.psi),
            };
            found.push((if has_drifted { feature.psi } else { 0.0 }, finding));
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let n_of = |is_it: &dyn Fn(f64, &Finding) -> bool| {
        let columns: BTreeSet<&Option<String>> =
            found.iter().filter(|(psi, finding)| is_it(*psi, finding)).map(|(_, finding)| &finding.column).collect();
        columns.len()
    };
    let (n_large, n_shifted) = (n_of(&|psi, _| psi >= large), n_of(&|psi, _| psi >= shift));
    let n_new = n_of(&|_, finding| finding.rows.is_some());
    if found.is_empty() {
        return passed(CheckName::Drift, format!("no feature differs from {} (PSI below {shift})", drift[0].reference));
    }
    let text = format!(
        "against {}: {n_shifted} of {} features shifted (PSI {shift} or more), {n_large} of them much ({large} or more), {n_new} with new \
         values",
        drift[0].reference,
        table.features().count()
    );
    Check {
        check: CheckName::Drift,
        verdict: if n_large > 0 { Verdict::Warn } else { Verdict::Note },
        found: text,
        findings: found.into_iter().map(|(_, finding)| finding).collect(),
        advice: Some(
            "a model that is trained on one of these files may be wrong on the other: test it there before you trust it"
                .to_owned(),
        ),
    }
}
