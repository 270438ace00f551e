//! What only eSIM Go has: orders without a name of ours, refunds that an account must be allowed, an inventory, and
//! what clients of others ask its simulator for.

use crate::stage::{BALANCE_CENTS, Case, Stage};
use domain::fulfilment::{Cancellation, LookUp, NotYet, Outcome};
use providers::connection::{Address, Answered, Call, Connection, Sent};
use providers::esim_go::{Account, EsimGo};
use providers::sandbox::{BUSY, DELIVERS, KEEPS, PARTIAL};
use providers::simulator::Fault;
use providers::simulator::shop::EsimLife;
use providers::{AddOn, RefundEffect, SoldEsim, Support, Upstream};
use serde_json::{Value, json};
use std::time::Duration;

fn connection(stage: &Stage) -> Connection {
    let base_url = format!("http://{}/v2.4/", stage.simulator.address()).parse().unwrap();
    Connection::new(&Address { base_url, proxy: None, time_limit: Duration::from_secs(10) }).unwrap()
}

/// A call as another client makes it.
async fn call(stage: &Stage, call: Call) -> Answered {
    match connection(stage).send(stage.now(), call.with("X-API-Key", &stage.keys.secret)).await {
        Sent::Answered(answered) => answered,
        other => panic!("{other:?}"),
    }
}

async fn json_of(stage: &Stage, sent: Call) -> Value {
    let answered = call(stage, sent.with("Accept", "application/json")).await;
    assert_eq!(answered.status, 200, "{}", answered.text);
    answered.json().unwrap()
}

fn order(kind: &str, assign: bool, lines: &[Value]) -> Call {
    Call::post("orders", &json!({"type": kind, "assign": assign, "order": lines}))
}

fn line(plan: &str, quantity: u32) -> Value {
    json!({"type": "bundle", "quantity": quantity, "item": plan})
}

fn delete(path: String) -> Call {
    Call { method: "DELETE".parse().unwrap(), ..Call::get(path) }
}

/// A plan whose bundles can be put on eSIMs there are.
fn addable(stage: &Stage) -> String {
    let plans = stage.simulator.shop().plans();
    plans.into_iter().find(|listed| listed.plan.top_up_supported).unwrap().plan.upstream_plan_id
}

pub async fn more_than_five_come_later_and_all_of_them(case: Case) {
    let stage = Stage::of(case).await;
    let mut purchase = stage.purchase("order-1-1", DELIVERS, 8);
    let placed = stage.upstream.place(stage.now(), purchase.clone()).await;
    assert!(matches!(placed.meaning, Outcome::NotYet(NotYet::Provisioning { .. })), "{placed:?}");
    purchase.order = placed.order;
    assert_eq!(stage.found(&mut purchase).await.len(), 8);
}

pub async fn a_short_order_is_for_the_operator_when_its_time_is_over(case: Case) {
    let stage = Stage::of(case).await;
    let mut purchase = stage.purchase("order-1-1", PARTIAL, 2);
    purchase.order = stage.upstream.place(stage.now(), purchase.clone()).await.order;
    stage.advance(300_000);
    let early = stage.upstream.look_up(stage.now(), purchase.clone()).await.meaning;
    assert!(matches!(early, LookUp::Provisioning { .. }), "{early:?}");
    stage.advance(300_001);
    // Nobody says that no more will come before everybody was asked.
    stage.simulator.faults().next(Fault::ServerError, "assignments", 1);
    let unheard = stage.upstream.look_up(stage.now(), purchase.clone()).await.meaning;
    assert!(matches!(unheard, LookUp::NoAnswer { .. }), "{unheard:?}");
    let late = stage.upstream.look_up(stage.now(), purchase).await.meaning;
    assert!(matches!(late, LookUp::CannotTell { .. }), "{late:?}");
}

pub async fn who_is_turned_away_may_come_again(case: Case) {
    let stage = Stage::of(case).await;
    for _ in 0..2 {
        let placed = stage.upstream.place(stage.now(), stage.purchase("order-1-1", BUSY, 1)).await.meaning;
        assert!(matches!(placed, Outcome::NotYet(NotYet::TryLater { .. })), "{placed:?}");
    }
    assert_eq!(stage.buy("order-1-1", BUSY, 1).await.0.len(), 1);
    assert_eq!(stage.sales(), 1);
}

pub async fn without_refunds_nothing_is_revoked(case: Case) {
    let stage = Stage::of(case).await;
    let esim = stage.delivered().await;
    let account = Account { api_key: stage.keys.secret.clone(), refunds: false };
    let upstream = EsimGo::new(connection(&stage), account);
    assert!(!upstream.capabilities().cancel);
    let services = upstream.services();
    assert!(matches!((services.cancel, services.refund_effect), (Support::No(_), RefundEffect::None)));
    let cancelled = upstream.cancel(stage.now(), esim.clone()).await.meaning;
    assert!(matches!(cancelled, Cancellation::Refused { .. }), "{cancelled:?}");
    let life = stage.simulator.shop().esim_by_iccid(&esim.iccid).unwrap().life;
    assert_eq!(life, EsimLife::Released);
}

