//! What several stories share in the telling: time that passes without anybody sleeping, money that is
//! counted in whole cents, and the reads that prove what happened.

use crate::stage::{Caller, Reply, Stage};
use reqwest::Method;
use serde_json::Value;
use std::pin::pin;

pub const CHECKOUT: &str = "/api/tenant/orders/checkout";

/// Drives `work` to its end while the server's clock moves on by `step_ms` with every turn of a cheap
/// request. Returns what came of it and the milliseconds that passed.
pub async fn timed<T>(stage: &Stage, step_ms: i64, work: impl Future<Output = T>) -> (T, i64) {
    let stranger = stage.stranger();
    let mut work = pin!(work);
    let mut passed = 0;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return (done, passed),
            () = async {
                stranger.get("/healthz").await;
                stage.quiet().await;
            } => {
                stage.clock.advance(step_ms);
                passed += step_ms;
            }
        }
    }
}

/// The same, for who does not care how long it took.
pub async fn passing<T>(stage: &Stage, step_ms: i64, work: impl Future<Output = T>) -> T {
    timed(stage, step_ms, work).await.0
}

/// Lets time pass until the order is final, and returns it.
pub async fn settled(stage: &Stage, caller: &Caller, order: &str) -> Value {
    let path = format!("/api/tenant/orders/{order}?wait=30");
    for _ in 0..20 {
        let data = passing(stage, 25, caller.get(&path)).await.ok(200);
        if data["order"]["status"] != "processing" {
            return data["order"].clone();
        }
    }
    panic!("order {order} is still processing after ten minutes");
}

/// The order as it is now.
pub async fn order(caller: &Caller, id: &str) -> Value {
    caller.get(&format!("/api/tenant/orders/{id}")).await.ok(200)["order"].clone()
}

/// Unix milliseconds of a time the API wrote.
#[track_caller]
pub fn millis(time: &Value) -> i64 {
    let written = text(time);
    assert!(written.len() == 24 && written.ends_with('Z'), "not RFC 3339 UTC with milliseconds: {written}");
    written.parse::<domain::time::Timestamp>().expect("a time").millis()
}

/// An amount the API wrote, in cents.
#[track_caller]
pub fn cents(amount: &Value) -> i64 {
    let written = amount.to_string();
    let (whole, decimals) = written.split_once('.').unwrap_or((written.as_str(), ""));
    assert!(decimals.len() <= 2, "more decimals than the currency has: {written}");
    format!("{whole}{decimals:0<2}").parse().unwrap_or_else(|_| panic!("not an amount: {written}"))
}

/// The text of a value that must be one.
#[track_caller]
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

/// The entries of a value that must be a list.
#[track_caller]
pub fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

/// One field of every entry of a list, as text.
#[track_caller]
pub fn column<'a>(rows: &'a Value, field: &str) -> Vec<&'a str> {
    list(rows).iter().map(|row| text(&row[field])).collect()
}

/// The id of the only order of a checkout's `data`.
#[track_caller]
pub fn only_order(data: &Value) -> String {
    assert_eq!(list(&data["orders"]).len(), 1, "{data}");
    text(&data["orders"][0]["id"]).to_owned()
}

/// All transactions of the caller's tenant and mode, newest first.
pub async fn transactions(caller: &Caller) -> Vec<Value> {
    let data = caller.get("/api/tenant/transactions?limit=1000").await.ok(200);
    assert!(data["nextCursor"].is_null(), "more transactions than one page");
    list(&data["transactions"]).clone()
}

/// How many orders the caller's tenant has in this mode (up to a thousand).
pub async fn order_count(caller: &Caller) -> usize {
    list(&caller.get("/api/tenant/orders?limit=1000").await.ok(200)["orders"]).len()
}

/// What the sandbox really sold for the order, as it tells the operator.
pub async fn sales(operator: &Caller, order: &str) -> Vec<Value> {
    let data = operator.get(&format!("/api/operator/sandbox/sales?reference={order}")).await.ok(200);
    list(&data["sales"]).clone()
}

/// A POST of exactly this text, with an `Idempotency-Key` or without.
pub async fn post_text(caller: &Caller, path: &str, key: Option<&str>, body: &str) -> Reply {
    let mut request =
        caller.request(Method::POST, path).header("content-type", "application/json").body(body.to_owned());
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    caller.send(request).await
}

/// The text as the value of a query parameter.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
