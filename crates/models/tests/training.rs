//! Training small models through the engine: what may not change the result does not, and what should be learned is.

use std::f64::consts::LN_2;

use nids_kernels::{Arena, Key};
use nids_models::{MixerConfig, VaeLatent};
use nids_nn::engine::{Cut, Engine, Loss};
use nids_nn::gradcheck::max_scaled_difference;
use nids_nn::{Activation, Cx, Gemm, Mode, Prepared};

mod task;
use task::{Model, Task};

const MIXER: MixerConfig = MixerConfig {
    dim: 12,
    depth: 3,
    token_hidden: 9,
    channel_hidden: 10,
    n_registers: 1,
    activation: Activation::Gelu,
    dropout: 0.2,
    drop_path: 0.4,
};

/// With products large enough for bfloat16, and no number of channels even.
const WIDE: MixerConfig = MixerConfig { dim: 27, token_hidden: 20, channel_hidden: 18, ..MIXER };

const PLAIN: MixerConfig = MixerConfig { dropout: 0.0, drop_path: 0.0, ..MIXER };

#[test]
fn no_cut_of_a_batch_changes_its_gradient() {
    for task in Task::<f64>::every_model(&MIXER, 5, 24) {
        cuts_agree(&task);
    }
}

fn cuts_agree(task: &Task<f64>) {
    let (loss, whole) = task.gradient(Cut { shard: 24, groups: 1 }, &[24]);
    for (shard, groups) in [(1, 1), (2, 3), (5, 3), (7, 2), (64, 16)] {
        for micro_batches in [&[24][..], &[10, 14], &[1, 20, 3], &[6; 4], &[1; 24]] {
            let (other_loss, other) = task.gradient(Cut { shard, groups }, micro_batches);
            let difference = max_scaled_difference(&other, &whole);
            let what = format!("shards of {shard}, {groups} groups, micro-batches {micro_batches:?}");
            assert!(difference < 1e-12, "{what}: off by {difference:.1e} of the largest");
            let is_near = |found: f64, wanted: f64| (found - wanted).abs() <= 1e-12 * wanted;
            let is_same = is_near(other_loss.total, loss.total) && is_near(other_loss.term, loss.term);
            assert!(is_same, "{what}: {other_loss:?}, not {loss:?}");
        }
    }
}

/// Wider than a vector, and no whole number of them.
const BROAD: MixerConfig = MixerConfig { dim: 83, token_hidden: 17, channel_hidden: 70, ..MIXER };

#[cfg(debug_assertions)]
#[test]
fn every_instruction_set_trains_and_infers_to_the_same_bits() {
    const B: usize = 7;
    for mixer in [MIXER, WIDE, BROAD, MixerConfig { activation: Activation::Tanh, ..MIXER }] {
        for task in Task::<f32>::every_model(&mixer, 17, 14).filter(|task| task.gemm != Gemm::OpenBlas) {
            let mut first = None;
            nids_kernels::each_arch(|name| {
                let (params, loss) = task.train(1, Cut { shard: 5, groups: 2 }, 3, |_| ());
                let mut bits: Vec<u64> =
                    params.iter().map(|x| x.to_bits().into()).chain([loss.total, loss.term].map(f64::to_bits)).collect();
                if let Model::Classifier(classifier) | Model::Student(classifier, ..) = &task.model {
                    let (arena, prepared) = (Arena::default(), Prepared::of(&task.table, task.gemm, &params));
                    let cx = Cx::new(&params, &arena, Mode::Eval).with(task.gemm, Some(&prepared));
                    let x = cx.alloc(B * task.width);
                    x.copy_from_slice(&task.x[..B * task.width]);
                    bits.extend(classifier.infer(&cx, B, x).data.iter().map(|x| u64::from(x.to_bits())));
                }
                let wanted = first.get_or_insert_with(|| bits.clone());
                let differ = bits.iter().zip(&*wanted).filter(|(found, wanted)| found != wanted).count();
                assert!(
                    bits == *wanted,
                    "{name}, {:?}, width {}: {differ} of {} numbers differ",
                    task.gemm,
                    mixer.dim,
                    bits.len()
                );
            });
        }
    }
}

