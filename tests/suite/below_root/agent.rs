//! A signal of root's goes to the agent and to nobody else, whatever a record says.

use std::process::{Child, Command};

use aya::maps::{Array, Map, MapData};
use balancer_common::record::GroupRecord;
use balancer_steering::process::Identity;
use harness::{Host, running::all_new};

/// Says in a group's record that another process is its agent.
fn forge(host: &Host, group: &str, agent: Identity) {
    let map = MapData::from_pin(host.pins(group).join("GROUP")).unwrap();
    let mut groups: Array<_, GroupRecord> = Array::try_from(Map::Array(map)).unwrap();
    let record = groups.get(&0, 0).unwrap();
    let forged = GroupRecord { agent_pid: agent.pid, agent_start: agent.start, ..record };
    groups.set(0, forged, 0).unwrap();
}

/// A process that SIGHUP would end.
struct Victim(Child);

impl Victim {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn identity(&self) -> Identity {
        Identity::of(self.0.id()).unwrap()
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_reload_asks_the_process_that_proves_to_be_the_agent_whatever_the_record_says() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "2"]);
        let before = host.workers(None);
        let mut victim = Victim::start();
        forge(host, "tcp-8080", victim.identity());
        let said = host.succeed(&["reload"]);
        assert!(said.contains(&format!("balancer PID {} replaces", running.pid())), "{said}");
        running.wait_for("(2 of 2 reloaded)");
        all_new(&before, &host.workers(None));
        assert!(victim.lives());
        running.stop();
    });
}

#[test]
fn without_an_agent_nobody_is_asked_though_the_record_names_somebody() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1"]);
        running.kill();
        let mut victim = Victim::start();
        forge(host, "tcp-8080", victim.identity());
        let refusal = host.fail(1, &["reload"]);
        assert!(refusal.contains("is gone; take it over first"), "{refusal}");
        assert!(victim.lives());
        forge(host, "tcp-8080", Identity { pid: 1 << 22, start: 1 });

        // The next agent proves it too.
        let running = host.run(&["--takeover"]);
        let said = host.succeed(&["reload"]);
        assert!(said.contains(&format!("balancer PID {} replaces", running.pid())), "{said}");
        running.stop();
    });
}

#[test]
fn nobody_becomes_the_agent_of_a_group_that_has_one() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1"]);
        // By the record it is gone.
        forge(host, "tcp-8080", Identity { pid: 1 << 22, start: 1 });
        let second = host.start(&["run", "--takeover"]).ended();
        assert!(second.stderr.contains("another process is its agent"), "{second:?}");
        running.stop();
    });
}
