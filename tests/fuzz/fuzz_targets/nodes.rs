#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podtrail_fuzz::nodes(data));
