//! Everything goes wrong, under load: workers and balancer itself are killed, stopped, replaced, while
//! policies and weights change. Every request is accounted for; the same is done to workers under the
//! plain kernel hash. `cargo xtask chaos` builds and starts this.
//!
//! | step | module |
//! | --- | --- |
//! | what is done (pure) | `deck` |
//! | to whom | `world`, `fleet`, `victim` |
//! | the load | `traffic`, `client` |
//! | doing it | `scene` |
//! | what became of each request (pure) | `ledger` |
//! | figures of it | `account`, `report` |
//! | and of balancer itself | `soak` |

#![allow(clippy::expect_used, reason = "what cannot go on has failed")]

mod account;
mod client;
mod deck;
mod fleet;
mod ledger;
mod report;
mod scene;
mod soak;
mod traffic;
mod victim;
mod world;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::mpsc::channel,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum as _};
use harness::Host;

use crate::{
    account::Account,
    deck::{Deck, Fault},
    scene::Scene,
    soak::Sample,
    traffic::{Rate, Traffic},
    world::{Kind, World, address},
};

/// Kill, stop, replace and switch under load, and account for every request
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cargo xtask chaos",
    after_help = "Examples:
  cargo xtask chaos --minutes 1
  cargo xtask chaos --seed 7 --minutes 10 --only run
  cargo xtask chaos --decks 10 --release     1,000 switches, 100 reloads, 100 kills, 50 of balancer

Requests are lost rightly only if a worker had accepted their connection when it was killed. Where
balancer loses any other, the exit code is 1."
)]
struct Options {
    /// Draws what is done, in which order and to whom
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// How long all of it may take
    #[arg(long, value_name = "MINUTES", default_value_t = 1.0)]
    minutes: f64,

    /// Until so many decks of faults are through, however long that takes
    #[arg(long, value_name = "N")]
    decks: Option<usize>,

    /// Only these [default: all, one after another]
    #[arg(long, value_name = "WORLD,…", value_delimiter = ',')]
    only: Vec<Kind>,

    /// Only these of the faults, such as kill,reload
    #[arg(long, value_name = "FAULT,…", value_delimiter = ',')]
    faults: Vec<Fault>,

    /// Reloads with nothing else going on, before: to compare how long requests take
    #[arg(long, value_name = "N", default_value_t = 2)]
    reloads: usize,

    /// Requests a second, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 300)]
    rate: u32,

    /// Clients that keep their connection
    #[arg(long, value_name = "N", default_value_t = 8)]
    keepers: u32,

    /// Spare balancer itself, and watch its memory and descriptors
    #[arg(long, conflicts_with_all = ["only", "json"])]
    soak: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    if let [_, verb, address] = env::args().collect::<Vec<_>>().as_slice()
        && verb == fleet::SERVE
    {
        eprintln!("{}", fleet::serve(address));
        return ExitCode::FAILURE;
    }
    let options = Options::parse();
    let kinds = match options.only.as_slice() {
        [] if options.soak => &[Kind::Run],
        [] => Kind::value_variants(),
        only => only,
    };
    let share = Duration::from_secs_f64(options.minutes * 60.0 / kinds.len() as f64);
    let mut accounts = Vec::new();
    for &kind in kinds {
        match catch_unwind(AssertUnwindSafe(|| live_through(kind, share, &options))) {
            Ok(account) => accounts.push(account),
            // The panic has said what.
            Err(_) => {
                eprintln!("{kind}: broke off; again: cargo xtask chaos --seed {}", options.seed);
                return ExitCode::FAILURE;
            }
        }
    }
    if options.json {
        println!("{:#}", report::json(options.seed, &accounts));
    } else {
        println!("{}", report::text(&accounts));
    }
    if accounts.iter().all(Account::holds) {
        return ExitCode::SUCCESS;
    }
    eprintln!("that must not be; again: cargo xtask chaos --seed {}", options.seed);
    ExitCode::FAILURE
}

/// On a host of its own.
fn live_through(kind: Kind, share: Duration, options: &Options) -> Account {
    let (sender, account) = channel();
    let options = options.clone();
    Host::with(move |host| {
        let _ = sender.send(live(host, kind, share, &options));
    });
    account.recv().expect("an account")
}

fn live(host: &Host, kind: Kind, share: Duration, options: &Options) -> Account {
    let rate = Rate { alone: options.rate, keepers: options.keepers, each: 10 };
    let begun = Instant::now();
    let world = World::start(host, kind);
    let mut scene = Scene::new(world, Traffic::start(address(), rate));
    scene.calm(options.reloads);
    let mut deck = Deck::new(options.seed);
    let mut samples = Vec::new();
    let (mut decks, mut shown) = (0, Instant::now());
    while options.decks.map_or_else(|| begun.elapsed() < share, |most| decks < most) {
        let (fault, chance, last) = deck.draw();
        decks += usize::from(last);
        let wanted = options.faults.is_empty() || options.faults.contains(&fault);
        if wanted && !(options.soak && fault.concerns_balancer()) {
            scene.inflict(fault, chance);
        }
        samples.extend(
            options
                .soak
                .then(|| scene.world.agent())
                .flatten()
                .and_then(|agent| Sample::of(agent, begun)),
        );
        if shown.elapsed() > Duration::from_secs(5) {
            shown = Instant::now();
            let count: usize = scene.history.faults.values().sum();
            eprintln!("{kind}: {:.0} s, {count} faults", begun.elapsed().as_secs_f64());
        }
    }
    scene.settle();
    let Scene { world, traffic, history, .. } = scene;
    let asked = traffic.end();
    let misses = world.misses();
    world.end();
    if options.soak {
        println!("{}", soak::text(&samples));
    }
    let flat = !options.soak || soak::is_flat(&samples);
    Account::of(kind, begun.elapsed(), &asked, history, misses, flat)
}
