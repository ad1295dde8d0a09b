//! What has a socket that a socket array refuses because something else has it already. The kernel
//! answers EBUSY for all of these alike, so the loaded maps are read.

use std::{
    fmt, fs,
    os::fd::{AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::{
    maps::{HashMap, Map, MapData, MapInfo, MapType, loaded_maps},
    programs::{ProgramInfo, loaded_programs},
};
use procfs::process::Process;
use rustix::thread::CapabilitySet;

use crate::{escape::printable, privilege, process};

// Of `enum bpf_prog_type`.
const SK_REUSEPORT: u32 = 21;

// linux/udp.h
const UDP_ENCAP: libc::c_int = 100;

/// A loaded map that may hold sockets.
#[derive(Clone, Debug)]
struct SocketMap {
    id: u32,
    name: String,
    /// A socket array, rather than a sockmap or sockhash.
    is_array: bool,
    /// A loaded program chooses from it.
    steers: bool,
    /// Cookies of the sockets in it; `None` if it does not tell, as with values of 32 bits.
    cookies: Option<Vec<u64>>,
}

/// All loaded maps that may hold sockets.
pub struct SocketMaps(Option<Vec<SocketMap>>);

/// What has a socket, as far as that can be known.
#[derive(Clone, Debug, Default)]
pub struct Occupant {
    /// The map that has it, or all maps that may have it.
    maps: Vec<SocketMap>,
    /// The map is known.
    is_certain: bool,
    /// It is a UDP socket whose packets the kernel decapsulates.
    encapsulates: bool,
    /// The loaded maps are not ours to see.
    is_hidden: bool,
}

impl SocketMaps {
    /// Reads them.
    pub fn read() -> Self {
        if !privilege::has(CapabilitySet::SYS_ADMIN) {
            return Self(None);
        }
        let chooses = |program: &ProgramInfo| program.program_type() as u32 == SK_REUSEPORT;
        // Any of them may go meanwhile.
        let choosing = loaded_programs().flatten().filter(chooses);
        let used: Vec<u32> =
            choosing.filter_map(|program| program.map_ids().ok()?).flatten().collect();
        let maps = loaded_maps().filter_map(|map| SocketMap::of(&map.ok()?, &used));
        Self(Some(maps.collect()))
    }

    /// What has the socket with this cookie. `unread` is what [`Occupant::of`] said of it.
    pub fn occupant(&self, cookie: u64, unread: &Occupant) -> Occupant {
        let Some(all) = &self.0 else { return Occupant { is_hidden: true, ..unread.clone() } };
        let holds = |map: &&SocketMap| map.cookies.as_ref().is_some_and(|c| c.contains(&cookie));
        let found = all.iter().find(holds);
        let unreadable = all.iter().filter(|map| map.cookies.is_none());
        let maps = found.map_or_else(|| unreadable.cloned().collect(), |map| vec![map.clone()]);
        Occupant { maps, is_certain: found.is_some(), is_hidden: false, ..unread.clone() }
    }
}

impl SocketMap {
    fn of(map: &MapInfo, used: &[u32]) -> Option<Self> {
        let is_array = match map.map_type() {
            Ok(MapType::ReuseportSockArray) => true,
            Ok(MapType::SockMap | MapType::SockHash) => false,
            _ => return None,
        };
        Some(Self {
            id: map.id(),
            name: printable(map.name_as_str().unwrap_or_default()).into_owned(),
            is_array,
            steers: is_array && used.contains(&map.id()),
            cookies: cookies(map.id()),
        })
    }
}

/// As with our own socket array, reading by key is the same system call for every kind of map.
fn cookies(id: u32) -> Option<Vec<u64>> {
    let map = HashMap::<_, u32, u64>::try_from(Map::HashMap(MapData::from_id(id).ok()?)).ok()?;
    Some(map.keys().flatten().filter_map(|key| map.get(&key, 0).ok()).collect())
}

impl Occupant {
    /// What the socket itself tells.
    pub fn of(socket: BorrowedFd<'_>) -> Self {
        let (mut kind, mut length): (libc::c_int, libc::socklen_t) = (0, 4);
        // SAFETY: the kernel writes no more than `length` octets to `kind`, and how many to `length`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_UDP,
                UDP_ENCAP,
                (&raw mut kind).cast(),
                &raw mut length,
            )
        };
        Self { encapsulates: result == 0 && kind != 0, ..Self::default() }
    }

    /// Whether it may be free in a moment: it is in no map that stays. An array goes some time after
    /// the program that chose from it, which `detached` says has been detached.
    pub fn may_let_go(&self, detached: bool) -> bool {
        let goes = |map: &SocketMap| map.is_array && (detached || !map.steers);
        !self.is_certain || self.maps.iter().any(goes)
    }

    /// Whether another program may steer its group.
    pub fn may_be_steered(&self) -> bool {
        self.is_hidden || self.maps.iter().any(|map| map.steers)
    }

    /// The socket arrays that it may be in and that a program chooses from.
    pub fn arrays(&self) -> impl Iterator<Item = u32> {
        self.maps.iter().filter(|map| map.steers).map(|map| map.id)
    }
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrays = self.maps.iter().filter(|map| map.is_array).count();
        let kind = match (arrays, self.maps.len() - arrays) {
            _ if self.is_hidden => {
                return f.write_str(
                    "its socket is in a socket array or sockmap of another program, or belongs to \
                     a tunnel; only root can see which",
                );
            }
            (0, 0) if self.encapsulates => {
                return f.write_str(
                    "it is a UDP encapsulation socket (UDP_ENCAP), whose packets the kernel handles itself",
                );
            }
            (0, 0) => {
                return f.write_str(
                    "the kernel itself uses its socket, for example for a tunnel: no loaded map has \
                     it",
                );
            }
            (_, 0) if self.maps.iter().any(|map| map.steers) => {
                "the socket array of another program"
            }
            (_, 0) => "a socket array that no program uses",
            (0, _) => "a sockmap, such as sk_lookup dispatchers and proxies use",
            _ => "a socket array or a sockmap; they cannot be told apart here",
        };
        let name = |map: &SocketMap| match map.name.as_str() {
            "" => map.id.to_string(),
            name => format!("{} `{name}`", map.id),
        };
        let maps: Vec<String> = self.maps.iter().map(name).collect();
        let one_of = if maps.len() > 1 { "one of these maps: " } else { "map " };
        write!(f, "its socket is in {kind} ({one_of}{})", maps.join(", "))?;
        if self.encapsulates && !self.is_certain {
            f.write_str(", or it is a UDP encapsulation socket")?;
        }
        if self.may_be_steered() {
            return Ok(());
        }
        f.write_str(
            "; to steer it, remove it from there (`bpftool map` shows it), then attach again",
        )
    }
}

