//! What the connections of a group are about: which listener each came by, whether it owes an answer, and
//! how long nothing has come or gone on it. All of it is the kernel's own listing, with what the counting
//! program keeps with each socket (`INET_DIAG_REQ_SK_BPF_STORAGES`, Linux 5.7); no process is looked at.

use std::{
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

use balancer_common::{
    record::{Place, Tag},
    request,
};
use netlink_packet_core::{Nla as _, NlasIterator};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetResponse, StateFlags, nlas::Nla};

use super::{
    diag::{self, Connection},
    netlink::Diagnostics,
};

// linux/inet_diag.h and linux/sock_diag.h; the crate does not name them.
const REQUEST_STORAGES: u16 = 2;
const REQUEST_MAP: u16 = 1;
const STORAGES: u16 = 20;
const STORAGE_VALUE: u16 = 3;
const NESTED: u16 = 1 << 15;
const KIND: u16 = 0x3fff;

/// A connection, and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Which.
    pub connection: Connection,
    /// Cookie of the listener that it came by; `None` if it is not counted.
    pub tenant: Option<u64>,
    /// Whether it owes an answer, or has data that were not read or not delivered.
    pub busy: bool,
    /// How long no data have come or gone.
    pub quiet: Duration,
}

/// The connections to a port. `places` is the map of the sockets' places.
///
/// # Errors
/// Returns an error if the kernel does not list them.
pub(super) fn activities(
    port: u16,
    places: BorrowedFd<'_>,
    epoch: u32,
) -> std::io::Result<Vec<Activity>> {
    let kernel = Diagnostics::open()?;
    let mut activities = Vec::new();
    let states = StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT;
    let attributes = attributes(places);
    diag::dump_with(&kernel, port, states, ExtensionFlags::INFO, &attributes, |response| {
        activities.push(activity(response, epoch));
    })?;
    Ok(activities)
}

/// Asks for what is kept with each socket in a map.
fn attributes(map: BorrowedFd<'_>) -> Vec<u8> {
    let map = map.as_raw_fd().to_ne_bytes();
    let inner = [&8u16.to_ne_bytes()[..], &REQUEST_MAP.to_ne_bytes(), &map].concat();
    let kind = (REQUEST_STORAGES | NESTED).to_ne_bytes();
    [&12u16.to_ne_bytes()[..], &kind, &inner].concat()
}

/// A connection, out of the kernel's answer.
pub fn activity(response: &InetResponse, epoch: u32) -> Activity {
    let place = response.nlas.iter().find_map(place).filter(|(tenant, _)| *tenant != 0);
    let info = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(info) => TcpInfo::read(info),
        _ => None,
    });
    let header = &response.header;
    let undelivered = header.recv_queue > 0 || header.send_queue > 0;
    let word = place.map_or(0, |(_, word)| request::current(word, epoch));
    let owed = epoch != 0 && request::owing(request::weight(word)) > 0;
    Activity {
        connection: diag::connection(response),
        tenant: place.map(|(tenant, _)| tenant),
        busy: undelivered || owed || info.is_none_or(TcpInfo::owes),
        quiet: info.map_or(Duration::ZERO, TcpInfo::quiet),
    }
}

/// Tenant and work of a [`Place`].
fn place(nla: &Nla) -> Option<(u64, u64)> {
    let Nla::Other(nla) = nla else { return None };
    if nla.kind() & KIND != STORAGES {
        return None;
    }
    let mut storages = vec![0; nla.value_len()];
    nla.emit_value(&mut storages);
    let storage = NlasIterator::new(storages.as_slice()).flatten().next()?;
    let value = NlasIterator::new(storage.value())
        .flatten()
        .find(|nla| nla.kind() & KIND == STORAGE_VALUE)?;
    let word = |offset: usize| {
        let octets = value.value().get(offset..offset + size_of::<u64>())?;
        Some(u64::from_ne_bytes(octets.try_into().ok()?))
    };
    word(std::mem::offset_of!(Place, tag) + std::mem::offset_of!(Tag, tenant))
        .zip(word(std::mem::offset_of!(Place, work)))
}

/// What of `struct tcp_info` (`linux/tcp.h`) tells of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TcpInfo {
    /// Milliseconds since data were last sent, in steps of the kernel's ticks (up to 10 ms). Before the
    /// first, since the handshake; so too below.
    sent: u32,
    /// Milliseconds since data last came.
    received: u32,
    segments_in: u32,
    segments_out: u32,
}

impl TcpInfo {
    fn read(octets: &[u8]) -> Option<Self> {
        let number = |offset: usize| {
            let octets = octets.get(offset..offset + size_of::<u32>())?;
            Some(u32::from_ne_bytes(octets.try_into().ok()?))
        };
        Some(Self {
            sent: number(44)?,
            received: number(52)?,
            segments_in: number(152)?,
            segments_out: number(156)?,
        })
    }

    /// Whether data came since the last were sent. Within one tick of the kernel's clock it cannot be
    /// told, and is most likely answered.
    fn owes(self) -> bool {
        self.received < self.sent || self.segments_in > 0 && self.segments_out == 0
    }

    fn quiet(self) -> Duration {
        Duration::from_millis(self.sent.min(self.received).into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWERED: TcpInfo = TcpInfo { sent: 70, received: 90, segments_in: 3, segments_out: 4 };

    #[test]
    fn an_answer_is_owed_for_what_came_after_the_last_data_were_sent_or_before_any_were() {
        assert!(!ANSWERED.owes());
        assert!(TcpInfo { received: 60, ..ANSWERED }.owes());
        assert!(!TcpInfo { received: 70, ..ANSWERED }.owes());
        let new = TcpInfo { sent: 5, received: 5, segments_in: 0, segments_out: 0 };
        assert!(!new.owes());
        assert!(TcpInfo { segments_in: 1, ..new }.owes());
    }

    #[test]
    fn a_connection_is_quiet_since_the_later_of_both() {
        assert_eq!(ANSWERED.quiet(), Duration::from_millis(70));
    }

    proptest! {
        #[test]
        fn no_octets_make_the_reader_panic(octets: Vec<u8>) {
            let _ = TcpInfo::read(&octets);
        }
    }
}
