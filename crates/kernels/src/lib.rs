//! Slices of numbers in, slices of numbers out: GEMM, fused passes, counter-based randomness.
