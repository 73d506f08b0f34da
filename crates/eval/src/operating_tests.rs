use proptest::prelude::*;

use super::*;

/// P(X <= k) for X of Binomial(n, p), term by term.
fn at_most(k: u64, n: u64, p: f64) -> f64 {
    let mut ln_term = n as f64 * (-p).ln_1p();
    let mut sum = ln_term.exp();
    for i in 0..k {
        ln_term += ((n - i) as f64 / (i + 1) as f64 * p / (1.0 - p)).ln();
        sum += ln_term.exp();
    }
    sum
}

#[test]
fn bounds_are_those_of_the_tables() {
    // R: binom.test(k, n, alternative = "less")$conf.int[2], and binom.test(k, n)$conf.int
    for (k, n, wanted) in [(0, 299, 0.009_969_14), (0, 10, 0.258_865_5), (1, 10, 0.394_163_3), (5, 100, 0.102_253_2)] {
        let found = upper_bound(k, n, 0.95);
        assert!((found - wanted).abs() < 1e-6, "{k} of {n}: {found}");
    }
    for (k, n, wanted) in [(1, 10, [0.002_528_579, 0.445_016_1]), (8, 10, [0.443_904_5, 0.974_789_3])] {
        let found = interval(k, n, 0.95);
        assert!((found[0] - wanted[0]).abs() < 1e-6 && (found[1] - wanted[1]).abs() < 1e-6, "{k} of {n}: {found:?}");
    }
    assert_eq!((interval(0, 0, 0.95), interval(0, 7, 0.95)[0], interval(7, 7, 0.95)[1]), ([0.0, 1.0], 0.0, 1.0));
}

#[test]
fn the_rows_needed_are_those_of_the_papers() {
    for (fpr, wanted) in [(0.01, 299), (0.001, 2995), (0.0001, 29_956), (0.5, 5), (0.96, 1)] {
        assert_eq!(rows_needed(fpr, CONFIDENCE), Ok(wanted), "{fpr}");
        let scores = |n: u64| (0..n).map(|i| i as f32 / (n + 1) as f32).collect::<Vec<_>>();
        let found = certified_threshold(&scores(wanted), fpr, CONFIDENCE).unwrap();
        assert!(found.bound <= fpr, "{fpr}: {found:?}");
        if wanted > 1 {
            let error = certified_threshold(&scores(wanted - 1), fpr, CONFIDENCE).unwrap_err().to_string();
            assert!(error.contains(&format!("needs {wanted} of them")), "{error}");
        }
    }
    for bad in [0.0, 1.0, -0.1, f64::NAN] {
        assert!(rows_needed(bad, CONFIDENCE).is_err() && rows_needed(0.1, bad).is_err(), "{bad}");
    }
}

#[test]
fn no_threshold_lies_between_equal_scores() {
    // of 1,000 rows, 4 may be alarms at 1 %: P(X <= 4) is 2.9 % and P(X <= 5) is 6.6 %
    let mut scores = vec![0.1; 993];
    scores.extend([0.9, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6]);
    let found = certified_threshold(&scores, 0.01, CONFIDENCE).unwrap();
    assert_eq!((found.threshold, found.alarms, found.benign), (0.6_f32.next_up(), 4, 1000));
    // three rows of .7, of which only one could be an alarm: none is
    scores.truncate(993);
    scores.extend([0.9, 0.8, 0.8, 0.7, 0.7, 0.7, 0.6]);
    let found = certified_threshold(&scores, 0.01, CONFIDENCE).unwrap();
    assert_eq!((found.threshold, found.alarms), (0.7_f32.next_up(), 3));
    scores = vec![1.0; 5];
    scores.extend([0.5; 995]);
    let error = certified_threshold(&scores, 0.01, CONFIDENCE).unwrap_err().to_string();
    assert_eq!(error, "5 of 1000 benign rows have the score 1, above which no threshold keeps a rate of false alarms of 1 %");
    scores[0] = f32::NAN;
    assert!(certified_threshold(&scores, 0.01, CONFIDENCE).is_err());
}

/// In how many of a hundred the threshold that was certified on `n` draws of a uniform score has a higher rate than asked for.
#[test]
fn a_budget_is_broken_in_one_of_twenty_at_most() {
    use rand::RngExt as _;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut broken, draws) = (0, 2000);
    for _ in 0..draws {
        // of a score on a grid of 1,000 steps, so that ties occur; above step t lies a share of 1 - t / 1000
        let scores: Vec<f32> = (0..700).map(|_| rng.random_range(0..1000) as f32 / 1000.0).collect();
        let found = certified_threshold(&scores, 0.02, CONFIDENCE).unwrap();
        let rate = (0..1000).filter(|&step| step as f32 / 1000.0 >= found.threshold).count() as f64 / 1000.0;
        broken += i32::from(rate > 0.02);
    }
    let share = f64::from(broken) / f64::from(draws);
    // 5 % and twice the standard error; not never, or the bound would be a loose one
    assert!(share <= 0.05 + 0.01 && share > 0.01, "{share}");
}

