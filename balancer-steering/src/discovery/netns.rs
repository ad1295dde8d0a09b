//! Network namespaces: naming one, finding all, and doing something inside.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    str::FromStr,
    thread,
};

use crate::error::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const OWN: &str = "/proc/thread-self/ns/net";

/// What `--netns` names: the namespace of a process, or one that is mounted at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsArgument {
    /// That which a process is in.
    Process(u32),
    /// That which a file stands for.
    Path(PathBuf),
}

impl fmt::Display for NetnsArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => pid.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// Why a text names no network namespace.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` does not name a network namespace; write a PID, or a path such as /run/netns/NAME (`lsns -t net` \
     and `ip netns` list them)"
)]
pub struct NetnsArgumentError(String);

impl FromStr for NetnsArgument {
    type Err = NetnsArgumentError;

    fn from_str(text: &str) -> Result<Self, NetnsArgumentError> {
        match text.parse() {
            Ok(pid) if pid > 0 => Ok(Self::Process(pid)),
            Err(_) if text.contains('/') => Ok(Self::Path(text.into())),
            _ => Err(NetnsArgumentError(text.to_owned())),
        }
    }
}

impl NetnsArgument {
    fn path(&self) -> PathBuf {
        match self {
            Self::Process(pid) => format!("/proc/{pid}/ns/net").into(),
            Self::Path(path) => path.clone(),
        }
    }
}

/// A network namespace, kept from going away.
#[derive(Debug)]
pub struct Netns {
    file: File,
    inode: u64,
    path: PathBuf,
}

impl Netns {
    /// The one this thread is in.
    ///
    /// # Errors
    /// Returns an error if /proc cannot be read.
    pub fn own() -> Result<Self> {
        Self::at(Path::new(OWN)).with_context(|| format!("cannot open {OWN}"))
    }

    /// The one that is named.
    ///
    /// # Errors
    /// Returns an error if there is none, or it is not ours to see.
    pub fn open(argument: &NetnsArgument) -> Result<Self> {
        let path = argument.path();
        let shown = path.display();
        match (argument, Self::at(&path)) {
            (_, Ok(netns)) => Ok(netns),
            (NetnsArgument::Process(pid), Err(error))
                if error.kind() == io::ErrorKind::NotFound =>
            {
                bail!("there is no process {pid}, so it has no network namespace ({shown})")
            }
            (NetnsArgument::Path(_), Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                bail!(
                    "there is no network namespace {shown}; `ip netns` and `lsns -t net` list them"
                )
            }
            (_, Err(error)) => {
                Err(error).with_context(|| format!("cannot open the network namespace {shown}"))
            }
        }
    }

    fn at(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode, path: path.to_owned() })
    }

    /// Its inode, as in `readlink /proc/PID/ns/net`.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Does something inside. A thread goes there and ends; the caller stays where it is.
    ///
    /// # Errors
    /// Returns an error if the namespace cannot be entered (that takes CAP_SYS_ADMIN unless it is our own), or
    /// what is done there fails.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        if self.is_own()? {
            return inside();
        }
        let entered = || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(self.file.as_fd(), network).map_err(cannot_enter)?;
            inside()
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().spawn_scoped(scope, entered)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn is_own(&self) -> io::Result<bool> {
        let (this, own) = (self.file.metadata()?, fs::metadata(OWN)?);
        Ok((this.dev(), this.ino()) == (own.dev(), own.ino()))
    }
}

fn cannot_enter(error: rustix::io::Errno) -> io::Error {
    io::Error::other(match error {
        rustix::io::Errno::INVAL => "it is not a network namespace".to_owned(),
        rustix::io::Errno::PERM => {
            "it cannot be entered without CAP_SYS_ADMIN; run as root".to_owned()
        }
        error => format!("it cannot be entered: {error}"),
    })
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// The network namespaces that processes are in, each once, opened one at a time: there may be more
/// than we may have files open. One without any process, kept by a mount alone, is not among them:
/// its path must be given.
///
/// # Errors
/// Returns an error if /proc cannot be read.
pub fn all() -> Result<impl Iterator<Item = Netns>> {
    let processes = procfs::process::all_processes().context("cannot list the processes")?;
    let mut seen = HashSet::new();
    Ok(processes.flatten().filter_map(move |process| {
        let path = NetnsArgument::Process(process.pid.unsigned_abs()).path();
        // Where it cannot be opened, the process is gone, or another user's.
        let netns = Netns::at(&path).ok()?;
        seen.insert(netns.inode).then_some(netns)
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_is_a_process_and_a_path_is_a_path() {
        assert_eq!("811".parse(), Ok(NetnsArgument::Process(811)));
        let path = PathBuf::from("/run/netns/blue");
        assert_eq!("/run/netns/blue".parse(), Ok(NetnsArgument::Path(path)));
    }

    #[test]
    fn what_is_neither_is_refused_by_its_value_with_what_to_write() {
        for text in ["", "0", "blue", "-1", "99999999999"] {
            let message = text.parse::<NetnsArgument>().unwrap_err().to_string();
            assert!(message.contains(&format!("`{text}`")) && message.contains("/run/netns/"));
        }
    }

    #[test]
    fn a_namespace_that_is_not_there_is_refused_by_what_was_tried() {
        for (text, tried) in
            [("4194304", "no process 4194304"), ("/run/netns/no-such", "/run/netns/no-such")]
        {
            let error = Netns::open(&text.parse().unwrap()).unwrap_err();
            assert!(format!("{error:#}").contains(tried), "{error:#}");
        }
    }

    #[test]
    fn ones_own_namespace_is_entered_without_any_right() {
        let own = Netns::open(&NetnsArgument::Process(std::process::id())).unwrap();
        assert_eq!(own.inode(), Netns::own().unwrap().inode());
        assert_eq!(own.run(|| Ok(7)).unwrap(), 7);
    }

    #[test]
    fn a_file_that_is_no_namespace_is_not_entered() {
        let file = Netns::open(&NetnsArgument::Path("/proc/self/stat".into())).unwrap();
        assert!(file.run(|| Ok(())).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<NetnsArgument>();
        }
    }
}
