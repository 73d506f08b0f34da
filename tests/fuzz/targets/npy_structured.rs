#![no_main]

use nids_fuzz::{check, structured::Npy};

libfuzzer_sys::fuzz_target!(|file: Npy| check::npy(&file.bytes()));
