//! What QEMU says, or what took its place: lines of JSON in any order and state.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| uvm::qemu::fuzz_answers(data));
