//! What the traveller sees: the QR code and the page behind the link. They need no login, so the link itself
//! must be the secret, lead nowhere else, and end with the eSIM.

use crate::stage::{Caller, Partner, Reply, Stage};
use crate::telling::{CHECKOUT, list, only_order, order, text};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Cursor;

const PUBLIC_URL: &str = "https://esims.example.com";
const LINKS: [&str; 2] = ["qrCodeUrl", "installUrl"];

async fn open() -> (Stage, Partner) {
    let stage = Stage::with(&[("ESIMD_PUBLIC_URL", PUBLIC_URL)]).await;
    let partner = stage.partner_with("1000").await;
    (stage, partner)
}

async fn delivered(partner: &Partner, quantity: u32) -> Value {
    let plan = partner.plan("Sandbox: delivers").await;
    let order = partner.buy(&plan, quantity).await["orders"][0].clone();
    assert_eq!(order["status"], "completed");
    order
}

/// Where a link of an eSIM leads, without the server's name.
fn path_of(esim: &Value, link: &str) -> String {
    let address = text(&esim[link]);
    let path =
        address.strip_prefix(PUBLIC_URL).unwrap_or_else(|| panic!("{link} is not under {PUBLIC_URL}: {address}"));
    assert!(path.starts_with('/'), "{address}");
    path.to_owned()
}

fn as_svg(path: &str) -> String {
    format!("{path}{}format=svg", if path.contains('?') { '&' } else { '?' })
}

/// The text of the one QR code in a PNG.
fn scanned(picture: &[u8]) -> String {
    let mut decoder = png::Decoder::new(Cursor::new(picture));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().expect("a PNG");
    let mut pixels = vec![0_u8; reader.output_buffer_size().expect("a small picture")];
    let frame = reader.next_frame(&mut pixels).expect("a whole picture");
    let (width, height) = (usize::try_from(frame.width).unwrap(), usize::try_from(frame.height).unwrap());
    let (row, samples) = (frame.line_size, frame.color_type.samples());
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| pixels[y * row + x * samples]);
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "one QR code");
    let (_, content) = grids[0].decode().expect("a readable QR code");
    content
}

