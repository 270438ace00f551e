//! Top-ups turn a partner's money into credit exactly once: by the operator's decision, or in test
//! mode by the proof alone. Whatever is posted twice, at once or too late credits nothing more.

use crate::acts::{bank_transfer, dollars, done, fault_paths, is_id, is_time, prove, raw_json, rows, string};
use crate::stage::{Caller, Reply, Stage};
use crate::telling::transactions;
use reqwest::Method;
use serde_json::{Value, json};

const TOP_UP: &str = "/api/tenant/top-up";
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

fn transfer(amount: i64) -> Value {
    json!({"amount": amount, "paymentMethod": "bank_transfer"})
}

fn by_card(success: &str, cancel: &str) -> Value {
    json!({"amount": 100, "paymentMethod": "stripe", "successUrl": success, "cancelUrl": cancel})
}

async fn shown(caller: &Caller, top_up: &str) -> Value {
    caller.get(&format!("{TOP_UP}/{top_up}")).await.ok(200)["topUp"].clone()
}

async fn status(caller: &Caller, top_up: &str) -> String {
    string(&shown(caller, top_up).await["status"])
}

async fn approve(operator: &Caller, top_up: &str, body: Value) -> Reply {
    operator.post(&format!("/api/operator/top-ups/{top_up}/approve"), body).await
}

async fn reject(operator: &Caller, top_up: &str) -> Reply {
    let path = format!("/api/operator/top-ups/{top_up}/reject");
    operator.post(&path, json!({"reason": "No such transfer arrived."})).await
}

/// Moves the clock on in small steps until the top-up has this status.
async fn becomes(stage: &Stage, caller: &Caller, top_up: &str, wanted: &str) {
    for _ in 0..200 {
        if status(caller, top_up).await == wanted {
            return;
        }
        stage.clock.advance(60_000);
    }
    panic!("top-up {top_up} did not become {wanted}");
}

