//! What upstreams tell beside their offers: data used, balances.

use domain::offer::Cost;
pub use domain::usage::{Life, Usage};

/// Our balance at an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// What is left; never negative.
    pub left: Cost,
}
