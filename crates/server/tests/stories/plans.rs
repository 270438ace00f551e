//! The price list: what partners can buy, found by every filter, cheap to ask for again, and never showing
//! or selling what was withdrawn.

use crate::stage::{Caller, Reply, Stage};
use crate::telling::{CHECKOUT, cents, column, encoded, list, only_order, order, order_count, text};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Read;

const PLANS: &str = "/api/tenant/available-plans";
const SPECIAL: [&str; 9] = [
    "Sandbox: delivers",
    "Sandbox: slow",
    "Sandbox: refuses",
    "Sandbox: partial",
    "Sandbox: busy",
    "Sandbox: answer lost",
    "Sandbox: late sale",
    "Sandbox: unknown",
    "Sandbox: keeps",
];

async fn plans(caller: &Caller, query: &str) -> Vec<Value> {
    list(&caller.get(&format!("{PLANS}{query}")).await.ok(200)["plans"]).clone()
}

fn ids<'a>(plans: impl IntoIterator<Item = &'a Value>) -> BTreeSet<String> {
    plans.into_iter().map(|plan| text(&plan["id"]).to_owned()).collect()
}

async fn with_header(caller: &Caller, path: &str, name: &str, value: &str) -> Reply {
    caller.send(caller.request(Method::GET, path).header(name, value)).await
}

