//! Who may change a group, or what all groups share: one process at a time, by a `flock` on the
//! directory. Commands wait some seconds for it and then name who has it; an agent only tries.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use procfs::process::Process;
use rustix::{
    fs::{FlockOperation, flock, major, minor},
    io::Errno,
};

use crate::{
    error::{Context as _, Error, Result},
    escape::printable,
};

/// How long a command waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it tries meanwhile.
const INTERVAL: Duration = Duration::from_millis(5);

/// How often it is looked who has the lock: a listing of all is no snapshot, and may leave out one that is
/// there while others go.
const LOOKS: u32 = 5;

/// How much of a command line is shown.
const SHOWN: usize = 80;

/// Exclusive use of a group's state; released when dropped, or when the process ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its flock")] File);

impl Lock {
    /// Of a file that is locked.
    pub(super) fn of(locked: File) -> Self {
        Self(locked)
    }
}

/// What to do if another process has the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Wait, for a time.
    Some,
    /// Give up at once.
    None,
}

/// The process that has a lock.
#[derive(Debug)]
struct Holder {
    pid: u32,
    /// None if it is gone: a child of it has inherited the lock.
    command: Option<String>,
    stopped: bool,
}

impl Holder {
    fn shown(holder: Option<&Self>) -> String {
        let Some(Self { pid, command, stopped }) = holder else {
            return "a process that is not visible here, in another PID namespace; wait until it has \
                    ended"
                .to_owned();
        };
        let end = format!("or end it with `kill -KILL {pid}`");
        match (command, stopped) {
            (None, _) => {
                format!("a child of PID {pid}, which has ended; wait until that child has")
            }
            (Some(command), false) => {
                format!("PID {pid} (`{command}`); wait until it has ended, {end}")
            }
            (Some(command), true) => format!(
                "PID {pid} (`{command}`), which is stopped; let it go on with `kill -CONT {pid}`, {end}"
            ),
        }
    }
}

/// The lock of the group in that directory; `None` if that directory, by its inode, is gone.
///
/// # Errors
/// Of the kind [`Busy`](crate::error::ErrorKind::Busy) if another process has it and goes on to.
pub(super) fn group(directory: &Path, inode: u64, wait: Wait) -> Result<Option<Lock>> {
    let what = || format!("the group {}", directory.file_name().unwrap_or_default().display());
    let file = match File::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => lock(opened, wait, what)?,
    };
    // It may have been given back while we waited, and its name be another's by now.
    let there = fs::metadata(directory).is_ok_and(|metadata| metadata.ino() == inode);
    let same = file.metadata().is_ok_and(|metadata| metadata.ino() == inode);
    Ok((there && same).then_some(Lock(file)))
}

/// The lock of what all groups share, by the directory of one of them.
///
/// # Errors
/// As [`group`].
pub(super) fn host(group: &Path, wait: Wait) -> Result<Lock> {
    let bpffs = group.ancestors().nth(2).unwrap_or(group);
    lock(File::open(bpffs), wait, || format!("the bpffs {}", bpffs.display())).map(Lock)
}

fn lock(file: io::Result<File>, wait: Wait, what: impl Fn() -> String) -> Result<File> {
    let cannot = || format!("cannot lock {}", what());
    let file = file.with_context(cannot)?;
    let deadline = Instant::now() + if wait == Wait::Some { PATIENCE } else { Duration::ZERO };
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(INTERVAL),
            Err(Errno::WOULDBLOCK) => {
                let holder = holder_of(&file);
                let holder = Holder::shown(holder.as_ref());
                return Err(Error::busy(format_args!("{} is locked by {holder}", what())));
            }
            Err(error) => return Err(error).with_context(cannot),
        }
    }
}

fn holder_of(file: &File) -> Option<Holder> {
    let metadata = file.metadata().ok()?;
    let pid = (0..LOOKS).find_map(|_| owner(&metadata).ok()?)?;
    let process = Process::new(i32::try_from(pid).ok()?).ok();
    let command = process.as_ref().and_then(|process| process.cmdline().ok());
    let command =
        command.filter(|words| !words.is_empty()).map(|words| shortened(&words.join(" ")));
    let stopped = process.and_then(|process| process.stat().ok()).is_some_and(|s| s.state == 'T');
    Some(Holder { pid, command, stopped })
}

/// The process that has locked a file.
pub(super) fn owner(file: &Metadata) -> Result<Option<u32>> {
    let locks = fs::read_to_string("/proc/locks").context("cannot read /proc/locks")?;
    let (dev, inode) = (file.dev(), file.ino());
    let place = format!("{:02x}:{:02x}:{inode}", major(dev), minor(dev));
    Ok(locks.lines().find_map(|line| owner_in(line, &place)))
}

/// Reads `7: FLOCK  ADVISORY  WRITE 811 00:2f:1234 0 EOF`. Of one that waits for the lock, an arrow
/// precedes the kind.
fn owner_in(line: &str, place: &str) -> Option<u32> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", pid, there, ..] = words[..] else { return None };
    // 0 is a process that is not seen from this PID namespace.
    pid.parse().ok().filter(|pid| there == place && *pid != 0)
}

fn shortened(command: &str) -> String {
    let command = printable(command).into_owned();
    match command.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &command[..end]),
        None => command,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_owner_of_a_lock_is_found_and_who_waits_for_it_is_not() {
        let owner = |line| owner_in(line, "00:2f:1234");
        assert_eq!(owner("7: FLOCK  ADVISORY  WRITE 811 00:2f:1234 0 EOF"), Some(811));
        for other in [
            "7: -> FLOCK  ADVISORY  WRITE 811 00:2f:1234 0 EOF",
            "7: FLOCK  ADVISORY  WRITE 811 00:2f:12345 0 EOF",
            "7: FLOCK  ADVISORY  WRITE 811 00:30:1234 0 EOF",
            "7: FLOCK  ADVISORY  READ 811 00:2f:1234 0 EOF",
            "7: POSIX  ADVISORY  WRITE 811 00:2f:1234 0 EOF",
            "7: FLOCK  ADVISORY  WRITE 0 00:2f:1234 0 EOF",
            "7: FLOCK  ADVISORY  WRITE 811 <none>:0 0 EOF",
            "",
        ] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn a_second_lock_is_refused_with_who_has_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let inode = fs::metadata(directory).unwrap().ino();
        let first = group(directory, inode, Wait::None).unwrap();
        let error = group(directory, inode, Wait::None).unwrap_err();
        let own = format!("PID {}", std::process::id());
        assert!(
            error.kind() == ErrorKind::Busy && format!("{error:#}").contains(&own),
            "{error:#}"
        );
        drop(first);
        assert!(group(directory, inode, Wait::None).unwrap().is_some());
        assert!(group(directory, inode + 1, Wait::None).unwrap().is_none());
    }

    proptest! {
        #[test]
        fn no_line_makes_the_reader_panic(line: String, command: String) {
            owner_in(&line, "00:01:2");
            owner_in(&format!("1: FLOCK ADVISORY WRITE {line}"), "00:01:2");
            shortened(&command.repeat(9));
        }
    }
}
