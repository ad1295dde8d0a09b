//! `groups`: a table of all groups, and what its notes mean.

use std::collections::BTreeSet;

use balancer_steering::{
    discovery::{
        FoundGroup, FoundSocket, Problem,
        listing::{ListedGroup, Listing},
    },
    escape::printable,
};
use comfy_table::{CellAlignment, Table, presets};

const NETNS: &str = "NETNS";
const SOCKETS: &str = "SOCKETS";

/// Columns that the processes of a group may take; PIDs that do not fit are counted.
const PROCESSES_WIDTH: usize = 24;

/// A row a group. The namespace is shown only where one is not the reader's own.
pub fn listing(listing: &Listing) -> String {
    let mut text = if listing.groups.is_empty() {
        "no socket listens with SO_REUSEPORT; servers have an option for it (nginx: listen 80 \
         reuseport)\n"
            .to_owned()
    } else {
        table(listing)
    };
    let notes = notes(&listing.groups);
    if !notes.is_empty() {
        text.push('\n');
        text.push_str(&notes);
    }
    if listing.skipped_namespaces > 0 {
        let skipped = listing.skipped_namespaces;
        text.push_str(&format!("\n{skipped} network namespaces could not be read\n"));
    }
    text.truncate(text.trim_end().len());
    text
}

