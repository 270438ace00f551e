//! Asks for the eSIMs of connected upstreams by itself, slowly, until nothing more happens to them; sooner where an
//! upstream told news of one. Each upstream is asked by one loop of its own, one question after the other, so that
//! orders keep its other places.

use crate::platform::Platform;
use crate::usage::{Told, answered, ask};
use domain::id::EsimId;
use domain::time::Timestamp;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use store::port::{Failure, Fault, Needs};
use store::usage::{ToAsk, claim_due, next_due, put_all_off};
use tokio::sync::Notify;

/// eSIMs taken up in one command.
const PORTION: u32 = 16;
/// For so long they are left to nobody else, milliseconds.
const LEASE_MS: i64 = 300_000;
/// The longest sleep, milliseconds: what was delivered meanwhile is due a quarter of an hour later at the earliest.
const LONGEST_SLEEP_MS: i64 = 60_000;
/// Until eSIMs are taken up again that could not be, milliseconds.
const AGAIN_MS: i64 = 5_000;

/// The bells of the upstreams: who commits news of an eSIM rings that of the upstream that sold it.
#[derive(Debug, Default)]
pub struct News(Mutex<BTreeMap<String, Arc<Notify>>>);

impl News {
    fn of(&self, upstream: &str) -> Arc<Notify> {
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(bells.entry(upstream.to_owned()).or_default())
    }

    /// Wakes whoever asks this upstream.
    pub fn ring(&self, upstream: &str) {
        self.of(upstream).notify_one();
    }
}

/// Runs a loop for each connected upstream until the process stops.
pub async fn run(platform: Arc<Platform>, news: Arc<News>) {
    let mut changes = platform.upstreams.changes();
    let mut loops = BTreeMap::new();
    loop {
        for connected in platform.upstreams.all_connected() {
            let name = connected.connection.name;
            loops.entry(name).or_insert_with_key(|name| {
                let bell = news.of(name);
                tokio::spawn(watch(Arc::clone(&platform), name.clone(), bell))
            });
        }
        tokio::select! {
            biased;
            () = platform.stopped() => break,
            _ = changes.changed() => {}
        }
    }
    for (_, one) in loops {
        let _ = one.await;
    }
}

async fn watch(platform: Arc<Platform>, upstream: String, bell: Arc<Notify>) {
    loop {
        let news = bell.notified();
        let next = match round(&platform, &upstream).await {
            Ok(next) => next,
            Err(fault) => {
                tracing::warn!(upstream, %fault, "no eSIMs could be taken up");
                Some(platform.clock.now().plus_millis(AGAIN_MS))
            }
        };
        let longest = platform.clock.now().plus_millis(LONGEST_SLEEP_MS);
        tokio::select! {
            biased;
            () = platform.stopped() => return,
            () = news => {}
            () = platform.clock.sleep_until(next.map_or(longest, |next| next.min(longest))) => {}
        }
    }
}

/// Asks for all eSIMs of an upstream that are due. Returns when the next one is.
async fn round(platform: &Arc<Platform>, upstream: &str) -> Result<Option<Timestamp>, Fault> {
    loop {
        let (count, mut claimed) = claim(platform, upstream).await?;
        claimed.reverse();
        while let Some(to_ask) = claimed.pop() {
            if platform.stopping.has_begun() {
                return Ok(None);
            }
            let esim = to_ask.esim;
            if let Some(Told::NotAsked { until }) = answered(platform, ask(platform, to_ask), None).await {
                let left: Vec<EsimId> = std::iter::once(esim).chain(claimed.iter().map(|left| left.esim)).collect();
                put_off(platform, left, until).await?;
                return Ok(Some(until));
            }
        }
        if count < usize::try_from(PORTION).unwrap_or(usize::MAX) {
            let name = upstream.to_owned();
            return platform.store.read(move |snapshot| next_due(snapshot, &name)).await;
        }
    }
}

fn fault_of(failure: Failure<Infallible>) -> Fault {
    match failure {
        Failure::Fault(fault) => fault,
        Failure::Refused(never) => match never {},
    }
}

async fn claim(platform: &Platform, upstream: &str) -> Result<(usize, Vec<ToAsk>), Fault> {
    let name = upstream.to_owned();
    let claim = platform.store.write_behind(Needs::default(), move |tx| claim_due(tx, &name, PORTION, LEASE_MS));
    claim.await.map_err(fault_of)
}

async fn put_off(platform: &Platform, esims: Vec<EsimId>, until: Timestamp) -> Result<(), Fault> {
    let put_off = platform.store.write_behind(Needs::default(), move |tx| put_all_off(tx, &esims, until));
    put_off.await.map_err(fault_of)
}
