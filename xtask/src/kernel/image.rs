//! Debian's kernel images: found by name in apt's lists, and unpacked once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::Series;
use crate::command;

/// The kernels for virtual machines: small, and drivers enough.
const FLAVOUR: &str = "-cloud-amd64";

/// An unpacked kernel package.
pub struct Image {
    /// What was asked for.
    pub series: Series,
    /// As `uname -r` says on it.
    pub release: String,
    root: PathBuf,
}

impl Image {
    /// What boots.
    pub fn kernel(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// Where a module is, by its path without suffix.
    pub fn module(&self, path: &str) -> Result<PathBuf> {
        let base = self.root.join(format!("lib/modules/{}/kernel/{path}", self.release));
        let candidates =
            [".ko", ".ko.xz"].map(|suffix| PathBuf::from(format!("{}{suffix}", base.display())));
        candidates.into_iter().find(|path| path.exists()).with_context(|| {
            format!("the kernel package has no module {}.ko or .ko.xz", base.display())
        })
    }
}

/// Finds the newest image of a series, and downloads it unless `cache` has it.
pub fn find(cache: &Path, series: Series) -> Result<Image> {
    let packages = candidates(cache, series)?;
    if packages.is_empty() {
        bail!(
            "neither apt's lists nor {} have a package linux-image-{series}.*{FLAVOUR}; run \
             `apt-get update`, or add Debian's suite that has it (6.12: bookworm-security, \
             bookworm-backports or trixie)",
            cache.display()
        );
    }
    let mut tried = Vec::new();
    for package in &packages {
        let root = cache.join(package);
        let fetched = if root.exists() { Ok(()) } else { fetch(package, &root) };
        match fetched {
            Ok(()) => {
                let release = package.trim_start_matches("linux-image-").to_owned();
                return Ok(Image { series, release, root });
            }
            Err(error) => tried.push(format!("{package} ({error:#})")),
        }
    }
    bail!(
        "none of the packages of Linux {series} that apt's lists name could be downloaded: {}; if the \
         lists are old, run `apt-get update`",
        tried.join(", ")
    )
}

/// The packages of a series that apt or the cache have, the newest first.
fn candidates(cache: &Path, series: Series) -> Result<Vec<String>> {
    let pattern = format!("^linux-image-{}[.]{}[.].*{FLAVOUR}$", series.major, series.minor);
    let listed =
        command::capture(Command::new("apt-cache").args(["search", "--names-only", &pattern]))
            .context("cannot start apt-cache, which lists Debian's kernels")?;
    let listed = listed.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned);
    let prefix = format!("linux-image-{series}.");
    let cached = fs::read_dir(cache).into_iter().flatten().flatten();
    let cached = cached
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix) && name.ends_with(FLAVOUR));
    let mut packages: Vec<String> = listed.chain(cached).collect();
    packages.sort_by_key(|package| std::cmp::Reverse(version(package)));
    packages.dedup();
    Ok(packages)
}

/// The numbers in a package's name, which order its versions.
fn version(package: &str) -> Vec<u32> {
    package.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Downloads and unpacks a package.
fn fetch(package: &str, root: &Path) -> Result<()> {
    // Under another name until it is whole.
    let part = root.with_file_name(format!("{package}.part"));
    let _ = fs::remove_dir_all(&part);
    fs::create_dir_all(&part).with_context(|| format!("could not make {}", part.display()))?;
    command::run(
        Command::new("apt-get")
            // Its user for downloads may not write here.
            .args(["-o", "APT::Sandbox::User=root"])
            .args(["-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=30"])
            .args(["download", package])
            .current_dir(&part),
    )?;
    let archive = fs::read_dir(&part)?.flatten().next().context("apt-get downloaded nothing")?;
    command::run(Command::new("dpkg-deb").arg("-x").arg(archive.path()).arg(&part))?;
    fs::remove_file(archive.path())?;
    fs::rename(&part, root).with_context(|| format!("could not make {}", root.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_ordered_by_number() {
        let older = version("linux-image-6.1.0-9-cloud-amd64");
        assert!(older < version("linux-image-6.1.0-56-cloud-amd64"));
        let older = version("linux-image-6.12.73+deb12-cloud-amd64");
        assert!(older < version("linux-image-6.12.117+deb12-cloud-amd64"));
    }
}
