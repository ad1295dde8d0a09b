//! Output that nobody reads.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    process::{Command, Stdio},
    thread,
};

use harness::{Host, running::wait_until, servers::Server};
use rustix::{
    fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open},
    io::Errno,
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use super::{a_worker_is_replaced, live, stop, wait_until_live};

/// More than fits into a worker's pipe.
const MUCH: &str = "yes a line of log | head -c 3000000";

const CTRL_S: &[u8] = b"\x13";
const CTRL_Q: &[u8] = b"\x11";

/// A place to print to, and what reads from there.
struct Place {
    writer: OwnedFd,
    reader: File,
}

impl Place {
    /// A pipe with no room left.
    fn pipe() -> Self {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        fcntl_setpipe_size(&writer, 4096).unwrap();
        fill(&writer);
        Self { writer, reader: reader.into() }
    }

    /// A terminal under Ctrl-S.
    fn terminal() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let reader = openpt(flags).unwrap();
        grantpt(&reader).unwrap();
        unlockpt(&reader).unwrap();
        let name = ptsname(&reader, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let writer = open(&name, flags, Mode::empty()).unwrap();
        let mut reader = File::from(reader);
        reader.write_all(CTRL_S).unwrap();
        fill(&writer);
        Self { writer, reader }
    }

    fn stdio(&self) -> Stdio {
        self.writer.try_clone().unwrap().into()
    }

    /// From now on what is printed there is read.
    fn read(self) -> impl Iterator<Item = String> + Send {
        let Self { writer, mut reader } = self;
        drop(writer);
        let _ = reader.write(CTRL_Q);
        BufReader::new(reader).lines().map_while(Result::ok)
    }
}

fn fill(writer: &OwnedFd) {
    let flags = fcntl_getfl(writer).unwrap();
    fcntl_setfl(writer, flags | OFlags::NONBLOCK).unwrap();
    let result = loop {
        if let Err(error) = rustix::io::write(writer, b"\n") {
            break error;
        }
    };
    assert_eq!(result, Errno::AGAIN);
    fcntl_setfl(writer, flags).unwrap();
}

fn sh(host: &Host, script: &str) -> Command {
    let run = ["run", "--name", "web", "--workers", "2", "--", "sh", "-c"];
    let mut command = host.balancer(&run);
    command.arg(format!("{script}; exec sleep 1000"));
    command
}

/// All workers are through with what they print.
fn are_through(host: &Host) -> bool {
    let is =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "sleep\n");
    let live = live(host);
    live.len() == 2 && live.iter().all(is)
}

fn goes_on(host: &Host, place: &Place, script: &str, to: impl Fn(&mut Command, Stdio, Stdio)) {
    let mut command = sh(host, script);
    to(command.stdin(Stdio::null()), place.stdio(), place.stdio());
    let mut agent = command.spawn().unwrap();
    wait_until("workers that are through", || are_through(host));
    a_worker_is_replaced(host);
    host.succeed(&["reload"]);
    assert!(stop(host, &mut agent).success());
}

#[test]
fn standard_output_that_nobody_reads_holds_nothing_up() {
    Host::with(|host| {
        for place in [Place::pipe(), Place::terminal()] {
            goes_on(host, &place, MUCH, |command, out, _| {
                command.stdout(out).stderr(Stdio::null());
            });
        }
    });
}

#[test]
fn standard_error_that_nobody_reads_holds_nothing_up() {
    Host::with(|host| {
        for place in [Place::pipe(), Place::terminal()] {
            goes_on(host, &place, &format!("({MUCH}) >&2"), |command, _, err| {
                command.stdout(Stdio::null()).stderr(err);
            });
        }
    });
}

#[test]
fn both_that_nobody_reads_hold_nothing_up() {
    Host::with(|host| {
        for place in [Place::pipe(), Place::terminal()] {
            goes_on(host, &place, &format!("{MUCH}; ({MUCH}) >&2"), |command, out, err| {
                command.stdout(out).stderr(err);
            });
        }
    });
}

#[test]
fn a_stuck_reader_of_one_stream_hides_nothing_of_the_other() {
    Host::with(|host| {
        let (stuck, read) = (Place::pipe(), pipe_with(PipeFlags::CLOEXEC).unwrap());
        let mut command = sh(host, "echo a complaint >&2");
        let mut agent = command.stdout(stuck.stdio()).stderr(read.1).spawn().unwrap();
        drop(command);
        let mut lines = BufReader::new(File::from(read.0)).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with("a complaint")));
        wait_until_live(host, 2);
        a_worker_is_replaced(host);
        stop(host, &mut agent);
    });
}

