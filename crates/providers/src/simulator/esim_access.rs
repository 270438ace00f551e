//! eSIM Access's side of its wire, as its document describes it: one POST for everything, an envelope with status 200
//! around every answer, profiles that are allocated later, notifications without a signature. What the document leaves
//! open is this simulator's own, and said to be so.

use super::dialect::{Credentials, Dialect, Outgoing};
use super::shop::{EsimLife, News, NoSale, NotTakenBack, Sale, Shop, ShopEsim, ShopPlan, Wish};
use super::wire::{Reply, Request, Trial};
use crate::esim_access::{
    ALLOCATING, BAD_SIGNATURE, BUSY, CALLS_PER_SECOND, HEADER_FORMAT, HEADER_MISSING, MOST_DAYS, MOST_PER_ORDER,
    NO_ORDER, NOT_IN_THIS_STATE, PREFIX, SERVER_ERROR, TIMESTAMP_EXPIRED, signature, time,
};
use crate::lenient::{integer, list, text};
use crate::sandbox::{CataloguePlan, place};
use crate::signing::is_same;
use domain::time::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

const METHOD_NOT_SUPPORTED: &str = "000103";
const BAD_JSON: &str = "000104";
const PARAMETER_MISSING: &str = "000105";
const PARAMETER_EMPTY: &str = "000106";
const PARAMETER_LENGTH: &str = "000107";
const WRONG_PRICE: &str = "200005";
const WRONG_AMOUNT: &str = "200006";
const NO_FUNDS: &str = "200007";
const WRONG_ORDER: &str = "200008";
const NO_PROFILES: &str = "200011";
const NO_PACKAGE_CODE: &str = "310241";
const NO_ESIM: &str = "310403";

const SECOND_MS: i64 = 1_000;
const DAY_MS: i64 = 86_400_000;
const MEGABYTE: i64 = 1_048_576;
/// How old a signed call may be. The document has a code for older ones and no figure; this is the simulator's own.
const SIGNED_WITHIN_MS: i64 = 300_000;
/// Units of a US cent on this wire.
const UNITS_PER_CENT: i64 = 100;
/// Most characters of a `transactionId`.
const MOST_TRANSACTION_ID: usize = 50;
/// Most characters of an SMS.
const MOST_SMS: usize = 500;
/// Most eSIMs one question about usage names.
const MOST_USAGE: usize = 10;
/// Between two counts of usage.
const COUNTED_EVERY_MS: i64 = 7_200_000;
/// Until a notification that was not answered with 200 is sent again, and how often. Neither is published.
const RETRY_MS: i64 = 60_000;
const MOST_TRIES: u32 = 5;
/// Before the code of a plan that is added to an eSIM.
const TOP_UP: &str = "TOPUP_";

/// The dialect.
pub(super) struct EsimAccess {
    credentials: Credentials,
    /// When the calls of the last second came.
    calls: Mutex<VecDeque<i64>>,
    /// Held while an order is made, so that two with the same number at once are still the same.
    ordering: Mutex<()>,
}

fn success(obj: Value) -> Reply {
    Reply::json(200, &json!({"success": true, "errorCode": "0", "errorMsg": null, "obj": obj}))
}

/// No HTTP status is documented for refusals; what working clients see is 200.
fn refusal(code: &str, message: &str) -> Reply {
    Reply::json(200, &json!({"success": false, "errorCode": code, "errorMsg": message, "obj": null}))
}

fn missing(name: &str) -> Reply {
    refusal(PARAMETER_MISSING, &format!("Request parameters (mandatory) are not contained: {name}"))
}

/// Numbers begin with the minute they were made in: `2603311929` and the shop's own number.
fn minute(time: Timestamp) -> String {
    written(time, "%y%m%d%H%M")
}

fn written(time: Timestamp, format: &str) -> String {
    jiff::Timestamp::from_millisecond(time.millis()).unwrap_or_default().strftime(format).to_string()
}

/// A time as answers have it.
fn at(time: Timestamp) -> String {
    written(time, "%Y-%m-%dT%H:%M:%S+0000")
}

/// A time as notifications have it.
fn notified_at(time: Timestamp) -> String {
    written(time, "%Y-%m-%dT%H:%M:%SZ")
}

fn order_no(sale: &Sale) -> String {
    format!("B{}{:04}", minute(sale.sold_at), sale.batch)
}

fn tran_no(esim: &ShopEsim) -> String {
    format!("{}{:04}", minute(esim.sale.sold_at), esim.number)
}

/// The sales of an order.
fn order(shop: &Shop, text: &str) -> Option<Vec<Sale>> {
    let number = text.strip_prefix('B')?.get(10..)?.parse().ok()?;
    let sales = shop.batch(number);
    let is_it = sales.first().is_some_and(|sale| sale.added_to.is_none() && order_no(sale) == text);
    is_it.then_some(sales)
}

/// The eSIM a request names.
fn named(shop: &Shop, body: &Value) -> Result<ShopEsim, Reply> {
    let unknown = || refusal(NO_ESIM, "The ICCID does not exist in the order.");
    if let Some(handle) = text(body, "esimTranNo") {
        let number = handle.get(10..).and_then(|number| number.parse().ok()).ok_or_else(unknown)?;
        return shop.esim(number).filter(|esim| tran_no(esim) == handle).ok_or_else(unknown);
    }
    let iccid = text(body, "iccid").ok_or_else(|| missing("iccid, esimTranNo"))?;
    shop.esim_by_iccid(&iccid).ok_or_else(unknown)
}

