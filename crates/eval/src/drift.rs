//! Whether numbers or categories of today are distributed as those of a reference were: the population stability index.

use pulp::Arch;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// More cuts than a fit of ten bins makes.
const MAX_CUTS: usize = 256;

/// Bins of a reference: about as many of its values are in each. A value that has at least the share of a bin has one of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct Bins {
    /// Bin i holds what is above cut i - 1 and at most cut i. The last one is open. Finite, strictly ascending.
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
        cuts.retain(|cut| cut.is_finite()); // nothing lies beyond an infinite one
        Bins { cuts }
    }

    /// The cuts between bins.
    pub fn cuts(&self) -> &[f64] {
        &self.cuts
    }

    /// How many numbers [`Bins::counts`] gives: one for each bin, and one for NaN.
    pub fn n_counts(&self) -> usize {
        self.cuts.len() + 2
    }

    /// How many values each bin has; the last number counts NaN.
    pub fn counts(&self, values: &[f64]) -> Vec<u64> {
        let mut counts = vec![0; self.n_counts()];
        self.add(values, &mut counts);
        counts
    }

    /// The place of a value among [`Bins::counts`].
    pub fn place(&self, value: f64) -> usize {
        if value.is_nan() { self.cuts.len() + 1 } else { self.cuts.partition_point(|&cut| cut < value) }
    }

    /// Adds values to the counts of [`Bins::counts`].
    ///
    /// # Panics
    /// If there are not [`Bins::n_counts`] of them.
    pub fn add(&self, values: &[f64], counts: &mut [u64]) {
        assert_eq!(counts.len(), self.n_counts(), "a count for each bin");
        let mut at_most = vec![0; self.cuts.len()];
        add_at_most(values, &self.cuts, &mut at_most);
        let missing = values.iter().filter(|value| value.is_nan()).count() as u64;
        let up_to = at_most.into_iter().chain([values.len() as u64 - missing]);
        let mut below = 0;
        for (count, up_to) in counts.iter_mut().zip(up_to) {
            *count += up_to - below;
            below = up_to;
        }
        counts[self.cuts.len() + 1] += missing;
    }
}

/// at_most[i] += how many values are at most cuts[i]. To compare every value with every cut takes a third of the time of a search, as a
/// vector of values is compared at once, and no count is waited for.
///
/// # Panics
/// If the lengths of the two lists differ.
pub fn add_at_most(values: &[f64], cuts: &[f64], at_most: &mut [u64]) {
    const BLOCK: usize = 1024; // stays in the nearest cache
    assert_eq!(cuts.len(), at_most.len(), "a count for each cut");
    Arch::new().dispatch(|| {
        for block in values.chunks(BLOCK) {
            for (&cut, at_most) in cuts.iter().zip(&mut *at_most) {
                *at_most += block.iter().map(|&value| u64::from(value <= cut)).sum::<u64>();
            }
        }
    });
}

impl TryFrom<Vec<f64>> for Bins {
    type Error = Error;

    fn try_from(cuts: Vec<f64>) -> Result<Self> {
        let holds = cuts.len() <= MAX_CUTS && cuts.iter().all(|cut| cut.is_finite()) && cuts.is_sorted_by(|a, b| a < b);
        if holds { Ok(Bins { cuts }) } else { Err(Error("invalid bins: their cuts are not finite and ascending".to_owned())) }
    }
}

impl From<Bins> for Vec<f64> {
    fn from(bins: Bins) -> Self {
        bins.cuts
    }
}

/// A population stability index, and how large chance alone makes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Psi {
    /// Σ (p - q) ln(p / q) over bins, of the shares p of today and q of the reference. By custom .1 is a shift and .25 a large one.
    pub psi: f64,
    /// What chance alone makes of it in the mean, if both sides are of one distribution: for n and m rows in B bins, PSI is about
    /// (1/n + 1/m) χ² with B - 1 degrees of freedom (Yurdakul 2018), whose mean is (1/n + 1/m) (B - 1).
    pub expected: f64,
    /// What independent rows of one distribution exceed in about one of 100 comparisons where they are few, and less often where they
    /// are many: that mean and four standard deviations.
    pub noise: f64,
}

/// The index of two lists of counts, bin by bin. A bin that only one side has counts there as half a row; one that neither has does
/// not count. None where a side has no rows.
///
/// # Panics
/// If the lists have different lengths.
pub fn psi(reference: &[u64], found: &[u64]) -> Option<Psi> {
    psi_of_mixture(&[(1.0, reference)], found)
}

/// The same against a mixture: rows of several kinds, in other shares than the reference has them. What it finds is not explained by
/// the shares. `parts` are the share and the counts of each kind; as to chance, they count as so many rows as would give their mixture
/// as precisely. None where a kind with a share has no rows, or there are no rows at all.
///
/// # Panics
/// If the lists have different lengths.
pub fn psi_of_mixture(parts: &[(f64, &[u64])], found: &[u64]) -> Option<Psi> {
    assert!(parts.iter().all(|(_, counts)| counts.len() == found.len()), "the same bins on both sides");
    let total = |counts: &[u64]| counts.iter().sum::<u64>() as f64;
    let parts: Vec<(f64, f64, &[u64])> =
        parts.iter().filter(|(share, _)| *share > 0.0).map(|&(share, counts)| (share, total(counts), counts)).collect();
    let m = total(found);
    if m == 0.0 || parts.is_empty() || parts.iter().any(|(_, n, _)| *n == 0.0) {
        return None;
    }
    let n = 1.0 / parts.iter().map(|(share, n, _)| share * share / n).sum::<f64>();
    let expected = |bin: usize| parts.iter().map(|(share, n, counts)| share * counts[bin] as f64 / n).sum::<f64>();
    let used = || (0..found.len()).map(|bin| (expected(bin), found[bin])).filter(|&(q, count)| q > 0.0 || count > 0);
    let one = |(q, count): (f64, u64)| {
        let (q, p) = (q.max(0.5 / n), (count as f64).max(0.5) / m);
        (p - q) * (p / q).ln()
    };
    let psi = used().map(one).sum();
    let degrees = (used().count() - 1) as f64;
    let scale = 1.0 / n + 1.0 / m;
    Some(Psi { psi, expected: scale * degrees, noise: scale * (degrees + 4.0 * (2.0 * degrees).sqrt()) })
}

