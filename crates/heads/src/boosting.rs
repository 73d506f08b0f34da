//! Gradient boosting of trees on histograms.

use std::ops::Range;

use ndarray::{Array1, ArrayRef2};
use rayon::prelude::*;

use crate::trees::{Node, Split, TreeParts, check_features};
use crate::{Checked, Error, Result, logit, sigmoid};

/// Bins of a feature at most, that of missing values not counted.
const MAX_BINS: usize = 255;

/// Settings of [`Boosting`]; the defaults are those of LightGBM.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoostingConfig {
    /// Trees at most: growth ends where no split gains anything.
    pub n_trees: usize,
    /// Share of each leaf's best value that is taken.
    pub lr: f64,
    /// Leaves of a tree at most.
    pub max_leaves: usize,
    /// Rows that a leaf has at least.
    pub min_leaf: usize,
    /// Sum of p (1 - p) that a leaf has at least.
    pub min_hessian: f64,
    /// Penalty on squared leaf values.
    pub lambda: f64,
}

impl Default for BoostingConfig {
    fn default() -> Self {
        Self { n_trees: 100, lr: 0.1, max_leaves: 31, min_leaf: 20, min_hessian: 1e-3, lambda: 0.0 }
    }
}

/// p = σ(base + Σ trees), each tree a Newton step on the log loss (Friedman 2001; Chen & Guestrin 2016). Trees grow leaf by leaf, the
/// one that gains most first, on at most 255 bins a feature (Ke et al. 2017). Missing values take the better side of each split.
///
/// ```
/// use ndarray::Array2;
/// use nids_heads::{Boosting, BoostingConfig};
///
/// let x = Array2::from_shape_fn((200, 1), |(row, _)| row as f32);
/// let target: Vec<f64> = (0..200).map(|row| f64::from(u8::from((60..140).contains(&row)))).collect();
/// let trees = Boosting::fit(&x, &target, None, BoostingConfig::default())?;
/// let p = trees.probabilities(&x);
/// assert!(p[10] < 0.1 && p[100] > 0.9 && p[190] < 0.1);
/// # Ok::<(), nids_heads::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Boosting(TreeParts);

impl Boosting {
    /// Grows the trees one after the other, each on all threads of the pool. Nothing is drawn at random. Rows of one class give a
    /// constant: (n + 1) / (n + 2) or 1 / (n + 2), n the total weight.
    ///
    /// x: [rows, features], NaN where missing   target: [rows], 0 to 1   weight: [rows], 1 where left out
    ///
    /// # Errors
    /// Infinite features, targets outside 0 to 1, negative weights, lengths that differ, no row, settings out of range.
    pub fn fit(x: &ArrayRef2<f32>, target: &[f64], weight: Option<&[f64]>, config: BoostingConfig) -> Result<Self> {
        let BoostingConfig { n_trees, lr, max_leaves, min_leaf, min_hessian, lambda } = config;
        if [n_trees, min_leaf].contains(&0) || max_leaves < 2 || !(lr > 0.0 && lr.is_finite()) {
            return Err(Error("expected `n_trees`, `lr` and `min_leaf` above 0, and `max_leaves` of 2 or more".into()));
        }
        if ![min_hessian, lambda].iter().all(|value| *value >= 0.0 && value.is_finite()) {
            return Err(Error("expected `min_hessian` and `lambda` of 0 or more".into()));
        }
        check_features(x)?;
        let rows = Checked::new(x.nrows(), target, weight)?;
        if let Some(p) = rows.one_class() {
            return Ok(Self(TreeParts::new(x.ncols(), logit(p), &[])));
        }
        let columns: Vec<Column> = (0..x.ncols())
            .into_par_iter()
            .map(|feature| Column::new(&rows.rows.iter().map(|&row| x[[row, feature]]).collect::<Vec<_>>()))
            .collect();
        let base = logit((&rows.target * &rows.weight).sum() / rows.weight.sum());
        let mut margins = vec![base; rows.rows.len()];
        let mut trees = Vec::new();
        for _ in 0..n_trees {
            let tree = Grower::new(&columns, &rows, &margins, config).grow(&mut margins);
            if tree.len() == 1 {
                break;
            }
            trees.push(tree);
        }
        Ok(Self(TreeParts::new(x.ncols(), base, &trees)))
    }

