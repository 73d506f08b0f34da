use std::sync::Arc;

use pulp::Arch;

use super::categories::{Class, class_of};
use super::fit::signed_log1p;
use super::target_bins::TargetBins;
use super::{Affine, Feature, LOG1P_CLIP, SCALED_CLIP, Tokeniser};
use crate::last_seen::LastSeen;
use crate::{FeatureColumn, Flows};

/// Rows written together, so that a block of the output stays in cache while its columns are filled.
const BLOCK: usize = 256;
/// In how many pieces the features of flows are freed while they are encoded.
const CHUNKS: usize = 16;

/// Tokenised flows, row by row, before bins and one-hots are written out: three numbers per numeric feature (quantile-normal,
/// log1p, place among the bins), or one where it is only scaled, and the class index per categorical one. The first number of what
/// is missing is NaN. Where numbers are predicted as classes, the class of each is one number more.
#[derive(Debug, Clone)]
pub struct TokenTable {
    cells: Vec<f32>,
    stride: usize,
    plan: Arc<[Plan]>,
    n_rows: usize,
    unknown: Vec<(String, usize)>,
    other: Vec<(String, usize)>,
    missing: Vec<(String, usize)>,
}

/// How a token's values follow from its cells.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// First cell of the token in its row.
    offset: usize,
    width: usize,
    kind: PlanKind,
    /// The cell that is predicted, in the row.
    target: usize,
    /// Values of the tokens before it.
    values_before: usize,
}

#[derive(Debug, Clone, Copy)]
enum PlanKind {
    Parts {
        quantile: bool,
        log1p: bool,
        /// Whether the last value says that the cell is missing.
        indicator: bool,
    },
    Scaled {
        indicator: bool,
    },
    OneHot,
    Code(Affine),
}

impl Plan {
    /// Writes the values of a token, whose cells come first in `cells`.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled for the vectors of whoever calls it")]
    fn write(&self, cells: &[f32], out: &mut [f32]) {
        match self.kind {
            PlanKind::Parts { quantile, log1p, indicator } => {
                let is_missing = cells[0].is_nan();
                let mut bins = if indicator { indicate(is_missing, out) } else { out };
                let normal = if is_missing { 0.0 } else { cells[0] };
                for (on, cell) in [(quantile, normal), (log1p, cells[1])] {
                    if on {
                        bins[0] = cell;
                        bins = &mut bins[1..];
                    }
                }
                let place = cells[2];
                // an i32 converts in one vector instruction, a usize does not
                for (bin, out) in (0_i32..).zip(bins) {
                    *out = (place - bin as f32).clamp(0.0, 1.0);
                }
            }
            PlanKind::Scaled { indicator } => {
                let is_missing = cells[0].is_nan();
                let scaled = if indicator { indicate(is_missing, out) } else { out };
                scaled[0] = if is_missing { 0.0 } else { cells[0] };
            }
            PlanKind::OneHot => {
                out.fill(0.0);
                out[cells[0] as usize] = 1.0;
            }
            PlanKind::Code(affine) => out[0] = clipped(affine.apply(f64::from(cells[0])), SCALED_CLIP),
        }
    }

    /// Whether two tokens have the same values.
    fn is_same(&self, a: &[f32], b: &[f32]) -> bool {
        let n_values = if let PlanKind::Parts { .. } = self.kind { 3 } else { 1 };
        // 0 of either sign is the same
        a[..n_values].iter().zip(&b[..n_values]).all(|(a, b)| (a + 0.0).to_bits() == (b + 0.0).to_bits())
    }
}

impl TokenTable {
    /// `flows` have the features that `tokeniser` was fitted on.
    pub(super) fn new(tokeniser: &Tokeniser, flows: &Flows, with_targets: bool) -> Self {
        let mut encoded = Self::zeros(tokeniser, flows.len(), with_targets);
        let columns = columns(tokeniser, flows, with_targets);
        encoded.write(0, &columns, &mut (0..flows.len()));
        encoded.count_unknown(&columns, &(0..flows.len()));
        encoded.missing = flows.missing_counts(0..flows.len() as u32);
        encoded
    }

