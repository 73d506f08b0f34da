//! One run-time choice of instruction set for every kernel.

/// Runs `kernel` compiled for the best instruction set of this machine.
///
/// Only code inlined into `kernel` gains from it, so bodies are `#[inline(always)]` and so is the closure:
/// `simd(#[inline(always)] || body(x))`.
#[inline(always)]
pub(crate) fn simd<T>(kernel: impl FnOnce() -> T) -> T {
    pulp::Arch::new().dispatch(kernel)
}

/// The instruction set that [`simd`] chose, for logs.
pub(crate) fn name() -> &'static str {
    match format!("{:?}", pulp::Arch::new()).split('(').next() {
        Some("V4") => "AVX-512",
        Some("V3") => "AVX2+FMA",
        Some("Neon" | "NeonFcma") => "NEON",
        _ => "portable",
    }
}
