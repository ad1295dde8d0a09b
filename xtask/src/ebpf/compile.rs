//! Builds the eBPF object so that the same sources and tools give the same bytes on any machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    CRATE, strip,
    toolchain::{Toolchain, cargo_home},
};
use crate::{command, workspace::Workspace};

const TARGET: &str = "bpfel-unknown-none";

/// What the object may measure: it is kept in git, and in each binary.
const MAX_BYTES: usize = 144 * 1024;

/// `v3` for the 32-bit instructions and atomics of Linux 5.12; the debug information is what the
/// linker makes the BTF of.
const RUSTFLAGS: [&str; 3] = ["-Ctarget-cpu=v3", "-Cdebuginfo=2", "-Clink-arg=--btf"];

/// Said here, so that neither the workspace's profile nor a user's changes the object.
const PROFILE: [&str; 4] = [
    "profile.release.opt-level=2",
    "profile.release.codegen-units=1",
    "profile.release.lto=\"off\"",
    "profile.release.panic=\"abort\"",
];

/// The flags that are part of the object's sources, so to say.
pub fn flags_of_every_machine() -> Vec<&'static str> {
    [TARGET].into_iter().chain(RUSTFLAGS).chain(PROFILE).collect()
}

/// Builds and strips the object; refuses one that is too large or tells where it was built.
pub fn compile(workspace: &Workspace, toolchain: &Toolchain) -> Result<Vec<u8>> {
    eprintln!("building {CRATE} with {} and {}", toolchain.compiler, toolchain.linker);
    let mut build = toolchain.command("cargo");
    build.arg("build");
    arguments(&mut build, workspace, toolchain);
    command::run_as(&mut build, "building the eBPF object")?;

    let linked = target_directory(workspace).join(TARGET).join("release").join(CRATE);
    let linked =
        fs::read(&linked).with_context(|| format!("could not read {}", linked.display()))?;
    let object = strip::strip(&linked)?;
    if object.len() > MAX_BYTES {
        bail!(
            "the eBPF object has {} bytes, and more than {MAX_BYTES} are too many for git; \
             look for a function that is inlined once too often",
            object.len()
        );
    }
    for (path, _) in paths(workspace, toolchain) {
        if names(&object, &path) {
            bail!(
                "the eBPF object holds a path of this machine, {}; \
                 see what `strings` shows, and remap it in xtask/src/ebpf/compile.rs",
                path.display()
            );
        }
    }
    Ok(object)
}

/// Lints the programs; where the toolchain has no clippy, the compiler's own warnings have to do.
pub fn lint(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    if toolchain.has("cargo-clippy") && toolchain.has("clippy-driver") {
        let mut clippy = toolchain.command("cargo-clippy");
        clippy.arg("clippy");
        arguments(&mut clippy, workspace, toolchain);
        return command::run_as(clippy.args(["--", "-Dwarnings"]), "clippy on the eBPF programs");
    }
    eprintln!("the toolchain of {} has no clippy: compiler warnings only", toolchain.compiler);
    let mut rustc = toolchain.command("cargo");
    rustc.arg("rustc");
    arguments(&mut rustc, workspace, toolchain);
    command::run_as(rustc.args(["--", "-Dwarnings"]), "compiling the eBPF programs")
}

/// What every cargo command on the eBPF binary needs to build the same thing.
fn arguments(cargo: &mut Command, workspace: &Workspace, toolchain: &Toolchain) {
    cargo
        .current_dir(&workspace.root)
        .args(["--locked", "--release", "-p", CRATE, "--bin", CRATE, "--features", "programs"])
        .args(["--target", TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(target_directory(workspace));
    for setting in PROFILE {
        cargo.args(["--config", setting]);
    }
    let mut rustflags: Vec<String> = RUSTFLAGS.map(str::to_owned).to_vec();
    rustflags.push(format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH));
    rustflags.extend(
        paths(workspace, toolchain)
            .into_iter()
            .map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display())),
    );
    // Where no file is found by that name, LLVM copies no source lines into the BTF; file and line
    // are named all the same.
    rustflags.push(format!("--remap-path-prefix={CRATE}=programs"));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\u{1f}"));
}

/// Its own, because other flags than the host's would make cargo build everything anew in turns.
fn target_directory(workspace: &Workspace) -> PathBuf {
    workspace.target.join("ebpf/build")
}

/// The places of this machine that a compiler could write into an object, and what it writes
/// instead. Where several fit, rustc takes the last, so the more special come later.
fn paths(workspace: &Workspace, toolchain: &Toolchain) -> Vec<(PathBuf, &'static str)> {
    let mut paths = Vec::new();
    let mut add = |path: PathBuf, name| {
        let real = path.canonicalize().ok().filter(|real| *real != path);
        // A home of `/`, which containers have, is the start of every path.
        paths.extend(
            [Some(path), real]
                .into_iter()
                .flatten()
                .filter_map(|path| path.parent().is_some().then_some((path, name))),
        );
    };
    if let Some(home) = env::home_dir() {
        add(home, "home");
    }
    if let Some(home) = cargo_home() {
        // One directory a registry, named after how it is reached.
        let registries = fs::read_dir(home.join("registry/src"));
        add(home, "cargo");
        for registry in registries.into_iter().flatten().flatten() {
            add(registry.path(), "registry");
        }
    }
    add(toolchain.sysroot.join("lib/rustlib/src/rust"), "rust");
    // Relative, as cargo names the workspace's own files.
    add(workspace.root.clone(), ".");
    add(workspace.target.clone(), "target");
    paths
}

/// Whether the bytes hold this path or one below it.
fn names(bytes: &[u8], path: &Path) -> bool {
    // Strings may stand side by side, so a path can begin anywhere; but a checkout in `/src` must
    // not be found in each `crate/src/`.
    let short = path.components().count() < 3;
    let path = path.as_os_str().as_encoded_bytes();
    bytes.windows(path.len()).enumerate().any(|(at, window)| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at)).copied().unwrap_or_default();
        window == path
            && matches!(bytes.get(at + path.len()), Some(0 | b'/' | b':') | None)
            && !(short && (before.is_ascii_alphanumeric() || b"-_.".contains(&before)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_whole_but_not_as_the_start_of_a_word() {
        assert!(names(b"x\0/home/me/src/main.rs\0", Path::new("/home/me")));
        assert!(names(b"x/home/me", Path::new("/home/me")));
        assert!(!names(b"x\0/home/melon/main.rs\0", Path::new("/home/me")));
    }

    #[test]
    fn a_short_path_is_not_found_inside_a_longer_one() {
        assert!(names(b"x\0/src/main.rs\0", Path::new("/src")));
        assert!(!names(b"x\0crate/src/main.rs\0", Path::new("/src")));
    }
}
