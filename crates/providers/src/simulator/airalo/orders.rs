//! What was sold: orders and eSIMs, one by one and in lists.

use super::listing::{dollars, dollars_text, offset_time, page, retail, time};
use super::packages::{TOP_UP, data_words, operator_title, package, package_name, place, pricing, total_mb};
use super::{broken, success};
use crate::sandbox::CataloguePlan;
use crate::simulator::shop::{EsimLife, Sale, Shop, ShopEsim, ShopPlan};
use crate::simulator::wire::{Reply, Request};
use domain::time::Timestamp;
use serde_json::{Value, json};

fn brand_of(shop: &Shop, esim: &ShopEsim) -> Option<String> {
    shop.remembered(&format!("airalo/brand/{}", esim.profile.iccid))
}

pub(super) fn sim(esim: &ShopEsim) -> Value {
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

pub(super) fn code(sale: &Sale) -> String {
    let day = time(sale.sold_at).get(..10).unwrap_or_default().replace('-', "");
    format!("{day}-{:06}", sale.number)
}

pub(super) fn installation(plan: &CataloguePlan, how: &str) -> String {
    format!("<p><b>eSIM name:</b> {}</p><p><b>Coverage:</b> {}</p><p>{how}</p>", operator_title(plan), place(plan))
}

/// A sale as the answer to the order has it; `quantity` as the client wrote it.
pub(super) fn order(shop: &Shop, sale: &Sale, quantity: Value) -> Value {
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

pub(super) fn status() -> Value {
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
pub(super) fn listed_order(shop: &Shop, sale: &Sale, request: &Request) -> Value {
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
pub(super) fn is_done(sale: &Sale, now: Timestamp) -> bool {
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

pub(super) fn orders(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
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

pub(super) fn listed_sim(shop: &Shop, esim: &ShopEsim, request: &Request) -> Value {
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

pub(super) fn sims(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
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
        EsimLife::Suspended | EsimLife::Revoked | EsimLife::Cancelled => "UNKNOWN",
    }
}

/// The service keeps this answer for 20 minutes. Here each is fresh, so that whoever plays the traveller sees at once
/// what he did.
pub(super) fn usage(esim: &ShopEsim) -> Value {
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
pub(super) fn history(shop: &Shop, esim: &ShopEsim) -> Value {
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

pub(super) fn instructions(esim: &ShopEsim, request: &Request) -> Value {
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

pub(super) fn brand(shop: &Shop, request: &Request, esim: &ShopEsim) -> Result<Reply, Reply> {
    let brand = request.text("brand_settings_name");
    let name = format!("airalo/brand/{}", esim.profile.iccid);
    shop.remember(&name, Some(&brand).filter(|brand| !brand.is_empty()).map(String::as_str)).map_err(broken)?;
    Ok(success(&listed_sim(shop, esim, request)))
}
