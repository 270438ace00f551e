//! What runs beside the API: probes for the machine that keeps the process alive, figures for the
//! one that watches it, and documents for people and programs that have no internet.

use crate::acts::{UNKNOWN_ID, bank_transfer, string};
use crate::stage::{Caller, OPERATOR_EMAIL, Reply, Stage, password};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const VERBS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthz_and_readyz_answer_without_a_token_before_and_after_a_restart() {
    let mut stage = Stage::start().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(stage.stranger().get(path).await.status, 200, "{path}");
    }
    stage.restart().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(stage.stranger().get(path).await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_an_address_in_use_makes_no_accounts_whose_passwords_nobody_has_seen() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut stage = Stage::prepared(&[]);
    let refusal = stage.refuses_to_start_on(&address).await;
    assert!(refusal.contains(&address), "{refusal}");
    let store = stage.stored().await;
    assert!(!store.read(|snapshot| store::access::any_operator(snapshot)).await.unwrap());
    assert!(!store.read(|snapshot| store::tenant::any(snapshot)).await.unwrap());
    drop((store, taken));
    stage.up().await;
    stage.operator().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_in_a_text_format_of_prometheus_and_hold_no_ids() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("10").await;
    let order = string(&partner.buy(&partner.plan("Sandbox: delivers").await, 1).await["orders"][0]["id"]);
    partner.get(&format!("/api/tenant/orders/{order}")).await.ok(200);
    partner.get(&format!("/api/tenant/orders/{UNKNOWN_ID}")).await.refused(404, "not_found");

    let reply = stage.stranger().get("/metrics").await;
    assert_eq!(reply.status, 200);
    let kinds = ["text/plain", "application/openmetrics-text"];
    assert!(kinds.iter().any(|kind| reply.header("content-type").starts_with(kind)), "{:?}", reply.headers);
    let body = reply.text();
    assert!(body.ends_with('\n'));
    let mut declared = BTreeSet::new();
    let mut samples = 0;
    for line in body.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.split(' ').collect();
            if words[0] == "TYPE" {
                let kinds = ["counter", "gauge", "histogram", "summary", "untyped", "unknown", "info", "stateset"];
                assert!(words.len() == 3 && kinds.contains(&words[2]), "{line}");
                assert!(declared.insert(words[1].to_owned()), "declared twice: {line}");
            } else {
                assert!(["HELP", "UNIT", "EOF"].contains(&words[0]), "{line}");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        assert!(value.parse::<f64>().is_ok() || value == "+Inf", "{line}");
        let name = series.split('{').next().unwrap_or("");
        assert!(!name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_:".contains(letter)));
        let family = ["_bucket", "_sum", "_count", "_total", "_created", "_info"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name);
        assert!(declared.contains(name) || declared.contains(family), "no TYPE before {line}");
        samples += 1;
    }
    assert!(samples > 0);
    for secret in [order.as_str(), UNKNOWN_ID, partner.id.as_str(), partner.email.as_str()] {
        assert!(!body.contains(secret), "one series for each {secret}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_operator_api_leave_the_public_address_for_their_own() {
    let stage = Stage::with(&[("ESIMD_ADMIN_LISTEN", "127.0.0.1:0")]).await;
    let stranger = stage.stranger();
    assert_eq!(stranger.get("/healthz").await.status, 200);
    stranger.get("/metrics").await.refused(404, "not_found");
    let login = json!({"email": OPERATOR_EMAIL, "password": password()});
    stranger.post("/api/operator/login", login).await.refused(404, "not_found");
    stage.partner().await.get("/api/tenant/balance").await.ok(200);
}

async fn document(stage: &Stage) -> Value {
    let reply = stage.stranger().get("/openapi.json").await;
    assert_eq!(reply.status, 200);
    assert!(reply.header("content-type").starts_with("application/json"), "{:?}", reply.headers);
    reply.json
}

/// Every operation as path, verb and description.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for verb in VERBS {
            if item[verb].is_object() {
                found.push((path.clone(), verb.to_owned(), item[verb].clone()));
            }
        }
    }
    found
}

