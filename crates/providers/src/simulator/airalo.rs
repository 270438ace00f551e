//! Airalo's side of its wire, as its reference describes it and as the vendor's own clients speak it, in the mode
//! Airalo calls sandbox: packages whose names begin with `test-` go wrong on purpose, and future orders are worked on
//! at once. Prices for travellers are this simulator's own.

use super::dialect::{Credentials, Dialect, Outgoing};
use super::quota::{Left, Quota, Quotas};
use super::shop::{EsimLife, MILESTONES, News, NoSale, Sale, Shop, ShopEsim, ShopPlan, Wish};
use super::wire::{Reply, Request};
use crate::airalo::{signature, spellings};
use crate::lenient::{as_text, local_text, local_time};
use crate::sandbox::{CataloguePlan, catalogue, special};
use crate::signing::{hmac_sha256, is_same};
use domain::time::Timestamp;
use serde_json::{Map, Value, json};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const TOKEN_LIFE_MS: i64 = DAY_MS;
/// What `expires_in` tells, seconds: the reference's own example, whatever it says of 24 hours.
const EXPIRES_IN: i64 = 31_622_400;
/// The most eSIMs of an order.
const MOST_ESIMS: i64 = 50;
/// The most eSIMs of one request for a refund.
const MOST_REFUNDS: usize = 5;
/// The most future orders of one cancellation.
const MOST_CANCELLED: usize = 10;
/// The most letters of the notes to a request for a refund.
const MOST_NOTES: usize = 255;
const RETRIES: u32 = 20;
const RETRY_MS: i64 = 15 * 60_000;
const TOP_UP: &str = "-topup";
const CREDIT_LEVELS: [i64; 4] = [50, 70, 80, 90];

const TOKENS: Quota = Quota::a_minute(3);
const PACKAGES: Quota = Quota::a_minute(80);
const USAGE_OF_ONE: Quota = Quota::a_minute(10);
const USAGE: Quota = Quota::a_second(5);
const HISTORY_OF_ONE: Quota = Quota::a_minute(10);
const REFUNDS: Quota = Quota::a_minute(5);
const SIMULATED: Quota = Quota::a_minute(5);

const LOW_DATA: &str = "webhook_low_data";
const CREDIT_LIMIT: &str = "webhook_credit_limit";
const ASYNC_ORDERS: &str = "async_orders";
const NOTIFICATIONS: [&str; 5] = [LOW_DATA, CREDIT_LIMIT, ASYNC_ORDERS, "email_low_data", "email_credit_limit"];

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

/// The dialect.
pub(super) struct Airalo {
    credentials: Credentials,
    quotas: Quotas,
}

fn success(data: &Value) -> Reply {
    Reply::json(200, &json!({"data": data, "meta": {"message": "success"}}))
}

fn refusal(code: i64) -> Reply {
    let reason = match code {
        11 => "Insufficient Airalo Credit",
        13 => "The requested operator is currently undergoing maintenance. Please try again later.",
        14 => "Invalid checksum",
        23 => "The requested top-up has been disabled by the operator.",
        33 => "Insufficient stock of eSIMs remaining. Please try your request again later.",
        34 => "The requested eSIM package is invalid or it is currently out of stock. Please try again later.",
        73 => "The eSIM has been recycled. It can no longer be used or topped up.",
        _ => "Something unexpected happened. Please try again later.",
    };
    Reply::json(422, &json!({"code": code, "reason": reason}))
}

fn invalid(field: &str, told: &str) -> Reply {
    Reply::json(422, &json!({"data": {field: told}, "meta": {"message": "the parameter is invalid"}}))
}

fn not_found() -> Reply {
    Reply::json(404, &json!({"data": [], "meta": {"message": "messages.resource_not_found"}}))
}

fn unauthorized() -> Reply {
    let message = "Authentication failed. This could be due to an expired token, please generate a new token.";
    Reply::json(401, &json!({"data": [], "meta": {"message": message}}))
}

fn too_many() -> Reply {
    Reply::json(429, &json!({"message": "Too Many Attempts."}))
}

fn broken(_: rusqlite::Error) -> Reply {
    refusal(53)
}

fn required(field: &str) -> Reply {
    invalid(field, &format!("The {} field is required.", field.replace('_', " ")))
}

/// Cents as the decimal number of dollars that PHP writes: 4.5, 10.
fn dollars(cents: i64) -> Value {
    let text = format!("{}.{:02}", cents / 100, cents % 100);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    serde_json::from_str(text).unwrap_or_default()
}

