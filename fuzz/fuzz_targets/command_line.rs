//! Whole command lines, an argument a line: what is understood is in range, survives the group's
//! record, and `status` shows it as it could be typed.

#![no_main]

use balancer::{
    cli::{Cli, TuningArgs, Verb},
    group::{Group, GroupIdentity, Protocol},
    policy::Policy,
    process::Identity,
    snapshot::{Options, policy_line},
    tuning::Tuning,
};
use balancer_ebpf::{MAX_WEIGHT, record::GroupRecord};
use clap::Parser as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let cli = match Cli::try_parse_from(["balancer"].into_iter().chain(text.split('\n'))) {
        Ok(cli) => cli,
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty() && [0, 2].contains(&refusal.exit_code()));
            return;
        }
    };
    match cli.verb {
        Verb::Run(run) => {
            assert!(run.weights.iter().all(|weight| (1..=MAX_WEIGHT).contains(&weight.get())));
            steers(run.policy.unwrap_or(Policy::RoundRobin), run.tuning);
        }
        Verb::Attach(attach) => {
            steers(attach.policy.unwrap_or(Policy::RoundRobin), attach.tuning);
        }
        Verb::Drain(drain) => assert!(!drain.pids.contains(&0)),
        Verb::Resume(resume) => assert!(!resume.pids.contains(&0)),
        Verb::Compare(compare) => assert!((1..=1000).contains(&compare.trials)),
        Verb::ExecWithSocket(exec) => {
            assert!(exec.report >= 0 && exec.load.is_none_or(|fd| fd >= 0))
        }
        _ => {}
    }
});

fn steers(policy: Policy, asked: TuningArgs) {
    let tuning = recorded(policy, asked.tuning());
    // What chooses nothing is shown without options.
    let tuning = if policy.steers() { tuning } else { Tuning::default() };
    let line =
        format!("balancer attach :80 --policy {}", policy_line(policy, Options::from(tuning)));
    match Cli::try_parse_from(line.split(' ')).map(|cli| cli.verb) {
        Ok(Verb::Attach(again)) => {
            assert_eq!((again.policy, again.tuning.tuning()), (Some(policy), tuning), "{line}");
        }
        other => panic!("`{line}` is shown, and read as {other:?}"),
    }
}

/// As a group's pinned record has it.
fn recorded(policy: Policy, tuning: Tuning) -> Tuning {
    let group = Group {
        identity: GroupIdentity { netns: 1, protocol: Protocol::Tcp, address: ([0; 4], 80).into() },
        policy,
        tuning,
        agent: Identity { pid: 1, start: 1 },
        log_level: 0,
        adopted: false,
        replaced: false,
    };
    let Ok(read) = Group::try_from(GroupRecord::from(group)) else {
        panic!("{group:?} is refused")
    };
    let longest =
        tuning.slow_start.map(|time| time.min(std::time::Duration::from_millis(u32::MAX.into())));
    assert_eq!(read, Group { tuning: Tuning { slow_start: longest, ..tuning }, ..group });
    read.tuning
}
