#![no_main]

libfuzzer_sys::fuzz_target!(init: docket_fuzz::begin(), |bytes: &[u8]| docket_fuzz::fuzzed::component(bytes));