fn dollars_text(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// What a traveller pays at least: a quarter more than the partner.
fn retail(cents: i64) -> i64 {
    cents.saturating_mul(5) / 4
}

fn time(time: Timestamp) -> String {
    local_text(time, 0)
}

fn minute(time: Timestamp) -> String {
    local_text(time, 0).get(..16).unwrap_or_default().to_owned()
}

/// RFC 3339 with an offset, as the history of packages has it.
fn offset_time(time: Timestamp) -> String {
    format!("{}+00:00", local_text(time, 0).replace(' ', "T"))
}

fn total_mb(plan: &CataloguePlan) -> i64 {
    plan.data_mb.or(plan.daily_data_mb.map(|daily| daily.saturating_mul(plan.validity_days))).unwrap_or(0)
}

fn data_words(plan: &CataloguePlan) -> String {
    match total_mb(plan) {
        0 => "Unlimited".to_owned(),
        total if total % 1_024 == 0 => format!("{} GB", total / 1_024),
        total => format!("{total} MB"),
    }
}

fn title(plan: &CataloguePlan) -> String {
    format!("{} - {} Days", data_words(plan), plan.validity_days)
}

/// What all plans of one coverage have in common: their country or region.
fn place(plan: &CataloguePlan) -> String {
    match plan.kind {
        "global" => "World".to_owned(),
        "regional" => plan.region.unwrap_or_default().to_owned(),
        _ => plan.countries.first().copied().unwrap_or_default().to_owned(),
    }
}

fn slug(plan: &CataloguePlan) -> String {
    place(plan).to_lowercase().replace(' ', "-")
}

fn operator_title(plan: &CataloguePlan) -> String {
    format!("{} Mobile", place(plan))
}

fn package_name(plan: &CataloguePlan) -> String {
    format!("{}-{}", operator_title(plan), title(plan))
}

fn esim_type(plan: &CataloguePlan) -> &'static str {
    if plan.kind == "local" { "local" } else { "global" }
}

fn package(plan: &CataloguePlan, is_top_up: bool) -> Value {
    let net = plan.price_minor;
    json!({
        "id": if is_top_up { format!("{}{TOP_UP}", plan.upstream_plan_id) } else { plan.upstream_plan_id.clone() },
        "type": if is_top_up { "topup" } else { "sim" },
        "price": dollars(retail(net)),
        "amount": total_mb(plan),
        "day": plan.validity_days,
        "is_unlimited": plan.unlimited,
        "title": title(plan),
        "short_info": Value::Null,
        "qr_installation": Value::Null,
        "manual_installation": Value::Null,
        "is_fair_usage_policy": plan.fair_use.is_some(),
        "fair_usage_policy": plan.fair_use,
        "data": data_words(plan),
        "voice": Value::Null,
        "text": Value::Null,
        "net_price": dollars(net),
        "prices": {
            "net_price": {"USD": dollars(net)},
            "recommended_retail_price": {"USD": dollars(retail(net))},
        },
    })
}

fn image(name: &str) -> Value {
    json!({"width": 132, "height": 99, "url": format!("https://cdn.airalo.example/images/{name}.png")})
}

/// An operator sells what has one coverage and one way to begin.
fn operator(number: usize, plans: &[&CataloguePlan], with_top_ups: bool) -> Value {
    let Some(plan) = plans.first() else { return Value::Null };
    let coverages: Vec<Value> = plan
        .countries
        .iter()
        .map(|country| {
            let networks = plan.networks.iter().filter(|network| network.country == *country);
            let networks: Vec<Value> = networks
                .map(|network| {
                    let technology = if network.technology == "4G" { "LTE" } else { network.technology };
                    json!({"name": network.operator, "types": [technology]})
                })
                .collect();
            json!({"name": country, "code": country, "networks": networks})
        })
        .collect();
    let countries: Vec<Value> = plan
        .countries
        .iter()
        .map(|country| json!({"country_code": country, "title": country, "image": image(country)}))
        .collect();
    let mut packages: Vec<Value> = plans.iter().map(|plan| package(plan, false)).collect();
    if with_top_ups {
        packages.extend(plans.iter().filter(|plan| plan.top_up_supported).map(|plan| package(plan, true)));
    }
    json!({
        "id": number,
        "style": "light",
        "gradient_start": "#17332c",
        "gradient_end": "#33928d",
        "type": esim_type(plan),
        "is_prepaid": false,
        "title": operator_title(plan),
        "esim_type": "Prepaid",
        "warning": Value::Null,
        "apn_type": "manual",
        "apn_value": "internet.sandbox",
        "is_roaming": true,
        "info": [format!("{} Data-only eSIM.", plan.speed), "Rechargeable online with no expiry."],
        "image": image("operator"),
        "plan_type": "data",
        "activation_policy": if plan.activation == "on_install" { "installation" } else { "first-usage" },
        "is_kyc_verify": false,
        "rechargeability": plan.top_up_supported,
        "other_info": plan.description,
        "is_fair_usage_policy": plan.fair_use.is_some(),
        "fair_usage_policy": plan.fair_use,
        "coverages": coverages,
        "install_window_days": 180,
        "topup_grace_window_days": Value::Null,
        "apn": {
            "ios": {"apn_type": "manual", "apn_value": "internet.sandbox"},
            "android": {"apn_type": "manual", "apn_value": "internet.sandbox"},
        },
        "packages": packages,
        "countries": countries,
    })
}

