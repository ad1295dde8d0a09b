//! Which groups a command means, one or those of a service, and which workers are in which of them. Pure.

use anyhow::{Result, bail};
use balancer_steering::{
    service::ServiceName,
    snapshot::{MemberInfo, MemberState},
    who::Who,
};

use crate::rules::{self, Refusal};

const MAKES_ONE: &str = "`balancer run` or `balancer attach` creates one";

/// A group that is steered, with the service that it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// Its service, if any.
    pub service: Option<ServiceName>,
}

/// The groups that are meant: the one named, those of the service that is named, or all that there are if they
/// are one group or of one service.
///
/// # Errors
/// Returns an error if there are none, or others, with what to type.
pub fn meant<'a>(
    known: &'a [Known],
    group: Option<&str>,
    service: Option<ServiceName>,
) -> Result<Vec<&'a Known>> {
    let names = || list(known.iter().map(|known| known.name.clone()));
    if let Some(name) = group {
        return match known.iter().find(|known| known.name == name) {
            Some(known) => Ok(vec![known]),
            None if known.is_empty() => {
                bail!("there is no group {name}, nor any other group; {MAKES_ONE}")
            }
            None => bail!("there is no group {name}; the groups are {}", names()),
        };
    }
    let services = services(known);
    let of = |service| known.iter().filter(move |known| known.service == Some(service)).collect();
    if let Some(service) = service {
        return match services.as_slice() {
            services if services.contains(&service) => Ok(of(service)),
            [] => bail!(
                "there is no service {service}, nor any other; `balancer attach --service` makes one"
            ),
            _ => bail!("there is no service {service}; the services are {}", list(services)),
        };
    }
    match (known, services.as_slice()) {
        ([], _) => bail!("no group is steered; {MAKES_ONE}"),
        ([_], _) => Ok(known.iter().collect()),
        (_, [only]) if known.iter().all(|known| known.service == Some(*only)) => Ok(of(*only)),
        (_, []) => bail!("there are several groups; name one with --group: {}", names()),
        _ => bail!(
            "there are several groups; name one with --group: {}, or a service with --service: {}",
            names(),
            list(services)
        ),
    }
}

fn services(known: &[Known]) -> Vec<ServiceName> {
    let mut services: Vec<_> = known.iter().filter_map(|known| known.service).collect();
    services.sort_unstable();
    services.dedup();
    services
}

fn list(words: impl IntoIterator<Item = impl ToString>) -> String {
    words.into_iter().map(|word| word.to_string()).collect::<Vec<_>>().join(", ")
}

