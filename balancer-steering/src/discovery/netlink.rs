//! A dump of the kernel's socket diagnostics (`NETLINK_SOCK_DIAG`), and nobody else's. Everybody with
//! CAP_NET_ADMIN in a network namespace, root of a container too, may send to any netlink socket in it.

use std::{
    cell::Cell,
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    inet::{InetRequest, InetResponse},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// How long the kernel may take from one datagram of its answer to the next.
const LIMIT: Duration = Duration::from_secs(5);

const KERNEL: u32 = 0;

/// A socket to ask the kernel through.
pub(super) struct Diagnostics {
    socket: Socket,
    port: u32,
    sequence: Cell<u32>,
}

/// Which question a message answers; the kernel repeats both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Where it came from.
    pub port: u32,
    /// Its number there.
    pub sequence: u32,
}

impl Diagnostics {
    /// Opens one in this thread's network namespace.
    ///
    /// # Errors
    /// Returns an error if none is to be had.
    pub fn open() -> io::Result<Self> {
        let bound = Self::bind()?;
        // From now on what others send is refused, and does not fill the queue. What they have sent
        // before is in it.
        bound.socket.connect(&SocketAddr::new(KERNEL, 0))?;
        Ok(bound)
    }

    fn bind() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        let port = socket.bind_auto()?.port_number();
        set_socket_timeout(&socket, Timeout::Recv, Some(LIMIT))?;
        Ok(Self { socket, port, sequence: Cell::default() })
    }

    /// Asks, and reads the answer, a socket after another.
    ///
    /// # Errors
    /// Returns what the kernel says if it does not answer, or that it says nothing.
    pub fn dump(&self, request: InetRequest, take: impl FnMut(&InetResponse)) -> io::Result<()> {
        self.dump_with(request, &[], take)
    }

    /// As [`Diagnostics::dump`], with attributes of the request, each padded to a multiple of four.
    ///
    /// # Errors
    /// As [`Diagnostics::dump`].
    pub fn dump_with(
        &self,
        request: InetRequest,
        attributes: &[u8],
        mut take: impl FnMut(&InetResponse),
    ) -> io::Result<()> {
        self.sequence.update(|sequence| sequence.wrapping_add(1));
        let question = Question { port: self.port, sequence: self.sequence.get() };
        self.socket.send(&message(request, question, attributes)?, 0)?;
        let mut heard = Instant::now();
        loop {
            let received = match self.socket.recv_from_full() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
                received => Some(received.map_err(late)?),
            };
            if let Some((datagram, sender)) = received
                && sender.port_number() == KERNEL
            {
                heard = Instant::now();
                if read(&datagram, question, &mut take)? == Dump::Ended {
                    return Ok(());
                }
            } else if heard.elapsed() > LIMIT {
                return Err(late(io::ErrorKind::WouldBlock.into()));
            }
        }
    }
}

impl AsFd for Diagnostics {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn late(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the kernel has not answered within {LIMIT:?}"),
        ),
        _ => error,
    }
}

fn message(request: InetRequest, question: Question, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    (header.sequence_number, header.port_number) = (question.sequence, question.port);
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes.extend_from_slice(attributes);
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    bytes[..size_of::<u32>()].copy_from_slice(&length.to_ne_bytes());
    Ok(bytes)
}

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    /// Another datagram.
    GoesOn,
    /// This was the last.
    Ended,
}

/// Reads a datagram of the kernel's, a socket after another; what does not answer the question is
/// passed over.
///
/// # Errors
/// If the datagram is not the kernel's, or the kernel says why it does not answer.
pub fn read(
    datagram: &[u8],
    question: Question,
    mut take: impl FnMut(&InetResponse),
) -> io::Result<Dump> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let header = message.header;
        rest = rest.get(padded(header.length)..).unwrap_or_default();
        if (header.port_number, header.sequence_number) != (question.port, question.sequence) {
            continue;
        }
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                take(&response);
            }
            NetlinkPayload::Error(error) => return Err(refusal(error.raw_code())),
            // What stops a dump half-way, or before it begins, is reported by its end.
            NetlinkPayload::Done(done) if done.code < 0 => return Err(refusal(done.code)),
            NetlinkPayload::Done(_) => return Ok(Dump::Ended),
            _ => {}
        }
    }
    Ok(Dump::GoesOn)
}

/// The kernel writes its errors below zero.
fn refusal(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// Messages of one datagram begin at multiples of four.
fn padded(length: u32) -> usize {
    (length as usize).next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use netlink_packet_sock_diag::{
        AF_INET, IPPROTO_TCP,
        inet::{ExtensionFlags, SocketId, StateFlags},
    };

    use super::*;

    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    const QUESTION: Question = Question { port: 811, sequence: 7 };

    /// A message of the kernel's that says no more than a number.
    fn says(kind: u16, answers: Question, code: i32) -> Vec<u8> {
        let header = [&20u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 2]].concat();
        let Question { port, sequence } = answers;
        let words = [sequence, port].map(u32::to_ne_bytes);
        [header, words.concat(), code.to_ne_bytes().to_vec()].concat()
    }

    fn read(datagram: &[u8]) -> io::Result<Dump> {
        super::read(datagram, QUESTION, |_| panic!("a socket"))
    }

    #[test]
    fn a_dump_ends_with_what_the_kernel_says_of_it() {
        assert_eq!(read(&says(DONE, QUESTION, 0)).unwrap(), Dump::Ended);
        assert_eq!(read(&[]).unwrap(), Dump::GoesOn);
        for kind in [ERROR, DONE] {
            let refusal = read(&says(kind, QUESTION, -2)).unwrap_err();
            assert_eq!(refusal.kind(), io::ErrorKind::NotFound);
            // No number of the kernel's; it has no opposite either.
            assert!(read(&says(kind, QUESTION, i32::MIN)).is_err());
        }
        assert!(read(&[0; 16]).is_err(), "a message without a length");
    }

    #[test]
    fn what_answers_another_question_is_passed_over() {
        for other in [Question { port: 812, ..QUESTION }, Question { sequence: 6, ..QUESTION }] {
            for kind in [ERROR, DONE] {
                assert_eq!(read(&says(kind, other, -99)).unwrap(), Dump::GoesOn);
                let both = [says(kind, other, -99), says(DONE, QUESTION, 0)].concat();
                assert_eq!(read(&both).unwrap(), Dump::Ended);
            }
        }
    }

    /// Sends an error that answers the first question, as somebody with CAP_NET_ADMIN may.
    fn forge(of: &Diagnostics) -> io::Result<usize> {
        let forger = Socket::new(NETLINK_SOCK_DIAG)?;
        let forged = says(ERROR, Question { port: of.port, sequence: 1 }, -99);
        forger.send_to(&forged, &SocketAddr::new(of.port, 0), 0)
    }

    fn ask(of: &Diagnostics) -> io::Result<()> {
        let socket_id = SocketId { source_port: 1, ..SocketId::new_v4() };
        let (extensions, states) = (ExtensionFlags::empty(), StateFlags::LISTEN);
        let (family, protocol) = (AF_INET, IPPROTO_TCP);
        of.dump(InetRequest { family, protocol, extensions, states, socket_id }, |_| ())
    }

    #[test]
    fn what_others_send_is_refused_and_what_they_have_sent_before_is_not_heard() {
        let open = Diagnostics::open().unwrap();
        assert!(forge(&open).is_err());
        ask(&open).unwrap();

        let bound = Diagnostics::bind().unwrap();
        // Only root may.
        if forge(&bound).is_ok() {
            ask(&bound).unwrap();
        }
    }
}
