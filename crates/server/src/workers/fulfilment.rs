//! Takes due jobs up, asks the upstreams, and records what they say. A new job starts at once, because
//! its commit wakes this loop; without jobs it sleeps.

use crate::platform::Platform;
use crate::upstreams::Upstreams;
use domain::fulfilment::{Cancellation, Capabilities, LookUp, NotYet, Outcome, Patience, Step};
use domain::id::JobId;
use domain::time::Timestamp;
use providers::{Answer, Purchase, SoldEsim};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use store::fulfilment::{
    Heard, LeaseLost, Leased, Placement, Providers, TakeBack, Task, claim_jobs, end_job, give_up, keep_answer,
    needs_of_answer, postpone, record_answer, record_cancellations, renew_leases,
};
use store::job;
use store::port::{Decision, Failure, Fault, Needs, Tx};
use tokio::sync::{Notify, Semaphore};

/// How long a job is held, milliseconds, unless the lease is renewed: so long after the end of a node, another one
/// takes up what it held. (On the embedded database, the next start does.)
const LEASE_MS: i64 = 20_000;
/// Between two rounds in which leases are renewed that are older than this, milliseconds.
const RENEWAL_MS: i64 = 5_000;
/// Between two looks for jobs that other nodes wrote, milliseconds.
const POLL_MS: i64 = 1_000;
/// Before a job is looked for again that is due and locked.
const LEAST_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
/// Between two tries to record an answer while the database is away, milliseconds.
const AWAY_PAUSE_MS: i64 = 250;
/// How long an upstream may take over one call.
const UPSTREAM_TIME: std::time::Duration = std::time::Duration::from_secs(90);
/// Jobs taken up in one command.
const MOST_AT_ONCE: usize = 64;

/// The upstreams' capabilities, for the store.
#[derive(Clone)]
struct Able(Arc<Upstreams>);

impl Providers for Able {
    fn capabilities(&self, provider: &str) -> Option<Capabilities> {
        self.0.get(provider).map(|upstream| upstream.capabilities())
    }
}

/// The leases under which jobs are being worked on here: which job, and since when.
type InHand = Arc<Mutex<BTreeMap<i64, (JobId, Timestamp)>>>;

fn held_since(in_hand: &InHand, time: Timestamp) -> Vec<(JobId, i64)> {
    let in_hand = in_hand.lock().unwrap_or_else(PoisonError::into_inner);
    in_hand.iter().filter(|(_, (_, since))| *since <= time).map(|(lease, (job, _))| (*job, *lease)).collect()
}

/// Puts the end of leases off while an upstream takes its time.
async fn renew(platform: Arc<Platform>, in_hand: InHand) {
    loop {
        let next = platform.clock.now().plus_millis(RENEWAL_MS);
        tokio::select! {
            biased;
            () = platform.stopped() => return,
            () = platform.clock.sleep_until(next) => {}
        }
        let old = platform.clock.now().plus_millis(-RENEWAL_MS);
        let held = held_since(&in_hand, old);
        if held.is_empty() {
            continue;
        }
        let renewed = platform.store.write_behind(Needs::default(), move |tx| renew_leases(tx, &held, LEASE_MS)).await;
        if let Err(failure) = renewed {
            tracing::warn!(?failure, "leases could not be renewed");
        }
    }
}

