//! eSIM Go's side of its wire, version 2.4, with the paths of its neighbours 2.1 to 2.5 that clients still use. The
//! published description has no words for refusals and for orders that wait: those here are this simulator's own.
//!
//! | what | where |
//! |---|---|
//! | prices | `GET catalogue`, `catalogue/bundle/{name}`, `networks`, `organisation/groups` |
//! | money | `GET organisation`, `POST organisation/balance` |
//! | orders | `POST orders`, `GET orders`, `orders/{orderReference}` |
//! | bought ahead | `GET inventory`, `POST inventory/refund`, `esims/apply`, `esims/{iccid}/bundles` |
//! | eSIMs | `GET`, `PUT esims`, `GET esims/assignments`, `esims/{iccid}` and what is below it |
//! | revoking | `DELETE esims/{iccid}/bundles/{name}`, `.../assignments/{assignmentId}` |

use super::dialect::{Credentials, Dialect, Outgoing};
use super::shop::{EsimLife, News, NoSale, Sale, Shop, ShopEsim, ShopPlan, Wish};
use super::stock::Fate;
use super::wire::{Reply, Request};
use crate::esim_go::QUANTITY_PER_CALL;
use crate::sandbox::{place, special};
use crate::signing::{is_same, mac};
use aws_lc_rs::hmac::HMAC_SHA256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::time::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::{Mutex, PoisonError};

const MEGABYTE: i64 = 1_048_576;
const DECIMAL_MEGABYTE: i64 = 1_000_000;
const DAY_MS: i64 = 86_400_000;
/// Revoked later than this after the purchase, a bundle is lost.
const REFUNDED_WITHIN_MS: i64 = 60 * DAY_MS;
/// An eSIM without bundles that is on no phone leaves the account; how soon is not published.
const LEAVES_AFTER_MS: i64 = 60_000;
/// What `POST organisation/balance` takes at least and at most, in whole units of the currency.
const LEAST_PAYMENT: i64 = 1_000;
const MOST_PAYMENT: i64 = 5_000;

/// The dialect.
pub(super) struct EsimGo {
    credentials: Credentials,
    /// Held while something is bought: an order of several bundles is several sales.
    buying: Mutex<()>,
}

/// A bundle on an eSIM.
struct Assignment {
    id: String,
    sale: Sale,
    listed: ShopPlan,
    reference: String,
    initial: i64,
    remaining: i64,
    state: &'static str,
    begin: Option<Timestamp>,
    end: Option<Timestamp>,
}

fn refusal(status: u16, message: &str) -> Reply {
    Reply::json(status, &json!({"message": message}))
}

fn status(message: &str) -> Reply {
    Reply::json(200, &json!({"status": message}))
}

/// Cents as a decimal number.
fn decimal(cents: i64) -> Value {
    serde_json::from_str(&format!("{}.{:02}", cents / 100, cents % 100)).unwrap_or(Value::Null)
}

/// What an order, or a use of the inventory, is called: an UUID.
fn reference(number: i64) -> String {
    format!("e51a6000-0000-4000-8000-{number:012x}")
}

fn unescape(segment: &str) -> String {
    let escaped = format!("s={}", segment.replace('+', "%2B"));
    form_urlencoded::parse(escaped.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

fn no_sale(no_sale: &NoSale) -> Reply {
    match no_sale {
        NoSale::UnknownPlan => refusal(400, "bundle not found"),
        NoSale::OutOfStock => refusal(400, "bundle is not available"),
        NoSale::InsufficientFunds => refusal(400, "insufficient balance"),
        NoSale::InvalidQuantity => refusal(400, "invalid quantity"),
        NoSale::NotAddable => refusal(400, "bundle is not compatible with eSIM"),
        NoSale::Busy => refusal(429, "Too Many Requests"),
        NoSale::Broken(_) => refusal(500, "Internal Server Error"),
    }
}

fn group(listed: &ShopPlan) -> &'static str {
    if listed.plan.unlimited { "Standard Unlimited Essential" } else { "Standard Fixed" }
}

/// Decimal megabytes, rounded up: read as whole binary ones it is what the plan has.
fn amount(listed: &ShopPlan) -> i64 {
    let total = listed.plan.data_mb.unwrap_or(0).saturating_mul(MEGABYTE);
    if listed.plan.unlimited { -1 } else { total.saturating_add(DECIMAL_MEGABYTE - 1) / DECIMAL_MEGABYTE }
}

fn speeds(best: &str) -> &'static [&'static str] {
    if best == "5G" { &["2G", "3G", "4G", "5G"] } else { &["2G", "3G", "4G"] }
}

fn bundle(listed: &ShopPlan) -> Value {
    let plan = &listed.plan;
    let places = plan.countries.iter().map(|code| {
        let (name, region) = place(code);
        json!({"name": name, "region": region, "iso": code})
    });
    let places: Vec<Value> = places.collect();
    json!({
        "name": plan.upstream_plan_id,
        "description": plan.name,
        "groups": [group(listed)],
        "countries": places,
        "dataAmount": amount(listed),
        "duration": plan.validity_days,
        "durationUnit": "day",
        "speed": speeds(plan.speed),
        "autostart": true,
        "unlimited": plan.unlimited,
        "roamingEnabled": places,
        "price": decimal(plan.price_minor),
        "billingType": "FixedCost",
        "allowances": [{"type": "DATA", "service": "STANDARD", "description": plan.description,
                        "amount": amount(listed), "unit": "MB", "unlimited": plan.unlimited}],
    })
}

/// Page and size from a query.
fn paging(request: &Request, size: &str, default: usize) -> (usize, usize) {
    let number = |name: &str, default: usize| request.parameter(name).parse().unwrap_or(default).max(1);
    (number("page", 1), number(size, default).min(1_000))
}