/// ISO 11649: `RF` and two check digits moved to the end, letters as 10 to 35, leave 1 modulo 97.
fn is_creditor_reference(reference: &str) -> bool {
    let plain: String = reference.chars().filter(|letter| *letter != ' ').collect();
    if !plain.starts_with("RF") || plain.len() < 5 || plain.len() > 25 || !plain.is_ascii() {
        return false;
    }
    let turned = format!("{}{}", &plain[4..], &plain[..4]);
    let mut rest = 0;
    for letter in turned.chars() {
        let Some(value) = letter.to_digit(36) else { return false };
        let factor = if value > 9 { 100 } else { 10 };
        rest = (rest * factor + value) % 97;
    }
    rest == 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_up_by_bank_transfer_tells_where_to_pay_and_credits_nothing_yet() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let started = partner.post(TOP_UP, transfer(300)).await.ok(201);
    assert!(is_id(&started["orderId"]), "{started}");
    assert_eq!(started["status"], json!("pending"));
    assert_eq!(started["amount"].to_string(), "300");
    assert_eq!(started["currency"], json!("USD"));
    assert_eq!(started["paymentMethod"], json!("bank_transfer"));
    assert!(started["checkoutUrl"].is_null(), "{started}");
    assert!(is_time(&started["expiresAt"]), "{started}");
    let bank = started["bankTransfer"].as_object().expect("where to pay");
    for field in
        ["accountHolder", "bankName", "bankAddress", "iban", "accountNumber", "bic", "routingCode", "reference"]
    {
        assert!(bank.contains_key(field), "{field}: {started}");
    }
    assert!(string(&bank["accountHolder"]).to_uppercase().contains("DEMO"), "nobody pays by mistake: {started}");

    let shown = shown(&partner, &string(&started["orderId"])).await;
    for field in
        ["orderId", "status", "amount", "currency", "paymentMethod", "checkoutUrl", "bankTransfer", "expiresAt"]
    {
        assert_eq!(shown[field], started[field], "{field}");
    }
    assert!(is_time(&shown["createdAt"]), "{shown}");
    for field in ["transferProofUrl", "rejectionReason", "paidAt"] {
        assert_eq!(shown.get(field), Some(&Value::Null), "{field}: {shown}");
    }
    assert_eq!(partner.balance().await, "0");
    assert!(transactions(&partner).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transfer_has_a_reference_of_its_own_with_check_digits() {
    assert!(is_creditor_reference("RF18 5390 0754 7034"), "the check itself holds");
    assert!(!is_creditor_reference("RF18 5390 0754 7043"), "the check itself refuses");
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let mut references = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let started = partner.post(TOP_UP, transfer(10)).await.ok(201);
        let reference = string(&started["bankTransfer"]["reference"]);
        assert!(is_creditor_reference(&reference), "{reference}");
        references.insert(reference);
    }
    assert_eq!(references.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_own_account_takes_the_place_of_the_demo_one() {
    let stage = Stage::with(&[
        ("ESIMD_BANK_TRANSFER_ACCOUNT_HOLDER", "Example Distribution"),
        ("ESIMD_BANK_TRANSFER_BANK_NAME", "Example Bank"),
        ("ESIMD_BANK_TRANSFER_IBAN", "DE89370400440532013000"),
    ])
    .await;
    let started = stage.partner().await.post(TOP_UP, transfer(10)).await.ok(201);
    let bank = &started["bankTransfer"];
    assert_eq!(bank["accountHolder"], json!("Example Distribution"));
    assert_eq!(bank["bankName"], json!("Example Bank"));
    assert_eq!(string(&bank["iban"]).replace(' ', ""), "DE89370400440532013000");
    assert!(!bank.to_string().to_uppercase().contains("DEMO"), "{bank}");
    assert!(is_creditor_reference(&string(&bank["reference"])), "{bank}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_up_takes_10_to_50000_in_whole_cents() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    for (amount, written) in
        [("10", "10"), ("10.00", "10"), ("10.01", "10.01"), ("49999.99", "49999.99"), ("5e4", "50000")]
    {
        let body = format!(r#"{{"amount": {amount}, "paymentMethod": "bank_transfer"}}"#);
        let started = raw_json(&partner, Method::POST, TOP_UP, body).await.ok(201);
        assert_eq!(started["amount"].to_string(), written);
    }
    let before = rows(&partner.get(TOP_UP).await.ok(200));
    assert_eq!(before.len(), 5);
    for (amount, code) in [
        ("9.99", "out_of_range"),
        ("50000.01", "out_of_range"),
        ("0", "out_of_range"),
        ("-10", "out_of_range"),
        ("1e300", "out_of_range"),
        ("10.001", "too_many_decimals"),
        ("\"100\"", "wrong_type"),
        ("null", "required"),
    ] {
        let body = format!(r#"{{"amount": {amount}, "paymentMethod": "bank_transfer"}}"#);
        let reply = raw_json(&partner, Method::POST, TOP_UP, body).await;
        assert_eq!(reply.faults(), [format!("amount {code}")], "{amount}");
    }
    assert_eq!(partner.post(TOP_UP, json!({})).await.faults(), ["amount required", "paymentMethod required"]);
    let odd = json!({"amount": 100, "paymentMethod": "cash", "currency": "EUR"});
    assert_eq!(partner.post(TOP_UP, odd).await.faults(), ["currency unknown_field", "paymentMethod not_in_list"]);
    assert_eq!(rows(&partner.get(TOP_UP).await.ok(200)), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bounds_of_a_top_up_are_settings() {
    let stage = Stage::with(&[("ESIMD_TOP_UP_MIN", "12.50"), ("ESIMD_TOP_UP_MAX", "20")]).await;
    let partner = stage.partner().await;
    for (cents, fits) in [(1_249, false), (1_250, true), (2_000, true), (2_001, false)] {
        let body = json!({"amount": dollars(cents), "paymentMethod": "bank_transfer"});
        let reply = partner.post(TOP_UP, body).await;
        if fits {
            reply.ok(201);
        } else {
            assert_eq!(reply.faults(), ["amount out_of_range"], "{cents}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_up_by_stripe_needs_two_good_addresses_and_stripe() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let good = [
        "https://partner.example/paid?order=1#top",
        "https://partner.example:8443/",
        "http://localhost:3000/paid",
        "http://127.0.0.1/paid",
        "http://[::1]:5173/paid",
    ];
    for url in good {
        let reply = partner.post(TOP_UP, by_card(url, good[0])).await;
        reply.refused(409, "payment_method_unavailable");
    }
    let missing = partner.post(TOP_UP, json!({"amount": 100, "paymentMethod": "stripe"})).await;
    assert_eq!(missing.faults(), ["cancelUrl required", "successUrl required"]);
    let bad = [
        "http://partner.example/paid",
        "http://localhost.partner.example/paid",
        "http://127.0.0.1.partner.example/paid",
        "https://user:secret@partner.example/paid",
        "https://user@partner.example/paid",
        "/paid",
        "//partner.example/paid",
        "partner.example/paid",
        "https://",
        "ftp://partner.example/paid",
        "javascript:alert(1)",
        "no address at all",
    ];
    for url in bad {
        let reply = partner.post(TOP_UP, by_card(url, good[0])).await;
        assert_eq!(fault_paths(&reply), ["successUrl"], "{url}");
        let reply = partner.post(TOP_UP, by_card(good[0], url)).await;
        assert_eq!(fault_paths(&reply), ["cancelUrl"], "{url}");
    }
    assert!(rows(&partner.get(TOP_UP).await.ok(200)).is_empty(), "what was refused was not started");

    let mut ignored = by_card(good[0], good[1]);
    ignored["paymentMethod"] = json!("bank_transfer");
    let started = partner.post(TOP_UP, ignored).await.ok(201);
    assert_eq!(started["paymentMethod"], json!("bank_transfer"));
    assert!(started["checkoutUrl"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_puts_the_top_up_under_review_and_may_be_replaced_until_decided() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    let top_up = bank_transfer(&partner, "100").await;
    let path = format!("{TOP_UP}/{top_up}/proof");

    let first = json!({"transferProofUrl": "https://files.partner.example/first.pdf"});
    let data = partner.post(&path, first).await.ok(200);
    assert_eq!(data["topUp"]["orderId"], top_up.as_str());
    assert_eq!(data["topUp"]["status"], json!("under_review"));
    assert_eq!(data["topUp"]["transferProofUrl"], json!("https://files.partner.example/first.pdf"));
    assert_eq!(partner.balance().await, "0", "a proof is no money");

    let second = json!({"transferProofUrl": "https://files.partner.example/second.pdf"});
    let data = partner.post(&path, second).await.ok(200);
    assert_eq!(data["topUp"]["status"], json!("under_review"));
    let now = shown(&partner, &top_up).await;
    assert_eq!(now["transferProofUrl"], json!("https://files.partner.example/second.pdf"));

    done(&approve(&operator, &top_up, json!({})).await);
    let late = json!({"transferProofUrl": "https://files.partner.example/third.pdf"});
    assert_eq!(partner.post(&path, late).await.status, 409, "it is decided");
    let paid = shown(&partner, &top_up).await;
    assert_eq!(paid["status"], json!("paid"));
    assert_eq!(paid["transferProofUrl"], json!("https://files.partner.example/second.pdf"));
    assert_eq!(partner.balance().await, "100");

    let refused = bank_transfer(&partner, "100").await;
    done(&reject(&operator, &refused).await);
    assert_eq!(prove(&partner, &refused).await.status, 409, "it is decided");
    assert_eq!(status(&partner, &refused).await, "rejected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_must_be_an_absolute_https_address() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let top_up = bank_transfer(&partner, "100").await;
    let path = format!("{TOP_UP}/{top_up}/proof");
    assert_eq!(partner.post(&path, json!({})).await.faults(), ["transferProofUrl required"]);
    let bad = [
        json!("http://files.partner.example/proof.pdf"),
        json!("http://localhost/proof.pdf"),
        json!("/proof.pdf"),
        json!("//files.partner.example/proof.pdf"),
        json!("files.partner.example/proof.pdf"),
        json!("https://"),
        json!("ftp://files.partner.example/proof.pdf"),
        json!("data:application/pdf;base64,AAAA"),
        json!("javascript:alert(1)"),
        json!(["https://files.partner.example/proof.pdf"]),
    ];
    for url in bad {
        let reply = partner.post(&path, json!({"transferProofUrl": url})).await;
        assert_eq!(fault_paths(&reply), ["transferProofUrl"], "{url}");
    }
    let typo = json!({"transferProofUrl": "https://files.partner.example/a.pdf", "note": "paid today"});
    assert_eq!(partner.post(&path, typo).await.faults(), ["note unknown_field"]);
    let unchanged = shown(&partner, &top_up).await;
    assert_eq!(unchanged["status"], json!("pending"));
    assert!(unchanged["transferProofUrl"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_never_fetches_a_proof() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a listener that does not wait");
    let port = listener.local_addr().expect("its address").port();
    let top_up = bank_transfer(&partner, "100").await;
    let proof = json!({"transferProofUrl": format!("https://127.0.0.1:{port}/proof.pdf")});
    partner.post(&format!("{TOP_UP}/{top_up}/proof"), proof).await.ok(200);
    operator.get(&format!("/api/operator/top-ups/{top_up}")).await.ok(200);
    done(&approve(&operator, &top_up, json!({})).await);
    let knock = listener.accept().expect_err("nobody came");
    assert_eq!(knock.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_test_mode_the_proof_pays() {
    let stage = Stage::start().await;
    let live = stage.partner().await;
    let test = stage.login(&live.email, "test").await;
    let top_up = bank_transfer(&test, "250.5").await;
    assert_eq!(status(&test, &top_up).await, "pending");
    assert_eq!(test.balance().await, "1000");

    let data = prove(&test, &top_up).await.ok(200);
    assert_eq!(data["topUp"]["status"], json!("paid"));
    assert!(is_time(&data["topUp"]["paidAt"]), "{data}");
    assert_eq!(test.balance().await, "1250.5");
    let newest = transactions(&test).await[0].clone();
    assert_eq!(newest["type"], json!("top_up"));
    assert_eq!(newest["topUpId"], top_up.as_str());
    assert_eq!(newest["amount"].to_string(), "250.5");
    assert!(newest["orderId"].is_null());

    assert_eq!(prove(&test, &top_up).await.status, 409, "it is decided");
    assert_eq!(test.balance().await, "1250.5");
    live.get(&format!("{TOP_UP}/{top_up}")).await.refused(404, "not_found");
    assert!(rows(&live.get(TOP_UP).await.ok(200)).is_empty());
    assert_eq!(live.balance().await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approve_credits_the_amount_once_and_a_second_decision_is_409() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    for proved in [false, true] {
        let top_up = bank_transfer(&partner, "100").await;
        if proved {
            prove(&partner, &top_up).await.ok(200);
        }
        let before = transactions(&partner).await.len();
        done(&approve(&operator, &top_up, json!({})).await);
        let paid = shown(&partner, &top_up).await;
        assert_eq!(paid["status"], json!("paid"));
        assert!(is_time(&paid["paidAt"]), "{paid}");

        approve(&operator, &top_up, json!({})).await.refused(409, "already_decided");
        approve(&operator, &top_up, json!({"amount": 50})).await.refused(409, "already_decided");
        reject(&operator, &top_up).await.refused(409, "already_decided");
        assert_eq!(shown(&partner, &top_up).await, paid, "nothing changed");
        let list = transactions(&partner).await;
        assert_eq!(list.len(), before + 1);
        assert_eq!(list[0]["type"], json!("top_up"));
        assert_eq!(list[0]["topUpId"], top_up.as_str());
        assert_eq!(list[0]["amount"].to_string(), "100");
    }
    assert_eq!(partner.balance().await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approve_credits_what_really_arrived() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    let top_up = bank_transfer(&partner, "100").await;
    for (amount, code) in
        [(json!(-5), "out_of_range"), (json!(90.555), "too_many_decimals"), (json!("90"), "wrong_type")]
    {
        let reply = approve(&operator, &top_up, json!({"amount": amount})).await;
        assert_eq!(reply.faults(), [format!("amount {code}")]);
    }
    assert_eq!(status(&partner, &top_up).await, "pending");
    assert_eq!(partner.balance().await, "0");
    done(&approve(&operator, &top_up, json!({"amount": 90.55})).await);
    assert_eq!(partner.balance().await, "90.55");
    assert_eq!(transactions(&partner).await[0]["amount"].to_string(), "90.55");
    assert_eq!(status(&partner, &top_up).await, "paid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approvals_at_once_credit_once() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    let top_up = bank_transfer(&partner, "100").await;
    prove(&partner, &top_up).await.ok(200);
    let mut tasks = Vec::new();
    for number in 0..10 {
        let (operator, top_up) = (operator.clone(), top_up.clone());
        tasks.push(tokio::spawn(async move {
            if number % 5 == 4 {
                reject(&operator, &top_up).await
            } else {
                approve(&operator, &top_up, json!({})).await
            }
        }));
    }
    let mut decisions = 0;
    for task in tasks {
        let reply = task.await.expect("an answer");
        if reply.status < 300 {
            decisions += 1;
        } else {
            reply.refused(409, "already_decided");
        }
    }
    assert_eq!(decisions, 1);
    let credited = transactions(&partner).await.len();
    match status(&partner, &top_up).await.as_str() {
        "paid" => assert_eq!((credited, partner.balance().await.as_str()), (1, "100")),
        "rejected" => assert_eq!((credited, partner.balance().await.as_str()), (0, "0")),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reject_tells_the_partner_why_and_credits_nothing() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    let top_up = bank_transfer(&partner, "100").await;
    let path = format!("/api/operator/top-ups/{top_up}/reject");
    assert_eq!(operator.post(&path, json!({})).await.faults(), ["reason required"]);
    assert_eq!(status(&partner, &top_up).await, "pending");

    done(&reject(&operator, &top_up).await);
    let rejected = shown(&partner, &top_up).await;
    assert_eq!(rejected["status"], json!("rejected"));
    assert_eq!(rejected["rejectionReason"], json!("No such transfer arrived."));
    assert!(rejected["paidAt"].is_null());
    approve(&operator, &top_up, json!({})).await.refused(409, "already_decided");
    reject(&operator, &top_up).await.refused(409, "already_decided");
    assert_eq!(shown(&partner, &top_up).await, rejected);
    assert_eq!(partner.balance().await, "0");
    assert!(transactions(&partner).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_nobody_proved_expires_and_can_still_be_approved() {
    let stage = Stage::with(&[("ESIMD_TOP_UP_EXPIRES_DAYS", "3")]).await;
    let partner = stage.partner().await;
    let forgotten = bank_transfer(&partner, "100").await;
    let proved = bank_transfer(&partner, "40").await;
    prove(&partner, &proved).await.ok(200);

    stage.clock.advance(3 * DAY_MS - 60 * 60 * 1_000);
    let caller = stage.login(&partner.email, "live").await;
    assert_eq!(status(&caller, &forgotten).await, "pending", "an hour is left");
    stage.clock.advance(60 * 60 * 1_000);
    becomes(&stage, &caller, &forgotten, "expired").await;
    assert_eq!(status(&caller, &proved).await, "under_review", "it waits for the operator");
    assert_eq!(prove(&caller, &forgotten).await.status, 409, "too late for a proof");
    assert_eq!(status(&caller, &forgotten).await, "expired");
    assert_eq!(caller.balance().await, "0");

    let operator = stage.operator().await;
    done(&approve(&operator, &forgotten, json!({})).await);
    assert_eq!(status(&caller, &forgotten).await, "paid");
    assert_eq!(caller.balance().await, "100");
    approve(&operator, &forgotten, json!({})).await.refused(409, "already_decided");
    done(&approve(&operator, &proved, json!({})).await);
    assert_eq!(caller.balance().await, "140");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_idempotency_key_starts_one_top_up() {
    let mut stage = Stage::start().await;
    let partner = stage.partner().await;
    let neighbour = stage.partner().await;
    let test = stage.login(&partner.email, "test").await;

    assert_eq!(partner.post_once(TOP_UP, "key-1", transfer(5)).await.faults(), ["amount out_of_range"]);
    let first = partner.post_once(TOP_UP, "key-1", transfer(100)).await;
    let order = string(&first.ok(201)["orderId"]);
    assert_eq!(first.header("idempotent-replayed"), "");
    let again = partner.post_once(TOP_UP, "key-1", transfer(100)).await;
    assert_eq!((again.status, &again.bytes), (201, &first.bytes), "{}", again.text());
    assert_eq!(again.header("idempotent-replayed"), "true");
    let spaced = r#"{ "paymentMethod" : "bank_transfer", "amount":100, "successUrl": "" }"#;
    let request = partner.request(Method::POST, TOP_UP).header("content-type", "application/json");
    let same = partner.send(request.header("idempotency-key", "key-1").body(spaced)).await;
    assert_eq!((same.status, &same.bytes), (201, &first.bytes), "the same parsed body: {}", same.text());

    partner.post_once(TOP_UP, "key-1", transfer(101)).await.refused(422, "idempotency_key_reused");
    let of_others = [
        neighbour.post_once(TOP_UP, "key-1", transfer(100)).await,
        test.post_once(TOP_UP, "key-1", transfer(100)).await,
        partner.post_once(TOP_UP, "key-2", transfer(100)).await,
    ];
    for reply in &of_others {
        assert_ne!(reply.ok(201)["orderId"], order.as_str());
        assert_eq!(reply.header("idempotent-replayed"), "");
    }
    let basket = json!({"items": [{"planId": partner.plan("Sandbox: delivers").await, "quantity": 1}]});
    let elsewhere = partner.post_once("/api/tenant/orders/checkout", "key-1", basket).await;
    elsewhere.refused(402, "insufficient_balance");
    assert_eq!(rows(&partner.get(TOP_UP).await.ok(200)).len(), 2);
    let long = "k".repeat(256);
    assert_eq!(partner.post_once(TOP_UP, &long, transfer(100)).await.status, 422);
    partner.post_once(TOP_UP, &long[..255], transfer(100)).await.ok(201);

    stage.restart().await;
    let caller = stage.login(&partner.email, "live").await;
    let later = caller.post_once(TOP_UP, "key-1", transfer(100)).await;
    assert_eq!((later.status, &later.bytes), (201, &first.bytes), "after a restart: {}", later.text());
    assert_eq!(later.header("idempotent-replayed"), "true");
    assert_eq!(rows(&caller.get(TOP_UP).await.ok(200)).len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_tells_the_top_up_as_it_was_when_it_began() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    let first = partner.post_once(TOP_UP, "key-1", transfer(100)).await;
    let top_up = string(&first.ok(201)["orderId"]);
    prove(&partner, &top_up).await.ok(200);
    stage.clock.advance(5_000);
    done(&approve(&operator, &top_up, json!({})).await);
    let again = partner.post_once(TOP_UP, "key-1", transfer(100)).await;
    assert_eq!((again.status, &again.bytes), (201, &first.bytes), "{}", again.text());
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(partner.balance().await, "100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identical_top_ups_at_once_under_one_key_are_one() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let mut tasks = Vec::new();
    for _ in 0..30 {
        let caller = partner.caller.clone();
        tasks.push(tokio::spawn(async move { caller.post_once(TOP_UP, "key-1", transfer(100)).await }));
    }
    let mut answers = std::collections::BTreeSet::new();
    for task in tasks {
        let reply = task.await.expect("an answer");
        if reply.status == 409 {
            reply.refused(409, "request_in_progress");
            assert!(!reply.header("retry-after").is_empty());
        } else {
            answers.insert(string(&reply.ok(201)["orderId"]));
        }
    }
    assert_eq!(answers.len(), 1);
    assert_eq!(rows(&partner.get(TOP_UP).await.ok(200)).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_ups_are_listed_newest_first_in_pages() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let mut started = Vec::new();
    for amount in ["10", "20", "30", "40", "50"] {
        started.insert(0, bank_transfer(&partner, amount).await);
    }
    let mut seen = Vec::new();
    let mut path = format!("{TOP_UP}?limit=2");
    loop {
        let data = partner.get(&path).await.ok(200);
        let page = rows(&data);
        assert!(page.len() <= 2);
        seen.extend(page.iter().map(|row| string(&row["orderId"])));
        bank_transfer(&partner, "60").await;
        match data["nextCursor"].as_str() {
            Some(cursor) => path = format!("{TOP_UP}?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, started);
    let row = rows(&partner.get(TOP_UP).await.ok(200))[0].clone();
    assert_eq!(row, shown(&partner, &string(&row["orderId"])).await, "a row is the whole top-up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stripe_events_without_a_signature_credit_nothing() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let top_up = bank_transfer(&partner, "100").await;
    let session = json!({"client_reference_id": top_up, "payment_status": "paid", "amount_total": 10_000});
    let event = json!({"type": "checkout.session.completed", "data": {"object": session}});
    let reply = stage.stranger().post("/api/webhooks/stripe", event).await;
    assert!(reply.status >= 400 && reply.status < 500, "{}", reply.text());
    assert_eq!(status(&partner, &top_up).await, "pending");
    assert_eq!(partner.balance().await, "0");
}
