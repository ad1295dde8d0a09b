//! `status` and the summary of `run`: a table of the members.

use std::time::Duration;

use balancer_steering::{
    snapshot::{MemberInfo, MemberState, Snapshot, Tally, percent},
    time_span::TimeSpan,
};
use comfy_table::{CellAlignment, Table, presets};

use super::policy::policy_of;

const STATE: usize = 3;

/// A group as it is: a row a member, and one for all that have left.
pub fn status(snapshot: &Snapshot) -> String {
    let whole = snapshot.connections(snapshot.total());
    let mut rows: Vec<_> = snapshot.members.iter().map(|m| row(snapshot, m, whole)).collect();
    if !snapshot.left.is_empty() {
        rows.push(cells(snapshot, MemberState::Left, snapshot.total_left(), whole));
    }
    page(snapshot, rows)
}

/// A group in the end: a row for each member it ever had.
pub fn summary(snapshot: &Snapshot) -> String {
    let whole = snapshot.connections(snapshot.total());
    let mut all: Vec<&MemberInfo> = snapshot.members.iter().chain(&snapshot.left).collect();
    all.sort_by_key(|member| member.slot);
    page(snapshot, all.into_iter().map(|member| row(snapshot, member, whole)).collect())
}

/// A row of nobody in particular.
fn cells(snapshot: &Snapshot, state: MemberState, tally: Tally, whole: u64) -> Vec<String> {
    let connections = snapshot.connections(tally);
    let dash = || "-".to_owned();
    let mut row = vec![dash(), dash(), dash(), state.name().to_owned()];
    row.extend(known(snapshot).map(|_| dash()));
    row.extend([
        connections.to_string(),
        format!("{:.1} %", percent(connections, whole)),
        tally.migrated.to_string(),
    ]);
    row
}

fn row(snapshot: &Snapshot, member: &MemberInfo, whole: u64) -> Vec<String> {
    let mut row = cells(snapshot, member.state, member.tally, whole);
    row[0] = member.slot.to_string();
    row[1] = member.pid.to_string();
    row[2] = member.weight.to_string();
    for (cell, (_, figure)) in row[STATE + 1..].iter_mut().zip(known(snapshot)) {
        if let Some(figure) = figure(snapshot, member) {
            *cell = figure.to_string();
        }
    }
    row
}

type Figure = fn(&Snapshot, &MemberInfo) -> Option<u64>;

/// Columns of what a member has to do.
const WORK: [(&str, Figure); 5] = [
    ("LOAD", |_, member| member.load.filter(|_| member.open.is_none())),
    ("OPEN", |_, member| member.open),
    ("BUSY", |_, member| member.busy),
    ("IDLE", |_, member| Some(member.open?.saturating_sub(member.busy?))),
    ("DATAGRAMS", |snapshot, member| snapshot.flows.map(|_| member.tally.selected)),
];

/// Those of the columns in which anything is known.
fn known(snapshot: &Snapshot) -> impl Iterator<Item = (&'static str, Figure)> {
    WORK.into_iter()
        .filter(|(_, figure)| snapshot.members.iter().any(|m| figure(snapshot, m).is_some()))
}

fn page(snapshot: &Snapshot, rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    let unit = snapshot.unit().to_uppercase();
    let mut header = vec!["SLOT", "PID", "WEIGHT", "STATE"];
    header.extend(known(snapshot).map(|(name, _)| name));
    header.extend([&unit, "SHARE", "MIGRATED"]);
    table.load_preset(presets::NOTHING).set_header(header).add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        let left = index == STATE;
        column.set_cell_alignment(if left { CellAlignment::Left } else { CellAlignment::Right });
    }
    let group = &snapshot.group;
    format!(
        "{}  {}/{}  {}\n{}\n{}",
        group.name,
        group.protocol,
        group.address,
        policy_of(snapshot),
        table.lines().map(|line| line.trim_end().to_owned() + "\n").collect::<String>(),
        misses(snapshot)
    )
}

