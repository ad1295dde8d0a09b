//! Which slots a drain or its end concerns, and which drain makes no sense. Pure.

use balancer_steering::{
    policy::Policy,
    snapshot::{MemberInfo, MemberState},
    who::Who,
};

/// Why members are not drained, or not taken back. Each says what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody of the group.
    #[error("{who} is not {} of the {of}; its {} are {there}", part(*who), parts(*who))]
    Unknown {
        /// Who was named.
        who: Who,
        /// Where: `group tcp-80`, `service web`.
        of: String,
        /// Who there is.
        there: String,
    },
    /// Which one is not said: each group of a service has slots of its own.
    #[error(
        "{} is of one group, and the service {service} has several; name the group with --group instead, or \
         the worker by its PID",
        who.typed()
    )]
    SlotOfService {
        /// Who was named.
        who: Who,
        /// Where.
        service: String,
    },
    /// Its socket is gone.
    #[error("{0} no longer has a socket, so there is nothing to drain or to resume")]
    Dead(Who),
    /// It gets nothing yet, and would be put in the table once it is ready.
    #[error("{0} is starting and gets no connections yet; try again when it is live")]
    Starting(Who),
    /// It gets nothing any more, and ends.
    #[error(
        "{0} is being replaced: it gets no new connections, and ends once it has none left; wait \
         for that, or stop it"
    )]
    Leaving(Who),
    /// Those who are replaced would get connections again, and their successors before they are ready.
    #[error(
        "the workers of {group} are being replaced, which under the policy {policy} would lose \
         connections; wait until the reload has ended (`balancer status` shows which of them are \
         starting or draining)"
    )]
    Reloading {
        /// The policy asked for.
        policy: &'static str,
        /// Where.
        group: String,
    },
    /// Nobody would be left.
    #[error(
        "{named} cannot be drained: no other worker is live, so the kernel would still give it new \
         connections instead of refusing them; {remedy}, or stop it"
    )]
    Last {
        /// All that were named, `PID 7, slot 8`.
        named: String,
        /// What could be done before.
        remedy: String,
    },
    /// Nobody looks at the table.
    #[error(
        "under the policy {policy} balancer does not choose, so no worker can be drained; switch \
         first, for example: balancer policy {instead} --group {group}"
    )]
    Unsteered {
        /// The policy in force.
        policy: &'static str,
        /// One that would do.
        instead: &'static str,
        /// Where.
        group: String,
    },
    /// They would get connections again.
    #[error(
        "the policy {policy} cannot leave out drained workers: {drained} would get new connections \
         again; resume them first: balancer resume --group {group} {typed}"
    )]
    Drained {
        /// The policy asked for.
        policy: &'static str,
        /// `PID 7, slot 8`.
        drained: String,
        /// `7 slot:8`.
        typed: String,
        /// Where.
        group: String,
    },
}

/// The slots to be drained, those included that are already.
///
/// # Errors
/// Returns an error if one of them cannot be, or nobody would be left.
pub fn to_drain(
    group: &str,
    policy: Policy,
    members: &[MemberInfo],
    whom: &[Who],
) -> Result<Vec<u32>, Refusal> {
    if !policy.steers() {
        let (policy, instead) = (policy.name(), Policy::Hash.name());
        return Err(Refusal::Unsteered { policy, instead, group: group.to_owned() });
    }
    let slots = slots(group, members, whom)?;
    let others = || members.iter().filter(|member| !slots.contains(&member.slot));
    if !others().any(|member| member.state.is_in_table()) {
        let others: Vec<MemberInfo> = others().cloned().collect();
        let drained = list(&drained(&others), Who::typed, " ");
        return Err(Refusal::Last {
            named: list(whom, |who| who.to_string(), ", "),
            remedy: if drained.is_empty() {
                "start another first".to_owned()
            } else {
                format!("take another back first (balancer resume --group {group} {drained})")
            },
        });
    }
    Ok(slots)
}

/// The slots that are taken back.
///
/// # Errors
/// Returns an error if one of them cannot be.
pub fn to_resume(group: &str, members: &[MemberInfo], whom: &[Who]) -> Result<Vec<u32>, Refusal> {
    slots(group, members, whom)
}

/// Whether a group may be switched to a policy as it is.
///
/// # Errors
/// Returns an error if drained members would be chosen again, or those who are replaced in a reload.
pub fn check_policy(
    group: &str,
    policy: Policy,
    members: &[MemberInfo],
    reloading: bool,
) -> Result<(), Refusal> {
    if policy.steers() {
        return Ok(());
    }
    // One may be left of a reload that was cut short.
    if reloading || members.iter().any(|member| member.state == MemberState::Leaving) {
        return Err(Refusal::Reloading { policy: policy.name(), group: group.to_owned() });
    }
    let drained = drained(members);
    if drained.is_empty() {
        return Ok(());
    }
    Err(Refusal::Drained {
        policy: policy.name(),
        drained: list(&drained, |who| who.to_string(), ", "),
        typed: list(&drained, Who::typed, " "),
        group: group.to_owned(),
    })
}

