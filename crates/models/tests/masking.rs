//! What a masked autoencoder hides, and where it drops.

use std::collections::BTreeMap;

use nids_kernels::{Arena, Key};
use nids_models::{Mae, MaeConfig, MaeEncoder, MixerConfig, Target, random_masking};
use nids_nn::gradcheck::uniform;
use nids_nn::{Activation, Cx, Mode, ParamTable};

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

fn mae(table: &mut ParamTable, n_features: usize, mixer: &MixerConfig, mask_ratio: f64) -> Mae {
    let features: Vec<(String, usize)> = (0..n_features).map(|i| (format!("f{i}"), 1)).collect();
    let config = MaeConfig { mask_ratio, encoder: MaeEncoder::MaskToken, decoder_depth: 2 };
    Mae::new(&mut table.root(), &features, &vec![Target::Numeric; n_features], mixer, config)
}

#[test]
fn the_share_is_rounded_and_one_token_is_masked_and_one_visible() {
    for (n_features, mask_ratio, wanted) in
        [(5, 0.3, 2), (5, 0.29, 1), (5, 0.0, 1), (5, 1.0, 4), (2, 1.0, 1), (42, 0.15, 6), (42, 0.16, 7)]
    {
        let found = mae(&mut ParamTable::default(), n_features, &MIXER, mask_ratio).n_masked();
        assert_eq!(found, wanted, "{mask_ratio} of {n_features}");
    }
}

#[test]
fn every_subset_of_the_asked_size_is_as_likely() {
    const ROWS: u32 = 6000;
    let [n_features, n_masked] = [4, 2]; // six subsets
    let samples: Vec<u32> = (0..ROWS).collect();
    let mut mask = vec![f32::NAN; n_features * samples.len()];
    random_masking(Key::new(3), &samples, n_features, n_masked, &mut mask);
    let mut counts = BTreeMap::new();
    for j in 0..samples.len() {
        let subset: Vec<usize> = (0..n_features).filter(|t| mask[t * samples.len() + j] > 0.5).collect();
        *counts.entry(subset).or_insert(0.0) += 1.0;
    }
    assert!(counts.keys().all(|subset| subset.len() == n_masked), "{counts:?}");
    let wanted = f64::from(ROWS) / 6.0;
    let chi_square: f64 = counts.values().map(|count: &f64| (count - wanted).powi(2) / wanted).sum();
    // the 99.9th percentile for five degrees of freedom
    assert!(counts.len() == 6 && chi_square < 20.5, "{chi_square}: {counts:?}");
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
