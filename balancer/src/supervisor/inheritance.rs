//! What an agent that is gone has left, and how another goes on with it.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use balancer_common::record::SlotState;
use procfs::process::Process;

use super::{
    Notice, Supervisor, WorkerPlan, agenda::Duty, child::WorkerProcess, job::WORKER, seats::Seats,
    worker::Running,
};
use balancer_steering::affinity;
use balancer_steering::{
    agent_record::AgentState,
    process::{self, Identity},
    steering::{Member, Steering},
    weight::Weight,
};

/// The members of a group whose agent is gone.
#[derive(Clone, Debug, Default)]
pub struct Inheritance {
    /// Those that serve, by slot.
    pub living: Vec<Member>,
    /// The numbers that those were started with, where that is known.
    numbers: Vec<Option<usize>>,
    /// Those that died since.
    pub dead: Vec<Member>,
    /// Those that were replaced, or that were starting: whether they are ready nobody hears any more.
    pub leaving: Vec<Member>,
    /// How many workers there were to be.
    pub workers: usize,
}

impl Inheritance {
    /// Looks who is there.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read.
    pub fn of(steering: &Steering) -> Result<Self> {
        let mut members = Vec::new();
        for mut member in steering.members()? {
            let seated = steering.is_seated(&member)?;
            if seated && !member.worker.is_alive() {
                // It was started and not noted any more, or has left its socket to a child.
                let holder = process::socket_holders(member.inode).into_iter().next();
                member.worker = holder.and_then(Identity::of).unwrap_or(member.worker);
            }
            members.push((member, seated && member.worker.is_alive()));
        }
        let mut inheritance = Self::sort(members, &steering.agent_state()?);
        let number = |member: &Member| number_of(member.worker.pid);
        inheritance.numbers = inheritance.living.iter().map(number).collect();
        Ok(inheritance)
    }

    /// Members, each with whether it lives. Pure.
    fn sort(members: Vec<(Member, bool)>, state: &AgentState) -> Self {
        let mut inheritance = Self { workers: state.workers as usize, ..Self::default() };
        let serves =
            |member: &Member| matches!(member.state, SlotState::Live | SlotState::Draining);
        let serving = members.iter().filter(|(member, lives)| *lives && serves(member)).count();
        // While it is in the table still, its successor may be or not.
        let too_many = state.leaving.filter(|_| serving > inheritance.workers);
        for (member, lives) in members {
            let kind = if !lives {
                &mut inheritance.dead
            } else if too_many == Some(member.slot) || !serves(&member) {
                &mut inheritance.leaving
            } else {
                &mut inheritance.living
            };
            kind.push(member);
        }
        inheritance
    }

    /// The weights of as many workers as there were, or are asked for: those given, else those they
    /// had, else 1.
    ///
    /// # Errors
    /// Returns an error if fewer are asked for than there are.
    pub fn weights(&self, asked: Option<usize>, given: &[Weight]) -> Result<Vec<Weight>> {
        let living = self.living.len();
        let count = asked.unwrap_or(self.workers.max(living));
        if count < living {
            bail!(
                "{count} workers were asked for, and the group has {living} that serve; leave \
                 --workers out, or drain and stop some first"
            );
        }
        if !given.is_empty() && given.len() != count {
            bail!(
                "{} weights do not fit the {count} workers of the group; give one for each in \
                 --weights, or leave it out to keep those they have",
                given.len()
            );
        }
        if !given.is_empty() {
            return Ok(given.to_vec());
        }
        let had = self.living.iter().chain(&self.dead).map(|member| member.weight);
        let mut weights = vec![Weight::ONE; count];
        for (place, weight) in self.places(count).into_iter().zip(had) {
            weights[place] = weight;
        }
        Ok(weights)
    }

    /// Which of so many workers those that serve go on as, each as the one that it was; then those that are left.
    fn places(&self, count: usize) -> Vec<usize> {
        let known = self.numbers.iter().copied().chain(std::iter::repeat(None)).take(count);
        let mut taken = vec![false; count];
        let claim = |number: Option<usize>| {
            let place = taken.get_mut(number?)?;
            (!std::mem::replace(place, true)).then_some(number?)
        };
        let claimed: Vec<Option<usize>> = known.map(claim).collect();
        let mut free = (0..count).filter(|&place| !taken[place]);
        claimed.into_iter().filter_map(|place| place.or_else(|| free.next())).collect()
    }
}

