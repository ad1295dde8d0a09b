//! What the agent of `run` is asked for by another command: noted in the group, and said by a signal.

use anyhow::{Context as _, Result, bail};
use balancer_steering::{
    agent_record::AgentState, group::Protocol, process::Identity, steering::Steering,
};
use procfs::process::Process;
use rustix::{
    io::Errno,
    process::{Signal, pidfd_send_signal},
};

/// An agent that was asked for something.
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
/// Returns an error if balancer did not start the workers, or their agent is gone or cannot be asked.
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
        let udp = if group.identity.protocol == Protocol::Udp { " --udp" } else { "" };
        bail!(
            "balancer PID {}, which ran {}, is gone; take it over first, with the command that began it \
             and --takeover, but without --workers if it was scaled: balancer run{udp} --listen {} --takeover",
            group.agent.pid,
            steering.name(),
            group.identity.address
        );
    };
    if !catches(agent.pid, signal) {
        bail!(
            "balancer PID {} is of an earlier build, which does not know this; start it anew first",
            agent.pid
        );
    }
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

/// Whether a process has a handler for a signal; else it would end it.
fn catches(pid: u32, signal: Signal) -> bool {
    let process = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok());
    let caught = process.and_then(|process| process.status().ok()).map(|status| status.sigcgt);
    let bit = u32::try_from(signal.as_raw()).ok().and_then(|number| number.checked_sub(1));
    caught.zip(bit).is_none_or(|(caught, bit)| caught >> bit & 1 == 1)
}

/// What an agent tells: whole, though it be written just now; also of a group whose pins are gone.
///
/// # Errors
/// Returns an error if it cannot be read.
pub fn state_of(steering: &Steering) -> Result<AgentState> {
    let _lock = steering.lock()?;
    Ok(steering.agent_state()?)
}
