//! Programs that some tests need and that not every machine has.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Whether there is such a program. Where CI is, there must be; elsewhere, the test that asks is
/// skipped, and says so.
pub fn there(program: &str) -> bool {
    let found = find(program).is_some();
    if !found {
        assert!(env::var_os("CI").is_none(), "CI needs {program}");
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Where root's programs are is not on everybody's path.
    let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.map(|directory| directory.join(program)).find(|path| Path::is_file(path))
}
