//! What each column of a table is for.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::stats::{Column, code, may_be_missing};
use super::{Judged, Table, counted, names, yaml};
use crate::labels::{Label, LabelWords, folded};
use crate::nearest::folded as folded_name;
use crate::reader::cells::Rules;
use crate::reader::{shown, some_of};
use crate::{At, ColumnKind, Error, Result};

/// A column that tells attacks from the rest this well is suspect.
const LEAK: f64 = 0.995;
/// Values of a categorical feature beyond which it is mixed rather than categorical.
const MAX_MIXED: usize = 256;

/// Words of labels for benign rows, and for rows of which nothing is known, where no schema says it.
const BENIGN: [&str; 13] =
    ["benign", "normal", "normal.", "0", "false", "no", "n", "legitimate", "legit", "clean", "good", "non-attack", "nonattack"];
const IGNORE: [&str; 13] = [
    "background",
    "unknown",
    "needmanuallabel",
    "no label",
    "nolabel",
    "unlabelled",
    "unlabeled",
    "-",
    "nan",
    "(empty)",
    "na",
    "null",
    "none",
];
/// Words that, in a column of texts, make it one of labels.
const ATTACKS: [&str; 12] = [
    "attack",
    "malicious",
    "anomaly",
    "malware",
    "botnet",
    "dos",
    "ddos",
    "portscan",
    "bruteforce",
    "exploits",
    "fuzzers",
    "intrusion",
];

/// Why a column is ignored.
const CONSTANT: &str = "the same in every row";
const UNIQUE: &str = "nearly every row has one of its own";

/// Words of the label column.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Words {
    pub(super) benign: Vec<String>,
    /// None for any other word.
    pub(super) attack: Option<Vec<String>>,
    pub(super) ignore: Vec<String>,
    /// Words of attacks, and how often they occur.
    pub(super) attacks: BTreeMap<String, u64>,
    /// Whether no word is known to be benign.
    pub(super) is_guess: bool,
}

pub(super) fn judge(table: &Table, rules: &Rules, label: Option<&str>, file: &Path) -> Result<Judged> {
    let columns = &table.columns;
    let mut rules = rules.clone();
    let mut judged = Judged {
        kinds: vec![ColumnKind::Ignored; columns.len()],
        why: vec![None; columns.len()],
        id: None,
        labels: None,
        missing: extra_missing(columns),
        has_infinite: columns.iter().any(|column| column.n_infinite > 0),
        warnings: Vec::new(),
    };
    judged.missing.iter().for_each(|spelling| rules.add_missing(spelling));

    let label_at = match label {
        Some(name) => table.column(name),
        None => find_label(columns),
    };
    let labels = match label_at {
        Some(at) => judged.take_label(at, table, &rules, file)?,
        None => Vec::new(),
    };
    // a label that tells kinds apart needs no other column for them
    let is_binary = judged.labels.as_ref().is_some_and(|words| words.attacks.len() <= 1);
    let category_at = find_category(columns, label_at, is_binary, &labels);
    if let Some(at) = category_at {
        judged.kinds[at] = ColumnKind::Category;
    }
    judged.take_features(columns, &labels, |at| Some(at) != label_at && Some(at) != category_at);
    judged.id = find_id(table, &judged);
    if !judged.kinds.iter().any(|kind| is_feature(*kind)) {
        let message = "no column is a feature: all name a host, a moment or the row, are the same in every row, or are labels";
        return Err(Error::data(file, At::File, None, message.to_owned()));
    }
    judged.warn_of(table, label_at.is_none());
    Ok(judged)
}

