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
    "three_servers_started_by_hand",
    "what_a_killed_agent_leaves",
    "a_server_that_starts_later",
    "the_kernel_tells_an_agent",
    "udp_servers_come_and_go",
    "control::a_policy_switch",
    "control::a_weight_takes_effect",
    "drain::no_policy_lets_a_drained_member",
    "drain::waiting_lasts",
    "drain::what_a_dying_worker",
    "idle::a_second_request",
    "idle::a_reload_waits",
    "groups::a_socket_is_listed",
    "groups::of_several_processes",
    "kernel_cases::selecting",
    "requests_that_no_slot",
    "lifecycle::a_group_whose_workers_all_died",
    "lifecycle::a_killed_worker",
    "lifecycle::stopping_serves",
    "lifecycle::without_its_supervisor",
    "stalling::a_stopped_worker",
    "a_worker_that_takes_nobody",
    "a_connection_that_is_reset",
    "connections_that_migrate",
    "least_connections_keeps",
    "least_requests::",
    "of_udp_sockets",
    "the_shortest_queue_is_chosen_by",
    "two_choices_keep",
    "who_reports_the_least",
    "counting::with_syn_cookies",
    "without_cap_perfmon",
    "policies::hash_chooses",
    "policies::ipv4_ipv6",
    "policies::round_robin_gives",
    "policies::weighted_5_3_2",
    "programs::a_program_attached_before",
    "programs::a_table_is_written",
    "programs::at_the_debug_level",
    "programs::connections_queued",
    "programs::datagrams_are_steered",
    "programs::every_policy_finds",
    "programs::stragglers",
    "programs::the_share_of_a_dead_slot",
    "programs::what_no_slot_can_take",
    "reload::a_predecessor",
    "requests::a_connection_is_busy",
    "requests::a_request_that_comes",
    "one_that_dies_while_its_predecessor",
    "the_queue_of_a_predecessor",
    "slow_start::without_the_option",
    "sticky::when_a_worker_dies",
    "sticky::a_connection_that_migrates",
    "takeover::workers_that_died_meanwhile",
    "takeover::an_attached_group",
    "verified::",
    "waking::",
];

/// What runs on several CPUs: the policy that looks at the CPU, and tests in which clients, workers and
/// commands use a group at the same time.
const CONCURRENT: &[&str] = &[
    "and_back_under_load",
    "commands_at_once",
    "library::cpu::",
    "lifecycle::a_killed_worker",
    "connections_that_migrate",
    "stalling::a_stopped_worker",
    "of_udp_sockets",
    "two_choices_are_more_even",
    "policies::round_robin_stays_within",
    "policies::weighted_5_3_2",
    "programs::a_table_is_written",
    "programs::connections_queued",
    "sticky::a_connection_that_migrates",
    "waking::",
];
