//! What survives `kill -9`: a real process, killed under load again and again. Every order that was
//! acknowledged is there exactly once, every key gets its first answer again, every order is sold once.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy knows tests by their attribute, not what they share"
)]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const EMAIL: &str = "operator@example.com";

/// A process of the platform with its own folder.
struct Esimd {
    child: Child,
    url: String,
}

fn password() -> String {
    format!("crash-{:08x}", std::process::id())
}

impl Esimd {
    fn start(data_dir: &Path, delay_ms: u32) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_esimd"))
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .env("ESIMD_OPERATOR_EMAIL", EMAIL)
            .env("ESIMD_OPERATOR_PASSWORD", password())
            .env("ESIMD_SANDBOX_DELAY_MS", delay_ms.to_string())
            .env("ESIMD_RATE_LIMIT", "off")
            .env("ESIMD_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().expect("a first line").unwrap();
        let url = first.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
        // Nobody may be blocked by a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn terminate(mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        (self.child.wait().unwrap(), begun.elapsed())
    }
}

async fn call(url: &str, path: &str, token: &str, body: Option<&Value>, key: Option<&str>) -> Option<(u16, Vec<u8>)> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = match body {
        Some(body) => {
            client.post(format!("{url}{path}")).header("content-type", "application/json").body(body.to_string())
        }
        None => client.get(format!("{url}{path}")),
    };
    if !token.is_empty() {
        request = request.bearer_auth(token);
    }
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    Some((status, response.bytes().await.ok()?.to_vec()))
}

async fn data(url: &str, path: &str, token: &str, body: Option<&Value>) -> Value {
    let (status, bytes) = call(url, path, token, body, None).await.expect("an answer");
    let json: Value = serde_json::from_slice(&bytes).unwrap();
    assert!((200..300).contains(&status), "{status} {json}");
    json["data"].clone()
}

async fn login(url: &str, side: &str, email: &str) -> String {
    let body = json!({"email": email, "password": password()});
    let data = data(url, &format!("/api/{side}/login"), "", Some(&body)).await;
    data["token"].as_str().unwrap().to_owned()
}

/// A partner with credit, and the plan that delivers.
async fn partner(url: &str) -> (String, String) {
    let operator = login(url, "operator", EMAIL).await;
    let body = json!({
        "name": "Crash", "subdomain": "crash-test", "contactEmail": "crash@partner.example", "password": password()
    });
    let tenant = data(url, "/api/tenant/register", "", Some(&body)).await;
    let path = format!("/api/operator/tenants/{}/adjustments", tenant["tenant"]["id"].as_str().unwrap());
    data(url, &path, &operator, Some(&json!({"amount": 40_000, "reason": "credit"}))).await;
    let token = login(url, "tenant", "crash@partner.example").await;
    let plans = data(url, "/api/tenant/available-plans?q=Sandbox:%20delivers", &token, None).await;
    (token, plans["plans"][0]["id"].as_str().unwrap().to_owned())
}

