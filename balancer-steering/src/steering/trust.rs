//! Whose pins are used: those that nobody but root, or who runs the command, can have made or can
//! change. A map of a stranger's making could steer connections where the stranger likes, and a
//! symbolic link have us remove what is not ours.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use crate::error::{Context as _, Result, bail};
use rustix::process::geteuid;

const OTHERS_MAY_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Checks a pin, or a directory with all that is in it. What is not there is nobody's.
///
/// # Errors
/// Names what is a symbolic link, somebody else's, or open to changes by others.
pub(super) fn check_all(path: &Path) -> Result<()> {
    if !check(path)?.is_some_and(|metadata| metadata.is_dir()) {
        return Ok(());
    }
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => {
            entries.with_context(|| format!("cannot list the pins at {}", path.display()))?
        }
    };
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths.try_for_each(|path| check_all(&path))
}

/// Checks a pin or a directory, and not what is in it; `None` where it is not there.
///
/// # Errors
/// As [`check_all`].
pub(super) fn check(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot stat {}", path.display())),
        Ok(metadata) => judge(path, &metadata, OTHERS_MAY_WRITE).map(|()| Some(metadata)),
    }
}

/// Checks where the directory of all groups stands: others may have something there too, as under
/// /tmp, but not take ours away.
///
/// # Errors
/// As [`check_all`].
pub(super) fn check_bpffs(path: &Path) -> Result<()> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot stat {}", path.display()))?;
    let forbidden = if metadata.mode() & STICKY == 0 { OTHERS_MAY_WRITE } else { 0 };
    judge(path, &metadata, forbidden)
}

fn judge(path: &Path, metadata: &Metadata, forbidden: u32) -> Result<()> {
    let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let what = if metadata.is_symlink() {
        "is a symbolic link".to_owned()
    } else if uid != 0 && uid != geteuid().as_raw() {
        format!("belongs to UID {uid}")
    } else if mode & forbidden != 0 {
        format!("can be written by others (mode {mode:04o})")
    } else {
        return Ok(());
    };
    bail!(
        "{} {what}, and balancer uses only pins that nobody but root can have made or changed; find \
         out whose it is, then remove it or give it back to root alone",
        path.display()
    )
}
