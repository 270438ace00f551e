//! Top-ups: what was paid in, and the decision about it.

use super::{CURSOR, LIMIT, REASON};
use crate::answer::Answer;
use crate::api::top_up::{TopUpView, statuses};
use crate::call::OperatorCall;
use crate::fields::{Field, Kind, optional};
use crate::json::Id;
use crate::problem::Problem;
use domain::id::TopUpId;
use schemars::JsonSchema;
use serde::Serialize;
use store::top_up::{self, TopUp};

/// A top-up as the operator sees it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OperatorTopUp")]
pub struct OperatorTopUp<'a> {
    #[serde(flatten)]
    top_up: TopUpView<'a>,
    tenant_id: Id,
    mode: &'static str,
}

impl<'a> OperatorTopUp<'a> {
    fn new(call: &'a OperatorCall, top_up: &'a TopUp) -> Self {
        Self {
            top_up: TopUpView::new(&call.platform, top_up),
            tenant_id: Id(top_up.tenant.uuid()),
            mode: top_up.mode.word(),
        }
    }
}

/// `data` with a top-up.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OperatorOneTopUp")]
pub struct OneTopUp<'a> {
    top_up: OperatorTopUp<'a>,
}

/// `data` of a list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OperatorTopUpList")]
pub struct TopUpList<'a> {
    top_ups: Vec<OperatorTopUp<'a>>,
    next_cursor: Option<String>,
}

/// The filters.
pub const QUERY: &[Field] = &[
    optional("status", Kind::Word(statuses), "Exactly this status."),
    optional("reference", Kind::Text(1, 40), "What is written on the transfer, with or without spaces."),
    LIMIT,
    CURSOR,
];

/// `GET top-ups`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: OperatorCall) -> Result<Answer, Problem> {
    let status = call.query.parse("status");
    let plain = |text: &str| text.split_whitespace().collect::<String>().to_uppercase();
    let reference = call.query.text("reference").map(plain);
    let (cursor, now) = (call.cursor()?.map(TopUpId::new), call.platform.clock.now());
    let limit = call.limit();
    let found = call
        .platform
        .store
        .read(move |snapshot| top_up::list_all(snapshot, now, status, reference.as_deref(), cursor, limit + 1))
        .await?;
    let (found, next_cursor) = super::page(found, limit, |top_up| top_up.id.uuid());
    let top_ups = found.iter().map(|top_up| OperatorTopUp::new(&call, top_up)).collect();
    Ok(Answer::json(200, "Top-ups", &TopUpList { top_ups, next_cursor }))
}

fn one(call: &OperatorCall, message: &str, top_up: &TopUp) -> Answer {
    Answer::json(200, message, &OneTopUp { top_up: OperatorTopUp::new(call, top_up) })
}

/// `GET top-ups/{orderId}`.
///
/// # Errors
/// A [`Problem`].
pub async fn get(call: OperatorCall) -> Result<Answer, Problem> {
    let id: TopUpId = call.id("orderId")?;
    let found = call.platform.store.read(move |snapshot| top_up::find(snapshot, id)).await?;
    Ok(one(&call, "Top-up", &found.ok_or_else(Problem::not_found)?))
}

/// The body of an approval.
pub const APPROVE_BODY: &[Field] = &[optional("amount", Kind::PositiveMoney, "What really came, where it differs.")];

/// `POST top-ups/{orderId}/approve`.
///
/// # Errors
/// A [`Problem`].
pub async fn approve(call: OperatorCall) -> Result<Answer, Problem> {
    let id: TopUpId = call.id("orderId")?;
    let found = call.platform.store.read(move |snapshot| top_up::find(snapshot, id)).await?;
    let currency = found.ok_or_else(Problem::not_found)?.amount.currency();
    let received = match call.body.has("amount") {
        false => None,
        true => Some(
            call.body
                .money("amount", currency)
                .ok_or_else(|| Problem::field("amount", "too_many_decimals", format!("is no amount of {currency}")))?,
        ),
    };
    let (act, key) = (call.act.clone(), call.idempotency()?);
    let (top_up, replayed) = call.platform.store.write(move |tx| top_up::approve(tx, &act, id, received, key)).await?;
    Ok(one(&call, "Top-up approved", &top_up).replayed(replayed))
}

/// The body of a rejection.
pub const REJECT_BODY: &[Field] = &[REASON];

/// `POST top-ups/{orderId}/reject`.
///
/// # Errors
/// A [`Problem`].
pub async fn reject(call: OperatorCall) -> Result<Answer, Problem> {
    let id: TopUpId = call.id("orderId")?;
    let (act, reason) = (call.act.clone(), call.body.required_text("reason"));
    let top_up = call.platform.store.write(move |tx| top_up::reject(tx, &act, id, &reason)).await?;
    Ok(one(&call, "Top-up rejected", &top_up))
}