fn allocated(esim: ShopEsim, now: Timestamp) -> Result<ShopEsim, Reply> {
    if esim.sale.is_ready(now) { Ok(esim) } else { Err(allocating()) }
}

fn allocating() -> Reply {
    refusal(ALLOCATING, "Profile is being downloaded for the order.")
}

fn not_in_this_state() -> Reply {
    refusal(NOT_IN_THIS_STATE, "This operation is not allowed due to the order status.")
}

/// `esimStatus` and `smdpStatus`.
fn status(esim: &ShopEsim, now: Timestamp) -> (&'static str, &'static str) {
    let late = |end: Option<Timestamp>| end.is_some_and(|end| end <= now);
    match esim.life {
        EsimLife::Released if late(esim.profile.install_by) => ("UNUSED_EXPIRED", "RELEASED"),
        EsimLife::Released => ("GOT_RESOURCE", "RELEASED"),
        EsimLife::Installed if late(esim.profile.install_by) => ("UNUSED_EXPIRED", "DISABLED"),
        EsimLife::Installed => ("GOT_RESOURCE", "ENABLED"),
        EsimLife::InUse | EsimLife::UsedUp if late(esim.expires_at) => ("USED_EXPIRED", "DISABLED"),
        EsimLife::InUse => ("IN_USE", "ENABLED"),
        EsimLife::UsedUp => ("USED_UP", "ENABLED"),
        EsimLife::Expired => ("USED_EXPIRED", "DISABLED"),
        EsimLife::Cancelled => ("CANCEL", "RELEASED"),
        EsimLife::Suspended => ("SUSPENDED", "ENABLED"),
        EsimLife::Revoked => ("REVOKE", "DISABLED"),
    }
}

/// The identifier of the phone's chip, once there is a phone.
fn eid(esim: &ShopEsim) -> String {
    match esim.life {
        EsimLife::Released | EsimLife::Cancelled => String::new(),
        _ => format!("890490320050088826{:014}", esim.number),
    }
}

/// Plans with an allowance for each day, and those without a limit, are sold by the day.
fn is_day_pass(plan: &CataloguePlan) -> bool {
    plan.unlimited || plan.daily_data_mb.is_some()
}

fn data_type(plan: &CataloguePlan) -> i64 {
    match (plan.unlimited, plan.daily_data_mb) {
        (true, _) => 4,
        (false, Some(_)) => 2,
        (false, None) => 1,
    }
}

fn volume(plan: &CataloguePlan) -> i64 {
    let megabytes = if is_day_pass(plan) { plan.daily_data_mb } else { plan.data_mb };
    megabytes.unwrap_or(0).saturating_mul(MEGABYTE)
}

fn package_name(plan: &CataloguePlan) -> String {
    if !is_day_pass(plan) {
        return plan.name.clone();
    }
    let name = plan.name.split(',').next().unwrap_or_default();
    format!("{}/Day", name.trim_end_matches(" per day"))
}

/// `DE_1GB_7D`; as far as a plan's id has neither capitals nor underlines, it leads back to it.
fn slug(id: &str) -> String {
    id.to_uppercase().replace('-', "_")
}

/// A country's code, or that of a region with its number of countries.
fn location_code(plan: &CataloguePlan) -> String {
    match (plan.kind, plan.region) {
        ("local", _) => plan.countries.first().copied().unwrap_or_default().to_owned(),
        ("regional", Some(region)) => region_code(region, plan.countries.len()),
        _ => format!("GL-{}", plan.countries.len()),
    }
}

fn region_code(region: &str, countries: usize) -> String {
    let initials: String = match region.split_once(' ') {
        Some(_) => region.split(' ').filter_map(|word| word.chars().next()).collect(),
        None => region.chars().take(2).collect(),
    };
    format!("{}-{countries}", initials.to_uppercase())
}

fn fup(plan: &CataloguePlan) -> &str {
    plan.fair_use.as_deref().unwrap_or(if plan.daily_data_mb.is_some() { "384 Kbps" } else { "" })
}

fn package_price(listed: &ShopPlan) -> i64 {
    let cents = if is_day_pass(&listed.plan) { listed.day_cents() } else { listed.plan.price_minor };
    cents.saturating_mul(UNITS_PER_CENT)
}

fn top_up_type(plan: &CataloguePlan) -> i64 {
    match (plan.top_up_supported, is_day_pass(plan)) {
        (false, _) => 1,
        (true, false) => 2,
        (true, true) => 3,
    }
}

fn active_type(plan: &CataloguePlan) -> i64 {
    if plan.activation == "on_install" { 1 } else { 2 }
}

fn sms_status(plan: &CataloguePlan) -> i64 {
    i64::from(!is_day_pass(plan))
}