fn check_ledger(data_dir: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_esimd"))
        .args(["ledger", "check", "--data-dir"])
        .arg(data_dir)
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Every order of the partner by its reference.
async fn orders(url: &str, token: &str) -> BTreeMap<String, Vec<Value>> {
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page = data(url, &format!("/api/tenant/orders?limit=1000&cursor={cursor}"), token, None).await;
        for order in page["orders"].as_array().unwrap() {
            found.entry(order["reference"].as_str().unwrap().to_owned()).or_default().push(order.clone());
        }
        match page["nextCursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_under_load_loses_nothing_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir: PathBuf = folder.path().join("data");
    let first = Esimd::start(&data_dir, 0);
    let (token, plan) = partner(&first.url).await;
    let mut running = first;
    let answered: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
    for round in 0..5_u32 {
        let mut buyers = tokio::task::JoinSet::new();
        for buyer in 0..8_u32 {
            let (url, token, plan) = (running.url.clone(), token.clone(), plan.clone());
            let answered = Arc::clone(&answered);
            buyers.spawn(async move {
                for number in 0..10_000_u32 {
                    let key = format!("{round}-{buyer}-{number}");
                    let body = json!({"items": [{"planId": plan, "quantity": 1}], "reference": key});
                    let path = "/api/tenant/orders/checkout";
                    // No answer is no promise; the process is gone, or going.
                    let Some((status, bytes)) = call(&url, path, &token, Some(&body), Some(&key)).await else { return };
                    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&bytes));
                    answered.lock().unwrap().insert(key, bytes);
                }
            });
        }
        let goal = usize::try_from((round + 1) * 40).unwrap();
        while answered.lock().unwrap().len() < goal {
            tokio::task::yield_now().await;
        }
        running.kill();
        while let Some(ended) = buyers.join_next().await {
            ended.unwrap();
        }
        running = Esimd::start(&data_dir, 0);
    }

    let answered = answered.lock().unwrap().clone();
    for (key, bytes) in &answered {
        let body = json!({"items": [{"planId": plan, "quantity": 1}], "reference": key});
        let (status, again) =
            call(&running.url, "/api/tenant/orders/checkout", &token, Some(&body), Some(key)).await.unwrap();
        assert_eq!((status, again), (201, bytes.clone()), "{key}");
    }
    let operator = login(&running.url, "operator", EMAIL).await;
    let found = orders(&running.url, &token).await;
    for key in answered.keys() {
        assert_eq!(found.get(key).map(Vec::len), Some(1), "{key} is there exactly once");
    }
    for (key, orders) in &found {
        assert_eq!(orders.len(), 1, "{key}");
        let id = orders[0]["id"].as_str().unwrap();
        let order = data(&running.url, &format!("/api/tenant/orders/{id}?wait=30"), &token, None).await;
        assert_eq!(order["order"]["status"], "completed", "{order}");
        let sales = format!("/api/operator/sandbox/sales?reference={id}");
        let sold = data(&running.url, &sales, &operator, None).await;
        assert_eq!(sold["sales"].as_array().unwrap().len(), 1, "{key} is sold once");
    }
    let balance = data(&running.url, "/api/tenant/balance", &token, None).await;
    let spent = u64::try_from(found.len()).unwrap() * 450;
    let left = 4_000_000 - spent;
    let cents = balance["creditBalance"].to_string().parse::<serde_json::Number>().unwrap().to_string();
    let (whole, decimals) = cents.split_once('.').unwrap_or((&cents, ""));
    assert_eq!(format!("{whole}{decimals:0<2}"), left.to_string());

    // The check reads beside the running process, too.
    assert!(check_ledger(&data_dir).0);
    let (status, took) = running.terminate();
    assert!(status.success() && took < Duration::from_secs(10), "{status} after {took:?}");
    let (whole, said) = check_ledger(&data_dir);
    assert!(whole, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_answers_waiters_with_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let running = Esimd::start(folder.path(), 600_000);
    let (token, plan) = partner(&running.url).await;
    let url = running.url.clone();
    let waiting = tokio::spawn(async move {
        let body = json!({"items": [{"planId": plan, "quantity": 1}]});
        call(&url, "/api/tenant/orders/checkout?wait=30", &token, Some(&body), None).await
    });
    // The order is there before the process is told to stop.
    let operator = login(&running.url, "operator", EMAIL).await;
    while data(&running.url, "/api/operator/orders", &operator, None).await["orders"].as_array().unwrap().is_empty() {}
    let (status, took) = tokio::task::spawn_blocking(move || running.terminate()).await.unwrap();
    assert!(status.success() && took < Duration::from_secs(10), "{status} after {took:?}");
    let (status, bytes) = waiting.await.unwrap().expect("the waiter is answered");
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((status, &answer["data"]["orders"][0]["status"]), (201, &json!("processing")), "{answer}");
}

#[test]
fn a_changed_byte_is_named_and_the_check_exits_with_one() {
    let folder = tempfile::tempdir().unwrap();
    let (status, _) = Esimd::start(folder.path(), 0).terminate();
    assert!(status.success());
    assert!(check_ledger(folder.path()).0);
    let database = rusqlite::Connection::open(folder.path().join("esimd.db")).unwrap();
    let changed = database
        .execute("update ledger_entries set amount = amount + 1 where id = (select min(id) from ledger_entries)", []);
    assert_eq!(changed, Ok(1));
    let output = Command::new(env!("CARGO_BIN_EXE_esimd"))
        .args(["ledger", "check", "--data-dir"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("altered") && said.contains("entry "), "{said}");
}
