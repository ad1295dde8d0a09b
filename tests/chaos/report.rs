//! What all worlds came to, side by side: a table, or JSON.

use std::{collections::BTreeSet, time::Duration};

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::{account::Account, deck::FAULTS, ledger::Fate};

/// As a table, a column each.
pub fn text(accounts: &[Account]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let row = |name: String, of: &dyn Fn(&Account) -> String| {
        let cells = accounts.iter().map(|a| Cell::new(of(a)).set_alignment(CellAlignment::Right));
        std::iter::once(Cell::new(name)).chain(cells).collect::<Vec<_>>()
    };
    let count = |name: &str, of: &dyn Fn(&Account) -> usize| {
        row(name.to_owned(), &|account| of(account).to_string())
    };
    table.set_header(row(String::new(), &|account| account.kind.to_string()));
    for (fault, _, name) in FAULTS {
        table.add_row(count(name, &|a| a.faults.get(&fault).copied().unwrap_or_default()));
    }
    table.add_row(count("reloads cut short by another fault", &|a| a.cut_short.values().sum()));
    table.add_row(count("in queues of killed workers", &|a| a.queued));
    table.add_row(row(String::new(), &|_| String::new()));
    table.add_row(count("connections made", &|a| a.connections));
    table.add_row(count("requests", &|a| a.requests));
    table.add_row(count("  served", &|a| a.fate(Fate::Served)));
    table.add_row(count("  served at the second attempt", &|a| a.fate(Fate::ServedAgain)));
    table.add_row(count("  accepted by a killed worker", &|a| a.fate(Fate::WithKilledWorker)));
    table.add_row(count("  came the moment a listener closed", &|a| a.fate(Fate::AtDeath)));
    let causes: BTreeSet<Fate> = accounts.iter().flat_map(|a| a.fates.keys().copied()).collect();
    for fate in causes {
        if let Fate::Lost(how) = fate {
            table.add_row(count(&format!("  LOST: {how}"), &|a| a.fate(fate)));
        }
    }
    table.add_row(count("  lost without a cause", &Account::lost));
    table.add_row(row("left to the kernel's hash".to_owned(), &|a| {
        a.misses.map(|(fallback, _)| fallback.to_string()).unwrap_or_default()
    }));
    table.add_row(row("p99 without a reload".to_owned(), &|a| millis(a.p99[0])));
    table.add_row(row("p99 during a reload".to_owned(), &|a| millis(a.p99[1])));
    table.add_row(row("  ratio".to_owned(), &|a| {
        ratio(a).map(|ratio| format!("{ratio:.2}")).unwrap_or_default()
    }));
    table.add_row(row("took".to_owned(), &|a| format!("{:.0} s", a.took.as_secs_f64())));
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    let mut lines: Vec<String> = lines.collect();
    for account in accounts {
        for (why, count) in &account.cut_short {
            lines.push(format!("{}: {count} × reload cut short: {why}", account.kind));
        }
        lines.extend(account.lost_how.iter().map(|how| format!("{}: lost: {how}", account.kind)));
        lines.extend(account.refused.iter().map(|why| format!("{}: REFUSED {why}", account.kind)));
    }
    if accounts.iter().any(|account| !account.flat) {
        lines.push("balancer itself takes more and more memory or descriptors".to_owned());
    }
    lines.join("\n")
}

fn millis(time: Option<Duration>) -> String {
    time.map(|time| format!("{:.2} ms", time.as_secs_f64() * 1000.0)).unwrap_or_default()
}

fn ratio(account: &Account) -> Option<f64> {
    let [calm, reload] = account.p99;
    Some(reload?.as_secs_f64() / calm?.as_secs_f64())
}

/// For programs.
pub fn json(seed: u64, accounts: &[Account]) -> Value {
    let world = |account: &Account| {
        let lost = account.fates.iter().filter_map(|(fate, count)| match fate {
            Fate::Lost(how) => Some(((*how).to_owned(), Value::from(*count))),
            _ => None,
        });
        let faults =
            account.faults.iter().map(|(fault, count)| (fault.to_string(), (*count).into()));
        json!({
            "world": account.kind.to_string(),
            "seconds": account.took.as_secs_f64(),
            "faults": faults.collect::<serde_json::Map<_, _>>(),
            "reloads_cut_short": account.cut_short,
            "queued_at_killed": account.queued,
            "connections": account.connections,
            "requests": account.requests,
            "served": account.fate(Fate::Served),
            "served_at_second_attempt": account.fate(Fate::ServedAgain),
            "accepted_by_killed": account.fate(Fate::WithKilledWorker),
            "at_death": account.fate(Fate::AtDeath),
            "lost": lost.collect::<serde_json::Map<_, _>>(),
            "fallback": account.misses.map(|(fallback, _)| fallback),
            "p99_us": account.p99.map(|p99| p99.map(|time| time.as_micros())),
        })
    };
    json!({ "seed": seed, "worlds": accounts.iter().map(world).collect::<Vec<_>>() })
}
