//! What a masked autoencoder hides, and where it drops.

use std::collections::{BTreeMap, BTreeSet};

use nids_kernels::{Arena, Key};
use nids_models::{
    DrawnRatio, Elbo, Mae, MaeConfig, MaeEncoder, MaskRatio, MixerConfig, Replaced, ReplacedConfig, Target, Vae, VaeConfig,
    random_masking,
};
use nids_nn::gradcheck::uniform;
use nids_nn::{Activation, Cx, Mode, ParamTable};
use rand::RngExt as _;

const MIXER: MixerConfig = MixerConfig {
    dim: 6,
    depth: 0,
    token_hidden: 5,
    channel_hidden: 7,
    n_registers: 0,
    activation: Activation::Gelu,
    dropout: 0.5,
    drop_path: 0.5,
};

fn mae(table: &mut ParamTable, n_features: usize, mixer: &MixerConfig, mask_ratio: impl Into<MaskRatio>) -> Mae {
    let features: Vec<(String, usize)> = (0..n_features).map(|i| (format!("f{i}"), 1)).collect();
    let config = MaeConfig { mask_ratio: mask_ratio.into(), decoder_depth: 2, ..MaeConfig::default() };
    Mae::new(&mut table.root(), &features, &vec![Target::Numeric; n_features], mixer, config)
}

#[test]
fn the_share_is_rounded_and_one_token_is_masked_and_one_visible() {
    for (n_features, mask_ratio, wanted) in
        [(5, 0.3, 2), (5, 0.29, 1), (5, 0.0, 1), (5, 1.0, 4), (2, 1.0, 1), (42, 0.15, 6), (42, 0.16, 7)]
    {
        let found = mae(&mut ParamTable::default(), n_features, &MIXER, mask_ratio).n_masked();
        assert!((found - f64::from(wanted)).abs() < 1e-12, "{mask_ratio} of {n_features}: {found}");
    }
}

#[test]
fn a_drawn_ratio_masks_from_one_token_to_the_largest_share_and_its_mean_is_known() {
    let n_features = 10;
    let samples: Vec<u32> = (0..20_000).collect();
    // how many of 10 tokens a share of `from` and of `to` is; the two at the ends have half the width of the others, and what
    // rounds to none is one
    for (from, to, fewest, most) in [(0.0, 0.6, 1, 6), (0.3, 0.5, 3, 5), (0.0, 0.99, 1, 9), (0.72, 0.74, 7, 7)] {
        let mae = mae(&mut ParamTable::default(), n_features, &MIXER, MaskRatio::Drawn(DrawnRatio { from, to }));
        let mut mask = vec![f32::NAN; n_features * samples.len()];
        mae.draw_mask(Key::new(8), &samples, None, &mut mask);
        let counts = samples.iter().map(|&j| (0..n_features).filter(|t| mask[t * samples.len() + j as usize] > 0.5).count());
        let counts: Vec<usize> = counts.collect();
        assert_eq!((counts.iter().min(), counts.iter().max()), (Some(&fewest), Some(&most)), "{from} to {to}");
        let mean = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
        let spread = (most - fewest) as f64 / (counts.len() as f64).sqrt();
        assert!((mean - mae.n_masked()).abs() < 2.0 * spread + 1e-12, "{from} to {to}: {mean}, not {}", mae.n_masked());
    }
}

