//! `status` and the summary of `run`: a table of the members.

use comfy_table::{CellAlignment, Table, presets};

use crate::snapshot::{MemberInfo, MemberState, Snapshot, Tally, percent};

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
    row.extend(busy_column(snapshot).map(|_| dash()));
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
    if let Some(busy) = member.open.or(member.load) {
        row[STATE + 1] = busy.to_string();
    }
    row
}

/// The column of what policies by load compare, where there is something.
fn busy_column(snapshot: &Snapshot) -> Option<&'static str> {
    let any = |has: fn(&MemberInfo) -> bool| snapshot.members.iter().any(has);
    let load = any(|member| member.load.is_some()).then_some("LOAD");
    any(|member| member.open.is_some()).then_some("OPEN").or(load)
}

fn page(snapshot: &Snapshot, rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    let unit = snapshot.unit().to_uppercase();
    let mut header = vec!["SLOT", "PID", "WEIGHT", "STATE"];
    header.extend(busy_column(snapshot));
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
        snapshot.policy_line(),
        table.lines().map(|line| line.trim_end().to_owned() + "\n").collect::<String>(),
        misses(snapshot)
    )
}

fn misses(snapshot: &Snapshot) -> String {
    let total = snapshot.connections(snapshot.total());
    let unit = snapshot.unit();
    match snapshot.policy.program() {
        None if snapshot.adopted => {
            "no program: the kernel's hash chooses, and nobody counts".to_owned()
        }
        None => {
            format!("{total} connections; no program: the kernel's hash chose, workers counted")
        }
        Some(_) => format!(
            "{total} {unit}; {} left to the kernel's hash; {} errors",
            snapshot.fallback, snapshot.errors
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::Policy, snapshot::tests::example};

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
    fn a_summary_has_a_row_for_each_member_that_ever_was() {
        let text = summary(&example());
        let pids: Vec<&str> =
            text.lines().skip(2).filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(pids[..4], ["4711", "4712", "4713", "4720"], "{text}");
    }

    #[test]
    fn of_a_udp_group_datagrams_are_counted() {
        let mut snapshot = example();
        snapshot.group.protocol = crate::group::Protocol::Udp;
        let text = status(&snapshot);
        assert!(text.contains(" DATAGRAMS ") && text.contains("1000 datagrams;"), "{text}");
    }

    #[test]
    fn workers_of_others_count_nothing_without_a_program() {
        let snapshot = Snapshot { policy: Policy::Kernel, adopted: true, ..example() };
        assert!(status(&snapshot).ends_with("nobody counts"));
    }

    #[test]
    fn without_a_program_the_workers_own_counts_are_shown() {
        let mut snapshot = example();
        snapshot.policy = Policy::Kernel;
        let text = status(&snapshot);
        assert!(text.contains("304") && text.contains("workers counted"), "{text}");
    }
}
