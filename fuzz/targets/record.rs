#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| supernode::fuzzing::record(data));
