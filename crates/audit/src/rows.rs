//! Rows with equal features.

use std::collections::BTreeMap;

use crate::report::{Check, CheckName, Conflicts, EqualRows, Finding, GroupSizes, Verdict};
use crate::table::Table;
use crate::{FEW_ROWS, LOST_ACCURACY, count, lacks_labels, passed, percent, skipped};

/// The share of rows that a random split holds out.
const HELD_OUT: f64 = 0.2;
/// The smallest size of each class of groups.
const SIZES: [usize; 6] = [1, 2, 3, 6, 11, 101];

/// Benign rows and attacks of a group.
fn by_label(table: &Table, group: &[u32]) -> [usize; 2] {
    [0, 1].map(|label| group.iter().filter(|&&row| table.labels[row as usize] == label).count())
}

pub(crate) fn equal_rows(table: &Table) -> EqualRows {
    let groups = &table.groups;
    let n = table.n_rows();
    let in_groups: usize = groups.iter().map(Vec::len).filter(|size| *size > 1).sum();
    let mut sizes: Vec<GroupSizes> = SIZES.iter().map(|&from| GroupSizes { from, to: from, groups: 0, rows: 0 }).collect();
    for size in groups.iter().map(Vec::len) {
        let class = &mut sizes[SIZES.partition_point(|from| *from <= size) - 1];
        (class.to, class.groups, class.rows) = (class.to.max(size), class.groups + 1, class.rows + size);
    }
    sizes.retain(|class| class.groups > 0);
    // a held-out row has a twin in training unless all others of its group are held out, too
    let twins: f64 = groups.iter().map(|group| group.len() as f64 * (1.0 - HELD_OUT.powf(group.len() as f64 - 1.0))).sum();
    EqualRows {
        groups: groups.len(),
        repeats: n - groups.len(),
        share_in_groups: in_groups as f64 / n as f64,
        largest: groups.iter().map(Vec::len).max().unwrap_or(0),
        sizes,
        twins_in_random_split: twins / n as f64,
        conflicts: lacks_labels(table).is_none().then(|| conflicts_of(table)),
    }
}

fn conflicts_of(table: &Table) -> Conflicts {
    let (mut groups, mut rows, mut lost) = (0, 0, 0);
    for [benign, attacks] in table.groups.iter().map(|group| by_label(table, group)).filter(|[a, b]| a * b > 0) {
        (groups, rows, lost) = (groups + 1, rows + benign + attacks, lost + benign.min(attacks));
    }
    let labelled = table.n_of(0) + table.n_of(1);
    Conflicts { groups, rows, lost, highest_accuracy: 1.0 - lost as f64 / labelled as f64 }
}

/// Rows that equal an earlier one of the same file.
pub(crate) fn duplicates(table: &Table) -> Check {
    // by file: rows that repeat, the largest group, and its first row
    let mut repeats = vec![(0, 0, 0_u32); table.files.len()];
    let file_of = |row: u32| table.place_of_file(row as usize);
    for group in table.groups.iter().filter(|group| group.len() > 1) {
        for here in group.chunk_by(|a, b| file_of(*a) == file_of(*b)) {
            let (sum, largest, first) = &mut repeats[file_of(here[0])];
            *sum += here.len() - 1;
            if here.len() > *largest {
                (*largest, *first) = (here.len(), here[0]);
            }
        }
    }
    let total: usize = repeats.iter().map(|(n, ..)| n).sum();
    if total == 0 {
        return passed(CheckName::Duplicates, "no row repeats another one of its file");
    }
    let mut findings: Vec<Finding> = table
        .files
        .iter()
        .zip(&repeats)
        .filter(|(_, (n, ..))| *n > 0)
        .map(|(part, &(n, largest, first))| Finding {
            file: Some(part.name.clone()),
            row: Some(table.numbers[first as usize]),
            rows: Some(n),
            value: Some(n as f64 / part.rows.len() as f64),
            what: format!(
                "{} of {} rows repeat an earlier one; the row that occurs most often does so {largest} times",
                n,
                part.rows.len()
            ),
            ..Finding::default()
        })
        .collect();
    findings.sort_by(|a, b| b.value.unwrap_or(0.0).total_cmp(&a.value.unwrap_or(0.0)));
    let is_many = total as f64 >= FEW_ROWS * table.n_rows() as f64;
    Check {
        check: CheckName::Duplicates,
        verdict: if is_many { Verdict::Warn } else { Verdict::Note },
        found: format!(
            "{} {} an earlier one of {} file in all features ({})",
            count(total, "row"),
            if total == 1 { "repeats" } else { "repeat" },
            if total == 1 { "its" } else { "their" },
            percent(total, table.n_rows())
        ),
        findings,
        advice: Some("report metrics without repeated rows, too: a model that is right about one is right about all".to_owned()),
    }
}

