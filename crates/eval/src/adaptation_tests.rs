use ndarray::Array2;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;

/// Rows with a number, a category of 0 to 4 and a number that is missing in every third. The log odds hold where a share of 1/2 of the
/// rows is attacks; labels are drawn by `truth` of log odds and features.
struct Drawn {
    z: Vec<f64>,
    values: Array2<f32>,
    labels: Vec<u8>,
    groups: Vec<Vec<u32>>,
}

impl Drawn {
    fn new(n: usize, seed: u64, truth: impl Fn(f64, &[f32]) -> f64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let z: Vec<f64> = (0..n).map(|_| rng.random_range(-4.0..4.0)).collect();
        let values = Array2::from_shape_fn((n, 3), |(row, feature)| match feature {
            0 => rng.random_range(-1.0..1.0),
            1 => rng.random_range(0..5) as f32,
            _ if row % 3 == 0 => f32::NAN,
            _ => rng.random_range(-1.0..1.0),
        });
        let p = |row: usize| sigmoid(truth(z[row], &values.row(row).to_vec()));
        let labels = (0..n).map(|row| u8::from(rng.random::<f64>() < p(row))).collect();
        let groups = (0..n as u32).map(|row| vec![row]).collect();
        Self { z, values, labels, groups }
    }

    fn rows(&self) -> LabelledRows<'_> {
        let Self { z, values, labels, groups } = self;
        LabelledRows { log_odds: z, values, is_category: &[false, true, false], labels, groups }
    }

    fn loss(&self, correction: &Correction) -> f64 {
        let of = |row: usize| {
            let z = correction.log_odds(self.z[row], |feature| self.values[[row, feature]]);
            loss(z, f64::from(self.labels[row]))
        };
        (0..self.z.len()).map(of).sum::<f64>() / self.z.len() as f64
    }
}

#[test]
fn the_share_of_attacks_is_found_without_labels() {
    // attacks and benign rows as drawn where half are attacks, and one attack in ten of them kept
    let drawn = Drawn::new(20_000, 1, |z, _| z);
    let mut kept = Vec::new();
    let mut n_attacks = 0;
    for (row, &label) in drawn.labels.iter().enumerate() {
        if label == 0 || row % 10 == 0 {
            kept.push(drawn.z[row]);
            n_attacks += usize::from(label);
        }
    }
    let share = n_attacks as f64 / kept.len() as f64;
    let found = PriorShift::estimate(&kept, 0.5).unwrap();
    assert!((found.after - share).abs() < 0.01 && share < 0.15, "{found:?} {share}");
    assert!((found.shift - (share / (1.0 - share)).ln()).abs() < 0.15 && found.is_significant());
    // the mean probability is far off: the classifier expects half
    let mean = kept.iter().map(|&z| sigmoid(z)).sum::<f64>() / kept.len() as f64;
    assert!((mean - share).abs() > 0.05, "{mean}");
}

#[test]
fn a_share_that_has_not_changed_is_not_significant() {
    let significant = (0..40).filter(|&seed| {
        let drawn = Drawn::new(2000, seed, |z, _| z);
        PriorShift::estimate(&drawn.z, 0.5).unwrap().is_significant()
    });
    // 5 % of 40 are 2; more than 7 come in one of a thousand cases
    assert!(significant.count() <= 7);
    let benign = PriorShift::estimate(&[-3.0; 50], 0.5).unwrap();
    assert!(benign.after < 0.011 && benign.shift.is_finite(), "{benign:?}");
    assert!(PriorShift::estimate(&[], 0.5).is_err() && PriorShift::estimate(&[1.0], 1.0).is_err());
}

#[test]
fn a_segment_where_the_model_is_wrong_is_found() {
    let wrong = |z: f64, v: &[f32]| if v[1] > 2.5 && v[1] < 3.5 && v[0] <= 0.0 { z - 6.0 } else { z };
    let drawn = Drawn::new(500, 2, wrong);
    let fitted = fit(&drawn.rows(), &drawn.z).unwrap();
    assert!(fitted.is_better(), "{fitted:?}");
    let test = Drawn::new(4000, 3, wrong);
    let platt = fit_on(&drawn.rows(), &(0..500).collect::<Vec<_>>(), Candidate::Platt).unwrap();
    let [with, without, best] =
        [fitted.correction.clone(), platt.clone(), Correction { slope: 1.0, offset: 0.0, segments: vec![] }]
            .map(|correction| test.loss(&correction));
    assert!(with < without - 0.03 && without < best, "{with} {without} {best}");
    // cross-fitting says what new rows say
    assert!((fitted.loss_after - with).abs() < 0.05, "{} {with}", fitted.loss_after);
    let value = |v: [f32; 3]| move |feature: usize| v[feature];
    let inside = fitted.correction.log_odds(3.0, value([-0.5, 3.0, 0.0]));
    let outside = fitted.correction.log_odds(3.0, value([-0.5, 2.0, 0.0]));
    assert!(inside < -1.0 && outside > 1.5, "{inside} {outside}");
}

