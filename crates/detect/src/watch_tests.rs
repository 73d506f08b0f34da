use super::*;

fn of(psi: f64, expected: f64, noise: f64) -> Psi {
    Psi { psi, expected, noise }
}

#[test]
fn an_index_counts_from_what_chance_makes_of_it() {
    assert_eq!(change(Some(of(0.26, 0.0, 0.0)), 1000), Change::Moved);
    assert_eq!(change(Some(of(0.26, 0.02, 0.1)), 1000), Change::Shifted);
    assert_eq!(change(Some(of(0.11, 0.02, 0.1)), 1000), Change::None);
    // as large as chance alone makes it at times
    assert_eq!(change(Some(of(0.6, 0.2, 0.7)), 1000), Change::None);
    assert_eq!(change(Some(of(9.0, 0.2, 0.7)), MIN_ROWS - 1), Change::None);
    assert_eq!(change(None, 1000), Change::None);
}

fn drift(moved: &[(&str, f64)], still: usize) -> Drift {
    let feature = |name: &str, psi: f64| FeatureDrift {
        feature: name.to_owned(),
        change: change(Some(of(psi, 0.01, 0.02)), 1000),
        training: Some(of(psi, 0.01, 0.02)),
        at_attack_share: None,
        missing: 0.0,
        training_missing: 0.0,
        never_seen: 0.0,
        bins: Vec::new(),
    };
    let features = moved.iter().map(|(name, psi)| feature(name, *psi)).chain((0..still).map(|_| feature("still", 0.03)));
    let mut drift = Drift {
        rows: 1000,
        training_rows: 5000,
        attack_share: None,
        training_attack_share: None,
        features: features.collect(),
        scores: None,
        p_values: None,
        warnings: Vec::new(),
    };
    drift.warnings = drift.found_warnings();
    drift
}

#[test]
fn one_line_names_the_features_that_moved_most() {
    let some = drift(&[("sttl", 1.31), ("sbytes", 0.4), ("dur", 0.3), ("rate", 0.29), ("spkts", 0.2)], 40);
    insta::assert_snapshot!(some.line(), @"drift: 4 of 45 features have moved (PSI above 0.25: `sttl` 1.31, `sbytes` 0.40, `dur` 0.30, ...); 1 a little (above 0.1)");
    assert!(some.warnings.is_empty(), "fewer than a tenth: {:?}", some.warnings);
    let some = Drift { attack_share: Some(0.123), training_attack_share: Some(0.55), ..drift(&[], 4) };
    insta::assert_snapshot!(some.line(), @"drift: none of 4 features has moved (largest PSI: `still` 0.03); about 12 % of the rows are attacks, 55 % in training");
}

#[test]
fn verdicts_are_not_trusted_where_a_tenth_of_the_features_moved_or_scores_did() {
    assert_eq!(drift(&[("sttl", 1.31)], 9).warnings, ["1 of 10 features has moved"]);
    assert!(drift(&[("sttl", 1.31)], 10).warnings.is_empty());
    let scores = Distribution::new(Some(of(0.5, 0.01, 0.02)), Vec::new(), 1000);
    let moved = Drift { scores: Some(scores), ..drift(&[], 9) };
    assert_eq!(moved.found_warnings(), ["no share of attacks gives such scores to rows like those held out (PSI 0.50)"]);
    let mut lost = drift(&[], 20);
    (lost.features[3].missing, lost.features[3].never_seen) = (0.3, 0.25);
    assert_eq!(lost.found_warnings(), ["`still` is missing in 30 % of the rows and has a value never seen in 25 %"]);
    lost.features[3].training_missing = 0.6;
    assert!(lost.found_warnings().is_empty());
}

#[test]
fn counts_of_p_values_are_those_of_the_p_values() {
    // ties, and scores whose p-values lie on the edges of bins
    let benign = BenignScores::new(&(0..199).map(|i| (i / 4) as f32 / 64.0).collect::<Vec<f32>>()).unwrap();
    // the p-value falls just above a benign score
    let edges = (0..64).flat_map(|i| [i as f32 / 64.0, (i as f32 / 64.0).next_up()]);
    let probabilities: Vec<f32> = (0..=1000).map(|i| i as f32 / 1000.0).chain(edges).collect();
    let mut found = PValues::new(&benign);
    probabilities.chunks(300).for_each(|some| found.add(some));
    let mut wanted = vec![0_u64; P_BINS];
    for &probability in &probabilities {
        let p_value = benign.p_value(probability);
        wanted[(0..P_BINS).find(|k| p_value <= (k + 1) as f64 / P_BINS as f64).unwrap()] += 1;
    }
    assert_eq!(found.counts(), wanted);
    assert!(wanted.iter().all(|&n| n > 0), "{wanted:?}");
    // benign rows themselves: as they say
    let reference: u64 = benign.p_values().map(|(_, n)| n).sum();
    assert_eq!(reference, 199);
    for (p_value, _) in benign.p_values() {
        let score = benign.score_of(p_value).unwrap();
        assert!(benign.p_value(score) <= p_value);
        assert!(score <= 0.0 || benign.p_value(score.next_down()) > p_value);
    }
    assert_eq!(benign.score_of(0.001), None);
}
