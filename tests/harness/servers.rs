//! Servers that know nothing of balancer: small ones in Python that set SO_REUSEPORT and answer with
//! their PID.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

use rustix::process::Signal;

use crate::running::{PATIENCE, send, wait_until_gone, watch};

/// Arguments: tcp or udp, address, port, the name that it goes by.
const SCRIPT: &str = "\
import os, socket, sys

kind, host, port, name = sys.argv[1:]
if name:
    open('/proc/self/comm', 'w').write(name)
family = socket.AF_INET6 if ':' in host else socket.AF_INET
server = socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.bind((host, int(port)))
answer = b'%d' % os.getpid()
if kind == 'tcp':
    server.listen(1024)
print(os.getpid(), flush=True)
while True:
    if kind == 'tcp':
        client, _ = server.accept()
        client.sendall(answer)
        client.close()
    else:
        _, client = server.recvfrom(64)
        server.sendto(answer, client)
";

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
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT, kind, &host, &port, name])
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

/// Who answers so many datagrams of one client, by PID.
pub fn ask_udp(address: &str, count: usize) -> BTreeMap<u32, usize> {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    tally(count, || {
        client.send_to(b"?", address).unwrap();
        let mut answer = [0; 16];
        let length = client.recv(&mut answer).expect("an answer");
        String::from_utf8_lossy(&answer[..length]).into_owned()
    })
}

fn tally(count: usize, mut ask: impl FnMut() -> String) -> BTreeMap<u32, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        *answers.entry(ask().parse().expect("a PID")).or_default() += 1;
    }
    answers
}
