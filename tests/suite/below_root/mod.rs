//! Who has less rights than root can do it no harm: workers that run as somebody else, root of a
//! container, whoever gives a device or a process its name, or starts this program with raised rights.

mod agent;
mod environment;
mod names;
mod netlink;
mod workers;
