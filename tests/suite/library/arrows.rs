//! The crates depend on each other in one direction, and what speaks to people is in one of them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What a crate is linked with; what only its tests, examples and benches use is not.
fn dependencies(name: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
    let (_, section) = manifest.split_once("\n[dependencies]\n").unwrap();
    let section = section.split("\n[").next().unwrap();
    let names = section.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    names.map(|line| line.split([' ', '.', '=']).next().unwrap().to_owned()).collect()
}

fn ours(name: &str) -> Vec<String> {
    dependencies(name).into_iter().filter(|name| name.starts_with("balancer")).collect()
}

#[test]
fn arrows_between_crates_go_one_way() {
    assert_eq!(ours("balancer-common"), [] as [&str; 0]);
    assert_eq!(ours("balancer-ebpf"), ["balancer-common"]);
    assert_eq!(ours("balancer-report"), [] as [&str; 0]);
    assert_eq!(ours("balancer-steering"), ["balancer-common"]);
    assert_eq!(ours("balancer-lab"), ["balancer-common", "balancer-steering"]);
    assert_eq!(ours("balancer"), ["balancer-common", "balancer-lab", "balancer-steering"]);
}

#[test]
fn a_worker_that_reports_its_load_is_linked_with_libc_alone() {
    assert_eq!(dependencies("balancer-report"), BTreeSet::from(["libc".to_owned()]));
}

#[test]
fn the_library_brings_nothing_of_the_command_line_or_the_laboratory() {
    let library = dependencies("balancer-steering");
    for foreign in ["anyhow", "clap", "hyper", "plotters", "statrs", "tokio"] {
        assert!(!library.contains(foreign), "balancer-steering has {foreign}");
    }
    for other in ["balancer", "balancer-lab"] {
        assert!(!dependencies(other).contains("aya"), "{other} has aya");
    }
}

/// The sources below a directory.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
    let all = entries.flat_map(below);
    all.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

#[test]
fn nothing_below_the_command_line_names_a_flag() {
    let flag = |line: &str| {
        let code = line.trim_start();
        !code.starts_with("//")
            && code.match_indices("--").any(|(at, _)| {
                let before = code[..at].chars().next_back();
                let after = code[at + 2..].chars().next();
                before.is_none_or(|c| " `\"".contains(c)) && after.is_some_and(char::is_alphabetic)
            })
    };
    for name in ["balancer-common", "balancer-steering"] {
        for path in sources(&root().join(name).join("src")) {
            let text = fs::read_to_string(&path).unwrap();
            let found: Vec<&str> = text.lines().filter(|line| flag(line)).collect();
            assert!(found.is_empty(), "{}: {found:#?}", path.display());
        }
    }
}

/// Lines of the longest source, tests of the file included.
#[test]
fn no_file_is_longer_than_600_lines_and_nine_in_ten_are_below_400() {
    let crates =
        ["balancer", "balancer-common", "balancer-ebpf", "balancer-lab", "balancer-steering"];
    let others = ["fuzz", "tests", "xtask"];
    let all = crates.into_iter().chain(others).flat_map(|name| sources(&root().join(name)));
    let lengths: Vec<(usize, PathBuf)> = all
        .filter(|path| !path.components().any(|part| part.as_os_str() == "target"))
        .map(|path| (fs::read_to_string(&path).unwrap().lines().count(), path))
        .collect();
    let longest = lengths.iter().max().unwrap();
    assert!(longest.0 <= 600, "{longest:?}");
    let long = lengths.iter().filter(|(lines, _)| *lines >= 400).count();
    assert!(long * 10 <= lengths.len(), "{long} of {}", lengths.len());
}
