//! What is thrown away when its time is over, in small portions. Ledger, orders and audit log stay.

use crate::port::{Decision, Tx};
use domain::id::first_at;
use domain::time::Timestamp;
use std::convert::Infallible;

/// Rows of one portion.
const PORTION: i64 = 1_000;

/// How long the changes of offers are told.
const OFFER_CHANGES_DAYS: i64 = 90;

/// Deletes one portion of what nobody needs any more: idempotency keys made before `keys_before`, and
/// sessions over since `sessions_before`; the failed logins before `failures_before`; what upstreams told before
/// `notices_before`; and the changes of offers of more than 90 days ago. Returns whether there may be more.
///
/// # Errors
/// [`crate::port::Fault`].
pub fn sweep(
    tx: &mut dyn Tx,
    keys_before: Timestamp,
    sessions_before: Timestamp,
    failures_before: Timestamp,
    notices_before: Timestamp,
) -> Decision<bool, Infallible> {
    tx.execute("delete from login_failures where at < $1", &[failures_before.into()])?;
    let keys = first_at(keys_before);
    let old_keys = "select key_hash from idempotency_keys where result_id < $1 order by result_id limit $2";
    let bound = [keys.as_bytes().into(), PORTION.into()];
    tx.execute(&format!("delete from idempotency_index where key_hash in ({old_keys})"), &bound)?;
    let swept = tx.execute(
        "delete from idempotency_keys where result_id in (
             select result_id from idempotency_keys where result_id < $1 order by result_id limit $2)",
        &bound,
    )?;
    let sessions = first_at(sessions_before.plus_millis(-366 * 86_400_000));
    tx.execute(
        "delete from sessions where id in (
             select id from sessions where expires_at < $1 and id > $2 order by id limit $3)",
        &[sessions_before.into(), sessions.as_bytes().into(), PORTION.into()],
    )?;
    // The time of a notice is that of its id.
    let notices = first_at(notices_before);
    tx.execute(
        "delete from notices where id in (select id from notices where id < $1 order by id limit $2)",
        &[notices.as_bytes().into(), PORTION.into()],
    )?;
    let changes = first_at(tx.now().plus_millis(-OFFER_CHANGES_DAYS * 86_400_000));
    let changes = tx.execute(
        "delete from offer_changes where id in (select id from offer_changes where id < $1 order by id limit $2)",
        &[changes.as_bytes().into(), PORTION.into()],
    )?;
    Ok(i64::try_from(swept.max(changes)).unwrap_or(0) == PORTION)
}
