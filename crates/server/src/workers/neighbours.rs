//! What other nodes did, looked at every second on a shared database: a hint usually came before, and may be lost with the
//! node that was to send it.

use crate::keyring::Keyring;
use crate::platform::Platform;
use std::sync::{Arc, PoisonError};
use store::order::{MOST_LOOKED_AT, finished_of};
use store::port::Fault;
use store::{plan, secret_key};

/// Milliseconds between two looks.
const ROUND_MS: i64 = 1_000;

/// Runs until the process stops.
pub async fn run(platform: Arc<Platform>) {
    let mut plans = None;
    loop {
        let next = platform.clock.now().plus_millis(ROUND_MS);
        tokio::select! {
            biased;
            () = platform.stopped() => return,
            () = platform.clock.sleep_until(next) => {}
        }
        if let Err(fault) = look(&platform, &mut plans).await {
            tracing::debug!(%fault, "the other nodes' work could not be looked at");
        }
    }
}

async fn look(platform: &Platform, plans: &mut Option<String>) -> Result<(), Fault> {
    let version = platform.store.read(plan::version).await?;
    if version != *plans {
        *plans = version;
        platform.catalogue.changed();
    }
    platform.upstreams.reload(platform).await?;
    for orders in platform.waiters.orders().chunks(MOST_LOOKED_AT) {
        let orders = orders.to_vec();
        let finished = platform.store.read(move |snapshot| finished_of(snapshot, &orders)).await?;
        finished.into_iter().for_each(|order| platform.waiters.changed(order));
    }
    let keys = platform.store.read(secret_key::all).await?;
    if !platform.with_keyring(|keyring| keyring.has_all(&keys)) {
        match Keyring::load(&platform.store, &platform.master).await {
            Ok(keyring) => *platform.keyring.write().unwrap_or_else(PoisonError::into_inner) = keyring,
            Err(error) => tracing::error!(error = error.0, "the new keys cannot be used"),
        }
    }
    Ok(())
}
