//! The page for a document like ours, and for documents that are broken in every way.

use serde_json::json;

use super::*;
use crate::pages::policy::tests::assert_self_contained;

/// A document with everything that the page knows how to show.
fn sample() -> Value {
    let answer = |data: Value| {
        json!({"type": "object", "required": ["success", "data", "message", "error"], "properties": {
        "success": {"type": "boolean"}, "data": data, "message": {"type": "string", "description": "One sentence for a person."},
        "error": {"type": "string", "description": "Empty on success."}}})
    };
    let failure = |what: &str, codes: &[&str]| {
        json!({"description": what, "x-error-codes": codes,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}})
    };
    let unauthorized = json!({"$ref": "#/components/responses/Unauthorized"});
    let wait = json!({"$ref": "#/components/parameters/Wait"});
    json!({
        "openapi": "3.1.0",
        "info": {"title": "eSIM Distribute partner API", "version": "1.0.0", "description":
            "Sell eSIM plans against a prepaid balance and follow every order until its QR codes are there.\n\n\
             ## Envelope\nEvery JSON answer looks the same: `{\"success\": true, \"data\": {}, \"message\": \"\", \"error\": \"\"}`.\n\n\
             - `error` is a **stable** code; see the errors of each endpoint.\n- `message` is one sentence for a person that says what is wrong\n  and how to mend it.\n\n\
             ## Money and time\nMoney is a JSON number in major units, such as `4.5`. Times are RFC 3339 in UTC.\n\n\
             ```\ncurl -H 'Authorization: Bearer <token>' https://esimdistribute.com/api/tenant/balance\n```"},
        "servers": [{"url": "https://esimdistribute.com"}],
        "security": [{"bearer": []}],
        "tags": [{"name": "Account", "description": "Register, log in, and manage keys."}, {"name": "Orders", "description": "Buy plans and follow their delivery."}, {"name": "Unused"}],
        "paths": {
            "/api/tenant/login": {"post": {"tags": ["Account"], "summary": "Log in", "description": "Answers alike for a wrong password and an unknown address.", "security": [],
                "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Login"},
                    "example": {"email": "you@example.com", "password": "strong-password"}}}},
                "responses": {"200": {"description": "A token.", "content": {"application/json": {"schema": answer(json!({"type": "object", "required": ["token"], "properties": {
                    "token": {"type": "string"}, "expiresAt": {"type": "string", "format": "date-time"}}})),
                    "example": {"success": true, "data": {"token": "eyJhbGciOi", "expiresAt": "2026-11-24T10:00:00.000Z"}, "message": "Logged in", "error": ""}}}},
                    "401": failure("Wrong password or unknown address.", &["invalid_credentials", "second_factor_required"]),
                    "429": failure("Too many attempts.", &["rate_limited"])}}},
            "/api/tenant/orders/checkout": {"post": {"tags": ["Orders"], "summary": "Buy plans", "description":
                "One order per line, all lines or none. The whole price leaves the balance in the same transaction.\n\n- `wait` answers as soon as all orders are final.",
                "parameters": [wait, {"name": "Idempotency-Key", "in": "header", "description": "The same key and body give the same answer again.", "schema": {"type": "string", "minLength": 1, "maxLength": 255}}],
                "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Checkout"},
                    "example": {"items": [{"planId": "01929c3e-7d1a-7000-8000-1c2d3e4f5a6b", "quantity": 2}], "email": "customer@example.com", "customerName": "End Customer", "phone": "88888888"}}}},
                "responses": {"201": {"description": "`Balance checkout completed`", "headers": {"Idempotent-Replayed": {"description": "`true` on a repeat.", "schema": {"type": "string"}}},
                    "content": {"application/json": {"schema": answer(json!({"type": "object", "required": ["checkoutId", "orders", "summary"], "properties": {
                        "checkoutId": {"type": "string", "format": "uuid"}, "orders": {"type": "array", "items": {"$ref": "#/components/schemas/Order"}},
                        "summary": {"type": "object", "properties": {"totalAmount": {"type": "number"}, "orderCount": {"type": "integer"}, "creditBalance": {"type": "number"}, "currency": {"type": "string"}}}}}))}}},
                    "401": unauthorized.clone(),
                    "402": failure("The balance does not cover the price; nothing was changed. `data` holds `required` and `creditBalance`.", &["insufficient_balance"]),
                    "409": failure("Dearer than `maxTotal`, or the first request with this key is still running.", &["price_changed", "request_in_progress"]),
                    "422": failure("One or more fields are wrong; all faults are listed.", &["validation_failed", "idempotency_key_reused"])}}},
            "/api/tenant/orders/{orderId}": {
                "parameters": [{"name": "orderId", "in": "path", "required": true, "schema": {"type": "string", "format": "uuid"}}],
                "get": {"tags": ["Orders"], "summary": "Read an order", "parameters": [wait],
                    "responses": {"200": {"description": "The order with its QR details.", "content": {"application/json": {"schema": answer(json!({"type": "object", "properties": {"order": {"$ref": "#/components/schemas/Order"}}}))}}}, "401": unauthorized, "404": failure("No such order.", &["not_found"])}},
                "delete": {"summary": "Forget", "deprecated": true}},
            "/api/tenant/orders/export": {"get": {"tags": ["Orders"], "summary": "Export orders as CSV", "responses": {"200": {"description": "One row per eSIM.", "content": {"text/csv": {"example": "order_id,order_number\n0192,1001\n"}}}}}}
        },
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "parameters": {"Wait": {"name": "wait", "in": "query", "description": "Seconds to wait for the final state.", "schema": {"type": "integer", "minimum": 0, "maximum": 30, "default": 0}}},
            "responses": {"Unauthorized": failure("No valid token.", &["unauthorized"])},
            "schemas": {
                "Failure": {"type": "object", "description": "What every failure looks like.", "properties": {"success": {"const": false}, "data": true, "message": {"type": "string"}, "error": {"type": "string"}}},
                "Login": {"type": "object", "required": ["email", "password"], "properties": {
                    "email": {"type": "string", "format": "email", "description": "The address given at registration."}, "password": {"type": "string", "minLength": 10, "maxLength": 128},
                    "mode": {"$ref": "#/components/schemas/Mode", "default": "live"}, "code": {"type": ["string", "null"], "description": "Second factor, where one is set up."}}},
                "Mode": {"type": "string", "enum": ["live", "test"], "description": "Which of the two worlds the token opens."},
                "Checkout": {"type": "object", "required": ["items"], "properties": {
                    "items": {"type": "array", "minItems": 1, "maxItems": 50, "description": "What to buy; a plan may appear twice.", "items": {"$ref": "#/components/schemas/Item"}},
                    "email": {"type": ["string", "null"], "format": "email"}, "customerName": {"type": ["string", "null"], "description": "Printed nowhere but in your own lists."},
                    "phone": {"type": ["string", "null"], "pattern": "^[0-9 +()./-]{5,20}$"}, "maxTotal": {"type": ["number", "null"], "description": "Refuse with `price_changed` when it costs more."}}},
                "Item": {"type": "object", "required": ["planId", "quantity"], "properties": {"planId": {"type": "string", "format": "uuid"}, "quantity": {"type": "integer", "minimum": 1, "maximum": 100}}},
                "Order": {"type": "object", "description": "One line of a checkout.", "required": ["id", "status", "esims"], "properties": {
                    "id": {"type": "string", "format": "uuid"}, "status": {"oneOf": [{"const": "processing", "description": "Paid, being fulfilled."}, {"const": "completed"}, {"const": "failed"}], "description": "Final unless `processing`."},
                    "esims": {"type": "array", "items": {"$ref": "#/components/schemas/Esim"}}, "failureReason": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
                "Esim": {"type": "object", "properties": {"iccid": {"type": ["string", "null"]}, "activationCode": {"type": ["string", "null"], "description": "The text inside the QR code."}}}
            }
        }
    })
}