pub async fn a_lost_refund_is_found_in_the_history(case: Case) {
    let stage = Stage::of(case).await;
    let esim = stage.delivered().await;
    stage.simulator.faults().next(Fault::CutAfter, "type=transaction", 1);
    let lost = stage.upstream.cancel(stage.now(), esim.clone()).await.meaning;
    assert!(matches!(lost, Cancellation::TryLater { .. }), "{lost:?}");
    assert_eq!(stage.upstream.cancel(stage.now(), esim.clone()).await.meaning, Cancellation::Cancelled);
    assert_eq!(stage.simulator.shop().balance_cents(), BALANCE_CENTS);
    // An eSIM without bundles leaves the account, and then nothing is told of it any more.
    stage.advance(120_000);
    let gone = stage.upstream.cancel(stage.now(), esim).await.meaning;
    assert!(matches!(gone, Cancellation::Refused { .. }), "{gone:?}");
    assert_eq!(stage.simulator.shop().balance_cents(), BALANCE_CENTS);
}

pub async fn what_would_be_lost_is_not_revoked(case: Case) {
    let stage = Stage::of(case).await;
    let shop = stage.simulator.shop();
    let begun = stage.delivered().await;
    shop.live(stage.now(), &shop.esim_by_iccid(&begun.iccid).unwrap(), EsimLife::InUse, 1).unwrap();
    let old = stage.esim("order-2-1", DELIVERS).await;
    stage.advance(61 * 86_400_000);
    for esim in [begun, old] {
        let refused = stage.upstream.cancel(stage.now(), esim.clone()).await.meaning;
        assert!(matches!(refused, Cancellation::Refused { .. }), "{refused:?}");
        assert_ne!(shop.esim_by_iccid(&esim.iccid).unwrap().life, EsimLife::Cancelled);
    }
    // What the upstream alone knows is asked for: a bundle that would be lost stays.
    let kept = stage.esim("order-3-1", KEEPS).await;
    let before = shop.balance_cents();
    let refused = stage.upstream.cancel(stage.now(), kept.clone()).await.meaning;
    assert!(matches!(refused, Cancellation::Refused { .. }), "{refused:?}");
    assert_eq!(shop.balance_cents(), before);
    assert_eq!(shop.esim_by_iccid(&kept.iccid).unwrap().life, EsimLife::Released);
}

pub async fn a_bundle_of_another_order_is_not_revoked(case: Case) {
    let stage = Stage::of(case).await;
    let shop = stage.simulator.shop();
    let plan = addable(&stage);
    let ours = stage.esim("order-1-1", &plan).await;
    let other = stage.esim("order-2-1", &plan).await;
    let paid = shop.balance_cents();
    // Nobody knows which bundle was bought, or it is not on this eSIM.
    for order in [None, other.order] {
        let esim = SoldEsim { order, ..ours.clone() };
        let refused = stage.upstream.cancel(stage.now(), esim).await.meaning;
        assert!(matches!(&refused, Cancellation::Refused { reason } if reason.contains("our order")), "{refused:?}");
    }
    assert_eq!((shop.esim_by_iccid(&ours.iccid).unwrap().life, shop.balance_cents()), (EsimLife::Released, paid));
    // The same bundle added later, by an order of its own, stays; only ours comes back.
    let add_on = AddOn { reference: "order-1-2".to_owned(), esim: ours.clone(), upstream_plan_id: plan.clone() };
    let added = stage.upstream.add(stage.now(), add_on).await;
    assert_eq!(stage.upstream.cancel(stage.now(), ours.clone()).await.meaning, Cancellation::Cancelled);
    assert_eq!(shop.balance_cents(), paid);
    let on_it = json_of(&stage, Call::get(format!("esims/{}/bundles", ours.iccid))).await;
    let states: Vec<&Value> =
        on_it["bundles"][0]["assignments"].as_array().unwrap().iter().map(|it| &it["bundleState"]).collect();
    assert_eq!(states, ["revoked", "queued"]);
    // Two of one name are gone, and one was refunded: whose it was is not told.
    let added = added.order.unwrap();
    let reference = &on_it["bundles"][0]["assignments"][1]["assignmentReference"];
    assert!(reference.as_str().unwrap().starts_with(&added), "{reference}");
    let id = on_it["bundles"][0]["assignments"][1]["id"].as_str().unwrap().to_owned();
    json_of(&stage, delete(format!("esims/{}/bundles/{plan}/assignments/{id}", ours.iccid))).await;
    assert_eq!(shop.balance_cents(), paid);
    let unsure = stage.upstream.cancel(stage.now(), ours).await.meaning;
    assert!(matches!(unsure, Cancellation::Refused { .. }), "{unsure:?}");
}

