//! A fused layer is the composition it replaces: same output, same gradients, in f64.

use nids_kernels::{Arena, Key};
use nids_nn::gradcheck::{max_scaled_difference, uniform};
use nids_nn::{
    Activation, ActivationLayer, Axis, Cx, Dropout, GivenMasks, LayerNorm, Linear, Mixing, MixingConfig, Mode, ParamTable,
    PreNormResidual, Tensor, Visible,
};

const N: usize = 4;
const B: usize = 6;
const D: usize = 5;
const H: usize = 7;
const SAMPLES: [u32; B] = [3, 1, 4, 15, 9, 2];

fn train<'m>() -> Mode<'m, f64> {
    Mode::Train { key: Key::new(5), samples: &SAMPLES }
}

fn config(axis: Axis, dropout: f64) -> MixingConfig {
    let size = if axis == Axis::Token { N } else { D };
    MixingConfig { axis, size, hidden: H, activation: Activation::Gelu, dropout }
}

fn tensor<'a>(cx: &Cx<'a, f64>, shape: [usize; 3], values: &[f64]) -> Tensor<'a, f64> {
    let tensor = cx.tensor(shape);
    tensor.data.copy_from_slice(values);
    tensor
}

/// [a, b, c] -> [c, b, a]
fn transposed([a, b, c]: [usize; 3], x: &[f64]) -> Vec<f64> {
    let places = (0..c).flat_map(|k| (0..b).flat_map(move |j| (0..a).map(move |i| (i * b + j) * c + k)));
    places.map(|at| x[at]).collect()
}

#[track_caller]
fn assert_close(ours: &[f64], want: &[f64], what: &str) {
    let difference = max_scaled_difference(ours, want);
    assert!(difference < 1e-13, "{what}: off by {difference:.1e} of the largest");
}

#[test]
fn mixing_is_linear_activation_dropout_linear_dropout() {
    for axis in [Axis::Token, Axis::Channel] {
        let (mut table, mut plain_table) = (ParamTable::default(), ParamTable::default());
        let fused = Mixing::new(&mut table.root(), config(axis, 0.4));
        let size = if axis == Axis::Token { N } else { D };
        let linear1 = Linear::new(&mut plain_table.root().at("linear1"), size, H);
        let linear2 = Linear::new(&mut plain_table.root().at("linear2"), H, size);
        let dropouts = [0.4, 0.4].map(|p| Dropout::new(&mut plain_table.root(), p));
        let names = |table: &ParamTable| table.specs().iter().map(|spec| (spec.name.clone(), spec.param)).collect::<Vec<_>>();
        assert_eq!(names(&table), names(&plain_table), "both read the same buffer");

        // the plain layers work on the last axis, so token mixing is done on transposed activations
        let turn = |shape: [usize; 3], x: &[f64]| if axis == Axis::Token { transposed(shape, x) } else { x.to_vec() };
        let turned = |[n, b, d]: [usize; 3]| if axis == Axis::Token { [d, b, n] } else { [n, b, d] };
        let shape = [N, B, D];
        let hidden_shape = if axis == Axis::Token { [H, B, D] } else { [N, B, H] };
        let mask = |seed, shape: [usize; 3]| -> Vec<f64> {
            uniform(seed, shape.iter().product()).iter().map(|&u| if u < -0.2 { 0.0 } else { 1.0 / 0.6 }).collect()
        };
        let masks = [mask(1, hidden_shape), mask(2, shape)];
        let given = |sites: [u32; 2], masks: [Vec<f64>; 2]| GivenMasks {
            dropout: sites.into_iter().zip(masks).collect(),
            ..GivenMasks::default()
        };
        let plain_masks = [turn(hidden_shape, &masks[0]), turn(shape, &masks[1])];
        let (masks, plain_masks) = (given(fused.sites(), masks), given(dropouts.map(|dropout| dropout.site()), plain_masks));

        let params = uniform(3, table.buffer_len());
        let (x, dy) = (uniform(4, N * B * D), uniform(5, N * B * D));
        let arena = Arena::default();
        let (mut grads, mut plain_grads) = (table.zeros::<f64>(), table.zeros::<f64>());

        let cx = Cx::new(&params, &arena, Mode::Replay(&masks));
        let (y, cache) = fused.forward(&cx, tensor(&cx, shape, &x));
        let dx = fused.backward(&cx, &mut grads, cache, tensor(&cx, shape, &dy));

        let cx = Cx::new(&params, &arena, Mode::Replay(&plain_masks));
        let (h, cache1) = linear1.forward(&cx, tensor(&cx, turned(shape), &turn(shape, &x)));
        let (h, activation) = ActivationLayer(Activation::Gelu).forward(&cx, h);
        let (z, cache2) = linear2.forward(&cx, dropouts[0].apply(&cx, h));
        let plain_y = dropouts[1].apply(&cx, z);
        let dz = dropouts[1].apply(&cx, tensor(&cx, turned(shape), &turn(shape, &dy)));
        let dh = dropouts[0].apply(&cx, linear2.backward(&cx, &mut plain_grads, cache2, dz));
        let dh = ActivationLayer(Activation::Gelu).backward(&cx, activation, dh);
        let plain_dx = linear1.backward(&cx, &mut plain_grads, cache1, dh);

        assert_close(y.data, &turn(plain_y.shape, plain_y.data), "y");
        assert_close(dx.data, &turn(plain_dx.shape, plain_dx.data), "dx");
        assert_close(&grads, &plain_grads, "gradients");
    }
}

