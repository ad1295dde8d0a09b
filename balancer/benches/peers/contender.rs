//! Who is compared: two that have no hop, and what people put in front of several processes
//! otherwise. A new one is a row in [`ALL`].

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use balancer_steering::policy::Policy;

use crate::{
    network::SERVER,
    process_tree::{self, ProcessTree},
    workers::{SHARED_PORT, Workers},
};

/// Where the configurations are.
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers");

const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A way to get connections to four workers.
pub struct Contender {
    /// Its name.
    pub name: &'static str,
    port: u16,
    way: Way,
}

enum Way {
    /// The port is shared, by a policy.
    Steered(Policy),
    /// The kernel rewrites the port.
    Rewritten { rules: &'static str },
    /// A proxy accepts, and connects again. Its command up to the configuration.
    Proxied { command: &'static [&'static str], configuration: &'static str },
}

/// What the others are compared with, the first of [`ALL`].
pub const KERNEL: &str = "kernel";

/// Everybody, in the order of tables.
pub const ALL: [Contender; 6] = [
    Contender { name: KERNEL, port: SHARED_PORT, way: Way::Steered(Policy::Kernel) },
    Contender { name: "round-robin", port: SHARED_PORT, way: Way::Steered(Policy::RoundRobin) },
    Contender { name: "nftables", port: 9104, way: Way::Rewritten { rules: "numgen.nft" } },
    Contender {
        name: "haproxy",
        port: 9101,
        way: Way::Proxied { command: HAPROXY, configuration: "haproxy-roundrobin.cfg" },
    },
    Contender {
        name: "haproxy-leastconn",
        port: 9102,
        way: Way::Proxied { command: HAPROXY, configuration: "haproxy-leastconn.cfg" },
    },
    Contender {
        name: "nginx",
        port: 9103,
        way: Way::Proxied { command: NGINX, configuration: "nginx-stream.conf" },
    },
];

const HAPROXY: &[&str] = &["haproxy", "-db", "-f"];
const NGINX: &[&str] = &["nginx", "-e", "stderr", "-c"];

impl Contender {
    /// The Debian packages that this machine lacks for it.
    pub fn missing(&self) -> Vec<&'static str> {
        let needs: &[_] = match self.way {
            Way::Steered(_) => &[],
            Way::Rewritten { .. } => &[("nft", "nftables")],
            Way::Proxied { command: NGINX, .. } => {
                &[("nginx", "nginx"), (NGINX_STREAM, "libnginx-mod-stream")]
            }
            Way::Proxied { .. } => &[("haproxy", "haproxy")],
        };
        needs
            .iter()
            .filter(|(file, _)| !process_tree::is_installed(file))
            .map(|(_, package)| *package)
            .collect()
    }

    /// Makes it ready for trials.
    ///
    /// # Errors
    /// Returns an error if a proxy cannot be started.
    pub fn start(&'static self) -> Result<Ready> {
        let address = SocketAddr::from((SERVER, self.port));
        let proxy = match self.way {
            Way::Proxied { command, configuration } => {
                let configuration = format!("{HERE}/{configuration}");
                let mut process = process_tree::command(command[0]);
                process.args(&command[1..]).arg(configuration);
                Some(ProcessTree::start(process, address)?)
            }
            _ => None,
        };
        Ok(Ready { contender: self, address, proxy })
    }
}

/// A contender that waits for its turn.
pub struct Ready {
    /// Who it is.
    pub contender: &'static Contender,
    /// Where it takes connections.
    pub address: SocketAddr,
    proxy: Option<ProcessTree>,
}

impl Ready {
    /// What must hold during a trial; undone when dropped.
    ///
    /// # Errors
    /// Returns an error if a policy or rules cannot be loaded.
    pub fn turn(&self, workers: &mut Workers) -> Result<Option<Rules>> {
        match self.contender.way {
            Way::Steered(policy) => workers.set_policy(policy).map(|()| None),
            Way::Rewritten { rules } => Rules::load(Path::new(HERE).join(rules).as_ref()).map(Some),
            Way::Proxied { .. } => Ok(None),
        }
    }

    /// The CPU time that its proxy has used, if there is one.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.proxy.as_ref().map(ProcessTree::cpu_time)
    }
}

/// Rules of nftables in force.
pub struct Rules;

impl Rules {
    fn load(path: &Path) -> Result<Self> {
        let status = Command::new("nft").arg("-f").arg(path).status().context("cannot run nft")?;
        ensure!(
            status.success(),
            "nft cannot load {}: {status}; is its reason above a module that this kernel lacks?",
            path.display()
        );
        Ok(Self)
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        // They are in a namespace that ends with us in any case.
        let _ = Command::new("nft").args(["flush", "ruleset"]).stdin(Stdio::null()).status();
    }
}
