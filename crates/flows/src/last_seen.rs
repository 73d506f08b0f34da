//! What came last, by key: columns of flows repeat their cells.

/// The last key in each of `N` slots, a power of two, and what belongs to it.
#[derive(Debug, Clone)]
pub(crate) struct LastSeen<V, const N: usize>([(u64, V); N]);

impl<V: Copy + Default, const N: usize> LastSeen<V, N> {
    /// `none` is a key that nobody asks for.
    pub(crate) fn new(none: u64) -> Self {
        LastSeen([(none, V::default()); N])
    }

    /// The slot of a key: the key that it was last given, and what belongs to that.
    pub(crate) fn slot(&mut self, key: u64) -> &mut (u64, V) {
        // the golden ratio spreads neighbours, as whole numbers of f64 are, whose low bits are all 0
        &mut self.0[(key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - N.trailing_zeros())) as usize]
    }
}
