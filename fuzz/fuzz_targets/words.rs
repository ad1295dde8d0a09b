//! Words of the command line: each is read back as it is shown, and a refusal names what it refuses.

#![no_main]

use std::{
    fmt::{Debug, Display},
    path::Path,
    str::FromStr,
};

use balancer::commands::claim::check_name;
use balancer_lab::{contender::Contender, work::Work};
use balancer_steering::{
    address::{AttachAddress, ListenAddress, ServedAddress, from_octets, to_octets},
    discovery::NetnsArgument,
    options::StallThreshold,
    policy_spec::PolicySpec,
    service::ServiceName,
    steering::Store,
    time_span::TimeSpan,
    weight::{Weight, WorkerWeight},
    who::Who,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    survives::<ServedAddress>(text);
    survives::<AttachAddress>(text);
    if let Some(service) = survives::<ServiceName>(text) {
        let record = ServiceName::to_record(Some(service));
        assert_eq!(ServiceName::from_record(record), Ok(Some(service)));
    }
    survives::<TimeSpan>(text);
    survives::<StallThreshold>(text);
    survives::<Contender>(text);
    survives::<PolicySpec>(text);
    if let Some(weight) = survives::<Weight>(text) {
        assert_eq!(Weight::from_record(weight.get()), weight);
    }
    if let Some(ListenAddress(address)) = survives::<ListenAddress>(text) {
        let (octets, scope) = to_octets(address);
        let family = if address.is_ipv4() { 4 } else { 6 };
        assert_eq!(from_octets(family, octets, scope, address.port()), Some(address));
    }
    assert!(read::<WorkerWeight>(text).is_none_or(|worker| worker.who != Who::Pid(0)));
    assert_ne!(read(text), Some(NetnsArgument::Process(0)));
    if let Some(work) = Work::from_path(text) {
        assert_eq!(Work::from_path(&work.path()), Some(work));
    }
    if check_name(text).is_ok() {
        let (store, none) = (Store::at(Path::new("/bpf")), Path::new("/bpf/balancer"));
        assert_eq!(store.directory(text).parent(), Some(none), "{text:?} is elsewhere");
    }
});

/// Reads a word, and what it is shown as.
fn survives<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    let value: T = read(text)?;
    let shown = value.to_string();
    assert_eq!(read(&shown).as_ref(), Some(&value), "{text:?} is shown as {shown:?}");
    Some(value)
}

fn read<T: FromStr<Err: Display>>(text: &str) -> Option<T> {
    let refusal = match text.parse() {
        Ok(value) => return Some(value),
        Err(refusal) => refusal.to_string(),
    };
    // Of `PID=WEIGHT` and the like, the half that is wrong may do.
    let wrong = text.split_once('=').map_or(text, |(_, value)| value).trim();
    assert!(refusal.contains(wrong), "{text:?} is refused: {refusal}");
    None
}