#[test]
fn what_attach_prints_is_waited_for_by_nobody_either() {
    Host::with_python(|host| {
        for place in [Place::pipe(), Place::terminal()] {
            let first = Server::start("tcp", "127.0.0.1:9000");
            let mut command = host.balancer(&["attach", "127.0.0.1:9000"]);
            command.stdin(Stdio::null()).stdout(place.stdio()).stderr(place.stdio());
            let mut agent = command.spawn().unwrap();
            wait_until_live(host, 1);
            let second = Server::start("tcp", "127.0.0.1:9000");
            wait_until_live(host, 2);
            first.kill();
            wait_until("the one that is left", || live(host) == [second.pid()].into());
            assert!(stop(host, &mut agent).success());
        }
    });
}

#[test]
fn lines_that_nobody_read_are_counted_once_somebody_reads() {
    Host::with(|host| {
        for place in [Place::pipe(), Place::terminal()] {
            let mut command = sh(host, "seq 1 300000");
            command.stdin(Stdio::null()).stdout(place.stdio()).stderr(Stdio::null());
            let mut agent = command.spawn().unwrap();
            drop(command);
            wait_until("workers that are through", || are_through(host));
            let (mut lines, mut dropped, mut read) = (place.read(), 0, 0);
            while dropped + read < 600_000 {
                let line = lines.next().unwrap();
                if let Some((count, _)) = line.split_once(" lines were dropped here") {
                    dropped += count.parse::<u32>().unwrap();
                } else {
                    read += u32::from(line.starts_with('['));
                }
            }
            // And statistics.
            assert!(dropped > 100_000 && dropped + read < 600_100, "{dropped} and {read}");
            thread::spawn(move || lines.count());
            stop(host, &mut agent);
        }
    });
}

#[test]
fn what_is_read_is_whole_however_fast_a_worker_prints() {
    Host::with(|host| {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        fcntl_setpipe_size(&writer, 4096).unwrap();
        let mut command = sh(host, "seq 1 50000; seq 1 50000 >&2");
        let err = writer.as_fd().try_clone_to_owned().unwrap();
        let mut agent = command.stdout(writer).stderr(err).spawn().unwrap();
        drop(command);
        let mut read = 0;
        for line in BufReader::new(File::from(reader)).lines().map_while(Result::ok) {
            assert!(!line.contains("were dropped"), "{line}");
            read += usize::from(line.starts_with("[0] ") || line.starts_with("[1] "));
            if read == 200_000 {
                break;
            }
        }
        assert_eq!(read, 200_000);
        stop(host, &mut agent);
    });
}

#[test]
fn a_command_whose_output_nobody_reads_keeps_no_lock() {
    Host::with(|host| {
        let run = ["run", "--name", "web", "--workers", "2", "--policy", "weighted", "--quiet"];
        let agent = host.start(&run);
        wait_until_live(host, 2);
        let workers: Vec<u32> = live(host).into_iter().collect();
        let (one, other) = (workers[0].to_string(), format!("{}=7", workers[1]));
        for (place, args) in [
            (Place::pipe(), &["weight", &format!("{one}=5")][..]),
            (Place::terminal(), &["weight", &format!("{one}=6")]),
            (Place::pipe(), &["drain", &one]),
            (Place::terminal(), &["resume", &one]),
            // What ignores weights is said on standard error.
            (Place::pipe(), &["policy", "round-robin"]),
            (Place::pipe(), &["weight", &format!("{one}=8")]),
            (Place::terminal(), &["policy", "random"]),
            (Place::terminal(), &["reload"]),
            (Place::terminal(), &["detach"]),
        ] {
            let before = host.output(&["status", "--json"]).stdout;
            let mut command = host.balancer(args);
            command.stdin(Stdio::null()).stdout(place.stdio()).stderr(place.stdio());
            let mut stuck = command.spawn().unwrap();
            wait_until("its effect", || host.output(&["status", "--json"]).stdout != before);
            match args[0] {
                "detach" => {}
                // Whoever is a worker now may not be in a moment.
                "reload" => drop(host.succeed(&["policy", "random", "--avoid-stalled", "1s"])),
                _ => drop(host.succeed(&["weight", &other])),
            }
            assert!(stuck.try_wait().unwrap().is_none(), "{args:?} has ended");
            stuck.kill().unwrap();
            stuck.wait().unwrap();
        }
        agent.stop();
    });
}
