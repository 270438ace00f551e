//! `GET available-plans`: the price list.

use crate::answer::Answer;
use crate::call::{TenantCall, cursor_text};
use crate::catalogue::{Buyer, PricedPlan};
use crate::fields::{Field, Kind, optional};
use crate::json::{Amount, Id};
use crate::price_list::{PriceList, envelope};
use crate::problem::Problem;
use domain::id::PlanId;
use domain::plan::{Plan, PlanFilter, PlanType};
use hyper::header::{ETAG, HeaderValue};
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// A network a plan roams on.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NetworkView<'a> {
    country: &'a str,
    operator: &'a str,
    technology: &'a str,
}

/// A plan as partners see it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Plan")]
pub struct PlanView<'a> {
    id: Id,
    name: &'a str,
    /// local, regional or global.
    r#type: &'static str,
    /// ISO 3166-1 alpha-2 codes.
    countries: &'a [String],
    region: Option<&'a str>,
    /// Data of the whole term in units of 1,048,576 bytes; null is unlimited.
    data_mb: Option<i64>,
    /// Data of one day, for daily plans.
    daily_data_mb: Option<i64>,
    unlimited: bool,
    validity_days: i64,
    price: Amount,
    currency: &'static str,
    speed: Option<&'a str>,
    networks: Vec<NetworkView<'a>>,
    /// on_install, on_first_use or on_order.
    activation: &'static str,
    top_up_supported: bool,
    description: Option<&'a str>,
    fair_use: Option<&'a str>,
}

impl<'a> PlanView<'a> {
    /// The view of a plan.
    #[must_use]
    pub fn new(plan: &'a Plan) -> Self {
        let networks = plan.networks.iter().map(|network| NetworkView {
            country: &network.country,
            operator: &network.operator,
            technology: &network.technology,
        });
        Self {
            id: Id(plan.id.uuid()),
            name: &plan.name,
            r#type: plan.plan_type.word(),
            countries: &plan.countries,
            region: plan.region.as_deref(),
            data_mb: plan.data_mb,
            daily_data_mb: plan.daily_data_mb,
            unlimited: plan.unlimited,
            validity_days: plan.validity_days,
            price: Amount(plan.price),
            currency: plan.price.currency().code(),
            speed: plan.speed.as_deref(),
            networks: networks.collect(),
            activation: plan.activation.word(),
            top_up_supported: plan.top_up_supported,
            description: plan.description.as_deref(),
            fair_use: plan.fair_use.as_deref(),
        }
    }
}

/// `data` of the price list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AvailablePlans<'a> {
    plans: Vec<PlanView<'a>>,
    /// Where the next page begins; only in answers to a request with `limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<Option<String>>,
}

fn plan_types() -> Vec<&'static str> {
    PlanType::ALL.iter().map(|word| word.word()).collect()
}

/// The filters.
pub const QUERY: &[Field] = &[
    optional("country", Kind::Country, "Covers this country (ISO 3166-1 alpha-2)."),
    optional("region", Kind::Text(1, 100), "Of this region."),
    optional("type", Kind::Word(plan_types), "How far it reaches."),
    optional("minDataMb", Kind::Integer(0, 1_000_000_000), "At least so much data; unlimited plans always fit."),
    optional("maxPrice", Kind::Money, "At most this price."),
    optional("days", Kind::Integer(1, 3_650), "Valid for at least so many days."),
    optional("unlimited", Kind::Flag, "Unlimited volume, or not."),
    optional("q", Kind::Text(1, 100), "Text in name, description, region or countries."),
    optional("limit", Kind::Integer(1, 1_000), "Entries of one page; without it, all."),
    optional("cursor", Kind::Text(1, 100), "nextCursor of the page before."),
];

