//! The servers: our own, whose times are known, and others as people have them.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use balancer_steering::socket;

use crate::{
    own_server::{Behaviour, OwnServer},
    process_tree::{self, ProcessTree},
};

/// The address of the servers that are steered; the configurations of nginx have it too.
pub const STEERED: SocketAddr = local(8080);

/// The address of the server of nginx that is not steered.
pub const OTHER: SocketAddr = local(8082);

/// What nginx passes requests to.
const UPSTREAM: SocketAddr = local(8081);

/// How late that is.
const LATE: Duration = Duration::from_millis(20);

/// Left out, and why: said with the table.
pub const LEFT_OUT: &str = "\
Left out: redis-server and PostgreSQL, which neither set SO_REUSEPORT nor take a socket that is handed over.";

/// The file that nginx serves.
pub const FILE: &str = "file";
const FILE_LENGTH: usize = 1 << 20;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/requests");

/// A server, not started yet.
#[derive(Clone, Copy)]
pub enum Server {
    /// In this process.
    Own(Behaviour),
    /// Answers by itself.
    Nginx,
    /// Decrypts, and passes on to our own.
    NginxTls,
    /// `examples/go`.
    Go,
    /// `examples/gunicorn`.
    Gunicorn,
    /// `examples/python`.
    Python,
    /// Cannot set SO_REUSEPORT: it is handed a socket.
    Node,
}

/// A server that runs, until dropped.
pub struct Running {
    _process: Option<ProcessTree>,
    _own: Option<OwnServer>,
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

impl Server {
    /// The Debian packages that this machine lacks for it.
    pub fn missing(self) -> Vec<&'static str> {
        let needs: &[_] = match self {
            Self::Own(_) => &[],
            Self::Nginx => &[("nginx", "nginx")],
            Self::NginxTls => &[("nginx", "nginx"), ("openssl", "openssl")],
            Self::Go => &[("go", "golang-go")],
            Self::Gunicorn => &[("gunicorn", "gunicorn")],
            Self::Python => &[("python3", "python3")],
            Self::Node => &[("node", "nodejs")],
        };
        let missing = needs.iter().filter(|(program, _)| !process_tree::is_installed(program));
        missing.map(|(_, package)| *package).collect()
    }

    /// Starts it, with a directory to write to.
    ///
    /// # Errors
    /// Returns an error if it cannot be started, or another is still there.
    pub fn start(self, directory: &Path) -> Result<Running> {
        wait_until_free(STEERED)?;
        let own = |address, behaviour| OwnServer::start(address, behaviour).map(Some);
        let (command, own) = match self {
            Self::Own(behaviour) => (None, own(STEERED, behaviour)?),
            Self::NginxTls => {
                make_certificate(directory)?;
                let late = Behaviour { to_answer: LATE, ..Behaviour::default() };
                (Some(nginx("nginx-tls.conf", directory)?), own(UPSTREAM, late)?)
            }
            _ => (Some(self.command(directory)?), None),
        };
        let process = command.map(|command| ProcessTree::start(command, STEERED)).transpose()?;
        Ok(Running { _process: process, _own: own })
    }

    fn command(self, directory: &Path) -> Result<Command> {
        let address = STEERED.to_string();
        Ok(match self {
            Self::Go => {
                let mut command = process_tree::command(build_go(directory)?);
                command.args(["-listen", &address]).stdout(Stdio::null());
                command
            }
            Self::Gunicorn => {
                let mut command = process_tree::command("gunicorn");
                command.args(["--log-level", "warning", "-c", "gunicorn.conf.py", "app:app"]);
                command.env("PYTHONDONTWRITEBYTECODE", "1");
                command.current_dir(format!("{EXAMPLES}/gunicorn"));
                command
            }
            Self::Python => {
                let mut command = process_tree::command("python3");
                command.arg(format!("{EXAMPLES}/python/server.py")).arg(address);
                command.stdout(Stdio::null());
                command
            }
            Self::Node => {
                let socket = socket::bind(STEERED)?;
                socket::listen(&socket, STEERED)?;
                let mut command = process_tree::command("node");
                command.arg(format!("{HERE}/node.js")).stdin(OwnedFd::from(socket));
                command
            }
            Self::Own(_) | Self::Nginx | Self::NginxTls => {
                let file = directory.join(FILE);
                fs::write(&file, vec![b'.'; FILE_LENGTH])
                    .with_context(|| format!("cannot write {}", file.display()))?;
                nginx("nginx.conf", directory)?
            }
        })
    }
}

/// With a copy of a configuration: what it names is looked for beside it.
fn nginx(configuration: &str, directory: &Path) -> Result<Command> {
    let copy = directory.join(configuration);
    fs::copy(Path::new(HERE).join(configuration), &copy)
        .with_context(|| format!("cannot write {}", copy.display()))?;
    let mut command = process_tree::command("nginx");
    command.args(["-e", "stderr", "-p"]).arg(directory).arg("-c").arg(copy);
    Ok(command)
}

/// What was killed may still be going.
fn wait_until_free(address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).is_ok() {
        ensure!(Instant::now() < deadline, "an earlier server still listens on {address}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn build_go(directory: &Path) -> Result<PathBuf> {
    let server = directory.join("go-server");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&server).arg(".").current_dir(format!("{EXAMPLES}/go"));
    run(build.env("GOFLAGS", "-buildvcs=false"))?;
    Ok(server)
}

fn make_certificate(directory: &Path) -> Result<()> {
    let mut make = Command::new("openssl");
    make.args("req -x509 -nodes -days 1 -subj /CN=bench -newkey ec".split(' '));
    make.args("-pkeyopt ec_paramgen_curve:prime256v1".split(' '));
    make.args("-keyout key.pem -out certificate.pem".split(' '));
    run(make.current_dir(directory).stderr(Stdio::null()))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status();
    let name = command.get_program().to_string_lossy();
    let status = status.with_context(|| format!("cannot start {name}"))?;
    ensure!(status.success(), "{name} ended: {status}");
    Ok(())
}
