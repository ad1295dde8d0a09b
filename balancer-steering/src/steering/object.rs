//! The eBPF object: loading one of its programs over a group's pinned maps.

use std::{
    borrow::Cow,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use crate::error::{Context as _, Error, Result, error};
use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SkReuseport},
    util::nr_cpus,
};
use balancer_common::{
    flow::SET,
    load::Source,
    maps,
    settings::{Offsets, Settings},
};

use super::{
    directory,
    offsets::{offsets, packet_offsets},
    settings::settings,
    undisturbed::undisturbed,
};
use crate::{group::GroupSpec, privilege};

/// A file to load instead of the object built in, for developing balancer itself.
const OVERRIDE: &str = "BALANCER_OBJECT";

const VERIFIER_LINES: usize = 12;

static BUILT_IN: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/object/balancer.bpf.o"));

/// The object's bytes.
///
/// # Errors
/// Returns an error if the override cannot be read.
pub fn bytes() -> Result<Cow<'static, [u8]>> {
    match privilege::variable(OVERRIDE) {
        None => Ok(Cow::Borrowed(BUILT_IN)),
        Some(path) => fs::read(&path).map(Cow::Owned).with_context(|| {
            format!("cannot read the eBPF object {} that {OVERRIDE} names", path.display())
        }),
    }
}

/// How many CPUs the kernel may ever have.
///
/// # Errors
/// Returns an error if it does not say.
pub fn cpus() -> Result<u32> {
    let cpus = nr_cpus().map_err(|(_, error)| error).context("cannot count the CPUs")?;
    Ok(u32::try_from(cpus)?)
}

/// What tells this build's programs from another's, in the names of their pins.
///
/// # Errors
/// As [`bytes`].
pub fn digest() -> Result<String> {
    let mut hasher = DefaultHasher::new();
    bytes()?.hash(&mut hasher);
    Ok(format!("{:08x}", hasher.finish() >> 32))
}

/// A group's program: which, and what it is told.
pub struct Program {
    name: &'static str,
    settings: Settings,
}

impl Program {
    /// Those that a group's policy can take, the best first; none for the plain kernel hash.
    ///
    /// # Errors
    /// Returns an error if the CPUs cannot be counted.
    fn all(group: &GroupSpec) -> Result<Vec<Self>> {
        let Some(name) = group.policy.program() else { return Ok(Vec::new()) };
        let settings = settings(group, cpus()?);
        let blind = Settings { looks: 0, stall_ticks: 0, ..settings };
        let needed = settings.source == Source::Queue as u32;
        let mut all = vec![settings];
        if settings.looks != 0 && !needed {
            all.push(blind);
        }
        Ok(all.into_iter().map(|settings| Self { name, settings }).collect())
    }

    /// The pin of the program that a group's policy takes; `None` where it is not loaded.
    ///
    /// # Errors
    /// Returns an error if the CPUs cannot be counted.
    pub fn pinned(group: &GroupSpec, directory: &Path) -> Result<Option<PathBuf>> {
        for program in Self::all(group)? {
            let pin = program.pin(directory)?;
            if pin.exists() {
                return Ok(Some(pin));
            }
        }
        Ok(None)
    }

    /// Where it is pinned, beside the maps: a place for each way of telling it, and for each build.
    fn pin(&self, directory: &Path) -> Result<PathBuf> {
        let Settings { source, stall_ticks, looks, max_share, .. } = self.settings;
        let name = self.name;
        Ok(directory
            .join(format!("{name}-{}-{source}-{max_share}-{looks}-{stall_ticks}", digest()?)))
    }
}

/// The pins of programs of other builds.
///
/// # Errors
/// Returns an error if the directory cannot be read.
pub fn pins_of_others(directory: &Path) -> Result<Vec<PathBuf>> {
    let own = digest()?;
    let is_other = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("bal_") && name.split('-').nth(1) != Some(&own)
    };
    let pins = fs::read_dir(directory)
        .with_context(|| format!("cannot list the pins at {}", directory.display()))?;
    Ok(pins.flatten().map(|pin| pin.path()).filter(is_other).collect())
}

