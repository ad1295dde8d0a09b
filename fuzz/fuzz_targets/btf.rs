//! A kernel's description of its own types: whatever structures contain or refer to each other, looking
//! for a field ends, and does not grow the stack.

#![no_main]

use balancer_steering::steering::offsets_in;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|btf: &[u8]| {
    match offsets_in(btf) {
        // They are read out of a kernel's memory: the same each time.
        Ok(offsets) => assert_eq!(offsets_in(btf).ok(), Some(offsets)),
        Err(refusal) => assert!(!format!("{refusal:#}").is_empty()),
    }
});
