//! What Linux' own tests of the program type check (`tools/testing/selftests/bpf/prog_tests/`
//! `select_reuseport.c` and `migrate_reuseport.c`), checked with our programs: over TCP and UDP, IPv4
//! and IPv6, loopback and any address. Theirs have a program that does as the packet says; ours has a
//! table, so a case is brought about by what is in the table and who sits in the slots.
//!
//! | `select_reuseport` | here |
//! | --- | --- |
//! | `test_pass`, and what the program is shown of a packet | `each_of_32_slots_is_chosen_when_it_is_drawn`; the address it is shown: `sticky` in the module `sticky`, the log line in the module `programs` |
//! | `test_err_inner_map`: no map of sockets | `a_table_without_anybody_leaves_the_choice_to_the_kernel` |
//! | `test_err_skb_data`: too short a packet | `a_datagram_without_a_word_is_steered_too` |
//! | `test_err_sk_select_port`: no such slot; `test_pass_on_err` | `a_table_of_slots_that_are_none_leaves_the_choice_to_the_kernel`; our programs have no other answer than to pass |
//! | an empty slot | `the_share_of_a_dead_slot_…`, `what_no_slot_can_take_…` in the module `programs` |
//! | a socket of another group, protocol or family (the helper's other errors) | `sockets_of_other_groups_are_passed_over_and_counted_as_errors` |
//! | `test_syncookie` | `with_syn_cookies_the_ack_decides_and_has_a_turn_of_its_own`; what then counts: `load::counting` |
//! | `test_detach_bpf` | `once_detached_no_program_runs_and_the_kernels_hash_is_back` |
//! | the same with SOCKMAP and SOCKHASH | not ours: balancer has one kind of array |
//!
//! | `migrate_reuseport`, each over IPv4 and IPv6 | here |
//! | --- | --- |
//! | `TCP_ESTABLISHED`, `inet_csk_listen_stop` | `Request::Queued`; with workers: `lifecycle` |
//! | `TCP_SYN_RECV` (TCP Fast Open), `inet_csk_listen_stop` | `Request::FastOpen` |
//! | `TCP_NEW_SYN_RECV`, `reqsk_timer_handler` | `Request::TimedOut` |
//! | `TCP_NEW_SYN_RECV`, `inet_csk_complete_hashdance` | `Request::Acknowledged`, and `Request::Ended`: the client has closed by then |
//! | "migration will be done by kernel random pick" | `requests_that_no_slot_can_take_move_where_the_kernel_says_and_are_counted` |
//!
//! All of them need Linux 5.14, as balancer does; those with half-open connections need nft.

mod migrating;
mod selecting;
