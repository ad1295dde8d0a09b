//! How `top` looks: a line about the group, one row per worker, below them the times of the selected worker
//! or a choice, and at the bottom the keys or a question. It fits 80 columns.

use std::time::Duration;

use balancer_steering::{policy::Policy, requests::Histogram};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::{Line, Text},
    widgets::{List, ListState, Row, Table, TableState},
};

use super::{
    dialogue::Dialogue,
    figures::{Group, Member},
    screen::{Screen, Times},
};
use crate::render::live::style;

const COLUMNS: [(&str, u16); 12] = [
    ("SLOT", 4),
    ("PID", 7),
    ("WT", 4),
    ("STATE", 8),
    ("OPEN", 5),
    ("IDLE", 5),
    ("NOW", 5),
    ("CONN/S", 6),
    ("REQ/S", 7),
    ("P50", 6),
    ("P99", 6),
    ("READ", 6),
];

/// Lines of a picture.
const BARS: u16 = 12;

/// The keys for what is shown; what rows are sorted by follows.
const LOOK: &str = "q quit  Tab group  ↑↓ worker  Enter times  t which times  s sort";
/// The keys that change a group.
const CHANGE: &str = "p policy  w weight  d drain  r resume";

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let width = usize::from(frame.area().width);
    let group = screen.shown();
    let keys = match group {
        None => vec!["q quit".to_owned()],
        Some(_) => vec![format!("{LOOK} (by {})", screen.sort.name()), CHANGE.to_owned()],
    };
    let prompt = screen.dialogue.prompt();
    let bottom = match &prompt {
        None => keys,
        Some(prompt) => keys.into_iter().take(1).chain(wrapped(prompt, width)).collect(),
    };
    let notes: Vec<String> = screen.notes.iter().flat_map(|note| wrapped(note, width)).collect();
    let below = match &screen.dialogue {
        Dialogue::Policy { policies, .. } => length(policies.len()),
        _ if screen.histogram && group.is_some() => BARS + 1,
        _ => 0,
    };
    let [title, rows, below, note, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(below),
        Constraint::Length(length(notes.len())),
        Constraint::Length(length(bottom.len())),
    ])
    .areas(frame.area());
    frame.render_widget(Text::from_iter(notes), note);
    let style = |at| if at > 0 && prompt.is_some() { Modifier::BOLD } else { Modifier::DIM };
    let bottom = (0..).zip(bottom).map(|(at, line)| Line::styled(line, style(at)));
    frame.render_widget(Text::from_iter(bottom), keys);
    let Some(group) = group else {
        frame.render_widget(Line::raw("no group is steered; `balancer attach` creates one"), title);
        return;
    };
    frame.render_widget(Line::styled(about(group, screen), Modifier::BOLD), title);
    draw_rows(frame, rows, screen);
    match &screen.dialogue {
        Dialogue::Policy { policies, selected, .. } => {
            draw_policies(frame, below, policies, *selected);
        }
        _ if screen.histogram => {
            if let Some(member) = screen.rows().get(screen.selected()) {
                draw_times(frame, below, member, screen.times);
            }
        }
        _ => {}
    }
}

fn length(lines: usize) -> u16 {
    u16::try_from(lines).unwrap_or(u16::MAX)
}

/// Lines of words, so that none is cut.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_inclusive(' ') {
            let wanted = line.chars().count() + word.trim_end().chars().count();
            if wanted > width && !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

fn draw_policies(
    frame: &mut Frame<'_>,
    area: Rect,
    policies: &[(Policy, String)],
    selected: usize,
) {
    let lines = policies.iter().map(|(_, line)| line.as_str());
    let list = List::new(lines).highlight_style(Modifier::REVERSED);
    let mut state = ListState::default().with_selected(Some(selected));
    frame.render_stateful_widget(list, area, &mut state);
}

fn about(group: &Group, screen: &Screen) -> String {
    let Group { name, address, policy, fallback, errors, .. } = group;
    let at = screen.groups.iter().position(|other| other.name == *name).unwrap_or(0) + 1;
    let of = match screen.groups.len() {
        1 => String::new(),
        groups => format!(" ({at} of {groups})"),
    };
    let mut line = format!("{name}{of}  {address}  {policy}");
    if fallback + errors > 0 {
        line += &format!("  {fallback} left to the kernel's hash, {errors} errors");
    }
    line
}

