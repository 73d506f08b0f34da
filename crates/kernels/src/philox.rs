//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random numbers as a function of
//! where they are used, so that masks do not depend on which thread drew them or in what order.

use std::convert::Infallible;

use rand_core::TryRng;

const MUL: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;
/// Counters computed side by side: a vector of u32 in AVX2.
pub(crate) const LANES: usize = 8;

/// What a family of random numbers is keyed by: a seed, and what it is drawn for (a stage's stream, a step).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u32; 2]);

impl Key {
    /// The root key of a seed.
    pub fn new(seed: u64) -> Self {
        Self([seed as u32, (seed >> 32) as u32])
    }

    /// The key of a part of what `self` is for, such as step `index` of a training run.
    #[must_use]
    pub fn child(self, index: u64) -> Self {
        let [a, b, _, _] = block(self, [index as u32, (index >> 32) as u32, 0, u32::MAX]);
        Self([a, b])
    }

    /// The stream of random numbers at `(site, sample)`; feeds any distribution of `rand_distr`.
    pub fn stream(self, site: u32, sample: u32) -> Stream {
        Stream { key: self, counter: [0, sample, site, 0], words: [0; 4], left: 0 }
    }
}

/// One block of four words.
fn block(key: Key, counter: [u32; 4]) -> [u32; 4] {
    let lanes = lanes(key, counter);
    [lanes[0][0], lanes[1][0], lanes[2][0], lanes[3][0]]
}

/// The blocks of `counter`, `counter + 1`, ... (in the first word): word `w` of lane `l` is `[w][l]`.
#[inline(always)]
pub(crate) fn lanes(key: Key, counter: [u32; 4]) -> [[u32; LANES]; 4] {
    let mut c = counter.map(|word| [word; LANES]);
    for lane in 0..LANES {
        c[0][lane] = c[0][lane].wrapping_add(lane as u32);
    }
    let Key(mut k) = key;
    for _ in 0..ROUNDS {
        for lane in 0..LANES {
            let p0 = u64::from(MUL[0]) * u64::from(c[0][lane]);
            let p1 = u64::from(MUL[1]) * u64::from(c[2][lane]);
            let hi = [(p0 >> 32) as u32, (p1 >> 32) as u32];
            c[0][lane] = hi[1] ^ c[1][lane] ^ k[0];
            c[1][lane] = p1 as u32;
            c[2][lane] = hi[0] ^ c[3][lane] ^ k[1];
            c[3][lane] = p0 as u32;
        }
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// A sequential reader of Philox blocks.
#[derive(Clone, Debug)]
pub struct Stream {
    key: Key,
    counter: [u32; 4],
    words: [u32; 4],
    left: usize,
}

impl TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        if self.left == 0 {
            self.words = block(self.key, self.counter);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.left = 4;
        }
        self.left -= 1;
        Ok(self.words[3 - self.left])
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        rand_core::utils::next_u64_via_u32(self)
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        rand_core::utils::fill_bytes_via_next_word(dst, || self.try_next_u32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_test_vectors() {
        // Random123's kat_vectors, philox4x32 10
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, want) in cases {
            assert_eq!(block(Key(key), counter), want);
        }
    }

    #[test]
    fn lanes_are_consecutive_counters() {
        let key = Key::new(7).child(3);
        let wide = lanes(key, [u32::MAX - 2, 5, 6, 7]);
        for lane in 0..LANES as u32 {
            let narrow = block(key, [(u32::MAX - 2).wrapping_add(lane), 5, 6, 7]);
            for word in 0..4 {
                assert_eq!(wide[word][lane as usize], narrow[word]);
            }
        }
    }
}
