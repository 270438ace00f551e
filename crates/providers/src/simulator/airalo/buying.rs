//! Selling: at once, told later, on a day to come, to an eSIM there is; and asking for money back.

use super::listing::{minute, page, texts_of, time};
use super::notices::{ASYNC_ORDERS, address, tell_credit};
use super::orders::{is_done, order};
use super::packages::{TOP_UP, slug};
use super::{DAY_MS, broken, invalid, refusal, required, success};
use crate::lenient::local_time;
use crate::sandbox::{CataloguePlan, special};
use crate::simulator::shop::{EsimLife, NoSale, Sale, Shop, ShopEsim, Wish};
use crate::simulator::wire::{Reply, Request};
use domain::time::Timestamp;
use serde_json::{Map, Value, json};

/// The most eSIMs of an order.
const MOST_ESIMS: i64 = 50;
/// The most eSIMs of one request for a refund.
const MOST_REFUNDS: usize = 5;
/// The most future orders of one cancellation.
const MOST_CANCELLED: usize = 10;
/// The most letters of the notes to a request for a refund.
const MOST_NOTES: usize = 255;

const REFUND_REASONS: [&str; 23] = [
    "INSTALLATION_FAILURE",
    "NO_COVERAGE",
    "APN_FAILURE",
    "TRIP_CANCELLATION",
    "INTERMITTENT_CONNECTION",
    "BLOCKED_NETWORK",
    "CHANGE_OF_PLAN",
    "DELETED_ESIM",
    "EARLY_EXPIRY",
    "HOTSPOT_NOT_WORKING",
    "IMSI_CHANGE",
    "INCOMPATIBLE_DEVICE",
    "LOCKED_DEVICE",
    "NO_VOICE_TEXT_SERVICES",
    "OVERCHARGED",
    "SLOW_SPEED",
    "TOP_UP_PACKAGE_FAILURE",
    "UNKNOWN_CHARGES",
    "WRONG_PURCHASE",
    "UNABLE_TO_ACCESS_APPS",
    "SERVICE_DEGRADATION",
    "QR_ISSUE_PARTNERS",
    "OTHERS",
];

/// Packages of the sandbox mode that are refused, with their codes.
const REFUSED: [(&str, i64); 5] = [
    ("test-insufficient-balance-7days-1gb", 11),
    ("test-maintenance-mode-7days-1gb", 13),
    ("test-disabled-top-up-7days-1gb", 23),
    ("test-not-enough-7days-1gb", 33),
    ("test-out-of-stock-7days-1gb", 34),
];

/// Packages of the sandbox mode whose future orders stay as they are.
const FUTURE: [(&str, &str); 3] = [
    ("test-create-pending-future-order-7days-1gb", "pending"),
    ("test-create-failed-future-order-7days-1gb", "failed"),
    ("test-create-retry-future-order-7days-1gb", "retry"),
];

fn no_sale(no_sale: &NoSale) -> Reply {
    match no_sale {
        NoSale::UnknownPlan | NoSale::OutOfStock => refusal(34),
        NoSale::InsufficientFunds => refusal(11),
        NoSale::Busy => refusal(13),
        NoSale::InvalidQuantity => invalid("quantity", "The quantity is invalid."),
        NoSale::NotAddable => invalid("package_id", "invalid topup package"),
        NoSale::Broken(_) => refusal(53),
    }
}

pub(super) fn request_id(letter: char, number: i64) -> String {
    format!("{letter}{number:024}")
}

/// The next number of a kind of request.
pub(super) fn next(shop: &Shop, kind: &str) -> Result<i64, Reply> {
    shop.next_number(&format!("airalo/next/{kind}")).map_err(broken)
}