pub async fn data_that_does_not_fit_is_refused_and_not_put_elsewhere(case: Case) {
    let stage = Stage::of(case).await;
    let esim = stage.delivered().await;
    let add_on = AddOn { reference: "order-1-2".to_owned(), esim, upstream_plan_id: DELIVERS.to_owned() };
    let added = stage.upstream.add(stage.now(), add_on).await.meaning;
    assert!(matches!(added, Outcome::Refused { .. }), "{added:?}");
    assert_eq!(stage.sales(), 1);
}

pub async fn nothing_of_the_organisation_but_its_money_is_kept(case: Case) {
    let stage = Stage::of(case).await;
    let raw = stage.upstream.balance(stage.now()).await.raw;
    assert!(raw.contains("USD") && !raw.contains(&stage.keys.secret) && !raw.contains("users"), "{raw}");
}

pub async fn a_validated_order_is_not_bought(case: Case) {
    let stage = Stage::of(case).await;
    let told = json_of(&stage, order("validate", true, &[line(DELIVERS, 2)])).await;
    assert_eq!((&told["valid"], told["total"].to_string().as_str()), (&json!(true), "9.00"));
    let unknown = call(&stage, order("validate", true, &[line("nobody-sells-this", 1)])).await;
    assert_eq!(unknown.status, 400);
    assert_eq!(stage.sales(), 0);
}

pub async fn several_bundles_are_one_order(case: Case) {
    let stage = Stage::of(case).await;
    let plan = addable(&stage);
    let lines = [line(DELIVERS, 1), line(&plan, 2)];
    let first = json_of(&stage, order("transaction", true, &lines)).await;
    stage.advance(60_000);
    let second = json_of(&stage, order("transaction", true, &[line(&plan, 1)])).await;
    stage.advance(60_000);
    let whole = json_of(&stage, Call::get(format!("orders/{}", first["orderReference"].as_str().unwrap()))).await;
    let counts: Vec<usize> =
        whole["order"].as_array().unwrap().iter().map(|item| item["esims"].as_array().unwrap().len()).collect();
    assert_eq!((counts, &whole["status"]), (vec![1, 2], &json!("completed")));
    let listed = json_of(&stage, Call::get("orders?includeIccids=true&limit=10")).await;
    let listed: Vec<&Value> = listed.as_array().unwrap().iter().map(|order| &order["orderReference"]).collect();
    assert_eq!(listed, [&second["orderReference"], &first["orderReference"]]);
    let since = second["createdDate"].as_str().unwrap();
    let some = json_of(&stage, Call::get(format!("orders?createdAt=gte:{since}&createdAt=lte:{since}"))).await;
    assert_eq!(some.as_array().unwrap().len(), 1);
    // One line that cannot be sold, and none is.
    let before = stage.sales();
    let refused = call(&stage, order("transaction", true, &[line(&plan, 1), line("nobody-sells-this", 1)])).await;
    assert_eq!((refused.status, stage.sales()), (400, before));
}

pub async fn install_details_are_csv_unless_json_is_asked_for(case: Case) {
    let stage = Stage::of(case).await;
    let (profiles, number) = stage.buy("order-1-1", DELIVERS, 2).await;
    let path = format!("esims/assignments?reference={}", number.unwrap());
    let table = call(&stage, Call::get(&path)).await.text;
    assert_eq!(table.lines().count(), 3, "{table}");
    let both = json_of(&stage, Call::get(&path)).await;
    assert_eq!(both[1]["matchingId"], json!(profiles[1].matching_id));
    // The reference of a bundle on an eSIM leads to that eSIM alone.
    let bundles = json_of(&stage, Call::get(format!("esims/{}/bundles", profiles[1].iccid))).await;
    let reference = bundles["bundles"][0]["assignments"][0]["assignmentReference"].as_str().unwrap().to_owned();
    let path = format!("esims/assignments?reference={reference}&additionalFields=appleInstallUrl");
    let one = json_of(&stage, Call::get(path)).await;
    assert_eq!(one["iccid"], json!(profiles[1].iccid));
    assert!(one["appleInstallUrl"].as_str().unwrap().contains("LPA%3A1%24"));
}

