//! Extremely randomised trees.

use ndarray::{Array1, ArrayRef2};
use nids_kernels::{Key, Stream};
use rand::RngExt as _;
use rayon::prelude::*;

use crate::trees::{Node, Split, TreeParts, check_features};
use crate::{Checked, Error, Result};

/// Settings of [`ExtraTrees`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtraTreesConfig {
    /// Trees whose probabilities are averaged.
    pub n_trees: usize,
    /// Features that a node tries; None for the square root of their number. Features that are constant in a node do not count.
    pub max_features: Option<usize>,
    /// Rows that a leaf has at least.
    pub min_leaf: usize,
}

impl Default for ExtraTreesConfig {
    /// What scikit-learn does, with 300 trees.
    fn default() -> Self {
        Self { n_trees: 300, max_features: None, min_leaf: 1 }
    }
}

/// The mean of trees that part rows at thresholds drawn at random (Geurts, Ernst & Wehenkel 2006).
///
/// A node tries some features, at a threshold of each that is drawn between the least and the largest value of its rows, and takes the
/// split with the least squared error of the targets (which is the Gini index for labels). Missing values take the better side; where
/// a feature has one value beside them, they part from it. A leaf says the mean target of its rows.
///
/// ```
/// use ndarray::array;
/// use nids_heads::{ExtraTrees, ExtraTreesConfig};
/// use nids_kernels::Key;
///
/// let x = array![[1.0_f32, f32::NAN], [2.0, 7.0], [8.0, f32::NAN], [9.0, 7.0]];
/// let trees = ExtraTrees::fit(&x, &[0.0, 0.0, 1.0, 1.0], None, ExtraTreesConfig::default(), Key::new(1))?;
/// let p = trees.probabilities(&array![[0.0, 7.0], [10.0, f32::NAN]]);
/// assert!(p[0] < 0.2 && p[1] > 0.8);
/// # Ok::<(), nids_heads::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ExtraTrees(TreeParts);

impl ExtraTrees {
    /// Grows the trees, each by a key of its own, on all threads of the pool. Rows of one class give a constant: (n + 1) / (n + 2) or
    /// 1 / (n + 2), n the total weight.
    ///
    /// x: [rows, features], NaN where missing   target: [rows], 0 to 1   weight: [rows], 1 where left out
    ///
    /// # Errors
    /// Infinite features, targets outside 0 to 1, negative weights, lengths that differ, no row, settings of 0.
    pub fn fit(x: &ArrayRef2<f32>, target: &[f64], weight: Option<&[f64]>, config: ExtraTreesConfig, key: Key) -> Result<Self> {
        let n_features = x.ncols();
        let max_features = config.max_features.unwrap_or(((n_features as f64).sqrt() as usize).max(1));
        if [config.n_trees, max_features, config.min_leaf].contains(&0) {
            return Err(Error("expected `n_trees`, `max_features` and `min_leaf` above 0".into()));
        }
        check_features(x)?;
        let rows = Checked::new(x.nrows(), target, weight)?;
        if let Some(p) = rows.one_class() {
            return Ok(Self(TreeParts::new(n_features, p, &[])));
        }
        let columns: Vec<Vec<f32>> =
            x.columns().into_iter().map(|column| rows.rows.iter().map(|&row| column[row]).collect()).collect();
        let trees = (0..config.n_trees).into_par_iter().map(|tree| {
            let stream = key.child(tree as u64).stream(0, 0);
            Grower { columns: &columns, rows: &rows, max_features, config, stream, features: (0..n_features).collect() }.grow()
        });
        Ok(Self(TreeParts::new(n_features, 0.0, &trees.collect::<Vec<_>>())))
    }

    /// Probabilities of the positive class, on all threads of the pool.   x: [rows, features] -> [rows]
    ///
    /// # Panics
    /// If a row has another number of features than those that were fitted.
    pub fn probabilities(&self, x: &ArrayRef2<f32>) -> Array1<f64> {
        self.0.sums(x).mapv(|p| p.clamp(0.0, 1.0)) // a mean of ones may be a rounding error above
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

/// What a tree grows from.
struct Grower<'a> {
    /// [features][rows]
    columns: &'a [Vec<f32>],
    rows: &'a Checked,
    max_features: usize,
    config: ExtraTreesConfig,
    stream: Stream,
    /// All features, in the order in which the last node drew them.
    features: Vec<usize>,
}

/// Count, weight, and weighted sum of targets of some rows.
#[derive(Clone, Copy, Default)]
struct Sum {
    n: usize,
    weight: f64,
    target: f64,
}

impl Sum {
    fn of(rows: &Checked, among: impl Iterator<Item = usize>) -> Self {
        among.fold(Self::default(), |sum, row| {
            let (weight, target) = (rows.weight[row], rows.target[row]);
            Self { n: sum.n + 1, weight: sum.weight + weight, target: sum.target + weight * target }
        })
    }

