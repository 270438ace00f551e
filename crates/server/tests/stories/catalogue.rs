//! The catalogue: what connected upstreams list becomes offers and plans, what changes there is seen here, and a list that
//! does not come, or that nobody can mean, takes nothing off sale.

use crate::acts::{UNKNOWN_ID, done, rows, string};
use crate::connections::Supplier;
use crate::stage::{Caller, Stage};
use crate::telling::list;
use providers::sandbox::{DELIVERS, KEEPS, SLOW};
use providers::simulator::{Fault, WORDS};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Waits until the list is not being read any more. Its calls follow each other at the upstream's pace, so time passes.
async fn ended(stage: &Stage, operator: &Caller, path: &str) -> Value {
    loop {
        let sync = operator.get(&format!("{path}/sync")).await.ok(200)["sync"].clone();
        if sync["state"] != "running" {
            return sync;
        }
        stage.clock.advance(100);
    }
}

/// Lets the list be read, and waits for the end.
async fn synced(stage: &Stage, operator: &Caller, path: &str) -> Value {
    operator.post(&format!("{path}/sync"), json!({})).await.ok(202);
    ended(stage, operator, path).await
}

/// The same, believing it.
async fn forced(stage: &Stage, operator: &Caller, path: &str) -> Value {
    done(&operator.post(&format!("{path}/sync"), json!({"force": true})).await);
    ended(stage, operator, path).await
}

/// Waits until the list was read once more than at `before`, by itself.
async fn read_again(stage: &Stage, operator: &Caller, path: &str, before: &Value) -> Value {
    loop {
        let sync = ended(stage, operator, path).await;
        if sync["finishedAt"] != before["finishedAt"] {
            return sync;
        }
    }
}

/// How many offers changed, by what happened.
fn changes(sync: &Value) -> BTreeMap<String, i64> {
    let changes = list(&sync["changes"]).iter();
    changes.map(|change| (string(&change["change"]), change["count"].as_i64().expect("a count"))).collect()
}

fn counted(expected: &[(&str, i64)]) -> BTreeMap<String, i64> {
    expected.iter().map(|(change, count)| ((*change).to_owned(), *count)).collect()
}

/// All entries of a list, page by page.
async fn all(operator: &Caller, path: &str) -> Vec<Value> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = operator.get(&format!("{path}{cursor}")).await.ok(200);
        found.extend(rows(&page));
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

async fn offers(operator: &Caller, connection: &str) -> Vec<Value> {
    all(operator, &format!("/api/operator/offers?connection={connection}&limit=100")).await
}

async fn offer(operator: &Caller, connection: &str, id: &str) -> Value {
    let found = offers(operator, connection).await;
    found.into_iter().find(|offer| offer["upstreamPlanId"] == id).unwrap_or_else(|| panic!("{connection} has no {id}"))
}

async fn plan(operator: &Caller, id: &Value) -> Value {
    let plans = all(operator, "/api/operator/plans?limit=1000").await;
    plans.into_iter().find(|plan| plan["id"] == *id).expect("a plan")
}

/// What is told of an offer, newest first.
async fn told(operator: &Caller, id: &str) -> Vec<(String, Value, Value)> {
    let changes = all(operator, "/api/operator/offer-changes?limit=500").await;
    let of_it = changes.into_iter().filter(|change| change["upstreamPlanId"] == id);
    let amount = |cost: &Value| cost["amount"].clone();
    of_it.map(|change| (string(&change["change"]), amount(&change["oldCost"]), amount(&change["newCost"]))).collect()
}

