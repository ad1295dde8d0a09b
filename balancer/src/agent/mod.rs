//! The process that keeps a group up, until it is told to end: of workers that it has started (`run`), or
//! of sockets that it has adopted (`attach`). One event loop for both, which waits for no reader, no lock
//! and no other process.
//!
//! | what | module |
//! | --- | --- |
//! | workers of its own | `spawned`, and the [`supervisor`](crate::supervisor) |
//! | sockets of others | `adopted`, `triggers` |
//! | signals, and what a hangup means | `signals`, `hangup` |
//! | whether the program in force is ours | `in_force` |
//! | new workers that get more and more | `growth` |

mod adopted;
mod growth;
mod hangup;
mod in_force;
mod signals;
mod spawned;
mod triggers;

use std::ops::ControlFlow;

use anyhow::Result;
use balancer_steering::{affinity, policy::Policy, snapshot::Snapshot, steering::Steering};

pub use self::{
    adopted::{Adopted, Ending},
    signals::Signals,
    spawned::Spawned,
};
use self::{growth::Growth, in_force::InForce, signals::Came};
use crate::{console::Console, render};

/// Whether the agent goes on.
type Flow<E> = ControlFlow<Result<E>>;

/// What an agent does for its kind of group.
pub(crate) trait Kind {
    /// How it ends.
    type End;

    /// The group.
    fn steering(&mut self) -> Result<&mut Steering>;

    /// Whether the group is to be looked after: not before all workers serve, nor when they end.
    fn is_up(&self) -> bool;

    /// Waits for what happens to sockets and processes, and does what is to be done. May be dropped
    /// while it waits.
    async fn next(&mut self, console: &mut Console) -> Flow<Self::End>;

    /// What is to be done after a look at the group.
    fn looked(&mut self, snapshot: &Snapshot, console: &Console) -> Flow<Self::End>;

    /// Another command gave the group back to the kernel.
    fn given_back(&mut self, console: &Console) -> Flow<Self::End>;

    /// A signal came.
    fn signalled(&mut self, came: Came, console: &mut Console) -> Flow<Self::End>;
}

/// Keeps a group up.
///
/// # Errors
/// If the group's record cannot be read, or what its kind ends with.
pub(crate) async fn keep_up<K: Kind>(
    kind: &mut K,
    signals: &mut Signals,
    console: &mut Console,
) -> Result<K::End> {
    let mut ticks = tokio::time::interval(console.interval());
    let mut growth = Growth::of(kind.steering()?.group()?.options);
    let mut in_force = InForce::default();
    loop {
        let flow = tokio::select! {
            flow = kind.next(console) => flow,
            came = signals.next() => kind.signalled(came, console),
            _ = ticks.tick(), if kind.is_up() => {
                look(kind, console, &mut in_force).unwrap_or_else(|error| {
                    tracing::error!("{error:#}");
                    Flow::Continue(())
                })
            }
            () = growth.due(), if kind.is_up() => {
                if let Err(error) = kind.steering().and_then(|steering| Ok(steering.grow()?)) {
                    tracing::error!("{error:#}");
                }
                Flow::Continue(())
            }
        };
        if let Flow::Break(end) = flow {
            return end;
        }
    }
}

fn look<K: Kind>(
    kind: &mut K,
    console: &mut Console,
    in_force: &mut InForce,
) -> Result<Flow<K::End>> {
    let steering = kind.steering()?;
    if !steering.is_pinned() {
        return Ok(kind.given_back(console));
    }
    if let Some(abandoned) = steering.try_restore()? {
        console.complain(&render::policy::abandoned_line(steering.name(), &abandoned));
    }
    let snapshot = steering.snapshot()?;
    if let Some(line) = in_force.look(&snapshot, steering)? {
        console.complain(&line);
    }
    steering.rest()?;
    steering.rest_tracker()?;
    console.update(snapshot.clone());
    Ok(kind.looked(&snapshot, console))
}

/// Says what to do where the policy `cpu` has nothing to go by.
pub(crate) fn warn_if_unpinned(steering: &Steering) -> Result<()> {
    let members = steering.members()?;
    let pinned = members.iter().any(|member| affinity::only_cpu(member.worker.pid).is_some());
    if steering.group()?.policy == Policy::Cpu && !pinned {
        tracing::warn!(
            "no worker of {} is pinned to one CPU, so all of them take turns; start them with `balancer run \
             --pin`, or pin them (nginx: worker_cpu_affinity; others: `taskset -pc CPU PID`) and say \
             `balancer policy cpu`",
            steering.name()
        );
    }
    Ok(())
}
