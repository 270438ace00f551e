//! The end of a process, told to everything that runs in it. Whoever waits for it hears of it in the order in which
//! they began to wait, so that a simulated run can be repeated; tokio's `watch` wakes in an order of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Tells the end, at last when it is dropped.
#[derive(Debug, Default)]
pub struct Stop(Stopping);

/// Hears of the end.
#[derive(Debug, Clone, Default)]
pub struct Stopping(Arc<Ending>);

#[derive(Debug, Default)]
struct Ending {
    begun: AtomicBool,
    bell: Notify,
}

impl Stop {
    /// Somebody who hears of it.
    #[must_use]
    pub fn stopping(&self) -> Stopping {
        self.0.clone()
    }

    /// From here on the process is stopping.
    pub fn begin(&self) {
        let Stopping(ending) = &self.0;
        ending.begun.store(true, Ordering::SeqCst);
        ending.bell.notify_waiters();
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.begin();
    }
}

impl Stopping {
    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.begun.load(Ordering::SeqCst)
    }

    /// Returns when it begins, or has begun.
    pub async fn begun(&self) {
        let bell = self.0.bell.notified();
        tokio::pin!(bell);
        // Whoever listens before looking misses nothing.
        bell.as_mut().enable();
        if !self.has_begun() {
            bell.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_is_heard_by_those_who_wait_and_by_those_who_come_later() {
        let stop = Stop::default();
        let stopping = stop.stopping();
        let waiting = tokio::spawn({
            let stopping = stopping.clone();
            async move { stopping.begun().await }
        });
        tokio::task::yield_now().await;
        assert!(!stopping.has_begun() && !waiting.is_finished());
        drop(stop);
        waiting.await.unwrap();
        stopping.begun().await;
        assert!(stopping.has_begun());
    }
}