#[tokio::test]
async fn what_each_upstream_lists_becomes_offers_and_plans() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let before = all(&operator, "/api/operator/plans?limit=1000").await.len();
    let mut plans_made = 0;
    for (number, word) in WORDS.into_iter().enumerate() {
        let supplier = Supplier::of(&stage, word).await;
        let name = format!("supplier-{number}");
        let path = supplier.made(&operator, &name).await;
        let never = operator.get(&format!("{path}/sync")).await.ok(200)["sync"].clone();
        assert_eq!(
            (&never["state"], &never["startedAt"], &never["listed"]),
            (&json!("never"), &Value::Null, &json!(0))
        );
        let sync = synced(&stage, &operator, &path).await;
        assert_eq!((&sync["state"], &sync["detail"], &sync["leftOut"]), (&json!("done"), &Value::Null, &json!([])));
        let listed = sync["listed"].as_i64().expect("a count");
        assert!(listed >= 150, "{word} lists {listed}");
        assert_eq!(changes(&sync), counted(&[("new", listed)]), "{word}");
        assert_eq!(sync["offers"], json!({"usable": listed, "held": 0, "withdrawn": 0}), "{word}");
        assert_eq!((&sync["readAt"], &sync["plansMade"]), (&sync["finishedAt"], &json!(listed)), "{word}");
        plans_made += listed;

        let known = offers(&operator, &name).await;
        assert_eq!(i64::try_from(known.len()).expect("a count"), listed, "{word}");
        assert!(known.is_sorted_by_key(|offer| string(&offer["upstreamPlanId"])), "{word}");
        let one = offer(&operator, &name, DELIVERS).await;
        assert_eq!((&one["countries"], &one["validityDays"]), (&json!(["DE"]), &json!(7)), "{word}: {one}");
        assert_eq!((&one["dataMb"], &one["unlimited"]), (&json!(1024), &json!(false)), "{word}: {one}");
        let cost = (one["cost"]["amount"].as_f64(), &one["cost"]["currency"]);
        let currency = if word == "microesim" { "HKD" } else { "USD" };
        assert_eq!(cost, (Some(4.5), &json!(currency)), "{word}: {one}");
        let plan = plan(&operator, &one["planId"]).await;
        assert_eq!((&plan["provider"], &plan["pricedBy"]), (&json!("connections"), &json!("rules")), "{word}: {plan}");
        assert_eq!((&plan["withdrawnAt"], &plan["withdrawnBy"]), (&Value::Null, &Value::Null), "{word}");
        assert_eq!((&plan["dataMb"], &plan["validityDays"]), (&one["dataMb"], &one["validityDays"]), "{word}");

        // Nothing changed: nothing is told.
        let again = synced(&stage, &operator, &path).await;
        assert_eq!((&again["state"], changes(&again), &again["plansMade"]), (&json!("done"), counted(&[]), &json!(0)));
        let of_plan =
            rows(&operator.get(&format!("/api/operator/offers?planId={}", string(&plan["id"]))).await.ok(200));
        assert_eq!(of_plan, [one], "{word}");
    }
    let after = all(&operator, "/api/operator/plans?limit=1000").await.len();
    assert_eq!(
        i64::try_from(after - before),
        Ok(plans_made),
        "what several upstreams sell is joined by nobody but the operator"
    );
}

