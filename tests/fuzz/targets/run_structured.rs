#![no_main]

use nids_fuzz::{check, structured::Settings};

libfuzzer_sys::fuzz_target!(|settings: Settings| check::run(&settings.bytes()));
