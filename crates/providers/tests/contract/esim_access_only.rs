//! What is special about eSIM Access, and what clients see there that are not ours.

use crate::cases;
use crate::stage::{BALANCE_CENTS, Stage};
use domain::fulfilment::{Cancellation, LookUp, NotYet, Outcome};
use domain::offer::Data;
use providers::callback::{About, Callback};
use providers::connection::Connection;
use providers::esim_access::{Account, EsimAccess};
use providers::offer::Life;
use providers::sandbox::{BUSY, DELIVERS, PARTIAL};
use providers::simulator::shop::EsimLife;
use providers::simulator::{Fault, Planned, Said};
use providers::{AddOn, NotRead, SoldEsim, Upstream};
use serde_json::{Value, json};

async fn stage() -> Stage {
    Stage::of(cases::esim_access()).await
}

/// A call of a client that does not sign, as most do not.
async fn post(stage: &Stage, path: &str, body: &Value) -> Value {
    let headers = [("RT-AccessCode", stage.keys.account.clone())];
    send(stage, path, &headers, body.to_string()).await
}

async fn send(stage: &Stage, path: &str, headers: &[(&str, String)], body: String) -> Value {
    let url = format!("http://{}/api/v1/open/{path}", stage.simulator.address());
    let mut request = reqwest::Client::new().post(url).body(body);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    serde_json::from_slice(&request.send().await.unwrap().bytes().await.unwrap()).unwrap()
}

fn day_pass(stage: &Stage) -> (String, i64, i64) {
    let plans = stage.simulator.shop().plans();
    let found = plans.into_iter().find(|listed| listed.plan.daily_data_mb.is_some()).unwrap();
    (found.plan.upstream_plan_id.clone(), found.day_cents(), found.plan.daily_data_mb.unwrap())
}

#[tokio::test]
async fn who_does_not_sign_is_let_in_and_who_signs_wrongly_is_not() {
    let stage = stage().await;
    assert_eq!(post(&stage, "balance/query", &json!({})).await["obj"]["balance"], 100 * BALANCE_CENTS);
    // As the vendor's first example: no body, and no JSON.
    let simple = [("RT-AccessCode", stage.keys.account.clone())];
    assert_eq!(send(&stage, "balance/query", &simple, String::new()).await["success"], true);
    assert_eq!(send(&stage, "balance/query", &[], String::new()).await["errorCode"], "000101");
    assert_eq!(send(&stage, "balance/query", &simple, "[1".to_owned()).await["errorCode"], "000104");
    let signed = |timestamp: String, signature: &str| {
        let account = stage.keys.account.clone();
        [
            ("RT-AccessCode", account),
            ("RT-RequestID", "11111111-2222-4333-8444-555555555555".to_owned()),
            ("RT-Timestamp", timestamp),
            ("RT-Signature", signature.to_owned()),
        ]
    };
    let forged = signed(stage.now().millis().to_string(), "00");
    assert_eq!(send(&stage, "balance/query", &forged, String::new()).await["errorCode"], "101003");
}

#[tokio::test]
async fn an_account_without_a_secret_buys_too() {
    let stage = stage().await;
    let address = providers::connection::Address {
        base_url: format!("http://{}", stage.simulator.address()).parse().unwrap(),
        proxy: None,
        time_limit: std::time::Duration::from_secs(10),
    };
    let account = Account { access_code: stage.keys.account.clone(), secret_key: None };
    let simple = EsimAccess::new(Connection::new(&address).unwrap(), account);
    let placed = simple.place(stage.now(), stage.purchase("order-1-1", DELIVERS, 1)).await;
    assert!(matches!(placed.meaning, Outcome::NotYet(NotYet::Provisioning { .. })), "{placed:?}");
}

#[tokio::test]
async fn an_old_signature_is_refused_and_nothing_is_sold() {
    let stage = stage().await;
    let long_ago = stage.now().plus_millis(-3_600_000);
    let placed = stage.upstream.place(long_ago, stage.purchase("order-1-1", DELIVERS, 1)).await;
    // The operator sets the clock; the purchase waits.
    assert!(matches!(placed.meaning, Outcome::NotYet(NotYet::TryLater { .. })), "{placed:?}");
    assert_eq!(stage.sales(), 0);
}

