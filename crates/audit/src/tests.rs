use std::fmt::Write as _;
use std::io::Write as _;

use nids_flows::FlowReader;

use super::*;

const SCHEMA: &str = "
name: toy
columns:
  - { name: id, kind: ignored }
  - { name: dur, kind: numeric }
  - { name: bytes, kind: numeric }
  - { name: proto, kind: categorical }
  - { name: kind, kind: category }
  - { name: label, kind: label }
";

/// The rows of a text, as the command reads them.
fn file_by(schema: &str, name: &str, csv: &str) -> File {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(csv.as_bytes()).unwrap();
    let schema = Schema::parse("toy.yaml", schema).unwrap();
    let (by, options) = read_options(&schema);
    let mut reader = FlowReader::open(&[file.path()], &by, &options).unwrap();
    let mut flows = reader.next_batch(usize::MAX).unwrap().unwrap();
    let others = reader.others().iter().cloned().zip(flows.take_carried()).collect();
    File { others, keeps_infinite: keeps_infinite(&schema), ..File::new(name, flows) }
}

fn file(name: &str, csv: &str) -> File {
    file_by(SCHEMA, name, csv)
}

/// A file of `n` rows, whose line each is made of its number and 64 bits that follow no pattern.
fn rows(name: &str, header: &str, n: u64, line: impl Fn(u64, u64) -> String) -> File {
    let mut csv = format!("{header}\n");
    for row in 0..n {
        let mut z = row.wrapping_add(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        writeln!(csv, "{}", line(row, z ^ (z >> 31))).unwrap();
    }
    file(name, &csv)
}

const HEADER: &str = "dur,bytes,proto,label";

/// Rows of which no column says anything of the label.
fn plain(name: &str, n: u64) -> File {
    rows(name, HEADER, n, |_, bits| {
        format!("{}.5,{},{},{}", bits % 1000, bits / 1000 % 97, ["tcp", "udp"][(bits >> 20) as usize % 2], bits >> 63)
    })
}

fn check(audit: &Audit, name: CheckName) -> &Check {
    audit.checks.iter().find(|check| check.check == name).unwrap()
}

/// Verdict, and column, row and number of rows of each finding.
fn found(audit: &Audit, name: CheckName) -> (Verdict, Vec<(&str, u64, usize)>) {
    let check = check(audit, name);
    let findings = check
        .findings
        .iter()
        .map(|finding| (finding.column.as_deref().unwrap_or(""), finding.row.unwrap_or(0), finding.rows.unwrap_or(0)));
    (check.verdict, findings.collect())
}

fn column<'a>(audit: &'a Audit, name: &str) -> &'a ColumnReport {
    audit.columns.iter().find(|column| column.name == name).unwrap()
}

#[test]
fn plain_rows_pass_all_checks() {
    let audit = audit(vec![plain("a.csv", 400)]);
    assert_eq!(audit.warnings().next(), None, "{audit:#?}");
    let skipped: Vec<CheckName> =
        audit.checks.iter().filter(|check| check.verdict == Verdict::Skipped).map(|check| check.check).collect();
    assert_eq!(skipped, [CheckName::AcrossFiles, CheckName::Official, CheckName::Drift]);
}

#[test]
fn rows_classes_and_kinds_are_counted_file_by_file() {
    let one = file("a.csv", "dur,bytes,proto,kind,label\n1,2,tcp,DoS,1\n2,2,tcp,,0\n3,2,tcp,DoS,1\n");
    let two = file("b.csv", "dur,bytes,proto\n4,2,udp\n");
    let audit = audit(vec![one, two]);
    assert_eq!((audit.rows, audit.schema.as_str()), (4, "toy"));
    let [a, b] = &audit.files[..] else { panic!("two files") };
    assert_eq!((a.rows, a.benign, a.attacks, a.unlabelled), (3, 1, 2, 0));
    assert_eq!((b.rows, b.benign, b.attacks, b.unlabelled), (1, 0, 0, 1));
    assert_eq!(a.categories.iter().map(|(name, n)| (name.as_str(), *n)).collect::<Vec<_>>(), [("", 1), ("DoS", 2)]);
    assert_eq!(check(&audit, CheckName::Labels).found, "2 attacks (66.67 %), 1 benign row, 1 without a label");
}

