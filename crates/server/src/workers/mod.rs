//! The workers: loops that sleep until there is something to do. Each of their steps is a function that
//! can be driven from outside; the loops only decide when. Where they wait for one of several things, the first of these
//! that is ready wins (`biased`), so that a simulated run can be repeated.

pub mod catalogue;
pub mod connections;
pub mod fulfilment;
pub mod housekeeping;
pub mod indexer;
pub mod lifecycle;
pub mod neighbours;
pub mod reconciliation;
pub mod sync;

use crate::platform::Platform;
use domain::time::Timestamp;

/// Sleeps until a moment; without one, for ever.
pub(crate) async fn sleep_until(platform: &Platform, at: Option<Timestamp>) {
    match at {
        Some(at) => platform.clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