    /// The given rows of each of `parts`, whose features are freed on the way, from the last row to the first.
    pub(super) fn consuming(tokeniser: &Tokeniser, parts: Vec<(&mut Flows, &[u32])>) -> Self {
        let mut encoded = Self::zeros(tokeniser, parts.iter().map(|(_, rows)| rows.len()).sum(), true);
        let mut first = 0;
        for (flows, rows) in parts {
            assert!(rows.is_sorted_by(|a, b| a < b), "rows that ascend");
            encoded.count_unknown(&columns(tokeniser, flows, true), &rows.iter().map(|&row| row as usize));
            let missing = flows.missing_counts(rows.iter().copied());
            encoded.missing.iter_mut().zip(missing).for_each(|((_, sum), (_, n))| *sum += n);
            let chunk = rows.len().div_ceil(CHUNKS).max(1);
            for (place, rows) in rows.chunks(chunk).enumerate().rev() {
                let mut rows_of_chunk = rows.iter().map(|&row| row as usize);
                encoded.write(first + place * chunk, &columns(tokeniser, flows, true), &mut rows_of_chunk);
                flows.free_features(rows[0] as usize);
            }
            flows.free_features(0);
            first += rows.len();
        }
        encoded
    }

    pub(super) fn zeros(tokeniser: &Tokeniser, n_rows: usize, with_targets: bool) -> Self {
        let config = &tokeniser.config;
        let (mut stride, mut values_before) = (0, 0);
        let mut plan = Vec::new();
        for (place, (feature, token)) in tokeniser.features.iter().zip(&tokeniser.tokens).enumerate() {
            let (kind, n_cells) = match feature {
                Feature::Parts { missing: indicator, .. } => {
                    (PlanKind::Parts { quantile: config.quantile, log1p: config.log1p, indicator: *indicator }, 3)
                }
                Feature::Scaled { missing: indicator, .. } => (PlanKind::Scaled { indicator: *indicator }, 1),
                Feature::Categorical { .. } if config.expands_classes() => (PlanKind::OneHot, 1),
                Feature::Categorical { code, .. } => (PlanKind::Code(*code), 1),
            };
            let has_class = with_targets && tokeniser.target_classes(place).is_some();
            let target = if has_class { stride + n_cells } else { stride };
            plan.push(Plan { offset: stride, width: token.width, kind, target, values_before });
            values_before += token.width;
            stride += n_cells + usize::from(has_class);
        }
        let is_categorical = |feature: &Feature| matches!(feature, Feature::Categorical { .. });
        let categorical = tokeniser.features.iter().zip(&tokeniser.tokens).filter(|(feature, _)| is_categorical(feature));
        let unknown: Vec<(String, usize)> = categorical.map(|(_, token)| (token.feature.clone(), 0)).collect();
        let other = unknown.clone();
        let missing = tokeniser.tokens.iter().map(|token| (token.feature.clone(), 0)).collect();
        TokenTable { unknown, other, missing, cells: vec![0.0; n_rows * stride], stride, plan: plan.into(), n_rows }
    }