    fn plus(self, other: Self) -> Self {
        Self { n: self.n + other.n, weight: self.weight + other.weight, target: self.target + other.target }
    }

    /// What its mean takes off the sum of squares.
    fn explained(self) -> f64 {
        self.target * self.target / self.weight
    }
}

impl Grower<'_> {
    fn grow(mut self) -> Vec<Node> {
        let share = 1.0 / self.config.n_trees as f64;
        let mut order: Vec<usize> = (0..self.rows.rows.len()).collect();
        let mut nodes = vec![Node::default()];
        let mut open = vec![(0, 0..order.len())];
        while let Some((node, range)) = open.pop() {
            let among = &mut order[range.clone()];
            let Some(split) = self.split(among) else {
                let sum = Sum::of(self.rows, among.iter().copied());
                nodes[node].value = share * (sum.target / sum.weight);
                continue;
            };
            let column = &self.columns[split.feature as usize];
            let (left, right): (Vec<usize>, Vec<usize>) = among.iter().partition(|&&row| split.goes_left(column[row]));
            let middle = range.start + left.len();
            among.copy_from_slice(&[left, right].concat());
            let child = nodes.len();
            nodes[node] = Node { split, child: child as u32, value: 0.0 };
            nodes.extend([Node::default(); 2]);
            open.extend([(child + 1, middle..range.end), (child, range.start..middle)]);
        }
        nodes
    }

