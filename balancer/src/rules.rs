//! Which slots a drain or its end concerns, and which drain makes no sense. Pure.

use balancer_steering::{
    policy::Policy,
    snapshot::{MemberInfo, MemberState},
};

/// Why members are not drained, or not taken back. Each says what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody of the group.
    #[error("PID {pid} is not a worker of the group {group}; its workers are {workers}")]
    Unknown {
        /// Who was named.
        pid: u32,
        /// Where.
        group: String,
        /// Who there is.
        workers: String,
    },
    /// Its socket is gone.
    #[error("PID {0} no longer has a socket, so there is nothing to drain or to resume")]
    Dead(u32),
    /// It gets nothing yet, and would be put in the table once it is ready.
    #[error("PID {0} is starting and gets no connections yet; try again when it is live")]
    Starting(u32),
    /// It gets nothing any more, and ends.
    #[error(
        "PID {0} is being replaced: it gets no new connections, and ends once it has none left; wait \
         for that, or stop it"
    )]
    Leaving(u32),
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
        "{pids} cannot be drained: no other worker is live, so the kernel would still give it new \
         connections instead of refusing them; {remedy}, or stop it"
    )]
    Last {
        /// All that were named, `PID 7, PID 8`.
        pids: String,
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
         again; resume them first: balancer resume --group {group} {pids}"
    )]
    Drained {
        /// The policy asked for.
        policy: &'static str,
        /// `PID 7, PID 8`.
        drained: String,
        /// `7 8`.
        pids: String,
        /// Where.
        group: String,
    },
}

/// The slots to be drained, those included that are already.
///
/// # Errors
/// Returns an error if one of the PIDs cannot be, or nobody would be left.
pub fn to_drain(
    group: &str,
    policy: Policy,
    members: &[MemberInfo],
    pids: &[u32],
) -> Result<Vec<u32>, Refusal> {
    if !policy.steers() {
        let (policy, instead) = (policy.name(), Policy::Hash.name());
        return Err(Refusal::Unsteered { policy, instead, group: group.to_owned() });
    }
    let named = named(group, members, pids)?;
    let stays = |m: &&MemberInfo| m.state.is_in_table() && !pids.contains(&m.pid);
    if !members.iter().any(|member| stays(&member)) {
        let others = members
            .iter()
            .filter(|m| m.state == MemberState::Draining && !pids.contains(&m.pid))
            .map(|m| m.pid);
        let others = list(others, "", " ");
        return Err(Refusal::Last {
            pids: list(pids.iter().copied(), "PID ", ", "),
            remedy: if others.is_empty() {
                "start another first".to_owned()
            } else {
                format!("take another back first (balancer resume --group {group} {others})")
            },
        });
    }
    Ok(named.iter().map(|member| member.slot).collect())
}

/// The slots that are taken back.
///
/// # Errors
/// Returns an error if one of the PIDs cannot be.
pub fn to_resume(group: &str, members: &[MemberInfo], pids: &[u32]) -> Result<Vec<u32>, Refusal> {
    Ok(named(group, members, pids)?.iter().map(|member| member.slot).collect())
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
        drained: list(drained.iter().copied(), "PID ", ", "),
        pids: list(drained.into_iter(), "", " "),
        group: group.to_owned(),
    })
}

/// The PIDs of drained members, each once.
pub fn drained(members: &[MemberInfo]) -> Vec<u32> {
    let drained = members.iter().filter(|member| member.state == MemberState::Draining);
    let mut pids: Vec<u32> = drained.map(|member| member.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The members of these PIDs that have a socket: a process may have several, and be shown with a
/// dead one besides.
fn named<'a>(
    group: &str,
    members: &'a [MemberInfo],
    pids: &[u32],
) -> Result<Vec<&'a MemberInfo>, Refusal> {
    let mut all = Vec::new();
    for &pid in pids {
        let of_pid: Vec<&MemberInfo> = members.iter().filter(|member| member.pid == pid).collect();
        let (usable, others): (Vec<_>, Vec<_>) = of_pid
            .into_iter()
            .partition(|m| m.state.is_in_table() || m.state == MemberState::Draining);
        if usable.is_empty() {
            return Err(match others.first().map(|member| member.state) {
                None => Refusal::Unknown {
                    pid,
                    group: group.to_owned(),
                    workers: list(members.iter().map(|member| member.pid), "", ", "),
                },
                Some(MemberState::Starting) => Refusal::Starting(pid),
                Some(MemberState::Leaving) => Refusal::Leaving(pid),
                Some(_) => Refusal::Dead(pid),
            });
        }
        all.extend(usable);
    }
    Ok(all)
}

fn list(pids: impl Iterator<Item = u32>, before: &str, between: &str) -> String {
    pids.map(|pid| format!("{before}{pid}")).collect::<Vec<_>>().join(between)
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

    fn drain(states: &[(u32, MemberState)], pids: &[u32]) -> Result<Vec<u32>, Refusal> {
        to_drain("web", Policy::RoundRobin, &members(states), pids)
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
                matches!(&refusal, Refusal::Last { pids, .. } if pids == "PID 7"),
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
        assert_eq!(drain(&[(7, Dead), (8, Live)], &[7]), Err(Refusal::Dead(7)));
        assert_eq!(drain(&[(7, Starting), (8, Live)], &[7]), Err(Refusal::Starting(7)));
        assert_eq!(drain(&[(7, Leaving), (8, Live)], &[7]), Err(Refusal::Leaving(7)));
    }

    #[test]
    fn where_balancer_does_not_choose_nobody_is_drained() {
        let members = members(&[(7, Live), (8, Live)]);
        let refusal = to_drain("web", Policy::Kernel, &members, &[7]).unwrap_err().to_string();
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
        assert_eq!(to_resume("web", &members, &[7, 8]), Ok(vec![0, 1]));
        assert!(to_resume("web", &members, &[9]).is_err());
        let leaving = [MemberInfo { state: Leaving, ..members[0].clone() }];
        assert_eq!(to_resume("web", &leaving, &[7]), Err(Refusal::Leaving(7)));
    }
}