impl Judged {
    /// Makes a column the label; whether each row is benign (0), an attack (1) or neither (2).
    fn take_label(&mut self, at: usize, table: &Table, rules: &Rules, file: &Path) -> Result<Vec<u8>> {
        let column = &table.columns[at];
        let Some(found) = &column.words else {
            let message = "too many values for labels: they say benign or attack, or name a kind of attack".to_owned();
            return Err(Error::data(file, At::File, Some(&column.name), message));
        };
        let words = split_words(found, table.is_whole);
        let labels = labels_of(column, &words, rules);
        if words.is_guess {
            self.warnings.push(format!(
                "label \"{}\": none of its words is known to mean benign; one is taken for it: \"{}\" of {}",
                shown(&column.name),
                words.benign.iter().map(|word| shown(word)).collect::<String>(),
                counted(found)
            ));
        }
        for (label, kind) in [(0, "benign"), (1, "an attack")] {
            if !labels.contains(&label) {
                self.warnings.push(format!("no row that was looked at is {kind}: a classifier needs both"));
            }
        }
        self.kinds[at] = ColumnKind::Label;
        self.labels = Some(words);
        Ok(labels)
    }

    /// Says what the columns are for that are neither label nor category.
    fn take_features(&mut self, columns: &[Column], labels: &[u8], is_free: impl Fn(usize) -> bool) {
        let mut firsts: HashMap<u64, Vec<usize>> = HashMap::new();
        let (mut constant, mut equal, mut unique) = (Vec::new(), Vec::new(), Vec::new());
        for (at, column) in columns.iter().enumerate().filter(|(at, _)| is_free(*at)) {
            let name = format!("\"{}\"", shown(&column.name));
            let (kind, why) = kind_of(column, &self.missing, labels);
            match why.as_deref() {
                Some(CONSTANT) => constant.push(name.clone()),
                Some(UNIQUE) => unique.push(name.clone()),
                _ => {}
            }
            (self.kinds[at], self.why[at]) = (kind, why);
            if column.differs {
                self.warnings
                    .push(format!("two columns are called {name} and differ: neither is used until one of them is renamed"));
            }
            if !is_feature(kind) {
                continue;
            }
            let twins = firsts.entry(fingerprint(column)).or_default();
            if let Some(&first) = twins.iter().find(|&&first| columns[first].codes == column.codes) {
                let first = shown(&columns[first].name);
                self.kinds[at] = ColumnKind::Ignored;
                self.why[at] = Some(format!("equals {first} in every row"));
                equal.push(format!("{name} = \"{first}\""));
                continue;
            }
            twins.push(at);
            self.check_leak(at, column, labels);
        }
        let lists = [
            (constant, "the same in every row, hence ignored"),
            (equal, "equal to one another, so that one of each is ignored"),
            (unique, "texts that nearly every row has one of its own of, hence ignored"),
        ];
        for (list, what) in lists {
            if !list.is_empty() {
                self.warnings.push(format!("{what}: {}", some_of(&list)));
            }
        }
    }

    /// Warns of a feature that alone gives the label away, and ignores it where it is the label in other words.
    fn check_leak(&mut self, at: usize, column: &Column, labels: &[u8]) {
        if labels.is_empty() {
            return;
        }
        let (auc, name) = (column.auc(labels), shown(&column.name));
        if auc > LEAK && (column.n_distinct() == 2 || !column.is_numeric()) && is_of_attacks(column, labels) {
            self.kinds[at] = ColumnKind::Ignored;
            self.why[at] = Some("says what the label says".to_owned());
            self.warnings.push(format!("\"{name}\" says in every row what the label says: ignored"));
        } else if auc > LEAK {
            self.why[at] = Some(format!("alone gives the label away (AUC {auc:.4})"));
            self.warnings.push(format!(
                "\"{name}\" alone tells attacks from the rest (AUC {auc:.4}): make it `ignored`, unless it is known before anybody has \
                 looked at the flow"
            ));
        }
    }

    /// Warnings of the table as a whole.
    fn warn_of(&mut self, table: &Table, has_no_label: bool) {
        if has_no_label {
            let what =
                "no column says what is an attack: the files are for pretraining and prediction; `--label COLUMN` names one";
            self.warnings.push(what.to_owned());
        }
        if !table.has_header {
            self.warnings.push("no header line: columns are called column_1, column_2, ...".to_owned());
        }
        if table.n_unnamed > 0 {
            self.warnings.push(format!("{} without a name, which a schema cannot list", columns_of(table.n_unnamed)));
        }
        if table.n_rejected > 0 {
            self.warnings.push(yaml::rejected(table));
        }
    }
}

