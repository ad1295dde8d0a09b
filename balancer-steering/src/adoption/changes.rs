//! Members and sockets, side by side: who has come, and who has gone. Pure.

use crate::{discovery::BoundSocket, steering::Member};

/// What is different from how the group was last seen.
#[derive(Debug)]
pub struct Changes<'a> {
    /// Members whose sockets take nothing any more.
    pub gone: Vec<Member>,
    /// Sockets of the group that are no members.
    pub come: Vec<&'a BoundSocket>,
}

impl Changes<'_> {
    /// Whether there is nothing to do.
    pub fn is_nothing(&self) -> bool {
        self.gone.is_empty() && self.come.is_empty()
    }
}

/// `members` each with whether it is still there: one that was shut down and listens again is not, and
/// must be seated anew; one that a listing has left out is. `ignored` tells, by its cookie, a socket
/// that was looked at before and left alone.
pub fn between<'a>(
    members: Vec<(Member, bool)>,
    sockets: &'a [BoundSocket],
    ignored: impl Fn(u64) -> bool,
) -> Changes<'a> {
    let (stay, gone): (Vec<_>, Vec<_>) = members.into_iter().partition(|(_, there)| *there);
    let is_member = |cookie| stay.iter().any(|(member, _)| member.cookie == cookie);
    let come = sockets.iter().filter(|s| !is_member(s.cookie) && !ignored(s.cookie)).collect();
    Changes { gone: gone.into_iter().map(|(member, _)| member).collect(), come }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{testing::bound, testing::member};

    /// Slots that are gone, and cookies that have come.
    fn changes(members: &[(u64, bool)], sockets: &[u64], ignored: &[u64]) -> (Vec<u32>, Vec<u64>) {
        let members =
            (0..).zip(members).map(|(slot, &(cookie, there))| (member(slot, cookie), there));
        let sockets: Vec<_> = sockets.iter().map(|&cookie| bound(cookie)).collect();
        let changes = between(members.collect(), &sockets, |cookie| ignored.contains(&cookie));
        let gone: Vec<u32> = changes.gone.iter().map(|member| member.slot).collect();
        let come: Vec<u64> = changes.come.iter().map(|socket| socket.cookie).collect();
        assert_eq!(changes.is_nothing(), gone.is_empty() && come.is_empty());
        (gone, come)
    }

    #[test]
    fn nothing_is_different_where_every_member_serves() {
        assert_eq!(changes(&[(7, true), (8, true)], &[8, 7], &[]), (vec![], vec![]));
    }

    #[test]
    fn who_comes_and_who_goes_is_told_apart() {
        assert_eq!(changes(&[(7, false), (8, true)], &[8, 9], &[]), (vec![0], vec![9]));
    }

    #[test]
    fn one_that_a_listing_has_left_out_stays() {
        assert_eq!(changes(&[(7, true), (8, true)], &[8], &[]), (vec![], vec![]));
    }

    #[test]
    fn one_that_serves_but_lost_its_slot_goes_and_comes() {
        assert_eq!(changes(&[(7, true), (8, false)], &[7, 8], &[]), (vec![1], vec![8]));
    }

    #[test]
    fn one_that_was_left_alone_before_is_left_alone() {
        assert_eq!(changes(&[(7, true)], &[7, 9], &[9]), (vec![], vec![]));
    }
}