fn residual(table: &mut ParamTable, axis: Axis, drop_path: f64) -> (PreNormResidual, LayerNorm, Mixing) {
    let mut scope = table.root();
    let norm = LayerNorm::new(&mut scope.at("norm"), D);
    let mixing = Mixing::new(&mut scope.at("mixing"), config(axis, 0.3));
    (PreNormResidual::new(&mut scope, norm, mixing, drop_path), norm, mixing)
}

#[test]
fn residual_is_norm_mixing_and_sum() {
    for axis in [Axis::Token, Axis::Channel] {
        let mut table = ParamTable::default();
        let (fused, norm, mixing) = residual(&mut table, axis, 0.0);
        let params = uniform(3, table.buffer_len());
        let shape = [N, B, D];
        let (x, dy) = (uniform(4, N * B * D), uniform(5, N * B * D));
        let arena = Arena::default();
        let cx = Cx::new(&params, &arena, train());
        let (mut grads, mut plain_grads) = (table.zeros::<f64>(), table.zeros::<f64>());

        let (y, cache) = fused.forward(&cx, None, tensor(&cx, shape, &x));
        let dx = fused.backward(&cx, &mut grads, cache, tensor(&cx, shape, &dy));

        let (normed, norm_cache) = norm.forward(&cx, tensor(&cx, shape, &x));
        let (branch, mixing_cache) = mixing.forward(&cx, normed);
        let plain_y: Vec<f64> = x.iter().zip(&*branch.data).map(|(x, branch)| x + branch).collect();
        let dnormed = mixing.backward(&cx, &mut plain_grads, mixing_cache, tensor(&cx, shape, &dy));
        let branch_dx = norm.backward(&cx, &mut plain_grads, norm_cache, dnormed);
        let plain_dx: Vec<f64> = dy.iter().zip(&*branch_dx.data).map(|(dy, branch)| dy + branch).collect();

        assert_close(y.data, &plain_y, "y");
        assert_close(dx.data, &plain_dx, "dx");
        assert_close(&grads, &plain_grads, "gradients");
    }
}

#[test]
fn a_sample_takes_a_branch_scaled_or_not_at_all() {
    for axis in [Axis::Token, Axis::Channel] {
        // no f32 is 0.4: the scale has to be that of an f64
        let [always, sometimes] = [0.0, 0.4].map(|drop_path| {
            let mut table = ParamTable::default();
            let (fused, ..) = residual(&mut table, axis, drop_path);
            let params = uniform(3, table.buffer_len());
            let arena = Arena::default();
            let cx = Cx::new(&params, &arena, train());
            let (y, _) = fused.forward(&cx, None, tensor(&cx, [N, B, D], &uniform(4, N * B * D)));
            y.data.to_vec()
        });
        let x = uniform(4, N * B * D);
        let sample_branch = |y: &[f64], j: usize| -> Vec<f64> {
            let branch: Vec<f64> = y.iter().zip(&x).map(|(y, x)| y - x).collect();
            branch.chunks_exact(D).skip(j).step_by(B).flatten().copied().collect()
        };
        let dropped = (0..B).filter(|&j| {
            let (branch, taken) = (sample_branch(&always, j), sample_branch(&sometimes, j));
            let dropped = taken.iter().all(|&branch| branch == 0.0);
            if !dropped {
                assert_close(&taken, &branch.iter().map(|branch| branch / 0.6).collect::<Vec<_>>(), "branch");
            }
            dropped
        });
        assert!((1..B).contains(&dropped.count()), "some samples take the branch and some do not");
    }
}

#[test]
fn visible_token_mixing_is_full_mixing_of_zeros_in_place_of_hidden_tokens() {
    // three tokens of N for each sample, by token and then by sample
    let index = [[0, 1, 0, 0, 1, 0], [1, 2, 2, 1, 2, 2], [2, 3, 3, 3, 3, 3]].map(|token_row| token_row.map(f64::from));
    let (k, scale) = (index.len(), N as f64 / index.len() as f64);
    let index = index.as_flattened();
    let mut table = ParamTable::default();
    let mut scope = table.root();
    let norm = LayerNorm::new(&mut scope.at("norm"), D);
    let mixing = Mixing::new(&mut scope.at("mixing"), config(Axis::Token, 0.0));
    let fused = PreNormResidual::new(&mut scope, norm, mixing, 0.0);
    let params = uniform(3, table.buffer_len());
    let x = uniform(4, k * B * D);
    let arena = Arena::default();
    let cx = Cx::new(&params, &arena, train());

    let visible = Visible { index, b: B };
    let (y, _) = fused.forward(&cx, Some(visible), tensor(&cx, [k, B, D], &x));

    let (mut normed, _) = norm.forward(&cx, tensor(&cx, [k, B, D], &x));
    let mut full = cx.zeros([N, B, D]);
    let places: Vec<[usize; 3]> = (0..k).flat_map(|k| (0..B).map(move |j| [k, j, visible.token(k, j as u32)])).collect();
    for &[k, j, token] in &places {
        full.row(token, j).copy_from_slice(normed.row(k, j));
    }
    full.data.iter_mut().for_each(|x| *x *= scale);
    let (mut branch, _) = mixing.forward(&cx, full);
    let branch = places.iter().flat_map(|&[_, j, token]| branch.row(token, j).to_vec());
    let plain_y: Vec<f64> = x.iter().zip(branch).map(|(x, branch)| x + branch).collect();
    assert_close(y.data, &plain_y, "y");
}
