//! What the tests of every kernel share: inputs, the comparison with a naive f64 twin, and the twin of a mask.

use crate::{Key, Keyed, Mask, Real, philox, simd};

/// Runs `test` with every instruction set that this machine has.
pub(crate) fn each_arch(mut test: impl FnMut()) {
    simd::each_arch(|_| test());
}

/// Asserts that `pass` gives the same bits with every instruction set that this machine has.
#[track_caller]
pub(crate) fn assert_same_bits<R: Real>(mut pass: impl FnMut() -> Vec<Vec<R>>) {
    let mut first: Option<Vec<Vec<u64>>> = None;
    simd::each_arch(|name| {
        let bits = |x: Vec<R>| x.into_iter().map(|x| Real::to_f64(x).to_bits()).collect();
        let found: Vec<Vec<u64>> = pass().into_iter().map(bits).collect();
        let wanted = first.get_or_insert_with(|| found.clone());
        let differ = found.iter().zip(&*wanted).map(|(found, wanted)| found.iter().zip(wanted).filter(|(a, b)| a != b).count());
        let differ: Vec<usize> = differ.collect();
        assert!(found == *wanted, "{name}: {differ:?} numbers differ from the first instruction set's");
    });
}

/// Numbers in [-1, 1) without a pattern, each exact in f32 so that both instantiations of a kernel see the same inputs.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 44) as f64 / f64::from(1 << 19) - 1.0
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn cast<R: Real>(x: &[f64]) -> Vec<R> {
    x.iter().map(|&x| R::from_f64(x)).collect()
}

/// Asserts |got - want| <= tolerance · (1 + |want|). Inputs are of order one and sums have at most some hundred terms, so that
/// rounding stays within some tens of epsilon: 1e-5 in f32 (epsilon 1.2e-7, the GELU polynomial 2.5e-7), 1e-12 in f64.
#[track_caller]
pub(crate) fn assert_close<R: Real>(got: &[R], want: &[f64]) {
    let tolerance = if size_of::<R>() == 4 { 1e-5 } else { 1e-12 };
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (Real::to_f64(*got) - want).abs();
        assert!(error <= tolerance * (1.0 + want.abs()), "element {i}: {got}, not {want}");
    }
}

/// The samples of a shard of `b` that the bits of `bits` choose.
pub(crate) fn subset(b: usize, bits: u32) -> Vec<u32> {
    (0..b as u32).filter(|i| bits >> i & 1 == 1).collect()
}

/// The three sources of a mask.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    Off,
    Given,
    Keyed(f64),
}

pub(crate) fn sources() -> impl proptest::strategy::Strategy<Value = Source> {
    proptest::sample::select(&[Source::Off, Source::Given, Source::Keyed(0.0), Source::Keyed(0.1), Source::Keyed(0.5)][..])
}

/// Runs `test` with a mask from `source` for `[rows, cols]` and with its multipliers drawn one by one.
pub(crate) fn with_mask<R: Real>(
    source: Source,
    samples: &[u32],
    rows: usize,
    cols: usize,
    test: impl FnOnce(Mask<'_, R>, &[f64]),
) {
    let given = numbers(99, rows * cols);
    match source {
        Source::Off => test(Mask::Off, &vec![1.0; rows * cols]),
        Source::Given => test(Mask::Given(&cast(&given)), &given),
        Source::Keyed(p) => {
            let keyed = Keyed { key: Key::new(5).child(1), site: 3, samples, p };
            let draw = |i| drawn(keyed, i / cols, i % cols, cols);
            test(Mask::Keyed(keyed), &(0..rows * cols).map(draw).collect::<Vec<_>>());
        }
    }
}

/// One multiplier of a keyed mask: 64 elements of a row share 8 counters; word `w` of counter `l` holds element
/// `32 (w / 2) + 2 l + w % 2` in its low half and the one 16 further on in its high half.
fn drawn(keyed: Keyed<'_>, row: usize, col: usize, cols: usize) -> f64 {
    let (outer, sample) = (row / keyed.samples.len(), keyed.samples[row % keyed.samples.len()]);
    let (chunk, i) = (outer * cols.div_ceil(64) + col / 64, col % 64);
    let (pair, half, lane) = (i / 32, i % 32 / 16, i % 16);
    let words = philox::tests::twin(keyed.key, [(chunk * 8 + lane / 2) as u32, sample, keyed.site, 0]);
    let bits = words[2 * pair + lane % 2] >> (16 * half) & 0xffff;
    let drop_below = (keyed.p * 65536.0).round();
    if f64::from(bits) < drop_below { 0.0 } else { 1.0 / (1.0 - drop_below / 65536.0) }
}
