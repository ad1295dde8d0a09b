//! Examples of what this crate tells, for tests of whatever reads it.

use std::net::SocketAddr;

use balancer_common::record::{MemberRecord, SlotState};

use crate::{
    discovery::{BoundSocket, FoundGroup, FoundSocket, Holder, diag::Place},
    group::{GroupIdentity, Protocol},
    policy::Policy,
    process::Identity,
    snapshot::{GroupInfo, MemberInfo, MemberState, OptionsInfo, Snapshot, Tally},
    steering::Member,
};

/// Three workers, one of them draining.
pub fn snapshot() -> Snapshot {
    let member = |slot, pid, weight, state, selected, migrated| MemberInfo {
        slot,
        pid,
        weight,
        state,
        open: None,
        busy: None,
        unattended: None,
        load: None,
        tally: Tally { selected, migrated, established: selected },
    };
    Snapshot {
        group: GroupInfo {
            name: "tcp-8080".to_owned(),
            protocol: Protocol::Tcp,
            address: "127.0.0.1:8080".to_owned(),
            netns: 4_026_531_840,
            service: None,
        },
        policy: Policy::Weighted,
        options: OptionsInfo::default(),
        members: vec![
            member(0, 4711, 5, MemberState::Live, 500, 0),
            member(1, 4712, 3, MemberState::Live, 300, 4),
            member(3, 4720, 2, MemberState::Draining, 150, 0),
        ],
        fallback: 0,
        errors: 0,
        left: vec![member(2, 4713, 2, MemberState::Left, 50, 0)],
        unasked: 0,
        displaced: 0,
        counted: true,
        flows: None,
    }
}

/// A socket for each worker, with a cookie that is the worker's PID.
pub fn found_group(protocol: Protocol, address: &str, workers: &[(u32, &str)]) -> FoundGroup {
    let socket = |&(pid, command): &(u32, &str)| {
        let process = Identity { pid, start: 1 };
        let holder = Holder { process, fd: 3, command: command.to_owned() };
        FoundSocket {
            inode: 1000 + u64::from(pid),
            cookie: pid.into(),
            queue: 0,
            holders: vec![holder.clone()],
            worker: Some(holder),
            guessed: false,
            problem: None,
        }
    };
    FoundGroup {
        identity: GroupIdentity {
            netns: 1,
            protocol,
            address: address.parse().expect("an address"),
        },
        v6only: false,
        device: None,
        uid: 0,
        sockets: workers.iter().map(socket).collect(),
    }
}

/// A live member.
pub fn member(slot: u32, cookie: u64) -> Member {
    let state = SlotState::Live as u8;
    Member::from((slot, MemberRecord { cookie, state, weight: 1, ..MemberRecord::default() }))
}

/// A listener of that cookie.
pub fn bound(cookie: u64) -> BoundSocket {
    let address = SocketAddr::from(([127, 0, 0, 1], 80));
    let place = Place { protocol: Protocol::Tcp, address, v6only: false, device: None, uid: 0 };
    BoundSocket { place, inode: cookie, cookie, queue: 0, limit: 0, mptcp: false }
}
