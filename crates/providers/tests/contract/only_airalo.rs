//! What only Airalo has: tokens that are few, orders that are told later, refunds that are asked for, and clients of
//! the vendor's that write their bodies in every way.

use crate::cases;
use crate::stage::{BALANCE_CENTS, DELAY_MS, Stage};
use domain::fulfilment::{LookUp, Outcome};
use providers::Purchase;
use providers::callback::{About, Callback, CallbackRefusal};
use providers::sandbox::{DELIVERS, PARTIAL, REFUSES};
use providers::simulator::{Fault, Planned, Said};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

const DAY_MS: i64 = 86_400_000;

/// A client other people wrote.
struct Stranger {
    client: Client,
    base_url: String,
    token: String,
}

impl Stranger {
    async fn of(stage: &Stage) -> Self {
        let base_url = format!("http://{}/v2/", stage.simulator.address());
        let client = Client::new();
        let form = format!(
            "client_id={}&client_secret={}&grant_type=client_credentials",
            stage.keys.account, stage.keys.secret
        );
        let asked = client.post(format!("{base_url}token")).body(form);
        let asked = asked.header("content-type", "application/x-www-form-urlencoded");
        let told = json_of(asked.send().await.unwrap()).await;
        assert_eq!((&told["data"]["token_type"], &told["meta"]["message"]), (&json!("Bearer"), &json!("success")));
        let token = told["data"]["access_token"].as_str().unwrap().to_owned();
        Self { client, base_url, token }
    }

    fn with_token(&self, request: RequestBuilder) -> RequestBuilder {
        request.header("authorization", format!("Bearer {}", self.token)).header("accept", "application/json")
    }

    async fn get(&self, path: &str) -> Response {
        self.with_token(self.client.get(format!("{}{path}", self.base_url))).send().await.unwrap()
    }