fn places(shop: &Shop, request: &Request) -> Vec<Value> {
    let plans = shop.plans();
    let (wanted, country) = (request.parameter("filter[type]"), request.parameter("filter[country]").to_uppercase());
    let plans = plans.iter().map(|listed| &listed.plan).filter(|plan| {
        (wanted.is_empty() || esim_type(plan) == wanted)
            && (country.is_empty() || (plan.kind == "local" && plan.countries.contains(&country.as_str())))
    });
    // One entry for each place, in it one operator for each way to begin; both in the order of the list.
    let mut places: Vec<(String, Vec<Vec<&CataloguePlan>>)> = Vec::new();
    for plan in plans {
        let slug = slug(plan);
        let index = places.iter().position(|(known, _)| *known == slug).unwrap_or_else(|| {
            places.push((slug, Vec::new()));
            places.len() - 1
        });
        let operators = &mut places[index].1;
        let same =
            |one: &CataloguePlan| (one.activation, one.top_up_supported) == (plan.activation, plan.top_up_supported);
        match operators.iter_mut().find(|plans| plans.first().is_some_and(|one| same(one))) {
            Some(plans) => plans.push(plan),
            None => operators.push(vec![plan]),
        }
    }
    let with_top_ups = request.parameter("include").split(',').any(|include| include == "topup");
    let mut number = 0;
    places
        .into_iter()
        .filter_map(|(slug, operators)| {
            let first = *operators.first()?.first()?;
            let least = operators.iter().flatten().map(|plan| plan.price_minor).min().unwrap_or(0);
            let operators: Vec<Value> = operators
                .iter()
                .map(|plans| {
                    number += 1;
                    operator(number, plans, with_top_ups)
                })
                .collect();
            Some(json!({
                "slug": slug,
                "country_code": if first.kind == "local" { place(first) } else { String::new() },
                "title": place(first),
                "image": image(&slug),
                "min_price": {
                    "net_price": {"USD": dollars(least)},
                    "recommended_retail_price": {"USD": dollars(retail(least))},
                },
                "operators": operators,
            }))
        })
        .collect()
}

/// A page of a list with its links; `size` is the page's where the client names none.
struct Page {
    entries: Vec<Value>,
    number: usize,
    begins: usize,
    links: Value,
    meta: Value,
}

fn page(request: &Request, all: Vec<Value>, size: usize) -> Result<Page, Reply> {
    let number = |name: &str, default: usize| match request.parameter(name) {
        "" => Ok(default),
        text => text
            .parse::<usize>()
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| invalid(name, &format!("The {name} must be an integer."))),
    };
    let (page, size) = (number("page", 1)?, number("limit", size)?);
    let total = all.len();
    let last = total.div_ceil(size).max(1);
    let begins = (page - 1).saturating_mul(size);
    let entries: Vec<Value> = all.into_iter().skip(begins).take(size).collect();
    let host = request.header("host");
    let path = format!("http://{host}{}", request.path);
    let others = request.query.iter().filter(|(name, _)| name != "page");
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(others).finish();
    let link = |page: usize| format!("{path}?{query}{}page={page}", if query.is_empty() { "" } else { "&" });
    let (from, to) = match entries.len() {
        0 => (Value::Null, Value::Null),
        here => ((begins + 1).into(), (begins + here).into()),
    };
    Ok(Page {
        number: page,
        begins,
        links: json!({
            "first": link(1),
            "last": link(last),
            "prev": (page > 1).then(|| link(page - 1)),
            "next": (page < last).then(|| link(page + 1)),
        }),
        meta: json!({
            "message": "success",
            "current_page": page,
            "from": from,
            "last_page": last,
            "path": path,
            "per_page": size.to_string(),
            "to": to,
            "total": total,
        }),
        entries,
    })
}

impl Page {
    fn reply(self) -> Reply {
        Reply::json(200, &json!({"data": self.entries, "links": self.links, "meta": self.meta}))
    }
}

fn pricing() -> Value {
    json!({"model": "net_pricing", "discount_percentage": 0})
}

fn packages(shop: &Shop, request: &Request) -> Result<Reply, Reply> {
    let places = places(shop, request);
    // Without a limit all come at once.
    let all = places.len().max(1);
    let page = page(request, places, all)?;
    let data = if page.number == 1 {
        Value::from(page.entries)
    } else {
        // Entries of further pages keep their number in the whole list, which makes an object of them.
        let numbered = page.entries.into_iter().enumerate();
        let numbered: Map<String, Value> =
            numbered.map(|(index, entry)| ((page.begins + index).to_string(), entry)).collect();
        if numbered.is_empty() { json!([]) } else { numbered.into() }
    };
    Ok(Reply::json(200, &json!({"pricing": pricing(), "data": data, "links": page.links, "meta": page.meta})))
}

fn brand_of(shop: &Shop, esim: &ShopEsim) -> Option<String> {
    shop.remembered(&format!("airalo/brand/{}", esim.profile.iccid))
}