/// Rows of a file that equal a row of an earlier file.
pub(crate) fn across_files(table: &Table) -> Check {
    if table.files.len() < 2 {
        return skipped(CheckName::AcrossFiles, "one file");
    }
    let file_of = |row: u32| table.place_of_file(row as usize);
    // rows of the later file, and an example of both, by pair of files
    let mut pairs: BTreeMap<(usize, usize), (usize, u32, u32)> = BTreeMap::new();
    let mut total = 0;
    for group in table.groups.iter().filter(|group| group.len() > 1) {
        let first = file_of(group[0]);
        for here in group.chunk_by(|a, b| file_of(*a) == file_of(*b)).skip(1) {
            let entry = pairs.entry((file_of(here[0]), first)).or_insert((0, here[0], group[0]));
            entry.0 += here.len();
            total += here.len();
        }
    }
    if total == 0 {
        return passed(CheckName::AcrossFiles, "no row of a file equals one of another file");
    }
    let mut findings: Vec<Finding> = pairs
        .into_iter()
        .map(|((later, first), (n, row, twin))| {
            let (later, first) = (&table.files[later], &table.files[first]);
            Finding {
                file: Some(later.name.clone()),
                row: Some(table.numbers[row as usize]),
                rows: Some(n),
                value: Some(n as f64 / later.rows.len() as f64),
                what: format!(
                    "{n} of {} rows ({}) equal a row of {}, such as its row {}",
                    later.rows.len(),
                    percent(n, later.rows.len()),
                    first.name,
                    table.numbers[twin as usize]
                ),
                ..Finding::default()
            }
        })
        .collect();
    findings.sort_by(|a, b| b.value.unwrap_or(0.0).total_cmp(&a.value.unwrap_or(0.0)));
    let worst = findings.first().and_then(|finding| finding.value).unwrap_or(0.0);
    Check {
        check: CheckName::AcrossFiles,
        verdict: if worst >= FEW_ROWS { Verdict::Warn } else { Verdict::Note },
        found: format!(
            "{} {} a row of an earlier file in all features",
            count(total, "row"),
            if total == 1 { "equals" } else { "equal" }
        ),
        findings,
        advice: Some("leave these rows out where one file is to test what another one trains: a model has seen them".to_owned()),
    }
}

pub(crate) fn conflicts(table: &Table, equal_rows: &EqualRows) -> Check {
    let Some(conflicts) = &equal_rows.conflicts else {
        return skipped(CheckName::Conflicts, lacks_labels(table).unwrap_or_default());
    };
    if conflicts.groups == 0 {
        return passed(CheckName::Conflicts, "rows with equal features have equal labels");
    }
    let mut worst: Vec<(usize, &Vec<u32>, [usize; 2])> = table
        .groups
        .iter()
        .map(|group| (group, by_label(table, group)))
        .filter(|(_, [a, b])| a * b > 0)
        .map(|(group, counts)| (counts[0].min(counts[1]), group, counts))
        .collect();
    worst.sort_by(|a, b| b.0.cmp(&a.0).then(a.1[0].cmp(&b.1[0])));
    let finding = |(lost, group, [benign, attacks]): (usize, &Vec<u32>, [usize; 2])| {
        let first_of = |label: u8| group.iter().find(|&&row| table.labels[row as usize] == label).map_or(0, |row| *row as usize);
        let (normal, attack) = (first_of(0), first_of(1));
        let other = &table.file_of(attack).name;
        let of = if *other == table.file_of(normal).name { String::new() } else { format!(" of {other}") };
        Finding {
            file: Some(table.file_of(normal).name.clone()),
            row: Some(table.numbers[normal]),
            rows: Some(benign + attacks),
            value: Some(lost as f64),
            what: format!(
                "{} and {}; row {}{of} is an attack and equals a benign one",
                count(benign, "benign row"),
                count(attacks, "attack"),
                table.numbers[attack]
            ),
            ..Finding::default()
        }
    };
    let lost = 1.0 - conflicts.highest_accuracy;
    Check {
        check: CheckName::Conflicts,
        verdict: if lost >= LOST_ACCURACY { Verdict::Warn } else { Verdict::Note },
        found: format!(
            "{} with equal features and different labels in {}: no model can have an accuracy above {:.4} here",
            count(conflicts.rows, "row"),
            count(conflicts.groups, "group"),
            conflicts.highest_accuracy
        ),
        findings: worst.into_iter().take(10).map(finding).collect(),
        advice: Some("correct the labels, or add a feature that tells these rows apart".to_owned()),
    }
}

pub(crate) fn random_split(equal_rows: &EqualRows) -> Check {
    let twins = equal_rows.twins_in_random_split;
    let found = format!(
        "of a fifth held out at random, {:.2} % equal a training row; {} of equal rows, the largest has {}",
        100.0 * twins,
        count(equal_rows.sizes.iter().filter(|class| class.from > 1).map(|class| class.groups).sum(), "group"),
        count(equal_rows.largest, "row")
    );
    if twins < FEW_ROWS {
        return passed(CheckName::RandomSplit, found);
    }
    let finding = |class: &GroupSizes| Finding {
        rows: Some(class.rows),
        value: Some(class.groups as f64),
        what: if class.from == class.to {
            format!("{} of {}: {}", count(class.groups, "group"), count(class.from, "row"), count(class.rows, "row"))
        } else {
            format!("{} of {} to {} rows: {} rows", count(class.groups, "group"), class.from, class.to, class.rows)
        },
        ..Finding::default()
    };
    Check {
        check: CheckName::RandomSplit,
        verdict: Verdict::Warn,
        found,
        findings: equal_rows.sizes.iter().map(finding).collect(),
        advice: Some(
            "keep equal rows on one side, as `data.validation_fraction` does, and compare figures with those of such splits only"
                .to_owned(),
        ),
    }
}