#[test]
fn bfloat16_gives_a_gradient_within_its_rounding() {
    let cut = Cut { shard: 5, groups: 2 };
    let (loss, exact) = Task::<f64>::new(&WIDE, 17, 24).gradient(cut, &[24]);
    let task = Task::<f32> { gemm: Gemm::Bf16, ..Task::new(&WIDE, 17, 24) };
    let (rounded_loss, rounded) = task.gradient(cut, &[24]);
    let difference = max_scaled_difference(&rounded, &exact);
    assert!((1e-4..2e-2).contains(&difference), "off by {difference:.1e} of the largest");
    assert!((rounded_loss.total - loss.total).abs() < 2e-2 * loss.total, "{rounded_loss:?}, not {loss:?}");
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let wide = Task { gemm: Gemm::Bf16, ..Task::new(&WIDE, 17, 40) };
    for task in Task::<f32>::every_model(&MIXER, 5, 40).chain([wide]) {
        let [one, two, four, eight] = [1, 2, 4, 8].map(|threads| {
            let (params, loss) = task.train(threads, Cut { shard: 3, groups: 4 }, 50, |_| ());
            let params: Vec<u32> = params.iter().map(|value| value.to_bits()).collect();
            (params, [loss.total, loss.term].map(f64::to_bits))
        });
        assert!(one == two && one == four && one == eight, "{:?}", task.gemm);
    }
}

#[test]
fn memory_is_settled_after_the_first_step() {
    // sizes at which chunks have little room to spare, so that a pass that needs more than the first one shows
    let mixer = MixerConfig { dim: 64, token_hidden: 32, channel_hidden: 64, ..MIXER };
    let mut grew = Vec::new();
    for shard in [8, 9, 21, 22, 23, 32] {
        for task in Task::<f32>::every_model(&mixer, 15, 2 * shard) {
            let mut held = Vec::new();
            task.train(1, Cut { shard, groups: 1 }, 20, |engine| held.push(engine.memory_bytes()));
            if held.iter().any(|&bytes| bytes != held[0]) {
                grew.push((shard, task.gemm, held));
            }
        }
    }
    assert!(grew.is_empty(), "{grew:?}");
}

#[test]
fn a_zero_head_starts_at_ln_2() {
    for (task, head) in [(Task::<f64>::new(&MIXER, 5, 24), "classifier."), (Task::replaced(&MIXER, 24), "heads.")] {
        let mut params = task.table.init::<f64>(3);
        for spec in task.table.specs().iter().filter(|spec| spec.name.starts_with(head)) {
            spec.param.of_mut::<f64>(&mut params).fill(0.0);
        }
        let mut engine = Engine::new(&task.table, 1, Gemm::default(), Cut { shard: 5, groups: 2 }).unwrap();
        let mut loss = Loss::default();
        engine.accumulate(&task, &params, Key::new(4), &mut task.table.zeros(), &mut loss, 0, &task.samples());
        let loss = loss.total;
        assert!((loss - LN_2).abs() < 1e-12, "{head}: {loss}");
    }
}

#[test]
fn one_batch_is_learned_by_heart() {
    let task = Task::<f32>::new(&PLAIN, 5, 24);
    let (_, loss) = task.train(2, Cut { shard: 3, groups: 4 }, 150, |_| ());
    assert!(loss.total < 0.01, "{loss:?}");
}

#[test]
fn members_learn_one_batch_by_heart() {
    let task = Task::<f32>::ensemble(&PLAIN, 5, 24);
    let (_, loss) = task.train(2, Cut { shard: 3, groups: 4 }, 150, |_| ());
    assert!(loss.total < 0.01, "{loss:?}");
}

#[test]
fn an_autoencoder_learns_one_batch_by_heart() {
    for latent in [VaeLatent::Token, VaeLatent::Pooled] {
        let task = Task::<f32>::autoencoder(&PLAIN, latent, 24);
        let cut = Cut { shard: 3, groups: 4 };
        let ((_, first), (_, last)) = (task.train(2, cut, 1, |_| ()), task.train(2, cut, 400, |_| ()));
        // what is left is mostly what the KL divergence asks for the numbers that z must carry
        assert!(last.total < 0.4 * first.total, "{latent:?}: {last:?}, at first {first:?}");
    }
}

#[test]
fn a_pass_without_caches_gives_the_same_logits() {
    // wide enough for several strips of both MLPs, and no size a multiple of a vector
    let mixer = MixerConfig { dim: 70, token_hidden: 130, channel_hidden: 150, ..MIXER };
    for task in Task::<f64>::every_backend(&mixer, 9, 7).into_iter().chain([Task::ensemble(&mixer, 9, 7)]) {
        let params = task.table.init::<f64>(3);
        let prepared = Prepared::of(&task.table, task.gemm, &params);
        let arena = Arena::default();
        let cx = Cx::new(&params, &arena, Mode::Eval).with(task.gemm, Some(&prepared));
        let input = || {
            let x = cx.alloc(task.x.len());
            x.copy_from_slice(&task.x);
            x
        };
        let Model::Classifier(classifier) = &task.model else { unreachable!("a task of classifiers") };
        let (with_caches, _) = classifier.forward(&cx, 7, input());
        let without = classifier.infer(&cx, 7, input());
        let difference = max_scaled_difference(without.data, with_caches.data);
        assert!(difference < 1e-12, "{:?}: off by {difference:.1e}", task.gemm);
    }
}
