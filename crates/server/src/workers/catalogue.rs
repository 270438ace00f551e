//! Keeps the catalogue in memory up to date, so that requests find it ready.

use crate::platform::Platform;
use std::sync::Arc;

/// Milliseconds until a catalogue that could not be read is read again.
const AGAIN_MS: i64 = 1_000;

/// Runs until the process stops.
pub async fn run(platform: Arc<Platform>) {
    loop {
        let now = platform.clock.now();
        let next = match platform.catalogue.current(&platform.store, now).await {
            Ok(_) => None,
            Err(fault) => {
                tracing::warn!(%fault, "the catalogue could not be read");
                Some(now.plus_millis(AGAIN_MS))
            }
        };
        tokio::select! {
            biased;
            () = platform.stopped() => return,
            () = platform.catalogue.news() => {}
            () = super::sleep_until(&platform, next) => {}
        }
    }
}
