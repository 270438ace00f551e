//! Several real processes over one PostgreSQL: they share jobs, keys, sessions and the sandbox's world; they are killed,
//! and cut off; and whatever was acknowledged is there exactly once.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "clippy knows tests by their attribute, not what they share"
)]

mod process;

use process::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use testing::{FreshDatabase, Proxy};

/// Nodes over one database, each with a folder of its own.
struct Cluster {
    database: FreshDatabase,
    folder: tempfile::TempDir,
    master_key: String,
    settings: Vec<(String, String)>,
}

impl Cluster {
    fn new(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        // A key of this run alone.
        let master_key = format!("{:064x}", std::process::id());
        Self { database: FreshDatabase::new(), folder: tempfile::tempdir().unwrap(), master_key, settings }
    }

    fn node(&self, number: usize) -> Esimd {
        self.node_at(number, &self.database.url())
    }

    fn node_at(&self, number: usize, url: &str) -> Esimd {
        let mut settings = vec![("ESIMD_DATABASE", url), ("ESIMD_MASTER_KEY", &self.master_key)];
        settings.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        Esimd::start_with(&self.folder.path().join(number.to_string()), &settings)
    }

    fn check_ledger(&self) {
        let (code, said) = run(&["ledger", "check"], &[("ESIMD_DATABASE", &self.database.url())]);
        assert_eq!(code, 0, "{said}");
    }
}

