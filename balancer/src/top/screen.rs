//! What is shown of the groups, and what a key does to that. Pure.

use std::cmp::Ordering;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    dialogue::{Change, Dialogue, Step},
    figures::{Group, Member},
};

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Slot, rising.
    #[default]
    Slot,
    /// Requests in flight, falling, as all below.
    InFlight,
    /// Answers a second.
    Requests,
    /// p99 of the time to answer.
    P99,
}

impl Sort {
    const ALL: [(Self, &str); 4] = [
        (Self::Slot, "slot"),
        (Self::InFlight, "in flight"),
        (Self::Requests, "requests"),
        (Self::P99, "p99"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    fn next(self) -> Self {
        Self::ALL[(self as usize + 1) % Self::ALL.len()].0
    }

    fn order(self, one: &Member, other: &Member) -> Ordering {
        let falling = match self {
            Self::Slot => Ordering::Equal,
            Self::InFlight => other.in_flight.cmp(&one.in_flight),
            Self::Requests => {
                let rate = |member: &Member| member.requests_per_second.unwrap_or(-1.0);
                rate(other).total_cmp(&rate(one))
            }
            Self::P99 => other.p99.cmp(&one.p99),
        };
        falling.then(one.slot.cmp(&other.slot))
    }
}

/// Which times are shown as a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Times {
    /// Until a request was answered.
    #[default]
    ToAnswer,
    /// Until the worker read a request.
    ToRead,
}

/// What is shown.
#[derive(Clone, Debug, Default)]
pub struct Screen {
    /// The groups, by name.
    pub groups: Vec<Group>,
    /// What cannot be read or tracked, and why.
    pub notes: Vec<String>,
    /// What rows are sorted by.
    pub sort: Sort,
    /// Whether the selected worker's times are shown as a picture.
    pub histogram: bool,
    /// Which times that are.
    pub times: Times,
    /// What is asked before a group is changed.
    pub dialogue: Dialogue,
    /// The group that is shown.
    group: String,
    /// The slot that is selected.
    slot: u32,
}

/// What comes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is shown anew.
    Draw,
    /// A group is to be changed.
    Change(Change),
    /// The end.
    Quit,
}

impl Screen {
    /// The group that is shown; the first, if the one that was has gone.
    pub fn shown(&self) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == self.group).or(self.groups.first())
    }

    /// Its members, sorted.
    pub fn rows(&self) -> Vec<&Member> {
        let mut rows: Vec<&Member> = self.shown().iter().flat_map(|group| &group.members).collect();
        rows.sort_by(|one, other| self.sort.order(one, other));
        rows
    }

    /// Which of the rows is selected; the first, if the one that was has gone.
    pub fn selected(&self) -> usize {
        self.rows().iter().position(|member| member.slot == self.slot).unwrap_or(0)
    }

    /// A key was pressed.
    pub fn press(&mut self, key: KeyEvent) -> Then {
        if key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL {
            return Then::Quit;
        }
        let dialogue = std::mem::take(&mut self.dialogue);
        let worker = self.rows().get(self.selected()).copied();
        let (dialogue, step) = dialogue.press(key.code, self.shown(), worker);
        self.dialogue = dialogue;
        match step {
            Step::Unused => self.press_own(key.code),
            Step::Taken => Then::Draw,
            Step::Change(change) => Then::Change(change),
        }
    }

    fn press_own(&mut self, key: KeyCode) -> Then {
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Then::Quit,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Enter => self.histogram = !self.histogram,
            // Shown first, if they are not.
            KeyCode::Char('t') if !self.histogram => self.histogram = true,
            KeyCode::Char('t') => {
                self.times = match self.times {
                    Times::ToAnswer => Times::ToRead,
                    Times::ToRead => Times::ToAnswer,
                };
            }
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(self.groups.len().saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(self.selected() + 1),
            KeyCode::Up | KeyCode::Char('k') => self.select(self.selected().saturating_sub(1)),
            _ => {}
        }
        Then::Draw
    }

    fn select(&mut self, row: usize) {
        let slot = self.rows().get(row).map(|member| member.slot);
        self.slot = slot.unwrap_or(self.slot);
    }

    fn turn(&mut self, by: usize) {
        let Some(shown) = self.shown() else { return };
        let at = self.groups.iter().position(|group| group.name == shown.name).unwrap_or(0);
        self.group.clone_from(&self.groups[(at + by) % self.groups.len()].name);
    }
}

