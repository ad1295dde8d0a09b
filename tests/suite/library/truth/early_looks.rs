//! Rules of the firewall that look the listener up before the packet is delivered to it.

use std::process::Command;

use harness::nft;

/// Looks the listener of a TCP port up once for each of these matches, such as `transparent 0`.
pub fn look_up(port: u16, matches: &[&str]) {
    let rules: Vec<_> =
        matches.iter().map(|what| format!("tcp dport {port} socket {what} counter;")).collect();
    add(&rules.concat());
}

/// Looks listeners up that an ICMP error is about.
pub fn look_up_of_errors() {
    add("meta l4proto { icmp, icmpv6 } socket wildcard 0 counter;");
}

fn add(rules: &str) {
    nft(&format!(
        "table inet look {{ chain in {{ type filter hook prerouting priority mangle; {rules} }}; }}"
    ));
}

/// How many packets each rule has found a socket for.
pub fn found() -> Vec<u64> {
    let listed = Command::new("nft").args(["list", "table", "inet", "look"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let counts = listed.split("counter packets ").skip(1);
    counts.map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect()
}