fn catalogue(shop: &Shop, request: &Request) -> Reply {
    let (page, size) = paging(request, "perPage", 50);
    let wanted = |name| request.parameter(name).to_lowercase();
    let codes = wanted("countries");
    let codes: Vec<&str> = codes.split(',').map(str::trim).filter(|code| !code.is_empty()).collect();
    let (region, words, of_group) = (wanted("region"), wanted("description"), request.parameter("group"));
    let mut plans: Vec<ShopPlan> = shop.plans();
    plans.retain(|listed| {
        let places: Vec<&str> = listed.plan.countries.clone();
        (codes.is_empty() || places.iter().any(|code| codes.contains(&code.to_lowercase().as_str())))
            && (region.is_empty() || places.iter().any(|code| place(code).1.to_lowercase() == region))
            && listed.plan.name.to_lowercase().contains(words.trim_matches(['*', '%']))
            && (of_group.is_empty() || group(listed) == of_group)
    });
    match request.parameter("orderBy") {
        "name" => plans.sort_by(|one, other| one.plan.upstream_plan_id.cmp(&other.plan.upstream_plan_id)),
        "description" => plans.sort_by(|one, other| one.plan.name.cmp(&other.plan.name)),
        "price" => plans.sort_by_key(|listed| listed.plan.price_minor),
        "duration" => plans.sort_by_key(|listed| listed.plan.validity_days),
        "dataAmount" => plans.sort_by_key(amount),
        _ => {}
    }
    if request.parameter("direction").eq_ignore_ascii_case("desc") {
        plans.reverse();
    }
    let some: Vec<Value> = plans.iter().skip((page - 1).saturating_mul(size)).take(size).map(bundle).collect();
    Reply::json(200, &json!({"bundles": some, "pageCount": plans.len().div_ceil(size), "rows": plans.len()}))
}

fn networks(shop: &Shop, request: &Request) -> Reply {
    let split =
        |name| -> Vec<String> { request.parameter(name).split(',').map(|it| it.trim().to_lowercase()).collect() };
    let (names, codes, all) = (split("countries"), split("isos"), request.parameter("returnAll") == "true");
    let mut countries: Vec<(&str, Vec<Value>)> = Vec::new();
    for listed in shop.plans().iter().filter(|listed| listed.plan.kind == "local") {
        for code in &listed.plan.countries {
            let (name, _) = place(code);
            let is_wanted = all || names.contains(&name.to_lowercase()) || codes.contains(&code.to_lowercase());
            if !is_wanted || countries.iter().any(|(known, _)| *known == name) {
                continue;
            }
            let networks = listed.plan.networks.iter().filter(|network| network.country == *code);
            let networks = networks.map(|network| {
                json!({"name": network.operator, "brandName": network.operator, "mcc": "", "mnc": "", "tagid": "",
                       "speed": speeds(network.technology)})
            });
            countries.push((name, networks.collect()));
        }
    }
    let countries = countries.into_iter().map(|(name, networks)| json!({"name": name, "networks": networks}));
    Reply::json(200, &json!({"countryNetworks": countries.collect::<Vec<_>>()}))
}

/// What installs an eSIM.
fn installs(esim: &ShopEsim) -> Map<String, Value> {
    let profile = &esim.profile;
    let mut installs = Map::new();
    installs.insert("iccid".to_owned(), profile.iccid.clone().into());
    installs.insert("matchingId".to_owned(), profile.matching_id.clone().into());
    installs.insert("smdpAddress".to_owned(), profile.smdp_address.clone().into());
    installs
}

/// The same with all that is known of it.
fn details(esim: &ShopEsim, request: &Request, since: impl Fn(Timestamp) -> Value) -> Map<String, Value> {
    let mut details = installs(esim);
    let is_installed = !matches!(esim.life, EsimLife::Released);
    let installed_at = esim.activated_at.unwrap_or(esim.changed_at);
    let code = &esim.profile.activation_code;
    let text = |text: &Option<String>| Value::from(text.clone().unwrap_or_default());
    details.insert("profileStatus".to_owned(), if is_installed { "Installed" } else { "Released" }.into());
    details.insert("pin".to_owned(), text(&esim.profile.pin));
    details.insert("puk".to_owned(), text(&esim.profile.puk));
    let installed_at = if is_installed { since(installed_at) } else { Value::Null };
    details.insert("firstInstalledDateTime".to_owned(), installed_at);
    if request.parameter("additionalFields").contains("appleInstallUrl") {
        let code: String = form_urlencoded::byte_serialize(code.as_bytes()).collect();
        let url = format!("https://esimsetup.apple.com/esim_qrcode_provisioning?carddata={code}");
        details.insert("appleInstallUrl".to_owned(), url.into());
    }
    details
}

fn item(shop: &Shop, sales: &[&Sale], with_esims: bool) -> Value {
    let esims: Vec<ShopEsim> = sales
        .iter()
        .flat_map(|sale| match sale.added_to {
            Some(number) => shop.esim(number).into_iter().collect(),
            None => shop.esims(sale),
        })
        .collect();
    let asked: u32 = sales.iter().map(|sale| sale.asked).sum();
    let cents: i64 = sales.iter().map(|sale| sale.cents).sum();
    let each = sales.first().map_or(0, |sale| {
        let units = if sale.added_to.is_some() {
            1
        } else {
            i64::from(if sale.delivered > 0 { sale.delivered } else { sale.asked })
        };
        sale.cents.checked_div(units).unwrap_or(0)
    });
    let mut item = json!({
        "type": "bundle",
        "item": sales.first().map_or("", |sale| sale.plan.as_str()),
        "quantity": asked,
        "subTotal": decimal(cents),
        "pricePerUnit": decimal(each),
        "AllowReassign": false,
    });
    if with_esims && !esims.is_empty() {
        item["esims"] = esims.iter().map(|esim| Value::Object(installs(esim))).collect();
        item["iccids"] = esims.iter().map(|esim| Value::from(esim.profile.iccid.clone())).collect();
    }
    item
}