/// Runs until the process stops; what is under way is finished first.
pub async fn run(platform: Arc<Platform>, job_ready: Arc<Notify>) {
    let most = platform.config.fulfilment.in_flight_per_upstream;
    let places = Arc::new(Semaphore::new(most));
    let able = Able(Arc::clone(&platform.upstreams));
    let in_hand = InHand::default();
    tokio::spawn(renew(Arc::clone(&platform), Arc::clone(&in_hand)));
    loop {
        let ready = job_ready.notified();
        let first = tokio::select! {
            biased;
            () = platform.stopped() => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let Ok(first) = first else { break };
        let limit = (places.available_permits() + 1).min(MOST_AT_ONCE);
        let (leased, next) = match claim(&platform, able.clone(), limit).await {
            Ok(claimed) => claimed,
            Err(fault) => {
                tracing::error!(%fault, "no jobs could be taken up");
                (Vec::new(), Some(platform.clock.now().plus_millis(1_000)))
            }
        };
        let (full, nothing) = (leased.len() == limit, leased.is_empty());
        let mut first = Some(first);
        for leased in leased {
            let place = match first.take() {
                Some(place) => place,
                None => match Arc::clone(&places).acquire_owned().await {
                    Ok(place) => place,
                    Err(_) => return,
                },
            };
            let (lease, held) = (leased.lease, (leased.job, platform.clock.now()));
            in_hand.lock().unwrap_or_else(PoisonError::into_inner).insert(lease, held);
            let (platform, in_hand) = (Arc::clone(&platform), Arc::clone(&in_hand));
            tokio::spawn(async move {
                work(platform, leased).await;
                in_hand.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
                drop(place);
            });
        }
        drop(first);
        if full {
            continue;
        }
        // A job that another node wrote is told by a hint, which may be lost.
        let now = platform.clock.now();
        let next = match next {
            _ if !platform.store.is_shared() => next,
            // One that is due and was not to be had is being worked on at this moment: no clock says until when.
            Some(due) if nothing && due <= now => {
                tokio::time::sleep(LEAST_PAUSE).await;
                continue;
            }
            Some(due) => Some(due.min(now.plus_millis(POLL_MS))),
            None => Some(now.plus_millis(POLL_MS)),
        };
        tokio::select! {
            biased;
            () = platform.stopped() => break,
            () = ready => {}
            () = super::sleep_until(&platform, next) => {}
        }
    }
    // Every place comes back when its step is recorded.
    let _ = places.acquire_many(u32::try_from(most).unwrap_or(u32::MAX)).await;
}

async fn claim(platform: &Platform, able: Able, limit: usize) -> Result<(Vec<Leased>, Option<Timestamp>), Fault> {
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let claimed: Decision<_, std::convert::Infallible> = platform
        .store
        .write_behind(Needs::default(), move |tx| {
            let leased = claim_jobs(tx, &able, limit, LEASE_MS)?;
            let full = leased.len() == usize::try_from(limit).unwrap_or(usize::MAX);
            let next = if full { None } else { job::next_due(tx)? };
            Ok((leased, next))
        })
        .await;
    claimed.map_err(|failure| match failure {
        Failure::Fault(fault) => fault,
        Failure::Refused(never) => match never {},
    })
}

/// Does one job's step and records it.
async fn work(platform: Arc<Platform>, leased: Leased) {
    let held = Leased { task: Task::Finish, ..leased };
    let leased = Leased { task: leased.task, ..held };
    let done = match &leased.task {
        Task::Finish => platform.store.write_behind(Needs::default(), move |tx| end_job(tx, &leased)).await,
        Task::Fulfil { placement, step } => {
            let (placement, step) = (placement.clone(), *step);
            fulfil(&platform, leased, placement, step).await
        }
        Task::TakeBack(list) => {
            let list = list.clone();
            take_back(&platform, leased, list).await
        }
    };
    match done {
        Ok(()) => {}
        Err(Failure::Refused(LeaseLost)) => tracing::info!("a job was decided elsewhere meanwhile"),
        Err(Failure::Fault(Fault::Bug(reason))) => {
            tracing::error!(order = %held.order, reason, "a step cannot be recorded; the operator must look");
            let given_up = platform.store.write_behind(Needs::default(), move |tx| give_up(tx, &held, &reason)).await;
            if let Err(failure) = given_up {
                tracing::error!(?failure, "a job could not be given up");
            }
        }
        // The lease ends, or the next start voids it; then the upstream is asked again.
        Err(Failure::Fault(fault)) => tracing::error!(%fault, "a step could not be recorded"),
    }
}

fn patience(platform: &Platform, capabilities: Capabilities) -> Patience {
    Patience { capabilities, most_failures: platform.config.fulfilment.max_attempts }
}

async fn fulfil(platform: &Platform, leased: Leased, placement: Placement, step: Step) -> Decision<(), LeaseLost> {
    let Some(upstream) = platform.upstreams.get(&placement.provider) else {
        return not_set_up(platform, leased, &placement.provider).await;
    };
    let patience = patience(platform, upstream.capabilities());
    let purchase = Purchase {
        reference: placement.reference(),
        order: placement.upstream_order.clone(),
        upstream_plan_id: placement.upstream_plan_id.clone(),
        quantity: placement.quantity,
    };
    let now = platform.clock.now();
    let (heard, raw, order, call, outcome) = match step {
        Step::Place => {
            let late = || Outcome::Unknown { reason: LATE.to_owned() };
            let answer = in_time(upstream.place(now, purchase), late).await;
            let outcome = outcome_word(&answer.meaning);
            (Heard::Place(answer.meaning), answer.raw, answer.order, "place", outcome)
        }
        Step::LookUp | Step::Nothing => {
            let late = || LookUp::NoAnswer { reason: LATE.to_owned() };
            let answer = in_time(upstream.look_up(now, purchase), late).await;
            let outcome = look_up_word(&answer.meaning);
            (Heard::LookUp(answer.meaning), answer.raw, answer.order, "look_up", outcome)
        }
    };
    platform.metrics.upstream_call(&placement.provider, call, outcome);
    let said = Arc::new((leased, heard, raw, order));
    let last_try = platform.clock.now().plus_millis(LEASE_MS);
    loop {
        let recording = Arc::clone(&said);
        let record = move |tx: &mut dyn Tx| {
            let (leased, heard, raw, order) = &*recording;
            record_answer(tx, leased, heard, raw, order.as_deref(), patience)
        };
        match platform.store.write_behind(needs_of_answer(&said.0), record).await {
            // The database is away, say for a failover. What was heard is kept as long as the lease may hold: to ask
            // again after its end would keep a traveller waiting.
            Err(Failure::Fault(Fault::Unavailable(_) | Fault::Retry))
                if platform.store.is_shared() && platform.clock.now() < last_try =>
            {
                let next = platform.clock.now().plus_millis(AWAY_PAUSE_MS);
                tokio::select! {
                    biased;
                    () = platform.stopped() => return Err(Failure::Fault(Fault::Unavailable("the process stops".to_owned()))),
                    () = platform.clock.sleep_until(next) => {}
                }
            }
            recorded => return recorded,
        }
    }
}

const LATE: &str = "no answer in time";

/// Waits for an upstream no longer than [`UPSTREAM_TIME`]; then `late` says what is known.
async fn in_time<T>(answer: Answer<'_, T>, late: impl FnOnce() -> T) -> providers::Heard<T> {
    let answered = tokio::time::timeout(UPSTREAM_TIME, answer).await;
    answered.unwrap_or_else(|_| providers::Heard::new(late(), LATE))
}

async fn not_set_up(platform: &Platform, leased: Leased, provider: &str) -> Decision<(), LeaseLost> {
    let reason = format!("the provider {provider} is not set up");
    let most = platform.config.fulfilment.max_attempts;
    platform.store.write_behind(Needs::default(), move |tx| postpone(tx, &leased, &reason, most)).await
}

async fn take_back(platform: &Platform, leased: Leased, list: Vec<TakeBack>) -> Decision<(), LeaseLost> {
    let mut answers = Vec::with_capacity(list.len());
    let mut said = Vec::with_capacity(list.len());
    for take_back in list {
        let reference = take_back.reference.clone();
        let answer = match platform.upstreams.get(&take_back.provider) {
            None => not_asked(Cancellation::TryLater {
                reason: format!("the provider {} is not set up", take_back.provider),
            }),
            Some(upstream) if !upstream.capabilities().cancel => {
                not_asked(Cancellation::Refused { reason: "this provider takes nothing back".to_owned() })
            }
            Some(upstream) => {
                let now = platform.clock.now();
                let sold = SoldEsim {
                    reference: take_back.reference,
                    order: take_back.upstream_order,
                    iccid: take_back.iccid,
                    handle: take_back.upstream_handle,
                };
                let late = || Cancellation::TryLater { reason: LATE.to_owned() };
                in_time(upstream.cancel(now, sold), late).await
            }
        };
        platform.metrics.upstream_call(&take_back.provider, "cancel", cancellation_word(&answer.meaning));
        said.push((reference, answer.raw));
        answers.push((take_back.esim, answer.meaning));
    }
    let most = platform.config.fulfilment.max_attempts;
    platform
        .store
        .write_behind(Needs::credit(leased.sold.tenant, leased.sold.mode), move |tx| {
            record_cancellations(tx, &leased, &answers, most)?;
            for (reference, raw) in said.iter().filter(|(_, raw)| !raw.is_empty()) {
                keep_answer(tx, reference, "cancel", raw)?;
            }
            Ok(())
        })
        .await
}

fn not_asked(meaning: Cancellation) -> providers::Heard<Cancellation> {
    providers::Heard::new(meaning, "")
}

const fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done { .. } => "done",
        Outcome::Refused { .. } => "refused",
        Outcome::NotYet(NotYet::Provisioning { .. }) => "provisioning",
        Outcome::NotYet(NotYet::TryLater { .. }) => "try_later",
        Outcome::Unknown { .. } => "unknown",
    }
}

const fn look_up_word(look_up: &LookUp) -> &'static str {
    match look_up {
        LookUp::Delivered { .. } => "delivered",
        LookUp::Provisioning { .. } => "provisioning",
        LookUp::Refused { .. } => "refused",
        LookUp::NotFound => "not_found",
        LookUp::NoAnswer { .. } => "no_answer",
        LookUp::CannotTell { .. } => "cannot_tell",
    }
}

const fn cancellation_word(cancellation: &Cancellation) -> &'static str {
    match cancellation {
        Cancellation::Cancelled => "cancelled",
        Cancellation::Refused { .. } => "refused",
        Cancellation::TryLater { .. } => "try_later",
    }
}
