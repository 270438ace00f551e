//! A random day of three tenants, made from a seed: whatever they and the operator do in whatever
//! order, every cent is accounted for. STORY_SEED=<number> replays the day that found something.

use crate::acts::{bank_transfer, dead_job, dollars, done, prove, rows, string, the_ledger_is_clean};
use crate::stage::{Caller, Stage};
use crate::telling::{cents, settled, transactions};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const STEPS: u64 = 150;
const DEFAULT_SEED: u64 = 20_261_118;
const CHECKOUT: &str = "/api/tenant/orders/checkout";

/// What is bought, the usual more often.
const BOUGHT: [&str; 12] = [
    "Sandbox: delivers",
    "Sandbox: delivers",
    "Sandbox: delivers",
    "Sandbox: partial",
    "Sandbox: partial",
    "Sandbox: refuses",
    "Sandbox: keeps",
    "Sandbox: busy",
    "Sandbox: answer lost",
    "Sandbox: late sale",
    "Sandbox: slow",
    UNDECIDED,
];
const UNDECIDED: &str = "Sandbox: unknown";
/// Final without the clock moving on.
const AT_ONCE: [&str; 4] = ["Sandbox: delivers", "Sandbox: partial", "Sandbox: refuses", "Sandbox: keeps"];

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// Cents from `low` to `high`, both possible.
    fn cents(&mut self, low: i64, high: i64) -> i64 {
        let span = u64::try_from(high - low + 1).expect("low is not above high");
        low + i64::try_from(self.below(span)).expect("a small number")
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let count = u64::try_from(list.len()).expect("a small list");
        &list[usize::try_from(self.below(count)).expect("a small number")]
    }
}

/// One tenant in one mode, and what must have become of its money.
struct Wallet {
    caller: Caller,
    tenant: String,
    mode: &'static str,
    plans: BTreeMap<String, String>,
    /// Every order that was answered with 201: its id and plan.
    orders: Vec<(String, &'static str)>,
    /// Orders of which the operator gave something back.
    goodwill: BTreeSet<String>,
    /// Sums of the transactions of a type, in cents: what must be in the list.
    expected: BTreeMap<&'static str, i64>,
    open_top_ups: Vec<String>,
}

impl Wallet {
    async fn open(caller: Caller, tenant: &str, mode: &'static str) -> Self {
        let data = caller.get("/api/tenant/available-plans").await.ok(200);
        let plans = rows(&data).iter().map(|plan| (string(&plan["name"]), string(&plan["id"]))).collect();
        let mut expected = BTreeMap::new();
        for transaction in transactions(&caller).await {
            let kind = if transaction["type"] == "top_up" { "top_up" } else { "adjustment" };
            *expected.entry(kind).or_insert(0) += cents(&transaction["amount"]);
        }
        Self {
            caller,
            tenant: tenant.to_owned(),
            mode,
            plans,
            orders: Vec::new(),
            goodwill: BTreeSet::new(),
            expected,
            open_top_ups: Vec::new(),
        }
    }

    fn expect(&mut self, kind: &'static str, amount: i64) {
        *self.expected.entry(kind).or_insert(0) += amount;
    }