    /// Encodes `rows` of the columns from row `first` on.
    fn write(&mut self, first: usize, columns: &[Column<'_>], rows: &mut dyn ExactSizeIterator<Item = usize>) {
        let stride = self.stride;
        let cells = &mut self.cells[first * stride..(first + rows.len()) * stride];
        let mut block_rows = Vec::with_capacity(BLOCK);
        let mut memos = vec![Memo::default(); if rows.len() < BLOCK { 0 } else { columns.len() }];
        for cells in cells.chunks_mut(BLOCK * stride) {
            block_rows.clear();
            block_rows.extend(rows.take(BLOCK));
            for (place, (column, plan)) in columns.iter().zip(&*self.plan).enumerate() {
                for (&row, cells) in block_rows.iter().zip(cells.chunks_exact_mut(stride)) {
                    column.write(row, memos.get_mut(place), &mut cells[plan.offset..]);
                }
            }
        }
    }

    /// Adds the values of `rows` that training has not seen, and those that it cut.
    fn count_unknown(&mut self, columns: &[Column<'_>], rows: &(impl Iterator<Item = usize> + Clone)) {
        let classes = columns.iter().filter_map(|column| match column {
            Column::Class { codes, found, .. } => Some((codes, found)),
            _ => None,
        });
        for (((codes, found), (_, unknown)), (_, other)) in classes.zip(&mut self.unknown).zip(&mut self.other) {
            for row in rows.clone() {
                match found[codes[row] as usize] {
                    Class::Known(_) => {}
                    Class::Other => *other += 1,
                    Class::NeverSeen => *unknown += 1,
                }
            }
        }
    }

    /// Rows of this table, each with some tokens of a row of `other` in the place of its own: `(row, tokens, row of other)`. Values that
    /// training has not seen are not counted.
    ///
    /// # Panics
    /// If the tables are not of one tokeniser, or a row or a token is out of range.
    #[must_use]
    pub fn with_tokens_of<'t>(
        &self,
        other: &TokenTable,
        swaps: impl ExactSizeIterator<Item = (u32, &'t [usize], u32)>,
    ) -> TokenTable {
        assert_eq!(self.stride, other.stride, "tables of one tokeniser");
        let mut cells = Vec::with_capacity(swaps.len() * self.stride);
        let n_rows = swaps.len();
        for (row, tokens, of_other) in swaps {
            let first = cells.len();
            cells.extend_from_slice(self.row(row));
            for &token in tokens {
                let own = self.cells_of(token);
                cells[first..][own.clone()].copy_from_slice(&other.row(of_other)[own]);
            }
        }
        let none = |counts: &[(String, usize)]| counts.iter().map(|(name, _)| (name.clone(), 0)).collect();
        let (unknown, other, missing) = (none(&self.unknown), none(&self.other), none(&self.missing));
        TokenTable { cells, n_rows, unknown, other, missing, plan: Arc::clone(&self.plan), ..*self }
    }

    /// The cells of a row.
    fn row(&self, row: u32) -> &[f32] {
        &self.cells[row as usize * self.stride..][..self.stride]
    }

    /// Numbers that a row takes here, before bins and one-hots are written out.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The numbers of all rows, row after row.
    pub fn cells(&self) -> &[f32] {
        &self.cells
    }

    /// Exchanges the numbers of all rows for others, which a table of the same tokeniser had.
    ///
    /// # Panics
    /// If there are more or fewer.
    pub fn swap_cells(&mut self, cells: &mut Vec<f32>) {
        assert_eq!(cells.len(), self.cells.len(), "cells of as many rows");
        std::mem::swap(&mut self.cells, cells);
    }

    /// Where the numbers of a token stand in a row.
    ///
    /// # Panics
    /// If the token is out of range.
    pub fn cells_of(&self, token: usize) -> std::ops::Range<usize> {
        let end = self.plan.get(token + 1).map_or(self.stride, |next| next.offset);
        self.plan[token].offset..end
    }

    /// [`TokenTable::expand`] of a row that is not in the table, from its numbers at [`TokenTable::cells_of`].
    ///
    /// # Panics
    /// If `out` is not as long as the token is wide.
    pub fn expand_cells(&self, token: usize, cells: &[f32], out: &mut [f32]) {
        assert_eq!(out.len(), self.plan[token].width, "a token has as many values as its spec says");
        self.plan[token].write(cells, out);
    }

    /// [`TokenTable::is_same`] of a row and one that is not in the table, from the numbers of the latter at
    /// [`TokenTable::cells_of`].
    ///
    /// # Panics
    /// If the row or the token is out of range.
    pub fn is_same_as(&self, row: u32, token: usize, cells: &[f32]) -> bool {
        self.plan[token].is_same(&self.cells[row as usize * self.stride + self.plan[token].offset..], cells)
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Tokens of a row.
    pub fn n_tokens(&self) -> usize {
        self.plan.len()
    }

    /// Numbers of a row, once bins and one-hots are written out: the sum of the tokens' widths.
    pub fn width(&self) -> usize {
        self.plan.iter().map(|plan| plan.width).sum()
    }

    /// Writes the tokens of `rows` one feature after the other, each `[b, F_t]`: the input of a network over features.
    ///
    /// # Panics
    /// If a row is out of range, or `x` is not rows · [`TokenTable::width`] long.
    #[expect(clippy::needless_pass_by_value, reason = "an iterator, cloned for every token")]
    pub fn fill(&self, rows: impl ExactSizeIterator<Item = u32> + Clone, x: &mut [f32]) {
        assert_eq!(x.len(), rows.len() * self.width());
        // the places among the bins, most of what is written, as the widest vectors of this CPU
        Arch::new().dispatch(|| {
            let mut rest = x;
            for (token, plan) in self.plan.iter().enumerate() {
                let (values, after) = rest.split_at_mut(rows.len() * plan.width);
                for (out, row) in values.chunks_exact_mut(plan.width).zip(rows.clone()) {
                    self.write_token(row as usize, token, out);
                }
                rest = after;
            }
        });
    }

    /// Writes the values of one token of one row.
    ///
    /// # Panics
    /// If row or token is out of range, or `out` is not as long as the token is wide.
    pub fn expand(&self, row: usize, token: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.plan[token].width, "a token has as many values as its spec says");
        self.write_token(row, token, out);
    }

    /// Writes the values of all tokens of one row, one after the other.
    ///
    /// # Panics
    /// If the row is out of range, or `out` is not [`TokenTable::width`] long.
    pub fn expand_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.width(), "a row has as many values as its tokens");
        let mut rest = out;
        for token in 0..self.plan.len() {
            let (values, after) = rest.split_at_mut(self.plan[token].width);
            self.write_token(row, token, values);
            rest = after;
        }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled for the vectors of whoever calls it")]
    fn write_token(&self, row: usize, token: usize, out: &mut [f32]) {
        let plan = &self.plan[token];
        plan.write(&self.cells[row * self.stride + plan.offset..], out);
    }

    /// What masked training predicts: the quantile-normal value of a numeric feature (the scaled value under
    /// `standard` and `global_max`) or its class ([`Tokeniser::with_target_bins`]), the class index of a categorical one. NaN where
    /// a number is missing: nothing is predicted.
    pub fn target(&self, row: usize, token: usize) -> f32 {
        self.cells[row * self.stride + self.plan[token].target]
    }

    /// One number that stands for a token: the quantile-normal value of a numeric feature (the scaled value under `standard` and
    /// `global_max`), the class index of a categorical one; NaN where a number is missing.
    ///
    /// # Panics
    /// If the row or the token is out of range.
    pub fn value(&self, row: usize, token: usize) -> f32 {
        self.cells[row * self.stride + self.plan[token].offset]
    }

    /// Where [`TokenTable::fill`] writes the values of a token of the row at `place` among `b` rows.
    ///
    /// # Panics
    /// If the token is out of range.
    pub fn place(&self, token: usize, place: usize, b: usize) -> std::ops::Range<usize> {
        let width = self.plan[token].width;
        let first = b * self.plan[token].values_before + place * width;
        first..first + width
    }

    /// Whether a token is one of a category: its [`TokenTable::value`] is a class.
    ///
    /// # Panics
    /// If the token is out of range.
    pub fn is_class(&self, token: usize) -> bool {
        matches!(self.plan[token].kind, PlanKind::OneHot | PlanKind::Code(_))
    }

    /// Whether two rows have the same values of a token.
    ///
    /// # Panics
    /// If a row or the token is out of range.
    pub fn is_same(&self, rows: [u32; 2], token: usize) -> bool {
        let [a, b] = rows.map(|row| &self.cells[row as usize * self.stride + self.plan[token].offset..]);
        self.plan[token].is_same(a, b)
    }

    /// Name of each categorical feature, and in how many rows training has never seen its value. A tokeniser of an earlier version
    /// has not noted what was cut: it counts as never seen.
    pub fn unknown_counts(&self) -> &[(String, usize)] {
        &self.unknown
    }

    /// Name of each categorical feature, and in how many rows its value is one that training saw and cut.
    pub fn other_counts(&self) -> &[(String, usize)] {
        &self.other
    }

    /// Name of each feature, and in how many rows it is missing.
    pub fn missing_counts(&self) -> &[(String, usize)] {
        &self.missing
    }
}

/// Writes into the last value of a token whether it is missing, and returns the others.
fn indicate(is_missing: bool, token: &mut [f32]) -> &mut [f32] {
    let (indicator, others) = token.split_last_mut().expect("a token with an indicator has a value");
    *indicator = f32::from(u8::from(is_missing));
    others
}

fn columns<'a>(tokeniser: &'a Tokeniser, flows: &'a Flows, with_targets: bool) -> Vec<Column<'a>> {
    let bins = tokeniser.target_bins.as_ref().filter(|_| with_targets);
    let bins = |place: usize| bins.and_then(|bins| bins[place].as_ref());
    let features = tokeniser.features.iter().zip(&flows.features).enumerate();
    features.map(|(place, (feature, column))| Column::new(feature, column, bins(place))).collect()
}

/// A column of flows beside what was learnt about it.
enum Column<'a> {
    Parts { values: &'a [f64], learnt: Parts<'a> },
    Scaled { values: &'a [f64], affine: Affine, bins: Option<&'a TargetBins> },
    Class { codes: &'a [u32], found: Vec<Class>, n_known: usize },
}

/// What was learnt about a number.
struct Parts<'a> {
    knots: &'a [f64],
    normal: &'a [f64],
    log1p: Affine,
    edges: &'a [f64],
    /// Place among the bins of what is missing.
    neutral: f32,
    bins: Option<&'a TargetBins>,
}

