//! Prices that rules make: cost times rate times markup, rounded once; the most specific rule prices; whoever buys at the
//! same prices has the same list; and what is charged is the price of the moment of the checkout, or nothing.

use crate::acts::{UNKNOWN_ID, dollars, done, fault_paths, raw_json, rows, string, suspend, the_ledger_is_clean};
use crate::stage::{Caller, Partner, Reply, Stage};
use crate::telling::{CHECKOUT, cents, list, text};
use domain::catalogue::{Sifted, diff};
use domain::money::Currency;
use domain::offer::{Cost, Data, Offer};
use reqwest::Method;
use serde_json::{Value, json};
use store::offer::{self, Source, apply_changes};

const PLANS: &str = "/api/tenant/available-plans";
const RATES: &str = "/api/operator/rates";
const RULES: &str = "/api/operator/markup-rules";

/// What an upstream offers: its id, its cost, the cost's currency, and where it works.
type Row<'r> = (&'r str, &'r str, &'r str, &'r [&'r str]);

/// A server with an operator and one connection that sells, "alpha".
struct Market {
    stage: Stage,
    operator: Caller,
}

fn an_offer((id, cost, currency, countries): Row<'_>) -> Offer {
    Offer {
        upstream_plan_id: id.to_owned(),
        name: id.to_owned(),
        cost: Cost::parse(cost, currency).expect("a cost"),
        countries: countries.iter().map(|&country| country.to_owned()).collect(),
        data: Data::Total(1_024),
        validity_days: 7,
        networks: Vec::new(),
        speed: Some("5G".to_owned()),
        activation: None,
        add_on_supported: false,
        apn: None,
        remark: None,
    }
}

impl Market {
    async fn open() -> Self {
        let stage = Stage::start().await;
        let operator = stage.operator().await;
        let market = Self { stage, operator };
        market.connect("alpha").await;
        market
    }

    /// Makes a connection and enables it. Returns its path.
    async fn connect(&self, name: &str) -> String {
        let body = json!({
            "name": name, "provider": "tsim", "baseUrl": "http://127.0.0.1:9",
            "credentials": {"account": "story", "secret": "0123456789abcdef0123456789abcdef"},
        });
        let made = self.operator.post("/api/operator/connections", body).await.ok(201);
        let path = format!("/api/operator/connections/{}", string(&made["connection"]["id"]));
        done(&self.operator.post(&format!("{path}/enable"), json!({})).await);
        path
    }

