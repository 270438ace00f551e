//! A real process of the platform, and the shortest way to buy from it.

#![allow(dead_code, unused_imports, reason = "every test file uses its own part of this")]

mod buyers;

pub use buyers::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where the operator logs in.
pub const EMAIL: &str = "operator@example.com";

/// A process of the platform with its own folder.
pub struct Esimd {
    child: Child,
    /// Where it answers.
    pub url: String,
}

pub fn password() -> String {
    format!("crash-{:08x}", std::process::id())
}

impl Esimd {
    pub fn start(data_dir: &Path, delay_ms: u32) -> Self {
        Self::start_with(data_dir, &[("ESIMD_SANDBOX_DELAY_MS", &delay_ms.to_string())])
    }

    /// With these settings, named as environment variables.
    pub fn start_with(data_dir: &Path, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_esimd"))
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .env("ESIMD_OPERATOR_EMAIL", EMAIL)
            .env("ESIMD_OPERATOR_PASSWORD", password())
            .env("ESIMD_SANDBOX_DELAY_MS", "0")
            .env("ESIMD_RATE_LIMIT", "off")
            .env("ESIMD_LOG", "error")
            .envs(settings.iter().copied())
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

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn terminate(mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        (self.child.wait().unwrap(), begun.elapsed())
    }
}

impl Drop for Esimd {
    fn drop(&mut self) {
        // Whoever ended already is left alone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn call(
    url: &str,
    path: &str,
    token: &str,
    body: Option<&Value>,
    key: Option<&str>,
) -> Option<(u16, Vec<u8>)> {
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

pub async fn data(url: &str, path: &str, token: &str, body: Option<&Value>) -> Value {
    let (status, bytes) = call(url, path, token, body, None).await.expect("an answer");
    let json: Value = serde_json::from_slice(&bytes).unwrap();
    assert!((200..300).contains(&status), "{status} {json}");
    json["data"].clone()
}

/// Reads patiently: while the database is away, or connections to it are made anew, nothing is read.
pub async fn look(url: &str, path: &str, token: &str) -> Value {
    let begun = Instant::now();
    loop {
        match call(url, path, token, None, None).await {
            None | Some((503, _)) if begun.elapsed() < Duration::from_secs(30) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            answer => {
                let (status, bytes) = answer.expect("an answer");
                assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&bytes));
                return serde_json::from_slice::<Value>(&bytes).unwrap()["data"].clone();
            }
        }
    }
}

pub async fn login(url: &str, side: &str, email: &str) -> String {
    let body = json!({"email": email, "password": password()});
    let data = data(url, &format!("/api/{side}/login"), "", Some(&body)).await;
    data["token"].as_str().unwrap().to_owned()
}

/// A partner with credit, and the plan that delivers.
pub async fn partner(url: &str) -> (String, String) {
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

/// Runs a command over a data folder: its exit code, and what it said on both ways.
pub fn command(data_dir: &Path, args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_esimd")).args(args).arg("--data-dir").arg(data_dir).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

/// Runs the program with these arguments and settings: its exit code, and what it said on both ways.
pub fn run(args: &[&str], settings: &[(&str, &str)]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_esimd")).args(args).envs(settings.iter().copied()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

/// Whether the ledger is whole, and what the check said.
pub fn check_ledger(data_dir: &Path) -> (bool, String) {
    let (code, said) = command(data_dir, &["ledger", "check"]);
    (code == 0, said)
}

/// Every order of the partner by its reference.
pub async fn orders(url: &str, token: &str) -> BTreeMap<String, Vec<Value>> {
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page = look(url, &format!("/api/tenant/orders?limit=1000&cursor={cursor}"), token).await;
        for order in page["orders"].as_array().unwrap() {
            found.entry(order["reference"].as_str().unwrap().to_owned()).or_default().push(order.clone());
        }
        match page["nextCursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return found,
        }
    }
}
