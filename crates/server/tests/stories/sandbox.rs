//! The sandbox's special plans, each told to its end: what the partner sees, what it costs, and what the
//! upstream really sold. "Sold once" is read from the sandbox's own book, not from ours.

use crate::stage::{Caller, Partner, Stage};
use crate::telling::{
    CHECKOUT, cents, column, list, millis, only_order, order, passing, sales, settled, text, transactions,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

struct Shop {
    stage: Stage,
    partner: Partner,
    operator: Caller,
}

impl Shop {
    async fn open(settings: &[(&str, &str)]) -> Self {
        let stage = Stage::with(settings).await;
        let partner = stage.partner_with("1000").await;
        let operator = stage.operator().await;
        Self { stage, partner, operator }
    }

    /// Buys without waiting and returns the order as the checkout answered it.
    async fn order(&self, plan: &str, quantity: u32) -> Value {
        let plan = self.partner.plan(plan).await;
        let body = json!({"items": [{"planId": plan, "quantity": quantity}]});
        self.partner.post(CHECKOUT, body).await.ok(201)["orders"][0].clone()
    }

    /// Buys, lets time pass until the order is final, and returns it.
    async fn settled(&self, plan: &str, quantity: u32) -> Value {
        let order = self.order(plan, quantity).await;
        settled(&self.stage, &self.partner, text(&order["id"])).await
    }

    async fn sales(&self, order: &Value) -> Vec<Value> {
        sales(&self.operator, text(&order["id"])).await
    }

    /// Asserts that the upstream sold this order once, and that what it sold is what was delivered.
    async fn sold_once(&self, order: &Value) -> Value {
        let sold = self.sales(order).await;
        assert_eq!(sold.len(), 1, "sold once: {sold:?}");
        let sale = sold[0].clone();
        assert!(text(&sale["reference"]).starts_with(text(&order["id"])), "{sale}");
        let delivered: Vec<&str> = list(&order["esims"]).iter().filter_map(|esim| esim["iccid"].as_str()).collect();
        let (ours, theirs): (BTreeSet<&str>, BTreeSet<&str>) =
            (delivered.iter().copied().collect(), list(&sale["iccids"]).iter().map(text).collect());
        assert_eq!(ours, theirs, "what was sold was delivered");
        assert_eq!(ours.len(), delivered.len(), "each eSIM is one of its own");
        assert!(sale["cancelledAt"].is_null(), "{sale}");
        sale
    }

    /// The order's transactions as `(type, cents)`, oldest first.
    async fn booked(&self, order: &Value) -> Vec<(String, i64)> {
        let mut rows = transactions(&self.partner).await;
        rows.reverse();
        let of_order = rows.iter().filter(|row| row["orderId"] == order["id"]);
        of_order.map(|row| (text(&row["type"]).to_owned(), cents(&row["amount"]))).collect()
    }

    /// Asserts that the order is completed, paid once and not refunded.
    async fn completed(&self, order: &Value, quantity: i64) {
        assert_eq!(order["status"], "completed", "{order}");
        assert_eq!(list(&order["esims"]).len(), usize::try_from(quantity).unwrap());
        for esim in list(&order["esims"]) {
            assert_eq!(esim["status"], "delivered", "{esim}");
            assert!(!text(&esim["activationCode"]).is_empty(), "{esim}");
        }
        assert_eq!(order["refundedAmount"].to_string(), "0");
        assert!(order["failureReason"].is_null(), "{order}");
        assert_eq!(self.booked(order).await, [("purchase".to_owned(), -450 * quantity)]);
        let balance = self.partner.get("/api/tenant/balance").await.ok(200);
        assert_eq!(cents(&balance["creditBalance"]), 100_000 - 450 * quantity);
    }
}

/// Whether the last digit is the Luhn check digit of the others.
fn is_luhn(digits: &str) -> bool {
    let doubled = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let digits = digits.chars().rev().map(|digit| digit.to_digit(10).expect("a digit"));
    let sum: u32 = digits.enumerate().map(|(index, digit)| if index % 2 == 1 { doubled(digit) } else { digit }).sum();
    sum.is_multiple_of(10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_delivers_valid_profiles() {
    let shop = Shop::open(&[]).await;
    let order = shop.settled("Sandbox: delivers", 100).await;
    shop.completed(&order, 100).await;
    shop.sold_once(&order).await;
    let mut codes = BTreeSet::new();
    for esim in list(&order["esims"]) {
        let iccid = text(&esim["iccid"]);
        assert!(iccid.starts_with("89") && (18..=22).contains(&iccid.len()) && is_luhn(iccid), "{iccid}");
        let (host, matching) = (text(&esim["smdpAddress"]), text(&esim["matchingId"]));
        let code = text(&esim["activationCode"]);
        assert!(code.starts_with(&format!("LPA:1${host}${matching}")), "{code}");
        assert!(code.len() <= 255, "{code}");
        assert!(matching.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{matching}");
        assert!(codes.insert(code.to_owned()), "{code} twice");
        if let Some(confirmation) = esim["confirmationCode"].as_str() {
            assert!(code.ends_with("$1") && !code.contains(confirmation), "it asks for the code and does not tell it");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_delivers_after_the_delay() {
    let shop = Shop::open(&[("ESIMD_SANDBOX_DELAY_MS", "4000")]).await;
    let bought = shop.order("Sandbox: delivers", 2).await;
    assert_eq!(bought["status"], "processing");
    let order = settled(&shop.stage, &shop.partner, text(&bought["id"])).await;
    shop.completed(&order, 2).await;
    shop.sold_once(&order).await;
    let took = millis(&order["completedAt"]) - millis(&order["createdAt"]);
    assert!((4_000..30_000).contains(&took), "delivered after {took} ms");
    for esim in list(&order["esims"]) {
        assert!(millis(&esim["deliveredAt"]) - millis(&order["createdAt"]) >= 4_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_slow_delivers_after_thirty_seconds() {
    let shop = Shop::open(&[]).await;
    let bought = shop.order("Sandbox: slow", 1).await;
    assert_eq!(bought["status"], "processing");
    // Nobody has moved the clock: however long the machine takes, it cannot be there yet.
    assert_eq!(order(&shop.partner, text(&bought["id"])).await["status"], "processing");
    assert_eq!(shop.partner.balance().await, "995.5");
    let order = settled(&shop.stage, &shop.partner, text(&bought["id"])).await;
    shop.completed(&order, 1).await;
    shop.sold_once(&order).await;
    let took = millis(&order["completedAt"]) - millis(&order["createdAt"]);
    assert!((30_000..90_000).contains(&took), "delivered after {took} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_refuses_and_all_is_refunded_once() {
    let shop = Shop::open(&[]).await;
    let order = shop.settled("Sandbox: refuses", 3).await;
    assert_eq!(order["status"], "failed");
    assert_eq!(column(&order["esims"], "status"), ["failed", "failed", "failed"]);
    assert!(list(&order["esims"]).iter().all(|esim| esim["iccid"].is_null() && esim["activationCode"].is_null()));
    assert_eq!(order["refundedAmount"].to_string(), "13.5");
    assert!(!text(&order["failureReason"]).is_empty());
    assert_eq!(shop.sales(&order).await.len(), 0);
    assert_eq!(shop.booked(&order).await, [("purchase".to_owned(), -1_350), ("refund".to_owned(), 1_350)]);
    assert_eq!(shop.partner.balance().await, "1000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_partial_delivers_all_but_the_last() {
    let shop = Shop::open(&[]).await;
    let order = shop.settled("Sandbox: partial", 3).await;
    assert_eq!(order["status"], "partially_completed");
    assert_eq!(column(&order["esims"], "status"), ["delivered", "delivered", "failed"]);
    assert!(order["esims"][2]["iccid"].is_null());
    assert_eq!(order["refundedAmount"].to_string(), "4.5");
    let sale = shop.sold_once(&order).await;
    assert_eq!(list(&sale["iccids"]).len(), 2);
    let spent: i64 = shop.booked(&order).await.iter().map(|(_, amount)| amount).sum();
    assert_eq!((spent, shop.partner.balance().await), (-900, "991".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_partial_of_one_delivers_none() {
    let shop = Shop::open(&[]).await;
    let order = shop.settled("Sandbox: partial", 1).await;
    assert_eq!(order["status"], "failed");
    assert_eq!(column(&order["esims"], "status"), ["failed"]);
    assert_eq!(order["refundedAmount"].to_string(), "4.5");
    let sold: usize = shop.sales(&order).await.iter().map(|sale| list(&sale["iccids"]).len()).sum();
    assert_eq!((sold, shop.partner.balance().await), (0, "1000".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_busy_is_asked_again_until_it_sells() {
    let shop = Shop::open(&[]).await;
    let bought = shop.order("Sandbox: busy", 2).await;
    // Twice "try later" takes two pauses, and nobody has moved the clock.
    assert_eq!(order(&shop.partner, text(&bought["id"])).await["status"], "processing");
    assert_eq!(shop.sales(&bought).await.len(), 0);
    let order = settled(&shop.stage, &shop.partner, text(&bought["id"])).await;
    shop.completed(&order, 2).await;
    shop.sold_once(&order).await;
    let took = millis(&order["completedAt"]) - millis(&order["createdAt"]);
    assert!(took <= 30_000, "two retries, each within 3 s, took {took} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_answer_lost_is_looked_up_and_not_bought_again() {
    let shop = Shop::open(&[]).await;
    let order = shop.settled("Sandbox: answer lost", 2).await;
    shop.completed(&order, 2).await;
    shop.sold_once(&order).await;
    shop.stage.clock.advance(3_600_000);
    assert_eq!(shop.sales(&order).await.len(), 1, "nor an hour later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_late_sale_is_waited_for_and_not_bought_again() {
    let shop = Shop::open(&[]).await;
    let bought = shop.order("Sandbox: late sale", 2).await;
    assert_eq!(shop.sales(&bought).await.len(), 0, "not sold yet");
    assert_eq!(order(&shop.partner, text(&bought["id"])).await["status"], "processing");
    let order = settled(&shop.stage, &shop.partner, text(&bought["id"])).await;
    shop.completed(&order, 2).await;
    let sale = shop.sold_once(&order).await;
    assert!(millis(&sale["soldAt"]) - millis(&order["createdAt"]) >= 5_000, "{sale}");
    assert!(millis(&order["completedAt"]) >= millis(&sale["soldAt"]));
    shop.stage.clock.advance(3_600_000);
    assert_eq!(shop.sales(&order).await.len(), 1, "nor an hour later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_late_sales_are_each_sold_once_when_many_wait() {
    let shop = Shop::open(&[]).await;
    let plan = shop.partner.plan("Sandbox: late sale").await;
    let body = json!({"items": vec![json!({"planId": plan, "quantity": 2}); 20]});
    let data = shop.partner.post(CHECKOUT, body).await.ok(201);
    for id in column(&data["orders"], "id") {
        let order = settled(&shop.stage, &shop.partner, id).await;
        assert_eq!(order["status"], "completed");
        shop.sold_once(&order).await;
    }
    assert_eq!(shop.partner.balance().await, "820");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_unknown_stays_processing_until_the_operator_resolves_it() {
    let shop = Shop::open(&[]).await;
    let order = shop.order("Sandbox: unknown", 1).await;
    let path = format!("/api/tenant/orders/{}?wait=30", text(&order["id"]));
    for _ in 0..4 {
        let data = passing(&shop.stage, 500, shop.partner.get(&path)).await.ok(200);
        assert_eq!(data["order"]["status"], "processing");
    }
    shop.stage.clock.advance(3_600_000);
    let data = passing(&shop.stage, 1_000, shop.partner.get(&path)).await.ok(200);
    assert_eq!(data["order"]["status"], "processing", "neither bought again nor refunded by guess");
    assert_eq!(column(&data["order"]["esims"], "status"), ["pending"]);
    assert_eq!(shop.sales(&order).await.len(), 0);
    assert_eq!(shop.booked(&order).await, [("purchase".to_owned(), -450)]);

    let resolve = format!("/api/operator/orders/{}/resolve", text(&order["id"]));
    let body = json!({"outcome": "not_sold", "reason": "the upstream confirmed by telephone"});
    shop.operator.post(&resolve, body).await.ok(200);
    let resolved = shop.partner.get(&path).await.ok(200)["order"].clone();
    assert_eq!((text(&resolved["status"]), resolved["refundedAmount"].to_string()), ("failed", "4.5".to_owned()));
    assert_eq!(shop.booked(&order).await, [("purchase".to_owned(), -450), ("refund".to_owned(), 450)]);
    assert_eq!(shop.partner.balance().await, "1000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_keeps_delivers_and_does_not_take_back() {
    let shop = Shop::open(&[]).await;
    let order = shop.settled("Sandbox: keeps", 1).await;
    shop.completed(&order, 1).await;
    let path = format!("/api/tenant/orders/{}/cancel?wait=20", text(&order["id"]));
    let after = shop.partner.post(&path, json!({})).await.ok(202)["order"].clone();
    shop.completed(&after, 1).await;
    shop.sold_once(&after).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_takes_back_what_is_not_installed_of_every_other_plan() {
    let shop = Shop::open(&[]).await;
    for plan in ["Sandbox: delivers", "Sandbox: slow", "Sandbox: busy", "Sandbox: answer lost", "Sandbox: late sale"] {
        let order = shop.settled(plan, 2).await;
        shop.sold_once(&order).await;
        let path = format!("/api/tenant/orders/{}/cancel?wait=20", text(&order["id"]));
        let after = shop.partner.post(&path, json!({})).await.ok(202)["order"].clone();
        assert_eq!(after["status"], "cancelled", "{plan}");
        let sold = shop.sales(&order).await;
        assert_eq!(sold.len(), 1, "{plan}");
        assert!(millis(&sold[0]["cancelledAt"]) >= millis(&sold[0]["soldAt"]), "{plan}");
        assert_eq!(shop.partner.balance().await, "1000", "{plan}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_does_not_take_back_what_a_traveller_has() {
    let shop = Shop::open(&[]).await;
    let order = shop.settled("Sandbox: delivers", 3).await;
    for (position, step) in ["install", "use", "expire"].into_iter().enumerate() {
        let iccid = text(&order["esims"][position]["iccid"]);
        shop.operator.post(&format!("/api/operator/sandbox/esims/{iccid}/{step}"), json!({})).await.ok(200);
    }
    let path = format!("/api/tenant/orders/{}/cancel?wait=20", text(&order["id"]));
    let after = shop.partner.post(&path, json!({})).await.ok(202)["order"].clone();
    assert_eq!(after["status"], "completed");
    for esim in list(&after["esims"]) {
        assert!(!["cancelling", "cancelled"].contains(&text(&esim["status"])), "{esim}");
        assert!(!text(&esim["cancelFailure"]).is_empty(), "{esim}");
    }
    assert_eq!(
        (after["refundedAmount"].to_string(), shop.partner.balance().await),
        ("0".to_owned(), "986.5".to_owned())
    );
    for nobody in ["8931070820307245732", "nonsense"] {
        let path = format!("/api/operator/sandbox/esims/{nobody}/install");
        shop.operator.post(&path, json!({})).await.refused(404, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_outcomes_of_one_checkout_do_not_touch_each_other() {
    let shop = Shop::open(&[]).await;
    let plans = [
        ("Sandbox: delivers", "completed", 2),
        ("Sandbox: slow", "completed", 2),
        ("Sandbox: refuses", "failed", 0),
        ("Sandbox: partial", "partially_completed", 1),
        ("Sandbox: busy", "completed", 2),
        ("Sandbox: answer lost", "completed", 2),
        ("Sandbox: late sale", "completed", 2),
        ("Sandbox: unknown", "processing", 0),
        ("Sandbox: keeps", "completed", 2),
    ];
    let mut lines = Vec::new();
    for (name, _, _) in plans {
        lines.push(json!({"planId": shop.partner.plan(name).await, "quantity": 2}));
    }
    let data = shop.partner.post(CHECKOUT, json!({"items": lines})).await.ok(201);
    assert_eq!(data["summary"]["totalAmount"].to_string(), "81");
    let mut delivered = 0;
    for ((name, status, esims), id) in plans.into_iter().zip(column(&data["orders"], "id")) {
        let order = match status {
            "processing" => order(&shop.partner, id).await,
            _ => settled(&shop.stage, &shop.partner, id).await,
        };
        assert_eq!(order["status"], status, "{name}");
        assert_eq!(order["planName"], name, "orders come in the order of the lines");
        let there = list(&order["esims"]).iter().filter(|esim| esim["status"] == "delivered").count();
        assert_eq!(there, esims, "{name}");
        let sold: usize = shop.sales(&order).await.iter().map(|sale| list(&sale["iccids"]).len()).sum();
        assert_eq!(sold, esims, "{name}");
        delivered += esims;
    }
    // Paid is what was delivered, and what nobody knows yet.
    assert_eq!(delivered, 13);
    let balance = shop.partner.get("/api/tenant/balance").await.ok(200);
    assert_eq!(cents(&balance["creditBalance"]), 100_000 - 450 * 13 - 900);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_sales_are_found_by_the_beginning_of_the_reference_and_survive_a_restart() {
    let mut stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let (first, second) = (partner.buy(&plan, 2).await, partner.buy(&plan, 1).await);
    let (first, second) = (only_order(&first), only_order(&second));
    let operator = stage.operator().await;
    let before = sales(&operator, &first).await;
    assert_eq!((before.len(), sales(&operator, &second).await.len()), (1, 1));
    let sale = &before[0];
    assert_eq!(sale["quantity"].to_string(), "2");
    assert_eq!(list(&sale["iccids"]).len(), 2);
    assert!(!text(&sale["upstreamPlanId"]).is_empty());
    let now = order(&partner, &first).await;
    assert!(millis(&sale["soldAt"]) >= millis(&now["createdAt"]));
    assert_eq!(sales(&operator, text(&sale["reference"])).await, before, "a whole reference is a beginning, too");
    assert_eq!(sales(&operator, &first[1..]).await.len(), 0, "the middle is none");
    assert_eq!(sales(&operator, "01930000-0000-7000-8000-000000000000").await.len(), 0);
    let path = format!("/api/operator/sandbox/sales?reference={first}");
    partner.get(&path).await.refused(401, "unauthorized");
    stage.stranger().get(&path).await.refused(401, "unauthorized");

    stage.restart().await;
    let operator = stage.operator().await;
    assert_eq!(sales(&operator, &first).await, before);
    let partner = stage.login(&partner.email, "live").await;
    assert_eq!(order(&partner, &first).await, now);
    let third = only_order(&partner.buy(&plan, 1).await);
    let known: BTreeSet<String> = list(&before[0]["iccids"]).iter().map(|iccid| text(iccid).to_owned()).collect();
    let fresh = sales(&operator, &third).await;
    assert!(list(&fresh[0]["iccids"]).iter().all(|iccid| !known.contains(text(iccid))), "no number is sold twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_orders_under_way_go_on_after_a_restart() {
    let mut stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let mut lines = Vec::new();
    for name in ["Sandbox: slow", "Sandbox: busy", "Sandbox: answer lost", "Sandbox: late sale", "Sandbox: delivers"] {
        lines.push(json!({"planId": partner.plan(name).await, "quantity": 1}));
    }
    let data = partner.post(CHECKOUT, json!({"items": lines})).await.ok(201);
    stage.restart().await;
    let caller = stage.stranger().with_token(partner.token.as_deref().expect("a token"));
    let operator = stage.operator().await;
    for id in column(&data["orders"], "id") {
        let order = settled(&stage, &caller, id).await;
        assert_eq!(order["status"], "completed", "{order}");
        let sold = sales(&operator, id).await;
        assert_eq!(sold.len(), 1, "sold once: {sold:?}");
        assert_eq!(sold[0]["iccids"], json!([text(&order["esims"][0]["iccid"])]));
    }
    assert_eq!(caller.balance().await, "77.5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_worlds_of_two_installations_do_not_mix() {
    let (one, other) = (Shop::open(&[]).await, Shop::open(&[("ESIMD_SANDBOX_SEED", "2")]).await);
    let here = one.settled("Sandbox: delivers", 3).await;
    let there = other.settled("Sandbox: delivers", 3).await;
    assert_eq!(one.sales(&there).await.len(), 0);
    assert_eq!(other.sales(&here).await.len(), 0);
    let numbers =
        |order: &Value| column(&order["esims"], "iccid").into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    assert!(numbers(&here).is_disjoint(&numbers(&there)));
}
