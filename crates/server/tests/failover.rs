//! The primary of two PostgreSQL servers is lost, again and again, while orders come in, and its standby takes over: with
//! a synchronous standby, every order that was acknowledged is there afterwards, once; with an asynchronous one, some
//! are not, which shows that this would be seen. The servers are made by `scripts/postgres`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "clippy knows tests by their attribute, not what they share"
)]

mod process;

use process::*;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use testing::Proxy;

/// One server of PostgreSQL, in a folder of its own; it ends with this.
struct Server {
    folder: tempfile::TempDir,
    address: String,
}

/// Nothing that is acknowledged is lost with its machine. And nothing is left outside the folder by one that is killed.
const SETTINGS: [&str; 3] = ["fsync=on", "dynamic_shared_memory_type=mmap", "wal_keep_size=1GB"];

impl Server {
    fn primary() -> Self {
        Self::new("start", &[])
    }

    /// One that follows the server at this address.
    fn standby(address: &str) -> Self {
        Self::new("standby", &[address])
    }

    fn new(command: &str, args: &[&str]) -> Self {
        let mut server = Self { folder: tempfile::tempdir().unwrap(), address: String::new() };
        server.address = server.run(command, &[args, &SETTINGS].concat()).trim().to_owned();
        server
    }

    fn run(&self, command: &str, args: &[&str]) -> String {
        let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/postgres"))
            .arg(command)
            .arg(self.folder.path())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn host(&self) -> &str {
        self.address.split_once('@').unwrap().1
    }

    fn one(&self, query: &str) -> Option<String> {
        testing::rows(&format!("{}/postgres", self.address), query).into_iter().flatten().next().flatten()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that fails has something else to say.
        let _ = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/postgres"))
            .arg("stop")
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .output();
    }
}

/// How a primary is lost.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Killed,
    StoppedAtOnce,
    StoppedInOrder,
    /// The nodes do not reach it any more, and are told so; it is ended before another one takes over.
    CutOff,
    /// The nodes do not reach it any more, and nobody is told.
    Silent,
}

const FAULTS: [Fault; 5] = [Fault::Killed, Fault::StoppedAtOnce, Fault::StoppedInOrder, Fault::CutOff, Fault::Silent];

/// Two servers, each behind a proxy through which the nodes reach it.
struct Pair {
    servers: [Server; 2],
    proxies: [Proxy; 2],
    /// Between the standby and its primary.
    between: Proxy,
    primary: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Replication {
    Synchronous,
    Asynchronous,
}

impl Pair {
    async fn new(replication: Replication) -> Self {
        let primary = Server::primary();
        assert_eq!(primary.one("create database esimd"), None);
        let between = Proxy::to(primary.host());
        let standby = Server::standby(&format!("postgres://postgres@{}", between.address()));
        let proxies = [Proxy::to(primary.host()), Proxy::to(standby.host())];
        let pair = Self { servers: [primary, standby], proxies, between, primary: 0 };
        if replication == Replication::Synchronous {
            pair.wait_for_standby().await;
        }
        pair
    }

    fn primary(&self) -> &Server {
        &self.servers[self.primary]
    }

    fn url(&self) -> String {
        format!("postgres://postgres@{},{}/esimd", self.proxies[0].address(), self.proxies[1].address())
    }

