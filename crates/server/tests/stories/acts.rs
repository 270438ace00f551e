//! What the stories about money, operators and strangers do alike: bodies sent exactly as written,
//! answers judged by their shape, and steps that only the operator or the clock can take.

use crate::stage::{Caller, Reply, Stage};
use crate::telling::text;
use reqwest::Method;
use serde_json::{Value, json};

/// An id that no server ever gave out.
pub const UNKNOWN_ID: &str = "0192f0c1-0000-7000-8000-00000000dead";

/// Sends a body exactly as it is written, under this content type.
pub async fn raw(caller: &Caller, method: Method, path: &str, kind: &str, body: impl Into<Vec<u8>>) -> Reply {
    let request = caller.request(method, path).header("content-type", kind).body(body.into());
    caller.send(request).await
}

/// Sends JSON exactly as it is written.
pub async fn raw_json(caller: &Caller, method: Method, path: &str, body: impl Into<Vec<u8>>) -> Reply {
    raw(caller, method, path, "application/json", body).await
}

/// Asserts success, whichever of the 2xx it is, and returns `data`.
#[track_caller]
pub fn done(reply: &Reply) -> Value {
    assert!((200..300).contains(&reply.status), "{} {}", reply.status, reply.text());
    reply.ok(reply.status)
}

/// Asserts 422 `validation_failed` and returns the sorted paths of the faults.
#[track_caller]
pub fn fault_paths(reply: &Reply) -> Vec<String> {
    reply.faults().iter().map(|fault| fault.split(' ').next().unwrap_or("").to_owned()).collect()
}

/// The rows of a list: the one array in `data`.
#[track_caller]
pub fn rows(data: &Value) -> Vec<Value> {
    let arrays: Vec<&Value> = data.as_object().expect("an object").values().filter(|value| value.is_array()).collect();
    assert_eq!(arrays.len(), 1, "one list: {data}");
    arrays[0].as_array().expect("an array").clone()
}

/// A field that must be a text, to keep.
#[track_caller]
pub fn string(value: &Value) -> String {
    text(value).to_owned()
}

/// The first text in `value`, at any depth, that begins with `prefix`.
pub fn find_text(value: &Value, prefix: &str) -> Option<String> {
    match value {
        Value::String(found) if found.starts_with(prefix) => Some(found.clone()),
        Value::Array(values) => values.iter().find_map(|value| find_text(value, prefix)),
        Value::Object(fields) => fields.values().find_map(|value| find_text(value, prefix)),
        _ => None,
    }
}

/// Whether a text is a time as the contract writes it: RFC 3339, UTC, milliseconds.
pub fn is_time(value: &Value) -> bool {
    let Some(time) = value.as_str() else { return false };
    let shape: String = time.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }).collect();
    shape == "0000-00-00T00:00:00.000Z"
}

/// Whether a text is a UUID of version 7.
pub fn is_id(value: &Value) -> bool {
    let Some(id) = value.as_str() else { return false };
    id.len() == 36
        && id.char_indices().all(|(at, letter)| match at {
            8 | 13 | 18 | 23 => letter == '-',
            14 => letter == '7',
            _ => letter.is_ascii_digit() || ('a'..='f').contains(&letter),
        })
}

/// Whole cents as a JSON number of major units.
pub fn dollars(cents: i64) -> Value {
    let sign = if cents < 0 { "-" } else { "" };
    let absolute = cents.abs();
    serde_json::from_str(&format!("{sign}{}.{:02}", absolute / 100, absolute % 100)).expect("a number")
}

/// Moves the clock on in steps until the order's job has been given to the operator, and returns the job.
pub async fn dead_job(stage: &Stage, operator: &Caller, order: &str) -> Value {
    for _ in 0..2_000 {
        let data = operator.get("/api/operator/jobs?state=dead").await.ok(200);
        let found = rows(&data).into_iter().find(|job| job["orderId"] == order);
        if let Some(job) = found {
            return job;
        }
        // Else the clock would run away from a call under way, until its lease is over.
        stage.quiet().await;
        stage.clock.advance(500);
    }
    panic!("the job of order {order} was not given to the operator");
}

/// Starts a top-up by bank transfer and returns its `orderId`.
pub async fn bank_transfer(caller: &Caller, amount: &str) -> String {
    let body = format!(r#"{{"amount": {amount}, "paymentMethod": "bank_transfer"}}"#);
    let data = raw_json(caller, Method::POST, "/api/tenant/top-up", body).await.ok(201);
    string(&data["orderId"])
}

/// Posts a proof of a bank transfer.
pub async fn prove(caller: &Caller, top_up: &str) -> Reply {
    let body = json!({"transferProofUrl": "https://files.partner.example/proof.pdf"});
    caller.post(&format!("/api/tenant/top-up/{top_up}/proof"), body).await
}

/// Suspends a tenant.
pub async fn suspend(operator: &Caller, tenant: &str) {
    let path = format!("/api/operator/tenants/{tenant}/suspend");
    done(&operator.post(&path, json!({"reason": "a story of a suspension"})).await);
}

/// Asserts that the check of the ledger finds nothing: no list of damage, and no verdict of "false".
pub async fn the_ledger_is_clean(operator: &Caller) {
    let data = operator.get("/api/operator/ledger/check").await.ok(200);
    for (name, found) in data.as_object().expect("an object") {
        assert!(found.as_bool() != Some(false), "{name}: {data}");
        assert!(found.as_array().is_none_or(Vec::is_empty), "{name}: {data}");
    }
}
