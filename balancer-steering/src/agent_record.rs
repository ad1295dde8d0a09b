//! What the agent of a group tells of itself: those who wait for a reload read it, and the agent that
//! takes over. The human's form, and its one conversion to and from the pinned record. Pure.

use balancer_common::record::{AgentRecord, WHY_BYTES};

/// What an agent tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentState {
    /// How many workers it keeps.
    pub workers: u32,
    /// Slot of the last worker that was replaced, until it has ended.
    pub leaving: Option<u32>,
    /// Number of the last reload that `balancer reload` has asked for; 0 for none.
    pub asked: u32,
    /// Number of the last reload that has begun; 0 for none.
    pub begun: u32,
    /// Number of the last reload that has ended.
    pub ended: u32,
    /// Number of the last reload that has failed; 0 for none.
    pub failed: u32,
    /// Workers that the last reload has replaced.
    pub replaced: u32,
    /// How often the group's program was found to be another's or none, and put back.
    pub displaced: u32,
    /// How many workers the reload that was asked for last replaces at a time.
    pub parallel: u32,
    /// How many workers `balancer scale` wants, until the agent has heard of it.
    pub wanted: Option<u32>,
    /// Why one has failed.
    pub why: String,
}

impl AgentState {
    /// Asks for a reload that replaces so many workers at a time; its number. Not that of one under way,
    /// which may be past what shall be replaced.
    pub fn ask(&mut self, parallel: u32) -> u32 {
        self.parallel = parallel;
        self.asked = self.begun.saturating_add(1);
        self.asked
    }

    /// Whether one was asked for that has not begun.
    pub fn is_asked(&self) -> bool {
        self.asked > self.begun
    }

    /// Whether one is under way.
    pub fn is_reloading(&self) -> bool {
        self.begun > self.ended
    }

    /// Notes that a reload begins.
    pub fn begin(&mut self) {
        (self.begun, self.replaced) = (self.begun.saturating_add(1), 0);
    }

    /// Notes that the reload under way has ended; and why, where it failed.
    pub fn end(&mut self, failure: Option<String>) {
        if self.ended == self.begun {
            return;
        }
        self.ended = self.begun;
        if let Some(why) = failure {
            (self.failed, self.why) = (self.begun, why);
        }
    }

    /// How a reload ended; `None` while it has not.
    ///
    /// # Errors
    /// With why it failed.
    pub fn outcome(&self, number: u32) -> Option<Result<(), &str>> {
        let outcome = if self.failed >= number { Err(self.why.as_str()) } else { Ok(()) };
        (self.ended >= number).then_some(outcome)
    }
}

impl From<&AgentState> for AgentRecord {
    fn from(state: &AgentState) -> Self {
        let mut why = [0; WHY_BYTES];
        let ends = (0..=WHY_BYTES).rev();
        let whole = ends.into_iter().find_map(|end| state.why.get(..end)).unwrap_or_default();
        why[..whole.len()].copy_from_slice(whole.as_bytes());
        Self {
            workers: state.workers,
            leaving: state.leaving.map_or(0, |slot| slot + 1),
            asked: state.asked,
            begun: state.begun,
            ended: state.ended,
            failed: state.failed,
            replaced: state.replaced,
            displaced: state.displaced,
            parallel: state.parallel,
            wanted: state.wanted.unwrap_or(0),
            why,
        }
    }
}

impl From<AgentRecord> for AgentState {
    fn from(record: AgentRecord) -> Self {
        let why = String::from_utf8_lossy(&record.why);
        Self {
            workers: record.workers,
            leaving: record.leaving.checked_sub(1),
            asked: record.asked,
            begun: record.begun,
            ended: record.ended,
            failed: record.failed,
            replaced: record.replaced,
            displaced: record.displaced,
            parallel: record.parallel,
            wanted: Some(record.wanted).filter(|&wanted| wanted > 0),
            why: why.trim_end_matches('\0').to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_an_agent_tells_survives_its_record(
            workers: u32, leaving in prop::option::of(0..2048u32), asked: u32, begun: u32,
            ended: u32, failed: u32, replaced: u32, displaced: u32, parallel: u32,
            wanted in prop::option::of(1..2048u32),
            why in "[^\0]{0,100}",
        ) {
            let state = AgentState {
                workers, leaving, asked, begun, ended, failed, replaced, displaced, parallel, wanted, why,
            };
            prop_assert_eq!(AgentState::from(AgentRecord::from(&state)), state);
        }

        #[test]
        fn a_reason_that_is_too_long_is_cut_where_a_character_ends(why in "[ä-ü€]{300,400}") {
            let state = AgentState { why: why.clone(), ..AgentState::default() };
            let read = AgentState::from(AgentRecord::from(&state)).why;
            prop_assert!(why.starts_with(&read) && read.len() + 3 > WHY_BYTES);
        }
    }

    #[test]
    fn who_asks_while_a_reload_is_under_way_waits_for_the_next() {
        let mut state = AgentState::default();
        assert_eq!(state.ask(1), 1);
        state.begin();
        assert!(!state.is_asked() && state.is_reloading());
        let asked = state.ask(1);
        assert!(state.is_asked());
        state.end(Some("too old".to_owned()));
        assert_eq!(state.outcome(1), Some(Err("too old")));
        assert_eq!(state.outcome(asked), None);
        state.begin();
        state.end(None);
        assert_eq!(state.outcome(asked), Some(Ok(())));
        assert!(!state.is_reloading());
    }

    #[test]
    fn a_reload_that_failed_is_told_of_even_where_the_next_has_failed_too() {
        let mut state = AgentState::default();
        for why in ["first", "second"] {
            state.begin();
            state.end(Some(why.to_owned()));
        }
        assert_eq!(state.outcome(1), Some(Err("second")));
    }
}
