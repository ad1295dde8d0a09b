//! The eBPF object: a user needs no eBPF toolchain, because the built object is kept in git, with a
//! record of what it was built from beside it.

pub mod compile;
mod digest;
mod record;
mod strip;
pub mod toolchain;

use std::{
    env, fs,
    path::{self, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use self::{record::Record, toolchain::Toolchain};
use crate::workspace::Workspace;

/// The crate that holds the programs, and the name of its binary.
pub const CRATE: &str = "balancer-ebpf";

/// The object as kept in git, in the crate that loads it.
pub fn kept_object(workspace: &Workspace) -> PathBuf {
    workspace.root.join("balancer-steering/object/balancer.bpf.o")
}

fn kept_record(workspace: &Workspace) -> PathBuf {
    kept_object(workspace).with_extension("toml")
}

/// Names an object that balancer loads instead of the kept one, which is inside its binary.
pub const OVERRIDE: &str = "BALANCER_OBJECT";

/// The object that the environment names instead of the kept one.
pub fn overridden() -> Result<Option<PathBuf>> {
    let Some(object) = env::var_os(OVERRIDE) else { return Ok(None) };
    // Test binaries run in the directories of their crates.
    let object = path::absolute(object)?;
    if !object.is_file() {
        bail!("{OVERRIDE} names {}, which is not a file; unset it", object.display());
    }
    Ok(Some(object))
}

/// Sees to it that the kept object is the one of the sources as they are, by building it if need be.
pub fn ensure(workspace: &Workspace) -> Result<()> {
    if overridden()?.is_some() {
        return Ok(());
    }
    let Some(reason) = why_stale(workspace)? else { return Ok(()) };
    eprintln!("{reason}; building the eBPF object");
    let toolchain = Toolchain::find()?;
    keep(workspace, &toolchain)
}

/// Builds the object into its place in git, and its record beside it.
pub fn keep(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    // Before the build: sources that change meanwhile leave a stale record, not a wrong one.
    let sources = digest::of_sources(&workspace.root)?;
    let object = compile::compile(workspace, toolchain)?;
    let path = kept_object(workspace);
    write(&path, &object)?;
    let record = Record {
        sources,
        object: digest::of_bytes(&object),
        compiler: toolchain.compiler.clone(),
        linker: toolchain.linker.clone(),
        host: env::consts::ARCH.to_owned(),
    };
    write(&kept_record(workspace), record.to_string().as_bytes())?;
    eprintln!("wrote {} ({} bytes)", path.display(), object.len());
    Ok(())
}

/// Fails if the kept object is stale, builds a fresh one from the sources, demands that both have
/// the same bytes if the same tools built them, and returns where the fresh one is.
pub fn check(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(reason) = why_stale(workspace)? {
        bail!("{reason}: run `cargo xtask build-ebpf` and commit {CRATE}/object");
    }
    let toolchain = Toolchain::find()?;
    let fresh = compile::compile(workspace, &toolchain)?;
    let path = workspace.target.join("ebpf/balancer.bpf.o");
    write(&path, &fresh)?;

    let record = Record::read(&kept_record(workspace))?;
    if !record.is_by(&toolchain.compiler, &toolchain.linker) {
        eprintln!(
            "the object in git was built by {} with {}, this one by {} with {}; they are not compared",
            record.compiler, record.linker, toolchain.compiler, toolchain.linker
        );
    } else if digest::of_bytes(&fresh) != record.object {
        bail!(
            "the same compiler and linker make a different object ({}) from these sources than {}; \
             run `cargo xtask build-ebpf` and commit the result, or if that changes nothing, \
             look for what in the build depends on the machine (a linker with another LLVM?)",
            path.display(),
            kept_object(workspace).display(),
        );
    }
    Ok(path)
}

/// Why the kept object cannot be used as it is, if so.
fn why_stale(workspace: &Workspace) -> Result<Option<String>> {
    let (object, record) = (kept_object(workspace), kept_record(workspace));
    for path in [&object, &record] {
        if !path.exists() {
            return Ok(Some(format!("{} is missing", path.display())));
        }
    }
    let record = Record::read(&record)?;
    let bytes =
        fs::read(&object).with_context(|| format!("could not read {}", object.display()))?;
    Ok(if digest::of_sources(&workspace.root)? != record.sources {
        Some(format!("the sources of the programs changed since {} was built", object.display()))
    } else if digest::of_bytes(&bytes) != record.object {
        Some(format!("{} is not the object that its record describes", object.display()))
    } else {
        None
    })
}

/// Writes a file, and the directory it stands in.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("could not make {}", directory.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("could not write {}", path.display()))
}
