//! What SIGHUP means to `run`: a reload, as to most servers; unless nobody has asked for one and the
//! terminal is gone.

use std::fs::File;

use procfs::process::Process;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// New workers.
    Reload,
    /// The end: the terminal is gone, and with it who started this.
    Stop,
    /// Nothing: what was started by nohup goes on without its terminal.
    Nothing,
}

/// How this process was started, as far as SIGHUP is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    had_terminal: bool,
    by_nohup: bool,
}

impl Start {
    /// Looks, before SIGHUP is waited for.
    pub fn look() -> Self {
        let status = Process::myself().and_then(|myself| myself.status());
        // SIGHUP is the first.
        Self { had_terminal: has_terminal(), by_nohup: status.is_ok_and(|s| s.sigign & 1 != 0) }
    }

    /// What a SIGHUP means that has come now; `balancer reload` notes that it asks.
    pub fn hangup(self, reload_is_asked: bool) -> Asked {
        self.meaning(has_terminal() || reload_is_asked)
    }

    fn meaning(self, has_terminal_or_is_asked: bool) -> Asked {
        match (self.had_terminal && !has_terminal_or_is_asked, self.by_nohup) {
            (false, _) => Asked::Reload,
            (true, false) => Asked::Stop,
            (true, true) => Asked::Nothing,
        }
    }
}

/// Whether this process has a controlling terminal. The kernel takes a terminal that is gone away
/// from its session before it tells anybody.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_asks_for_a_reload_unless_the_terminal_has_just_gone() {
        let meaning = |had_terminal, by_nohup, has_terminal| {
            Start { had_terminal, by_nohup }.meaning(has_terminal)
        };
        assert_eq!(meaning(true, false, true), Asked::Reload);
        assert_eq!(meaning(false, false, false), Asked::Reload);
        assert_eq!(meaning(true, false, false), Asked::Stop);
        assert_eq!(meaning(true, true, false), Asked::Nothing);
        assert_eq!(meaning(true, true, true), Asked::Reload);
    }
}
