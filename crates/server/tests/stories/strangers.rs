//! Every route against every kind of stranger. The routes come from the server's own table, so a new
//! one is tested the day it is written, or its missing example fails here.

use crate::acts::{UNKNOWN_ID, bank_transfer, done, find_text, rows, string};
use crate::stage::{Caller, Partner, Reply, Stage};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What is open to everybody: there is no token yet.
const PUBLIC: [&str; 4] =
    ["POST /api/tenant/register", "POST /api/tenant/login", "POST /api/tenant/contact", "POST /api/operator/login"];

/// What an id in a tenant's path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Noun {
    Order,
    TopUp,
    ApiKey,
    Esim,
}

/// One example for every id-bearing tenant route: whose id it takes, and a body that has no fault.
fn tenant_examples() -> BTreeMap<String, (Noun, Value)> {
    let proof = json!({"transferProofUrl": "https://files.partner.example/proof.pdf"});
    BTreeMap::from([
        ("GET /api/tenant/orders/{}".to_owned(), (Noun::Order, Value::Null)),
        ("POST /api/tenant/orders/{}/cancel".to_owned(), (Noun::Order, json!({}))),
        ("GET /api/tenant/esims/{}".to_owned(), (Noun::Esim, Value::Null)),
        ("GET /api/tenant/top-up/{}".to_owned(), (Noun::TopUp, Value::Null)),
        ("POST /api/tenant/top-up/{}/proof".to_owned(), (Noun::TopUp, proof)),
        ("DELETE /api/tenant/api-keys/{}".to_owned(), (Noun::ApiKey, Value::Null)),
    ])
}

/// One body without a fault for every id-bearing operator route.
fn operator_examples() -> BTreeMap<String, Value> {
    let why = json!({"reason": "a story"});
    let money = json!({"amount": 1, "reason": "a story"});
    let not_sold = json!({"outcome": "not_sold", "reason": "a story"});
    [
        ("GET /api/operator/tenants/{}", Value::Null),
        ("POST /api/operator/tenants/{}/suspend", why.clone()),
        ("POST /api/operator/tenants/{}/reinstate", why.clone()),
        ("POST /api/operator/tenants/{}/adjustments", money.clone()),
        ("PUT /api/operator/tenants/{}/credit-limit", json!({"amount": 1})),
        ("PUT /api/operator/tenants/{}/tier", json!({"tier": "gold"})),
        ("PUT /api/operator/plans/{}/price", json!({"price": 1})),
        ("DELETE /api/operator/plans/{}/price", Value::Null),
        ("GET /api/operator/plans/{}/explain", Value::Null),
        ("DELETE /api/operator/markup-rules/{}", Value::Null),
        ("POST /api/operator/plans/{}/withdraw", json!({})),
        ("POST /api/operator/differences/{}/settle", why.clone()),
        ("POST /api/operator/plans/{}/restore", json!({})),
        ("GET /api/operator/connections/{}", Value::Null),
        ("PATCH /api/operator/connections/{}", json!({"priority": 1})),
        ("POST /api/operator/connections/{}/verify", json!({})),
        ("POST /api/operator/connections/{}/enable", json!({})),
        ("POST /api/operator/connections/{}/disable", json!({})),
        ("GET /api/operator/connections/{}/sync", Value::Null),
        ("POST /api/operator/connections/{}/sync", json!({})),
        ("GET /api/operator/orders/{}", Value::Null),
        ("POST /api/operator/orders/{}/retry", json!({})),
        ("POST /api/operator/orders/{}/refund", money),
        ("POST /api/operator/orders/{}/resolve", not_sold),
        ("GET /api/operator/top-ups/{}", Value::Null),
        ("POST /api/operator/top-ups/{}/approve", json!({})),
        ("POST /api/operator/top-ups/{}/reject", why),
        ("POST /api/operator/jobs/{}/retry", json!({})),
        ("POST /api/operator/jobs/{}/abandon", json!({})),
        ("POST /api/operator/inquiries/{}/handled", json!({})),
        ("POST /api/operator/sandbox/esims/{}/install", json!({})),
        ("POST /api/operator/sandbox/esims/{}/use", json!({})),
        ("POST /api/operator/sandbox/esims/{}/expire", json!({})),
    ]
    .into_iter()
    .map(|(route, body)| (route.to_owned(), body))
    .collect()
}