/// Reads what all orders of new eSIMs have in common, and refuses what the reference says is refused.
fn wish(shop: &Shop, request: &Request) -> Result<Wish, Reply> {
    let package = request.text("package_id");
    if package.is_empty() {
        return Err(required("package_id"));
    }
    let quantity = match request.text("quantity").as_str() {
        "" => return Err(required("quantity")),
        text => text.trim().parse::<i64>().map_err(|_| invalid("quantity", "The quantity must be an integer."))?,
    };
    if quantity < 1 {
        return Err(invalid("quantity", "The quantity must be at least 1."));
    }
    if quantity > MOST_ESIMS {
        return Err(invalid("quantity", "The quantity may not be greater than 50."));
    }
    if !matches!(request.text("type").as_str(), "" | "sim") {
        return Err(invalid("type", "The selected type is invalid."));
    }
    if !request.text("to_email").is_empty() && !request.fields.contains_key("sharing_option") {
        return Err(invalid("sharing_option", "The sharing option field is required when to email is present."));
    }
    let is_test = REFUSED.iter().any(|(id, _)| *id == package) || FUTURE.iter().any(|(id, _)| *id == package);
    if !is_test && shop.plan(&package).is_none() {
        return Err(invalid("package_id", "The selected package is invalid."));
    }
    if package == special::PARTIAL && quantity > 1 {
        // Airalo refuses an order that it cannot fill.
        let told = format!("SIM quantity is not available. Available quantity: {}.", quantity - 1);
        return Err(invalid("quantity", &told));
    }
    Ok(Wish {
        reference: request.text("description"),
        plan: package,
        quantity: u32::try_from(quantity).unwrap_or(0),
        notify_url: String::new(),
    })
}

fn sell(shop: &Shop, now: Timestamp, request: &Request, wish: &Wish) -> Result<Sale, Reply> {
    if let Some((_, code)) = REFUSED.iter().find(|(id, _)| *id == wish.plan) {
        return Err(refusal(*code));
    }
    let before = shop.balance_cents();
    let sale = shop.sell(now, wish).map_err(|error| no_sale(&error))?;
    let brand = request.text("brand_settings_name");
    if !brand.is_empty() {
        for esim in shop.esims(&sale) {
            shop.remember(&format!("airalo/brand/{}", esim.profile.iccid), Some(&brand)).map_err(broken)?;
        }
    }
    tell_credit(shop, now, before).map_err(broken)?;
    Ok(sale)
}

pub(super) fn order_now(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let wish = wish(shop, request)?;
    let sale = sell(shop, now, request, &wish)?;
    let quantity = request.fields.get("quantity").cloned().unwrap_or_default();
    Ok(success(&order(shop, &sale, quantity)).lost_if(sale.answer_is_lost()))
}

/// Takes an order and tells later what came of it. Its description is all a list can find it by.
pub(super) fn order_later(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let mut wish = wish(shop, request)?;
    wish.notify_url = webhook(shop, request)?;
    let (request_id, is_lost) = work_on(shop, now, request, &wish)?;
    let data = json!({"request_id": request_id, "accepted_at": time(now)});
    Ok(Reply::json(202, &json!({"data": data, "meta": {"message": "success"}})).lost_if(is_lost))
}

pub(super) fn webhook(shop: &Shop, request: &Request) -> Result<String, Reply> {
    let url = request.text("webhook_url");
    let url = if url.is_empty() { address(shop, ASYNC_ORDERS) } else { url };
    let url = if url.is_empty() { shop.callback_url() } else { url };
    if url.is_empty() {
        let told = "The webhook url field is required when you are not opted in for async orders.";
        return Err(invalid("webhook_url", told));
    }
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(invalid("webhook_url", "The webhook url format is invalid."));
    }
    Ok(url)
}

/// Sells, or not, and tells it when the sale is ready: the order with its request's id, or the reason.
fn work_on(shop: &Shop, now: Timestamp, request: &Request, wish: &Wish) -> Result<(String, bool), Reply> {
    match sell(shop, now, request, wish) {
        Ok(sale) => {
            let id = request_id('r', sale.number);
            let mut news = order(shop, &sale, sale.asked.into());
            news["request_id"] = id.clone().into();
            shop.tell(sale.ready_at, &wish.notify_url, &news.to_string()).map_err(broken)?;
            Ok((id, sale.answer_is_lost()))
        }
        Err(refused) => {
            let told: Value = serde_json::from_slice(&refused.body).unwrap_or_default();
            let Some(reason) = told.get("reason").filter(|_| told.get("code").is_some()) else { return Err(refused) };
            let id = request_id('f', next(shop, "failed")?);
            let news = json!({
                "request_id": id,
                "package_id": wish.plan,
                "quantity": wish.quantity,
                "type": "sim",
                "description": wish.reference,
                "code": told["code"],
                "reason": reason,
            });
            shop.tell(now, &wish.notify_url, &news.to_string()).map_err(broken)?;
            Ok((id, false))
        }
    }
}

