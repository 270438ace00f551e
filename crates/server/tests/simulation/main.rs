//! The whole of one node (HTTP, commands, workers, database, clock) with partners, operator, upstream and network, in
//! one thread, from a number: time is fast-forwarded, nodes are stopped, killed and lose their power in the middle of
//! anything, answers get lost, and in the end every cent and every eSIM is accounted for.
//!
//!     SIMULATION=1234 cargo test -p server --test simulation one_run -- --nocapture     # tells that run

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy knows tests by their attribute, not what they share"
)]

mod clock;
mod dice;
mod disk;
mod node;
mod partners;
mod reckoning;
mod upstream;
mod world;

use clock::pause;
use disk::{Disk, End};
use std::collections::BTreeMap;
use std::sync::Arc;
use world::World;

/// What happened in a run, as one number, and how often what.
type Told = (u64, BTreeMap<&'static str, u64>);

/// What no portion of the runs may lack: a world in which nothing happens agrees with everything.
const MUST_HAPPEN: [&str; 11] = [
    "bought",
    "replayed",
    "not paid",
    "turned away",
    "delivered",
    "not delivered",
    "taken back",
    "decided by the operator",
    "stopped",
    "killed",
    "power lost",
];

/// Runs from one number.
fn run(seed: u64, told: bool) -> Result<Told, String> {
    let world = Arc::new(World::new(seed, told));
    let mut disk = Disk::first();
    for _ in 0..=world.dice.below(2) {
        let end = *world.dice.pick(&[End::Stopped, End::Killed, End::PowerLost]);
        disk = node::live(&world, disk, end, |caller, _| async move {
            for _ in 0..4 {
                tokio::spawn(caller.clone().live());
            }
            pause(1_000 + caller.world.dice.below(25_000)).await;
        });
    }
    world.calm_down();
    drop(node::live(&world, disk, End::Stopped, reckoning::reckon));
    let counts = world.counts.lock().unwrap().clone();
    world.fault().map_or_else(|| Ok((world.trace(), counts)), Err)
}

/// Runs from all numbers of `seeds`, one after the other.
fn run_all(seeds: std::ops::Range<u64>) {
    let mut happened: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds {
        match run(seed, false) {
            Ok((_, counts)) => counts.into_iter().for_each(|(what, times)| *happened.entry(what).or_insert(0) += times),
            Err(wrong) => panic!(
                "run {seed}: {wrong}\n\
                 SIMULATION={seed} cargo test -p server --test simulation one_run -- --nocapture tells all of it"
            ),
        }
    }
    println!("{happened:?}");
    for what in MUST_HAPPEN {
        assert!(happened.contains_key(what), "it never happened that something was {what}: {happened:?}");
    }
}

#[test]
fn one_run() {
    let seed = std::env::var("SIMULATION").ok().and_then(|seed| seed.parse().ok());
    if let Err(wrong) = run(seed.unwrap_or(0), seed.is_some()) {
        panic!("{wrong}");
    }
}

#[test]
fn a_run_repeats_from_its_number() {
    for seed in 0..25 {
        assert_eq!(run(seed, false), run(seed, false), "run {seed}");
    }
}

/// Two thousand runs, in portions for which several cores can be used.
macro_rules! portions {
    ($($name:ident: $portion:literal),+ $(,)?) => {$(
        #[test]
        fn $name() {
            run_all($portion * 250..($portion + 1) * 250);
        }
    )+};
}

portions! {
    the_books_agree_after_runs_0_to_249: 0,
    the_books_agree_after_runs_250_to_499: 1,
    the_books_agree_after_runs_500_to_749: 2,
    the_books_agree_after_runs_750_to_999: 3,
    the_books_agree_after_runs_1000_to_1249: 4,
    the_books_agree_after_runs_1250_to_1499: 5,
    the_books_agree_after_runs_1500_to_1749: 6,
    the_books_agree_after_runs_1750_to_1999: 7,
}
