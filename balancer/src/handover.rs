//! Hands a command its listening socket as systemd does (`sd_listen_fds(3)`): as descriptor 3, with
//! `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` in its environment.
//!
//! In a group that goes by what workers report (`--load reported`) it also finds where to say its load:
//! `BALANCER_LOAD_FD` is a descriptor to map into memory, whose first 64 bits are its own word.
//!
//! `LISTEN_PID` is the command's own PID, which nobody knows before the fork. So arguments and environment
//! are laid out before it, with room for the number, and the child writes it there and executes the
//! command itself.

use std::{
    collections::BTreeMap,
    env,
    ffi::{CString, OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStringExt as _, process::CommandExt as _},
    },
    process::Command,
    ptr,
};

use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec};

/// `SD_LISTEN_FDS_START`.
const FIRST_SOCKET: RawFd = 3;

/// Room for a PID's digits, all of which are written.
const DIGITS: usize = 10;

/// What a command is handed.
pub struct Handover {
    /// Its listening socket.
    pub socket: OwnedFd,
    /// Where it may say its load.
    pub load: Option<OwnedFd>,
    /// The group's name.
    pub group: String,
}

impl Handover {
    /// Has a command find all that when it runs. Call it last: what is said of the command later, its
    /// environment too, is not heard.
    ///
    /// # Errors
    /// Returns an error if no descriptor is to be had, or there is a NUL in an argument.
    pub fn prepare(self, command: &mut Command) -> io::Result<()> {
        occupy()?;
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", &self.group);
        // Not where the socket will be.
        let load = self.load.map(|load| fcntl_dupfd_cloexec(load, FIRST_SOCKET + 1)).transpose()?;
        if let Some(load) = &load {
            command.env("BALANCER_LOAD_FD", load.as_raw_fd().to_string());
        }
        let mut image = Image::of(command)?;
        let socket = self.socket;
        let become_it = move || {
            hand_over(&socket, load.as_ref())?;
            Err(image.execute())
        };
        // SAFETY: system calls and stores between fork and exec, and nothing allocated.
        unsafe { command.pre_exec(become_it) };
        Ok(())
    }
}

/// Sees to it that the place of the socket is taken in this process: the standard library's own
/// descriptor, on which a child says that it could not run, must not be there.
fn occupy() -> io::Result<()> {
    // SAFETY: nothing but a question about a number.
    if unsafe { libc::fcntl(FIRST_SOCKET, libc::F_GETFD) } >= 0 {
        return Ok(());
    }
    let filler = fcntl_dupfd_cloexec(File::open("/dev/null")?, FIRST_SOCKET)?;
    if filler.as_raw_fd() == FIRST_SOCKET {
        // For as long as this process lives.
        std::mem::forget(filler);
    }
    Ok(())
}

/// In the child: puts descriptors where the command finds them.
fn hand_over(socket: &OwnedFd, load: Option<&OwnedFd>) -> io::Result<()> {
    if let Some(load) = load {
        rustix::io::fcntl_setfd(load, FdFlags::empty())?;
    }
    if socket.as_raw_fd() == FIRST_SOCKET {
        return Ok(rustix::io::fcntl_setfd(socket, FdFlags::empty())?);
    }
    // SAFETY: whatever is there is replaced; the child owns nothing that is needed any more.
    if unsafe { libc::dup2(socket.as_raw_fd(), FIRST_SOCKET) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A program with arguments and environment, laid out as the kernel takes them.
struct Image {
    arguments: Vec<CString>,
    environment: Vec<CString>,
    /// `LISTEN_PID=`, with room for the number and a NUL.
    listen_pid: Vec<u8>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
}

// SAFETY: the pointers are into the buffers beside them, which move nowhere and change only in the child,
// which has one thread.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Image {
    fn of(command: &Command) -> io::Result<Self> {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let arguments = words.map(text).collect::<io::Result<Vec<_>>>()?;
        let mut variables: BTreeMap<OsString, OsString> = env::vars_os().collect();
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => variables.insert(name.to_owned(), value.to_owned()),
                None => variables.remove(name),
            };
        }
        variables.remove(OsStr::new("LISTEN_PID"));
        let joined = variables.into_iter().map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(&name)
        });
        let environment = joined.collect::<io::Result<Vec<_>>>()?;
        let mut listen_pid = b"LISTEN_PID=".to_vec();
        listen_pid.extend([0; DIGITS + 1]);
        let mut image =
            Self { arguments, environment, listen_pid, argv: Vec::new(), envp: Vec::new() };
        image.argv =
            image.arguments.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
        let own = image.listen_pid.as_ptr().cast();
        let variables = image.environment.iter().map(|variable| variable.as_ptr());
        image.envp = variables.chain([own, ptr::null()]).collect();
        Ok(image)
    }

    /// In the child: becomes the program; returns only if it cannot.
    fn execute(&mut self) -> io::Error {
        let digits = self.listen_pid.len() - 1 - DIGITS;
        write_decimal(&mut self.listen_pid[digits..], std::process::id());
        // SAFETY: both lists end with a null pointer, and what they point to is still there.
        unsafe {
            libc::execvpe(self.argv[0], self.argv.as_ptr(), self.envp.as_ptr());
        }
        io::Error::last_os_error()
    }
}

fn text(word: &OsStr) -> io::Result<CString> {
    CString::new(word.to_owned().into_vec()).map_err(|_| Errno::INVAL.into())
}

/// Writes a number without a leading 0, and allocates nothing.
fn write_decimal(place: &mut [u8], mut number: u32) {
    let length = number.checked_ilog10().unwrap_or(0) as usize + 1;
    for digit in place[..length].iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

/// What to say of a command that cannot be run.
pub fn cannot_run(program: &OsStr, error: &io::Error) -> String {
    format!(
        "cannot run `{}`: {error}; give the path of a program, or its name if it is on PATH",
        program.display()
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_written_as_it_is_read(number: u32) {
            let mut place = [0; DIGITS + 1];
            write_decimal(&mut place, number);
            let written = std::ffi::CStr::from_bytes_until_nul(&place).unwrap();
            prop_assert_eq!(written.to_str().unwrap().parse(), Ok(number));
        }
    }

    #[test]
    fn a_command_knows_its_socket_by_its_own_pid() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo $$ $LISTEN_PID $LISTEN_FDS $LISTEN_FDNAMES $GREETING; readlink /proc/$$/fd/3",
        ]);
        command.env("GREETING", "hello").stdout(std::process::Stdio::piped());
        let handover = Handover { socket: listener.into(), load: None, group: "web".to_owned() };
        handover.prepare(&mut command).unwrap();
        let child = command.spawn().unwrap();
        let pid = child.id();
        let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let (first, socket) = said.split_once('\n').unwrap();
        assert_eq!(first, format!("{pid} {pid} 1 web hello"));
        assert!(socket.starts_with("socket:["), "{socket}, port {port}");
    }

    #[test]
    fn a_command_that_is_not_there_cannot_be_started() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = Command::new("no-such-program");
        let handover = Handover { socket: listener.into(), load: None, group: "web".to_owned() };
        handover.prepare(&mut command).unwrap();
        assert_eq!(command.spawn().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
