//! Which columns say the same.

use kodama::{Method, linkage};

/// Columns that say the same are together, in groups that ascend by their first column: any two of a group have at least `least` of the
/// larger of their entropies in common (mutual information; complete linkage). A column that is always the same is alone.
///
/// columns: [columns][rows], small codes
///
/// # Panics
/// If columns have different numbers of rows.
pub fn redundant(columns: &[Vec<u32>], least: f64) -> Vec<Vec<usize>> {
    let n = columns.len();
    if n < 2 {
        return (0..n).map(|column| vec![column]).collect();
    }
    let pairs = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b)));
    let mut apart: Vec<f64> = pairs.map(|(a, b)| 1.0 - in_common(&columns[a], &columns[b])).collect();
    let mut groups: Vec<Option<Vec<usize>>> = (0..n).map(|column| Some(vec![column])).collect();
    for step in linkage(&mut apart, n, Method::Complete).steps() {
        let joined = (step.dissimilarity <= 1.0 - least).then(|| {
            // what was not joined itself is joined with nothing
            let parts = [groups[step.cluster1].clone()?, groups[step.cluster2].clone()?];
            (groups[step.cluster1], groups[step.cluster2]) = (None, None);
            Some(parts.concat())
        });
        groups.push(joined.flatten());
    }
    let mut groups: Vec<Vec<usize>> = groups.into_iter().flatten().collect();
    for group in &mut groups {
        group.sort_unstable();
    }
    groups.sort_unstable();
    groups
}

/// The mutual information of two columns over the larger of their entropies: 1 where each tells the other, 0 where they are
/// independent or one is always the same.
fn in_common(a: &[u32], b: &[u32]) -> f64 {
    assert_eq!(a.len(), b.len(), "columns of the same rows");
    let n_codes = |column: &[u32]| column.iter().max().map_or(0, |&code| code as usize + 1);
    let (of_a, of_b) = (n_codes(a), n_codes(b));
    let mut joint = vec![0_u32; of_a * of_b];
    for (&a, &b) in a.iter().zip(b) {
        joint[a as usize * of_b + b as usize] += 1;
    }
    let sums_a: Vec<u32> = joint.chunks_exact(of_b.max(1)).map(|row| row.iter().sum()).collect();
    let sums_b: Vec<u32> = (0..of_b).map(|b| joint.iter().skip(b).step_by(of_b).sum()).collect();
    let entropy = |counts: &[u32]| {
        let shares = counts.iter().filter(|&&count| count > 0).map(|&count| f64::from(count) / a.len() as f64);
        -shares.map(|share| share * share.ln()).sum::<f64>()
    };
    let [h_a, h_b, h_joint] = [&sums_a, &sums_b, &joint].map(|counts| entropy(counts));
    if h_a.min(h_b) > 0.0 { ((h_a + h_b - h_joint) / h_a.max(h_b)).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_tell_each_other_are_together_and_constants_are_alone() {
        let rows = 0..1000_u32;
        let columns: Vec<Vec<u32>> = vec![
            rows.clone().map(|i| i * 7919 % 8).collect(),
            rows.clone().map(|i| i / 125).collect(),
            rows.clone().map(|i| 7 - i * 7919 % 8).collect(), // another name of the first
            rows.clone().map(|_| 0).collect(),
            rows.clone().map(|_| 3).collect(),
            rows.clone().map(|i| i * 7919 % 8 / 4).collect(), // a third of what the first says
        ];
        assert_eq!(redundant(&columns, 0.9), [vec![0, 2], vec![1], vec![3], vec![4], vec![5]]);
        assert_eq!(redundant(&columns, 0.3), [vec![0, 2, 5], vec![1], vec![3], vec![4]]);
        assert_eq!(redundant(&columns[..1], 0.5), [[0]]);
        assert!(redundant(&[], 0.5).is_empty());
    }

    #[test]
    fn columns_that_a_third_one_tells_are_not_together_for_that() {
        let (x, y) = ((0..400_u32).map(|i| i % 2), (0..400_u32).map(|i| i / 2 % 2));
        let both = x.clone().zip(y.clone()).map(|(x, y)| 2 * x + y).collect();
        assert_eq!(redundant(&[x.collect(), both, y.collect()], 0.4), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn what_two_columns_have_in_common_is_their_mutual_information() {
        // H = ln 2 each, H(a, b) = 1.5 ln 2 by hand: .5, .25, .25
        let (a, b) = ([0, 0, 1, 1], [0, 0, 0, 1]);
        let h_b = -(0.75_f64 * 0.75_f64.ln() + 0.25 * 0.25_f64.ln());
        let information = 2.0_f64.ln() + h_b - 1.5 * 2.0_f64.ln();
        assert!((in_common(&a, &b) - information / 2.0_f64.ln()).abs() < 1e-12);
    }
}
