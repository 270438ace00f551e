//! The operator decides what programs must not: about money that is missing, orders nobody can
//! vouch for, and partners who must be stopped. Every decision counts once and is written down.

use crate::acts::{
    UNKNOWN_ID, bank_transfer, dead_job, done, fault_paths, find_text, is_id, is_time, prove, rows, string, suspend,
    the_ledger_is_clean,
};
use crate::stage::{Caller, OPERATOR_EMAIL, Reply, Stage, password};
use crate::telling::{cents, order as shown, sales, settled, transactions};
use serde_json::{Value, json};

const CHECKOUT: &str = "/api/tenant/orders/checkout";

fn adjustments(tenant: &str) -> String {
    format!("/api/operator/tenants/{tenant}/adjustments")
}

fn credit_limit(tenant: &str) -> String {
    format!("/api/operator/tenants/{tenant}/credit-limit")
}

fn basket(plan: &str, quantity: u32) -> Value {
    json!({"items": [{"planId": plan, "quantity": quantity}]})
}

/// Buys without waiting and returns the order's id.
async fn order_of(caller: &Caller, plan: &str, quantity: u32) -> String {
    let bought = caller.post(CHECKOUT, basket(plan, quantity)).await.ok(201);
    string(&bought["orders"][0]["id"])
}

/// Buys what is delivered at once and returns the final order.
async fn delivered(stage: &Stage, caller: &Caller, quantity: u32) -> Value {
    let plan = caller.plan("Sandbox: delivers").await;
    let order = order_of(caller, &plan, quantity).await;
    let order = settled(stage, caller, &order).await;
    assert_eq!(order["status"], json!("completed"), "{order}");
    order
}

/// An order that only the operator can decide, and its dead job.
async fn undecided(stage: &Stage, operator: &Caller, caller: &Caller, quantity: u32) -> (String, Value) {
    let plan = caller.plan("Sandbox: unknown").await;
    let order = order_of(caller, &plan, quantity).await;
    let job = dead_job(stage, operator, &order).await;
    (order, job)
}

async fn audit_log(operator: &Caller) -> Vec<Value> {
    rows(&operator.get("/api/operator/audit-log?limit=1000").await.ok(200))
}

fn of_kind(list: &[Value], kind: &str) -> usize {
    list.iter().filter(|transaction| transaction["type"] == kind).count()
}

// ---- who the operator is

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_have_accounts_and_tokens_of_their_own() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    let partner = stage.partner().await;
    let login = "/api/operator/login";
    let wrong = stranger.post(login, json!({"email": OPERATOR_EMAIL, "password": "not the password"})).await;
    wrong.refused(401, "invalid_credentials");
    let unknown = stranger.post(login, json!({"email": "nobody@example.com", "password": "not the password"})).await;
    unknown.refused(401, "invalid_credentials");
    assert_eq!(wrong.bytes, unknown.bytes, "which of the two was wrong is not told");
    let tenants_login = json!({"email": partner.email, "password": password()});
    stranger.post(login, tenants_login).await.refused(401, "invalid_credentials");
    let operators_login = json!({"email": OPERATOR_EMAIL, "password": password()});
    stranger.post("/api/tenant/login", operators_login).await.refused(401, "invalid_credentials");
    assert_eq!(stranger.post(login, json!({})).await.faults(), ["email required", "password required"]);

    let operator = stage.operator().await;
    operator.get("/api/operator/tenants").await.ok(200);
    operator.get("/api/tenant/profile").await.refused(401, "unauthorized");
    partner.get("/api/operator/tenants").await.refused(401, "unauthorized");
}

