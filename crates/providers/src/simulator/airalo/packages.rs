//! What Airalo sells: places, in them operators, in them packages.

use super::listing::{dollars, page, retail};
use crate::sandbox::CataloguePlan;
use crate::simulator::shop::Shop;
use crate::simulator::wire::{Reply, Request};
use serde_json::{Map, Value, json};

pub(super) const TOP_UP: &str = "-topup";

pub(super) fn total_mb(plan: &CataloguePlan) -> i64 {
    plan.data_mb.or(plan.daily_data_mb.map(|daily| daily.saturating_mul(plan.validity_days))).unwrap_or(0)
}

pub(super) fn data_words(plan: &CataloguePlan) -> String {
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
pub(super) fn place(plan: &CataloguePlan) -> String {
    match plan.kind {
        "global" => "World".to_owned(),
        "regional" => plan.region.unwrap_or_default().to_owned(),
        _ => plan.countries.first().copied().unwrap_or_default().to_owned(),
    }
}

pub(super) fn slug(plan: &CataloguePlan) -> String {
    place(plan).to_lowercase().replace(' ', "-")
}

pub(super) fn operator_title(plan: &CataloguePlan) -> String {
    format!("{} Mobile", place(plan))
}

pub(super) fn package_name(plan: &CataloguePlan) -> String {
    format!("{}-{}", operator_title(plan), title(plan))
}

pub(super) fn esim_type(plan: &CataloguePlan) -> &'static str {
    if plan.kind == "local" { "local" } else { "global" }
}

pub(super) fn package(plan: &CataloguePlan, is_top_up: bool) -> Value {
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
pub(super) fn operator(number: usize, plans: &[&CataloguePlan], with_top_ups: bool) -> Value {
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
        "info": [format!("{} Data-only eSIM.", plan.speed)],
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

pub(super) fn pricing() -> Value {
    json!({"model": "net_pricing", "discount_percentage": 0})
}

pub(super) fn packages(shop: &Shop, request: &Request) -> Result<Reply, Reply> {
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
