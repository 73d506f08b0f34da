//! One run-time choice of instruction set for every kernel, and the loop that elementwise kernels share.

use std::array;
use std::hint::black_box;

use crate::Real;

/// Numbers side by side: a vector of f32 in AVX-512, two in AVX2.
pub(crate) const LANES: usize = 16;

/// Runs `kernel` compiled for the best instruction set of this machine.
///
/// Only code inlined into `kernel` gains from it, so bodies are `#[inline(always)]` and so is the closure:
/// `simd(#[inline(always)] || body(x))`.
#[inline(always)]
pub(crate) fn simd<T>(kernel: impl FnOnce() -> T) -> T {
    arch().dispatch(kernel)
}

/// The best instruction set of this machine; a test may choose another one for its thread.
#[inline(always)]
pub(crate) fn arch() -> pulp::Arch {
    #[cfg(test)]
    if let Some(arch) = crate::testing::ARCH.get() {
        return arch;
    }
    pulp::Arch::new()
}

/// outs[..][i] = f(outs[..][i], ins[..][i]) for every i; all slices are equally long. The loop of every elementwise kernel.
///
/// It goes in blocks of a size known to the compiler that are loaded whole before anything is stored: no remainder loop, and no
/// check at run time for slices that overlap, both of which cost more than the work itself on rows of 64 numbers. A block is
/// made into vectors; left alone, LLVM vectorises the loop over blocks instead, with gathers, at a tenth of the speed.
#[inline(always)]
pub(crate) fn update<R: Real, const O: usize, const I: usize>(
    mut outs: [&mut [R]; O],
    ins: [&[R]; I],
    f: impl Fn([R; O], [R; I]) -> [R; O],
) {
    let len = outs[0].len();
    assert!(outs.iter().all(|x| x.len() == len) && ins.iter().all(|x| x.len() == len));
    let mut at = 0;
    while at + LANES <= len {
        block::<R, LANES, O, I>(at, &mut outs, ins, &f);
        at += LANES;
        black_box(()); // a loop with something opaque in it is not vectorised
    }
    while at + 4 <= len {
        block::<R, 4, O, I>(at, &mut outs, ins, &f);
        at += 4;
    }
    while at < len {
        block::<R, 1, O, I>(at, &mut outs, ins, &f);
        at += 1;
    }
}

#[inline(always)]
fn block<R: Real, const W: usize, const O: usize, const I: usize>(
    at: usize,
    outs: &mut [&mut [R]; O],
    ins: [&[R]; I],
    f: &impl Fn([R; O], [R; I]) -> [R; O],
) {
    let mut x: [[R; W]; O] = array::from_fn(
        #[inline(always)]
        |n| array::from_fn(|i| outs[n][at..at + W][i]),
    );
    let y: [[R; W]; I] = array::from_fn(
        #[inline(always)]
        |n| array::from_fn(|i| ins[n][at..at + W][i]),
    );
    for i in 0..W {
        let updated = f(array::from_fn(|n| x[n][i]), array::from_fn(|n| y[n][i]));
        for n in 0..O {
            x[n][i] = updated[n];
        }
    }
    for n in 0..O {
        outs[n][at..at + W].copy_from_slice(&x[n]);
    }
}

/// The instruction set that [`simd`] chose, for logs.
pub(crate) fn name() -> &'static str {
    match format!("{:?}", arch()).split('(').next() {
        Some("V4") => "AVX-512",
        Some("V3") => "AVX2+FMA",
        Some("Neon" | "NeonFcma") => "NEON",
        _ => "portable",
    }
}
