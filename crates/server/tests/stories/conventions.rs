//! What holds for every route: one envelope, one order of precedence, one way to write money, ids,
//! times, lists and limits. Partners write their clients once against these rules.

use crate::acts::{
    UNKNOWN_ID, bank_transfer, done, fault_paths, find_text, is_id, is_time, raw, raw_json, rows, string, suspend,
};
use crate::stage::{Caller, Reply, Stage, password};
use crate::telling::transactions;
use reqwest::Method;
use serde_json::{Value, json};

const CHECKOUT: &str = "/api/tenant/orders/checkout";
const CONTACT: &str = "/api/tenant/contact";
const BODY_LIMIT: usize = 1_048_576;

#[track_caller]
fn wears_the_envelope(reply: &Reply) {
    assert!(reply.header("content-type").starts_with("application/json"), "{:?}", reply.headers);
    let mut keys: Vec<String> = reply.json.as_object().expect("an object").keys().cloned().collect();
    keys.sort();
    assert_eq!(keys, ["data", "error", "message", "success"], "{}", reply.text());
    assert!(!reply.header("x-request-id").is_empty(), "{:?}", reply.headers);
}

/// A text body one byte above the limit.
fn too_large() -> String {
    let head = r#"{"message":""#;
    format!("{head}{}\"}}", "x".repeat(BODY_LIMIT + 1 - head.len() - 2))
}

