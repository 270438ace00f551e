//! Orders: all tenants', with placements and what the upstreams said; retry, refund, resolve.

use super::REASON;
use crate::answer::Answer;
use crate::api::orders::{OrderView, filter, unknown_esims};
use crate::call::{OperatorCall, cursor_text};
use crate::fields::{Field, Kind, Values, optional, required};
use crate::json::{Amount, Decimal, Id, Time};
use crate::problem::{Code, Problem};
use domain::esim::EsimState;
use domain::fulfilment::Profile;
use domain::id::{EsimId, OrderId, TenantId};
use domain::money::Money;
use domain::tenant::Mode;
use domain::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use store::fulfilment::{self, OperatorRefund, Placement, RefundRefusal, ResolveRefusal};
use store::job;
use store::order::{self, Order};

/// A purchase at an upstream.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Placement")]
pub struct PlacementView {
    /// What the upstream knows it under.
    reference: String,
    provider: String,
    upstream_plan_id: String,
    quantity: u32,
    /// placing, waiting, accepted, unknown, done, refused or abandoned.
    state: &'static str,
    unknown_since: Option<Time>,
    /// What one eSIM costs us there, in the upstream's currency and precision; null where it is not known.
    unit_cost: Option<Decimal>,
    unit_cost_currency: Option<String>,
    /// The same in the order's currency, at the rate of the moment it was routed, rounded up.
    unit_cost_converted: Option<Amount>,
    /// What the upstream said, raw, oldest first.
    answers: Vec<AnswerView>,
}

/// One raw answer of an upstream.
#[derive(Debug, Serialize, serde::Deserialize, JsonSchema)]
#[schemars(rename = "UpstreamAnswer")]
pub struct AnswerView {
    at: String,
    call: String,
    answer: String,
}

impl PlacementView {
    fn new(placement: Placement) -> Self {
        let cost = placement.cost.as_ref();
        Self {
            unit_cost: cost.map(|cost| Decimal(cost.asked.clone())),
            unit_cost_currency: cost.map(|cost| cost.asked.currency.clone()),
            unit_cost_converted: cost.map(|cost| Amount(cost.converted)),
            reference: placement.reference(),
            state: placement.progress.state.word(),
            unknown_since: placement.progress.unknown_since.map(Time),
            quantity: placement.quantity,
            answers: placement.answers.iter().filter_map(|answer| serde_json::from_str(answer).ok()).collect(),
            provider: placement.provider,
            upstream_plan_id: placement.upstream_plan_id,
        }
    }
}

/// An order as the operator sees it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OperatorOrder")]
pub struct OperatorOrder<'a> {
    #[serde(flatten)]
    order: OrderView<'a>,
    tenant_id: Id,
    /// Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    placements: Option<Vec<PlacementView>>,
    /// What is left of the order's price behind what its eSIMs cost us; only of one order, and null where a cost is not
    /// known.
    #[serde(skip_serializing_if = "Option::is_none")]
    margin: Option<Option<Amount>>,
}

/// What is left of an order behind refunds and what its eSIMs cost; `None` where a cost is not known.
fn margin(order: &Order, placements: &[Placement]) -> Option<Money> {
    let kept = order.total().ok()?.minus(order.refunded).ok()?;
    let mut sold = order.esims.iter().filter(|esim| esim.delivered_at.is_some() && esim.state != EsimState::Cancelled);
    sold.try_fold(kept, |left, esim| {
        let placement = placements.iter().find(|placement| placement.k == esim.placement)?;
        left.minus(placement.cost.as_ref()?.converted).ok()
    })
}

/// `data` with an order.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OperatorOneOrder")]
pub struct OneOrder<'a> {
    order: OperatorOrder<'a>,
}

/// `data` of a list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OperatorOrderList")]
pub struct OrderList<'a> {
    orders: Vec<OperatorOrder<'a>>,
    next_cursor: Option<String>,
}

/// `GET orders`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: OperatorCall) -> Result<Answer, Problem> {
    let filter = filter(&call.query);
    let tenant: Option<TenantId> = call.query.parse("tenantId");
    let mode: Option<Mode> = call.query.parse("mode");
    let cursor = call.cursor()?.map(OrderId::new);
    let limit = usize::try_from(call.limit()).unwrap_or(100);
    let page = call
        .platform
        .store
        .scan(move |snapshot| match (tenant, mode) {
            (Some(tenant), mode) => {
                let mode = mode.unwrap_or(Mode::Live);
                order::list(snapshot, tenant, mode, &filter, cursor, limit)
            }
            (None, mode) => order::list_all(snapshot, mode, &filter, cursor, limit),
        })
        .await?;
    let row = |order| -> Result<OperatorOrder<'_>, Problem> { view(&call, order, None) };
    let data = OrderList {
        orders: page.orders.iter().map(row).collect::<Result<_, _>>()?,
        next_cursor: page.next.map(|next| cursor_text(next.uuid())),
    };
    Ok(Answer::json(200, "Orders", &data))
}