#[test]
fn the_page_shows_what_the_document_says() {
    let page = render(&sample()).unwrap();
    assert_self_contained(&page, csp());
    assert!(!page.contains("<script"));
    for needed in [
        "id=\"post-api-tenant-orders-checkout\"",
        "href=\"#post-api-tenant-orders-checkout\"",
        "<code>items[].planId</code>",
        "<code>data.summary.totalAmount</code>",
        "array of <a href=\"#object-order\">Order</a>",
        "id=\"object-order\"",
        "<code>esims[].activationCode</code>",
        "<code>insufficient_balance</code>",
        "Bearer token",
        "<code>Idempotency-Key</code>",
        "At most <code>30</code>",
        "One of <code>live</code>, <code>test</code>",
        "order_id,order_number",
        "&#34;email&#34;: &#34;you@example.com&#34;",
        "deprecated",
        "Other</h2>",
        "<h4>Envelope</h4>",
        "No valid token.",
    ] {
        assert!(page.contains(needed), "page lacks {needed}");
    }
    assert!(
        page.contains("in the envelope") && !page.contains("<code>message</code></th>"),
        "the envelope is explained once"
    );
    assert!(!page.contains("Unused"), "a tag without operations has no place");
}

#[test]
fn every_link_within_the_page_leads_somewhere_and_no_id_is_used_twice() {
    let page = render(&sample()).unwrap();
    let ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
    for target in page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(ids.contains(&target), "no {target}");
    }
}