fn nested(depth: usize) -> String {
    // The object itself is the first level.
    format!(r#"{{"fullName":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1))
}

fn inquiry() -> Value {
    json!({"fullName": "A Reader", "email": "reader@example.com", "inquiryType": "api", "message": "Good day."})
}

/// An API key of a live mode partner, as a caller.
async fn key_with(partner: &Caller, scopes: &[&str]) -> Caller {
    let body = json!({"name": "for a story", "mode": "live", "scopes": scopes});
    let data = done(&partner.post("/api/tenant/api-keys", body).await);
    partner.with_token(&find_text(&data, "esd_live_").expect("the secret, shown once"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_wears_the_envelope_whatever_went_wrong() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    let partner = stage.partner().await;
    let suspended = stage.partner().await;
    suspend(&stage.operator().await, &suspended.id).await;
    let plan = partner.plan("Sandbox: delivers").await;
    let basket = json!({"items": [{"planId": plan, "quantity": 1}]});

    let success = partner.get("/api/tenant/balance").await;
    wears_the_envelope(&success);
    success.ok(200);

    let refusals = [
        (stranger.get("/nothing-here").await, 404, "not_found"),
        (stranger.get("/api/nothing-here").await, 404, "not_found"),
        (partner.get("/api/tenant/nothing-here").await, 404, "not_found"),
        (partner.get(&format!("/api/tenant/orders/{UNKNOWN_ID}")).await, 404, "not_found"),
        (partner.get("/api/tenant/orders/not-an-id").await, 404, "not_found"),
        (partner.put("/api/tenant/balance", json!({})).await, 405, "method_not_allowed"),
        (stranger.get("/api/tenant/balance").await, 401, "unauthorized"),
        (raw_json(&stranger, Method::POST, CONTACT, "{").await, 400, "malformed_json"),
        (raw_json(&stranger, Method::POST, CONTACT, too_large()).await, 413, "body_too_large"),
        (raw(&stranger, Method::POST, CONTACT, "text/plain", "{}").await, 415, "unsupported_media_type"),
        (stranger.post(CONTACT, json!({})).await, 422, "validation_failed"),
        (suspended.post(CHECKOUT, basket.clone()).await, 403, "tenant_suspended"),
        (partner.post(CHECKOUT, basket).await, 402, "insufficient_balance"),
    ];
    for (reply, status, code) in &refusals {
        reply.refused(*status, code);
        wears_the_envelope(reply);
        let data = &reply.json["data"];
        assert!(data.is_null() || data.is_object(), "{}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_method_is_405_and_names_the_right_ones() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let cases = [
        (Method::PUT, "/api/tenant/balance", "GET"),
        (Method::DELETE, "/api/tenant/contact", "POST"),
        (Method::GET, "/api/tenant/login", "POST"),
        (Method::GET, CHECKOUT, "POST"),
        (Method::POST, "/api/tenant/transactions", "GET"),
    ];
    for (method, path, right) in cases {
        let reply = partner.send(partner.request(method.clone(), path)).await;
        reply.refused(405, "method_not_allowed");
        let allowed: Vec<&str> = reply.header("allow").split(',').map(str::trim).collect();
        assert!(allowed.contains(&right), "{method} {path}: {allowed:?}");
        assert!(!allowed.contains(&method.as_str()), "{method} {path}: {allowed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_no_json_is_400() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    let bodies: [&[u8]; 12] = [
        b"{",
        b"nonsense",
        b"{\"message\": \"x\",}",
        b"{'message': 'x'}",
        b"{\"message\": \"x\"} and more",
        b"{\"message\": NaN}",
        b"{\"message\": 01}",
        b"{\"message\": +1}",
        b"{\"message\": .5}",
        b"{\"message\": \"\xff\xfe\"}",
        b"{\"message\": \"a\nb\"}",
        b"{\"message\": \"unfinished",
    ];
    for body in bodies {
        let reply = raw_json(&stranger, Method::POST, CONTACT, body).await;
        assert_eq!(reply.status, 400, "{:?}: {}", String::from_utf8_lossy(body), reply.text());
        reply.refused(400, "malformed_json");
    }
    for body in ["[]", "\"text\"", "1", "true", "null"] {
        let reply = raw_json(&stranger, Method::POST, CONTACT, body).await;
        assert!(!reply.faults().is_empty(), "{body}: JSON, but of no use here");
    }
    let inquiries = rows(&stage.operator().await.get("/api/operator/inquiries").await.ok(200));
    assert!(inquiries.is_empty(), "{inquiries:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_nested_deeper_than_32_is_400() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    raw_json(&stranger, Method::POST, CONTACT, nested(33)).await.refused(400, "malformed_json");
    raw_json(&stranger, Method::POST, CONTACT, nested(100_000)).await.refused(400, "malformed_json");
    let deep = raw_json(&stranger, Method::POST, CONTACT, nested(32)).await;
    assert!(deep.faults().contains(&"fullName wrong_type".to_owned()), "{}", deep.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_above_one_mebibyte_is_413_and_one_of_just_that_size_is_read() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    let small = inquiry().to_string();
    let fits = format!("{small}{}", " ".repeat(BODY_LIMIT - small.len()));
    assert_eq!(fits.len(), BODY_LIMIT);
    raw_json(&stranger, Method::POST, CONTACT, fits.clone()).await.ok(201);
    raw_json(&stranger, Method::POST, CONTACT, format!("{fits} ")).await.refused(413, "body_too_large");
    let inquiries = rows(&stage.operator().await.get("/api/operator/inquiries").await.ok(200));
    assert_eq!(inquiries.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_another_media_type_is_415() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    let body = inquiry().to_string();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/xml", "multipart/form-data"] {
        raw(&stranger, Method::POST, CONTACT, kind, body.clone()).await.refused(415, "unsupported_media_type");
    }
    for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        raw(&stranger, Method::POST, CONTACT, kind, body.clone()).await.ok(201);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_type_json_is_accepted_on_get_and_with_an_empty_body() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("10").await;
    raw_json(&partner, Method::GET, "/api/tenant/balance", "").await.ok(200);
    raw_json(&partner, Method::GET, "/api/tenant/available-plans", "").await.ok(200);

    let bought = partner.buy(&partner.plan("Sandbox: delivers").await, 1).await;
    let order = string(&bought["orders"][0]["id"]);
    raw_json(&partner, Method::POST, &format!("/api/tenant/orders/{order}/cancel"), "").await.ok(202);
    done(&raw_json(&partner, Method::POST, "/api/tenant/logout", "").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accept_header_is_ignored() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    for accept in ["text/html", "image/png", "application/xml;q=0.9", "not a media type"] {
        let reply = partner.send(partner.request(Method::GET, "/api/tenant/balance").header("accept", accept)).await;
        reply.ok(200);
        wears_the_envelope(&reply);
        let lost = partner.send(partner.request(Method::GET, "/api/tenant/nothing").header("accept", accept)).await;
        lost.refused(404, "not_found");
        wears_the_envelope(&lost);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_first_in_the_order_of_precedence_is_told() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    let (without_credit, stopped) = (stage.partner().await, stage.partner().await);
    suspend(&stage.operator().await, &stopped.id).await;
    let (poor, suspended): (&Caller, &Caller) = (&without_credit.caller, &stopped.caller);
    let reader = key_with(poor, &["read"]).await;
    let plan = poor.plan("Sandbox: delivers").await;

    let faulty = r#"{"items": [], "colour": "red"}"#.to_owned();
    let unknown_plan = json!({"items": [{"planId": UNKNOWN_ID, "quantity": 1}], "maxTotal": 1}).to_string();
    let dearer = json!({"items": [{"planId": plan, "quantity": 1}], "maxTotal": 1}).to_string();
    let unpaid = json!({"items": [{"planId": plan, "quantity": 1}]}).to_string();

    let (json, plain) = ("application/json", "text/plain");
    let table: Vec<(&str, &Caller, &str, String, u16, &str)> = vec![
        ("401 before 413", &stranger, json, too_large(), 401, "unauthorized"),
        ("401 before 415", &stranger, plain, unpaid.clone(), 401, "unauthorized"),
        ("401 before 400", &stranger, json, "{".to_owned(), 401, "unauthorized"),
        ("401 before 422", &stranger, json, faulty.clone(), 401, "unauthorized"),
        ("401 before all", &stranger, plain, too_large(), 401, "unauthorized"),
        ("413 before 415", poor, plain, too_large(), 413, "body_too_large"),
        ("413 before 400", poor, json, format!("{{{}", too_large()), 413, "body_too_large"),
        ("413 before 403", suspended, json, too_large(), 413, "body_too_large"),
        ("413 before 422", poor, json, too_large(), 413, "body_too_large"),
        ("415 before 400", poor, plain, "{".to_owned(), 415, "unsupported_media_type"),
        ("415 before 403", suspended, plain, unpaid.clone(), 415, "unsupported_media_type"),
        ("415 before 403 of a key", &reader, plain, unpaid.clone(), 415, "unsupported_media_type"),
        ("415 before 422", poor, plain, faulty.clone(), 415, "unsupported_media_type"),
        ("400 before 403", suspended, json, "{".to_owned(), 400, "malformed_json"),
        ("400 before 403 of a key", &reader, json, "{".to_owned(), 400, "malformed_json"),
        ("403 before 422", suspended, json, faulty.clone(), 403, "tenant_suspended"),
        ("403 before 422 of a key", &reader, json, faulty, 403, "forbidden"),
        ("403 before 422 of a plan", suspended, json, unknown_plan.clone(), 403, "tenant_suspended"),
        ("403 before 409", suspended, json, dearer.clone(), 403, "tenant_suspended"),
        ("403 before 402", suspended, json, unpaid.clone(), 403, "tenant_suspended"),
        ("422 before 409 and 402", poor, json, unknown_plan, 422, "validation_failed"),
        ("409 before 402", poor, json, dearer, 409, "price_changed"),
        ("402 when all else is well", poor, json, unpaid, 402, "insufficient_balance"),
    ];
    for (rule, caller, kind, body, status, code) in table {
        let reply = raw(caller, Method::POST, CHECKOUT, kind, body).await;
        assert_eq!((reply.status, reply.json["error"].as_str()), (status, Some(code)), "{rule}: {}", reply.text());
    }
    for caller in [poor, suspended] {
        assert!(rows(&caller.get("/api/tenant/orders").await.ok(200)).is_empty());
        assert!(transactions(caller).await.is_empty());
        assert_eq!(caller.balance().await, "0");
    }
}

/// The id an answer carries when the request carried this one.
async fn request_id(caller: &Caller, id: &str, path: &str) -> String {
    let reply = caller.send(caller.request(Method::GET, path).header("x-request-id", id)).await;
    reply.header("x-request-id").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sane_request_id_is_echoed_and_any_other_replaced() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    let sane = "0192f0c1-0000-7000-8000-000000000001";
    for path in ["/healthz", "/api/tenant/balance", "/nothing-here", "/openapi.json"] {
        assert_eq!(request_id(&stranger, sane, path).await, sane, "{path}");
    }
    let long = "x".repeat(2_000);
    for insane in ["two words", "a\"b<script>", "", long.as_str()] {
        let given = request_id(&stranger, insane, "/healthz").await;
        assert_ne!(given, insane);
        assert!(!given.is_empty(), "{insane:?}");
    }
    let first = stranger.get("/healthz").await;
    let second = stranger.get("/healthz").await;
    assert!(!first.header("x-request-id").is_empty());
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_carry_security_headers() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    let partner = stage.partner().await;
    let login = json!({"email": partner.email, "password": password()});
    let secret = [
        partner.get("/api/tenant/balance").await,
        partner.get("/api/tenant/orders").await,
        stranger.post("/api/tenant/login", login).await,
    ];
    for reply in &secret {
        reply.ok(200);
        assert!(reply.header("cache-control").contains("no-store"), "{:?}", reply.headers);
    }
    let any = [
        partner.get("/api/tenant/available-plans").await,
        stranger.get("/api/tenant/balance").await,
        stranger.get("/nothing-here").await,
        stranger.get("/healthz").await,
        stranger.get("/openapi.json").await,
        stranger.get("/api-docs").await,
    ];
    for reply in secret.iter().chain(&any) {
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{:?}", reply.headers);
    }
    let page = stranger.get("/api-docs").await;
    assert!(page.header("content-security-policy").contains("default-src 'none'"), "{:?}", page.headers);
    assert_eq!(page.header("referrer-policy"), "no-referrer");
}

/// Sends an adjustment whose amount is exactly this text.
async fn adjusted(operator: &Caller, path: &str, amount: &str) -> Reply {
    let body = format!(r#"{{"amount": {amount}, "reason": "an amount of the corpus"}}"#);
    raw_json(operator, Method::POST, path, body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_is_read_exactly_from_its_text() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    let path = format!("/api/operator/tenants/{}/adjustments", partner.id);
    let exact = [
        ("300", "300", "300"),
        ("4.5", "4.5", "304.5"),
        ("0.29", "0.29", "304.79"),
        ("-0.07", "-0.07", "304.72"),
        ("0.1", "0.1", "304.82"),
        ("0.2", "0.2", "305.02"),
        ("10.000", "10", "315.02"),
        ("1e2", "100", "415.02"),
        ("1.25E1", "12.5", "427.52"),
        ("1200e-2", "12", "439.52"),
        ("-439.52", "-439.52", "0"),
        ("1234567890123.45", "1234567890123.45", "1234567890123.45"),
    ];
    for (amount, booked, after) in exact {
        let transaction = adjusted(&operator, &path, amount).await.ok(201)["transaction"].clone();
        assert_eq!(transaction["amount"].to_string(), booked, "{amount}");
        assert_eq!(transaction["balanceAfter"].to_string(), after, "{amount}");
        assert_eq!(partner.balance().await, after, "{amount}");
    }
    let refused = [
        ("0.001", "amount too_many_decimals"),
        ("1.005", "amount too_many_decimals"),
        ("1e-3", "amount too_many_decimals"),
        ("99999999999999999999", "amount out_of_range"),
        ("1e400", "amount out_of_range"),
        ("-1e400", "amount out_of_range"),
        ("\"5\"", "amount wrong_type"),
        ("true", "amount wrong_type"),
        ("[5]", "amount wrong_type"),
        ("{}", "amount wrong_type"),
        ("null", "amount required"),
    ];
    for (amount, fault) in refused {
        assert_eq!(adjusted(&operator, &path, amount).await.faults(), [fault], "{amount}");
    }
    for amount in ["01", "+1", ".5", "1.", "NaN", "Infinity", "0x1", "1_000", "1,5", "--1", "1e"] {
        adjusted(&operator, &path, amount).await.refused(400, "malformed_json");
    }
    assert_eq!(transactions(&partner).await.len(), exact.len());
    assert_eq!(partner.balance().await, "1234567890123.45");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_negative_amount_where_it_makes_no_sense_is_422() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let partner = stage.partner().await;
    let plan = partner.plan("Sandbox: delivers").await;
    let top_up = json!({"amount": -100, "paymentMethod": "bank_transfer"});
    assert_eq!(partner.post("/api/tenant/top-up", top_up).await.faults(), ["amount out_of_range"]);
    let basket = json!({"items": [{"planId": plan, "quantity": 1}], "maxTotal": -4.5});
    assert_eq!(partner.post(CHECKOUT, basket).await.faults(), ["maxTotal out_of_range"]);
    let limit = format!("/api/operator/tenants/{}/credit-limit", partner.id);
    assert_eq!(operator.put(&limit, json!({"amount": -1})).await.faults(), ["amount out_of_range"]);
    let price = format!("/api/operator/plans/{plan}/price");
    assert_eq!(operator.put(&price, json!({"price": -4.5})).await.faults(), ["price out_of_range"]);
    assert!(rows(&partner.get("/api/tenant/top-up").await.ok(200)).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn null_and_the_empty_text_mean_left_out() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("20").await;
    let plan = partner.plan("Sandbox: delivers").await;
    for nothing in [Value::Null, json!("")] {
        let basket = json!({
            "items": [{"planId": plan, "quantity": 1}],
            "email": nothing, "customerName": nothing, "phone": nothing, "reference": nothing, "maxTotal": nothing,
        });
        let order = partner.post(CHECKOUT, basket).await.ok(201)["orders"][0].clone();
        for field in ["email", "customerName", "phone", "reference"] {
            assert!(order[field].is_null(), "{field}: {order}");
        }
        let mut sent = inquiry();
        sent["companyName"] = nothing.clone();
        sent["phone"] = nothing;
        stage.stranger().post(CONTACT, sent).await.ok(201);
    }
    let empty = json!({"fullName": "", "email": null, "inquiryType": "", "message": null});
    let refused = stage.stranger().post(CONTACT, empty).await;
    assert_eq!(fault_paths(&refused), ["email", "fullName", "inquiryType", "message"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_faults_are_told_at_once_and_an_unknown_field_is_one() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let sent = json!({"fullNam": "A Reader", "email": "nowhere", "inquiryType": "beer", "message": "x".repeat(5_001)});
    let reply = stage.stranger().post(CONTACT, sent).await;
    assert_eq!(
        reply.faults(),
        [
            "email malformed",
            "fullNam unknown_field",
            "fullName required",
            "inquiryType not_in_list",
            "message too_long"
        ]
    );
    for field in reply.json["data"]["fields"].as_array().unwrap() {
        assert!(!string(&field["message"]).is_empty(), "{field}");
    }
    let basket = json!({
        "items": [
            {"planId": plan, "quantity": 0},
            {"planId": plan, "quantity": 1, "colour": "red"},
            {"quantity": 101},
            {"planId": plan, "quantity": "two"},
        ],
        "email": "nowhere",
        "Email": "customer@example.com",
    });
    assert_eq!(
        partner.post(CHECKOUT, basket).await.faults(),
        [
            "Email unknown_field",
            "email malformed",
            "items[0].quantity out_of_range",
            "items[1].colour unknown_field",
            "items[2].planId required",
            "items[2].quantity out_of_range",
            "items[3].quantity wrong_type",
        ]
    );
    assert_eq!(partner.balance().await, "100");
    assert!(rows(&partner.get("/api/tenant/orders").await.ok(200)).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_query_parameter_is_a_fault_and_nothing_is_done() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: delivers").await;
    for path in ["orders", "transactions", "available-plans", "balance", "top-up", "profile", "orders/export"] {
        let reply = partner.get(&format!("/api/tenant/{path}?colour=red")).await;
        assert_eq!(reply.faults(), ["colour unknown_field"], "{path}");
    }
    let basket = json!({"items": [{"planId": plan, "quantity": 1}]});
    let mistyped = partner.post(&format!("{CHECKOUT}?wiat=5"), basket).await;
    assert_eq!(mistyped.faults(), ["wiat unknown_field"]);
    assert_eq!(partner.balance().await, "100");
    assert!(rows(&partner.get("/api/tenant/orders").await.ok(200)).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_uuids_of_version_7_and_times_are_utc_with_milliseconds() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let tenant = partner.get("/api/tenant/profile").await.ok(200)["tenant"].clone();
    assert!(is_id(&tenant["id"]) && is_time(&tenant["createdAt"]), "{tenant}");
    assert_eq!(tenant["currency"], json!("USD"));
    let bought = partner.buy(&partner.plan("Sandbox: delivers").await, 1).await;
    let order = &bought["orders"][0];
    for id in [&bought["checkoutId"], &order["id"], &order["checkoutId"], &order["planId"], &order["esims"][0]["id"]] {
        assert!(is_id(id), "{id}");
    }
    for time in [&order["createdAt"], &order["completedAt"], &order["esims"][0]["deliveredAt"]] {
        assert!(is_time(time), "{time}");
    }
    let transaction = transactions(&partner).await[0].clone();
    assert!(is_id(&transaction["id"]) && is_time(&transaction["createdAt"]), "{transaction}");
    let top_up = bank_transfer(&partner, "10").await;
    assert!(is_id(&json!(top_up)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_take_a_limit_from_1_to_1000_and_a_cursor_that_was_given_out() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let operator = stage.operator().await;
    let partner: &Caller = &partner.caller;
    let lists: [(&Caller, &str); 11] = [
        (partner, "/api/tenant/orders?"),
        (partner, "/api/tenant/transactions?"),
        (partner, "/api/tenant/top-up?"),
        (partner, "/api/tenant/available-plans?"),
        (&operator, "/api/operator/tenants?"),
        (&operator, "/api/operator/plans?"),
        (&operator, "/api/operator/orders?"),
        (&operator, "/api/operator/top-ups?"),
        (&operator, "/api/operator/inquiries?"),
        (&operator, "/api/operator/audit-log?"),
        (&operator, "/api/operator/jobs?state=dead&"),
    ];
    for (caller, list) in lists {
        for limit in ["0", "1001"] {
            let reply = caller.get(&format!("{list}limit={limit}")).await;
            assert_eq!(reply.faults(), ["limit out_of_range"], "{list}limit={limit}");
        }
        for limit in ["many", "1.5", "-1", "99999999999999999999"] {
            let reply = caller.get(&format!("{list}limit={limit}")).await;
            assert_eq!(fault_paths(&reply), ["limit"], "{list}limit={limit}");
        }
        assert_eq!(fault_paths(&caller.get(&format!("{list}cursor=made-up")).await), ["cursor"], "{list}");
        for limit in ["1", "1000"] {
            let data = caller.get(&format!("{list}limit={limit}")).await.ok(200);
            assert!(data.get("nextCursor").is_some(), "{list}: {data}");
            if limit == "1000" {
                assert!(data["nextCursor"].is_null(), "{list}: nothing is behind the end");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_calls_too_often_is_429_and_its_neighbour_is_not() {
    let stage = Stage::with(&[
        ("ESIMD_RATE_LIMIT", "on"),
        ("ESIMD_LIMITS_TENANT_PER_SECOND", "1"),
        ("ESIMD_LIMITS_TENANT_BURST", "5"),
    ])
    .await;
    let busy = stage.partner().await;
    let neighbour = stage.partner().await;
    for _ in 0..5 {
        let reply = busy.get("/api/tenant/balance").await;
        reply.ok(200);
        assert!(has_rate_limit_headers(&reply), "{:?}", reply.headers);
    }
    let mut limited = None;
    for _ in 0..100 {
        let reply = busy.get("/api/tenant/balance").await;
        if reply.status == 429 {
            limited = Some(reply);
            break;
        }
        reply.ok(200);
    }
    let limited = limited.expect("more than the burst is too many");
    limited.refused(429, "rate_limited");
    wears_the_envelope(&limited);
    let seconds: u64 = limited.header("retry-after").parse().expect("whole seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
    neighbour.get("/api/tenant/balance").await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_calls_public_routes_too_often_is_429() {
    let stage = Stage::with(&[
        ("ESIMD_RATE_LIMIT", "on"),
        ("ESIMD_LIMITS_PUBLIC_PER_SECOND", "1"),
        ("ESIMD_LIMITS_PUBLIC_BURST", "5"),
    ])
    .await;
    let stranger = stage.stranger();
    for _ in 0..5 {
        let reply = stranger.post(CONTACT, inquiry()).await;
        reply.ok(201);
        assert!(has_rate_limit_headers(&reply), "{:?}", reply.headers);
    }
    let mut limited = None;
    for _ in 0..100 {
        let reply = stranger.post(CONTACT, inquiry()).await;
        if reply.status == 429 {
            limited = Some(reply);
            break;
        }
        reply.ok(201);
    }
    let limited = limited.expect("more than the burst is too many");
    limited.refused(429, "rate_limited");
    let seconds: u64 = limited.header("retry-after").parse().expect("whole seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limit_off_turns_both_limits_off() {
    let stage = Stage::with(&[
        ("ESIMD_RATE_LIMIT", "off"),
        ("ESIMD_LIMITS_TENANT_PER_SECOND", "1"),
        ("ESIMD_LIMITS_TENANT_BURST", "1"),
        ("ESIMD_LIMITS_PUBLIC_PER_SECOND", "1"),
        ("ESIMD_LIMITS_PUBLIC_BURST", "1"),
    ])
    .await;
    let partner = stage.partner().await;
    for _ in 0..60 {
        partner.get("/api/tenant/balance").await.ok(200);
        stage.stranger().post(CONTACT, inquiry()).await.ok(201);
    }
}

fn has_rate_limit_headers(reply: &Reply) -> bool {
    reply.headers.keys().any(|name| name.as_str().starts_with("ratelimit"))
}
