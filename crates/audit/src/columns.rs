//! Columns one by one: what is missing, what gives the label away, what is no feature.

use nids_eval::separation::{auc, auc_of_rates, counts, given_away, is_certain};

use nids_flows::some_of;

use crate::report::{Check, CheckName, ColumnReport, Finding, GivenAway, Looks, LooksLike, Medians, Telling, Verdict};
use crate::table::{Column, Table, Values};
use crate::{GIVEN_AWAY, LEAK, count, lacks_labels, passed, percent, skipped};

/// Leaks from which on it is the data set that is to blame, where they are more than a fifth of the features.
const MANY_LEAKS: usize = 4;
/// Rows below which nothing is said of what a column looks like.
const FEWEST: usize = 20;
/// Benign rows, and attacks, below which nothing is said of leaks.
const FEWEST_OF_A_CLASS: usize = 10;
/// The share of rows with a value of their own from which on numbers look like the name of a row.
const OWN_NUMBERS: f64 = 0.95;
/// The same of texts.
const OWN_TEXTS: f64 = 0.5;
/// The share of rows whose number is at least the one before from which on a column looks like a clock, or the one before and 1, like a
/// count of the rows.
const RISING: f64 = 0.99;

pub(crate) fn reports(table: &Table) -> Vec<ColumnReport> {
    let has_labels = lacks_labels(table).is_none();
    table.columns.iter().map(|column| report(table, column, has_labels)).collect()
}

fn report(table: &Table, column: &Column, has_labels: bool) -> ColumnReport {
    let used = times(&column.codes, column.values.len());
    let distinct = used.iter().filter(|n| **n > 0).count();
    let counts = counts(&column.codes, column.values.len(), &table.labels);
    let by_order = has_labels.then(|| by_order(column, &counts)).flatten();
    let by_values = has_labels.then(|| auc_of_rates(&column.codes, counts.len(), &table.labels, &table.halves)).flatten();
    let given_away = has_labels.then(|| given_away(&column.codes, counts.len(), &table.labels, &table.halves)).flatten();
    let given_away = given_away.map(|[benign, attacks]| GivenAway { benign, attacks });
    ColumnReport {
        name: column.name.clone(),
        kind: if matches!(column.values, Values::Numbers(_)) { "numeric" } else { "categorical" },
        feature: column.is_feature,
        missing: column.missing.map_or(0, |code| used[code as usize]),
        infinite: column.infinite.0,
        distinct,
        auc: by_order.into_iter().chain(by_values).reduce(f64::max),
        auc_by_order: by_order,
        auc_by_values: by_values,
        given_away,
        medians: has_labels.then(|| medians(column, &counts)).flatten(),
        telling: has_labels.then(|| telling(column, &counts, given_away)).flatten(),
        looks_like: looks_like(table, column, distinct),
    }
}

/// The area of the numbers in the better direction, with what is missing below or above all.
fn by_order(column: &Column, counts: &[[u64; 2]]) -> Option<f64> {
    if !matches!(column.values, Values::Numbers(_)) {
        return None;
    }
    let either = |area: f64| area.max(1.0 - area);
    let above = auc(counts.iter().copied()).map(either);
    let missing = column.missing.map(|code| code as usize);
    let first = missing.map(|code| counts[code]);
    let below = first.and_then(|first| auc(std::iter::once(first).chain(counts[..counts.len() - 1].iter().copied())).map(either));
    above.into_iter().chain(below).reduce(f64::max)
}

/// The lower medians of the numbers that are not missing.
fn medians(column: &Column, counts: &[[u64; 2]]) -> Option<Medians> {
    let Values::Numbers(values) = &column.values else { return None };
    let median = |class: usize| {
        let present =
            || values.iter().zip(counts).filter(|(value, _)| !value.is_nan()).map(|(value, pair)| (*value, pair[class]));
        let total: u64 = present().map(|(_, n)| n).sum();
        let mut below = 0;
        let found = present().find(|(_, n)| {
            below += n;
            below > 0 && 2 * below >= total
        });
        found.map(|(value, _)| value)
    };
    Some(Medians { benign: median(0)?, attacks: median(1)? })
}

