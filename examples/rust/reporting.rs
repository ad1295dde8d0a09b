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
    io::{self, BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::FromRawFd as _,
    thread,
    time::Duration,
};

use balancer_report::Load;

fn main() -> io::Result<()> {
    // SAFETY: descriptor 3 is handed over to us, as `LISTEN_FDS` says, and nobody else here has it.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    let load = Load::from_env()?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || serve(stream, load));
    }
    Ok(())
}

fn serve(mut stream: TcpStream, load: Load) {
    let mut line = String::new();
    if BufReader::new(&stream).read_line(&mut line).is_err() {
        return;
    }
    let work = line.split([' ', '/']).find_map(|word| word.parse().ok()).unwrap_or(1);
    load.add(work);
    thread::sleep(Duration::from_millis(work));
    load.sub(work);
    let body = format!("Server with PID: [{}] worked for {work} ms\n", std::process::id());
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}
