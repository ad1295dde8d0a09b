//! The eBPF object: loading one of its programs over a group's pinned maps.

use std::{
    borrow::Cow,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Error, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SkReuseport},
    util::nr_cpus,
};
use balancer_ebpf::{
    load::Source,
    maps,
    record::{Offsets, Settings},
};

use super::offsets::offsets;
use crate::{group::Group, tuning};

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

/// How many CPUs the kernel may ever have.
///
/// # Errors
/// Where it does not say.
pub fn cpus() -> Result<u32> {
    let cpus = nr_cpus().map_err(|(_, error)| error).context("cannot count the CPUs")?;
    Ok(u32::try_from(cpus)?)
}

/// A group's program: which, and what it is told.
pub struct Program {
    name: &'static str,
    settings: Settings,
}

impl Program {
    /// The one that a group's policy takes; `None` for the plain kernel hash.
    ///
    /// # Errors
    /// Where the CPUs cannot be counted.
    pub fn of(group: &Group) -> Result<Option<Self>> {
        let Some(name) = group.policy.program() else { return Ok(None) };
        let (tuning, protocol) = (group.tuning, group.identity.protocol);
        let settings = tuning::settings(group.policy, tuning, protocol, cpus()?);
        Ok(Some(Self { name, settings }))
    }

    /// Where it is pinned, beside the maps: a place for each way of telling it.
    pub fn pin(&self, directory: &Path) -> PathBuf {
        let Settings { source, stall_ticks, .. } = self.settings;
        match (source, stall_ticks) {
            (0, 0) => directory.join(self.name),
            _ => directory.join(format!("{}-{source}-{stall_ticks}", self.name)),
        }
    }

    /// Whether it looks into the kernel's own sockets.
    fn looks(&self) -> bool {
        let Settings { source, stall_ticks, .. } = self.settings;
        stall_ticks > 0 || source == Source::Queue as u32 || source == Source::Connections as u32
    }
}

/// Makes the maps and pins them under `directory`, with the program for a group.
///
/// # Errors
/// Where the object is none, the kernel refuses a map, or the verifier refuses the program; the
/// message then ends with the verifier's last lines.
pub fn load(directory: &Path, group: &Group) -> Result<Ebpf> {
    let program = Program::of(group)?;
    let settings = program.as_ref().map(|program| program.settings).unwrap_or_default();
    let offsets = match &program {
        Some(program) if program.looks() => offsets()?,
        _ => Offsets::default(),
    };
    let mut loader = loader(directory, &group.log_level);
    loader.override_global("SETTINGS", &settings, true);
    loader.override_global("OFFSETS", &offsets, true);
    let mut ebpf = load_maps(&mut loader)?;
    if let Some(program) = program {
        load_program(&mut ebpf, &program, directory)?;
    }
    Ok(ebpf)
}

/// As [`load`], with what counts connections, which is not pinned; its map is.
///
/// # Errors
/// As [`load`].
pub fn load_tracker(directory: &Path) -> Result<Ebpf> {
    let mut loader = loader(directory, &0);
    loader.map_pin_path(maps::SLOT_OF, directory.join(maps::SLOT_OF));
    load_maps(&mut loader)
}

/// Opens the maps under `directory`, for a program that keeps nothing else there.
///
/// # Errors
/// Where the object is none, or the kernel refuses a map.
pub fn load_watcher(directory: &Path) -> Result<Ebpf> {
    load_maps(&mut loader(directory, &0))
}

/// Opens the maps pinned under `directory`, making and pinning those that are not there.
fn loader<'a>(directory: &Path, log_level: &'a u8) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    loader.override_global("AYA_LOG_LEVEL", log_level, true);
    for name in maps::ALL {
        loader.map_pin_path(name, directory.join(name));
    }
    loader
}

fn load_maps(loader: &mut EbpfLoader<'_>) -> Result<Ebpf> {
    loader.load(&bytes()?).context("cannot load the eBPF object's maps")
}

fn load_program(ebpf: &mut Ebpf, program: &Program, directory: &Path) -> Result<()> {
    let name = program.name;
    let pin = program.pin(directory);
    let loaded: &mut SkReuseport = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the eBPF object has no program {name}"))?
        .try_into()
        .with_context(|| format!("the eBPF object's {name} is not an SK_REUSEPORT program"))?;
    loaded.load().map_err(|error| explain(name, error))?;
    loaded.pin(&pin).with_context(|| format!("cannot pin the program {name} at {}", pin.display()))
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