/// The object that a description or a `$ref` in its place stands for.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("not in the document: {reference}"));
            document.pointer(pointer).unwrap_or_else(|| panic!("a dead reference: {reference}"))
        }
        None => value,
    }
}

fn every_reference(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str() {
                    Some(reference) if name == "$ref" => found.push(reference.to_owned()),
                    _ => every_reference(field, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| every_reference(value, found)),
        _ => {}
    }
}

/// A schema that can stand alone: the document's components lie beside it.
fn standing_alone(document: &Value, schema: &Value) -> Value {
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    schema
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openapi_is_3_1_and_whole() {
    let stage = Stage::start().await;
    let document = document(&stage).await;
    assert!(string(&document["openapi"]).starts_with("3.1."), "{}", document["openapi"]);
    assert!(!string(&document["info"]["title"]).is_empty());
    assert!(!string(&document["info"]["version"]).is_empty());

    let mut references = Vec::new();
    every_reference(&document, &mut references);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("not in the document: {reference}"));
        assert!(document.pointer(pointer).is_some(), "a dead reference: {reference}");
    }
    if let Some(schemas) = document["components"]["schemas"].as_object() {
        for (name, schema) in schemas {
            assert!(jsonschema::draft202012::meta::is_valid(schema), "{name} is no schema: {schema}");
        }
    }

    let mut names = BTreeSet::new();
    for (path, verb, operation) in operations(&document) {
        let place = format!("{verb} {path}");
        assert!(names.insert(string(&operation["operationId"])), "{place}: operationId is taken");
        assert!(operation["summary"].is_string() || operation["description"].is_string(), "{place}: says nothing");
        let responses = operation["responses"].as_object().unwrap_or_else(|| panic!("{place}: no responses"));
        assert!(responses.keys().any(|status| status.starts_with('2')), "{place}: never succeeds");
        for (status, response) in responses {
            let response = resolved(&document, response);
            assert!(response["description"].is_string(), "{place} {status}: no description");
            let schema = &response["content"]["application/json"]["schema"];
            if !schema.is_null() {
                assert!(jsonschema::draft202012::meta::is_valid(schema), "{place} {status}: {schema}");
            }
        }
        let body = &operation["requestBody"];
        if !body.is_null() {
            let schema = &resolved(&document, body)["content"]["application/json"]["schema"];
            assert!(schema.is_object(), "{place}: a body without a schema");
            assert!(jsonschema::draft202012::meta::is_valid(schema), "{place}: {schema}");
        }
        let mut in_path = BTreeSet::new();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = resolved(&document, parameter);
            if parameter["in"] == "path" {
                assert_eq!(parameter["required"], json!(true), "{place}: {parameter}");
                in_path.insert(string(&parameter["name"]));
            }
        }
        let named: BTreeSet<String> =
            path.split('{').skip(1).filter_map(|rest| rest.split('}').next()).map(str::to_owned).collect();
        assert_eq!(in_path, named, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openapi_documents_every_route_of_the_api_and_none_that_is_not_there() {
    let stage = Stage::start().await;
    let document = document(&stage).await;
    let documented: BTreeSet<String> =
        operations(&document).into_iter().map(|(path, verb, _)| format!("{} {path}", verb.to_uppercase())).collect();
    let served: BTreeSet<String> =
        server::routes::table().map(|route| format!("{} {}", route.method, route.path)).collect();
    let of_the_api = |route: &&String| route.contains(" /api/tenant/") || route.contains(" /api/operator/");
    let missing: Vec<&String> = served.iter().filter(of_the_api).filter(|route| !documented.contains(*route)).collect();
    assert!(missing.is_empty(), "not documented: {missing:?}");
    let invented: Vec<&String> = documented.iter().filter(|route| !served.contains(*route)).collect();
    assert!(invented.is_empty(), "documented, not served: {invented:?}");
    assert!(documented.contains("POST /api/tenant/orders/checkout"), "{documented:?}");
}

/// Asserts that an answer is as the document says of this operation and status.
fn is_as_documented(document: &Value, verb: &str, path: &str, reply: &Reply) {
    let place = format!("{verb} {path} {}", reply.status);
    let responses = &document["paths"][path][verb]["responses"];
    let response = &responses[reply.status.to_string().as_str()];
    assert!(response.is_object(), "{place} is not documented: {}", reply.text());
    let schema = &resolved(document, response)["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{place} has no schema");
    let validator = jsonschema::draft202012::new(&standing_alone(document, schema)).expect("a schema");
    if let Err(error) = validator.validate(&reply.json) {
        panic!("{place}: {error}\n{}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_as_the_document_says() {
    let stage = Stage::start().await;
    let document = document(&stage).await;
    let stranger = stage.stranger();
    let partner = stage.partner_with("100").await;
    let operator = stage.operator().await;
    let tenant: &Caller = &partner.caller;
    let operator: &Caller = &operator;
    let plan = tenant.plan("Sandbox: delivers").await;

    let checkout = "/api/tenant/orders/checkout";
    let basket = json!({"items": [{"planId": plan, "quantity": 2}], "email": "customer@example.com"});
    let bought = tenant.post(&format!("{checkout}?wait=20"), basket).await;
    is_as_documented(&document, "post", checkout, &bought);
    let order = string(&bought.ok(201)["orders"][0]["id"]);
    let too_much = json!({"items": [{"planId": plan, "quantity": 100}]});
    is_as_documented(&document, "post", checkout, &tenant.post(checkout, too_much).await);
    is_as_documented(&document, "post", checkout, &tenant.post(checkout, json!({})).await);
    is_as_documented(&document, "post", checkout, &stranger.post(checkout, json!({})).await);

    let login = json!({"email": partner.email, "password": password()});
    is_as_documented(&document, "post", "/api/tenant/login", &stranger.post("/api/tenant/login", login).await);
    let inquiry = json!({"fullName": "A", "email": "a@example.com", "inquiryType": "api", "message": "?"});
    is_as_documented(&document, "post", "/api/tenant/contact", &stranger.post("/api/tenant/contact", inquiry).await);
    bank_transfer(tenant, "100").await;

    let own = ["profile", "api-keys", "available-plans", "orders", "balance", "transactions", "top-up"];
    for path in own.map(|path| format!("/api/tenant/{path}")) {
        let reply = tenant.get(&path).await;
        reply.ok(200);
        is_as_documented(&document, "get", &path, &reply);
    }
    let of_the_operator = ["tenants", "plans", "orders", "top-ups", "jobs", "inquiries", "ledger/check", "audit-log"];
    for path in of_the_operator.map(|path| format!("/api/operator/{path}")) {
        let query = if path.ends_with("jobs") { "?state=dead" } else { "" };
        let reply = operator.get(&format!("{path}{query}")).await;
        reply.ok(200);
        is_as_documented(&document, "get", &path, &reply);
    }
    let detail = document["paths"]
        .as_object()
        .expect("paths")
        .keys()
        .find(|path| path.starts_with("/api/tenant/orders/{") && path.ends_with('}'))
        .expect("one order is documented");
    is_as_documented(&document, "get", detail, &tenant.get(&format!("/api/tenant/orders/{order}")).await);
    is_as_documented(&document, "get", detail, &tenant.get(&format!("/api/tenant/orders/{UNKNOWN_ID}")).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_docs_is_a_page_that_loads_nothing_from_elsewhere() {
    let stage = Stage::start().await;
    let page = stage.stranger().get("/api-docs").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"), "{:?}", page.headers);
    let html = page.text();
    for path in ["/api/tenant/register", "/api/tenant/orders/checkout", "/api/tenant/top-up"] {
        assert!(html.contains(path), "{path} is not described");
    }
    let lower = html.to_lowercase();
    for tag in ["<script", "<link", "<img", "<iframe", "<object", "<embed", "<source", "<video", "<audio", "<base"] {
        for found in lower.split(tag).skip(1) {
            let inside = found.split('>').next().unwrap_or("");
            assert!(!inside.contains("http:") && !inside.contains("https:"), "{tag}{inside}>");
            assert!(!inside.contains("=\"//") && !inside.contains("='//"), "{tag}{inside}>");
        }
    }
    for load in ["@import", "url(http", "url(\"http", "url('http", "url(//", "url(\"//", "url('//"] {
        assert!(!lower.contains(load), "{load}");
    }
}
