//! What the agent of `run` is asked for by another command: noted in the group, and said by a signal.

use anyhow::{Context as _, Result, bail};
use balancer_steering::{agent_record::AgentState, process::Identity, steering::Steering};
use rustix::{
    io::Errno,
    process::{Signal, pidfd_send_signal},
};

/// Who was asked.
pub struct Asked {
    /// The agent.
    pub agent: Identity,
    /// What it told before.
    pub before: AgentState,
}

/// Notes what is asked for and sends the agent a signal. What balancer has not started it cannot change so:
/// `otherwise` ends that sentence.
///
/// # Errors
/// Returns an error if there is no agent of workers that it has started, or it cannot be asked.
pub fn ask(
    steering: &mut Steering,
    signal: Signal,
    otherwise: &str,
    note: impl FnOnce(&mut AgentState),
) -> Result<Asked> {
    let lock = steering.lock_or_gone()?;
    let group = steering.group()?;
    if group.adopted {
        bail!(
            "the servers of {} were not started by balancer, so it cannot {otherwise}",
            steering.name()
        );
    }
    let Some((agent, handle)) = steering.agent()? else {
        bail!(
            "balancer PID {}, which ran {}, is gone; take it over first, with the command that began it \
             and --takeover: balancer run --listen {} --takeover",
            group.agent.pid,
            steering.name(),
            group.identity.address
        );
    };
    let before = steering.agent_state()?;
    // Else what a signal means would depend on where the agent was started.
    steering.tell(note)?;
    drop(lock);
    let pid = agent.pid;
    match pidfd_send_signal(&handle, signal) {
        Err(Errno::SRCH) => bail!("balancer PID {pid} has ended"),
        sent => {
            sent.with_context(|| format!("cannot ask balancer PID {pid} (run this as root)"))?
        }
    }
    Ok(Asked { agent, before })
}

/// What an agent tells: whole, though it be written just now; also of a group whose pins are gone.
///
/// # Errors
/// Returns an error if it cannot be read.
pub fn state_of(steering: &Steering) -> Result<AgentState> {
    let _lock = steering.lock()?;
    Ok(steering.agent_state()?)
}
