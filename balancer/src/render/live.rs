//! The live view of `run` in a terminal: a few lines at the bottom, redrawn in place, with
//! everything else scrolling by above.

use std::io::{self, Stdout};

use balancer_steering::{
    escape::printable_lines,
    snapshot::{MemberState, Snapshot, percent},
};
use ratatui::{
    Frame, Terminal, TerminalOptions, Viewport,
    backend::CrosstermBackend,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Paragraph, Row, Table, Widget as _},
};

use super::policy::policy_of;
use crate::rates::Rates;

/// Lines beside the members: about the group, and the table's header.
const FRAME_LINES: u16 = 2;
const BAR_WIDTH: u16 = 30;

/// The terminal's lower lines.
pub struct LiveView {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl LiveView {
    /// Reserves a line a member, as far as the terminal is high enough.
    ///
    /// # Errors
    /// Returns an error if the terminal does not answer.
    pub fn start(members: usize) -> io::Result<Self> {
        let (_, height) = ratatui::crossterm::terminal::size()?;
        let wanted = u16::try_from(members).unwrap_or(u16::MAX).saturating_add(FRAME_LINES);
        let viewport = Viewport::Inline(wanted.min(height.saturating_sub(1)).max(1));
        let backend = CrosstermBackend::new(io::stdout());
        Ok(Self { terminal: Terminal::with_options(backend, TerminalOptions { viewport })? })
    }

    /// Prints a line above the view.
    ///
    /// # Errors
    /// Returns an error if the terminal cannot be written to.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        let line = printable_lines(line);
        let paragraph = Paragraph::new(&*line);
        let width = usize::from(self.terminal.size()?.width).max(1);
        let height = u16::try_from(line.chars().count().div_ceil(width)).unwrap_or(1).max(1);
        let paragraph = paragraph.wrap(ratatui::widgets::Wrap { trim: false });
        self.terminal.insert_before(height, |buffer| paragraph.render(buffer.area, buffer))
    }

    /// Redraws the view.
    ///
    /// # Errors
    /// Returns an error if the terminal cannot be written to.
    pub fn update(&mut self, snapshot: &Snapshot, rates: &Rates) -> io::Result<()> {
        self.terminal.draw(|frame| draw(frame, snapshot, rates)).map(|_| ())
    }

    /// Takes the view away.
    ///
    /// # Errors
    /// Returns an error if the terminal cannot be written to.
    pub fn finish(&mut self) -> io::Result<()> {
        self.terminal.clear()?;
        let start = self.terminal.get_frame().area().as_position();
        self.terminal.set_cursor_position(start)?;
        self.terminal.show_cursor()
    }
}

fn draw(frame: &mut Frame<'_>, snapshot: &Snapshot, rates: &Rates) {
    let [top, rest] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(frame.area());
    let total = snapshot.connections(snapshot.total());
    let title = format!(
        "{}  {}/{}  {}  {total} {}  {:.0}/s  {} left to the kernel  {} errors",
        snapshot.group.name,
        snapshot.group.protocol,
        snapshot.group.address,
        policy_of(snapshot),
        snapshot.unit(),
        rates.total,
        snapshot.fallback,
        snapshot.errors
    );
    frame.render_widget(Line::styled(title, Modifier::BOLD), top);

    let whole: u64 = snapshot.members.iter().map(|m| snapshot.connections(m.tally)).sum();
    let rows = snapshot.members.iter().zip(&rates.members).map(|(member, rate)| {
        let connections = snapshot.connections(member.tally);
        let share = percent(connections, whole);
        Row::new([
            format!("{:>5}", member.slot),
            format!("{:>8}", member.pid),
            format!("{:>6}", member.weight),
            member.state.name().to_owned(),
            format!("{connections:>11}"),
            format!("{share:>5.1} % {}", bar(share)),
            format!("{rate:>7.0}/s"),
        ])
        .style(style(member.state))
    });
    let widths = [5, 8, 6, 8, 11, 8 + BAR_WIDTH, 9].map(Constraint::Length);
    let unit = format!("{:>11}", snapshot.unit().to_uppercase());
    let header = [" SLOT", "     PID", "WEIGHT", "STATE", &unit, "SHARE", "     RATE"];
    let table = Table::new(rows, widths).header(Row::new(header).style(Modifier::DIM));
    frame.render_widget(table, rest);
}

/// A share in percent as a bar in eighths of a character.
fn bar(share: f64) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (share.clamp(0.0, 100.0) / 100.0 * f64::from(BAR_WIDTH * 8)).round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 240")]
    let eighths = eighths as usize;
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(EIGHTHS[eighths % 8]);
    }
    bar
}

/// How a worker in a state is shown.
pub fn style(state: MemberState) -> Style {
    match state {
        MemberState::Live => Style::default(),
        MemberState::Starting
        | MemberState::Draining
        | MemberState::Leaving
        | MemberState::Stalled => Style::default().fg(Color::Yellow),
        MemberState::Dead | MemberState::Left => Style::default().fg(Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;

    use super::*;
    use balancer_steering::testing::snapshot as example;

    fn drawn(width: u16, height: u16) -> String {
        let rates = Rates { total: 120.0, members: vec![60.0, 36.0, 24.0] };
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &example(), &rates)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_view_has_the_group_and_a_row_a_worker_with_its_share_as_a_bar() {
        let text = drawn(100, 5);
        assert!(text.contains("tcp-8080") && text.contains("weighted") && text.contains("120/s"));
        let row = text.lines().find(|line| line.contains("4711")).unwrap();
        assert!(row.contains("52.6 % ███████████████▊") && row.contains("60/s"), "{row}");
        assert!(text.lines().any(|line| line.contains("draining")), "{text}");
    }

    #[test]
    fn a_terminal_too_small_shows_what_fits() {
        assert!(drawn(20, 2).contains("tcp-8080"));
    }

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        assert_eq!(bar(0.0), "");
        assert_eq!(bar(100.0).chars().count(), usize::from(BAR_WIDTH));
        assert_eq!(bar(50.0), "█".repeat(usize::from(BAR_WIDTH / 2)));
        assert_eq!(bar(f64::INFINITY), bar(100.0));
    }
}
