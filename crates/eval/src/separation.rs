//! How well one column alone tells attacks from the rest. Labels are 0 or 1; rows with any other label are left out.

/// The distinct values of a column in ascending order, and which of them each row has.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranks {
    /// Place of each row's value among `values`.
    pub codes: Vec<u32>,
    /// The values, once each. NaN, which stands for a missing value, is the last.
    pub values: Vec<f64>,
}

/// Ranks numbers. All NaNs are one value.
pub fn ranks(numbers: &[f64]) -> Ranks {
    let mut order: Vec<(f64, u32)> =
        numbers.iter().zip(0..).map(|(&x, row)| (if x.is_nan() { f64::NAN } else { x }, row)).collect();
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (mut codes, mut values) = (vec![0; numbers.len()], Vec::new());
    for equal in order.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        for &(_, row) in equal {
            codes[row as usize] = values.len() as u32;
        }
        values.push(equal[0].0);
    }
    Ranks { codes, values }
}

/// How many benign rows and attacks have each code below `n_codes`.
///
/// # Panics
/// If a code is not below `n_codes`.
pub fn counts(codes: &[u32], n_codes: usize, labels: &[u8]) -> Vec<[u64; 2]> {
    let mut counts = vec![[0; 2]; n_codes];
    for (&code, &label) in codes.iter().zip(labels).filter(|(_, label)| **label < 2) {
        counts[code as usize][usize::from(label)] += 1;
    }
    counts
}

/// ROC-AUC of scores: P(score of an attack > score of a benign row) + P(equal) / 2. `counts` has the benign rows and the attacks of
/// each score, lowest first. None where a class is absent.
pub fn auc(counts: impl IntoIterator<Item = [u64; 2]>) -> Option<f64> {
    let (mut below, mut attacks, mut wins) = (0.0, 0.0, 0.0);
    for [benign, attacks_here] in counts.into_iter().map(|pair| pair.map(|n| n as f64)) {
        wins += attacks_here * (below + benign / 2.0);
        below += benign;
        attacks += attacks_here;
    }
    (below * attacks > 0.0).then(|| wins / (below * attacks))
}

/// ROC-AUC of values that are ranked by the share of attacks among the rows of the other half that have them: the mean of both
/// halves. A value that the other half does not have counts as one with the share of all rows, so that a column of which every row
/// has a value of its own tells nothing (0.5). `halves` should keep together rows that are copies of one another. None where a half
/// lacks a class.
///
/// # Panics
/// If a code is not below `n_codes`.
pub fn auc_of_rates(codes: &[u32], n_codes: usize, labels: &[u8], halves: &[bool]) -> Option<f64> {
    let one_way = |learned: &[[u64; 2]], judged: &[[u64; 2]]| {
        let [benign, attacks] = total(learned);
        let base = attacks / (benign + attacks).max(1.0);
        // one more row, of which `base` is an attack: a value that few rows have is not sure
        let rate = |[benign, attacks]: [u64; 2]| (attacks as f64 + base) / ((benign + attacks) as f64 + 1.0);
        let judged = learned.iter().zip(judged).filter(|(_, judged)| **judged != [0, 0]);
        let mut scores: Vec<(f64, [u64; 2])> = judged.map(|(learned, judged)| (rate(*learned), *judged)).collect();
        scores.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let tied = scores.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq());
        auc(tied.map(|tied| tied.iter().fold([0, 0], |sum, (_, pair)| [sum[0] + pair[0], sum[1] + pair[1]])))
    };
    let [first, second] = by_half(codes, n_codes, labels, halves);
    Some(f64::midpoint(one_way(&first, &second)?, one_way(&second, &first)?))
}

/// The share of benign rows, and that of attacks, which a column gives away: those with a value that is 100 times as frequent in
/// their class as in the other. Which values are so is found in one half of the rows, with half a row more of the other class; rows
/// of the other half are counted, less the share of the other class with these values. Unlike ROC-AUC it finds a column that is
/// certain of some rows and says nothing of the rest. None where a half lacks a class.
///
/// # Panics
/// If a code is not below `n_codes`.
pub fn given_away(codes: &[u32], n_codes: usize, labels: &[u8], halves: &[bool]) -> Option<[f64; 2]> {
    let one_way = |learned: &[[u64; 2]], judged: &[[u64; 2]]| {
        let (all, judged_all) = (total(learned), total(judged));
        if all[0] * all[1] * judged_all[0] * judged_all[1] == 0.0 {
            return None;
        }
        Some([0, 1].map(|class: usize| {
            let other = 1 - class;
            let sure = learned.iter().zip(judged).filter(|(learned, _)| is_certain(**learned, all, class));
            let found = sure.fold([0, 0], |sum, (_, pair)| [sum[0] + pair[0], sum[1] + pair[1]]);
            (found[class] as f64 / judged_all[class] - found[other] as f64 / judged_all[other]).max(0.0)
        }))
    };
    let [first, second] = by_half(codes, n_codes, labels, halves);
    let (a, b) = (one_way(&first, &second)?, one_way(&second, &first)?);
    Some([f64::midpoint(a[0], b[0]), f64::midpoint(a[1], b[1])])
}

