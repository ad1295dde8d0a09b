//! What some tests need: programs and kernels that not every machine has, and how a test says that it is
//! skipped.

use std::{
    env,
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use balancer_steering::kernel::{self, Release};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

/// Whether the running kernel is of this release or newer. If not, the test that asks is skipped, and
/// says so; if so, it shall fail where the kernel lacks something.
pub fn needs_kernel(major: u32, minor: u32) -> bool {
    let (needed, running) = (Release { major, minor }, kernel::release());
    let enough = Release::parse(&running).expect("a release") >= needed;
    if !enough {
        skip(&format!("this needs Linux {needed}, and runs on {running}"));
    }
    enough
}

/// Whether there is such a program. Where CI is, there must be; elsewhere, the test that asks is
/// skipped, and says so.
pub fn there(program: &str) -> bool {
    let found = find(program).is_some();
    if !found {
        lacking(program);
    }
    found
}

/// The test that says this is skipped for want of something; where CI is, it fails.
pub fn lacking(what: &str) {
    assert!(env::var_os("CI").is_none(), "CI needs {what}");
    skip(&format!("there is no {what} here"));
}

/// Says that a test is skipped: on a line past libtest, which shows nothing of a test that passed, and in
/// the file that `cargo xtask test` reads afterwards.
pub fn skip(why: &str) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    let line = format!("SKIPPED: {test}: {why}\n");
    let _ = io::stdout().write_all(line.as_bytes());
    if let Some(path) = env::var_os("BALANCER_SKIPPED") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("a line in a file");
    }
}

/// Changes the rules for packets in this network namespace.
pub fn nft(rule: &str) {
    assert!(Command::new("nft").arg(rule).status().unwrap().success(), "{rule}");
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Where root's programs are is not on everybody's path.
    let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.map(|directory| directory.join(program)).find(|path| Path::is_file(path))
}

/// Whether a process has a file open, or a directory in order to lock it: who lists one opens it too, for a moment.
pub fn has_open(process: u32, place: &Path) -> bool {
    let lists = |fd: &OsStr| {
        let info = fs::read_to_string(Path::new(&format!("/proc/{process}/fdinfo")).join(fd));
        let info = info.unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        flags.is_none_or(|flags| flags & OFlags::DIRECTORY.bits() != 0)
    };
    let fds = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let mut opened = fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|open| open == place));
    opened.any(|fd| !lists(&fd.file_name()))
}

/// Makes a FIFO: who opens it waits until somebody opens the other end.
pub fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a FIFO");
}
