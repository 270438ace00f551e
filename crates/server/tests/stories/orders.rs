//! Orders: found by every filter, listed page by page while new ones arrive, followed until they are final,
//! and given back as far as the upstream takes them back.

use crate::stage::{Caller, Partner, Stage};
use crate::telling::{
    CHECKOUT, cents, column, encoded, list, millis, only_order, order, passing, sales, settled, text, timed,
    transactions,
};
use serde_json::{Value, json};

const ORDERS: &str = "/api/tenant/orders";
const UNKNOWN_ID: &str = "01930000-0000-7000-8000-000000000000";

/// The ids of the orders a query finds, in the order of the list.
async fn found(caller: &Caller, query: &str) -> Vec<String> {
    let data = caller.get(&format!("{ORDERS}?{query}")).await.ok(200);
    column(&data["orders"], "id").into_iter().map(str::to_owned).collect()
}

async fn cancel(caller: &Caller, id: &str, body: Value) -> Value {
    caller.post(&format!("{ORDERS}/{id}/cancel?wait=20"), body).await.ok(202)["order"].clone()
}

/// What was given back for the order, in cents, by the transactions.
async fn refunded(caller: &Caller, id: &str) -> i64 {
    let rows = transactions(caller).await;
    rows.iter().filter(|row| row["type"] == "refund" && row["orderId"] == id).map(|row| cents(&row["amount"])).sum()
}

fn esim_ids(order: &Value) -> Vec<String> {
    column(&order["esims"], "id").into_iter().map(str::to_owned).collect()
}

/// A partner with five orders, a minute apart: `a` completed, `b` failed, `c` partially completed, `d`
/// still processing, `e` completed without any details.
struct Shelf {
    partner: Partner,
    orders: Vec<Value>,
}

impl Shelf {
    async fn filled(stage: &Stage) -> Self {
        let partner = stage.partner_with("1000").await;
        let lines = [
            ("Sandbox: delivers", 1, Some(("anna@customer.example", "ABC-1"))),
            ("Sandbox: refuses", 1, Some(("Anna@Customer.example", "ABC-2"))),
            ("Sandbox: partial", 2, Some(("ben@customer.example", "abc-10"))),
            ("Sandbox: unknown", 1, Some(("ben@customer.example", "XYZ"))),
            ("Sandbox: delivers", 2, None),
        ];
        let mut orders = Vec::new();
        for (name, quantity, details) in lines {
            let mut body = json!({"items": [{"planId": partner.plan(name).await, "quantity": quantity}]});
            if let Some((email, reference)) = details {
                body["email"] = json!(email);
                body["reference"] = json!(reference);
            }
            // Nobody moves the clock while waiting, so the one that never ends must not be waited for.
            let wait = if name == "Sandbox: unknown" { 0 } else { 20 };
            let data = partner.post(&format!("{CHECKOUT}?wait={wait}"), body).await.ok(201);
            orders.push(data["orders"][0].clone());
            stage.clock.advance(60_000);
        }
        Self { partner, orders }
    }

    fn field(&self, order: usize, name: &str) -> String {
        encoded(text(&self.orders[order][name]))
    }

    fn iccid(&self, order: usize, esim: usize) -> String {
        text(&self.orders[order]["esims"][esim]["iccid"]).to_owned()
    }

