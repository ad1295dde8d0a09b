//! `cargo xtask VERB`: what building, testing and checking this workspace takes beyond plain cargo.

mod bench;
mod build_ebpf;
mod chaos;
mod ci;
mod command;
mod compare;
mod docs;
mod ebpf;
mod fuzz;
mod kernel;
mod release;
mod run;
mod tally;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Builds, runs and checks balancer.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Options),
    Compare(compare::Options),
    Test(test::Options),
    Bench(bench::Options),
    Chaos(chaos::Options),
    Soak(chaos::SoakOptions),
    Fuzz(fuzz::Options),
    BuildEbpf(build_ebpf::Options),
    Docs(docs::Options),
    Ci(ci::Options),
    Release(release::Options),
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = Workspace::find().and_then(|workspace| match options.verb {
        Verb::Run(options) => run::run(&workspace, &options),
        Verb::Compare(options) => compare::compare(&workspace, &options),
        Verb::Test(options) => test::test(&workspace, &options),
        Verb::Bench(options) => bench::bench(&workspace, &options),
        Verb::Chaos(options) => chaos::chaos(&workspace, &options),
        Verb::Soak(options) => chaos::soak(&workspace, &options),
        Verb::Fuzz(options) => fuzz::fuzz(&workspace, &options),
        Verb::BuildEbpf(options) => build_ebpf::build_ebpf(&workspace, &options),
        Verb::Docs(options) => docs::docs(&workspace, &options),
        Verb::Ci(options) => ci::ci(&workspace, &options),
        Verb::Release(options) => release::release(&workspace, &options),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