#[test]
fn nothing_in_the_document_becomes_markup() {
    let evil = "\"><script>alert(1)</script>";
    let text = sample().to_string();
    for word in [
        "Buy plans",
        "uuid",
        "insufficient_balance",
        "checkoutId",
        "customer@example.com",
        "Orders",
        "/api/tenant/login",
        "Esim",
        "Idempotency-Key",
        "Seconds to wait",
        "text/csv",
        "live",
    ] {
        let spoiled = text.replace(word, &evil.replace('"', "\\\""));
        let page = render(&serde_json::from_str(&spoiled).unwrap()).unwrap();
        assert!(!page.contains("<script>") && page.contains("script"), "{word}");
    }
}

#[test]
fn broken_documents_give_a_page_and_no_panic() {
    for document in [
        json!(null),
        json!([]),
        json!({}),
        json!({"paths": []}),
        json!({"paths": {"/x": null, "/y": {"get": 1, "post": {}}}}),
        json!({"info": 1, "tags": [1, {}], "servers": {}}),
    ] {
        assert_self_contained(&render(&document).unwrap(), csp());
    }
    // Each value in turn is replaced by something that does not belong there.
    let sample = sample();
    let mut pointers = Vec::new();
    collect_pointers(&sample, String::new(), &mut pointers);
    for pointer in pointers.iter().step_by(3) {
        for wrong in [json!(null), json!(7), json!([[]]), json!({"$ref": "#"})] {
            let mut document = sample.clone();
            if let Some(place) = document.pointer_mut(pointer) {
                *place = wrong;
            }
            render(&document).unwrap();
        }
    }
}

fn collect_pointers(value: &Value, at: String, found: &mut Vec<String>) {
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| collect_pointers(value, format!("{at}/{}", escape(key)), found))
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| collect_pointers(value, format!("{at}/{i}"), found))
        }
        _ => (),
    }
    found.push(at);
}

#[test]
fn many_operations_are_no_effort() {
    let mut document = sample();
    let one = document.pointer("/paths/~1api~1tenant~1orders~1checkout").unwrap().clone();
    for i in 0..100 {
        document["paths"][format!("/api/{i}")] = one.clone();
    }
    let begin = std::time::Instant::now();
    let page = render(&document).unwrap();
    assert!(begin.elapsed() < std::time::Duration::from_secs(2), "{:?} for {} bytes", begin.elapsed(), page.len());
}
