#![no_main]

use nids_fuzz::{check, structured::Weights};

libfuzzer_sys::fuzz_target!(|file: Weights| check::weights(&file.bytes()));