fn package(listed: &ShopPlan, prefix: &str) -> Value {
    let plan = &listed.plan;
    let mut operators: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for network in &plan.networks {
        let operator = json!({"operatorName": network.operator, "networkType": network.technology});
        operators.entry(network.country).or_default().push(operator);
    }
    let networks: Vec<Value> = operators
        .into_iter()
        .map(|(country, operators)| {
            json!({"locationName": place(country).0, "locationCode": country, "operatorList": operators,
                   "locationLogo": format!("/img/flags/{}.png", country.to_lowercase())})
        })
        .collect();
    let price = package_price(listed);
    json!({
        "packageCode": format!("{prefix}{}", plan.upstream_plan_id),
        "slug": slug(&plan.upstream_plan_id),
        "name": package_name(plan),
        "price": price,
        "currencyCode": "USD",
        "volume": volume(plan),
        "smsStatus": sms_status(plan),
        "dataType": data_type(plan),
        "unusedValidTime": 180,
        "duration": if is_day_pass(plan) { 1 } else { plan.validity_days },
        "durationUnit": "DAY",
        "location": plan.countries.join(","),
        "locationCode": location_code(plan),
        "description": package_name(plan),
        "activeType": active_type(plan),
        "favorite": false,
        "retailPrice": price.saturating_mul(2),
        "speed": if plan.speed == "5G" { "3G/4G/5G" } else { "3G/4G" },
        "ipExport": "NL/FR",
        "supportTopUpType": top_up_type(plan),
        "fupPolicy": fup(plan),
        "locationNetworkList": networks,
    })
}

/// The plan with a code or a slug.
fn listed(shop: &Shop, code: &str) -> Option<ShopPlan> {
    let found = shop.plan(code).or_else(|| {
        shop.plan(&code.to_lowercase().replace('_', "-")).filter(|found| slug(&found.plan.upstream_plan_id) == code)
    });
    found.filter(|plan| !plan.withdrawn)
}

fn unknown_package(code: &str) -> Reply {
    // The words of the service, not those of its document.
    refusal(NO_PACKAGE_CODE, &format!("base data plan code:[{code}] doesn`t exist."))
}

fn packages(shop: &Shop, body: &Value) -> Result<Reply, Reply> {
    let location = text(body, "locationCode");
    let is_there = |plan: &CataloguePlan| match location.as_deref() {
        None => true,
        Some("!RG") => plan.kind == "regional",
        Some("!GL") => plan.kind == "global",
        Some(code) => location_code(plan) == code,
    };
    let is_of_type = |plan: &CataloguePlan| match integer(body, "dataType") {
        Some(1) => !is_day_pass(plan),
        Some(2) => is_day_pass(plan),
        _ => true,
    };
    let code = text(body, "packageCode").or_else(|| text(body, "slug"));
    let is_top_up = text(body, "type").as_deref() == Some("TOPUP");
    let base = match &code {
        Some(code) => {
            let plain = if is_top_up { code.strip_prefix(TOP_UP).unwrap_or(code) } else { code };
            match listed(shop, plain) {
                Some(plan) => Some(plan.plan),
                None => return Ok(success(json!({"packageList": []}))),
            }
        }
        None if is_top_up && (text(body, "iccid").is_some() || text(body, "esimTranNo").is_some()) => {
            shop.plan(&named(shop, body)?.sale.plan).map(|listed| listed.plan)
        }
        None => None,
    };
    let is_right = |plan: &CataloguePlan| match (&base, is_top_up) {
        (Some(base), true) => tops_up(plan, base),
        (None, true) => plan.top_up_supported,
        (Some(base), false) => plan.upstream_plan_id == base.upstream_plan_id,
        (None, false) => true,
    };
    let prefix = if is_top_up { TOP_UP } else { "" };
    let plans = shop.plans();
    let found = plans.iter().filter(|listed| {
        let plan = &listed.plan;
        is_there(plan) && is_of_type(plan) && is_right(plan)
    });
    Ok(success(json!({"packageList": found.map(|listed| package(listed, prefix)).collect::<Vec<Value>>()})))
}

/// Countries are topped up with plans of the same country, and regions with those of the same region.
fn tops_up(plan: &CataloguePlan, base: &CataloguePlan) -> bool {
    plan.top_up_supported && base.top_up_supported && plan.countries == base.countries
}

fn no_sale(no_sale: &NoSale, code: &str) -> Reply {
    match no_sale {
        NoSale::UnknownPlan => unknown_package(code),
        NoSale::OutOfStock => refusal(
            NO_PROFILES,
            "Insufficient available Profiles for the package, please contact the customer service.",
        ),
        NoSale::InsufficientFunds => refusal(NO_FUNDS, "Insufficient account balance"),
        NoSale::InvalidQuantity => wrong_order(),
        NoSale::NotAddable => not_in_this_state(),
        NoSale::Busy => refusal(BUSY, "The system is busy, please try again later."),
        NoSale::Broken(_) => refusal(SERVER_ERROR, "Server error"),
    }
}

fn wrong_order() -> Reply {
    refusal(WRONG_ORDER, "Order parameters error, please contact customer service.")
}

fn transaction_id(body: &Value) -> Result<String, Reply> {
    let id = text(body, "transactionId").ok_or_else(|| missing("transactionId"))?;
    if id.chars().count() > MOST_TRANSACTION_ID {
        return Err(refusal(PARAMETER_LENGTH, "The length of the request parameter does not meet the requirement."));
    }
    Ok(id)
}

