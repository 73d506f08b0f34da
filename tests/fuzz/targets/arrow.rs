#![no_main]

libfuzzer_sys::fuzz_target!(init: nids_fuzz::quiet(), |bytes: &[u8]| nids_fuzz::check::arrow(bytes));
