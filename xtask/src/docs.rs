//! `cargo xtask docs`: checks the links of all documents, then builds the book.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Component, Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use pulldown_cmark::{Event, Options as Extensions, Parser, Tag, TagEnd};

use crate::{command, workspace::Workspace};

/// Check the links of all documents and build the book with mdbook
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask docs
  cargo xtask docs --check     without mdbook, as `cargo xtask ci` does")]
pub struct Options {
    /// Check only: each relative link and anchor points to something, and each page is in the book
    #[arg(long)]
    check: bool,
}

/// The documents beside the book.
const BESIDE: [&str; 5] =
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"];

/// Where the book's pages are.
const BOOK: &str = "docs";

/// The book's table of contents.
const SUMMARY: &str = "docs/SUMMARY.md";

const INSTALL_MDBOOK: &str = "cargo install --locked mdbook";

/// Runs the verb.
pub fn docs(workspace: &Workspace, options: &Options) -> Result<()> {
    check(workspace)?;
    if options.check {
        return Ok(());
    }
    let probe = Command::new("mdbook").arg("--version").output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        bail!(
            "the links are fine, but mdbook, which builds the book, is not installed; install it: \
             {INSTALL_MDBOOK}"
        );
    }
    let book = workspace.target.join("book");
    let mut build = Command::new("mdbook");
    command::run(build.arg("build").arg(&workspace.root).arg("--dest-dir").arg(&book))?;
    println!("{}", book.join("index.html").display());
    Ok(())
}

/// Checks all documents.
pub fn check(workspace: &Workspace) -> Result<()> {
    let pages = read_pages(&workspace.root)?;
    let problems = problems(&pages, |path| workspace.root.join(path).exists());
    if !problems.is_empty() {
        bail!("the documents have mistakes:\n  {}", problems.join("\n  "));
    }
    println!("{} documents: every link points to something", pages.len());
    Ok(())
}

/// Every document by its path from the workspace's root.
fn read_pages(root: &Path) -> Result<BTreeMap<PathBuf, Page>> {
    let mut paths: Vec<PathBuf> = BESIDE.map(PathBuf::from).into();
    paths.retain(|path| root.join(path).exists());
    let mut directories = vec![PathBuf::from(BOOK)];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(root.join(&directory))
            .with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let path = directory.join(entry?.file_name());
            if root.join(&path).is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    let read = |path: PathBuf| {
        let text = fs::read_to_string(root.join(&path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok((path, Page::parse(&text)))
    };
    paths.into_iter().map(read).collect()
}

/// What other pages can point to in a page, and what it points to.
#[derive(Debug, Default)]
struct Page {
    anchors: BTreeSet<String>,
    links: Vec<Link>,
}

#[derive(Debug)]
struct Link {
    line: usize,
    target: String,
}

impl Page {
    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut headings: HashMap<String, u32> = HashMap::new();
        let mut heading: Option<String> = None;
        for (event, range) in Parser::new_ext(text, Extensions::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let slug = slug(&heading.take().unwrap_or_default());
                    let seen = headings.entry(slug.clone()).or_default();
                    page.anchors.insert(match *seen {
                        0 => slug,
                        again => format!("{slug}-{again}"),
                    });
                    *seen += 1;
                }
                Event::Text(part) | Event::Code(part) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&part);
                    }
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    let line = text[..range.start].matches('\n').count() + 1;
                    page.links.push(Link { line, target: dest_url.into_string() });
                }
                _ => {}
            }
        }
        page
    }
}

/// The anchor of a heading, as GitHub and mdbook make it.
fn slug(heading: &str) -> String {
    let kept = |c: char| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ => c.is_alphanumeric().then_some(c),
    };
    heading.trim().to_lowercase().chars().filter_map(kept).collect()
}

/// Links to nothing, and pages that are missing in the table of contents; each with its place.
fn problems(pages: &BTreeMap<PathBuf, Page>, exists: impl Fn(&Path) -> bool + Copy) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, page) in pages {
        for link in &page.links {
            if let Err(why) = follow(pages, path, &link.target, exists) {
                problems.push(format!("{}:{}: {why}", path.display(), link.line));
            }
        }
    }
    let summary = Path::new(SUMMARY);
    let listed: BTreeSet<PathBuf> = pages.get(summary).map_or_else(BTreeSet::new, |page| {
        page.links.iter().filter_map(|link| resolve(summary, &link.target)).collect()
    });
    for path in pages.keys().filter(|path| path.starts_with(BOOK) && *path != summary) {
        if !listed.contains(path) {
            problems.push(format!("{}: is not in {SUMMARY}", path.display()));
        }
    }
    problems
}