/// The days a day pass is bought for; `None` for a plan with a term of its own.
fn days(body: &Value, plan: &CataloguePlan) -> Result<Option<i64>, Reply> {
    match text(body, "periodNum") {
        _ if !is_day_pass(plan) => Ok(None),
        None => Ok(Some(1)),
        Some(text) => {
            let days = text.parse().ok().filter(|days| (1..=MOST_DAYS).contains(days));
            days.map(Some).ok_or_else(wrong_order)
        }
    }
}

/// A price to be verified; 0 counts as none, as working clients send it.
fn price(body: &Value, name: &str) -> Option<i64> {
    integer(body, name).filter(|price| *price != 0)
}

fn buy(shop: &Shop, now: Timestamp, body: &Value) -> Result<Reply, Reply> {
    let reference = transaction_id(body)?;
    let ordered = |sale: &Sale| success(json!({"orderNo": order_no(sale), "transactionId": sale.reference}));
    // A second request with the same number is the same request.
    if let Some(sale) = shop.sales_of(&reference).iter().find(|sale| sale.added_to.is_none()) {
        return Ok(ordered(sale));
    }
    let wanted = list(body, "packageInfoList");
    if wanted.is_empty() {
        return Err(missing("packageInfoList"));
    }
    let (mut wishes, mut total, mut count) = (Vec::new(), 0_i64, 0_u32);
    for item in wanted {
        let code = text(item, "packageCode").or_else(|| text(item, "slug")).ok_or_else(|| missing("packageCode"))?;
        let quantity = integer(item, "count").ok_or_else(|| missing("count"))?;
        let quantity = u32::try_from(quantity).map_err(|_| wrong_order())?;
        let listed = listed(shop, &code).ok_or_else(|| unknown_package(&code))?;
        let days = days(item, &listed.plan)?;
        let (each, term) = (package_price(&listed), package_price(&listed).saturating_mul(days.unwrap_or(1)));
        // Whether the price of a day pass is that of a day or of all days is not said.
        if price(item, "price").is_some_and(|price| price != each && price != term) {
            return Err(refusal(WRONG_PRICE, "Package price error. Check price."));
        }
        count = count.saturating_add(quantity);
        total = total.saturating_add(term.saturating_mul(i64::from(quantity)));
        let wish = Wish {
            reference: reference.clone(),
            plan: listed.plan.upstream_plan_id,
            quantity,
            notify_url: String::new(),
        };
        wishes.push((wish, days));
    }
    if count > MOST_PER_ORDER {
        return Err(wrong_order());
    }
    if price(body, "amount").is_some_and(|amount| amount != total) {
        return Err(refusal(WRONG_AMOUNT, "Total order price amount is wrong. Check prices."));
    }
    let code = wishes.first().map(|(wish, _)| wish.plan.clone()).unwrap_or_default();
    let sales = shop.sell_together(now, &wishes).map_err(|error| no_sale(&error, &code))?;
    let first = sales.first().ok_or_else(wrong_order)?;
    Ok(ordered(first).lost_if(sales.iter().any(Sale::answer_is_lost)))
}

fn profile(shop: &Shop, now: Timestamp, esim: &ShopEsim) -> Value {
    let plan = shop.plan(&esim.sale.plan).map(|listed| listed.plan);
    let (esim_status, smdp_status) = status(esim, now);
    let handle = tran_no(esim);
    let image = format!("https://p.qrsim.net/{:032x}", esim.number);
    let added = shop.sales_added_to(esim);
    let packages: Vec<Value> = std::iter::once(&esim.sale)
        .chain(&added)
        .filter_map(|sale| {
            let plan = shop.plan(&sale.plan)?.plan;
            let prefix = if sale.added_to.is_some() { TOP_UP } else { "" };
            let number = if sale.added_to.is_some() { top_up_no(sale) } else { handle.clone() };
            let own_term = if is_day_pass(&plan) { 1 } else { plan.validity_days };
            Some(json!({
                "packageName": package_name(&plan),
                "packageCode": format!("{prefix}{}", plan.upstream_plan_id),
                "slug": slug(&plan.upstream_plan_id),
                "duration": sale.days.unwrap_or(own_term),
                "volume": volume(&plan),
                "locationCode": location_code(&plan),
                "createTime": at(sale.sold_at),
                "esimTranNo": number,
                "transactionId": sale.reference,
            }))
        })
        .collect();
    let of_plan = |value: fn(&CataloguePlan) -> i64| plan.as_ref().map_or(0, value);
    json!({
        "esimTranNo": handle,
        "orderNo": order_no(&esim.sale),
        "transactionId": esim.sale.reference,
        "imsi": format!("99970{:010}", esim.number),
        "iccid": esim.profile.iccid,
        "smsStatus": of_plan(sms_status),
        "msisdn": esim.profile.msisdn.as_deref().map_or("", |number| number.trim_start_matches('+')),
        "ac": esim.profile.activation_code,
        "qrCodeUrl": format!("{image}.png"),
        "shortUrl": image,
        "smdpStatus": smdp_status,
        "eid": eid(esim),
        "activeType": of_plan(active_type),
        "dataType": of_plan(data_type),
        "activateTime": esim.activated_at.map(at),
        "expiredTime": esim.expires_at.or(esim.profile.install_by).map(at),
        "installationTime": null,
        "totalVolume": total_volume(shop, esim),
        "totalDuration": esim.days,
        "durationUnit": "DAY",
        "orderUsage": esim.used_mb.saturating_mul(MEGABYTE),
        "esimStatus": esim_status,
        "pin": esim.profile.pin.as_deref().unwrap_or_default(),
        "puk": esim.profile.puk.as_deref().unwrap_or_default(),
        "apn": esim.profile.apn.as_deref().unwrap_or_default(),
        "ipExport": "NL/FR",
        "supportTopUpType": of_plan(top_up_type),
        "fupPolicy": plan.as_ref().map_or("", fup),
        "packageList": packages,
    })
}

