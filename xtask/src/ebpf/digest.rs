//! Digests, by which a stale object is known. They depend on contents alone: a fresh clone has new
//! times and another path, and must not look changed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::{CRATE, compile};

/// The crate of the workspace that the programs are built with.
const CONTRACT: &str = "balancer-common";

/// The dependencies that the object is made of.
const LOCKED: [&str; 3] = ["aya-ebpf", "aya-log-ebpf", "aya-log-common"];

/// The digest of some bytes.
pub fn of_bytes(bytes: &[u8]) -> String {
    named(Sha256::digest(bytes).as_slice())
}

/// The digest of all that the object is made of, but for the tools: the crates, the versions of their
/// dependencies, the flags.
pub fn of_sources(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for name in [CRATE, CONTRACT] {
        collect(&root.join(name).join("src"), &mut files)?;
        files.push(root.join(name).join("Cargo.toml"));
    }

    let mut parts = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        parts.push((name, read(&file)?));
    }
    let lock = String::from_utf8_lossy(&read(&root.join("Cargo.lock"))?).into_owned();
    parts.push(("Cargo.lock".to_owned(), locked_versions(&lock).join("\n").into_bytes()));
    parts.push(("flags".to_owned(), compile::flags_of_every_machine().join("\n").into_bytes()));
    Ok(of_parts(parts))
}

/// Named contents, in any order.
fn of_parts(mut parts: Vec<(String, Vec<u8>)>) -> String {
    parts.sort();
    let mut hash = Sha256::new();
    for (name, contents) in parts {
        // With lengths, so that nothing can move from a name to its contents or to the next part.
        for bytes in [name.as_bytes(), &contents] {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
    }
    named(hash.finalize().as_slice())
}

/// `name version` of each dependency in Cargo.lock that ends up in the object.
fn locked_versions(lock: &str) -> Vec<String> {
    let value = |line: &str, key: &str| {
        Some(line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')?.to_owned())
    };
    let mut versions = Vec::new();
    let mut name = None;
    for line in lock.lines() {
        if let Some(found) = value(line, "name") {
            name = Some(found).filter(|name| LOCKED.iter().any(|locked| name.starts_with(locked)));
        } else if let (Some(version), Some(name)) = (value(line, "version"), &name) {
            versions.push(format!("{name} {version}"));
        }
    }
    versions
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("could not list {}", directory.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("could not list {}", directory.display()))?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("could not read {}", path.display()))
}

fn named(digest: &[u8]) -> String {
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(parts: &[(&str, &str)]) -> String {
        of_parts(parts.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect())
    }

    #[test]
    fn the_digest_is_the_well_known_one() {
        assert_eq!(
            of_bytes(b"abc"),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn the_order_in_which_files_are_found_does_not_matter() {
        assert_eq!(parts(&[("a", "1"), ("b", "2")]), parts(&[("b", "2"), ("a", "1")]));
    }

    #[test]
    fn a_changed_name_or_text_changes_the_digest() {
        let before = parts(&[("a", "1"), ("b", "2")]);
        assert_ne!(before, parts(&[("a", "1"), ("c", "2")]));
        assert_ne!(before, parts(&[("a", "1"), ("b", "3")]));
        assert_ne!(before, parts(&[("a", "1b"), ("", "2")]));
    }

    #[test]
    fn only_dependencies_that_end_up_in_the_object_count() {
        let lock = "version = 4\n\n[[package]]\nname = \"aya\"\nversion = \"0.14.0\"\n\n\
                    [[package]]\nname = \"aya-ebpf-macros\"\nversion = \"0.2.0\"\n\
                    source = \"registry\"\n\n[[package]]\nname = \"aya-log-common\"\n\
                    version = \"0.3.0\"\n";
        assert_eq!(locked_versions(lock), ["aya-ebpf-macros 0.2.0", "aya-log-common 0.3.0"]);
    }
}
