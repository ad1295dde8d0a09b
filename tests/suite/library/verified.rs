//! How many instructions the verifier walks for each program. It gives up at a million, so a jump is
//! noticed here before a kernel refuses the program.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aya::{
    maps::MapData,
    programs::{ProgramInfo, loaded_programs},
};
use balancer_common::maps::GROUPS;
use balancer_steering::{
    group::Protocol,
    kernel::{self, Release},
    options::{PolicyOptions, can_track},
    policy::Policy,
};
use harness::{Host, TestGroup, sockets::tcp, tools::skip};

/// The recorded figures: kernel, program, instructions, one program per line.
const RECORD: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../balancer-steering/object/verified.txt");
const RECORDED: &str = include_str!("../../../balancer-steering/object/verified.txt");

/// If it is set, the figures of the running kernel are written to the record instead of compared.
const WRITE: &str = "BALANCER_RECORD";

/// Between two builds of one source nothing changes; a change of the source may move this much.
const TOLERANCE_PERCENT: u32 = 10;

/// Of each policy's program, as loaded by default, and of the counting program.
fn measure(host: &Host) -> BTreeMap<String, u32> {
    let mut group = TestGroup::new(host, Protocol::Tcp, Policy::Kernel, &[1]);
    let mut figures = BTreeMap::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    let is_had = |policy| policy != Policy::LeastRequests || can_track().is_ok();
    for policy in Policy::ALL.into_iter().filter(|&policy| is_had(policy)) {
        group.steering.set_policy(policy, PolicyOptions::default()).unwrap();
        let pins = std::fs::read_dir(host.pins("test")).unwrap().flatten().map(|pin| pin.path());
        let is_new = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap();
            name.starts_with("bal_") && !seen.contains(path)
        };
        // Two policies may share a program; then the first of them names it.
        let Some(pin) = pins.into_iter().find(is_new) else { continue };
        figures.insert(policy.name().to_owned(), verified(&pin, policy));
        seen.push(pin);
    }
    let policy = Policy::LeastConnections;
    figures.insert(format!("{}-of-service", policy.name()), of_service(host, policy));
    let shared = host.shared_pins().join(GROUPS);
    let groups = MapData::from_pin(shared).unwrap().info().unwrap().id();
    let counts = |program: &ProgramInfo| {
        program.name_as_str() == Some("bal_count")
            && program.map_ids().ok().flatten().is_some_and(|maps| maps.contains(&groups))
    };
    let counting = loaded_programs().flatten().find(counts).unwrap();
    figures.insert("(counting)".to_owned(), counting.verified_instruction_count().unwrap());
    figures
}

/// Of the program of a policy, in a group of a service.
fn of_service(host: &Host, policy: Policy) -> u32 {
    let _socket = tcp("127.0.0.1:8000");
    let args =
        ["attach", "127.0.0.1:8000", "--once", "--service", "web", "--policy", policy.name()];
    host.succeed(&args);
    let pins = std::fs::read_dir(host.pins("tcp-8000")).unwrap().flatten().map(|pin| pin.path());
    let is_program =
        |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("bal_");
    verified(&pins.into_iter().find(is_program).unwrap(), policy)
}

fn verified(pin: &Path, policy: Policy) -> u32 {
    // A program that is refused is loaded once more without a look at queues, and is smaller then.
    let looks = pin.to_str().and_then(|pin| pin.rsplit('-').nth(1)) == Some("1");
    assert!(looks || !policy.steers(), "{} was refused: {}", policy.name(), pin.display());
    ProgramInfo::from_pin(pin).unwrap().verified_instruction_count().unwrap()
}

/// The lines of the record for one kernel, or for all others.
fn lines<'a>(record: &'a str, kernel: &str, own: bool) -> impl Iterator<Item = &'a str> {
    let begins = format!("{kernel} ");
    record.lines().filter(move |line| line.starts_with(&begins) == own)
}

#[test]
fn no_program_takes_the_verifier_much_longer_than_it_did() {
    if !harness::needs_kernel(5, 16) {
        return;
    }
    Host::with(|host| {
        let kernel = Release::parse(&kernel::release()).unwrap().to_string();
        let measured = measure(host);
        let fresh: Vec<String> = measured
            .iter()
            .map(|(program, instructions)| format!("{kernel} {program} {instructions}"))
            .collect();
        println!("{}", fresh.join("\n"));
        if std::env::var_os(WRITE).is_some() {
            let others = lines(RECORDED, &kernel, false).map(str::to_owned);
            let all: Vec<String> = others.chain(fresh).collect();
            std::fs::write(RECORD, all.join("\n") + "\n").unwrap();
            return;
        }
        let recorded: BTreeMap<&str, u32> = lines(RECORDED, &kernel, true)
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                (words[1], words[2].parse().unwrap())
            })
            .collect();
        if recorded.is_empty() {
            return skip(&format!("nothing is recorded for Linux {kernel}"));
        }
        for (program, &now) in &measured {
            let before = recorded.get(program.as_str()).copied().unwrap_or_default();
            assert!(
                now.abs_diff(before) <= before * TOLERANCE_PERCENT / 100,
                "{program}: the verifier walks {now} instructions, {before} are recorded; if that \
                 is meant, record it: {WRITE}=1 cargo xtask test verified::"
            );
        }
        assert_eq!(recorded.len(), measured.len(), "a recorded program is gone: {recorded:?}");
    });
}
