//! Finds what builds eBPF programs: a rustc with the library's sources, its cargo, and bpf-linker.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// What a user types where something is missing.
const INSTALL: &str = "\
install a toolchain and a linker with these two commands and try again:
    rustup toolchain install nightly --component rust-src
    cargo install cargo-binstall && cargo binstall bpf-linker
(on Debian: rustc-web cargo-web rust-web-src llvm-22-dev, and what .ci/run does with them)";

/// Tools that fit together.
pub struct Toolchain {
    /// Where the compiler and the library's sources are.
    pub sysroot: PathBuf,
    /// What the compiler says its version is.
    pub compiler: String,
    /// The directory of bpf-linker.
    pub linker_directory: PathBuf,
    /// What the linker says its version is.
    pub linker: String,
}

impl Toolchain {
    /// The best one on this machine: rustup's nightly, another toolchain, the newest first.
    pub fn find() -> Result<Self> {
        let compiler = candidates().into_iter().max_by_key(Candidate::rank);
        let linker =
            linker_directories().into_iter().find(|path| path.join("bpf-linker").is_file());
        match (compiler, linker) {
            (Some(Candidate { sysroot, compiler, .. }), Some(linker_directory)) => {
                let linker = version_line(&linker_directory.join("bpf-linker"))
                    .context("bpf-linker does not print its version; install it again")?;
                Ok(Self { sysroot, compiler, linker_directory, linker })
            }
            (Some(_), None) => {
                bail!("no bpf-linker on PATH or in cargo's bin directory; {INSTALL}")
            }
            (None, _) => {
                bail!("no Rust toolchain on this machine has the library's sources; {INSTALL}")
            }
        }
    }

    /// A program of this toolchain, with nothing in its environment that would choose another or
    /// change what it builds.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.sysroot.join("bin").join(program));
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy();
            let leaks = ["CARGO_BUILD_", "CARGO_PKG_", "CARGO_PROFILE_", "CARGO_TARGET_"];
            let exact = ["CARGO", "CARGO_ENCODED_RUSTFLAGS", "CARGO_MANIFEST_DIR"];
            if name.starts_with("RUSTC")
                || name.starts_with("RUSTFLAGS")
                || name.starts_with("RUSTUP_TOOLCHAIN")
                || leaks.iter().any(|start| name.starts_with(start))
                || exact.contains(&&*name)
            {
                command.env_remove(&*name);
            }
        }
        command.env("CARGO", self.sysroot.join("bin/cargo"));
        command.env("RUSTC", self.sysroot.join("bin/rustc"));
        // Of toolchains older than nightly these are the features that the eBPF target takes.
        command.env("RUSTC_BOOTSTRAP", "1");
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(
            [self.linker_directory.clone()].into_iter().chain(env::split_paths(&path)),
        );
        if let Ok(path) = path {
            command.env("PATH", path);
        }
        command
    }

    /// Whether the toolchain has this program.
    pub fn has(&self, program: &str) -> bool {
        self.sysroot.join("bin").join(program).is_file()
    }
}

/// A compiler that could do it.
struct Candidate {
    nightly: bool,
    version: (u32, u32, u32),
    sysroot: PathBuf,
    compiler: String,
}

impl Candidate {
    fn new(name: &str, sysroot: PathBuf) -> Option<Self> {
        let has = |path: &str| sysroot.join(path).is_file();
        if !has("lib/rustlib/src/rust/library/Cargo.lock") || !has("bin/cargo") {
            return None;
        }
        let compiler = version_line(&sysroot.join("bin/rustc"))?;
        let version = parse_version(&compiler)?;
        let oldest = parse_version(concat!("rustc ", env!("CARGO_PKG_RUST_VERSION"), ".0"))?;
        let nightly = name.starts_with("nightly");
        (version >= oldest).then_some(Self { nightly, version, sysroot, compiler })
    }

    fn rank(&self) -> (bool, (u32, u32, u32)) {
        (self.nightly, self.version)
    }
}

fn candidates() -> Vec<Candidate> {
    let rustup = output(Command::new("rustup").args(["toolchain", "list", "-v"]));
    let mut found: Vec<Candidate> = rustup
        .iter()
        .flat_map(|list| list.lines())
        .filter_map(|line| named_path(line).and_then(|(name, path)| Candidate::new(name, path)))
        .collect();
    let plain = output(Command::new("rustc").args(["--print", "sysroot"]))
        .map(|sysroot| PathBuf::from(sysroot.trim_end()));
    let places: BTreeSet<PathBuf> = plain.into_iter().chain([PathBuf::from("/usr")]).collect();
    found.extend(places.into_iter().filter_map(|sysroot| Candidate::new("", sysroot)));
    found
}

/// Name and path from a line of `rustup toolchain list -v`: `stable-x86_64 (active) /the/path`.
fn named_path(line: &str) -> Option<(&str, PathBuf)> {
    let name = line.split_whitespace().next()?;
    let path = line.get(line.find([' ', '\t'])?..)?;
    Some((name, PathBuf::from(path.get(path.find('/')?..)?)))
}

/// The numbers in `rustc 1.96.0-nightly (…)`.
fn parse_version(line: &str) -> Option<(u32, u32, u32)> {
    let numbers = line.split_whitespace().nth(1)?.split(['-', '+']).next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

fn linker_directories() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(cargo_home().map(|home| home.join("bin"))).collect()
}

/// Where cargo keeps what it downloads and installs.
pub fn cargo_home() -> Option<PathBuf> {
    let set = env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| Some(env::home_dir()?.join(".cargo")))
}

fn version_line(program: &Path) -> Option<String> {
    output(Command::new(program).arg("--version")).map(|line| line.trim().to_owned())
}

/// What a program prints, if it is there and content.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    if output.status.success() { String::from_utf8(output.stdout).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_releases_and_nightlies_are_read() {
        assert_eq!(parse_version("rustc 1.96.0 (ac68faa20 2026-05-25)"), Some((1, 96, 0)));
        assert_eq!(parse_version("rustc 1.98.1-nightly (0 2026-07-01)"), Some((1, 98, 1)));
        assert_eq!(parse_version("rustc"), None);
        assert_eq!(parse_version("rustc one.two.three"), None);
    }

    #[test]
    fn a_toolchain_that_rustup_lists_has_a_name_and_a_path() {
        let path = PathBuf::from("/a dir/t");
        assert_eq!(named_path("stable-x (active, default) /a dir/t"), Some(("stable-x", path)));
        assert_eq!(named_path("debian\t/usr"), Some(("debian", PathBuf::from("/usr"))));
        assert_eq!(named_path("no installed toolchains"), None);
    }
}
