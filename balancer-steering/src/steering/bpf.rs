//! The few commands of bpf(2) that aya has no form of.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

// Of `enum bpf_cmd` (`linux/bpf.h`).
const MAP_CREATE: libc::c_long = 0;
const LOOK_UP: libc::c_long = 1;
const UPDATE: libc::c_long = 2;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;

// Of `enum bpf_map_type`, and a flag.
const ARRAY: u32 = 2;
const MMAPABLE: u32 = 1 << 10;

/// The part of `union bpf_attr` that the commands on elements read; the kernel takes the rest for
/// zeros.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct Numbers<const COUNT: usize>([u32; COUNT]);

fn number(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

/// # Safety
/// `attributes` is what the command reads, and what it points to is there.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: as above.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

fn element<T>(map: BorrowedFd<'_>, key: &u32, value: *mut T) -> io::Result<Element> {
    Ok(Element {
        map: number(map)?,
        padding: 0,
        key: std::ptr::from_ref(key).expose_provenance() as u64,
        value: value.expose_provenance() as u64,
        flags: 0,
    })
}

/// Reads the element `key` of a map whose keys are `u32`.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// At `value` there is room for what the map says a value is, and any octets will do for it.
pub(super) unsafe fn look_up<T>(map: BorrowedFd<'_>, key: u32, value: *mut T) -> io::Result<()> {
    let element = element(map, &key, value)?;
    // SAFETY: said above.
    unsafe { bpf(LOOK_UP, &element) }.map(|_| ())
}

/// Writes the element `key` of a map whose keys are `u32`.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// At `value` there are as many octets as the map says a value has.
pub(super) unsafe fn update<T>(map: BorrowedFd<'_>, key: u32, value: *const T) -> io::Result<()> {
    let element = element(map, &key, value.cast_mut())?;
    // SAFETY: said above; the kernel writes none.
    unsafe { bpf(UPDATE, &element) }.map(|_| ())
}

/// Makes an array of one word of 64 bits, which may be mapped into memory.
///
/// # Errors
/// The kernel's.
pub(super) fn create_word() -> io::Result<OwnedFd> {
    let (key_size, value_size) = (4, 8);
    numbers(MAP_CREATE, [ARRAY, key_size, value_size, 1, MMAPABLE]).map(owned)
}

fn object(path: &Path, of: Option<BorrowedFd<'_>>, command: libc::c_long) -> io::Result<i32> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = of.map(number).transpose()?.unwrap_or_default();
    let object = Object { path: path.as_ptr().expose_provenance() as u64, fd, flags: 0 };
    // SAFETY: the path ends with a zero, and lives until the call is over.
    unsafe { bpf(command, &object) }
}

fn numbers<const COUNT: usize>(command: libc::c_long, of: [u32; COUNT]) -> io::Result<i32> {
    // SAFETY: numbers only.
    unsafe { bpf(command, &Numbers(of)) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has made it just now, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Makes an array of one element of so many octets.
///
/// # Errors
/// The kernel's.
pub(super) fn create_array(value_size: u32) -> io::Result<OwnedFd> {
    let key_size = 4;
    numbers(MAP_CREATE, [ARRAY, key_size, value_size, 1, 0]).map(owned)
}

/// Opens what is pinned.
///
/// # Errors
/// The kernel's.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    object(path, None, OBJ_GET).map(owned)
}

/// Pins what a descriptor is of.
///
/// # Errors
/// The kernel's.
pub(super) fn pin(of: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    object(path, Some(of), OBJ_PIN).map(|_| ())
}

/// Lets a program run for all sockets below a cgroup, beside those of others there. Linux 5.7.
///
/// # Errors
/// The kernel's.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    kind: u32,
) -> io::Result<OwnedFd> {
    numbers(LINK_CREATE, [number(program)?, number(cgroup)?, kind, 0]).map(owned)
}

/// Lets a link run another program, in one step. Linux 5.7.
///
/// # Errors
/// The kernel's.
pub(super) fn replace_program(of: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    numbers(LINK_UPDATE, [number(of)?, number(program)?, 0, 0]).map(|_| ())
}
