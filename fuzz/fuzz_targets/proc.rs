//! What /proc says. A process may call itself and its files whatever it likes, and still passes for
//! no other process, has no socket that is not its own, and writes nothing to our terminal.

#![no_main]

use balancer_steering::{
    escape::{is_obeyed, printable},
    kernel::Release,
    process,
};
use libfuzzer_sys::fuzz_target;
use procfs::{
    FromRead as _,
    process::{FDTarget, Stat},
};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    status(bytes);
    file(&text);
    fdinfo(&text);
    if let Some(release) = Release::parse(&text) {
        assert_eq!(Release::parse(&release.to_string()), Some(release));
    }
});

/// `/proc/PID/stat` of a process that calls itself so. The kernel writes no line's end into it.
fn status(command: &[u8]) {
    let command: Vec<u8> =
        command.iter().copied().filter(|octet| !b"\n\0".contains(octet)).collect();
    let mut line = b"4711 (".to_vec();
    line.extend(&command);
    line.extend(b") S 7 4711 4711 0 -1 4194560 110 0 0 0 1 2 3 4 20 0 1 0 123456 1000 100 ");
    line.extend(b"18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
    let Ok(stat) = Stat::from_read(line.as_slice()) else { panic!("{command:?} is not read") };
    assert_eq!((stat.pid, stat.state, stat.ppid, stat.starttime), (4711, 'S', 7, 123_456));
    let shown = printable(&stat.comm);
    assert!(!shown.contains(is_obeyed), "{shown:?}");
    assert!(shown.chars().count() >= stat.comm.chars().count());
}

/// Where `/proc/PID/fd/N` leads: a file has a path, which begins at the root.
fn file(path: &str) {
    let _ = path.parse::<FDTarget>();
    let file = format!("/{path}").parse();
    assert!(matches!(file, Ok(FDTarget::Path(_) | FDTarget::MemFD(_))), "{file:?}");
}

fn fdinfo(text: &str) {
    let watched = process::watched(text);
    assert!(watched.len() <= text.lines().count());
    for one in watched {
        let (token, inode) = (one.token, one.inode);
        let line = format!("tfd: 5 events: 19 data: {token:x}  pos:0 ino:{inode:x} sdev:8\n");
        assert_eq!(process::watched(&line), [one]);
    }
}
