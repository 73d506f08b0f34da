//! One run-time choice of instruction set for every kernel, and the loop that elementwise kernels share.

use std::array;
use std::hint::black_box;

use pulp::{Scalar512b, WithSimd};
#[cfg(target_arch = "x86_64")]
use pulp::{Simd, x86::V3_512b};

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

/// Runs `pass` with vectors of 16 f32 or 8 f64 on every machine: a register of AVX-512, two of AVX2, or a loop over an array.
///
/// It is for passes that add up lanes. The number of lanes decides the order of a sum, and with it
/// the last bits.
#[inline(always)]
pub(crate) fn wide<P: WithSimd>(pass: P) -> P::Output {
    match arch() {
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V4(simd) => Simd::vectorize(simd, pass),
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V3(simd) => pass.with_simd(V3_512b(simd)),
        _ => pass.with_simd(Scalar512b),
    }
}

/// The best instruction set of this machine; in a debug build, the one that [`each_arch`] is at.
#[inline(always)]
pub(crate) fn arch() -> pulp::Arch {
    #[cfg(debug_assertions)]
    if let Some(arch) = tests_only::chosen() {
        return arch;
    }
    pulp::Arch::new()
}

#[cfg(debug_assertions)]
pub use tests_only::each_arch;

#[cfg(debug_assertions)]
mod tests_only {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, PoisonError};

    /// 1 + the place in `all()` of what all threads use; 0 for the best.
    static CHOSEN: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn chosen() -> Option<pulp::Arch> {
        match CHOSEN.load(Ordering::Relaxed) {
            0 => None,
            place => all().nth(place - 1),
        }
    }

    /// Instruction sets of this machine, best first.
    fn all() -> impl Iterator<Item = pulp::Arch> {
        #[cfg(target_arch = "x86_64")]
        let all = [pulp::x86::V4::try_new().map(pulp::Arch::V4), pulp::x86::V3::try_new().map(pulp::Arch::V3)];
        #[cfg(not(target_arch = "x86_64"))]
        let all = [Some(pulp::Arch::new())];
        all.into_iter().flatten().chain([pulp::Arch::Scalar])
    }

    /// For tests, so in debug builds only. Calls `test` once for each instruction set of this
    /// machine, with its name; all threads use that set meanwhile. Two calls wait for one another.
    pub fn each_arch(mut test: impl FnMut(&'static str)) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                CHOSEN.store(0, Ordering::Relaxed);
            }
        }
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let _reset = Reset;
        for place in 1..=all().count() {
            CHOSEN.store(place, Ordering::Relaxed);
            test(super::name());
        }
    }
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
