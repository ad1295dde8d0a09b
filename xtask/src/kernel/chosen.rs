//! What is run on another kernel if nothing is named: what asks most of it, and is done in minutes on an
//! emulated CPU. What is about the command line, measures, or needs Go, nginx or a browser is left to
//! this machine's kernel.
//!
//! With several CPUs it is what they can disturb. One of them may stand still for 100 ms and more while
//! the others have their turns: no test belongs there that fails if a CPU is interrupted in the middle
//! of a choice.

/// The tests whose names have one of these in them, of a machine with so many CPUs.
pub const fn chosen(cpus: u8) -> &'static [&'static str] {
    if cpus == 1 { CHOSEN } else { CONCURRENT }
}

/// What runs on one CPU. Tests of `kernel_cases::migrating` need nft, but for one.
const CHOSEN: &[&str] = &[
    "what_a_killed_agent_leaves",
    "a_server_that_starts_later",
    "the_kernel_tells_an_agent",
    "control::a_policy_switch",
    "groups::a_socket_is_listed",
    "lifecycle::a_killed_worker",
    "stalling::a_stopped_worker",
    "a_connection_that_is_reset",
    "connections_that_migrate",
    "library::flows",
    "least_connections_keeps",
    "connections_go_where_the_fewest_requests",
    "of_udp_sockets",
    "the_shortest_queue_is_chosen_by",
    "counting::with_syn_cookies",
    "without_cap_perfmon",
    "policies::hash_chooses",
    "policies::round_robin_gives",
    "programs::a_program_attached_before",
    "programs::connections_queued",
    "programs::datagrams_are_steered",
    "programs::what_no_slot_can_take",
    "requests::a_connection_is_busy",
    "requests::a_request_that_comes",
    "sticky::when_a_worker_dies",
    "sticky::a_connection_that_migrates",
    "verified::",
    "waking::",
];

/// What runs on several CPUs: the policy that looks at the CPU, and tests in which clients, workers and
/// commands use a group at the same time.
const CONCURRENT: &[&str] = &[
    "library::cpu::",
    "lifecycle::a_killed_worker",
    "connections_that_migrate",
    "stalling::a_stopped_worker",
    "of_udp_sockets",
    "policies::weighted_5_3_2",
    "programs::a_table_is_written",
    "programs::connections_queued",
    "sticky::a_connection_that_migrates",
    "waking::",
];