    /// Log odds, on all threads of the pool.   x: [rows, features] -> [rows]
    ///
    /// # Panics
    /// If a row has another number of features than those that were fitted.
    pub fn margins(&self, x: &ArrayRef2<f32>) -> Array1<f64> {
        self.0.sums(x)
    }

    /// Probabilities of the positive class, on all threads of the pool.   x: [rows, features] -> [rows]
    ///
    /// # Panics
    /// If a row has another number of features than those that were fitted.
    pub fn probabilities(&self, x: &ArrayRef2<f32>) -> Array1<f64> {
        self.margins(x).mapv(sigmoid)
    }

    /// The arrays that make it again.
    pub fn parts(&self) -> &TreeParts {
        &self.0
    }

    /// # Errors
    /// Arrays that are no trees.
    pub fn from_parts(parts: TreeParts) -> Result<Self> {
        parts.check().map(|()| Self(parts))
    }
}

/// A feature in bins. Bin `b` holds values up to `edges[b]`; the next one those beyond all edges, and the last one those missing.
struct Column {
    edges: Vec<f32>,
    /// [rows]
    bins: Vec<u8>,
}

impl Column {
    fn new(values: &[f32]) -> Self {
        let edges = edges(values);
        let bin = |&value: &f32| if value.is_nan() { edges.len() + 1 } else { edges.partition_point(|edge| *edge < value) } as u8;
        Self { bins: values.iter().map(bin).collect(), edges }
    }

    fn missing(&self) -> usize {
        self.edges.len() + 1
    }
}

/// Values half-way between neighbours, all of them or those that cut rows into about equal parts; at most 254.
fn edges(values: &[f32]) -> Vec<f32> {
    let mut sorted: Vec<f32> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_by(f32::total_cmp);
    let runs: Vec<&[f32]> = sorted.chunk_by(|a, b| a >= b).collect();
    let max_bins = MAX_BINS.min(runs.len());
    let (mut edges, mut rows_left, mut in_bin) = (Vec::new(), sorted.len(), 0);
    for (i, pair) in runs.windows(2).enumerate() {
        in_bin += pair[0].len();
        let bins_left = max_bins - edges.len();
        // runs that each need a bin of their own from here on, or a bin that has its share of what is left
        if bins_left > 1 && (runs.len() - i <= bins_left || in_bin * bins_left >= rows_left) {
            let (low, high) = (pair[0][0], pair[1][0]);
            let middle = f64::midpoint(f64::from(low), f64::from(high)) as f32;
            edges.push(if middle >= high { low } else { middle });
            rows_left -= in_bin;
            in_bin = 0;
        }
    }
    edges
}

/// Gradients, Hessians and number of some rows.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    gradient: f64,
    hessian: f64,
    n: usize,
}

impl Sum {
    fn plus(self, other: Self) -> Self {
        Self { gradient: self.gradient + other.gradient, hessian: self.hessian + other.hessian, n: self.n + other.n }
    }

    fn minus(self, other: Self) -> Self {
        Self { gradient: self.gradient - other.gradient, hessian: self.hessian - other.hessian, n: self.n - other.n }
    }
}

/// A leaf that may split.
struct Leaf {
    node: usize,
    rows: Range<usize>,
    sum: Sum,
    /// [features][bins]
    histogram: Vec<Vec<Sum>>,
    best: Option<(f64, Split)>,
}

/// What a tree grows from.
struct Grower<'a> {
    columns: &'a [Column],
    config: BoostingConfig,
    /// Gradient and Hessian of each row.   [rows]
    steps: Vec<Sum>,
    order: Vec<usize>,
}

impl<'a> Grower<'a> {
    fn new(columns: &'a [Column], rows: &Checked, margins: &[f64], config: BoostingConfig) -> Self {
        let step = |((&margin, &target), &weight): ((&f64, &f64), &f64)| {
            let p = sigmoid(margin);
            Sum { gradient: weight * (p - target), hessian: weight * p * (1.0 - p), n: 1 }
        };
        let steps: Vec<Sum> = margins.iter().zip(&rows.target).zip(&rows.weight).map(step).collect();
        Self { columns, config, order: (0..steps.len()).collect(), steps }
    }

