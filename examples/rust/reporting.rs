//! A server that says itself how much it has to do, for `balancer run --load reported`.
//!
//! `GET /250` keeps it busy for 250 ms. What it reports is the milliseconds of work it has taken on and
//! not done yet: more than the number of its connections tells, and known to nobody else. The report is
//! a plain store into memory that the steering program reads; there is no system call.
//!
//!     cargo build --release --example reporting
//!     sudo balancer run --workers 3 --policy least-connections --load reported -- \
//!         target/release/examples/reporting

use std::{
    env, io,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::{BorrowedFd, FromRawFd as _},
    ptr,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use rustix::mm::{MapFlags, ProtFlags, mmap};

/// Words in the map, one a slot: 16 KiB.
const SLOTS: usize = 2048;

fn main() -> io::Result<()> {
    // SAFETY: descriptor 3 is handed over to us, as `LISTEN_FDS` says, and nobody else here has it.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    let load = load()?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || serve(stream, load));
    }
    Ok(())
}

/// This worker's word: the descriptor of the map and the slot are in the environment.
fn load() -> io::Result<&'static AtomicU64> {
    let (fd, slot): (i32, usize) = (number("BALANCER_LOAD_FD")?, number("BALANCER_SLOT")?);
    // SAFETY: balancer opened it for us, and it stays open.
    let map = unsafe { BorrowedFd::borrow_raw(fd) };
    let length = SLOTS * size_of::<AtomicU64>();
    let flags = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice, never given back.
    let words = unsafe { mmap(ptr::null_mut(), length, flags, MapFlags::SHARED, map, 0)? };
    let words = words.cast::<AtomicU64>();
    assert!(slot < SLOTS, "there is no slot {slot}");
    // SAFETY: inside the mapping, aligned, and only accessed as an atomic.
    Ok(unsafe { &*words.add(slot) })
}

fn number<T: FromStr>(name: &str) -> io::Result<T> {
    let value = env::var(name).ok().and_then(|value| value.parse().ok());
    value.ok_or_else(|| io::Error::other(format!("{name} is not set; use --load reported")))
}

fn serve(mut stream: TcpStream, load: &AtomicU64) {
    let mut line = String::new();
    if BufReader::new(&stream).read_line(&mut line).is_err() {
        return;
    }
    let work = line.split([' ', '/']).find_map(|word| word.parse().ok()).unwrap_or(1);
    load.fetch_add(work, Ordering::Relaxed);
    thread::sleep(Duration::from_millis(work));
    load.fetch_sub(work, Ordering::Relaxed);
    let body = format!("Server with PID: [{}] worked for {work} ms\n", std::process::id());
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}