fn misses(snapshot: &Snapshot) -> String {
    let (total, unit) = (snapshot.connections(snapshot.total()), snapshot.unit());
    if snapshot.policy.program().is_none() {
        return if snapshot.counted {
            format!("{total} {unit}; no program: the kernel's hash chose")
        } else {
            "no program: the kernel's hash chooses, and connections are not counted".to_owned()
        };
    }
    let mut line = format!(
        "{total} {unit}; {} left to the kernel's hash; {} errors",
        snapshot.fallback, snapshot.errors
    );
    if let Some(flows) = snapshot.flows {
        line.push_str(&format!(
            "\nroom for {} flows ({:.1} MiB), each until nobody has sent for {}; evicted for want of room: \
             {} that went on, {} others",
            flows.room,
            flows.bytes as f64 / f64::from(1 << 20),
            TimeSpan(Duration::from_millis(flows.timeout_ms)),
            flows.evicted,
            flows.evicted_unassured
        ));
    }
    let Snapshot { unasked, displaced, .. } = snapshot;
    if *unasked > 0 || *displaced > 0 {
        line.push_str(&format!(
            "\n{unasked} {unit} came without the program having been asked: another process has replaced \
             or detached it; it was put back {}",
            if *displaced == 1 { "once".to_owned() } else { format!("{displaced} times") }
        ));
    }
    snapshot.unattended().for_each(|told| line.push_str(&format!("\n{told}")));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_steering::{policy::Policy, testing::snapshot as example};

    #[test]
    fn a_status_has_a_row_a_member_and_one_for_those_that_left() {
        let expected = "\
tcp-8080  tcp/127.0.0.1:8080  weighted
 SLOT   PID  WEIGHT  STATE     CONNECTIONS   SHARE  MIGRATED
    0  4711       5  live              500  50.0 %         0
    1  4712       3  live              300  30.0 %         4
    3  4720       2  draining          150  15.0 %         0
    -     -       -  left               50   5.0 %         0

1000 connections; 0 left to the kernel's hash; 0 errors";
        assert_eq!(status(&example()), expected);
    }

    #[test]
    fn open_connections_have_a_column_where_they_are_counted() {
        let mut snapshot = example();
        for (open, member) in (7..).zip(&mut snapshot.members) {
            member.open = Some(open);
        }
        snapshot.policy = Policy::LeastConnections;
        let expected = "\
tcp-8080  tcp/127.0.0.1:8080  least-connections
 SLOT   PID  WEIGHT  STATE     OPEN  CONNECTIONS   SHARE  MIGRATED
    0  4711       5  live         7          500  50.0 %         0
    1  4712       3  live         8          300  30.0 %         4
    3  4720       2  draining     9          150  15.0 %         0
    -     -       -  left         -           50   5.0 %         0

1000 connections; 0 left to the kernel's hash; 0 errors";
        assert_eq!(status(&snapshot), expected);
    }

    #[test]
    fn busy_and_idle_connections_are_told_apart_where_requests_are_observed() {
        let mut snapshot = example();
        for (busy, member) in (1..).zip(&mut snapshot.members) {
            (member.open, member.busy) = (Some(7), Some(busy));
        }
        let text = status(&snapshot);
        assert!(text.contains("STATE     OPEN  BUSY  IDLE  CONNECTIONS"), "{text}");
        assert!(text.contains("live         7     2     5          300"), "{text}");
    }

    #[test]
    fn a_summary_has_a_row_for_each_member_that_ever_was() {
        let text = summary(&example());
        let pids: Vec<&str> =
            text.lines().skip(2).filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(pids[..4], ["4711", "4712", "4713", "4720"], "{text}");
    }

    #[test]
    fn a_summary_of_members_that_have_all_left_has_no_column_of_what_is_open() {
        let mut snapshot = example();
        snapshot.left.append(&mut snapshot.members);
        snapshot.left.iter_mut().for_each(|member| member.open = Some(0));
        let text = summary(&snapshot);
        assert!(!text.contains("OPEN") && text.contains("live              500  50.0 %"), "{text}");
    }

    #[test]
    fn of_a_udp_group_without_flows_datagrams_are_counted() {
        let mut snapshot = example();
        snapshot.group.protocol = balancer_steering::group::Protocol::Udp;
        snapshot.counted = false;
        let text = status(&snapshot);
        assert!(text.contains(" DATAGRAMS ") && text.contains("1000 datagrams;"), "{text}");
    }

    #[test]
    fn workers_of_others_count_nothing_without_a_program() {
        let snapshot = Snapshot { policy: Policy::Kernel, counted: false, ..example() };
        assert!(status(&snapshot).ends_with("connections are not counted"));
    }

    #[test]
    fn without_a_program_what_is_counted_is_shown_all_the_same() {
        let snapshot = Snapshot { policy: Policy::Kernel, ..example() };
        assert!(
            status(&snapshot).ends_with("1000 connections; no program: the kernel's hash chose")
        );
    }

    #[test]
    fn a_program_that_was_not_asked_is_told_of() {
        let snapshot = Snapshot { unasked: 7, displaced: 1, ..example() };
        let text = status(&snapshot);
        assert!(text.contains("7 connections came without") && text.ends_with("put back once"));
    }
}
