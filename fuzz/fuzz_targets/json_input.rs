#![no_main]

libfuzzer_sys::fuzz_target!(init: docket_fuzz::begin(), |bytes: &[u8]| docket_fuzz::fuzzed::json_input(bytes));
