//! `cargo xtask release`: what a release takes. A program checks what it can; the rest is printed for
//! the person who releases.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::{command, ebpf, workspace::Workspace};

/// Print what a person has to do for a release; with --check, first check what a program can
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask release            the list, with the version filled in
  cargo xtask release --check    is this commit ready? (needs the eBPF toolchain)")]
pub struct Options {
    /// Check the working tree, CHANGELOG, the eBPF object, documentation and packages
    #[arg(long)]
    check: bool,
}

/// Where the version of the pinned records is.
const CONTRACT: &str = "balancer-common/src/lib.rs";

const CHANGELOG: &str = "CHANGELOG.md";

/// Runs the verb.
pub fn release(workspace: &Workspace, options: &Options) -> Result<()> {
    let crates = crates(workspace)?;
    let version = common_version(&crates)?;
    let publishable = publishable(&crates);
    let failed = if options.check { check(workspace, &version, &publishable) } else { 0 };
    println!("{}", checklist(&version, &publishable));
    if failed > 0 {
        bail!("{failed} of the checks failed; see above");
    }
    Ok(())
}

/// Runs every check, says how each ended, and returns how many failed.
fn check(workspace: &Workspace, version: &str, publishable: &[&str]) -> usize {
    let checks: [(&str, &dyn Fn() -> Result<()>); 5] = [
        ("the working tree is clean", &|| clean(workspace)),
        ("CHANGELOG begins with this version", &|| {
            let layout = layout_version(&read(&workspace.root, CONTRACT)?)?;
            check_changelog(&read(&workspace.root, CHANGELOG)?, version, layout)
        }),
        ("the eBPF object is built from these sources", &|| ebpf::check(workspace).map(|_| ())),
        ("the documentation builds", &|| {
            command::run(workspace.cargo().args(["xtask", "ci", "--only", "docs"]))
        }),
        ("the crates can be packaged", &|| package(workspace, publishable)),
    ];
    let mut failed = 0;
    for (what, check) in checks {
        match check() {
            Ok(()) => eprintln!("ok      {what}"),
            Err(error) => {
                failed += 1;
                eprintln!("FAILED  {what}: {error:#}");
            }
        }
    }
    failed
}

fn clean(workspace: &Workspace) -> Result<()> {
    let mut git = std::process::Command::new("git");
    let changes =
        command::capture(git.current_dir(&workspace.root).args(["status", "--porcelain"]))?;
    if !changes.is_empty() {
        bail!("commit or stash these changes:\n{}", changes.trim_end());
    }
    Ok(())
}

/// Packages the crates that may be published, and builds each from its package.
fn package(workspace: &Workspace, names: &[&str]) -> Result<()> {
    if names.is_empty() {
        eprintln!("        (no crate may be published: each has `publish = false`)");
        return Ok(());
    }
    let mut cargo = workspace.cargo();
    cargo.args(["package", "--locked"]);
    cargo.args(names.iter().flat_map(|name| ["-p", name]));
    command::run(&mut cargo)
}

fn read(root: &Path, name: &str) -> Result<String> {
    fs::read_to_string(root.join(name)).with_context(|| format!("could not read {name}"))
}

/// A crate of the workspace.
#[derive(Debug, PartialEq, Eq)]
struct Crate {
    name: String,
    version: String,
    publishable: bool,
}

fn crates(workspace: &Workspace) -> Result<Vec<Crate>> {
    let mut cargo = workspace.cargo();
    let output = command::capture(cargo.args(["metadata", "--format-version=1", "--no-deps"]))?;
    crates_in(&serde_json::from_str(&output).context("cargo metadata did not print JSON")?)
}

fn crates_in(metadata: &Value) -> Result<Vec<Crate>> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let read = |package: &Value| Crate {
        name: text(&package["name"]),
        version: text(&package["version"]),
        // An empty list of registries is `publish = false`; none at all is any registry.
        publishable: package["publish"].as_array().is_none_or(|registries| !registries.is_empty()),
    };
    Ok(packages.iter().map(read).collect())
}

fn publishable(crates: &[Crate]) -> Vec<&str> {
    crates.iter().filter(|one| one.publishable).map(|one| one.name.as_str()).collect()
}

/// The version that all crates have.
fn common_version(crates: &[Crate]) -> Result<String> {
    let first = crates.first().context("the workspace has no crate")?;
    match crates.iter().find(|other| other.version != first.version) {
        Some(other) => bail!(
            "{} has version {}, but {} has {}; let each say `version.workspace = true`",
            first.name,
            first.version,
            other.name,
            other.version
        ),
        None => Ok(first.version.clone()),
    }
}