impl Supervisor {
    /// Goes on with what an agent has left that is gone: workers that serve are watched, as many as
    /// lack are started, and a reload that was cut short is over. What is attached stays attached.
    ///
    /// # Errors
    /// Returns an error if the group's state cannot be changed.
    pub fn take_over(
        seats: Seats,
        bpffs: PathBuf,
        plans: Vec<WorkerPlan>,
        inheritance: Inheritance,
    ) -> Result<Self> {
        let mut supervisor = Self::of(seats, bpffs, plans)?;
        supervisor.workers.iter_mut().for_each(|worker| worker.first = false);
        let places = inheritance.places(supervisor.workers.len());
        supervisor.keep_cpus(&places, &inheritance.living);
        let lock = supervisor.steering()?.lock()?;
        for (place, member) in places.into_iter().zip(&inheritance.living) {
            supervisor.adopt(place, member)?;
        }
        let steering = supervisor.steering()?;
        for member in &inheritance.dead {
            steering.vacate(member.slot)?;
        }
        for member in &inheritance.leaving {
            steering.set_state(member.slot, SlotState::Leaving)?;
        }
        steering.publish()?;
        steering.tell(|state| state.end(Some("its agent was killed".to_owned())))?;
        drop(lock);
        for member in inheritance.leaving {
            if let Ok(process) = WorkerProcess::take_over(0, member.worker, &supervisor.sender) {
                supervisor.let_finish(0, Running::new(Some(member.slot), process));
            }
        }
        let lacks = |&index: &usize| supervisor.workers[index].running.is_none();
        let lacking: Vec<usize> = (0..supervisor.workers.len()).filter(lacks).collect();
        let serve = supervisor.workers.len() - lacking.len();
        let started = match lacking.len() {
            0 => String::new(),
            count => format!(", {count} are missing and started"),
        };
        let line = format!("taken over: {serve} workers go on{started}");
        supervisor.notices.push_back(Notice::Line(line));
        for index in lacking {
            supervisor.schedule(Duty::Start(index), Duration::ZERO);
        }
        Ok(supervisor)
    }

    /// Lets who is pinned to a CPU be the worker of that CPU.
    fn keep_cpus(&mut self, places: &[usize], living: &[Member]) {
        let mut cpus: Vec<_> = places.iter().map(|&place| self.workers[place].plan.cpu).collect();
        let had = living.iter().map(|member| affinity::only_cpu(member.worker.pid));
        keep(&mut cpus, had.map(|cpu| cpu.map(|cpu| cpu as usize)));
        places.iter().zip(cpus).for_each(|(&place, cpu)| self.workers[place].plan.cpu = cpu);
    }

    fn adopt(&mut self, index: usize, member: &Member) -> Result<()> {
        let (slot, weight) = (member.slot, self.workers[index].plan.weight);
        let process = WorkerProcess::take_over(index, member.worker, &self.sender);
        let steering = self.steering()?;
        let Ok(process) = process else { return Ok(steering.vacate(slot)?) };
        steering.set_worker(slot, member.worker)?;
        steering.set_weight(slot, weight)?;
        let running = Running { ready: true, ..Running::new(Some(slot), process) };
        self.workers[index].running = Some(running);
        Ok(())
    }
}

/// The number that a process was started with, or the one that has started it.
fn number_of(pid: u32) -> Option<usize> {
    let environment = Process::new(i32::try_from(pid).ok()?).ok()?.environ().ok()?;
    environment.get(OsStr::new(WORKER))?.to_str()?.parse().ok()
}

