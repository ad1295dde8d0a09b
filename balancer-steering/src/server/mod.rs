//! A server that steers its own sockets: [`Group`], and a [`Membership`] for each of its sockets.
//!
//! The group is the same that `balancer attach` would make: it is pinned on a bpffs, every `balancer`
//! command knows it, and other processes may join it. It ends when the last member leaves.

mod membership;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use balancer_common::record::SlotState;
use socket2::{SockRef, Type};

pub use self::membership::Membership;
use crate::{
    error::{Context as _, Error, ErrorKind, Result, bail},
    flows::Flows,
    group::{self, GroupIdentity, Protocol, own_netns},
    options::{self, PolicyOptions},
    policy::Policy,
    process::Identity,
    snapshot::Snapshot,
    socket,
    steering::{DEFAULT_BPFFS, Steering, Store},
    weight::Weight,
};

/// Binds a TCP socket that shares its address with `SO_REUSEPORT`, as std cannot, and listens.
///
/// # Errors
/// Returns an error if the address cannot be had.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = socket::bind(address).map_err(io::Error::other)?;
    socket::listen(&bound, address).map_err(io::Error::other)?;
    Ok(bound.into())
}

/// What a group is to be like if it has to be made.
#[derive(Clone, Debug)]
pub struct Builder {
    name: String,
    policy: Policy,
    options: PolicyOptions,
    flows: Option<Flows>,
    bpffs: PathBuf,
}

impl Builder {
    /// How sockets are chosen; round robin otherwise.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The policy's options.
    #[must_use]
    pub fn options(mut self, options: PolicyOptions) -> Self {
        self.options = options;
        self
    }

    /// UDP: that a choice is made for each flow, as it is otherwise too, or, with `None`, for each datagram.
    #[must_use]
    pub fn flows(mut self, flows: Option<Flows>) -> Self {
        self.flows = flows;
        self
    }

    /// Where a bpffs is mounted; `/sys/fs/bpf` otherwise.
    #[must_use]
    pub fn bpffs(mut self, path: impl Into<PathBuf>) -> Self {
        self.bpffs = path.into();
        self
    }

    /// Opens the group of this name on the socket's address, or makes it. If it is there, its policy
    /// stays as it is: an operator may have switched it. The socket does not join it yet.
    ///
    /// # Errors
    /// Returns an error if the kernel (Linux 5.14) or the rights (root, or CAP_BPF, CAP_NET_ADMIN and
    /// CAP_PERFMON) do not allow it, or the name is that of a group on another address. The server can
    /// go on without: the kernel's own hash then chooses.
    pub fn open_or_create(self, socket: &impl AsFd) -> Result<Group> {
        Ok(Group(Arc::new(Ok(self.steered(socket)?))))
    }

    /// As [`Builder::open_or_create`], but a group that cannot be had is one that steers nothing:
    /// everything works, and the kernel's own hash chooses. [`Group::not_steered`] says why.
    pub fn open_or_plain(self, socket: &impl AsFd) -> Group {
        Group(Arc::new(self.steered(socket)))
    }

    fn steered(self, socket: &impl AsFd) -> Result<Steered> {
        let home = Home { identity: identity(socket)?, builder: self };
        let steering = Mutex::new(home.open_or_create(socket)?);
        Ok(Steered { home, steering })
    }
}

fn identity(socket: &impl AsFd) -> Result<GroupIdentity> {
    let socket = SockRef::from(socket);
    let address = socket.local_addr().context("cannot read a socket's address")?.as_socket();
    let address = address.context("only sockets of IPv4 and IPv6 can be steered")?;
    let protocol = match socket.r#type().context("cannot read a socket's type")? {
        Type::DGRAM => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    if !socket.reuse_port().context("cannot read a socket's options")? {
        bail!(
            "the socket on {address} was bound without SO_REUSEPORT, so it shares its address with none"
        );
    }
    let netns = own_netns().context("cannot read the network namespace")?;
    Ok(GroupIdentity { netns, protocol, address })
}

/// Where a group is, and how it is made again after it has ended.
#[derive(Clone, Debug)]
struct Home {
    builder: Builder,
    identity: GroupIdentity,
}

impl Home {
    fn open_or_create(&self, socket: &impl AsFd) -> Result<Steering> {
        let Builder { name, policy, options, flows, bpffs } = &self.builder;
        let identity = self.identity;
        let udp = identity.protocol == Protocol::Udp;
        let store = Store::prepare(bpffs)?;
        // Twice: another process may make or end the group in between.
        for _ in 0..2 {
            if store.names()?.contains(name) {
                match self.open(&store) {
                    Err(error) if error.kind() == ErrorKind::Gone => continue,
                    opened => return opened,
                }
            }
            options::check(*policy, *options, identity.protocol, !udp || flows.is_some())
                .with_context(|| format!("the group {name} cannot be made"))?;
            let group = group::GroupSpec {
                identity,
                policy: *policy,
                options: *options,
                agent: Identity { pid: 0, start: 0 },
                log_level: 0,
                adopted: true,
                replaced: false,
                counted: true,
                flows: flows.filter(|_| udp),
                index: 0,
                service: None,
            };
            match Steering::create(&store, name, &group, |_| Ok(())) {
                Ok((steering, _)) => {
                    steering.attach(socket.as_fd())?;
                    return Ok(steering);
                }
                Err(_) if store.names()?.contains(name) => {}
                Err(error) => return Err(error),
            }
        }
        self.open(&store)
    }

