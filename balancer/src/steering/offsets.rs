//! Where the running kernel keeps what the programs read out of its sockets, by its own description
//! (BTF). Never constants: they differ from build to build.

use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow};
use balancer_ebpf::record::Offsets;
use btf_rs::{Btf, BtfType as _, Struct, Type};

use crate::tuning::BTF;

/// The running kernel's.
///
/// # Errors
/// Where it has no BTF, or is a kernel whose structures are not as balancer knows them.
pub(super) fn offsets() -> Result<Offsets> {
    static OFFSETS: OnceLock<Offsets> = OnceLock::new();
    if let Some(offsets) = OFFSETS.get() {
        return Ok(*offsets);
    }
    let cannot = || format!("cannot read the kernel's BTF {BTF}");
    // At once, not a system call a type.
    let btf = Btf::from_bytes(&std::fs::read(BTF).with_context(cannot)?).with_context(cannot)?;
    let offsets = read(&btf).with_context(|| {
        format!(
            "the sockets of this kernel ({}) are not as this version of balancer knows them; use a \
             policy that does not look into them, such as round-robin",
            crate::kernel::release()
        )
    })?;
    Ok(*OFFSETS.get_or_init(|| offsets))
}

fn read(btf: &Btf) -> Result<Offsets> {
    let queue = ["icsk_accept_queue"];
    let of = |name: &str, path: &[&str]| offset(btf, name, path);
    Ok(Offsets {
        sockets: of("reuseport_array", &["ptrs"])?,
        backlog: of("sock", &["sk_ack_backlog"])?,
        half_open: of("inet_connection_sock", &[queue[0], "qlen"])?,
        head: of("inet_connection_sock", &[queue[0], "rskq_accept_head"])?,
        isn: of("tcp_request_sock", &["snt_isn"])?,
        received: of("sock", &["sk_receive_queue", "qlen"])?,
        reading: of("udp_sock", &["reader_queue", "qlen"])?,
        buffered: of("sock", &["sk_backlog", "rmem_alloc"])?,
        buffer: of("sock", &["sk_rcvbuf"])?,
        group: of("sock", &["sk_reuseport_cb"])?,
        cookie_sent: of("sock_reuseport", &["synq_overflow_ts"])?,
    })
}

/// Offset in octets of a field of a field … of a structure.
fn offset(btf: &Btf, name: &str, path: &[&str]) -> Result<u32> {
    let types = btf.resolve_types_by_name(name)?;
    let found = types.into_iter().find_map(|kind| match kind {
        Type::Struct(structure) => Some(structure),
        _ => None,
    });
    let mut structure = found.ok_or_else(|| anyhow!("there is no struct {name}"))?;
    let mut bits = 0;
    for (index, field) in path.iter().enumerate() {
        let lacks = || anyhow!("struct {name} has no {}", path[..=index].join("."));
        let (at, inner) = member(btf, &structure, field)?.ok_or_else(lacks)?;
        bits += at;
        match inner {
            Some(inner) => structure = inner,
            None if index + 1 < path.len() => return Err(lacks()),
            None => {}
        }
    }
    Ok(bits / 8)
}

/// Offset in bits of a member, and its type where that is a structure; it may stand in structures or
/// unions that have no name.
fn member(btf: &Btf, structure: &Struct, name: &str) -> Result<Option<(u32, Option<Struct>)>> {
    for member in &structure.members {
        let inner = structure_of(btf, member);
        if btf.resolve_name(member)? == name {
            return Ok(Some((member.bit_offset(), inner)));
        }
        let Some(inner) = inner.filter(|_| member.get_name_offset() == Some(0)) else { continue };
        if let Some((at, found)) = self::member(btf, &inner, name)? {
            return Ok(Some((member.bit_offset() + at, found)));
        }
    }
    Ok(None)
}

/// The structure or union that a member is, behind its aliases; `None` of a pointer, number or array.
fn structure_of(btf: &Btf, member: &btf_rs::Member) -> Option<Struct> {
    for kind in btf.chained_type_iter(member) {
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
}
