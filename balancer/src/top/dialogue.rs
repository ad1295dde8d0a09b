//! What `top` asks before it changes a group: which policy or weight, and whether it is meant. Pure.

use std::fmt;

use balancer_steering::{
    policy::Policy,
    weight::{Weight, WorkerWeight},
    who::Who,
};
use ratatui::crossterm::event::KeyCode;

use super::figures::{Group, Member};

/// A change of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The group's name.
    pub group: String,
    /// What is to be done.
    pub operation: Operation,
}

/// What can be done to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Switch the policy; both are also there with their options, as they are typed.
    Policy {
        /// The policy in force.
        before: String,
        /// The new policy.
        policy: Policy,
        /// With its options.
        after: String,
    },
    /// Change the weight of a worker.
    Weight {
        /// The weight in force.
        before: u16,
        /// The worker and its new weight.
        after: WorkerWeight,
    },
    /// Drain a worker, or one of its sockets.
    Drain(Who),
    /// Resume one.
    Resume(Who),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = &self.group;
        match &self.operation {
            Operation::Policy { before, after, .. } => {
                write!(f, "switch the policy of {group}: {before} → {after}")
            }
            Operation::Weight { before, after: WorkerWeight { who, weight } } => {
                write!(f, "change the weight of {who} of {group}: {before} → {weight}")
            }
            Operation::Drain(who) => write!(f, "drain {who} of {group}"),
            Operation::Resume(who) => write!(f, "resume {who} of {group}"),
        }
    }
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Dialogue {
    /// Nothing is asked.
    #[default]
    None,
    /// Which policy?
    Policy {
        /// The group's name.
        group: String,
        /// The policy in force, with its options.
        before: String,
        /// The policies to choose from, with their options.
        policies: Vec<(Policy, String)>,
        /// Which of them is selected.
        selected: usize,
    },
    /// Which weight?
    Weight {
        /// The group's name.
        group: String,
        /// The worker, or one of its sockets.
        who: Who,
        /// Its weight in force.
        before: u16,
        /// What was typed so far.
        typed: String,
    },
    /// Is that meant?
    Confirm(Change),
    /// It is being done.
    Changing(Change),
    /// What came of it.
    Answer(String),
}

/// What comes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The key means nothing here.
    Unused,
    /// The dialogue went on.
    Taken,
    /// A change was confirmed.
    Change(Change),
}

/// Digits of the largest weight.
const DIGITS: usize = 4;

impl Dialogue {
    /// A key was pressed, with this group shown and this worker selected.
    pub fn press(
        self,
        key: KeyCode,
        group: Option<&Group>,
        worker: Option<&Member>,
    ) -> (Self, Step) {
        match self {
            Self::None | Self::Answer(_) => match begin(key, group, worker) {
                Some(begun) => (begun, Step::Taken),
                None => (Self::None, Step::Unused),
            },
            // One at a time.
            Self::Changing(_) => (self, Step::Unused),
            Self::Confirm(change) if key == KeyCode::Char('y') => {
                (Self::Changing(change.clone()), Step::Change(change))
            }
            Self::Confirm(_) => (Self::None, Step::Taken),
            Self::Policy { .. } | Self::Weight { .. } if key == KeyCode::Esc => {
                (Self::None, Step::Taken)
            }
            Self::Policy { group, before, policies, selected } => {
                (choose(key, group, before, policies, selected), Step::Taken)
            }
            Self::Weight { group, who, before, typed } => {
                (type_weight(key, group, who, before, typed), Step::Taken)
            }
        }
    }

    /// What is shown of it.
    pub fn prompt(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Policy { group, policies, selected, .. } => {
                let summary = policies.get(*selected).map_or("", |(policy, _)| policy.summary());
                Some(format!("{summary}\npolicy of {group}: ↑↓ choose  Enter take  Esc leave"))
            }
            Self::Weight { group, who, before, typed } => Some(format!(
                "weight of {who} of {group} (now {before}; 1 to 1000): {typed}_  Enter take  Esc leave"
            )),
            Self::Confirm(change) => Some(format!("{change}? [y/N]")),
            Self::Changing(change) => {
                Some(format!("{change}: changing, or waiting for the group's lock …"))
            }
            Self::Answer(text) => Some(text.clone()),
        }
    }
}