#[tokio::test]
async fn a_busy_upstream_may_have_sold_and_is_asked() {
    let stage = stage().await;
    let mut purchase = stage.purchase("order-1-1", DELIVERS, 1);
    let busy = json!({"success": false, "errorCode": "900001", "errorMsg": "System busy", "obj": null});
    for status in [200, 400, 500, 503] {
        stage.simulator.faults().say("esim/order", status, busy.clone());
        let placed = stage.upstream.place(stage.now(), purchase.clone()).await;
        assert!(matches!(placed.meaning, Outcome::Unknown { .. }), "{status}: {placed:?}");
    }
    assert_eq!(stage.upstream.look_up(stage.now(), purchase.clone()).await.meaning, LookUp::NotFound);
    // It sold, and was busy only then.
    let says = Said { status: 200, body: busy };
    stage.simulator.faults().plan(Planned { says, ..Planned::once(Fault::DoesAndSays, "esim/order") });
    let placed = stage.upstream.place(stage.now(), purchase.clone()).await;
    assert!(matches!(placed.meaning, Outcome::Unknown { .. }), "{placed:?}");
    assert_eq!(stage.found(&mut purchase).await.len(), 1);
    assert_eq!(stage.sales(), 1);
}

#[tokio::test]
async fn a_busy_upstream_sells_in_the_end_and_once() {
    let stage = stage().await;
    for _ in 0..2 {
        let placed = stage.upstream.place(stage.now(), stage.purchase("order-1-1", BUSY, 1)).await;
        assert!(matches!(placed.meaning, Outcome::Unknown { .. }), "{placed:?}");
    }
    assert_eq!(stage.buy("order-1-1", BUSY, 1).await.0.len(), 1);
    assert_eq!(stage.sales(), 1);
}

#[tokio::test]
async fn an_esim_is_named_within_its_own_order_and_never_by_its_iccid() {
    let stage = stage().await;
    let shop = stage.simulator.shop();
    let ours = SoldEsim { handle: None, ..stage.delivered().await };
    let old = shop.esim_by_iccid(&ours.iccid).unwrap();
    shop.live(stage.now(), &old, EsimLife::Expired, 0).unwrap();
    let theirs = stage.esim("order-2-1", DELIVERS).await;
    let new = shop.esim_by_iccid(&theirs.iccid).unwrap();
    shop.reuse_iccid(&new, &ours.iccid).unwrap();
    let paid = shop.balance_cents();
    // Its ICCID is that of a later eSIM, which somebody paid for and has not installed.
    for order in [ours.order.clone(), None] {
        stage.advance(1_000);
        let esim = SoldEsim { order, ..ours.clone() };
        let refused = stage.upstream.cancel(stage.now(), esim.clone()).await.meaning;
        assert!(matches!(refused, Cancellation::Refused { .. }), "{refused:?}");
        stage.advance(1_000);
        let usage = stage.upstream.usage(stage.now(), esim).await.meaning.unwrap();
        assert_eq!(usage.life, Life::Expired);
    }
    assert_eq!((shop.esim(new.number).unwrap().life, shop.balance_cents()), (EsimLife::Released, paid));
    // That one is taken back by its own order, with or without a number of its own.
    let theirs = SoldEsim { iccid: ours.iccid.clone(), handle: None, order: None, ..theirs };
    assert_eq!(stage.upstream.cancel(stage.now(), theirs).await.meaning, Cancellation::Cancelled);
    assert_eq!(shop.esim(new.number).unwrap().life, EsimLife::Cancelled);
}

#[tokio::test]
async fn another_orders_cancellation_is_not_ours() {
    let stage = stage().await;
    let shop = stage.simulator.shop();
    let theirs = stage.esim("order-2-1", DELIVERS).await;
    let old = shop.esim_by_iccid(&theirs.iccid).unwrap();
    shop.take_back(stage.now(), &old).unwrap();
    let ours = stage.delivered().await;
    let new = shop.esim_by_iccid(&ours.iccid).unwrap();
    shop.reuse_iccid(&new, &theirs.iccid).unwrap();
    shop.live(stage.now(), &shop.esim(new.number).unwrap(), EsimLife::InUse, 10).unwrap();
    let ours = SoldEsim { iccid: theirs.iccid, handle: None, ..ours };
    for order in [ours.order.clone(), None] {
        stage.advance(1_000);
        let esim = SoldEsim { order, ..ours.clone() };
        let refused = stage.upstream.cancel(stage.now(), esim).await.meaning;
        assert!(matches!(refused, Cancellation::Refused { .. }), "{refused:?}");
    }
    // An eSIM of an order that is not there is none of ours.
    let nobodys = SoldEsim { reference: "order-3-1".to_owned(), order: None, ..ours };
    let refused = stage.upstream.cancel(stage.now(), nobodys.clone()).await.meaning;
    assert!(matches!(&refused, Cancellation::Refused { reason } if reason.contains("our number")), "{refused:?}");
    let add_on = AddOn { reference: "order-3-2".to_owned(), esim: nobodys, upstream_plan_id: "TOPUP_x".to_owned() };
    stage.advance(1_000);
    let refused = stage.upstream.add(stage.now(), add_on).await.meaning;
    assert!(matches!(&refused, Outcome::Refused { code, .. } if code == "not_in_our_order"), "{refused:?}");
}