#[test]
fn a_drawn_ratio_follows_from_the_key_and_the_sample_alone() {
    let ratio = MaskRatio::Drawn(DrawnRatio::default());
    let n_masked = |seed, sample| ratio.n_masked(Key::new(seed), sample, 42);
    let of = |seed| (0..50).map(|sample| n_masked(seed, sample)).collect::<Vec<_>>();
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    // another batch with the same sample in it
    let mae = mae(&mut ParamTable::default(), 42, &MIXER, ratio);
    let mask = |samples: &[u32]| {
        let mut mask = vec![f32::NAN; 42 * samples.len()];
        mae.draw_mask(Key::new(1), samples, None, &mut mask);
        let last = samples.len() - 1;
        (0..42).map(|t| mask[t * samples.len() + last].to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(mask(&[3, 4, 17]), mask(&[17]));
}

/// The tokens that are masked of each of `n` samples, all of which lack the tokens `missing`.
fn masked(n: u32, n_features: usize, n_masked: usize, missing: &[usize]) -> Vec<Vec<usize>> {
    let samples: Vec<u32> = (0..n).collect();
    let b = samples.len();
    let mut targets = vec![0.5_f32; n_features * b];
    for t in missing {
        targets[t * b..(t + 1) * b].fill(f32::NAN);
    }
    let mut mask = vec![f32::NAN; n_features * b];
    random_masking(Key::new(3), &samples, n_features, n_masked, Some(&targets), &mut mask);
    (0..b).map(|j| (0..n_features).filter(|t| mask[t * b + j] > 0.5).collect()).collect()
}

/// Asserts that the subsets are `n` different ones, each as likely.
fn check_uniform(subsets: &[Vec<usize>], n: usize, percentile: f64) {
    let mut counts = BTreeMap::new();
    for subset in subsets {
        *counts.entry(subset).or_insert(0.0) += 1.0;
    }
    let wanted = subsets.len() as f64 / n as f64;
    let chi_square: f64 = counts.values().map(|count: &f64| (count - wanted).powi(2) / wanted).sum();
    assert!(counts.len() == n && chi_square < percentile, "{chi_square}: {counts:?}");
}

#[test]
fn every_subset_of_the_asked_size_is_as_likely() {
    let subsets = masked(6000, 4, 2, &[]);
    assert!(subsets.iter().all(|subset| subset.len() == 2));
    // six; the 99.9th percentile for five degrees of freedom
    check_uniform(&subsets, 6, 20.5);
}

#[test]
fn what_is_missing_is_not_hidden_and_every_subset_of_the_rest_is_as_likely() {
    let subsets = masked(6000, 5, 2, &[1]);
    assert!(subsets.iter().all(|subset| subset.len() == 2 && !subset.contains(&1)));
    check_uniform(&subsets, 6, 20.5);
}

#[test]
fn where_too_few_are_present_all_of_them_are_hidden_and_as_many_others_as_are_wanted() {
    let subsets = masked(6000, 6, 4, &[0, 2, 5, 4]);
    assert!(subsets.iter().all(|subset| subset.len() == 4 && subset.contains(&1) && subset.contains(&3)), "{subsets:?}");
    check_uniform(&subsets, 6, 20.5);
    assert!(masked(50, 3, 2, &[0, 1, 2]).iter().all(|subset| subset.len() == 2), "as many where all are missing");
}

/// Selection sampling as it was before tokens could be missing.
#[test]
fn a_row_of_which_nothing_is_missing_has_the_mask_that_it_always_had() {
    let samples: Vec<u32> = (0..200).collect();
    let (b, n_features, n_masked, key) = (samples.len(), 42, 17, Key::new(9));
    let mut wanted = vec![0.0_f32; n_features * b];
    for (j, &sample) in samples.iter().enumerate() {
        let (mut stream, mut left) = (key.stream(u32::MAX, sample), n_masked);
        for t in 0..n_features {
            if stream.random_range(0..n_features - t) < left {
                wanted[t * b + j] = 1.0;
                left -= 1;
            }
        }
    }
    let mut targets = vec![0.5_f32; n_features * b];
    let check = |targets: Option<&[f32]>, which: &dyn Fn(usize) -> bool| {
        let mut mask = vec![f32::NAN; n_features * b];
        random_masking(key, &samples, n_features, n_masked, targets, &mut mask);
        let same = (0..mask.len()).filter(|i| which(i % b)).all(|i| mask[i].to_bits() == wanted[i].to_bits());
        assert!(same);
    };
    check(None, &|_| true);
    check(Some(&targets), &|_| true);
    // every second row lacks a token
    (0..b).step_by(2).for_each(|j| targets[(j % n_features) * b + j] = f32::NAN);
    check(Some(&targets), &|j| j % 2 == 1);
}

/// The loss of some targets, whose gradient is added to the second argument.
type LossOf<'l> = &'l dyn Fn(&Cx<'_, f64>, Option<&mut [f64]>, &[f64]) -> f64;

fn copied<'a>(cx: &Cx<'a, f64>, from: &[f64]) -> &'a mut [f64] {
    let to = cx.alloc(from.len());
    to.copy_from_slice(from);
    to
}

#[test]
fn what_is_missing_has_no_loss_and_no_gradient() {
    let b = 3;
    let (x, mask) = (uniform(2, 4 * b), vec![1.0; 4 * b]);
    let mut targets = uniform(3, 4 * b);
    // the second feature of all samples, and the last feature of the last
    targets[b..2 * b].fill(f64::NAN);
    targets[4 * b - 1] = f64::NAN;
    let features: Vec<(String, usize)> = (0..4).map(|i| (format!("f{i}"), 1)).collect();
    let check = |table: &ParamTable, loss: LossOf<'_>| {
        let (params, arena) = (table.init::<f64>(1), Arena::default());
        let of = |targets: &[f64], grads: Option<&mut [f64]>| loss(&Cx::new(&params, &arena, Mode::Eval), grads, targets);
        let mut grads = table.zeros::<f64>();
        let total = of(&targets, Some(&mut grads));
        // the sum of the terms of each target that is there
        let terms = (0..targets.len()).filter(|&i| !targets[i].is_nan()).map(|i| {
            let mut only = vec![f64::NAN; targets.len()];
            only[i] = targets[i];
            of(&only, None)
        });
        let wanted: f64 = terms.sum();
        assert!((total - wanted).abs() < 1e-12 * wanted, "{total}, not {wanted}");
        for spec in table.specs() {
            let grads = spec.param.of(&grads);
            assert!(grads.iter().all(|g| g.is_finite()), "{}", spec.name);
            if spec.name.starts_with("heads.") {
                assert_eq!(grads.iter().all(|&g| g == 0.0), spec.name.starts_with("heads.f1."), "{}", spec.name);
            }
        }
    };
    let mut table = ParamTable::default();
    let mae = mae(&mut table, 4, &MIXER, 0.5);
    check(&table, &|cx, grads, targets| mae.loss(cx, grads, b, copied(cx, &x), copied(cx, &mask), targets, 1.0));
    let mut table = ParamTable::default();
    let vae = Vae::new(&mut table.root(), &features, &[Target::Numeric; 4], &MIXER, VaeConfig::default());
    check(&table, &|cx, grads, targets| {
        let Elbo { reconstruction, .. } = vae.loss(cx, grads, b, copied(cx, &x), targets, 1.0, 1.0);
        reconstruction
    });
}