/// Whether the target of a link is there.
fn follow(
    pages: &BTreeMap<PathBuf, Page>,
    from: &Path,
    target: &str,
    exists: impl Fn(&Path) -> bool,
) -> Result<(), String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() { Some(from.to_path_buf()) } else { resolve(from, file) };
    let Some(path) = path else {
        return Err(format!("the link to {target} leaves the repository"));
    };
    if !exists(&path) {
        return Err(format!(
            "the link to {target} points to {}, which does not exist",
            path.display()
        ));
    }
    if from.starts_with(BOOK) && !path.starts_with(BOOK) {
        return Err(format!(
            "the link to {target} would be dead in the book, which has only {BOOK}/; name the file \
             without a link"
        ));
    }
    if anchor.is_empty() {
        return Ok(());
    }
    match pages.get(&path) {
        Some(page) if page.anchors.contains(anchor) => Ok(()),
        Some(_) => Err(format!(
            "the link to {target} names a heading that {} does not have",
            path.display()
        )),
        None => Err(format!(
            "the link to {target} has an anchor, but {} is not among the documents",
            path.display()
        )),
    }
}

/// Where a relative link of a page points to, from the workspace's root; nothing if that is outside.
fn resolve(from: &Path, file: &str) -> Option<PathBuf> {
    let mut path = from.parent()?.to_path_buf();
    for part in Path::new(file).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            _ => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The problems of these pages, beside a file `docs/chart.svg` and a file `Cargo.toml`.
    fn problems_of(pages: &[(&str, &str)]) -> Vec<String> {
        let parsed = |(path, text): &(&str, &str)| (PathBuf::from(path), Page::parse(text));
        let pages: BTreeMap<PathBuf, Page> = pages.iter().map(parsed).collect();
        let others = ["docs/chart.svg", "Cargo.toml"];
        problems(&pages, |path| {
            pages.contains_key(path) || others.iter().any(|other| path == Path::new(other))
        })
    }

    #[test]
    fn links_that_point_to_something_are_no_problem() {
        let found = problems_of(&[
            (
                "README.md",
                "[a](docs/a.md) [b](docs/a.md#two-words) [c](Cargo.toml) [d](#top)\n\n# Top",
            ),
            ("docs/a.md", "## Two words\n\n![chart](chart.svg) [web](https://example.org/#x)"),
            ("docs/SUMMARY.md", "- [A](./a.md)"),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn a_link_to_a_file_that_is_not_there_is_named_with_its_line() {
        let found = problems_of(&[("README.md", "text\n\nmore [gone](docs/gone.md)\n")]);
        assert_eq!(
            found,
            ["README.md:3: the link to docs/gone.md points to docs/gone.md, which does not exist"]
        );
    }

    #[test]
    fn an_image_that_is_not_there_is_named() {
        let found = problems_of(&[("README.md", "![chart](chart.svg)")]);
        assert!(found[0].contains("points to chart.svg"), "{found:?}");
    }

    #[test]
    fn an_anchor_without_its_heading_is_named() {
        let found = problems_of(&[
            ("README.md", "[a](#gone)\n\n# Here\n"),
            ("CHANGELOG.md", "[a](README.md#here)"),
        ]);
        assert_eq!(
            found,
            ["README.md:1: the link to #gone names a heading that README.md does not have"]
        );
    }

    #[test]
    fn a_page_that_is_missing_in_the_table_of_contents_is_named() {
        let found = problems_of(&[
            ("docs/SUMMARY.md", "- [A](a.md)"),
            ("docs/a.md", ""),
            ("docs/decisions/b.md", ""),
        ]);
        assert_eq!(found, ["docs/decisions/b.md: is not in docs/SUMMARY.md"]);
    }

    #[test]
    fn a_page_of_the_book_links_to_nothing_outside_the_book() {
        let pages = [("docs/SUMMARY.md", "- [A](a.md)"), ("docs/a.md", "[x](../Cargo.toml)")];
        let found = problems_of(&pages);
        assert!(found[0].contains("would be dead in the book"), "{found:?}");
    }

    #[test]
    fn a_link_out_of_the_repository_is_named() {
        let found = problems_of(&[("README.md", "[x](../elsewhere.md)")]);
        assert!(found[0].contains("leaves the repository"), "{found:?}");
    }

    #[test]
    fn links_in_code_are_no_links() {
        assert_eq!(problems_of(&[("README.md", "`[a](gone.md)`\n\n    [b](gone.md)\n")]), [""; 0]);
    }

    #[test]
    fn anchors_are_made_as_github_makes_them() {
        assert_eq!(slug("`status --json`"), "status---json");
        assert_eq!(slug("Drain: take a worker out"), "drain-take-a-worker-out");
        assert_eq!(slug("Against the kernel's hash"), "against-the-kernels-hash");
        let page = Page::parse("# One\n\n# One\n\n## `a` and *b*\n");
        assert_eq!(page.anchors, ["one", "one-1", "a-and-b"].map(str::to_owned).into());
    }
}
