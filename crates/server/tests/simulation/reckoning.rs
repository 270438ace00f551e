//! The end of a run: nothing fails any more, what was not answered is asked again, the operator decides what only he
//! can, and then the books of partners, platform and upstream must agree.

use crate::clock::{SimulatedClock, pause};
use crate::disk::{CREDIT, beginning};
use crate::partners::{Caller, list, text};
use domain::fulfilment::Profile;
use domain::id::OrderId;
use domain::job::JobState;
use domain::tenant::TenantStatus;
use providers::{Purchase, Upstream};
use serde_json::Value;
use server::clock::Clock;
use std::collections::{BTreeMap, BTreeSet};
use store::fulfilment::resolve;
use store::job;

/// How long everything may take to come to its end, milliseconds.
const PATIENCE_MS: i64 = 6 * 3_600_000;

fn cents(value: &Value) -> i64 {
    let text = value.to_string();
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let part = format!("{part:0<2}");
    let negative = whole.starts_with('-');
    let minor = whole.trim_start_matches('-').parse::<i64>().unwrap() * 100 + part.parse::<i64>().unwrap();
    if negative { -minor } else { minor }
}

pub async fn reckon(caller: Caller, clock: SimulatedClock) {
    let world = &caller.world;
    for tenant in 0..beginning().tenants.len() {
        caller.set_status(tenant, TenantStatus::Active).await;
    }
    let adjustments = world.adjustments.lock().unwrap().len();
    for adjustment in 0..adjustments {
        caller.give(adjustment).await;
    }
    let intents = world.intents.lock().unwrap().len();
    for intent in 0..intents {
        caller.check_out(intent, 0).await;
    }
    if !everything_ended(&caller, clock).await {
        return;
    }
    let mut iccids = BTreeSet::new();
    for tenant in 0..beginning().tenants.len() {
        the_books_agree(&caller, tenant, &mut iccids).await;
    }
    match server::operator::ledger::check(&caller.platform.store).await {
        Ok((entries, None)) => world.note(clock.now(), &format!("{entries} entries")),
        wrong => world.wrong(format!("the ledger: {wrong:?}")),
    }
}

/// Waits until no job is left, deciding what the operator must.
async fn everything_ended(caller: &Caller, clock: SimulatedClock) -> bool {
    let (world, store) = (&caller.world, &caller.platform.store);
    let deadline = clock.now().plus_millis(PATIENCE_MS);
    while clock.now() < deadline {
        pause(10_000).await;
        let dead = store.read(|snapshot| job::list(snapshot, Some(JobState::Dead), None, 100)).await.unwrap();
        for job in dead {
            decide(caller, job.order, clock).await;
        }
        if store.read(job::counts).await.unwrap() == (0, 0) {
            return true;
        }
    }
    let left = store.read(|snapshot| job::list(snapshot, None, None, 5)).await;
    world.wrong(format!("it does not come to an end: {left:?}"));
    false
}

/// What the operator finds when he asks the upstream's people.
async fn decide(caller: &Caller, order: OrderId, clock: SimulatedClock) {
    let (world, act) = (&caller.world, &beginning().act);
    let sales = world.sandbox.sales(&order.to_string(), clock.now(), 10).await.unwrap();
    let mut profiles: Option<Vec<Profile>> = None;
    for sale in sales {
        let purchase = Purchase {
            reference: sale.reference,
            order: None,
            upstream_plan_id: sale.upstream_plan_id,
            quantity: sale.quantity,
        };
        if let domain::fulfilment::LookUp::Delivered { profiles: found } =
            world.sandbox.look_up(clock.now(), purchase).await.meaning
        {
            profiles = Some(found);
        }
    }
    world.note(clock.now(), &format!("resolve {order} {}", profiles.is_some()));
    world.count("decided by the operator");
    let resolved =
        caller.platform.store.write(move |tx| resolve(tx, act, order, profiles.as_deref(), "Asked by telephone"));
    if let Some(Err(refusal)) = caller.decide(resolved).await {
        world.wrong(format!("{order} has a dead job and cannot be resolved: {refusal:?}"));
    }
}

/// All rows of a list, page by page.
async fn all(caller: &Caller, tenant: usize, path: &str, name: &str) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = format!("{path}?limit=50{cursor}");
        let Some(reply) = caller.call(tenant, "GET", &page, None).await else { return rows };
        if reply.status != 200 {
            caller.world.wrong(format!("{page}: {}", reply.json));
        }
        let data = &reply.json["data"];
        rows.extend(list(&data[name]).iter().cloned());
        let Some(next) = data["nextCursor"].as_str() else { return rows };
        cursor = format!("&cursor={next}");
    }
}