fn begin(key: KeyCode, group: Option<&Group>, worker: Option<&Member>) -> Option<Dialogue> {
    let group = group?;
    let Group { name, policy, policies, .. } = group;
    let confirm = |operation: fn(Who) -> Operation| {
        let operation = operation(group.who(worker?));
        Some(Dialogue::Confirm(Change { group: name.clone(), operation }))
    };
    match key {
        KeyCode::Char('p') if !policies.is_empty() => Some(Dialogue::Policy {
            group: name.clone(),
            before: policy.clone(),
            policies: policies.clone(),
            selected: policies.iter().position(|(_, line)| line == policy).unwrap_or(0),
        }),
        KeyCode::Char('w') => {
            let (who, before) = (group.who(worker?), worker?.weight);
            Some(Dialogue::Weight { group: name.clone(), who, before, typed: String::new() })
        }
        KeyCode::Char('d') => confirm(Operation::Drain),
        KeyCode::Char('r') => confirm(Operation::Resume),
        _ => None,
    }
}

fn choose(
    key: KeyCode,
    group: String,
    before: String,
    policies: Vec<(Policy, String)>,
    selected: usize,
) -> Dialogue {
    let selected = match key {
        KeyCode::Down | KeyCode::Char('j') => (selected + 1).min(policies.len() - 1),
        KeyCode::Up | KeyCode::Char('k') => selected.saturating_sub(1),
        KeyCode::Enter => {
            let (policy, after) = policies[selected].clone();
            let operation = Operation::Policy { before, policy, after };
            return Dialogue::Confirm(Change { group, operation });
        }
        _ => selected,
    };
    Dialogue::Policy { group, before, policies, selected }
}

