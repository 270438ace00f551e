//! Connections: the operator connects accounts at upstreams, and partners buy through them. Each upstream is its
//! simulator, over real HTTP and under the stage's clock.

use crate::acts::{done, rows, string, the_ledger_is_clean};
use crate::stage::{Caller, Stage};
use domain::catalogue::{Sifted, diff};
use domain::job::JobState;
use domain::money::Currency;
use domain::time::Timestamp;
use providers::sandbox::DELIVERS;
use providers::simulator::shop::{Shop, ShopOptions};
use providers::simulator::{Credentials, Faults, Now, Simulator, WORDS, dialect};
use serde_json::{Value, json};
use server::clock::Clock;
use std::path::Path;
use std::sync::Arc;
use store::offer::{self, Source, apply_changes};

const ACCOUNT: &str = "account-of-the-story";
/// From sale to delivery.
const DELAY_MS: i64 = 3_000;

/// A simulated upstream, and what the operator enters to connect it.
pub struct Supplier {
    pub word: &'static str,
    simulator: Simulator,
    secret: String,
    client: reqwest::Client,
}

impl Supplier {
    pub async fn of(stage: &Stage, word: &'static str) -> Self {
        let secret = format!("{:016x}{:016x}", std::process::id(), 0x5eed_u32);
        let salt = "00112233445566778899aabbccddeeff".to_owned();
        let credentials = Credentials { account: ACCOUNT.to_owned(), secret: secret.clone(), salt };
        let options =
            ShopOptions { seed: 7, delay_ms: DELAY_MS, balance_cents: 100_000, callback_url: String::new(), plans: 0 };
        let shop = Shop::open(Path::new(""), options).expect("a shop");
        let clock = stage.clock.clone();
        let now: Now = Arc::new(move || -> Timestamp { clock.now() });
        let dialect = dialect(word, credentials).expect("a dialect");
        let simulator = Simulator::start(([127, 0, 0, 1], 0).into(), dialect, shop, now).await.expect("a simulator");
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { word, simulator, secret, client }
    }

    fn base_url(&self) -> String {
        let path = match self.word {
            "esim-go" => "/v2.4",
            "tgt" => "/openapi",
            _ => "",
        };
        format!("http://{}{path}", self.simulator.address())
    }

    fn credentials(&self, secret: &str) -> Value {
        match self.word {
            "esim-access" => json!({"accessCode": ACCOUNT, "secretKey": secret}),
            "airalo" => json!({"clientId": ACCOUNT, "clientSecret": secret}),
            "esim-go" => json!({"apiKey": secret, "refunds": true}),
            "microesim" => {
                json!({"account": ACCOUNT, "secret": secret, "salt": "00112233445566778899aabbccddeeff"})
            }
            "tgt" => json!({"account": ACCOUNT, "secret": secret, "currency": "USD"}),
            _ => json!({"account": ACCOUNT, "secret": secret}),
        }
    }

    /// The body of the connection that leads here.
    pub fn connection(&self, name: &str) -> Value {
        json!({
            "name": name, "provider": self.word, "baseUrl": self.base_url(),
            "credentials": self.credentials(&self.secret),
        })
    }

    /// Connects and enables it. Returns its path in the operator API.
    pub async fn connected(&self, operator: &Caller, name: &str) -> String {
        let path = self.made(operator, name).await;
        done(&operator.post(&format!("{path}/enable"), json!({})).await);
        path
    }

    /// Takes in all that it offers.
    async fn sync(&self, stage: &Stage, name: &str) {
        let platform = stage.platform();
        let upstream = platform.upstreams.get(name).expect("a connection");
        let fetched = upstream.offers(stage.clock.now()).await.meaning.expect("offers");
        let connection = name.to_owned();
        let known = platform.store.read(move |snapshot| offer::known(snapshot, &connection)).await.expect("offers");
        let changes = diff(&known, &Sifted::new(fetched), true).expect("a list that is believed");
        let siblings = vec!["first".to_owned(), "second".to_owned()];
        for portion in changes.chunks(offer::PORTION) {
            let source = Source { connection: name.to_owned(), siblings: siblings.clone(), currency: Currency::USD };
            let portion = portion.to_vec();
            platform.store.write(move |tx| apply_changes(tx, &source, &portion)).await.expect("changes");
        }
    }

    /// Asks one of the simulator's own routes for something.
    pub async fn steer(&self, route: &str, body: Value) {
        let url = format!("http://{}/simulator/{route}", self.simulator.address());
        let asked = self.client.post(url).header("content-type", "application/json").body(body.to_string());
        let answer = asked.send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{route}: {}", answer.text().await.unwrap_or_default());
    }