/// The value that says most: where values are certain of a class, the most frequent of these; else the one whose rows are furthest
/// from the share of attacks of all.
fn telling(column: &Column, counts: &[[u64; 2]], given_away: Option<GivenAway>) -> Option<Telling> {
    let total = counts.iter().fold([0.0; 2], |sum, pair| [sum[0] + pair[0] as f64, sum[1] + pair[1] as f64]);
    let base = total[1] / (total[0] + total[1]);
    let off = |[benign, attacks]: [u64; 2]| (attacks as f64 - base * (benign + attacks) as f64).abs();
    let class = given_away.map(|given| usize::from(given.attacks > given.benign));
    let is_sure = given_away.is_some_and(|given| given.attacks.max(given.benign) >= GIVEN_AWAY);
    let weight = |pair: [u64; 2]| match class.filter(|_| is_sure) {
        Some(class) => {
            if is_certain(pair, total, class) {
                pair[class] as f64
            } else {
                0.0
            }
        }
        None => off(pair),
    };
    // the first of those that weigh as much
    let (code, pair) =
        counts.iter().enumerate().reduce(|best, next| if weight(*next.1) > weight(*best.1) { next } else { best })?;
    let [benign, attacks] = pair.map(|n| n as usize);
    Some(Telling { value: column.values.shown(code as u32), rows: benign + attacks, attacks })
}

fn looks_like(table: &Table, column: &Column, distinct: usize) -> Option<LooksLike> {
    let is = |what: Looks, why: String| Some(LooksLike { what, why });
    let n_rows = column.codes.len();
    if distinct == 1 && n_rows > 1 {
        return is(Looks::Constant, format!("{} in every row", column.values.shown(column.codes[0])));
    }
    // rows that are copies of one another share their value
    let rows: Vec<u32> =
        if column.is_feature { table.groups.iter().map(|group| group[0]).collect() } else { (0..n_rows as u32).collect() };
    let held: Vec<u32> =
        rows.iter().map(|&row| column.codes[row as usize]).filter(|code| Some(*code) != column.missing).collect();
    if held.len() < FEWEST {
        return None;
    }
    match &column.values {
        Values::Texts(values) => {
            let n = n_distinct(&held, values.len());
            let is_own = n >= FEWEST && n as f64 > OWN_TEXTS * held.len() as f64;
            if is_own { is(Looks::Id, format!("{n} different texts in {} distinct rows", held.len())) } else { None }
        }
        Values::Numbers(values) => numbers_look_like(table, column, values, &held),
    }
}

fn numbers_look_like(table: &Table, column: &Column, values: &[f64], held: &[u32]) -> Option<LooksLike> {
    let is = |what: Looks, why: String| Some(LooksLike { what, why });
    let number = |code: u32| values[code as usize];
    let present = || values.iter().copied().filter(|x| !x.is_nan());
    let are_whole = present().all(|x| x.fract() == 0.0);
    let steps = |fits: &dyn Fn(f64, f64) -> bool| {
        let pairs = table.files.iter().flat_map(|part| column.codes[part.rows.clone()].windows(2));
        let (mut n, mut n_fitting) = (0_usize, 0_usize);
        for pair in pairs {
            n += 1;
            n_fitting += usize::from(fits(number(pair[0]), number(pair[1])));
        }
        (n, n_fitting)
    };
    let (n, by_one) = steps(&|a, b| (b - a - 1.0).abs() < 1e-9);
    // a row may have been left out
    if are_whole && n > 0 && by_one as f64 >= RISING * n as f64 {
        return is(Looks::Id, "it counts the rows".to_owned());
    }
    if is_epoch(present()) && n_distinct(held, values.len()) >= FEWEST {
        return is(Looks::Time, "its numbers are seconds since 1970 (or parts of them), from 2000 to 2100".to_owned());
    }
    let (n, rising) = steps(&|a, b| b >= a);
    let distinct = n_distinct(held, values.len());
    if n >= FEWEST && rising as f64 >= RISING * n as f64 && distinct as f64 >= OWN_TEXTS * held.len() as f64 {
        return is(Looks::Time, format!("it rises from row to row, as a clock or a counter does ({})", percent(rising, n)));
    }
    // a common value, such as 0 for flows that have no such number, does not count
    let used = times(held, values.len());
    let common = used.iter().copied().max().unwrap_or(0);
    let (own, others) = if common > 1 { (distinct - 1, held.len() - common) } else { (distinct, held.len()) };
    let is_own = others >= FEWEST.max(held.len() / 10) && own as f64 >= OWN_NUMBERS * others as f64;
    if are_whole && is_own {
        return is(Looks::Id, format!("{own} different whole numbers in {others} distinct rows"));
    }
    None
}

