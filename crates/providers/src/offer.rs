//! What upstreams tell beside their offers: data used, balances.

use domain::offer::Cost;
use domain::time::Timestamp;

/// Where an eSIM's data plan is in its life, as far as the upstream tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Its term has not begun.
    NotActive,
    /// It is in use.
    Active,
    /// All data is used.
    Depleted,
    /// Its term is over.
    Expired,
    /// It was ended before its term was over.
    Ended,
    /// The upstream does not say.
    Unknown,
}

/// What was used of an eSIM's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Bytes used, where it is told.
    pub used_bytes: Option<i64>,
    /// Bytes there are in all; `None` for unlimited plans, and where it is not told.
    pub total_bytes: Option<i64>,
    /// When the upstream last counted, where it says so.
    pub as_of: Option<Timestamp>,
    /// When the term began.
    pub activated_at: Option<Timestamp>,
    /// When the term ends, once it began.
    pub expires_at: Option<Timestamp>,
    /// Where the plan is.
    pub life: Life,
    /// How long this stays true, milliseconds: it makes no sense to ask again before.
    pub fresh_for_ms: i64,
}

/// Our balance at an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// What is left; never negative.
    pub left: Cost,
}