/// What keeps maps loaded after the programs that use them are detached: processes and pins, as far
/// as they can be seen.
pub fn keepers(maps: &[u32]) -> Vec<String> {
    let uses = |program: &ProgramInfo| {
        program.map_ids().ok().flatten().is_some_and(|ids| ids.iter().any(|id| maps.contains(id)))
    };
    let programs: Vec<u32> =
        loaded_programs().flatten().filter(uses).map(|program| program.id()).collect();
    let processes = process::bpf_users(maps, &programs)
        .into_iter()
        .map(|pid| format!("PID {pid} ({})", process::command_name(pid).unwrap_or_default()));
    let is_kept = |pin: &PathBuf| {
        MapInfo::from_pin(pin).is_ok_and(|map| maps.contains(&map.id()))
            || ProgramInfo::from_pin(pin).is_ok_and(|program| programs.contains(&program.id()))
    };
    let pins = pins().into_iter().filter(is_kept).map(|pin| format!("the pin {}", pin.display()));
    processes.chain(pins).collect()
}

/// Everything pinned on any bpffs of this mount namespace.
fn pins() -> Vec<PathBuf> {
    let mounts = Process::myself().and_then(|own| own.mountinfo());
    let mut pins = Vec::new();
    for mount in mounts.into_iter().flatten().filter(|mount| mount.fs_type == "bpf") {
        add_pins(&mount.mount_point, &mut pins);
    }
    pins
}

fn add_pins(directory: &Path, pins: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => add_pins(&entry.path(), pins),
            Ok(kind) if kind.is_file() => pins.push(entry.path()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(id: u32, is_array: bool, steers: bool, cookies: Option<&[u64]>) -> SocketMap {
        let cookies = cookies.map(<[u64]>::to_vec);
        SocketMap { id, name: format!("m{id}"), is_array, steers, cookies }
    }

    /// What is said of the socket with cookie 7, and whether another program may steer its group.
    fn said(maps: Option<Vec<SocketMap>>, encapsulates: bool) -> (String, bool) {
        let unread = Occupant { encapsulates, ..Occupant::default() };
        let occupant = SocketMaps(maps).occupant(7, &unread);
        (occupant.to_string(), occupant.may_be_steered())
    }

    fn check(maps: Vec<SocketMap>, encapsulates: bool, expected: (&str, bool)) {
        let (text, steered) = said(Some(maps), encapsulates);
        assert!(text.contains(expected.0) && steered == expected.1, "{text}");
    }

    #[test]
    fn a_map_that_tells_what_is_in_it_is_named_alone() {
        let others = || vec![map(1, true, true, Some(&[8])), map(2, false, false, None)];
        let with = |map| others().into_iter().chain([map]).collect();
        let array = map(3, true, true, Some(&[9, 7]));
        check(with(array), false, ("the socket array of another program (map 3 `m3`)", true));
        let idle = map(3, true, false, Some(&[7]));
        check(with(idle), true, ("a socket array that no program uses (map 3 `m3`)", false));
        let sockmap = map(3, false, false, Some(&[7]));
        check(with(sockmap), true, ("in a sockmap, such as sk_lookup", false));
    }

    #[test]
    fn of_maps_that_do_not_tell_all_are_named() {
        let (array, sockmap) = (map(1, true, true, None), map(2, false, false, None));
        let told = map(3, true, true, Some(&[8]));
        let both = ("cannot be told apart here (one of these maps: 1 `m1`, 2 `m2`)", true);
        check(vec![array.clone(), sockmap.clone(), told.clone()], false, both);
        check(vec![array, told.clone()], false, ("(map 1 `m1`)", true));
        let possible = "(map 2 `m2`), or it is a UDP encapsulation socket";
        check(vec![sockmap, told.clone()], true, (possible, false));
        check(vec![told.clone()], true, ("UDP encapsulation socket (UDP_ENCAP)", false));
        check(vec![told], false, ("the kernel itself uses its socket", false));
    }

    #[test]
    fn where_maps_are_hidden_all_is_possible() {
        let (text, steered) = said(None, false);
        assert!(text.contains("socket array or sockmap") && steered, "{text}");
    }
}
