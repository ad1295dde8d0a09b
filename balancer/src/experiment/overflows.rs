//! Connections that the kernel refused because a listener's queue was full: a count of the whole network
//! namespace (`ListenOverflows` of `/proc/PID/net/netstat`), which nobody keeps for each socket.

use std::fs;

/// By now, in the network namespace of a process; `None` if that cannot be read.
pub fn of(pid: u32) -> Option<u64> {
    parse(&fs::read_to_string(format!("/proc/{pid}/net/netstat")).ok()?)
}

/// A line of names is followed by one of values, each with the same prefix.
fn parse(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|name| name == "ListenOverflows")?;
    values.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_below_the_name_is_read() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 23 24\nIpExt: A\nIpExt: 9\n";
        assert_eq!(parse(text), Some(23));
        assert_eq!(parse("TcpExt: A\nTcpExt: 1\n"), None);
        assert_eq!(parse(""), None);
    }
}