#[test]
fn p_values_of_benign_rows_are_uniform() {
    let scores: Vec<f32> = (0..999).map(|i| i as f32 / 1000.0).collect();
    let benign = BenignScores::new(&scores).unwrap();
    assert!((benign.p_value(0.998) - 2.0 / 1000.0).abs() < 1e-12);
    assert!((benign.p_value(1.0) - 1.0 / 1000.0).abs() < 1e-12);
    assert!((benign.p_value(0.0) - 1.0).abs() < 1e-12);
    let none = BenignScores::new(&[]).unwrap();
    assert!((none.p_value(0.5) - 1.0).abs() < 1e-12);
}

proptest! {
    #[test]
    fn the_bound_is_the_root_of_its_definition(n in 1_u64..400, share in 0.0_f64..1.0, confidence in 0.5_f64..0.999) {
        let k = (share * n as f64) as u64;
        let bound = upper_bound(k, n, confidence);
        prop_assert!(k < n && (at_most(k, n, bound) - (1.0 - confidence)).abs() < 1e-8, "{bound}");
    }

    /// A threshold that is lower by one number would be one alarm too many.
    #[test]
    fn the_threshold_is_the_smallest_that_passes(scores in proptest::collection::vec(0_u8..40, 60..300), fpr in 0.06_f64..0.5) {
        let scores: Vec<f32> = scores.into_iter().map(|score| f32::from(score) / 41.0).collect();
        let found = certified_threshold(&scores, fpr, CONFIDENCE).unwrap();
        let alarms = |threshold: f32| scores.iter().filter(|&&score| score >= threshold).count() as u64;
        prop_assert_eq!(alarms(found.threshold), found.alarms);
        let n = scores.len() as u64;
        prop_assert!(upper_bound(found.alarms, n, CONFIDENCE) <= fpr);
        prop_assert!(upper_bound(alarms(found.threshold.next_down()), n, CONFIDENCE) > fpr);
    }

    /// What is left out makes p-values larger and thresholds higher, never the other way, and by little.
    #[test]
    fn what_is_left_out_errs_on_the_safe_side(scores in proptest::collection::vec(0_u16..500, 100..400), at in 0_u16..500) {
        let score = |score: u16| f32::from(score) / 500.0;
        let scores: Vec<f32> = scores.into_iter().map(score).collect();
        let [all, few] = [usize::MAX, 20].map(|kept| BenignScores::all(&scores, kept).unwrap());
        prop_assert!(few.parts.scores.len() <= 42 && BenignScores::try_from(few.parts.clone()).is_ok());
        let [exact, rough] = [&all, &few].map(|scores| scores.p_value(score(at)));
        prop_assert!(rough >= exact && rough <= exact + 0.25, "{} {}", rough, exact);
        for fpr in [0.05, 0.2, 0.6] {
            let [exact, rough] = [&all, &few].map(|scores| scores.certified(fpr, CONFIDENCE).unwrap());
            let alarms = scores.iter().filter(|&&score| score >= rough.threshold).count() as u64;
            prop_assert!(rough.threshold >= exact.threshold && rough.alarms == alarms && rough.bound <= fpr);
        }
    }

    #[test]
    fn scores_that_are_mapped_in_order_keep_their_p_values(scores in proptest::collection::vec(0_u16..500, 1..300), at in 0_u16..500) {
        let score = |score: u16| f32::from(score) / 500.0;
        let halved = |p: f32| p / 2.0;
        let benign = BenignScores::new(&scores.into_iter().map(score).collect::<Vec<_>>()).unwrap();
        let mapped = benign.map(halved).unwrap();
        prop_assert_eq!(benign.p_value(score(at)).to_bits(), mapped.p_value(halved(score(at))).to_bits());
        // all rounded to one: the lowest of p-values is that of all rows
        prop_assert!((benign.map(|_| 0.5).unwrap().p_value(0.5) - 1.0).abs() < 1e-12);
    }
}

#[test]
fn scores_of_a_file_are_checked() {
    let good = serde_json::to_value(BenignScores::new(&[0.5, 0.25, 0.5]).unwrap()).unwrap();
    assert_eq!(good, serde_json::json!({"n": 3, "scores": [0.5, 0.25], "at_least": [2, 3], "exact": 2}));
    let with = |key: &str, value: serde_json::Value| {
        let mut parts = good.clone();
        parts[key] = value;
        serde_json::from_value::<BenignScores>(parts)
    };
    assert!(with("n", 3.into()).is_ok());
    assert!(with("n", 4.into()).is_err() && with("exact", 3.into()).is_err());
    for scores in [vec![0.5], vec![0.25, 0.5], vec![0.5, 0.5], vec![1.5, 0.5], vec![0.5, -0.5]] {
        assert!(with("scores", scores.clone().into()).is_err(), "{scores:?}");
    }
    for counts in [vec![3, 3], vec![0, 3], vec![4, 3]] {
        assert!(with("at_least", counts.clone().into()).is_err(), "{counts:?}");
    }
}