#[test]
fn probabilities_that_are_right_stay_as_they_are() {
    let mut n_corrected = 0;
    for seed in 10..40 {
        let drawn = Drawn::new(200, seed, |z, _| z);
        let fitted = fit(&drawn.rows(), &drawn.z).unwrap();
        let is_same = fitted.correction == Correction { slope: 1.0, offset: 0.0, segments: Vec::new() };
        // what is not corrected is not better, and what seems better is hardly so
        assert!(
            is_same != fitted.is_better() && fitted.loss_before - fitted.loss_after < 3.0 * fitted.error + 1e-9,
            "{fitted:?}"
        );
        n_corrected += i32::from(!is_same);
    }
    assert!(n_corrected < 12, "{n_corrected}");
}

#[test]
fn a_model_that_is_too_sure_of_itself_is_tempered() {
    // 100 labels of a model whose log odds are three times too large
    let drawn = Drawn::new(100, 9, |z, _| z / 3.0 + 0.5);
    let fitted = fit(&drawn.rows(), &drawn.z).unwrap();
    assert!(fitted.is_better() && fitted.correction.slope < 0.7 && fitted.correction.offset > 0.0, "{fitted:?}");
    let test = Drawn::new(4000, 10, |z, _| z / 3.0 + 0.5);
    let as_it_was = Correction { slope: 1.0, offset: 0.0, segments: Vec::new() };
    assert!(test.loss(&fitted.correction) < test.loss(&as_it_was) - 0.1);
}

#[test]
fn folds_part_no_equal_rows_and_so_a_lucky_copy_proves_nothing() {
    // labels by chance, each row three times: what is learned of a copy is of no use for other rows
    let drawn = Drawn::new(150, 4, |_, _| 0.0);
    let copied = |row: usize| row / 3;
    let z: Vec<f64> = (0..450).map(|row| drawn.z[copied(row)]).collect();
    let labels: Vec<u8> = (0..450).map(|row| drawn.labels[copied(row)]).collect();
    let values = Array2::from_shape_fn((450, 3), |(row, feature)| drawn.values[[copied(row), feature]]);
    let groups: Vec<Vec<u32>> = (0..150).map(|group| (3 * group..3 * group + 3).collect()).collect();
    let rows =
        LabelledRows { log_odds: &z, values: &values, is_category: &[false, true, false], labels: &labels, groups: &groups };
    let fold = folds(&rows).unwrap();
    assert!(groups.iter().all(|group| group.iter().all(|&row| fold[row as usize] == fold[group[0] as usize])));
    // by class, every fold has as many
    for class in [0, 1] {
        let of = |k: usize| (0..450).filter(|&row| labels[row] == class && fold[row] == k).count();
        assert!((0..FOLDS).all(|k| of(k).abs_diff(of(0)) <= 3), "{class}");
    }
    // nothing is better than to say the share of attacks
    let fitted = fit(&rows, &[0.0; 450]).unwrap();
    assert!(fitted.correction.segments.is_empty() && fitted.loss_after > 0.68, "{} {:?}", fitted.loss_after, fitted.correction);
}

#[test]
fn a_model_that_is_of_no_use_leaves_the_share_of_attacks() {
    let drawn = Drawn::new(300, 5, |z, _| -z - 1.0);
    let platt = fit_on(&drawn.rows(), &(0..300).collect::<Vec<_>>(), Candidate::Platt).unwrap();
    let share = drawn.labels.iter().map(|&label| f64::from(label)).sum::<f64>() / 300.0;
    assert!(platt.slope.abs() < 1e-12 && (sigmoid(platt.offset) - share).abs() < 0.01, "{platt:?} {share}");
}

#[test]
fn a_few_labels_of_one_class_are_too_few() {
    let mut drawn = Drawn::new(60, 6, |z, _| z);
    drawn.labels = (0..60).map(|row| u8::from(row < 9)).collect();
    let error = fit(&drawn.rows(), &drawn.z).unwrap_err().to_string();
    assert_eq!(error, "expected labels of at least 10 different rows of each class, found 51 benign ones and 9 attacks");
    drawn.labels[9] = 1;
    assert!(fit(&drawn.rows(), &drawn.z).is_ok());
}

#[test]
fn no_row_lies_in_two_segments_and_a_missing_value_in_one() {
    let drawn = Drawn::new(800, 7, |z, v| z + if v[2] <= 0.0 { 5.0 } else { -3.0 });
    let correction = fit(&drawn.rows(), &drawn.z).unwrap().correction;
    assert!(correction.segments.len() >= 2 && correction.is_valid(3) && !correction.is_valid(0));
    for row in drawn.values.outer_iter() {
        let lies_in = |segment: &&Segment| segment.conditions.iter().all(|condition| condition.holds(row[condition.feature]));
        assert_eq!(correction.segments.iter().filter(lies_in).count(), 1, "{row}");
    }
    let mut deep = correction.clone();
    deep.segments[0].conditions = vec![correction.segments[0].conditions[0]; 4];
    assert!(!deep.is_valid(3));
    let read: Correction = serde_json::from_str(&serde_json::to_string(&correction).unwrap()).unwrap();
    assert_eq!(read, correction);
}

#[test]
fn rows_without_a_value_are_a_segment_of_their_own_where_they_differ() {
    let drawn = Drawn::new(800, 8, |z, v| if v[2].is_nan() { z + 5.0 } else { z - 1.0 });
    let correction = fit(&drawn.rows(), &drawn.z).unwrap().correction;
    let [missing, present] = [f32::NAN, -0.9].map(|value| correction.log_odds(0.0, |feature| [0.0, 0.0, value][feature]));
    assert!(missing > 2.0 && present < 0.5, "{missing} {present}");
}