#[test]
fn the_surprisal_of_a_feature_is_its_loss_while_it_alone_is_hidden() {
    // more features than are seen at once
    let widths = [2, 1, 4, 3, 1, 1, 2, 1, 5, 1];
    let features: Vec<(String, usize)> = widths.iter().enumerate().map(|(i, &width)| (format!("f{i}"), width)).collect();
    let n = features.len();
    let targets: Vec<Target> = (0..n).map(|t| Target::Categorical(2 + t % 3)).collect();
    let mut classes: Vec<f64> = (0..n).map(|t| (t % 2) as f64).collect();
    classes[3] = f64::NAN;
    for encoder in [MaeEncoder::MaskToken, MaeEncoder::VisibleOnly] {
        let config = MaeConfig { encoder, ..MaeConfig::default() };
        let mut table = ParamTable::default();
        let mixer = MixerConfig { depth: 2, n_registers: 1, ..MIXER };
        let mae = Mae::new(&mut table.root(), &features, &targets, &mixer, config);
        let params = table.init::<f64>(1);
        let x = uniform(2, widths.iter().sum());
        let arena = Arena::default();
        let cx = Cx::new(&params, &arena, Mode::Eval);
        let mut found = vec![0.0; n];
        mae.hidden_losses(&cx, n, &x, &classes, &mut found);
        for (t, &found) in found.iter().enumerate() {
            let mask: Vec<f64> = (0..n).map(|other| f64::from(u8::from(other == t))).collect();
            let wanted = mae.loss(&cx, None, 1, copied(&cx, &x), copied(&cx, &mask), &classes, 1.0);
            let is_same = if t == 3 { found.is_nan() } else { (found - wanted).abs() < 1e-12 * wanted };
            assert!(is_same, "{encoder:?}, feature {t}: {found}, not {wanted}");
        }
        // probabilities: of all classes of a feature they add up to 1
        let mut sum = 0.0;
        for class in 0..4 {
            classes[2] = f64::from(class);
            mae.hidden_losses(&cx, n, &x, &classes, &mut found);
            sum += (-found[2]).exp();
        }
        classes[2] = 0.0;
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
    }
}

