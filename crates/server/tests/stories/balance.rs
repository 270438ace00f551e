//! The balance is never a number of its own: it is the sum of the transactions, one purchase for
//! each order, and partners reconcile their books against exactly that list.

use crate::acts::{dollars, done, is_id, is_time, rows, string};
use crate::stage::{Caller, Stage};
use crate::telling::{cents, transactions};
use serde_json::{Value, json};

const CHECKOUT: &str = "/api/tenant/orders/checkout";

/// Asserts that every `balanceAfter` is the sum so far and that the balance is the sum of all.
async fn the_balance_is_the_sum(caller: &Caller) {
    let list = transactions(caller).await;
    let mut sum = 0;
    for transaction in list.iter().rev() {
        sum += cents(&transaction["amount"]);
        assert_eq!(cents(&transaction["balanceAfter"]), sum, "{transaction}");
    }
    assert_eq!(caller.balance().await, list.first().map_or("0".to_owned(), |last| last["balanceAfter"].to_string()));
}

async fn adjust(operator: &Caller, tenant: &str, amount: Value) -> Value {
    let path = format!("/api/operator/tenants/{tenant}/adjustments");
    operator.post(&path, json!({"amount": amount, "reason": "a correction"})).await.ok(201)["transaction"].clone()
}

async fn listed(caller: &Caller, query: &str) -> Vec<String> {
    ids(&caller.get(&format!("/api/tenant/transactions?{query}")).await.ok(200))
}

fn of_kind<'a>(list: &'a [Value], kind: &str) -> Vec<&'a Value> {
    list.iter().filter(|transaction| transaction["type"] == kind).collect()
}