pub async fn what_is_bought_ahead_is_applied_taken_back_and_refunded(case: Case) {
    let stage = Stage::of(case).await;
    let shop = stage.simulator.shop();
    let plan = addable(&stage);
    let price = shop.plan(&plan).unwrap().plan.price_minor;
    let apply = |fields: Value| Call::post("esims/apply", &fields);
    let none = call(&stage, apply(json!({"name": plan}))).await;
    assert_eq!(none.status, 403, "{}", none.text);
    json_of(&stage, order("transaction", false, &[line(&plan, 3)])).await;
    assert_eq!(shop.balance_cents(), BALANCE_CENTS - 3 * price);
    let applied = json_of(&stage, apply(json!({"bundle": plan}))).await;
    let iccid = applied["esims"][0]["iccid"].as_str().unwrap().to_owned();
    stage.advance(60_000);
    let details = format!("esims/assignments?reference={}", applied["applyReference"].as_str().unwrap());
    assert_eq!(json_of(&stage, Call::get(details)).await["iccid"], json!(iccid));
    json_of(&stage, apply(json!({"iccid": iccid, "name": plan}))).await;
    let too_many = call(&stage, apply(json!({"bundles": [{"name": plan, "repeat": 2}]}))).await;
    assert_eq!((too_many.status, stage.sales()), (403, 3), "{}", too_many.text);
    // The money went when it was bought, not when it was used; and only then it was an order.
    assert_eq!(json_of(&stage, Call::get("orders")).await.as_array().unwrap().len(), 1);
    assert_eq!(shop.balance_cents(), BALANCE_CENTS - 3 * price);
    let on_it = json_of(&stage, Call::get(format!("esims/{iccid}/bundles"))).await;
    let states: Vec<&Value> =
        on_it["bundles"][0]["assignments"].as_array().unwrap().iter().map(|it| &it["bundleState"]).collect();
    assert_eq!(states, ["queued", "queued"]);
    let back = json_of(&stage, delete(format!("esims/{iccid}/bundles/{plan}"))).await;
    assert_eq!(back["status"], json!("Successfully Revoked Bundle, bundle has been refunded to inventory"));
    // One bundle is still on it, so the eSIM stays.
    stage.advance(120_000);
    let on_it = json_of(&stage, Call::get(format!("esims/{iccid}/bundles"))).await;
    let states: Vec<&Value> =
        on_it["bundles"][0]["assignments"].as_array().unwrap().iter().map(|it| &it["bundleState"]).collect();
    assert_eq!(states, ["revoked", "queued"]);
    for available in json_of(&stage, Call::get("inventory")).await["bundles"][0]["available"].as_array().unwrap() {
        let refund = json!({"usageId": available["id"], "quantity": available["remaining"]});
        json_of(&stage, Call::post("inventory/refund", &refund)).await;
        assert_eq!(call(&stage, Call::post("inventory/refund", &refund)).await.status, 400);
    }
    assert_eq!(shop.balance_cents(), BALANCE_CENTS - price);
}

pub async fn who_reads_an_esim_sees_the_same_everywhere(case: Case) {
    let stage = Stage::of(case).await;
    let esim = stage.delivered().await;
    let it = |rest: &str| Call::get(format!("esims/{}{rest}", esim.iccid));
    assert_eq!(json_of(&stage, it("")).await["profileStatus"], json!("Released"));
    let named = Call {
        method: "PUT".parse().unwrap(),
        ..Call::post("esims", &json!({"iccid": esim.iccid, "customerRef": "a"}))
    };
    json_of(&stage, named).await;
    assert_eq!(json_of(&stage, it("")).await["customerRef"], json!("a"));
    let listed = json_of(&stage, Call::get("esims?filterBy=customerRef&filter=a")).await;
    assert_eq!(listed["esims"].as_array().unwrap().len(), 1);
    assert_eq!(json_of(&stage, it("/history")).await[0]["name"], json!("Bundle Applied"));
    let plan = addable(&stage);
    assert_eq!(json_of(&stage, it(&format!("/compatible/{plan}"))).await, json!({"compatible": true}));
    let last = json_of(&stage, it(&format!("/bundles/{DELIVERS}"))).await;
    assert_eq!(last["assignments"][0]["bundleState"], json!("queued"));
    let germany = json_of(&stage, Call::get("catalogue?countries=DE&perPage=1000")).await;
    let all = germany["bundles"].as_array().unwrap();
    assert!(all.len() > 9 && all.len() < stage.simulator.shop().plans().len());
    let one = json_of(&stage, Call::get(format!("catalogue/bundle/{DELIVERS}"))).await;
    assert!(all.contains(&one));
    assert!(!json_of(&stage, Call::get("networks?isos=DE")).await["countryNetworks"].as_array().unwrap().is_empty());
    let nobody = call(&stage, Call::get("esims/8900000000000000001/bundles")).await;
    assert_eq!(nobody.status, 403);
}