impl Parts<'_> {
    /// The cells of a number: quantile-normal value, log1p, place among the bins, and its class if there are classes.
    fn of(&self, x: f64) -> [f32; 4] {
        if x.is_nan() {
            return [f32::NAN, 0.0, self.neutral, f32::NAN];
        }
        let quantile = interpolate(self.knots, self.normal, x) as f32;
        let log1p = clipped(self.log1p.apply(signed_log1p(x)), LOG1P_CLIP);
        [quantile, log1p, place(self.edges, x) as f32, self.bins.map_or(0.0, |bins| class(bins, x))]
    }
}

/// The class of a number; NaN is missing.
fn class(bins: &TargetBins, x: f64) -> f32 {
    if x.is_nan() { f32::NAN } else { bins.class(x) as f32 }
}

impl<'a> Column<'a> {
    fn new(feature: &'a Feature, column: &'a FeatureColumn, bins: Option<&'a TargetBins>) -> Self {
        match (feature, column) {
            (Feature::Parts { knots, normal, log1p, edges, missing }, FeatureColumn::Numeric(values)) => {
                let neutral = if *missing { 0.0 } else { place(edges, median(knots, normal)) as f32 };
                Column::Parts { values, learnt: Parts { knots, normal, log1p: *log1p, edges, neutral, bins } }
            }
            (Feature::Scaled { mean, std, .. }, FeatureColumn::Numeric(values)) => {
                Column::Scaled { values, affine: Affine { mean: *mean, std: *std }, bins }
            }
            (Feature::Categorical { values, cut, .. }, FeatureColumn::Categorical(texts)) => {
                Column::Class { codes: texts.codes(), found: class_of(values, cut, texts), n_known: values.len() }
            }
            _ => unreachable!("features were compared with the schema"),
        }
    }