fn sim(esim: &ShopEsim) -> Value {
    let profile = &esim.profile;
    let apn = json!({"apn_type": "manual", "apn_value": profile.apn});
    json!({
        "id": esim.number,
        "created_at": time(esim.sale.sold_at),
        "iccid": profile.iccid,
        "lpa": profile.smdp_address,
        "imsis": Value::Null,
        "matching_id": profile.matching_id,
        "qrcode": profile.activation_code,
        "qrcode_url": format!("https://www.airalo.example/qr?id={}", esim.number),
        "airalo_code": Value::Null,
        "apn_type": "manual",
        "apn_value": profile.apn,
        "is_roaming": true,
        "confirmation_code": profile.confirmation_code,
        "apn": {"ios": apn.clone(), "android": apn},
        "msisdn": profile.msisdn,
        "direct_apple_installation_url": apple_link(esim),
    })
}

/// Apple's page that installs a profile.
fn apple_link(esim: &ShopEsim) -> String {
    format!("https://esimsetup.apple.com/esim_qrcode_provisioning?carddata={}", esim.profile.activation_code)
}

fn code(sale: &Sale) -> String {
    let day = time(sale.sold_at).get(..10).unwrap_or_default().replace('-', "");
    format!("{day}-{:06}", sale.number)
}

fn installation(plan: &CataloguePlan, how: &str) -> String {
    format!("<p><b>eSIM name:</b> {}</p><p><b>Coverage:</b> {}</p><p>{how}</p>", operator_title(plan), place(plan))
}

/// A sale as the answer to the order has it; `quantity` as the client wrote it.
fn order(shop: &Shop, sale: &Sale, quantity: Value) -> Value {
    let Some(ShopPlan { plan, .. }) = shop.plan(&sale.plan) else { return Value::Null };
    let is_top_up = sale.added_to.is_some();
    let units = if is_top_up { 1 } else { i64::from(sale.delivered.max(1)) };
    let net = sale.cents.checked_div(units).unwrap_or(0);
    let mut order = json!({
        "id": sale.number,
        "code": code(sale),
        "currency": "USD",
        "package_id": if is_top_up { format!("{}{TOP_UP}", sale.plan) } else { sale.plan.clone() },
        "quantity": quantity,
        "type": if is_top_up { "topup" } else { "sim" },
        "description": (!sale.reference.is_empty()).then_some(&sale.reference),
        "esim_type": "Prepaid",
        "validity": plan.validity_days,
        "package": package_name(&plan),
        "data": data_words(&plan),
        "price": dollars(retail(net)),
        "pricing_model": "net_pricing",
        "created_at": time(sale.sold_at),
        "manual_installation": installation(&plan, "Enter the SM-DP+ address and the activation code."),
        "qrcode_installation": installation(&plan, "Scan the QR code."),
        "installation_guides": {"en": "https://www.airalo.example/help"},
        "text": Value::Null,
        "voice": Value::Null,
        "net_price": dollars(net),
    });
    if !is_top_up {
        let esims = shop.esims(sale);
        order["brand_settings_name"] = esims.first().and_then(|esim| brand_of(shop, esim)).into();
        order["sims"] = esims.iter().map(sim).collect::<Vec<_>>().into();
    }
    order
}

fn status() -> Value {
    json!({"name": "Completed", "slug": "completed"})
}

fn user() -> Value {
    json!({"id": 120, "created_at": "2023-02-20 08:41:57", "name": "Partner", "email": "partner@airalo.example",
           "mobile": Value::Null, "address": Value::Null, "state": Value::Null, "city": Value::Null,
           "postal_code": Value::Null, "country_id": Value::Null, "company": "Partner"})
}

fn includes(request: &Request, what: &str) -> bool {
    request.parameter("include").split(',').any(|include| include.trim() == what)
}

/// A sale as lists have it: numbers are texts there, and what is not asked for is left out.
fn listed_order(shop: &Shop, sale: &Sale, request: &Request) -> Value {
    let mut listed = order(shop, sale, sale.asked.into());
    if let Some(fields) = listed.as_object_mut() {
        let units = i64::from(sale.delivered.max(1));
        fields.insert("price".to_owned(), dollars_text(retail(sale.cents / units)).into());
        if let Some(validity) = fields.get_mut("validity") {
            *validity = validity.to_string().into();
        }
        let sims = fields.remove("sims").unwrap_or_else(|| json!([]));
        if includes(request, "sims") {
            fields.insert("sims".to_owned(), sims);
        }
        if includes(request, "user") {
            fields.insert("user".to_owned(), user());
        }
        if includes(request, "status") {
            fields.insert("status".to_owned(), status());
        }
    }
    listed
}

/// Whether a sale is done: a synchronous one is at once.
fn is_done(sale: &Sale, now: Timestamp) -> bool {
    sale.notify_url.is_empty() || sale.is_ready(now)
}