/// The sales of one order, those of data for several eSIMs taken together as they were ordered.
fn items(sales: &[Sale]) -> Vec<Vec<&Sale>> {
    let mut items: Vec<Vec<&Sale>> = Vec::new();
    for sale in sales {
        match items.last_mut() {
            Some(last)
                if sale.added_to.is_some() && last.iter().all(|it| it.added_to.is_some() && it.plan == sale.plan) =>
            {
                last.push(sale);
            }
            _ => items.push(vec![sale]),
        }
    }
    items
}

fn order(shop: &Shop, now: Timestamp, sales: &[Sale], with_esims: bool) -> Value {
    let is_ready = sales.iter().all(|sale| sale.added_to.is_some() || sale.is_ready(now));
    let assigned = sales.iter().any(|sale| sale.added_to.is_some() || sale.delivered > 0);
    let many: u32 = sales.iter().map(|sale| if sale.added_to.is_some() { 1 } else { sale.delivered }).sum();
    let cents: i64 = sales.iter().map(|sale| sale.cents).sum();
    let (status, message) = match (is_ready, assigned) {
        (false, _) => ("processing", "Order is being processed".to_owned()),
        (true, true) => ("completed", format!("Order completed: {many} eSIMs assigned")),
        (true, false) => ("completed", "Order completed".to_owned()),
    };
    json!({
        "order": items(sales).iter().map(|sales| item(shop, sales, with_esims && is_ready)).collect::<Vec<_>>(),
        "total": decimal(cents),
        "currency": "USD",
        "status": status,
        "statusMessage": message,
        "orderReference": sales.first().map_or("", |sale| sale.reference.as_str()),
        "createdDate": sales.first().map_or_else(String::new, |sale| sale.sold_at.to_string()),
        "assigned": assigned,
        "sourceIP": "127.0.0.1",
    })
}

/// What a body says under one name, whatever its letters' case: a service in Go takes them all.
fn field<'v>(fields: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn text(fields: &Map<String, Value>, name: &str) -> String {
    match field(fields, name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(yes)) => yes.to_string(),
        _ => String::new(),
    }
}

fn quantity(fields: &Map<String, Value>, name: &str) -> Option<u32> {
    let text = text(fields, name);
    if text.is_empty() { Some(1) } else { text.parse().ok() }
}

/// One line of an order as it was asked for.
struct Line {
    plan: String,
    quantity: u32,
    iccids: Vec<String>,
    allow_reassign: bool,
}

fn lines(request: &Request) -> Result<Vec<Line>, Reply> {
    let assign = text(&request.fields, "assign") == "true";
    let lines = field(&request.fields, "order").and_then(Value::as_array).filter(|lines| !lines.is_empty());
    let lines = lines.ok_or_else(|| refusal(400, "order is required"))?;
    let each = lines.iter().map(|line| {
        let line = line.as_object().filter(|line| text(line, "type") == "bundle");
        let line = line.ok_or_else(|| refusal(400, "order type must be bundle"))?;
        let iccids = field(line, "iccids").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let iccids: Vec<String> = iccids.iter().filter_map(crate::lenient::as_text).collect();
        let quantity = quantity(line, "quantity").filter(|quantity| *quantity > 0);
        let quantity = quantity.ok_or_else(|| refusal(400, "invalid quantity"))?;
        if !iccids.is_empty() && !assign {
            return Err(refusal(400, "iccids can only be specified if assign is true"));
        }
        if !iccids.is_empty() && usize::try_from(quantity) != Ok(iccids.len()) {
            return Err(refusal(400, "quantity must match the number of iccids"));
        }
        let allow_reassign = text(line, "allowReassign") == "true";
        Ok(Line { plan: text(line, "item"), quantity, iccids, allow_reassign })
    });
    each.collect()
}

fn validated(shop: &Shop, now: Timestamp, lines: &[Line], assigned: bool) -> Reply {
    let mut total = 0_i64;
    let mut items = Vec::new();
    for line in lines {
        let Some(listed) = shop.plan(&line.plan).filter(|listed| !listed.withdrawn) else {
            return no_sale(&NoSale::UnknownPlan);
        };
        let each = listed.plan.price_minor;
        let cents = each.saturating_mul(i64::from(line.quantity));
        total = total.saturating_add(cents);
        items.push(json!({"type": "bundle", "item": line.plan, "quantity": line.quantity, "subTotal": decimal(cents),
                          "pricePerUnit": decimal(each), "AllowReassign": line.allow_reassign}));
    }
    Reply::json(
        200,
        &json!({"order": items, "total": decimal(total), "valid": total <= shop.balance_cents(), "currency": "USD",
                "createdDate": now.to_string(), "assigned": assigned}),
    )
}

/// Sells a line: one sale, or one for each eSIM that gets data.
fn sell(shop: &Shop, now: Timestamp, reference: &str, line: &Line, assign: bool) -> Result<Vec<Sale>, Reply> {
    let wish = |quantity| Wish {
        reference: reference.to_owned(),
        plan: line.plan.clone(),
        quantity,
        notify_url: String::new(),
    };
    let refused = |error| no_sale(&error);
    if line.iccids.is_empty() {
        let wish = wish(line.quantity);
        let sale = if assign { shop.sell(now, &wish) } else { shop.sell_ahead(now, &wish) };
        return sale.map(|sale| vec![sale]).map_err(refused);
    }
    let esims: Result<Vec<ShopEsim>, Reply> = line.iccids.iter().map(|iccid| ours(shop, now, iccid)).collect();
    let each = esims?.into_iter().map(|esim| match shop.add(now, &wish(1), &esim) {
        Err(NoSale::NotAddable) if line.allow_reassign => shop.sell(now, &wish(1)).map_err(refused),
        added => added.map_err(refused),
    });
    each.collect()
}

