//! A group that somebody else's program has: left alone, unless it is asked for.

use std::{
    fs::remove_dir_all,
    io::IoSlice,
    mem::MaybeUninit,
    net::TcpStream,
    os::{fd::AsFd as _, unix::net::UnixDatagram},
};

use aya::{maps::MapData, programs::SkReuseport};
use balancer_steering::{group::Protocol, policy::Policy};
use harness::{
    Host, TestGroup,
    servers::{SOCKMAP, Server},
    sockets::{tcp, udp},
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use socket2::Socket;

use super::{ADDRESS, selected};

#[test]
fn a_group_whose_sockets_are_in_anothers_array_is_taken_only_on_request() {
    Host::with(|host| {
        let _sockets = [tcp(ADDRESS), tcp(ADDRESS)];
        host.succeed(&["attach", ":8000", "--once"]);
        // Whose program it was is forgotten; it stays attached, and the array with it.
        remove_dir_all(host.pins("tcp-8000")).unwrap();
        let message = host.fail(1, &["attach", ":8000", "--once"]);
        for part in ["tcp/127.0.0.1:8000", "another program", "--replace", "cannot be put back"] {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        assert!(host.is_clean());
        let output = host.output(&["attach", ":8000", "--once", "--replace"]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && message.contains("cannot be put back"), "{message}");
        let _clients = [(); 10].map(|()| TcpStream::connect(ADDRESS).unwrap());
        assert_eq!(selected(&host.status()), [5, 5]);
        assert!(host.succeed(&["detach"]).contains("--replace` removed cannot be put back"));
        assert!(host.is_clean());
    });
}

#[test]
fn replacing_nothing_replaces_nothing() {
    Host::with(|host| {
        let _sockets = [tcp(ADDRESS), tcp(ADDRESS)];
        let output = host.output(&["attach", ":8000", "--once", "--replace"]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert!(!host.succeed(&["detach"]).contains("put back"));
    });
}

#[test]
fn an_array_that_its_owner_holds_is_not_taken_and_nothing_of_ours_is_left() {
    Host::with(|host| {
        let group = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &[1, 1]);
        let address = group.address.to_string();
        // Its pins are out of sight, its maps open in this process.
        remove_dir_all(host.pins("test")).unwrap();
        let message = host.fail(1, &["attach", &address, "--replace"]);
        let kept = format!("kept by PID {} (", std::process::id());
        for part in [&kept, "nothing was changed", "bpftool"] {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        assert!(host.is_clean());
        let _clients = group.connect(10);
        assert_eq!(group.selected(), [5, 5]);
    });
}

/// Whether a program was on the group.
fn detached(socket: &Socket) -> bool {
    SkReuseport::detach(socket).is_ok()
}

#[test]
fn an_array_that_is_pinned_is_not_taken_and_its_program_stays() {
    Host::with(|host| {
        let sockets = [tcp("[::1]:8000"), tcp("[::1]:8000")];
        host.succeed(&["attach", ":8000", "--once"]);
        let pin = host.bpffs().join("theirs");
        std::fs::rename(host.pins("tcp-8000").join("SOCKETS"), &pin).unwrap();
        remove_dir_all(host.pins("tcp-8000")).unwrap();
        let message = host.fail(1, &["attach", ":8000", "--replace", "--once"]);
        let kept = format!("kept by the pin {}", pin.display());
        assert!(message.contains(&kept) && message.contains("nothing was changed"), "{message}");
        assert!(detached(&sockets[0]), "it was detached in vain");
    });
}

#[test]
fn a_group_is_not_taken_from_another_program_for_the_sake_of_a_socket_that_is_free() {
    for (open, name) in [(tcp as fn(&str) -> Socket, "tcp-8000"), (udp, "udp-8000")] {
        Host::with(move |host| {
            let _theirs = [open(ADDRESS), open(ADDRESS)];
            host.succeed(&["attach", ":8000", "--once"]);
            remove_dir_all(host.pins(name)).unwrap();
            let _free = open(ADDRESS);
            let message = host.fail(1, &["attach", ":8000", "--once"]);
            assert!(
                message.contains("another program") && message.contains("--replace"),
                "{message}"
            );
            host.succeed(&["attach", ":8000", "--once", "--replace"]);
            assert_eq!(host.workers(Some("live")).len(), 3);
        });
    }
}

#[test]
fn a_program_is_not_detached_where_no_socket_would_be_free_by_that() {
    Host::with_python(|host| {
        let servers = [(); 2].map(|()| Server::in_map("tcp", ADDRESS, SOCKMAP, 8));
        // The group's program is one that uses no array.
        let joined = tcp(ADDRESS);
        let group = TestGroup::new(host, Protocol::Tcp, Policy::Noop, &[1]);
        group.steering.attach(joined.as_fd()).unwrap();
        drop((joined, group));
        let message = host.fail(1, &["attach", ADDRESS, "--replace", "--once"]);
        assert!(message.contains("in a sockmap") && !message.contains("detached"), "{message}");
        let socket = tcp(ADDRESS);
        assert!(detached(&socket), "it was detached in vain");
        servers.into_iter().for_each(Server::kill);
    });
}

#[test]
fn a_program_that_was_detached_in_vain_is_said_to_be() {
    Host::with(|host| {
        let sockets = [tcp(ADDRESS), tcp(ADDRESS)];
        host.succeed(&["attach", ":8000", "--once"]);
        // On its way from one process to another it is seen nowhere, and kept all the same.
        let (sender, _receiver) = UnixDatagram::pair().unwrap();
        {
            let array = MapData::from_pin(host.pins("tcp-8000").join("SOCKETS")).unwrap();
            let descriptors = [array.fd().as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
            let data = [IoSlice::new(b".")];
            sendmsg(&sender, &data, &mut control, SendFlags::empty()).unwrap();
        }
        remove_dir_all(host.pins("tcp-8000")).unwrap();
        let message = host.fail(1, &["attach", ":8000", "--replace", "--once"]);
        for part in ["was detached and cannot be put back", "`SOCKETS`", "cannot be steered"] {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        assert!(host.is_clean() && !detached(&sockets[0]));
    });
}
