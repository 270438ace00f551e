//! How the price of a plan comes about, step by step: the same rules, rates and offers that make price lists, read anew.

use super::markup_rules::RuleView;
use super::rates::RateView;
use crate::answer::Answer;
use crate::call::OperatorCall;
use crate::catalogue::{Buyer, Terms};
use crate::fields::{Field, Kind, optional};
use crate::json::{Amount, Decimal, Id, Time};
use crate::problem::Problem;
use domain::catalogue::CONNECTIONS;
use domain::id::{PlanId, TenantId};
use domain::money::{Currency, Money};
use domain::plan::PricedBy;
use domain::pricing::{MarkupScope, OfferPrice, PricingError, Rates, Unpriced, margin};
use domain::tenant::Mode;
use schemars::JsonSchema;
use serde::Serialize;
use store::checkout::is_offered;
use store::offer::StoredOffer;
use store::plan::Listed;
use store::{offer, plan, pricing, tenant};

/// The steps from a cost to a price, each rounded up to the minor unit of the currency of the price.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepsView {
    /// The rate; null where cost and price have the same currency.
    rate: Option<RateView>,
    /// The one rule that prices it.
    rule: RuleView,
    /// What made this rule the most specific one.
    rule_is_for: String,
    /// The cost in the currency of the price. The next step starts from the exact value.
    cost: Amount,
    after_percent: Amount,
    after_fixed: Amount,
    after_floor: Amount,
    /// After rounding.
    price: Amount,
    /// The price minus the cost.
    margin: Amount,
}

/// An offer of the plan.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferView {
    connection: String,
    upstream_plan_id: String,
    name: String,
    /// As the upstream asks it.
    cost: Decimal,
    cost_currency: String,
    /// taken: it makes the price. dearer: another one costs less. withdrawn: the upstream does not list it any more. held:
    /// the operator took it off. connection_disabled. no_rule: no markup rule covers it. no_rate: there is no rate from its
    /// currency. no_price: its price cannot be computed.
    verdict: &'static str,
    /// Where it has a price.
    steps: Option<StepsView>,
}

/// How a price comes about.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    plan_id: Id,
    /// For whom; null is a tenant that no rule names.
    tenant_id: Option<Id>,
    tier: Option<String>,
    currency: &'static str,
    /// operator: the price lies with the plan. rules: the offer that is taken makes it.
    priced_by: &'static str,
    /// Whether it is on sale for that tenant in live mode.
    on_sale: bool,
    /// Why not: withdrawn, not_offered (what the sandbox sells is not sold in live mode here), other_currency (the
    /// operator's price is in another one), no_offer (none of its offers can be bought), no_price (those that can be bought
    /// have no price).
    reason: Option<&'static str>,
    /// What one costs.
    price: Option<Amount>,
    /// Another rate begins then.
    valid_until: Option<Time>,
    /// All offers it has, by connection and id.
    offers: Vec<OfferView>,
}

/// `data` of an explanation.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Explained {
    explanation: Explanation,
}

/// For whom.
pub const QUERY: &[Field] = &[optional(
    "tenantId",
    Kind::Id,
    "For this tenant; by default for one that no rule names, in the platform's currency.",
)];

/// `GET plans/{planId}/explain`.
///
/// # Errors
/// A [`Problem`].
pub async fn get(call: OperatorCall) -> Result<Answer, Problem> {
    let id: PlanId = call.id("planId")?;
    let tenant: Option<TenantId> = call.query.parse("tenantId");
    let now = call.platform.clock.now();
    let read = move |snapshot: &mut dyn store::port::Snapshot| {
        let buyer = match tenant {
            Some(tenant) => tenant::find(snapshot, tenant)?,
            None => None,
        };
        Ok((plan::find(snapshot, id)?, offer::of_plan(snapshot, id)?, pricing::terms(snapshot, now)?, buyer))
    };
    let (listed, offers, terms, found) = call.platform.store.read(read).await?;
    let listed = listed.ok_or_else(Problem::not_found)?;
    if tenant.is_some() && found.is_none() {
        return Err(Problem::field("tenantId", "not_in_list", "is no tenant here"));
    }
    let buyer = Buyer {
        tenant: tenant.unwrap_or(TenantId::new(uuid::Uuid::nil())),
        tier: found.as_ref().and_then(|tenant| tenant.tier),
        currency: found.as_ref().map_or(call.platform.currency, |tenant| tenant.currency),
        mode: Mode::Live,
        sandbox_in_live: call.platform.sandbox_in_live(),
    };
    let terms = Terms::from(terms);
    let rates = Rates::at(&terms.rates, buyer.currency, now);
    let explanation = explain(&listed, &offers, &terms, &rates, &buyer, tenant)?;
    Ok(Answer::json(200, "How the price comes about", &Explained { explanation }))
}