fn create(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let assign = text(&request.fields, "assign") == "true";
    let lines = lines(request)?;
    match text(&request.fields, "type").as_str() {
        "validate" => return Ok(validated(shop, now, &lines, assign)),
        "transaction" => {}
        _ => return Err(refusal(400, "type must be validate or transaction")),
    }
    // All or nothing: what would fail later is found before anything is sold.
    let mut total = 0_i64;
    for line in &lines {
        let listed = shop.plan(&line.plan).filter(|listed| !listed.withdrawn);
        let listed = listed.ok_or_else(|| no_sale(&NoSale::UnknownPlan))?;
        total = total.saturating_add(listed.plan.price_minor.saturating_mul(i64::from(line.quantity)));
        if line.plan == special::REFUSES {
            return Err(no_sale(&NoSale::OutOfStock));
        }
        for iccid in &line.iccids {
            ours(shop, now, iccid)?;
            if !listed.plan.top_up_supported && !line.allow_reassign {
                return Err(no_sale(&NoSale::NotAddable));
            }
        }
    }
    if total > shop.balance_cents() {
        return Err(no_sale(&NoSale::InsufficientFunds));
    }
    let reference = reference(shop.next_number());
    let mut sales = Vec::new();
    for line in &lines {
        sales.extend(sell(shop, now, &reference, line, assign)?);
    }
    let many: u32 = lines.iter().map(|line| line.quantity).sum();
    let is_lost = sales.iter().any(Sale::answer_is_lost);
    Ok(Reply::json(200, &order(shop, now, &sales, many <= QUANTITY_PER_CALL)).lost_if(is_lost))
}

/// The orders, newest first; a use of the inventory is none.
fn orders(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let (page, size) = paging(request, "limit", 10);
    let with_esims = request.parameter("includeIccids") == "true";
    let mut sales = shop.sales();
    for (_, bound) in request.query.iter().filter(|(name, _)| name == "createdAt") {
        let (side, time) = bound.split_once(':').unwrap_or_default();
        let time: Timestamp = time.parse().map_err(|_| refusal(400, "invalid createdAt"))?;
        sales.retain(|sale| if side == "gte" { sale.sold_at >= time } else { sale.sold_at <= time });
    }
    let mut all: Vec<Vec<Sale>> = Vec::new();
    for sale in sales {
        match all.last_mut().filter(|last| last.iter().all(|it| it.reference == sale.reference)) {
            Some(last) => last.push(sale),
            None => all.push(vec![sale]),
        }
    }
    let some = all.iter().rev().skip((page - 1).saturating_mul(size)).take(size);
    Ok(Reply::json(200, &some.map(|sales| order(shop, now, sales, with_esims)).collect::<Vec<_>>().into()))
}

/// The eSIM with this ICCID, if the account may know of it.
fn ours(shop: &Shop, now: Timestamp, iccid: &str) -> Result<ShopEsim, Reply> {
    let esim = shop.esim_by_iccid(iccid).filter(|esim| esim.sale.is_ready(now));
    let has_left = |esim: &ShopEsim| {
        let is_bare = esim.life == EsimLife::Cancelled && esim.activated_at.is_none();
        is_bare && now.since(esim.changed_at) >= LEAVES_AFTER_MS
    };
    esim.filter(|esim| !has_left(esim)).ok_or_else(|| refusal(403, "eSIM is not accessible by the user"))
}

/// The bundles on an eSIM, oldest first: its data is used in this order.
fn assignments(shop: &Shop, now: Timestamp, esim: &ShopEsim) -> Vec<Assignment> {
    let mut sales = vec![esim.sale.clone()];
    sales.extend(shop.sales_added_to(esim));
    let mut left_to_use = esim.used_mb.saturating_mul(MEGABYTE);
    let mut next_begin = esim.activated_at;
    let mut is_active_taken = false;
    let mut assignments = Vec::new();
    for sale in sales {
        let Some(listed) = shop.plan(&sale.plan) else { continue };
        let initial = listed.plan.data_mb.unwrap_or(0).saturating_mul(MEGABYTE);
        let is_revoked = esim.life == EsimLife::Cancelled || shop.fate(esim, &sale).is_some();
        let used = if is_revoked { 0 } else { left_to_use.min(initial) };
        let is_used_up = !listed.plan.unlimited && used >= initial;
        let (begin, end) = match next_begin.filter(|_| !is_revoked) {
            Some(begin) => {
                let end = begin.plus_millis(listed.plan.validity_days.saturating_mul(DAY_MS));
                next_begin = Some(end);
                (Some(begin), Some(end))
            }
            None => (None, None),
        };
        let state = match esim.life {
            _ if is_revoked => "revoked",
            // Data added to an eSIM is there at once.
            _ if sale.added_to.is_none() && !sale.is_ready(now) => "processing",
            EsimLife::Released | EsimLife::Installed | EsimLife::Cancelled => "queued",
            EsimLife::Expired => "expired",
            EsimLife::UsedUp => "depleted",
            EsimLife::InUse if is_used_up => "depleted",
            EsimLife::InUse if is_active_taken => "queued",
            EsimLife::InUse => "active",
        };
        is_active_taken = is_active_taken || state == "active";
        left_to_use = left_to_use.saturating_sub(used);
        let has_begun = matches!(state, "active" | "depleted" | "expired");
        let index = if sale.added_to.is_some() { 0 } else { esim.number.saturating_sub(first_number(shop, &sale)) };
        assignments.push(Assignment {
            id: match sale.added_to {
                Some(_) => (200_000_001 + 2 * sale.number).to_string(),
                None => (200_000_000 + 2 * esim.number).to_string(),
            },
            reference: format!("{}-{index}", sale.reference),
            remaining: if state == "depleted" { 0 } else { initial.saturating_sub(used) },
            begin: begin.filter(|_| has_begun),
            end: end.filter(|_| has_begun),
            initial,
            state,
            sale,
            listed,
        });
    }
    assignments
}