/// `GET available-plans`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: TenantCall) -> Result<Answer, Problem> {
    let currency = call.access.currency;
    let platform = &call.platform;
    let buyer = Buyer::new(&call.access, platform.sandbox_in_live());
    let list = platform.price_lists.get(&platform.store, &platform.catalogue, &buyer, platform.clock.now()).await?;
    let filter = PlanFilter {
        country: call.query.string("country"),
        region: call.query.text("region").map(str::to_lowercase),
        plan_type: call.query.parse("type"),
        min_data_mb: call.query.integer("minDataMb"),
        max_price: call.query.money("maxPrice", currency),
        days: call.query.integer("days"),
        unlimited: call.query.flag("unlimited"),
        query: call.query.text("q").map(str::to_lowercase),
    };
    let cursor = call.cursor()?.map(PlanId::new);
    if filter == PlanFilter::default() && !call.query.has("limit") && cursor.is_none() {
        return Ok(whole(&call, &list));
    }
    let limit = call.query.integer("limit").and_then(|limit| usize::try_from(limit).ok());
    let mut fitting = list
        .plans
        .iter()
        .filter(|priced| cursor.is_none_or(|cursor| priced.on_sale.plan.id > cursor))
        .filter(|priced| fits(priced, &filter));
    let page: Vec<&PricedPlan> = fitting.by_ref().take(limit.unwrap_or(usize::MAX)).collect();
    let more = fitting.next().is_some();
    let last = page.last().filter(|_| more).map(|priced| cursor_text(priced.on_sale.plan.id.uuid()));
    let json = envelope(page.iter().copied(), limit.map(|_| last.as_deref()));
    Ok(Answer::bytes(200, JSON, json.into()))
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn whole(call: &TenantCall, list: &Arc<PriceList>) -> Answer {
    let known = call.header("if-none-match");
    let matches = known.split(',').any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == list.etag
    });
    if matches {
        let mut answer = Answer::bytes(304, JSON, bytes::Bytes::new());
        answer.headers.clear();
        return caching(answer, list);
    }
    let gzip = if accepts_gzip(call.header("accept-encoding")) { list.gzip() } else { None };
    match gzip {
        Some(gzip) => caching(Answer::bytes(200, JSON, gzip), list).with_header("content-encoding", "gzip"),
        None => caching(Answer::bytes(200, JSON, list.json()), list),
    }
}

fn caching(answer: Answer, list: &PriceList) -> Answer {
    let mut answer =
        answer.with_header("cache-control", "private, no-cache").with_header("vary", "accept-encoding, authorization");
    if let Ok(etag) = HeaderValue::from_str(&list.etag) {
        answer.headers.push((ETAG, etag));
    }
    answer
}

fn accepts_gzip(header: &str) -> bool {
    header.split(',').any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = weight.trim().trim_start_matches("q=").parse::<f32>().is_ok_and(|weight| weight <= 0.0);
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

fn fits(priced: &PricedPlan, filter: &PlanFilter) -> bool {
    let plan = &priced.on_sale.plan;
    let contains = |text: &str, part: &str| text.to_lowercase().contains(part);
    filter.country.as_ref().is_none_or(|country| plan.countries.contains(country))
        && filter
            .region
            .as_ref()
            .is_none_or(|region| plan.region.as_ref().is_some_and(|found| found.to_lowercase() == *region))
        && filter.plan_type.is_none_or(|plan_type| plan.plan_type == plan_type)
        && filter.min_data_mb.is_none_or(|least| plan.data_mb.is_none_or(|data| data >= least))
        && filter.max_price.is_none_or(|most| priced.price.minor() <= most.minor())
        && filter.days.is_none_or(|days| plan.validity_days >= days)
        && filter.unlimited.is_none_or(|unlimited| plan.unlimited == unlimited)
        && filter.query.as_ref().is_none_or(|query| {
            contains(&plan.name, query)
                || plan.description.as_ref().is_some_and(|text| contains(text, query))
                || plan.region.as_ref().is_some_and(|text| contains(text, query))
                || plan.countries.iter().any(|code| {
                    code.to_lowercase() == *query
                        || crate::pages::country::name(code).is_some_and(|name| contains(name, query))
                })
        })
}