/// Fails unless the top entry of the changelog is of this version, has a date, and tells operators
/// which layout of pins it has.
fn check_changelog(changelog: &str, version: &str, layout: u32) -> Result<()> {
    let mut entries = changelog.split("\n## ").skip(1);
    let entry = entries.next().with_context(|| format!("{CHANGELOG} has no entry"))?;
    let (heading, text) = entry.split_once('\n').unwrap_or((entry, ""));
    let mut words = heading.split_whitespace();
    let name = words.next().unwrap_or_default().trim_matches(['[', ']']);
    if name != version {
        bail!("its top entry is `{heading}`; name it `## [{version}] - YYYY-MM-DD`");
    }
    let is_date =
        |word: &str| word.len() == 10 && word.chars().all(|c| c.is_ascii_digit() || c == '-');
    if !words.any(is_date) {
        bail!("its entry `{heading}` has no date; name it `## [{version}] - YYYY-MM-DD`");
    }
    let noted = format!("layout {layout}");
    let mut lines = text.lines();
    let says_so = |line: &str| {
        let line = line.to_lowercase();
        line.split_once(&noted)
            .is_some_and(|(_, rest)| !rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    if !lines.any(says_so) {
        bail!(
            "its entry does not say `layout {layout}` (LAYOUT_VERSION); say it, and whether it \
             changed, since `--takeover` goes on only with a group of the same layout"
        );
    }
    Ok(())
}

/// The version of the pinned records, out of the source that defines it.
fn layout_version(source: &str) -> Result<u32> {
    let number = source
        .split_once("pub const LAYOUT_VERSION: u32 = ")
        .and_then(|(_, rest)| rest.split_once(';'))
        .and_then(|(number, _)| number.parse().ok());
    number.with_context(|| format!("{CONTRACT} does not define LAYOUT_VERSION as a number"))
}

/// What only a person can do, in order.
fn checklist(version: &str, names: &[&str]) -> String {
    let packages: String = names.iter().map(|name| format!(" -p {name}")).collect();
    let tag = format!("git tag --sign v{version}\ngit push origin v{version}");
    let publish = format!("cargo publish --locked{packages}");
    let mut steps = vec![
        ("Run all checks on a machine where you have root:", "cargo xtask ci"),
        (
            "Run the faults and the long run; nothing may be lost, and nothing may grow:",
            "cargo xtask chaos --release --decks 10 --reloads 10\ncargo xtask soak",
        ),
        (
            "If the programs changed, measure again, and bring the figures in the documents up to \
             date, each with machine and date:",
            "cargo xtask bench\ncargo xtask compare",
        ),
        ("Read the top entry of CHANGELOG.md as a user would: what is new, what to do?", ""),
        ("Tag the commit:", &tag),
    ];
    if !names.is_empty() {
        steps.push(("Publish; cargo finds the order of the crates:", &publish));
    }
    steps.push(("Make a release of the tag on GitHub, with that entry as its text.", ""));
    steps.push((
        "Raise the version in Cargo.toml, and begin an entry `## Unreleased` in CHANGELOG.md.",
        "",
    ));
    let mut list = format!("To release {version}, in this order:\n");
    for (number, (text, commands)) in (1..).zip(steps) {
        list += &format!("\n{number}. {text}");
        list.extend(commands.lines().map(|command| format!("\n       {command}")));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, version: &str) -> Crate {
        Crate { name: name.to_owned(), version: version.to_owned(), publishable: false }
    }

    fn refusal(changelog: &str) -> String {
        check_changelog(changelog, "0.2.0", 7).unwrap_err().to_string()
    }

    #[test]
    fn an_entry_of_the_version_with_a_date_and_the_layout_is_accepted() {
        let changelog = "# Changelog\n\n## [0.2.0] - 2026-11-27\n\nPins have layout 7, as before.\n\
                         \n## [0.1.0] - 2026-01-01\n";
        check_changelog(changelog, "0.2.0", 7).unwrap();
        check_changelog(&changelog.replace(['[', ']'], ""), "0.2.0", 7).unwrap();
    }

    #[test]
    fn a_changelog_whose_top_entry_is_of_no_version_or_another_is_refused() {
        let released = "## [0.2.0] - 2026-11-27\n- layout 7\n";
        assert!(refusal(&format!("#\n\n## Unreleased\n\n{released}")).contains("`Unreleased`"));
        assert!(refusal("#\n\n## [0.1.0] - 2026-11-27\n").contains("[0.1.0]"));
        assert!(refusal("# Changelog\n").contains("no entry"));
    }

    #[test]
    fn an_entry_without_a_date_is_refused() {
        assert!(refusal("#\n\n## [0.2.0]\n- layout 7\n").contains("no date"));
    }

    #[test]
    fn an_entry_that_does_not_name_the_layout_is_refused() {
        let entry = |text| format!("#\n\n## [0.2.0] - 2026-11-27\n{text}\n");
        for text in ["- nothing", "- layout 6", "- layout 70", "## [0.1.0]\n- layout 7"] {
            assert!(refusal(&entry(text)).contains("`layout 7`"), "{text}");
        }
    }

    #[test]
    fn crates_of_different_versions_are_refused_by_name() {
        assert_eq!(common_version(&[one("a", "1.0.0"), one("b", "1.0.0")]).unwrap(), "1.0.0");
        let error = common_version(&[one("a", "1.0.0"), one("b", "1.0.1")]).unwrap_err();
        assert!(error.to_string().contains("but b has 1.0.1"), "{error}");
    }

    #[test]
    fn a_crate_with_an_empty_list_of_registries_is_not_published() {
        let metadata = serde_json::json!({"packages": [
            {"name": "kept", "version": "1.0.0", "publish": []},
            {"name": "given", "version": "1.0.0", "publish": null},
        ]});
        let crates = crates_in(&metadata).unwrap();
        assert_eq!(publishable(&crates), ["given"]);
        assert!(!checklist("1.0.0", &[]).contains("cargo publish"));
        assert!(checklist("1.0.0", &["given"]).contains("cargo publish --locked -p given"));
    }

    #[test]
    fn the_layout_is_read_out_of_the_source() {
        assert_eq!(layout_version("x\npub const LAYOUT_VERSION: u32 = 12;\n").unwrap(), 12);
        assert!(layout_version("pub const LAYOUT_VERSION: u32 = OTHER;").is_err());
    }
}