/// Whether a time is within `Y-m-d - Y-m-d`; every time is within nothing.
fn is_within(sold_at: Timestamp, range: &str) -> bool {
    let day = time(sold_at);
    let day = day.get(..10).unwrap_or_default();
    match range.split_once(" - ") {
        Some((from, to)) => from.trim() <= day && day <= to.trim(),
        None => range.is_empty() || range.trim() == day,
    }
}

fn orders(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let filter = |name: &str| request.parameter(&format!("filter[{name}]")).to_lowercase();
    let (code_like, description) = (filter("code"), filter("description"));
    let (iccid, status, created) = (filter("iccid"), filter("order_status"), filter("created_at"));
    let sales = shop.sales();
    let wanted = sales.iter().rev().filter(|sale| {
        is_done(sale, now)
            && is_within(sale.sold_at, &created)
            && (status.is_empty() || status == "completed")
            && code(sale).contains(&code_like)
            && sale.reference.to_lowercase().contains(&description)
            && (iccid.is_empty() || shop.esims(sale).iter().any(|esim| esim.profile.iccid.contains(&iccid)))
    });
    let wanted: Vec<&Sale> = wanted.collect();
    // Only the orders of the page are written out.
    let numbers = wanted.iter().map(|sale| Value::from(sale.number)).collect();
    let mut page = page(request, numbers, 50)?;
    for entry in &mut page.entries {
        if let Some(sale) = entry.as_i64().and_then(|number| shop.sale(number)) {
            *entry = listed_order(shop, &sale, request);
        }
    }
    Ok(page.reply())
}

fn listed_sim(shop: &Shop, esim: &ShopEsim, request: &Request) -> Value {
    let mut listed = sim(esim);
    let recycled = esim.life == EsimLife::Cancelled;
    listed["brand_settings_name"] = brand_of(shop, esim).into();
    listed["recycled"] = recycled.into();
    listed["recycled_at"] = recycled.then(|| time(esim.changed_at)).into();
    if request.parameter("include").split(',').any(|include| include.trim().starts_with("order")) {
        let mut simable = listed_order(shop, &esim.sale, request);
        if includes(request, "order.status") {
            simable["status"] = status();
        }
        if includes(request, "order.user") {
            simable["user"] = user();
        }
        listed["simable"] = simable;
    }
    if includes(request, "share") {
        let link = format!("https://esims.cloud.example/{}", esim.number);
        listed["sharing"] = json!({"link": link, "access_code": format!("{:04}", esim.number % 10_000)});
    }
    listed
}

fn sims(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let (iccid, created) = (request.parameter("filter[iccid]"), request.parameter("filter[created_at]"));
    let sales = shop.sales();
    let sales = sales.iter().rev().filter(|sale| is_done(sale, now) && is_within(sale.sold_at, created));
    let esims = sales.flat_map(|sale| shop.esims(sale)).filter(|esim| esim.profile.iccid.contains(iccid));
    let esims = esims.map(|esim| listed_sim(shop, &esim, request)).collect();
    Ok(page(request, esims, 100)?.reply())
}

fn status_of(life: EsimLife) -> &'static str {
    match life {
        EsimLife::Released | EsimLife::Installed => "NOT_ACTIVE",
        EsimLife::InUse => "ACTIVE",
        EsimLife::UsedUp => "FINISHED",
        EsimLife::Expired => "EXPIRED",
        EsimLife::Cancelled => "UNKNOWN",
    }
}

/// The service keeps this answer for 20 minutes. Here each is fresh, so that whoever plays the traveller sees at once
/// what he did.
fn usage(esim: &ShopEsim) -> Value {
    let total = esim.total_mb.unwrap_or(0);
    json!({
        "remaining": total.saturating_sub(esim.used_mb).max(0),
        "total": total,
        "expired_at": esim.expires_at.map(time),
        "is_unlimited": esim.total_mb.is_none(),
        "status": status_of(esim.life),
        "remaining_voice": 0,
        "remaining_text": 0,
        "total_voice": 0,
        "total_text": 0,
    })
}

/// The packages an eSIM has had, the last one first.
fn history(shop: &Shop, esim: &ShopEsim) -> Value {
    let sales = shop.sales();
    let added = sales.iter().rev().filter(|sale| sale.added_to == Some(esim.number));
    let packages = added.chain([&esim.sale]).filter_map(|sale| {
        let plan = shop.plan(&sale.plan)?.plan;
        let first = sale.added_to.is_none();
        let total = total_mb(&plan);
        Some(json!({
            "id": sale.number,
            "status": if first { status_of(esim.life) } else { "NOT_ACTIVE" },
            "remaining": if first { total.saturating_sub(esim.used_mb).max(0) } else { total },
            "activated_at": esim.activated_at.map(offset_time),
            "expired_at": esim.expires_at.map(offset_time),
            "finished_at": (first && esim.life == EsimLife::UsedUp).then(|| offset_time(esim.changed_at)),
            "package": package(&plan, !first),
        }))
    });
    json!({"pricing": pricing(), "data": packages.collect::<Vec<_>>()})
}