    /// Opens the group that is there, without the members whose sockets are gone.
    fn open(&self, store: &Store) -> Result<Steering> {
        let name = &self.builder.name;
        let mut steering = Steering::open(store, name)?;
        let there = steering.group()?.identity;
        if there != self.identity {
            bail!("the group {name} is on {there} and not on {}", self.identity);
        }
        steering.change(|change| {
            for member in change.members() {
                if !change.steering().is_seated(&member)? {
                    change.set_state(member.slot, SlotState::Vacant);
                }
            }
            Result::<()>::Ok(())
        })?;
        Ok(steering)
    }
}

/// Sockets that share an address, and what chooses among them. Cheap to clone; each thread may have its
/// own.
///
/// ```no_run
/// use balancer_steering::{Group, listen, policy::Policy, weight::Weight};
///
/// let listener = listen(([127, 0, 0, 1], 8080).into())?;
/// let group = Group::builder("web").policy(Policy::LeastConnections).open_or_plain(&listener);
/// if let Some(reason) = group.not_steered() {
///     eprintln!("the kernel's hash chooses: {reason:#}");
/// }
/// let membership = group.join(&listener, Weight::ONE)?;
/// // Serve; once `membership` is dropped, the socket gets no new connections.
/// # drop(membership);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Group(Arc<Result<Steered>>);

struct Steered {
    home: Home,
    steering: Mutex<Steering>,
}

impl Steered {
    fn lock(&self) -> MutexGuard<'_, Steering> {
        self.steering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self) -> Store {
        Store::at(&self.home.builder.bpffs)
    }
}

impl Group {
    /// A group of this name: letters, digits and what else may stand in the name of a file.
    pub fn builder(name: impl Into<String>) -> Builder {
        Builder {
            name: name.into(),
            policy: Policy::RoundRobin,
            options: PolicyOptions::default(),
            flows: Some(Flows::default()),
            bpffs: DEFAULT_BPFFS.into(),
        }
    }

    /// Why nothing is steered, if so: see [`Builder::open_or_plain`].
    pub fn not_steered(&self) -> Option<&Error> {
        self.0.as_ref().as_ref().err()
    }

    /// Makes a listening TCP socket (or a bound UDP socket) a member that is chosen from now on: one of
    /// std, socket2 or tokio, whatever has a descriptor. It stays a member until the result is dropped.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses the socket, most likely since it is bound to another
    /// address than the group.
    pub fn join(&self, socket: &impl AsFd, weight: Weight) -> Result<Membership> {
        let Some(steered) = self.steered() else { return Ok(Membership::none()) };
        let mut steering = steered.lock();
        let slot = match seat(&mut steering, socket, weight) {
            Err(error) if error.kind() == ErrorKind::Gone => {
                *steering = steered.home.open_or_create(socket)?;
                seat(&mut steering, socket, weight)?
            }
            seated => seated?,
        };
        let reporter = steering.reporter(slot)?;
        drop(steering);
        Ok(Membership::of(self.clone(), slot, reporter))
    }

    /// Switches the policy and its options, for all members in whatever process.
    ///
    /// # Errors
    /// Returns an error if the policy asks for what is not there, or the group was given back to the
    /// kernel; nothing is changed then.
    pub fn set_policy(&self, policy: Policy, options: PolicyOptions) -> Result<()> {
        let Some(mut steering) = self.steering() else { return Ok(()) };
        steering.change(|change| {
            let group = change.group();
            options::check(policy, options, group.identity.protocol, group.counted)
                .with_context(|| format!("the policy of {} stays", change.name()))?;
            change.set_policy(policy, options);
            Ok(())
        })
    }

    /// Everything that is known of the group now; `None` if nothing is steered.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read.
    pub fn snapshot(&self) -> Result<Option<Snapshot>> {
        self.steering().map(|steering| steering.snapshot()).transpose()
    }

    fn steering(&self) -> Option<MutexGuard<'_, Steering>> {
        self.steered().map(Steered::lock)
    }

    fn steered(&self) -> Option<&Steered> {
        self.0.as_ref().as_ref().ok()
    }
}

fn seat(steering: &mut Steering, socket: &impl AsFd, weight: Weight) -> Result<u32> {
    let own = Identity::of(std::process::id()).context("cannot read /proc/self/stat")?;
    let _lock = steering.lock_or_gone()?;
    // With its first socket the kernel's group is new, and has no program yet.
    if !steering.has_sockets()? {
        steering.attach(socket.as_fd())?;
    }
    let slot = steering.seat(socket.as_fd(), weight)?;
    steering.change_locked(|change| {
        change.set_worker(slot, own);
        change.set_state(slot, SlotState::Live);
        Ok(slot)
    })
}
