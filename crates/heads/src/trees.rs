//! Binary trees as arrays, and the sum of what they say.

use ndarray::{Array1, ArrayRef1, ArrayRef2, Axis};
use rayon::prelude::*;

use crate::{Error, Result, check_parts};

/// Rows that a thread scores at once.
const BLOCK: usize = 256;

/// The arrays of some trees. A tree's nodes lie together, its root first; a node lies before its children, and those lie side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeParts {
    /// Features that a row has.
    pub n_features: usize,
    /// What a row has before any tree is asked.
    pub base: f64,
    /// First node of each tree.   [trees]
    pub root: Array1<u32>,
    /// Feature that a node asks for; 0 in a leaf.   [nodes]
    pub feature: Array1<u32>,
    /// A value up to this goes left.   [nodes]
    pub threshold: Array1<f32>,
    /// Whether a missing value goes left: 1 or 0.   [nodes]
    pub missing_left: Array1<u8>,
    /// Left child, which the right one follows; 0 in a leaf.   [nodes]
    pub child: Array1<u32>,
    /// What a leaf adds; 0 elsewhere.   [nodes]
    pub value: Array1<f64>,
}

/// A node of a tree that grows, with its children counted from the root.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Node {
    pub(crate) split: Split,
    pub(crate) child: u32,
    pub(crate) value: f64,
}

/// Where the rows of a node part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Split {
    pub(crate) feature: u32,
    pub(crate) threshold: f32,
    pub(crate) missing_left: bool,
}

impl Split {
    pub(crate) fn goes_left(&self, value: f32) -> bool {
        if value.is_nan() { self.missing_left } else { value <= self.threshold }
    }
}

impl TreeParts {
    pub(crate) fn new(n_features: usize, base: f64, trees: &[Vec<Node>]) -> Self {
        let roots = trees.iter().scan(0, |first, tree| {
            let root = *first;
            *first += tree.len() as u32;
            Some(root)
        });
        let root: Array1<u32> = roots.collect();
        let nodes = || trees.iter().flatten();
        let child = trees
            .iter()
            .zip(&root)
            .flat_map(|(tree, &root)| tree.iter().map(move |node| if node.child == 0 { 0 } else { root + node.child }));
        Self {
            n_features,
            base,
            feature: nodes().map(|node| node.split.feature).collect(),
            threshold: nodes().map(|node| node.split.threshold).collect(),
            missing_left: nodes().map(|node| u8::from(node.split.missing_left)).collect(),
            child: child.collect(),
            value: nodes().map(|node| node.value).collect(),
            root,
        }
    }

    /// # Errors
    /// Arrays that are no trees: of different lengths, with a child that does not lie behind its node and within its tree, a feature
    /// that a row does not have, a value that is not finite.
    pub(crate) fn check(&self) -> Result<()> {
        let Self { n_features, base, root, feature, threshold, missing_left, child, value } = self;
        let n = feature.len();
        check_parts([threshold.len(), missing_left.len(), child.len(), value.len()] == [n; 4], "nodes of different numbers")?;
        check_parts(base.is_finite() && value.iter().all(|value| value.is_finite()), "a value is not finite")?;
        let ends = root.iter().skip(1).map(|&root| root as usize).chain([n]);
        for (tree, (&start, end)) in root.iter().zip(ends).enumerate() {
            check_parts((start as usize) < end && end <= n && (tree > 0 || start == 0), "roots out of order")?;
            for node in start as usize..end {
                let first = child[node] as usize;
                check_parts(first == 0 || (first > node && first + 1 < end), "a child outside its tree")?;
                check_parts(first == 0 || (feature[node] as usize) < *n_features, "a feature that rows do not have")?;
            }
        }
        check_parts(!root.is_empty() || n == 0, "nodes without a root")
    }