fn first_number(shop: &Shop, sale: &Sale) -> i64 {
    shop.esims(sale).first().map_or(0, |esim| esim.number)
}

fn assignment(it: &Assignment) -> Value {
    let mut body = json!({
        "id": it.id,
        "callTypeGroup": "data",
        "initialQuantity": it.initial,
        "remainingQuantity": it.remaining,
        "assignmentDateTime": it.sale.sold_at.to_string(),
        "assignmentReference": it.reference,
        "bundleState": it.state,
        "unlimited": it.listed.plan.unlimited,
    });
    if let Some((begin, end)) = it.begin.zip(it.end) {
        body["startTime"] = begin.to_string().into();
        body["endTime"] = end.to_string().into();
    }
    body
}

fn bundles(shop: &Shop, now: Timestamp, esim: &ShopEsim, request: &Request) -> Result<Reply, Reply> {
    let limit = match request.parameter("limit") {
        "" => 15,
        limit => limit
            .parse()
            .ok()
            .filter(|limit| (1..=200).contains(limit))
            .ok_or_else(|| refusal(400, "limit must be between 1 and 200"))?,
    };
    let with_used = request.parameter("includeUsed") != "false";
    let mut bundles: Vec<(String, String, Vec<Value>)> = Vec::new();
    let all = assignments(shop, now, esim);
    let shown = all.iter().filter(|it| with_used || matches!(it.state, "processing" | "queued" | "active"));
    for it in shown.take(limit) {
        match bundles.iter_mut().find(|(name, ..)| *name == it.sale.plan) {
            Some((.., assignments)) => assignments.push(assignment(it)),
            None => bundles.push((it.sale.plan.clone(), it.listed.plan.name.clone(), vec![assignment(it)])),
        }
    }
    let bundles = bundles.into_iter().map(|(name, description, assignments)| {
        json!({"name": name, "description": description, "assignments": assignments})
    });
    Ok(Reply::json(200, &json!({"bundles": bundles.collect::<Vec<_>>()})))
}

fn history(shop: &Shop, now: Timestamp, esim: &ShopEsim) -> Reply {
    let mut entries: Vec<(Timestamp, &str, String)> = Vec::new();
    for it in assignments(shop, now, esim) {
        let name = it.sale.plan.clone();
        entries.push((it.sale.sold_at, "Bundle Applied", name.clone()));
        if let Some((fate, at)) = shop.fate(esim, &it.sale) {
            entries.push((at, "Bundle Revoked", name.clone()));
            match fate {
                Fate::Refunded => entries.push((at, "Bundle Refunded To Balance", name.clone())),
                Fate::Kept => entries.push((at, "Bundle Refunded to Inventory", name.clone())),
                Fate::Lost => {}
            }
        }
        if let Some(begin) = it.begin {
            entries.push((begin, "eSIM First Use", name.clone()));
        }
        if let Some(end) = it.end.filter(|_| matches!(it.state, "expired" | "depleted")) {
            entries.push((end.min(now), "Bundle Expired", name));
        }
    }
    let entries = entries
        .into_iter()
        .map(|(at, name, bundle)| json!({"name": name, "bundleName": bundle, "date": at.to_string()}));
    Reply::json(200, &entries.collect::<Vec<_>>().into())
}

fn location(shop: &Shop, esim: &ShopEsim) -> Reply {
    let plan = shop.plan(&esim.sale.plan).map(|listed| listed.plan);
    let network = plan.as_ref().and_then(|plan| plan.networks.first()).filter(|_| esim.activated_at.is_some());
    let Some(network) = network else { return refusal(400, "eSIM has no location") };
    Reply::json(
        200,
        &json!({"mobileNetworkCode": "", "networkName": network.operator, "networkBrandName": network.operator,
                "country": network.country, "lastSeen": esim.changed_at.to_string()}),
    )
}

/// Takes a bundle off an eSIM: the one with this id, or the oldest of this name that has not begun.
fn revoke(shop: &Shop, now: Timestamp, request: &Request, esim: &ShopEsim, name: &str, id: Option<&str>) -> Reply {
    let all = assignments(shop, now, esim);
    let there = || all.iter().filter(|it| it.sale.plan == name && it.state != "revoked");
    let found = match id {
        Some(id) => there().find(|it| it.id == id),
        None => there().find(|it| it.begin.is_none()).or_else(|| there().next()),
    };
    let Some(found) = found else { return refusal(400, "bundle not found on eSIM") };
    let is_refundable = matches!(found.state, "queued" | "processing")
        && now.since(found.sale.sold_at) <= REFUNDED_WITHIN_MS
        && found.sale.plan != special::KEEPS;
    let to_balance = request.parameter("refundToBalance") == "true";
    if to_balance && id.is_none() && request.parameter("offerId").is_empty() {
        return refusal(400, "offerId is required to refund to balance");
    }
    let (fate, message) = match (is_refundable, to_balance) {
        (true, true) => (Fate::Refunded, "Successfully Revoked Bundle, bundle has been refunded to balance"),
        (true, false) => (Fate::Kept, "Successfully Revoked Bundle, bundle has been refunded to inventory"),
        (false, _) => (Fate::Lost, "Successfully Revoked Bundle"),
    };
    match request.parameter("type") {
        "validate" if is_refundable => return status("Bundle can be revoked and refunded"),
        "validate" => return status("Bundle can be revoked and will not be refunded"),
        "" | "transaction" => {}
        _ => return refusal(400, "type must be validate or transaction"),
    }
    match shop.revoke(now, esim, &found.sale, fate) {
        Ok(()) => status(message),
        Err(_) => refusal(500, "Internal Server Error"),
    }
}

