//! The load: connections that each send one request after the other, for a while, for random tenants.

use crate::Outcome;
use crate::connection::Connection;
use crate::figures::{Latencies, micros, per_second};
use crate::random::Random;
use crate::request::{self, Target};
use crate::server_process::ServerProcess;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How much load, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Tenants the requests are spread over.
    pub tenants: u32,
    /// Connections.
    pub connections: u32,
    /// How long requests are begun.
    pub duration: Duration,
    /// Seed of tenants and keys.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Measured {
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Of every answer.
    pub latencies: Latencies,
    answers: u32,
    statuses: BTreeMap<u16, u32>,
    lost: Vec<String>,
}

#[derive(Debug, Default)]
struct Tally {
    micros: Vec<u32>,
    statuses: BTreeMap<u16, u32>,
    lost: Option<String>,
}

impl Measured {
    /// Answers per second.
    pub fn rate(&self) -> f64 {
        per_second(self.answers, self.elapsed)
    }

    /// Answers with this status.
    pub fn count(&self, status: u16) -> u32 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// How many answers had which status.
    pub fn by_status(&self) -> String {
        let counts = self.statuses.iter().map(|(status, count)| format!("{status}: {count}"));
        counts.collect::<Vec<_>>().join(", ")
    }

    /// What should not have happened.
    pub fn faults(&self, expected: u16) -> Vec<String> {
        let unexpected = self.statuses.iter().filter(|(status, _)| **status != expected);
        let unexpected = unexpected.map(|(status, count)| format!("{count} answers with status {status}"));
        unexpected.chain(self.lost.iter().cloned()).collect()
    }
}

/// Drives the server.
pub async fn run(plan: &Plan, server: &ServerProcess, target: Target) -> Outcome<Measured> {
    let keys: Arc<[String]> = server.api_keys_of(plan.tenants).into();
    let salt = if target == Target::Empty { 0x00E0 } else { 0x00C0 };
    let mut seeds = Random(
        plan.seed ^ salt ^ u64::try_from(plan.duration.as_millis()).unwrap_or(0) ^ (u64::from(plan.tenants) << 32),
    );
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    let end = begun + plan.duration;
    for _ in 0..plan.connections {
        let (keys, random) = (Arc::clone(&keys), Random(seeds.next()));
        clients.spawn(client(server.address(), target, server.plan().to_owned(), keys, random, end));
    }
    let mut all = Tally::default();
    let mut lost = Vec::new();
    while let Some(tally) = clients.join_next().await {
        let tally = tally?;
        all.micros.extend(tally.micros);
        for (status, count) in tally.statuses {
            *all.statuses.entry(status).or_default() += count;
        }
        lost.extend(tally.lost);
    }
    let answers = all.statuses.values().sum();
    let elapsed = begun.elapsed();
    Ok(Measured { elapsed, latencies: Latencies::new(all.micros), answers, statuses: all.statuses, lost })
}

async fn client(
    address: SocketAddr,
    target: Target,
    plan: String,
    keys: Arc<[String]>,
    mut random: Random,
    end: Instant,
) -> Tally {
    let mut tally = Tally::default();
    tally.lost = requests(&mut tally, address, target, &plan, &keys, &mut random, end)
        .await
        .err()
        .map(|error| error.to_string());
    tally
}

async fn requests(
    tally: &mut Tally,
    address: SocketAddr,
    target: Target,
    plan: &str,
    keys: &[String],
    random: &mut Random,
    end: Instant,
) -> Outcome<()> {
    let mut connection = Connection::open(address).await?;
    let mut bytes = Vec::with_capacity(1_024);
    let mut begun = Instant::now();
    while begun < end {
        let Some(key) = random.one_of(keys) else { return Err("there are no tenants".into()) };
        request::write(&mut bytes, target, plan, key, random);
        let status = connection.ask(&bytes).await?.status;
        let answered = Instant::now();
        tally.micros.push(micros(answered - begun));
        *tally.statuses.entry(status).or_default() += 1;
        begun = answered;
    }
    Ok(())
}