fn explain(
    listed: &Listed,
    offers: &[StoredOffer],
    terms: &Terms,
    rates: &Rates,
    buyer: &Buyer,
    tenant: Option<TenantId>,
) -> Result<Explanation, Problem> {
    let usable = || offers.iter().filter(|offer| offer.is_usable());
    let asked =
        usable().map(|offer| (offer.connection.as_str(), offer.offer.upstream_plan_id.as_str(), &offer.offer.cost));
    let leading = terms.leading(&listed.plan, asked, buyer, rates);
    let is_leading = |offer: &StoredOffer| {
        leading
            .as_ref()
            .is_some_and(|(connection, id, _)| *connection == offer.connection && *id == offer.offer.upstream_plan_id)
    };
    let mut views = Vec::with_capacity(offers.len());
    for offer in offers {
        let priced = terms.price_offer(&listed.plan, &offer.connection, &offer.offer.cost, buyer, rates);
        let verdict = match &priced {
            _ if offer.withdrawn_at.is_some() => "withdrawn",
            _ if offer.held => "held",
            _ if !terms.selling.contains(&offer.connection) => "connection_disabled",
            Err(Unpriced::NoRule) => "no_rule",
            Err(Unpriced::Error(PricingError::NoRate)) => "no_rate",
            Err(Unpriced::Error(_)) => "no_price",
            Ok(_) if is_leading(offer) => "taken",
            Ok(_) => "dearer",
        };
        let steps = priced.ok().map(steps).transpose()?;
        views.push(view(offer, verdict, steps));
    }
    let own = Some(listed.plan.price).filter(|price| price.currency() == buyer.currency);
    let can_be_bought = usable().any(|offer| terms.selling.contains(&offer.connection));
    let lives_from_offers = listed.plan.provider == CONNECTIONS;
    let price = match listed.priced_by {
        _ if listed.withdrawn_at.is_some() => Err("withdrawn"),
        _ if !is_offered(&listed.plan.provider, buyer.mode, buyer.sandbox_in_live) => Err("not_offered"),
        _ if lives_from_offers && !can_be_bought => Err("no_offer"),
        PricedBy::Operator => own.ok_or("other_currency"),
        PricedBy::Rules => leading.map(|(.., leading)| leading.priced.price).ok_or("no_price"),
    };
    Ok(Explanation {
        plan_id: Id(listed.plan.id.uuid()),
        tenant_id: tenant.map(|tenant| Id(tenant.uuid())),
        tier: buyer.tier.map(|tier| tier.to_string()),
        currency: buyer.currency.code(),
        priced_by: listed.priced_by.word(),
        on_sale: price.is_ok(),
        reason: price.err(),
        price: price.ok().map(Amount),
        valid_until: rates.until().map(Time),
        offers: views,
    })
}

fn view(offer: &StoredOffer, verdict: &'static str, steps: Option<StepsView>) -> OfferView {
    OfferView {
        connection: offer.connection.clone(),
        upstream_plan_id: offer.offer.upstream_plan_id.clone(),
        name: offer.offer.name.clone(),
        cost_currency: offer.offer.cost.currency.clone(),
        cost: Decimal(offer.offer.cost.clone()),
        verdict,
        steps,
    }
}

fn steps(priced: OfferPrice<'_>) -> Result<StepsView, Problem> {
    let OfferPrice { priced, rule, rate } = priced;
    let left: Money = margin(priced.price, priced.cost_minor).map_err(store::port::Fault::from)?;
    Ok(StepsView {
        rate: rate.map(RateView::new),
        rule: RuleView::new(rule),
        rule_is_for: is_for(&rule.scope, rule.currency),
        cost: Amount(priced.cost_minor),
        after_percent: Amount(priced.after_percent),
        after_fixed: Amount(priced.after_fixed),
        after_floor: Amount(priced.after_floor),
        price: Amount(priced.price),
        margin: Amount(left),
    })
}

/// What a rule's rank comes from: whom it is for, then the most specific part of what it is for.
fn is_for(scope: &MarkupScope, currency: Currency) -> String {
    let whom = match (&scope.tenant, &scope.tier) {
        (Some(_), _) => "this tenant".to_owned(),
        (None, Some(tier)) => format!("tier {tier}"),
        (None, None) => "everybody".to_owned(),
    };
    let what = match (&scope.plan, &scope.country, &scope.region, &scope.connection) {
        (Some(_), ..) => "this plan".to_owned(),
        (_, Some(country), ..) => format!("country {country}"),
        (_, _, Some(region), _) => format!("region {region}"),
        (.., Some(connection)) => format!("connection {connection}"),
        _ => "everything".to_owned(),
    };
    format!("{whom}, {what}, {currency}")
}
