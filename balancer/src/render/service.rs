//! `status` of a service: a table of its workers over all groups, then a table of each group.

use balancer_steering::{
    group::Protocol,
    service_snapshot::{ServiceSnapshot, WorkerInfo},
    snapshot::{MemberState, percent},
};
use comfy_table::{CellAlignment, Table, presets};

use super::table;

const STATE: usize = 1;

/// A service as it is.
pub fn status(service: &ServiceSnapshot) -> String {
    let groups = service.groups.len();
    let mut text = format!("service {}  {groups} groups\n{}", service.service, workers(service));
    for group in &service.groups {
        text.push('\n');
        text.push_str(&table::status(group));
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

fn workers(service: &ServiceSnapshot) -> String {
    let whole = service.workers.iter().map(WorkerInfo::connections).sum();
    let has = |protocol| service.groups.iter().any(|group| group.group.protocol == protocol);
    let (tcp, udp) = (has(Protocol::Tcp), has(Protocol::Udp));
    let mut header = vec!["PID", "STATE", "GROUPS"];
    if tcp {
        header.extend(["OPEN", "WAITING", "CONNECTIONS", "SHARE"]);
    }
    if udp {
        header.push("DATAGRAMS");
    }
    let row = |worker: &WorkerInfo| {
        let states: Vec<&str> = worker.states.iter().copied().map(MemberState::name).collect();
        let mut row =
            vec![worker.pid.to_string(), states.join(", "), worker.groups.len().to_string()];
        if tcp {
            row.extend([
                worker.open.map_or_else(|| "-".to_owned(), |open| open.to_string()),
                worker.waiting.to_string(),
                worker.connections().to_string(),
                format!("{:.1} %", percent(worker.connections(), whole)),
            ]);
        }
        if udp {
            row.push(worker.datagrams.to_string());
        }
        row
    };
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table.add_rows(service.workers.iter().map(row));
    for (index, column) in table.column_iter_mut().enumerate() {
        let left = index == STATE;
        column.set_cell_alignment(if left { CellAlignment::Left } else { CellAlignment::Right });
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use balancer_steering::testing::snapshot;

    use super::*;

    #[test]
    fn a_service_has_a_row_for_each_worker_over_all_groups_and_then_its_groups() {
        let mut groups = [snapshot(), snapshot()];
        for (open, member) in (3..).zip(groups.iter_mut().flat_map(|group| &mut group.members)) {
            member.open = Some(open);
        }
        groups[1].group.name = "tcp-443".to_owned();
        groups[1].members[0].state = MemberState::Draining;
        let waiting = HashMap::from([(4711, 1)]);
        let service = ServiceSnapshot::of("web".parse().unwrap(), groups.into(), &waiting);
        let text = status(&service);
        let expected = "\
service web  2 groups
  PID  STATE           GROUPS  OPEN  WAITING  CONNECTIONS   SHARE
 4711  live, draining       2     9        1         1000  52.6 %
 4712  live                 2    11        0          600  31.6 %
 4720  draining             2    13        0          300  15.8 %

tcp-8080  tcp/127.0.0.1:8080  weighted
";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\ntcp-443  tcp/127.0.0.1:8080  weighted\n"), "{text}");
    }

    #[test]
    fn of_udp_datagrams_are_counted() {
        let mut group = snapshot();
        group.group.protocol = Protocol::Udp;
        let service = ServiceSnapshot::of("dns".parse().unwrap(), vec![group], &HashMap::new());
        let text = status(&service);
        assert!(text.contains(" DATAGRAMS\n") && !text.contains(" WAITING"), "{text}");
    }
}
