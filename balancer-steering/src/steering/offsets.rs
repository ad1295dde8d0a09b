//! Where the running kernel keeps what the programs read out of its sockets, by its own description
//! (BTF). Never constants: they differ from build to build.

use std::{collections::HashSet, fs, sync::OnceLock};

use crate::error::{Context as _, Result, ensure, error};
use balancer_common::settings::Offsets;
use btf_rs::{Btf, BtfType as _, Struct, Type};

use crate::options::BTF;

/// Far more than a kernel has of one type; they could go round in a ring.
const ALIASES: usize = 32;

/// The running kernel's.
///
/// # Errors
/// Returns an error if it has no BTF, or is a kernel whose structures are not as balancer knows them.
pub(super) fn offsets() -> Result<Offsets> {
    static OFFSETS: OnceLock<Offsets> = OnceLock::new();
    if let Some(offsets) = OFFSETS.get() {
        return Ok(*offsets);
    }
    // At once, not a system call a type.
    let btf = fs::read(BTF).with_context(|| format!("cannot read the kernel's BTF {BTF}"))?;
    let offsets = offsets_in(&btf).with_context(|| {
        format!(
            "this version of balancer does not know the sockets of this kernel ({}); use a policy that \
             does not look into them, such as round-robin",
            crate::kernel::release()
        )
    })?;
    Ok(*OFFSETS.get_or_init(|| offsets))
}

/// Those that a kernel's BTF tells of.
///
/// # Errors
/// Returns an error if it is no BTF, or one of other structures than balancer knows.
pub fn offsets_in(btf: &[u8]) -> Result<Offsets> {
    let btf = &Btf::from_bytes(btf)?;
    let queue = ["icsk_accept_queue"];
    let of = |name: &str, path: &[&str]| offset(btf, name, path);
    let sockets = of("reuseport_array", &["ptrs"])?;
    let backlog = of("sock", &["sk_ack_backlog"])?;
    ensure!(
        of("sock", &["sk_max_ack_backlog"])? == backlog + 4,
        "sk_max_ack_backlog does not follow sk_ack_backlog"
    );
    Ok(Offsets {
        sockets,
        backlog,
        half_open: of("inet_connection_sock", &[queue[0], "qlen"])?,
        received: of("sock", &["sk_receive_queue", "qlen"])?,
        reading: of("udp_sock", &["reader_queue", "qlen"])?,
        buffered: of("sock", &["sk_backlog", "rmem_alloc"])?,
        buffer: of("sock", &["sk_rcvbuf"])?,
        group: of("sock", &["sk_reuseport_cb"])?,
        cookie_sent: of("sock_reuseport", &["synq_overflow_ts"])?,
        ..Offsets::default()
    })
}

/// The running kernel's, of packets alone.
///
/// # Errors
/// Returns an error if it has no BTF, or another one.
pub(super) fn packet_offsets() -> Result<Offsets> {
    let btf = fs::read(BTF).with_context(|| format!("cannot read the kernel's BTF {BTF}"))?;
    let btf = &Btf::from_bytes(&btf)?;
    Ok(Offsets {
        packet_length: offset(btf, "sk_buff", &["len"])?,
        packet: offset(btf, "sk_buff", &["data"])?,
        ..Offsets::default()
    })
}

/// Offset in octets of a field of a field … of a structure.
fn offset(btf: &Btf, name: &str, path: &[&str]) -> Result<u32> {
    let types = btf.resolve_types_by_name(name)?;
    let found = types.into_iter().find_map(|kind| match kind {
        Type::Struct(structure) => Some(structure),
        _ => None,
    });
    let mut structure = found.ok_or_else(|| error!("there is no struct {name}"))?;
    let mut bits = 0u64;
    for (index, field) in path.iter().enumerate() {
        let lacks = || error!("struct {name} has no {}", path[..=index].join("."));
        let (at, inner) = member(btf, &structure, field)?.ok_or_else(lacks)?;
        bits += at;
        match inner {
            Some(inner) => structure = inner,
            None if index + 1 < path.len() => return Err(lacks()),
            None => {}
        }
    }
    u32::try_from(bits / 8).with_context(|| format!("struct {name} is too large"))
}

/// Offset in bits of a member, and its type where that is a structure; it may stand in structures or
/// unions that have no name.
fn member(btf: &Btf, structure: &Struct, name: &str) -> Result<Option<(u64, Option<Struct>)>> {
    let mut nameless = vec![(0, structure.clone())];
    // Each is looked into once: one that contains itself is of no kernel, but would never end.
    let mut seen = HashSet::new();
    while let Some((start, structure)) = nameless.pop() {
        for member in &structure.members {
            let at = start + u64::from(member.bit_offset());
            if btf.resolve_name(member)? == name {
                return Ok(Some((at, structure_of(btf, member))));
            }
            if member.get_name_offset() == Some(0) && seen.insert(member.get_type_id()) {
                nameless.extend(structure_of(btf, member).map(|inner| (at, inner)));
            }
        }
    }
    Ok(None)
}

/// The structure or union that a member is, behind its aliases; `None` of a pointer, number or array.
fn structure_of(btf: &Btf, member: &btf_rs::Member) -> Option<Struct> {
    for kind in btf.chained_type_iter(member).take(ALIASES) {
        match kind {
            Type::Struct(inner) | Type::Union(inner) => return Some(inner),
            Type::Typedef(_) | Type::Const(_) | Type::Volatile(_) => {}
            _ => break,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's `pahole` would print is not at hand; but these places are known: `struct
    /// sock` begins every socket, and its queue of received buffers is a list head and a length.
    #[test]
    fn fields_are_found_through_structures_with_and_without_a_name() {
        if !std::path::Path::new(BTF).exists() {
            return;
        }
        let btf = Btf::from_file(BTF).unwrap();
        let list = offset(&btf, "sock", &["sk_receive_queue"]).unwrap();
        assert_eq!(offset(&btf, "sock", &["sk_receive_queue", "qlen"]).unwrap(), list + 16);
        assert_eq!(offset(&btf, "sk_buff", &["next"]).unwrap(), 0);
        let error = offset(&btf, "sock", &["sk_receive_queue", "nothing"]).unwrap_err();
        assert!(error.to_string().contains("sock has no sk_receive_queue.nothing"), "{error}");
        assert!(offset(&btf, "no_such_struct", &["a"]).is_err());
    }

    /// Made for the fuzz target.
    macro_rules! seed {
        ($name:literal) => {
            include_bytes!(concat!("../../../fuzz/corpus/btf/", $name)).as_slice()
        };
    }

    #[test]
    fn what_is_known_of_a_kernel_is_found_behind_aliases_too() {
        for btf in [seed!("kernel"), seed!("aliases")] {
            let offsets = offsets_in(btf).unwrap();
            assert_eq!((offsets.sockets, offsets.received, offsets.backlog), (64, 24, 60));
            assert_eq!((offsets.buffered, offsets.buffer, offsets.cookie_sent), (32, 50, 12));
        }
        let refusal = offsets_in(seed!("lacking")).unwrap_err();
        assert_eq!(refusal.to_string(), "there is no struct inet_connection_sock");
    }

    #[test]
    fn structures_that_contain_themselves_and_aliases_of_each_other_are_given_up() {
        for btf in [seed!("contains-itself"), seed!("ring-of-aliases")] {
            assert!(offsets_in(btf).unwrap_err().to_string().contains("has no ptrs"));
        }
    }
}
