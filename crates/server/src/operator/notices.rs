//! Notices: what upstreams told by themselves, for whoever wonders whether they do.

use super::page;
use crate::answer::Answer;
use crate::call::OperatorCall;
use crate::json::{Id, Time};
use crate::problem::Problem;
use domain::id::NoticeId;
use schemars::JsonSchema;
use serde::Serialize;
use store::notice::{self, Kept};

/// A notice.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Notice")]
pub struct NoticeView {
    id: Id,
    /// The connection it came in at.
    connection: String,
    /// The upstream's word for what happened.
    event: String,
    upstream_order: Option<String>,
    reference: Option<String>,
    iccid: Option<String>,
    /// The body, without what installs an eSIM.
    body: String,
    received_at: Time,
}

/// `data` of the list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NoticeList {
    notices: Vec<NoticeView>,
    next_cursor: Option<String>,
}

/// `GET notices`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: OperatorCall) -> Result<Answer, Problem> {
    let (cursor, limit) = (call.cursor()?.map(NoticeId::new), call.limit());
    let found = call.platform.store.scan(move |snapshot| notice::list(snapshot, cursor, limit + 1)).await?;
    let (found, next_cursor) = page(found, limit, |kept| kept.id.uuid());
    let view = |Kept { id, notice }: Kept| NoticeView {
        id: Id(id.uuid()),
        connection: notice.connection,
        event: notice.event,
        upstream_order: notice.upstream_order,
        reference: notice.reference,
        iccid: notice.iccid,
        body: notice.body,
        received_at: Time(id.created_at()),
    };
    Ok(Answer::json(200, "Notices", &NoticeList { notices: found.into_iter().map(view).collect(), next_cursor }))
}