/// Who is drained: processes by their PIDs, each once; of a process that has other sockets, the slots.
pub fn drained(members: &[MemberInfo]) -> Vec<Who> {
    let drained = members.iter().filter(|member| member.state == MemberState::Draining);
    let whole = |pid| !members.iter().any(|m| m.pid == pid && m.state.is_in_table());
    let mut all = Vec::new();
    for &MemberInfo { pid, slot, .. } in drained {
        let who = if whole(pid) { Who::Pid(pid) } else { Who::Slot(slot) };
        if !all.contains(&who) {
            all.push(who);
        }
    }
    all
}

/// The slots of those that have a socket: a process may have several, and be shown with a dead one besides.
fn slots(group: &str, members: &[MemberInfo], whom: &[Who]) -> Result<Vec<u32>, Refusal> {
    let mut all = Vec::new();
    for &who in whom {
        let meant = members.iter().filter(|member| who.is(member.slot, member.pid));
        let (usable, others): (Vec<_>, Vec<_>) =
            meant.partition(|m| m.state.is_in_table() || m.state == MemberState::Draining);
        if usable.is_empty() {
            return Err(match others.first().map(|member| member.state) {
                None => {
                    let members = members.iter().map(|member| (member.slot, member.pid));
                    unknown(&format!("group {group}"), members, who)
                }
                Some(MemberState::Starting) => Refusal::Starting(who),
                Some(MemberState::Leaving) => Refusal::Leaving(who),
                Some(_) => Refusal::Dead(who),
            });
        }
        all.extend(usable.iter().map(|member| member.slot));
    }
    Ok(all)
}

/// Somebody is not among the members of a group or service, of which these are the slots and PIDs.
pub fn unknown(of: &str, members: impl Iterator<Item = (u32, u32)>, who: Who) -> Refusal {
    let mut there: Vec<String> = Vec::new();
    for (slot, pid) in members {
        let one = if who.pid().is_some() { pid } else { slot }.to_string();
        if !there.contains(&one) {
            there.push(one);
        }
    }
    let there = there.join(", ");
    Refusal::Unknown { who, of: of.to_owned(), there }
}

fn part(who: Who) -> &'static str {
    if who.pid().is_some() { "a worker" } else { "a slot" }
}

fn parts(who: Who) -> &'static str {
    if who.pid().is_some() { "workers" } else { "slots" }
}

