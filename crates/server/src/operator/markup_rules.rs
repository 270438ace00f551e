//! Markup rules: what is put on top of a cost, for whom and for what.

use super::tenants::tier;
use super::{CURSOR, LIMIT, page};
use crate::answer::Answer;
use crate::call::OperatorCall;
use crate::fields::{Field, Kind, optional, required};
use crate::json::{Amount, Decimal, Id, Time};
use crate::problem::Problem;
use domain::id::{MarkupId, TenantId};
use domain::money::{Currency, Money, MoneyError};
use domain::offer::Cost;
use domain::pricing::{Markup, MarkupFault, MarkupRule, MarkupScope, Rounding};
use schemars::JsonSchema;
use serde::Serialize;
use store::markup::{self, MarkupRefusal, RuleNotFound};
use store::tenant;

/// A rule. It is for all that matches everything it names.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MarkupRule")]
pub struct RuleView {
    id: Id,
    /// Offers of this connection.
    connection: Option<String>,
    /// Plans of this region.
    region: Option<String>,
    /// Plans of exactly this one country.
    country: Option<String>,
    /// This plan.
    plan_id: Option<Id>,
    /// Tenants of this tier.
    tier: Option<String>,
    /// This tenant.
    tenant_id: Option<Id>,
    /// Share of the cost that is put on top of it.
    percent: Decimal,
    /// Put on top of that.
    fixed: Amount,
    /// Never sold below it.
    floor: Option<Amount>,
    /// To which amounts the price is rounded up.
    rounding: &'static str,
    /// The rule is for prices in this currency.
    currency: &'static str,
    created_at: Time,
}

impl RuleView {
    /// The view of a rule.
    #[must_use]
    pub fn new(rule: &MarkupRule) -> Self {
        let MarkupScope { connection, region, country, plan, tier, tenant } = rule.scope.clone();
        let amount = |minor| Amount(Money::new(minor, rule.currency));
        Self {
            id: Id(rule.id.uuid()),
            connection,
            region,
            country,
            plan_id: plan.map(|plan| Id(plan.uuid())),
            tier,
            tenant_id: tenant.map(|tenant| Id(tenant.uuid())),
            percent: Decimal(Cost { units: rule.markup.percent, decimals: 2, currency: String::new() }),
            fixed: amount(rule.markup.fixed),
            floor: rule.markup.floor.map(amount),
            rounding: rule.markup.rounding.word(),
            currency: rule.currency.code(),
            created_at: Time(rule.id.created_at()),
        }
    }
}

/// `data` with a rule.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OneRule {
    rule: RuleView,
}

/// `data` of the list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleList {
    rules: Vec<RuleView>,
    next_cursor: Option<String>,
}

/// The query of the list.
pub const QUERY: &[Field] = &[LIMIT, CURSOR];

/// `GET markup-rules`, newest first.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: OperatorCall) -> Result<Answer, Problem> {
    let cursor = call.cursor()?.map(MarkupId::new);
    let limit = call.limit();
    let found = call.platform.store.read(move |snapshot| markup::list(snapshot, cursor, limit + 1)).await?;
    let (found, next_cursor) = page(found, limit, |rule| rule.id.uuid());
    Ok(Answer::json(200, "Markup rules", &RuleList { rules: found.iter().map(RuleView::new).collect(), next_cursor }))
}

fn roundings() -> Vec<&'static str> {
    Rounding::ALL.iter().map(|rounding| rounding.word()).collect()
}

/// The body of a rule.
pub const BODY: &[Field] = &[
    optional("connection", Kind::Text(2, 40), "For offers of this connection."),
    optional("region", Kind::Text(1, 100), "For plans of this region, as the plan writes it."),
    optional("country", Kind::Country, "For plans of exactly this one country."),
    optional("planId", Kind::Id, "For this plan."),
    optional("tier", Kind::Text(1, 40), "For tenants of this tier."),
    optional("tenantId", Kind::Id, "For this tenant."),
    required("percent", Kind::Decimal(2), "Share of the cost that is put on top of it, 0 to 1000."),
    optional("fixed", Kind::Decimal(4), "Put on top of that; 0 by default."),
    optional("floor", Kind::Decimal(4), "Never sold below it."),
    optional("rounding", Kind::Word(roundings), "To which amounts the price is rounded up; none by default."),
    optional("currency", Kind::Text(3, 3), "For prices in it; the tenant's where one is named, or the platform's."),
];