    /// Makes its connection, which does not sell yet. Returns its path in the operator API.
    pub async fn made(&self, operator: &Caller, name: &str) -> String {
        let made = operator.post("/api/operator/connections", self.connection(name)).await.ok(201);
        format!("/api/operator/connections/{}", string(&made["connection"]["id"]))
    }

    /// What goes wrong with it.
    pub fn faults(&self) -> &Faults {
        self.simulator.faults()
    }

    /// What it lists.
    pub fn shop(&self) -> &Shop {
        self.simulator.shop()
    }

    /// Changes a plan there, by its own route.
    pub async fn change(&self, plan: &str, change: Value) {
        let url = format!("http://{}/simulator/plans/{plan}", self.simulator.address());
        let request = self.client.post(url).header("content-type", "application/json").body(change.to_string());
        assert_eq!(request.send().await.expect("an answer").status(), 200, "{plan}");
    }

    /// What it sold.
    pub async fn sales(&self) -> Vec<Value> {
        let url = format!("http://{}/simulator/sales", self.simulator.address());
        let text = self.client.get(url).send().await.expect("an answer").text().await.expect("an answer");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        answer["sales"].as_array().expect("sales").clone()
    }
}

/// A plan of a connection, as the operator takes it in by hand.
pub fn plan(connection: &str, upstream_plan_id: &str) -> Value {
    json!({"plans": [{
        "provider": connection, "upstreamPlanId": upstream_plan_id, "name": "Thailand 3 GB", "type": "local",
        "countries": ["TH"], "dataMb": 3072, "validityDays": 7, "price": 5,
    }]})
}

/// Moves the clock on until the order is final: by half a second while its job waits, and little by little while a call
/// for it is under way. Calls keep their distance by this clock, and a lease must not end before its call does.
pub async fn settled(stage: &Stage, caller: &Caller, order: &str) -> Value {
    for look in 1_u32..20_000 {
        let found = caller.get(&format!("/api/tenant/orders/{order}")).await.ok(200)["order"].clone();
        if found["status"] != "processing" {
            return found;
        }
        let now = stage.clock.now();
        let jobs = stage.platform().store.read(|snapshot| store::job::list(snapshot, None, None, 1_000)).await;
        let mut its = jobs.expect("jobs").into_iter().filter(|job| job.order.to_string() == order);
        let waits = its.next().is_some_and(|job| job.state == JobState::Ready && job.run_at > now);
        if waits {
            stage.clock.advance(500);
        } else if look.is_multiple_of(20) {
            stage.clock.advance(10);
        }
        tokio::task::yield_now().await;
    }
    panic!("order {order} did not become final");
}

#[tokio::test]
async fn partners_buy_through_every_upstream_that_is_connected() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("100").await;
    for (number, word) in WORDS.into_iter().enumerate() {
        let supplier = Supplier::of(&stage, word).await;
        let name = format!("supplier-{number}");
        supplier.connected(&operator, &name).await;
        let plans = plan(&name, DELIVERS);
        done(&operator.post("/api/operator/plans/import", plans).await);
        let listed = partner.get("/api/tenant/available-plans?q=Thailand").await.ok(200);
        let bought = rows(&listed).pop().expect("a plan");
        let body = json!({"items": [{"planId": bought["id"], "quantity": 2}], "email": "traveller@example.com"});
        let data = partner.post("/api/tenant/orders/checkout", body).await.ok(201);
        let order = string(&data["orders"][0]["id"]);
        let order = settled(&stage, &partner, &order).await;
        assert_eq!(order["status"], "completed", "{word}: {order}");
        for esim in order["esims"].as_array().expect("eSIMs") {
            assert!(string(&esim["activationCode"]).starts_with("LPA:1$"), "{word}: {esim}");
        }
        let sales = supplier.sales().await;
        assert!(!sales.is_empty(), "{word}");
        assert!(!json!(sales).to_string().contains("traveller@example.com"), "{word} learned of a traveller");
        // So that the next supplier's plan is found.
        let path = format!("/api/operator/plans/{}/withdraw", string(&bought["id"]));
        done(&operator.post(&path, json!({})).await);
    }
    assert_eq!(partner.balance().await, "40");
    the_ledger_is_clean(&operator).await;
}

