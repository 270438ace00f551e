//! Who changed what, when and from where.

use super::{CURSOR, LIMIT, page};
use crate::answer::Answer;
use crate::call::OperatorCall;
use crate::fields::{Field, Kind, optional};
use crate::json::{Id, Time};
use crate::problem::Problem;
use domain::id::AuditId;
use schemars::JsonSchema;
use serde::Serialize;
use store::audit;

/// A record as the operator sees it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AuditRecord")]
pub struct RecordView {
    id: Id,
    at: Time,
    operator_id: Id,
    /// What was done, as noun.verb.
    action: String,
    /// The id of what was changed.
    subject: String,
    /// Amounts and codes.
    detail: String,
    /// The operator's reason.
    reason: Option<String>,
    /// The address the request came from.
    address: String,
}

/// `data` of the list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditLog {
    records: Vec<RecordView>,
    next_cursor: Option<String>,
}

/// The filters.
pub const QUERY: &[Field] = &[
    optional("action", Kind::Text(1, 100), "Exactly this action."),
    optional("subject", Kind::Text(1, 100), "About exactly this id."),
    LIMIT,
    CURSOR,
];

/// `GET audit-log`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: OperatorCall) -> Result<Answer, Problem> {
    let (action, subject, limit) = (call.query.string("action"), call.query.string("subject"), call.limit());
    let cursor = call.cursor()?.map(AuditId::new);
    let found = call
        .platform
        .store
        .scan(move |snapshot| audit::list(snapshot, action.as_deref(), subject.as_deref(), cursor, limit + 1))
        .await?;
    let (found, next_cursor) = page(found, limit, |record| record.id.uuid());
    let view = |record: audit::Record| RecordView {
        id: Id(record.id.uuid()),
        at: Time(record.id.created_at()),
        operator_id: Id(record.operator.uuid()),
        action: record.action,
        subject: record.subject,
        detail: record.detail,
        reason: record.reason,
        address: record.address,
    };
    Ok(Answer::json(200, "Audit log", &AuditLog { records: found.into_iter().map(view).collect(), next_cursor }))
}