/// Puts bundles from the inventory on eSIMs.
fn apply(shop: &Shop, now: Timestamp, fields: &Map<String, Value>, iccid: &str) -> Result<(String, Vec<Value>), Reply> {
    let one = [Value::Object(fields.clone())];
    let wanted = field(fields, "bundles").and_then(Value::as_array).map_or(&one[..], Vec::as_slice);
    let reference = reference(shop.next_number());
    let mut esims = Vec::new();
    for wanted in wanted.iter().filter_map(Value::as_object) {
        let plan = Some(text(wanted, "bundle")).filter(|name| !name.is_empty()).unwrap_or_else(|| text(wanted, "name"));
        if plan.is_empty() {
            return Err(refusal(400, "bundle is required"));
        }
        let quantity = quantity(wanted, "repeat").filter(|many| *many > 0);
        let quantity = quantity.ok_or_else(|| refusal(400, "invalid repeat"))?;
        if !iccid.is_empty() && quantity > 1 {
            return Err(refusal(400, "repeat cannot be used with iccid"));
        }
        let esim = if iccid.is_empty() { None } else { Some(ours(shop, now, iccid)?) };
        let wish = Wish { reference: reference.clone(), plan, quantity, notify_url: String::new() };
        let sold = match shop.sell_from_stock(now, &wish, esim.as_ref()) {
            Err(NoSale::NotAddable) if text(wanted, "allowReassign") == "true" => {
                shop.sell_from_stock(now, &wish, None)
            }
            sold => sold,
        };
        let sale = sold.map_err(|error| match error {
            NoSale::OutOfStock => refusal(403, "no available bundles left"),
            error => no_sale(&error),
        })?;
        let got = match esim.filter(|_| sale.added_to.is_some()) {
            Some(esim) => vec![esim],
            None => shop.esims(&sale),
        };
        esims.extend(got.iter().map(
            |esim| json!({"iccid": esim.profile.iccid, "status": "Successfully Applied Bundle", "bundle": wish.plan}),
        ));
    }
    Ok((reference, esims))
}

/// What installs the eSIMs of orders, of uses of the inventory, or of single assignments.
fn install_details(shop: &Shop, now: Timestamp, request: &Request, references: &[String]) -> Result<Reply, Reply> {
    let mut esims = Vec::new();
    for reference in references {
        let whole = shop.sales_of(reference);
        let (of_order, index) = reference.rsplit_once('-').unwrap_or_default();
        let (sales, index) = match whole.is_empty() {
            true => (shop.sales_of(of_order), index.parse::<usize>().ok()),
            false => (whole, None),
        };
        if sales.is_empty() {
            return Err(refusal(400, "reference not found"));
        }
        if sales.iter().any(|sale| sale.added_to.is_none() && !sale.is_ready(now)) {
            return Err(refusal(503, "Order is being processed").with("retry-after", "5"));
        }
        let all = sales.iter().flat_map(|sale| match sale.added_to {
            Some(number) => shop.esim(number).into_iter().collect(),
            None => shop.esims(sale),
        });
        esims.extend(all.enumerate().filter(|(at, _)| index.is_none_or(|index| index == *at)).map(|(_, esim)| esim));
    }
    let each: Vec<Value> =
        esims.iter().map(|esim| details(esim, request, |time| time.to_string().into()).into()).collect();
    let accept = request.header("accept");
    if accept.contains("application/zip") {
        return Err(refusal(400, "this simulator draws no QR codes"));
    }
    if accept.contains("application/json") {
        let body = if each.len() == 1 { each.first().cloned().unwrap_or_default() } else { each.into() };
        return Ok(Reply::json(200, &body));
    }
    // The names of the columns are not published: these are those of the fields.
    let names = ["iccid", "matchingId", "smdpAddress", "profileStatus", "pin", "puk", "firstInstalledDateTime"];
    let mut table = format!("{}\r\n", names.join(","));
    for esim in &each {
        let cells = names.map(|name| crate::lenient::text(esim, name).unwrap_or_default());
        table = format!("{table}{}\r\n", cells.join(","));
    }
    Ok(Reply::text(200, "text/csv", &table))
}

fn esims(shop: &Shop, now: Timestamp, request: &Request) -> Reply {
    let (page, size) = paging(request, "perPage", 10);
    let (by, wanted) = (request.parameter("filterBy"), request.parameter("filter"));
    let sales = shop.sales();
    let all = sales.iter().filter(|sale| sale.is_ready(now)).flat_map(|sale| shop.esims(sale));
    let mut all: Vec<Value> = all
        .filter(|esim| ours(shop, now, &esim.profile.iccid).is_ok())
        .map(|esim| {
            let action = if esim.life == EsimLife::Cancelled { "Bundle Revoked" } else { "Bundle Applied" };
            json!({"iccid": esim.profile.iccid, "customerRef": shop.label(&esim), "lastAction": action,
                   "actionDate": esim.changed_at.to_string(), "physical": false,
                   "assignedDate": esim.sale.sold_at.to_string()})
        })
        .filter(|esim| {
            by.is_empty() || wanted.is_empty() || crate::lenient::text(esim, by).is_some_and(|it| it.contains(wanted))
        })
        .collect();
    if request.parameter("orderBy") == "iccid" {
        all.sort_by_key(|esim| crate::lenient::text(esim, "iccid"));
    }
    if request.parameter("direction").eq_ignore_ascii_case("desc") {
        all.reverse();
    }
    let rows = all.len();
    let some: Vec<Value> = all.into_iter().skip((page - 1).saturating_mul(size)).take(size).collect();
    Reply::json(200, &json!({"esims": some, "pageCount": rows.div_ceil(size), "rows": rows}))
}

