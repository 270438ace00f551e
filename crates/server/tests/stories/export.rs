//! The export: partners open it in spreadsheets and feed it to their books, so it must be exact to the byte,
//! and no traveller's name may run as a formula.

use crate::stage::{Caller, Reply, Stage};
use crate::telling::{CHECKOUT, column, encoded, list, only_order, order, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const EXPORT: &str = "/api/tenant/orders/export";
const HEADER: &str = "order_id,order_number,checkout_id,created_at,status,plan_id,plan_name,quantity,unit_price,\
    total_amount,refunded_amount,currency,email,customer_name,phone,reference,esim_id,iccid,esim_status,smdp_address,\
    matching_id,activation_code,delivered_at\r\n";
const ORDER_FIELDS: [&str; 16] = [
    "id",
    "orderNumber",
    "checkoutId",
    "createdAt",
    "status",
    "planId",
    "planName",
    "quantity",
    "unitPrice",
    "totalAmount",
    "refundedAmount",
    "currency",
    "email",
    "customerName",
    "phone",
    "reference",
];
const ESIM_FIELDS: [&str; 7] = ["id", "iccid", "status", "smdpAddress", "matchingId", "activationCode", "deliveredAt"];
/// What makes a spreadsheet calculate when it begins a cell; the last four are full-width.
const RUNNING: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '\u{FF1D}', '\u{FF0B}', '\u{FF0D}', '\u{FF20}'];

/// The rows of an export that keeps to RFC 4180, without the header.
fn rows(export: &Reply) -> Vec<Vec<String>> {
    let content = String::from_utf8(export.bytes.clone()).expect("UTF-8");
    assert!(content.starts_with(HEADER), "the header row, without a byte order mark: {content}");
    let mut quoted = false;
    for (position, byte) in content.bytes().enumerate() {
        quoted ^= byte == b'"';
        let breaks = byte == b'\n' && !quoted;
        assert!(!breaks || content[..position].ends_with('\r'), "every row ends with CR LF");
    }
    assert!(content.ends_with("\r\n") && !quoted, "the last row, too");
    let mut reader = csv::ReaderBuilder::new().terminator(csv::Terminator::CRLF).from_reader(content.as_bytes());
    let records = reader.records().map(|record| record.expect("a well-formed row of 23 cells"));
    records.map(|record| record.iter().map(str::to_owned).collect()).collect()
}

/// How a value of the API must stand in a cell.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(words) if words.starts_with(RUNNING) => format!("'{words}"),
        Value::String(words) => words.clone(),
        other => other.to_string(),
    }
}

/// The rows of the orders, in their order: one for each eSIM.
fn expected(orders: &[Value]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for order in orders {
        for esim in list(&order["esims"]) {
            let of_order = ORDER_FIELDS.iter().map(|field| cell(&order[*field]));
            rows.push(of_order.chain(ESIM_FIELDS.iter().map(|field| cell(&esim[*field]))).collect());
        }
    }
    rows
}