// ---- tenants

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_are_listed_searched_and_shown() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let first = stage.partner().await;
    let second = stage.partner().await;
    let third = stage.partner().await;
    let listed = rows(&operator.get("/api/operator/tenants").await.ok(200));
    let ids: Vec<String> = listed.iter().map(|tenant| string(&tenant["id"])).collect();
    let at = |id: &str| ids.iter().position(|listed| listed == id).unwrap_or_else(|| panic!("{id} is missing"));
    assert!(at(&third.id) < at(&second.id) && at(&second.id) < at(&first.id), "newest first: {ids:?}");

    let tenant = operator.get(&format!("/api/operator/tenants/{}", second.id)).await.ok(200)["tenant"].clone();
    assert_eq!(tenant["id"], second.id.as_str());
    assert_eq!(tenant["subdomain"], second.subdomain.as_str());
    assert_eq!(tenant["contactEmail"], second.email.as_str());
    assert_eq!(tenant["status"], json!("active"));

    for query in [second.subdomain.as_str(), second.email.as_str()] {
        let found = rows(&operator.get(&format!("/api/operator/tenants?q={query}")).await.ok(200));
        assert_eq!(found.len(), 1, "{query}: {found:?}");
        assert_eq!(found[0]["id"], second.id.as_str());
    }
    let found = rows(&operator.get("/api/operator/tenants?q=nobody-at-all").await.ok(200));
    assert!(found.is_empty(), "{found:?}");

    let path = format!("/api/operator/tenants/{UNKNOWN_ID}");
    let unknown = operator.get(&path).await;
    unknown.refused(404, "not_found");
    assert_eq!(operator.get("/api/operator/tenants/nonsense").await.bytes, unknown.bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_tenant_may_look_and_not_change_and_its_paid_orders_go_on() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("100").await;
    let order = delivered(&stage, &partner, 1).await;
    let slow = order_of(&partner, &partner.plan("Sandbox: slow").await, 1).await;
    let (balance, plan) = (partner.balance().await, string(&order["planId"]));
    let path = format!("/api/operator/tenants/{}/suspend", partner.id);
    assert_eq!(operator.post(&path, json!({})).await.faults(), ["reason required"]);
    partner.get("/api/tenant/profile").await.ok(200);
    suspend(&operator, &partner.id).await;
    operator.post(&path, json!({"reason": "again"})).await.refused(409, "already_decided");

    let again = stage.login(&partner.email, "live").await;
    for caller in [&again, &partner.caller] {
        let tenant = caller.get("/api/tenant/profile").await.ok(200)["tenant"].clone();
        assert_eq!(tenant["status"], json!("suspended"));
        caller.get("/api/tenant/orders").await.ok(200);
        caller.get("/api/tenant/transactions").await.ok(200);
        caller.post(CHECKOUT, basket(&plan, 1)).await.refused(403, "tenant_suspended");
        let transfer = json!({"amount": 100, "paymentMethod": "bank_transfer"});
        caller.post("/api/tenant/top-up", transfer).await.refused(403, "tenant_suspended");
        let cancel = format!("/api/tenant/orders/{}/cancel", string(&order["id"]));
        caller.post(&cancel, json!({})).await.refused(403, "tenant_suspended");
        caller.patch("/api/tenant/profile", json!({"name": "Another"})).await.refused(403, "tenant_suspended");
        let key = json!({"name": "key", "mode": "live", "scopes": ["read"]});
        caller.post("/api/tenant/api-keys", key).await.refused(403, "tenant_suspended");
    }
    assert_eq!(partner.balance().await, balance);
    assert_eq!(rows(&partner.get("/api/tenant/orders").await.ok(200)).len(), 2);
    assert!(rows(&partner.get("/api/tenant/top-up").await.ok(200)).is_empty());
    let qr = string(&order["esims"][0]["qrCodeUrl"]);
    let qr_path = qr.splitn(4, '/').nth(3).map(|rest| format!("/{rest}")).expect("an absolute address");
    assert_eq!(stage.stranger().get(&qr_path).await.status, 200, "travellers keep their QR codes");
    assert_eq!(settled(&stage, &partner, &slow).await["status"], json!("completed"), "it was paid before");

    let reinstate = format!("/api/operator/tenants/{}/reinstate", partner.id);
    done(&operator.post(&reinstate, json!({"reason": "All is settled."})).await);
    operator.post(&reinstate, json!({"reason": "again"})).await.refused(409, "already_decided");
    partner.post(CHECKOUT, basket(&plan, 1)).await.ok(201);
}

