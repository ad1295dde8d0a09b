//! Of the processes that hold a socket, which one accepts from it. nginx opens all sockets in its
//! master, so every worker holds every socket, and so does any server that opens before it forks.

use super::holders::HeldBy;

/// The process that accepts from a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'a> {
    pub held: &'a HeldBy,
    /// Several were as likely.
    pub guessed: bool,
}

/// Those that poll the socket go before those that only hold it, and children before their
/// parents; of several that are left it is a guess, the lowest PID.
pub(super) fn worker(holders: &[HeldBy]) -> Option<Choice<'_>> {
    let mut likely: Vec<&HeldBy> = holders.iter().filter(|held| held.polls).collect();
    if likely.is_empty() {
        likely = holders.iter().collect();
    }
    let is_parent = |held: &HeldBy| likely.iter().any(|other| other.parent == pid(held));
    let children: Vec<&HeldBy> = likely.iter().copied().filter(|held| !is_parent(held)).collect();
    let held = children.iter().copied().min_by_key(|held| pid(held))?;
    Some(Choice { held, guessed: children.len() > 1 })
}

fn pid(held: &HeldBy) -> u32 {
    held.holder.process.pid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{discovery::Holder, process::Identity};

    fn held(pid: u32, parent: u32, polls: bool) -> HeldBy {
        let process = Identity { pid, start: 0 };
        HeldBy { holder: Holder { process, fd: 3, command: String::new() }, parent, polls }
    }

    fn chosen(holders: &[HeldBy]) -> Option<(u32, bool)> {
        worker(holders).map(|choice| (pid(choice.held), choice.guessed))
    }

    #[test]
    fn nobody_is_chosen_of_none() {
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn the_only_holder_needs_not_poll() {
        assert_eq!(chosen(&[held(7, 1, false)]), Some((7, false)));
    }

    #[test]
    fn of_nginx_and_its_workers_the_one_that_polls_is_chosen() {
        let holders = [held(7, 1, false), held(8, 7, false), held(9, 7, true)];
        assert_eq!(chosen(&holders), Some((9, false)));
    }

    #[test]
    fn where_nobody_is_seen_to_poll_the_child_is_chosen() {
        assert_eq!(chosen(&[held(7, 1, false), held(8, 7, false)]), Some((8, false)));
    }

    #[test]
    fn a_poller_is_chosen_though_it_has_children_that_only_hold() {
        assert_eq!(chosen(&[held(7, 1, true), held(8, 7, false)]), Some((7, false)));
    }

    #[test]
    fn of_a_poller_and_its_child_with_the_same_epoll_the_child_is_chosen() {
        assert_eq!(chosen(&[held(7, 1, true), held(8, 7, true)]), Some((8, false)));
    }

    #[test]
    fn of_brothers_the_lowest_pid_is_guessed() {
        let holders = [held(7, 1, false), held(9, 7, false), held(8, 7, false)];
        assert_eq!(chosen(&holders), Some((8, true)));
        let pollers = [held(9, 7, true), held(8, 7, true), held(5, 7, false)];
        assert_eq!(chosen(&pollers), Some((8, true)));
    }
}
