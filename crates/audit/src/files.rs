//! Files as a whole: labels, what cannot be read, the order of rows, the official files of UNSW-NB15.

use nids_flows::NO_LABEL;

use crate::report::{Check, CheckName, FileReport, Finding, LabelOrder, Verdict};
use crate::table::{Part, Table, n_labelled};
use crate::{FEW_RUNS, RARE_CLASS, count, lacks_labels, passed, percent, skipped};

/// Rows, attacks and names of the official files of UNSW-NB15 (Moustafa & Slay 2015).
const OFFICIAL: [(usize, usize, &str); 2] = [(175_341, 119_341, "training"), (82_332, 45_332, "testing")];

pub(crate) fn report(table: &Table, part: &Part) -> FileReport {
    let labels = &table.labels[part.rows.clone()];
    let n_of = |label: u8| n_labelled(labels, label);
    let (benign, attacks) = (n_of(0), n_of(1));
    let is_unsw = ["sttl", "dttl", "ct_state_ttl"].iter().all(|name| table.features().any(|column| column.name == *name));
    let is_it = |&&(rows, n, _): &&(usize, usize, &str)| is_unsw && labels.len() == rows && (attacks == n || !part.has_labels);
    FileReport {
        name: part.name.clone(),
        rows: labels.len(),
        unreadable: part.unreadable,
        benign,
        attacks,
        unlabelled: n_of(NO_LABEL),
        categories: part.categories.clone(),
        order: order(labels),
        official: OFFICIAL.iter().find(is_it).map(|(.., name)| *name),
    }
}

/// How labels follow one another; rows without a label do not count.
fn order(labels: &[u8]) -> Option<LabelOrder> {
    let labels: Vec<u8> = labels.iter().copied().filter(|label| *label != NO_LABEL).collect();
    let n = labels.len() as f64;
    let attacks = n_labelled(&labels, 1) as f64;
    let benign = n - attacks;
    if attacks * benign == 0.0 {
        return None;
    }
    let runs = || labels.chunk_by(|a, b| a == b);
    // the longest run of n draws, each of which is of the class with probability p: log of n (1 - p) to the base 1 / p
    // (Gordon, Schilling & Waterman 1986), for the more frequent class
    let p = attacks.max(benign) / n;
    let longest = (n * (1.0 - p)).ln() / -p.ln();
    Some(LabelOrder {
        runs: runs().count(),
        expected_runs: 2.0 * attacks * benign / n + 1.0,
        longest_run: runs().map(<[u8]>::len).max().unwrap_or(0),
        expected_longest_run: longest.max(1.0),
    })
}

pub(crate) fn labels(table: &Table) -> Check {
    let (benign, attacks, none) = (table.n_of(0), table.n_of(1), table.n_of(NO_LABEL));
    if benign + attacks == 0 {
        let why = lacks_labels(table).unwrap_or_default();
        return skipped(CheckName::Labels, &format!("{why}: what needs labels is skipped"));
    }
    let (rare, labelled) = (benign.min(attacks), benign + attacks);
    let (verdict, advice) = match rare {
        0 => (Verdict::Warn, Some("a classifier needs both classes: add rows of the other one".to_owned())),
        _ if (rare as f64) < RARE_CLASS * labelled as f64 => {
            let what = "accuracy says little here: look at recall, precision and PR-AUC";
            (Verdict::Warn, Some(what.to_owned()))
        }
        _ if none > 0 => (Verdict::Note, None),
        _ => (Verdict::Pass, None),
    };
    let unlabelled = if none == 0 { String::new() } else { format!(", {none} without a label") };
    let found =
        format!("{} ({}), {}{unlabelled}", count(attacks, "attack"), percent(attacks, labelled), count(benign, "benign row"));
    Check { check: CheckName::Labels, verdict, found, findings: Vec::new(), advice }
}