#[tokio::test]
async fn what_changes_at_an_upstream_is_seen_with_its_old_and_its_new_cost() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let supplier = Supplier::of(&stage, "tsim").await;
    let path = supplier.made(&operator, "tsim").await;
    synced(&stage, &operator, &path).await;
    let known = offers(&operator, "tsim").await;
    let find = |id: &str| known.iter().find(|offer| offer["upstreamPlanId"] == id).expect("an offer").clone();
    let (gone, replaced) = ("th-1gb-7d", "de-1gb-7d");
    let [gone_before, replaced_before] = [find(gone), find(replaced)];
    supplier.change(DELIVERS, json!({"cents": 475})).await;
    supplier.change(SLOW, json!({"cents": 325})).await;
    supplier.change(gone, json!({"withdrawn": true})).await;
    supplier.change(replaced, json!({"sells": "fr-1gb-7d"})).await;

    stage.clock.advance(1_000);
    let sync = synced(&stage, &operator, &path).await;
    let expected = [("cheaper", 1), ("changed_identity", 1), ("dearer", 1), ("withdrawn", 1)];
    assert_eq!(
        (changes(&sync), &sync["plansMade"], &sync["plansWithdrawn"]),
        (counted(&expected), &json!(1), &json!(2))
    );
    let number = |text: &str| serde_json::from_str::<Value>(text).expect("a number");
    let first = |id: &'static str| {
        let operator = operator.clone();
        async move { told(&operator, id).await[0].clone() }
    };
    assert_eq!(first(DELIVERS).await, ("dearer".to_owned(), number("4.50"), number("4.75")));
    assert_eq!(first(SLOW).await, ("cheaper".to_owned(), number("4.50"), number("3.25")));
    let (change, old, new) = first(gone).await;
    assert_eq!((change.as_str(), old, new), ("withdrawn", gone_before["cost"]["amount"].clone(), Value::Null));
    let (change, old, _) = first(replaced).await;
    assert_eq!((change.as_str(), old), ("changed_identity", replaced_before["cost"]["amount"].clone()));
    let dearer = rows(&operator.get("/api/operator/offer-changes?connection=tsim&change=dearer").await.ok(200));
    assert_eq!((dearer.len(), &dearer[0]["upstreamPlanId"]), (1, &json!(DELIVERS)));
    assert_eq!(dearer[0]["detail"], "4.50 USD -> 4.75 USD");

    // What a plan's id means stays: under the same id of the upstream there is another plan now.
    let replaced_now = offer(&operator, "tsim", replaced).await;
    assert_ne!(replaced_now["planId"], replaced_before["planId"]);
    assert_eq!(plan(&operator, &replaced_now["planId"]).await["countries"], json!(["FR"]));
    let left = plan(&operator, &replaced_before["planId"]).await;
    assert_eq!((&left["countries"], &left["withdrawnBy"]), (&json!(["DE"]), &json!("catalogue")));
    let off_sale = plan(&operator, &gone_before["planId"]).await;
    assert_eq!(off_sale["withdrawnBy"], "catalogue");
    let withdrawn = rows(&operator.get("/api/operator/offers?withdrawn=true").await.ok(200));
    assert_eq!((withdrawn.len(), &withdrawn[0]["upstreamPlanId"]), (1, &json!(gone)));

    supplier.change(gone, json!({"withdrawn": false})).await;
    supplier.change(replaced, json!({"withdrawn": false})).await;
    let sync = synced(&stage, &operator, &path).await;
    assert_eq!(changes(&sync), counted(&[("changed_identity", 1), ("returned", 1)]));
    assert_eq!((&sync["plansMade"], &sync["plansBack"]), (&json!(0), &json!(2)));
    assert_eq!(offer(&operator, "tsim", replaced).await["planId"], replaced_before["planId"]);
    assert_eq!(plan(&operator, &gone_before["planId"]).await["withdrawnAt"], Value::Null);
}

#[tokio::test]
async fn a_list_that_does_not_come_changes_nothing_and_is_asked_for_again() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    for word in ["tsim", "esim-go", "airalo"] {
        let supplier = Supplier::of(&stage, word).await;
        let path = supplier.made(&operator, word).await;
        let mut good = synced(&stage, &operator, &path).await;
        let before = (offers(&operator, word).await, told(&operator, DELIVERS).await);
        supplier.change(DELIVERS, json!({"cents": 500})).await;
        for fault in [Fault::ServerError, Fault::CutBefore, Fault::CutAfter, Fault::TooManyRequests] {
            supplier.faults().next(fault, "", 4);
            let sync = synced(&stage, &operator, &path).await;
            assert_eq!((&sync["state"], &sync["failures"]), (&json!("failed"), &json!(1)), "{word} {fault:?}: {sync}");
            assert!(sync["detail"].as_str().is_some_and(|detail| detail.len() > 5), "{word} {fault:?}: {sync}");
            assert_eq!((&sync["readAt"], &sync["listed"]), (&good["readAt"], &good["listed"]), "{word} {fault:?}");
            let after = (offers(&operator, word).await, told(&operator, DELIVERS).await);
            assert_eq!(after, before, "{word} {fault:?}");
            supplier.faults().clear();
            supplier.change(DELIVERS, json!({"cents": 450})).await;
            good = synced(&stage, &operator, &path).await;
            assert_eq!((&good["state"], &good["failures"]), (&json!("done"), &json!(0)), "{word} {fault:?}");
            supplier.change(DELIVERS, json!({"cents": 500})).await;
        }
        // What is written otherwise says the same.
        supplier.change(DELIVERS, json!({"cents": 450})).await;
        supplier.faults().next(Fault::WrongTypes, "", 50);
        let sync = synced(&stage, &operator, &path).await;
        assert_eq!((&sync["state"], changes(&sync)), (&json!("done"), counted(&[])), "{word}: {sync}");
    }
}