    /// Grows a tree and adds what it says to the margins of the rows.
    fn grow(mut self, margins: &mut [f64]) -> Vec<Node> {
        let mut nodes = vec![Node::default()];
        let sum = self.steps.iter().fold(Sum::default(), |sum, &step| sum.plus(step));
        let histogram = self.histogram(&self.order);
        let mut leaves = vec![self.leaf(0, 0..self.order.len(), sum, histogram)];
        while leaves.len() < self.config.max_leaves {
            let gain = |leaf: &Leaf| leaf.best.map_or(f64::NEG_INFINITY, |(gain, _)| gain);
            // of equal gains the first
            let most = (0..leaves.len()).rev().max_by(|&a, &b| gain(&leaves[a]).total_cmp(&gain(&leaves[b]))).expect("a root");
            let Some((_, split)) = leaves[most].best else { break };
            let Leaf { node, rows, sum, histogram, .. } = leaves.swap_remove(most);
            let child = nodes.len();
            nodes[node] = Node { split, child: child as u32, value: 0.0 };
            nodes.extend([Node::default(); 2]);
            let middle = self.part(rows.clone(), split);
            leaves.extend(self.children(child, [rows.start..middle, middle..rows.end], sum, histogram));
        }
        for leaf in leaves {
            let Leaf { node, rows, sum, .. } = leaf;
            let value = -self.config.lr * sum.gradient / (sum.hessian + self.config.lambda);
            nodes[node].value = value;
            self.order[rows].iter().for_each(|&row| margins[row] += value);
        }
        nodes
    }

    /// Puts rows that go left before the others, each in their order; where the others begin.
    fn part(&mut self, rows: Range<usize>, split: Split) -> usize {
        let column = &self.columns[split.feature as usize];
        let last = column.edges.partition_point(|&edge| edge < split.threshold);
        let goes_left = |row: usize| match usize::from(column.bins[row]) {
            bin if bin == column.missing() => split.missing_left,
            bin => bin <= last,
        };
        let among = &mut self.order[rows.clone()];
        let (left, right): (Vec<usize>, Vec<usize>) = among.iter().partition(|&&row| goes_left(row));
        among.copy_from_slice(&[left.as_slice(), &right].concat());
        rows.start + left.len()
    }

    /// The children of a leaf: the histogram of the smaller one is counted, that of the other one is what is left.
    fn children(&self, child: usize, [left, right]: [Range<usize>; 2], sum: Sum, mut histogram: Vec<Vec<Sum>>) -> [Leaf; 2] {
        let is_left_small = left.len() <= right.len();
        let small = if is_left_small { left.clone() } else { right.clone() };
        let counted = self.histogram(&self.order[small.clone()]);
        let counted_sum = self.order[small].iter().fold(Sum::default(), |sum, &row| sum.plus(self.steps[row]));
        histogram.iter_mut().flatten().zip(counted.iter().flatten()).for_each(|(all, &part)| *all = all.minus(part));
        let rest = sum.minus(counted_sum);
        if is_left_small {
            [self.leaf(child, left, counted_sum, counted), self.leaf(child + 1, right, rest, histogram)]
        } else {
            [self.leaf(child, left, rest, histogram), self.leaf(child + 1, right, counted_sum, counted)]
        }
    }

    fn leaf(&self, node: usize, rows: Range<usize>, sum: Sum, histogram: Vec<Vec<Sum>>) -> Leaf {
        let best = self.columns.par_iter().zip(&histogram).enumerate();
        let best: Vec<_> = best.map(|(feature, (column, bins))| self.best_split(feature, column, bins, sum)).collect();
        let best = best.into_iter().flatten().fold(None, |best: Option<(f64, Split)>, found| match best {
            Some(best) if best.0 >= found.0 => Some(best),
            _ => Some(found),
        });
        Leaf { node, rows, sum, histogram, best }
    }

    /// [features][bins], each feature by one thread and in the order of rows.
    fn histogram(&self, rows: &[usize]) -> Vec<Vec<Sum>> {
        let histogram = self.columns.par_iter().map(|column| {
            let mut bins = vec![Sum::default(); column.missing() + 1];
            for &row in rows {
                let bin = &mut bins[usize::from(column.bins[row])];
                *bin = bin.plus(self.steps[row]);
            }
            bins
        });
        histogram.collect()
    }