async fn the_books_agree(caller: &Caller, tenant: usize, iccids: &mut BTreeSet<String>) {
    let world = &caller.world;
    let orders = all(caller, tenant, "/api/tenant/orders", "orders").await;
    let listed: BTreeSet<String> = orders.iter().map(|order| text(&order["id"])).collect();
    let mut known = BTreeSet::new();
    for intent in world.intents.lock().unwrap().iter().filter(|intent| intent.tenant == tenant) {
        match &intent.bought {
            Some((_, orders)) => known.extend(orders.iter().cloned()),
            None if !intent.refused => world.wrong(format!("{} is neither bought nor refused", intent.key)),
            None => {}
        }
    }
    if listed != known {
        let (more, fewer): (Vec<_>, Vec<_>) =
            (listed.difference(&known).collect(), known.difference(&listed).collect());
        world.wrong(format!("orders nobody knows of: {more:?}; orders that are gone: {fewer:?}"));
    }
    let given: i64 =
        world.adjustments.lock().unwrap().iter().filter(|(to, _)| *to == tenant).map(|(_, given)| given.minor()).sum();
    let mut balance = CREDIT + given;
    for order in &orders {
        caller.compare(order);
        let (total, refunded) = (cents(&order["totalAmount"]), cents(&order["refundedAmount"]));
        balance += refunded - total;
        an_order_adds_up(caller, order, total, refunded);
        the_upstream_agrees(caller, order, iccids).await;
    }
    let Some(reply) = caller.call(tenant, "GET", "/api/tenant/balance", None).await else { return };
    if cents(&reply.json["data"]["creditBalance"]) != balance {
        world.wrong(format!("tenant {tenant} should have {balance}: {}", reply.json));
    }
    let transactions = all(caller, tenant, "/api/tenant/transactions", "transactions").await;
    let sum: i64 = transactions.iter().map(|transaction| cents(&transaction["amount"])).sum();
    if sum != balance {
        world.wrong(format!("the transactions of tenant {tenant} sum up to {sum}, and should to {balance}"));
    }
}

fn statuses(order: &Value) -> BTreeMap<String, i64> {
    let mut statuses = BTreeMap::new();
    for esim in list(&order["esims"]) {
        *statuses.entry(text(&esim["status"])).or_insert(0) += 1;
    }
    statuses
}

/// What did not come, or was taken back, is given back, and nothing else but by goodwill.
fn an_order_adds_up(caller: &Caller, order: &Value, total: i64, refunded: i64) {
    let statuses = statuses(order);
    let count = |status: &str| statuses.get(status).copied().unwrap_or(0);
    let quantity = order["quantity"].as_i64().unwrap();
    let due = total / quantity * (count("failed") + count("cancelled"));
    let goodwill = caller.world.goodwill.lock().unwrap().contains(&text(&order["id"]));
    for (status, esims) in &statuses {
        if *esims > 0 {
            caller.world.count(match status.as_str() {
                "delivered" => "delivered",
                "failed" => "not delivered",
                _ => "taken back",
            });
        }
    }
    let right = refunded == due || (goodwill && refunded == total);
    let ended = count("failed") + count("cancelled") + count("delivered") == quantity;
    if !right || !ended || order["status"] == "processing" {
        caller.world.wrong(format!("{due} should be refunded of {total}, not {refunded}: {order}"));
    }
}

/// What was sold is what the order says, once, and nobody else has it.
async fn the_upstream_agrees(caller: &Caller, order: &Value, iccids: &mut BTreeSet<String>) {
    let (world, now) = (&caller.world, caller.platform.clock.now());
    let sales = world.sandbox.sales(&text(&order["id"]), now, 10).await.unwrap();
    let sold: BTreeSet<String> = sales.iter().flat_map(|sale| sale.iccids.iter().cloned()).collect();
    let came: BTreeSet<String> =
        list(&order["esims"]).iter().filter_map(|esim| esim["iccid"].as_str().map(str::to_owned)).collect();
    if sales.len() > 1 || sold != came {
        world.wrong(format!("the upstream sold {sales:?}: {order}"));
    }
    for iccid in came {
        if !iccids.insert(iccid.clone()) {
            world.wrong(format!("{iccid} was sold twice: {order}"));
        }
    }
}