fn columns_of(n: usize) -> String {
    if n == 1 { "1 column".to_owned() } else { format!("{n} columns") }
}

fn is_feature(kind: ColumnKind) -> bool {
    matches!(kind, ColumnKind::Numeric | ColumnKind::Categorical)
}

fn fingerprint(column: &Column) -> u64 {
    column.codes.iter().fold(0, |hash: u64, code| hash.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ code)
}

/// What a column is that is neither label nor category, and why it is no plain feature.
fn kind_of(column: &Column, missing: &[String], labels: &[u8]) -> (ColumnKind, Option<String>) {
    let ignored = |why: &str| (ColumnKind::Ignored, Some(why.to_owned()));
    let name = &column.name;
    if !column.is_readable {
        return ignored("holds lists or structs");
    }
    if column.differs {
        return ignored("two columns have this name, and differ");
    }
    if column.n_distinct() == 1 {
        return ignored(CONSTANT);
    }
    if column.is_address() {
        return ignored("an address: it names a host");
    }
    let is_time_by_name = names::is_time(name) && column.is_epoch();
    if column.is_moment() || is_time_by_name || column.is_epoch() && column.is_rising() {
        return (ColumnKind::Time, Some("a moment: what is learned of it holds for the days of training alone".to_owned()));
    }
    let may_name_rows = names::id_rank(name).is_some() && 2 * column.n_distinct() > column.n_rows();
    if may_name_rows || column.is_row_number() {
        return ignored("names the row");
    }
    if names::is_source_port(name) {
        return ignored("the port of the side that asks: drawn at random");
    }
    let is_text = !column.is_numeric();
    if names::is_host(name) || is_text && names::may_be_host(name) {
        return ignored("names a host");
    }
    let is_named_so =
        names::label_rank(name).is_some() || names::category_rank(name).is_some_and(|_| !names::is_vague_category(name));
    if is_named_so && (is_text || column.auc(labels) > LEAK) {
        return ignored("names the attack, as the label does");
    }
    let (n_others, others) = (column.n_others, &column.others);
    let are_missing = n_others > 0 && !column.has_more_others && others.keys().all(|other| missing.contains(other));
    if column.is_numeric() || are_missing && column.has_numbers() {
        let is_code = names::is_code(name) && column.is_whole() && column.n_distinct() <= MAX_MIXED;
        return if is_code {
            (ColumnKind::Categorical, Some("a code, whose size means nothing".to_owned()))
        } else {
            (ColumnKind::Numeric, None)
        };
    }
    if column.has_numbers() && column.n_distinct() > MAX_MIXED {
        let cells = if n_others == 1 { "1 cell is no number".to_owned() } else { format!("{n_others} cells are no numbers") };
        return ignored(&format!(
            "{cells}, such as {}: if they stand for missing ones, add them to `missing` and make it numeric",
            counted(others)
        ));
    }
    if column.is_near_unique() {
        return ignored(UNIQUE);
    }
    (ColumnKind::Categorical, None)
}

/// Spellings, beside the usual ones, of what is no number in columns of numbers.
fn extra_missing(columns: &[Column]) -> Vec<String> {
    let mut extra = std::collections::BTreeSet::new();
    for column in columns {
        let are_all = !column.has_more_others && column.others.keys().all(|other| may_be_missing(other));
        if column.has_numbers() && column.n_others > 0 && are_all {
            extra.extend(column.others.keys().cloned());
        }
    }
    extra.into_iter().collect()
}

/// Whether the words are those of labels alone: 0 and 1, benign and attack.
fn is_binary(column: &Column) -> bool {
    let known = LabelWords::default();
    let is_none = |word: &str| IGNORE.contains(&folded(word).as_str());
    column.words.as_ref().is_some_and(|words| words.keys().all(|word| known.label(word).is_some() || is_none(word)))
}

