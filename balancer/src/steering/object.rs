//! The eBPF object: loading one of its programs over a group's pinned maps.

use std::{borrow::Cow, env, fs, path::Path};

use anyhow::{Context as _, Error, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SkReuseport},
};
use balancer_ebpf::maps;

use crate::policy::Policy;

/// A file to load instead of the object built in, for developing balancer itself.
const OVERRIDE: &str = "BALANCER_OBJECT";

const VERIFIER_LINES: usize = 12;

static BUILT_IN: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../balancer-ebpf/object/balancer.bpf.o"
));

/// The object's bytes.
///
/// # Errors
/// Where the override cannot be read.
pub fn bytes() -> Result<Cow<'static, [u8]>> {
    match env::var_os(OVERRIDE) {
        None => Ok(Cow::Borrowed(BUILT_IN)),
        Some(path) => fs::read(&path).map(Cow::Owned).with_context(|| {
            format!("cannot read the eBPF object {} that {OVERRIDE} names", path.display())
        }),
    }
}

/// Opens the maps pinned under `directory`, making and pinning those that are not there.
///
/// # Errors
/// Where the object is none, or the kernel refuses a map.
pub fn load_maps(directory: &Path, log_level: u8) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.override_global("AYA_LOG_LEVEL", &log_level, true);
    for name in maps::ALL {
        loader.map_pin_path(name, directory.join(name));
    }
    loader.load(&bytes()?).context("cannot load the eBPF object's maps")
}

/// Loads a policy's program and pins it under `directory`, beside its maps.
///
/// # Errors
/// Where the verifier refuses it; the message ends with the verifier's last lines.
pub fn load_program(ebpf: &mut Ebpf, policy: Policy, directory: &Path) -> Result<()> {
    let Some(name) = policy.program() else { return Ok(()) };
    let program: &mut SkReuseport = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the eBPF object has no program {name}"))?
        .try_into()
        .with_context(|| format!("the eBPF object's {name} is not an SK_REUSEPORT program"))?;
    program.load().map_err(|error| explain(name, error))?;
    program
        .pin(directory.join(name))
        .with_context(|| format!("cannot pin the program {name} under {}", directory.display()))
}

/// Why a program could not be loaded, with the verifier's last lines.
pub fn explain(name: &str, error: ProgramError) -> Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            anyhow!("the kernel refused the program {name}: {io_error}{}", last_lines(&log))
        }
        other => Error::new(other).context(format!("cannot load the program {name}")),
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return String::new();
    }
    let tail = &lines[lines.len().saturating_sub(VERIFIER_LINES)..];
    format!("; the verifier's last lines of {}:\n  {}", lines.len(), tail.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_verifier_log_only_the_end_is_shown() {
        let log: String = (1..=2000).map(|line| format!("line {line}\n")).collect();
        let shown = last_lines(&log);
        assert_eq!(shown.lines().count(), VERIFIER_LINES + 1);
        assert!(shown.contains("last lines of 2000") && shown.ends_with("line 2000"), "{shown}");
    }

    #[test]
    fn an_empty_verifier_log_adds_nothing() {
        assert_eq!(last_lines("\n"), "");
    }
}