fn inventory(shop: &Shop) -> Reply {
    let mut bundles: Vec<Value> = Vec::new();
    for stock in shop.stock() {
        let Some(listed) = shop.plan(&stock.plan) else { continue };
        let expiry = stock.bought_at.plus_millis(365 * DAY_MS).to_string();
        let available = json!({"id": stock.number, "total": stock.total, "remaining": stock.left, "expiry": expiry});
        let known = bundles.iter_mut().find(|bundle| bundle["name"] == stock.plan.as_str());
        if let Some(all) = known.and_then(|bundle| bundle["available"].as_array_mut()) {
            all.push(available);
            continue;
        }
        let whole = bundle(&listed);
        bundles.push(json!({
            "name": stock.plan, "desc": listed.plan.name, "useDms": false, "available": [available],
            "countries": listed.plan.countries, "data": amount(&listed), "duration": listed.plan.validity_days,
            "durationUnit": "day", "autostart": true, "unlimited": listed.plan.unlimited, "speed": whole["speed"],
            "allowances": whole["allowances"],
        }));
    }
    Reply::json(200, &json!({"bundles": bundles}))
}

fn pay(shop: &Shop, request: &Request) -> Reply {
    let amount = Some(request.parameter("amount").to_owned()).filter(|text| !text.is_empty());
    let amount: Option<i64> = amount.unwrap_or_else(|| request.text("amount")).parse().ok();
    let Some(amount) = amount.filter(|amount| (LEAST_PAYMENT..=MOST_PAYMENT).contains(amount)) else {
        return refusal(400, "amount is out of range");
    };
    let balance = shop.balance_cents().saturating_add(amount.saturating_mul(100));
    match shop.set_balance(balance) {
        Ok(()) => Reply::json(200, &json!({"amount": amount, "balance": decimal(balance), "ref": shop.next_number()})),
        Err(_) => refusal(500, "Internal Server Error"),
    }
}

