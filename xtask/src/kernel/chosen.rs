//! What is run on a kernel where nothing is named: what asks most of it, and is done in minutes on an
//! emulated CPU. What is about the command line, measures, or needs Go, nginx or a browser is left to
//! this machine's kernel.

/// Files of tests, and of each the tests whose names have one of these in them; none for all.
pub const CHOSEN: &[(&str, &[&str])] = &[
    (
        "attach",
        &[
            "three_servers_started_by_hand",
            "what_a_killed_agent_leaves",
            "a_server_that_starts_later",
            "the_kernel_tells_an_agent",
            "udp_servers_come_and_go",
        ],
    ),
    ("control", &["a_policy_switch", "a_weight_takes_effect"]),
    ("drain", &["no_policy_lets_a_drained_member", "waiting_lasts", "what_a_dying_worker"]),
    ("groups", &["a_socket_is_listed", "of_several_processes"]),
    // The others of it need nft.
    ("kernel-cases", &["selecting", "requests_that_no_slot"]),
    (
        "lifecycle",
        &[
            "a_group_whose_workers_all_died",
            "a_killed_worker",
            "stopping_serves",
            "without_its_supervisor",
        ],
    ),
    (
        "load",
        &[
            "a_stopped_worker",
            "a_worker_that_takes_nobody",
            "a_connection_that_is_reset",
            "connections_that_migrate",
            "least_connections_keeps",
            "of_udp_sockets",
            "the_shortest_queue_is_chosen_by",
            "two_choices_keep",
            "who_reports_the_least",
            "with_syn_cookies",
            "without_cap_perfmon",
        ],
    ),
    ("policies", &["hash_chooses", "ipv4_ipv6", "round_robin_gives", "weighted_5_3_2"]),
    (
        "programs",
        &[
            "a_program_attached_before",
            "a_table_is_written",
            "at_the_debug_level",
            "connections_queued",
            "datagrams_are_steered",
            "every_policy_finds",
            "stragglers",
            "the_share_of_a_dead_slot",
            "what_no_slot_can_take",
        ],
    ),
    ("reload", &["predecessor"]),
    ("slow-start", &["without_the_option"]),
    ("sticky", &["when_a_worker_dies", "a_connection_that_migrates"]),
    ("takeover", &["workers_that_died_meanwhile", "an_attached_group"]),
    ("waking", &[]),
];