    fn write(&self, row: usize, memo: Option<&mut Memo>, cells: &mut [f32]) {
        match self {
            Column::Parts { values, learnt } => {
                let x = values[row];
                let parts = memo.map_or_else(|| learnt.of(x), |memo| memo.get(x, |x| learnt.of(x)));
                let n_cells = if learnt.bins.is_some() { 4 } else { 3 };
                cells[..n_cells].copy_from_slice(&parts[..n_cells]);
            }
            Column::Scaled { values, affine, bins } => {
                cells[0] = clipped(affine.apply(values[row]), SCALED_CLIP);
                if let Some(bins) = bins {
                    cells[1] = class(bins, values[row]);
                }
            }
            Column::Class { codes, found, n_known } => cells[0] = found[codes[row] as usize].index(*n_known) as f32,
        }
    }
}

/// The parts of values that came last: a search among a thousand knots and a logarithm take many times as long as looking here.
#[derive(Clone)]
struct Memo(LastSeen<[f32; 4], 512>);

impl Default for Memo {
    fn default() -> Self {
        Memo(LastSeen::new(f64::NAN.to_bits())) // NaN is not looked up
    }
}

impl Memo {
    /// `parts` of x, from here if it was the last value in its slot.
    fn get(&mut self, x: f64, parts: impl FnOnce(f64) -> [f32; 4]) -> [f32; 4] {
        let bits = x.to_bits();
        let slot = self.0.slot(bits);
        if slot.0 != bits || x.is_nan() {
            *slot = (bits, parts(x));
        }
        slot.1
    }
}

fn clipped(x: f64, clip: f64) -> f32 {
    x.clamp(-clip, clip) as f32
}

/// The piecewise-linear function through the knots, constant beyond them.
fn interpolate(knots: &[f64], values: &[f64], x: f64) -> f64 {
    let last = knots.len() - 1;
    match knots.partition_point(|&knot| knot <= x) {
        0 => values[0],
        above if above > last => values[last],
        above => {
            let t = (x - knots[above - 1]) / (knots[above] - knots[above - 1]);
            values[above - 1] + t * (values[above] - values[above - 1])
        }
    }
}

/// The knot whose quantile-normal value is nearest to 0; there is one.
pub(super) fn median(knots: &[f64], normal: &[f64]) -> f64 {
    let nearest = knots.iter().zip(normal).min_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
    nearest.map_or(0.0, |(&knot, _)| knot)
}

/// How many bins lie below x, the one it is in counted in part; 0 without bins.
pub(super) fn place(edges: &[f64], x: f64) -> f64 {
    match edges.partition_point(|&edge| edge <= x) {
        0 => 0.0,
        above if above == edges.len() => (above - 1) as f64,
        above => (above - 1) as f64 + (x - edges[above - 1]) / (edges[above] - edges[above - 1]),
    }
}