/// Whether a value of `counts` rows is 100 times as frequent in a class as in the other, of which half a row is added. `total`: rows of
/// both classes.
pub fn is_certain(counts: [u64; 2], total: [f64; 2], class: usize) -> bool {
    const RATIO: f64 = 100.0;
    let other = 1 - class;
    counts[class] as f64 / total[class] >= RATIO * (counts[other] as f64 + 0.5) / total[other]
}

/// [`counts`] of each half.
fn by_half(codes: &[u32], n_codes: usize, labels: &[u8], halves: &[bool]) -> [Vec<[u64; 2]>; 2] {
    let mut counts = [vec![[0; 2]; n_codes], vec![[0; 2]; n_codes]];
    for ((&code, &label), &half) in codes.iter().zip(labels).zip(halves).filter(|((_, label), _)| **label < 2) {
        counts[usize::from(half)][code as usize][usize::from(label)] += 1;
    }
    counts
}

fn total(counts: &[[u64; 2]]) -> [f64; 2] {
    counts.iter().fold([0.0; 2], |sum, pair| [sum[0] + pair[0] as f64, sum[1] + pair[1] as f64])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_numbers_share_a_rank_and_missing_ones_come_last() {
        let Ranks { codes, values } = ranks(&[3.0, f64::NAN, -1.0, 3.0, -f64::NAN]);
        assert_eq!(codes, [1, 2, 0, 1, 2]);
        assert!(values[..2] == [-1.0, 3.0] && values[2].is_nan() && values.len() == 3);
    }

    #[test]
    fn the_area_under_the_curve_counts_pairs() {
        // by hand: 1 < 2 < 3 < 4 with labels 0, 1, 0, 1: three of four pairs are in order
        assert_eq!(auc([[1, 0], [0, 1], [1, 0], [0, 1]]), Some(0.75));
        assert_eq!(auc([[1, 1]]), Some(0.5));
        assert_eq!(auc([[0, 1], [1, 0]]), Some(0.0));
        assert_eq!(auc([[0, 3]]), None);
    }

    #[test]
    fn rows_without_a_label_do_not_count() {
        assert_eq!(counts(&[0, 1, 1, 0], 2, &[0, 1, 2, 2]), [[1, 0], [0, 1]]);
    }

    #[test]
    fn values_of_ones_own_tell_nothing_although_they_would_fit_perfectly() {
        let n = 400;
        let labels: Vec<u8> = (0..n).map(|row| u8::from(row % 3 == 0)).collect();
        let halves: Vec<bool> = (0..n).map(|row| row / 2 % 2 == 0).collect();
        let own: Vec<u32> = (0..n).collect();
        assert_eq!(auc_of_rates(&own, n as usize, &labels, &halves), Some(0.5));
        // a category of attacks alone, whatever the order of its code
        for code in [0, 7] {
            let codes: Vec<u32> = labels.iter().map(|&label| if label == 1 { code } else { 3 }).collect();
            assert_eq!(auc_of_rates(&codes, 8, &labels, &halves), Some(1.0));
        }
    }

    #[test]
    fn a_column_that_is_certain_of_some_rows_gives_these_away() {
        // of 1,000 rows of each class, 400 benign ones have a value of their own; the rest share another
        let labels: Vec<u8> = (0..2000).map(|row| (row % 2) as u8).collect();
        let halves: Vec<bool> = (0..2000).map(|row| row / 2 % 2 == 0).collect();
        let codes: Vec<u32> = (0..2000).map(|row| u32::from(row % 2 == 0 && row < 800)).collect();
        let found = given_away(&codes, 2, &labels, &halves).unwrap();
        assert!((found[0] - 0.4).abs() < 1e-9 && found[1] < 1e-9, "{found:?}");
        // the area hardly tells it from a column that is unsure of all
        assert!((auc_of_rates(&codes, 2, &labels, &halves).unwrap() - 0.7).abs() < 1e-9);
        let own: Vec<u32> = (0..2000).collect();
        assert_eq!(given_away(&own, 2000, &labels, &halves), Some([0.0, 0.0]));
        assert_eq!(given_away(&codes, 2, &[0; 2000], &halves), None);
    }

    proptest! {
        #[test]
        fn the_area_is_that_of_the_metrics(rows in prop::collection::vec((0_u8..6, 0_u8..2), 1..60)) {
            let (scores, labels): (Vec<f32>, Vec<u8>) = rows.iter().map(|&(score, label)| (f32::from(score), label)).unzip();
            let Ranks { codes, values } = ranks(&scores.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
            let found = auc(counts(&codes, values.len(), &labels));
            let wanted = crate::metrics::roc_auc(&scores, &labels);
            prop_assert_eq!(found.is_some(), wanted.is_some());
            prop_assert!(found.zip(wanted).is_none_or(|(a, b)| (a - b).abs() < 1e-12));
        }
    }
}
