//! Takes the sockets of a group that was found: all that can be steered. The others are named, and
//! left to the kernel's hash.

use std::{
    collections::HashMap,
    os::fd::AsFd as _,
    thread,
    time::{Duration, Instant},
};

use crate::error::{Error, ErrorKind, Result, bail, error};

use super::{
    ATTEMPTS,
    adopt::{self, NotAdopted},
};
use crate::{
    discovery::{FoundGroup, FoundSocket, GroupWatcher},
    escape::printable,
    steering::{self, Occupant, SocketMaps, Steering},
};

/// How long the array of a group that was given back a moment ago may take to let go of its sockets:
/// an RCU grace period or two.
const LETTING_GO: Duration = Duration::from_secs(2);

/// How often what keeps an array is looked for.
const LOOKS: u32 = 5;

/// What becomes of a socket that is left out.
pub(super) const LEFT_OUT: &str = "the others are steered, and it gets only connections for which the program finds no member (fallback)";

/// What was taken.
#[derive(Default)]
pub(super) struct Taken {
    /// Cookies of the sockets that were left out, each as often tried as any can be.
    pub set_aside: HashMap<u64, u32>,
    /// Another program was detached, which cannot be put back.
    pub detached: bool,
}

type Refused<'a> = Vec<(&'a FoundSocket, NotAdopted)>;

/// Registers every socket that can be steered, warns of the others, and publishes the table. `replace`
/// detaches another program first, once nothing is known to be in the way of taking the group.
///
/// # Errors
/// If no socket can be steered, or another program steers them and is not to be replaced.
pub(super) fn take(
    steering: &mut Steering,
    found: &FoundGroup,
    group_watcher: &GroupWatcher,
    replace: bool,
    taken: &mut Taken,
) -> Result<()> {
    let mut refused = adopt_all(steering, found, found.sockets.iter());
    explain(&mut refused);
    // An array that let go of its group a moment ago is in no listing any more.
    wait_for(steering, found, &mut refused, |occupant| occupant.may_let_go(false));
    if replace {
        detach_other(steering, found, &mut refused, taken)?;
    } else if let Some((socket, error)) =
        refused.iter().find(|(_, error)| is(error, Occupant::may_be_steered))
    {
        let sentence =
            format!("{} is steered by another program: {}: {error}", found.identity, who(socket));
        return Err(Error::of_kind(ErrorKind::Taken, sentence));
    }
    let there = group_watcher.sockets()?;
    let ended = |(socket, error): &(&FoundSocket, NotAdopted)| {
        matches!(error, NotAdopted::Gone) || !there.iter().any(|s| s.cookie == socket.cookie)
    };
    let (ended, left): (Vec<_>, Vec<_>) = refused.into_iter().partition(ended);
    ended.iter().for_each(|(socket, _)| tracing::info!("{} ended meanwhile", who(socket)));
    let each = |(socket, error): &(&FoundSocket, NotAdopted)| format!("{}: {error}", who(socket));
    if steering.members()?.is_empty() {
        if left.is_empty() {
            return Err(all_gone(found));
        }
        let all: Vec<String> = left.iter().map(each).collect();
        bail!("{} cannot be steered: {}", found.identity, all.join("; "));
    }
    for refused in &left {
        tracing::warn!("{}; {LEFT_OUT}", each(refused));
    }
    taken.set_aside = left.iter().map(|(socket, _)| (socket.cookie, ATTEMPTS)).collect();
    warn_of_guesses(steering, found)?;
    steering.publish()
}

/// Tries each socket once; those that were refused.
fn adopt_all<'a>(
    steering: &mut Steering,
    found: &FoundGroup,
    sockets: impl Iterator<Item = &'a FoundSocket>,
) -> Refused<'a> {
    let mut adopt = |socket| adopt::adopt(steering, &found.identity, socket).err();
    sockets.filter_map(|socket| Some((socket, adopt(socket)?))).collect()
}

/// Adds what the loaded maps tell.
fn explain(refused: &mut Refused<'_>) {
    let mut maps = None;
    for (socket, error) in refused {
        error.explain(socket, || maps.get_or_insert_with(SocketMaps::read));
    }
}

