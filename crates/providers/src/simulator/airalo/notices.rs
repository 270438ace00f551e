//! What Airalo tells by itself, where to, and on demand.

use super::buying::{next, request_id};
use super::listing::{dollars, texts_of, time};
use super::orders::order;
use super::packages::package_name;
use super::{broken, invalid, required, success};
use crate::simulator::shop::Shop;
use crate::simulator::wire::{Reply, Request};
use domain::time::Timestamp;
use serde_json::{Value, json};

const CREDIT_LEVELS: [i64; 4] = [50, 70, 80, 90];

const LOW_DATA: &str = "webhook_low_data";
const CREDIT_LIMIT: &str = "webhook_credit_limit";
pub(super) const ASYNC_ORDERS: &str = "async_orders";
const NOTIFICATIONS: [&str; 5] = [LOW_DATA, CREDIT_LIMIT, ASYNC_ORDERS, "email_low_data", "email_credit_limit"];

/// Where a kind of news goes; empty for nowhere.
pub(super) fn address(shop: &Shop, kind: &str) -> String {
    match kind {
        LOW_DATA => shop.callback_url(),
        kind => shop.remembered(&format!("airalo/opt-in/{kind}")).unwrap_or_default(),
    }
}

/// Tells when so much of the credit is used: the credit is what there was when the shop was opened.
pub(super) fn tell_credit(shop: &Shop, now: Timestamp, before: i64) -> Result<(), rusqlite::Error> {
    let url = address(shop, CREDIT_LIMIT);
    let (credit, left) = (shop.first_balance_cents(), shop.balance_cents());
    if url.is_empty() || credit <= 0 {
        return Ok(());
    }
    let levels = shop.remembered("airalo/levels").unwrap_or_default();
    let wanted = |level: i64| levels.is_empty() || levels.split(',').any(|wanted| wanted == level.to_string());
    let has_used = |left: i64, level: i64| (credit - left).saturating_mul(100) >= credit.saturating_mul(level);
    for level in CREDIT_LEVELS {
        if wanted(level) && has_used(left, level) && !has_used(before, level) {
            shop.tell(now, &url, &credit_news(level, left).to_string())?;
        }
    }
    Ok(())
}

fn credit_news(level: i64, left: i64) -> Value {
    json!({"message": format!("You have used {level}% of your credit limit."), "remaining": dollars(left)})
}

fn notification(kind: &str, contact_point: &str) -> Reply {
    success(&json!({"notification": {"type": kind, "contact_point": contact_point}}))
}

fn kind_of(request: &Request) -> Result<&'static str, Reply> {
    let kind = request.text("type");
    let known = NOTIFICATIONS.iter().find(|known| **known == kind);
    known.copied().ok_or_else(|| invalid("type", "The selected type is invalid."))
}

pub(super) fn opt_in(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let kind = kind_of(request)?;
    let field = if kind.starts_with("email") { "email" } else { "webhook_url" };
    let contact = request.text(field);
    if contact.is_empty() {
        return Err(required(field));
    }
    let levels = texts_of(request, "levels");
    if levels.iter().any(|level| !CREDIT_LEVELS.iter().any(|known| known.to_string() == *level)) {
        return Err(invalid("levels", "The selected levels is invalid."));
    }
    if kind == CREDIT_LIMIT {
        shop.remember("airalo/levels", Some(&levels.join(","))).map_err(broken)?;
    }
    if kind == LOW_DATA {
        shop.set_callback_url(&contact).map_err(broken)?;
    }
    shop.remember(&format!("airalo/opt-in/{kind}"), Some(&contact)).map_err(broken)?;
    if field == "webhook_url" {
        // The service takes the address only if this trial is answered with 200; here it is only sent.
        shop.tell(now, &contact, "trial").map_err(broken)?;
    }
    Ok(notification(kind, &contact))
}