/// The end of a top-up's package id is all that tells it from the plan it adds.
pub(super) fn top_up(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let (package, iccid) = (request.text("package_id"), request.text("iccid"));
    let missing: Map<String, Value> = [("iccid", &iccid), ("package_id", &package)]
        .iter()
        .filter(|(_, value)| value.is_empty())
        .map(|(name, _)| ((*name).to_owned(), format!("The {} field is required.", name.replace('_', " ")).into()))
        .collect();
    if !missing.is_empty() {
        return Err(Reply::json(422, &json!({"data": missing, "meta": {"message": "the parameter is invalid"}})));
    }
    if let Some((_, code)) = REFUSED.iter().find(|(id, _)| *id == package) {
        return Err(refusal(*code));
    }
    let esim = shop.esim_by_iccid(&iccid).filter(|esim| is_done(&esim.sale, now));
    let esim = esim.ok_or_else(|| invalid("iccid", "The selected iccid is invalid."))?;
    if esim.life == EsimLife::Cancelled {
        return Err(refusal(73));
    }
    let invalid_package = || invalid("package_id", "invalid topup package");
    let plan = package.strip_suffix(TOP_UP).ok_or_else(invalid_package)?;
    if !addable(shop, &esim).iter().any(|addable| addable.upstream_plan_id == plan) {
        return Err(invalid_package());
    }
    let description = request.text("description");
    let wish = Wish {
        reference: if description.is_empty() { format!("Topup ({iccid})") } else { description },
        plan: plan.to_owned(),
        quantity: 1,
        notify_url: String::new(),
    };
    let before = shop.balance_cents();
    let sale = shop.add(now, &wish, &esim).map_err(|error| no_sale(&error))?;
    tell_credit(shop, now, before).map_err(broken)?;
    Ok(success(&order(shop, &sale, 1.into())).lost_if(sale.answer_is_lost()))
}

/// What can be added to an eSIM: what its own operator sells.
pub(super) fn addable(shop: &Shop, esim: &ShopEsim) -> Vec<CataloguePlan> {
    let Some(own) = shop.plan(&esim.sale.plan).filter(|own| own.plan.top_up_supported) else { return Vec::new() };
    let plans = shop.plans().into_iter().map(|listed| listed.plan);
    plans.filter(|plan| plan.top_up_supported && slug(plan) == slug(&own.plan)).collect()
}

/// A request for a refund: somebody will look at it, and nothing happens until then.
pub(super) fn refund(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let complain = |message: String| Reply::json(422, &json!({"data": [], "meta": {"message": message}}));
    let iccids = texts_of(request, "iccids");
    if iccids.is_empty() {
        return Err(complain("The iccids field is required.".to_owned()));
    }
    if iccids.len() > MOST_REFUNDS {
        return Err(invalid("iccids", "The iccids may not have more than 5 items."));
    }
    let strangers: Vec<&str> =
        iccids.iter().map(String::as_str).filter(|iccid| shop.esim_by_iccid(iccid).is_none()).collect();
    if !strangers.is_empty() {
        return Err(complain(format!("The following ICCIDs do not belong to your company: {}", strangers.join(", "))));
    }
    let (reason, notes) = (request.text("reason"), request.text("notes"));
    if !REFUND_REASONS.contains(&reason.as_str()) {
        let all = REFUND_REASONS.join(", ");
        let told = format!("The selected reason is invalid. It must be one of the following: {all}");
        return Err(invalid("reason", &told));
    }
    if reason == "OTHERS" && notes.is_empty() {
        return Err(invalid("notes", "The notes field is required when reason is OTHERS."));
    }
    if notes.chars().count() > MOST_NOTES {
        return Err(invalid("notes", "The notes may not be greater than 255 characters."));
    }
    let number = next(shop, "refund")?;
    let kept = json!({"iccids": iccids, "reason": reason, "notes": notes});
    shop.remember(&format!("airalo/refund/{number:09}"), Some(&kept.to_string())).map_err(broken)?;
    let data = json!({"refund_id": number.to_string(), "created_at": minute(now)});
    Ok(Reply::json(202, &json!({"data": data, "meta": {"message": "success"}})))
}

