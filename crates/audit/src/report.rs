//! What an audit says.

use std::collections::BTreeMap;

use serde::Serialize;

/// What was found in some files of flows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Audit {
    /// Name of the schema by which the files were read.
    pub schema: String,
    /// Rows of all files.
    pub rows: usize,
    /// All checks, always in the same order.
    pub checks: Vec<Check>,
    /// The files, in the order given.
    pub files: Vec<FileReport>,
    /// The columns: features in the order of the schema, then what else the files have.
    pub columns: Vec<ColumnReport>,
    /// Rows with equal features.
    pub equal_rows: EqualRows,
    /// How each file but the first differs from the first.
    pub drift: Vec<Drift>,
}

impl Audit {
    /// The checks that warn.
    pub fn warnings(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.verdict == Verdict::Warn)
    }
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// Which check.
    pub check: CheckName,
    /// Its result.
    pub verdict: Verdict,
    /// One line: what was found, or why the check was skipped.
    pub found: String,
    /// Where, the worst first.
    pub findings: Vec<Finding>,
    /// One line: what to do. None where there is nothing to do.
    pub advice: Option<String>,
}

/// The checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckName {
    /// Whether rows have labels, and enough of both classes.
    Labels,
    /// Rows that cannot be read.
    Unreadable,
    /// Features that are missing.
    Missing,
    /// Features that are infinite.
    Infinite,
    /// Features that are the same in every row.
    Constant,
    /// Features that alone give the label away.
    Leaks,
    /// Features that name a row.
    Ids,
    /// Features that tell the time.
    Times,
    /// Rows with equal features in one file.
    Duplicates,
    /// Rows with equal features in two files.
    AcrossFiles,
    /// Rows with equal features and different labels.
    Conflicts,
    /// What a random split does to equal rows.
    RandomSplit,
    /// Whether rows stand in the order of their labels.
    LabelOrder,
    /// Whether the official files of UNSW-NB15 are what their names say.
    Official,
    /// Whether files differ from the first one.
    Drift,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is wrong.
    Pass,
    /// Worth knowing, and no fault.
    Note,
    /// Figures measured on these rows may mislead.
    Warn,
    /// Could not be judged.
    Skipped,
}

/// Where something was found. What does not apply is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Finding {
    /// The column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The file of the example.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A row that is an example, counted from 1 in its file without the header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<u64>,
    /// How many rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
    /// How bad, in the unit of the check: a share, an area, an index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// In words.
    pub what: String,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FileReport {
    /// Its name.
    pub name: String,
    /// Rows that can be read.
    pub rows: usize,
    /// Rows that cannot.
    pub unreadable: u64,
    /// Rows labelled benign.
    pub benign: usize,
    /// Rows labelled as attacks.
    pub attacks: usize,
    /// Rows without a label.
    pub unlabelled: usize,
    /// Rows by kind, as the schema's category column names it.
    pub categories: BTreeMap<String, usize>,
    /// How labels follow one another; none where a class is absent.
    pub order: Option<LabelOrder>,
    /// Which of the official files of UNSW-NB15 it is, by its counts.
    pub official: Option<&'static str>,
}

/// How labels follow one another in a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelOrder {
    /// Runs of equal labels.
    pub runs: usize,
    /// Runs that a random order has on average: 2 n₀ n₁ / n + 1.
    pub expected_runs: f64,
    /// Rows of the longest run.
    pub longest_run: usize,
    /// Rows of the longest run that a random order has, about.
    pub expected_longest_run: f64,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColumnReport {
    /// Its name.
    pub name: String,
    /// `numeric` or `categorical`.
    pub kind: &'static str,
    /// Whether models see it.
    pub feature: bool,
    /// Rows in which it is missing, infinite numbers included where the schema says so.
    pub missing: usize,
    /// Rows in which it is infinite.
    pub infinite: usize,
    /// Distinct values; missing counts as one.
    pub distinct: usize,
    /// How well it alone tells attacks from the rest: the larger of the areas by order and by values.
    pub auc: Option<f64>,
    /// ROC-AUC by the order of its numbers, in the better direction.
    pub auc_by_order: Option<f64>,
    /// ROC-AUC by the attack rate of its values, each rate from the other half of the rows.
    pub auc_by_values: Option<f64>,
    /// The shares of rows that its values are certain of.
    pub given_away: Option<GivenAway>,
    /// The medians of its numbers in both classes.
    pub medians: Option<Medians>,
    /// The value that says most of the label.
    pub telling: Option<Telling>,
    /// What it looks like that is no feature: `id`, `time` or `constant`.
    pub looks_like: Option<LooksLike>,
}

/// The shares of both classes that have a value which is 100 times as frequent among them as in the other class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GivenAway {
    /// Of benign rows.
    pub benign: f64,
    /// Of attacks.
    pub attacks: f64,
}

/// The medians of a column's numbers in both classes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Medians {
    /// In benign rows.
    pub benign: f64,
    /// In attacks.
    pub attacks: f64,
}

/// The value of a column that says most of the label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Telling {
    /// The value.
    pub value: String,
    /// Labelled rows that have it.
    pub rows: usize,
    /// Attacks among them.
    pub attacks: usize,
}

/// What a column looks like that is no feature.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LooksLike {
    /// What.
    pub what: Looks,
    /// Why.
    pub why: String,
}

/// What a column may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Looks {
    /// The name of a row.
    Id,
    /// A moment.
    Time,
    /// The same in every row.
    Constant,
}

/// Rows with equal features.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EqualRows {
    /// Groups of rows with equal features, those of one row included: the number of distinct rows.
    pub groups: usize,
    /// Rows that equal an earlier one.
    pub repeats: usize,
    /// Share of rows that equal another one.
    pub share_in_groups: f64,
    /// Rows of the largest group.
    pub largest: usize,
    /// Groups and rows by the size of the group.
    pub sizes: Vec<GroupSizes>,
    /// Share of the validation rows that equal a training row where a fifth of the rows is held out at random.
    pub twins_in_random_split: f64,
    /// Equal rows with different labels.
    pub conflicts: Option<Conflicts>,
}

/// Groups of some sizes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupSizes {
    /// Smallest size.
    pub from: usize,
    /// Largest size that occurs.
    pub to: usize,
    /// Groups.
    pub groups: usize,
    /// Rows in them.
    pub rows: usize,
}

/// Equal rows with different labels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Conflicts {
    /// Groups that have both labels.
    pub groups: usize,
    /// Labelled rows in them.
    pub rows: usize,
    /// Rows that any function of the features gets wrong.
    pub lost: usize,
    /// The highest accuracy that a function of the features can have on these rows.
    pub highest_accuracy: f64,
}

/// How a file differs from the first one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// The file.
    pub file: String,
    /// The file that it is compared with.
    pub reference: String,
    /// Every feature, the largest index first.
    pub features: Vec<FeatureDrift>,
}

/// How a feature differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FeatureDrift {
    /// The feature.
    pub column: String,
    /// Population stability index.
    pub psi: f64,
    /// What chance alone seldom exceeds with as many rows.
    pub noise: f64,
    /// Categories that the first file does not have.
    pub new_values: Vec<NewValue>,
}

/// A category that the first file does not have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NewValue {
    /// The category.
    pub value: String,
    /// Rows that have it.
    pub rows: usize,
    /// The first of them, counted from 1 in its file.
    pub row: u64,
}
