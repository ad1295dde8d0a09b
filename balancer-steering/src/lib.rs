//! Steers new connections and datagrams among the sockets that share a port with `SO_REUSEPORT`.
//!
//! The kernel picks a socket for each new connection by a hash. This crate replaces that choice, in the
//! kernel, by a policy: round robin, by weight, by load. There is no proxy, and nothing in the handler.
//!
//! A server that steers its own sockets needs [`listen`], [`Group`] and [`Membership`]:
//!
//! ```no_run
//! use balancer_steering::{Group, listen, policy::Policy, weight::Weight};
//!
//! let listener = listen("127.0.0.1:8080".parse()?)?;
//! let group = Group::builder("web").policy(Policy::LeastConnections).open_or_plain(&listener);
//! let membership = group.join(&listener, Weight::ONE)?;
//! # drop(membership);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It takes root and Linux 5.14; without them the kernel's hash goes on choosing, and
//! [`Group::not_steered`] says why. The rest is what the command line `balancer` is made of:
//!
//! | what | modules |
//! | --- | --- |
//! | words, checked | [`address`], [`weight`], [`policy`], [`metric`], [`options`], [`flows`], [`policy_spec`], [`group`], [`service`], [`time_span`] |
//! | the groups of this machine, with the processes that serve them | [`discovery`] |
//! | sockets and processes | [`socket`], [`process`], [`affinity`] |
//! | sockets of other programs, and the connections that they have already | [`adoption`], [`existing`] |
//! | which slot at which position, and who is left out (pure) | [`mod@table`], [`slow_start`] |
//! | maps, programs, pins | [`steering`], the only one that uses aya |
//! | what is known of a group (pure) | [`snapshot`], [`service_snapshot`], [`requests`], [`bounds`], [`agent_record`] |
//! | texts that others chose, on their way to a terminal | [`escape`] |
//! | can it work here | [`kernel`], [`privilege`] |

#[cfg(doctest)]
#[doc = include_str!("../../docs/library.md")]
struct LibraryPage;

pub mod address;
pub mod adoption;
pub mod affinity;
pub mod agent_record;
pub mod bounds;
pub mod discovery;
pub mod error;
pub mod escape;
pub mod existing;
pub mod flows;
pub mod group;
pub mod kernel;
pub mod metric;
pub mod options;
pub mod policy;
pub mod policy_spec;
pub mod privilege;
pub mod process;
mod protocol;
pub mod requests;
mod server;
pub mod service;
pub mod service_snapshot;
pub mod slow_start;
pub mod snapshot;
pub mod socket;
pub mod steering;
pub mod table;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::expect_used, reason = "only tests have it")]
pub mod testing;
pub mod time_span;
pub mod weight;
pub mod who;

pub use self::{
    error::{Error, ErrorKind},
    server::{Builder, Group, Membership, listen},
};