#[tokio::test]
async fn a_purchase_of_long_ago_is_found() {
    let stage = stage().await;
    // An order's id begins with the milliseconds it was made at.
    let made = format!("{:012x}", stage.now().millis());
    let reference = format!("{}-{}-7e11-9d2e-55d0a1b20000-1", &made[..8], &made[8..]);
    let purchase = stage.purchase(&reference, DELIVERS, 1);
    stage.simulator.faults().next(Fault::CutAfter, "esim/order", 1);
    let lost = stage.upstream.place(stage.now(), purchase.clone()).await.meaning;
    assert!(matches!(lost, Outcome::Unknown { .. }), "{lost:?}");
    stage.advance(40 * 86_400_000);
    let found = stage.upstream.look_up(stage.now(), purchase).await.meaning;
    assert!(matches!(found, LookUp::Delivered { .. }), "{found:?}");
}

#[tokio::test]
async fn a_list_that_does_not_come_to_its_end_proves_nothing() {
    let stage = stage().await;
    let purchase = stage.purchase("order-1-1", DELIVERS, 1);
    stage.simulator.faults().next(Fault::CutAfter, "esim/order", 1);
    stage.upstream.place(stage.now(), purchase.clone()).await;
    let other = json!({"esimTranNo": "1", "orderNo": "B1", "transactionId": "order-9-1", "iccid": "8901"});
    for (esims, pager) in [
        (json!([]), json!({})),
        (json!([]), json!({"pageSize": 500, "pageNum": 1, "total": 1})),
        (json!([other]), Value::Null),
        (json!([{"esimTranNo": "1", "orderNo": "B1"}]), json!({"total": 1})),
        (json!([{"esimTranNo": "1", "transactionId": "order-1-1"}]), json!({"total": 1})),
        (Value::Null, json!({"total": 0})),
    ] {
        let body = json!({"success": true, "errorCode": "0", "obj": {"esimList": esims, "pager": pager}});
        stage.simulator.faults().say("esim/query", 200, body.clone());
        let found = stage.upstream.look_up(stage.now(), purchase.clone()).await.meaning;
        assert!(matches!(found, LookUp::NoAnswer { .. } | LookUp::CannotTell { .. }), "{body}: {found:?}");
        stage.advance(1_000);
    }
    // A page may be shorter than was asked for: then there are more of them.
    let short = json!({"success": true, "errorCode": "0", "obj": {"esimList": [other], "pager": {"total": 501}}});
    stage.simulator.faults().say("esim/query", 200, short);
    stage.simulator.faults().say(
        "esim/query",
        200,
        json!({"success": true, "obj": {"esimList": [
        {"esimTranNo": "2", "orderNo": "B2", "transactionId": "order-1-1"}], "pager": {"total": 501}}}),
    );
    stage.advance(60_000);
    assert_eq!(stage.upstream.look_up(stage.now(), purchase).await.order.as_deref(), Some("B2"));
}