/// Of a day pass it is the volume of a day, as the service answers it.
fn total_volume(shop: &Shop, esim: &ShopEsim) -> i64 {
    match shop.plan(&esim.sale.plan) {
        Some(listed) if is_day_pass(&listed.plan) => volume(&listed.plan),
        _ => esim.total_mb.unwrap_or(0).saturating_mul(MEGABYTE),
    }
}

/// The number of data added to an eSIM.
fn top_up_no(sale: &Sale) -> String {
    format!("{}9{:04}", minute(sale.sold_at), sale.number)
}

fn query(shop: &Shop, now: Timestamp, body: &Value) -> Result<Reply, Reply> {
    let pager = body.get("pager").filter(|pager| pager.is_object()).ok_or_else(|| missing("pager"))?;
    let number = |name: &str, range: std::ops::RangeInclusive<i64>| {
        let number = integer(pager, name).ok_or_else(|| missing(name))?;
        let wrong = || refusal(PARAMETER_LENGTH, &format!("{name} is out of range {range:?}"));
        usize::try_from(number).ok().filter(|_| range.contains(&number)).ok_or_else(wrong)
    };
    let (page, size) = (number("pageNum", 1..=10_000)?, number("pageSize", 5..=500)?);
    let esims: Vec<ShopEsim> = if let Some(wanted) = text(body, "orderNo") {
        let sales = order(shop, &wanted).ok_or_else(|| refusal(NO_ORDER, "The orderNo does not exist."))?;
        if sales.iter().any(|sale| !sale.is_ready(now)) {
            return Err(allocating());
        }
        sales.iter().flat_map(|sale| shop.esims(sale)).collect()
    } else if text(body, "esimTranNo").is_some() {
        vec![allocated(named(shop, body)?, now)?]
    } else if let Some(iccid) = text(body, "iccid") {
        // One that was used again has several.
        named(shop, body)?;
        shop.esims_by_iccid(&iccid).into_iter().map(|esim| allocated(esim, now)).collect::<Result<_, _>>()?
    } else {
        let time = |name: &str| {
            let written = text(body, name).ok_or_else(|| missing("orderNo, esimTranNo, iccid, startTime, endTime"))?;
            time(&written).ok_or_else(|| refusal(PARAMETER_LENGTH, &format!("{name} is no time")))
        };
        let sales = shop.sales_between(time("startTime")?, time("endTime")?);
        // Only what is allocated is listed.
        sales.iter().filter(|sale| sale.is_ready(now)).flat_map(|sale| shop.esims(sale)).collect()
    };
    let shown = esims.iter().skip((page - 1).saturating_mul(size)).take(size);
    let shown: Vec<Value> = shown.map(|esim| profile(shop, now, esim)).collect();
    Ok(success(json!({
        "esimList": shown,
        "pager": {"pageSize": size, "pageNum": page, "total": esims.len()},
    })))
}

fn cancel(shop: &Shop, now: Timestamp, body: &Value) -> Result<Reply, Reply> {
    let esim = allocated(named(shop, body)?, now)?;
    if status(&esim, now) != ("GOT_RESOURCE", "RELEASED") {
        return Err(not_in_this_state());
    }
    shop.take_back(now, &esim).map_err(|error| match error {
        NotTakenBack::NotFound => refusal(SERVER_ERROR, "Server error"),
        NotTakenBack::TooLate | NotTakenBack::Already => not_in_this_state(),
    })?;
    Ok(success(json!({})))
}

/// Moves an eSIM on for its buyer.
fn moved(shop: &Shop, now: Timestamp, body: &Value, next: fn(&ShopEsim) -> Option<EsimLife>) -> Result<Reply, Reply> {
    let esim = allocated(named(shop, body)?, now)?;
    let next = next(&esim).ok_or_else(not_in_this_state)?;
    shop.live(now, &esim, next, esim.used_mb).map_err(|_| refusal(SERVER_ERROR, "Server error"))?;
    Ok(success(json!({})))
}

fn suspended(esim: &ShopEsim) -> Option<EsimLife> {
    matches!(esim.life, EsimLife::Installed | EsimLife::InUse | EsimLife::UsedUp).then_some(EsimLife::Suspended)
}

fn unsuspended(esim: &ShopEsim) -> Option<EsimLife> {
    let is_used_up = esim.total_mb.is_some_and(|total| esim.used_mb >= total);
    match (esim.life, esim.activated_at) {
        (EsimLife::Suspended, None) => Some(EsimLife::Installed),
        (EsimLife::Suspended, Some(_)) if is_used_up => Some(EsimLife::UsedUp),
        (EsimLife::Suspended, Some(_)) => Some(EsimLife::InUse),
        _ => None,
    }
}