fn view<'a>(
    call: &OperatorCall,
    order: &'a Order,
    placements: Option<Vec<Placement>>,
) -> Result<OperatorOrder<'a>, Problem> {
    let margin = placements.as_ref().map(|placements| margin(order, placements).map(Amount));
    let placements = placements.map(|list| list.into_iter().map(PlacementView::new).collect::<Vec<_>>());
    let tenant_id = Id(order.tenant.uuid());
    let order = match placements {
        None => OrderView::row(&call.platform, order)?,
        Some(_) => OrderView::whole(&call.platform, order)?,
    };
    Ok(OperatorOrder { order, tenant_id, placements, margin })
}

async fn one(call: &OperatorCall, message: &str, id: OrderId) -> Result<Answer, Problem> {
    let found = call
        .platform
        .store
        .read(move |snapshot| {
            let Some(order) = order::find(snapshot, id)? else { return Ok(None) };
            Ok(Some((order, fulfilment::placements(snapshot, id)?)))
        })
        .await?;
    let (order, placements) = found.ok_or_else(Problem::not_found)?;
    let data = OneOrder { order: view(call, &order, Some(placements))? };
    Ok(Answer::json(200, message, &data))
}

/// `GET orders/{orderId}`.
///
/// # Errors
/// A [`Problem`].
pub async fn get(call: OperatorCall) -> Result<Answer, Problem> {
    let id = call.id("orderId")?;
    one(&call, "Order", id).await
}

/// `POST orders/{orderId}/retry`: brings the order's dead job back to work.
///
/// # Errors
/// A [`Problem`].
pub async fn retry(call: OperatorCall) -> Result<Answer, Problem> {
    let id: OrderId = call.id("orderId")?;
    let act = call.act.clone();
    let found = call
        .platform
        .store
        .read(move |snapshot| Ok((order::find(snapshot, id)?.is_some(), job::dead_of_order(snapshot, id)?)))
        .await?;
    let job = match found {
        (false, _) => return Err(Problem::not_found()),
        (true, None) => return Err(Problem::new(Code::NotRetryable, "This order has no job that was given up.")),
        (true, Some(job)) => job.id,
    };
    call.platform.store.write(move |tx| job::retry(tx, &act, job)).await?;
    one(&call, "Order is tried again", id).await
}

/// The body of a refund.
pub const REFUND_BODY: &[Field] = &[
    optional("esimIds", Kind::List(&Kind::Id, 1, 100), "Give the price of these eSIMs back."),
    optional("amount", Kind::PositiveMoney, "Give this amount back; without both, all that is left."),
    REASON,
];

/// `POST orders/{orderId}/refund`.
///
/// # Errors
/// A [`Problem`].
pub async fn refund(call: OperatorCall) -> Result<Answer, Problem> {
    let id: OrderId = call.id("orderId")?;
    if call.body.has("esimIds") && call.body.has("amount") {
        return Err(Problem::field("amount", "not_allowed", "goes without esimIds"));
    }
    let order = call.platform.store.read(move |snapshot| order::find(snapshot, id)).await?;
    let currency = order.ok_or_else(Problem::not_found)?.unit_price.currency();
    let what = if call.body.has("esimIds") {
        OperatorRefund::Esims(call.body.texts("esimIds").filter_map(|text| text.parse::<EsimId>().ok()).collect())
    } else if call.body.has("amount") {
        let amount = call.body.money("amount", currency);
        OperatorRefund::Amount(
            amount
                .ok_or_else(|| Problem::field("amount", "too_many_decimals", format!("is no amount of {currency}")))?,
        )
    } else {
        OperatorRefund::Rest
    };
    let (act, reason, key) = (call.act.clone(), call.body.required_text("reason"), call.idempotency()?);
    let (_, replayed) =
        call.platform.store.write(move |tx| fulfilment::refund_by_operator(tx, &act, id, &what, &reason, key)).await?;
    Ok(one(&call, "Refunded", id).await?.replayed(replayed))
}

impl From<RefundRefusal> for Problem {
    fn from(refusal: RefundRefusal) -> Self {
        match refusal {
            RefundRefusal::NotFound => Self::not_found(),
            RefundRefusal::IdempotencyKeyReused => Self::key_reused(),
            RefundRefusal::Processing => Self::new(
                Code::OrderProcessing,
                "The order is still being fulfilled; what does not come is refunded by itself.",
            ),
            RefundRefusal::UnknownEsims(indexes) => unknown_esims(&indexes),
            RefundRefusal::AlreadyRefunded => Self::new(Code::AlreadyRefunded, "Nothing is left to give back."),
            RefundRefusal::TooMuch { left } => {
                Self::new(Code::RefundTooLarge, format!("Only {left} {} are left to give back.", left.currency()))
                    .with(json!({"left": Amount(left), "currency": left.currency().code()}))
            }
        }
    }
}

