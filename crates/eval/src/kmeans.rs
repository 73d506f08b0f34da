//! Rows that stand for all others: the medoids of k-means.

use nids_kernels::{Gemm, Key, Mat, Product, Store};
use rand::RngExt as _;

/// Passes at most; with thousands of rows a centre, few move after some tens.
const MAX_PASSES: usize = 50;
/// Rows whose distances to all centres are computed at once.
const BLOCK: usize = 256;

/// Picks `k` different rows: those nearest to the centres of weighted k-means (Lloyd 1982), seeded by k-means++ (Arthur &
/// Vassilvitskii 2007), heaviest cluster first. The same key gives the same rows.   x: [rows,
/// width]   weight: [rows], finite and not negative
///
/// # Panics
/// If there are fewer rows than `k`, or not one weight for each row.
pub fn medoids(backend: Gemm, x: &[f32], width: usize, weight: &[f64], k: usize, key: Key) -> Vec<usize> {
    let n = weight.len();
    assert!(x.len() == n * width && k <= n && k > 0, "{k} of {n} rows");
    let zeros = vec![0.0; width];
    let mut means = KMeans {
        x,
        width,
        weight,
        norms: x.chunks_exact(width).map(|x| squared_distance(x, &zeros)).collect(),
        centres: seeds(x, width, weight, k, key),
        nearest: vec![0; n],
        distance: vec![0.0; n],
    };
    means.assign(backend);
    for _ in 0..MAX_PASSES {
        means.update();
        if !means.assign(backend) {
            break;
        }
    }
    means.medoids(k)
}

/// The state between two passes.
struct KMeans<'x> {
    x: &'x [f32],
    width: usize,
    weight: &'x [f64],
    /// |x|² of every row.
    norms: Vec<f32>,
    /// [clusters, width]
    centres: Vec<f32>,
    /// Each row's cluster, and the square of how far its centre is.
    nearest: Vec<usize>,
    distance: Vec<f32>,
}

impl KMeans<'_> {
    /// Gives every row to its nearest centre, the first of several; whether any has changed hands.
    fn assign(&mut self, backend: Gemm) -> bool {
        let Self { x, width, norms, centres, nearest, distance, .. } = self;
        let (width, k) = (*width, centres.len() / *width);
        let mut transposed = vec![0.0; centres.len()];
        for (c, centre) in centres.chunks_exact(width).enumerate() {
            centre.iter().enumerate().for_each(|(i, &value)| transposed[i * k + c] = value);
        }
        let zeros = vec![0.0; width];
        let centre_norms: Vec<f32> = centres.chunks_exact(width).map(|c| squared_distance(c, &zeros)).collect();
        let (mut products, mut scratch) = (vec![0.0; BLOCK * k], Vec::new());
        let mut changed = false;
        for (block, x) in x.chunks(BLOCK * width).enumerate() {
            let rows = x.len() / width;
            let (a, b, sizes) = (Mat::new(x, width), Mat::new(&transposed, k), [rows, k, width]);
            let product = Product::new(sizes, a, b, Store::Set);
            scratch.resize(product.scratch_len(backend), 0.0);
            product.run(backend, &mut products, k, &mut scratch);
            for (row, products) in products.chunks_exact(k).take(rows).enumerate() {
                let row = block * BLOCK + row;
                let (mut best, mut least) = (0, f32::INFINITY);
                for (c, (&product, &centre_norm)) in products.iter().zip(&centre_norms).enumerate() {
                    // |x - c|² less |x|², which is the same for all centres
                    let d = centre_norm - 2.0 * product;
                    if d < least {
                        (best, least) = (c, d);
                    }
                }
                changed |= nearest[row] != best;
                nearest[row] = best;
                distance[row] = (least + norms[row]).max(0.0);
            }
        }
        changed
    }

    /// Moves every centre to the mean of its rows. A centre without rows goes to the row that is farthest from its own.
    fn update(&mut self) {
        let (width, k) = (self.width, self.centres.len() / self.width);
        let mut filled = vec![false; k];
        self.nearest.iter().for_each(|&c| filled[c] = true);
        let empty = (0..k).filter(|&c| !filled[c]);
        for (c, row) in empty.zip(self.farthest()) {
            self.nearest[row] = c;
        }
        let (mut sums, mut weights) = (vec![0.0; k * width], vec![0.0; k]);
        for ((x, &c), &weight) in self.x.chunks_exact(width).zip(&self.nearest).zip(self.weight) {
            weights[c] += weight;
            sums[c * width..][..width].iter_mut().zip(x).for_each(|(sum, &x)| *sum += weight * f64::from(x));
        }
        for ((centre, sum), &weight) in self.centres.chunks_exact_mut(width).zip(sums.chunks_exact(width)).zip(&weights) {
            if weight > 0.0 {
                centre.iter_mut().zip(sum).for_each(|(centre, sum)| *centre = (sum / weight) as f32);
            }
        }
    }

    /// The row nearest to each centre, heaviest cluster first. Centres that coincide have no rows
    /// of their own; the rows that are farthest from any centre then make up the number.
    fn medoids(&self, k: usize) -> Vec<usize> {
        let mut clusters: Vec<(f64, Option<usize>)> = vec![(0.0, None); self.centres.len() / self.width];
        for (row, &c) in self.nearest.iter().enumerate() {
            let (weight, medoid) = &mut clusters[c];
            *weight += self.weight[row];
            if medoid.is_none_or(|medoid| self.distance[row] < self.distance[medoid]) {
                *medoid = Some(row);
            }
        }
        clusters.sort_by(|(a, _), (b, _)| b.total_cmp(a)); // stable: of equal ones the first
        let mut picked: Vec<usize> = clusters.into_iter().filter_map(|(_, medoid)| medoid).collect();
        let mut is_picked = vec![false; self.weight.len()];
        for &row in &picked {
            is_picked[row] = true;
        }
        let missing = k - picked.len();
        picked.extend(self.farthest().into_iter().filter(|&row| !is_picked[row]).take(missing));
        picked
    }

    /// Rows by how far they are from their centres, farthest first.
    fn farthest(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..self.weight.len()).collect();
        rows.sort_by(|&a, &b| self.distance[b].total_cmp(&self.distance[a]));
        rows
    }
}

