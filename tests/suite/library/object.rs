//! The built object, looked at without loading it: the one instruction that compilers get wrong,
//! its size, and what must not be inside.

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

const INSTRUCTION: usize = 8;

// linux/bpf.h: BPF_STX | BPF_ATOMIC | BPF_DW, and what its immediate says.
const ATOMIC_64: u8 = 0xdb;
const ATOMIC_ADD: i32 = 0x00;
const ATOMIC_FETCH_ADD: i32 = 0x01;

/// The immediates of all 64-bit atomic instructions of a program.
fn atomics(object: &object::File<'_>, program: &str) -> Vec<i32> {
    let symbol = object.symbols().find(|symbol| symbol.name() == Ok(program)).unwrap();
    let section = object.section_by_index(symbol.section_index().unwrap()).unwrap();
    let start = usize::try_from(symbol.address()).unwrap();
    let end = start + usize::try_from(symbol.size()).unwrap();
    let code = &section.data().unwrap()[start..end];
    let atomic = code.chunks_exact(INSTRUCTION).filter(|instruction| instruction[0] == ATOMIC_64);
    atomic.map(|instruction| i32::from_le_bytes(instruction[4..8].try_into().unwrap())).collect()
}

#[test]
fn the_shared_counter_is_fetched_and_not_only_added_to() {
    let bytes = balancer_steering::steering::object_bytes().unwrap();
    let object = object::File::parse(&*bytes).unwrap();
    for program in ["bal_round_robin", "bal_least"] {
        let atomics = atomics(&object, program);
        assert!(!atomics.is_empty(), "{program} has no atomic instruction");
        assert!(!atomics.contains(&ATOMIC_ADD), "{program} adds without fetching: {atomics:?}");
        assert!(atomics.iter().all(|&kind| kind == ATOMIC_FETCH_ADD), "{program}: {atomics:?}");
    }
}

#[test]
fn the_object_is_small_and_carries_types_but_no_debug_information() {
    let bytes = balancer_steering::steering::object_bytes().unwrap();
    assert!(bytes.len() < 144 * 1024, "{} bytes", bytes.len());
    let object = object::File::parse(&*bytes).unwrap();
    let names: Vec<&str> = object.sections().map(|section| section.name().unwrap()).collect();
    assert!(names.contains(&".BTF") && names.contains(&".BTF.ext"), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("debug")), "{names:?}");
}

#[test]
fn the_object_holds_no_path_of_the_machine_that_built_it() {
    let bytes = balancer_steering::steering::object_bytes().unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let home = std::env::var("HOME").unwrap_or_default();
    let paths = ["/home/", "/usr/", "/tmp/", &home, env!("CARGO_MANIFEST_DIR")];
    // A home that is unset or `/` says nothing.
    for path in paths.into_iter().filter(|path| path.len() > 1) {
        let found = text.find(path).map(|at| text[at..].chars().take(60).collect::<String>());
        assert_eq!(found, None);
    }
}