    /// Takes in all that a connection offers now. Offers of one id of two connections are of one plan.
    async fn sync(&self, connection: &str, offered: &[Row<'_>]) {
        let store = &self.stage.platform().store;
        let name = connection.to_owned();
        let known = store.read(move |snapshot| offer::known(snapshot, &name)).await.expect("offers");
        let fetched = Sifted::new(offered.iter().copied().map(an_offer).collect());
        let changes = diff(&known, &fetched, true).expect("a list that is believed");
        let source = Source {
            connection: connection.to_owned(),
            siblings: vec!["alpha".to_owned(), "beta".to_owned()],
            currency: Currency::USD,
        };
        store.write(move |tx| apply_changes(tx, &source, &changes)).await.expect("changes");
    }

    async fn rate(&self, from: &str, to: &str, rate: &str) -> Value {
        let body = format!(r#"{{"from": "{from}", "to": "{to}", "rate": {rate}}}"#);
        raw_json(&self.operator, Method::POST, RATES, body).await.ok(201)["rate"].clone()
    }

    /// Makes a rule; returns its path.
    async fn rule(&self, body: Value) -> String {
        let made = self.operator.post(RULES, body).await.ok(201);
        format!("{RULES}/{}", string(&made["rule"]["id"]))
    }

    async fn end(&self, rule: &str) {
        done(&self.operator.delete(rule).await);
    }

    async fn tier(&self, partner: &Partner, tier: &str) {
        let path = format!("/api/operator/tenants/{}/tier", partner.id);
        let set = self.operator.put(&path, json!({"tier": tier})).await.ok(200);
        assert_eq!(set["tenant"]["tier"].as_str().unwrap_or(""), tier);
    }

    async fn plan_id(&self, offer: &str) -> String {
        let (name, store) = (offer.to_owned(), &self.stage.platform().store);
        let found = store.read(move |snapshot| offer::find(snapshot, "alpha", &name)).await.expect("offers");
        found.expect("an offer").plan.to_string()
    }

    async fn explain(&self, plan: &str, tenant: Option<&str>) -> Value {
        let query = tenant.map(|tenant| format!("?tenantId={tenant}")).unwrap_or_default();
        let path = format!("/api/operator/plans/{plan}/explain{query}");
        self.operator.get(&path).await.ok(200)["explanation"].clone()
    }
}

/// What a plan costs somebody by the price list, in cents; none where it is not on it.
async fn price(caller: &Caller, plan: &str) -> Option<i64> {
    let plans = caller.get(PLANS).await.ok(200);
    list(&plans["plans"]).iter().find(|row| row["id"] == plan).map(|row| cents(&row["price"]))
}

async fn buy(caller: &Caller, plan: &str, most: Option<i64>) -> Reply {
    let mut body = json!({"items": [{"planId": plan, "quantity": 1}]});
    if let Some(most) = most {
        body["maxTotal"] = dollars(most);
    }
    caller.post(CHECKOUT, body).await
}

fn total(reply: &Reply) -> i64 {
    cents(&reply.ok(201)["summary"]["totalAmount"])
}

/// What the steps of the explanation say, of the offer that makes the price.
fn taken(explanation: &Value) -> &Value {
    let taken: Vec<_> = list(&explanation["offers"]).iter().filter(|offer| offer["verdict"] == "taken").collect();
    assert_eq!(taken.len(), 1, "{explanation}");
    taken[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_price_is_cost_times_rate_times_markup_rounded_once_and_explained() {
    let market = Market::open().await;
    let partner = market.stage.partner_with("100").await;
    market.sync("alpha", &[("fr-1", "1.005", "EUR", &["FR"]), ("de-1", "2", "USD", &["DE"])]).await;
    let (french, german) = (market.plan_id("fr-1").await, market.plan_id("de-1").await);
    let markup = json!({"percent": 25, "fixed": 0.3, "floor": 1.5, "rounding": "up_to_49"});
    market.rule(markup).await;
    // 2 * 1.25 + 0.30, up to the next .49 or .99.
    assert_eq!(price(&partner, &german).await, Some(299));
    assert_eq!(price(&partner, &french).await, None, "without a rate there is no price");
    assert_eq!(market.explain(&french, None).await["offers"][0]["verdict"], "no_rate");
    buy(&partner, &french, None).await.refused(422, "validation_failed");

    market.rate("EUR", "USD", "1.10").await;
    // 1.005 * 1.1 * 1.25 = 1.381875, up to 1.39, and 0.30: 1.69, up to 1.99.
    assert_eq!(price(&partner, &french).await, Some(199));
    let explained = market.explain(&french, Some(&partner.id)).await;
    assert_eq!((&explained["onSale"], &explained["price"]), (&json!(true), &dollars(199)));
    let steps = &taken(&explained)["steps"];
    assert_eq!(taken(&explained)["cost"].to_string(), "1.005");
    assert_eq!(steps["rate"]["rate"].to_string(), "1.1");
    for (step, amount) in
        [("cost", 111), ("afterPercent", 139), ("afterFixed", 169), ("afterFloor", 169), ("price", 199), ("margin", 88)]
    {
        assert_eq!(cents(&steps[step]), amount, "{step}: {steps}");
    }
    assert_eq!(
        (&steps["rule"]["percent"].to_string(), text(&steps["ruleIsFor"])),
        (&"25.00".to_owned(), "everybody, everything, USD")
    );

    assert_eq!(total(&buy(&partner, &french, None).await), 199);
    assert_eq!(total(&buy(&partner, &german, Some(299)).await), 299);
    assert_eq!(partner.balance().await, "95.02");
    // One line of several, and both kinds of plans in one basket.
    let sandbox = partner.plan("Sandbox: delivers").await;
    let items = json!([{"planId": french, "quantity": 3}, {"planId": sandbox, "quantity": 1}]);
    let data = partner.post(CHECKOUT, json!({"items": items})).await.ok(201);
    assert_eq!(cents(&data["summary"]["totalAmount"]), 3 * 199 + 450);
    assert_eq!(cents(&data["orders"][0]["unitPrice"]), 199);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_most_specific_rule_prices_and_what_no_rule_covers_is_not_on_sale() {
    let market = Market::open().await;
    let partner = market.stage.partner_with("100").await;
    market.sync("alpha", &[("fr-1", "1", "USD", &["FR"]), ("eu-1", "1", "USD", &["DE", "FR"])]).await;
    let (local, regional) = (market.plan_id("fr-1").await, market.plan_id("eu-1").await);
    assert_eq!((price(&partner, &local).await, price(&partner, &regional).await), (None, None));
    let explained = market.explain(&local, None).await;
    assert_eq!((text(&explained["reason"]), text(&explained["offers"][0]["verdict"])), ("no_price", "no_rule"));
    let refused = buy(&partner, &local, None).await;
    assert_eq!(refused.faults(), ["items[0].planId plan_unavailable"]);
    assert_eq!(partner.balance().await, "100");

    market.tier(&partner, "gold").await;
    let scopes = [
        json!({}),
        json!({"connection": "alpha"}),
        json!({"region": "Europe"}),
        json!({"country": "FR"}),
        json!({"planId": local}),
        json!({"tier": "gold"}),
        json!({"tier": "gold", "country": "FR"}),
        json!({"tenantId": partner.id}),
        json!({"tenantId": partner.id, "country": "FR"}),
    ];
    // From the widest to the narrowest: each takes the price over where it covers the plan.
    let (mut local_price, mut regional_price) = (0, 0);
    for (place, scope) in (1..).zip(scopes) {
        let mut body = scope.clone();
        body["percent"] = json!(place);
        market.rule(body).await;
        if scope["region"].is_null() {
            local_price = 100 + place;
        }
        if scope["country"].is_null() && scope["planId"].is_null() {
            regional_price = 100 + place;
        }
        let prices = (price(&partner, &local).await, price(&partner, &regional).await);
        assert_eq!(prices, (Some(local_price), Some(regional_price)), "{scope}");
        let explained = market.explain(&local, Some(&partner.id)).await;
        assert_eq!(cents(&explained["price"]), local_price, "{explained}");
    }
    // Whoever is in no tier and named by no rule pays what everybody pays.
    let other = market.stage.partner().await;
    assert_eq!((price(&other, &local).await, price(&other, &regional).await), (Some(105), Some(103)));
    assert_eq!(total(&buy(&partner, &local, None).await), 109);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_buys_at_the_same_prices_has_the_same_list() {
    let market = Market::open().await;
    let (one, two, three) = (market.stage.partner().await, market.stage.partner().await, market.stage.partner().await);
    market.sync("alpha", &[("fr-1", "1", "USD", &["FR"])]).await;
    let plan = market.plan_id("fr-1").await;
    market.rule(json!({"percent": 10})).await;
    market.rule(json!({"percent": 20, "tier": "gold"})).await;
    market.tier(&one, "gold").await;
    market.tier(&two, "gold").await;
    market.tier(&three, "silver").await;
    let lists = async || {
        let text = market.stage.stranger().get("/metrics").await.text();
        let line = text.lines().find(|line| line.starts_with("esimd_price_lists ")).expect("a metric").to_owned();
        line.rsplit(' ').next().and_then(|count| count.parse::<u32>().ok()).expect("a number")
    };
    assert_eq!(price(&one, &plan).await, Some(120));
    assert_eq!(lists().await, 1);
    assert_eq!(price(&two, &plan).await, Some(120));
    assert_eq!(lists().await, 1, "two tenants of one tier share a list");
    assert_eq!(price(&three, &plan).await, Some(110));
    assert_eq!(lists().await, 2);
    let nobodys = market.stage.partner().await;
    assert_eq!(price(&nobodys, &plan).await, Some(110));
    assert_eq!(lists().await, 2, "a tier that no rule names has everybody's list");
    let tags = [one.get(PLANS).await, two.get(PLANS).await].map(|reply| reply.header("etag").to_owned());
    assert_eq!(tags[0], tags[1]);

    market.rule(json!({"percent": 5, "tenantId": two.id})).await;
    assert_eq!((price(&one, &plan).await, price(&two, &plan).await), (Some(120), Some(105)));
    assert_eq!(lists().await, 3);
    // In test mode there are no rules, and one list for all.
    for partner in [&one, &two] {
        let test = market.stage.login(&partner.email, "test").await;
        assert_eq!(price(&test, &plan).await, None);
        assert_eq!(buy(&test, &plan, None).await.faults(), ["items[0].planId plan_unavailable"]);
    }
    assert_eq!(lists().await, 4);
    // A tier is left again.
    let path = format!("/api/operator/tenants/{}/tier", one.id);
    assert!(market.operator.put(&path, json!({})).await.ok(200)["tenant"]["tier"].is_null());
    assert_eq!(price(&one, &plan).await, Some(110));
    assert_eq!(fault_paths(&market.operator.put(&path, json!({"tier": "Gold!"})).await), ["tier"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_between_list_and_checkout_is_charged_anew_or_refused_by_max_total() {
    let market = Market::open().await;
    let partner = market.stage.partner_with("1000").await;
    market.sync("alpha", &[("fr-1", "1", "EUR", &["FR"])]).await;
    let plan = market.plan_id("fr-1").await;
    market.rate("EUR", "USD", "1").await;
    let first = market.rule(json!({"percent": 100})).await;
    let mut balance = 100_000;
    let mut listed = 200;
    assert_eq!(price(&partner, &plan).await, Some(listed));
    for (change, now) in [("a rate", 240), ("a cost", 480), ("a rule", 720), ("a tier", 960), ("an offer", 800)] {
        match change {
            "a rate" => {
                market.stage.clock.advance(1_000);
                market.rate("EUR", "USD", "1.2").await;
            }
            "a cost" => market.sync("alpha", &[("fr-1", "2", "EUR", &["FR"])]).await,
            "a rule" => {
                market.rule(json!({"percent": 200})).await;
                market.end(&first).await;
            }
            "a tier" => {
                market.rule(json!({"percent": 300, "tier": "gold"})).await;
                market.tier(&partner, "gold").await;
            }
            _ => {
                market.connect("beta").await;
                market.sync("beta", &[("fr-1", "2", "USD", &["FR"])]).await;
            }
        }
        if now > listed {
            let refused = buy(&partner, &plan, Some(listed)).await;
            let data = refused.refused(409, "price_changed");
            assert_eq!((cents(&data["total"]), cents(&data["maxTotal"])), (now, listed), "{change}");
        }
        assert_eq!(total(&buy(&partner, &plan, None).await), now, "{change}");
        balance -= now;
        assert_eq!(partner.balance().await, dollars(balance).to_string().trim_end_matches('0').trim_end_matches('.'));
        assert_eq!(price(&partner, &plan).await, Some(now), "{change}");
        listed = now;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_holds_from_its_moment_on_and_is_never_changed_afterwards() {
    let market = Market::open().await;
    let partner = market.stage.partner_with("100").await;
    market.sync("alpha", &[("fr-1", "1", "EUR", &["FR"])]).await;
    let plan = market.plan_id("fr-1").await;
    market.rule(json!({"percent": 0})).await;
    let first = market.rate("EUR", "USD", "1.1").await;
    let at = |seconds: i64| {
        use server::clock::Clock;
        market.stage.clock.now().plus_millis(seconds * 1_000).to_string()
    };
    let body = |rate: f64, at: &str| json!({"from": "EUR", "to": "USD", "rate": rate, "validFrom": at});
    let (soon, later, past) = (at(60), at(120), at(-1));
    market.operator.post(RATES, body(1.3, &soon)).await.ok(201);
    market.operator.post(RATES, body(1.2, &soon)).await.ok(201);
    market.operator.post(RATES, body(2.0, &later)).await.ok(201);
    assert_eq!(market.operator.post(RATES, body(9.0, &past)).await.faults(), ["validFrom out_of_range"]);
    let tag = partner.get(PLANS).await.header("etag").to_owned();
    assert_eq!(price(&partner, &plan).await, Some(110));
    assert_eq!(text(&market.explain(&plan, None).await["validUntil"]), soon);
    assert_eq!(total(&buy(&partner, &plan, None).await), 110);
    market.stage.clock.advance(59_999);
    assert_eq!((price(&partner, &plan).await, total(&buy(&partner, &plan, None).await)), (Some(110), 110));
    market.stage.clock.advance(1);
    // Nobody told anything: the clock alone made the old price wrong.
    assert_eq!(total(&buy(&partner, &plan, None).await), 120);
    let reply = partner.get(PLANS).await;
    assert_ne!(reply.header("etag"), tag);
    assert_eq!(price(&partner, &plan).await, Some(120));
    assert_eq!(market.operator.post(RATES, body(9.0, &soon)).await.faults(), ["validFrom out_of_range"]);

    let listed = rows(&market.operator.get(&format!("{RATES}?limit=2")).await.ok(200));
    let page = market.operator.get(&format!("{RATES}?limit=2")).await.ok(200);
    let rest = market.operator.get(&format!("{RATES}?limit=2&cursor={}", text(&page["nextCursor"]))).await.ok(200);
    assert!(rest["nextCursor"].is_null());
    let all: Vec<String> = listed.iter().chain(list(&rest["rates"])).map(|rate| rate["rate"].to_string()).collect();
    assert_eq!(all, ["2", "1.2", "1.1"], "latest first, each as it was given, what was replaced in time is gone");
    assert_eq!(rest["rates"][0]["validFrom"], first["validFrom"]);
    let log = market.operator.get("/api/operator/audit-log?action=rate.set").await.ok(200);
    assert_eq!(rows(&log).len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_gets_its_answer_whatever_became_of_the_price() {
    let market = Market::open().await;
    let partner = market.stage.partner_with("100").await;
    market.sync("alpha", &[("fr-1", "1", "USD", &["FR"])]).await;
    let plan = market.plan_id("fr-1").await;
    let rule = market.rule(json!({"percent": 50})).await;
    let body = json!({"items": [{"planId": plan, "quantity": 1}], "maxTotal": 1.5});
    let first = partner.post_once(CHECKOUT, "the-key", body.clone()).await;
    assert_eq!(total(&first), 150);
    market.rule(json!({"percent": 100})).await;
    market.end(&rule).await;
    let again = partner.post_once(CHECKOUT, "the-key", body.clone()).await;
    assert_eq!((again.text(), again.header("idempotent-replayed")), (first.text(), "true"));
    partner.post_once(CHECKOUT, "another-key", body.clone()).await.refused(409, "price_changed");
    market.sync("alpha", &[]).await;
    assert_eq!(partner.post_once(CHECKOUT, "the-key", body.clone()).await.text(), first.text(), "the plan is gone");
    partner.post_once(CHECKOUT, "another-key", body).await.refused(422, "validation_failed");
    assert_eq!(partner.balance().await, "98.5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cheapest_offer_that_can_be_bought_makes_the_price() {
    let market = Market::open().await;
    let partner = market.stage.partner_with("100").await;
    let beta = market.connect("beta").await;
    market.sync("alpha", &[("fr-1", "3", "USD", &["FR"])]).await;
    market.sync("beta", &[("fr-1", "2", "USD", &["FR"])]).await;
    let plan = market.plan_id("fr-1").await;
    market.rule(json!({"percent": 0})).await;
    market.rule(json!({"percent": 100, "connection": "beta"})).await;
    // Of two offers the one that costs less, although the rules make it dearer.
    assert_eq!(price(&partner, &plan).await, Some(400));
    let explained = market.explain(&plan, None).await;
    let verdicts: Vec<&str> = list(&explained["offers"]).iter().map(|offer| text(&offer["verdict"])).collect();
    assert_eq!(verdicts, ["dearer", "taken"]);
    for change in ["disable", "enable"] {
        done(&market.operator.post(&format!("{beta}/{change}"), json!({})).await);
        let expected = if change == "disable" { 300 } else { 400 };
        assert_eq!(price(&partner, &plan).await, Some(expected), "{change}");
        assert_eq!(total(&buy(&partner, &plan, None).await), expected, "{change}");
    }
    market.sync("beta", &[]).await;
    assert_eq!(total(&buy(&partner, &plan, None).await), 300);
    market.sync("alpha", &[]).await;
    assert_eq!(price(&partner, &plan).await, None);
    let explained = market.explain(&plan, None).await;
    assert_eq!((&explained["onSale"], text(&explained["reason"])), (&json!(false), "withdrawn"));
    assert!(list(&explained["offers"]).iter().all(|offer| offer["verdict"] == "withdrawn"));
    buy(&partner, &plan, None).await.refused(422, "validation_failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_pins_a_price_and_gives_it_back_to_the_rules() {
    let market = Market::open().await;
    let partner = market.stage.partner_with("100").await;
    market.sync("alpha", &[("fr-1", "1", "USD", &["FR"])]).await;
    let plan = market.plan_id("fr-1").await;
    market.rule(json!({"percent": 50})).await;
    let path = format!("/api/operator/plans/{plan}/price");
    market.operator.delete(&path).await.refused(409, "already_decided");
    let pinned = market.operator.put(&path, json!({"price": 7})).await.ok(200);
    assert_eq!((&pinned["plan"]["pricedBy"], cents(&pinned["plan"]["price"])), (&json!("operator"), 700));
    assert_eq!((price(&partner, &plan).await, total(&buy(&partner, &plan, None).await)), (Some(700), 700));
    let explained = market.explain(&plan, None).await;
    assert_eq!((text(&explained["pricedBy"]), cents(&explained["price"])), ("operator", 700));
    // What the rules would make of it can still be seen.
    assert_eq!(cents(&explained["offers"][0]["steps"]["price"]), 150);
    let back = market.operator.delete(&path).await.ok(200);
    assert_eq!(back["plan"]["pricedBy"], "rules");
    assert_eq!((price(&partner, &plan).await, total(&buy(&partner, &plan, None).await)), (Some(150), 150));
    let sandbox = partner.plan("Sandbox: delivers").await;
    market.operator.delete(&format!("/api/operator/plans/{sandbox}/price")).await.refused(409, "plan_has_no_offers");
    // Without a connection that sells there is nothing to be sold, pinned or not.
    done(&market.operator.put(&path, json!({"price": 7})).await);
    let connections = rows(&market.operator.get("/api/operator/connections").await.ok(200));
    let alpha = format!("/api/operator/connections/{}", string(&connections[0]["id"]));
    done(&market.operator.post(&format!("{alpha}/disable"), json!({})).await);
    assert_eq!(price(&partner, &plan).await, None);
    buy(&partner, &plan, None).await.refused(422, "validation_failed");
    assert_eq!(text(&market.explain(&plan, None).await["reason"]), "no_offer");
    let of_sandbox = market.explain(&sandbox, Some(&partner.id)).await;
    assert_eq!((&of_sandbox["onSale"], cents(&of_sandbox["price"])), (&json!(true), 450));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rates_and_rules_that_make_no_sense_are_refused() {
    let market = Market::open().await;
    let partner = market.stage.partner().await;
    for (body, fault) in [
        (json!({"from": "EUR", "to": "USD"}), "rate required"),
        (json!({"from": "EUR", "to": "USD", "rate": 0}), "rate out_of_range"),
        (json!({"from": "EUR", "to": "USD", "rate": -1}), "rate out_of_range"),
        (json!({"from": "EUR", "to": "USD", "rate": 100_000_001}), "rate out_of_range"),
        (json!({"from": "EUR", "to": "USD", "rate": "1.1"}), "rate wrong_type"),
        (json!({"from": "EUX", "to": "USD", "rate": 1}), "from not_in_list"),
        (json!({"from": "EUR", "to": "XX1", "rate": 1}), "to not_in_list"),
        (json!({"from": "USD", "to": "USD", "rate": 1}), "from not_allowed"),
        (json!({"from": "EUR", "to": "USD", "rate": 1, "validFrom": "soon"}), "validFrom malformed"),
    ] {
        assert_eq!(market.operator.post(RATES, body.clone()).await.faults(), [fault], "{body}");
    }
    let nine = raw_json(&market.operator, Method::POST, RATES, r#"{"from": "EUR", "to": "USD", "rate": 1.123456789}"#);
    assert_eq!(nine.await.faults(), ["rate too_many_decimals"]);
    for (body, fault) in [
        (json!({}), "percent required"),
        (json!({"percent": 1_000.01}), "percent out_of_range"),
        (json!({"percent": -1}), "percent out_of_range"),
        (json!({"percent": 1.005}), "percent too_many_decimals"),
        (json!({"percent": 1, "fixed": 0.005}), "fixed too_many_decimals"),
        (json!({"percent": 1, "floor": 0.1, "currency": "JPY"}), "floor too_many_decimals"),
        (json!({"percent": 1, "rounding": "down"}), "rounding not_in_list"),
        (json!({"percent": 1, "currency": "EUX"}), "currency not_in_list"),
        (json!({"percent": 1, "connection": "nobody"}), "connection not_in_list"),
        (json!({"percent": 1, "planId": UNKNOWN_ID}), "planId not_in_list"),
        (json!({"percent": 1, "tenantId": UNKNOWN_ID}), "tenantId not_in_list"),
        (json!({"percent": 1, "country": "France"}), "country not_in_list"),
        (json!({"percent": 1, "tier": "Gold"}), "tier malformed"),
    ] {
        assert_eq!(market.operator.post(RULES, body.clone()).await.faults(), [fault], "{body}");
    }
    market.operator.get(&format!("/api/operator/plans/{UNKNOWN_ID}/explain")).await.refused(404, "not_found");
    let plan = partner.plan("Sandbox: delivers").await;
    let path = format!("/api/operator/plans/{plan}/explain?tenantId={UNKNOWN_ID}");
    assert_eq!(market.operator.get(&path).await.faults(), ["tenantId not_in_list"]);
    assert_eq!(rows(&market.operator.get(RULES).await.ok(200)), Vec::<Value>::new());
    assert_eq!(rows(&market.operator.get(RATES).await.ok(200)), Vec::<Value>::new());

    // Each change is one record, with the rule's words, also when it ends.
    let before = rows(&market.operator.get("/api/operator/audit-log?limit=1000").await.ok(200)).len();
    let rule = market.rule(json!({"percent": 12.5, "tenantId": partner.id})).await;
    market.end(&rule).await;
    market.operator.delete(&rule).await.refused(404, "not_found");
    market.tier(&partner, "gold").await;
    let log = rows(&market.operator.get("/api/operator/audit-log?limit=1000").await.ok(200));
    assert_eq!(log.len(), before + 3);
    let actions: Vec<&str> = log.iter().take(3).map(|record| text(&record["action"])).collect();
    assert_eq!(actions, ["tenant.tier", "markup.ended", "markup.created"]);
    assert!(log[1].to_string().contains("12.50 %"), "{}", log[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_buy_hears_that_and_nothing_of_prices() {
    let market = Market::open().await;
    let partner = market.stage.partner_with("100").await;
    market.sync("alpha", &[("fr-1", "1", "USD", &["FR"])]).await;
    let plan = market.plan_id("fr-1").await;
    market.rule(json!({"percent": 50})).await;
    suspend(&market.operator, &partner.id).await;
    buy(&partner, &plan, None).await.refused(403, "tenant_suspended");
    assert_eq!(price(&partner, &plan).await, Some(150), "it may look");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prices_are_there_again_after_a_restart() {
    let mut market = Market::open().await;
    let partner = market.stage.partner_with("100").await;
    market.sync("alpha", &[("fr-1", "1", "EUR", &["FR"])]).await;
    let plan = market.plan_id("fr-1").await;
    market.rate("EUR", "USD", "1.1").await;
    market.rule(json!({"percent": 50})).await;
    let reply = partner.get(PLANS).await;
    market.stage.restart().await;
    assert_eq!(total(&buy(&partner, &plan, None).await), 165);
    let again = partner.get(PLANS).await;
    assert_eq!((again.header("etag"), again.bytes == reply.bytes), (reply.header("etag"), true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_prices_change_nobody_pays_one_that_is_over() {
    const ROUNDS: i64 = 12;
    let market = Market::open().await;
    market.sync("alpha", &[("fr-1", "1", "USD", &["FR"])]).await;
    let plan = market.plan_id("fr-1").await;
    let mut buyers = Vec::new();
    for _ in 0..3 {
        buyers.push(market.stage.partner_with("1000").await);
    }
    market.rule(json!({"percent": 0})).await;
    let (told, over) = (std::sync::atomic::AtomicI64::new(0), std::sync::atomic::AtomicBool::new(false));
    let order = std::sync::atomic::Ordering::SeqCst;
    let operator = async {
        for percent in 1..=ROUNDS {
            // A newer rule of the same kind takes the price over.
            market.rule(json!({"percent": percent})).await;
            told.store(percent, order);
        }
        over.store(true, order);
    };
    let buying = buyers.iter().map(|partner| {
        let (told, over, plan) = (&told, &over, &plan);
        async move {
            let mut paid = 0;
            while !over.load(order) {
                let least = 100 + told.load(order);
                let reply = buy(partner, plan, None).await;
                if reply.status == 503 {
                    assert_eq!(reply.header("retry-after"), "1", "{}", reply.text());
                    continue;
                }
                let most = 100 + told.load(order) + 1;
                let price = total(&reply);
                assert!((least..=most).contains(&price), "{price} is not of {least} to {most}");
                paid += price;
            }
            let balance: Value = serde_json::from_str(&partner.balance().await).expect("a number");
            assert_eq!(cents(&balance), 100_000 - paid);
        }
    });
    tokio::join!(operator, futures_util::future::join_all(buying));
    assert_eq!(total(&buy(&buyers[0], &plan, None).await), 100 + ROUNDS);
    the_ledger_is_clean(&market.operator).await;
}