pub(crate) fn unreadable(table: &Table) -> Check {
    let n: u64 = table.files.iter().map(|part| part.unreadable).sum();
    if n == 0 {
        return passed(CheckName::Unreadable, "all rows can be read");
    }
    let findings = table.files.iter().flat_map(|part| {
        part.why_unreadable.iter().map(|why| Finding { file: Some(part.name.clone()), what: why.clone(), ..Finding::default() })
    });
    Check {
        check: CheckName::Unreadable,
        verdict: Verdict::Warn,
        found: format!("{} cannot be read and {} left out here", count(n as usize, "row"), if n == 1 { "is" } else { "are" }),
        findings: findings.collect(),
        advice: Some("mend them, or leave them out: `--on-bad-row skip --rejects FILE`".to_owned()),
    }
}

pub(crate) fn label_order(files: &[FileReport]) -> Check {
    let ordered = || files.iter().filter_map(|file| file.order.as_ref().map(|order| (file, order)));
    if ordered().next().is_none() {
        return skipped(CheckName::LabelOrder, "no file has rows of both classes");
    }
    let ratio = |order: &LabelOrder| order.runs as f64 / order.expected_runs;
    let is_sorted = |order: &LabelOrder| ratio(order) < FEW_RUNS;
    let finding = |(file, order): (&FileReport, &LabelOrder)| Finding {
        file: Some(file.name.clone()),
        value: Some(ratio(order)),
        what: format!(
            "{} of equal labels, a random order has about {:.0}; the longest has {}, at random about {:.0}",
            count(order.runs, "run"),
            order.expected_runs,
            count(order.longest_run, "row"),
            order.expected_longest_run
        ),
        ..Finding::default()
    };
    let mut sorted: Vec<(&FileReport, &LabelOrder)> = ordered().filter(|(_, order)| is_sorted(order)).collect();
    sorted.sort_by(|a, b| ratio(a.1).total_cmp(&ratio(b.1)));
    if sorted.is_empty() {
        return passed(CheckName::LabelOrder, "rows are not sorted by label");
    }
    Check {
        check: CheckName::LabelOrder,
        verdict: Verdict::Warn,
        found: format!(
            "rows stand in the order of their labels, or in blocks, in {} of {}",
            sorted.len(),
            count(files.len(), "file")
        ),
        findings: sorted.into_iter().map(finding).collect(),
        advice: Some("never cut such a file by place (`head`, the last tenth): `finetune` holds rows out at random".to_owned()),
    }
}

pub(crate) fn official(files: &[FileReport]) -> Check {
    let known: Vec<(&FileReport, &str)> = files.iter().filter_map(|file| Some((file, file.official?))).collect();
    if known.is_empty() {
        return skipped(CheckName::Official, "no file has the rows and the attacks of an official file of UNSW-NB15");
    }
    let says = |file: &FileReport| {
        let path = file.name.to_lowercase();
        let name = path.rsplit(['/', '\\']).next().unwrap_or_default();
        match (name.contains("train"), name.contains("test")) {
            (true, false) => Some("training"),
            (false, true) => Some("testing"),
            _ => None,
        }
    };
    let swapped = |file: &FileReport, is: &str| says(file).is_some_and(|says| says != is);
    let n_swapped = known.iter().filter(|(file, is)| swapped(file, is)).count();
    let finding = |&(file, is): &(&FileReport, &str)| {
        let but = if swapped(file, is) { ", whatever its name says" } else { "" };
        let attacks = if file.attacks + file.benign > 0 { format!(" and {} attacks", file.attacks) } else { String::new() };
        Finding {
            file: Some(file.name.clone()),
            rows: Some(file.rows),
            what: format!("{} rows{attacks}: it is the official {is} set{but}", file.rows),
            ..Finding::default()
        }
    };
    let findings = known.iter().map(finding).collect();
    if n_swapped == 0 {
        return Check { findings, ..passed(CheckName::Official, "official files of UNSW-NB15, named as they are") };
    }
    Check {
        check: CheckName::Official,
        verdict: Verdict::Warn,
        found: format!("{} of UNSW-NB15 with the other one's name", count(n_swapped, "official file")),
        findings,
        advice: Some(
            "train on the file of 175341 rows, and test on the one of 82332: a well-known download has swapped the names"
                .to_owned(),
        ),
    }
}
