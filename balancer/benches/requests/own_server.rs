//! A server whose times are known: a thread per connection, which reads one request at a time and answers
//! it as late as it is told.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use balancer_steering::socket;
use rustix::event::{PollFd, PollFlags, poll};

/// What clients send it, always of the same length.
pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";

/// Which request it freezes at, and for how long.
const FREEZE: (u64, Duration) = (100, Duration::from_secs(1));

/// How late it is.
#[derive(Clone, Copy, Default)]
pub struct Behaviour {
    /// From a request's arrival until it is read.
    pub to_read: Duration,
    /// From then on until it is answered.
    pub to_answer: Duration,
    /// Once, it does nothing for a second, on any connection.
    pub freezes: bool,
}

/// Serves until dropped; connections until their clients end.
pub struct OwnServer {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

/// What its threads share.
#[derive(Default)]
struct Shared {
    asked: AtomicU64,
    /// Written while it is frozen.
    frozen: RwLock<()>,
}

impl OwnServer {
    /// Listens, with SO_REUSEPORT.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn start(address: SocketAddr, behaviour: Behaviour) -> Result<Self> {
        let socket = socket::bind(address)?;
        socket::listen(&socket, address)?;
        let listener = TcpListener::from(socket);
        let ended = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&ended);
        let shared = Arc::new(Shared::default());
        let accept = move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ending.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&shared);
                // It ends with its connection.
                thread::spawn(move || while serve(&stream, behaviour, &shared).is_some() {});
            }
        };
        let accepting = thread::Builder::new().spawn(accept).context("cannot start a thread")?;
        Ok(Self { address, ended, accepting: Some(accepting) })
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // So that it looks.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(accepting) = self.accepting.take().filter(|_| woken) {
            let _ = accepting.join();
        }
    }
}

/// Answers one request; `None` if there is none any more.
fn serve(mut stream: &TcpStream, behaviour: Behaviour, shared: &Shared) -> Option<()> {
    if !behaviour.to_read.is_zero() {
        poll(&mut [PollFd::new(&stream, PollFlags::IN)], None).ok()?;
        thread::sleep(behaviour.to_read);
    }
    stream.read_exact(&mut [0; REQUEST.len()]).ok()?;
    let asked = shared.asked.fetch_add(1, Ordering::Relaxed);
    if behaviour.freezes && asked == FREEZE.0 {
        let _frozen = shared.frozen.write().ok()?;
        thread::sleep(FREEZE.1);
    }
    if !behaviour.to_answer.is_zero() {
        thread::sleep(behaviour.to_answer);
    }
    let _thawed = shared.frozen.read().ok()?;
    stream.write_all(ANSWER).ok()
}
