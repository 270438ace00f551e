//! Plans: take in, price, withdraw.

use super::{CURSOR, LIMIT, page};
use crate::answer::Answer;
use crate::api::plans::PlanView;
use crate::call::OperatorCall;
use crate::fields::{Field, Kind, Values, optional, required};
use crate::json::Time;
use crate::problem::{Code, Problem};
use domain::id::PlanId;
use domain::money::Currency;
use domain::plan::{Activation, Network, Plan, PlanType, WithdrawnBy};
use schemars::JsonSchema;
use serde::Serialize;
use store::plan::{self, Imported, Listed, PlanRefusal};

/// A plan as the operator sees it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OperatorPlan")]
pub struct ListedView<'a> {
    #[serde(flatten)]
    plan: PlanView<'a>,
    provider: &'a str,
    upstream_plan_id: &'a str,
    /// operator or rules: who says what it costs.
    priced_by: &'static str,
    withdrawn_at: Option<Time>,
    /// operator or catalogue: who took it off sale. The catalogue brings it back with its offers.
    withdrawn_by: Option<&'static str>,
}

impl<'a> ListedView<'a> {
    fn new(listed: &'a Listed) -> Self {
        Self {
            plan: PlanView::new(&listed.plan),
            provider: &listed.plan.provider,
            upstream_plan_id: &listed.plan.upstream_plan_id,
            priced_by: listed.priced_by.word(),
            withdrawn_at: listed.withdrawn_at.map(Time),
            withdrawn_by: listed.withdrawn_by.map(WithdrawnBy::word),
        }
    }
}

/// `data` with a plan.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OnePlan<'a> {
    plan: ListedView<'a>,
}

/// `data` of a list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanList<'a> {
    plans: Vec<ListedView<'a>>,
    next_cursor: Option<String>,
}

/// The query of the list.
pub const QUERY: &[Field] = &[LIMIT, CURSOR];

/// `GET plans`, oldest first, withdrawn ones included.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: OperatorCall) -> Result<Answer, Problem> {
    let cursor = call.cursor()?.map(PlanId::new);
    let limit = call.limit();
    let found = call.platform.store.read(move |snapshot| plan::list(snapshot, cursor, limit + 1)).await?;
    let (found, next_cursor) = page(found, limit, |listed| listed.plan.id.uuid());
    let data = PlanList { plans: found.iter().map(ListedView::new).collect(), next_cursor };
    Ok(Answer::json(200, "Plans", &data))
}

fn types() -> Vec<&'static str> {
    PlanType::ALL.iter().map(|word| word.word()).collect()
}

fn activations() -> Vec<&'static str> {
    Activation::ALL.iter().map(|word| word.word()).collect()
}

const NETWORK: Kind = Kind::Object(&[
    required("country", Kind::Country, "Country."),
    required("operator", Kind::Text(1, 100), "The network operator."),
    required("technology", Kind::Text(1, 40), "4G, 5G, ..."),
]);

const PLAN: Kind = Kind::Object(&[
    required("provider", Kind::Text(1, 40), "The provider that fulfils it."),
    required("upstreamPlanId", Kind::Text(1, 200), "The provider's own id of it."),
    required("name", Kind::Text(1, 200), "Display name."),
    required("type", Kind::Word(types), "How far it reaches."),
    required("countries", Kind::List(&Kind::Country, 1, 250), "Where it works."),
    optional("region", Kind::Text(1, 100), "Region name."),
    optional("dataMb", Kind::Integer(1, 1_000_000_000), "Data of the whole term; left out for unlimited plans."),
    optional("dailyDataMb", Kind::Integer(1, 1_000_000_000), "Data of one day, for daily plans."),
    optional("unlimited", Kind::Flag, "Whether the volume is unlimited."),
    required("validityDays", Kind::Integer(1, 3_650), "Term in days."),
    required("price", Kind::PositiveMoney, "Price of one eSIM."),
    optional("currency", Kind::Text(3, 3), "ISO 4217; the platform's own currency by default."),
    optional("speed", Kind::Text(1, 100), "Speed in words."),
    optional("networks", Kind::List(&NETWORK, 0, 1_000), "Networks by country."),
    optional("activation", Kind::Word(activations), "When the term begins; on_first_use by default."),
    optional("topUpSupported", Kind::Flag, "Whether an eSIM of it can be topped up."),
    optional("description", Kind::Text(1, 2_000), "Words for a person."),
    optional("fairUse", Kind::Text(1, 1_000), "Fair-use rule in words."),
]);

/// The body of an import.
pub const IMPORT_BODY: &[Field] = &[required("plans", Kind::List(&PLAN, 1, 5_000), "The plans.")];

/// `data` of an import.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ImportedView {
    created: u32,
    updated: u32,
}

/// `POST plans/import`: new plans are made, known ones (same provider and upstream id) brought up to date.
///
/// # Errors
/// A [`Problem`].
pub async fn import(call: OperatorCall) -> Result<Answer, Problem> {
    let mut plans = Vec::new();
    for (index, values) in call.body.objects("plans").enumerate() {
        plans.push(read(&call, index, &values)?);
    }
    let act = call.act.clone();
    let Imported { created, updated } =
        call.platform.store.write(move |tx| plan::import(tx, Some(&act), &plans)).await?;
    Ok(Answer::json(200, "Plans imported", &ImportedView { created, updated }))
}