    /// Asserts that the query finds exactly these orders, newest first.
    async fn finds(&self, query: &str, expected: &[usize]) {
        let ids: Vec<&str> = expected.iter().rev().map(|index| text(&self.orders[*index]["id"])).collect();
        assert_eq!(found(&self.partner, query).await, ids, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_listed_newest_first_without_timeline() {
    let stage = Stage::start().await;
    let shelf = Shelf::filled(&stage).await;
    let data = shelf.partner.get(ORDERS).await.ok(200);
    assert!(data.as_object().unwrap().contains_key("nextCursor") && data["nextCursor"].is_null());
    let ids: Vec<&str> = shelf.orders.iter().rev().map(|order| text(&order["id"])).collect();
    assert_eq!(column(&data["orders"], "id"), ids);
    let statuses = ["completed", "processing", "partially_completed", "failed", "completed"];
    assert_eq!(column(&data["orders"], "status"), statuses);
    for row in list(&data["orders"]) {
        assert!(row.get("timeline").is_none(), "{row}");
        let mut detail = order(&shelf.partner, text(&row["id"])).await;
        detail.as_object_mut().unwrap().remove("timeline").expect("the detail has it");
        assert_eq!(&detail, row, "a row is the order, but for the timeline");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_found_by_every_filter_alone() {
    let stage = Stage::start().await;
    let shelf = Shelf::filled(&stage).await;
    for (status, expected) in [
        ("completed", vec![0, 4]),
        ("failed", vec![1]),
        ("partially_completed", vec![2]),
        ("processing", vec![3]),
        ("cancelled", vec![]),
    ] {
        shelf.finds(&format!("status={status}"), &expected).await;
    }
    shelf.finds(&format!("from={}", shelf.field(1, "createdAt")), &[1, 2, 3, 4]).await;
    shelf.finds(&format!("to={}", shelf.field(1, "createdAt")), &[0]).await;
    shelf.finds(&format!("from={0}&to={0}", shelf.field(1, "createdAt")), &[]).await;
    let (second, fourth) = (shelf.field(1, "createdAt"), shelf.field(3, "createdAt"));
    shelf.finds(&format!("from={second}&to={fourth}"), &[1, 2]).await;
    for email in ["anna@customer.example", "ANNA@CUSTOMER.EXAMPLE"] {
        shelf.finds(&format!("email={}", encoded(email)), &[0, 1]).await;
    }
    shelf.finds("email=anna%40customer.exampl", &[]).await;
    shelf.finds(&format!("iccid={}", shelf.iccid(0, 0)), &[0]).await;
    shelf.finds(&format!("iccid={}", shelf.iccid(4, 1)), &[4]).await;
    shelf.finds(&format!("iccid={}", &shelf.iccid(4, 1)[..18]), &[]).await;
    for reference in ["ABC-1", "abc-1"] {
        shelf.finds(&format!("reference={reference}"), &[0]).await;
    }
    shelf.finds("reference=ABC", &[]).await;
    shelf.finds(&format!("planId={}", shelf.field(0, "planId")), &[0, 4]).await;
    shelf.finds(&format!("planId={}", shelf.field(2, "planId")), &[2]).await;
    shelf.finds(&format!("planId={UNKNOWN_ID}"), &[]).await;
    shelf.finds("status=&from=&to=&email=&iccid=&reference=&planId=&q=", &[0, 1, 2, 3, 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_found_by_the_beginning_of_what_staff_know() {
    let stage = Stage::start().await;
    let shelf = Shelf::filled(&stage).await;
    let number = shelf.field(3, "orderNumber");
    shelf.finds(&format!("q={number}"), &[3]).await;
    shelf.finds(&format!("q={}", &number[..number.len() - 1]), &[0, 1, 2, 3, 4]).await;
    shelf.finds("q=abc-1", &[0, 2]).await;
    shelf.finds("q=ABC-10", &[2]).await;
    shelf.finds("q=anna%40", &[0, 1]).await;
    shelf.finds("q=ANNA%40CUSTOMER.EXAMPLE", &[0, 1]).await;
    shelf.finds(&format!("q={}", shelf.iccid(4, 1)), &[4]).await;
    shelf.finds(&format!("q={}", &shelf.iccid(4, 1)[..18]), &[4]).await;
    // The beginning, not the middle; and nothing is a wildcard.
    for nothing in ["bc-1", "customer.example", "000001", "%25", "_", "*", "ABC_1", "anna%25", "%F0%9F%92%A9"] {
        shelf.finds(&format!("q={nothing}"), &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_must_pass_all_filters_at_once() {
    let stage = Stage::start().await;
    let shelf = Shelf::filled(&stage).await;
    shelf.finds("status=completed&email=anna%40customer.example", &[0]).await;
    shelf.finds("status=processing&email=ben%40customer.example", &[3]).await;
    shelf.finds("q=abc&status=failed", &[1]).await;
    shelf.finds("q=abc&reference=ABC-2", &[1]).await;
    let (third, plan) = (shelf.field(2, "createdAt"), shelf.field(2, "planId"));
    shelf.finds(&format!("from={third}&email=ben%40customer.example"), &[2, 3]).await;
    shelf.finds(&format!("from={third}&email=ben%40customer.example&planId={plan}"), &[2]).await;
    shelf.finds(&format!("to={third}&planId={}", shelf.field(0, "planId")), &[0]).await;
    shelf.finds(&format!("iccid={}&status=failed", shelf.iccid(0, 0)), &[]).await;
    shelf.finds(&format!("iccid={}&reference=ABC-2", shelf.iccid(0, 0)), &[]).await;
    let everything_of_the_first = format!(
        "status=completed&from={}&to={}&email={}&iccid={}&reference=abc-1&planId={}&q={}",
        shelf.field(0, "createdAt"),
        shelf.field(1, "createdAt"),
        shelf.field(0, "email"),
        shelf.iccid(0, 0),
        shelf.field(0, "planId"),
        shelf.field(0, "orderNumber"),
    );
    shelf.finds(&everything_of_the_first, &[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_tell_the_faults_of_the_filters() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    for path in [ORDERS.to_owned(), format!("{ORDERS}/export")] {
        for (query, fault) in [
            ("status=lost", "status not_in_list"),
            ("from=yesterday", "from malformed"),
            ("to=2026-13-01T00:00:00Z", "to malformed"),
            ("from=2026-11-18T11:06:40", "from malformed"),
            ("orderStatus=failed", "orderStatus unknown_field"),
        ] {
            assert_eq!(partner.get(&format!("{path}?{query}")).await.faults(), [fault], "{path} {query}");
        }
        let faults = partner.get(&format!("{path}?planId=nonsense")).await.faults();
        assert!(faults.len() == 1 && faults[0].starts_with("planId "), "{faults:?}");
    }
    for (query, fault) in [
        ("limit=0", "limit out_of_range"),
        ("limit=1001", "limit out_of_range"),
        ("cursor=nonsense", "cursor malformed"),
    ] {
        assert_eq!(partner.get(&format!("{ORDERS}?{query}")).await.faults(), [fault], "{query}");
    }
    let several = partner.get(&format!("{ORDERS}?status=x&limit=0&typo=1")).await.faults();
    assert_eq!(several, ["limit out_of_range", "status not_in_list", "typo unknown_field"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_come_page_by_page_while_new_ones_arrive() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("1000").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let other = partner.plan("Sandbox: keeps").await;
    let mut bought = Vec::new();
    for number in 0..14 {
        // Every second one is of another plan, so that the filtered list has gaps.
        let data = partner.buy(if number % 2 == 0 { &plan } else { &other }, 1).await;
        bought.push(only_order(&data));
    }
    bought.reverse();
    let by_filter = [
        (String::new(), bought.clone()),
        (format!("&planId={plan}"), bought.iter().skip(1).step_by(2).cloned().collect()),
        ("&status=completed".to_owned(), bought.clone()),
    ];
    for (filter, expected) in by_filter {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        let mut arrived = Vec::new();
        loop {
            let page = partner.get(&format!("{ORDERS}?limit=3{filter}{cursor}")).await.ok(200);
            let ids = column(&page["orders"], "id");
            assert!(!ids.is_empty() && ids.len() <= 3, "{} rows", ids.len());
            seen.extend(ids.into_iter().map(str::to_owned));
            pages += 1;
            let Some(next) = page["nextCursor"].as_str() else { break };
            cursor = format!("&cursor={}", encoded(next));
            arrived.push(only_order(&partner.buy(&plan, 1).await));
        }
        let own: Vec<String> = seen.iter().filter(|id| expected.contains(id)).cloned().collect();
        assert_eq!(own, expected, "none skipped, none repeated, newest first: {filter}");
        assert!(pages >= 3 && !arrived.is_empty());
        assert!(arrived.iter().all(|id| !seen.contains(id)), "what arrives later is not in the middle: {filter}");
        let fresh = found(&partner, &format!("limit=1{filter}")).await;
        assert_eq!(fresh, [arrived.last().unwrap().clone()], "a new list begins with the newest: {filter}");
        // What arrived is given back, so that the next round finds the same completed orders again.
        for id in &arrived {
            assert_eq!(cancel(&partner, id, json!({})).await["status"], "cancelled");
        }
        assert_eq!(found(&partner, "status=completed&limit=1000").await, bought);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_come_by_the_hundred_unless_asked_otherwise() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("1000").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let fifty = json!({"items": vec![json!({"planId": plan, "quantity": 1}); 50]});
    partner.post(CHECKOUT, fifty.clone()).await.ok(201);
    partner.post(CHECKOUT, fifty).await.ok(201);
    let all = found(&partner, "limit=1000").await;
    assert_eq!(all.len(), 100);
    assert!(partner.get(ORDERS).await.ok(200)["nextCursor"].is_null(), "exactly a hundred is the end");
    let newest = only_order(&partner.post(CHECKOUT, json!({"items": [{"planId": plan, "quantity": 1}]})).await.ok(201));
    let first = partner.get(ORDERS).await.ok(200);
    let ids = column(&first["orders"], "id");
    assert_eq!((ids.len(), ids[0]), (100, newest.as_str()));
    let next = encoded(text(&first["nextCursor"]));
    assert_eq!(found(&partner, &format!("cursor={next}")).await, all[99..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_shows_its_esims_and_what_happened_to_it() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let bought = partner.buy(&plan, 3).await["orders"][0].clone();
    let order = order(&partner, text(&bought["id"])).await;
    let fields = [
        "id",
        "checkoutId",
        "orderNumber",
        "mode",
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
        "createdAt",
        "completedAt",
        "failureReason",
        "esims",
        "timeline",
    ];
    for field in fields {
        assert!(order.get(field).is_some(), "{field} is left out: {order}");
    }
    assert_eq!(order["esims"], bought["esims"]);
    let fields = [
        "id",
        "iccid",
        "status",
        "profileStatus",
        "planStatus",
        "smdpAddress",
        "matchingId",
        "activationCode",
        "confirmationCode",
        "qrCodeUrl",
        "installUrl",
        "appleInstallUrl",
        "androidInstallUrl",
        "apn",
        "msisdn",
        "pin",
        "puk",
        "installBy",
        "deliveredAt",
    ];
    for esim in list(&order["esims"]) {
        for field in fields {
            assert!(esim.get(field).is_some(), "{field} is left out: {esim}");
        }
        assert_eq!((text(&esim["status"]), text(&esim["profileStatus"])), ("delivered", "released"));
        assert_eq!(text(&esim["planStatus"]), "not_active");
        let (host, matching) = (text(&esim["smdpAddress"]), text(&esim["matchingId"]));
        let code = text(&esim["activationCode"]);
        let bare = format!("LPA:1${host}${matching}");
        let flagged = format!("{bare}$$1");
        assert_eq!(code, if esim["confirmationCode"].is_null() { bare } else { flagged });
        assert!(millis(&esim["deliveredAt"]) >= millis(&order["createdAt"]));
        assert!(millis(&esim["installBy"]) > millis(&esim["deliveredAt"]));
        let data = encoded(code);
        for (field, host) in
            [("appleInstallUrl", "esimsetup.apple.com"), ("androidInstallUrl", "esimsetup.android.com")]
        {
            let link = format!("https://{host}/esim_qrcode_provisioning?carddata={data}");
            assert_eq!(text(&esim[field]), link);
        }
    }
    let timeline = list(&order["timeline"]);
    assert!(timeline.len() >= 2, "bought and delivered: {order}");
    let mut last = millis(&order["createdAt"]);
    for entry in timeline {
        assert!(!text(&entry["event"]).is_empty() && entry.get("detail").is_some(), "{entry}");
        assert!(millis(&entry["at"]) >= last, "in the order of time: {order}");
        last = millis(&entry["at"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_of_nobody_is_not_found() {
    let stage = Stage::start().await;
    let (partner, neighbour) = (stage.partner_with("100").await, stage.partner().await);
    let plan = partner.plan("Sandbox: delivers").await;
    let id = only_order(&partner.buy(&plan, 1).await);
    let unknown = neighbour.get(&format!("{ORDERS}/{UNKNOWN_ID}")).await;
    unknown.refused(404, "not_found");
    for path in [id.clone(), "nonsense".to_owned(), id.to_uppercase().replace('-', ""), format!("{id}0")] {
        assert_eq!(neighbour.get(&format!("{ORDERS}/{path}")).await.text(), unknown.text(), "{path}");
        let cancelled = neighbour.post(&format!("{ORDERS}/{path}/cancel"), json!({})).await;
        cancelled.refused(404, "not_found");
    }
    assert_eq!(order(&partner, &id).await["status"], "completed");
    assert_eq!(partner.balance().await, "95.5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_waited_for_until_it_is_final() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let slow = partner.plan("Sandbox: answer lost").await;
    let id = only_order(&partner.post(CHECKOUT, json!({"items": [{"planId": slow, "quantity": 1}]})).await.ok(201));
    let path = format!("{ORDERS}/{id}?wait=30");
    let data = passing(&stage, 20, partner.get(&path)).await.ok(200);
    assert_eq!(data["order"]["status"], "completed");
    // Final already: answered at once, though nobody moves the clock.
    assert_eq!(partner.get(&path).await.ok(200)["order"], data["order"]);

    let unknown = partner.plan("Sandbox: unknown").await;
    let id = only_order(&partner.post(CHECKOUT, json!({"items": [{"planId": unknown, "quantity": 1}]})).await.ok(201));
    let path = format!("{ORDERS}/{id}?wait=3");
    let (reply, passed) = timed(&stage, 20, partner.get(&path)).await;
    assert_eq!(reply.ok(200)["order"]["status"], "processing");
    assert!((3_000..30_000).contains(&passed), "answered after {passed} ms");
    assert_eq!(partner.get(&format!("{ORDERS}/{id}?wait=31")).await.faults(), ["wait out_of_range"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_cancel_gives_everything_back() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let id = only_order(&partner.buy(&plan, 2).await);
    let asked = partner.post(&format!("{ORDERS}/{id}/cancel"), json!({})).await.ok(202);
    for status in column(&asked["order"]["esims"], "status") {
        assert!(["cancelling", "cancelled"].contains(&status), "{status}");
    }
    // Nobody waits through the API here: the change must come by itself.
    let mut detail = order(&partner, &id).await;
    for _ in 0..10_000 {
        if !column(&detail["esims"], "status").contains(&"cancelling") {
            break;
        }
        detail = order(&partner, &id).await;
    }
    assert_eq!(detail["status"], "cancelled");
    assert_eq!(column(&detail["esims"], "status"), ["cancelled", "cancelled"]);
    assert_eq!(detail["refundedAmount"].to_string(), "9");
    assert_eq!(partner.balance().await, "100");
    assert_eq!(refunded(&partner, &id).await, 900);
    assert_eq!(found(&partner, "status=cancelled").await, std::slice::from_ref(&id));
    assert_eq!(found(&partner, "status=completed").await, Vec::<String>::new());
    let sold = sales(&stage.operator().await, &id).await;
    assert_eq!(sold.len(), 1);
    assert!(!sold[0]["cancelledAt"].is_null(), "the upstream took it back: {}", sold[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_cancel_needs_no_body() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let id = only_order(&partner.buy(&plan, 1).await);
    let request = partner
        .request(reqwest::Method::POST, &format!("{ORDERS}/{id}/cancel?wait=20"))
        .header("content-type", "application/json");
    let data = partner.send(request).await.ok(202);
    assert_eq!(data["order"]["status"], "cancelled");
    assert_eq!(partner.balance().await, "100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_cancel_of_some_esims_leaves_the_others() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let bought = partner.buy(&plan, 3).await["orders"][0].clone();
    let (id, esims) = (text(&bought["id"]), esim_ids(&bought));
    let after = cancel(&partner, id, json!({"esimIds": [esims[1]]})).await;
    assert_eq!(after["status"], "completed", "what is left is delivered");
    assert_eq!(column(&after["esims"], "status"), ["delivered", "cancelled", "delivered"]);
    assert_eq!(after["refundedAmount"].to_string(), "4.5");
    assert_eq!((partner.balance().await, refunded(&partner, id).await), ("91".to_owned(), 450));
    assert_eq!(esim_ids(&after), esims, "none disappears");
    let operator = stage.operator().await;
    assert!(sales(&operator, id).await[0]["cancelledAt"].is_null());

    let after = cancel(&partner, id, json!({"esimIds": [esims[0], esims[2]]})).await;
    assert_eq!(after["status"], "cancelled", "all that was delivered was taken back");
    assert_eq!(column(&after["esims"], "status"), ["cancelled", "cancelled", "cancelled"]);
    assert_eq!(after["refundedAmount"].to_string(), "13.5");
    assert_eq!((partner.balance().await, refunded(&partner, id).await), ("100".to_owned(), 1_350));
    assert!(!sales(&operator, id).await[0]["cancelledAt"].is_null());
    let newest = transactions(&partner).await[0].clone();
    assert_eq!((text(&newest["type"]), text(&newest["orderId"])), ("refund", id));
    assert_eq!(newest["balanceAfter"].to_string(), "100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_cancel_while_processing_is_refused() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: slow").await;
    let data = partner.post(CHECKOUT, json!({"items": [{"planId": plan, "quantity": 2}]})).await.ok(201);
    let (id, esims) = (only_order(&data), esim_ids(&data["orders"][0]));
    let path = format!("{ORDERS}/{id}/cancel");
    for body in [json!({}), json!({"esimIds": [esims[0]]})] {
        partner.post(&path, body).await.refused(409, "not_cancellable");
    }
    let unchanged = order(&partner, &id).await;
    assert_eq!(column(&unchanged["esims"], "status"), ["pending", "pending"]);
    assert_eq!((partner.balance().await, refunded(&partner, &id).await), ("91".to_owned(), 0));
    assert_eq!(settled(&stage, &partner, &id).await["status"], "completed");
    assert_eq!(cancel(&partner, &id, json!({})).await["status"], "cancelled");
    assert_eq!(partner.balance().await, "100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_cancel_follows_what_the_upstream_takes_back() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let keeps = partner.plan("Sandbox: keeps").await;
    let id = only_order(&partner.buy(&keeps, 2).await);
    let after = cancel(&partner, &id, json!({})).await;
    assert_eq!(after["status"], "completed");
    for esim in list(&after["esims"]) {
        assert_eq!(esim["status"], "delivered", "it went back");
        assert!(!text(&esim["cancelFailure"]).is_empty());
        assert!(!esim["activationCode"].is_null());
    }
    assert_eq!(after["refundedAmount"].to_string(), "0");
    assert_eq!((partner.balance().await, refunded(&partner, &id).await), ("91".to_owned(), 0));

    // What a traveller has installed is not taken back either; its neighbour is.
    let plan = partner.plan("Sandbox: delivers").await;
    let bought = partner.buy(&plan, 2).await["orders"][0].clone();
    let (id, iccid) = (text(&bought["id"]), text(&bought["esims"][0]["iccid"]));
    let operator = stage.operator().await;
    operator.post(&format!("/api/operator/sandbox/esims/{iccid}/install"), json!({})).await.ok(200);
    let after = cancel(&partner, id, json!({})).await;
    assert_eq!(after["status"], "completed");
    assert!(!text(&after["esims"][0]["cancelFailure"]).is_empty());
    assert_ne!(after["esims"][0]["status"], "cancelled");
    assert_eq!(after["esims"][1]["status"], "cancelled");
    assert_eq!(after["refundedAmount"].to_string(), "4.5");
    assert_eq!((partner.balance().await, refunded(&partner, id).await), ("86.5".to_owned(), 450));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_cancel_after_a_partial_delivery_gives_the_rest_back() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: partial").await;
    let bought = partner.buy(&plan, 3).await["orders"][0].clone();
    let id = text(&bought["id"]);
    assert_eq!((text(&bought["status"]), partner.balance().await), ("partially_completed", "91".to_owned()));
    let after = cancel(&partner, id, json!({})).await;
    assert_eq!(after["status"], "cancelled");
    assert_eq!(column(&after["esims"], "status"), ["cancelled", "cancelled", "failed"]);
    assert_eq!(after["refundedAmount"], after["totalAmount"]);
    assert_eq!((partner.balance().await, refunded(&partner, id).await), ("100".to_owned(), 1_350));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_cancel_asked_for_often_refunds_once() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let bought = partner.buy(&plan, 4).await["orders"][0].clone();
    let (id, esims) = (text(&bought["id"]).to_owned(), esim_ids(&bought));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40 {
        let (caller, path) = (partner.caller.clone(), format!("{ORDERS}/{id}/cancel?wait=20"));
        let body = if number % 2 == 0 { json!({}) } else { json!({"esimIds": [esims[number % 4]]}) };
        tasks.spawn(async move { caller.post(&path, body).await });
    }
    for reply in tasks.join_all().await {
        assert!([202, 409].contains(&reply.status), "{}", reply.text());
    }
    let after = order(&partner, &id).await;
    assert_eq!((text(&after["status"]), after["refundedAmount"].to_string()), ("cancelled", "18".to_owned()));
    assert_eq!((partner.balance().await, refunded(&partner, &id).await), ("100".to_owned(), 1_800));

    // Nor does it pay to ask for what failed, or was taken back, once more.
    let refuses = partner.plan("Sandbox: refuses").await;
    let failed = only_order(&partner.buy(&refuses, 1).await);
    for order in [&id, &failed] {
        let reply = partner.post(&format!("{ORDERS}/{order}/cancel?wait=20"), json!({})).await;
        assert!([202, 409].contains(&reply.status), "{}", reply.text());
    }
    assert_eq!((partner.balance().await, refunded(&partner, &failed).await), ("100".to_owned(), 450));
    assert_eq!(order(&partner, &failed).await["status"], "failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_cancel_takes_only_esims_of_the_order() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let mine = partner.buy(&plan, 1).await["orders"][0].clone();
    let other = partner.buy(&plan, 1).await["orders"][0].clone();
    let path = format!("{ORDERS}/{}/cancel?wait=20", text(&mine["id"]));
    for (body, expected) in [
        (json!({"esimIds": "all"}), "esimIds wrong_type"),
        (json!({"esimIds": [5]}), "esimIds[0] wrong_type"),
        (json!({"esims": []}), "esims unknown_field"),
    ] {
        assert_eq!(partner.post(&path, body.clone()).await.faults(), [expected], "{body}");
    }
    let own = esim_ids(&mine)[0].clone();
    for foreign in [esim_ids(&other)[0].clone(), UNKNOWN_ID.to_owned(), "nonsense".to_owned()] {
        let reply = partner.post(&path, json!({"esimIds": [own, foreign]})).await;
        assert!([404, 409, 422].contains(&reply.status), "{foreign}: {}", reply.text());
    }
    for order_before in [&mine, &other] {
        let now = order(&partner, text(&order_before["id"])).await;
        assert_eq!((&now["status"], &now["esims"]), (&order_before["status"], &order_before["esims"]));
    }
    assert_eq!(partner.balance().await, "91");
}
