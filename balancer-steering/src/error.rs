//! What can go wrong with a group, as a sentence with its causes, and as a kind that a caller can act on.

use std::{error::Error as StdError, fmt};

/// The result of what may go wrong with a group.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The group was given back to the kernel: its pins are gone.
    Gone,
    /// Another program steers the group; it can be replaced, and not be put back.
    Taken,
    /// Another process has the lock, and goes on to: another try may succeed.
    Busy,
    /// There is no bpffs, nor can one be mounted there.
    NoBpffs,
    /// Something else; the sentence says what.
    Other,
}

/// An error: what was tried, with its causes as [`StdError::source`].
///
/// `{}` shows the sentence, `{:#}` the causes too, each after a colon.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    /// `None` where the cause says enough.
    sentence: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error without a cause.
    pub(crate) fn new(sentence: impl fmt::Display) -> Self {
        Self { kind: ErrorKind::Other, sentence: Some(sentence.to_string()), source: None }
    }

    /// An error with its cause, whose kind it keeps.
    pub(crate) fn of(
        cause: impl StdError + Send + Sync + 'static,
        sentence: impl fmt::Display,
    ) -> Self {
        let source: Box<dyn StdError + Send + Sync> = Box::new(cause);
        let kind = source.downcast_ref().map_or(ErrorKind::Other, Self::kind);
        Self { kind, sentence: Some(sentence.to_string()), source: Some(source) }
    }

    /// The group of this name is not there any more.
    pub(crate) fn gone(name: &str) -> Self {
        let sentence =
            format!("the group {name} was given back to the kernel just now; nothing was changed");
        Self { kind: ErrorKind::Gone, sentence: Some(sentence), source: None }
    }

    /// An error without a cause that a caller can do something about.
    pub(crate) fn of_kind(kind: ErrorKind, sentence: impl fmt::Display) -> Self {
        Self { kind, ..Self::new(sentence) }
    }

    /// Another process has a lock.
    pub(crate) fn busy(sentence: impl fmt::Display) -> Self {
        Self { kind: ErrorKind::Busy, ..Self::new(sentence) }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The first cause of this type.
    pub(crate) fn cause<E: StdError + 'static>(&self) -> Option<&E> {
        let mut next = self.source.as_deref().map(|source| source as &(dyn StdError + 'static));
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            if let Some(ours) = error.downcast_ref::<Self>() {
                return ours.cause();
            }
            next = error.source();
        }
        None
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.sentence, &self.source) {
            (Some(sentence), _) => f.write_str(sentence)?,
            (None, Some(source)) => write!(f, "{source}")?,
            (None, None) => {}
        }
        let mut next = self.source().filter(|_| f.alternate());
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.source.as_deref()?;
        if self.sentence.is_none() { source.source() } else { Some(source) }
    }
}

/// Says what was tried when something went wrong.
pub(crate) trait Context<T> {
    /// With a sentence.
    fn context(self, sentence: impl fmt::Display) -> Result<T>;

    /// With a sentence that is made only if it is needed.
    fn with_context<S: fmt::Display>(self, sentence: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: StdError + Send + Sync + 'static> Context<T> for std::result::Result<T, E> {
    fn context(self, sentence: impl fmt::Display) -> Result<T> {
        self.with_context(|| sentence)
    }

    fn with_context<S: fmt::Display>(self, sentence: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::of(error, sentence()))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, sentence: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Error::new(sentence))
    }

    fn with_context<S: fmt::Display>(self, sentence: impl FnOnce() -> S) -> Result<T> {
        self.ok_or_else(|| Error::new(sentence()))
    }
}

/// Errors that say enough by themselves become the sentence; their own causes stay.
macro_rules! from {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self { kind: ErrorKind::Other, sentence: None, source: Some(Box::new(error)) }
            }
        }
    )*};
}

from!(
    crate::group::ForeignRecord,
    aya::EbpfError,
    btf_rs::Error,
    aya::maps::MapError,
    aya::pin::PinError,
    aya::programs::ProgramError,
    aya::programs::links::LinkError,
    procfs::ProcError,
    rustix::io::Errno,
    std::io::Error,
    std::num::TryFromIntError,
);

/// An error with this sentence.
macro_rules! error {
    ($($sentence:tt)*) => {
        $crate::error::Error::new(format_args!($($sentence)*))
    };
}

/// Returns an error with this sentence.
macro_rules! bail {
    ($($sentence:tt)*) => {
        return Err($crate::error::error!($($sentence)*))
    };
}

/// Returns an error with this sentence unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $sentence:expr $(, $arguments:expr)*) => {
        if !$condition {
            return Err($crate::error::Error::new(format_args!($sentence $(, $arguments)*)))
        }
    };
}

pub(crate) use {bail, ensure, error};