fn outcomes() -> Vec<&'static str> {
    vec!["sold", "not_sold"]
}

const ESIM: Kind = Kind::Object(&[
    required("iccid", Kind::Text(18, 22), "ICCID."),
    optional("activationCode", Kind::Text(5, 259), "LPA:1$...; or SM-DP+ address and matching id."),
    optional("smdpAddress", Kind::Text(1, 255), "Host name of the SM-DP+."),
    optional("matchingId", Kind::Text(1, 255), "MatchingID."),
    optional("confirmationCode", Kind::Text(1, 100), "Confirmation code."),
    optional("apn", Kind::Text(1, 100), "Access point name."),
    optional("msisdn", Kind::Text(1, 20), "Telephone number."),
    optional("pin", Kind::Text(1, 10), "SIM PIN."),
    optional("puk", Kind::Text(1, 10), "SIM PUK."),
    optional("installBy", Kind::Time, "Last moment to install it."),
]);

/// The body of a resolution.
pub const RESOLVE_BODY: &[Field] = &[
    required("outcome", Kind::Word(outcomes), "Whether the upstream sold it."),
    optional("esims", Kind::List(&ESIM, 1, 100), "What it sold; needed for sold. What is missing is refunded."),
    REASON,
];

/// `POST orders/{orderId}/resolve`: the operator says what became of an unknown placement.
///
/// # Errors
/// A [`Problem`].
pub async fn resolve(call: OperatorCall) -> Result<Answer, Problem> {
    let id: OrderId = call.id("orderId")?;
    let sold = call.body.text("outcome") == Some("sold");
    let profiles = if sold {
        let profiles: Result<Vec<Profile>, Problem> =
            call.body.objects("esims").enumerate().map(|(index, esim)| profile(index, &esim)).collect();
        Some(profiles?)
    } else if call.body.has("esims") {
        return Err(Problem::field("esims", "not_allowed", "goes with the outcome sold"));
    } else {
        None
    };
    let (act, reason) = (call.act.clone(), call.body.required_text("reason"));
    call.platform.store.write(move |tx| fulfilment::resolve(tx, &act, id, profiles.as_deref(), &reason)).await?;
    one(&call, "Order resolved", id).await
}

/// Reads a profile: the activation code, or the two parts it is made of.
fn profile(index: usize, values: &Values) -> Result<Profile, Problem> {
    let fault = |name: &str, code, message: &str| Problem::field(&format!("esims[{index}].{name}"), code, message);
    let iccid = values.required_text("iccid");
    if !iccid.starts_with("89") || !iccid.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(fault("iccid", "malformed", "must be 18 to 22 digits beginning with 89"));
    }
    let (smdp_address, matching_id, activation_code) = match values.string("activationCode") {
        Some(code) => {
            let parts: Vec<&str> = code.strip_prefix("LPA:").unwrap_or(&code).split('$').collect();
            match parts.as_slice() {
                ["1", smdp, matching, ..] if !smdp.is_empty() => {
                    ((*smdp).to_owned(), (*matching).to_owned(), format!("LPA:{}", parts.join("$")))
                }
                _ => return Err(fault("activationCode", "malformed", "must look like LPA:1$host$matching-id")),
            }
        }
        None => match (values.string("smdpAddress"), values.string("matchingId")) {
            (Some(smdp), matching) => {
                let matching = matching.unwrap_or_default();
                let code = format!("LPA:1${smdp}${matching}");
                (smdp, matching, code)
            }
            _ => return Err(fault("activationCode", "required", "is missing; or give smdpAddress and matchingId")),
        },
    };
    Ok(Profile {
        iccid,
        handle: None,
        smdp_address,
        matching_id,
        activation_code,
        confirmation_code: values.string("confirmationCode"),
        apn: values.string("apn"),
        msisdn: values.string("msisdn"),
        pin: values.string("pin"),
        puk: values.string("puk"),
        install_by: values.parse::<Timestamp>("installBy"),
    })
}

impl From<ResolveRefusal> for Problem {
    fn from(refusal: ResolveRefusal) -> Self {
        match refusal {
            ResolveRefusal::NotFound => Self::not_found(),
            ResolveRefusal::NotUnknown => {
                Self::new(Code::NotUnknown, "What became of this order is known; there is nothing to resolve.")
            }
            ResolveRefusal::EsimsNeeded => {
                Self::field("esims", "required", "is missing: what was sold must be delivered")
            }
            ResolveRefusal::TooManyEsims => Self::field("esims", "too_many", "are more than the order has"),
        }
    }
}
