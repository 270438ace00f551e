//! The contact form is open to everybody. What was answered with 201 lies where the operator reads
//! it, whether mail works or not; what is refused leaves nothing behind.

use crate::acts::{done, fault_paths, is_id, rows, string};
use crate::stage::Stage;
use serde_json::{Value, json};

const CONTACT: &str = "/api/tenant/contact";

fn inquiry() -> Value {
    json!({
        "fullName": "A Reader",
        "email": "reader@example.com",
        "companyName": "Example Travel",
        "phone": "+1 (555) 010-0199",
        "inquiryType": "partnership",
        "message": "Good day.\nDo you sell plans for Kosovo?",
    })
}

async fn inquiries(stage: &Stage) -> Vec<Value> {
    rows(&stage.operator().await.get("/api/operator/inquiries").await.ok(200))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contact_takes_an_inquiry_from_anybody_and_the_operator_reads_it() {
    let stage = Stage::start().await;
    let sent = inquiry();
    let data = stage.stranger().post(CONTACT, sent.clone()).await.ok(201);
    assert!(is_id(&data["inquiryId"]), "{data}");

    let read = inquiries(&stage).await;
    assert_eq!(read.len(), 1);
    assert_eq!(read[0]["id"], data["inquiryId"]);
    for field in ["fullName", "email", "companyName", "phone", "inquiryType", "message"] {
        assert_eq!(read[0][field], sent[field], "{field}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contact_needs_name_address_type_and_message_only() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    assert_eq!(
        stranger.post(CONTACT, json!({})).await.faults(),
        ["email required", "fullName required", "inquiryType required", "message required"]
    );
    for kind in ["partnership", "pricing", "hardware", "support", "api", "other"] {
        let short = json!({"fullName": "A", "email": "a@example.com", "inquiryType": kind, "message": "?"});
        stranger.post(CONTACT, short).await.ok(201);
    }
    let read = inquiries(&stage).await;
    let kinds: Vec<String> = read.iter().map(|row| string(&row["inquiryType"])).collect();
    assert_eq!(kinds, ["other", "api", "support", "hardware", "pricing", "partnership"], "newest first");
    assert!(read[0]["companyName"].is_null() && read[0]["phone"].is_null(), "{}", read[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contact_refuses_what_is_not_as_asked_for_and_keeps_nothing() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    let mut cases: Vec<(&str, Value)> = Vec::new();
    for address in ["nowhere", "@example.com", "reader@", "a b@example.com", "a@b@example.com"] {
        cases.push(("email", json!(address)));
    }
    cases.push(("email", json!(7)));
    cases.push(("fullName", json!(["A", "Reader"])));
    cases.push(("inquiryType", json!("Partnership")));
    cases.push(("inquiryType", json!("sales")));
    cases.push(("message", json!("x".repeat(5_001))));
    cases.push(("message", json!("é".repeat(5_001))));
    cases.push(("subject", json!("there is no such field")));
    for (field, value) in cases {
        let mut sent = inquiry();
        sent[field] = value.clone();
        assert_eq!(fault_paths(&stranger.post(CONTACT, sent).await), [field], "{field} {value}");
    }
    let mut sent = inquiry();
    sent["message"] = json!("x".repeat(5_001));
    sent["inquiryType"] = json!("sales");
    assert_eq!(stranger.post(CONTACT, sent).await.faults(), ["inquiryType not_in_list", "message too_long"]);
    assert!(inquiries(&stage).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contact_counts_5000_characters_not_bytes_and_loses_none() {
    let mut stage = Stage::start().await;
    let message = "é\"<b>ж😀".repeat(715);
    let message: String = message.chars().take(5_000).collect();
    let mut sent = inquiry();
    sent["message"] = json!(message);
    let data = stage.stranger().post(CONTACT, sent).await.ok(201);
    stage.restart().await;
    let read = inquiries(&stage).await;
    assert_eq!(read[0]["id"], data["inquiryId"]);
    assert_eq!(read[0]["message"], json!(message));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inquiry_can_be_marked_as_handled() {
    let stage = Stage::start().await;
    let operator = stage.operator().await;
    let id = string(&stage.stranger().post(CONTACT, inquiry()).await.ok(201)["inquiryId"]);
    stage.stranger().post(CONTACT, inquiry()).await.ok(201);
    let before = inquiries(&stage).await;
    assert!(before.iter().all(|row| row["handledAt"].is_null()), "{before:?}");
    let path = format!("/api/operator/inquiries/{id}/handled");
    done(&operator.post(&path, json!({})).await);
    operator.post(&path, json!({})).await.refused(409, "already_decided");
    let after = inquiries(&stage).await;
    assert_eq!(after.len(), 2, "a handled inquiry stays in the list");
    for row in &after {
        assert_eq!(row["handledAt"].is_string(), row["id"] == id.as_str(), "{row}");
    }
}