/// Three nodes under load, of which two at random are killed again and again.
async fn kill_two_of_three(seed: u64, rounds: u32, load: usize) {
    println!("seed {seed}");
    let mut random = Random(seed);
    let cluster = Cluster::new(&[]);
    // All at once, on an empty database: one makes the schema, the operator and the plans.
    let mut nodes: Vec<Option<Esimd>> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..3)
            .map(|number| {
                scope.spawn({
                    let cluster = &cluster;
                    move || cluster.node(number)
                })
            })
            .collect();
        starts.into_iter().map(|start| Some(start.join().unwrap())).collect()
    });
    let urls: Vec<String> = nodes.iter().flatten().map(|node| node.url.clone()).collect();
    let (token, plan) = partner(&urls[0]).await;
    let buyers = Buyers::start(urls, 12, Duration::ZERO, &token, &plan);
    for round in 1..=rounds {
        buyers.until(usize::try_from(round).unwrap() * load).await;
        let spared = random.index(3);
        for (number, node) in nodes.iter_mut().enumerate().filter(|(number, _)| *number != spared) {
            node.take().unwrap().kill();
            println!("round {round}: node {number} killed after {} orders", buyers.count());
        }
        // The one that is left serves alone for a while.
        let alone = buyers.count() + load / 2;
        buyers.until(alone).await;
        for (number, node) in nodes.iter_mut().enumerate().filter(|(_, node)| node.is_none()) {
            let started = cluster.node(number);
            buyers.move_node(number, &started.url);
            *node = Some(started);
        }
    }
    // The check reads beside the nodes, however they write.
    for _ in 0..3 {
        cluster.check_ledger();
    }
    let answered = buyers.stop().await;
    let urls: Vec<String> = nodes.iter().flatten().map(|node| node.url.clone()).collect();
    account_for(&urls, &token, &plan, &answered).await;
    println!("{} orders accounted for", answered.len());
    cluster.check_ledger();
    for node in nodes.into_iter().flatten() {
        let (status, took) = node.terminate();
        assert!(status.success() && took < Duration::from_secs(12), "{status} after {took:?}");
    }
    cluster.check_ledger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_nodes_are_killed_and_nothing_is_lost() {
    kill_two_of_three(11, 2, 60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: more than a minute under load"]
async fn two_of_three_nodes_are_killed_for_a_minute_and_nothing_is_lost() {
    let begun = Instant::now();
    let mut seed = u64::from(std::process::id());
    while begun.elapsed() < Duration::from_secs(60) {
        kill_two_of_three(seed, 5, 400).await;
        seed += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_made_final_on_one_node_wakes_its_waiter_on_another() {
    let cluster = Cluster::new(&[("ESIMD_SANDBOX_DELAY_MS", "300")]);
    let nodes = [cluster.node(0), cluster.node(1)];
    let (token, plan) = partner(&nodes[0].url).await;
    let mut late = Vec::new();
    for _ in 0..10 {
        let body = json!({"items": [{"planId": plan, "quantity": 1}]});
        let made = data(&nodes[0].url, CHECKOUT, &token, Some(&body)).await;
        let path = format!("/api/tenant/orders/{}?wait=30", made["orders"][0]["id"].as_str().unwrap());
        let waits = nodes.each_ref().map(|node| {
            let (url, path, token) = (node.url.clone(), path.clone(), token.clone());
            tokio::spawn(async move {
                let order = data(&url, &path, &token, None).await;
                (order, Instant::now())
            })
        });
        let mut woken = Vec::new();
        for wait in waits {
            let (order, at) = wait.await.unwrap();
            assert_eq!(order["order"]["status"], "completed", "{order}");
            woken.push(at);
        }
        woken.sort_unstable();
        late.push(woken[1] - woken[0]);
    }
    late.sort_unstable();
    println!("the other node's waiter is woken later by {late:?}");
    // Half the second after which it would have looked by itself.
    assert!(late[5] < Duration::from_millis(500), "{late:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_sessions_and_throttling_hold_across_nodes() {
    let cluster = Cluster::new(&[]);
    let nodes = [cluster.node(0), cluster.node(1)];
    let [one, other] = nodes.each_ref().map(|node| node.url.clone());
    let (token, plan) = partner(&one).await;

    // One key, both nodes at once: one purchase, one answer.
    for round in 0..10 {
        let key = format!("both-{round}");
        let body = json!({"items": [{"planId": plan, "quantity": 1}]});
        let (first, second) = tokio::join!(
            call(&one, CHECKOUT, &token, Some(&body), Some(&key)),
            call(&other, CHECKOUT, &token, Some(&body), Some(&key)),
        );
        assert_eq!(first.unwrap(), second.unwrap());
    }
    let balance = data(&other, "/api/tenant/balance", &token, None).await;
    assert_eq!(balance["creditBalance"].to_string(), "39955");

    // A key that is revoked on one node ends on the other.
    let made =
        data(&one, "/api/tenant/api-keys", &token, Some(&json!({"name": "k", "mode": "live", "scopes": ["read"]})))
            .await;
    let (secret, id) =
        (made["apiKey"]["secret"].as_str().unwrap().to_owned(), made["apiKey"]["id"].as_str().unwrap().to_owned());
    assert_eq!(call(&other, "/api/tenant/balance", &secret, None, None).await.unwrap().0, 200);
    let path = format!("{one}/api/tenant/api-keys/{id}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(client.delete(&path).bearer_auth(&token).send().await.unwrap().status().is_success());
    let begun = Instant::now();
    while call(&other, "/api/tenant/balance", &secret, None, None).await.unwrap().0 != 401 {
        assert!(begun.elapsed() < Duration::from_secs(3), "a revoked key is believed for two seconds at most");
    }

    // Wrong guesses are counted together.
    let guess = json!({"email": "crash@partner.example", "password": "not the right one"});
    let mut refusals = Vec::new();
    for round in 0..40 {
        let url = if round % 2 == 0 { &one } else { &other };
        refusals.push(call(url, "/api/tenant/login", "", Some(&guess), None).await.unwrap().0);
    }
    let first = refusals.iter().position(|status| *status == 429).expect("too many guesses");
    assert!(refusals[first..].iter().all(|status| *status == 429), "{refusals:?}");
    assert!(first < 20, "{refusals:?}");

    // New keys, made beside the nodes: what one signs, the other believes.
    let settings = [("ESIMD_DATABASE", cluster.database.url()), ("ESIMD_MASTER_KEY", cluster.master_key.clone())];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (code, said) = run(&["keys", "rotate"], &settings);
    assert_eq!(code, 0, "{said}");
    let third = cluster.node(2);
    let operator = login(&third.url, "operator", EMAIL).await;
    let begun = Instant::now();
    while call(&one, "/api/operator/orders", &operator, None, None).await.unwrap().0 != 200 {
        assert!(begun.elapsed() < Duration::from_secs(5), "a node looks for new keys every second");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_nothing_is_acknowledged_and_afterwards_all_goes_on() {
    let cluster =
        Cluster::new(&[("ESIMD_POSTGRES_STATEMENT_TIMEOUT_MS", "1000"), ("ESIMD_POSTGRES_CONNECT_TIMEOUT_MS", "500")]);
    let url = cluster.database.url();
    let (server, name) = url.strip_prefix("postgres://postgres@").unwrap().split_once('/').unwrap();
    let proxy = Proxy::to(server);
    let node = cluster.node_at(0, &format!("postgres://postgres@{}/{name}", proxy.address()));
    let (token, plan) = partner(&node.url).await;
    let body = json!({"items": [{"planId": plan, "quantity": 1}]});
    let mut acknowledged = 0_u64;
    for fault in [Proxy::cut, Proxy::swallow] {
        assert_eq!(call(&node.url, CHECKOUT, &token, Some(&body), None).await.unwrap().0, 201);
        acknowledged += 1;
        fault(&proxy);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let refused = client
            .post(format!("{}{CHECKOUT}", node.url))
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(refused.status().as_u16(), 503);
        assert!(refused.headers().contains_key("retry-after"));
        assert_eq!(client.get(format!("{}/readyz", node.url)).send().await.unwrap().status().as_u16(), 503);
        assert_eq!(client.get(format!("{}/healthz", node.url)).send().await.unwrap().status().as_u16(), 200);
        proxy.mend();
        let begun = Instant::now();
        while call(&node.url, "/readyz", "", None, None).await.unwrap().0 != 200
            || call(&node.url, CHECKOUT, &token, Some(&body), None).await.unwrap().0 != 201
        {
            assert!(begun.elapsed() < Duration::from_secs(30), "it recovers by itself");
        }
        acknowledged += 1;
    }
    let found = orders_of(&node.url, &token).await;
    assert_eq!(u64::try_from(found.len()).unwrap(), acknowledged);
    cluster.check_ledger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_takes_connections_and_says_nothing_keeps_nobody_from_the_next() {
    let cluster = Cluster::new(&[("ESIMD_POSTGRES_CONNECT_TIMEOUT_MS", "500")]);
    let url = cluster.database.url();
    let (server, name) = url.strip_prefix("postgres://postgres@").unwrap().split_once('/').unwrap();
    let silent = Proxy::to(server);
    silent.swallow();
    let node = cluster.node_at(0, &format!("postgres://postgres@{},{server}/{name}", silent.address()));
    let (token, plan) = partner(&node.url).await;
    let body = json!({"items": [{"planId": plan, "quantity": 1}]});
    assert_eq!(call(&node.url, CHECKOUT, &token, Some(&body), None).await.unwrap().0, 201);
}

async fn orders_of(url: &str, token: &str) -> Vec<Value> {
    data(url, "/api/tenant/orders?limit=1000", token, None).await["orders"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_that_only_adds_is_worked_with_and_one_that_takes_away_is_not() {
    let cluster = Cluster::new(&[]);
    let node = cluster.node(0);
    let (token, plan) = partner(&node.url).await;
    let body = json!({"items": [{"planId": plan, "quantity": 1}]});
    // As the next version would: expand, and say that programs of this one may go on.
    cluster.database.run(&[
        "alter table orders add column note text; create table notes (id bytea primary key)",
        "update schema_version set version = version + 1",
    ]);
    assert_eq!(call(&node.url, CHECKOUT, &token, Some(&body), None).await.unwrap().0, 201);
    // Started again, and beside it another one.
    let other = cluster.node(1);
    assert_eq!(call(&other.url, CHECKOUT, &token, Some(&body), None).await.unwrap().0, 201);
    cluster.database.run(&["update schema_version set oldest = version"]);
    let (code, said) = run(&["serve"], &[("ESIMD_DATABASE", &cluster.database.url()), ("ESIMD_LISTEN", "127.0.0.1:0")]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("start a newer esimd") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_database_that_cannot_be_used_is_told_in_one_line() {
    let database = FreshDatabase::new();
    let replica = FreshDatabase::new();
    replica.run(&["do $$ begin execute 'alter database ' || current_database() || ' set default_transaction_read_only = on'; end $$"]);
    let guarded = FreshDatabase::new();
    guarded.run(&["do $$ begin if not exists (select 1 from pg_roles where rolname = 'needs_password') then create role needs_password login password 'right'; end if; exception when duplicate_object or unique_violation then null; end $$"]);
    let free_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wrong = guarded.url().replace("postgres@", "needs_password:hush@");
    let cases = [
        ("postgres://u:hush@localhost:notaport/name".to_owned(), "malformed"),
        ("postgres://u:hush@localhost/name?sslmode=perhaps".to_owned(), "malformed"),
        ("mysql://u:hush@localhost/name".to_owned(), "postgres://"),
        (format!("postgres://u:hush@{free_port}/name"), "refused"),
        ("postgres://u:hush@no-such-host.invalid/name".to_owned(), "no-such-host"),
        (format!("{}_missing", database.url()), "does not exist"),
        (wrong, "password authentication failed"),
        (replica.url(), "can only be read"),
    ];
    for (url, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().display().to_string();
        for command in ["serve", "ledger check"] {
            let args: Vec<&str> = command.split(' ').collect();
            let settings = [
                ("ESIMD_DATABASE", url.as_str()),
                ("ESIMD_LISTEN", "127.0.0.1:0"),
                ("ESIMD_DATA_DIR", &data_dir),
                ("ESIMD_LOG", "error"),
            ];
            let (code, said) = run(&args, &settings);
            assert_eq!(code, 2, "{url}: {said}");
            assert_eq!(said.trim_end().lines().count(), 1, "{said}");
            assert!(said.contains(expected) && !said.contains("hush"), "{url}: {said}");
        }
    }
    let (code, said) = run(&["ledger", "check"], &[("ESIMD_DATABASE", &database.url())]);
    assert!(code == 2 && said.contains("esimd serve"), "{said}");
}