fn list(whom: &[Who], word: impl Fn(Who) -> String, between: &str) -> String {
    whom.iter().map(|&who| word(who)).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_steering::snapshot::Tally;

    use MemberState::{Dead, Draining, Leaving, Live, Starting};

    fn members(states: &[(u32, MemberState)]) -> Vec<MemberInfo> {
        (0..)
            .zip(states)
            .map(|(slot, &(pid, state))| MemberInfo {
                slot,
                pid,
                weight: 1,
                state,
                open: None,
                busy: None,
                unattended: None,
                load: None,
                tally: Tally::default(),
            })
            .collect()
    }

    fn pids(pids: &[u32]) -> Vec<Who> {
        pids.iter().copied().map(Who::Pid).collect()
    }

    fn drain(states: &[(u32, MemberState)], named: &[u32]) -> Result<Vec<u32>, Refusal> {
        to_drain("web", Policy::RoundRobin, &members(states), &pids(named))
    }

    #[test]
    fn all_sockets_of_a_worker_are_drained() {
        assert_eq!(drain(&[(7, Live), (8, Live), (7, Live)], &[7]), Ok(vec![0, 2]));
    }

    #[test]
    fn to_drain_twice_is_to_drain() {
        assert_eq!(drain(&[(7, Draining), (8, Live)], &[7]), Ok(vec![0]));
    }

    #[test]
    fn the_last_live_one_is_not_drained() {
        for states in [
            &[(7, Live)][..],
            &[(7, Live), (8, Draining)],
            &[(7, Live), (8, Dead)],
            &[(7, Live), (8, Starting)],
            &[(7, Live), (8, Leaving)],
        ] {
            let refusal = drain(states, &[7]).unwrap_err();
            assert!(
                matches!(&refusal, Refusal::Last { named, .. } if named == "PID 7"),
                "{states:?}"
            );
        }
        let refusal = drain(&[(7, Live), (8, Live)], &[7, 8]).unwrap_err();
        assert!(refusal.to_string().starts_with("PID 7, PID 8 cannot be drained"), "{refusal}");
    }

    #[test]
    fn who_else_is_drained_is_named_where_nobody_would_be_left() {
        let refusal = drain(&[(7, Live), (8, Draining)], &[7]).unwrap_err().to_string();
        assert!(refusal.contains("balancer resume --group web 8"), "{refusal}");
    }

    #[test]
    fn who_is_not_there_is_refused_with_who_is() {
        let refusal = drain(&[(7, Live), (8, Live)], &[9]).unwrap_err().to_string();
        assert!(refusal.contains("PID 9") && refusal.contains("7, 8"), "{refusal}");
        assert_eq!(drain(&[(7, Dead), (8, Live)], &[7]), Err(Refusal::Dead(Who::Pid(7))));
        assert_eq!(drain(&[(7, Starting), (8, Live)], &[7]), Err(Refusal::Starting(Who::Pid(7))));
        assert_eq!(drain(&[(7, Leaving), (8, Live)], &[7]), Err(Refusal::Leaving(Who::Pid(7))));
    }

    #[test]
    fn where_balancer_does_not_choose_nobody_is_drained() {
        let members = members(&[(7, Live), (8, Live)]);
        let refusal =
            to_drain("web", Policy::Kernel, &members, &pids(&[7])).unwrap_err().to_string();
        assert!(refusal.contains("balancer policy hash --group web"), "{refusal}");
    }

    fn kernel(members: &[MemberInfo], reloading: bool) -> Result<(), Refusal> {
        check_policy("web", Policy::Kernel, members, reloading)
    }

    #[test]
    fn drained_members_keep_the_kernels_hash_away() {
        let drained = members(&[(7, Draining), (8, Live), (7, Draining)]);
        let refusal = kernel(&drained, false).unwrap_err().to_string();
        assert!(refusal.contains("balancer resume --group web 7"), "{refusal}");
        assert_eq!(check_policy("web", Policy::Random, &drained, true), Ok(()));
        assert_eq!(kernel(&members(&[(7, Live)]), false), Ok(()));
    }

    #[test]
    fn a_reload_keeps_the_kernels_hash_away() {
        let refused = Err(Refusal::Reloading { policy: "kernel", group: "web".to_owned() });
        assert_eq!(kernel(&members(&[(7, Draining), (8, Leaving)]), false), refused);
        let starting = members(&[(7, Live), (8, Starting)]);
        assert_eq!(kernel(&starting, true), refused);
        assert_eq!(kernel(&starting, false), Ok(()));
    }

    #[test]
    fn resuming_concerns_whom_it_names() {
        let members = members(&[(7, Draining), (8, Live)]);
        assert_eq!(to_resume("web", &members, &pids(&[7, 8])), Ok(vec![0, 1]));
        assert!(to_resume("web", &members, &pids(&[9])).is_err());
        let leaving = [MemberInfo { state: Leaving, ..members[0].clone() }];
        assert_eq!(to_resume("web", &leaving, &pids(&[7])), Err(Refusal::Leaving(Who::Pid(7))));
    }

    #[test]
    fn one_socket_of_several_is_drained_by_its_slot_and_the_last_of_a_process_too() {
        let members = members(&[(7, Live), (7, Live), (8, Live)]);
        let drain = |members: &[MemberInfo], slots: &[u32]| {
            let whom: Vec<Who> = slots.iter().copied().map(Who::Slot).collect();
            to_drain("web", Policy::RoundRobin, members, &whom)
        };
        assert_eq!(drain(&members, &[1]), Ok(vec![1]));
        assert_eq!(drain(&members, &[0, 1]), Ok(vec![0, 1]));
        let refusal = drain(&members, &[0, 1, 2]).unwrap_err().to_string();
        assert!(refusal.starts_with("slot 0, slot 1, slot 2 cannot be drained"), "{refusal}");
        let refusal = drain(&members, &[3]).unwrap_err().to_string();
        assert!(
            refusal.contains("slot 3 is not a slot") && refusal.contains("0, 1, 2"),
            "{refusal}"
        );
    }

    #[test]
    fn of_a_process_that_is_drained_in_part_the_slots_are_named() {
        let part = members(&[(7, Draining), (7, Live), (8, Draining), (8, Draining)]);
        assert_eq!(drained(&part), [Who::Slot(0), Who::Pid(8)]);
        let refusal = kernel(&part, false).unwrap_err().to_string();
        assert!(refusal.contains("balancer resume --group web slot:0 8"), "{refusal}");
    }
}
