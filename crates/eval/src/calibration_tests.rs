use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;

/// Log odds that are spread around 0, and labels that are drawn by sigmoid(slope · log odds + offset).
fn drawn(n: usize, slope: f64, offset: f64, seed: u64) -> (Vec<f64>, Vec<u8>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n)
        .map(|_| {
            let z = rng.random_range(-8.0..8.0);
            (z, u8::from(rng.random::<f64>() < sigmoid(slope * z + offset)))
        })
        .unzip()
}

#[test]
fn a_scaling_finds_what_the_labels_were_drawn_by() {
    let (z, y) = drawn(40_000, 0.4, -0.7, 1);
    let platt = Scaling::fit(ScalingKind::Platt, &z, &y).unwrap();
    assert!((platt.slope - 0.4).abs() < 0.02 && (platt.offset + 0.7).abs() < 0.06, "{platt:?}");
    let (z, y) = drawn(40_000, 0.4, 0.0, 2);
    let temperature = Scaling::fit(ScalingKind::Temperature, &z, &y).unwrap();
    assert!((temperature.slope - 0.4).abs() < 0.02, "{temperature:?}");
    assert!(temperature.offset.abs() < 1e-12);
}

#[test]
fn labels_that_scores_separate_leave_a_finite_scaling() {
    let z = [-9.0, -8.0, 7.0, 9.0];
    let platt = Scaling::fit(ScalingKind::Platt, &z, &[0, 0, 1, 1]).unwrap();
    // by Platt's targets of 1/4 and 3/4
    assert!(platt.is_valid() && platt.slope < 0.5, "{platt:?}");
    assert!(Scaling::fit(ScalingKind::Platt, &z, &[1, 1, 0, 0]).unwrap_err().to_string().contains("rank attacks below"));
    assert!(Scaling::fit(ScalingKind::Platt, &z, &[1, 1, 1, 1]).unwrap_err().to_string().contains("one class"));
    assert!(Scaling::fit(ScalingKind::Platt, &[2.0; 4], &[0, 1, 0, 1]).unwrap().is_valid());
}

#[test]
fn scaled_scores_keep_their_order_at_both_ends() {
    let scores = [0.0, f32::MIN_POSITIVE, 1e-20, 0.3, 0.5, 1.0_f32.next_down(), 1.0];
    assert!(scores.map(log_odds).is_sorted_by(|a, b| a <= b) && scores.iter().all(|&score| log_odds(score).is_finite()));
    let half = Scaling { slope: 0.5, offset: 0.2 };
    let scaled = scores.map(|score| half.probability(score));
    assert!(scaled.is_sorted() && scaled[5] < scaled[6], "{scaled:?}");
    let same = Scaling { slope: 1.0, offset: 0.0 };
    for score in [1e-20, 0.001, 0.3, 0.5, 0.999] {
        assert!((same.probability(score) / score - 1.0).abs() < 1e-6, "{score}");
    }
}

#[test]
fn two_bins_by_hand() {
    // 15 rows of .2, of which 6 are attacks, and 15 of .9, of which 12 are: two bins, as equal rows are not parted
    let probabilities = [vec![0.9_f32; 15], vec![0.2; 15]].concat();
    let labels: Vec<u8> = (0..30).map(|i| u8::from(i < 12 || (15..21).contains(&i))).collect();
    let found = Reliability::new(&probabilities, &labels);
    let ns: Vec<usize> = found.bins.iter().map(|bin| bin.n).collect();
    assert_eq!(ns, [15, 15]);
    assert!((found.ece.unwrap() - f64::midpoint(0.2, 0.1)).abs() < 1e-6, "{found:?}");
    // E|Normal(.2, .12649)| is .20615 and E|Normal(.1, .10328)| is .11828, by numerical integration
    let bias = f64::midpoint(0.006_15, 0.018_28);
    assert!((found.ece_debiased.unwrap() - (0.15 - bias)).abs() < 2e-4, "{found:?}");
    let none = Reliability::new(&[], &[]);
    assert_eq!((none.ece, none.ece_debiased, none.bins.len()), (None, None, 0));
}

#[test]
fn bins_do_not_depend_on_the_order_of_rows() {
    let (z, y) = drawn(200, 0.5, 0.0, 3);
    let p: Vec<f32> = z.iter().map(|&z| (sigmoid(z) * 8.0).round() as f32 / 8.0).collect();
    let mut turned: Vec<(f32, u8)> = p.iter().copied().zip(y.iter().copied()).collect();
    turned.reverse();
    let (turned_p, turned_y): (Vec<f32>, Vec<u8>) = turned.into_iter().unzip();
    assert_eq!(Reliability::new(&p, &y), Reliability::new(&turned_p, &turned_y));
}

#[test]
fn the_bias_of_few_rows_is_taken_off() {
    let (mut plain, mut debiased, draws) = (0.0, 0.0, 50);
    for seed in 0..draws {
        // calibrated by construction
        let (z, y) = drawn(300, 1.0, 0.0, 100 + seed);
        let p: Vec<f32> = z.iter().map(|&z| sigmoid(z) as f32).collect();
        let found = Reliability::new(&p, &y);
        plain += found.ece.unwrap() / draws as f64;
        debiased += found.ece_debiased.unwrap() / draws as f64;
    }
    assert!(plain > 0.03 && debiased < 0.7 * plain, "{plain} {debiased}");
}
