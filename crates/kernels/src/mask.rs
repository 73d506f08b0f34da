//! Dropout masks, drawn where they are used.

use crate::philox::{self, Key};
use crate::{Real, simd::simd};

/// Elements of a row whose mask is drawn together: one batch of Philox lanes, 16 bits an element.
const CHUNK: usize = 64;
/// Elements drawn from two words of all lanes.
const PAIR: usize = 4 * philox::LANES;

/// Where the multipliers of dropout come from: 0 for a dropped element, 1 / (1 - p) for a kept one.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'m, R> {
    /// Every element is kept as it is.
    Off,
    /// Drawn from a counter: the same wherever and whenever it is drawn.
    Keyed(Keyed<'m>),
    /// Given, one multiplier an element; how masks of another implementation are replayed.
    Given(&'m [R]),
}

/// A mask as a function of (key, site, sample, element).
#[derive(Clone, Copy, Debug)]
pub struct Keyed<'m> {
    /// Seed and step.
    pub key: Key,
    /// Which dropout of the network.
    pub site: u32,
    /// What identifies each sample of the shard; row `r` belongs to sample `r % samples.len()`.
    pub samples: &'m [u32],
    /// Probability of dropping, to 1 / 65536.
    pub p: f64,
}

impl<R: Real> Mask<'_, R> {
    /// Calls `apply(row, col, len, multipliers)` for runs of elements, none over the end of a row, that together cover the
    /// `[rows, cols]` matrix in order; `row` and `col` are those of the first element. A mask that is off has no multipliers.
    #[inline(always)]
    pub(crate) fn for_each_run(self, rows: usize, cols: usize, mut apply: impl FnMut(usize, usize, usize, Option<&[R]>)) {
        match self {
            // a plain loop: a closure on the way would be compiled without the instructions
            Mask::Off => {
                for row in 0..rows {
                    apply(row, 0, cols, None);
                }
            }
            Mask::Given(multipliers) => {
                assert_eq!(multipliers.len(), rows * cols, "one multiplier an element");
                for (row, multipliers) in multipliers.chunks_exact(cols).enumerate() {
                    apply(row, 0, cols, Some(multipliers));
                }
            }
            Mask::Keyed(keyed) => {
                let drop_below = (keyed.p * 65536.0).round() as u32;
                let keep = R::from_f64(65536.0 / (65536.0 - f64::from(drop_below)));
                let (b, chunks_per_row) = (keyed.samples.len(), cols.div_ceil(CHUNK));
                let mut multipliers = [[R::zero(); CHUNK]; 2];
                let mut place = Place { row: 0, outer: 0, sample: 0, chunk: 0 };
                let mut left = rows * chunks_per_row;
                while left > 0 {
                    // past the last chunk the second one is drawn in vain
                    let places = [place, place.next(b, chunks_per_row)];
                    let words = philox::lanes(
                        keyed.key,
                        places.map(|at| {
                            let block = ((at.outer * chunks_per_row + at.chunk) * philox::LANES) as u32;
                            [block, keyed.samples[at.sample], keyed.site, 0]
                        }),
                    );
                    for (words, out) in words.iter().zip(&mut multipliers) {
                        for (pair, out) in words.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<PAIR>().0) {
                            // two words beside each other fill a vector: its low halves make 16 elements, its high halves 16
                            let mut bits = [0_u32; PAIR / 2];
                            for lane in 0..philox::LANES {
                                let both = (pair[0][lane] & philox::LOW) | (pair[1][lane] << 32);
                                bits[2 * lane] = both as u32;
                                bits[2 * lane + 1] = (both >> 32) as u32;
                            }
                            let (low, high) = out.split_at_mut(PAIR / 2);
                            for i in 0..PAIR / 2 {
                                low[i] = if bits[i] & 0xffff < drop_below { R::zero() } else { keep };
                                high[i] = if bits[i] >> 16 < drop_below { R::zero() } else { keep };
                            }
                        }
                    }
                    for (at, multipliers) in places.iter().zip(&multipliers).take(left) {
                        let col = at.chunk * CHUNK;
                        let len = CHUNK.min(cols - col);
                        apply(at.row, col, len, Some(&multipliers[..len]));
                    }
                    place = places[1].next(b, chunks_per_row);
                    left = left.saturating_sub(2);
                }
            }
        }
    }

    /// The multipliers themselves, written to `out: [rows, cols]`.
    ///
    /// # Panics
    /// If `cols` is 0, or the mask is given and has another length.
    pub fn write(self, cols: usize, out: &mut [R]) {
        R::write_mask(self, cols, out);
    }
}

pub(crate) fn write<R: Real>(mask: Mask<'_, R>, cols: usize, out: &mut [R]) {
    let rows = out.len() / cols;
    simd(
        #[inline(always)]
        || {
            mask.for_each_run(
                rows,
                cols,
                #[inline(always)]
                |row, col, len, multipliers| {
                    let out = &mut out[row * cols + col..][..len];
                    match multipliers {
                        Some(multipliers) => out.copy_from_slice(multipliers),
                        None => out.fill(R::one()),
                    }
                },
            );
        },
    );
}

/// Where a chunk lies: its row, what that row is made of, and its place in the row.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    outer: usize,
    sample: usize,
    chunk: usize,
}

impl Place {
    /// The chunk after this one, found without a division.
    #[inline(always)]
    fn next(self, b: usize, chunks_per_row: usize) -> Self {
        if self.chunk + 1 < chunks_per_row {
            Self { chunk: self.chunk + 1, ..self }
        } else if self.sample + 1 < b {
            Self { row: self.row + 1, sample: self.sample + 1, chunk: 0, ..self }
        } else {
            Self { row: self.row + 1, outer: self.outer + 1, sample: 0, chunk: 0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, each_arch, sources, with_mask};

    fn drawn(samples: &[u32], p: f64, outer: usize, cols: usize) -> Vec<f32> {
        let mut out = vec![0.0; outer * samples.len() * cols];
        Mask::Keyed(Keyed { key: Key::new(1).child(2), site: 3, samples, p }).write(cols, &mut out);
        out
    }

    proptest! {
        #[test]
        fn every_source_writes_its_multipliers(source in sources(), rows in 0..8_usize, cols in 1..200_usize) {
            each_arch(|| {
                with_mask::<f32>(source, &[3, 8, 1], rows, cols, |mask, want| {
                    let mut got = vec![f32::NAN; rows * cols];
                    mask.write(cols, &mut got);
                    assert_close(&got, want);
                });
            });
        }
    }

    #[test]
    fn a_sample_keeps_its_mask_whatever_shard_it_is_in() {
        let cols = 37;
        let together = drawn(&[4, 9, 2], 0.3, 5, cols);
        let alone = drawn(&[9], 0.3, 5, cols);
        for outer in 0..5 {
            let row = outer * 3 + 1;
            assert_eq!(together[row * cols..][..cols], alone[outer * cols..][..cols]);
        }
    }

    #[test]
    fn drops_the_share_asked_for_and_keeps_the_mean() {
        for p in [0.1, 0.5, 0.9] {
            let mask = drawn(&[0, 1, 2, 3], p, 100, 256);
            let n = mask.len() as f64;
            let dropped = mask.iter().filter(|&&m| m == 0.0).count() as f64 / n;
            assert!((dropped - p).abs() < 4.0 * (p * (1.0 - p) / n).sqrt() + 1e-5, "{dropped} of {p}");
            assert!((f64::from(mask.iter().sum::<f32>()) / n - 1.0).abs() < 0.05);
        }
    }
}