#[test]
fn what_is_hidden_is_filled_in_with_the_donor_of_the_least_loss() {
    let n = 6;
    let features: Vec<(String, usize)> = (0..n).map(|i| (format!("f{i}"), 1 + i % 2)).collect();
    let targets: Vec<Target> =
        (0..n).map(|t| if t % 2 == 0 { Target::Numeric } else { Target::Categorical(2 + t % 3) }).collect();
    let n_donors = 9;
    let mut donors = uniform(5, n * n_donors);
    for (t, donors) in donors.chunks_exact_mut(n_donors).enumerate().filter(|(t, _)| t % 2 == 1) {
        donors.iter_mut().enumerate().for_each(|(d, class)| *class = ((d * 7 + t) % (2 + t % 3)) as f64);
    }
    donors[2 * n_donors + 4] = f64::NAN;
    // more sets than are seen at once
    let hidden: Vec<Vec<usize>> =
        [&[0][..], &[1], &[2, 3], &[2], &[5, 4, 0], &[3], &[4], &[0, 1, 2, 3, 4], &[5], &[1, 5]].map(<[_]>::to_vec).into();
    for encoder in [MaeEncoder::MaskToken, MaeEncoder::VisibleOnly] {
        let config = MaeConfig { encoder, ..MaeConfig::default() };
        let mut table = ParamTable::default();
        let mae = Mae::new(&mut table.root(), &features, &targets, &MixerConfig { depth: 2, ..MIXER }, config);
        let (params, arena) = (table.init::<f64>(1), Arena::default());
        let cx = Cx::new(&params, &arena, Mode::Eval);
        let x = uniform(2, 9);
        let mut found = vec![0.0; hidden.len()];
        mae.infill(&cx, &x, &hidden, &donors, &mut found);
        let mut different = BTreeSet::new();
        for (set, &found) in hidden.iter().zip(&found) {
            let mask: Vec<f64> = (0..n).map(|t| f64::from(u8::from(set.contains(&t)))).collect();
            let loss_of = |t: usize, d: usize| {
                let mut only = vec![f64::NAN; n];
                only[t] = donors[t * n_donors + d];
                mae.loss(&cx, None, 1, copied(&cx, &x), copied(&cx, &mask), &only, 1.0)
            };
            let is_there = |t: usize, d: usize| !donors[t * n_donors + d].is_nan();
            let mean = |t: usize| {
                let there: Vec<f64> = (0..n_donors).filter(|&d| is_there(t, d)).map(|d| loss_of(t, d)).collect();
                there.iter().sum::<f64>() / there.len() as f64
            };
            let sum = |d: usize| -> f64 { set.iter().map(|&t| if is_there(t, d) { loss_of(t, d) } else { mean(t) }).sum() };
            let least = (0..n_donors).map(sum).fold(f64::INFINITY, f64::min);
            let first = (0..n_donors).find(|&d| sum(d) < least + 1e-9).unwrap();
            assert!((found - first as f64).abs() < 0.5, "{encoder:?} {set:?}: {found}, not {first}");
            different.insert(first);
        }
        assert!(different.len() > 2, "{different:?}");
    }
}