#[tokio::test]
async fn a_list_that_lacks_most_of_what_is_on_sale_is_not_believed_unless_the_operator_says_so() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let supplier = Supplier::of(&stage, "microesim").await;
    let path = supplier.made(&operator, "micro").await;
    let listed = synced(&stage, &operator, &path).await["listed"].as_i64().expect("a count");
    let before = offers(&operator, "micro").await;
    for listed in supplier.shop().plans().into_iter().skip(50) {
        supplier.shop().change_plan(&listed.plan.upstream_plan_id, None, true, None).expect("a change");
    }
    let sync = synced(&stage, &operator, &path).await;
    assert_eq!((&sync["state"], &sync["listed"]), (&json!("implausible"), &json!(50)), "{sync}");
    let detail = format!("the list has 50 offers, and only 50 of the {listed} that are on sale");
    assert_eq!(sync["detail"], detail);
    assert_eq!(offers(&operator, "micro").await, before, "nothing is taken off sale");
    assert_eq!(sync["offers"]["usable"], listed);

    let sync = forced(&stage, &operator, &path).await;
    assert_eq!((&sync["state"], changes(&sync)), (&json!("done"), counted(&[("withdrawn", listed - 50)])));
    assert_eq!(sync["offers"], json!({"usable": 50, "held": 0, "withdrawn": listed - 50}));
    let log = all(&operator, "/api/operator/audit-log?limit=100").await;
    let synced: Vec<&Value> = log.iter().filter(|entry| entry["action"] == "connection.synced").collect();
    let details: Vec<&Value> = synced.iter().map(|entry| &entry["detail"]).collect();
    assert_eq!(details, ["micro, forced", "micro", "micro"]);
}

#[tokio::test]
async fn a_list_is_read_by_one_at_a_time() {
    let mut stage = Stage::start().await;
    let operator = stage.operator().await;
    // Somebody who takes every call and never answers.
    let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = hole.local_addr().expect("an address");
    let silent = json!({
        "name": "silent", "provider": "tsim", "baseUrl": format!("http://{address}"),
        "credentials": {"account": "of-the-story", "secret": "of-nobody-at-all"}, "timeLimitSeconds": 85,
    });
    let made = operator.post("/api/operator/connections", silent).await.ok(201);
    let path = format!("/api/operator/connections/{}/sync", string(&made["connection"]["id"]));
    let begun = operator.post(&path, json!({})).await.ok(202)["sync"].clone();
    assert_eq!(
        (&begun["state"], &begun["finishedAt"], &begun["nextAt"]),
        (&json!("running"), &Value::Null, &Value::Null)
    );
    operator.post(&path, json!({})).await.refused(409, "sync_in_progress");
    operator.post(&path, json!({"force": true})).await.refused(409, "sync_in_progress");
    assert_eq!(operator.get(&path).await.ok(200)["sync"]["state"], "running");
    // Whoever reads it renews his right to.
    for _ in 0..10 {
        stage.clock.advance(14_000);
        operator.post(&path, json!({})).await.refused(409, "sync_in_progress");
    }
    // A stop does not wait for it, and the next start goes on with it.
    stage.restart().await;
    let operator = stage.operator().await;
    assert_eq!(operator.get(&path).await.ok(200)["sync"]["state"], "running");
}

