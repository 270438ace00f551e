//! Takes the ledger's tail into the search index, behind the commits: at once when it has grown, a
//! moment later when it is quiet.

use crate::platform::Platform;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use store::index::INDEX_BATCH;
use tokio::sync::Notify;

/// What the writer tells the indexer.
#[derive(Debug, Default)]
pub struct Tail {
    entries: AtomicUsize,
    grown: Notify,
}

impl Tail {
    /// So many entries were appended.
    pub fn appended(&self, entries: usize) {
        let before = self.entries.fetch_add(entries, Ordering::Relaxed);
        let batch = INDEX_BATCH;
        if before == 0 || (before < batch && before + entries >= batch) {
            self.grown.notify_one();
        }
    }
}

/// How long a small tail may lie.
const QUIET: Duration = Duration::from_millis(1_000);

/// Runs until the process stops.
pub async fn run(platform: Arc<Platform>, tail: Arc<Tail>) {
    loop {
        tokio::select! {
            biased;
            () = platform.stopped() => return,
            () = tail.grown.notified() => {}
        }
        while tail.entries.load(Ordering::Relaxed) > 0 {
            if tail.entries.load(Ordering::Relaxed) < INDEX_BATCH {
                tokio::select! {
                    biased;
                    () = platform.stopped() => return,
                    () = tail.grown.notified() => {}
                    () = tokio::time::sleep(QUIET) => {}
                }
            }
            if platform.stopping.has_begun() {
                return;
            }
            let known = tail.entries.load(Ordering::Relaxed);
            match platform.store.fill_index().await {
                Ok((taken, more)) => {
                    // Nothing taken means that nothing was left, whatever was counted.
                    let gone = if taken == 0 { known } else { taken };
                    let least = if more { INDEX_BATCH } else { 0 };
                    let _ = tail.entries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |entries| {
                        Some(entries.saturating_sub(gone).max(least))
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