/// A path with every `{name}` as `{}`.
fn without_names(path: &str) -> String {
    let mut plain = String::new();
    let mut inside = false;
    for letter in path.chars() {
        if letter == '}' {
            inside = false;
        }
        if !inside {
            plain.push(letter);
        }
        if letter == '{' {
            inside = true;
        }
    }
    plain
}

/// The routes below this prefix as `METHOD /path/{}`.
fn routes_below(prefix: &str) -> Vec<String> {
    let all: Vec<(String, String)> =
        server::routes::table().map(|route| (route.method.to_string(), route.path.to_string())).collect();
    let found: Vec<String> = all
        .iter()
        .filter(|(_, path)| path.starts_with(prefix))
        .map(|(method, path)| format!("{} {}", method.to_uppercase(), without_names(path)))
        .collect();
    assert!(!found.is_empty(), "no routes below {prefix}");
    found
}

/// Sends a request to a route with its ids filled in; no body where the example has none.
async fn ask(caller: &Caller, route: &str, id: &str, body: &Value) -> Reply {
    let (method, path) = route.split_once(' ').expect("a method and a path");
    let method: Method = method.parse().expect("a method");
    let mut request = caller.request(method, &path.replace("{}", id));
    if !body.is_null() {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    caller.send(request).await
}

/// All that a stranger could compare: status, headers and body, without what belongs to one request.
fn all_but_the_request_id(reply: &Reply) -> (u16, Vec<(String, String)>, String) {
    let mut headers: Vec<(String, String)> = reply
        .headers
        .iter()
        .filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    headers.sort();
    (reply.status, headers, reply.text())
}

/// What a tenant owns, one of each noun, and the id of an eSIM.
struct Possessions {
    order: String,
    top_up: String,
    api_key: String,
    esim: String,
}

impl Possessions {
    fn id(&self, noun: Noun) -> &str {
        match noun {
            Noun::Order => &self.order,
            Noun::TopUp => &self.top_up,
            Noun::ApiKey => &self.api_key,
            Noun::Esim => &self.esim,
        }
    }
}

async fn settle_in(partner: &Partner) -> Possessions {
    let bought = partner.buy(&partner.plan("Sandbox: delivers").await, 1).await;
    let key = json!({"name": "of a story", "mode": "live", "scopes": ["read"]});
    done(&partner.post("/api/tenant/api-keys", key).await);
    let keys = rows(&partner.get("/api/tenant/api-keys").await.ok(200));
    Possessions {
        order: string(&bought["orders"][0]["id"]),
        esim: string(&bought["orders"][0]["esims"][0]["id"]),
        top_up: bank_transfer(partner, "100").await,
        api_key: string(&keys[0]["id"]),
    }
}

/// Everything of a tenant that a stranger's request could have changed.
async fn estate(owner: &Caller, owned: &Possessions) -> Vec<Value> {
    let mut seen = Vec::new();
    for path in [
        "balance".to_owned(),
        "api-keys".to_owned(),
        format!("orders/{}", owned.order),
        format!("top-up/{}", owned.top_up),
        "transactions".to_owned(),
    ] {
        seen.push(owner.get(&format!("/api/tenant/{path}")).await.ok(200));
    }
    seen
}

const MALFORMED: [&str; 12] = [
    "nonsense",
    "0",
    "0192f0c1000070008000000000000000",
    "{0192f0c1-0000-7000-8000-000000000000}",
    "0192f0c1-0000-7000-8000-00000000000",
    "0192f0c1-0000-7000-8000-0000000000000",
    "0192f0c1-0000-7000-8000-00000000000g",
    "1%27%20or%20%271%27=%271",
    "%00",
    "%FF%FE",
    "%F0%9F%98%80",
    "null",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenants_id_an_unknown_and_a_malformed_one_answer_alike_on_every_tenant_route() {
    let stage = Stage::start().await;
    let owner = stage.partner_with("100").await;
    let owned = settle_in(&owner).await;
    let stranger = stage.partner().await;
    let in_test = stage.login(&owner.email, "test").await;
    let before = estate(&owner, &owned).await;

    let examples = tenant_examples();
    let served: BTreeSet<String> =
        routes_below("/api/tenant/").into_iter().filter(|route| route.contains("{}")).collect();
    let with_examples: BTreeSet<String> = examples.keys().cloned().collect();
    assert_eq!(served, with_examples, "every id-bearing route needs its example above, and no other has one");

    let long = "a".repeat(2_000);
    for (route, (noun, body)) in &examples {
        let unknown = ask(&stranger, route, UNKNOWN_ID, body).await;
        unknown.refused(404, "not_found");
        let expected = all_but_the_request_id(&unknown);
        let mut ids: Vec<&str> =
            vec![owned.id(*noun), owned.esim.as_str(), owner.id.as_str(), stranger.id.as_str(), long.as_str()];
        ids.extend(MALFORMED);
        for id in ids {
            let reply = ask(&stranger, route, id, body).await;
            assert_eq!(all_but_the_request_id(&reply), expected, "{route} with {id}");
        }
        for other in [Noun::Order, Noun::TopUp, Noun::ApiKey].into_iter().filter(|other| other != noun) {
            let reply = ask(&owner, route, owned.id(other), body).await;
            assert_eq!(all_but_the_request_id(&reply), expected, "{route} with the owner's own {other:?}");
        }
        if *noun != Noun::Esim {
            let reply = ask(&owner, route, &owned.esim, body).await;
            assert_eq!(all_but_the_request_id(&reply), expected, "{route} with the owner's own eSIM");
        }
        if *noun != Noun::ApiKey {
            let reply = ask(&in_test, route, owned.id(*noun), body).await;
            assert_eq!(all_but_the_request_id(&reply), expected, "{route} in the other mode");
        }
    }
    assert_eq!(estate(&owner, &owned).await, before, "strangers change nothing");

    // The examples are real ones: to their owner every one of these routes opens.
    let mut in_order: Vec<(&String, &(Noun, Value))> = examples.iter().collect();
    in_order.sort_by_key(|(route, _)| !route.starts_with("GET"));
    for (route, (noun, body)) in in_order {
        done(&ask(&owner, route, owned.id(*noun), body).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_and_a_malformed_id_answer_alike_on_every_operator_route() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let examples = operator_examples();
    let served: BTreeSet<String> =
        routes_below("/api/operator/").into_iter().filter(|route| route.contains("{}")).collect();
    let with_examples: BTreeSet<String> = examples.keys().cloned().collect();
    assert_eq!(served, with_examples, "every id-bearing route needs its example above, and no other has one");
    for (route, body) in &examples {
        let unknown = ask(&operator, route, UNKNOWN_ID, body).await;
        unknown.refused(404, "not_found");
        for id in MALFORMED {
            let reply = ask(&operator, route, id, body).await;
            assert_eq!(all_but_the_request_id(&reply), all_but_the_request_id(&unknown), "{route} with {id}");
        }
    }
}

/// JSON for the methods that carry some.
fn some_body(route: &str) -> Value {
    if route.starts_with("GET") || route.starts_with("DELETE") { Value::Null } else { json!({}) }
}

/// Asserts that each of these callers is told 401 on each of these routes.
async fn nobody_comes_in(routes: &[String], callers: &[(&str, Caller)]) {
    for route in routes {
        for (who, caller) in callers {
            let reply = ask(caller, route, UNKNOWN_ID, &some_body(route)).await;
            let told = (reply.status, reply.json["error"].as_str());
            assert_eq!(told, (401, Some("unauthorized")), "{route} {who}: {}", reply.text());
        }
    }
}

fn private_routes(prefix: &str) -> Vec<String> {
    routes_below(prefix).into_iter().filter(|route| !PUBLIC.contains(&route.as_str())).collect()
}

/// Tokens that nobody gave out, made from one that was.
fn forged(token: &str) -> Vec<(&'static str, String)> {
    let parts: Vec<&str> = token.split('.').collect();
    let mut forged = vec![
        ("with a word for a token", "garbage".to_owned()),
        ("with a made-up key", format!("esd_live_{}", "A".repeat(43))),
        ("with a made-up key of test mode", format!("esd_test_{}", "A".repeat(43))),
        ("with dots for a token", "..".to_owned()),
        ("with a long token", "x".repeat(4_000)),
        ("with a token cut off", token[..token.len() - 8].to_owned()),
        // {"alg":"none","typ":"JWT"}
        (
            "with a token signed by nobody",
            format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts.get(1).unwrap_or(&"")),
        ),
    ];
    if let [head, body, signature] = parts.as_slice() {
        let swapped: String = signature.chars().rev().collect();
        forged.push(("with another signature", format!("{head}.{body}.{swapped}")));
        forged.push(("without a signature", format!("{head}.{body}.")));
    }
    forged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tenant_route_opens_without_a_tenants_valid_token() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let mut callers = vec![
        ("without a token", stage.stranger()),
        ("with an empty token", stage.stranger().with_token("")),
        ("with an operator's token", stage.operator().await),
    ];
    let token = partner.token.clone().expect("a token");
    callers.extend(forged(&token).into_iter().map(|(who, token)| (who, partner.with_token(&token))));
    nobody_comes_in(&private_routes("/api/tenant/"), &callers).await;
    partner.get("/api/tenant/profile").await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_operator_route_opens_without_an_operators_valid_token() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let operator = stage.operator().await;
    let key = json!({"name": "all", "mode": "live", "scopes": ["read", "order", "top_up", "admin"]});
    let key = done(&partner.post("/api/tenant/api-keys", key).await);
    let key = find_text(&key, "esd_live_").expect("the secret, shown once");
    let mut callers = vec![
        ("without a token", stage.stranger()),
        ("with an empty token", stage.stranger().with_token("")),
        ("with a tenant's token", partner.caller.clone()),
        ("with a tenant's token of test mode", stage.login(&partner.email, "test").await),
        ("with a tenant's key", partner.with_token(&key)),
    ];
    let token = operator.token.clone().expect("a token");
    callers.extend(forged(&token).into_iter().map(|(who, token)| (who, operator.with_token(&token))));
    nobody_comes_in(&private_routes("/api/operator/"), &callers).await;
    operator.get("/api/operator/tenants").await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_end_after_24_hours_on_every_route() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let operator = stage.operator().await;
    stage.clock.advance(23 * 60 * 60 * 1_000);
    partner.get("/api/tenant/profile").await.ok(200);
    operator.get("/api/operator/tenants").await.ok(200);
    stage.clock.advance(2 * 60 * 60 * 1_000);
    let expired = [("with an expired token", partner.caller.clone())];
    nobody_comes_in(&private_routes("/api/tenant/"), &expired).await;
    let expired = [("with an expired token", operator)];
    nobody_comes_in(&private_routes("/api/operator/"), &expired).await;
    stage.login(&partner.email, "live").await.get("/api/tenant/profile").await.ok(200);
    stage.operator().await.get("/api/operator/tenants").await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_comes_as_bearer_and_in_no_other_way() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let token = partner.token.clone().expect("a token");
    let stranger = stage.stranger();
    let path = "/api/tenant/profile";
    for value in [token.clone(), format!("Basic {token}"), format!("Token {token}"), "Bearer".to_owned()] {
        let request = stranger.request(Method::GET, path).header("authorization", value);
        stranger.send(request).await.refused(401, "unauthorized");
    }
    stranger.get(&format!("{path}?token={token}")).await.refused(401, "unauthorized");
    stranger.get(&format!("{path}?access_token={token}")).await.refused(401, "unauthorized");
    let request = stranger.request(Method::GET, path).header("cookie", format!("token={token}"));
    stranger.send(request).await.refused(401, "unauthorized");
    let request = stranger.request(Method::GET, path).header("authorization", format!("Bearer {token}"));
    stranger.send(request).await.ok(200);
}
