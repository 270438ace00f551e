//! What survives `kill -9`: a real process, killed under load again and again. Every order that was
//! acknowledged is there exactly once, every key gets its first answer again, every order is sold once.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy knows tests by their attribute, not what they share"
)]

mod process;

use process::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    let (code, said) = command(folder.path(), &["ledger", "check"]);
    assert_eq!(code, 1);
    assert!(said.contains("altered") && said.contains("entry "), "{said}");
}
