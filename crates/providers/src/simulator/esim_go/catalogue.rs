//! What is sold, as it is listed.

use super::{MEGABYTE, decimal, paging};
use crate::sandbox::place;
use crate::simulator::shop::{Shop, ShopPlan};
use crate::simulator::wire::{Reply, Request};
use serde_json::{Value, json};

const DECIMAL_MEGABYTE: i64 = 1_000_000;

fn group(listed: &ShopPlan) -> &'static str {
    if listed.plan.unlimited { "Standard Unlimited Essential" } else { "Standard Fixed" }
}

/// Decimal megabytes, rounded up: read as whole binary ones it is what the plan has.
pub(super) fn amount(listed: &ShopPlan) -> i64 {
    let total = listed.plan.data_mb.unwrap_or(0).saturating_mul(MEGABYTE);
    if listed.plan.unlimited { -1 } else { total.saturating_add(DECIMAL_MEGABYTE - 1) / DECIMAL_MEGABYTE }
}

fn speeds(best: &str) -> &'static [&'static str] {
    if best == "5G" { &["2G", "3G", "4G", "5G"] } else { &["2G", "3G", "4G"] }
}

pub(super) fn bundle(listed: &ShopPlan) -> Value {
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

pub(super) fn catalogue(shop: &Shop, request: &Request) -> Reply {
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

pub(super) fn networks(shop: &Shop, request: &Request) -> Reply {
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
