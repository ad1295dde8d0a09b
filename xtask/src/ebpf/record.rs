//! The small text file beside the object: what it was built from, and by what.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use anyhow::{Context as _, Result};

/// What was noted when the object was built.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// Digest of what the object was built from.
    pub sources: String,
    /// Digest of the object itself.
    pub object: String,
    /// What the compiler says its version is.
    pub compiler: String,
    /// What the linker says its version is.
    pub linker: String,
    /// The architecture of the machine, for which the programs read registers.
    pub host: String,
}

impl Record {
    /// Reads the record at `path`.
    pub fn read(path: &Path) -> Result<Self> {
        fs::read_to_string(path)
            .map_err(anyhow::Error::from)
            .and_then(|text| Self::parse(&text))
            .with_context(|| {
                format!("could not read {}; write it again: cargo xtask build-ebpf", path.display())
            })
    }

    /// Whether these tools on this machine should make the same bytes again.
    pub fn is_by(&self, compiler: &str, linker: &str) -> bool {
        self.compiler == compiler && self.linker == linker && self.host == std::env::consts::ARCH
    }

    fn parse(text: &str) -> Result<Self> {
        let mut values: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .map(|(key, value)| (key, value.trim_matches('"')))
            .collect();
        let mut take =
            |key| values.remove(key).map(str::to_owned).with_context(|| format!("it has no {key}"));
        Ok(Self {
            sources: take("sources")?,
            object: take("object")?,
            compiler: take("compiler")?,
            linker: take("linker")?,
            host: take("host")?,
        })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sources, object, compiler, linker, host } = self;
        writeln!(f, "# Written by `cargo xtask build-ebpf`, which also says whether it is stale.")?;
        writeln!(f, "sources = \"{sources}\"")?;
        writeln!(f, "object = \"{object}\"")?;
        writeln!(f, "compiler = \"{compiler}\"")?;
        writeln!(f, "linker = \"{linker}\"")?;
        writeln!(f, "host = \"{host}\"")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let record = Record {
            sources: "sha256:00".into(),
            object: "sha256:11".into(),
            compiler: "rustc 1.96.0 (ac68faa20 2026-05-25) (built = from a tarball)".into(),
            linker: "bpf-linker 0.13.0".into(),
            host: "x86_64".into(),
        };
        assert_eq!(Record::parse(&record.to_string()).unwrap(), record);
    }

    #[test]
    fn a_missing_line_is_named() {
        let error = Record::parse("sources = \"x\"\n").unwrap_err();
        assert_eq!(error.to_string(), "it has no object");
    }
}
