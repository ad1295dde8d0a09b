//! A policy and its options, as they are typed.

use std::{fmt::Write as _, time::Duration};

use balancer_steering::{
    options::StallThreshold,
    policy::Policy,
    snapshot::{OptionsInfo, Snapshot},
    steering::Abandoned,
    time_span::TimeSpan,
};

/// The policy of a group and its options, as on the command line.
pub fn policy_of(snapshot: &Snapshot) -> String {
    policy_line(snapshot.policy, snapshot.options)
}

/// What became of a group whose experiment was abandoned.
pub fn abandoned_line(group: &str, abandoned: &Abandoned) -> String {
    let Abandoned { experimenter, policy, options } = *abandoned;
    format!(
        "{group}: a comparison (PID {}) ended before it went back; {} is in force again, as before it",
        experimenter.pid,
        policy_line(policy, options.into())
    )
}

/// A policy and its options, as on the command line. A policy that chooses nothing has none.
pub fn policy_line(policy: Policy, options: OptionsInfo) -> String {
    let mut line = policy.name().to_owned();
    if !policy.steers() {
        return line;
    }
    // Writing to a string does not fail.
    if let Some(load) = options.load {
        let _ = write!(line, " --load {}", load.name());
    }
    if let Some(time) = options.avoid_stalled_us {
        let time = Some(Duration::from_micros(time)).filter(|time| !time.is_zero());
        let _ = write!(line, " --avoid-stalled {}", StallThreshold(time));
    }
    if let Some(time) = options.slow_start_ms.map(Duration::from_millis) {
        let _ = write!(line, " --slow-start {}", TimeSpan(time));
    }
    if let Some(percent) = options.max_share {
        let _ = write!(line, " --max-share {percent}%");
    }
    if options.observe {
        line.push_str(" --observe");
    }
    line
}

#[cfg(test)]
mod tests {
    use balancer_steering::{metric::Metric, options::PolicyOptions};

    use super::*;

    #[test]
    fn options_read_as_they_are_typed() {
        let options = PolicyOptions {
            load: Metric::Reported,
            avoid_stalled: Some(Duration::from_millis(50)),
            slow_start: Some(Duration::from_millis(1500)),
            max_share: "40%".parse().ok(),
            observe: true,
        };
        assert_eq!(
            policy_line(Policy::Weighted, options.into()),
            "weighted --load reported --avoid-stalled 50ms --slow-start 1500ms --max-share 40% \
             --observe"
        );
        assert_eq!(policy_line(Policy::Kernel, options.into()), "kernel");
    }
}