fn amount(call: &OperatorCall, name: &str, currency: Currency) -> Result<Option<i64>, Problem> {
    let Some(text) = call.body.decimal(name) else { return Ok(None) };
    match Money::parse(&text, currency) {
        Ok(amount) => Ok(Some(amount.minor())),
        Err(MoneyError::TooManyDecimals) => {
            Err(Problem::field(name, "too_many_decimals", format!("has more decimals than {currency}")))
        }
        Err(_) => Err(Problem::field(name, "out_of_range", "is absurdly large")),
    }
}

async fn currency(call: &OperatorCall, tenant: Option<TenantId>) -> Result<Currency, Problem> {
    if let Some(code) = call.body.text("currency") {
        return code.parse().map_err(|_| Problem::field("currency", "not_in_list", "is no ISO 4217 currency"));
    }
    let Some(tenant) = tenant else { return Ok(call.platform.currency) };
    let found = call.platform.store.read(move |snapshot| tenant::find(snapshot, tenant)).await?;
    Ok(found.ok_or(MarkupRefusal::UnknownTenant)?.currency)
}

/// `POST markup-rules`: the rule prices at once.
///
/// # Errors
/// A [`Problem`].
pub async fn create(call: OperatorCall) -> Result<Answer, Problem> {
    let body = &call.body;
    let scope = MarkupScope {
        connection: body.string("connection"),
        region: body.string("region"),
        country: body.string("country"),
        plan: body.parse("planId"),
        tier: tier(&call)?.map(|tier| tier.to_string()),
        tenant: body.parse("tenantId"),
    };
    let currency = currency(&call, scope.tenant).await?;
    // Hundredths of a percent are read as those of a dollar: exactly.
    let percent = body.decimal("percent").and_then(|text| Money::parse(&text, Currency::USD).ok());
    let markup = Markup {
        percent: percent.ok_or(MarkupRefusal::OutOfBounds(MarkupFault::Percent))?.minor(),
        fixed: amount(&call, "fixed", currency)?.unwrap_or(0),
        floor: amount(&call, "floor", currency)?,
        rounding: body.parse("rounding").unwrap_or(Rounding::None),
    };
    let act = call.act.clone();
    let rule = call.platform.store.write(move |tx| markup::create(tx, &act, &scope, &markup, currency)).await?;
    Ok(Answer::json(201, "Rule made", &OneRule { rule: RuleView::new(&rule) }))
}

/// `DELETE markup-rules/{ruleId}`: what it priced is priced by another rule, or not sold any more.
///
/// # Errors
/// A [`Problem`].
pub async fn end(call: OperatorCall) -> Result<Answer, Problem> {
    let id: MarkupId = call.id("ruleId")?;
    let act = call.act.clone();
    let rule = call.platform.store.write(move |tx| markup::end(tx, &act, id)).await?;
    Ok(Answer::json(200, "Rule ended", &OneRule { rule: RuleView::new(&rule) }))
}

impl From<MarkupRefusal> for Problem {
    fn from(refusal: MarkupRefusal) -> Self {
        let unknown = |name: &str, what: &str| Self::field(name, "not_in_list", format!("is no {what} here"));
        match refusal {
            MarkupRefusal::OutOfBounds(MarkupFault::Percent) => {
                Self::field("percent", "out_of_range", "must be between 0 and 1000")
            }
            MarkupRefusal::OutOfBounds(MarkupFault::Fixed) => Self::field("fixed", "out_of_range", "is absurdly large"),
            MarkupRefusal::OutOfBounds(MarkupFault::Floor) => Self::field("floor", "out_of_range", "is absurdly large"),
            MarkupRefusal::UnknownConnection => unknown("connection", "connection"),
            MarkupRefusal::UnknownPlan => unknown("planId", "plan"),
            MarkupRefusal::UnknownTenant => unknown("tenantId", "tenant"),
        }
    }
}

impl From<RuleNotFound> for Problem {
    fn from(_: RuleNotFound) -> Self {
        Self::not_found()
    }
}