    async fn shown(&self, order: &str) -> Value {
        self.caller.get(&format!("/api/tenant/orders/{order}")).await.ok(200)["order"].clone()
    }
}

async fn check_out(wallet: &mut Wallet, dice: &mut Dice, key: &str) {
    let lines = 1 + dice.below(3);
    let (mut items, mut names) = (Vec::new(), Vec::new());
    for _ in 0..lines {
        let name = *dice.pick(&BOUGHT);
        items.push(json!({"planId": wallet.plans[name], "quantity": 1 + dice.below(4)}));
        names.push(name);
    }
    let wait = names.iter().all(|name| AT_ONCE.contains(name));
    let path = if wait { format!("{CHECKOUT}?wait=20") } else { CHECKOUT.to_owned() };
    let limit = cents(&wallet.caller.get("/api/tenant/balance").await.ok(200)["creditLimit"]);
    let body = json!({"items": items});
    let reply = wallet.caller.post_once(&path, key, body.clone()).await;
    if reply.status == 402 {
        let data = reply.refused(402, "insufficient_balance");
        assert!(cents(&data["required"]) > cents(&data["creditBalance"]) + limit, "enough was there: {data}");
        return;
    }
    let data = reply.ok(201);
    assert!(cents(&data["summary"]["creditBalance"]) >= -limit, "below the limit: {data}");
    let orders = data["orders"].as_array().expect("orders");
    assert_eq!(orders.len(), names.len(), "{data}");
    let mut total = 0;
    for (order, name) in orders.iter().zip(&names) {
        assert_eq!(order["planName"], *name, "one order per line, in their order");
        total += cents(&order["totalAmount"]);
        wallet.orders.push((string(&order["id"]), *name));
    }
    assert_eq!(cents(&data["summary"]["totalAmount"]), total);
    wallet.expect("purchase", -total);
    if dice.below(3) == 0 {
        let again = wallet.caller.post_once(&path, key, body).await;
        assert_eq!(again.ok(201)["checkoutId"], data["checkoutId"], "the same key buys nothing more");
        assert_eq!(again.header("idempotent-replayed"), "true");
    }
}

async fn cancel(wallet: &Wallet, dice: &mut Dice) {
    if wallet.orders.is_empty() {
        return;
    }
    let id = dice.pick(&wallet.orders).0.clone();
    let order = wallet.shown(&id).await;
    let mut chosen = Vec::new();
    for esim in order["esims"].as_array().expect("esims") {
        if esim["status"] == "delivered" && dice.below(2) == 0 {
            chosen.push(esim["id"].clone());
        }
    }
    let body = if chosen.is_empty() { json!({}) } else { json!({"esimIds": chosen}) };
    let reply = wallet.caller.post(&format!("/api/tenant/orders/{id}/cancel?wait=20"), body).await;
    assert!([202, 409, 422].contains(&reply.status), "{}", reply.text());
    if order["status"] == "processing" && wallet.shown(&id).await["status"] == "processing" {
        reply.refused(409, "not_cancellable");
    }
}

async fn give_back(operator: &Caller, wallet: &mut Wallet, dice: &mut Dice) {
    if wallet.orders.is_empty() {
        return;
    }
    let id = dice.pick(&wallet.orders).0.clone();
    let order = wallet.shown(&id).await;
    let body = if dice.below(2) == 0 {
        json!({"amount": dollars(dice.cents(1, 1_000)), "reason": "a random day"})
    } else {
        json!({"esimIds": [dice.pick(order["esims"].as_array().expect("esims"))["id"]], "reason": "a random day"})
    };
    let reply = operator.post(&format!("/api/operator/orders/{id}/refund"), body).await;
    if reply.status < 300 {
        wallet.goodwill.insert(id);
    } else {
        assert!([409, 422].contains(&reply.status), "{}", reply.text());
    }
}

async fn adjust(operator: &Caller, wallet: &mut Wallet, dice: &mut Dice) {
    let amount = match dice.cents(-2_000, 4_000) {
        0 => 1,
        amount => amount,
    };
    let body = json!({"amount": dollars(amount), "reason": "a random day", "mode": wallet.mode});
    let reply = operator.post(&format!("/api/operator/tenants/{}/adjustments", wallet.tenant), body).await;
    if reply.status == 201 {
        wallet.expect("adjustment", amount);
    } else {
        assert!(amount < 0 && [402, 409, 422].contains(&reply.status), "{}", reply.text());
    }
}

async fn limit(operator: &Caller, wallet: &Wallet, dice: &mut Dice) {
    let path = format!("/api/operator/tenants/{}/credit-limit", wallet.tenant);
    let reply = operator.put(&path, json!({"amount": dollars(dice.cents(0, 3_000))})).await;
    assert!(reply.status < 500, "{}", reply.text());
}

async fn top_up(wallet: &mut Wallet, dice: &mut Dice) {
    let amount = dice.cents(1_000, 6_000);
    let id = bank_transfer(&wallet.caller, &dollars(amount).to_string()).await;
    if wallet.mode == "test" {
        prove(&wallet.caller, &id).await.ok(200);
        wallet.expect("top_up", amount);
        return;
    }
    if dice.below(2) == 0 {
        prove(&wallet.caller, &id).await.ok(200);
    }
    wallet.open_top_ups.push(id);
}

async fn decide(operator: &Caller, wallet: &mut Wallet, dice: &mut Dice) {
    let Some(id) = wallet.open_top_ups.pop() else { return };
    let path = format!("/api/operator/top-ups/{id}");
    let asked = wallet.caller.get(&format!("/api/tenant/top-up/{id}")).await.ok(200)["topUp"]["amount"].clone();
    match dice.below(4) {
        0 => {
            done(&operator.post(&format!("{path}/reject"), json!({"reason": "a random day"})).await);
        }
        1 => {
            let arrived = dice.cents(1_000, cents(&asked));
            done(&operator.post(&format!("{path}/approve"), json!({"amount": dollars(arrived)})).await);
            wallet.expect("top_up", arrived);
        }
        _ => {
            done(&operator.post(&format!("{path}/approve"), json!({})).await);
            wallet.expect("top_up", cents(&asked));
        }
    }
    operator.post(&format!("{path}/approve"), json!({})).await.refused(409, "already_decided");
}

async fn orders_of(caller: &Caller) -> Vec<Value> {
    rows(&caller.get("/api/tenant/orders?limit=1000").await.ok(200))
}

/// Balance, orders and transactions of one moment: workers go on meanwhile, so it is read until two
/// readings agree.
async fn of_one_moment(caller: &Caller) -> (i64, Vec<Value>, Vec<Value>) {
    for _ in 0..500 {
        let balance = caller.get("/api/tenant/balance").await.ok(200);
        let orders = orders_of(caller).await;
        let list = transactions(caller).await;
        if orders_of(caller).await == orders && caller.get("/api/tenant/balance").await.ok(200) == balance {
            return (cents(&balance["creditBalance"]), orders, list);
        }
    }
    panic!("the books never stand still");
}

fn count(order: &Value, statuses: &[&str]) -> i64 {
    let esims = order["esims"].as_array().expect("esims");
    let found = esims.iter().filter(|esim| statuses.contains(&esim["status"].as_str().unwrap_or(""))).count();
    i64::try_from(found).expect("a small number")
}

/// What must hold of one order and its transactions at any moment.
fn an_order_adds_up(order: &Value, list: &[Value], goodwill: bool) {
    let id = string(&order["id"]);
    let unit = cents(&order["unitPrice"]);
    let total = cents(&order["totalAmount"]);
    let refunded = cents(&order["refundedAmount"]);
    let quantity = order["quantity"].as_i64().expect("a quantity");
    let of_order = |kind: &str| -> Vec<i64> {
        list.iter()
            .filter(|row| row["orderId"] == id.as_str() && row["type"] == kind)
            .map(|row| cents(&row["amount"]))
            .collect()
    };
    assert_eq!(total, unit * quantity, "{order}");
    assert_eq!(of_order("purchase"), [-total], "one purchase: {order}");
    assert_eq!(of_order("refund").iter().sum::<i64>(), refunded, "{order}");
    assert!((0..=total).contains(&refunded), "more came back than was paid: {order}");

    let (pending, failed) = (count(order, &["pending"]), count(order, &["failed"]));
    let cancelled = count(order, &["cancelled"]);
    let delivered = count(order, &["delivered", "installed", "active", "depleted", "expired", "cancelling"]);
    assert_eq!(pending + failed + cancelled + delivered, quantity, "an eSIM for each: {order}");
    let status = if pending > 0 {
        "processing"
    } else if delivered > 0 && failed > 0 {
        "partially_completed"
    } else if delivered > 0 {
        "completed"
    } else if cancelled > 0 {
        "cancelled"
    } else {
        "failed"
    };
    assert_eq!(order["status"], status, "{order}");
    if goodwill {
        assert!(refunded >= unit * failed, "{order}");
    } else {
        assert_eq!(refunded, unit * (failed + cancelled), "sold and refunded are the total: {order}");
    }
}

/// What must hold of a wallet at any moment.
async fn a_wallet_adds_up(wallet: &Wallet) {
    let (balance, orders, list) = of_one_moment(&wallet.caller).await;
    let mut sum = 0;
    for transaction in list.iter().rev() {
        sum += cents(&transaction["amount"]);
        assert_eq!(cents(&transaction["balanceAfter"]), sum, "{transaction}");
    }
    assert_eq!(balance, sum, "the balance is the sum of the transactions");
    for kind in ["top_up", "adjustment", "purchase"] {
        let booked: i64 = list.iter().filter(|row| row["type"] == kind).map(|row| cents(&row["amount"])).sum();
        assert_eq!(booked, wallet.expected.get(kind).copied().unwrap_or(0), "{kind}");
    }
    let known: BTreeSet<String> = wallet.orders.iter().map(|(id, _)| id.clone()).collect();
    let listed: BTreeSet<String> = orders.iter().map(|order| string(&order["id"])).collect();
    assert_eq!(listed, known, "the orders that were answered, and no others");
    for order in &orders {
        assert_eq!(order["mode"], wallet.mode);
        an_order_adds_up(order, &list, wallet.goodwill.contains(&string(&order["id"])));
    }
}

/// Compares a final order with what the sandbox says that it sold. Returns the order's ICCIDs.
async fn the_sandbox_agrees(operator: &Caller, order: &Value, plan: &str) -> Vec<String> {
    let id = string(&order["id"]);
    let data = operator.get(&format!("/api/operator/sandbox/sales?reference={id}")).await.ok(200);
    let sales = rows(&data);
    assert!(sales.len() <= 1, "sold once: {data}");
    let mut sold: Vec<String> = Vec::new();
    for sale in &sales {
        assert!(string(&sale["reference"]).starts_with(&id), "{sale}");
        let iccids: Vec<String> = sale["iccids"].as_array().expect("iccids").iter().map(string).collect();
        assert_eq!(sale["quantity"].to_string(), iccids.len().to_string(), "{sale}");
        sold.extend(iccids);
    }
    let failed = count(order, &["failed"]);
    let came = order["quantity"].as_i64().expect("a quantity") - failed;
    assert_eq!(i64::try_from(sold.len()).expect("a small number"), came, "{plan}: {order} {data}");
    let esims = order["esims"].as_array().expect("esims");
    for esim in esims.iter().filter(|esim| esim["status"] == "delivered") {
        assert!(sold.contains(&string(&esim["iccid"])), "{plan}: {esim} {data}");
    }
    if came > 0 {
        let taken_back = count(order, &["cancelled"]) == came;
        assert_eq!(sales[0]["cancelledAt"].is_string(), taken_back, "the same here and there: {order} {data}");
    }
    sold
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cent_of_a_random_day_is_accounted_for() {
    let seed = std::env::var("STORY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(DEFAULT_SEED);
    println!("STORY_SEED={seed}");
    let mut dice = Dice(seed);
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let mut wallets = Vec::new();
    for _ in 0..3 {
        let partner = stage.partner_with("120").await;
        wallets.push(Wallet::open(partner.caller.clone(), &partner.id, "live").await);
        let test = stage.login(&partner.email, "test").await;
        wallets.push(Wallet::open(test, &partner.id, "test").await);
    }

    let wallet_count = u64::try_from(wallets.len()).expect("a small number");
    for step in 0..STEPS {
        let chosen = usize::try_from(dice.below(wallet_count)).expect("a small number");
        let wallet = &mut wallets[chosen];
        let act = dice.below(16);
        println!("step {step}: wallet {chosen}, act {act}");
        match act {
            0..=5 => check_out(wallet, &mut dice, &format!("step-{step}")).await,
            6..=8 => cancel(wallet, &mut dice).await,
            9 => give_back(&operator, wallet, &mut dice).await,
            10 => adjust(&operator, wallet, &mut dice).await,
            11 => limit(&operator, wallet, &mut dice).await,
            12 => top_up(wallet, &mut dice).await,
            13 => decide(&operator, wallet, &mut dice).await,
            _ => {
                stage.clock.advance(dice.cents(200, 5_000));
            }
        }
        a_wallet_adds_up(wallet).await;
    }

    let mut iccids = BTreeSet::new();
    for wallet in &wallets {
        for (id, plan) in &wallet.orders {
            if *plan == UNDECIDED {
                dead_job(&stage, &operator, id).await;
                let verdict = json!({"outcome": "not_sold", "reason": "a random day"});
                done(&operator.post(&format!("/api/operator/orders/{id}/resolve"), verdict).await);
            }
            let order = settled(&stage, &wallet.caller, id).await;
            for iccid in the_sandbox_agrees(&operator, &order, plan).await {
                assert!(iccids.insert(iccid.clone()), "{iccid} was sold twice");
            }
        }
    }
    for wallet in &wallets {
        assert!(orders_of(&wallet.caller).await.iter().all(|order| order["status"] != "processing"));
        a_wallet_adds_up(wallet).await;
    }
    the_ledger_is_clean(&operator).await;
}
