//! eSIMs after the sale: found and listed, with what was used of their data, and followed through their lives, as the
//! upstreams tell them: when somebody asks, slowly by themselves, and when news came.

use crate::acts::{done, string, suspend};
use crate::connections::{Supplier, plan};
use crate::stage::{Caller, Partner, Stage};
use crate::telling::{CHECKOUT, column, encoded, list, millis, only_order, order, passing, settled, text};
use providers::sandbox::DELIVERS;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::pin::pin;

const ESIMS: &str = "/api/tenant/esims";
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const MEGABYTE: i64 = 1_048_576;

/// A partner, and one order of two eSIMs that a connected upstream delivered.
struct Sold {
    stage: Stage,
    operator: Caller,
    partner: Partner,
    supplier: Supplier,
    connection: String,
    order: String,
    esims: Vec<Value>,
}

impl Sold {
    async fn by(word: &'static str) -> Self {
        let stage = Stage::start().await;
        let operator = stage.operator().await;
        let partner = stage.partner_with("100").await;
        let supplier = Supplier::of(&stage, word).await;
        let connection = supplier.connected(&operator, "supplier").await;
        done(&operator.post("/api/operator/plans/import", plan("supplier", DELIVERS)).await);
        let bought = partner.plan("Thailand 3 GB").await;
        let body = json!({"items": [{"planId": bought, "quantity": 2}], "reference": "of the story"});
        let order = only_order(&partner.post(CHECKOUT, body).await.ok(201));
        let delivered = settled(&stage, &partner, &order).await;
        assert_eq!(delivered["status"], "completed", "{word}: {delivered}");
        let esims = list(&delivered["esims"]).clone();
        Self { stage, operator, partner, supplier, connection, order, esims }
    }

    fn id(&self, position: usize) -> &str {
        text(&self.esims[position]["id"])
    }

    /// A traveller and time do this to an eSIM.
    async fn live(&self, position: usize, life: &str, used_mb: i64) {
        let route = format!("esims/{}", text(&self.esims[position]["iccid"]));
        self.supplier.steer(&route, json!({"life": life, "usedMb": used_mb})).await;
    }

    /// So much later; a token would not live so long.
    async fn days_later(&mut self, days: i64) {
        self.stage.clock.advance(days * 24 * HOUR_MS);
        self.partner.caller = self.stage.login(&self.partner.email, "live").await;
    }

    /// An eSIM with its usage, as a partner reads it whose upstream answers in time: the clock moves on so far that calls
    /// follow each other as fast as they may, and then waits for the upstream, however busy this machine is.
    async fn esim(&self, position: usize) -> Value {
        let path = format!("{ESIMS}/{}", self.id(position));
        let stranger = self.stage.stranger();
        let mut reading = pin!(self.partner.get(&path));
        for _ in 0..100 {
            tokio::select! {
                biased;
                read = &mut reading => return read.ok(200)["esim"].clone(),
                _ = stranger.get("/healthz") => self.stage.clock.advance(20),
            }
        }
        reading.await.ok(200)["esim"].clone()
    }

    /// The same when its upstream does not answer in time.
    async fn esim_of_slow(&self, position: usize) -> Value {
        let path = format!("{ESIMS}/{}", self.id(position));
        passing(&self.stage, 25, self.partner.get(&path)).await.ok(200)["esim"].clone()
    }

    /// Waits until an eSIM has this status, without asking for it, while a few minutes pass at most.
    async fn becomes(&self, position: usize, status: &str) {
        for _ in 0..2_000 {
            let order = order(&self.partner, &self.order).await;
            if order["esims"][position]["status"] == status {
                return;
            }
            self.stage.clock.advance(50);
        }
        panic!("the eSIM did not become {status}: {}", order(&self.partner, &self.order).await);
    }

    /// What the timeline tells of an eSIM.
    async fn told_of(&self, position: usize) -> Vec<String> {
        let order = order(&self.partner, &self.order).await;
        let of_esim = |event: &&Value| event["detail"] == self.esims[position]["id"];
        list(&order["timeline"]).iter().filter(of_esim).map(|event| string(&event["event"])).collect()
    }
}

