//! Philox4x32-7 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random numbers as a function of
//! where they are used, so that masks do not depend on which thread drew them or in what order. Seven rounds are the fewest that
//! pass BigCrush (table 2 there); ten would make masks cost a third more.

use std::convert::Infallible;

use rand_core::TryRng;

const MUL: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 7;
/// The half of a lane that holds a word.
pub(crate) const LOW: u64 = u32::MAX as u64;
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
    let [lanes] = lanes(key, [counter]);
    lanes.map(|word| word[0] as u32)
}

/// For each of `G` counters, the blocks of it and its successors (in the first word): word `w` of lane `l` is the low half of
/// `[w][l]`; the high half holds rubbish.
///
/// A round waits for the one before, so two counters side by side take little longer than one. A word sits in the low half of a
/// u64: a 32 x 32 -> 64 bit product reads low halves only, so a round is two products, two shifts and four exclusive ors, with no
/// packing between.
#[inline(always)]
pub(crate) fn lanes<const G: usize>(key: Key, counters: [[u32; 4]; G]) -> [[[u64; LANES]; 4]; G] {
    let mut c = counters.map(|counter| counter.map(|word| [u64::from(word); LANES]));
    for c in &mut c {
        for lane in 0..LANES {
            c[0][lane] += lane as u64;
        }
    }
    let Key(mut k) = key;
    for _ in 0..ROUNDS {
        for c in &mut c {
            for lane in 0..LANES {
                let p0 = u64::from(MUL[0]) * (c[0][lane] & LOW);
                let p1 = u64::from(MUL[1]) * (c[2][lane] & LOW);
                c[0][lane] = (p1 >> 32) ^ c[1][lane] ^ u64::from(k[0]);
                c[1][lane] = p1;
                c[2][lane] = (p0 >> 32) ^ c[3][lane] ^ u64::from(k[1]);
                c[3][lane] = p0;
            }
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
pub(crate) mod tests {
    use super::*;

    /// The algorithm as the paper writes it.
    pub(crate) fn twin(Key([mut k0, mut k1]): Key, mut c: [u32; 4]) -> [u32; 4] {
        for _ in 0..7 {
            let (p0, p1) = (u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57);
            c = [(p1 >> 32) as u32 ^ c[1] ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k1, p0 as u32];
            (k0, k1) = (k0.wrapping_add(0x9E37_79B9), k1.wrapping_add(0xBB67_AE85));
        }
        c
    }

    #[test]
    fn published_test_vectors() {
        // Random123's kat_vectors, philox4x32 7
        let cases = [
            ([0; 4], [0; 2], [0x5f6f_b709, 0x0d89_3f64, 0x4f12_1f81, 0x4f73_0a48]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x5207_ddc2, 0x4516_5e59, 0x4d8e_e751, 0x8c52_f662]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0x4dfc_caba, 0x190a_87f0, 0xc473_62ba, 0xb6b5_242a],
            ),
        ];
        for (counter, key, want) in cases {
            assert_eq!(block(Key(key), counter), want);
            assert_eq!(twin(Key(key), counter), want);
        }
    }

    #[test]
    fn a_stream_reads_consecutive_blocks() {
        let key = Key::new(0x1234_5678_9abc_def0).child(11);
        let mut stream = key.stream(6, 7);
        for counter in 0..3 {
            let Ok(words) = (0..4).map(|_| stream.try_next_u32()).collect::<Result<Vec<_>, _>>();
            assert_eq!(words, twin(key, [counter, 7, 6, 0]));
        }
    }

    #[test]
    fn lanes_are_consecutive_counters() {
        let key = Key::new(7).child(3);
        let [_, wide] = lanes(key, [[1, 2, 3, 4], [u32::MAX - 2, 5, 6, 7]]);
        for lane in 0..LANES as u32 {
            let narrow = block(key, [(u32::MAX - 2).wrapping_add(lane), 5, 6, 7]);
            for word in 0..4 {
                assert_eq!(wide[word][lane as usize] as u32, narrow[word]);
            }
        }
    }
}