#[test]
fn a_rare_class_is_a_warning() {
    let of = |n: u64| {
        let file = rows("a.csv", HEADER, 1000, |row, bits| format!("{bits},{row},tcp,{}", u8::from(row < n)));
        check(&audit(vec![file]), CheckName::Labels).verdict
    };
    assert_eq!([of(50), of(49), of(0)], [Verdict::Pass, Verdict::Warn, Verdict::Warn]);
}

#[test]
fn missing_and_infinite_cells_are_counted_apart() {
    let csv = "dur,bytes,proto,label\n1,inf,tcp,0\n2,-,-,1\n3,Infinity,tcp,0\n4,5,tcp,1\n";
    let clip = format!("infinite: clip\n{}", SCHEMA.trim_start());
    let (missing, clipped) = (audit(vec![file("a.csv", csv)]), audit(vec![file_by(&clip, "a.csv", csv)]));
    assert_eq!(found(&missing, CheckName::Infinite), (Verdict::Warn, vec![("bytes", 1, 2)]));
    assert_eq!(found(&missing, CheckName::Missing), (Verdict::Note, vec![("bytes", 1, 3), ("proto", 2, 1)]));
    assert_eq!(found(&clipped, CheckName::Infinite), (Verdict::Warn, vec![("bytes", 1, 2)]));
    assert_eq!(found(&clipped, CheckName::Missing), (Verdict::Note, vec![("bytes", 2, 1), ("proto", 2, 1)]));
    let bytes = column(&missing, "bytes");
    assert_eq!((bytes.missing, bytes.infinite, bytes.distinct), (3, 2, 2));
}

#[test]
fn cells_are_counted_over_all_files_and_the_example_is_in_its_own() {
    let one = file("a.csv", "dur,bytes,proto,label\n1,1,tcp,0\n2,inf,tcp,1\n");
    let two = file("b.csv", "dur,bytes,proto,label\n3,inf,-,0\n4,2,tcp,1\n");
    let audit = audit(vec![one, two]);
    assert_eq!(found(&audit, CheckName::Infinite), (Verdict::Warn, vec![("bytes", 2, 2)]));
    let proto = &check(&audit, CheckName::Missing).findings[1];
    assert_eq!((proto.column.as_deref(), proto.file.as_deref(), proto.row), (Some("proto"), Some("b.csv"), Some(1)));
}

#[test]
fn of_one_class_nothing_gives_the_label_away() {
    for (label, why) in [(0, "no row is an attack"), (1, "no row is benign")] {
        let audit = audit(vec![rows("a.csv", HEADER, 50, |row, bits| format!("{bits},{row},tcp,{label}"))]);
        assert_eq!(
            (check(&audit, CheckName::Leaks).verdict, check(&audit, CheckName::Leaks).found.as_str()),
            (Verdict::Skipped, why)
        );
        assert_eq!((check(&audit, CheckName::Labels).verdict, column(&audit, "dur").auc), (Verdict::Warn, None));
    }
}

#[test]
fn a_feature_that_is_missing_in_every_row_is_a_warning() {
    let audit = audit(vec![file("a.csv", "dur,bytes,proto,label\n1,,tcp,0\n2,,tcp,1\n")]);
    assert_eq!(found(&audit, CheckName::Missing), (Verdict::Warn, vec![("bytes", 1, 2)]));
}

#[test]
fn rows_that_cannot_be_read_are_a_warning_with_their_reasons() {
    let mut file = plain("a.csv", 50);
    (file.unreadable, file.why_unreadable) = (2, vec!["line 7: column \"dur\": no number".to_owned()]);
    let audit = audit(vec![file]);
    let check = check(&audit, CheckName::Unreadable);
    assert_eq!((check.verdict, check.findings[0].what.as_str()), (Verdict::Warn, "line 7: column \"dur\": no number"));
    assert_eq!(audit.files[0].unreadable, 2);
}

#[test]
fn a_feature_that_is_the_same_in_every_row_is_named() {
    let audit = audit(vec![file("a.csv", "dur,bytes,proto,label\n1,7,tcp,0\n2,7,tcp,1\n3,7,udp,1\n")]);
    assert_eq!(found(&audit, CheckName::Constant), (Verdict::Warn, vec![("bytes", 0, 0)]));
    assert_eq!(check(&audit, CheckName::Constant).findings[0].what, "7 in every row");
}