#[tokio::test]
async fn lists_are_read_by_themselves_when_a_connection_is_enabled_and_every_hour() {
    let stage = Stage::with(&[("ESIMD_CATALOGUE_SYNC_MINUTES", "60")]).await;
    let operator = stage.operator().await;
    let supplier = Supplier::of(&stage, "esim-access").await;
    let path = supplier.made(&operator, "access").await;
    assert_eq!(operator.get(&format!("{path}/sync")).await.ok(200)["sync"]["state"], "never");
    done(&operator.post(&format!("{path}/enable"), json!({})).await);
    let first = read_again(&stage, &operator, &path, &json!({"finishedAt": null})).await;
    assert_eq!(first["state"], "done");
    assert!(changes(&first)["new"] >= 150, "{first}");
    assert!(first["nextAt"].is_string(), "{first}");

    supplier.change(DELIVERS, json!({"cents": 500})).await;
    stage.clock.advance(3_600_000);
    let second = read_again(&stage, &operator, &path, &first).await;
    assert_eq!((&second["state"], changes(&second)), (&json!("done"), counted(&[("dearer", 1)])));

    // A failure is tried again after some seconds.
    supplier.change(DELIVERS, json!({"cents": 450})).await;
    supplier.faults().next(Fault::ServerError, "package/list", 1);
    stage.clock.advance(3_600_000);
    let third = read_again(&stage, &operator, &path, &second).await;
    assert_eq!((&third["state"], &third["failures"]), (&json!("failed"), &json!(1)));
    stage.clock.advance(40_000);
    let fourth = read_again(&stage, &operator, &path, &third).await;
    assert_eq!(
        (&fourth["state"], &fourth["failures"], changes(&fourth)),
        (&json!("done"), &json!(0), counted(&[("cheaper", 1)]))
    );

    // Disabled, it is left alone; the operator may ask.
    done(&operator.post(&format!("{path}/disable"), json!({})).await);
    stage.clock.advance(7_200_000);
    let operator = stage.operator().await;
    assert_eq!(operator.get(&format!("{path}/sync")).await.ok(200)["sync"]["nextAt"], Value::Null);
    assert_eq!(synced(&stage, &operator, &path).await["state"], "done");
}

#[tokio::test]
async fn without_a_period_a_list_is_read_only_when_the_operator_asks() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let supplier = Supplier::of(&stage, "esim-access").await;
    let path = supplier.connected(&operator, "access").await;
    stage.clock.advance(7_200_000);
    assert_eq!(operator.get(&format!("{path}/sync")).await.ok(200)["sync"]["state"], "never");
    let sync = synced(&stage, &operator, &path).await;
    assert_eq!((&sync["state"], &sync["nextAt"]), (&json!("done"), &Value::Null));
}