fn n_distinct(codes: &[u32], n_codes: usize) -> usize {
    times(codes, n_codes).into_iter().filter(|n| *n > 0).count()
}

/// How often each code occurs.
fn times(codes: &[u32], n_codes: usize) -> Vec<usize> {
    let mut times = vec![0; n_codes];
    for code in codes {
        times[*code as usize] += 1;
    }
    times
}

/// Whether numbers are seconds since 1970, or thousandths, millionths or billionths of them, from 2000 to 2100.
fn is_epoch(values: impl Iterator<Item = f64>) -> bool {
    const YEARS: (f64, f64) = (946_684_800.0, 4_102_444_800.0);
    let (min, max) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), x| (min.min(x), max.max(x)));
    min <= max && [1.0, 1e3, 1e6, 1e9].into_iter().any(|scale| min >= YEARS.0 * scale && max <= YEARS.1 * scale)
}

/// The features of which some rows are so, those with most rows first.
fn by_rows(table: &Table, of: impl Fn(&Column) -> (usize, Option<usize>)) -> Vec<Finding> {
    let mut findings: Vec<Finding> = table
        .features()
        .filter_map(|column| {
            let (n, first) = of(column);
            let row = first?;
            Some(Finding {
                column: Some(column.name.clone()),
                file: Some(table.file_of(row).name.clone()),
                row: Some(table.numbers[row]),
                rows: Some(n),
                value: Some(n as f64 / table.n_rows() as f64),
                what: format!("in {} ({})", count(n, "row"), percent(n, table.n_rows())),
            })
        })
        .collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.rows));
    findings
}

pub(crate) fn missing(table: &Table) -> Check {
    let of = |column: &Column| {
        let is_missing = |code: &u32| column.missing == Some(*code);
        (column.codes.iter().filter(|code| is_missing(code)).count(), column.codes.iter().position(is_missing))
    };
    let findings = by_rows(table, of);
    if findings.is_empty() {
        return passed(CheckName::Missing, "no feature is missing anywhere");
    }
    let n_never = findings.iter().filter(|finding| finding.rows == Some(table.n_rows())).count();
    let never = if n_never == 0 { String::new() } else { format!("; {n_never} in every row") };
    Check {
        check: CheckName::Missing,
        verdict: if n_never > 0 { Verdict::Warn } else { Verdict::Note },
        found: format!("{} missing in some rows{never}", has("feature", findings.len())),
        findings,
        advice: Some(
            "a missing value is a value of its own to the network: make sure that it means the same when you predict".to_owned(),
        ),
    }
}

pub(crate) fn infinite(table: &Table) -> Check {
    let findings = by_rows(table, |column| column.infinite);
    if findings.is_empty() {
        return passed(CheckName::Infinite, "no number is infinite");
    }
    Check {
        check: CheckName::Infinite,
        verdict: Verdict::Warn,
        found: format!("{} infinite in some rows, as rates of flows without duration are", has("feature", findings.len())),
        findings,
        advice: Some("choose in the schema what they are: `infinite: missing` (the default) or `clip`".to_owned()),
    }
}

