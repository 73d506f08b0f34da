//! Whether numbers or categories of today are distributed as those of a reference were: the population stability index.

/// Bins of a reference: about as many of its values are in each. A value that has at least the share of a bin has one of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Bins {
    /// Bin i holds what is above cut i - 1 and at most cut i. The last one is open.
    cuts: Vec<f64>,
}

impl Bins {
    /// Bins of the values that are not NaN.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn fit(values: &[f64], n: usize) -> Self {
        assert!(n > 0, "at least one bin");
        let mut sorted: Vec<f64> = values.iter().copied().filter(|x| !x.is_nan()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let share = sorted.len().div_ceil(n).max(1);
        let (mut cuts, mut filled) = (Vec::new(), 0);
        for equal in sorted.chunk_by(|a, b| a.total_cmp(b).is_eq()) {
            let value = equal[0];
            if equal.len() >= share && filled > 0 {
                cuts.push(value.next_down());
            }
            filled += equal.len();
            if filled >= share {
                // below a value that has a bin of its own lies another bin, be it empty
                if equal.len() >= share && cuts.last() != Some(&value.next_down()) {
                    cuts.push(value.next_down());
                }
                cuts.push(value);
                filled = 0;
            }
        }
        // what lies above all values belongs to the last bin, unless the largest value has one of its own
        let n_largest = sorted.iter().rev().take_while(|x| sorted.last() == Some(x)).count();
        if cuts.last().is_some_and(|last| sorted.last() == Some(last)) && n_largest < share {
            cuts.pop();
        }
        Bins { cuts }
    }

    /// How many values each bin has; the last number counts NaN.
    pub fn counts(&self, values: &[f64]) -> Vec<u64> {
        let mut counts = vec![0; self.cuts.len() + 2];
        for value in values {
            let bin = if value.is_nan() { self.cuts.len() + 1 } else { self.cuts.partition_point(|cut| cut < value) };
            counts[bin] += 1;
        }
        counts
    }
}

/// A population stability index, and how large chance alone makes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Psi {
    /// Σ (p - q) ln(p / q) over bins, of the shares p of today and q of the reference. By custom .1 is a shift and .25 a large one.
    pub psi: f64,
    /// What independent rows of one distribution exceed in about one of 100 comparisons where they are few, and less often where they
    /// are many: for n and m rows in B bins, PSI is about (1/n + 1/m) χ² with B - 1 degrees of freedom (Yurdakul 2018); this is the
    /// mean of that and four standard deviations.
    pub noise: f64,
}

/// The index of two lists of counts, bin by bin. A bin that only one side has counts there as half a row; one that neither has does
/// not count. None where a side has no rows.
///
/// # Panics
/// If the lists have different lengths.
pub fn psi(reference: &[u64], found: &[u64]) -> Option<Psi> {
    assert_eq!(reference.len(), found.len(), "the same bins on both sides");
    let total = |counts: &[u64]| counts.iter().sum::<u64>() as f64;
    let (n, m) = (total(reference), total(found));
    if n * m == 0.0 {
        return None;
    }
    let used = || reference.iter().zip(found).filter(|(a, b)| **a + **b > 0);
    let share = |count: u64, of: f64| (count as f64).max(0.5) / of;
    let psi = used().map(|(&a, &b)| (share(b, m) - share(a, n)) * (share(b, m) / share(a, n)).ln()).sum();
    let degrees = (used().count() - 1) as f64;
    let noise = (1.0 / n + 1.0 / m) * (degrees + 4.0 * (2.0 * degrees).sqrt());
    Some(Psi { psi, noise })
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn bins_hold_as_many_values_each() {
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(Bins::fit(&values, 10).counts(&values), [10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 0]);
        assert_eq!(Bins::fit(&values, 10).counts(&[-5.0, 500.0, f64::NAN, 9.0, 9.5]), [2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(Bins::fit(&[f64::NAN], 4).counts(&[1.0, f64::NAN]), [1, 1]);
    }

    #[test]
    fn a_common_value_has_a_bin_of_its_own() {
        let reference = [vec![62.0; 50], vec![254.0; 50]].concat();
        let bins = Bins::fit(&reference, 10);
        // below 62, 62, between, 254, above, missing
        assert_eq!(bins.counts(&reference), [0, 50, 0, 50, 0, 0]);
        assert_eq!(bins.counts(&[61.0, 62.0, 253.0, 254.0, 255.0]), [1, 1, 1, 1, 1, 0]);
    }

    #[test]
    fn the_index_is_that_of_the_formula() {
        // by hand: (.7 - .5) ln(.7 / .5) + (.3 - .5) ln(.3 / .5)
        let found = psi(&[50, 50], &[70, 30]).unwrap();
        let by_hand = 0.2 * (0.7_f64 / 0.5).ln() - 0.2 * (0.3_f64 / 0.5).ln();
        assert!((found.psi - by_hand).abs() < 1e-12, "{found:?}");
        assert!((found.noise - 0.02 * (1.0 + 4.0 * 2.0_f64.sqrt())).abs() < 1e-12, "{found:?}");
        assert_eq!(psi(&[5, 5, 0], &[5, 5, 0]).map(|found| found.psi), Some(0.0));
        assert_eq!(psi(&[0, 0], &[1, 1]), None);
        // a bin that one side lacks counts half a row there
        assert!((psi(&[10, 0], &[5, 5]).unwrap().psi - (0.5 * 2.0_f64.ln() + 0.45 * 10.0_f64.ln())).abs() < 1e-12);
    }

    #[test]
    fn chance_alone_seldom_exceeds_the_noise() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut draw = |n: usize| (0..n).map(|_| rng.random::<f64>()).collect::<Vec<f64>>();
        let exceeded = (0..400).filter(|_| {
            let (reference, today) = (draw(300), draw(80));
            let bins = Bins::fit(&reference, 10);
            let found = psi(&bins.counts(&reference), &bins.counts(&today)).unwrap();
            found.psi > found.noise
        });
        let n = exceeded.count();
        assert!(n <= 8, "{n} of 400");
    }
}