pub(super) fn future_order(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let mut wish = wish(shop, request)?;
    let told = request.text("due_date");
    if told.is_empty() {
        return Err(required("due_date"));
    }
    let due = local_time(&told, 0).ok_or_else(|| invalid("due_date", "The due date is not a valid date."))?;
    if due < now.plus_millis(2 * DAY_MS) || due > now.plus_millis(366 * DAY_MS) {
        return Err(invalid("due_date", "The due date must be between two days and one year from now."));
    }
    wish.notify_url = webhook(shop, request)?;
    let latest = minute(due.plus_millis(-DAY_MS));
    let id = match FUTURE.iter().find(|(id, _)| *id == wish.plan) {
        None => work_on(shop, now, request, &wish)?.0,
        Some((_, status)) => {
            let id = request_id('u', next(shop, "future")?);
            let kept = json!({
                "request_id": id,
                "quantity": wish.quantity,
                "description": wish.reference,
                "status": status,
                "package_id": wish.plan,
                "due_date": minute(due),
                "latest_cancellation_date": latest,
            });
            shop.remember(&format!("airalo/future/{id}"), Some(&kept.to_string())).map_err(broken)?;
            id
        }
    };
    let data = json!({"request_id": id, "due_date": minute(due), "latest_cancellation_date": latest});
    Ok(success(&data))
}

pub(super) fn future_orders(shop: &Shop, request: &Request) -> Result<Reply, Reply> {
    let status = match request.parameter("status") {
        "" => "pending",
        status => status,
    };
    let (from, to) = (request.parameter("from_due_date"), request.parameter("to_due_date"));
    for (name, told) in [("from_due_date", from), ("to_due_date", to)] {
        if !told.is_empty() && local_time(told, 0).is_none() {
            return Err(invalid(name, &format!("The {} is not a valid date.", name.replace('_', " "))));
        }
    }
    let all = shop.all_remembered("airalo/future/").into_iter();
    let all = all.filter_map(|(_, kept)| serde_json::from_str::<Value>(&kept).ok()).filter(|kept| {
        let due = kept["due_date"].as_str().unwrap_or_default();
        kept["status"] == status && (from.is_empty() || from <= due) && (to.is_empty() || due <= to)
    });
    Ok(page(request, all.collect(), 25)?.reply())
}

pub(super) fn cancel_future_orders(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let ids = texts_of(request, "request_ids");
    if ids.is_empty() {
        return Err(required("request_ids"));
    }
    if ids.len() > MOST_CANCELLED {
        return Err(invalid("request_ids", "The request ids may not have more than 10 items."));
    }
    let mut names = Vec::new();
    let mut complaints = Map::new();
    for (index, id) in ids.iter().enumerate() {
        let name = format!("airalo/future/{id}");
        let kept = shop.remembered(&name).and_then(|kept| serde_json::from_str::<Value>(&kept).ok());
        let latest = kept.as_ref().and_then(|kept| local_time(kept["latest_cancellation_date"].as_str()?, 0));
        let sold = id.strip_prefix('r').and_then(|number| shop.sale(number.parse().ok()?));
        let complaint = match (latest, sold) {
            _ if id.len() != 25 => "Each request ID must be exactly 25 characters long.".to_owned(),
            (Some(latest), _) if now <= latest => {
                names.push(name);
                continue;
            }
            (None, None) => format!("Request ID: {id} does not exist."),
            _ => format!("Request ID: {id} is already processed and can not be cancelled."),
        };
        complaints.insert(format!("request_ids.{index}"), complaint.into());
    }
    if !complaints.is_empty() {
        return Err(Reply::json(422, &json!({"data": complaints, "meta": {"message": "the parameter is invalid"}})));
    }
    for name in names {
        shop.remember(&name, None).map_err(broken)?;
    }
    let message = "Future orders cancelled successfully";
    Ok(Reply::json(200, &json!({"data": [], "meta": {"message": message}})))
}