/// The share of the second of two kinds that makes their mixture most like `found`: the maximum of the likelihood, in which each bin
/// of a kind has half a row more than were counted. None where a side has no rows.
///
/// # Panics
/// If the lists have different lengths.
pub fn mixture_share([first, second]: [&[u64]; 2], found: &[u64]) -> Option<f64> {
    assert!(first.len() == found.len() && second.len() == found.len(), "the same bins on all sides");
    if [first, second, found].iter().any(|counts| counts.iter().all(|&count| count == 0)) {
        return None;
    }
    let density = |counts: &[u64]| {
        let sum = counts.iter().sum::<u64>() as f64 + 0.5 * counts.len() as f64;
        counts.iter().map(|&count| (count as f64 + 0.5) / sum).collect::<Vec<f64>>()
    };
    let (first, second) = (density(first), density(second));
    let slope = |share: f64| {
        let bins = first.iter().zip(&second).zip(found);
        bins.map(|((a, b), &count)| count as f64 * (b - a) / (a + share * (b - a))).sum::<f64>()
    };
    // the likelihood is concave in the share: the root of its slope, or an end
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if slope(middle) > 0.0 { low = middle } else { high = middle }
    }
    let ends = [(slope(0.0) <= 0.0, 0.0), (slope(1.0) >= 0.0, 1.0)];
    Some(ends.into_iter().find(|(is_end, _)| *is_end).map_or(f64::midpoint(low, high), |(_, end)| end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
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

    proptest! {
        #[test]
        fn counts_are_those_of_a_search(
            reference in proptest::collection::vec(-9_i8..9, 1..90),
            values in proptest::collection::vec(-12_i8..12, 0..90),
            n in 1_usize..12,
        ) {
            let number = |&x: &i8| if x == 7 { f64::NAN } else { f64::from(x) / 2.0 };
            let (reference, values): (Vec<f64>, Vec<f64>) = (reference.iter().map(number).collect(), values.iter().map(number).collect());
            let bins = Bins::fit(&reference, n);
            let mut wanted = vec![0; bins.n_counts()];
            for &value in &values {
                let bin = if value.is_nan() { bins.cuts.len() + 1 } else { bins.cuts.partition_point(|&cut| cut < value) };
                wanted[bin] += 1;
            }
            prop_assert_eq!(bins.counts(&values), wanted);
        }
    }

    #[test]
    fn bins_are_read_back_and_those_that_are_none_are_refused() {
        let values = [f64::NEG_INFINITY, f64::NEG_INFINITY, 0.0, 0.0, 0.1, 1e300, f64::INFINITY, f64::INFINITY];
        let bins = Bins::fit(&values, 4);
        let again: Bins = serde_json::from_str(&serde_json::to_string(&bins).unwrap()).unwrap();
        assert_eq!(again, bins);
        assert_eq!(bins.counts(&values).len(), bins.n_counts());
        assert_eq!(bins.counts(&values).iter().sum::<u64>(), 8);
        for text in ["[1.0, 1.0]", "[2.0, 1.0]", "[null]"] {
            assert!(serde_json::from_str::<Bins>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mixture_in_other_shares_is_no_drift() {
        let (benign, attacks) = ([700, 200, 100, 0], [10, 40, 50, 400]);
        // 3 of 10 rows are attacks
        let found = [7 * 70 + 3 * 2, 7 * 20 + 3 * 8, 7 * 10 + 3 * 10, 3 * 80];
        let parts = |share: f64| [(1.0 - share, &benign[..]), (share, &attacks[..])];
        let at = psi_of_mixture(&parts(0.3), &found).unwrap();
        assert!(at.psi.abs() < 1e-12, "{at:?}");
        // by hand: 1 / (.7² / 1000 + .3² / 500)
        let n = 1.0 / (0.49 / 1000.0 + 0.09 / 500.0);
        assert!((at.expected - 3.0 * (1.0 / n + 1.0 / 1000.0)).abs() < 1e-12, "{at:?}");
        assert!(psi_of_mixture(&parts(0.0), &found).unwrap().psi > 0.25);
        assert_eq!(psi_of_mixture(&parts(0.0), &found), psi(&benign, &found));
        let share = mixture_share([&benign, &attacks], &found).unwrap();
        assert!((share - 0.3).abs() < 0.01, "{share}");
        assert_eq!(mixture_share([&benign, &attacks], &[500, 10, 5, 0]), Some(0.0));
        assert_eq!(mixture_share([&benign, &attacks], &[0, 0, 0, 9]), Some(1.0));
        assert_eq!(mixture_share([&benign, &[0; 4]], &found), None);
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
