//! The memory of one pass: handed out in order, taken back all at once.

use std::cell::{Cell, RefCell, RefMut};
use std::fmt;

use crate::{Buffer, Real};

/// Numbers in a cache line at least, so that no two allocations share one.
const LINE: usize = 16;
/// First chunk: 1 MiB of f32.
const FIRST_CHUNK: usize = 1 << 18;

/// A bump allocator for activations; one per worker.
///
/// Slices borrow the arena, so it cannot be reset while one lives:
///
/// ```compile_fail
/// let mut arena = nids_kernels::Arena::<f32>::default();
/// let x = arena.alloc(3);
/// arena.reset();
/// x[0] = 1.0; // still borrowed
/// ```
///
/// A slice starts with whatever the memory held before. Debug builds fill it with NaN, so that a
/// kernel that reads what it should have written is found.
#[derive(Default)]
pub struct Arena<R: Real> {
    chunks: RefCell<Vec<Buffer<R>>>,
    /// Numbers handed out of the last chunk.
    used: Cell<usize>,
    /// Numbers handed out of the chunks before it.
    before: Cell<usize>,
    scratch: RefCell<Buffer<R>>,
}

impl<R: Real> Arena<R> {
    /// A slice of `len` numbers that lives until [`Arena::reset`].
    ///
    /// # Panics
    /// If the memory asked for is larger than the address space.
    #[expect(clippy::mut_from_ref, reason = "every call hands out other memory")]
    pub fn alloc(&self, len: usize) -> &mut [R] {
        let padded = len.next_multiple_of(LINE);
        let mut chunks = self.chunks.borrow_mut();
        // never a chunk's `len` through `Deref`: a reference to the whole chunk would overlap the slices handed out
        let room = chunks.last().map(|chunk| chunk.capacity() - self.used.get());
        if room.is_none_or(|room| room < padded) {
            let size = chunks.last().map_or(FIRST_CHUNK, |chunk| chunk.capacity() * 2).max(padded);
            chunks.push(Buffer::zeros(size));
            self.before.set(self.before.get() + self.used.replace(0));
        }
        let start = self.used.get();
        self.used.set(start + padded);
        let chunk = chunks.last().expect("a chunk was pushed where there was none");
        // SAFETY: `start + padded <= chunk.capacity()`, all of it initialised; no other slice covers this range since `used` only grows until `reset`,
        // which takes `&mut self` and so outlives every slice; a chunk's memory does not move when the list of chunks grows.
        let slice = unsafe { std::slice::from_raw_parts_mut(chunk.as_ptr().add(start), len) };
        if cfg!(debug_assertions) {
            slice.fill(R::nan());
        }
        slice
    }

    /// Scratch of `len` numbers for one kernel, with unspecified content. It lasts as long as the
    /// returned guard.
    ///
    /// # Panics
    /// If the guard of an earlier call is still alive.
    pub fn scratch(&self, len: usize) -> RefMut<'_, [R]> {
        let mut scratch = self.scratch.borrow_mut();
        if scratch.len() < len {
            *scratch = Buffer::zeros(len);
        }
        RefMut::map(scratch, |scratch| &mut scratch[..len])
    }

    /// Takes every slice back. If the pass needed several chunks, one chunk of the size that it
    /// used replaces them, so that the next pass does not allocate.
    pub fn reset(&mut self) {
        let chunks = self.chunks.get_mut();
        if chunks.len() > 1 {
            chunks.clear();
            chunks.push(Buffer::zeros(self.before.get() + self.used.get()));
        }
        self.used.set(0);
        self.before.set(0);
    }

    /// Numbers that the arena holds memory for: for slices, and for scratch.
    pub fn sizes(&self) -> [usize; 2] {
        [self.chunks.borrow().iter().map(Buffer::capacity).sum(), self.scratch.borrow().len()]
    }

    /// Makes room for what another arena needed for the same pass. Every slice must have been taken back.
    pub fn reserve(&mut self, [slices, scratch]: [usize; 2]) {
        let [has_slices, has_scratch] = self.sizes();
        if has_slices < slices {
            self.reset();
            *self.chunks.get_mut() = vec![Buffer::zeros(slices)];
        }
        if has_scratch < scratch {
            *self.scratch.get_mut() = Buffer::zeros(scratch);
        }
    }

    /// Numbers that the arena holds memory for.
    pub fn capacity(&self) -> usize {
        self.sizes().iter().sum()
    }
}

impl<R: Real> fmt::Debug for Arena<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({} numbers)", self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_aligned_and_disjoint() {
        let arena = Arena::<f32>::default();
        let mut slices: Vec<_> = [0, 1, 17, 0, 300_000, 5].into_iter().map(|len| arena.alloc(len)).collect();
        for (i, slice) in slices.iter_mut().enumerate() {
            assert_eq!(slice.as_ptr() as usize % 64, 0);
            slice.fill(i as f32);
        }
        for (i, slice) in slices.iter().enumerate() {
            assert!(slice.iter().all(|&x| x.to_bits() == (i as f32).to_bits()));
        }
    }

    #[test]
    fn capacity_is_settled_after_one_pass() {
        let mut arena = Arena::<f32>::default();
        let pass = |arena: &Arena<f32>| (0..40).for_each(|_| arena.alloc(100_000).fill(0.0));
        pass(&arena);
        arena.reset();
        let settled = arena.capacity();
        for _ in 0..3 {
            pass(&arena);
            arena.reset();
        }
        assert_eq!(arena.capacity(), settled);
        assert_eq!(settled, 40 * 100_000, "no more than a pass uses");
    }
}