#[tokio::test]
async fn credentials_are_tried_and_never_shown() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    for (number, word) in WORDS.into_iter().enumerate() {
        let supplier = Supplier::of(&stage, word).await;
        let made = operator.post("/api/operator/connections", supplier.connection(&format!("the-{number}"))).await;
        let connection = made.ok(201)["connection"].clone();
        let path = format!("/api/operator/connections/{}", string(&connection["id"]));
        assert_eq!(connection["enabled"], false);
        let verified = operator.post(&format!("{path}/verify"), json!({})).await;
        let verification = verified.ok(200)["connection"]["verification"].clone();
        assert_eq!(verification["letIn"], true, "{word}: {verification}");
        // TSIM tells no balance; what it lists proves as well that it let us in.
        assert_eq!(verification["balance"].is_null(), word == "tsim", "{word}: {verification}");
        if word != "tsim" {
            assert_eq!(verification["balance"]["amount"].as_f64(), Some(1_000.0), "{word}");
        }
        let wrong = supplier.credentials("00000000000000000000000000000000");
        let changed = operator.patch(&path, json!({"credentials": wrong})).await;
        done(&changed);
        let refused = operator.post(&format!("{path}/verify"), json!({})).await;
        assert_eq!(refused.ok(200)["connection"]["verification"]["letIn"], false, "{word}");
        let list = operator.get("/api/operator/connections").await;
        let log = operator.get("/api/operator/audit-log").await;
        for reply in [&made, &verified, &changed, &refused, &list, &log] {
            assert!(!reply.text().contains(&supplier.secret), "{word} shows its secret: {}", reply.text());
        }
        // Nor does the database have it in clear.
        let stored = stage.stored().await;
        let rows = stored.read(store::connection::all).await.expect("connections");
        let secret = supplier.secret.as_bytes();
        assert!(rows.iter().all(|row| !row.sealed.bytes.windows(secret.len()).any(|part| part == secret)));
    }
}

#[tokio::test]
async fn connections_that_make_no_sense_are_refused() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let supplier = Supplier::of(&stage, "tsim").await;
    let path = "/api/operator/connections";
    let with = |name: &str, value: Value| {
        let mut body = supplier.connection("a-name");
        body[name] = value;
        body
    };
    for (body, fault) in [
        (with("name", json!("Upper")), "name malformed"),
        (with("name", json!("sandbox")), "name malformed"),
        (with("provider", json!("acme")), "provider not_in_list"),
        (with("baseUrl", json!("ftp://example.com")), "baseUrl malformed"),
        (with("baseUrl", json!("https://user:pass@example.com")), "baseUrl malformed"),
        (with("baseUrl", json!("no address")), "baseUrl malformed"),
        (with("proxyUrl", json!("no address")), "proxyUrl malformed"),
        (with("credentials", json!({"account": "a"})), "credentials.secret required"),
        (
            with("credentials", json!({"account": "a", "secret": "b", "apiKey": "c"})),
            "credentials.apiKey unknown_field",
        ),
        (with("credentials", json!({"account": "a", "secret": "b", "other": "c"})), "credentials.other unknown_field"),
    ] {
        assert_eq!(operator.post(path, body.clone()).await.faults(), [fault], "{body}");
    }
    assert_eq!(rows(&operator.get(path).await.ok(200)), Vec::<Value>::new());
    let made = operator.post(path, supplier.connection("one")).await.ok(201);
    operator.post(path, supplier.connection("one")).await.refused(409, "name_taken");
    let one = format!("{path}/{}", string(&made["connection"]["id"]));
    // The old credentials do not follow the connection to another address.
    let moved = operator.patch(&one, json!({"baseUrl": "https://elsewhere.example"})).await;
    assert_eq!(moved.faults(), ["credentials required"]);
    let proxied = operator.patch(&one, json!({"proxyUrl": "http://elsewhere.example"})).await;
    assert_eq!(proxied.faults(), ["credentials required"]);
    operator.post(&format!("{one}/disable"), json!({})).await.refused(409, "already_decided");
    done(&operator.post(&format!("{one}/enable"), json!({})).await);
    operator.post(&format!("{one}/enable"), json!({})).await.refused(409, "already_decided");
}