    /// base + Σ over trees of the leaf that the row falls into, on all threads of the pool.   x: [rows, features] -> [rows]
    ///
    /// # Panics
    /// If a row has another number of features.
    pub(crate) fn sums(&self, x: &ArrayRef2<f32>) -> Array1<f64> {
        assert_eq!(x.ncols(), self.n_features, "as many features as were fitted");
        let mut sums = Array1::from_elem(x.nrows(), self.base);
        let blocks = x.axis_chunks_iter(Axis(0), BLOCK).zip(sums.axis_chunks_iter_mut(Axis(0), BLOCK));
        blocks.collect::<Vec<_>>().into_par_iter().for_each(|(x, mut sums)| {
            for &root in &self.root {
                x.outer_iter().zip(&mut sums).for_each(|(row, sum)| *sum += self.value[self.leaf(root as usize, &row)]);
            }
        });
        sums
    }

    fn leaf(&self, root: usize, row: &ArrayRef1<f32>) -> usize {
        let mut node = root;
        while self.child[node] != 0 {
            let (feature, threshold) = (self.feature[node], self.threshold[node]);
            let split = Split { feature, threshold, missing_left: self.missing_left[node] == 1 };
            node = self.child[node] as usize + usize::from(!split.goes_left(row[feature as usize]));
        }
        node
    }
}

/// # Errors
/// Names the first number that is infinite; NaN stands for a missing one.
pub(crate) fn check_features(x: &ArrayRef2<f32>) -> Result<()> {
    x.indexed_iter().find(|(_, value)| value.is_infinite()).map_or(Ok(()), |((row, feature), value)| {
        Err(Error(format!("row {row}, feature {feature}: expected a finite number or NaN, found `{value}`")))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use ndarray::{Array2, array};

    use super::*;

    /// Three steps in a plane that a feature of noise lies beside, some values missing.   -> [rows, 3], [rows]
    pub(crate) fn steps(rows: usize, seed: u64) -> (Array2<f32>, Vec<f64>) {
        let (x, _) = crate::testing::normal(rows, 3, seed);
        let mut x = x.mapv(|value| value as f32);
        let labels = x.outer_iter().map(|row| f64::from(u8::from((row[0] > 0.3) != (row[1] > -0.2)))).collect();
        for row in (0..rows).step_by(9) {
            x[[row, 2]] = f32::NAN;
        }
        (x, labels)
    }

    fn stump() -> TreeParts {
        let split = Split { feature: 1, threshold: 0.5, missing_left: true };
        let leaf = |value| Node { value, ..Node::default() };
        let tree = vec![Node { split, child: 1, value: 0.0 }, leaf(2.0), leaf(-1.0)];
        TreeParts::new(2, 10.0, &[vec![leaf(100.0)], tree])
    }

    #[test]
    fn a_row_falls_to_its_leaf() {
        let x = array![[9.0_f32, 0.5], [9.0, 0.6], [9.0, f32::NAN]];
        assert_eq!(stump().sums(&x), array![112.0, 109.0, 112.0]);
    }

    #[test]
    fn damaged_arrays_are_refused() {
        stump().check().unwrap();
        let with = |change: &dyn Fn(&mut TreeParts)| {
            let mut parts = stump();
            change(&mut parts);
            parts.check().unwrap_err().to_string()
        };
        insta::assert_snapshot!(with(&|parts| parts.child[1] = 1), @"invalid parts: a child outside its tree");
        insta::assert_snapshot!(with(&|parts| parts.child[1] = 3), @"invalid parts: a child outside its tree");
        insta::assert_snapshot!(with(&|parts| parts.child[0] = 2), @"invalid parts: a child outside its tree");
        insta::assert_snapshot!(with(&|parts| parts.feature[1] = 2), @"invalid parts: a feature that rows do not have");
        insta::assert_snapshot!(with(&|parts| parts.root = array![0, 9]), @"invalid parts: roots out of order");
        insta::assert_snapshot!(with(&|parts| parts.root = array![1, 1]), @"invalid parts: roots out of order");
        insta::assert_snapshot!(with(&|parts| parts.root = array![]), @"invalid parts: nodes without a root");
        insta::assert_snapshot!(with(&|parts| parts.value[2] = f64::NAN), @"invalid parts: a value is not finite");
        insta::assert_snapshot!(with(&|parts| parts.value = array![0.0]), @"invalid parts: nodes of different numbers");
    }
}
