//! What is true of steering itself, seen through the library: programs, tables, counts.

mod arrows;
mod churn;
mod cpu;
mod eras;
mod flows;
mod kernel_cases;
mod load;
mod object;
mod pins;
mod policies;
mod programs;
mod requests;
mod server;
mod slow_start;
mod sticky;
mod truth;
mod verified;
mod waking;