/// Whether something else has a socket, and that is so.
fn is(error: &NotAdopted, so: impl Fn(&Occupant) -> bool) -> bool {
    matches!(error, NotAdopted::Taken(occupant) if so(occupant))
}

/// The sockets that something else has and of which that is so, and the others.
fn split<'a>(refused: Refused<'a>, so: impl Fn(&Occupant) -> bool) -> (Refused<'a>, Refused<'a>) {
    refused.into_iter().partition(|(_, error)| is(error, &so))
}

/// Tries those again, for some time, that something else has and of which that is so.
fn wait_for(
    steering: &mut Steering,
    found: &FoundGroup,
    refused: &mut Refused<'_>,
    so: impl Fn(&Occupant) -> bool,
) {
    let deadline = Instant::now() + LETTING_GO;
    let (mut again, mut others) = split(std::mem::take(refused), so);
    while !again.is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
        let sockets = again.into_iter().map(|(socket, _)| socket);
        let (taken, not_taken) = split(adopt_all(steering, found, sockets), |_| true);
        again = taken;
        others.extend(not_taken);
    }
    explain(&mut again);
    others.extend(again);
    *refused = others;
}

/// Detaches another program through the first member that can be had, unless that is known to be in
/// vain, and takes the sockets that it lets go.
fn detach_other(
    steering: &mut Steering,
    found: &FoundGroup,
    refused: &mut Refused<'_>,
    taken: &mut Taken,
) -> Result<()> {
    let identity = &found.identity;
    let occupants = refused.iter().filter_map(|(_, error)| error.occupant());
    let arrays: Vec<u32> = occupants.flat_map(Occupant::arrays).collect();
    let mut keepers = if arrays.is_empty() { Vec::new() } else { steering::keepers(&arrays) };
    // Another command may merely be reading it.
    for _ in 0..LOOKS {
        if keepers.is_empty() {
            break;
        }
        thread::sleep(LETTING_GO / 10);
        let still = steering::keepers(&arrays);
        keepers.retain(|keeper| still.contains(keeper));
    }
    if !keepers.is_empty() {
        bail!(
            "{identity} cannot be taken from the program that steers it, and nothing was changed: its \
             socket array would stay, because it is kept by {}; end that process or remove that pin, then \
             attach again (`bpftool map list` shows the array as reuseport_sockarray)",
            keepers.join(", ")
        );
    }
    let may_be_freed = refused.iter().any(|(_, error)| is(error, Occupant::may_be_steered));
    if steering.members()?.is_empty() && !may_be_freed {
        return Ok(());
    }
    for socket in &found.sockets {
        let Ok((borrowed, _)) = adopt::borrow(identity, socket) else { continue };
        taken.detached = steering.displace(borrowed.as_fd())?;
        break;
    }
    if taken.detached {
        tracing::warn!("took {identity} from the program that had it; it cannot be put back");
        wait_for(steering, found, refused, |occupant| occupant.may_let_go(true));
    }
    Ok(())
}

fn warn_of_guesses(steering: &Steering, found: &FoundGroup) -> Result<()> {
    let members = steering.members()?;
    let is_member = |socket: &&FoundSocket| members.iter().any(|m| m.cookie == socket.cookie);
    let guessed = found.sockets.iter().filter(|socket| socket.guessed).filter(is_member);
    let workers = guessed.filter_map(|socket| socket.worker.as_ref());
    let pids: Vec<String> = workers.map(|worker| worker.process.pid.to_string()).collect();
    if !pids.is_empty() {
        tracing::warn!(
            "several processes have the same sockets open and none is seen to poll them; that {} accept \
             from them is a guess, which affects only the PIDs that are shown",
            pids.join(", ")
        );
    }
    Ok(())
}

/// `PID 7 (nginx)`
pub(super) fn who(socket: &FoundSocket) -> String {
    match &socket.worker {
        Some(worker) => format!("PID {} ({})", worker.process.pid, printable(&worker.command)),
        None => format!("the socket with inode {}", socket.inode),
    }
}

pub(super) fn all_gone(found: &FoundGroup) -> Error {
    error!(
        "all servers of {} ended while they were being adopted; start them, then attach again",
        found.identity
    )
}
