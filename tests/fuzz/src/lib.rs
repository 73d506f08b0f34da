//! What every fuzz target does with its input.
#![forbid(unsafe_code)]

pub mod check;
pub mod columnar;
pub mod structured;

/// The Parquet decoder panics on some damaged files, which the reader catches and reports: libFuzzer should not count those.
/// What nobody catches still ends the target.
pub fn quiet() {
    std::panic::set_hook(Box::new(|_| ()));
}
