//! Servers that know nothing of balancer: small ones in Python that set SO_REUSEPORT and answer with
//! their PID.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use rustix::process::Signal;

use crate::running::{PATIENCE, send, wait_until_gone, watch};

/// What the scripts below begin with.
const SERVE: &str = "\
def serve(server, kind):
    answer = b'%d' % os.getpid()
    while True:
        if kind == 'tcp':
            client, _ = server.accept()
            client.sendall(answer)
            client.close()
        else:
            _, client = server.recvfrom(64)
            server.sendto(answer, client)

";

/// Arguments: tcp, udp or mptcp, address, port, the name that it goes by, and the type of a BPF map
/// that its socket is in, with the size of the map's values.
const SCRIPT: &str = "\
import os, socket, struct, sys

kind, host, port, name, map, size = sys.argv[1:]
if name:
    open('/proc/self/comm', 'w').write(name)
protocol = 262 if kind == 'mptcp' else 0
kind = kind.removeprefix('mp')
family = socket.AF_INET6 if ':' in host else socket.AF_INET
stream = socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM
server = socket.socket(family, stream, protocol)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.bind((host, int(port)))
if kind == 'tcp':
    server.listen(1024)

def bpf(command, attributes):
    import ctypes
    number = {'x86_64': 321, 'aarch64': 280}[os.uname().machine]
    room = ctypes.create_string_buffer(attributes, 128)
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(number, command, room, 128)
    assert result >= 0, os.strerror(ctypes.get_errno())
    return result

if map != '0':
    import ctypes
    array = bpf(0, struct.pack('IIIIIII16s', int(map), 4, int(size), 4, 0, 0, 0, b'theirs'))
    key, value = ctypes.c_uint32(1), ctypes.c_uint64(server.fileno())
    bpf(2, struct.pack('IIQQQ', array, 0, ctypes.addressof(key), ctypes.addressof(value), 0))
print(os.getpid(), flush=True)
serve(server, kind)
";

/// Arguments: tcp or udp, address, port, how many sockets, each with a thread of its own.
const THREADS: &str = "\
import os, socket, sys, threading

kind, host, port, count = sys.argv[1:]
family = socket.AF_INET6 if ':' in host else socket.AF_INET
for _ in range(int(count)):
    server = socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((host, int(port)))
    if kind == 'tcp':
        server.listen(1024)
    threading.Thread(target=serve, args=(server, kind)).start()
print(os.getpid(), flush=True)
";

/// Arguments: tcp or udp, address, port, how many sockets, seconds until a child that died has a
/// successor.
const PREFORK: &str = "\
import os, socket, sys, time

kind, host, port, count, pause = sys.argv[1:]
family = socket.AF_INET6 if ':' in host else socket.AF_INET
sockets = []
for _ in range(int(count)):
    server = socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((host, int(port)))
    if kind == 'tcp':
        server.listen(1024)
    sockets.append(server)

def born(server):
    pid = os.fork()
    if pid:
        return pid
    for other in sockets:
        if other is not server:
            other.close()
    serve(server, kind)

children = {born(server): server for server in sockets}
print(os.getpid(), flush=True)
while True:
    server = children.pop(os.wait()[0])
    time.sleep(float(pause))
    children[born(server)] = server
";

/// Of `enum bpf_map_type`, for [`Server::in_map`].
pub const SOCKMAP: u32 = 15;
/// As [`SOCKMAP`].
pub const SOCKHASH: u32 = 18;
/// As [`SOCKMAP`].
pub const SOCKARRAY: u32 = 20;

/// A server started by hand.
pub struct Server {
    child: Child,
    pid: u32,
    process: OwnedFd,
}

impl Server {
    /// Starts one and waits until it serves.
    pub fn start(kind: &str, address: &str) -> Self {
        Self::named(kind, address, "")
    }

    /// As [`Server::start`], under a command name of its own.
    pub fn named(kind: &str, address: &str, name: &str) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        Self::script(SCRIPT, &[kind, &host, &port, name, "0", "0"])
    }

    /// As [`Server::start`], with its socket in a BPF map of this type, whose values are of this size.
    pub fn in_map(kind: &str, address: &str, map: u32, size: u32) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        Self::script(SCRIPT, &[kind, &host, &port, "", &map.to_string(), &size.to_string()])
    }

    /// A server that opens so many sockets and has a child accept from each; a child that dies gets a
    /// successor after so many seconds.
    pub fn prefork(kind: &str, address: &str, count: usize, pause: u32) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        Self::script(PREFORK, &[kind, &host, &port, &count.to_string(), &pause.to_string()])
    }

    /// One process with so many sockets, each with a thread of its own.
    pub fn threads(kind: &str, address: &str, count: usize) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        Self::script(THREADS, &[kind, &host, &port, &count.to_string()])
    }

    fn script(script: &str, args: &[&str]) -> Self {
        let mut child = Command::new("python3")
            .arg("-c")
            .arg(format!("{SERVE}{script}"))
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().expect("a server that serves");
        Self { child, pid, process: watch(pid) }
    }

    /// So many at one address.
    pub fn several(count: usize, kind: &str, address: &str) -> Vec<Self> {
        (0..count).map(|_| Self::start(kind, address)).collect()
    }

    /// Its PID, which is its answer.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills it and waits until its socket is gone.
    pub fn kill(self) {
        self.end(Signal::KILL);
    }

    /// Ends it and waits until its socket is gone.
    pub fn end(mut self, signal: Signal) {
        send(self.pid, signal);
        wait_until_gone(&self.process, "a server");
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who answers so many connections, by PID.
pub fn ask(address: &str, count: usize) -> BTreeMap<u32, usize> {
    tally(count, || {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    })
}

/// A client that asks over UDP, from a port that no other of this test has had.
pub struct Client(UdpSocket);

impl Client {
    /// On the loopback address of the server's family.
    pub fn of(address: &str) -> Self {
        static PORTS: AtomicU16 = AtomicU16::new(20_000);
        let own = if address.starts_with('[') { "[::1]" } else { "127.0.0.1" };
        let port = PORTS.fetch_add(1, Ordering::Relaxed);
        let client = UdpSocket::bind(format!("{own}:{port}")).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect(address).unwrap();
        Self(client)
    }

    /// Says something, and waits for no answer.
    pub fn tell(&self) {
        self.0.send(b"?").unwrap();
    }

    /// Who answers.
    pub fn ask(&self) -> u32 {
        self.tell();
        self.answer()
    }

    /// Who has answered.
    pub fn answer(&self) -> u32 {
        let mut answer = [0; 16];
        let length = self.0.recv(&mut answer).expect("an answer");
        String::from_utf8_lossy(&answer[..length]).parse().expect("a PID")
    }
}

/// Who answers a datagram of each of so many clients, by PID.
pub fn ask_udp(address: &str, count: usize) -> BTreeMap<u32, usize> {
    tally(count, || Client::of(address).ask().to_string())
}

fn tally(count: usize, mut ask: impl FnMut() -> String) -> BTreeMap<u32, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        *answers.entry(ask().parse().expect("a PID")).or_default() += 1;
    }
    answers
}
