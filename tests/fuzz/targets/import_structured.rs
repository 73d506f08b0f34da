#![no_main]

use nids_fuzz::{check, structured::Pickle};

libfuzzer_sys::fuzz_target!(|file: Pickle| check::import(&file.bytes()));