/// `1 feature is`, `2 features are`.
fn has(what: &str, n: usize) -> String {
    format!("{} {}", count(n, what), if n == 1 { "is" } else { "are" })
}

pub(crate) fn leaks(table: &Table, columns: &[ColumnReport]) -> Check {
    if let Some(why) = lacks_labels(table) {
        return skipped(CheckName::Leaks, why);
    }
    if table.n_of(0).min(table.n_of(1)) < FEWEST_OF_A_CLASS {
        return skipped(CheckName::Leaks, "fewer than 10 rows of a class");
    }
    let mut features: Vec<&ColumnReport> = columns.iter().filter(|column| column.feature && column.auc.is_some()).collect();
    features.sort_by(|a, b| b.auc.unwrap_or(0.0).total_cmp(&a.auc.unwrap_or(0.0)));
    let best =
        features.first().map(|column| format!("the best is `{}` with ROC-AUC {:.4}", column.name, column.auc.unwrap_or(0.0)));
    let others: Vec<&ColumnReport> = columns.iter().filter(|column| !column.feature && is_leak(column)).collect();
    let others = no_features(&others, "does so, too", "do so, too");
    let leaks: Vec<&ColumnReport> = features.into_iter().filter(|column| is_leak(column)).collect();
    if leaks.is_empty() {
        let best = best.unwrap_or_else(|| "rows are too few to tell".to_owned());
        return passed(CheckName::Leaks, format!("no feature alone tells attacks from the rest: {best}{others}"));
    }
    let (n, n_features) = (leaks.len(), table.features().count());
    let advice = if n >= MANY_LEAKS && 5 * n > n_features {
        "so many say that attacks and benign flows were made in different ways, as in a testbed: hold out a day, a network or a \
         kind of attack, since a random split flatters every model"
    } else {
        "ask why it knows: set a column that stands for the answer, or for how the data were made, to `ignored`, or report figures \
         without it, too"
    };
    Check {
        check: CheckName::Leaks,
        verdict: Verdict::Warn,
        found: format!(
            "{n} of {n_features} features alone {} attacks from the rest (ROC-AUC {LEAK} or more, or certain of {:.0} % of \
             the attacks or the benign rows){others}",
            if n == 1 { "tells" } else { "tell" },
            100.0 * GIVEN_AWAY
        ),
        findings: leaks.into_iter().map(|column| leak(table, column)).collect(),
        advice: Some(advice.to_owned()),
    }
}

fn is_leak(column: &ColumnReport) -> bool {
    column.auc.is_some_and(|area| area >= LEAK)
        || column.given_away.is_some_and(|given| given.benign.max(given.attacks) >= GIVEN_AWAY)
}

fn leak(table: &Table, column: &ColumnReport) -> Finding {
    let area = column.auc.unwrap_or(0.0);
    let given = column.given_away.iter().flat_map(|given| [(given.benign, "benign rows"), (given.attacks, "attacks")]);
    let given = given.filter(|(share, _)| *share >= GIVEN_AWAY);
    let sure: Vec<String> = given.map(|(share, class)| format!(", certain of {:.0} % of the {class}", 100.0 * share)).collect();
    let sure = sure.concat();
    let is_by_order = column.auc_by_order.is_some_and(|order| order >= column.auc_by_values.unwrap_or(0.0));
    let medians = column
        .medians
        .filter(|_| is_by_order && sure.is_empty())
        .map(|Medians { benign, attacks }| format!("; the median is {attacks} in attacks and {benign} in benign rows"));
    let telling = column.telling.as_ref().map(|telling| {
        let rows = count(telling.rows, "row");
        format!("; of {rows} with {}, {} are attacks", telling.value, percent(telling.attacks, telling.rows))
    });
    Finding {
        column: Some(column.name.clone()),
        value: Some(area),
        what: format!("ROC-AUC {area:.4}{sure}{}", medians.or(telling).unwrap_or_default()),
        ..example(table, column)
    }
}