#[tokio::test]
async fn news_of_an_upstream_are_kept_once_and_only_when_they_are_signed() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("100").await;
    let supplier = Supplier::of(&stage, "microesim").await;
    let path = supplier.connected(&operator, "micro").await;
    done(&operator.post("/api/operator/plans/import", plan("micro", DELIVERS)).await);
    let listed = partner.get("/api/tenant/available-plans?q=Thailand").await.ok(200);
    let bought = rows(&listed).pop().expect("a plan");
    let body = json!({"items": [{"planId": bought["id"], "quantity": 1}]});
    let order = string(&partner.post("/api/tenant/orders/checkout", body).await.ok(201)["orders"][0]["id"]);
    let order = settled(&stage, &partner, &order).await;
    assert_eq!(order["status"], "completed");
    // Its simulator tells it by itself, at the address it was given with the order.
    let heard = loop {
        let heard = rows(&operator.get("/api/operator/notices").await.ok(200));
        if !heard.is_empty() {
            break heard;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(heard[0]["connection"], "micro");
    let text = json!(heard).to_string();
    assert!(!text.contains("LPA:1$"), "a notice is kept without what installs an eSIM: {text}");
    // Somebody else who found the address, and somebody who did not.
    let connection = operator.get(&path).await.ok(200)["connection"].clone();
    let url = string(&connection["callbackUrl"]);
    let address = url.strip_prefix(&stage.url).expect("an address of ours").to_owned();
    let stranger = stage.stranger();
    stranger.post(&address, json!({"orderNo": "forged"})).await.refused(404, "not_found");
    stranger.post("/api/webhooks/upstream/AAAA", json!({})).await.refused(404, "not_found");
    assert_eq!(rows(&operator.get("/api/operator/notices").await.ok(200)).len(), heard.len());
}

#[tokio::test]
async fn a_dead_upstream_holds_up_nobody_elses_orders() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("2000").await;
    // Somebody who takes every call and never answers.
    let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = hole.local_addr().expect("an address");
    let held = tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok((stream, _)) = hole.accept().await {
            taken.push(stream);
        }
    });
    let dead = json!({
        "name": "dead", "provider": "tsim", "baseUrl": format!("http://{address}"),
        "credentials": {"account": ACCOUNT, "secret": "of-nobody-at-all"}, "timeLimitSeconds": 85,
    });
    let made = operator.post("/api/operator/connections", dead).await.ok(201);
    let path = format!("/api/operator/connections/{}", string(&made["connection"]["id"]));
    done(&operator.post(&format!("{path}/enable"), json!({})).await);
    let alive = Supplier::of(&stage, "esim-go").await;
    alive.connected(&operator, "alive").await;
    for connection in ["dead", "alive"] {
        done(&operator.post("/api/operator/plans/import", plan(connection, DELIVERS)).await);
    }
    let listed = rows(&partner.get("/api/tenant/available-plans?q=Thailand").await.ok(200));
    let [of_dead, of_alive] = [&listed[listed.len() - 2]["id"], &listed[listed.len() - 1]["id"]];
    // More than all places together were before each upstream had its own.
    let line = json!({"planId": of_dead, "quantity": 1});
    for _ in 0..3 {
        let body = json!({"items": vec![line.clone(); 50]});
        done(&partner.post("/api/tenant/orders/checkout", body).await);
    }
    let sandbox = partner.plan("Sandbox: delivers").await;
    let bought = partner.buy(&sandbox, 1).await;
    assert_eq!(bought["orders"][0]["status"], "completed");
    let body = json!({"items": [{"planId": of_alive, "quantity": 1}]});
    let order = string(&partner.post("/api/tenant/orders/checkout", body).await.ok(201)["orders"][0]["id"]);
    let arrived = settled(&stage, &partner, &order).await;
    assert_eq!(arrived["status"], "completed");
    held.abort();
}