#[test]
fn a_feature_that_alone_gives_the_label_away_is_named_with_its_most_telling_value() {
    // bytes: attacks are larger; proto: one kind of benign rows has a value of its own, and dur says nothing
    let file = rows("a.csv", HEADER, 1000, |row, bits| {
        let label = row % 2;
        let proto = if label == 0 && (2..452).contains(&row) { "icmp" } else { "tcp" };
        format!("{}.5,{},{proto},{label}", bits % 100, bits % 90 + 80 * label)
    });
    let audit = audit(vec![file]);
    let (verdict, findings) = found(&audit, CheckName::Leaks);
    assert_eq!((verdict, findings[0].0, findings[1]), (Verdict::Warn, "bytes", ("proto", 3, 0)));
    let (bytes, proto) = (column(&audit, "bytes"), column(&audit, "proto"));
    assert!(bytes.auc_by_order.unwrap() > 0.98 && proto.auc.unwrap() < 0.8, "{bytes:?} {proto:?}");
    assert!((proto.given_away.unwrap().benign - 0.45).abs() < 0.01 && proto.given_away.unwrap().attacks < 0.01);
    assert_eq!(proto.telling, Some(Telling { value: "\"icmp\"".to_owned(), rows: 225, attacks: 0 }));
    assert!(column(&audit, "dur").auc.unwrap() < 0.6);
    let what = &check(&audit, CheckName::Leaks).findings[0].what;
    // of 0 to 89 and of 80 to 169
    let medians = bytes.medians.unwrap();
    assert!((medians.benign - 44.5).abs() < 3.0 && (medians.attacks - 124.5).abs() < 3.0, "{medians:?}");
    assert!(what.ends_with(&format!("in attacks and {} in benign rows", medians.benign)), "{what}");
    let what = &check(&audit, CheckName::Leaks).findings[1].what;
    assert!(what.ends_with("certain of 45 % of the benign rows; of 225 rows with \"icmp\", 0.00 % are attacks"), "{what}");
}

#[test]
fn a_feature_that_is_missing_in_attacks_gives_them_away() {
    // attacks have no number, or a smaller one than benign rows: what is missing counts as smaller than all, or as larger
    for sign in ["", "-"] {
        let file = rows("a.csv", HEADER, 600, |row, bits| {
            let number = match bits >> 63 {
                0 => format!("{sign}{}", 60 + bits % 50),
                _ if row % 2 == 0 => String::new(),
                _ => format!("{sign}{}", 1 + bits % 50),
            };
            format!("{},{number},tcp,{}", bits % 1000, bits >> 63)
        });
        assert_eq!(column(&audit(vec![file]), "bytes").auc_by_order, Some(1.0), "{sign}");
    }
}

#[test]
fn labels_that_alternate_are_in_both_halves() {
    let file = rows("a.csv", HEADER, 200, |row, bits| format!("{bits},{},tcp,{}", row % 2 * 9, row % 2));
    assert_eq!(column(&audit(vec![file]), "bytes").auc_by_values, Some(1.0));
}

#[test]
fn a_column_that_is_no_feature_is_judged_and_is_no_warning() {
    let header = "id,dur,bytes,proto,label,host";
    let file = rows("a.csv", header, 300, |row, bits| {
        let label = bits >> 63;
        format!("{},{},{},tcp,{label},{}", row + 1, bits % 1000, bits / 1000 % 97, ["10.0.0.1", "10.0.0.2"][label as usize])
    });
    let audit = audit(vec![file]);
    assert!(!column(&audit, "host").feature && column(&audit, "host").auc == Some(1.0));
    let leaks = check(&audit, CheckName::Leaks);
    assert_eq!(leaks.verdict, Verdict::Pass);
    assert!(leaks.found.ends_with("; `host`, which is no feature, does so, too"), "{}", leaks.found);
    let ids = check(&audit, CheckName::Ids);
    assert_eq!((ids.verdict, ids.found.as_str()), (Verdict::Pass, "no feature is an id; `id`, which is no feature, looks so"));
}