fn draw_rows(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let cells = |member: &Member| {
        let time = |time: Option<Duration>| time.map_or_else(dash, short);
        let rate = |rate: Option<f64>| rate.map_or_else(dash, |rate| format!("{rate:.0}"));
        let count = |count: Option<u64>| count.map_or_else(dash, |count| count.to_string());
        [
            member.slot.to_string(),
            member.pid.to_string(),
            member.weight.to_string(),
            member.state.name().to_owned(),
            count(member.open),
            count(member.idle),
            count(member.in_flight),
            rate(member.connections_per_second),
            rate(member.requests_per_second),
            time(member.p50),
            time(member.p99),
            time(member.read_p99),
        ]
    };
    let line = |cells: [String; COLUMNS.len()]| {
        let aligned = cells.into_iter().zip(COLUMNS).map(|(cell, (name, width))| {
            let width = usize::from(width);
            // Words to the left, figures to the right.
            if name == "STATE" { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        Row::new(aligned.collect::<Vec<_>>())
    };
    let rows =
        screen.rows().into_iter().map(|member| line(cells(member)).style(style(member.state)));
    let header = line(COLUMNS.map(|(name, _)| name.to_owned())).style(Modifier::DIM);
    let widths = COLUMNS.map(|(_, width)| Constraint::Length(width));
    let table = Table::new(rows, widths)
        .header(header)
        .row_highlight_style(Style::default().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(Some(screen.selected()));
    frame.render_stateful_widget(table, area, &mut state);
}

/// The times of a worker as bars, below a line that says which times.
fn draw_times(frame: &mut Frame<'_>, area: Rect, member: &Member, times: Times) {
    let (histogram, until, done) = match times {
        Times::ToAnswer => (&member.to_answer, "to answer", "answered"),
        Times::ToRead => (&member.to_read, "until read", "read"),
    };
    let lines: Vec<String> = match histogram {
        None => vec!["requests are not tracked, or not for an interval yet".to_owned()],
        Some(times) if times.count() == 0 => vec![format!("nothing was {done}")],
        Some(times) => picture(times, usize::from(area.width)),
    };
    let pid = member.pid;
    let title = format!("times {until} of PID {pid} in the last interval");
    let lines = std::iter::once(title).chain(lines);
    for (line, y) in lines.zip(area.y..area.bottom()) {
        frame.render_widget(Line::raw(line), Rect { y, height: 1, ..area });
    }
}

/// A line for each doubling of time, with how many took so long.
fn picture(times: &Histogram, width: usize) -> Vec<String> {
    const TEXT: usize = 22;
    let first = times.buckets().next().map_or(Duration::ZERO, |(time, _)| time);
    let last = times.buckets().last().map_or(Duration::ZERO, |(time, _)| time);
    // So few doublings that all of it fits.
    let mut factor = 2;
    let bounds = loop {
        let mut bounds = vec![first];
        while *bounds.last().unwrap_or(&last) <= last {
            bounds.push(bounds.last().map_or(last, |bound| *bound * factor));
        }
        if bounds.len() <= usize::from(BARS) {
            break bounds;
        }
        factor *= 2;
    };
    let counts: Vec<u64> = bounds
        .windows(2)
        .map(|ends| {
            let within = times.buckets().filter(|(time, _)| (ends[0]..ends[1]).contains(time));
            within.map(|(_, count)| count).sum()
        })
        .collect();
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    let bar = |count: u64| {
        let room = width.saturating_sub(TEXT) as u64;
        "█".repeat(usize::try_from(count * room / most).unwrap_or(0))
    };
    let line = |(&bound, &count): (&Duration, &u64)| {
        format!("from {:>6} {count:>8} {}", short(bound), bar(count))
    };
    bounds.iter().zip(&counts).map(line).collect()
}

fn dash() -> String {
    "-".to_owned()
}

/// A time in six columns at most.
fn short(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        ..1e3 => format!("{micros:.0}µs"),
        ..1e4 => format!("{:.2}ms", micros / 1e3),
        ..1e5 => format!("{:.1}ms", micros / 1e3),
        ..1e6 => format!("{:.0}ms", micros / 1e3),
        ..1e7 => format!("{:.2}s", micros / 1e6),
        _ => format!("{:.0}s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode};

    use super::*;
    use crate::top::figures::tests::readings;

    fn drawn(screen: &Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        terminal.backend().to_string()
    }

    fn screen() -> Screen {
        let (earlier, now) = readings();
        let mut screen = Screen::default();
        screen.groups = vec![Group::between(Some(&earlier), &now)];
        screen
    }

    #[test]
    fn a_worker_has_a_row_with_all_that_is_known_of_it_in_80_columns() {
        let text = drawn(&screen());
        assert!(text.contains("tcp-8080  tcp/127.0.0.1:8080  weighted"), "{text}");
        let row = text.lines().find(|line| line.contains("4711")).unwrap();
        let words: Vec<&str> = row.trim_matches('"').split_whitespace().collect();
        let [slot, pid, weight, state, open, idle, now, connections, requests, p50, p99, read] =
            words[..]
        else {
            panic!("{row}")
        };
        assert_eq!(
            [slot, pid, weight, state, open, idle, now],
            ["0", "4711", "5", "live", "9", "5", "2"]
        );
        assert_eq!([connections, requests], ["30", "10"]);
        assert!(
            [p50, p99].iter().all(|time| time.ends_with("ms")) && read.ends_with("µs"),
            "{row}"
        );
    }

    #[test]
    fn what_is_not_known_is_a_dash_and_why_is_said() {
        let (_, mut now) = readings();
        now.requests = None;
        let mut screen = Screen::default();
        screen.groups = vec![Group::between(None, &now)];
        screen.notes = vec!["requests cannot be observed: that needs Linux 6.3".to_owned()];
        let text = drawn(&screen);
        let row = text.lines().find(|line| line.contains("4711")).unwrap();
        assert_eq!(row.matches(" -").count(), 6, "{row}");
        assert!(text.contains("that needs Linux 6.3"), "{text}");
    }

    #[test]
    fn the_times_of_the_selected_worker_are_a_picture() {
        let mut screen = screen();
        screen.press(KeyCode::Enter.into());
        let text = drawn(&screen);
        assert!(text.contains("times to answer of PID 4711") && text.contains("10 ███"), "{text}");
        screen.press(KeyCode::Char('t').into());
        let text = drawn(&screen);
        let bar = text.lines().find(|line| line.contains("from ")).unwrap();
        assert!(text.contains("times until read of PID 4711") && bar.contains("µs"), "{text}");
        screen.press(KeyCode::Down.into());
        assert!(drawn(&screen).contains("nothing was read"));
        screen.press(KeyCode::Char('t').into());
        assert!(drawn(&screen).contains("nothing was answered"));
    }

    #[test]
    fn all_keys_are_listed_in_80_columns() {
        let mut screen = screen();
        for _ in 0..4 {
            screen.press(KeyCode::Char('s').into());
            let text = drawn(&screen);
            let sort = format!("s sort (by {})", screen.sort.name());
            assert!(text.contains(&sort) && text.contains(CHANGE), "{text}");
        }
    }

    #[test]
    fn a_question_and_a_long_answer_are_shown_in_full_at_the_bottom() {
        let mut screen = screen();
        screen.press(KeyCode::Char('d').into());
        let text = drawn(&screen);
        let bottom = text.lines().last().unwrap();
        assert!(bottom.contains("drain PID 4711 of tcp-8080? [y/N]"), "{text}");
        let words = ["PID", "4711", "cannot", "be", "drained"].repeat(9);
        screen.dialogue = Dialogue::Answer(words.join(" "));
        let text = drawn(&screen);
        let shown = text.lines().flat_map(|line| line.trim_matches('"').split_whitespace());
        assert!(shown.collect::<Vec<_>>().ends_with(&words), "{text}");
    }

    #[test]
    fn policies_to_choose_from_are_listed_with_what_the_selected_one_does() {
        let mut screen = screen();
        screen.press(KeyCode::Char('p').into());
        for (key, policy) in [(KeyCode::Up, Policy::RoundRobin), (KeyCode::Down, Policy::Weighted)]
        {
            screen.press(key.into());
            let text = drawn(&screen);
            assert!(text.contains(policy.summary()) && text.contains("Esc leave"), "{text}");
            let lines = text.lines().map(|line| line.trim_matches('"').trim_end());
            let listed = lines.filter(|line| ["round-robin", "weighted"].contains(line));
            assert_eq!(listed.count(), 2, "{text}");
        }
    }

    #[test]
    fn without_a_group_it_is_said_what_creates_one() {
        assert!(drawn(&Screen::default()).contains("no group is steered"));
    }

    #[test]
    fn a_time_takes_six_columns_at_most() {
        for micros in [0u64, 999, 1_000, 9_994, 99_940, 999_400, 9_994_000, 99_000_000] {
            let text = short(Duration::from_micros(micros));
            assert!(text.chars().count() <= 6, "{text}");
        }
    }

    #[test]
    fn all_of_a_wide_range_of_times_is_in_the_picture() {
        let mut times = Histogram::default();
        for exponent in 0..7 {
            times.record(Duration::from_micros(10u64.pow(exponent)));
        }
        let lines = picture(&times, 80);
        assert!(lines.len() < usize::from(BARS), "{lines:?}");
        let counts = lines.iter().map(|line| line.split_whitespace().nth(2).unwrap());
        assert_eq!(counts.map(|count| count.parse::<u64>().unwrap()).sum::<u64>(), 7, "{lines:?}");
    }
}