/// Whether a column may hold labels.
fn may_be_label(column: &Column) -> bool {
    let Some(words) = &column.words else { return false };
    let few = words.len() <= 64;
    let are_numbers = column.is_numeric() && column.has_numbers();
    let has_zero = || words.keys().any(|word| folded(word) == "0" || folded(word) == "-1");
    let is_one_of_two = || are_numbers && column.is_whole() && column.n_distinct() == 2;
    let fits = if are_numbers { is_binary(column) || column.is_whole() && few && (has_zero() || is_one_of_two()) } else { true };
    fits && column.n_held() > 0
        && column.is_readable
        && !column.differs
        && !column.is_address()
        && !column.is_moment()
        && !column.is_near_unique()
}

/// The column that says what is an attack: of those with a name for it the one whose words are known, else the one with the likeliest
/// name; without such a name, one of texts of which some mean benign and some an attack.
fn find_label(columns: &[Column]) -> Option<usize> {
    let named = |rank: &dyn Fn(&str) -> Option<usize>| {
        let named = columns.iter().enumerate().filter(|(_, column)| may_be_label(column));
        let ranked = named.filter_map(|(at, column)| Some((!is_binary(column), rank(&column.name)?, at)));
        ranked.min().map(|(_, _, at)| at)
    };
    let by_name = named(&names::label_rank).or_else(|| {
        let sure = |name: &str| names::category_rank(name).filter(|_| !names::is_vague_category(name));
        named(&sure)
    });
    let by_words = || {
        let is_it = |column: &Column| {
            let Some(words) = column.words.as_ref().filter(|words| words.len() > 1 && !column.is_numeric()) else { return false };
            let any = |known: &[&str]| words.keys().any(|word| known.contains(&folded(word).as_str()));
            may_be_label(column) && any(&["benign", "normal", "normal."])
                || any(&ATTACKS) && any(&["background", "legitimate", "benign"])
        };
        columns.iter().position(is_it)
    };
    by_name.or_else(by_words)
}

/// The column of kinds of attacks beside a label that does not tell them: one with a name for it, else one of texts that are the same
/// in all benign rows, or missing, and others in all attacks.
fn find_category(columns: &[Column], label: Option<usize>, is_binary: bool, labels: &[u8]) -> Option<usize> {
    let label = label.filter(|_| is_binary)?;
    let may_be = |at: usize, column: &Column| {
        at != label && !column.is_numeric() && column.words.as_ref().is_some_and(|words| words.len() > 1) && may_be_label(column)
    };
    let ranked = columns.iter().enumerate().filter(|(at, column)| may_be(*at, column)).filter_map(|(at, column)| {
        let is_sure = !names::is_vague_category(&column.name) || column.auc(labels) > LEAK;
        Some((names::category_rank(&column.name).filter(|_| is_sure)?, at))
    });
    let by_values = || {
        columns
            .iter()
            .enumerate()
            .position(|(at, column)| may_be(at, column) && column.n_distinct() > 2 && is_of_attacks(column, labels))
    };
    ranked.min().map(|(_, at)| at).or_else(by_values)
}

