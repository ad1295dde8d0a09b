//! Hands a command its listening socket as systemd does (`sd_listen_fds(3)`): as descriptor 3, with
//! `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` in its environment.
//!
//! In a group that goes by what workers report (`--load reported`) it also finds where to say its load:
//! `BALANCER_LOAD_FD` is a descriptor to map into memory, `BALANCER_SLOT` the number of its word there.
//!
//! `LISTEN_PID` is the command's own PID, which nobody knows before it runs. So balancer starts
//! itself with the socket as standard input, and that process becomes the command.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    mem::ManuallyDrop,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Command, ExitCode},
};

use rustix::{
    io::{FdFlags, dup2, fcntl_dupfd_cloexec, fcntl_setfd},
    pipe::{PipeFlags, pipe_with},
    stdio::dup2_stdin,
};
use tokio::net::unix::pipe;

use crate::cli::ExecWithSocketArgs;

/// `SD_LISTEN_FDS_START`.
const FIRST_SOCKET: RawFd = 3;

/// What a shell says of a command that it cannot run.
const CANNOT_RUN: u8 = 127;

/// The agent's side.
pub struct Handover {
    /// What to start, with the socket as standard input.
    pub process: tokio::process::Command,
    /// Ends, with nothing in it, once the command runs; or says why it does not.
    pub report: pipe::Receiver,
    /// What the process inherits, to be closed here once it is started.
    pub kept: Vec<OwnedFd>,
}

impl Handover {
    /// Prepares the start of a command that is handed the socket of a slot, and `load`, where it may say
    /// its load.
    ///
    /// # Errors
    /// Where no pipe can be had.
    pub fn new(
        group: &str,
        slot: u32,
        load: Option<OwnedFd>,
        command: &[OsString],
    ) -> io::Result<Self> {
        let (report, reporter) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut process = tokio::process::Command::new("/proc/self/exe");
        process.args(["exec-with-socket", "--report", &reporter.as_raw_fd().to_string()]);
        if let Some(load) = &load {
            process.args(["--load", &load.as_raw_fd().to_string()]);
        }
        process.args(["--slot", &slot.to_string(), "--name", group, "--"]).args(command);
        let kept: Vec<OwnedFd> = [reporter].into_iter().chain(load).collect();
        for descriptor in &kept {
            // For the child to inherit. One thread starts all children, so no other gets it.
            fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        Ok(Self { process, report: pipe::Receiver::from_owned_fd(report)?, kept })
    }
}

/// The child's side: becomes the command. Returns only where that fails; the agent is told why.
///
/// # Errors
/// Where the agent cannot be told.
pub fn exec(args: &ExecWithSocketArgs) -> io::Result<ExitCode> {
    // SAFETY: the agent opened it for this process, and nothing else here knows of it.
    let report = unsafe { OwnedFd::from_raw_fd(args.report) };
    // Closed by exec, which is the report; and not where the socket will be.
    let report = fcntl_dupfd_cloexec(report, FIRST_SOCKET + 1)?;
    let error = become_command(args).err().unwrap_or_else(|| io::Error::other("no command"));
    let shown = args.command.first().cloned().unwrap_or_default();
    rustix::io::write(&report, cannot_run(&shown, &error).as_bytes())?;
    Ok(ExitCode::from(CANNOT_RUN))
}

/// What to say of a command that cannot be run.
pub fn cannot_run(program: &OsStr, error: &io::Error) -> String {
    format!(
        "cannot run `{}`: {error}; give the path of a program, or its name if it is on PATH",
        program.display()
    )
}

fn become_command(args: &ExecWithSocketArgs) -> io::Result<()> {
    let [program, arguments @ ..] = args.command.as_slice() else { return Ok(()) };
    let mut command = Command::new(program);
    if let Some(load) = args.load {
        // SAFETY: as `report`.
        let load = unsafe { OwnedFd::from_raw_fd(load) };
        // Not where the socket will be, and not closed by exec.
        let load = fcntl_dupfd_cloexec(load, FIRST_SOCKET + 1)?;
        fcntl_setfd(&load, FdFlags::empty())?;
        command.env("BALANCER_LOAD_FD", load.into_raw_fd().to_string());
        command.env("BALANCER_SLOT", args.slot.to_string());
    }
    let socket = io::stdin();
    // Now something is at the first place, if only this.
    let filler = fcntl_dupfd_cloexec(&socket, FIRST_SOCKET)?;
    // SAFETY: it is open, and nobody here owns it but `filler`, which is forgotten.
    let mut first = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(FIRST_SOCKET) });
    let _ = ManuallyDrop::new(filler);
    dup2(&socket, &mut first)?;
    dup2_stdin(File::open("/dev/null")?)?;
    Err(command
        .args(arguments)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", std::process::id().to_string())
        .env("LISTEN_FDNAMES", &args.name)
        .exec())
}