fn revoked(esim: &ShopEsim) -> Option<EsimLife> {
    let is_over = matches!(esim.life, EsimLife::Cancelled | EsimLife::Revoked | EsimLife::Expired);
    (!is_over).then_some(EsimLife::Revoked)
}

fn top_up(shop: &Shop, now: Timestamp, body: &Value) -> Result<Reply, Reply> {
    let reference = transaction_id(body)?;
    let code = text(body, "packageCode").or_else(|| text(body, "slug")).ok_or_else(|| missing("packageCode"))?;
    let esim = allocated(named(shop, body)?, now)?;
    let listed = listed(shop, code.strip_prefix(TOP_UP).unwrap_or(&code)).ok_or_else(|| unknown_package(&code))?;
    let base = shop.plan(&esim.sale.plan).ok_or_else(|| unknown_package(&code))?;
    if !tops_up(&listed.plan, &base.plan) {
        return Err(wrong_order());
    }
    if !matches!(status(&esim, now).0, "GOT_RESOURCE" | "IN_USE" | "USED_UP") {
        return Err(not_in_this_state());
    }
    if price(body, "amount").is_some_and(|amount| amount != package_price(&listed)) {
        return Err(refusal(WRONG_PRICE, "Package price error. Check price."));
    }
    // Only of orders it is said that a second request is the same; what hurts more is that this one is sold again.
    let wish = Wish { reference, plan: listed.plan.upstream_plan_id, quantity: 1, notify_url: String::new() };
    let sale = shop.add(now, &wish, &esim).map_err(|error| no_sale(&error, &code))?;
    if esim.life == EsimLife::UsedUp {
        shop.live(now, &esim, EsimLife::InUse, esim.used_mb).map_err(|_| refusal(SERVER_ERROR, "Server error"))?;
    }
    let esim = shop.esim(esim.number).unwrap_or(esim);
    let answer = json!({
        "transactionId": sale.reference,
        "iccid": esim.profile.iccid,
        "expiredTime": esim.expires_at.or(esim.profile.install_by).map(at),
        "totalVolume": total_volume(shop, &esim),
        "totalDuration": esim.days,
        "orderUsage": esim.used_mb.saturating_mul(MEGABYTE),
        "topUpEsimTranNo": top_up_no(&sale),
    });
    Ok(success(answer).lost_if(sale.answer_is_lost()))
}

fn usage(shop: &Shop, now: Timestamp, body: &Value) -> Result<Reply, Reply> {
    let wanted = list(body, "esimTranNoList");
    if wanted.is_empty() {
        return Err(missing("esimTranNoList"));
    }
    if wanted.len() > MOST_USAGE {
        return Err(refusal(PARAMETER_LENGTH, "The length of the request parameter does not meet the requirement."));
    }
    let counted_at = Timestamp::from_millis(now.millis() - now.millis().rem_euclid(COUNTED_EVERY_MS));
    let found = wanted.iter().filter_map(|handle| {
        let esim = named(shop, &json!({"esimTranNo": handle})).ok().filter(|esim| esim.sale.is_ready(now))?;
        Some(json!({
            "esimTranNo": tran_no(&esim),
            "dataUsage": esim.used_mb.saturating_mul(MEGABYTE),
            "totalData": total_volume(shop, &esim),
            "lastUpdateTime": at(counted_at),
        }))
    });
    Ok(success(json!({"esimUsageList": found.collect::<Vec<Value>>()})))
}

fn locations(shop: &Shop) -> Reply {
    let mut found: BTreeMap<String, Value> = BTreeMap::new();
    for listed in shop.plans() {
        let plan = &listed.plan;
        let code = location_code(plan);
        let place = match (plan.kind, plan.region) {
            ("local", _) => json!({"code": code, "name": place(&code).0, "type": 1, "subLocationList": null}),
            (_, region) => {
                let inside = plan.countries.iter().map(|country| json!({"code": country, "name": place(country).0}));
                json!({"code": code, "name": region.unwrap_or("Global"), "type": 2,
                       "subLocationList": inside.collect::<Vec<Value>>()})
            }
        };
        found.insert(code, place);
    }
    success(json!({"locationList": found.into_values().collect::<Vec<Value>>()}))
}

fn send_sms(shop: &Shop, now: Timestamp, body: &Value) -> Result<Reply, Reply> {
    let message = text(body, "message").ok_or_else(|| missing("message"))?;
    if message.chars().count() > MOST_SMS {
        return Err(refusal(PARAMETER_LENGTH, "The length of the request parameter does not meet the requirement."));
    }
    let esim = allocated(named(shop, body)?, now)?;
    let takes_sms = shop.plan(&esim.sale.plan).is_some_and(|listed| sms_status(&listed.plan) > 0);
    let is_on_a_phone = matches!(esim.life, EsimLife::Installed | EsimLife::InUse | EsimLife::UsedUp);
    if takes_sms && is_on_a_phone { Ok(success(json!({}))) } else { Err(not_in_this_state()) }
}