fn used_mb(esim: &Value) -> Option<i64> {
    esim["usage"]["usedBytes"].as_i64().map(|bytes| bytes / MEGABYTE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_asked_for_when_it_is_not_fresh_any_more() {
    for (word, fresh_ms) in [("tsim", 10 * MINUTE_MS), ("esim-go", 15 * MINUTE_MS), ("esim-access", 2 * HOUR_MS)] {
        let sold = Sold::by(word).await;
        let esim = sold.esim(0).await;
        assert_eq!((text(&esim["status"]), used_mb(&esim)), ("delivered", Some(0)), "{word}: {esim}");
        assert_eq!(esim["usage"]["totalBytes"].as_i64(), esim["usage"]["remainingBytes"].as_i64(), "{word}: {esim}");
        assert!(esim["usage"]["totalBytes"].as_i64() > Some(0) && esim["usage"]["activatedAt"].is_null(), "{word}");
        assert!(esim["usageUnavailable"].is_null());
        let checked_at = millis(&esim["usage"]["checkedAt"]);

        sold.live(0, "in_use", 300).await;
        let cached = sold.esim(0).await;
        assert_eq!(cached, esim, "{word}: nobody asks again so soon");
        sold.stage.clock.advance(fresh_ms + 1);
        let esim = sold.esim(0).await;
        assert_eq!((text(&esim["status"]), text(&esim["planStatus"])), ("active", "active"), "{word}: {esim}");
        assert!(["installed", "enabled"].contains(&text(&esim["profileStatus"])), "{word}: {esim}");
        assert_eq!(used_mb(&esim), Some(300), "{word}: {esim}");
        let usage = &esim["usage"];
        let left = usage["totalBytes"].as_i64().unwrap() - usage["usedBytes"].as_i64().unwrap();
        assert_eq!(usage["remainingBytes"].as_i64(), Some(left), "{word}");
        assert!(millis(&usage["checkedAt"]) > checked_at, "{word}: {usage}");
        // Some tell whole seconds.
        assert!(millis(&usage["activatedAt"]) > checked_at - 1_000, "{word}: {usage}");
        assert!(millis(&usage["expiresAt"]) > millis(&usage["activatedAt"]), "{word}");
        assert_eq!(sold.told_of(0).await.last().map(String::as_str), Some("active"), "{word}");
        // The order, its export and the list say the same; the other eSIM is another one.
        let whole = order(&sold.partner, &sold.order).await;
        assert_eq!(column(&whole["esims"], "status"), ["active", "delivered"], "{word}");
        let csv = sold.partner.get("/api/tenant/orders/export").await.text();
        assert_eq!(csv.matches(",active,").count(), 1, "{csv}");
        let found = sold.partner.get(&format!("{ESIMS}?status=active")).await.ok(200);
        assert_eq!(column(&found["esims"], "id"), [sold.id(0)], "{word}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upstream_does_not_make_us_slow() {
    let sold = Sold::by("tsim").await;
    let slow = json!({"fault": "delay", "path": "deviceDetail", "delayMs": 25_000});
    sold.supplier.steer("faults", slow.clone()).await;
    let begun = std::time::Instant::now();
    // Only one of many questions meets the slow answer, and all of them wait for that one.
    for esim in futures_util::future::join_all((0..4).map(|_| sold.esim_of_slow(0))).await {
        assert!(esim["usage"].is_null(), "{esim}");
        assert_eq!(esim["usageUnavailable"], "no_answer");
    }
    // The other one is asked for beside it, and is answered from memory when its upstream gets slow.
    let before = sold.esim(1).await;
    assert_eq!(used_mb(&before), Some(0), "{before}");
    sold.live(1, "in_use", 10).await;
    sold.stage.clock.advance(11 * MINUTE_MS);
    sold.supplier.steer("faults", slow).await;
    assert_eq!(sold.esim_of_slow(1).await, before);
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_does_not_tell_is_left_alone_for_a_minute() {
    let sold = Sold::by("tsim").await;
    sold.supplier.steer("faults", json!({"fault": "server_error", "path": "deviceDetail"})).await;
    for _ in 0..2 {
        let esim = sold.esim(0).await;
        assert!(esim["usage"].is_null(), "the second time it would have told: {esim}");
        assert_eq!(esim["usageUnavailable"], "no_answer");
    }
    sold.stage.clock.advance(MINUTE_MS);
    assert_eq!(used_mb(&sold.esim(0).await), Some(0));
    // What was once told is shown, however the upstream is now.
    sold.stage.clock.advance(11 * MINUTE_MS);
    sold.supplier.steer("faults", json!({"fault": "server_error", "path": "deviceDetail"})).await;
    let esim = sold.esim(0).await;
    assert_eq!((used_mb(&esim), esim["usageUnavailable"].is_null()), (Some(0), true), "{esim}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn esims_are_followed_without_anybody_asking() {
    for word in ["tsim", "esim-access", "esim-go"] {
        let mut sold = Sold::by(word).await;
        sold.live(0, "in_use", 100).await;
        sold.stage.clock.advance(17 * MINUTE_MS);
        sold.becomes(0, "active").await;
        let whole = order(&sold.partner, &sold.order).await;
        assert_eq!(whole["esims"][1]["status"], "delivered", "{word}");
        sold.live(0, "expired", 100).await;
        sold.days_later(30).await;
        sold.becomes(0, "expired").await;
        assert_eq!(sold.told_of(0).await, ["active", "expired"], "{word}");
        let esim = sold.esim(0).await;
        assert_eq!(used_mb(&esim), Some(100), "{word}: {esim}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_of_an_esim_make_its_upstream_be_asked() {
    for word in ["tsim", "esim-access", "esim-go"] {
        let sold = Sold::by(word).await;
        let connection = sold.operator.get(&sold.connection).await.ok(200)["connection"].clone();
        sold.supplier.steer("callbacks", json!({"url": connection["callbackUrl"]})).await;
        // It has been asked for, and its answer would stay fresh for long.
        assert_eq!(sold.esim(0).await["status"], "delivered", "{word}");
        sold.stage.clock.advance(MINUTE_MS);
        // Most of its data at once: some upstreams tell only of that.
        let most = sold.esim(0).await["usage"]["totalBytes"].as_i64().unwrap() / MEGABYTE * 95 / 100;
        sold.live(0, "in_use", most).await;
        sold.becomes(0, "active").await;
        let whole = order(&sold.partner, &sold.order).await;
        assert_eq!(whole["esims"][1]["status"], "delivered", "{word}: it was news of the other one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_esim_never_goes_back() {
    let mut sold = Sold::by("esim-access").await;
    sold.live(0, "installed", 0).await;
    assert_eq!(sold.esim(0).await["status"], "installed");
    sold.stage.clock.advance(3 * HOUR_MS);
    sold.live(0, "used_up", 1_024).await;
    assert_eq!(sold.esim(0).await["status"], "depleted");
    // The upstream forgets it, and remembers it wrongly.
    for life in ["released", "in_use"] {
        sold.live(0, life, 7).await;
        sold.stage.clock.advance(3 * HOUR_MS);
        let esim = sold.esim(0).await;
        assert_eq!((text(&esim["status"]), used_mb(&esim)), ("depleted", Some(7)), "{life}: {esim}");
    }
    sold.live(0, "expired", 1_024).await;
    sold.stage.clock.advance(3 * HOUR_MS);
    assert_eq!(sold.esim(0).await["status"], "expired");
    sold.live(0, "in_use", 1).await;
    sold.days_later(1).await;
    assert_eq!(sold.esim(0).await["status"], "expired");
    assert_eq!(sold.told_of(0).await, ["installed", "depleted", "expired"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_back_is_for_the_upstream_to_decide() {
    for word in ["esim-access", "esim-go"] {
        let sold = Sold::by(word).await;
        sold.live(0, "in_use", 10).await;
        assert_eq!(sold.esim(0).await["status"], "active");
        // Ours forbids nothing: whoever sold it is asked about both.
        let path = format!("/api/tenant/orders/{}/cancel", sold.order);
        let asked = sold.partner.post(&path, json!({})).await.ok(202)["order"].clone();
        assert_eq!(column(&asked["esims"], "status"), ["cancelling", "cancelling"], "{word}");
        sold.becomes(1, "cancelled").await;
        sold.becomes(0, "active").await;
        let after = order(&sold.partner, &sold.order).await;
        assert_eq!(column(&after["esims"], "status"), ["active", "cancelled"], "{word}: {after}");
        assert!(!text(&after["esims"][0]["cancelFailure"]).is_empty(), "{word}");
        assert_eq!(after["refundedAmount"].to_string(), "5", "{word}");
        let gone = sold.esim(1).await;
        assert!(gone["usage"].is_null(), "{word}: {gone}");
        assert_eq!(gone["usageUnavailable"], "not_delivered", "{word}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_tells_what_its_profiles_do() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("100").await;
    let bought = partner.buy(&partner.plan("Sandbox: delivers").await, 1).await;
    let esim = bought["orders"][0]["esims"][0].clone();
    let (path, iccid) = (format!("{ESIMS}/{}", text(&esim["id"])), string(&esim["iccid"]));
    let now = partner.get(&path).await.ok(200)["esim"].clone();
    assert_eq!((now["usage"]["usedBytes"].as_i64(), now["usage"]["totalBytes"].as_i64()), (Some(0), Some(1 << 30)));
    for (step, status, profile, plan, used) in [
        ("install", "installed", "installed", "not_active", 0),
        ("use", "active", "enabled", "active", 1 << 30),
        ("expire", "expired", "enabled", "expired", 1 << 30),
    ] {
        operator.post(&format!("/api/operator/sandbox/esims/{iccid}/{step}"), json!({})).await.ok(200);
        let now = partner.get(&path).await.ok(200)["esim"].clone();
        let words = ["status", "profileStatus", "planStatus"].map(|name| text(&now[name]).to_owned());
        assert_eq!(words, [status, profile, plan], "{step}");
        assert_eq!(now["usage"]["usedBytes"].as_i64(), Some(used / 10), "{step}: {now}");
    }
    let now = order(&partner, &only_order(&bought)).await;
    assert_eq!(now["esims"][0]["status"], "expired");
    let events = column(&now["timeline"], "event");
    assert_eq!(events[events.len() - 3..], ["installed", "active", "expired"]);
}

/// A partner's eSIMs in every state a partner may see without an upstream of his own.
async fn every_state(stage: &Stage) -> (Partner, Vec<Value>) {
    let operator = stage.operator().await;
    let partner = stage.partner_with("1000").await;
    let delivers = partner.plan("Sandbox: delivers").await;
    let mut orders = Vec::new();
    for (name, quantity, wait) in [
        ("Sandbox: delivers", 3, 20),
        ("Sandbox: partial", 2, 20),
        ("Sandbox: unknown", 2, 0),
        ("Sandbox: refuses", 1, 20),
    ] {
        let body = json!({"items": [{"planId": partner.plan(name).await, "quantity": quantity}], "reference": name});
        orders.push(only_order(&partner.post(&format!("{CHECKOUT}?wait={wait}"), body).await.ok(201)));
        stage.clock.advance(1_000);
    }
    let gone = only_order(&partner.buy(&delivers, 2).await);
    let cancelled = json!({"esimIds": [order(&partner, &gone).await["esims"][1]["id"]]});
    done(&partner.post(&format!("/api/tenant/orders/{gone}/cancel?wait=20"), cancelled).await);
    orders.push(gone);
    let first = order(&partner, &orders[0]).await;
    for (position, step) in ["install", "use", "expire"].into_iter().enumerate() {
        let iccid = text(&first["esims"][position]["iccid"]);
        operator.post(&format!("/api/operator/sandbox/esims/{iccid}/{step}"), json!({})).await.ok(200);
    }
    let mut esims = Vec::new();
    for id in orders.iter().rev() {
        let order = order(&partner, id).await;
        for esim in list(&order["esims"]).iter().rev() {
            let mut row = esim.clone();
            for (name, of_order) in [("orderId", "id"), ("orderNumber", "orderNumber"), ("planId", "planId")] {
                row[name] = order[of_order].clone();
            }
            row["planName"] = order["planName"].clone();
            row["reference"] = order["reference"].clone();
            esims.push(row);
        }
    }
    (partner, esims)
}

async fn ids(caller: &Caller, query: &str) -> Vec<String> {
    let data = caller.get(&format!("{ESIMS}?{query}")).await.ok(200);
    assert!(data["nextCursor"].is_null(), "{data}");
    column(&data["esims"], "id").into_iter().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn esims_are_found_by_every_filter_and_paged_to_the_end() {
    let stage = Stage::start().await;
    let (partner, esims) = every_state(&stage).await;
    let data = partner.get(ESIMS).await.ok(200);
    assert_eq!(data["esims"], json!(esims), "each is the one of its order, newest first");
    for status in ["pending", "delivered", "installed", "active", "depleted", "expired", "cancelled", "failed"] {
        let expected = esims.iter().filter(|esim| esim["status"] == status).map(|esim| string(&esim["id"]));
        let expected: Vec<String> = expected.collect();
        assert_eq!(ids(&partner, &format!("status={status}")).await, expected, "{status}");
        assert_eq!(expected.is_empty(), status == "depleted", "{status} is there");
    }
    for esim in &esims {
        if let Some(iccid) = esim["iccid"].as_str() {
            assert_eq!(ids(&partner, &format!("iccid={iccid}")).await, [text(&esim["id"])]);
            let other = format!("iccid={iccid}&orderId={}", text(&esims[0]["orderId"]));
            assert_eq!(ids(&partner, &other).await.len(), usize::from(esim["orderId"] == esims[0]["orderId"]));
        }
        let same: Vec<String> = esims
            .iter()
            .filter(|other| other["orderId"] == esim["orderId"])
            .map(|other| string(&other["id"]))
            .collect();
        assert_eq!(ids(&partner, &format!("orderId={}", text(&esim["orderId"]))).await, same);
    }
    assert_eq!(ids(&partner, "iccid=8931070820307245732").await, Vec::<String>::new());
    assert_eq!(ids(&partner, "orderId=01930000-0000-7000-8000-000000000000").await, Vec::<String>::new());
    partner.get(&format!("{ESIMS}?status=nonsense&limit=0")).await.refused(422, "validation_failed");
    for limit in 1..4 {
        let mut seen = Vec::new();
        let mut query = format!("limit={limit}");
        loop {
            let data = partner.get(&format!("{ESIMS}?{query}")).await.ok(200);
            assert!(list(&data["esims"]).len() <= limit);
            seen.extend(list(&data["esims"]).iter().cloned());
            let Some(cursor) = data["nextCursor"].as_str() else { break };
            query = format!("limit={limit}&cursor={}", encoded(cursor));
        }
        assert_eq!(seen, esims, "pages of {limit}");
    }
    // One of each that is not there has no usage.
    for esim in esims.iter().filter(|esim| ["pending", "failed", "cancelled"].contains(&text(&esim["status"]))) {
        let one = partner.get(&format!("{ESIMS}/{}", text(&esim["id"]))).await.ok(200)["esim"].clone();
        assert!(one["usage"].is_null(), "{one}");
        assert_eq!(one["usageUnavailable"], "not_delivered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn esims_are_their_tenants_alone_and_stay_readable() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let bought = partner.buy(&partner.plan("Sandbox: delivers").await, 1).await;
    let esim = bought["orders"][0]["esims"][0].clone();
    let path = format!("{ESIMS}/{}", text(&esim["id"]));
    let (stranger, in_test) = (stage.partner().await, stage.login(&partner.email, "test").await);
    for other in [&stranger.caller, &in_test] {
        other.get(&path).await.refused(404, "not_found");
        for query in [format!("iccid={}", text(&esim["iccid"])), format!("orderId={}", only_order(&bought))] {
            assert_eq!(ids(other, &query).await, Vec::<String>::new());
        }
        assert_eq!(ids(other, "").await, Vec::<String>::new());
    }
    let bought = in_test.buy(&in_test.plan("Sandbox: delivers").await, 1).await;
    let of_test: BTreeSet<String> = ids(&in_test, "").await.into_iter().collect();
    assert_eq!(of_test, [string(&bought["orders"][0]["esims"][0]["id"])].into());
    assert_eq!(ids(&partner, "").await, [text(&esim["id"])]);
    suspend(&stage.operator().await, &partner.id).await;
    assert_eq!(partner.get(&path).await.ok(200)["esim"]["usage"]["usedBytes"], 0);
    assert_eq!(ids(&partner, "").await.len(), 1);
    let order = text(&bought["orders"][0]["id"]);
    partner.get(&format!("{ESIMS}/{order}")).await.refused(404, "not_found");
}