/// Names columns that are no features, behind a semicolon: `; "a" and "b", which are no features, do so`.
fn no_features(columns: &[&ColumnReport], does: &str, do_: &str) -> String {
    let names: Vec<String> = columns.iter().map(|column| format!("`{}`", column.name)).collect();
    match names.len() {
        0 => String::new(),
        1 => format!("; {}, which is no feature, {does}", names[0]),
        _ => format!("; {}, which are no features, {do_}", some_of(&names)),
    }
}

/// A row with the value of the column that says most.
fn example(table: &Table, report: &ColumnReport) -> Finding {
    let Some(telling) = &report.telling else { return Finding::default() };
    let column = feature_of(table, report);
    let code = (0..column.values.len() as u32).find(|code| column.values.shown(*code) == telling.value);
    let is_it = |row: &usize| table.labels[*row] < 2 && Some(column.codes[*row]) == code;
    let row = (0..table.n_rows()).find(is_it).expect("a value of some row");
    Finding { file: Some(table.file_of(row).name.clone()), row: Some(table.numbers[row]), ..Finding::default() }
}

/// Features that look like something that is none.
pub(crate) fn look_like(table: &Table, columns: &[ColumnReport], what: Looks) -> Check {
    let (check, is_it, advice) = match what {
        Looks::Id => (
            CheckName::Ids,
            "an id",
            "set it to `ignored` in the schema: ids, ports of clients and sequence numbers say nothing of other rows",
        ),
        Looks::Time => (
            CheckName::Times,
            "a moment",
            "set it to `time` in the schema: what is learned of it holds for the days of training alone",
        ),
        Looks::Constant => {
            (CheckName::Constant, "the same in every row", "set it to `ignored` in the schema, unless other files differ in it")
        }
    };
    let of = |is_feature: bool| -> Vec<&ColumnReport> {
        let looks = |column: &&ColumnReport| column.looks_like.as_ref().is_some_and(|looks| looks.what == what);
        columns.iter().filter(|column| column.feature == is_feature).filter(looks).collect()
    };
    let features = of(true);
    if features.is_empty() {
        let others = if what == Looks::Constant { String::new() } else { no_features(&of(false), "looks so", "look so") };
        return passed(check, format!("no feature is {is_it}{others}"));
    }
    let n = features.len();
    let found = match what {
        Looks::Constant => format!("{} {is_it}", has("feature", n)),
        _ => format!("{} {} like {is_it}", count(n, "feature"), if n == 1 { "looks" } else { "look" }),
    };
    let findings = features.into_iter().map(|report| look(table, report)).collect();
    Check { check, verdict: Verdict::Warn, found, findings, advice: Some(advice.to_owned()) }
}

/// Why a column looks so, with a value that only one row has.
fn look(table: &Table, report: &ColumnReport) -> Finding {
    let column = feature_of(table, report);
    let used = times(&column.codes, column.values.len());
    let row = column.codes.iter().position(|code| used[*code as usize] == 1);
    let such_as = row.map_or_else(String::new, |row| format!(", such as {}", column.values.shown(column.codes[row])));
    let why = report.looks_like.as_ref().map_or("", |looks| looks.why.as_str());
    Finding {
        column: Some(report.name.clone()),
        file: row.map(|row| table.file_of(row).name.clone()),
        row: row.map(|row| table.numbers[row]),
        what: format!("{why}{such_as}"),
        ..Finding::default()
    }
}

fn feature_of<'t>(table: &'t Table, report: &ColumnReport) -> &'t Column {
    table.columns.iter().find(|column| column.is_feature && column.name == report.name).expect("a report of a feature")
}