#[test]
fn swaps_are_a_share_of_each_row_and_count_where_they_change_something() {
    let n_features = 10;
    let features: Vec<(String, usize)> = (0..n_features).map(|i| (format!("f{i}"), 1)).collect();
    let replaced = Replaced::new(&mut ParamTable::default().root(), &features, &MIXER, ReplacedConfig { swap_ratio: 0.3 });
    let draw = |key, samples: &[u32]| {
        let b = samples.len();
        let (mut swapped, mut calls) = (vec![f64::NAN; n_features * b], Vec::new());
        replaced.draw_swaps(key, samples, 50, &mut swapped, |t, j, row| {
            calls.push((j, t, row));
            !row.is_multiple_of(5)
        });
        (swapped, calls)
    };
    let samples: Vec<u32> = (0..2000).collect();
    let (swapped, calls) = draw(Key::new(2), &samples);
    let mut rows = BTreeMap::new();
    assert!(calls.len() == 3 * samples.len() && calls.chunk_by(|a, b| a.0 == b.0).all(|calls| calls.len() == 3));
    for &(j, t, row) in &calls {
        // what a swap left as it was is not one
        assert!((swapped[t * samples.len() + j] - f64::from(u8::from(!row.is_multiple_of(5)))).abs() < 1e-12);
        *rows.entry(row).or_insert(0.0) += 1.0;
    }
    assert_eq!(swapped.iter().filter(|&&swapped| swapped != 0.0).count(), calls.iter().filter(|call| call.2 % 5 != 0).count());
    // every row is taken as often: the 99.9th percentile for 49 degrees of freedom
    let wanted = calls.len() as f64 / 50.0;
    let chi_square: f64 = rows.values().map(|count: &f64| (count - wanted).powi(2) / wanted).sum();
    assert!(rows.len() == 50 && chi_square < 85.4, "{chi_square}");
    // features of one row come from different rows
    assert!(calls.chunk_by(|a, b| a.0 == b.0).any(|calls| calls[0].2 != calls[1].2));
    // a sample's swaps do not depend on its neighbours, but on the key
    let alone = |key| draw(key, &[17]).1.iter().map(|&(_, t, row)| (t, row)).collect::<Vec<_>>();
    let among: Vec<_> = calls.iter().filter(|call| call.0 == 17).map(|&(_, t, row)| (t, row)).collect();
    assert_eq!(alone(Key::new(2)), among);
    assert_ne!(alone(Key::new(3)), among);
}

#[test]
fn the_decoder_drops_nothing() {
    let loss = |mixer: &MixerConfig, step: u64| {
        let mut table = ParamTable::default();
        let mae = mae(&mut table, 4, mixer, 0.5);
        let b = 3;
        let mask: Vec<f64> = (0..4 * b).map(|i| f64::from(u8::from(i % 2 == 0))).collect();
        let (params, arena) = (table.init::<f64>(1), Arena::default());
        let cx = Cx::new(&params, &arena, Mode::Train { key: Key::new(5).child(step), samples: &[1, 2, 3] });
        let x = cx.alloc(4 * b);
        x.copy_from_slice(&uniform(2, 4 * b));
        mae.loss(&cx, None, b, x, &mask, &uniform(3, 4 * b), 1.0).to_bits()
    };
    // an encoder without blocks leaves the decoder's alone to drop
    assert_eq!(loss(&MIXER, 1), loss(&MIXER, 2));
    let deeper = MixerConfig { depth: 1, ..MIXER };
    assert_ne!(loss(&deeper, 1), loss(&deeper, 2));
}
