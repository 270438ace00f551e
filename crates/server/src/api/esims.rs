//! `esims`: the list, and one with what was used of its data.

use super::orders::EsimView;
use crate::answer::Answer;
use crate::call::{TenantCall, cursor_text};
use crate::fields::{Field, Kind, optional};
use crate::json::{Id, Time};
use crate::problem::Problem;
use crate::usage::{Unavailable, answered, ask, unavailable_at};
use domain::esim::{EsimFilter, EsimStatus};
use domain::id::EsimId;
use domain::plan::Plan;
use domain::tenant::Scope;
use domain::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use store::esim::{self, Esim};
use store::order::{self, Order};
use store::port::{Fault, Snapshot};
use store::usage::{self, Kept, ToAsk};

/// How long a request waits for an upstream, milliseconds; then what was heard before is answered.
const WAIT_MS: i64 = 3_000;
const MEGABYTE: i64 = 1_048_576;

/// An eSIM with what its order says of it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EsimOfOrder")]
pub struct EsimOfOrder<'a> {
    #[serde(flatten)]
    esim: EsimView<'a>,
    order_id: Id,
    order_number: &'a str,
    plan_id: Id,
    plan_name: &'a str,
    /// The partner's own order number.
    reference: Option<&'a str>,
}

impl<'a> EsimOfOrder<'a> {
    fn new(call: &TenantCall, order: &'a Order, esim: &'a Esim) -> Self {
        Self {
            esim: EsimView::new(&call.platform, esim),
            order_id: Id(order.id.uuid()),
            order_number: &order.number,
            plan_id: Id(order.plan.uuid()),
            plan_name: &order.plan_name,
            reference: order.traveller.reference.as_deref(),
        }
    }
}

/// What was used of an eSIM's data, as its upstream counts.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Usage")]
pub struct UsageView {
    used_bytes: Option<i64>,
    /// All there is; null for unlimited plans, and where it is not known.
    total_bytes: Option<i64>,
    remaining_bytes: Option<i64>,
    /// When the upstream counted, where it says so.
    as_of: Option<Time>,
    /// When the plan's term began.
    activated_at: Option<Time>,
    /// When the plan's term ends, once it began.
    expires_at: Option<Time>,
    /// When the upstream was asked.
    checked_at: Time,
}

impl UsageView {
    fn new(kept: &Kept, plan: Option<&Plan>) -> Self {
        // Some upstreams tell what was used, and leave to the plan what there is.
        let of_plan = plan.filter(|plan| !plan.unlimited && plan.daily_data_mb.is_none());
        let of_plan = of_plan.and_then(|plan| plan.data_mb).map(|data_mb| data_mb.saturating_mul(MEGABYTE));
        let total = kept.total_bytes.or(of_plan);
        Self {
            used_bytes: kept.used_bytes,
            total_bytes: total,
            remaining_bytes: total.zip(kept.used_bytes).map(|(total, used)| total.saturating_sub(used).max(0)),
            as_of: kept.as_of.map(Time),
            activated_at: kept.activated_at.map(Time),
            expires_at: kept.expires_at.map(Time),
            checked_at: Time(kept.fetched_at),
        }
    }
}

/// One eSIM with what was used of its data.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EsimWithUsage")]
pub struct EsimWithUsage<'a> {
    #[serde(flatten)]
    esim: EsimOfOrder<'a>,
    usage: Option<UsageView>,
    /// Why usage is null: not_delivered, not_supported, not_told or no_answer.
    usage_unavailable: Option<&'static str>,
}

/// `data` of one eSIM.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OneEsim<'a> {
    esim: EsimWithUsage<'a>,
}

/// `data` of a list of eSIMs.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EsimList<'a> {
    esims: Vec<EsimOfOrder<'a>>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

fn statuses() -> Vec<&'static str> {
    EsimStatus::ALL.iter().map(|status| status.word()).collect()
}

