//! The check of the whole ledger.

use crate::answer::Answer;
use crate::call::OperatorCall;
use crate::problem::Problem;
use schemars::JsonSchema;
use serde::Serialize;
use store::Store;
use store::audit;
use store::ledger::{Check, Finding};
use store::port::Fault;

/// What is wrong, first.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LedgerFinding")]
pub struct FindingView {
    /// gap, altered, wrong_balance, wrong_count, wrong_head, wrong_cached_balance, unreadable, order_mismatch or
    /// top_up_mismatch.
    damage: &'static str,
    /// The entry, where one is to blame.
    entry: Option<String>,
    /// Whose chain, or which order.
    subject: String,
}

/// `data` of the check.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Checked {
    /// Whether all is well.
    ok: bool,
    /// How many entries were walked.
    entries: u64,
    finding: Option<FindingView>,
}

/// Walks the whole ledger and the audit log in short reads.
///
/// # Errors
/// A [`Fault`].
pub async fn check(store: &Store) -> Result<(u64, Option<Finding>), Fault> {
    let mut check = store.scan(|snapshot| Check::begin(snapshot)).await?;
    loop {
        let (back, page) = store
            .scan(move |snapshot| {
                let page = check.page(snapshot)?;
                Ok((check, page))
            })
            .await?;
        check = back;
        match page {
            Ok(true) => {}
            Ok(false) => break,
            Err(finding) => return Ok((check.entries, Some(finding))),
        }
    }
    let broken = store.scan(|snapshot| audit::check(snapshot)).await?;
    let finding = broken.map(|record| Finding {
        damage: domain::ledger::Damage::Altered,
        entry: Some(record),
        subject: "audit log".to_owned(),
    });
    Ok((check.entries, finding))
}

/// `GET ledger/check`.
///
/// # Errors
/// A [`Problem`].
pub async fn get(call: OperatorCall) -> Result<Answer, Problem> {
    let (entries, finding) = check(&call.platform.store).await?;
    if let Some(finding) = &finding {
        tracing::error!(?finding, "the ledger is damaged");
    }
    let finding = finding.map(|finding| FindingView {
        damage: finding.damage.word(),
        entry: finding.entry,
        subject: finding.subject,
    });
    let message = if finding.is_none() { "The ledger is whole" } else { "The ledger is damaged" };
    Ok(Answer::json(200, message, &Checked { ok: finding.is_none(), entries, finding }))
}
