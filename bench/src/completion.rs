//! What follows a checkout: fulfilment under load and at rest, and whether the ledger is whole in the end.

use crate::Outcome;
use crate::connection::Connection;
use crate::figures::{Latencies, micros};
use crate::random::Random;
use crate::request::{self, Target};
use crate::server_process::ServerProcess;
use crate::serving::OPERATOR_EMAIL;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Jobs that are not finished; a finished one has no row.
#[derive(Debug, Clone, Copy)]
pub struct OpenJobs {
    /// Waiting or being worked on.
    pub open: u32,
    /// Given up.
    pub dead: u32,
}

/// Reads the server's own metrics.
pub async fn open_jobs(server: &ServerProcess) -> Outcome<OpenJobs> {
    let mut connection = Connection::open(server.address()).await?;
    let answer = connection.ask(&request::get("/metrics", "none")).await?;
    let text = std::str::from_utf8(answer.body)?;
    let gauge = |name: &str| -> Outcome<u32> {
        let value = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("a metric is missing")?;
        Ok(value.trim().parse()?)
    };
    Ok(OpenJobs { open: gauge("esimd_jobs_open ")?, dead: gauge("esimd_jobs_dead ")? })
}

/// Waits until no job is open, for at most `limit`; returns what is left.
pub async fn drain(server: &ServerProcess, limit: Duration) -> Outcome<OpenJobs> {
    let end = Instant::now() + limit;
    loop {
        let jobs = open_jobs(server).await?;
        if jobs.open == 0 || Instant::now() >= end {
            return Ok(jobs);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Checkouts on a server at rest, each waited for: from the checkout's answer to the completed order.
pub async fn one_after_the_other(server: &ServerProcess, count: u32, seed: u64) -> Outcome<Latencies> {
    let mut random = Random(seed.rotate_left(32));
    let mut connection = Connection::open(server.address()).await?;
    let mut bytes = Vec::new();
    let mut waits = Vec::new();
    for _ in 0..count {
        let key = random.one_of(server.api_keys()).ok_or("there are no tenants")?;
        request::write(&mut bytes, Target::Checkout, server.plan(), key, &mut random);
        let answer = connection.ask(&bytes).await?;
        let answered = Instant::now();
        let placed: Value = serde_json::from_slice(answer.body)?;
        let order = placed["data"]["orders"][0]["id"].as_str().ok_or("a checkout without an order")?;
        let path = format!("/api/tenant/orders/{order}?wait=10");
        let answer = connection.ask(&request::get(&path, key)).await?;
        waits.push(micros(answered.elapsed()));
        let order: Value = serde_json::from_slice(answer.body)?;
        if order["data"]["order"]["status"] != "completed" {
            return Err(format!("an order was not completed in 10 s: {order}").into());
        }
    }
    Ok(Latencies::new(waits))
}

/// Asks the operator's API to walk the whole ledger: how many entries, and whether all is well.
pub async fn check_ledger(server: &ServerProcess) -> Outcome<(u64, bool)> {
    let mut connection = Connection::open(server.address()).await?;
    let login = json!({"email": OPERATOR_EMAIL, "password": server.operator_password()}).to_string();
    let answer = connection.ask(&request::post("/api/operator/login", &login)).await?;
    let login: Value = serde_json::from_slice(answer.body)?;
    let token = login["data"]["token"].as_str().ok_or_else(|| format!("the operator cannot log in: {login}"))?;
    let answer = connection.ask(&request::get("/api/operator/ledger/check", token)).await?;
    let checked: Value = serde_json::from_slice(answer.body)?;
    let entries = checked["data"]["entries"].as_u64().ok_or_else(|| format!("no ledger check: {checked}"))?;
    Ok((entries, checked["data"]["ok"] == true))
}