/// Puts what each of the first had in its place, where it is there for one of those that follow. Pure.
fn keep<T: PartialEq>(all: &mut [Option<T>], had: impl Iterator<Item = Option<T>>) {
    for (place, had) in had.enumerate().filter(|(_, had)| had.is_some()) {
        if let Some(other) = (place..all.len()).find(|&other| all[other] == had) {
            all.swap(place, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_steering::testing::member;

    use SlotState::{Draining, Leaving, Live, Starting};

    fn inheritance(members: &[(SlotState, bool)], state: &AgentState) -> Inheritance {
        let members = (0..)
            .zip(members)
            .map(|(slot, &(state, lives))| (Member { state, ..member(slot, 7) }, lives));
        Inheritance::sort(members.collect(), state)
    }

    fn slots(members: &[Member]) -> Vec<u32> {
        members.iter().map(|member| member.slot).collect()
    }

    fn told(workers: u32, leaving: Option<u32>) -> AgentState {
        AgentState { workers, leaving, ..AgentState::default() }
    }

    #[test]
    fn who_serves_who_died_and_who_is_not_ready_is_told_apart() {
        let members = [(Live, true), (Live, false), (Starting, true), (Draining, true)];
        let inheritance = inheritance(&members, &told(3, None));
        assert_eq!(slots(&inheritance.living), [0, 3]);
        assert_eq!(slots(&inheritance.dead), [1]);
        assert_eq!(slots(&inheritance.leaving), [2]);
    }

    #[test]
    fn wherever_a_reload_was_cut_short_one_of_the_two_is_left() {
        // Slot 0 was to be replaced by slot 2.
        for (states, leaving, stay) in [
            ([Live, Live, Starting], None, [0, 1]),
            ([Live, Live, Starting], Some(0), [0, 1]),
            ([Live, Live, Live], Some(0), [1, 2]),
            ([Leaving, Live, Live], Some(0), [1, 2]),
            ([Leaving, Live, Live], Some(1), [1, 2]),
            // Somebody had drained it before.
            ([Draining, Live, Live], Some(0), [1, 2]),
        ] {
            let inheritance = inheritance(&states.map(|state| (state, true)), &told(2, leaving));
            assert_eq!(slots(&inheritance.living), stay, "{states:?}");
            assert_eq!(inheritance.leaving.len(), 1);
        }
        // And its neighbour is missed, though it died at the same time.
        let members = [(Leaving, true), (Live, false), (Live, true)];
        assert_eq!(slots(&inheritance(&members, &told(2, Some(0))).living), [2]);
    }

    #[test]
    fn who_was_pinned_keeps_its_cpu_and_the_others_have_what_is_left() {
        let keep = |had: &[Option<usize>]| {
            let mut cpus = [Some(0), Some(1), Some(2), Some(0)];
            keep(&mut cpus, had.iter().copied());
            cpus.map(Option::unwrap)
        };
        // Worker 0 has died once, and is in the last slot.
        assert_eq!(keep(&[Some(1), Some(2), Some(0), Some(0)]), [1, 2, 0, 0]);
        // It is dead, and the only one of CPU 2 is missing.
        assert_eq!(keep(&[Some(1), Some(0), Some(0)]), [1, 0, 0, 2]);
        // Somebody has pinned it elsewhere, or not at all.
        assert_eq!(keep(&[Some(7), None, Some(0)]), [0, 1, 0, 2]);
    }

    #[test]
    fn who_serves_goes_on_under_its_number_with_its_weight_and_the_others_have_what_is_left() {
        let mut inheritance =
            inheritance(&[(Live, true), (Live, true), (Live, false)], &told(3, None));
        inheritance.numbers = vec![Some(2), Some(0)];
        assert_eq!(inheritance.places(3), [2, 0, 1]);
        let weight = Weight::from_record;
        inheritance.living[0].weight = weight(5);
        inheritance.dead[0].weight = weight(3);
        assert_eq!(inheritance.weights(None, &[]).unwrap(), [weight(1), weight(3), weight(5)]);
        // Somebody else's number, twice, and one of a group that was larger.
        inheritance.numbers = vec![Some(1), Some(1)];
        assert_eq!(inheritance.places(3), [1, 0, 2]);
        inheritance.numbers = vec![None, None, Some(0)];
        assert_eq!(inheritance.places(3), [1, 2, 0]);
        inheritance.numbers = vec![None, Some(9)];
        assert_eq!(inheritance.places(3), [0, 1, 2]);
    }

    #[test]
    fn there_are_as_many_workers_as_before_unless_more_are_asked_for() {
        let state = told(3, None);
        let inheritance = inheritance(&[(Live, true); 2], &state);
        let count = |asked| inheritance.weights(asked, &[]).map(|weights| weights.len()).ok();
        assert_eq!(count(None), Some(3));
        assert_eq!(count(Some(4)), Some(4));
        assert_eq!(count(Some(1)), None);
    }

    #[test]
    fn more_that_serve_than_were_told_of_all_stay() {
        let inheritance = inheritance(&[(Live, true); 2], &told(0, None));
        assert_eq!(inheritance.weights(None, &[]).unwrap().len(), 2);
    }

    #[test]
    fn weights_stay_unless_they_are_given_and_fit() {
        let state = told(2, None);
        let mut inheritance = inheritance(&[(Live, true)], &state);
        let weight = Weight::from_record;
        inheritance.living[0].weight = weight(5);
        assert_eq!(inheritance.weights(None, &[]).unwrap(), [weight(5), weight(1)]);
        let given = [weight(7), weight(8)];
        assert_eq!(inheritance.weights(None, &given).unwrap(), given);
        assert!(inheritance.weights(None, &given[..1]).is_err());
    }
}