    /// The split of a feature that gains most; none where no split gains, or leaves enough on both sides.
    fn best_split(&self, feature: usize, column: &Column, bins: &[Sum], all: Sum) -> Option<(f64, Split)> {
        let BoostingConfig { min_leaf, min_hessian, lambda, .. } = self.config;
        let score = |sum: Sum| sum.gradient * sum.gradient / (sum.hessian + lambda);
        let missing = bins[column.missing()];
        let (mut left, mut most, mut best) = (Sum::default(), 1e-12, None);
        // beyond the last edge, missing values part from all others
        let thresholds = column.edges.iter().copied().chain([f32::INFINITY]);
        for (&bin, threshold) in bins.iter().zip(thresholds) {
            left = left.plus(bin);
            let sides: &[bool] = if missing.n > 0 { &[true, false] } else { &[2 * left.n >= all.n] };
            for &missing_left in sides {
                let left = if missing_left { left.plus(missing) } else { left };
                if left.n.min(all.n - left.n) < min_leaf {
                    continue;
                }
                let right = all.minus(left);
                let gain = score(left) + score(right) - score(all);
                if left.hessian.min(right.hessian) >= min_hessian && gain > most {
                    most = gain;
                    best = Some((gain, Split { feature: feature as u32, threshold, missing_left }));
                }
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::close;
    use crate::trees::tests::steps;

    const SMALL: BoostingConfig =
        BoostingConfig { n_trees: 20, lr: 0.1, max_leaves: 4, min_leaf: 2, min_hessian: 1e-3, lambda: 0.0 };

    fn loss(trees: &Boosting, x: &Array2<f32>, target: &[f64]) -> f64 {
        let p = trees.probabilities(x);
        p.iter().zip(target).map(|(p, y)| -y * p.ln() - (1.0 - y) * (1.0 - p).ln()).sum::<f64>() / target.len() as f64
    }

    #[test]
    fn one_tree_by_hand() {
        // p = 1 / 2 at first, so gradients are ±1 / 2 and Hessians 1 / 4. The left leaf has G = 3 / 2 - 1 / 2 = 1 and H = 1, the right one
        // G = -1 and H = 1 / 2: steps of -0.1 · 1 / 1 and 0.1 · 1 / (1 / 2).
        let x = array![[1.0_f32], [1.0], [1.0], [1.0], [3.0], [3.0]];
        let config = BoostingConfig { n_trees: 1, ..SMALL };
        let target = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        let trees = Boosting::fit(&x, &target, None, config).unwrap();
        close(&trees.margins(&array![[1.9], [2.1]]), &[-0.1, 0.2], 1e-12);
        assert!((trees.0.threshold[0] - 2.0).abs() < 1e-6);
        // with lambda = 1 the steps are -0.1 / 2 and 0.1 / 1.5
        let trees = Boosting::fit(&x, &target, None, BoostingConfig { lambda: 1.0, ..config }).unwrap();
        close(&trees.margins(&x.select(ndarray::Axis(0), &[0, 5])), &[-0.05, 0.1 / 1.5], 1e-12);
        // a weight of 2 on the last two rows: p = 5 / 8, and G and H of the right leaf are 4 (5 / 8 - 1) and 4 · 15 / 64
        let trees = Boosting::fit(&x, &target, Some(&[1.0, 1.0, 1.0, 1.0, 2.0, 2.0]), config).unwrap();
        close(&trees.margins(&array![[3.0]]), &[logit(0.625) + 0.1 * 1.5 / (60.0 / 64.0)], 1e-12);
        // soft targets: p = 1 / 2 and G of the right leaf is 2 (1 / 2 - 3 / 4)
        let trees = Boosting::fit(&x, &[0.375, 0.375, 0.375, 0.375, 0.75, 0.75], None, config).unwrap();
        close(&trees.margins(&array![[3.0]]), &[0.1 * 0.5 / 0.5], 1e-12);
    }

    #[test]
    fn the_leaf_that_gains_most_splits_first() {
        // three leaves: the first split is at 5, the second one where labels of the left half change, since the right half is pure
        let x = Array2::from_shape_fn((40, 1), |(row, _)| row as f32);
        let target: Vec<f64> = (0..40).map(|row| f64::from(u8::from(!(4..20).contains(&row)))).collect();
        let trees = Boosting::fit(&x, &target, None, BoostingConfig { n_trees: 1, max_leaves: 3, ..SMALL }).unwrap();
        let mut thresholds: Vec<f32> =
            (0..5).filter(|&node| trees.0.child[node] > 0).map(|node| trees.0.threshold[node]).collect();
        thresholds.sort_by(f32::total_cmp);
        assert_eq!(thresholds, [3.5, 19.5]);
    }

    #[test]
    fn edges_lie_between_values_or_cut_rows_evenly() {
        assert_eq!(edges(&[3.0, 1.0, f32::NAN, 1.0, 7.0]), [2.0, 5.0]);
        assert!(edges(&[f32::NAN, 4.0]).is_empty());
        // half-way between neighbours in f32 rounds to one of both: never to the upper one, which would go left, too
        let next = 1.0_f32.next_up();
        assert_eq!((edges(&[1.0, next]), edges(&[next, next.next_up()])), (vec![1.0], vec![next]));
        // more values than bins: 1,000 values in 255 bins of about four
        let many: Vec<f32> = (0..1000).map(|value| value as f32).collect();
        let edges = edges(&many);
        assert_eq!(edges.len(), 254);
        let widths: Vec<f32> = edges.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(widths.iter().all(|width| (3.0..=5.0).contains(width)), "{widths:?}");
        // a value that most rows have takes one bin, and the others share the rest
        let skewed: Vec<f32> = (0..2000).map(|row| if row < 1000 { 0.0 } else { row as f32 }).collect();
        assert!(super::edges(&skewed).len() > 240);
    }

    #[test]
    fn steps_that_no_line_parts_are_learned() {
        let (x, labels) = steps(1500, 1);
        let (other, wanted) = steps(800, 2);
        let trees = Boosting::fit(&x, &labels, None, BoostingConfig::default()).unwrap();
        let p = trees.probabilities(&other);
        let right = p.iter().zip(&wanted).filter(|(p, label)| (**p > 0.5) == (**label > 0.5)).count() as f64 / 800.0;
        assert!(right > 0.97, "{right}");
    }

    #[test]
    fn a_missing_value_tells_something() {
        let x = Array2::from_shape_fn((90, 1), |(row, _)| if row % 3 == 0 { f32::NAN } else { (row % 3) as f32 });
        for missing in [0.0, 1.0] {
            let labels: Vec<f64> =
                (0..90).map(|row| if row % 3 == 0 { missing } else { f64::from(u8::from(row % 3 == 1)) }).collect();
            let p = Boosting::fit(&x, &labels, None, SMALL).unwrap().probabilities(&array![[1.0], [2.0], [f32::NAN]]);
            assert!(p[0] > 0.8 && p[1] < 0.2 && (p[2] - missing).abs() < 0.2, "{p}");
        }
        let x = Array2::from_shape_fn((20, 1), |(row, _)| if row < 10 { f32::NAN } else { 4.0 });
        let labels: Vec<f64> = (0..20).map(|row| f64::from(u8::from(row < 10))).collect();
        let p = Boosting::fit(&x, &labels, None, SMALL).unwrap().probabilities(&array![[4.0], [f32::NAN]]);
        assert!(p[0] < 0.2 && p[1] > 0.8, "{p}");
    }

    #[test]
    fn training_margins_are_those_of_scoring() {
        // the loss falls with each tree only if the margins that gradients come from are the ones that scoring gives
        let (x, labels) = steps(300, 4);
        let losses: Vec<f64> = [1, 5, 20]
            .map(|n_trees| loss(&Boosting::fit(&x, &labels, None, BoostingConfig { n_trees, ..SMALL }).unwrap(), &x, &labels))
            .into();
        assert!(losses[0] > losses[1] && losses[1] > losses[2], "{losses:?}");
        let columns: Vec<Column> = x.columns().into_iter().map(|column| Column::new(&column.to_vec())).collect();
        let rows = Checked::new(300, &labels, None).unwrap();
        let mut margins = vec![0.0; 300];
        let trees = [(); 3].map(|()| Grower::new(&columns, &rows, &margins.clone(), SMALL).grow(&mut margins));
        close(&TreeParts::new(3, 0.0, &trees).sums(&x), &margins, 1e-12);
    }

    #[test]
    fn children_have_the_histograms_of_their_rows() {
        let (x, labels) = steps(60, 4);
        let columns: Vec<Column> = x.columns().into_iter().map(|column| Column::new(&column.to_vec())).collect();
        let rows = Checked::new(60, &labels, None).unwrap();
        for threshold in [-0.6, 0.6] {
            let mut grower = Grower::new(&columns, &rows, &[0.3; 60], SMALL);
            let (order, sum) = (grower.order.clone(), grower.steps.iter().fold(Sum::default(), |sum, &step| sum.plus(step)));
            let histogram = grower.histogram(&order);
            let middle = grower.part(0..60, Split { feature: 0, threshold, missing_left: false });
            assert!((1..60).contains(&middle) && middle != 30);
            for leaf in grower.children(1, [0..middle, middle..60], sum, histogram) {
                let wanted = grower.histogram(&grower.order[leaf.rows.clone()]);
                let total = grower.order[leaf.rows].iter().fold(Sum::default(), |sum, &row| sum.plus(grower.steps[row]));
                let found = leaf.histogram.iter().flatten().chain([&leaf.sum]);
                for (found, wanted) in found.zip(wanted.iter().flatten().chain([&total])) {
                    let (gradient, hessian) = (found.gradient - wanted.gradient, found.hessian - wanted.hessian);
                    assert!(found.n == wanted.n && gradient.abs() < 1e-12 && hessian.abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let (x, labels) = steps(400, 1);
        let fit = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let trees = Boosting::fit(&x, &labels, None, SMALL).unwrap();
                let p = trees.probabilities(&x);
                (trees, p)
            })
        };
        assert_eq!(fit(1), fit(4));
    }

    #[test]
    fn limits_of_leaves_hold() {
        let (x, labels) = steps(300, 1);
        let config = BoostingConfig { min_leaf: 40, max_leaves: 31, n_trees: 3, ..SMALL };
        let trees = Boosting::fit(&x, &labels, None, config).unwrap();
        assert!(trees.0.root.len() == 3 && trees.0.root[1] <= 13, "7 leaves of 40 rows at most: {:?}", trees.0.root);
        // 300 rows have a Hessian of 75 at first
        let trees = Boosting::fit(&x, &labels, None, BoostingConfig { min_hessian: 38.0, n_trees: 1, ..SMALL }).unwrap();
        assert_eq!(trees.0.root.len(), 0);
    }

    #[test]
    fn rows_of_one_class_give_a_constant_that_is_not_certain() {
        let (x, _) = steps(8, 1);
        for (class, p) in [(1.0, 0.9), (0.0, 0.1)] {
            let trees = Boosting::fit(&x, &[class; 8], None, SMALL).unwrap();
            close(&trees.probabilities(&x), &[p; 8], 1e-12);
            assert_eq!(Boosting::from_parts(trees.parts().clone()).unwrap(), trees);
        }
    }

    #[test]
    fn bad_input_is_an_error() {
        let message = |config| Boosting::fit(&array![[1.0], [2.0]], &[0.0, 1.0], None, config).unwrap_err().to_string();
        insta::assert_snapshot!(message(BoostingConfig { max_leaves: 1, ..SMALL }), @"expected `n_trees`, `lr` and `min_leaf` above 0, and `max_leaves` of 2 or more");
        insta::assert_snapshot!(message(BoostingConfig { lambda: -1.0, ..SMALL }), @"expected `min_hessian` and `lambda` of 0 or more");
        let error = Boosting::fit(&array![[f32::NEG_INFINITY], [2.0]], &[0.0, 1.0], None, SMALL).unwrap_err();
        insta::assert_snapshot!(error, @"row 0, feature 0: expected a finite number or NaN, found `-inf`");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        #[test]
        fn any_table_grows_whole_trees_that_lower_the_loss(
            values in prop::collection::vec(prop_oneof![Just(f32::NAN), (-3_i8..3).prop_map(f32::from), prop::num::f32::NORMAL], 8..90),
            targets in prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), 0.0..=1.0], 90),
            n_features in 1_usize..5,
            min_leaf in 1_usize..4,
        ) {
            let n = values.len() / n_features;
            let x = Array2::from_shape_vec((n, n_features), values[..n * n_features].to_vec()).unwrap();
            let fit = |n_trees| Boosting::fit(&x, &targets[..n], None, BoostingConfig { n_trees, min_leaf, ..SMALL }).unwrap();
            let trees = fit(10);
            trees.parts().check().unwrap();
            prop_assert!(loss(&trees, &x, &targets[..n]) <= loss(&fit(1), &x, &targets[..n]) + 1e-12);
        }
    }
}