    async fn send(&self, path: &str, media: &str, body: &str, more: &[(&'static str, &str)]) -> Response {
        let mut request = self.client.post(format!("{}{path}", self.base_url));
        request = self.with_token(request).header("content-type", media).body(body.to_owned());
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Response {
        self.send(path, "application/json", &body.to_string(), &[]).await
    }
}

async fn json_of(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// The next callback that is no trial of the address.
async fn told(stage: &mut Stage) -> Callback {
    loop {
        let callback = stage.callback().await;
        if callback.method == "POST" {
            return callback;
        }
    }
}

fn url(stage: &Stage) -> String {
    stage.simulator.shop().callback_url()
}

#[tokio::test]
async fn many_at_once_fetch_one_token() {
    let stage = Stage::of(cases::airalo()).await;
    let asked = (0..12).map(|_| stage.upstream.balance(stage.now()));
    // A fourth token within a minute would be refused.
    for heard in futures_util::future::join_all(asked).await {
        assert!(heard.meaning.is_ok(), "{heard:?}");
    }
}

#[tokio::test]
async fn a_token_is_left_before_its_end_and_when_it_is_refused() {
    let stage = Stage::of(cases::airalo()).await;
    let begin = stage.now();
    assert!(stage.upstream.balance(begin).await.meaning.is_ok());
    stage.advance(DAY_MS);
    // The caller's clock says that it is still good; the service knows better. What was bought then was bought once.
    let placed = stage.upstream.place(begin, stage.purchase("order-1-1", DELIVERS, 1)).await;
    assert!(matches!(placed.meaning, Outcome::Done { .. }), "{placed:?}");
    assert_eq!(stage.sales(), 1);
    stage.advance(DAY_MS - 30_000);
    assert!(stage.upstream.balance(stage.now()).await.meaning.is_ok());
}

#[tokio::test]
async fn without_a_token_nothing_is_sold_and_it_is_tried_later() {
    let stage = Stage::of(cases::airalo()).await;
    for fault in [Fault::ServerError, Fault::CutAfter, Fault::TooManyRequests] {
        stage.simulator.faults().next(fault, "v2/token", 1);
        let placed = stage.upstream.place(stage.now(), stage.purchase("order-1-1", DELIVERS, 1)).await;
        let later = matches!(placed.meaning, Outcome::NotYet(domain::fulfilment::NotYet::TryLater { .. }));
        assert!(later, "{fault:?}: {placed:?}");
        // A failure is held for a while.
        stage.advance(60_000);
    }
    assert_eq!(stage.sales(), 0);
}

#[tokio::test]
async fn the_filter_finds_more_than_the_reference_and_only_the_reference_counts() {
    let stage = Stage::of(cases::airalo()).await;
    let (ten, _) = stage.buy("order-1-10", DELIVERS, 1).await;
    let lost = stage.upstream.look_up(stage.now(), stage.purchase("order-1-1", DELIVERS, 1)).await;
    assert_eq!(lost.meaning, LookUp::NotFound);
    let found = stage.upstream.look_up(stage.now(), stage.purchase("order-1-10", DELIVERS, 1)).await;
    assert_eq!(found.meaning, LookUp::Delivered { profiles: ten });
}

#[tokio::test]
async fn data_that_was_added_is_found_by_its_reference_too() {
    let stage = Stage::of(cases::airalo()).await;
    let plans = stage.simulator.shop().plans();
    let plan = plans.iter().find(|listed| listed.plan.top_up_supported).unwrap().plan.upstream_plan_id.clone();
    let esim = stage.esim("order-1-1", &plan).await;
    let add_on = providers::AddOn {
        reference: "order-2-1".to_owned(),
        esim: esim.clone(),
        upstream_plan_id: format!("{plan}-topup"),
    };
    stage.simulator.faults().next(Fault::CutAfter, "topups", 1);
    let added = stage.upstream.add(stage.now(), add_on).await;
    assert!(matches!(added.meaning, Outcome::Unknown { .. }), "{added:?}");
    let package = format!("{plan}-topup");
    let found = stage.upstream.look_up(stage.now(), stage.purchase("order-2-1", &package, 1)).await;
    assert_eq!(found.meaning, LookUp::Delivered { profiles: Vec::new() });
    assert_eq!(stage.sales(), 2);
    // Whoever waits for an eSIM gets none of it, and none is called missing.
    for order in [None, found.order] {
        let purchase = Purchase { order, ..stage.purchase("order-2-1", &plan, 1) };
        let found = stage.upstream.look_up(stage.now(), purchase).await.meaning;
        assert!(matches!(found, LookUp::CannotTell { .. }), "{found:?}");
    }
    // One that was bought under the same number is found beside it.
    let (bought, _) = stage.buy("order-2-1", &plan, 1).await;
    let found = stage.upstream.look_up(stage.now(), stage.purchase("order-2-1", &plan, 1)).await;
    assert_eq!(found.meaning, LookUp::Delivered { profiles: bought });
}

#[tokio::test]
async fn only_published_refusals_are_believed() {
    let stage = Stage::of(cases::airalo()).await;
    let mut purchase = stage.purchase("order-1-1", DELIVERS, 1);
    let complaint = json!({"data": {"quantity": "no"}, "meta": {"message": "the parameter is invalid"}});
    for (status, body, refused) in [
        (422, json!({"code": 11, "reason": "Insufficient Airalo Credit"}), true),
        (422, complaint.clone(), true),
        (400, complaint, false),
        (422, json!({"code": 99, "reason": "new"}), false),
        (404, json!({"code": 34, "reason": "?"}), false),
        (404, json!({"data": [], "meta": {"message": "messages.resource_not_found"}}), false),
        (422, json!({"data": [], "meta": {"message": "?"}}), false),
        (404, json!("<html>"), false),
    ] {
        stage.simulator.faults().say("v2/orders", status, body.clone());
        let placed = stage.upstream.place(stage.now(), purchase.clone()).await.meaning;
        let right = match refused {
            true => matches!(placed, Outcome::Refused { .. }),
            false => matches!(placed, Outcome::Unknown { .. }),
        };
        assert!(right, "{status} {body}: {placed:?}");
    }
    // It was sold all the same, and is found.
    let says = Said { status: 404, body: json!({"code": 99, "reason": "new"}) };
    stage.simulator.faults().plan(Planned { says, ..Planned::once(Fault::DoesAndSays, "v2/orders") });
    let placed = stage.upstream.place(stage.now(), purchase.clone()).await.meaning;
    assert!(matches!(placed, Outcome::Unknown { .. }), "{placed:?}");
    assert_eq!((stage.found(&mut purchase).await.len(), stage.sales()), (1, 1));
}

#[tokio::test]
async fn a_list_that_does_not_come_to_its_end_proves_nothing() {
    let stage = Stage::of(cases::airalo()).await;
    let purchase = stage.purchase("order-1-1", DELIVERS, 1);
    stage.simulator.faults().next(Fault::CutAfter, "v2/orders", 1);
    stage.upstream.place(stage.now(), purchase.clone()).await;
    let other = json!({"id": 9, "type": "sim", "description": "order-1-10", "sims": []});
    for body in [
        json!({"data": [other]}),
        json!({"data": []}),
        json!({"data": [], "meta": {"current_page": 1, "last_page": 2}}),
        json!({"data": [other], "meta": {"current_page": 1, "last_page": 1, "total": 2}}),
        json!({"data": [{"id": 9}], "meta": {"current_page": 1, "last_page": 1, "total": 1}}),
    ] {
        stage.simulator.faults().say("v2/orders?filter", 200, body.clone());
        let found = stage.upstream.look_up(stage.now(), purchase.clone()).await.meaning;
        assert!(matches!(found, LookUp::CannotTell { .. }), "{body}: {found:?}");
    }
    // The service may give fewer on a page than it was asked for.
    let first = json!({"data": [other], "meta": {"current_page": 1, "last_page": 2, "total": 2}});
    let ours = json!({"id": 1, "type": "sim", "description": "order-1-1", "sims": []});
    let second = json!({"data": [ours], "meta": {"current_page": 2, "last_page": 2, "total": 2}});
    stage.simulator.faults().say("v2/orders?filter", 200, first);
    stage.simulator.faults().say("v2/orders?filter", 200, second);
    let found = stage.upstream.look_up(stage.now(), purchase).await.meaning;
    assert!(matches!(found, LookUp::Delivered { .. }), "{found:?}");
}

#[tokio::test]
async fn what_cannot_be_filled_is_refused_whole() {
    let stage = Stage::of(cases::airalo()).await;
    let placed = stage.upstream.place(stage.now(), stage.purchase("order-1-1", PARTIAL, 3)).await;
    let Outcome::Refused { code, message } = placed.meaning else { panic!("{placed:?}") };
    assert_eq!((code.as_str(), message.contains("Available quantity: 2")), ("422", true), "{message}");
    for (package, expected) in [
        ("test-insufficient-balance-7days-1gb", "11"),
        ("test-not-enough-7days-1gb", "33"),
        ("test-out-of-stock-7days-1gb", "34"),
    ] {
        let placed = stage.upstream.place(stage.now(), stage.purchase("order-1-1", package, 1)).await;
        assert!(matches!(&placed.meaning, Outcome::Refused { code, .. } if code == expected), "{placed:?}");
    }
    let placed = stage.upstream.place(stage.now(), stage.purchase("o", "test-maintenance-mode-7days-1gb", 1)).await;
    assert!(matches!(placed.meaning, Outcome::NotYet(_)), "{placed:?}");
    assert_eq!((stage.sales(), stage.simulator.shop().balance_cents()), (0, BALANCE_CENTS));
}

#[tokio::test]
async fn an_order_is_taken_in_every_encoding_with_or_without_a_signature() {
    let stage = Stage::of(cases::airalo()).await;
    let stranger = Stranger::of(&stage).await;
    let sign = |payload: &str| {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA512, stage.keys.secret.as_bytes());
        let sign = aws_lc_rs::hmac::sign(&key, payload.as_bytes());
        sign.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let payload = format!(r#"{{"package_id":"{DELIVERS}","quantity":1,"type":"sim","description":"a\/b \u00e9"}}"#);
    let python =
        format!(r#"{{"package_id": "{DELIVERS}", "quantity": 1, "type": "sim", "description": "a/b \u00e9"}}"#);
    let form = format!("package_id={DELIVERS}&quantity=1&type=sim&description=a%2Fb+%C3%A9");
    let multipart: String = [("package_id", DELIVERS), ("quantity", "1"), ("type", "sim"), ("description", "a/b é")]
        .iter()
        .map(|(name, value)| format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"))
        .collect::<String>()
        + "--x--\r\n";
    let (json, urlencoded) = ("application/json", "application/x-www-form-urlencoded");
    let by_python = sign(&payload.replace("\\u00e9", "é"));
    let signed = sign(&payload);
    let bodies = [
        (json, payload.as_str(), Some(&signed), json!(1)),
        (json, &python, Some(&by_python), json!(1)),
        (urlencoded, &form, Some(&signed), json!("1")),
        ("multipart/form-data; boundary=x", &multipart, None, json!("1")),
    ];
    for (media, body, sign, quantity) in bodies {
        let header = sign.map(|sign| ("airalo-signature", sign.as_str()));
        let response = stranger.send("orders", media, body, header.as_slice()).await;
        assert_eq!(response.status(), StatusCode::OK, "{media} {:?}", response.bytes().await);
        let order = &json_of(response).await["data"];
        assert_eq!((&order["quantity"], &order["description"]), (&quantity, &json!("a/b é")), "{media}");
        let sim = &order["sims"][0];
        let qrcode = format!("LPA:1${}${}", sim["lpa"].as_str().unwrap(), sim["matching_id"].as_str().unwrap());
        assert!(sim["qrcode"].as_str().unwrap().starts_with(&qrcode), "{sim}");
    }
    let forged = stranger.send("orders", json, &payload, &[("airalo-signature", &sign("{}"))]).await;
    assert_eq!(forged.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(json_of(forged).await["code"], 14);
    let many = stranger.post("orders", json!({"package_id": DELIVERS, "quantity": 51, "type": "sim"})).await;
    assert_eq!(json_of(many).await["data"]["quantity"], "The quantity may not be greater than 50.");
    assert_eq!(stage.sales(), 4);
    let listed = json_of(stranger.get("orders?include=sims,status&limit=3").await).await;
    assert_eq!((listed["data"].as_array().unwrap().len(), &listed["meta"]["last_page"]), (3, &json!(2)));
    assert_eq!((&listed["data"][0]["id"], &listed["data"][0]["status"]["slug"]), (&json!(4), &json!("completed")));
}

#[tokio::test]
async fn an_order_that_is_told_later_is_told_with_its_request() {
    let mut stage = Stage::of(cases::airalo()).await;
    let stranger = Stranger::of(&stage).await;
    let order = |package: &str| {
        json!({"package_id": package, "quantity": 2, "type": "sim", "description": "theirs",
               "webhook_url": url(&stage)})
    };
    let (good, bad) = (order(DELIVERS), order(REFUSES));
    let accepted = stranger.post("orders-async", good).await;
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    let request = json_of(accepted).await["data"]["request_id"].as_str().unwrap().to_owned();
    assert_eq!((request.len(), stage.sales()), (25, 1));
    let none = json_of(stranger.get("orders?filter[description]=theirs").await).await;
    assert_eq!(none["data"], json!([]), "it is not done yet");
    stage.advance(DELAY_MS);
    let callback = told(&mut stage).await;
    let body: Value = serde_json::from_slice(&callback.body).unwrap();
    assert_eq!((&body["request_id"], body["sims"].as_array().unwrap().len()), (&json!(request), 2));
    let notice = stage.upstream.read_callback(stage.now(), &callback).unwrap();
    let about = About::Order { order: Some("1".to_owned()), reference: Some("theirs".to_owned()) };
    assert_eq!(notice.about, about);

    let accepted = stranger.post("orders-async", bad).await;
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    let callback = told(&mut stage).await;
    let body: Value = serde_json::from_slice(&callback.body).unwrap();
    assert!(body["reason"].is_string() && body.get("sims").is_none(), "{body}");
    let notice = stage.upstream.read_callback(stage.now(), &callback).unwrap();
    assert_eq!(notice.about, About::Order { order: None, reference: Some("theirs".to_owned()) });
    assert_eq!(stage.sales(), 1);
}

#[tokio::test]
async fn an_address_is_tried_and_then_told_what_it_wants() {
    let mut stage = Stage::of(cases::airalo()).await;
    let stranger = Stranger::of(&stage).await;
    let address = url(&stage);
    let wish = json!({"type": "webhook_credit_limit", "webhook_url": address, "levels": [70]});
    assert_eq!(stranger.post("notifications/opt-in", wish).await.status(), StatusCode::OK);
    let trial = stage.callback().await;
    assert_eq!(trial.method, "HEAD");
    let notice = stage.upstream.read_callback(stage.now(), &trial).unwrap();
    assert_eq!((notice.about, notice.acknowledgement.status), (About::Account, 200));
    let seen = json_of(stranger.get("notifications/opt-in?type=webhook_credit_limit").await).await;
    assert_eq!(seen["data"]["notification"]["contact_point"], address);

    stage.simulator.shop().set_balance(BALANCE_CENTS * 3 / 10 + 1).unwrap();
    stage.buy("order-1-1", DELIVERS, 1).await;
    let callback = told(&mut stage).await;
    let body: Value = serde_json::from_slice(&callback.body).unwrap();
    assert!(body["message"].as_str().unwrap().contains("70%"), "{body}");
    assert_eq!(stage.upstream.read_callback(stage.now(), &callback).unwrap().about, About::Account);

    for (kind, level) in [("data_75", "75%"), ("data_90", "90%"), ("expire_3", "3days"), ("expire_1", "1days")] {
        let wish = json!({"event": "low_data_notification", "type": kind, "iccid": "8997212330099025334"});
        let sent = stranger.post("simulator/webhook", wish).await;
        assert_eq!(json_of(sent).await, json!({"success": "Notification sent"}));
        let callback = told(&mut stage).await;
        let body: Value = serde_json::from_slice(&callback.body).unwrap();
        assert_eq!(body["level"], level);
        let esim = About::Esim { order: None, handle: None, iccid: Some("8997212330099025334".to_owned()) };
        assert_eq!(stage.upstream.read_callback(stage.now(), &callback).unwrap().about, esim);
        let mut changed = callback.clone();
        changed.body.push(b' ');
        // Written anew on its way it is the same news; with other words it is none.
        assert!(stage.upstream.read_callback(stage.now(), &changed).is_ok());
        changed.body = String::from_utf8(callback.body).unwrap().replace("8997", "8998").into_bytes();
        assert_eq!(stage.upstream.read_callback(stage.now(), &changed), Err(CallbackRefusal::Forged));
    }
    let out = stranger.post("notifications/opt-out", json!({"type": "webhook_low_data"})).await;
    assert_eq!(out.status(), StatusCode::NO_CONTENT);
    let nobody = stranger.post("simulator/webhook", json!({"event": "low_data_notification", "type": "data_75"})).await;
    assert_eq!(nobody.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_refund_is_asked_for_and_nothing_comes_back_before_somebody_looks() {
    let stage = Stage::of(cases::airalo()).await;
    let stranger = Stranger::of(&stage).await;
    let esim = stage.delivered().await;
    let left = stage.simulator.shop().balance_cents();
    let ask = |iccid: &str, reason: &str| json!({"iccids": [iccid], "reason": reason});
    let taken = stranger.post("refund", ask(&esim.iccid, "INSTALLATION_FAILURE")).await;
    assert_eq!(taken.status(), StatusCode::ACCEPTED);
    assert!(json_of(taken).await["data"]["refund_id"].is_string());
    let refused = [("8901", "NO_COVERAGE"), (&esim.iccid, "BORED"), (&esim.iccid, "OTHERS")];
    for (iccid, reason) in refused {
        let refused = stranger.post("refund", ask(iccid, reason)).await;
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY, "{iccid} {reason}");
    }
    // The reference's own example has the list as a text in a form.
    let form = format!("iccids=%5B%22{}%22%5D&reason=NO_COVERAGE", esim.iccid);
    let taken = stranger.send("refund", "application/x-www-form-urlencoded", &form, &[]).await;
    assert_eq!(taken.status(), StatusCode::ACCEPTED);
    assert_eq!(taken.headers()["x-ratelimit-remaining"], "0");
    let many = stranger.post("refund", ask(&esim.iccid, "NO_COVERAGE")).await;
    assert_eq!(
        (many.status(), &many.headers()["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"60".parse().unwrap())
    );
    assert_eq!(stage.simulator.shop().balance_cents(), left);
}

#[tokio::test]
async fn further_pages_of_packages_have_another_shape() {
    let stage = Stage::of(cases::airalo()).await;
    let stranger = Stranger::of(&stage).await;
    let whole = json_of(stranger.get("packages").await).await;
    assert_eq!(whole["meta"]["last_page"], 1);
    let all = whole["data"].as_array().unwrap();
    let second = json_of(stranger.get("packages?limit=3&page=2").await).await;
    assert_eq!(second["data"]["3"]["slug"], all[3]["slug"]);
    let local =
        json_of(stranger.get("packages?filter%5Btype%5D=local&filter%5Bcountry%5D=DE&include=topup").await).await;
    let [germany] = local["data"].as_array().unwrap().as_slice() else { panic!("{local}") };
    assert_eq!((&germany["country_code"], &germany["operators"][0]["type"]), (&json!("DE"), &json!("local")));
}

#[tokio::test]
async fn an_order_for_later_can_be_cancelled_until_it_is_worked_on() {
    let stage = Stage::of(cases::airalo()).await;
    let stranger = Stranger::of(&stage).await;
    let order = |package: &str, due: &str| {
        let url = url(&stage);
        json!({"package_id": package, "quantity": 1, "due_date": due, "webhook_url": url})
    };
    let due = stage.now().plus_millis(10 * DAY_MS).to_string().replace('T', " ");
    let due = due.get(..16).unwrap();
    let pending = "test-create-pending-future-order-7days-1gb";
    let soon = stage.now().plus_millis(DAY_MS).to_string().replace('T', " ");
    let soon = stranger.post("future-orders", order(DELIVERS, soon.get(..16).unwrap())).await;
    assert!(json_of(soon).await["data"]["due_date"].is_string());
    let id = async |package| {
        let taken = json_of(stranger.post("future-orders", order(package, due)).await).await;
        taken["data"]["request_id"].as_str().unwrap().to_owned()
    };
    let (waiting, done) = (id(pending).await, id(DELIVERS).await);
    let listed = json_of(stranger.get("future-orders").await).await;
    assert_eq!((&listed["data"][0]["request_id"], &listed["data"][0]["due_date"]), (&json!(waiting), &json!(due)));
    let cancelled = stranger.post("cancel-future-orders", json!({"request_ids": [waiting, done]})).await;
    assert_eq!(cancelled.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(json_of(cancelled).await["data"]["request_ids.1"].as_str().unwrap().contains("already processed"));
    let cancelled = stranger.post("cancel-future-orders", json!({"request_ids": [waiting]})).await;
    assert_eq!(cancelled.status(), StatusCode::OK);
    assert_eq!(json_of(stranger.get("future-orders").await).await["data"], json!([]));
}