/// Makes the maps and pins them under `directory`, with the program for a group.
///
/// # Errors
/// Returns an error if the object is none, the kernel refuses a map, or the verifier refuses the
/// program; the message then ends with the verifier's last lines.
pub fn load(directory: &Path, group: &GroupSpec) -> Result<Ebpf> {
    let programs = Program::all(group)?;
    let Some((last, better)) = programs.split_last() else {
        return load_maps(&mut loader(directory, group, &group.log_level));
    };
    for program in better {
        match load_program(directory, group, program) {
            Ok(ebpf) => return Ok(ebpf),
            Err(error) => tracing::warn!(
                "queues cannot be read, so full queues and stalled workers are not left out: {error:#}"
            ),
        }
    }
    load_program(directory, group, last)
}

/// What is shared by all groups of the host, and nothing else that would stay.
///
/// # Errors
/// As [`load`].
pub fn load_shared(shared: &Path) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for (name, pin) in directory::shared_pins(shared) {
        loader.map_pin_path(name, pin);
    }
    load_maps(&mut loader)
}

/// The request tracker, whose programs are not loaded yet, over what is shared by all groups; with room
/// for the times of so many members.
///
/// # Errors
/// As [`load`]; also if the kernel does not describe its packets.
pub fn load_tracker(shared: &Path, epoch: u32, members: u32) -> Result<Ebpf> {
    let offsets = packet_offsets()?;
    let mut loader = EbpfLoader::new();
    for (name, pin) in directory::shared_pins(shared) {
        loader.map_pin_path(name, pin);
    }
    loader.map_pin_path(maps::TIMES, shared.join(maps::TIMES));
    loader.map_max_entries(maps::TIMES, members);
    loader.override_global("OFFSETS", &offsets, true);
    loader.override_global("EPOCH", &epoch, true);
    load_maps(&mut loader)
}

/// Opens the maps under `directory`, for programs that are told what the group's own are.
///
/// # Errors
/// As [`load`].
pub fn load_over(directory: &Path, group: &GroupSpec) -> Result<Ebpf> {
    let settings = settings(group, cpus()?);
    let mut loader = loader(directory, group, &0);
    loader.override_global("SETTINGS", &settings, true);
    load_maps(&mut loader)
}

/// Opens the maps pinned under `directory` and beside it, making and pinning those that are not there.
fn loader<'a>(directory: &Path, group: &GroupSpec, log_level: &'a u8) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(maps::FLOWS, group.flows.map_or(1, |flows| flows.sets) * SET);
    loader.override_global("AYA_LOG_LEVEL", log_level, true);
    for name in maps::ALL {
        loader.map_pin_path(name, directory.join(name));
    }
    for (name, pin) in directory::shared_pins(&directory::shared_by(directory)) {
        loader.map_pin_path(name, pin);
    }
    loader
}

fn load_maps(loader: &mut EbpfLoader<'_>) -> Result<Ebpf> {
    loader.load(&bytes()?).context("cannot load the eBPF object's maps")
}

fn load_program(directory: &Path, group: &GroupSpec, program: &Program) -> Result<Ebpf> {
    let looks = program.settings.looks != 0;
    let offsets = if looks { offsets()? } else { Offsets::default() };
    let mut loader = loader(directory, group, &group.log_level);
    loader.override_global("SETTINGS", &program.settings, true);
    loader.override_global("OFFSETS", &offsets, true);
    let mut ebpf = load_maps(&mut loader)?;
    let (name, pin) = (program.name, program.pin(directory)?);
    let loaded: &mut SkReuseport = ebpf
        .program_mut(name)
        .ok_or_else(|| error!("the eBPF object has no program {name}"))?
        .try_into()
        .with_context(|| format!("the eBPF object's {name} is not an SK_REUSEPORT program"))?;
    undisturbed(|| loaded.load()).map_err(|error| explain(name, error))?;
    loaded
        .pin(&pin)
        .with_context(|| format!("cannot pin the program {name} at {}", pin.display()))?;
    Ok(ebpf)
}

/// Why a program could not be loaded, with the verifier's last lines.
pub fn explain(name: &str, error: ProgramError) -> Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            tracing::debug!("the verifier's log of {name}:\n{log}");
            error!("the kernel refused the program {name}: {io_error}{}", last_lines(&log))
        }
        other => Error::of(other, format_args!("cannot load the program {name}")),
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