#[tokio::test]
async fn an_order_goes_to_the_cheapest_connection_and_on_to_the_next_where_it_refuses() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("100").await;
    let (first, second) = (Supplier::of(&stage, "tsim").await, Supplier::of(&stage, "tsim").await);
    for (supplier, name) in [(&first, "first"), (&second, "second")] {
        supplier.connected(&operator, name).await;
        supplier.sync(&stage, name).await;
    }
    let rule = json!({"percent": 100, "fixed": 0, "rounding": "none"});
    done(&operator.post("/api/operator/markup-rules", rule).await);
    let listed = partner.get("/api/tenant/available-plans").await.ok(200);
    let sold: Vec<Value> = rows(&listed).into_iter().filter(|plan| plan["price"] == json!(9)).collect();
    // Both connections offer the special plans of the shop at 4.50, as one plan each; this one delivers.
    let plan = sold.iter().find(|plan| plan["name"] == "Sandbox: delivers").expect("a plan of the connections");
    let buy = async |quantity: u32| {
        let body = json!({"items": [{"planId": plan["id"], "quantity": quantity}]});
        let order = string(&partner.post("/api/tenant/orders/checkout", body).await.ok(201)["orders"][0]["id"]);
        settled(&stage, &partner, &order).await
    };
    let order = buy(2).await;
    assert_eq!(order["status"], "completed", "{order}");
    let path = format!("/api/operator/orders/{}", string(&order["id"]));
    let seen = operator.get(&path).await.ok(200)["order"].clone();
    assert_eq!((&seen["placements"][0]["provider"], &seen["margin"]), (&json!("first"), &json!(9)), "{seen}");
    assert_eq!(seen["placements"][0]["unitCost"].to_string(), "4.50");
    // The first one has nothing left to sell it for.
    first.steer("balance", json!({"cents": 0})).await;
    let order = buy(1).await;
    assert_eq!(order["status"], "completed", "{order}");
    assert_eq!((first.sales().await.len(), second.sales().await.len()), (1, 1));
    second.steer("balance", json!({"cents": 0})).await;
    let order = buy(1).await;
    assert_eq!((&order["status"], &order["refundedAmount"]), (&json!("failed"), &json!(9)), "{order}");
    the_ledger_is_clean(&operator).await;
}

#[tokio::test]
async fn books_are_compared_every_day_and_a_low_balance_is_told() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner_with("100").await;
    let (known, forgetful) = (Supplier::of(&stage, "esim-access").await, Supplier::of(&stage, "esim-access").await);
    let path = known.connected(&operator, "books").await;
    done(&operator.patch(&path, json!({"lowBalance": 2_000})).await);
    done(&operator.post("/api/operator/plans/import", plan("books", DELIVERS)).await);
    let listed = partner.get("/api/tenant/available-plans?q=Thailand").await.ok(200);
    let body = json!({"items": [{"planId": rows(&listed).pop().expect("a plan")["id"], "quantity": 1}]});
    let order = string(&partner.post("/api/tenant/orders/checkout", body).await.ok(201)["orders"][0]["id"]);
    assert_eq!(settled(&stage, &partner, &order).await["status"], "completed");
    // A day later both know it.
    let connection = async || operator.get(&path).await.ok(200)["connection"].clone();
    assert_eq!(connection().await["balanceIsLow"], false, "nobody asked yet");
    stage.clock.advance(2 * 3_600_000);
    while connection().await["balanceIsLow"] == false {
        tokio::task::yield_now().await;
    }
    let differences = "/api/operator/differences";
    let compared = async |before: i64| {
        let id = string(&connection().await["id"]).parse().expect("an id");
        let platform = stage.platform();
        loop {
            let read = move |snapshot: &mut dyn store::port::Snapshot| store::difference::reconciled_at(snapshot, id);
            if platform.store.read(read).await.expect("a time").is_some_and(|at| at.millis() > before) {
                break;
            }
            // Calls keep their distance by the clock.
            stage.clock.advance(200);
            tokio::task::yield_now().await;
        }
    };
    compared(0).await;
    assert_eq!(rows(&operator.get(differences).await.ok(200)), Vec::<Value>::new());
    // The next day the account is another one, which never heard of it.
    let moved = json!({"baseUrl": forgetful.base_url(), "credentials": forgetful.credentials(&forgetful.secret)});
    done(&operator.patch(&path, moved).await);
    stage.clock.advance(25 * 3_600_000);
    let (operator, found) = loop {
        // Logins end after a day.
        let operator = stage.operator().await;
        let found = rows(&operator.get(differences).await.ok(200));
        if !found.is_empty() {
            break (operator, found);
        }
        stage.clock.advance(11 * 60_000);
    };
    assert_eq!((&found[0]["kind"], &found[0]["connection"]), (&json!("absent_there"), &json!("books")), "{found:?}");
    assert!(string(&found[0]["reference"]).starts_with(&order), "{found:?}");
    assert!(operator.get("/metrics").await.text().contains("esimd_differences_open 1"));
    let settle = format!("{differences}/{}/settle", string(&found[0]["id"]));
    done(&operator.post(&settle, json!({"reason": "another account"})).await);
    operator.post(&settle, json!({"reason": "once more"})).await.refused(409, "already_decided");
    assert_eq!(rows(&operator.get(differences).await.ok(200)), Vec::<Value>::new());
    assert_eq!(rows(&operator.get("/api/operator/differences?all=true").await.ok(200)).len(), 1);
}