fn save_webhook(now: Timestamp, body: &Value) -> Result<Reply, Reply> {
    let url = text(body, "webhook")
        .ok_or_else(|| refusal(PARAMETER_EMPTY, "Request parameter (mandatory) is null: webhook"))?;
    let content = json!({"orderNo": "1234567890", "orderStatus": "Test"});
    let outgoing = notification("CHECK_HEALTH", format!("{:032x}", now.millis()), now, &content);
    // The code for an address that does not answer is not published.
    let otherwise = refusal(PARAMETER_LENGTH, "The webhook does not answer to CHECK_HEALTH with status 200.");
    Ok(success(json!({})).after(Trial { url, outgoing, otherwise }))
}

fn notification(kind: &str, id: String, happened_at: Timestamp, content: &Value) -> Outgoing {
    let body = json!({
        "notifyType": kind,
        "notifyId": id,
        "eventGenerateTime": notified_at(happened_at),
        "content": content,
    });
    Outgoing { headers: Vec::new(), content_type: "application/json", body: body.to_string().into_bytes() }
}

impl EsimAccess {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials, calls: Mutex::default(), ordering: Mutex::default() }
    }

    /// Refuses who is not known, signs wrongly, or calls too often.
    fn let_in(&self, now: Timestamp, request: &Request) -> Result<(), Reply> {
        let header = |name: &str| match request.header(name) {
            "" => Err(refusal(HEADER_MISSING, &format!("Req Header:[{name}] is null"))),
            value => Ok(value),
        };
        let access_code = header("rt-accesscode")?;
        // The code for one that does not exist is not published.
        if !is_same(access_code, &self.credentials.account) {
            return Err(refusal(HEADER_FORMAT, "Wrong request header format"));
        }
        // Who signs, signs right; who does not, need not.
        if !request.header("rt-signature").is_empty() {
            let (signed, timestamp) = (header("rt-signature")?, header("rt-timestamp")?);
            let request_id = header("rt-requestid")?;
            let body = String::from_utf8_lossy(&request.body);
            let expected = signature(&self.credentials.secret, timestamp, request_id, access_code, &body);
            if !is_same(&expected, &signed.to_lowercase()) {
                return Err(refusal(BAD_SIGNATURE, "Request signature mismatch."));
            }
            // The document says milliseconds, and its example has seconds.
            let number = timestamp.parse::<i64>().ok().filter(|number| *number >= 0);
            let number = number.ok_or_else(|| refusal(HEADER_FORMAT, "Wrong request header format"))?;
            let millis = if timestamp.len() <= 10 { number.saturating_mul(SECOND_MS) } else { number };
            if now.millis().saturating_sub(millis).abs() > SIGNED_WITHIN_MS {
                return Err(refusal(TIMESTAMP_EXPIRED, "The timestamp of the request has expired."));
            }
        }
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        while calls.front().is_some_and(|first| first.saturating_add(SECOND_MS) <= now.millis()) {
            calls.pop_front();
        }
        if calls.len() >= usize::try_from(CALLS_PER_SECOND).unwrap_or(usize::MAX) {
            return Err(self.too_many_requests());
        }
        calls.push_back(now.millis());
        Ok(())
    }

    fn route(&self, shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
        let path = request.path.trim_start_matches('/').strip_prefix(PREFIX);
        let not_there = || Reply::text(404, "text/html", "<html><h1>404 Not Found</h1></html>");
        let path = path.ok_or_else(not_there)?;
        if request.method != "POST" {
            return Err(refusal(METHOD_NOT_SUPPORTED, "This https request method (get/post ) is not supported"));
        }
        self.let_in(now, request)?;
        // The media type does not count: the vendor's own examples send none, or another one.
        let body = match std::str::from_utf8(&request.body).map(str::trim) {
            Ok("") => json!({}),
            _ => serde_json::from_slice(&request.body)
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| refusal(BAD_JSON, "Request in invalid JSON format"))?,
        };
        match path {
            "package/list" => packages(shop, &body),
            "esim/order" => {
                let _ordering = self.ordering.lock().unwrap_or_else(PoisonError::into_inner);
                buy(shop, now, &body)
            }
            "esim/query" => query(shop, now, &body),
            "esim/cancel" => cancel(shop, now, &body),
            "esim/suspend" => moved(shop, now, &body, suspended),
            "esim/unsuspend" => moved(shop, now, &body, unsuspended),
            "esim/revoke" => moved(shop, now, &body, revoked),
            "esim/topup" => top_up(shop, now, &body),
            "esim/usage/query" => usage(shop, now, &body),
            "esim/sendSms" => send_sms(shop, now, &body),
            "balance/query" => Ok(success(json!({"balance": shop.balance_cents().saturating_mul(UNITS_PER_CENT)}))),
            "location/list" => Ok(locations(shop)),
            "webhook/save" => save_webhook(now, &body),
            "webhook/query" => Ok(success(json!({"webhook": shop.callback_url()}))),
            _ => Err(not_there()),
        }
    }
}

impl Dialect for EsimAccess {
    fn answer(&self, shop: &Shop, now: Timestamp, request: &Request) -> Reply {
        self.route(shop, now, request).unwrap_or_else(|refused| refused)
    }

    /// The limit is published, the answer is not.
    fn too_many_requests(&self) -> Reply {
        Reply { status: 429, ..no_sale(&NoSale::Busy, "") }
    }