/// What the words of a label stand for.
fn split_words(found: &BTreeMap<String, u64>, is_whole: bool) -> Words {
    let mut words = Words::default();
    let mut seen = std::collections::BTreeSet::new();
    let is_fresh = |seen: &mut std::collections::BTreeSet<String>, word: &str| seen.insert(folded(word));
    let starts = |word: &str, start: &str| folded(word).starts_with(start);
    for (word, n) in found {
        let known = folded(word);
        if BENIGN.contains(&known.as_str()) || starts(word, "flow=from-normal") {
            if is_fresh(&mut seen, word) {
                words.benign.push(word.clone());
            }
        } else if IGNORE.contains(&known.as_str()) || starts(word, "flow=background") {
            if is_fresh(&mut seen, word) {
                words.ignore.push(word.clone());
            }
        } else {
            *words.attacks.entry(word.clone()).or_default() += n;
        }
    }
    if words.benign.is_empty() && !words.attacks.is_empty() && words.attacks.len() + words.ignore.len() > 1 {
        let is_attack =
            |word: &str| ATTACKS.contains(&folded(word).as_str()) || matches!(folded(word).as_str(), "1" | "true" | "yes");
        // -1 beside 1 is the usual way of those who have no 0
        let minus = words.attacks.keys().find(|word| folded(word) == "-1").cloned();
        let candidates = words.attacks.iter().filter(|(word, _)| !is_attack(word));
        let most = candidates.max_by_key(|(word, n)| (**n, std::cmp::Reverse((*word).clone()))).map(|(word, _)| word.clone());
        if let Some(word) = minus.or(most).filter(|_| words.ignore.is_empty() || words.attacks.len() > 1) {
            words.attacks.retain(|other, _| folded(other) != folded(&word));
            words.benign.push(word);
            words.is_guess = true;
        }
    }
    if words.benign.is_empty() {
        words.benign = vec!["benign".to_owned(), "normal".to_owned(), "0".to_owned()];
        words.benign.retain(|word| !words.attacks.keys().any(|other| folded(other) == folded(word)));
    }
    let known = LabelWords::default();
    let are_known = words.attacks.keys().all(|word| matches!(known.label(word), Some(Label::Attack)));
    if is_whole && are_known && !words.attacks.is_empty() {
        let mut seen = std::collections::BTreeSet::new();
        words.attack = Some(words.attacks.keys().filter(|word| seen.insert(folded(word))).cloned().collect());
    }
    words
}

/// 0, 1 or, where a row has no label, 2.
fn labels_of(column: &Column, words: &Words, rules: &Rules) -> Vec<u8> {
    let mut by_code: HashMap<u64, u8> = HashMap::new();
    let lists = [(&words.benign, 0), (&words.ignore, 2)];
    for (word, label) in lists.into_iter().flat_map(|(list, label)| list.iter().map(move |word| (word, label))) {
        by_code.insert(code(rules, word), label);
    }
    for word in words.attacks.keys() {
        by_code.insert(code(rules, word), 1);
    }
    // other spellings of a word have codes of their own
    let others = column.words.iter().flat_map(BTreeMap::keys);
    for word in others {
        let known = |list: &[String]| list.iter().any(|listed| folded(listed) == folded(word));
        let label = if known(&words.benign) {
            0
        } else if known(&words.ignore) {
            2
        } else {
            1
        };
        by_code.insert(code(rules, word), label);
    }
    column.codes.iter().map(|code| by_code.get(code).copied().unwrap_or(2)).collect()
}

/// Whether a column has one value, or none, in all benign rows, and others in all attacks.
fn is_of_attacks(column: &Column, labels: &[u8]) -> bool {
    let rows = || column.codes.iter().zip(labels).filter(|(_, label)| **label < 2);
    let Some(benign) = rows().find(|(_, label)| **label == 0).map(|(code, _)| *code) else { return false };
    rows().all(|(code, label)| (*code == benign) == (*label == 0))
}

/// The column that names the rows: one of those that are ignored, with a name for it and a cell of its own in every row.
fn find_id(table: &Table, judged: &Judged) -> Option<usize> {
    let is_it = |at: usize, column: &Column| {
        judged.kinds[at] == ColumnKind::Ignored
            && column.is_readable
            && !column.differs
            && column.n_files == table.headers.len()
            && column.n_missing == 0
            && column.n_distinct() == column.n_rows()
            && column.n_held() == column.n_rows()
            && !folded_name(&column.name).is_empty()
    };
    let ranked = table.columns.iter().enumerate().filter_map(|(at, column)| Some((names::id_rank(&column.name)?, at)));
    ranked.filter(|(_, at)| is_it(*at, &table.columns[*at])).min().map(|(_, at)| at)
}
