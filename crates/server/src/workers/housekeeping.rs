//! What has to be done now and then: expire top-ups, throw away what is over, forget quiet callers.

use crate::platform::Platform;
use std::sync::Arc;
use store::port::Tx;
use store::secret_key::Purpose;
use store::{retention, secret_key, top_up};

/// Milliseconds between two rounds.
const ROUND_MS: i64 = 60_000;

/// How long it is known what upstreams told, milliseconds: 30 days.
const NOTICES_KEPT_MS: i64 = 30 * 86_400_000;

/// Runs until the process stops.
pub async fn run(platform: Arc<Platform>) {
    loop {
        let next = platform.clock.now().plus_millis(ROUND_MS);
        tokio::select! {
            biased;
            () = platform.stopped() => return,
            () = platform.clock.sleep_until(next) => {}
        }
        round(&platform).await;
    }
}

/// One round.
pub async fn round(platform: &Platform) {
    if let Err(failure) = platform.store.write(|tx| top_up::expire_due(tx)).await {
        tracing::warn!(?failure, "due top-ups could not be expired");
    }
    let now = platform.clock.now();
    let keys_before = now.plus_millis(-i64::from(platform.config.idempotency.keep_hours) * 3_600_000);
    let sessions_before = now.plus_millis(-86_400_000);
    let notices_before = now.plus_millis(-NOTICES_KEPT_MS);
    let auth = &platform.config.auth;
    let failures_before = now.plus_millis(-i64::from(auth.login_window_minutes) * 60_000);
    let tokens_before = now.plus_millis(-i64::from(auth.token_hours) * 3_600_000);
    if let Err(failure) =
        platform.store.write(move |tx| secret_key::retire_superseded(tx, Purpose::Token, tokens_before)).await
    {
        tracing::warn!(?failure, "superseded keys could not be retired");
    }
    loop {
        let sweep =
            move |tx: &mut dyn Tx| retention::sweep(tx, keys_before, sessions_before, failures_before, notices_before);
        match platform.store.write(sweep).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(failure) => {
                tracing::warn!(?failure, "what is over could not be thrown away");
                break;
            }
        }
    }
    platform.limits.tidy();
}