#[tokio::test]
async fn the_operator_takes_offers_off_and_to_other_plans() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    for name in ["tsim", "esim-go"] {
        let supplier = Supplier::of(&stage, name).await;
        let path = supplier.made(&operator, name).await;
        synced(&stage, &operator, &path).await;
    }
    let post = |act: &'static str, body: Value| {
        let operator = operator.clone();
        async move { operator.post(&format!("/api/operator/offers/{act}"), body).await }
    };
    let named =
        |connection: &str, id: &str| json!({"connection": connection, "upstreamPlanId": id, "reason": "a story"});
    let own_plan = offer(&operator, "tsim", DELIVERS).await["planId"].clone();
    let of_go = offer(&operator, "esim-go", DELIVERS).await;
    let kept = offer(&operator, "tsim", KEEPS).await["planId"].clone();

    let held = post("hold", named("tsim", DELIVERS)).await.ok(200);
    assert_eq!(held["offer"]["held"], true);
    assert_eq!(plan(&operator, &own_plan).await["withdrawnBy"], "catalogue");
    post("hold", named("tsim", DELIVERS)).await.refused(409, "already_decided");
    let found = rows(&operator.get("/api/operator/offers?held=true").await.ok(200));
    assert_eq!(found, [held["offer"].clone()]);
    post("release", named("tsim", DELIVERS)).await.ok(200);
    assert_eq!(plan(&operator, &own_plan).await["withdrawnBy"], Value::Null);
    for act in ["hold", "release"] {
        post(act, named("tsim", "no-such-plan")).await.refused(404, "not_found");
        post(act, named("nobody", DELIVERS)).await.refused(404, "not_found");
        assert_eq!(
            post(act, json!({"connection": "tsim", "upstreamPlanId": DELIVERS})).await.faults(),
            ["reason required"]
        );
    }

    let to = |connection: &str, id: &str, plan: &Value, force: bool| {
        let mut body = named(connection, id);
        body["planId"] = plan.clone();
        body["force"] = json!(force);
        body
    };
    // Two upstreams sell the same: from now on it is one plan.
    let moved = post("move", to("esim-go", DELIVERS, &own_plan, false)).await.ok(200);
    assert_eq!(moved["offer"]["planId"], own_plan);
    assert_eq!(plan(&operator, &of_go["planId"]).await["withdrawnBy"], "catalogue");
    post("move", to("esim-go", DELIVERS, &own_plan, false)).await.refused(409, "already_decided");
    let of_plan = rows(&operator.get(&format!("/api/operator/offers?planId={}", string(&own_plan))).await.ok(200));
    let connections: Vec<&Value> = of_plan.iter().map(|offer| &offer["connection"]).collect();
    assert_eq!(connections, ["esim-go", "tsim"]);
    let other = offer(&operator, "tsim", "th-1gb-7d").await["planId"].clone();
    post("move", to("esim-go", DELIVERS, &other, false)).await.refused(409, "another_identity");
    post("move", to("esim-go", DELIVERS, &other, true)).await.ok(200);
    post("move", to("tsim", "no-such-plan", &kept, true)).await.refused(404, "not_found");
    let unknown = post("move", to("tsim", DELIVERS, &json!(UNKNOWN_ID), true)).await;
    assert_eq!(unknown.faults(), ["planId not_in_list"]);
    let partner = stage.partner().await;
    let of_the_sandbox = json!(partner.plan("Sandbox: delivers").await);
    post("move", to("tsim", DELIVERS, &of_the_sandbox, true)).await.refused(409, "plan_has_no_offers");

    let log = all(&operator, "/api/operator/audit-log?limit=100").await;
    let acts: Vec<&str> = log.iter().filter_map(|entry| entry["action"].as_str()).collect();
    let of_offers: Vec<&str> = acts.into_iter().filter(|act| act.starts_with("offer.")).collect();
    assert_eq!(of_offers, ["offer.moved", "offer.moved", "offer.released", "offer.held"]);
    assert!(log.iter().filter(|entry| entry["action"] == "offer.moved").all(|entry| entry["reason"] == "a story"));
}

#[tokio::test]
async fn the_lists_of_offers_tell_the_faults_of_their_filters() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    for (query, fault) in [
        ("offers?cursor=nonsense!", "cursor malformed"),
        ("offers?cursor=bm9uc2Vuc2U", "cursor malformed"),
        ("offers?planId=7", "planId malformed"),
        ("offers?held=perhaps", "held malformed"),
        ("offers?limit=0", "limit out_of_range"),
        ("offer-changes?change=else", "change not_in_list"),
        ("offer-changes?cursor=nonsense", "cursor malformed"),
    ] {
        assert_eq!(operator.get(&format!("/api/operator/{query}")).await.faults(), [fault], "{query}");
    }
    for path in ["offers", "offer-changes"] {
        assert_eq!(
            rows(&operator.get(&format!("/api/operator/{path}?connection=nobody")).await.ok(200)),
            Vec::<Value>::new()
        );
    }
}
