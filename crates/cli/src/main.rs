//! The `nids-mixer` binary.
#![forbid(unsafe_code)]

fn main() {}