fn table(listing: &Listing) -> String {
    let elsewhere = listing.groups.iter().any(|listed| listed.group.identity.netns != listing.home);
    let mut header = vec!["ADDRESS", "PROTOCOL", SOCKETS, "PROCESSES", "STEERED", "NOTE"];
    if elsewhere {
        header.insert(0, NETNS);
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for listed in &listing.groups {
        let mut row = row(listed);
        if elsewhere {
            row.insert(0, listed.group.identity.netns.to_string());
        }
        table.add_row(row);
    }
    for (index, name) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(index)
            && [NETNS, SOCKETS].contains(name)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.set_header(header);
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn row(listed: &ListedGroup) -> Vec<String> {
    let group = &listed.group;
    vec![
        address(group),
        group.identity.protocol.to_string(),
        group.sockets.len().to_string(),
        processes(&group.sockets),
        listed.steered.clone().unwrap_or_else(|| "no".to_owned()),
        problems(group).into_iter().map(Problem::name).collect::<Vec<_>>().join(", "),
    ]
}

fn address(group: &FoundGroup) -> String {
    let address = group.identity.address;
    let device = group
        .device
        .as_ref()
        .map(|device| format!(" on {}", printable(device)))
        .unwrap_or_default();
    // Any other IPv6 address leaves IPv4 alone without saying so.
    let v6only = if group.v6only && address.ip().is_unspecified() { " (IPv6 only)" } else { "" };
    format!("{address}{device}{v6only}")
}

fn problems(group: &FoundGroup) -> BTreeSet<Problem> {
    group.sockets.iter().filter_map(|socket| socket.problem).collect()
}

/// `nginx 811 812, python3 7?`: who accepts, by command; `?` marks a guess.
fn processes(sockets: &[FoundSocket]) -> String {
    let mut workers: Vec<(&str, u32, bool)> = sockets
        .iter()
        .filter_map(|socket| {
            let worker = socket.worker.as_ref()?;
            Some((worker.command.as_str(), worker.process.pid, socket.guessed))
        })
        .collect();
    workers.sort_unstable();
    workers.dedup();
    let mut text = String::new();
    let mut last = None;
    for (index, &(command, pid, guessed)) in workers.iter().enumerate() {
        let shown = printable(command);
        let mark = if guessed { "?" } else { "" };
        let part = match last {
            None => format!("{shown} {pid}{mark}"),
            Some(last) if last == command => format!(" {pid}{mark}"),
            Some(_) => format!(", {shown} {pid}{mark}"),
        };
        if index > 0 && text.len() + part.len() > PROCESSES_WIDTH {
            return format!("{text} +{}", workers.len() - index);
        }
        text.push_str(&part);
        last = Some(command);
    }
    if text.is_empty() { "-".to_owned() } else { text }
}

fn notes(groups: &[ListedGroup]) -> String {
    let sockets = || groups.iter().flat_map(|listed| &listed.group.sockets);
    let mut notes: Vec<String> = sockets()
        .filter_map(|socket| socket.problem)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|problem| format!("{}: {}\n", problem.name(), problem.explanation()))
        .collect();
    if sockets().any(|socket| socket.guessed) {
        notes.push(
            "?: several processes have the socket open, and any of them may accept\n".to_owned(),
        );
    }
    notes.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_steering::{group::Protocol, testing::found_group as group};

    fn example() -> Listing {
        let workers: Vec<(u32, &str)> = (811..821).map(|pid| (pid, "nginx")).collect();
        let nginx = group(Protocol::Tcp, "0.0.0.0:80", &workers);
        let mut go = group(Protocol::Tcp, "[::]:8080", &[(77, "go-server"), (77, "go-server")]);
        go.v6only = true;
        for socket in &mut go.sockets {
            socket.problem = Some(Problem::Mptcp);
        }
        let mut dns = group(Protocol::Udp, "127.0.0.53:53", &[(5, "unbound"), (6, "dig")]);
        dns.sockets[0].guessed = true;
        dns.device = Some("eth0".to_owned());
        let mut hidden = group(Protocol::Tcp, "10.0.0.1:443", &[(1, "")]);
        hidden.sockets[0].worker = None;
        hidden.sockets[0].problem = Some(Problem::Unseen);
        let steered =
            |group, name: Option<&str>| ListedGroup { group, steered: name.map(ToOwned::to_owned) };
        let groups = vec![
            steered(nginx, Some("web")),
            steered(go, None),
            steered(dns, None),
            steered(hidden, None),
        ];
        Listing { groups, skipped_namespaces: 0, home: 1 }
    }

    #[test]
    fn a_listing_has_a_row_a_group_and_says_what_its_notes_mean() {
        let expected = "
 ADDRESS                PROTOCOL  SOCKETS  PROCESSES                 STEERED  NOTE
 0.0.0.0:80             tcp            10  nginx 811 812 813 814 +6  web
 [::]:8080 (IPv6 only)  tcp             2  go-server 77              no       MPTCP
 127.0.0.53:53 on eth0  udp             2  dig 6, unbound 5?         no
 10.0.0.1:443           tcp             1  -                         no       unseen

MPTCP: cannot be steered; use plain TCP (Go: start the server with GODEBUG=multipathtcp=0)
unseen: no process is seen to have it open; run this as root, in the host's PID namespace
?: several processes have the socket open, and any of them may accept";
        assert_eq!(format!("\n{}", listing(&example())), expected);
    }

    #[test]
    fn the_namespace_is_shown_where_it_is_not_the_readers_own() {
        let mut example = example();
        assert!(!listing(&example).contains(NETNS));
        example.groups[1].group.identity.netns = 4_026_531_833;
        let text = listing(&example);
        assert!(text.contains(NETNS) && text.contains("4026531833  [::]:8080"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn names_that_others_chose_are_escaped() {
        let mut one = group(Protocol::Tcp, "0.0.0.0:80", &[(811, "ng\u{1b}[2J")]);
        one.device = Some("e\u{9b}2J".to_owned());
        let groups = vec![ListedGroup { group: one, steered: None }];
        let text = listing(&Listing { groups, skipped_namespaces: 0, home: 1 });
        assert!(text.contains(r"on e\u{9b}2J ") && text.contains(r"ng\u{1b}[2J 811"), "{text}");
    }

    #[test]
    fn where_there_is_none_a_sentence_says_so() {
        let empty = Listing { groups: vec![], skipped_namespaces: 3, home: 1 };
        let text = listing(&empty);
        assert!(text.starts_with("no socket listens with SO_REUSEPORT; "), "{text}");
        assert!(text.ends_with("3 network namespaces could not be read"), "{text}");
    }
}
