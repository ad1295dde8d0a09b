//! Whole command lines, an argument a line: what is understood is in range, survives the group's
//! record, and `status` shows it as it could be typed.

#![no_main]

use balancer::{
    cli::{Cli, PolicyOptionArgs, Verb},
    render::policy::policy_line,
};
use balancer_common::{MAX_WEIGHT, record::GroupRecord};
use balancer_steering::{
    group::{GroupIdentity, GroupSpec, Protocol},
    options::PolicyOptions,
    policy::Policy,
    process::Identity,
    snapshot::OptionsInfo,
    who::Who,
};
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
            steers(run.policy.unwrap_or(Policy::RoundRobin), run.options);
        }
        Verb::Attach(attach) => {
            steers(attach.policy.unwrap_or(Policy::RoundRobin), attach.options);
        }
        Verb::Drain(drain) => assert!(!drain.whom.contains(&Who::Pid(0))),
        Verb::Resume(resume) => assert!(!resume.whom.contains(&Who::Pid(0))),
        Verb::Compare(compare) => assert!((1..=1000).contains(&compare.trials)),
        _ => {}
    }
});

fn steers(policy: Policy, asked: PolicyOptionArgs) {
    let options = recorded(policy, asked.options());
    // What chooses nothing is shown without options.
    let options = if policy.steers() { options } else { PolicyOptions::default() };
    let line =
        format!("balancer attach :80 --policy {}", policy_line(policy, OptionsInfo::from(options)));
    match Cli::try_parse_from(line.split(' ')).map(|cli| cli.verb) {
        Ok(Verb::Attach(again)) => {
            assert_eq!((again.policy, again.options.options()), (Some(policy), options), "{line}");
        }
        other => panic!("`{line}` is shown, and read as {other:?}"),
    }
}

/// As a group's pinned record has it.
fn recorded(policy: Policy, options: PolicyOptions) -> PolicyOptions {
    let group = GroupSpec {
        identity: GroupIdentity { netns: 1, protocol: Protocol::Tcp, address: ([0; 4], 80).into() },
        policy,
        options,
        agent: Identity { pid: 1, start: 1 },
        log_level: 0,
        adopted: false,
        replaced: false,
        counted: true,
        flows: None,
        index: 0,
        service: None,
    };
    let Ok(read) = GroupSpec::try_from(GroupRecord::from(group)) else {
        panic!("{group:?} is refused")
    };
    let longest =
        options.slow_start.map(|time| time.min(std::time::Duration::from_millis(u32::MAX.into())));
    assert_eq!(
        read,
        GroupSpec { options: PolicyOptions { slow_start: longest, ..options }, ..group }
    );
    read.options
}