async fn listed(caller: &Caller, query: &str) -> Vec<Value> {
    list(&caller.get(&format!("/api/tenant/orders?limit=1000{query}")).await.ok(200)["orders"]).clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_has_one_row_for_each_esim_newest_order_first() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("200").await;
    let plans = [
        ("Sandbox: delivers", 2),
        ("Sandbox: refuses", 1),
        ("Sandbox: partial", 3),
        ("Sandbox: unknown", 2),
        ("Sandbox: delivers", 1),
    ];
    for (number, (name, quantity)) in plans.into_iter().enumerate() {
        let mut body = json!({"items": [{"planId": partner.plan(name).await, "quantity": quantity}]});
        if number != 1 {
            body["email"] = json!(format!("customer{number}@customer.example"));
            body["customerName"] = json!("Zo\u{EB} \"Z\" O'Brien, \u{738B}");
            body["phone"] = json!("(030) 123-45.67");
            body["reference"] = json!(format!("PO {number}; 1/2"));
        }
        let wait = if name == "Sandbox: unknown" { 0 } else { 20 };
        let data = partner.post(&format!("{CHECKOUT}?wait={wait}"), body).await.ok(201);
        if number == 4 {
            let path = format!("/api/tenant/orders/{}/cancel?wait=20", only_order(&data));
            partner.post(&path, json!({})).await.ok(202);
        }
        stage.clock.advance(1_000);
    }
    let export = partner.get(EXPORT).await;
    assert_eq!(export.status, 200);
    let kind = export.header("content-type").to_ascii_lowercase();
    assert!(kind.starts_with("text/csv") && kind.contains("charset=utf-8"), "{kind}");
    let disposition = export.header("content-disposition");
    assert!(disposition.starts_with("attachment") && disposition.contains(".csv"), "{disposition}");
    let found = rows(&export);
    assert_eq!(found.len(), 9);
    assert_eq!(found, expected(&listed(&partner, "").await));
    let statuses: BTreeSet<&str> = found.iter().map(|row| row[4].as_str()).collect();
    let all = ["cancelled", "completed", "failed", "partially_completed", "processing"];
    assert_eq!(statuses, BTreeSet::from(all));
    let of_esims: BTreeSet<&str> = found.iter().map(|row| row[18].as_str()).collect();
    assert_eq!(of_esims, BTreeSet::from(["cancelled", "delivered", "failed", "pending"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_of_nothing_is_the_header_row() {
    let stage = Stage::start().await;
    let (partner, neighbour) = (stage.partner_with("100").await, stage.partner().await);
    let plan = partner.plan("Sandbox: delivers").await;
    partner.buy(&plan, 1).await;
    assert_eq!(neighbour.get(EXPORT).await.text(), HEADER, "another tenant's orders are not in it");
    assert_eq!(partner.get(&format!("{EXPORT}?status=failed")).await.text(), HEADER);
    assert_eq!(rows(&partner.get(EXPORT).await).len(), 1);
    stage.stranger().get(EXPORT).await.refused(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_takes_the_filters_of_the_list() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("200").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let refuses = partner.plan("Sandbox: refuses").await;
    for number in 0..6 {
        let body = json!({
            "items": [{"planId": if number % 3 == 0 { &refuses } else { &plan }, "quantity": 2}],
            "email": format!("customer{}@customer.example", number % 2), "reference": format!("PO-{number}")
        });
        partner.post(&format!("{CHECKOUT}?wait=20"), body).await.ok(201);
        stage.clock.advance(1_000);
    }
    let all = listed(&partner, "").await;
    let (second, fourth) = (encoded(text(&all[4]["createdAt"])), encoded(text(&all[2]["createdAt"])));
    let queries = [
        ("&status=failed".to_owned(), 2),
        (format!("&from={second}"), 5),
        (format!("&to={second}"), 1),
        (format!("&from={second}&to={fourth}"), 2),
        ("&email=CUSTOMER1%40customer.example".to_owned(), 3),
        (format!("&iccid={}", text(&all[0]["esims"][1]["iccid"])), 1),
        ("&reference=po-3".to_owned(), 1),
        (format!("&planId={plan}"), 4),
        ("&q=po-".to_owned(), 6),
        (format!("&q={}", text(&all[5]["orderNumber"])), 1),
        (format!("&planId={plan}&email=customer1%40customer.example&from={second}"), 2),
    ];
    for (query, orders) in queries {
        let expected_orders = listed(&partner, &query).await;
        assert_eq!(expected_orders.len(), orders, "{query}");
        let export = partner.get(&format!("{EXPORT}?{}", &query[1..])).await;
        assert_eq!(rows(&export), expected(&expected_orders), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_cells_never_run_as_formulas() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("400").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let basket = json!([{"planId": plan, "quantity": 1}]);
    let mut taken = BTreeSet::new();
    for first in RUNNING {
        for rest in ["1+1", "HYPERLINK(\"https://example.com\",\"x\")", "cmd|' /C calc'!A0", ""] {
            let words = format!("{first}{rest}");
            let body = json!({"items": basket, "customerName": words, "reference": words});
            let reply = partner.post(CHECKOUT, body).await;
            if first.is_control() && reply.status == 422 {
                // A control character may be refused as well as made harmless.
                reply.refused(422, "validation_failed");
                continue;
            }
            let id = only_order(&reply.ok(201));
            let stored = order(&partner, &id).await;
            if !first.is_control() {
                assert_eq!(
                    (text(&stored["customerName"]), text(&stored["reference"])),
                    (words.as_str(), words.as_str())
                );
            }
            taken.insert(id);
        }
    }
    // 8 printable signs, 4 texts each.
    assert!(taken.len() >= 32, "{} orders", taken.len());
    for (field, value) in [
        ("phone", "+49 30 1234567"),
        ("phone", "-1234567"),
        ("phone", "(030) 1234567"),
        ("email", "+tag@customer.example"),
        ("email", "-tag@customer.example"),
        ("email", "=1+1@customer.example"),
        ("customerName", " =1+1"),
        ("customerName", "'=1+1"),
        ("customerName", "a\",=1+1,\"b"),
        ("customerName", "Anna =1+1"),
        ("customerName", "a\r\n=1+1"),
    ] {
        let mut body = json!({"items": basket});
        body[field] = json!(value);
        let reply = partner.post(CHECKOUT, body).await;
        let may_be_refused = field == "email" || value.contains('\n');
        if may_be_refused && reply.status == 422 {
            continue;
        }
        taken.insert(only_order(&reply.ok(201)));
    }
    for id in &taken {
        // So that what is compared below does not change meanwhile.
        partner.get(&format!("/api/tenant/orders/{id}?wait=30")).await.ok(200);
    }
    let found = rows(&partner.get(EXPORT).await);
    assert_eq!(found.len(), taken.len(), "a line break or a quote in a cell begins no new row");
    for (found, expected) in found.iter().zip(expected(&listed(&partner, "").await)) {
        assert_eq!(*found, expected);
    }
    for row in &found {
        for cell in row {
            assert!(!cell.starts_with(RUNNING), "{cell:?} would run");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_is_whole_however_long_it_is() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("10000").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let five_hundred = json!({"items": vec![json!({"planId": plan, "quantity": 100}); 5]});
    let mut ids = Vec::new();
    for _ in 0..4 {
        let data = partner.post(CHECKOUT, five_hundred.clone()).await.ok(201);
        ids.push(column(&data["orders"], "id").into_iter().map(str::to_owned).collect::<BTreeSet<String>>());
        stage.clock.advance(1_000);
    }
    let found = rows(&partner.get(EXPORT).await);
    assert_eq!(found.len(), 2_000);
    assert_eq!(found.iter().map(|row| row[16].as_str()).collect::<BTreeSet<&str>>().len(), 2_000, "each eSIM once");
    for (part, checkout) in found.chunks(500).zip(ids.iter().rev()) {
        assert!(part.iter().all(|row| checkout.contains(&row[0])), "newest first");
    }
    let order_ids: Vec<String> = found.iter().step_by(100).map(|row| row[0].clone()).collect();
    let listed = listed(&partner, "").await;
    let list_ids: Vec<&str> = listed.iter().map(|row| text(&row["id"])).collect();
    assert_eq!(order_ids, list_ids, "in the order of the list");
}