fn read(call: &OperatorCall, index: usize, values: &Values) -> Result<Plan, Problem> {
    let fault = |name: &str, code, message: &str| Problem::field(&format!("plans[{index}].{name}"), code, message);
    let provider = values.required_text("provider");
    if call.platform.upstreams.get(&provider).is_none() {
        return Err(fault("provider", "not_in_list", "is no provider that is set up here"));
    }
    let currency: Currency = match values.text("currency") {
        None => call.platform.currency,
        Some(code) => code.parse().map_err(|_| fault("currency", "not_in_list", "is no ISO 4217 currency"))?,
    };
    let price = values.money("price", currency);
    let data_mb = values.integer("dataMb");
    let unlimited = values.flag("unlimited").unwrap_or(data_mb.is_none());
    if !unlimited && data_mb.is_none() {
        return Err(fault("dataMb", "required", "is missing; only unlimited plans have none"));
    }
    let mut countries: Vec<String> = values.texts("countries").map(str::to_owned).collect();
    countries.sort_unstable();
    countries.dedup();
    let network = |values: Values| Network {
        country: values.required_text("country"),
        operator: values.required_text("operator"),
        technology: values.required_text("technology"),
    };
    Ok(Plan {
        id: PlanId::new(uuid::Uuid::nil()),
        provider,
        upstream_plan_id: values.required_text("upstreamPlanId"),
        name: values.required_text("name"),
        plan_type: values.parse("type").unwrap_or(PlanType::Local),
        countries,
        region: values.string("region"),
        data_mb,
        daily_data_mb: values.integer("dailyDataMb"),
        unlimited,
        validity_days: values.integer("validityDays").unwrap_or(1),
        price: price.ok_or_else(|| fault("price", "too_many_decimals", "is no amount of this currency"))?,
        speed: values.string("speed"),
        networks: values.objects("networks").map(network).collect(),
        activation: values.parse("activation").unwrap_or(Activation::OnFirstUse),
        top_up_supported: values.flag("topUpSupported").unwrap_or(false),
        description: values.string("description"),
        fair_use: values.string("fairUse"),
    })
}

/// The body of a price.
pub const PRICE_BODY: &[Field] = &[required("price", Kind::PositiveMoney, "The new price of one eSIM.")];

/// `PUT plans/{planId}/price`: orders keep the price they were sold at.
///
/// # Errors
/// A [`Problem`].
pub async fn set_price(call: OperatorCall) -> Result<Answer, Problem> {
    let id: PlanId = call.id("planId")?;
    let listed = call.platform.store.read(move |snapshot| plan::find(snapshot, id)).await?;
    let currency = listed.ok_or_else(Problem::not_found)?.plan.price.currency();
    let price = call
        .body
        .money("price", currency)
        .ok_or_else(|| Problem::field("price", "too_many_decimals", format!("is no amount of {currency}")))?;
    let act = call.act.clone();
    let listed = call.platform.store.write(move |tx| plan::set_price(tx, &act, id, price)).await?;
    Ok(Answer::json(200, "Price set", &OnePlan { plan: ListedView::new(&listed) }))
}

/// `DELETE plans/{planId}/price`: rules price it again.
///
/// # Errors
/// A [`Problem`].
pub async fn give_price_back(call: OperatorCall) -> Result<Answer, Problem> {
    let id: PlanId = call.id("planId")?;
    let act = call.act.clone();
    let listed = call.platform.store.write(move |tx| plan::price_by_rules(tx, &act, id)).await?;
    Ok(Answer::json(200, "Rules price it", &OnePlan { plan: ListedView::new(&listed) }))
}

/// `POST plans/{planId}/withdraw`.
///
/// # Errors
/// A [`Problem`].
pub async fn withdraw(call: OperatorCall) -> Result<Answer, Problem> {
    let id: PlanId = call.id("planId")?;
    let act = call.act.clone();
    let listed = call.platform.store.write(move |tx| plan::withdraw(tx, &act, id)).await?;
    Ok(Answer::json(200, "Plan withdrawn", &OnePlan { plan: ListedView::new(&listed) }))
}

/// `POST plans/{planId}/restore`: takes back that the operator withdrew it. One that lives from offers is on sale as long
/// as one of them can be bought.
///
/// # Errors
/// A [`Problem`].
pub async fn restore(call: OperatorCall) -> Result<Answer, Problem> {
    let id: PlanId = call.id("planId")?;
    let act = call.act.clone();
    let listed = call.platform.store.write(move |tx| plan::restore(tx, &act, id)).await?;
    Ok(Answer::json(200, "Plan restored", &OnePlan { plan: ListedView::new(&listed) }))
}

impl From<PlanRefusal> for Problem {
    fn from(refusal: PlanRefusal) -> Self {
        match refusal {
            PlanRefusal::NotFound => Self::not_found(),
            PlanRefusal::AlreadyDecided => Self::already_decided(),
            PlanRefusal::HasNoOffers => Self::new(
                Code::PlanHasNoOffers,
                "This plan names an upstream and a plan of it itself, so no rule can price it. Set its price.",
            ),
        }
    }
}
