//! The clients' network: a namespace of their own, and a cable to that of the workers, so that
//! what comes to a worker or to a proxy comes from outside, through all the hooks.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};
use rustix::{
    net::{AddressFamily, SocketType, netdevice::name_to_index, socket},
    thread::{
        LinkNameSpaceType, UnshareFlags, move_into_link_name_space as enter_by_fd, unshare_unsafe,
    },
};
use tokio::runtime;

/// Where everybody listens; the configurations of the peers say it too. From TEST-NET-1.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PREFIX: u8 = 24;

/// The two ends of the cable.
const ENDS: [&str; 2] = ["to-clients", "to-server"];

/// Two namespaces with a cable in between. This thread is in that of the workers.
pub struct Network {
    server: File,
    client: File,
}

impl Network {
    /// Makes that of the clients, and the cable to the one that this thread is in. Call it before
    /// other threads start.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn make() -> Result<Self> {
        let server = own_namespace()?;
        // SAFETY: the flag leaves alone the table of descriptors, which other code may rely on.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .context("cannot make a network namespace for the clients")?;
        let network = Self { server, client: own_namespace()? };
        enter(&network.server)?;
        block_on(lay_cable(network.client.as_raw_fd()))
            .context("cannot connect two network namespaces (is there a module `veth`?)")?;
        block_on(plug(ENDS[0], SERVER)).context("cannot set the server's address")?;
        network
            .as_client(|| block_on(plug(ENDS[1], CLIENT)))?
            .context("cannot set the clients' address")?;
        network.as_client(many_clients)??;
        Ok(network)
    }

    /// Does something in the clients' namespace; a thread that is started there stays there.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses to let this thread change over.
    pub fn as_client<T>(&self, what: impl FnOnce() -> T) -> Result<T> {
        enter(&self.client)?;
        let done = what();
        enter(&self.server)?;
        Ok(done)
    }
}

/// One address has to stand for many clients: else those that ended in the last minute have all its
/// ports, and whoever connects next looks for one for milliseconds.
fn many_clients() -> Result<()> {
    for (name, value) in [("ip_local_port_range", "1024 65535"), ("tcp_tw_reuse", "1")] {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))?;
    }
    Ok(())
}

fn own_namespace() -> Result<File> {
    let path = "/proc/thread-self/ns/net";
    File::open(path).with_context(|| format!("cannot open {path}"))
}

fn enter(namespace: &File) -> Result<()> {
    enter_by_fd(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot enter a network namespace")
}

fn block_on<T>(what: impl Future<Output = Result<T>>) -> Result<T> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(what)
}

async fn lay_cable(client: i32) -> Result<()> {
    let handle = connect()?;
    handle.link().add(LinkVeth::new(ENDS[0], ENDS[1]).build()).execute().await?;
    let away = LinkUnspec::new_with_name(ENDS[1]).setns_by_fd(client).build();
    Ok(handle.link().set(away).execute().await?)
}

/// Gives an end of the cable its address, and brings it up.
async fn plug(end: &str, address: Ipv4Addr) -> Result<()> {
    let handle = connect()?;
    let asked = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let index = name_to_index(asked, end)?;
    handle.address().add(index, address.into(), PREFIX).execute().await?;
    Ok(handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?)
}

/// A connection to the kernel for the namespace that this thread is in.
fn connect() -> Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}
