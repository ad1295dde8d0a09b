//! `balancer doctor`: what this machine has and lacks, a line each.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use balancer_steering::{
    kernel::{self, Release},
    privilege,
    steering::{Steering, Store, check_cgroup, is_bpffs},
};
use rustix::thread::CapabilitySet;

use crate::render::say;

/// The outcome of one check.
enum Finding {
    /// In order, with what was seen.
    Ok(String),
    /// In the way of everything, with the command that mends it.
    Missing { what: String, mend: String },
    /// In the way of something, with the command that mends it.
    Optional { what: String, mend: String },
}

use Finding::{Missing, Ok as Fine, Optional};

/// Prints the checks; exit code 1 where something needed is missing.
pub fn doctor(bpffs: &Path) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for (name, finding) in findings(bpffs) {
        match finding {
            Fine(seen) => say(format_args!("ok       {name}: {seen}"))?,
            Optional { what, mend } => say(format_args!("limited  {name}: {what}; fix: {mend}"))?,
            Missing { what, mend } => {
                code = ExitCode::FAILURE;
                say(format_args!("missing  {name}: {what}; fix: {mend}"))?;
            }
        }
    }
    Ok(code)
}

fn findings(bpffs: &Path) -> Vec<(&'static str, Finding)> {
    let mut findings = vec![
        ("kernel", kernel_release(&kernel::release())),
        ("BPF JIT", jit(&read("/proc/sys/net/core/bpf_jit_enable"))),
        ("BTF", btf(Path::new("/sys/kernel/btf/vmlinux").exists())),
        ("bpffs", bpffs_mounted(bpffs)),
        ("cgroup2", cgroup(check_cgroup().map_err(Into::into))),
    ];
    for (capability, name, purpose) in privilege::NEEDED {
        findings.push((name, held(capability, purpose)));
    }
    findings
        .push(("CAP_PERFMON", perfmon(&kernel::release(), privilege::has(CapabilitySet::PERFMON))));
    findings.extend(unattended(&Store::at(bpffs)).map(|found| ("group", found)));
    findings
}

/// Members of groups from which nobody accepts.
fn unattended(store: &Store) -> impl Iterator<Item = Finding> {
    let open = |name: &String| Steering::open(store, name).and_then(|group| group.snapshot());
    let snapshots: Vec<_> =
        store.names().unwrap_or_default().iter().filter_map(|name| open(name).ok()).collect();
    snapshots.into_iter().flat_map(|snapshot| {
        let told: Vec<_> = snapshot.unattended().collect();
        told.into_iter().map(move |what| Optional {
            what: format!("{}: {what}", snapshot.group.name),
            mend: "let its process accept, or close that socket".to_owned(),
        })
    })
}

fn cgroup(found: Result<Option<PathBuf>>) -> Finding {
    match found {
        Ok(Some(path)) => Fine(format!("mounted at {}", path.display())),
        Ok(None) => {
            Fine("not mounted; balancer mounts it for itself to count connections".to_owned())
        }
        Err(error) => Optional {
            what: format!(
                "{error:#}; so connections cannot be counted, and least-connections, two-choices and \
                 leaving out stalled workers are not available"
            ),
            mend: "sudo balancer …".to_owned(),
        },
    }
}

fn kernel_release(release: &str) -> Finding {
    match Release::parse(release) {
        Some(version) if version >= kernel::MINIMUM => Fine(release.to_owned()),
        _ => Missing {
            what: format!("{release} is older than {}", kernel::MINIMUM),
            mend: "sudo apt install linux-image-amd64, or your distribution's newer kernel"
                .to_owned(),
        },
    }
}

fn jit(setting: &str) -> Finding {
    match setting {
        "1" | "2" => Fine("on".to_owned()),
        "0" => Optional {
            what: "off, so the programs are interpreted, and a choice costs several times as much"
                .to_owned(),
            mend: "sudo sysctl net.core.bpf_jit_enable=1".to_owned(),
        },
        // Not shown to all, or compiled in as always on.
        _ => Fine("cannot be seen; most kernels have it always on".to_owned()),
    }
}

fn btf(there: bool) -> Finding {
    if there {
        Fine("/sys/kernel/btf/vmlinux".to_owned())
    } else {
        Optional {
            what: "the kernel does not describe its types, so the policy shortest-queue is not available, and \
                   full queues and stalled workers are not left out"
                .to_owned(),
            mend: "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' are"
                .to_owned(),
        }
    }
}

fn bpffs_mounted(path: &Path) -> Finding {
    if is_bpffs(path) {
        Fine(format!("mounted at {}", path.display()))
    } else {
        Missing {
            what: format!(
                "not mounted at {} (run as root, `balancer run` mounts it there)",
                path.display()
            ),
            mend: format!("sudo mount -t bpf bpf {}", path.display()),
        }
    }
}

fn held(capability: CapabilitySet, purpose: &str) -> Finding {
    if privilege::has(capability) {
        Fine(format!("held, to {purpose}"))
    } else {
        Missing {
            what: format!("not held, needed to {purpose}"),
            mend: "sudo balancer …".to_owned(),
        }
    }
}

fn perfmon(release: &str, held: bool) -> Finding {
    if held {
        Fine("held, to look into the kernel's own sockets".to_owned())
    } else if kernel::wants_perfmon(release) {
        Missing {
            what: format!("not held, and every policy needs it before Linux {}", kernel::BARRIERS),
            mend: "sudo balancer …".to_owned(),
        }
    } else {
        Optional {
            what:
                "not held, so the policy shortest-queue is not available, and full queues and stalled \
                 workers are not left out"
                    .to_owned(),
            mend: "sudo balancer …".to_owned(),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_missing_and_a_new_one_fine() {
        assert!(matches!(kernel_release("5.10.0-8-amd64"), Missing { .. }));
        assert!(matches!(kernel_release("5.14.0"), Fine(_)));
        assert!(matches!(kernel_release("nonsense"), Missing { .. }));
    }

    #[test]
    fn perfmon_is_needed_where_the_kernel_has_no_barriers() {
        assert!(matches!(perfmon("6.12.0", false), Missing { .. }));
        assert!(matches!(perfmon("6.17.0", false), Optional { .. }));
        assert!(matches!(perfmon("6.12.0", true), Fine(_)));
    }

    #[test]
    fn a_jit_that_is_off_limits_but_does_not_prevent() {
        assert!(matches!(jit("0"), Optional { .. }));
        assert!(matches!(jit("1"), Fine(_)));
        assert!(matches!(jit(""), Fine(_)));
    }

    #[test]
    fn every_lack_names_a_command_that_mends_it() {
        for finding in [
            btf(false),
            perfmon("6.17.0", false),
            perfmon("6.12.0", false),
            bpffs_mounted(Path::new("/nowhere")),
        ] {
            match finding {
                Missing { mend, .. } | Optional { mend, .. } => assert!(!mend.is_empty()),
                Fine(seen) => panic!("{seen}"),
            }
        }
    }
}