/// Asserts that a page loads nothing from elsewhere and tells browsers and robots to be discreet.
fn assert_discreet(page: &Reply) {
    assert!(page.header("content-type").starts_with("text/html"), "{}", page.header("content-type"));
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert!(!policy.contains("unsafe-inline"), "{policy}");
    let html = page.text();
    for loading in [" src=\"http", " src=\"//", "<link", "@import", "<iframe"] {
        assert!(!html.contains(loading), "the page loads something: {loading}");
    }
    assert!(html.contains("no-referrer") || page.header("referrer-policy") == "no-referrer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qr_code_holds_the_activation_code() {
    let (stage, partner) = open().await;
    let order = delivered(&partner, 3).await;
    let stranger = stage.stranger();
    for esim in list(&order["esims"]) {
        let code = text(&esim["activationCode"]);
        let picture = stranger.get(&path_of(esim, "qrCodeUrl")).await;
        assert_eq!((picture.status, picture.header("content-type")), (200, "image/png"));
        assert_eq!(scanned(&picture.bytes), code);

        let drawing = stranger.get(&as_svg(&path_of(esim, "qrCodeUrl"))).await;
        assert_eq!(drawing.status, 200);
        assert!(drawing.header("content-type").starts_with("image/svg+xml"), "{}", drawing.header("content-type"));
        let svg = drawing.text();
        assert!(svg.contains("<svg") && svg.contains("viewBox") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("<script") && !svg.contains("href"), "a picture, nothing more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qr_code_asks_for_the_confirmation_code_and_does_not_tell_it() {
    let (stage, partner) = open().await;
    let order = delivered(&partner, 100).await;
    let asking: Vec<&Value> = list(&order["esims"]).iter().filter(|esim| !esim["confirmationCode"].is_null()).collect();
    assert!(!asking.is_empty(), "of a hundred some ask for a confirmation code");
    for esim in asking {
        let content = scanned(&stage.stranger().get(&path_of(esim, "qrCodeUrl")).await.bytes);
        assert!(content.ends_with("$1"), "{content}");
        assert_eq!(content, text(&esim["activationCode"]));
        let page = stage.stranger().get(&path_of(esim, "installUrl")).await.text();
        assert!(page.contains(text(&esim["confirmationCode"])), "the traveller must be able to type it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn install_page_has_everything_a_phone_may_ask_for() {
    let (stage, partner) = open().await;
    let order = delivered(&partner, 2).await;
    for esim in list(&order["esims"]) {
        let page = stage.stranger().get(&path_of(esim, "installUrl")).await;
        assert_eq!(page.status, 200);
        assert_discreet(&page);
        let html = page.text();
        assert!(html.contains("noindex"), "no search engine may list it");
        assert!(html.contains("viewport"), "it is for a phone");
        assert!(html.contains("Sandbox: delivers"), "the plan");
        for field in ["smdpAddress", "matchingId", "activationCode", "appleInstallUrl", "androidInstallUrl"] {
            assert!(html.contains(text(&esim[field])), "{field} is not on the page");
        }
        assert!(esim["apn"].as_str().is_none_or(|apn| html.contains(apn)), "the APN is not on the page");
        assert!(html.contains("<img") || html.contains("<svg"), "the QR code");
    }
    let other = text(&order["esims"][1]["matchingId"]);
    let page = stage.stranger().get(&path_of(&order["esims"][0], "installUrl")).await.text();
    assert!(!page.contains(other), "one eSIM, one page");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn install_page_shows_no_name_or_address_of_the_traveller() {
    let (stage, partner) = open().await;
    let plan = partner.plan("Sandbox: delivers").await;
    let body = json!({
        "items": [{"planId": plan, "quantity": 1}], "email": "private@customer.example",
        "customerName": "Private Person", "phone": "88888888", "reference": "PO-SECRET"
    });
    let data = partner.post(&format!("{CHECKOUT}?wait=20"), body).await.ok(201);
    let page = stage.stranger().get(&path_of(&data["orders"][0]["esims"][0], "installUrl")).await;
    assert_eq!(page.status, 200);
    for private in ["private@customer.example", "Private Person", "88888888", "PO-SECRET"] {
        assert!(!page.text().contains(private), "{private}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_are_each_esims_own() {
    let (_stage, partner) = open().await;
    let order = delivered(&partner, 50).await;
    let mut seen = BTreeSet::new();
    for esim in list(&order["esims"]) {
        for link in LINKS {
            let path = path_of(esim, link);
            assert!(seen.insert(path.clone()), "{path} twice");
            // An id of 128 bits and a MAC of 128 bits are 43 characters of base64 at least.
            assert!(path.len() >= 43, "{path} can be guessed");
            assert!(!path.contains(text(&esim["iccid"])), "{path} tells the ICCID");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_with_any_character_changed_lead_nowhere() {
    let (stage, partner) = open().await;
    let order = delivered(&partner, 1).await;
    let stranger = stage.stranger();
    for link in LINKS {
        let path = path_of(&order["esims"][0], link);
        assert_eq!(stranger.get(&path).await.status, 200);
        // The first segment names the route; all that follows is the secret.
        let secret = path[1..].find('/').map_or(0, |end| end + 1);
        let signs = path.char_indices().skip(secret).filter(|(_, sign)| sign.is_ascii_alphanumeric());
        for (position, original) in signs {
            let other = match original {
                'z' | 'Z' => 'a',
                '9' => '0',
                sign => char::from(u8::try_from(sign).unwrap() + 1),
            };
            let changed = format!("{}{other}{}", &path[..position], &path[position + 1..]);
            let reply = stranger.get(&changed).await;
            assert_eq!(reply.status, 404, "{changed} for {path}");
            assert!(!reply.text().contains(text(&order["esims"][0]["matchingId"])));
        }
        let shortened = &path[..path.len() - 1];
        assert_eq!(stranger.get(shortened).await.status, 404, "{shortened}");
        assert_eq!(stranger.get(&format!("{path}x")).await.status, 404);
        // Nor does being logged in help.
        let changed = format!("{path}x");
        assert_eq!(partner.get(&changed).await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_come_from_the_public_url_and_never_from_the_request() {
    let (stage, partner) = open().await;
    let order = delivered(&partner, 1).await;
    let plan = partner.plan("Sandbox: delivers").await;
    let forged = |method: Method, path: &str| {
        let request = partner.request(method, path).header("host", "evil.example");
        request.header("x-forwarded-host", "evil.example").header("x-forwarded-proto", "http")
    };
    let path = format!("/api/tenant/orders/{}", text(&order["id"]));
    let read = partner.send(forged(Method::GET, &path)).await;
    assert_eq!(read.ok(200)["order"]["esims"], order["esims"]);
    assert!(!read.text().contains("evil.example"));
    let body = json!({"items": [{"planId": plan, "quantity": 1}]}).to_string();
    let request = forged(Method::POST, &format!("{CHECKOUT}?wait=20"));
    let bought = partner.send(request.header("content-type", "application/json").body(body)).await;
    let data = bought.ok(201);
    for link in LINKS {
        path_of(&data["orders"][0]["esims"][0], link);
    }
    assert!(!bought.text().contains("evil.example"));
    let page = partner.send(forged(Method::GET, &path_of(&order["esims"][0], "installUrl"))).await;
    assert_eq!(page.status, 200);
    assert!(!page.text().contains("evil.example") && !page.text().contains(&stage.url));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_survive_a_restart() {
    let (mut stage, partner) = open().await;
    let order_before = delivered(&partner, 1).await;
    stage.restart().await;
    let caller = stage.stranger().with_token(partner.token.as_deref().expect("a token"));
    let after = order(&caller, text(&order_before["id"])).await;
    assert_eq!(after["esims"], order_before["esims"], "the same links as before");
    let esim = &after["esims"][0];
    let picture = stage.stranger().get(&path_of(esim, "qrCodeUrl")).await;
    assert_eq!(scanned(&picture.bytes), text(&esim["activationCode"]));
    assert_eq!(stage.stranger().get(&path_of(esim, "installUrl")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_work_in_test_mode_too() {
    let (stage, partner) = open().await;
    let test = stage.login(&partner.email, "test").await;
    let plan = test.plan("Sandbox: delivers").await;
    let data = test.buy(&plan, 1).await;
    let esim = &data["orders"][0]["esims"][0];
    let picture = stage.stranger().get(&path_of(esim, "qrCodeUrl")).await;
    assert_eq!(scanned(&picture.bytes), text(&esim["activationCode"]));
}

/// Asserts that neither the picture nor the page of the eSIM is there any more, and that nothing of it shows.
async fn assert_gone(stranger: &Caller, esim: &Value) {
    let picture = path_of(esim, "qrCodeUrl");
    for path in [path_of(esim, "installUrl"), as_svg(&picture), picture] {
        let reply = stranger.get(&path).await;
        assert_eq!(reply.status, 410, "{path}");
        for field in ["matchingId", "activationCode"] {
            assert!(!reply.text().contains(text(&esim[field])), "{field} still shows");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_are_gone_after_cancellation() {
    let (mut stage, partner) = open().await;
    let order = delivered(&partner, 2).await;
    let (first, second) = (&order["esims"][0], &order["esims"][1]);
    let path = format!("/api/tenant/orders/{}/cancel?wait=20", text(&order["id"]));
    partner.post(&path, json!({"esimIds": [first["id"]]})).await.ok(202);
    assert_gone(&stage.stranger(), first).await;
    for link in LINKS {
        assert_eq!(stage.stranger().get(&path_of(second, link)).await.status, 200, "the other one stays");
    }
    let page = stage.stranger().get(&path_of(first, "installUrl")).await;
    assert_discreet(&page);

    stage.restart().await;
    assert_gone(&stage.stranger(), first).await;
    assert_eq!(stage.stranger().get(&path_of(second, "qrCodeUrl")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_stay_when_the_upstream_keeps_the_esim() {
    let (stage, partner) = open().await;
    let plan = partner.plan("Sandbox: keeps").await;
    let data = partner.buy(&plan, 1).await;
    let path = format!("/api/tenant/orders/{}/cancel?wait=20", only_order(&data));
    let after = partner.post(&path, json!({})).await.ok(202);
    let esim = &after["order"]["esims"][0];
    assert_eq!(esim["status"], "delivered");
    let picture = stage.stranger().get(&path_of(esim, "qrCodeUrl")).await;
    assert_eq!(scanned(&picture.bytes), text(&esim["activationCode"]));
}