fn type_weight(key: KeyCode, group: String, who: Who, before: u16, mut typed: String) -> Dialogue {
    match key {
        KeyCode::Char(digit) if digit.is_ascii_digit() && typed.len() < DIGITS => typed.push(digit),
        KeyCode::Backspace => {
            typed.pop();
        }
        KeyCode::Enter => {
            return match typed.parse::<Weight>() {
                Ok(weight) => {
                    let after = WorkerWeight { who, weight };
                    let operation = Operation::Weight { before, after };
                    Dialogue::Confirm(Change { group, operation })
                }
                Err(error) => Dialogue::Answer(error.to_string()),
            };
        }
        _ => {}
    }
    Dialogue::Weight { group, who, before, typed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::figures::tests::readings;

    fn group() -> Group {
        let (earlier, now) = readings();
        Group::between(Some(&earlier), &now)
    }

    /// What comes of these keys, one after another, with the first worker selected.
    fn press(keys: &[KeyCode]) -> (Dialogue, Step) {
        let group = group();
        let begun = (Dialogue::None, Step::Unused);
        keys.iter().fold(begun, |(dialogue, _), key| {
            dialogue.press(*key, Some(&group), group.members.first())
        })
    }

    fn typed(text: &str) -> Vec<KeyCode> {
        let key = |key| if key == '\n' { KeyCode::Enter } else { KeyCode::Char(key) };
        text.chars().map(key).collect()
    }

    fn asked(text: &str) -> String {
        press(&typed(text)).0.prompt().unwrap()
    }

    #[test]
    fn a_change_is_asked_for_with_y_alone() {
        assert_eq!(asked("d"), "drain PID 4711 of tcp-8080? [y/N]");
        let change =
            Change { group: "tcp-8080".to_owned(), operation: Operation::Drain(Who::Pid(4711)) };
        let (dialogue, step) = press(&typed("dy"));
        assert_eq!((dialogue, step), (Dialogue::Changing(change.clone()), Step::Change(change)));
        for other in ["dn", "dY", "d\n", "dd", "d "] {
            assert_eq!(press(&typed(other)), (Dialogue::None, Step::Taken), "{other:?}");
        }
        assert_eq!(press(&[KeyCode::Char('d'), KeyCode::Esc]), (Dialogue::None, Step::Taken));
    }

    #[test]
    fn a_question_says_what_will_be_done() {
        assert_eq!(asked("r"), "resume PID 4711 of tcp-8080? [y/N]");
        assert_eq!(asked("w70\n"), "change the weight of PID 4711 of tcp-8080: 5 → 70? [y/N]");
        // The policy in force is selected first.
        assert_eq!(asked("p\n"), "switch the policy of tcp-8080: weighted → weighted? [y/N]");
        assert_eq!(asked("pk\n"), "switch the policy of tcp-8080: weighted → round-robin? [y/N]");
    }

    #[test]
    fn a_confirmed_policy_and_weight_are_those_that_were_chosen() {
        let operation = |keys: &str| match press(&typed(keys)).1 {
            Step::Change(change) => change.operation,
            step => panic!("{step:?}"),
        };
        let policy = operation("pkkkjjjk\ny");
        assert!(
            matches!(policy, Operation::Policy { policy: Policy::RoundRobin, .. }),
            "{policy:?}"
        );
        let after = "4711=70".parse().unwrap();
        assert_eq!(operation("w70\ny"), Operation::Weight { before: 5, after });
    }

    #[test]
    fn a_weight_is_typed_in_digits_and_one_out_of_range_is_refused_with_the_limits() {
        let mut keys = typed("wx12");
        keys.extend([KeyCode::Backspace, KeyCode::Char('7')]);
        assert!(press(&keys).0.prompt().unwrap().contains(": 17_ "));
        for text in ["w\n", "w0\n", "w1001\n"] {
            assert!(asked(text).contains("1 to 1000"), "{text:?}");
        }
        // A fifth digit is not taken.
        assert!(asked("w10000\n").ends_with("5 → 1000? [y/N]"));
    }

    #[test]
    fn escape_leaves_a_choice_and_the_keys_of_the_screen_are_not_for_it() {
        for keys in ["p", "w7"] {
            let keys = [typed(keys), vec![KeyCode::Esc]].concat();
            assert_eq!(press(&keys), (Dialogue::None, Step::Taken));
        }
        assert_eq!(press(&typed("pq")).1, Step::Taken);
        assert_eq!(press(&typed("q")), (Dialogue::None, Step::Unused));
    }

    #[test]
    fn while_a_change_is_done_no_other_is_begun() {
        for keys in ["dyd", "dyr", "dyp", "dyw", "dyy"] {
            let (dialogue, step) = press(&typed(keys));
            assert!(matches!(dialogue, Dialogue::Changing(_)), "{keys}");
            assert_eq!(step, Step::Unused, "{keys}");
        }
    }

    #[test]
    fn an_answer_is_shown_until_the_next_key_which_then_counts() {
        let answer = || Dialogue::Answer("PID 4711 is draining".to_owned());
        let group = group();
        let press = |key| answer().press(KeyCode::Char(key), Some(&group), group.members.first());
        assert_eq!(press('s'), (Dialogue::None, Step::Unused));
        assert!(matches!(press('r').0, Dialogue::Confirm(_)));
    }

    #[test]
    fn without_a_group_or_a_worker_there_is_nothing_to_change() {
        let group = group();
        for key in ['p', 'w', 'd', 'r'].map(KeyCode::Char) {
            assert_eq!(Dialogue::None.press(key, None, None), (Dialogue::None, Step::Unused));
        }
        for key in ['w', 'd', 'r'].map(KeyCode::Char) {
            let pressed = Dialogue::None.press(key, Some(&group), None);
            assert_eq!(pressed, (Dialogue::None, Step::Unused));
        }
    }
}
