//! What userspace tells a program when it loads it: constants of the loaded program.

/// What a program is to do besides its policy: constants of the loaded program, so that what is off
/// costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// How long a queue may stand still, in [`crate::stall`]'s ticks; 0 for ever.
    pub stall_ticks: u32,
    /// A [`crate::load::Source`].
    pub source: u32,
    /// 1 for UDP.
    pub udp: u32,
    /// 1 where connections are counted.
    pub counted: u32,
    /// 1 where the kernel's memory may be read, so that queues are looked at.
    pub looks: u32,
    /// The group's index among the host's groups.
    pub group: u32,
    /// CPUs that the kernel may ever have.
    pub cpus: u32,
    /// The largest share of the choices that a member gets, in percent; 0 for no limit.
    pub max_share: u32,
    /// Sets of the table of flows; 0 where each datagram is a choice.
    pub flow_sets: u32,
    /// How long an assured flow lasts in which nobody sends, in ticks of [`crate::flow`].
    pub flow_assured: u32,
    /// As above, another.
    pub flow_unassured: u32,
    /// Zero.
    pub reserved: u32,
    /// What the keys of flows are made with.
    pub flow_seed: u64,
}

/// Where the running kernel keeps what the programs read out of its sockets: offsets in octets, from
/// its BTF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    /// `reuseport_array.ptrs`
    pub sockets: u32,
    /// `sock.sk_ack_backlog`; `sk_max_ack_backlog` is the next word.
    pub backlog: u32,
    /// `inet_connection_sock.icsk_accept_queue.qlen`: handshakes under way.
    pub half_open: u32,
    /// `sock.sk_receive_queue.qlen`
    pub received: u32,
    /// `udp_sock.reader_queue.qlen`
    pub reading: u32,
    /// `sock.sk_backlog.rmem_alloc`
    pub buffered: u32,
    /// `sock.sk_rcvbuf`
    pub buffer: u32,
    /// `sock.sk_reuseport_cb`: the kernel's own group.
    pub group: u32,
    /// `sock_reuseport.synq_overflow_ts`: when it last sent a SYN cookie.
    pub cookie_sent: u32,
    /// `sk_buff.len`
    pub packet_length: u32,
    /// `sk_buff.data`
    pub packet: u32,
}

const _: () = assert!(size_of::<Settings>() == 56);
const _: () = assert!(size_of::<Offsets>() == 44);

#[cfg(feature = "user")]
mod pod {
    use super::{Offsets, Settings};

    // SAFETY: `repr(C)`, integers only, no padding (sizes asserted above): every bit pattern is a value, and no
    // byte of it is uninitialised.
    unsafe impl aya::Pod for Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Offsets {}
}