    fn callback(&self, now: Timestamp, news: &News) -> Option<Outgoing> {
        let id = format!("{:032x}", news.number);
        let told = |kind: &str, content: &Value| Some(notification(kind, id.clone(), news.due_at, content));
        let Some(esim) = &news.esim else {
            // Data added to an eSIM is not told.
            let content = json!({"orderNo": order_no(&news.sale), "orderStatus": "GOT_RESOURCE",
                                 "transactionId": news.sale.reference});
            return if news.word == "ready" { told("ORDER_STATUS", &content) } else { None };
        };
        let bytes = |megabytes: i64| megabytes.saturating_mul(MEGABYTE);
        let total = esim.total_mb.unwrap_or(0);
        let left = total.saturating_sub(esim.used_mb).max(0);
        let mut content = json!({
            "iccid": esim.profile.iccid,
            "orderNo": order_no(&esim.sale),
            "esimTranNo": tran_no(esim),
            "transactionId": esim.sale.reference,
        });
        let mut add = |more: Value| {
            if let (Value::Object(content), Value::Object(more)) = (&mut content, more) {
                content.extend(more);
            }
        };
        let threshold = match news.word.as_str() {
            "left_50" => Some(json!(0.5)),
            "left_25" => Some(json!(0.25)),
            "left_10" => Some(json!(0.1)),
            _ => None,
        };
        if let Some(threshold) = threshold {
            add(json!({"totalVolume": bytes(total), "orderUsage": bytes(esim.used_mb), "remain": bytes(left),
                       "remainThreshold": threshold, "lastUpdateTime": notified_at(esim.changed_at)}));
            return told("DATA_USAGE", &content);
        }
        let statuses = match news.word.as_str() {
            "installed" => {
                add(json!({"eid": eid(esim), "esimStatus": "GOT_RESOURCE", "smdpStatus": "ENABLED",
                           "timestamp": notified_at(news.due_at), "seqNumber": news.number,
                           "notifyStatus": "Executed-Success"}));
                return told("SMDP_EVENT", &content);
            }
            "last_day" => {
                // Data that was added since may have moved the end.
                let end = esim.expires_at.filter(|end| end.since(now) <= DAY_MS && *end > now)?;
                add(json!({"remain": 1, "totalDuration": esim.days, "durationUnit": "DAY",
                           "expiredTime": notified_at(end)}));
                return told("VALIDITY_USAGE", &content);
            }
            "in_use" => ("IN_USE", "ENABLED"),
            "used_up" => ("USED_UP", "ENABLED"),
            "expired" => ("USED_EXPIRED", "DISABLED"),
            "cancelled" => ("CANCEL", "RELEASED"),
            "suspended" => ("SUSPENDED", "ENABLED"),
            // Answers have another spelling than notifications.
            "revoked" => ("REVOKED", "DISABLED"),
            _ => return None,
        };
        add(json!({"esimStatus": statuses.0, "smdpStatus": statuses.1, "totalVolume": bytes(total),
                   "orderUsage": bytes(esim.used_mb), "remainVolume": bytes(left)}));
        told("ESIM_STATUS", &content)
    }

    fn is_acknowledged(&self, status: u16, _body: &str) -> bool {
        status == 200
    }

    fn retry_ms(&self, attempts: u32) -> Option<i64> {
        (attempts < MOST_TRIES).then_some(RETRY_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::shop::ShopOptions;

    fn asked(headers: &[(&str, &str)], body: &'static str) -> String {
        let credentials = Credentials { account: "11111".to_owned(), secret: "1111".to_owned(), salt: String::new() };
        let options = ShopOptions { seed: 7, delay_ms: 0, balance_cents: 100, callback_url: String::new(), plans: 0 };
        let shop = Shop::open(std::path::Path::new(""), options).unwrap();
        let request = Request {
            method: "POST".to_owned(),
            path: "/api/v1/open/balance/query".to_owned(),
            query: Vec::new(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            body: bytes::Bytes::from_static(body.as_bytes()),
            fields: serde_json::Map::new(),
        };
        let reply = EsimAccess::new(credentials).answer(&shop, Timestamp::from_millis(1_628_670_425_000), &request);
        let body: Value = serde_json::from_slice(&reply.body).unwrap();
        text(&body, "errorCode").unwrap()
    }

    #[test]
    fn the_signature_of_the_document_is_taken_in_either_case() {
        let signed = "7EB765E27DF5373DEA2DBC8C41A7D9557743E46C8054750F3D851B3FD01D0835";
        let headers = |signature, timestamp| {
            [
                ("rt-accesscode", "11111"),
                ("rt-requestid", "4ce9d9cdac9e4e17b3a2c66c358c1ce2"),
                ("rt-timestamp", timestamp),
                ("rt-signature", signature),
            ]
        };
        let body = r#"{"imsi":"326543826"}"#;
        assert_eq!(asked(&headers(signed, "1628670421"), body), "0");
        let lower = signed.to_lowercase();
        assert_eq!(asked(&headers(&lower, "1628670421"), body), "0");
        assert_eq!(asked(&headers(signed, "1628670422"), body), BAD_SIGNATURE);
        assert_eq!(asked(&headers(signed, "1628670421"), "{}"), BAD_SIGNATURE);
        assert_eq!(asked(&headers(signed, ""), body), HEADER_MISSING);
        assert_eq!(asked(&[("rt-accesscode", "22222")], body), HEADER_FORMAT);
    }
}