fn instructions(esim: &ShopEsim, request: &Request) -> Value {
    let language = request.header("accept-language").get(..2).unwrap_or("en").to_uppercase();
    let profile = &esim.profile;
    let steps = |last: &str| json!({"1": "Go to Settings > Cellular/Mobile > Add Cellular/Mobile Plan.", "2": last});
    let system = |version: &str| {
        json!([{
            "model": Value::Null,
            "version": version,
            "installation_via_qr_code": {
                "steps": steps("Scan the QR code."),
                "qr_code_data": profile.activation_code,
                "qr_code_url": format!("https://www.airalo.example/qr?id={}", esim.number),
                "direct_apple_installation_url": apple_link(esim),
            },
            "installation_manual": {
                "steps": steps("Enter the details manually."),
                "smdp_address_and_activation_code": profile.activation_code,
                "smdp_address": profile.smdp_address,
                "activation_code": profile.matching_id,
            },
            "network_setup": {
                "steps": steps("Turn data roaming on."),
                "apn_type": "manual",
                "apn_value": profile.apn,
                "is_roaming": true,
            },
        }])
    };
    json!({"instructions": {"language": language, "ios": system("17,16,15"), "android": system("14,13")}})
}

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

fn request_id(letter: char, number: i64) -> String {
    format!("{letter}{number:024}")
}

/// The next number of a kind of request.
fn next(shop: &Shop, kind: &str) -> Result<i64, Reply> {
    let name = format!("airalo/next/{kind}");
    let number = shop.remembered(&name).and_then(|text| text.parse::<i64>().ok()).unwrap_or(1);
    shop.remember(&name, Some(&number.saturating_add(1).to_string())).map_err(broken)?;
    Ok(number)
}