#[tokio::test]
async fn an_order_that_was_cancelled_in_part_is_delivered_in_part() {
    let stage = stage().await;
    let mut purchase = stage.purchase("order-1-1", DELIVERS, 3);
    purchase.order = stage.upstream.place(stage.now(), purchase.clone()).await.order;
    stage.advance(60_000);
    let shop = stage.simulator.shop();
    let esims = shop.esims(&shop.sales()[0]);
    shop.take_back(stage.now(), &esims[1]).unwrap();
    let found = stage.upstream.look_up(stage.now(), purchase).await.meaning;
    let LookUp::Delivered { profiles } = found else { panic!("{found:?}") };
    let iccids: Vec<&str> = profiles.iter().map(|profile| profile.iccid.as_str()).collect();
    assert_eq!(iccids, [&esims[0].profile.iccid, &esims[2].profile.iccid]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_purchase_twice_at_once_is_sold_once() {
    let stage = stage().await;
    for k in 1..=5 {
        let purchase = stage.purchase(&format!("order-{k}-1"), DELIVERS, 1);
        let placed = || stage.upstream.place(stage.now(), purchase.clone());
        let (one, other, third) = tokio::join!(placed(), placed(), placed());
        assert!(one.order.is_some() && one.order == other.order && other.order == third.order, "{one:?} {other:?}");
        stage.advance(1_000);
    }
    assert_eq!(stage.sales(), 5);
}

#[tokio::test]
async fn a_ninth_call_within_a_second_is_tried_later() {
    let stage = stage().await;
    for _ in 0..8 {
        stage.upstream.balance(stage.now()).await.meaning.unwrap();
    }
    let ninth = stage.upstream.balance(stage.now()).await.meaning;
    assert!(matches!(ninth, Err(NotRead::TryLater { .. })), "{ninth:?}");
    stage.advance(1_000);
    stage.upstream.balance(stage.now()).await.meaning.unwrap();
}

#[tokio::test]
async fn an_order_that_stays_short_is_for_the_operator() {
    let stage = stage().await;
    let mut purchase = stage.purchase("order-1-1", PARTIAL, 3);
    purchase.order = stage.upstream.place(stage.now(), purchase.clone()).await.order;
    stage.advance(60_000);
    let early = stage.upstream.look_up(stage.now(), purchase.clone()).await.meaning;
    assert!(matches!(early, LookUp::Provisioning { .. }), "{early:?}");
    stage.advance(600_000);
    let late = stage.upstream.look_up(stage.now(), purchase).await.meaning;
    assert!(matches!(late, LookUp::CannotTell { .. }), "{late:?}");
}

#[tokio::test]
async fn an_order_that_was_cancelled_before_anybody_asked_is_refused() {
    let stage = stage().await;
    let mut purchase = stage.purchase("order-1-1", DELIVERS, 1);
    purchase.order = stage.upstream.place(stage.now(), purchase.clone()).await.order;
    stage.advance(60_000);
    let shop = stage.simulator.shop();
    shop.take_back(stage.now(), &shop.esims(&shop.sales()[0])[0]).unwrap();
    let heard = stage.upstream.look_up(stage.now(), purchase).await.meaning;
    assert!(matches!(heard, LookUp::Refused { .. }), "{heard:?}");
}

#[tokio::test]
async fn a_cancellation_whose_answer_was_lost_is_asked_for_again() {
    let stage = stage().await;
    let esim = stage.delivered().await;
    stage.simulator.faults().next(Fault::CutAfter, "esim/cancel", 1);
    let lost = stage.upstream.cancel(stage.now(), esim.clone()).await.meaning;
    assert!(matches!(lost, Cancellation::TryLater { .. }), "{lost:?}");
    assert_eq!(stage.upstream.cancel(stage.now(), esim).await.meaning, Cancellation::Cancelled);
    assert_eq!(stage.simulator.shop().balance_cents(), BALANCE_CENTS);
}

#[tokio::test]
async fn a_lost_answer_to_added_data_is_never_called_refused() {
    let stage = stage().await;
    let plans = stage.simulator.shop().plans();
    let plan = plans.into_iter().map(|listed| listed.plan).find(|plan| plan.top_up_supported).unwrap();
    let esim = stage.esim("order-1-1", &plan.upstream_plan_id).await;
    let add_on =
        AddOn { reference: "order-1-2".to_owned(), esim, upstream_plan_id: format!("TOPUP_{}", plan.upstream_plan_id) };
    stage.simulator.faults().next(Fault::CutAfter, "esim/topup", 1);
    let lost = stage.upstream.add(stage.now(), add_on).await.meaning;
    assert!(matches!(lost, Outcome::Unknown { .. }), "{lost:?}");
    assert_eq!(stage.sales(), 2);
}

#[tokio::test]
async fn a_day_pass_is_bought_for_as_many_days_as_it_is_asked_for() {
    let stage = stage().await;
    let (code, day_cents, daily_mb) = day_pass(&stage);
    let offers = stage.upstream.offers(stage.now()).await.meaning.unwrap();
    assert!(!offers.iter().any(|offer| offer.upstream_plan_id == code), "nobody says for how many days");
    for days in [1, 7, 30] {
        let id = format!("{code}*{days}");
        let offer = offers.iter().find(|offer| offer.upstream_plan_id == id).unwrap();
        assert_eq!((offer.data, offer.validity_days), (Data::Daily(daily_mb), days));
        assert_eq!(offer.cost.units, days * day_cents * 100);
        let before = stage.simulator.shop().balance_cents();
        stage.buy(&format!("order-{days}-2"), &id, 1).await;
        let paid = before - stage.simulator.shop().balance_cents();
        assert_eq!(100 * paid, offer.cost.units, "it costs what was listed");
    }
    let esim = stage.esim("order-1-1", &format!("{code}*9")).await;
    let shop = stage.simulator.shop();
    assert_eq!((shop.sales()[3].days, shop.sales()[3].cents), (Some(9), 9 * day_cents));
    let sold = shop.esim_by_iccid(&esim.iccid).unwrap();
    assert_eq!((sold.days, sold.total_mb), (9, Some(9 * daily_mb)));
    // What its volume is the total of is not told.
    assert_eq!(stage.upstream.usage(stage.now(), esim).await.meaning.unwrap().total_bytes, None);
}

#[tokio::test]
async fn several_packages_are_one_order_and_prices_are_verified() {
    let stage = stage().await;
    let (pass, day_cents, _) = day_pass(&stage);
    let order = |reference: &str, amount: i64, price: i64| {
        json!({"transactionId": reference, "amount": amount, "packageInfoList": [
            {"packageCode": DELIVERS, "count": 2, "price": price},
            {"slug": pass.to_uppercase().replace('-', "_"), "count": 1, "periodNum": 3},
        ]})
    };
    let each = stage.simulator.shop().plan(DELIVERS).unwrap().plan.price_minor * 100;
    let total = 2 * each + 300 * day_cents;
    let refused = async |body: &Value| post(&stage, "esim/order", body).await["errorCode"].clone();
    assert_eq!(refused(&order("txn-1", total, each + 1)).await, "200005");
    assert_eq!(refused(&order("txn-1", total - 1, each)).await, "200006");
    let long = "x".repeat(51);
    assert_eq!(refused(&order(&long, total, each)).await, "000107");
    assert_eq!(stage.sales(), 0);
    let sold = post(&stage, "esim/order", &order("txn-1", total, each)).await;
    assert_eq!((&sold["success"], &sold["errorCode"]), (&json!(true), &json!("0")));
    let again = post(&stage, "esim/order", &order("txn-1", total, each)).await;
    assert_eq!(again, sold);
    let query = json!({"orderNo": sold["obj"]["orderNo"], "pager": {"pageNum": 1, "pageSize": 10}});
    assert_eq!(post(&stage, "esim/query", &query).await["errorCode"], "200010");
    stage.advance(60_000);
    let found = post(&stage, "esim/query", &query).await;
    assert_eq!(found["obj"]["pager"]["total"], 3, "{found}");
    let esim = &found["obj"]["esimList"][2];
    assert_eq!((&esim["totalDuration"], &esim["dataType"]), (&json!(3), &json!(2)));
    assert_eq!((&esim["esimStatus"], &esim["smdpStatus"]), (&json!("GOT_RESOURCE"), &json!("RELEASED")));
    assert_eq!(stage.simulator.shop().balance_cents() * 100, BALANCE_CENTS * 100 - total);
}

#[tokio::test]
async fn an_esim_is_suspended_resumed_and_revoked() {
    let stage = stage().await;
    let esim = stage.delivered().await;
    let named = json!({"esimTranNo": esim.handle});
    assert_eq!(post(&stage, "esim/suspend", &named).await["errorCode"], "200002");
    let shop = stage.simulator.shop();
    shop.live(stage.now(), &shop.esim_by_iccid(&esim.iccid).unwrap(), EsimLife::InUse, 10).unwrap();
    assert_eq!(post(&stage, "esim/suspend", &named).await["success"], true);
    assert_eq!(stage.upstream.usage(stage.now(), esim.clone()).await.meaning.unwrap().life, Life::Unknown);
    stage.advance(1_000);
    assert_eq!(post(&stage, "esim/unsuspend", &named).await["success"], true);
    assert_eq!(stage.upstream.usage(stage.now(), esim.clone()).await.meaning.unwrap().life, Life::Active);
    let told = post(&stage, "esim/usage/query", &json!({"esimTranNoList": [esim.handle]})).await;
    assert_eq!(told["obj"]["esimUsageList"][0]["dataUsage"], 10 * 1_048_576);
    stage.advance(1_000);
    assert_eq!(post(&stage, "esim/revoke", &named).await["success"], true);
    assert_eq!(stage.upstream.usage(stage.now(), esim).await.meaning.unwrap().life, Life::Ended);
    assert!(shop.balance_cents() < BALANCE_CENTS);
}

#[tokio::test]
async fn an_address_is_kept_only_if_it_answers_to_the_check() {
    let mut stage = stage().await;
    let own = stage.simulator.shop().callback_url();
    let refused = post(&stage, "webhook/save", &json!({"webhook": "http://127.0.0.1:9/"})).await;
    assert_eq!(refused["success"], false);
    assert_eq!(post(&stage, "webhook/query", &json!({})).await["obj"]["webhook"], own);
    let other = format!("{own}?other");
    assert_eq!(post(&stage, "webhook/save", &json!({"webhook": other})).await["success"], true);
    assert_eq!(stage.simulator.shop().callback_url(), other);
    let check = stage.callback().await;
    let body: Value = serde_json::from_slice(&check.body).unwrap();
    assert_eq!(body["content"], json!({"orderNo": "1234567890", "orderStatus": "Test"}));
    assert_eq!(stage.upstream.read_callback(stage.now(), &check).unwrap().about, About::Account);
}

#[tokio::test]
async fn a_travellers_life_is_told_step_by_step() {
    let mut stage = stage().await;
    let esim = stage.delivered().await;
    let fields = |callback: &Callback| -> Value { serde_json::from_slice(&callback.body).unwrap() };
    assert_eq!(fields(&stage.callback().await)["notifyType"], "ORDER_STATUS");
    let lives = [(EsimLife::Installed, 0), (EsimLife::InUse, 600), (EsimLife::UsedUp, 1_024)];
    let mut told = Vec::new();
    for (life, used_mb) in lives {
        let shop = stage.simulator.shop();
        shop.live(stage.now(), &shop.esim_by_iccid(&esim.iccid).unwrap(), life, used_mb).unwrap();
        let news = if life == EsimLife::UsedUp { 3 } else { 1 + usize::from(life == EsimLife::InUse) };
        for _ in 0..news {
            let callback = stage.callback().await;
            let notice = stage.upstream.read_callback(stage.now(), &callback).unwrap();
            let About::Esim { order, handle, iccid } = notice.about else { panic!("{notice:?}") };
            assert_eq!((&order, &handle, iccid.as_deref()), (&esim.order, &esim.handle, Some(esim.iccid.as_str())));
            let content = &fields(&callback)["content"];
            told.push((fields(&callback)["notifyType"].clone(), content["remainThreshold"].clone(), notice.event));
        }
    }
    let events: Vec<&str> = told.iter().map(|(_, _, event)| event.as_str()).collect();
    assert_eq!(
        events,
        [
            "SMDP_EVENT GOT_RESOURCE",
            "ESIM_STATUS IN_USE",
            "DATA_USAGE",
            "ESIM_STATUS USED_UP",
            "DATA_USAGE",
            "DATA_USAGE"
        ]
    );
    let thresholds: Vec<&Value> = told.iter().map(|(_, threshold, _)| threshold).filter(|one| one.is_f64()).collect();
    assert_eq!(thresholds, [&json!(0.5), &json!(0.25), &json!(0.1)]);
    stage.advance(6 * 86_400_000);
    let last_day = stage.callback().await;
    assert_eq!(fields(&last_day)["notifyType"], "VALIDITY_USAGE");
    assert_eq!(fields(&last_day)["content"]["remain"], 1);
}

#[tokio::test]
async fn places_and_filters_lead_to_the_same_packages() {
    let stage = stage().await;
    let places = post(&stage, "location/list", &json!({})).await;
    let places = places["obj"]["locationList"].as_array().unwrap();
    let germany = places.iter().find(|place| place["code"] == "DE").unwrap();
    assert_eq!((&germany["name"], &germany["type"]), (&json!("Germany"), &json!(1)));
    let all = async |filter: Value| -> Vec<Value> {
        post(&stage, "package/list", &filter).await["obj"]["packageList"].as_array().unwrap().clone()
    };
    let in_germany = all(json!({"locationCode": "DE", "type": "", "packageCode": "", "slug": "", "iccid": ""})).await;
    assert!(!in_germany.is_empty() && in_germany.iter().all(|package| package["location"] == "DE"));
    let passes = all(json!({"dataType": "2"})).await;
    assert!(!passes.is_empty() && passes.iter().all(|package| package["name"].as_str().unwrap().contains("/Day")));
    assert!(!all(json!({"locationCode": "!RG"})).await.is_empty());
    let one = all(json!({"slug": in_germany[0]["slug"]})).await;
    assert_eq!(one, [in_germany[0].clone()]);
}