    /// The best of the splits that are tried; None where targets are equal, rows are too few, or no feature changes.
    fn split(&mut self, among: &[usize]) -> Option<Split> {
        let first = self.rows.target[among[0]];
        if among.len() < 2 * self.config.min_leaf || among.iter().all(|&row| (self.rows.target[row] - first).abs() <= 0.0) {
            return None;
        }
        let all = Sum::of(self.rows, among.iter().copied());
        let (mut best, mut most, mut tried) = (None, f64::NEG_INFINITY, 0);
        for drawn in 0..self.features.len() {
            let other = self.stream.random_range(drawn as u32..self.features.len() as u32) as usize;
            self.features.swap(drawn, other);
            let feature = self.features[drawn];
            let column = &self.columns[feature];
            let (mut least, mut largest, mut missing) = (f32::INFINITY, f32::NEG_INFINITY, Sum::default());
            for &row in among {
                let value = column[row];
                if value.is_nan() {
                    missing = missing.plus(Sum::of(self.rows, [row].into_iter()));
                } else {
                    (least, largest) = (least.min(value), largest.max(value));
                }
            }
            if missing.n == among.len() || (least >= largest && missing.n == 0) {
                continue;
            }
            tried += 1;
            let (low, high) = (f64::from(least), f64::from(largest));
            let at = (low + self.stream.random::<f64>() * (high - low)) as f32;
            // rounding to f32 must not leave the right side empty
            let threshold = if at >= largest && least < largest { least } else { at };
            let left = Sum::of(self.rows, among.iter().copied().filter(|&row| column[row] <= threshold));
            let sides: &[bool] = if missing.n > 0 { &[true, false] } else { &[left.weight >= all.weight / 2.0] };
            for &missing_left in sides {
                let left = if missing_left { left.plus(missing) } else { left };
                let right = Sum { n: all.n - left.n, weight: all.weight - left.weight, target: all.target - left.target };
                if left.n < self.config.min_leaf.max(1) || right.n < self.config.min_leaf.max(1) {
                    continue;
                }
                let explained = left.explained() + right.explained();
                if explained > most {
                    most = explained;
                    best = Some(Split { feature: feature as u32, threshold, missing_left });
                }
            }
            if tried >= self.max_features && best.is_some() {
                break;
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Axis, array};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::close;
    use crate::trees::tests::steps;

    const FEW: ExtraTreesConfig = ExtraTreesConfig { n_trees: 25, max_features: None, min_leaf: 1 };

    fn accuracy(p: &Array1<f64>, labels: &[f64]) -> f64 {
        p.iter().zip(labels).filter(|(p, label)| (**p > 0.5) == (**label > 0.5)).count() as f64 / labels.len() as f64
    }

    #[test]
    fn one_split_by_hand() {
        // wherever the threshold falls between 1 and 2, the leaves are pure
        let x = array![[1.0_f32], [1.0], [2.0], [2.0]];
        let trees = ExtraTrees::fit(&x, &[0.0, 0.25, 1.0, 1.0], Some(&[3.0, 1.0, 1.0, 1.0]), FEW, Key::new(1)).unwrap();
        // (3 · 0 + 1 · 0.25) / 4 in the left one
        close(&trees.probabilities(&array![[0.0], [5.0]]), &[0.0625, 1.0], 1e-12);
        let parts = trees.parts();
        assert_eq!((parts.root.len(), parts.feature.len()), (25, 75));
        assert!(parts.root.iter().all(|&root| (1.0..2.0).contains(&parts.threshold[root as usize])));
        // thresholds are drawn anew for each tree, over the whole gap
        let drawn: Vec<f32> = parts.root.iter().map(|&root| parts.threshold[root as usize]).collect();
        let (least, most) = drawn.iter().fold((2.0_f32, 1.0_f32), |(a, b), &value| (a.min(value), b.max(value)));
        assert!(least < 1.2 && most > 1.8, "{drawn:?}");
    }

    #[test]
    fn the_better_of_two_features_is_taken() {
        // the second one parts the classes at any threshold, the first one at none
        let x = array![[1.0_f32, 1.0], [2.0, 1.0], [1.0, 2.0], [2.0, 2.0]];
        let config = ExtraTreesConfig { max_features: Some(2), ..FEW };
        let trees = ExtraTrees::fit(&x, &[0.0, 0.0, 1.0, 1.0], None, config, Key::new(1)).unwrap();
        assert!(trees.0.root.iter().all(|&root| trees.0.feature[root as usize] == 1));
    }

    #[test]
    fn steps_that_no_line_parts_are_learned() {
        let (x, labels) = steps(800, 1);
        let (other, wanted) = steps(800, 2);
        let trees = ExtraTrees::fit(&x, &labels, None, ExtraTreesConfig { n_trees: 100, ..FEW }, Key::new(3)).unwrap();
        let right = accuracy(&trees.probabilities(&other), &wanted);
        assert!(right > 0.93, "{right}");
        assert!((accuracy(&trees.probabilities(&x), &labels) - 1.0).abs() < 1e-12, "leaves are pure");
    }

    #[test]
    fn a_missing_value_tells_something() {
        // the label is whether the value is missing, and whether it is large; of the missing ones all are attacks
        let x = Array2::from_shape_fn((90, 1), |(row, _)| if row % 3 == 0 { f32::NAN } else { (row % 3) as f32 });
        for missing in [0.0, 1.0] {
            let labels: Vec<f64> =
                (0..90).map(|row| if row % 3 == 0 { missing } else { f64::from(u8::from(row % 3 == 1)) }).collect();
            let trees = ExtraTrees::fit(&x, &labels, None, FEW, Key::new(1)).unwrap();
            close(&trees.probabilities(&array![[1.0], [2.0], [f32::NAN]]), &[1.0, 0.0, missing], 1e-12);
        }
        // one value beside missing ones
        let x = Array2::from_shape_fn((20, 1), |(row, _)| if row < 10 { f32::NAN } else { 4.0 });
        let labels: Vec<f64> = (0..20).map(|row| f64::from(u8::from(row < 10))).collect();
        let trees = ExtraTrees::fit(&x, &labels, None, FEW, Key::new(1)).unwrap();
        close(&trees.probabilities(&array![[4.0], [f32::NAN]]), &[0.0, 1.0], 1e-12);
    }

    #[test]
    fn a_value_missing_for_the_first_time_takes_the_heavier_side() {
        let x = array![[1.0_f32], [2.0], [2.0], [2.0]];
        let trees = ExtraTrees::fit(&x, &[0.0, 1.0, 1.0, 1.0], None, FEW, Key::new(1)).unwrap();
        close(&trees.probabilities(&array![[f32::NAN]]), &[1.0], 1e-12);
        let trees = ExtraTrees::fit(&x, &[0.0, 1.0, 1.0, 1.0], Some(&[9.0, 1.0, 1.0, 1.0]), FEW, Key::new(1)).unwrap();
        close(&trees.probabilities(&array![[f32::NAN]]), &[0.0], 1e-12);
    }

    #[test]
    fn a_node_tries_no_more_features_than_it_is_told() {
        // the first of ten features parts the classes; a node that tries one takes the one it has drawn
        let x = Array2::from_shape_fn(
            (40, 10),
            |(row, feature)| if feature == 0 { row as f32 } else { ((row * 7 + feature) % 11) as f32 },
        );
        let labels: Vec<f64> = (0..40).map(|row| f64::from(u8::from(row < 20))).collect();
        let trees = ExtraTrees::fit(&x, &labels, None, ExtraTreesConfig { max_features: Some(1), ..FEW }, Key::new(1)).unwrap();
        let drawn: std::collections::BTreeSet<u32> = trees.0.root.iter().map(|&root| trees.0.feature[root as usize]).collect();
        assert!(drawn.len() > 5, "{drawn:?}");
    }

    #[test]
    fn constant_features_do_not_count_as_tried() {
        // one feature of ten changes: with one try for each node, the tree finds it all the same
        let x = Array2::from_shape_fn((40, 10), |(row, feature)| if feature == 6 { row as f32 } else { 1.0 });
        let labels: Vec<f64> = (0..40).map(|row| f64::from(u8::from(row < 20))).collect();
        let config = ExtraTreesConfig { max_features: Some(1), ..FEW };
        let p = ExtraTrees::fit(&x, &labels, None, config, Key::new(1)).unwrap().probabilities(&x);
        close(&p, &labels, 1e-12);
    }

    #[test]
    fn equal_rows_end_in_one_leaf_with_their_mean() {
        let p = ExtraTrees::fit(&Array2::ones((4, 2)), &[0.0, 1.0, 1.0, 1.0], None, FEW, Key::new(1)).unwrap();
        close(&p.probabilities(&Array2::ones((1, 2))), &[0.75], 1e-12);
    }

    #[test]
    fn leaves_keep_their_least_number_of_rows() {
        let (x, labels) = steps(300, 1);
        let trees = ExtraTrees::fit(&x, &labels, None, ExtraTreesConfig { min_leaf: 20, ..FEW }, Key::new(3)).unwrap();
        // each leaf's share of a tree is a mean of at least 20 labels, so not all are 0 or 1; and there are at most 15 leaves
        let ends = trees.0.root.iter().skip(1).copied().chain([trees.0.feature.len() as u32]);
        assert!(trees.0.root.iter().zip(ends).all(|(start, end)| (end - start).div_ceil(2) <= 15 && end - start > 4));
    }

    #[test]
    fn threads_change_no_bit_and_the_key_does() {
        let (x, labels) = steps(400, 1);
        let fit = |key, threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let trees = ExtraTrees::fit(&x, &labels, None, FEW, key).unwrap();
                let p = trees.probabilities(&x);
                (trees, p)
            })
        };
        let one = fit(Key::new(5), 1);
        assert_eq!(one, fit(Key::new(5), 4));
        assert_ne!(one, fit(Key::new(6), 1));
    }

    #[test]
    fn rows_of_one_class_give_a_constant_that_is_not_certain() {
        let (x, _) = steps(8, 1);
        for (class, p) in [(1.0, 0.9), (0.0, 0.1)] {
            let trees = ExtraTrees::fit(&x, &[class; 8], None, FEW, Key::new(1)).unwrap();
            close(&trees.probabilities(&x), &[p; 8], 1e-12);
            assert_eq!(ExtraTrees::from_parts(trees.parts().clone()).unwrap(), trees);
        }
    }

    #[test]
    fn bad_input_is_an_error() {
        let message =
            |x: Array2<f32>, config| ExtraTrees::fit(&x, &[0.0, 1.0], None, config, Key::new(1)).unwrap_err().to_string();
        insta::assert_snapshot!(message(array![[1.0], [f32::INFINITY]], FEW), @"row 1, feature 0: expected a finite number or NaN, found `inf`");
        insta::assert_snapshot!(message(array![[1.0]], FEW), @"expected a target for each of 1 rows, found 2 targets");
        insta::assert_snapshot!(
            message(array![[1.0], [2.0]], ExtraTreesConfig { n_trees: 0, ..FEW }),
            @"expected `n_trees`, `max_features` and `min_leaf` above 0"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        #[test]
        fn any_table_grows_whole_trees_and_probabilities(
            values in prop::collection::vec(prop_oneof![Just(f32::NAN), (-3_i8..3).prop_map(f32::from), prop::num::f32::NORMAL], 8..90),
            targets in prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), 0.0..=1.0], 90),
            n_features in 1_usize..5,
            min_leaf in 1_usize..4,
            seed: u64,
        ) {
            let n = values.len() / n_features;
            let x = Array2::from_shape_vec((n, n_features), values[..n * n_features].to_vec()).unwrap();
            let config = ExtraTreesConfig { n_trees: 5, max_features: None, min_leaf };
            let trees = ExtraTrees::fit(&x, &targets[..n], None, config, Key::new(seed)).unwrap();
            trees.parts().check().unwrap();
            let p = trees.probabilities(&x);
            prop_assert!(p.iter().all(|p| (0.0..=1.0).contains(p)));
            // the mean over training rows is that of the targets, since each leaf is a mean
            let mean = targets[..n].iter().sum::<f64>() / n as f64;
            prop_assert!(trees.parts().root.is_empty() || (p.mean_axis(Axis(0)).unwrap().into_scalar() - mean).abs() < 1e-9);
        }
    }
}