/// Whom a command means in each of several groups: a worker is the same in all of them by its PID, and need not
/// be in all. Of one group alone everybody is meant there, and what is wrong with that its own rules say.
///
/// # Errors
/// Returns an error if a worker is in none of them, or is named by a slot, which is of one group.
pub fn in_each(
    service: &str,
    groups: &[Vec<MemberInfo>],
    whom: &[Who],
) -> Result<Vec<Vec<Who>>, Refusal> {
    if groups.len() == 1 {
        return Ok(vec![whom.to_vec()]);
    }
    let mut each = vec![Vec::new(); groups.len()];
    for &who in whom {
        if let Who::Slot(_) = who {
            return Err(Refusal::SlotOfService { who, service: service.to_owned() });
        }
        let has = |members: &[MemberInfo], dead: bool| {
            let is_meant = |member: &&MemberInfo| who.is(member.slot, member.pid);
            members.iter().filter(is_meant).any(|m| dead || m.state != MemberState::Dead)
        };
        // Where its socket is gone there is nothing to be done, unless it is gone everywhere.
        let dead = !groups.iter().any(|members| has(members, false));
        let mut found = false;
        for (members, meant) in groups.iter().zip(&mut each) {
            if has(members, dead) {
                found = true;
                meant.push(who);
            }
        }
        if !found {
            let members = groups.iter().flatten().map(|member| (member.slot, member.pid));
            return Err(rules::unknown(&format!("service {service}"), members, who));
        }
    }
    Ok(each)
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_steering::testing::snapshot;

    fn known(names: &[(&str, &str)]) -> Vec<Known> {
        let known = |&(name, service): &(&str, &str)| Known {
            name: name.to_owned(),
            service: service.parse().ok(),
        };
        names.iter().map(known).collect()
    }

    fn chosen(known: &[Known], group: Option<&str>, service: &str) -> Result<Vec<String>, String> {
        let meant = meant(known, group, service.parse().ok()).map_err(|error| error.to_string())?;
        Ok(meant.iter().map(|known| known.name.clone()).collect())
    }

    #[test]
    fn a_name_means_its_group_and_a_services_name_all_of_its() {
        let known = known(&[("a", "web"), ("b", ""), ("c", "web"), ("d", "dns")]);
        assert_eq!(chosen(&known, Some("b"), "").unwrap(), ["b"]);
        assert_eq!(chosen(&known, Some("a"), "").unwrap(), ["a"]);
        assert_eq!(chosen(&known, None, "web").unwrap(), ["a", "c"]);
        let error = chosen(&known, None, "mail").unwrap_err();
        assert!(error.contains("no service mail") && error.contains("dns, web"), "{error}");
        assert!(chosen(&known, Some("x"), "").unwrap_err().contains("a, b, c, d"));
    }

    #[test]
    fn nothing_need_be_named_if_there_is_one_group_or_one_service_alone() {
        assert_eq!(chosen(&known(&[("a", "")]), None, "").unwrap(), ["a"]);
        assert_eq!(chosen(&known(&[("a", "web"), ("b", "web")]), None, "").unwrap(), ["a", "b"]);
        for more in ["", "dns"] {
            let known = known(&[("a", "web"), ("b", "web"), ("c", more)]);
            let error = chosen(&known, None, "").unwrap_err();
            assert!(error.contains("--group: a, b, c, or a service with --service: "), "{error}");
        }
        let error = chosen(&known(&[("a", ""), ("b", "")]), None, "").unwrap_err();
        assert!(error.ends_with("--group: a, b"), "{error}");
        assert!(chosen(&[], None, "").unwrap_err().contains("no group is steered"));
    }

    fn members(states: &[(u32, MemberState)]) -> Vec<MemberInfo> {
        let example = snapshot().members.remove(0);
        let member = |(slot, &(pid, state))| MemberInfo { slot, pid, state, ..example.clone() };
        (0..).zip(states).map(member).collect()
    }

    use MemberState::{Dead, Live};

    #[test]
    fn a_worker_is_meant_in_each_group_that_it_is_in() {
        let groups = [members(&[(7, Live), (8, Live)]), members(&[(8, Live), (9, Live)])];
        let each = in_each("web", &groups, &[Who::Pid(7), Who::Pid(8)]).unwrap();
        assert_eq!(each, [vec![Who::Pid(7), Who::Pid(8)], vec![Who::Pid(8)]]);
        let refusal = in_each("web", &groups, &[Who::Pid(7), Who::Pid(5)]).unwrap_err().to_string();
        assert!(refusal.contains("PID 5") && refusal.contains("service web"), "{refusal}");
        assert!(refusal.contains("7, 8, 9"), "{refusal}");
    }

    #[test]
    fn where_its_socket_is_gone_nothing_is_done_unless_it_is_gone_everywhere() {
        let groups = [members(&[(7, Dead), (8, Live)]), members(&[(7, Live), (8, Dead)])];
        assert_eq!(in_each("web", &groups, &[Who::Pid(7)]).unwrap(), [vec![], vec![Who::Pid(7)]]);
        let groups = [members(&[(7, Dead)]), members(&[(7, Dead)])];
        assert_eq!(in_each("web", &groups, &[Who::Pid(7)]).unwrap(), [[Who::Pid(7)]; 2]);
    }

    #[test]
    fn a_slot_is_of_one_group() {
        let group = members(&[(7, Live)]);
        let slot = [Who::Slot(0)];
        assert_eq!(in_each("web", std::slice::from_ref(&group), &slot).unwrap(), [slot]);
        let refusal = in_each("web", &[group.clone(), group], &slot).unwrap_err().to_string();
        assert!(refusal.contains("slot:0") && refusal.contains("--group"), "{refusal}");
    }
}
