//! `top` in a terminal of its own, as an operator sees it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Instant,
};

use harness::{
    Host,
    running::{PATIENCE, wait_until_gone, watch},
};
use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

const COLUMNS: u16 = 80;
const ROWS: u16 = 24;

/// `top` in a terminal of 80 columns and 24 lines.
pub struct Terminal {
    pub top: Child,
    keyboard: File,
    slave: OwnedFd,
    written: Vec<u8>,
    output: Receiver<Vec<u8>>,
}

/// Both ends of a terminal.
pub fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = open(&name, flags, Mode::empty()).unwrap();
    let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&slave, size).unwrap();
    (master, slave)
}

/// The command of all these tests.
pub fn top(host: &Host) -> Command {
    host.balancer(&["top", "--interval", "200ms"])
}

/// Starts a command at one end of a terminal.
pub fn start(mut command: Command, slave: &OwnedFd) -> Child {
    let stdio = || slave.try_clone().unwrap();
    command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap()
}

impl Terminal {
    pub fn start(host: &Host) -> Self {
        Self::of(top(host))
    }

    pub fn of(command: Command) -> Self {
        let (master, slave) = terminal();
        let top = start(command, &slave);
        let keyboard = File::from(master);
        let mut screen = keyboard.try_clone().unwrap();
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut octets = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut octets) {
                let _ = sender.send(octets[..count].to_vec());
            }
        });
        Self { top, keyboard, slave, written: Vec::new(), output }
    }

    /// Waits until this is on the screen, maybe over several lines.
    pub fn wait_for(&mut self, text: &str) {
        self.wait_until(|written| screen(written).contains(text), text);
    }

    /// Waits until this was written, wherever on the screen or below it.
    pub fn wait_for_output(&mut self, text: &str) {
        self.wait_until(|written| written.contains(text), text);
    }

    fn wait_until(&mut self, holds: impl Fn(&str) -> bool, what: &str) {
        // It writes something with each interval.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let written = String::from_utf8_lossy(&self.written);
            if holds(&written) {
                return;
            }
            let more = self.output.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let more = more.unwrap_or_else(|_| panic!("no {what:?} in {:?}", screen(&written)));
            self.written.extend(more);
        }
    }

    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Whether the terminal gives out lines and echoes, as a shell expects it.
    pub fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// That it ends, well, and the terminal is as it was.
    pub fn ended(mut self) {
        wait_until_gone(&watch(self.top.id()), "top");
        assert!(self.top.wait().unwrap().success());
        assert!(self.is_cooked());
        // It left the alternate screen.
        self.wait_for_output("\x1b[?1049l");
    }
}

/// The words that are on the screen after all this was written: only cells that change are.
fn screen(written: &str) -> String {
    let blank = vec![vec![' '; COLUMNS.into()]; ROWS.into()];
    let (mut cells, mut row, mut column) = (blank.clone(), 0, 0);
    let mut characters = written.chars();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' if characters.next() == Some('[') => {
                let is_end = |character: &char| ('@'..='~').contains(character);
                let place: String = characters.by_ref().take_while(|next| !is_end(next)).collect();
                // What ended it is taken too; of the sequences, only two matter.
                let taken = written.len() - characters.as_str().len();
                match written[..taken].chars().next_back() {
                    Some('H') => {
                        let mut place = place.split(';').map(|number| number.parse().unwrap_or(1));
                        row = place.next().unwrap_or(1) - 1;
                        column = place.next().unwrap_or(1) - 1;
                    }
                    Some('J') => cells.clone_from(&blank),
                    _ => {}
                }
            }
            _ if character.is_control() => {}
            _ => {
                if let Some(cell) = cells.get_mut(row).and_then(|row| row.get_mut(column)) {
                    *cell = character;
                }
                column += 1;
            }
        }
    }
    let rows: Vec<String> = cells.iter().map(|row| row.iter().collect()).collect();
    rows.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}
