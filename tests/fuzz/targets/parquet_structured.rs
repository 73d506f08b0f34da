#![no_main]

use nids_fuzz::{check, structured::Table};

libfuzzer_sys::fuzz_target!(init: nids_fuzz::quiet(), |file: Table| check::parquet(&file.bytes()));