impl EsimGo {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials, buying: Mutex::new(()) }
    }

    fn organisation(&self, shop: &Shop) -> Reply {
        Reply::json(
            200,
            &json!({
                "name": "Sandbox", "apiKey": self.credentials.secret, "taxLiable": "No", "addr1": "", "addr2": "",
                "city": "", "country": "", "postcode": "", "callbackUrl": shop.callback_url(), "notes": "",
                "groups": ["Standard Fixed", "Standard Unlimited Essential"], "currency": "USD",
                "balance": decimal(shop.balance_cents()), "testCredit": 0, "testCreditExpiry": null,
                "businessType": "", "website": "", "productDescription": "", "users": [],
            }),
        )
    }

    fn route(&self, shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
        if !is_same(request.header("x-api-key"), &self.credentials.secret) {
            return Err(refusal(403, "access denied"));
        }
        let path: Vec<String> = request.path.trim_matches('/').split('/').map(unescape).collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let Some((&("v2.1" | "v2.2" | "v2.3" | "v2.4" | "v2.5"), path)) = path.split_first() else {
            return Err(refusal(403, "Missing Authentication Token"));
        };
        match (request.method.as_str(), path) {
            ("GET", ["catalogue"]) => Ok(catalogue(shop, request)),
            ("GET", ["catalogue", "bundle", name]) => {
                let listed = shop.plan(name).filter(|listed| !listed.withdrawn);
                let listed = listed.ok_or_else(|| no_sale(&NoSale::UnknownPlan))?;
                Ok(Reply::json(200, &bundle(&listed)))
            }
            ("GET", ["networks"]) => Ok(networks(shop, request)),
            ("GET", ["organisation"]) => Ok(self.organisation(shop)),
            ("POST", ["organisation", "balance"]) => Ok(pay(shop, request)),
            ("GET", ["organisation", "groups"]) => {
                let groups = ["Standard Fixed", "Standard Unlimited Essential"];
                Ok(Reply::json(200, &json!({"groups": groups.map(|name| json!({"name": name}))})))
            }
            ("POST", ["orders"]) => {
                let _buying = self.buying.lock().unwrap_or_else(PoisonError::into_inner);
                create(shop, now, request)
            }
            ("GET", ["orders"]) => orders(shop, now, request),
            ("GET", ["orders", reference]) => {
                let sales = shop.sales_of(reference);
                if sales.is_empty() {
                    return Err(refusal(400, "order not found"));
                }
                Ok(Reply::json(200, &order(shop, now, &sales, true)))
            }
            ("GET", ["inventory"]) => Ok(inventory(shop)),
            ("POST", ["inventory", "refund"]) => {
                let (id, many) = (request.integer("usageId"), request.integer("quantity"));
                let (id, many) = id.zip(many).ok_or_else(|| refusal(400, "usageId and quantity are required"))?;
                let done = Reply::json(
                    200,
                    &json!({"message": "Successfully refunded bundles to balance",
                                                    "status": "Successfully refunded bundles to balance"}),
                );
                shop.refund_stock(id, many).map(|()| done).map_err(|_| refusal(400, "nothing to refund"))
            }
            (_, ["esims", rest @ ..]) => self.of_esims(shop, now, request, rest),
            _ => Err(refusal(403, "Missing Authentication Token")),
        }
    }

    fn of_esims(&self, shop: &Shop, now: Timestamp, request: &Request, path: &[&str]) -> Result<Reply, Reply> {
        match (request.method.as_str(), path) {
            ("GET", []) => Ok(esims(shop, now, request)),
            ("PUT", []) => {
                let said = |name| Some(request.text(name)).filter(|text| !text.is_empty());
                let said = |name| said(name).unwrap_or_else(|| request.parameter(name).to_owned());
                let esim = ours(shop, now, &said("iccid"))?;
                let noted = shop.set_label(&esim, &said("customerRef"));
                noted.map(|()| status("success")).map_err(|_| refusal(500, "Internal Server Error"))
            }
            ("POST", ["apply"]) => {
                let _buying = self.buying.lock().unwrap_or_else(PoisonError::into_inner);
                let (reference, esims) = apply(shop, now, &request.fields, &request.text("iccid"))?;
                Ok(Reply::json(200, &json!({"esims": esims, "applyReference": reference})))
            }
            ("GET", ["assignments"]) => {
                let given = request.query.iter().filter(|(name, _)| name == "reference" || name == "references");
                let given = given.flat_map(|(_, value)| value.split(',').map(|one| one.trim().to_owned()));
                let references: Vec<String> = given.filter(|one| !one.is_empty()).collect();
                if references.is_empty() {
                    return Err(refusal(400, "reference is required"));
                }
                install_details(shop, now, request, &references)
            }
            ("GET", ["assignments", reference]) => install_details(shop, now, request, &[(*reference).to_owned()]),
            (method, [iccid, rest @ ..]) => {
                let esim = ours(shop, now, iccid)?;
                match (method, rest) {
                    ("GET", []) => {
                        let mut details = details(&esim, request, |time| time.millis().into());
                        details.insert("customerRef".to_owned(), shop.label(&esim).into());
                        Ok(Reply::json(200, &details.into()))
                    }
                    ("GET", ["history"]) => Ok(history(shop, now, &esim)),
                    ("GET", ["refresh"]) => Ok(status("Successfully refreshed SIM")),
                    ("GET", ["location"]) => Ok(location(shop, &esim)),
                    ("GET", ["compatible", name]) => {
                        let listed = shop.plan(name).filter(|listed| !listed.withdrawn);
                        let listed = listed.ok_or_else(|| no_sale(&NoSale::UnknownPlan))?;
                        let is_over = matches!(esim.life, EsimLife::Expired | EsimLife::Cancelled);
                        Ok(Reply::json(200, &json!({"compatible": listed.plan.top_up_supported && !is_over})))
                    }
                    ("POST", ["sms"]) => match request.text("message").chars().count() {
                        1..=160 => Ok(status("sent")),
                        _ => Err(refusal(400, "message must have 1 to 160 characters")),
                    },
                    ("GET", ["bundles"]) => bundles(shop, now, &esim, request),
                    ("POST", ["bundles"]) => {
                        let _buying = self.buying.lock().unwrap_or_else(PoisonError::into_inner);
                        apply(shop, now, &request.fields, iccid)?;
                        Ok(status("Successfully Applied Bundle"))
                    }
                    ("GET", ["bundles", name]) => {
                        let all = assignments(shop, now, &esim);
                        let last = all.iter().rfind(|it| it.sale.plan == *name);
                        let last = last.ok_or_else(|| refusal(400, "bundle not found on eSIM"))?;
                        Ok(Reply::json(200, &json!({"assignments": [assignment(last)]})))
                    }
                    ("DELETE", ["bundles", name]) => Ok(revoke(shop, now, request, &esim, name, None)),
                    ("DELETE", ["bundles", name, "assignments", id]) => {
                        Ok(revoke(shop, now, request, &esim, name, Some(id)))
                    }
                    _ => Err(refusal(403, "Missing Authentication Token")),
                }
            }
            _ => Err(refusal(403, "Missing Authentication Token")),
        }
    }
}

impl Dialect for EsimGo {
    fn answer(&self, shop: &Shop, now: Timestamp, request: &Request) -> Reply {
        self.route(shop, now, request).unwrap_or_else(|refused| refused)
    }

    fn too_many_requests(&self) -> Reply {
        no_sale(&NoSale::Busy)
    }

    fn callback(&self, now: Timestamp, news: &News) -> Option<Outgoing> {
        // Nothing is told of orders, and of an eSIM only what is done with its data.
        let (alert, with_bundle) = match news.word.as_str() {
            "installed" => ("FirstAttachment", false),
            "in_use" => ("FirstUse", true),
            "used_up" => ("Utilisation", true),
            _ => return None,
        };
        let esim = news.esim.as_ref()?;
        let mut body = json!({"iccid": esim.profile.iccid, "alertType": alert});
        if with_bundle {
            let total_mb = esim.total_mb.unwrap_or(0);
            let left_mb = total_mb.saturating_sub(esim.used_mb).max(0);
            body["bundle"] = json!({
                "id": (200_000_000 + 2 * esim.number).to_string(),
                "reference": format!("{}-0", esim.sale.reference),
                "name": esim.sale.plan,
                "description": esim.sale.plan,
                "initialQuantity": total_mb.saturating_mul(MEGABYTE),
                "remainingQuantity": left_mb.saturating_mul(MEGABYTE),
                "startTime": esim.activated_at.unwrap_or(now).to_string(),
                "endTime": esim.expires_at.unwrap_or(now).to_string(),
                "unlimited": esim.total_mb.is_none(),
            });
        }
        let body = body.to_string().into_bytes();
        let signature = STANDARD.encode(mac(HMAC_SHA256, self.credentials.secret.as_bytes(), &[&body]));
        Some(Outgoing { headers: vec![("x-signature-sha256", signature)], content_type: "application/json", body })
    }

    fn is_acknowledged(&self, status: u16, _body: &str) -> bool {
        (200..300).contains(&status)
    }

    fn retry_ms(&self, attempts: u32) -> Option<i64> {
        // Neither number nor pauses are published.
        (attempts < 5).then_some(5_000)
    }
}
