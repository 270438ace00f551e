//! Keeps the adapters in line with the connections, whenever one was made or changed.

use crate::platform::Platform;
use std::sync::Arc;
use tokio::sync::Notify;

/// Milliseconds until connections that could not be read are read again.
const AGAIN_MS: i64 = 1_000;

/// Runs until the process stops.
pub async fn run(platform: Arc<Platform>, changed: Arc<Notify>) {
    loop {
        let news = changed.notified();
        let next = match platform.upstreams.reload(&platform).await {
            Ok(()) => None,
            Err(fault) => {
                tracing::warn!(%fault, "the connections could not be read");
                Some(platform.clock.now().plus_millis(AGAIN_MS))
            }
        };
        tokio::select! {
            biased;
            () = platform.stopped() => return,
            () = news => {}
            () = super::sleep_until(&platform, next) => {}
        }
    }
}