fn ids(data: &Value) -> Vec<String> {
    rows(data).iter().map(|row| string(&row["id"])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn balance_tells_credit_limit_and_currency() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let data = partner.get("/api/tenant/balance").await.ok(200);
    assert_eq!(data["creditBalance"].to_string(), "0");
    assert_eq!(data["creditLimit"].to_string(), "0");
    assert_eq!(data["currency"], json!("USD"));
    assert!(transactions(&partner).await.is_empty());

    let limit = format!("/api/operator/tenants/{}/credit-limit", partner.id);
    done(&stage.operator().await.put(&limit, json!({"amount": 25})).await);
    let data = partner.get("/api/tenant/balance").await.ok(200);
    assert_eq!(data["creditLimit"].to_string(), "25");
    assert_eq!(data["creditBalance"].to_string(), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_mode_begins_with_1000_of_its_own() {
    let stage = Stage::start().await;
    let live = stage.partner_with("9").await;
    let test = stage.login(&live.email, "test").await;
    assert_eq!(test.balance().await, "1000");
    the_balance_is_the_sum(&test).await;
    test.buy(&test.plan("Sandbox: delivers").await, 2).await;
    assert_eq!(test.balance().await, "991");
    assert_eq!(live.balance().await, "9");
    assert_eq!(transactions(&live).await.len(), 1, "nothing of one mode is visible in the other");
    the_balance_is_the_sum(&test).await;
    the_balance_is_the_sum(&live).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_hold_one_purchase_per_order_and_the_refund_of_what_did_not_come() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let delivers = partner.plan("Sandbox: delivers").await;
    let refuses = partner.plan("Sandbox: refuses").await;
    let basket = json!({"items": [
        {"planId": delivers, "quantity": 2},
        {"planId": refuses, "quantity": 3},
        {"planId": delivers, "quantity": 1},
    ]});
    let bought = partner.post(&format!("{CHECKOUT}?wait=20"), basket).await.ok(201);
    let orders: Vec<String> = bought["orders"].as_array().unwrap().iter().map(|order| string(&order["id"])).collect();
    assert_eq!(orders.len(), 3);

    let list = transactions(&partner).await;
    let purchases = of_kind(&list, "purchase");
    assert_eq!(purchases.len(), 3);
    for (order, amount) in orders.iter().zip(["-9", "-13.5", "-4.5"]) {
        let own: Vec<&&Value> = purchases.iter().filter(|purchase| purchase["orderId"] == order.as_str()).collect();
        assert_eq!(own.len(), 1, "one purchase for {order}");
        assert_eq!(own[0]["amount"].to_string(), amount);
    }
    let refunds = of_kind(&list, "refund");
    assert_eq!(refunds.len(), 1);
    assert_eq!(refunds[0]["orderId"], orders[1].as_str());
    assert_eq!(refunds[0]["amount"].to_string(), "13.5");
    assert_eq!(partner.balance().await, "86.5");
    the_balance_is_the_sum(&partner).await;

    for transaction in &list {
        assert!(is_id(&transaction["id"]), "{transaction}");
        assert!(is_time(&transaction["createdAt"]), "{transaction}");
        assert_eq!(transaction["currency"], json!("USD"));
        assert!(transaction.get("description").is_some(), "{transaction}");
        assert!(transaction["topUpId"].is_null(), "{transaction}");
    }
    let credit = list.last().unwrap();
    assert_eq!(credit["type"], json!("adjustment"));
    assert!(credit["orderId"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_checkout_leaves_no_transaction() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("4.49").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let before = transactions(&partner).await;
    let refused = partner.post(CHECKOUT, json!({"items": [{"planId": plan, "quantity": 1}]})).await;
    let data = refused.refused(402, "insufficient_balance");
    assert_eq!(data["required"].to_string(), "4.5");
    assert_eq!(data["creditBalance"].to_string(), "4.49");
    assert_eq!(transactions(&partner).await, before);
    assert_eq!(partner.balance().await, "4.49");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_filter_by_type_and_time() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    let plan = partner.plan("Sandbox: delivers").await;
    let first = adjust(&operator, &partner.id, json!(50)).await;
    stage.clock.advance(10_000);
    partner.buy(&plan, 1).await;
    stage.clock.advance(10_000);
    let third = adjust(&operator, &partner.id, json!(7)).await;

    let all = partner.get("/api/tenant/transactions").await.ok(200);
    let times: Vec<String> = rows(&all).iter().rev().map(|row| string(&row["createdAt"])).collect();
    let all = ids(&all);
    assert_eq!(all.len(), 3);
    let (bought, third_id, first_id) = (all[1].clone(), string(&third["id"]), string(&first["id"]));
    assert_eq!(all, [third_id.clone(), bought.clone(), first_id.clone()], "newest first");

    let partner: &Caller = &partner.caller;
    assert_eq!(listed(partner, "type=purchase").await, std::slice::from_ref(&bought));
    assert_eq!(listed(partner, "type=adjustment").await, [third_id.clone(), first_id.clone()]);
    for kind in ["refund", "top_up", "top_up_refund", "top_up_reversal"] {
        assert!(listed(partner, &format!("type={kind}")).await.is_empty(), "{kind}");
    }
    assert_eq!(listed(partner, &format!("from={}", times[1])).await, [third_id.clone(), bought.clone()]);
    assert_eq!(listed(partner, &format!("to={}", times[1])).await, std::slice::from_ref(&first_id));
    assert_eq!(listed(partner, &format!("from={}&to={}", times[1], times[2])).await, [bought]);
    assert_eq!(listed(partner, &format!("type=adjustment&from={}", times[1])).await, [third_id]);
    assert_eq!(listed(partner, &format!("type=adjustment&to={}", times[2])).await, [first_id]);

    let odd = partner.get("/api/tenant/transactions?type=gift&from=yesterday&to=2026-13-01").await;
    assert_eq!(odd.faults(), ["from malformed", "to malformed", "type not_in_list"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_come_in_pages_of_100_that_neither_skip_nor_repeat_what_arrives_meanwhile() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    for number in 1..=205 {
        adjust(&operator, &partner.id, dollars(number)).await;
    }
    let everything: Vec<String> = transactions(&partner).await.iter().map(|row| string(&row["id"])).collect();
    assert_eq!(everything.len(), 205);

    let mut seen = Vec::new();
    let mut path = "/api/tenant/transactions".to_owned();
    let mut sizes = Vec::new();
    loop {
        let data = partner.get(&path).await.ok(200);
        sizes.push(rows(&data).len());
        seen.extend(ids(&data));
        adjust(&operator, &partner.id, json!(1)).await;
        match data["nextCursor"].as_str() {
            Some(cursor) => path = format!("/api/tenant/transactions?cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(sizes, [100, 100, 5]);
    assert_eq!(seen, everything);
    the_balance_is_the_sum(&partner).await;

    let page = partner.get("/api/tenant/transactions?limit=7").await.ok(200);
    assert_eq!(rows(&page).len(), 7);
    let cursor = string(&page["nextCursor"]);
    let next = partner.get(&format!("/api/tenant/transactions?limit=7&cursor={cursor}")).await.ok(200);
    assert!(ids(&next).iter().all(|id| !ids(&page).contains(id)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_balance_stays_the_sum_when_all_comes_at_once() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("45").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let (buyer, plan) = (partner.caller.clone(), plan.clone());
        tasks.push(tokio::spawn(async move {
            buyer.post(CHECKOUT, json!({"items": [{"planId": plan, "quantity": 1}]})).await.status
        }));
        let (operator, path) = (operator.clone(), format!("/api/operator/tenants/{}/adjustments", partner.id));
        tasks.push(tokio::spawn(async move {
            operator.post(&path, json!({"amount": 0.01, "reason": "a cent"})).await.status
        }));
    }
    let mut statuses = Vec::new();
    for task in tasks {
        statuses.push(task.await.expect("an answer"));
    }
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!(count(201), 30, "20 cents and what 45 pays for: {statuses:?}");
    assert_eq!(count(402), 10, "{statuses:?}");
    assert_eq!(partner.balance().await, "0.2");
    let list = transactions(&partner).await;
    assert_eq!(list.iter().filter(|row| row["type"] == "purchase").count(), 10);
    the_balance_is_the_sum(&partner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_in_every_later_read() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("450").await;
    let plan = partner.plan("Sandbox: delivers").await;
    for number in 1..=25_usize {
        let basket = json!({"items": [{"planId": plan, "quantity": 1}], "reference": format!("read-{number}")});
        let bought = partner.post(CHECKOUT, basket).await.ok(201);
        let order = string(&bought["orders"][0]["id"]);
        let newest = partner.get("/api/tenant/transactions?type=purchase&limit=1").await.ok(200);
        assert_eq!(newest["transactions"][0]["orderId"], order.as_str());
        let found = partner.get(&format!("/api/tenant/orders?reference=read-{number}")).await.ok(200);
        assert_eq!(ids(&found), [order]);
        assert_eq!(cents(&partner.get("/api/tenant/balance").await.ok(200)["creditBalance"]), {
            let list = transactions(&partner).await;
            list.iter().map(|row| cents(&row["amount"])).sum::<i64>()
        });
    }
    assert_eq!(partner.balance().await, "337.5");
}