pub(super) fn opted_in(shop: &Shop, request: &Request) -> Reply {
    let wanted = request.parameter("type");
    let mut kinds = NOTIFICATIONS.iter().filter(|kind| wanted.is_empty() || **kind == wanted);
    let found = kinds.find_map(|kind| Some((kind, address(shop, kind))).filter(|(_, address)| !address.is_empty()));
    match found {
        Some((kind, address)) => notification(kind, &address),
        None => success(&json!({"notification": Value::Null})),
    }
}

pub(super) fn opt_out(shop: &Shop, request: &Request) -> Result<Reply, Reply> {
    let kind = kind_of(request)?;
    if kind == LOW_DATA {
        shop.set_callback_url("").map_err(broken)?;
    }
    shop.remember(&format!("airalo/opt-in/{kind}"), None).map_err(broken)?;
    Ok(Reply { status: 204, headers: Vec::new(), body: Vec::new(), is_lost: false, trial: None })
}

pub(super) fn low_data_news(level: &str, package_name: &str, left: i64, iccid: &str) -> Value {
    json!({"level": level, "package_name": package_name, "remaining_percentage": left, "iccid": iccid})
}

/// Sends news on demand, as the service's own simulator of it does.
pub(super) fn simulate(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let iccid = match request.text("iccid") {
        iccid if iccid.is_empty() => "8997212330099025334".to_owned(),
        iccid => iccid,
    };
    let esim = shop.esim_by_iccid(&iccid);
    let plan = esim.as_ref().and_then(|esim| shop.plan(&esim.sale.plan)).map(|listed| listed.plan);
    let name = plan.as_ref().map_or("Test Mobile-1 GB - 7 Days".to_owned(), package_name);
    let (kind, news) = match request.text("event").as_str() {
        "low_data_notification" => {
            let (level, left) = match request.text("type").as_str() {
                "data_75" => ("75%", 25),
                "data_90" => ("90%", 10),
                "expire_1" => ("1days", 50),
                "expire_3" => ("3days", 50),
                _ => return Err(invalid("type", "Type must be one of: data_75, data_90, expire_1, expire_3")),
            };
            (LOW_DATA, low_data_news(level, &name, left, &iccid))
        }
        "credit_limit_notification" => {
            let level = request.integer("level").filter(|level| CREDIT_LEVELS.contains(level));
            let level = level.ok_or_else(|| invalid("level", "Level must be one of: 50, 70, 80, 90"))?;
            (CREDIT_LIMIT, credit_news(level, shop.balance_cents()))
        }
        "async_order_notification" => {
            let mut news = match &esim {
                Some(esim) => order(shop, &esim.sale, esim.sale.asked.into()),
                None => json!({
                    "id": 1, "code": "20240711-000001", "currency": "USD", "package_id": "test-7days-1gb",
                    "quantity": 1, "type": "sim", "description": "test", "esim_type": "Prepaid", "validity": 7,
                    "package": name, "data": "1 GB", "price": dollars(450), "created_at": time(now),
                    "sims": [{"id": 1, "created_at": time(now), "iccid": iccid, "lpa": "lpa.airalo.example",
                              "imsis": Value::Null, "matching_id": "TEST",
                              "qrcode": "LPA:1$lpa.airalo.example$TEST", "confirmation_code": Value::Null}],
                }),
            };
            news["request_id"] = request_id('s', next(shop, "simulated")?).into();
            (ASYNC_ORDERS, news)
        }
        _ => {
            let events = "low_data_notification, credit_limit_notification, async_order_notification";
            return Err(invalid("event", &format!("Event must be one of: {events}")));
        }
    };
    let url = request.text("webhook_url");
    let url = if url.is_empty() { address(shop, kind) } else { url };
    if url.is_empty() {
        return Err(Reply::json(400, &json!({"error": "User is not opted in"})));
    }
    shop.tell(now, &url, &news.to_string()).map_err(broken)?;
    Ok(Reply::json(200, &json!({"success": "Notification sent"})))
}