// ---- balances

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adjustments_are_signed_and_belong_to_one_mode() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    let test = stage.login(&partner.email, "test").await;
    let path = adjustments(&partner.id);
    let given = operator.post(&path, json!({"amount": 10, "reason": "welcome"})).await.ok(201)["transaction"].clone();
    assert!(is_id(&given["id"]) && is_time(&given["createdAt"]), "{given}");
    assert_eq!(given["type"], json!("adjustment"));
    assert_eq!(given["amount"].to_string(), "10");
    assert_eq!(given["balanceAfter"].to_string(), "10");
    assert_eq!(given["currency"], json!("USD"));
    let taken = operator.post(&path, json!({"amount": -2.5, "reason": "a mistake"})).await.ok(201);
    assert_eq!(taken["transaction"]["amount"].to_string(), "-2.5");
    assert_eq!(taken["transaction"]["balanceAfter"].to_string(), "7.5");
    assert_eq!(partner.balance().await, "7.5");
    assert_eq!(test.balance().await, "1000");

    let played = json!({"amount": 5, "reason": "for a demonstration", "mode": "test"});
    operator.post(&path, played).await.ok(201);
    assert_eq!(test.balance().await, "1005");
    assert_eq!(partner.balance().await, "7.5");
    let list = transactions(&partner).await;
    assert_eq!(list.len(), 2);
    assert_eq!(list[1]["id"], given["id"]);

    assert_eq!(operator.post(&path, json!({})).await.faults(), ["amount required", "reason required"]);
    let odd = json!({"amount": 1.005, "reason": "x", "mode": "play", "note": "y"});
    assert_eq!(
        operator.post(&path, odd).await.faults(),
        ["amount too_many_decimals", "mode not_in_list", "note unknown_field"]
    );
    operator.post(&adjustments(UNKNOWN_ID), json!({"amount": 1, "reason": "x"})).await.refused(404, "not_found");
    assert_eq!(partner.balance().await, "7.5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_move_money_count_once_under_one_idempotency_key() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    let neighbour = stage.partner().await;
    let path = adjustments(&partner.id);
    let body = json!({"amount": 20, "reason": "once"});
    let first = operator.post_once(&path, "key-1", body.clone()).await;
    first.ok(201);
    let again = operator.post_once(&path, "key-1", body.clone()).await;
    assert_eq!((again.status, &again.bytes), (201, &first.bytes));
    assert_eq!(again.header("idempotent-replayed"), "true");
    let other = json!({"amount": 21, "reason": "once"});
    operator.post_once(&path, "key-1", other).await.refused(422, "idempotency_key_reused");
    assert_eq!(partner.balance().await, "20");
    assert_eq!(transactions(&partner).await.len(), 1);

    let mut tasks = Vec::new();
    for _ in 0..10 {
        let (operator, path, body) = (operator.clone(), path.clone(), body.clone());
        tasks.push(tokio::spawn(async move { operator.post_once(&path, "key-2", body).await }));
    }
    for task in tasks {
        let reply = task.await.expect("an answer");
        assert!(reply.status == 201 || reply.json["error"] == "request_in_progress", "{}", reply.text());
    }
    assert_eq!(partner.balance().await, "40");

    let top_up = bank_transfer(&partner, "60").await;
    let approve = format!("/api/operator/top-ups/{top_up}/approve");
    let approved = operator.post_once(&approve, "key-3", json!({})).await;
    done(&approved);
    let repeated = operator.post_once(&approve, "key-3", json!({})).await;
    assert_eq!((repeated.status, &repeated.bytes), (approved.status, &approved.bytes));
    operator.post_once(&approve, "key-4", json!({})).await.refused(409, "already_decided");
    assert_eq!(partner.balance().await, "100");

    let order = delivered(&stage, &partner, 2).await;
    let refund = format!("/api/operator/orders/{}/refund", string(&order["id"]));
    let body = json!({"amount": 1, "reason": "goodwill"});
    let refunded = operator.post_once(&refund, "key-5", body.clone()).await;
    done(&refunded);
    let repeated = operator.post_once(&refund, "key-5", body).await;
    assert_eq!((repeated.status, &repeated.bytes), (refunded.status, &refunded.bytes));
    assert_eq!(partner.balance().await, "92");
    assert_eq!(neighbour.balance().await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credit_limit_lets_checkouts_go_below_zero_to_just_that_limit() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    let plan = partner.plan("Sandbox: delivers").await;
    partner.post(CHECKOUT, basket(&plan, 1)).await.refused(402, "insufficient_balance");
    let path = credit_limit(&partner.id);
    assert_eq!(operator.put(&path, json!({"amount": -1})).await.faults(), ["amount out_of_range"]);
    assert_eq!(operator.put(&path, json!({"amount": 9.001})).await.faults(), ["amount too_many_decimals"]);
    assert_eq!(operator.put(&path, json!({})).await.faults(), ["amount required"]);
    done(&operator.put(&path, json!({"amount": 9})).await);

    let bought = partner.post(CHECKOUT, basket(&plan, 2)).await.ok(201);
    assert_eq!(bought["summary"]["creditBalance"].to_string(), "-9");
    let data = partner.post(CHECKOUT, basket(&plan, 1)).await.refused(402, "insufficient_balance");
    assert_eq!(data["required"].to_string(), "4.5");
    assert_eq!(data["creditBalance"].to_string(), "-9");
    let balance = partner.get("/api/tenant/balance").await.ok(200);
    assert_eq!(balance["creditBalance"].to_string(), "-9");
    assert_eq!(balance["creditLimit"].to_string(), "9");

    done(&operator.put(&path, json!({"amount": 13.49})).await);
    partner.post(CHECKOUT, basket(&plan, 1)).await.refused(402, "insufficient_balance");
    done(&operator.put(&path, json!({"amount": 13.5})).await);
    partner.post(CHECKOUT, basket(&plan, 1)).await.ok(201);
    assert_eq!(partner.balance().await, "-13.5");
    assert_eq!(of_kind(&transactions(&partner).await, "purchase"), 2, "a limit is no transaction");
}

// ---- plans

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_price_holds_for_later_orders_only() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let before = delivered(&stage, &partner, 1).await;
    let path = format!("/api/operator/plans/{plan}/price");
    for (body, fault) in [
        (json!({}), "price required"),
        (json!({"price": 1.005}), "price too_many_decimals"),
        (json!({"price": -1}), "price out_of_range"),
        (json!({"price": "6"}), "price wrong_type"),
    ] {
        assert_eq!(operator.put(&path, body).await.faults(), [fault]);
    }
    done(&operator.put(&path, json!({"price": 6.25})).await);
    let data = partner.get("/api/tenant/available-plans").await.ok(200);
    let shown_plan = rows(&data).into_iter().find(|row| row["id"] == plan.as_str()).expect("still for sale");
    assert_eq!(shown_plan["price"].to_string(), "6.25");
    let listed = rows(&operator.get("/api/operator/plans?limit=1000").await.ok(200));
    let listed = listed.into_iter().find(|row| row["id"] == plan.as_str()).expect("the operator sees it too");
    assert_eq!(listed["price"].to_string(), "6.25");

    let after = delivered(&stage, &partner, 2).await;
    assert_eq!(after["unitPrice"].to_string(), "6.25");
    assert_eq!(after["totalAmount"].to_string(), "12.5");
    let old = shown(&partner, &string(&before["id"])).await;
    assert_eq!(old["unitPrice"].to_string(), "4.5");
    assert_eq!(old["totalAmount"].to_string(), "4.5");
    assert_eq!(partner.balance().await, "83");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawn_plan_can_no_longer_be_bought_and_orders_keep_its_name() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("100").await;
    let order = delivered(&stage, &partner, 1).await;
    let plan = string(&order["planId"]);
    let count = rows(&partner.get("/api/tenant/available-plans").await.ok(200)).len();
    let path = format!("/api/operator/plans/{plan}/withdraw");
    done(&operator.post(&path, json!({})).await);
    operator.post(&path, json!({})).await.refused(409, "already_decided");

    let left = rows(&partner.get("/api/tenant/available-plans").await.ok(200));
    assert_eq!(left.len(), count - 1);
    assert!(left.iter().all(|row| row["id"] != plan.as_str()));
    let refused = partner.post(CHECKOUT, basket(&plan, 1)).await;
    assert_eq!(refused.faults(), ["items[0].planId plan_unavailable"]);
    let kept = shown(&partner, &string(&order["id"])).await;
    assert_eq!(kept["planName"], json!("Sandbox: delivers"));
    assert_eq!(kept["unitPrice"].to_string(), "4.5");
    assert_eq!(partner.balance().await, "95.5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imported_plans_are_on_sale_and_importing_again_doubles_none() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("20").await;
    let path = "/api/operator/plans/import";
    let before = rows(&partner.get("/api/tenant/available-plans").await.ok(200));
    let plan = json!({
        "provider": "sandbox", "upstreamPlanId": "of-a-story", "name": "A plan of a story", "type": "local",
        "countries": ["XK"], "dataMb": 1_024, "validityDays": 7, "price": 7.25,
    });
    assert_eq!(operator.post(path, json!({})).await.faults(), ["plans required"]);
    let mut odd = plan.clone();
    odd["price"] = json!(7.255);
    odd["colour"] = json!("red");
    assert_eq!(
        operator.post(path, json!({"plans": [odd]})).await.faults(),
        ["plans[0].colour unknown_field", "plans[0].price too_many_decimals"]
    );
    let mut nobodys = plan.clone();
    nobodys["provider"] = json!("nobody");
    let refused = operator.post(path, json!({"plans": [plan, nobodys]})).await;
    assert_eq!(fault_paths(&refused), ["plans[1].provider"], "all or none");
    assert_eq!(rows(&partner.get("/api/tenant/available-plans").await.ok(200)), before);

    done(&operator.post(path, json!({"plans": [plan]})).await);
    let first = partner.plan("A plan of a story").await;
    let mut cheaper = plan;
    cheaper["price"] = json!(6.5);
    done(&operator.post(path, json!({"plans": [cheaper]})).await);
    let after = rows(&partner.get("/api/tenant/available-plans").await.ok(200));
    assert_eq!(after.len(), before.len() + 1);
    let listed = after.iter().find(|row| row["id"] == first.as_str()).expect("the same plan under the same id");
    assert_eq!(listed["price"].to_string(), "6.5");

    // The sandbox does not know it: what cannot be fulfilled is given back.
    let order = order_of(&partner, &first, 1).await;
    assert_eq!(settled(&stage, &partner, &order).await["status"], json!("failed"));
    assert_eq!(partner.balance().await, "20");
}

// ---- orders

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_of_all_tenants_are_seen_with_their_placements() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let first = stage.partner_with("100").await;
    let second = stage.partner_with("100").await;
    let one = delivered(&stage, &first, 2).await;
    let two = delivered(&stage, &second, 1).await;
    let (one_id, two_id) = (string(&one["id"]), string(&two["id"]));
    let ids = |data: Value| -> Vec<String> { rows(&data).iter().map(|row| string(&row["id"])).collect() };

    let all = ids(operator.get("/api/operator/orders").await.ok(200));
    assert_eq!(all, [two_id.clone(), one_id.clone()]);
    let path = format!("/api/operator/orders?tenantId={}", first.id);
    assert_eq!(ids(operator.get(&path).await.ok(200)), std::slice::from_ref(&one_id));
    let path = format!("/api/operator/orders?tenantId={}&status=failed", first.id);
    assert!(ids(operator.get(&path).await.ok(200)).is_empty());
    let iccid = string(&two["esims"][0]["iccid"]);
    let path = format!("/api/operator/orders?iccid={iccid}");
    assert_eq!(ids(operator.get(&path).await.ok(200)), [two_id]);
    let path = "/api/operator/orders?tenantId=nonsense";
    assert_eq!(fault_paths(&operator.get(path).await), ["tenantId"]);

    let data = operator.get(&format!("/api/operator/orders/{one_id}")).await.ok(200);
    assert_eq!(data["order"]["id"], one_id.as_str());
    assert_eq!(data["order"]["orderNumber"], one["orderNumber"]);
    let placements = if data["placements"].is_array() { &data["placements"] } else { &data["order"]["placements"] };
    assert_eq!(placements.as_array().expect("placements").len(), 1);
    assert!(find_text(placements, &format!("{one_id}-1")).is_some(), "our reference: {placements}");
    let heard = placements.to_string();
    for esim in one["esims"].as_array().unwrap() {
        assert!(heard.contains(&string(&esim["iccid"])), "the raw answer: {placements}");
        assert!(!heard.contains(&string(&esim["activationCode"])), "secrets are removed: {placements}");
    }
    let own = first.get(&format!("/api/tenant/orders/{one_id}")).await.ok(200);
    assert!(!own.to_string().contains("placements"), "partners do not see upstreams: {own}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refund_gives_back_chosen_esims_at_their_unit_price_once() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("100").await;
    let order = delivered(&stage, &partner, 3).await;
    let id = string(&order["id"]);
    let esims: Vec<String> = order["esims"].as_array().unwrap().iter().map(|esim| string(&esim["id"])).collect();
    let path = format!("/api/operator/orders/{id}/refund");
    assert_eq!(partner.balance().await, "86.5");

    done(&operator.post(&path, json!({"esimIds": [esims[0], esims[2]], "reason": "no network"})).await);
    let after = shown(&partner, &id).await;
    assert_eq!(after["status"], json!("completed"), "the status stays");
    assert_eq!(after["refundedAmount"].to_string(), "9");
    assert_eq!(after["totalAmount"].to_string(), "13.5");
    assert_eq!(partner.balance().await, "95.5");
    let newest = transactions(&partner).await[0].clone();
    assert_eq!(newest["type"], json!("refund"));
    assert_eq!(newest["orderId"], id.as_str());

    let refusals = [
        json!({"esimIds": [esims[0]], "reason": "again"}),
        json!({"esimIds": [esims[1], UNKNOWN_ID], "reason": "one of another order"}),
        json!({"esimIds": [esims[1]], "amount": 4.5, "reason": "both"}),
    ];
    for body in refusals {
        let reply = operator.post(&path, body.clone()).await;
        assert!([404, 409, 422].contains(&reply.status), "{body}: {}", reply.text());
        assert_eq!(reply.json["success"], json!(false));
    }
    assert_eq!(shown(&partner, &id).await["refundedAmount"].to_string(), "9");
    assert_eq!(partner.balance().await, "95.5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refund_by_amount_never_gives_back_more_than_was_paid() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("100").await;
    let order = delivered(&stage, &partner, 2).await;
    let path = format!("/api/operator/orders/{}/refund", string(&order["id"]));
    assert_eq!(operator.post(&path, json!({"amount": 1})).await.faults(), ["reason required"]);
    for (amount, code) in [(json!(-1), "out_of_range"), (json!(1.001), "too_many_decimals"), (json!("1"), "wrong_type")]
    {
        let reply = operator.post(&path, json!({"amount": amount, "reason": "goodwill"})).await;
        assert_eq!(reply.faults(), [format!("amount {code}")]);
    }
    let too_much = |reply: Reply| {
        assert!([409, 422].contains(&reply.status), "{}", reply.text());
        assert_eq!(reply.json["success"], json!(false));
    };
    too_much(operator.post(&path, json!({"amount": 9.01, "reason": "goodwill"})).await);
    done(&operator.post(&path, json!({"amount": 8.99, "reason": "goodwill"})).await);
    too_much(operator.post(&path, json!({"amount": 0.02, "reason": "goodwill"})).await);
    assert_eq!(partner.balance().await, "99.99");
    done(&operator.post(&path, json!({"amount": 0.01, "reason": "goodwill"})).await);
    too_much(operator.post(&path, json!({"amount": 0.01, "reason": "goodwill"})).await);
    let after = shown(&partner, &string(&order["id"])).await;
    assert_eq!(after["refundedAmount"].to_string(), "9");
    assert_eq!(after["status"], json!("completed"));
    assert_eq!(partner.balance().await, "100");
    assert_eq!(of_kind(&transactions(&partner).await, "refund"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunds_at_once_never_give_back_more_than_was_paid() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("45").await;
    let order = delivered(&stage, &partner, 10).await;
    let path = format!("/api/operator/orders/{}/refund", string(&order["id"]));
    let mut tasks = Vec::new();
    for _ in 0..10 {
        let (operator, path) = (operator.clone(), path.clone());
        tasks.push(tokio::spawn(async move {
            operator.post(&path, json!({"amount": 10, "reason": "goodwill"})).await.status
        }));
    }
    let mut given = 0;
    for task in tasks {
        given += i32::from(task.await.expect("an answer") < 300);
    }
    assert_eq!(given, 4);
    assert_eq!(partner.balance().await, "40");
    assert_eq!(shown(&partner, &string(&order["id"])).await["refundedAmount"].to_string(), "40");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_operator_gave_back_a_cancellation_does_not_give_back_again() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("9").await;
    let order = delivered(&stage, &partner, 2).await;
    let id = string(&order["id"]);
    let refund = json!({"amount": 9, "reason": "no network"});
    done(&operator.post(&format!("/api/operator/orders/{id}/refund"), refund).await);
    assert_eq!(partner.balance().await, "9");
    let cancel = partner.post(&format!("/api/tenant/orders/{id}/cancel?wait=20"), json!({})).await;
    assert!(cancel.status == 202 || cancel.status == 409, "{}", cancel.text());
    assert_eq!(shown(&partner, &id).await["refundedAmount"].to_string(), "9");
    assert_eq!(partner.balance().await, "9");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_did_not_come_has_nothing_left_to_refund() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("9").await;
    let order = order_of(&partner, &partner.plan("Sandbox: refuses").await, 2).await;
    let order = settled(&stage, &partner, &order).await;
    assert_eq!(order["status"], json!("failed"));
    assert_eq!(partner.balance().await, "9");
    let path = format!("/api/operator/orders/{}/refund", string(&order["id"]));
    for body in [
        json!({"amount": 0.01, "reason": "goodwill"}),
        json!({"esimIds": [order["esims"][0]["id"]], "reason": "goodwill"}),
    ] {
        let reply = operator.post(&path, body).await;
        assert!([409, 422].contains(&reply.status), "{}", reply.text());
    }
    assert_eq!(partner.balance().await, "9");
    assert_eq!(of_kind(&transactions(&partner).await, "refund"), 1);
}

// ---- orders nobody can vouch for

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_nobody_can_vouch_for_waits_for_the_operator_untouched() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("9").await;
    let (order, job) = undecided(&stage, &operator, &partner, 2).await;
    assert!(is_id(&job["id"]), "{job}");
    assert_eq!(job["state"], json!("dead"));
    assert_eq!(shown(&partner, &order).await["status"], json!("processing"));
    assert_eq!(partner.balance().await, "0", "no blind refund");
    assert!(sales(&operator, &order).await.is_empty());

    let cancel = partner.post(&format!("/api/tenant/orders/{order}/cancel"), json!({})).await;
    cancel.refused(409, "not_cancellable");
    for path in
        [format!("/api/operator/jobs/{}/retry", string(&job["id"])), format!("/api/operator/orders/{order}/retry")]
    {
        done(&operator.post(&path, json!({})).await);
        let dead = dead_job(&stage, &operator, &order).await;
        assert_eq!(dead["orderId"], order.as_str());
        assert_eq!(shown(&partner, &order).await["status"], json!("processing"));
        assert_eq!(partner.balance().await, "0");
        let data = operator.get(&format!("/api/operator/orders/{order}")).await.ok(200);
        let placements = if data["placements"].is_array() { &data["placements"] } else { &data["order"]["placements"] };
        assert_eq!(placements.as_array().expect("placements").len(), 1, "no blind second purchase: {placements}");
    }
    let last = dead_job(&stage, &operator, &order).await;
    let abandon = operator.post(&format!("/api/operator/jobs/{}/abandon", string(&last["id"])), json!({})).await;
    assert_eq!(abandon.status, 409, "it may have been sold: {}", abandon.text());
    assert_eq!(dead_job(&stage, &operator, &order).await["id"], last["id"]);
    assert_eq!(shown(&partner, &order).await["status"], json!("processing"));
    assert_eq!(partner.balance().await, "0", "giving up refunds nothing that may have been sold");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_job_is_tried_again_or_given_up() {
    let stage = Stage::with(&[("ESIMD_FULFILMENT_MAX_ATTEMPTS", "1")]).await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("9").await;
    let busy = partner.plan("Sandbox: busy").await;

    let patient = order_of(&partner, &busy, 1).await;
    for _ in 0..2 {
        let job = dead_job(&stage, &operator, &patient).await;
        assert_eq!(shown(&partner, &patient).await["status"], json!("processing"));
        let path = format!("/api/operator/jobs/{}/retry", string(&job["id"]));
        done(&operator.post(&path, json!({})).await);
    }
    assert_eq!(settled(&stage, &partner, &patient).await["status"], json!("completed"));
    assert_eq!(sales(&operator, &patient).await.len(), 1, "sold once");

    let hopeless = order_of(&partner, &busy, 1).await;
    assert_eq!(partner.balance().await, "0");
    let job = dead_job(&stage, &operator, &hopeless).await;
    let path = format!("/api/operator/jobs/{}/abandon", string(&job["id"]));
    let before = audit_log(&operator).await;
    done(&operator.post(&path, json!({})).await);
    recorded(&operator, &before, "abandon").await;
    let given_up = settled(&stage, &partner, &hopeless).await;
    assert_eq!(given_up["status"], json!("failed"), "the upstream said that it sold nothing");
    assert_eq!(given_up["refundedAmount"].to_string(), "4.5");
    assert_eq!(partner.balance().await, "4.5");
    assert!(rows(&operator.get("/api/operator/jobs?state=dead").await.ok(200)).is_empty());
    assert!(sales(&operator, &hopeless).await.is_empty());
    let again = operator.post(&path, json!({})).await;
    assert!([404, 409].contains(&again.status), "{}", again.text());
    assert_eq!(partner.balance().await, "4.5");
    the_ledger_is_clean(&operator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resolve_not_sold_refunds_all_once() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("9").await;
    let (order, _) = undecided(&stage, &operator, &partner, 2).await;
    let path = format!("/api/operator/orders/{order}/resolve");
    assert_eq!(operator.post(&path, json!({})).await.faults(), ["outcome required", "reason required"]);
    let odd = json!({"outcome": "perhaps", "reason": "who knows"});
    assert_eq!(operator.post(&path, odd).await.faults(), ["outcome not_in_list"]);
    assert_eq!(partner.balance().await, "0");

    done(&operator.post(&path, json!({"outcome": "not_sold", "reason": "They said so on the phone."})).await);
    let after = shown(&partner, &order).await;
    assert_eq!(after["status"], json!("failed"));
    assert_eq!(after["refundedAmount"].to_string(), "9");
    assert_eq!(partner.balance().await, "9");
    let dead = rows(&operator.get("/api/operator/jobs?state=dead").await.ok(200));
    assert!(dead.iter().all(|job| job["orderId"] != order.as_str()), "{dead:?}");

    for outcome in ["not_sold", "sold"] {
        let reply = operator.post(&path, json!({"outcome": outcome, "reason": "again"})).await;
        assert_eq!(reply.status, 409, "{}", reply.text());
        assert!(
            ["not_unknown", "already_decided"].contains(&string(&reply.json["error"]).as_str()),
            "{}",
            reply.text()
        );
    }
    assert_eq!(shown(&partner, &order).await, after);
    assert_eq!(partner.balance().await, "9");
    assert_eq!(of_kind(&transactions(&partner).await, "refund"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resolve_sold_delivers_what_the_operator_was_told() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("4.5").await;
    let (order, _) = undecided(&stage, &operator, &partner, 1).await;
    let path = format!("/api/operator/orders/{order}/resolve");
    let esim = json!({
        "iccid": "8931070820307245732",
        "smdpAddress": "smdp.upstream.example",
        "matchingId": "04386-AGYFT-A74Y8-3F815",
        "activationCode": "LPA:1$smdp.upstream.example$04386-AGYFT-A74Y8-3F815",
    });
    let too_many = json!({"outcome": "sold", "esims": [esim, esim], "reason": "told by mail"});
    assert_eq!(operator.post(&path, too_many).await.status, 422);
    assert_eq!(shown(&partner, &order).await["status"], json!("processing"));

    done(&operator.post(&path, json!({"outcome": "sold", "esims": [esim], "reason": "told by mail"})).await);
    let after = shown(&partner, &order).await;
    assert_eq!(after["status"], json!("completed"));
    assert_eq!(after["refundedAmount"].to_string(), "0");
    let got = &after["esims"][0];
    assert_eq!(got["status"], json!("delivered"));
    for field in ["iccid", "smdpAddress", "matchingId", "activationCode"] {
        assert_eq!(got[field], esim[field], "{field}");
    }
    assert_eq!(partner.balance().await, "0");
    assert_eq!(of_kind(&transactions(&partner).await, "refund"), 0);
    let reply = operator.post(&path, json!({"outcome": "not_sold", "reason": "changed my mind"})).await;
    assert_eq!(reply.status, 409, "{}", reply.text());
    assert_eq!(partner.balance().await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resolve_is_for_unknown_orders_only() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("9").await;
    let order = delivered(&stage, &partner, 1).await;
    let path = format!("/api/operator/orders/{}/resolve", string(&order["id"]));
    let body = json!({"outcome": "not_sold", "reason": "no reason"});
    operator.post(&path, body).await.refused(409, "not_unknown");
    assert_eq!(shown(&partner, &string(&order["id"])).await, order);
    assert_eq!(partner.balance().await, "4.5");
    let retry = format!("/api/operator/orders/{}/retry", string(&order["id"]));
    assert_eq!(operator.post(&retry, json!({})).await.status, 409, "nothing is left to be done");
    assert_eq!(sales(&operator, &string(&order["id"])).await.len(), 1);
}

// ---- top-ups, jobs, ledger, audit log

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_ups_of_all_tenants_are_listed_with_their_proofs() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let (first, second) = (stage.partner().await, stage.partner().await);
    let one = bank_transfer(&first, "100").await;
    let two = bank_transfer(&second, "200").await;
    prove(&first, &one).await.ok(200);
    let listed = rows(&operator.get("/api/operator/top-ups").await.ok(200));
    let ids: Vec<String> = listed.iter().map(|row| string(&row["orderId"])).collect();
    assert_eq!(ids, [two, one.clone()], "newest first");
    let shown = operator.get(&format!("/api/operator/top-ups/{one}")).await.ok(200)["topUp"].clone();
    assert_eq!(shown["orderId"], one.as_str());
    assert_eq!(shown["status"], json!("under_review"));
    assert_eq!(shown["transferProofUrl"], json!("https://files.partner.example/proof.pdf"));
    assert!(shown.to_string().contains(&first.id), "whose it is: {shown}");
    let under_review = rows(&operator.get("/api/operator/top-ups?status=under_review").await.ok(200));
    assert_eq!(under_review.len(), 1);
    assert_eq!(under_review[0]["orderId"], one.as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_no_dead_jobs_while_all_goes_well() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("20").await;
    delivered(&stage, &partner, 1).await;
    assert!(rows(&operator.get("/api/operator/jobs?state=dead").await.ok(200)).is_empty());
    for act in ["retry", "abandon"] {
        let reply = operator.post(&format!("/api/operator/jobs/{UNKNOWN_ID}/{act}"), json!({})).await;
        reply.refused(404, "not_found");
    }
    assert_eq!(fault_paths(&operator.get("/api/operator/jobs?state=resting").await), ["state"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_checks_out_after_every_kind_of_movement() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("50").await;
    let test = stage.login(&partner.email, "test").await;
    let order = delivered(&stage, &partner, 2).await;
    let partial = order_of(&partner, &partner.plan("Sandbox: partial").await, 3).await;
    settled(&stage, &partner, &partial).await;
    let cancel = format!("/api/tenant/orders/{}/cancel?wait=20", string(&order["id"]));
    partner.post(&cancel, json!({})).await.ok(202);
    let top_up = bank_transfer(&test, "100").await;
    prove(&test, &top_up).await.ok(200);
    operator.post(&adjustments(&partner.id), json!({"amount": -1, "reason": "a fee"})).await.ok(201);
    let refund = json!({"amount": 0.5, "reason": "goodwill"});
    done(&operator.post(&format!("/api/operator/orders/{partial}/refund"), refund).await);

    the_ledger_is_clean(&operator).await;
    let sum: i64 = transactions(&partner).await.iter().map(|row| cents(&row["amount"])).sum();
    let balance = partner.get("/api/tenant/balance").await.ok(200);
    assert_eq!(cents(&balance["creditBalance"]), sum);
}

/// Returns the one record that the audit log has now and did not have before.
async fn recorded(operator: &Caller, before: &[Value], place: &str) -> Value {
    let after = audit_log(operator).await;
    assert_eq!(after.len(), before.len() + 1, "{place}: one record for one change");
    assert_eq!(&after[1..], before, "{place}: earlier records stay as they are");
    after[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_in_the_audit_log_who_what_when_from_where() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("100").await;
    let order = string(&delivered(&stage, &partner, 2).await["id"]);
    let (unknown, job) = undecided(&stage, &operator, &partner, 1).await;
    let plan = partner.plan("Sandbox: keeps").await;
    let (approved, rejected) = (bank_transfer(&partner, "10").await, bank_transfer(&partner, "10").await);
    let inquiry = json!({"fullName": "A", "email": "a@example.com", "inquiryType": "api", "message": "?"});
    let inquiry = string(&stage.stranger().post("/api/tenant/contact", inquiry).await.ok(201)["inquiryId"]);
    let (tenant, why) = (partner.id.clone(), json!({"reason": "a story"}));
    let job = string(&job["id"]);

    let of_tenant = format!("/api/operator/tenants/{tenant}");
    let of_order = format!("/api/operator/orders/{order}");
    let changes = [
        (format!("{of_tenant}/suspend"), why.clone(), &tenant),
        (format!("{of_tenant}/reinstate"), why.clone(), &tenant),
        (format!("{of_tenant}/adjustments"), json!({"amount": 3, "reason": "a story"}), &tenant),
        (format!("{of_order}/refund"), json!({"amount": 1, "reason": "a story"}), &order),
        (format!("/api/operator/top-ups/{approved}/approve"), json!({}), &approved),
        (format!("/api/operator/top-ups/{rejected}/reject"), why, &rejected),
        (format!("/api/operator/plans/{plan}/withdraw"), json!({}), &plan),
        (format!("/api/operator/inquiries/{inquiry}/handled"), json!({}), &inquiry),
        (
            format!("/api/operator/orders/{unknown}/resolve"),
            json!({"outcome": "not_sold", "reason": "a story"}),
            &unknown,
        ),
    ];
    let mut actions = std::collections::BTreeSet::new();
    let mut operators = std::collections::BTreeSet::new();
    for (path, body, subject) in changes {
        stage.clock.advance(1_000);
        let before = audit_log(&operator).await;
        done(&operator.post(&path, body).await);
        let record = recorded(&operator, &before, &path).await;
        assert!(record.to_string().contains(subject.as_str()), "{path}: on what: {record}");
        assert!(is_time(&record["at"]), "{path}: when: {record}");
        assert!(record.to_string().contains("127.0.0.1"), "{path}: from where: {record}");
        assert!(before.iter().all(|earlier| earlier["at"].as_str() < record["at"].as_str()), "{path}");
        operators.insert(string(&record["operatorId"]));
        actions.insert(string(&record["action"]));
    }
    assert_eq!(actions.len(), 9, "each kind of change has its own name: {actions:?}");
    assert_eq!(operators.len(), 1, "who");

    let before = audit_log(&operator).await;
    done(&operator.put(&credit_limit(&tenant), json!({"amount": 5})).await);
    let limited = recorded(&operator, &before, "credit-limit").await;
    assert!(limited.to_string().contains(&tenant), "{limited}");
    let before = audit_log(&operator).await;
    let price = format!("/api/operator/plans/{}/price", partner.plan("Sandbox: busy").await);
    done(&operator.put(&price, json!({"price": 5})).await);
    recorded(&operator, &before, "price").await;

    let before = audit_log(&operator).await;
    operator.get("/api/operator/tenants").await.ok(200);
    operator.post(&format!("{of_tenant}/adjustments"), json!({"amount": 1.001, "reason": "x"})).await.faults();
    let decided = format!("/api/operator/top-ups/{approved}/approve");
    operator.post(&decided, json!({})).await.refused(409, "already_decided");
    let gone = operator.post(&format!("/api/operator/jobs/{job}/retry"), json!({})).await;
    assert!([404, 409].contains(&gone.status), "the order is resolved: {}", gone.text());
    assert_eq!(audit_log(&operator).await, before, "what was looked at or refused is no change");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_decisions_are_in_the_audit_log_and_a_repeat_under_one_key_is_one_record() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("9").await;
    let (order, job) = undecided(&stage, &operator, &partner, 1).await;
    let before = audit_log(&operator).await;
    done(&operator.post(&format!("/api/operator/jobs/{}/retry", string(&job["id"])), json!({})).await);
    recorded(&operator, &before, "retry").await;
    let job = dead_job(&stage, &operator, &order).await;
    let before = audit_log(&operator).await;
    let abandon = format!("/api/operator/jobs/{}/abandon", string(&job["id"]));
    assert_eq!(operator.post(&abandon, json!({})).await.status, 409);
    assert_eq!(audit_log(&operator).await, before, "what was refused is no change");

    let before = audit_log(&operator).await;
    for _ in 0..3 {
        let body = json!({"amount": 1, "reason": "once"});
        operator.post_once(&adjustments(&partner.id), "key-1", body).await.ok(201);
    }
    recorded(&operator, &before, "adjustments").await;
}
