//! Zeroed memory aligned to a cache line.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::Real;

/// Bytes of a cache line and of an AVX-512 register.
const ALIGN: usize = 64;

/// Bytes of a huge page. It takes one entry of the TLB, where pages of 4 KiB take 512.
const HUGE: usize = 2 << 20;

/// A boxed slice of numbers that starts on a cache line; parameters, gradients and moments live in these.
pub struct Buffer<R: Real> {
    ptr: NonNull<R>,
    len: usize,
}

impl<R: Real> Buffer<R> {
    /// `len` zeros.
    ///
    /// # Panics
    /// If that is larger than the address space.
    pub fn zeros(len: usize) -> Self {
        if len == 0 {
            return Self { ptr: NonNull::dangling(), len };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout has a size above zero.
        let raw = unsafe { if layout.align() == HUGE { alloc(layout) } else { alloc_zeroed(layout) } };
        let Some(ptr) = NonNull::new(raw.cast::<R>()) else { handle_alloc_error(layout) };
        if layout.align() == HUGE {
            // before anything is written, so that the pages come huge; whether they do is up to the system
            #[cfg(target_os = "linux")]
            // SAFETY: advice on memory that was just allocated, all of it ours.
            unsafe {
                libc::madvise(raw.cast(), layout.size(), libc::MADV_HUGEPAGE);
            }
            // SAFETY: `layout.size()` bytes were just allocated.
            unsafe { raw.write_bytes(0, layout.size()) }
        }
        Self { ptr, len }
    }

    fn layout(len: usize) -> Layout {
        let layout = Layout::array::<R>(len).and_then(|layout| {
            let large = layout.size() >= HUGE / 2;
            layout.align_to(if large { HUGE } else { ALIGN }).map(|layout| if large { layout.pad_to_align() } else { layout })
        });
        layout.expect("a buffer is smaller than the address space")
    }

    /// The length, without a reference to the numbers.
    pub(crate) fn capacity(&self) -> usize {
        self.len
    }

    pub(crate) fn as_ptr(&self) -> *mut R {
        self.ptr.as_ptr()
    }
}

impl<R: Real> Deref for Buffer<R> {
    type Target = [R];

    fn deref(&self) -> &[R] {
        // SAFETY: `ptr` points to `len` numbers, initialised (a `Real` is f32 or f64, whose zero bytes are 0.0) and
        // owned by self; dangling, but aligned, only where len is 0.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<R: Real> DerefMut for Buffer<R> {
    fn deref_mut(&mut self) -> &mut [R] {
        // SAFETY: as in `deref`, and `&mut self` makes the borrow unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl<R: Real> Drop for Buffer<R> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `zeros` with this very layout, and not freed before.
            unsafe { dealloc(self.ptr.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

impl<R: Real> Default for Buffer<R> {
    fn default() -> Self {
        Self::zeros(0)
    }
}

impl<R: Real> Clone for Buffer<R> {
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl<R: Real> fmt::Debug for Buffer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} numbers)", self.len)
    }
}

// SAFETY: a buffer owns its memory as a Box<[R]> does, and R is Send.
unsafe impl<R: Real> Send for Buffer<R> {}
// SAFETY: shared access only reads, and R is Sync.
unsafe impl<R: Real> Sync for Buffer<R> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_zeroed_aligned_and_copied_deeply() {
        for len in [0, 1, 17, 100, 140_000] {
            let mut buffer = Buffer::<f64>::zeros(len);
            assert!(len == 0 || (buffer.as_ptr() as usize).is_multiple_of(64));
            assert_eq!(buffer[..], vec![0.0; len]);
            let copy = buffer.clone();
            buffer.fill(1.0);
            assert_eq!(copy[..], vec![0.0; len]);
            assert_eq!(buffer[..], vec![1.0; len]);
        }
    }
}