#[cfg(test)]
mod tests {
    use balancer_steering::who::Who;

    use super::*;
    use crate::top::{dialogue::Operation, figures::tests::readings};

    fn screen() -> Screen {
        let (earlier, now) = readings();
        let group = Group::between(Some(&earlier), &now);
        let other = Group { name: "tcp-9090".to_owned(), ..group.clone() };
        Screen { groups: vec![group, other], ..Screen::default() }
    }

    fn slots(screen: &Screen) -> Vec<u32> {
        screen.rows().iter().map(|member| member.slot).collect()
    }

    fn press(screen: &mut Screen, code: KeyCode) -> Then {
        screen.press(KeyEvent::from(code))
    }

    #[test]
    fn rows_are_sorted_by_what_was_chosen_the_most_first() {
        let mut screen = screen();
        screen.groups[0].members[2].in_flight = Some(5);
        assert_eq!(slots(&screen), [0, 1, 3]);
        press(&mut screen, KeyCode::Char('s'));
        assert_eq!((screen.sort, slots(&screen)), (Sort::InFlight, vec![3, 0, 1]));
    }

    #[test]
    fn a_selection_stays_with_its_worker_when_rows_change_places() {
        let mut screen = screen();
        press(&mut screen, KeyCode::Down);
        assert_eq!(screen.rows()[screen.selected()].slot, 1);
        screen.groups[0].members[1].in_flight = Some(9);
        screen.sort = Sort::InFlight;
        assert_eq!((screen.selected(), screen.rows()[0].slot), (0, 1));
    }

    #[test]
    fn groups_take_turns_and_one_that_goes_makes_room() {
        let mut screen = screen();
        press(&mut screen, KeyCode::Tab);
        assert_eq!(screen.shown().unwrap().name, "tcp-9090");
        screen.groups.pop();
        assert_eq!(screen.shown().unwrap().name, "tcp-8080");
        screen.groups.clear();
        assert!(screen.shown().is_none() && screen.rows().is_empty());
        assert_eq!(press(&mut screen, KeyCode::Tab), Then::Draw);
    }

    #[test]
    fn a_confirmed_change_is_of_the_selected_worker_of_the_group_that_is_shown() {
        let mut screen = screen();
        for key in [KeyCode::Tab, KeyCode::Down, KeyCode::Char('d')] {
            assert_eq!(press(&mut screen, key), Then::Draw);
        }
        let operation = Operation::Drain(Who::Pid(4712));
        let change = Change { group: "tcp-9090".to_owned(), operation };
        assert_eq!(press(&mut screen, KeyCode::Char('y')), Then::Change(change));
    }

    #[test]
    fn escape_leaves_a_dialogue_first_and_ctrl_c_ends_it_at_once() {
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for key in ['p', 'w', 'd', 'r'].map(KeyCode::Char) {
            let mut screen = screen();
            press(&mut screen, key);
            assert_eq!(screen.clone().press(interrupt), Then::Quit);
            assert_eq!(press(&mut screen, KeyCode::Esc), Then::Draw);
            assert_eq!(press(&mut screen, KeyCode::Esc), Then::Quit);
        }
    }

    #[test]
    fn t_shows_times_and_then_the_other_ones() {
        let mut screen = screen();
        for times in [Times::ToAnswer, Times::ToRead, Times::ToAnswer] {
            press(&mut screen, KeyCode::Char('t'));
            assert_eq!((screen.histogram, screen.times), (true, times));
        }
    }

    #[test]
    fn q_escape_and_ctrl_c_end_it() {
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        let quits = [KeyEvent::from(KeyCode::Char('q')), KeyEvent::from(KeyCode::Esc), interrupt];
        assert!(quits.into_iter().all(|key| screen().press(key) == Then::Quit));
        assert_eq!(press(&mut screen(), KeyCode::Char('c')), Then::Draw);
    }
}