    /// From here on, a commit waits for the standby.
    async fn wait_for_standby(&self) {
        self.primary().run("set", &["synchronous_standby_names=standby", "synchronous_commit=on"]);
        let begun = Instant::now();
        let state = "select sync_state from pg_stat_replication where application_name = 'standby'";
        while self.primary().one(state).as_deref() != Some("sync") {
            assert!(begun.elapsed() < Duration::from_secs(30), "the standby follows");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The primary is lost.
    async fn lose(&self, fault: Fault, nodes: &[Esimd]) {
        let proxy = &self.proxies[self.primary];
        match fault {
            Fault::Killed => drop(self.primary().run("kill", &[])),
            Fault::StoppedAtOnce => drop(self.primary().run("halt", &["immediate"])),
            Fault::StoppedInOrder => drop(self.primary().run("halt", &["fast"])),
            Fault::CutOff | Fault::Silent => {
                if matches!(fault, Fault::CutOff) {
                    proxy.cut()
                } else {
                    proxy.swallow()
                }
                // It is still the primary, and whoever decides about that believes the nodes.
                until_noticed(nodes).await;
                self.primary().run("kill", &[]);
            }
        }
    }

    /// The standby takes over.
    fn promote(&mut self) {
        self.primary = 1 - self.primary;
        self.primary().run("promote", &[]);
    }

    /// In place of the lost one, a new standby follows.
    async fn replace(&mut self) {
        let lost = 1 - self.primary;
        self.between.turn_to(self.primary().host());
        self.servers[lost] = Server::standby(&format!("postgres://postgres@{}", self.between.address()));
        self.proxies[lost].turn_to(self.servers[lost].host());
        self.proxies[lost].mend();
        self.wait_for_standby().await;
    }
}

/// Until every node says that it cannot serve.
async fn until_noticed(nodes: &[Esimd]) {
    let begun = Instant::now();
    for node in nodes {
        while call(&node.url, "/readyz", "", None, None).await.unwrap().0 != 503 {
            assert!(begun.elapsed() < Duration::from_secs(30), "a node notices that it has no database");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Two nodes over a pair of servers, each with a folder of its own.
fn start_nodes(folder: &std::path::Path, pair: &Pair) -> Vec<Esimd> {
    // A key of this run alone.
    let (url, master_key) = (pair.url(), format!("{:064x}", std::process::id()));
    let log = std::env::var("ESIMD_LOG").unwrap_or_else(|_| "off".to_owned());
    let settings = [
        ("ESIMD_DATABASE", url.as_str()),
        ("ESIMD_MASTER_KEY", &master_key),
        ("ESIMD_POSTGRES_STATEMENT_TIMEOUT_MS", "2000"),
        ("ESIMD_POSTGRES_CONNECT_TIMEOUT_MS", "500"),
        ("ESIMD_POSTGRES_LOCK_TIMEOUT_MS", "1000"),
        // They say of every request that the database is away.
        ("ESIMD_LOG", &log),
    ];
    (0..2).map(|number| Esimd::start_with(&folder.join(number.to_string()), &settings)).collect()
}

/// How many of those that were acknowledged are missing, and how many references have more than one order.
async fn missing_and_doubled(url: &str, token: &str, answered: &Answered) -> (usize, usize) {
    let found = orders(url, token).await;
    let missing = answered.keys().filter(|key| !found.contains_key(*key)).count();
    (missing, found.values().filter(|orders| orders.len() > 1).count())
}

const BUYERS: usize = 12;
/// Ten failovers of buyers without rest would buy more than the partner can pay.
const REST: Duration = Duration::from_millis(200);
/// Orders before a fault, and after it.
const LOAD: usize = 100;
const LONGEST_OUTAGE: Duration = Duration::from_secs(30);

/// Loses the primary in each of these ways, under load, and accounts for every order each time.
async fn fail_over(faults: &[Fault], random: &mut Random) {
    let mut pair = Pair::new(Replication::Synchronous).await;
    let folder = tempfile::tempdir().unwrap();
    let nodes = start_nodes(folder.path(), &pair);
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    let (token, plan) = partner(&urls[0]).await;
    let buyers = Buyers::start(urls.clone(), BUYERS, REST, &token, &plan);
    let mut outages = Vec::new();
    for (round, fault) in faults.iter().enumerate() {
        if round > 0 {
            pair.replace().await;
        }
        buyers.until(buyers.count() + LOAD).await;
        let (lost_at, before) = (Instant::now(), buyers.count());
        pair.lose(*fault, &nodes).await;
        // Sometimes nobody notices before the nodes do.
        let late = random.below(2) == 1;
        if late {
            until_noticed(&nodes).await;
        }
        pair.promote();
        let promoted = lost_at.elapsed();
        buyers.until(buyers.count() + LOAD).await;
        let outage = buyers.longest_silence_since(lost_at);
        let answered = buyers.answered();
        let (missing, doubled) = missing_and_doubled(&urls[round % urls.len()], &token, &answered).await;
        println!(
            "fault {}: {fault:?} after {before} orders; the standby took over after {promoted:.1?}{}; nothing sold for \
             {outage:.1?}; of {} acknowledged, missing {missing}, doubled {doubled}",
            round + 1,
            if late { ", noticed late" } else { "" },
            answered.len(),
        );
        assert_eq!((missing, doubled), (0, 0));
        assert!(outage < LONGEST_OUTAGE, "{outage:?}");
        outages.push(outage);
    }
    let answered = buyers.stop().await;
    account_for(&urls, &token, &plan, &answered).await;
    let (code, said) = run(&["ledger", "check"], &[("ESIMD_DATABASE", &pair.url())]);
    assert_eq!(code, 0, "{said}");
    println!("{} orders accounted for; the longest outage was {:.1?}", answered.len(), outages.iter().max().unwrap());
    for node in nodes {
        let (status, took) = node.terminate();
        assert!(status.success() && took < Duration::from_secs(12), "{status} after {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_killed_and_its_synchronous_standby_has_everything() {
    fail_over(&[Fault::Killed], &mut Random(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: ten failovers under load"]
async fn ten_primaries_are_lost_in_every_way_and_their_synchronous_standbys_have_everything() {
    let seed = std::env::var("FAILOVER_SEED").ok().map_or(u64::from(std::process::id()), |seed| seed.parse().unwrap());
    println!("seed {seed} (FAILOVER_SEED)");
    let mut random = Random(seed);
    let mut faults = [FAULTS, FAULTS].concat();
    random.shuffle(&mut faults);
    fail_over(&faults, &mut random).await;
}

/// What the other tests would say if something were lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asynchronous_standby_that_lags_behind_loses_orders_and_that_is_seen() {
    let mut pair = Pair::new(Replication::Asynchronous).await;
    let folder = tempfile::tempdir().unwrap();
    let nodes = start_nodes(folder.path(), &pair);
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    let (token, plan) = partner(&urls[0]).await;
    let buyers = Buyers::start(urls.clone(), BUYERS, REST, &token, &plan);
    buyers.until(LOAD).await;
    pair.between.swallow();
    buyers.until(buyers.count() + LOAD).await;
    pair.lose(Fault::Killed, &nodes).await;
    let answered = buyers.stop().await;
    pair.promote();
    let (missing, doubled) = missing_and_doubled(&urls[0], &token, &answered).await;
    println!("of {} acknowledged, missing {missing}, doubled {doubled}", answered.len());
    assert!(missing >= LOAD / 2, "{missing} of {}", answered.len());
    assert_eq!(doubled, 0);
}