fn is_country(code: &str) -> bool {
    code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn available_plans_come_all_in_one_answer_with_every_field() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let reply = partner.get(PLANS).await;
    assert!(reply.ok(200)["nextCursor"].is_null());
    let all = list(&reply.json["data"]["plans"]);
    assert!(all.len() >= 150, "some 200 plans, not {}", all.len());
    assert_eq!(ids(all).len(), all.len());
    let countries: BTreeSet<&str> = all.iter().flat_map(|plan| list(&plan["countries"])).map(text).collect();
    assert!(countries.len() >= 60, "{} countries", countries.len());
    for plan in all {
        for field in ["description", "fairUse", "speed", "region", "dataMb", "dailyDataMb"] {
            assert!(plan.get(field).is_some(), "{field} is left out: {plan}");
        }
        assert_eq!(text(&plan["id"]).len(), 36);
        assert!(!text(&plan["name"]).is_empty());
        assert!(cents(&plan["price"]) > 0, "{plan}");
        assert_eq!(plan["currency"], "USD");
        let days = plan["validityDays"].as_i64().expect("days");
        assert!(days > 0, "{plan}");
        let kind = text(&plan["type"]);
        assert!(["local", "regional", "global"].contains(&kind), "{plan}");
        let countries: Vec<&str> = list(&plan["countries"]).iter().map(text).collect();
        assert!(!countries.is_empty() && countries.iter().all(|code| is_country(code)), "{plan}");
        assert!(SPECIAL.contains(&text(&plan["name"])) || kind != "local" || countries.len() == 1, "{plan}");
        assert!(plan["topUpSupported"].is_boolean(), "{plan}");
        assert!(["on_install", "on_first_use", "on_order"].contains(&text(&plan["activation"])), "{plan}");
        for network in list(&plan["networks"]) {
            assert!(countries.contains(&text(&network["country"])), "{plan}");
            assert!(!text(&network["operator"]).is_empty() && !text(&network["technology"]).is_empty(), "{plan}");
        }
        assert_eq!(plan["unlimited"], json!(plan["dataMb"].is_null()), "{plan}");
        if let Some(daily) = plan["dailyDataMb"].as_i64() {
            assert_eq!(plan["dataMb"].as_i64(), Some(daily * days), "dataMb is the whole term: {plan}");
        }
    }
    for name in SPECIAL {
        let found: Vec<&Value> = all.iter().filter(|plan| plan["name"] == name).collect();
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!(found[0]["price"].to_string(), "4.5", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn available_plans_are_found_by_every_filter_alone() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let all = plans(&partner, "").await;
    let country = all.iter().find(|plan| plan["type"] == "local").map(|plan| text(&plan["countries"][0])).unwrap();
    let region = all.iter().find_map(|plan| plan["region"].as_str()).expect("a regional plan");
    let covers = |plan: &Value| list(&plan["countries"]).contains(&json!(country));
    let in_region = |plan: &Value| plan["region"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(region));
    type Rule<'a> = &'a dyn Fn(&Value) -> bool;
    let cases: [(String, Rule<'_>); 13] = [
        (format!("country={country}"), &covers),
        (format!("region={}", encoded(region)), &in_region),
        (format!("region={}", encoded(&region.to_ascii_uppercase())), &in_region),
        ("type=local".to_owned(), &|plan| plan["type"] == "local"),
        ("type=regional".to_owned(), &|plan| plan["type"] == "regional"),
        ("type=global".to_owned(), &|plan| plan["type"] == "global"),
        ("minDataMb=10240".to_owned(), &|plan| plan["dataMb"].as_i64().is_none_or(|data| data >= 10_240)),
        ("minDataMb=5120".to_owned(), &|plan| plan["dataMb"].as_i64().is_none_or(|data| data >= 5_120)),
        ("maxPrice=4.5".to_owned(), &|plan| cents(&plan["price"]) <= 450),
        ("maxPrice=12.34".to_owned(), &|plan| cents(&plan["price"]) <= 1_234),
        ("days=30".to_owned(), &|plan| plan["validityDays"].as_i64().is_some_and(|days| days >= 30)),
        ("unlimited=true".to_owned(), &|plan| plan["unlimited"] == json!(true)),
        ("unlimited=false".to_owned(), &|plan| plan["unlimited"] == json!(false)),
    ];
    for (query, rule) in cases {
        let found = plans(&partner, &format!("?{query}")).await;
        assert_eq!(ids(&found), ids(all.iter().filter(|plan| rule(plan))), "{query}");
        assert!(!found.is_empty() && found.len() < all.len(), "{query} tells nothing: {} plans", found.len());
    }
    assert_eq!(plans(&partner, "?maxPrice=0.01").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn available_plans_are_found_by_words_in_any_case() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    for query in ["delivers", "DELIVERS", "Delivers"] {
        let found = plans(&partner, &format!("?q={query}")).await;
        assert!(found.iter().any(|plan| plan["name"] == "Sandbox: delivers"), "{query}");
        for plan in &found {
            let words = [&plan["name"], &plan["description"], &plan["region"], &plan["countries"]];
            let hit = words.iter().any(|words| words.to_string().to_lowercase().contains("delivers"));
            assert!(hit, "{query} is nowhere in {plan}");
        }
    }
    let specials = plans(&partner, "?q=sandbox").await;
    for name in SPECIAL {
        assert!(specials.iter().any(|plan| plan["name"] == name), "{name}");
    }
    assert_eq!(plans(&partner, "?q=no-plan-is-called-this").await.len(), 0);
    assert_eq!(plans(&partner, "?q=%25").await.iter().filter(|plan| plan["name"] == "Sandbox: delivers").count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn available_plans_must_pass_all_filters_at_once() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let all = plans(&partner, "").await;
    let found = plans(&partner, "?type=local&unlimited=false&minDataMb=3072&maxPrice=20&days=15").await;
    let expected = all.iter().filter(|plan| {
        plan["type"] == "local"
            && plan["unlimited"] == json!(false)
            && plan["dataMb"].as_i64().is_some_and(|data| data >= 3_072)
            && cents(&plan["price"]) <= 2_000
            && plan["validityDays"].as_i64().is_some_and(|days| days >= 15)
    });
    assert_eq!(ids(&found), ids(expected));
    assert!(!found.is_empty());
    let country = text(&found[0]["countries"][0]).to_owned();
    let narrowed = plans(&partner, &format!("?type=local&unlimited=false&minDataMb=3072&country={country}")).await;
    assert!(ids(&narrowed).contains(text(&found[0]["id"])));
    assert!(narrowed.iter().all(|plan| plan["countries"] == json!([country]) && plan["type"] == "local"));
    assert_eq!(plans(&partner, &format!("?type=global&q=delivers&maxPrice=0.01&country={country}")).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn available_plans_tell_the_faults_of_the_filters() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    for (query, fault) in [
        ("type=planetary", "type not_in_list"),
        ("limit=0", "limit out_of_range"),
        ("limit=1001", "limit out_of_range"),
        ("limit=-1", "limit out_of_range"),
        ("maxPrice=4.505", "maxPrice too_many_decimals"),
        ("cursor=nonsense", "cursor malformed"),
        ("minData=5", "minData unknown_field"),
    ] {
        assert_eq!(partner.get(&format!("{PLANS}?{query}")).await.faults(), [fault], "{query}");
    }
    for (query, path) in [
        ("country=Thailand", "country"),
        ("minDataMb=-1", "minDataMb"),
        ("minDataMb=much", "minDataMb"),
        ("maxPrice=-1", "maxPrice"),
        ("maxPrice=cheap", "maxPrice"),
        ("days=-1", "days"),
        ("days=x", "days"),
        ("unlimited=perhaps", "unlimited"),
        ("limit=ten", "limit"),
    ] {
        let faults = partner.get(&format!("{PLANS}?{query}")).await.faults();
        assert!(faults.len() == 1 && faults[0].starts_with(&format!("{path} ")), "{query}: {faults:?}");
    }
    let several = partner.get(&format!("{PLANS}?type=x&limit=0&typo=1")).await.faults();
    assert_eq!(several, ["limit out_of_range", "type not_in_list", "typo unknown_field"]);
    let empty = plans(&partner, "?type=&country=&q=&maxPrice=").await;
    assert_eq!(ids(&empty), ids(&plans(&partner, "").await), "an empty filter is left out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn available_plans_come_page_by_page_when_asked_to() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    for filter in ["", "&type=local"] {
        let whole = plans(&partner, &filter.replacen('&', "?", 1)).await;
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = partner.get(&format!("{PLANS}?limit=37{filter}{cursor}")).await.ok(200);
            let rows = list(&page["plans"]);
            assert!(!rows.is_empty() && rows.len() <= 37, "{} rows", rows.len());
            seen.extend(rows.iter().map(|plan| text(&plan["id"]).to_owned()));
            match page["nextCursor"].as_str() {
                Some(next) => {
                    assert_eq!(rows.len(), 37, "only the last page is short");
                    cursor = format!("&cursor={}", encoded(next));
                }
                None => break,
            }
        }
        assert_eq!(seen.len(), whole.len(), "none skipped, none repeated");
        assert_eq!(seen.into_iter().collect::<BTreeSet<String>>(), ids(&whole));
    }
    let wide = partner.get(&format!("{PLANS}?limit=1000")).await.ok(200);
    assert!(wide["nextCursor"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn available_plans_are_not_sent_again_to_who_has_them() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let first = partner.get(PLANS).await;
    let tag = first.header("etag").to_owned();
    assert!(tag.ends_with('"') && tag.len() > 4, "an entity tag: {tag}");
    for known in [tag.clone(), format!("\"other\", {tag}"), format!("W/{}", tag.trim_start_matches("W/"))] {
        let again = with_header(&partner, PLANS, "if-none-match", &known).await;
        assert_eq!((again.status, again.bytes.len()), (304, 0), "{known}");
        assert_eq!(again.header("etag"), tag);
    }
    let other = with_header(&partner, PLANS, "if-none-match", "\"other\"").await;
    assert_eq!((other.status, other.bytes == first.bytes), (200, true));
    let narrower = with_header(&partner, &format!("{PLANS}?type=global"), "if-none-match", &tag).await;
    assert_eq!(narrower.status, 200, "another list has another tag");
    with_header(&stage.stranger(), PLANS, "if-none-match", &tag).await.refused(401, "unauthorized");

    let plan = partner.plan("Sandbox: delivers").await;
    let path = format!("/api/operator/plans/{plan}/price");
    stage.operator().await.put(&path, json!({"price": 5.25})).await.ok(200);
    let changed = with_header(&partner, PLANS, "if-none-match", &tag).await;
    let found = changed.ok(200);
    assert_ne!(changed.header("etag"), tag);
    let found = list(&found["plans"]).iter().find(|row| row["id"] == plan.as_str()).expect("the plan").clone();
    assert_eq!(found["price"].to_string(), "5.25");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn available_plans_are_compressed_on_request() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let plain = partner.get(PLANS).await;
    plain.ok(200);
    assert_eq!(plain.header("content-encoding"), "");
    for accepted in ["gzip", "br;q=0.1, gzip;q=0.9", "deflate, gzip"] {
        let packed = with_header(&partner, PLANS, "accept-encoding", accepted).await;
        assert_eq!((packed.status, packed.header("content-encoding")), (200, "gzip"), "{accepted}");
        assert!(packed.header("vary").to_ascii_lowercase().contains("accept-encoding"), "caches must keep them apart");
        assert!(packed.bytes.len() * 3 < plain.bytes.len(), "{} of {}", packed.bytes.len(), plain.bytes.len());
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(packed.bytes.as_slice()).read_to_end(&mut unpacked).expect("gzip");
        assert!(unpacked == plain.bytes);
        let request = partner
            .request(Method::GET, PLANS)
            .header("accept-encoding", accepted)
            .header("if-none-match", packed.header("etag"));
        assert_eq!(partner.send(request).await.status, 304);
    }
    for refused in ["identity", "gzip;q=0"] {
        let reply = with_header(&partner, PLANS, "accept-encoding", refused).await;
        assert_eq!((reply.status, reply.header("content-encoding")), (200, ""), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn withdrawn_plans_disappear_and_cannot_be_bought() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("20").await;
    let test = stage.login(&partner.email, "test").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let sold = only_order(&partner.buy(&plan, 1).await);
    let before = plans(&partner, "").await;
    let tag = partner.get(PLANS).await.header("etag").to_owned();

    let operator = stage.operator().await;
    operator.post(&format!("/api/operator/plans/{plan}/withdraw"), json!({})).await.ok(200);
    let after = plans(&partner, "").await;
    assert_eq!(after.len() + 1, before.len());
    assert!(!ids(&after).contains(&plan));
    assert!(!ids(&plans(&partner, "?q=delivers").await).contains(&plan));
    assert_eq!(with_header(&partner, PLANS, "if-none-match", &tag).await.status, 200);
    for caller in [&partner.caller, &test] {
        let (balance, orders) = (caller.balance().await, order_count(caller).await);
        let basket = json!({"items": [{"planId": plan, "quantity": 1}]});
        assert_eq!(caller.post(CHECKOUT, basket).await.faults(), ["items[0].planId plan_unavailable"]);
        assert_eq!((caller.balance().await, order_count(caller).await), (balance, orders));
    }
    let kept = order(&partner, &sold).await;
    assert_eq!((&kept["planName"], &kept["planId"]), (&json!("Sandbox: delivers"), &json!(plan)));
    let found = partner.get(&format!("/api/tenant/orders?planId={plan}")).await.ok(200);
    assert_eq!(column(&found["orders"], "id"), [sold.as_str()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn withdrawn_plans_can_be_put_on_sale_again() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("20").await;
    let operator = stage.operator().await;
    let plan = partner.plan("Sandbox: delivers").await;
    let before = plans(&partner, "").await;
    let path = format!("/api/operator/plans/{plan}");
    operator.post(&format!("{path}/restore"), json!({})).await.refused(409, "already_decided");
    let withdrawn = operator.post(&format!("{path}/withdraw"), json!({})).await.ok(200);
    assert_eq!(
        (&withdrawn["plan"]["withdrawnBy"], &withdrawn["plan"]["pricedBy"]),
        (&json!("operator"), &json!("operator"))
    );
    let restored = operator.post(&format!("{path}/restore"), json!({})).await.ok(200);
    assert_eq!((&restored["plan"]["withdrawnAt"], &restored["plan"]["withdrawnBy"]), (&json!(null), &json!(null)));
    operator.post(&format!("{path}/restore"), json!({})).await.refused(409, "already_decided");
    assert_eq!(plans(&partner, "").await, before);
    only_order(&partner.buy(&plan, 1).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_keep_the_price_they_were_sold_at() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("20").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let before = only_order(&partner.buy(&plan, 1).await);
    let path = format!("/api/operator/plans/{plan}/price");
    stage.operator().await.put(&path, json!({"price": 6})).await.ok(200);
    let listed = plans(&partner, "?q=delivers").await;
    let listed = listed.iter().find(|row| row["id"] == plan.as_str()).expect("the plan");
    assert_eq!(listed["price"].to_string(), "6");
    let after = only_order(&partner.buy(&plan, 1).await);
    assert_eq!(order(&partner, &before).await["unitPrice"].to_string(), "4.5");
    assert_eq!(order(&partner, &after).await["unitPrice"].to_string(), "6");
    assert_eq!(partner.balance().await, "9.5");

    // Taken back, it gives back what was paid, not what it would cost today.
    let cancelled = partner.post(&format!("/api/tenant/orders/{before}/cancel?wait=20"), json!({})).await.ok(202);
    assert_eq!(cancelled["order"]["refundedAmount"].to_string(), "4.5");
    assert_eq!(partner.balance().await, "14");
}
