//! Takes the ledger's tail into the search index, behind the commits: at once when it has grown, a
//! moment later when it is quiet.

use crate::platform::Platform;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::Store;
use store::index::{INDEX_BATCH, Portion, take};
use store::port::{Decision, Failure, Fault};
use tokio::sync::Notify;

/// What the writer tells the indexer.
#[derive(Debug, Default)]
pub struct Tail {
    entries: AtomicU64,
    grown: Notify,
}

impl Tail {
    /// So many entries were appended.
    pub fn appended(&self, entries: u64) {
        let before = self.entries.fetch_add(entries, Ordering::Relaxed);
        let batch = u64::from(INDEX_BATCH);
        if before == 0 || (before < batch && before + entries >= batch) {
            self.grown.notify_one();
        }
    }
}

/// How long a small tail may lie.
const QUIET: Duration = Duration::from_millis(500);

/// Runs until the process stops.
pub async fn run(platform: Arc<Platform>, tail: Arc<Tail>) {
    loop {
        tokio::select! {
            () = tail.grown.notified() => {}
            () = platform.stopped() => return,
        }
        while tail.entries.load(Ordering::Relaxed) > 0 {
            if tail.entries.load(Ordering::Relaxed) < u64::from(INDEX_BATCH) {
                tokio::select! {
                    () = tail.grown.notified() => {}
                    () = tokio::time::sleep(QUIET) => {}
                    () = platform.stopped() => return,
                }
            }
            match take_portion(&platform.store).await {
                Ok(taken) => {
                    let taken = u64::from(taken);
                    let _ = tail.entries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |entries| {
                        // Nothing taken means nothing is left, whatever was counted.
                        Some(if taken == 0 { 0 } else { entries.saturating_sub(taken) })
                    });
                }
                Err(fault) => {
                    tracing::warn!(%fault, "the index could not be filled");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// Takes the oldest part of the tail into the index, in steps between which others may write. Returns how
/// many entries it took.
async fn take_portion(store: &Store) -> Result<u32, Fault> {
    let portion = Arc::new(store.scan(Portion::read).await?);
    let mut next = Some(0);
    while let Some(done) = next {
        let portion = Arc::clone(&portion);
        next = infallible(store.write_behind(move |tx| take(tx, &portion, done)).await)?;
    }
    Ok(portion.entries)
}

fn infallible<T>(decision: Decision<T, Infallible>) -> Result<T, Fault> {
    decision.map_err(|failure| match failure {
        Failure::Fault(fault) => fault,
        Failure::Refused(never) => match never {},
    })
}