/// The filters of the list.
pub const LIST_QUERY: &[Field] = &[
    optional("iccid", Kind::Text(1, 22), "Exactly this ICCID."),
    optional("orderId", Kind::Id, "Of this order."),
    optional("status", Kind::Word(statuses), "Exactly this status."),
    optional("limit", Kind::Integer(1, 1_000), "Entries of one page."),
    optional("cursor", Kind::Text(1, 100), "nextCursor of the page before."),
];

/// `GET esims`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: TenantCall) -> Result<Answer, Problem> {
    let Scope { tenant, mode, .. } = call.scope();
    let filter = EsimFilter {
        iccid: call.query.string("iccid"),
        order: call.query.parse("orderId"),
        status: call.query.parse("status"),
    };
    let cursor = call.cursor()?.map(EsimId::new);
    let limit = usize::try_from(call.limit()).unwrap_or(100);
    let list = move |snapshot: &mut dyn Snapshot| esim::list(snapshot, (tenant, mode), &filter, cursor, limit);
    let page = call.platform.store.scan(list).await?;
    let data = EsimList {
        esims: page.esims.iter().map(|(order, esim)| EsimOfOrder::new(&call, order, esim)).collect(),
        next_cursor: page.next.map(|next| cursor_text(next.uuid())),
    };
    Ok(Answer::json(200, "eSIMs", &data))
}

/// An eSIM as it is read for its answer.
struct Found {
    order: Order,
    esim: Esim,
    plan: Option<Plan>,
    usage: Option<Kept>,
    to_ask: Option<ToAsk>,
}

fn find(snapshot: &mut dyn Snapshot, scope: Scope, id: EsimId) -> Result<Option<Found>, Fault> {
    let of_tenant = |(order, _): &(Order, Esim)| order.tenant == scope.tenant && order.mode == scope.mode;
    let Some((order, esim)) = order::of_esim(snapshot, id)?.filter(of_tenant) else { return Ok(None) };
    let plan = store::plan::find(snapshot, order.plan)?.map(|listed| listed.plan);
    let to_ask = usage::to_ask(snapshot, &order, &esim)?;
    let usage = if to_ask.is_some() { usage::find(snapshot, id)? } else { None };
    Ok(Some(Found { order, esim, plan, usage, to_ask }))
}

/// Whether what was heard needs not to be asked for again.
fn is_fresh(esim: &Esim, kept: &Kept, now: Timestamp) -> bool {
    now < kept.fresh_until || esim.status() == EsimStatus::Expired
}

/// `GET esims/{esimId}`.
///
/// # Errors
/// A [`Problem`].
pub async fn get(call: TenantCall) -> Result<Answer, Problem> {
    let (scope, platform) = (call.scope(), &call.platform);
    let id: EsimId = call.id("esimId")?;
    let read = || platform.store.read(move |snapshot| find(snapshot, scope, id));
    let mut found = read().await?.ok_or_else(Problem::not_found)?;
    let now = platform.clock.now();
    let mut why = Unavailable::NotDelivered;
    if let Some(to_ask) = found.to_ask.clone()
        && !found.usage.as_ref().is_some_and(|kept| is_fresh(&found.esim, kept, now))
    {
        let asked_before = || platform.questions.in_vain(id, now);
        why = if let Some(why) = unavailable_at(platform, &to_ask.upstream).or_else(asked_before) {
            why
        } else {
            // It is not long, so that a slow upstream never becomes a slow answer of ours.
            answered(platform, ask(platform, to_ask), Some(now.plus_millis(WAIT_MS))).await;
            found = read().await?.ok_or_else(Problem::not_found)?;
            platform.questions.in_vain(id, platform.clock.now()).unwrap_or(Unavailable::NoAnswer)
        };
    }
    if found.to_ask.is_none() {
        why = Unavailable::NotDelivered;
    }
    let usage = found.usage.as_ref().map(|kept| UsageView::new(kept, found.plan.as_ref()));
    let usage_unavailable = usage.is_none().then(|| why.word());
    let esim = EsimOfOrder::new(&call, &found.order, &found.esim);
    Ok(Answer::json(200, "eSIM", &OneEsim { esim: EsimWithUsage { esim, usage, usage_unavailable } }))
}
