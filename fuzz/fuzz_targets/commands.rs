#![no_main]
#![allow(dead_code, reason = "each target feeds one of the entries")]

#[path = "../../crates/sessions/tests/fuzz/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::commands(data));
