//! Asks upstreams what was used of eSIMs: through the gate of their connection, about each eSIM once at a time, and not
//! again soon where one did not tell. Whoever waits for an answer waits as long as he likes; what comes later is kept.

use crate::platform::Platform;
use domain::id::EsimId;
use domain::time::Timestamp;
use domain::usage::LEAST_PAUSE_MS;
use domain::words;
use providers::{NotRead, SoldEsim, Support};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::port::Needs;
use store::usage::{ToAsk, not_told, record};
use tokio::sync::watch;

words! {
    /// Why there is no usage to show.
    pub enum Unavailable {
        /// The eSIM is not there: pending, failed or cancelled.
        NotDelivered = "not_delivered",
        /// Its upstream tells no usage.
        NotSupported = "not_supported",
        /// Its upstream answered, and did not tell.
        NotTold = "not_told",
        /// Its upstream has not answered yet.
        NoAnswer = "no_answer",
    }
}

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// What the upstream said is kept.
    Kept,
    /// It was asked and said nothing that could be kept, or nothing at all.
    NotKept,
    /// It is not to be asked now.
    NotAsked {
        /// When to come again.
        until: Timestamp,
    },
}

/// The questions under way, and what was answered in vain.
#[derive(Debug, Default)]
pub struct Questions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    under_way: HashMap<EsimId, watch::Receiver<Option<Told>>>,
    in_vain: HashMap<EsimId, (Timestamp, Unavailable)>,
}

/// How many answers in vain are remembered before those are looked through that are over.
const MANY: usize = 4_096;
/// How long a question may wait for its turn, milliseconds.
const TURN_MS: i64 = 10_000;
/// How long an upstream may take.
const UPSTREAM_TIME: Duration = Duration::from_secs(60);

impl Questions {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why an eSIM's upstream is not asked again yet.
    #[must_use]
    pub fn in_vain(&self, esim: EsimId, now: Timestamp) -> Option<Unavailable> {
        self.with(|state| state.in_vain.get(&esim).filter(|(until, _)| now < *until).map(|(_, why)| *why))
    }

    fn remember(&self, esim: EsimId, now: Timestamp, until: Timestamp, why: Unavailable) {
        self.with(|state| {
            if state.in_vain.len() >= MANY {
                state.in_vain.retain(|_, (until, _)| now < *until);
            }
            if state.in_vain.len() < MANY {
                state.in_vain.insert(esim, (until, why));
            }
        });
    }
}

/// Ends a question, however it ends.
struct UnderWay {
    platform: Arc<Platform>,
    esim: EsimId,
    told: watch::Sender<Option<Told>>,
}

impl UnderWay {
    fn end(self, told: Told) {
        self.told.send_replace(Some(told));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.platform.questions.with(|state| state.under_way.remove(&self.esim));
    }
}

/// Asks about an eSIM, or joins the question that is under way. It goes on when nobody waits for it any more.
#[must_use]
pub fn ask(platform: &Arc<Platform>, to_ask: ToAsk) -> watch::Receiver<Option<Told>> {
    let esim = to_ask.esim;
    let (told, answer) = platform.questions.with(|state| match state.under_way.get(&esim) {
        Some(answer) => (None, answer.clone()),
        None => {
            let (told, answer) = watch::channel(None);
            state.under_way.insert(esim, answer.clone());
            (Some(told), answer)
        }
    });
    if let Some(told) = told {
        let under_way = UnderWay { platform: Arc::clone(platform), esim, told };
        tokio::spawn(async move {
            let told = put(&under_way.platform, to_ask).await;
            under_way.end(told);
        });
    }
    answer
}

/// Waits for the end of a question, until `deadline` where there is one.
pub async fn answered(
    platform: &Platform,
    mut answer: watch::Receiver<Option<Told>>,
    deadline: Option<Timestamp>,
) -> Option<Told> {
    tokio::select! {
        biased;
        () = platform.stopped() => None,
        told = answer.wait_for(Option::is_some) => told.ok().and_then(|told| *told),
        () = crate::workers::sleep_until(platform, deadline) => None,
    }
}

async fn put(platform: &Platform, to_ask: ToAsk) -> Told {
    let ToAsk { esim, upstream: name, reference, upstream_order, iccid, handle } = to_ask;
    let later = |pause_ms| Told::NotAsked { until: platform.clock.now().plus_millis(pause_ms) };
    let (Some(upstream), Some(gate)) = (platform.upstreams.get(&name), platform.upstreams.gate(&name)) else {
        return later(LEAST_PAUSE_MS);
    };
    let turn_ends = platform.clock.now().plus_millis(TURN_MS);
    let place = tokio::select! {
        biased;
        () = platform.stopped() => return later(LEAST_PAUSE_MS),
        place = gate.place_aside() => place,
        () = platform.clock.sleep_until(turn_ends) => None,
    };
    if place.is_none() {
        return later(LEAST_PAUSE_MS);
    }
    if let domain::breaker::May::No { until } = gate.may_call() {
        return Told::NotAsked { until };
    }
    gate.pace().await;
    let now = platform.clock.now();
    let sold = SoldEsim { reference, order: upstream_order, iccid, handle };
    let read = match tokio::time::timeout(UPSTREAM_TIME, upstream.usage(now, sold)).await {
        Ok(heard) => heard.meaning,
        Err(_) => Err(NotRead::TryLater { retry_at: None, reason: "no answer in time".to_owned() }),
    };
    let (outcome, in_vain) = match &read {
        Ok(_) => ("told", None),
        Err(NotRead::TryLater { retry_at, .. }) => ("try_later", Some((*retry_at, Unavailable::NoAnswer))),
        Err(NotRead::Refused { .. }) => ("refused", Some((None, Unavailable::NotTold))),
        Err(NotRead::NotUnderstood { .. }) => ("not_understood", Some((None, Unavailable::NotTold))),
        Err(NotRead::Unsupported(_)) => ("unsupported", Some((None, Unavailable::NotSupported))),
    };
    platform.metrics.upstream_call(&name, "usage", outcome);
    let heard_at = platform.clock.now();
    if let Some((retry_at, why)) = in_vain {
        let until = heard_at.plus_millis(LEAST_PAUSE_MS);
        platform.questions.remember(esim, heard_at, retry_at.map_or(until, |at| at.max(until)), why);
    }
    let recorded = match read {
        Ok(usage) => platform.store.write_behind(Needs::default(), move |tx| record(tx, esim, &usage)).await,
        Err(reason) => {
            tracing::debug!(%esim, upstream = name, ?reason, "usage was not told");
            platform.store.write_behind(Needs::default(), move |tx| not_told(tx, esim)).await
        }
    };
    // Its place is kept until all is recorded: a node that stops waits for all places.
    drop(place);
    match (recorded, in_vain) {
        (Ok(()), None) => Told::Kept,
        (Ok(()), Some(_)) => Told::NotKept,
        (Err(failure), _) => {
            tracing::warn!(%esim, ?failure, "usage could not be kept");
            Told::NotKept
        }
    }
}

/// Why the upstream of this name need not be asked at all.
#[must_use]
pub fn unavailable_at(platform: &Platform, upstream: &str) -> Option<Unavailable> {
    match platform.upstreams.get(upstream).map(|upstream| upstream.services().usage) {
        Some(Support::Yes) => None,
        Some(Support::No(_)) => Some(Unavailable::NotSupported),
        None => Some(Unavailable::NoAnswer),
    }
}
