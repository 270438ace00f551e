//! Checkout: money leaves the balance exactly when orders are made, all lines or none, once per
//! `Idempotency-Key`, whatever is sent, repeated or sent at once.

use crate::stage::{Caller, Partner, Reply, Stage};
use crate::telling::{
    CHECKOUT, cents, column, list, millis, only_order, order, order_count, passing, post_text, settled, text, timed,
    transactions,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const UNKNOWN_ID: &str = "01930000-0000-7000-8000-000000000000";
const COMPLETED: &str = "Balance checkout completed";

fn basket(plan: &str, quantity: u32) -> Value {
    json!({"items": [{"planId": plan, "quantity": quantity}]})
}

async fn with_credit(stage: &Stage, credit: &str) -> (Partner, String) {
    let partner = stage.partner_with(credit).await;
    let plan = partner.plan("Sandbox: delivers").await;
    (partner, plan)
}

/// The balance, the number of orders and the number of transactions: what a refusal must not change.
async fn holdings(caller: &Caller) -> (String, usize, usize) {
    (caller.balance().await, order_count(caller).await, transactions(caller).await.len())
}

/// The same request `count` times at once.
async fn at_once(caller: &Caller, count: usize, key: Option<&str>, body: &Value) -> Vec<Reply> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let (caller, key, body) = (caller.clone(), key.map(str::to_owned), body.clone());
        tasks.spawn(async move {
            match key {
                Some(key) => caller.post_once(CHECKOUT, &key, body).await,
                None => caller.post(CHECKOUT, body).await,
            }
        });
    }
    tasks.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_charges_the_balance_and_makes_one_order_per_line() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "100").await;
    let body = json!({
        "items": [{"planId": plan, "quantity": 2}, {"planId": plan, "quantity": 1}],
        "email": "customer@example.com", "customerName": "End Customer", "phone": "88888888", "reference": "PO-7"
    });
    let reply = partner.post(&format!("{CHECKOUT}?wait=20"), body).await;
    assert_eq!(reply.json["message"], COMPLETED);
    assert_eq!(reply.header("idempotent-replayed"), "");
    let data = reply.ok(201);
    let summary = &data["summary"];
    assert_eq!(summary["totalAmount"].to_string(), "13.5");
    assert_eq!(summary["orderCount"].to_string(), "2");
    assert_eq!(summary["refundedAmount"].to_string(), "0");
    assert_eq!(summary["creditBalance"].to_string(), "86.5");
    assert_eq!(summary["currency"], "USD");
    assert_eq!(partner.balance().await, "86.5");

    let orders = list(&data["orders"]);
    assert_eq!(orders.len(), 2, "a plan may appear twice");
    let mut numbers = Vec::new();
    for (order, quantity) in orders.iter().zip([2_i64, 1]) {
        assert_eq!(order["checkoutId"], data["checkoutId"]);
        assert_eq!(order["mode"], "live");
        assert_eq!(order["status"], "completed");
        assert_eq!((&order["planId"], &order["planName"]), (&json!(plan), &json!("Sandbox: delivers")));
        assert_eq!(order["quantity"].as_i64(), Some(quantity));
        assert_eq!(order["unitPrice"].to_string(), "4.5");
        assert_eq!(cents(&order["totalAmount"]), 450 * quantity);
        assert_eq!(order["refundedAmount"].to_string(), "0");
        assert_eq!(order["currency"], "USD");
        assert_eq!(order["email"], "customer@example.com");
        assert_eq!(order["customerName"], "End Customer");
        assert_eq!(order["phone"], "88888888");
        assert_eq!(order["reference"], "PO-7");
        assert!(order["failureReason"].is_null());
        assert!(millis(&order["completedAt"]) >= millis(&order["createdAt"]));
        assert_eq!(list(&order["esims"]).len(), usize::try_from(quantity).unwrap());
        numbers.push(text(&order["orderNumber"]));
    }
    for (number, end) in numbers.iter().zip(["-000001", "-000002"]) {
        assert!(number.ends_with(end), "{number}");
        assert!(number.len() >= 11 && number[..4].bytes().all(|byte| byte.is_ascii_digit()), "{number}");
    }
    let paid: BTreeSet<(String, i64)> = transactions(&partner)
        .await
        .iter()
        .filter(|row| row["type"] == "purchase")
        .map(|row| (text(&row["orderId"]).to_owned(), cents(&row["amount"])))
        .collect();
    let expected =
        [(&orders[0], -900_i64), (&orders[1], -450)].map(|(order, paid)| (text(&order["id"]).to_owned(), paid));
    assert_eq!(paid, BTreeSet::from(expected), "one purchase per order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_needs_nothing_but_items() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "100").await;
    let bare = partner.post(CHECKOUT, basket(&plan, 1)).await.ok(201);
    let mut empty = basket(&plan, 1);
    for field in ["email", "customerName", "phone", "reference"] {
        empty[field] = json!("");
    }
    empty["maxTotal"] = Value::Null;
    let empty = partner.post(CHECKOUT, empty).await.ok(201);
    for data in [bare, empty] {
        for field in ["email", "customerName", "phone", "reference"] {
            let order = &data["orders"][0];
            assert!(order.get(field).is_some_and(Value::is_null), "{field}: {order}");
        }
    }
    assert_eq!(partner.balance().await, "91");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_shows_an_esim_for_each_bought_before_any_is_delivered() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let slow = partner.plan("Sandbox: slow").await;
    let data = partner.post(CHECKOUT, basket(&slow, 3)).await.ok(201);
    let order = &data["orders"][0];
    assert_eq!(order["status"], "processing");
    assert!(order["completedAt"].is_null());
    assert_eq!(list(&order["esims"]).len(), 3);
    assert_eq!(column(&order["esims"], "id").into_iter().collect::<BTreeSet<_>>().len(), 3);
    for esim in list(&order["esims"]) {
        assert_eq!(esim["status"], "pending");
        for field in ["iccid", "smdpAddress", "matchingId", "activationCode", "deliveredAt"] {
            assert!(esim.get(field).is_some_and(Value::is_null), "{field}: {esim}");
        }
    }
    let delivered = settled(&stage, &partner, text(&order["id"])).await;
    assert_eq!(column(&delivered["esims"], "id"), column(&order["esims"], "id"), "ids stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_tells_every_fault_and_charges_nothing() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "5000").await;
    let before = holdings(&partner).await;
    let line = json!({"planId": plan, "quantity": 1});
    let with = |field: &str, value: Value| {
        let mut body = basket(&plan, 1);
        body[field] = value;
        body
    };
    let of = |line: Value| json!({"items": [line]});
    let exact: Vec<(Value, Vec<&str>)> = vec![
        (json!({}), vec!["items required"]),
        (json!({"items": null}), vec!["items required"]),
        (json!({"items": []}), vec!["items too_few"]),
        (json!({"items": vec![line.clone(); 51]}), vec!["items too_many"]),
        (json!({"items": "all"}), vec!["items wrong_type"]),
        (of(json!(1)), vec!["items[0] wrong_type"]),
        (of(json!({})), vec!["items[0].planId required", "items[0].quantity required"]),
        (of(json!({"planId": 7, "quantity": 1})), vec!["items[0].planId wrong_type"]),
        (of(json!({"planId": UNKNOWN_ID, "quantity": 1})), vec!["items[0].planId plan_unavailable"]),
        (of(json!({"planId": plan, "quantity": 0})), vec!["items[0].quantity out_of_range"]),
        (of(json!({"planId": plan, "quantity": -1})), vec!["items[0].quantity out_of_range"]),
        (of(json!({"planId": plan, "quantity": 101})), vec!["items[0].quantity out_of_range"]),
        (of(json!({"planId": plan, "quantity": "2"})), vec!["items[0].quantity wrong_type"]),
        (of(json!({"planId": plan, "quantity": true})), vec!["items[0].quantity wrong_type"]),
        (
            of(json!({"planId": plan, "quantitty": 2})),
            vec!["items[0].quantitty unknown_field", "items[0].quantity required"],
        ),
        (
            json!({"items": [line, {"planId": plan, "quantity": 0}, {"quantity": 1}]}),
            vec!["items[1].quantity out_of_range", "items[2].planId required"],
        ),
        (with("email", json!("nobody")), vec!["email malformed"]),
        (with("email", json!("a@b@example.com")), vec!["email malformed"]),
        (with("email", json!("a b@example.com")), vec!["email malformed"]),
        (with("email", json!(5)), vec!["email wrong_type"]),
        (with("customerName", json!({})), vec!["customerName wrong_type"]),
        (with("phone", json!("call me")), vec!["phone malformed"]),
        (with("phone", json!(88_888_888)), vec!["phone wrong_type"]),
        (with("reference", json!("r".repeat(101))), vec!["reference too_long"]),
        (with("reference", json!(["r"])), vec!["reference wrong_type"]),
        (with("maxTotal", json!(4.505)), vec!["maxTotal too_many_decimals"]),
        (with("maxTotal", json!(-1)), vec!["maxTotal out_of_range"]),
        (with("maxTotal", json!("4.5")), vec!["maxTotal wrong_type"]),
        (with("customer", json!("x")), vec!["customer unknown_field"]),
        (with("Email", json!("customer@example.com")), vec!["Email unknown_field"]),
    ];
    for (body, expected) in exact {
        assert_eq!(partner.post(CHECKOUT, body.clone()).await.faults(), expected, "{body}");
    }
    // The rule is the contract's, the word for the fault is not.
    let too_many = json!({"items": vec![json!({"planId": plan, "quantity": 100}); 6]});
    let somehow = [
        (too_many, "items"),
        (of(json!({"planId": "nonsense", "quantity": 1})), "items[0].planId"),
        (of(json!({"planId": plan, "quantity": 1.5})), "items[0].quantity"),
        (with("phone", json!("1234")), "phone"),
        (with("phone", json!("123456789012345678901")), "phone"),
        (with("phone", json!("+49 (30)")), "phone"),
    ];
    for (body, path) in somehow {
        let faults = partner.post(CHECKOUT, body.clone()).await.faults();
        assert!(faults.len() == 1 && faults[0].starts_with(&format!("{path} ")), "{body}: {faults:?}");
    }
    for (amount, path) in [
        ("1e400", "maxTotal"),
        ("99999999999999999999999999", "maxTotal"),
        ("4.500000000000000000000000000000000000001", "maxTotal"),
    ] {
        let body = format!(r#"{{"items":[{{"planId":"{plan}","quantity":1}}],"maxTotal":{amount}}}"#);
        let faults = post_text(&partner, CHECKOUT, None, &body).await.faults();
        assert!(faults.len() == 1 && faults[0].starts_with(&format!("{path} ")), "{amount}: {faults:?}");
    }
    let all_at_once = json!({
        "items": [{"planId": plan, "quantity": 0}, {"plan": 1}], "email": "x", "phone": "y",
        "reference": "r".repeat(101), "maxTotal": 0.001, "note": "z"
    });
    let expected = [
        "email malformed",
        "items[0].quantity out_of_range",
        "items[1].plan unknown_field",
        "items[1].planId required",
        "items[1].quantity required",
        "maxTotal too_many_decimals",
        "note unknown_field",
        "phone malformed",
        "reference too_long",
    ];
    assert_eq!(partner.post(CHECKOUT, all_at_once).await.faults(), expected);
    assert_eq!(holdings(&partner).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_takes_everything_within_its_limits() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "5000").await;
    let fifty = json!({"items": vec![json!({"planId": plan, "quantity": 10}); 50]});
    let data = partner.post(CHECKOUT, fifty).await.ok(201);
    assert_eq!(list(&data["orders"]).len(), 50, "50 lines of 500 eSIMs in all");
    assert_eq!(data["summary"]["totalAmount"].to_string(), "2250");
    assert_eq!(column(&data["orders"], "orderNumber").into_iter().collect::<BTreeSet<_>>().len(), 50);
    let hundred = partner.post(CHECKOUT, basket(&plan, 100)).await.ok(201);
    assert_eq!(list(&hundred["orders"][0]["esims"]).len(), 100);
    for (field, value) in [
        ("phone", "12345".to_owned()),
        ("phone", "+49 (30) 123-45.67".to_owned()),
        ("phone", "12345678901234567890".to_owned()),
        ("reference", "ß".repeat(100)),
        ("customerName", "O'Brien \"Zoë\", 王".to_owned()),
        ("email", "First.Last+tag@sub.customer.example".to_owned()),
    ] {
        let mut body = basket(&plan, 1);
        body[field] = json!(value);
        let data = partner.post(CHECKOUT, body).await.ok(201);
        assert_eq!(data["orders"][0][field], json!(value));
    }
    assert_eq!(partner.balance().await, "2273");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_sells_all_lines_or_none() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "100").await;
    let before = holdings(&partner).await;
    let line = |plan: &str| json!({"planId": plan, "quantity": 1});
    let body = json!({"items": [line(&plan), line(UNKNOWN_ID), line(&plan), line(UNKNOWN_ID)]});
    let faults = partner.post(CHECKOUT, body.clone()).await.faults();
    assert_eq!(faults, ["items[1].planId plan_unavailable", "items[3].planId plan_unavailable"]);
    assert_eq!(holdings(&partner).await, before);

    // 422 comes before 409, and 409 before 402.
    let mut dear = body;
    dear["maxTotal"] = json!(1);
    partner.post(CHECKOUT, dear).await.refused(422, "validation_failed");
    let mut unpayable = basket(&plan, 100);
    unpayable["maxTotal"] = json!(1);
    partner.post(CHECKOUT, unpayable).await.refused(409, "price_changed");
    assert_eq!(holdings(&partner).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_refuses_what_the_balance_cannot_pay() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "13.49").await;
    let before = holdings(&partner).await;
    let short = partner.post(CHECKOUT, basket(&plan, 3)).await.refused(402, "insufficient_balance");
    assert_eq!(short["required"].to_string(), "13.5");
    assert_eq!(short["creditBalance"].to_string(), "13.49");
    assert_eq!(short["currency"], "USD");
    let together = json!({"items": [{"planId": plan, "quantity": 2}, {"planId": plan, "quantity": 1}]});
    partner.post(CHECKOUT, together).await.refused(402, "insufficient_balance");
    assert_eq!(holdings(&partner).await, before);

    let (exact, plan) = with_credit(&stage, "13.5").await;
    let data = exact.post(CHECKOUT, basket(&plan, 3)).await.ok(201);
    assert_eq!(data["summary"]["creditBalance"].to_string(), "0");
    assert_eq!(exact.balance().await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_goes_below_zero_only_to_the_credit_limit() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "1").await;
    let path = format!("/api/operator/tenants/{}/credit-limit", partner.id);
    stage.operator().await.put(&path, json!({"amount": 8})).await.ok(200);
    partner.post(CHECKOUT, basket(&plan, 3)).await.refused(402, "insufficient_balance");
    let data = partner.post(CHECKOUT, basket(&plan, 2)).await.ok(201);
    assert_eq!(data["summary"]["creditBalance"].to_string(), "-8");
    let refused = partner.post(CHECKOUT, basket(&plan, 1)).await.refused(402, "insufficient_balance");
    assert_eq!(refused["creditBalance"].to_string(), "-8");
    assert_eq!(partner.balance().await, "-8");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_refuses_to_be_dearer_than_max_total() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "100").await;
    let before = holdings(&partner).await;
    let mut body = basket(&plan, 2);
    body["maxTotal"] = json!(8.99);
    let data = partner.post(CHECKOUT, body.clone()).await.refused(409, "price_changed");
    assert_eq!((data["total"].to_string(), data["maxTotal"].to_string()), ("9".to_owned(), "8.99".to_owned()));
    assert_eq!(data["currency"], "USD");
    body["maxTotal"] = json!(0);
    partner.post(CHECKOUT, body.clone()).await.refused(409, "price_changed");
    assert_eq!(holdings(&partner).await, before);
    for enough in [json!(9), json!(9.5)] {
        body["maxTotal"] = enough;
        partner.post(CHECKOUT, body.clone()).await.ok(201);
    }
    assert_eq!(partner.balance().await, "82");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_refunds_what_fails_and_still_answers_201() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let (good, bad) = (partner.plan("Sandbox: delivers").await, partner.plan("Sandbox: refuses").await);
    let body = json!({"items": [{"planId": good, "quantity": 1}, {"planId": bad, "quantity": 2}]});
    let reply = partner.post(&format!("{CHECKOUT}?wait=30"), body).await;
    assert_eq!(reply.json["message"], COMPLETED);
    let data = reply.ok(201);
    assert_eq!(column(&data["orders"], "status"), ["completed", "failed"]);
    let summary = &data["summary"];
    assert_eq!(summary["totalAmount"].to_string(), "13.5");
    assert_eq!(summary["orderCount"].to_string(), "2");
    assert_eq!(summary["refundedAmount"].to_string(), "9");
    assert_eq!(summary["creditBalance"].to_string(), "95.5");
    assert_eq!(data["orders"][1]["refundedAmount"].to_string(), "9");
    assert_eq!(partner.balance().await, "95.5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_with_a_key_is_answered_again_byte_for_byte() {
    let mut stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "100").await;
    let first = partner.post_once(CHECKOUT, "key-1", basket(&plan, 2)).await;
    let data = first.ok(201);
    assert_eq!(first.header("idempotent-replayed"), "");
    assert_eq!(first.json["message"], COMPLETED);
    assert_eq!(data["orders"][0]["status"], "processing", "the 201 of the moment of the commit");
    assert_eq!(data["summary"]["creditBalance"].to_string(), "91");
    let id = only_order(&data);
    assert_eq!(settled(&stage, &partner, &id).await["status"], "completed");

    let again = partner.post_once(CHECKOUT, "key-1", basket(&plan, 2)).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (201, "true"));
    assert_eq!(again.text(), first.text());
    partner.buy(&plan, 1).await;
    let later = partner.post_once(CHECKOUT, "key-1", basket(&plan, 2)).await;
    assert_eq!(later.text(), first.text(), "also when the balance has moved on");

    stage.restart().await;
    let token = partner.token.clone().unwrap();
    let after = stage.stranger().with_token(&token);
    let restarted = after.post_once(CHECKOUT, "key-1", basket(&plan, 2)).await;
    assert_eq!((restarted.status, restarted.header("idempotent-replayed")), (201, "true"));
    assert_eq!(restarted.text(), first.text());

    stage.clock.advance(23 * 3_600_000 + 1_800_000);
    let next_day = after.post_once(CHECKOUT, "key-1", basket(&plan, 2)).await;
    assert_eq!((next_day.header("idempotent-replayed"), next_day.text()), ("true", first.text()));
    assert_eq!((after.balance().await, order_count(&after).await), ("86.5".to_owned(), 2));
    assert_eq!(order(&after, &id).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_with_a_key_knows_the_same_body_in_another_dress() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "100").await;
    let plain = format!(r#"{{"items":[{{"planId":"{plan}","quantity":1}}],"reference":"PO-7","maxTotal":9}}"#);
    let first = post_text(&partner, CHECKOUT, Some("key-1"), &plain).await;
    first.ok(201);
    let dresses = [
        plain.clone(),
        format!(
            "\n{{ \"maxTotal\" : 9 , \"reference\":\"PO-7\",\t\"items\" : [ {{\"quantity\": 1, \"planId\":\"{plan}\"}} ] }}\n"
        ),
        format!(r#"{{"items":[{{"planId":"{plan}","quantity":1}}],"reference":"\u0050O-7","maxTotal":9}}"#),
        format!(r#"{{"items":[{{"planId":"{plan}","quantity":1}}],"reference":"PO-7","maxTotal":9.00}}"#),
        format!(r#"{{"items":[{{"planId":"{plan}","quantity":1}}],"reference":"PO-7","maxTotal":9,"email":""}}"#),
        format!(r#"{{"items":[{{"planId":"{plan}","quantity":1}}],"reference":"PO-7","maxTotal":9,"phone":null}}"#),
    ];
    for dress in dresses {
        let again = post_text(&partner, CHECKOUT, Some("key-1"), &dress).await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (201, "true"), "{dress}: {}", again.text());
        assert_eq!(again.text(), first.text(), "{dress}");
    }
    assert_eq!((partner.balance().await, order_count(&partner).await), ("95.5".to_owned(), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_with_a_used_key_refuses_another_body() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "100").await;
    let other_plan = partner.plan("Sandbox: keeps").await;
    partner.post_once(CHECKOUT, "key-1", basket(&plan, 1)).await.ok(201);
    let before = holdings(&partner).await;
    let mut with_email = basket(&plan, 1);
    with_email["email"] = json!("customer@example.com");
    let mut with_limit = basket(&plan, 1);
    with_limit["maxTotal"] = json!(4.5);
    let line = json!({"planId": plan, "quantity": 1});
    let others = [
        basket(&plan, 2),
        basket(&other_plan, 1),
        with_email,
        with_limit,
        json!({"items": [line.clone(), line]}),
        basket(&plan, 100),
    ];
    for body in others {
        partner.post_once(CHECKOUT, "key-1", body).await.refused(422, "idempotency_key_reused");
    }
    assert_eq!(holdings(&partner).await, before);
    partner.post_once(CHECKOUT, "key-2", basket(&plan, 2)).await.ok(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_does_not_store_refusals_under_the_key() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "1").await;
    partner.post_once(CHECKOUT, "key-1", basket(&plan, 0)).await.refused(422, "validation_failed");
    partner.post_once(CHECKOUT, "key-1", basket(UNKNOWN_ID, 1)).await.refused(422, "validation_failed");
    let mut dear = basket(&plan, 1);
    dear["maxTotal"] = json!(1);
    partner.post_once(CHECKOUT, "key-1", dear).await.refused(409, "price_changed");
    partner.post_once(CHECKOUT, "key-1", basket(&plan, 1)).await.refused(402, "insufficient_balance");
    let path = format!("/api/operator/tenants/{}/adjustments", partner.id);
    stage.operator().await.post(&path, json!({"amount": 9, "reason": "credit"})).await.ok(201);
    let paid = partner.post_once(CHECKOUT, "key-1", basket(&plan, 1)).await;
    assert_eq!(paid.header("idempotent-replayed"), "");
    let id = only_order(&paid.ok(201));
    let again = partner.post_once(CHECKOUT, "key-1", basket(&plan, 1)).await;
    assert_eq!((again.header("idempotent-replayed"), only_order(&again.ok(201))), ("true", id));
    assert_eq!((partner.balance().await, order_count(&partner).await), ("5.5".to_owned(), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_keys_belong_to_a_tenant_a_mode_and_a_route() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "100").await;
    let (neighbour, _) = with_credit(&stage, "100").await;
    let test = stage.login(&partner.email, "test").await;
    let first = partner.post_once(CHECKOUT, "key-1", basket(&plan, 1)).await;
    first.ok(201);
    for caller in [&neighbour.caller, &test] {
        let other = caller.post_once(CHECKOUT, "key-1", basket(&plan, 1)).await;
        assert_eq!(other.header("idempotent-replayed"), "");
        assert_ne!(other.ok(201)["checkoutId"], first.json["data"]["checkoutId"]);
        assert_eq!(order_count(caller).await, 1);
    }
    let top_up = json!({"amount": 100, "paymentMethod": "bank_transfer"});
    let top_up = partner.post_once("/api/tenant/top-up", "key-1", top_up).await;
    assert_eq!(top_up.header("idempotent-replayed"), "");
    top_up.ok(201);
    // It is the tenant's key, not the session's.
    let elsewhere = stage.login(&partner.email, "live").await;
    let again = elsewhere.post_once(CHECKOUT, "key-1", basket(&plan, 1)).await;
    assert_eq!((again.header("idempotent-replayed"), again.text()), ("true", first.text()));
    assert_eq!((partner.balance().await, order_count(&partner).await), ("95.5".to_owned(), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_keys_have_one_to_255_characters() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "100").await;
    partner.post_once(CHECKOUT, &"k".repeat(256), basket(&plan, 1)).await.refused(422, "validation_failed");
    assert_eq!((partner.balance().await, order_count(&partner).await), ("100".to_owned(), 0));
    for key in ["k".repeat(255), "k".to_owned(), "with spaces & {signs} \"quoted\"".to_owned()] {
        let first = partner.post_once(CHECKOUT, &key, basket(&plan, 1)).await;
        first.ok(201);
        let again = partner.post_once(CHECKOUT, &key, basket(&plan, 1)).await;
        assert_eq!((again.header("idempotent-replayed"), again.text()), ("true", first.text()), "{key}");
    }
    // Without a key every checkout is one of its own.
    partner.post(CHECKOUT, basket(&plan, 1)).await.ok(201);
    partner.post(CHECKOUT, basket(&plan, 1)).await.ok(201);
    assert_eq!((partner.balance().await, order_count(&partner).await), ("77.5".to_owned(), 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_sent_two_hundred_times_at_once_with_one_key_is_paid_once() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "1000").await;
    let replies = at_once(&partner, 200, Some("key-1"), &basket(&plan, 2)).await;
    assert_eq!(replies.len(), 200);
    let mut answers = BTreeSet::new();
    let mut first = 0;
    for reply in &replies {
        if reply.status == 409 {
            reply.refused(409, "request_in_progress");
            assert!(!reply.header("retry-after").is_empty());
            continue;
        }
        reply.ok(201);
        answers.insert(reply.text());
        if reply.header("idempotent-replayed").is_empty() {
            first += 1;
        }
    }
    assert_eq!(answers.len(), 1, "all that were answered, were answered alike");
    assert_eq!(first, 1, "one is the first, the others are repeats");
    assert_eq!((partner.balance().await, order_count(&partner).await), ("991".to_owned(), 1));
    let purchases = transactions(&partner).await.iter().filter(|row| row["type"] == "purchase").count();
    assert_eq!(purchases, 1);
    let last = partner.post_once(CHECKOUT, "key-1", basket(&plan, 2)).await;
    assert_eq!((last.status, last.header("idempotent-replayed")), (201, "true"));
    assert!(answers.contains(&last.text()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_by_two_hundred_at_once_on_credit_for_fifty_sells_exactly_fifty() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "225").await;
    let replies = at_once(&partner, 200, None, &basket(&plan, 1)).await;
    let (paid, short): (Vec<&Reply>, Vec<&Reply>) = replies.iter().partition(|reply| reply.status == 201);
    assert_eq!((paid.len(), short.len()), (50, 150));
    for reply in short {
        let data = reply.refused(402, "insufficient_balance");
        assert_eq!(
            (data["required"].to_string(), data["creditBalance"].to_string()),
            ("4.5".to_owned(), "0".to_owned())
        );
    }
    let mut orders = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut left = BTreeSet::new();
    for reply in paid {
        let data = reply.ok(201);
        orders.insert(only_order(&data));
        numbers.insert(text(&data["orders"][0]["orderNumber"]).to_owned());
        left.insert(cents(&data["summary"]["creditBalance"]));
    }
    assert_eq!((orders.len(), numbers.len()), (50, 50));
    let one_after_the_other: BTreeSet<i64> = (0..50).map(|bought| bought * 450).collect();
    assert_eq!(left, one_after_the_other, "each answer shows the balance right after it");
    assert_eq!((partner.balance().await, order_count(&partner).await), ("0".to_owned(), 50));
    for id in &orders {
        let data = partner.get(&format!("/api/tenant/orders/{id}?wait=30")).await.ok(200);
        assert_eq!(data["order"]["status"], "completed");
    }
    let sum: i64 = transactions(&partner).await.iter().map(|row| cents(&row["amount"])).sum();
    assert_eq!((sum, partner.balance().await), (0, "0".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_with_other_keys_and_no_keys_at_once_never_overdraws() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "45").await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..60 {
        let (caller, body) = (partner.caller.clone(), basket(&plan, 1 + number % 3));
        // Each key is sent twice, so a repeat must never pay again.
        let key = format!("key-{}", number % 30);
        tasks.spawn(async move { caller.post_once(CHECKOUT, &key, body).await });
    }
    for reply in tasks.join_all().await {
        assert!([201, 402, 409].contains(&reply.status), "{}", reply.text());
    }
    let spent: i64 = transactions(&partner)
        .await
        .iter()
        .filter(|row| row["type"] == "purchase")
        .map(|row| -cents(&row["amount"]))
        .sum();
    let balance = partner.get("/api/tenant/balance").await.ok(200);
    assert!(spent <= 4_500 && spent > 4_500 - 1_350, "spent {spent}");
    assert_eq!(cents(&balance["creditBalance"]), 4_500 - spent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_waits_until_all_orders_are_final() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let (quick, slow) = (partner.plan("Sandbox: delivers").await, partner.plan("Sandbox: answer lost").await);
    // Nobody moves the clock here: only a wait that ends with the delivery can answer.
    let data = partner.post(&format!("{CHECKOUT}?wait=30"), basket(&quick, 2)).await.ok(201);
    assert_eq!(data["orders"][0]["status"], "completed");
    assert_eq!(column(&data["orders"][0]["esims"], "status"), ["delivered", "delivered"]);

    let both = json!({"items": [{"planId": quick, "quantity": 1}, {"planId": slow, "quantity": 1}]});
    let data = passing(&stage, 20, partner.post(&format!("{CHECKOUT}?wait=30"), both)).await.ok(201);
    assert_eq!(column(&data["orders"], "status"), ["completed", "completed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_waits_no_longer_than_asked() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: unknown").await;
    for without_waiting in ["", "?wait=0", "?wait="] {
        // Nobody moves the clock: only an answer at once can end this.
        let reply = partner.post(&format!("{CHECKOUT}{without_waiting}"), basket(&plan, 1)).await;
        assert_eq!(reply.ok(201)["orders"][0]["status"], "processing");
    }
    let path = format!("{CHECKOUT}?wait=2");
    let (reply, passed) = timed(&stage, 20, partner.post(&path, basket(&plan, 1))).await;
    let data = reply.ok(201);
    assert_eq!(reply.json["message"], COMPLETED);
    assert_eq!(data["orders"][0]["status"], "processing", "what is there");
    assert!((2_000..20_000).contains(&passed), "answered after {passed} ms");
    assert_eq!(data["summary"]["creditBalance"].to_string(), "82");

    let before = holdings(&partner).await;
    for wait in ["31", "-1"] {
        let reply = partner.post(&format!("{CHECKOUT}?wait={wait}"), basket(&plan, 1)).await;
        assert_eq!(reply.faults(), ["wait out_of_range"], "{wait}");
    }
    for wait in ["long", "1.5"] {
        let faults = partner.post(&format!("{CHECKOUT}?wait={wait}"), basket(&plan, 1)).await.faults();
        assert!(faults.len() == 1 && faults[0].starts_with("wait "), "{wait}: {faults:?}");
    }
    let faults = partner.post(&format!("{CHECKOUT}?timeout=3"), basket(&plan, 1)).await.faults();
    assert_eq!(faults, ["timeout unknown_field"]);
    assert_eq!(holdings(&partner).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_repeated_with_wait_shows_the_orders_as_they_are_then() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: slow").await;
    let bad = partner.plan("Sandbox: refuses").await;
    let body = json!({"items": [{"planId": plan, "quantity": 1}, {"planId": bad, "quantity": 1}]});
    let first = partner.post_once(CHECKOUT, "key-1", body.clone()).await;
    let data = first.ok(201);
    assert_eq!(column(&data["orders"], "status"), ["processing", "processing"]);
    assert_eq!(data["summary"]["creditBalance"].to_string(), "91");
    for id in column(&data["orders"], "id") {
        settled(&stage, &partner, id).await;
    }

    let path = format!("{CHECKOUT}?wait=30");
    let waited = partner.post_once(&path, "key-1", body.clone()).await;
    assert_eq!((waited.status, waited.header("idempotent-replayed")), (201, "true"));
    assert_eq!(waited.json["message"], COMPLETED);
    let now = waited.ok(201);
    assert_eq!(now["checkoutId"], data["checkoutId"]);
    assert_eq!(column(&now["orders"], "id"), column(&data["orders"], "id"));
    assert_eq!(column(&now["orders"], "status"), ["completed", "failed"]);
    assert_eq!(now["summary"]["refundedAmount"].to_string(), "4.5");
    assert_eq!(now["summary"]["creditBalance"].to_string(), "95.5");

    // Without `wait` it is the stored 201 again: `wait` is no part of the request's identity.
    assert_eq!(partner.post_once(CHECKOUT, "key-1", body).await.text(), first.text());
    assert_eq!((partner.balance().await, order_count(&partner).await), ("95.5".to_owned(), 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_waiters_hold_nobody_up() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "500").await;
    let unknown = partner.plan("Sandbox: unknown").await;
    let id = only_order(&partner.post(CHECKOUT, basket(&unknown, 1)).await.ok(201));
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..150 {
        let (caller, path) = (partner.caller.clone(), format!("/api/tenant/orders/{id}?wait=30"));
        waiters.spawn(async move { caller.get(&path).await });
    }
    for _ in 0..10 {
        assert_eq!(partner.buy(&plan, 1).await["orders"][0]["status"], "completed");
    }
    assert!(waiters.try_join_next().is_none(), "nobody was answered before the time");
    for reply in passing(&stage, 250, waiters.join_all()).await {
        assert_eq!(reply.ok(200)["order"]["status"], "processing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkout_is_seen_by_every_read_at_once() {
    let stage = Stage::start().await;
    let (partner, plan) = with_credit(&stage, "200").await;
    let mut balance = 20_000;
    for number in 0..20 {
        let mut body = basket(&plan, 1);
        body["email"] = json!(format!("customer{number}@customer.example"));
        body["reference"] = json!(format!("PO-{number}-end"));
        let data = partner.post(CHECKOUT, body).await.ok(201);
        balance -= 450;
        let (id, order_number) = (only_order(&data), text(&data["orders"][0]["orderNumber"]).to_owned());
        for filter in [
            "limit=1".to_owned(),
            format!("email=customer{number}@customer.example"),
            format!("reference=PO-{number}-end"),
            format!("q={order_number}"),
            format!("q=po-{number}-e"),
            format!("q=customer{number}@"),
        ] {
            let found = partner.get(&format!("/api/tenant/orders?{filter}")).await.ok(200);
            assert_eq!(column(&found["orders"], "id"), [id.as_str()], "{filter}");
        }
        let now = partner.get("/api/tenant/balance").await.ok(200);
        assert_eq!(cents(&now["creditBalance"]), balance);
        assert_eq!(transactions(&partner).await[0]["orderId"], json!(id));
    }
}
