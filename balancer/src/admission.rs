//! Whether a server that appears later is let into the group. Pure.

use std::collections::BTreeSet;

use clap::ValueEnum;

use balancer_steering::escape::printable;

/// Who is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Admit {
    /// Every process that shares the address
    All,
    /// A process with the command name of one of the first members
    SameCommand,
    /// No process
    None,
}

/// Who is let in, with the names of the first members.
#[derive(Clone, Debug)]
pub struct Admission {
    admit: Admit,
    commands: BTreeSet<String>,
}

impl Admission {
    /// With the command names of those that were there first.
    pub fn new(admit: Admit, commands: impl IntoIterator<Item = String>) -> Self {
        Self { admit, commands: commands.into_iter().collect() }
    }

    /// Whether a process of that command name is let in.
    ///
    /// # Errors
    /// With why it is not.
    pub fn admits(&self, command: &str) -> Result<(), String> {
        match self.admit {
            Admit::All => Ok(()),
            Admit::SameCommand if self.commands.contains(command) => Ok(()),
            Admit::SameCommand => {
                let names: Vec<_> = self.commands.iter().map(|name| printable(name)).collect();
                Err(format!("because --admit same-command admits only {}", names.join(", ")))
            }
            Admit::None => Err("because of --admit none".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_later_is_let_in_by_the_names_of_the_first() {
        let admits = |admit, command| {
            Admission::new(admit, ["nginx".to_owned(), "envoy".to_owned()]).admits(command).is_ok()
        };
        assert!(admits(Admit::All, "nc"));
        assert!(admits(Admit::SameCommand, "envoy") && !admits(Admit::SameCommand, "nc"));
        assert!(!admits(Admit::None, "nginx"));
    }

    #[test]
    fn one_that_is_held_back_is_told_which_names_are_not() {
        let admission = Admission::new(Admit::SameCommand, ["nginx".to_owned()]);
        assert!(admission.admits("nc").unwrap_err().contains("nginx"));
    }
}