/// Where a kind of news goes; empty for nowhere.
fn address(shop: &Shop, kind: &str) -> String {
    match kind {
        LOW_DATA => shop.callback_url(),
        kind => shop.remembered(&format!("airalo/opt-in/{kind}")).unwrap_or_default(),
    }
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

/// Tells when so much of the credit is used: the credit is what there was when the shop was opened.
fn tell_credit(shop: &Shop, now: Timestamp, before: i64) -> Result<(), rusqlite::Error> {
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

fn order_now(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let wish = wish(shop, request)?;
    let sale = sell(shop, now, request, &wish)?;
    let quantity = request.fields.get("quantity").cloned().unwrap_or_default();
    Ok(success(&order(shop, &sale, quantity)).lost_if(sale.answer_is_lost()))
}

/// Takes an order and tells later what came of it. Its description is all a list can find it by.
fn order_later(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let mut wish = wish(shop, request)?;
    wish.notify_url = webhook(shop, request)?;
    let (request_id, is_lost) = work_on(shop, now, request, &wish)?;
    let data = json!({"request_id": request_id, "accepted_at": time(now)});
    Ok(Reply::json(202, &json!({"data": data, "meta": {"message": "success"}})).lost_if(is_lost))
}

fn webhook(shop: &Shop, request: &Request) -> Result<String, Reply> {
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
fn top_up(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
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
fn addable(shop: &Shop, esim: &ShopEsim) -> Vec<CataloguePlan> {
    let Some(own) = shop.plan(&esim.sale.plan).filter(|own| own.plan.top_up_supported) else { return Vec::new() };
    let plans = shop.plans().into_iter().map(|listed| listed.plan);
    plans.filter(|plan| plan.top_up_supported && slug(plan) == slug(&own.plan)).collect()
}

fn texts_of(request: &Request, name: &str) -> Vec<String> {
    match request.fields.get(name) {
        Some(Value::Array(entries)) => entries.iter().filter_map(as_text).collect(),
        // Some send the list as JSON in one field of the form.
        Some(Value::String(text)) => match serde_json::from_str::<Value>(text) {
            Ok(Value::Array(entries)) => entries.iter().filter_map(as_text).collect(),
            _ => vec![text.clone()],
        },
        _ => Vec::new(),
    }
}

/// A request for a refund: somebody will look at it, and nothing happens until then.
fn refund(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
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

fn future_order(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
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

fn future_orders(shop: &Shop, request: &Request) -> Result<Reply, Reply> {
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

fn cancel_future_orders(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
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

fn notification(kind: &str, contact_point: &str) -> Reply {
    success(&json!({"notification": {"type": kind, "contact_point": contact_point}}))
}

fn kind_of(request: &Request) -> Result<&'static str, Reply> {
    let kind = request.text("type");
    let known = NOTIFICATIONS.iter().find(|known| **known == kind);
    known.copied().ok_or_else(|| invalid("type", "The selected type is invalid."))
}

fn opt_in(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
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

fn opted_in(shop: &Shop, request: &Request) -> Reply {
    let wanted = request.parameter("type");
    let mut kinds = NOTIFICATIONS.iter().filter(|kind| wanted.is_empty() || **kind == wanted);
    let found = kinds.find_map(|kind| Some((kind, address(shop, kind))).filter(|(_, address)| !address.is_empty()));
    match found {
        Some((kind, address)) => notification(kind, &address),
        None => success(&json!({"notification": Value::Null})),
    }
}

fn opt_out(shop: &Shop, request: &Request) -> Result<Reply, Reply> {
    let kind = kind_of(request)?;
    if kind == LOW_DATA {
        shop.set_callback_url("").map_err(broken)?;
    }
    shop.remember(&format!("airalo/opt-in/{kind}"), None).map_err(broken)?;
    Ok(Reply { status: 204, headers: Vec::new(), body: Vec::new(), is_lost: false })
}

fn low_data_news(level: &str, package_name: &str, left: i64, iccid: &str) -> Value {
    json!({"level": level, "package_name": package_name, "remaining_percentage": left, "iccid": iccid})
}

/// Sends news on demand, as the service's own simulator of it does.
fn simulate(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
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

fn brand(shop: &Shop, request: &Request, esim: &ShopEsim) -> Result<Reply, Reply> {
    let brand = request.text("brand_settings_name");
    let name = format!("airalo/brand/{}", esim.profile.iccid);
    shop.remember(&name, Some(&brand).filter(|brand| !brand.is_empty()).map(String::as_str)).map_err(broken)?;
    Ok(success(&listed_sim(shop, esim, request)))
}

impl Airalo {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials, quotas: Quotas::default() }
    }

    /// A token that tells when it was given out, so that it outlives the simulator.
    fn token_of(&self, issued: &str) -> String {
        let Credentials { account, secret, .. } = &self.credentials;
        format!("{issued}.{}", hmac_sha256(secret.as_bytes(), &["airalo token", account, issued]))
    }

    fn give_token(&self, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
        self.counted("token", TOKENS, now, || {
            for field in ["client_id", "client_secret", "grant_type"] {
                if request.text(field).is_empty() {
                    return Err(required(field));
                }
            }
            if request.text("grant_type") != "client_credentials" {
                return Err(invalid("grant_type", "The selected grant type is invalid."));
            }
            let Credentials { account, secret, .. } = &self.credentials;
            if request.text("client_id") != *account || !is_same(&request.text("client_secret"), secret) {
                return Err(unauthorized());
            }
            self.check_signature(request)?;
            let token = self.token_of(&now.millis().to_string());
            Ok(success(&json!({"token_type": "Bearer", "expires_in": EXPIRES_IN, "access_token": token})))
        })
    }

    /// The token of a request, if it is one of ours and not too old.
    fn let_in<'r>(&self, now: Timestamp, request: &'r Request) -> Result<&'r str, Reply> {
        let token = request.header("authorization");
        let token = token.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let token = token.map_or("", |(_, token)| token.trim());
        let issued = token.split_once('.').map_or("", |(issued, _)| issued);
        let age = issued.parse::<i64>().map(|issued| now.since(Timestamp::from_millis(issued)));
        let is_good = age.is_ok_and(|age| (0..TOKEN_LIFE_MS).contains(&age)) && is_same(&self.token_of(issued), token);
        if is_good { Ok(token) } else { Err(unauthorized()) }
    }

    /// A signature needs not be there; one that is wrong is refused. It covers the JSON of what was sent, in whatever
    /// encoding; forms do not tell a number from a text.
    fn check_signature(&self, request: &Request) -> Result<(), Reply> {
        let sent = request.header("airalo-signature").to_ascii_lowercase();
        if sent.is_empty() {
            return Ok(());
        }
        let fields = Value::from(request.fields.clone());
        let mut numbered = request.fields.clone();
        if let Some(number) = request.integer("quantity") {
            numbered.insert("quantity".to_owned(), number.into());
        }
        let numbered = Value::from(numbered);
        let is_right = |payload: &[u8]| is_same(&signature(&self.credentials.secret, payload), &sent);
        let spelled = [fields, numbered].iter().flat_map(spellings).any(|spelling| is_right(spelling.as_bytes()));
        if spelled || is_right(&request.body) { Ok(()) } else { Err(refusal(14)) }
    }

    /// Answers unless it was asked too often, and tells what is left.
    fn counted(
        &self,
        key: &str,
        quota: Quota,
        now: Timestamp,
        answer: impl FnOnce() -> Result<Reply, Reply>,
    ) -> Result<Reply, Reply> {
        let left = self.quotas.count(key, quota, now);
        if let Left::Wait(_) = left {
            return Err(left.told(quota, too_many()));
        }
        let told = |reply| left.told(quota, reply);
        answer().map(told).map_err(told)
    }

    fn route(&self, shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
        let path = request.path.strip_prefix("/v2/").unwrap_or_default().trim_end_matches('/');
        let method = request.method.as_str();
        if (method, path) == ("POST", "token") {
            return self.give_token(now, request);
        }
        let token = self.let_in(now, request)?;
        if matches!(method, "POST" | "PUT") {
            self.check_signature(request)?;
        }
        match (method, path) {
            ("GET", "packages") => {
                self.counted(&format!("packages {token}"), PACKAGES, now, || packages(shop, request))
            }
            ("POST", "orders") => order_now(shop, now, request),
            ("POST", "orders-async") => order_later(shop, now, request),
            ("POST", "orders/topups") => top_up(shop, now, request),
            ("GET", "orders") => orders(shop, now, request),
            ("GET", "sims") => sims(shop, now, request),
            ("GET", "balance") => Ok(success(&json!({"balances": {
                "name": "balance",
                "availableBalance": {"amount": dollars(shop.balance_cents()), "currency": "USD"},
            }}))),
            ("POST", "refund") => self.counted("refund", REFUNDS, now, || refund(shop, now, request)),
            ("POST", "future-orders") => future_order(shop, now, request),
            ("GET", "future-orders") => future_orders(shop, request),
            ("POST", "cancel-future-orders") => cancel_future_orders(shop, now, request),
            ("POST", "notifications/opt-in") => opt_in(shop, now, request),
            ("GET", "notifications/opt-in") => Ok(opted_in(shop, request)),
            ("POST", "notifications/opt-out") => opt_out(shop, request),
            ("POST", "simulator/webhook") => self.counted("simulator", SIMULATED, now, || simulate(shop, now, request)),
            _ => self.route_one(shop, now, request, path),
        }
    }

    /// Routes of one order or one eSIM.
    fn route_one(&self, shop: &Shop, now: Timestamp, request: &Request, path: &str) -> Result<Reply, Reply> {
        let (kind, rest) = path.split_once('/').ok_or_else(not_found)?;
        let (name, what) = rest.split_once('/').unwrap_or((rest, ""));
        let method = request.method.as_str();
        if (method, kind, what) == ("GET", "orders", "") {
            let sale = name.parse().ok().and_then(|number| shop.sale(number)).filter(|sale| is_done(sale, now));
            return sale.map(|sale| success(&listed_order(shop, &sale, request))).ok_or_else(not_found);
        }
        if kind != "sims" {
            return Err(not_found());
        }
        let esim = || shop.esim_by_iccid(name).filter(|esim| is_done(&esim.sale, now)).ok_or_else(not_found);
        match (method, what) {
            ("GET", "") => Ok(success(&listed_sim(shop, &esim()?, request))),
            ("GET", "topups") => {
                let esim = esim()?;
                if esim.life == EsimLife::Cancelled {
                    return Err(refusal(73));
                }
                let packages: Vec<Value> = addable(shop, &esim).iter().map(|plan| package(plan, true)).collect();
                Ok(Reply::json(200, &json!({"pricing": pricing(), "data": packages})))
            }
            ("GET", "usage") => self.counted("usage", USAGE, now, || {
                self.counted(&format!("usage {name}"), USAGE_OF_ONE, now, || Ok(success(&usage(&esim()?))))
            }),
            ("GET", "packages") => self.counted(&format!("packages of {name}"), HISTORY_OF_ONE, now, || {
                Ok(Reply::json(200, &history(shop, &esim()?)))
            }),
            ("GET", "instructions") => Ok(success(&instructions(&esim()?, request))),
            ("PUT", "brand") => brand(shop, request, &esim()?),
            _ => Err(not_found()),
        }
    }
}

impl Dialect for Airalo {
    fn answer(&self, shop: &Shop, now: Timestamp, request: &Request) -> Reply {
        self.route(shop, now, request).unwrap_or_else(|refused| refused)
    }

    fn too_many_requests(&self) -> Reply {
        too_many().with("x-ratelimit-limit", "80").with("x-ratelimit-remaining", "0").with("retry-after", "1")
    }

    fn callback(&self, _now: Timestamp, news: &News) -> Option<Outgoing> {
        let body = match (news.word.as_str(), &news.esim) {
            ("trial", None) => String::new(),
            // What is about no sale was written out when it happened.
            (word, None) if word.starts_with('{') => word.to_owned(),
            (word, Some(esim)) => {
                let (used, _) = MILESTONES.iter().find(|(_, known)| *known == word)?;
                let plan = catalogue().into_iter().find(|plan| plan.upstream_plan_id == esim.sale.plan);
                let name = plan.as_ref().map_or(esim.sale.plan.clone(), package_name);
                let total = esim.total_mb.filter(|total| *total > 0)?;
                let left = total.saturating_sub(esim.used_mb).max(0).saturating_mul(100) / total;
                low_data_news(&format!("{used}%"), &name, left, &esim.profile.iccid).to_string()
            }
            // Orders are told with their request's id, or not at all.
            _ => return None,
        };
        let sign = signature(&self.credentials.secret, body.as_bytes());
        let headers = if body.is_empty() { Vec::new() } else { vec![("airalo-signature", sign)] };
        Some(Outgoing { headers, content_type: "application/json", body: body.into_bytes() })
    }

    fn is_acknowledged(&self, status: u16, _body: &str) -> bool {
        (200..204).contains(&status)
    }

    fn retry_ms(&self, attempts: u32) -> Option<i64> {
        (attempts <= RETRIES).then_some(RETRY_MS)
    }
}