/// k-means++: each centre is a row, drawn by its weight times the square of how far the nearest centre before it is. There are
/// fewer than `k` where no row is left that is not a centre already.   -> [clusters, width]
fn seeds(x: &[f32], width: usize, weight: &[f64], k: usize, key: Key) -> Vec<f32> {
    let mut stream = key.stream(0, 0);
    let mut distance = vec![1.0; weight.len()]; // the first centre is drawn by weight alone
    let mut centres = Vec::with_capacity(k * width);
    for i in 0..k {
        let mass = |row: usize| weight[row] * f64::from(distance[row]);
        let total: f64 = (0..weight.len()).map(mass).sum();
        let mut left = total * stream.random::<f64>();
        let drawn = (0..weight.len()).filter(|&row| mass(row) > 0.0).find(|&row| {
            left -= mass(row);
            left < 0.0
        });
        // where rounding has left a little over, the last that could be drawn
        let Some(row) = drawn.or_else(|| (0..weight.len()).rfind(|&row| mass(row) > 0.0)) else { break };
        let centre = &x[row * width..][..width];
        for (distance, x) in distance.iter_mut().zip(x.chunks_exact(width)) {
            let d = squared_distance(x, centre);
            *distance = if i == 0 { d } else { distance.min(d) };
        }
        centres.extend_from_slice(centre);
    }
    if centres.is_empty() {
        centres.extend_from_slice(&x[..width]); // no row weighs anything
    }
    centres
}

/// |a - b|², in sums side by side that fit a vector register.
fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    for (a, b) in a_blocks.zip(b_blocks) {
        for i in 0..LANES {
            let d = a[i] - b[i];
            sums[i] += d * d;
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BACKENDS: [Gemm; 2] = [Gemm::OpenBlas, Gemm::Tiles];

    #[test]
    fn each_of_some_distant_heaps_gives_its_middle() {
        // heaps of 5, 3 and 4 rows around their means, which are rows, too
        let heaps = [([0.0, 0.0], 5), ([100.0, 0.0], 3), ([0.0, 50.0], 4)];
        let mut x: Vec<f32> = Vec::new();
        let mut middles = Vec::new();
        for (middle, n) in heaps {
            middles.push((n, x.len() / 2));
            x.extend(middle);
            (1..n).for_each(|i| {
                let angle = i as f32 * std::f32::consts::TAU / (n - 1) as f32;
                x.extend([middle[0] + angle.cos(), middle[1] + angle.sin()]);
            });
        }
        middles.sort_unstable_by_key(|&(n, _)| std::cmp::Reverse(n));
        let wanted: Vec<usize> = middles.into_iter().map(|(_, row)| row).collect();
        for backend in BACKENDS {
            assert_eq!(medoids(backend, &x, 2, &[1.0; 12], 3, Key::new(1)), wanted);
        }
        // one row that outweighs all others draws its centre to itself
        let mut weight = [1.0; 12];
        weight[6] = 1000.0;
        assert_eq!(medoids(Gemm::Tiles, &x, 2, &weight, 3, Key::new(1))[0], 6);
    }

    #[test]
    fn rows_that_lie_at_one_place_are_picked_one_by_one() {
        for (x, weight) in [([1.0; 7], [1.0; 7]), ([1.0; 7], [0.0; 7]), ([0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0; 7])] {
            for k in 1..=7 {
                let mut picked = medoids(Gemm::Tiles, &x, 1, &weight, k, Key::new(2));
                picked.sort_unstable();
                picked.dedup();
                assert_eq!(picked.len(), k);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn picks_are_different_rows_and_follow_the_key(
            seed: u64,
            width in 1_usize..20,
            values in prop::collection::vec(-3_i8..4, 20..400),
            share in 0.01..1.0,
        ) {
            let x: Vec<f32> = values.iter().map(|&value| f32::from(value)).collect();
            let n = x.len() / width;
            let (x, k) = (&x[..n * width], ((n as f64 * share) as usize).max(1));
            let weight: Vec<f64> = (0..n).map(|row| f64::from(row as u32 % 3)).collect();
            for backend in BACKENDS {
                let picked = medoids(backend, x, width, &weight, k, Key::new(seed));
                prop_assert_eq!(&picked, &medoids(backend, x, width, &weight, k, Key::new(seed)));
                let mut sorted = picked;
                sorted.sort_unstable();
                sorted.dedup();
                prop_assert!(sorted.len() == k && sorted.iter().all(|&row| row < n));
            }
        }
    }
}
