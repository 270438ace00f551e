//! Differences between our books and those of upstreams.

use super::{CURSOR, LIMIT, REASON, page};
use crate::answer::Answer;
use crate::call::OperatorCall;
use crate::fields::{Field, Kind, optional};
use crate::json::{Id, Time};
use crate::problem::Problem;
use domain::id::DifferenceId;
use schemars::JsonSchema;
use serde::Serialize;
use store::difference::{self, Difference, SettleRefusal};

/// A difference as the operator sees it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Difference")]
pub struct DifferenceView {
    id: Id,
    connection: String,
    /// sold_there, absent_there, refused_there or other_esims.
    kind: &'static str,
    /// Our reference of the purchase: the order's id, and the number of the placement.
    reference: String,
    upstream_order: Option<String>,
    detail: String,
    found_at: Time,
    settled_at: Option<Time>,
}

impl DifferenceView {
    fn new(difference: Difference) -> Self {
        Self {
            id: Id(difference.id.uuid()),
            connection: difference.connection,
            kind: difference.kind.word(),
            reference: difference.reference,
            upstream_order: difference.upstream_order,
            detail: difference.detail,
            found_at: Time(difference.id.created_at()),
            settled_at: difference.settled_at.map(Time),
        }
    }
}

/// `data` with a difference.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OneDifference {
    difference: DifferenceView,
}

/// `data` of the list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DifferenceList {
    differences: Vec<DifferenceView>,
    next_cursor: Option<String>,
}

/// The filters.
pub const QUERY: &[Field] = &[optional("all", Kind::Flag, "Settled ones, too."), LIMIT, CURSOR];

/// `GET differences`: those that are not settled.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: OperatorCall) -> Result<Answer, Problem> {
    let open_only = !call.query.flag("all").unwrap_or(false);
    let (cursor, limit) = (call.cursor()?.map(DifferenceId::new), call.limit());
    let read = move |snapshot: &mut dyn store::port::Snapshot| difference::list(snapshot, open_only, cursor, limit + 1);
    let found = call.platform.store.scan(read).await?;
    let (found, next_cursor) = page(found, limit, |difference| difference.id.uuid());
    let differences = found.into_iter().map(DifferenceView::new).collect();
    Ok(Answer::json(200, "Differences", &DifferenceList { differences, next_cursor }))
}

/// The body of a settlement.
pub const SETTLE_BODY: &[Field] = &[REASON];

/// `POST differences/{differenceId}/settle`: the operator has put it right, or found that nothing is wrong.
///
/// # Errors
/// A [`Problem`].
pub async fn settle(call: OperatorCall) -> Result<Answer, Problem> {
    let id: DifferenceId = call.id("differenceId")?;
    let (act, reason) = (call.act.clone(), call.body.required_text("reason"));
    let settled = call.platform.store.write(move |tx| difference::settle(tx, &act, id, &reason)).await?;
    Ok(Answer::json(200, "Difference settled", &OneDifference { difference: DifferenceView::new(settled) }))
}

impl From<SettleRefusal> for Problem {
    fn from(refusal: SettleRefusal) -> Self {
        match refusal {
            SettleRefusal::NotFound => Self::not_found(),
            SettleRefusal::AlreadyDecided => Self::already_decided(),
        }
    }
}
