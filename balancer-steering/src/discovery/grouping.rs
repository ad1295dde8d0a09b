//! Sockets to groups: which belong together is decided here, by the kernel's own rule.

use super::diag::{BoundSocket, Place};
use crate::group::Protocol;

/// The groups among sockets of one network namespace, by port, protocol and address, each with its
/// members by inode. None is empty.
///
/// `shares` tells whether a socket has SO_REUSEPORT, `None` where nobody can say. It is asked
/// only where the sockets side by side do not tell: TCP sockets that listen on one address can only
/// by sharing it, but UDP sockets also by SO_REUSEADDR, which makes no group.
pub fn groups(
    mut sockets: Vec<BoundSocket>,
    shares: impl Fn(&BoundSocket) -> Option<bool>,
) -> Vec<Vec<BoundSocket>> {
    sockets.sort_by(|a, b| (order(&a.place), a.inode).cmp(&(order(&b.place), b.inode)));
    sockets
        .chunk_by(|a, b| a.place == b.place)
        .map(|side_by_side| {
            let several = side_by_side.len() > 1;
            let proven = several && side_by_side[0].place.protocol == Protocol::Tcp;
            let is_member = |socket: &&BoundSocket| proven || shares(socket).unwrap_or(several);
            side_by_side.iter().filter(is_member).cloned().collect()
        })
        .filter(|members: &Vec<_>| !members.is_empty())
        .collect()
}

fn order(place: &Place) -> impl Ord {
    let Place { protocol, address, v6only, device, uid } = place;
    (address.port(), *protocol as u8, address.ip(), *v6only, device.clone(), *uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(inode: u64, protocol: Protocol, address: &str) -> BoundSocket {
        let address = address.parse().unwrap();
        let place = Place { protocol, address, v6only: false, device: None, uid: 0 };
        BoundSocket { place, inode, cookie: inode, queue: 0, limit: 0, mptcp: false }
    }

    fn tcp(inode: u64, address: &str) -> BoundSocket {
        socket(inode, Protocol::Tcp, address)
    }

    fn udp(inode: u64, address: &str) -> BoundSocket {
        socket(inode, Protocol::Udp, address)
    }

    fn inodes(groups: &[Vec<BoundSocket>]) -> Vec<Vec<u64>> {
        groups.iter().map(|group| group.iter().map(|socket| socket.inode).collect()).collect()
    }

    #[test]
    fn sockets_of_one_address_are_one_group() {
        let sockets = vec![tcp(2, "127.0.0.1:80"), tcp(9, "127.0.0.1:81"), tcp(1, "127.0.0.1:80")];
        assert_eq!(inodes(&groups(sockets, |_| Some(true))), [vec![1, 2], vec![9]]);
    }

    #[test]
    fn whatever_the_kernel_tells_apart_is_told_apart() {
        let one = tcp(1, "[::]:80");
        let mut others = vec![
            tcp(2, "0.0.0.0:80"),
            tcp(3, "127.0.0.1:80"),
            tcp(4, "[::]:81"),
            udp(5, "[::]:80"),
            one.clone(),
            one.clone(),
            one.clone(),
        ];
        others[4].place.v6only = true;
        others[5].place.device = Some("lo".to_owned());
        others[6].place.uid = 1000;
        for other in others {
            assert_eq!(
                groups(vec![one.clone(), other.clone()], |_| Some(true)).len(),
                2,
                "{other:?}"
            );
        }
    }

    #[test]
    fn tcp_sockets_side_by_side_need_not_be_asked() {
        let sockets = vec![tcp(1, "127.0.0.1:80"), tcp(2, "127.0.0.1:80")];
        let asked = |_: &BoundSocket| panic!("asked");
        assert_eq!(inodes(&groups(sockets, asked)), [[1, 2]]);
    }

    #[test]
    fn a_single_socket_is_a_group_only_if_it_says_so() {
        let single = || vec![tcp(1, "127.0.0.1:80")];
        assert_eq!(groups(single(), |_| Some(true)).len(), 1);
        assert_eq!(groups(single(), |_| Some(false)).len(), 0);
        assert_eq!(groups(single(), |_| None).len(), 0);
    }

    #[test]
    fn udp_sockets_that_are_side_by_side_by_so_reuseaddr_are_no_members() {
        let sockets: Vec<_> = (1..=4).map(|inode| udp(inode, "0.0.0.0:5353")).collect();
        let answers = |socket: &BoundSocket| match socket.inode {
            1 => Some(false),
            2 => None,
            _ => Some(true),
        };
        assert_eq!(inodes(&groups(sockets.clone(), answers)), [[2, 3, 4]]);
        assert_eq!(groups(sockets, |_| Some(false)).len(), 0);
    }
}
