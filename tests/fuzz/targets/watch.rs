#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nids_fuzz::check::watch(bytes));