#[test]
fn numbers_and_texts_of_ones_own_look_like_ids_although_rows_repeat() {
    // half of the rows occur twice; bytes is 0 in a third of them, and drawn from 32 bits in the others
    let file = rows("a.csv", HEADER, 300, |row, _| {
        let n = (row / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let bytes = if row / 2 % 3 == 0 { 0 } else { n };
        format!("{}.25,{bytes},flow{},{}", n % 50, row / 2, n % 2)
    });
    let audit = audit(vec![file]);
    assert_eq!(found(&audit, CheckName::Ids), (Verdict::Warn, vec![("bytes", 0, 0), ("proto", 0, 0)]));
    assert_eq!(check(&audit, CheckName::Ids).findings[0].what, "100 different whole numbers in 100 distinct rows");
}

#[test]
fn a_count_of_the_rows_looks_like_an_id_and_measured_numbers_do_not() {
    let audit =
        audit(vec![rows("a.csv", HEADER, 100, |row, bits| format!("{}.125,{},tcp,{}", bits % 100_000, 5 + row, bits >> 63))]);
    assert_eq!(found(&audit, CheckName::Ids), (Verdict::Warn, vec![("bytes", 1, 0)]));
    assert_eq!(check(&audit, CheckName::Ids).findings[0].what, "it counts the rows, such as 5");
    assert_eq!(column(&audit, "dur").looks_like, None);
    // a row of 300 was left out
    let audit = self::audit(vec![rows("a.csv", HEADER, 300, |row, bits| {
        format!("{}.125,{},tcp,{}", bits % 100_000, row + u64::from(row > 150), bits >> 63)
    })]);
    assert_eq!(found(&audit, CheckName::Ids), (Verdict::Warn, vec![("bytes", 1, 0)]));
}

#[test]
fn seconds_since_1970_and_numbers_that_rise_look_like_times() {
    // dur: seconds in no order; bytes: a clock of its own, with fractions
    let audit = audit(vec![rows("a.csv", HEADER, 100, |row, bits| {
        format!("{},{}.{},tcp,{}", 1_500_000_000 + bits % 1_000_000, row * 3, bits % 10, bits >> 63)
    })]);
    assert_eq!(found(&audit, CheckName::Times), (Verdict::Warn, vec![("dur", 1, 0), ("bytes", 1, 0)]));
    assert!(check(&audit, CheckName::Times).findings[1].what.starts_with("it rises from row to row"), "{audit:#?}");
}

#[test]
fn few_values_in_order_are_no_clock() {
    let audit = audit(vec![rows("a.csv", HEADER, 100, |row, bits| format!("{bits},{},tcp,{}", row / 20, bits >> 63))]);
    assert_eq!(column(&audit, "bytes").looks_like, None);
}

#[test]
fn repeated_rows_are_counted_within_and_across_files() {
    let one = file("a.csv", "dur,bytes,proto,label\n1,1,tcp,0\n2,2,tcp,1\n1,1,tcp,0\n1,1,tcp,0\n");
    let two = file("b.csv", "dur,bytes,proto,label\n9,9,udp,1\n2,2,tcp,1\n2,2,tcp,1\n8,8,udp,1\n7,7,udp,1\n");
    let audit = audit(vec![one, two]);
    let (verdict, findings) = found(&audit, CheckName::Duplicates);
    assert_eq!((verdict, findings), (Verdict::Warn, vec![("", 1, 2), ("", 2, 1)]));
    assert!(check(&audit, CheckName::Duplicates).findings[0].what.ends_with("does so 3 times"));
    assert_eq!(found(&audit, CheckName::AcrossFiles), (Verdict::Warn, vec![("", 2, 2)]));
    let what = &check(&audit, CheckName::AcrossFiles).findings[0].what;
    assert_eq!(what, "2 of 5 rows (40.00 %) equal a row of a.csv, such as its row 2");
    assert_eq!((audit.equal_rows.groups, audit.equal_rows.repeats, audit.equal_rows.largest), (5, 4, 3));
    assert!((audit.equal_rows.share_in_groups - 6.0 / 9.0).abs() < 1e-12);
}

#[test]
fn equal_rows_with_different_labels_cap_the_accuracy() {
    // of 8 rows, 3 + 1 contradict one another and 1 + 1: any rule gets 2 wrong
    let csv = "dur,bytes,proto,label\n1,1,tcp,0\n1,1,tcp,0\n1,1,tcp,1\n1,1,tcp,0\n2,2,tcp,1\n2,2,tcp,0\n3,3,tcp,1\n4,4,tcp,0\n";
    let audit = audit(vec![file("a.csv", csv)]);
    let conflicts = audit.equal_rows.conflicts.as_ref().unwrap();
    assert_eq!((conflicts.groups, conflicts.rows, conflicts.lost), (2, 6, 2));
    assert!((conflicts.highest_accuracy - 0.75).abs() < 1e-12);
    assert_eq!(found(&audit, CheckName::Conflicts), (Verdict::Warn, vec![("", 1, 4), ("", 6, 2)]));
    let what = &check(&audit, CheckName::Conflicts).findings[0].what;
    assert_eq!(what, "3 benign rows and 1 attack; row 3 is an attack and equals a benign one");
}

#[test]
fn a_random_split_puts_equal_rows_on_both_sides() {
    // a row of its own, a pair, and four rows: of those held out, a share of 0, 1 - .2 and 1 - .2³ has a twin in training
    let csv = "dur,bytes,proto,label\n1,1,tcp,0\n2,2,tcp,1\n2,2,tcp,1\n3,3,tcp,0\n3,3,tcp,0\n3,3,tcp,0\n3,3,tcp,0\n";
    let audit = audit(vec![file("a.csv", csv)]);
    let by_hand = (2.0 * 0.8 + 4.0 * 0.992) / 7.0;
    assert!((audit.equal_rows.twins_in_random_split - by_hand).abs() < 1e-12);
    let sizes: Vec<_> = audit.equal_rows.sizes.iter().map(|class| (class.from, class.to, class.groups, class.rows)).collect();
    assert_eq!(sizes, [(1, 1, 1, 1), (2, 2, 1, 2), (3, 4, 1, 4)]);
    assert_eq!(check(&audit, CheckName::RandomSplit).verdict, Verdict::Warn);
}

#[test]
fn a_file_that_is_sorted_by_label_is_named() {
    let sorted = |of: &dyn Fn(u64) -> u64| {
        audit(vec![rows("a.csv", HEADER, 1000, |row, bits| format!("{bits},{},tcp,{}", bits % 50, of(row)))])
    };
    let halves = sorted(&|row| u64::from(row >= 500));
    let order = halves.files[0].order.as_ref().unwrap();
    assert_eq!((order.runs, order.longest_run), (2, 500));
    assert!((order.expected_runs - 501.0).abs() < 1e-9 && (order.expected_longest_run - 500_f64.log2()).abs() < 1e-9);
    assert_eq!(check(&halves, CheckName::LabelOrder).verdict, Verdict::Warn);
    let blocks = sorted(&|row| row / 25 % 2);
    assert_eq!(check(&blocks, CheckName::LabelOrder).verdict, Verdict::Warn);
    assert_eq!(check(&audit(vec![plain("a.csv", 400)]), CheckName::LabelOrder).verdict, Verdict::Pass);
}

#[test]
fn the_official_files_of_unsw_nb15_are_known_by_their_counts() {
    let schema = "name: unsw\ncolumns:\n  - { name: sttl, kind: numeric }\n  - { name: dttl, kind: numeric }\n  - { name: ct_state_ttl, kind: numeric }\n  - { name: label, kind: label }\n";
    let of = |name: &str, rows: usize, attacks: usize| {
        let mut csv = "sttl,dttl,ct_state_ttl,label\n".to_owned();
        (0..rows).for_each(|row| writeln!(csv, "{},252,1,{}", row % 256, u8::from(row < attacks)).unwrap());
        file_by(schema, name, &csv)
    };
    let (training, testing) = ((175_341, 119_341), (82_332, 45_332));
    let swapped = audit(vec![
        of("training/UNSW_NB15_testing-set.csv", training.0, training.1),
        of("testing/UNSW_NB15_training-set.csv", testing.0, testing.1),
    ]);
    assert_eq!(found(&swapped, CheckName::Official), (Verdict::Warn, vec![("", 0, 175_341), ("", 0, 82_332)]));
    let what = &check(&swapped, CheckName::Official).findings[0].what;
    assert_eq!(what, "175341 rows and 119341 attacks: it is the official training set, whatever its name says");
    let right = audit(vec![of("test/UNSW_NB15_testing-set.csv", testing.0, testing.1)]);
    assert_eq!(check(&right, CheckName::Official).verdict, Verdict::Pass);
    assert_eq!(right.files[0].official, Some("testing"));
    // one attack less: another file
    let other = audit(vec![of("UNSW_NB15_training-set.csv", testing.0, testing.1 - 1)]);
    assert_eq!(check(&other, CheckName::Official).verdict, Verdict::Skipped);
}

#[test]
fn files_of_one_kind_do_not_drift_however_few_their_rows() {
    let audit = audit(vec![
        plain("a.csv", 900),
        rows("b.csv", HEADER, 30, |row, _| {
            let mut z = (row + 5000).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            format!("{}.5,{},{},{}", (z >> 11) % 1000, (z >> 33) % 97, ["tcp", "udp"][(z >> 20) as usize % 2], z >> 63)
        }),
    ]);
    assert_eq!(check(&audit, CheckName::Drift).verdict, Verdict::Pass, "{:#?}", audit.drift);
    // by custom that would be a large shift
    assert!(audit.drift[0].features[0].psi > 0.25, "{:#?}", audit.drift);
}

#[test]
fn a_shift_and_new_categories_are_named_with_their_rows() {
    let later = rows("b.csv", HEADER, 500, |row, bits| {
        let proto = if row % 50 == 7 { "sctp" } else { ["tcp", "udp"][(bits >> 20) as usize % 2] };
        format!("{}.5,{},{proto},{}", bits % 1000, 40 + bits / 1000 % 97, bits >> 63)
    });
    let audit = audit(vec![plain("a.csv", 900), later]);
    let (verdict, findings) = found(&audit, CheckName::Drift);
    assert_eq!((verdict, findings), (Verdict::Warn, vec![("bytes", 0, 0), ("proto", 8, 10)]));
    let drift = &audit.drift[0];
    assert_eq!((drift.file.as_str(), drift.reference.as_str(), drift.features[0].column.as_str()), ("b.csv", "a.csv", "bytes"));
    let proto = drift.features.iter().find(|feature| feature.column == "proto").unwrap();
    assert_eq!(proto.new_values, [NewValue { value: "sctp".to_owned(), rows: 10, row: 8 }]);
    assert!(check(&audit, CheckName::Drift).found.starts_with("against a.csv: 1 of 3 features shifted"), "{audit:#?}");
}

#[test]
fn without_labels_what_needs_them_is_skipped_with_the_reason() {
    let audit = audit(vec![rows("a.csv", "dur,bytes,proto", 50, |row, bits| format!("{},{},tcp", bits % 9, row % 2))]);
    for name in [CheckName::Labels, CheckName::Leaks, CheckName::Conflicts, CheckName::LabelOrder] {
        assert_eq!(check(&audit, name).verdict, Verdict::Skipped, "{name:?}");
    }
    assert_eq!(check(&audit, CheckName::Leaks).found, "the files have no column of labels");
    assert_eq!((check(&audit, CheckName::Duplicates).verdict, column(&audit, "dur").auc), (Verdict::Warn, None));
}

#[test]
fn the_same_flows_give_the_same_bytes() {
    let of = || serde_json::to_string(&audit(vec![plain("a.csv", 200), plain("b.csv", 150)])).unwrap();
    assert_eq!(of(), of());
    let json: serde_json::Value = serde_json::from_str(&of()).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["checks", "columns", "drift", "equal_rows", "files", "rows", "schema"]);
    assert_eq!((&json["checks"][5]["check"], &json["checks"][5]["verdict"]), (&"leaks".into(), &"pass".into()));
}

#[test]
fn a_file_without_rows_changes_nothing() {
    let schema = Schema::parse("toy.yaml", SCHEMA).unwrap();
    let empty = |name: &str| File::new(name, Flows::none(&read_options(&schema).0));
    let audit = audit(vec![empty("none.csv"), plain("a.csv", 100), empty("no.csv")]);
    assert_eq!(audit.files.iter().map(|file| file.rows).collect::<Vec<_>>(), [0, 100, 0]);
    assert_eq!(found(&audit, CheckName::AcrossFiles).0, Verdict::Pass);
    assert!(audit.drift.iter().all(|drift| drift.features.is_empty()));
}
