//! The operator API: one noun, one file.

pub mod account;
pub mod audit_log;
pub mod catalogue;
pub mod connections;
pub mod differences;
pub mod explain;
pub mod inquiries;
pub mod jobs;
pub mod ledger;
pub mod markup_rules;
pub mod notices;
pub mod offers;
pub mod orders;
pub mod plans;
pub mod rates;
pub mod sandbox;
pub mod tenants;
pub mod top_ups;

use crate::fields::{Field, Kind, optional, required};

/// How many entries of a list are wanted.
pub const LIMIT: Field = optional("limit", Kind::Integer(1, 1_000), "Entries of one page.");
/// Where a page begins.
pub const CURSOR: Field = optional("cursor", Kind::Text(1, 100), "nextCursor of the page before.");
/// Why the operator decides so.
pub const REASON: Field = required("reason", Kind::Text(1, 500), "Why; kept with the decision.");

/// Cuts a list that holds one entry more than the page when there is a next page.
pub(crate) fn page<T>(mut found: Vec<T>, limit: u32, id: impl Fn(&T) -> uuid::Uuid) -> (Vec<T>, Option<String>) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| crate::call::cursor_text(id(last)));
    (found, next)
}
