//! Generated flows with a column that knows the label, rows that occur twice, and a second file from other hosts: what the audit makes
//! of them.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use nids_audit::{CheckName, File, Verdict, audit};
use nids_flows::{FeatureColumn, Flows, synthetic};

/// Flows whose feature `feature` is 1,000 more in attacks, or by `shift` in all rows.
fn with_planted(mut flows: Flows, feature: usize, shift: f64) -> Flows {
    let labels = flows.labels().unwrap_or_default().to_vec();
    for (row, label) in labels.into_iter().enumerate() {
        let FeatureColumn::Numeric(values) = &flows.features()[feature] else { continue };
        let value = values[row] + shift + 1000.0 * f64::from(label);
        flows.put(row, feature, value);
    }
    flows
}

fn main() {
    // `trans_depth` is 0 or 1 in generated flows
    let generated = synthetic(3000, 1);
    let feature = generated.schema().features().position(|column| column.name == "trans_depth").expect("a feature");
    let mut first = with_planted(generated, feature, 0.0);
    first.extend(first.select(&(0..500).collect::<Vec<u32>>()));
    let second = with_planted(synthetic(2000, 2), feature, 7.0);
    let audit = audit(vec![File::new("first.csv", first), File::new("second.csv", second)]);

    for check in &audit.checks {
        println!("{:8} {:13} {}", format!("{:?}", check.verdict), format!("{:?}", check.check), check.found);
    }
    let check = |name: CheckName| audit.checks.iter().find(|check| check.check == name).expect("all checks are there");
    let names = |name: CheckName| check(name).findings.iter().filter_map(|finding| finding.column.as_deref()).collect::<Vec<_>>();
    assert_eq!(names(CheckName::Leaks)[0], "trans_depth");
    assert_eq!(names(CheckName::Drift)[0], "trans_depth");
    assert_eq!(check(CheckName::Duplicates).verdict, Verdict::Warn);
    assert!(audit.equal_rows.repeats >= 500);
}
