//! Takes due jobs up, asks the upstreams, and records what they say: a lane for each upstream, so that a slow one holds
//! up nobody else's. A new job starts at once, because its commit rings the bell of its lane; without jobs it sleeps.

use crate::gate::Gate;
use crate::platform::Platform;
use crate::upstreams::Upstreams;
use domain::breaker::May;
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
use store::job::{self, TO_BE_ROUTED};
use store::port::{Decision, Failure, Fault, Needs, Tx};
use store::routing::{Connections, Standing, Unsold, refuse_unsold, release, route_jobs};
use tokio::sync::Notify;

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
/// Jobs routed in one command.
const MOST_ROUTED: u32 = 64;
/// Orders routed once more in one command.
const MOST_RELEASED: u32 = 200;
/// Until jobs are taken up again that could not be, milliseconds.
const AGAIN_MS: i64 = 1_000;

/// What the upstreams can do and how they stand, for the store; and the least margin an order is placed with.
#[derive(Clone)]
struct Able(Arc<Upstreams>, i64);

impl Able {
    fn new(platform: &Platform) -> Self {
        Self(Arc::clone(&platform.upstreams), platform.config.routing.least_margin_basis_points)
    }
}

impl Connections for Able {
    fn standing(&self, connection: &str) -> Option<Standing> {
        let connected = self.0.connected(connection).filter(|connected| connected.connection.enabled)?;
        Some(Standing { priority: connected.connection.settings.priority, health: connected.gate.health() })
    }

    fn least_margin(&self) -> i64 {
        self.1
    }
}

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

/// The bells of the lanes: who commits a job rings that of its upstream.
#[derive(Debug, Default)]
pub struct Bells(Mutex<BTreeMap<String, Arc<Notify>>>);

impl Bells {
    fn of(&self, lane: &str) -> Arc<Notify> {
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(bells.entry(lane.to_owned()).or_default())
    }

    /// Wakes whoever works on a lane.
    pub fn ring(&self, lane: &str) {
        self.of(lane).notify_one();
    }
}

/// Runs a lane for each upstream, and the one where jobs are routed, until the process stops; what is under way is
/// finished first.
pub async fn run(platform: Arc<Platform>, bells: Arc<Bells>) {
    let in_hand = InHand::default();
    tokio::spawn(renew(Arc::clone(&platform), Arc::clone(&in_hand)));
    let mut changes = platform.upstreams.changes();
    let mut lanes = BTreeMap::new();
    lanes.insert(TO_BE_ROUTED.to_owned(), tokio::spawn(route(Arc::clone(&platform), bells.of(TO_BE_ROUTED))));
    loop {
        for name in platform.upstreams.names() {
            lanes.entry(name).or_insert_with_key(|name| {
                let lane = Lane {
                    upstream: name.clone(),
                    platform: Arc::clone(&platform),
                    ready: bells.of(name),
                    in_hand: Arc::clone(&in_hand),
                };
                tokio::spawn(lane.run())
            });
        }
        tokio::select! {
            biased;
            () = platform.stopped() => break,
            _ = changes.changed() => {}
        }
    }
    for (_, lane) in lanes {
        let _ = lane.await;
    }
}

/// When to look again, where a shared database may have got a job by another node whose hint was lost.
fn look_again(platform: &Platform, next: Option<Timestamp>) -> Option<Timestamp> {
    if !platform.store.is_shared() {
        return next;
    }
    let poll = platform.clock.now().plus_millis(POLL_MS);
    Some(next.map_or(poll, |due| due.min(poll)))
}

/// Sends jobs to the lanes of the upstreams that will be asked.
async fn route(platform: Arc<Platform>, ready: Arc<Notify>) {
    let able = Able::new(&platform);
    loop {
        let bell = ready.notified();
        let known = able.clone();
        let routed = platform
            .store
            .write_behind(Needs::default(), move |tx| {
                let routed = route_jobs(tx, &known, MOST_ROUTED)?;
                Ok::<_, Failure<std::convert::Infallible>>((routed, job::next_due(tx, TO_BE_ROUTED)?))
            })
            .await;
        let next = match routed {
            Ok((routed, next)) => {
                let ended = !routed.unsold.is_empty();
                if end_unsold(&platform, routed.unsold).await {
                    let full = routed.looked_at == usize::try_from(MOST_ROUTED).unwrap_or(usize::MAX);
                    if full || ended {
                        continue;
                    }
                    look_again(&platform, next)
                } else {
                    Some(platform.clock.now().plus_millis(AGAIN_MS))
                }
            }
            Err(failure) => {
                tracing::error!(?failure, "no jobs could be routed");
                Some(platform.clock.now().plus_millis(AGAIN_MS))
            }
        };
        tokio::select! {
            biased;
            () = platform.stopped() => return,
            () = bell => {}
            () = super::sleep_until(&platform, next) => {}
        }
    }
}

/// Gives the price of orders back that nobody sells any more. Returns whether all of them are ended.
async fn end_unsold(platform: &Platform, unsold: Vec<Unsold>) -> bool {
    for unsold in unsold {
        let needs = Needs::credit(unsold.tenant, unsold.mode);
        if let Err(failure) = platform.store.write_behind(needs, move |tx| refuse_unsold(tx, &unsold)).await {
            tracing::error!(order = %unsold.order, ?failure, "an order that nobody sells could not be ended");
            return false;
        }
    }
    true
}

/// Lets orders that were never sent to this upstream go elsewhere.
async fn let_go(platform: &Platform, upstream: &str) {
    let name = upstream.to_owned();
    let released = platform.store.write_behind(Needs::default(), move |tx| release(tx, &name, MOST_RELEASED)).await;
    match released {
        Ok(0) => {}
        Ok(count) => tracing::info!(upstream, count, "orders that wait for this upstream are routed once more"),
        Err(failure) => tracing::warn!(upstream, ?failure, "orders could not be routed once more"),
    }
}

/// The jobs of one upstream.
struct Lane {
    upstream: String,
    platform: Arc<Platform>,
    ready: Arc<Notify>,
    in_hand: InHand,
}

impl Lane {
    async fn run(self) {
        let Self { upstream, platform, ready, in_hand } = self;
        let able = Able::new(&platform);
        let mut changes = platform.upstreams.changes();
        loop {
            // A connection that was changed has a gate of its own; one that cannot be used has none until it can.
            let Some(gate) = platform.upstreams.gate(&upstream) else {
                tokio::select! {
                    biased;
                    () = platform.stopped() => break,
                    _ = changes.changed() => {}
                }
                continue;
            };
            let bell = ready.notified();
            let first = tokio::select! {
                biased;
                () = platform.stopped() => break,
                place = gate.place() => place,
            };
            let Some(first) = first else { break };
            if !platform.upstreams.sells(&upstream) {
                let_go(&platform, &upstream).await;
            }
            let limit = match gate.would_call() {
                May::Yes => (gate.free() + 1).min(MOST_AT_ONCE),
                May::Trial => 1,
                May::No { until } => {
                    drop(first);
                    let_go(&platform, &upstream).await;
                    tokio::select! {
                        biased;
                        () = platform.stopped() => break,
                        () = gate.breaker_moved() => {}
                        _ = changes.changed() => {}
                        () = platform.clock.sleep_until(until) => {}
                    }
                    continue;
                }
            };
            let (leased, next) = match claim(&platform, able.clone(), &upstream, limit).await {
                Ok(claimed) => claimed,
                Err(fault) => {
                    tracing::error!(%fault, "no jobs could be taken up");
                    (Vec::new(), Some(platform.clock.now().plus_millis(AGAIN_MS)))
                }
            };
            let (full, nothing) = (leased.len() == limit, leased.is_empty());
            if !nothing {
                // There is something to ask, so a trial is made.
                gate.may_call();
            }
            let mut first = Some(first);
            for leased in leased {
                let place = match first.take() {
                    Some(place) => Some(place),
                    None => gate.place().await,
                };
                let (lease, held) = (leased.lease, (leased.job, platform.clock.now()));
                in_hand.lock().unwrap_or_else(PoisonError::into_inner).insert(lease, held);
                let (platform, in_hand, gate) = (Arc::clone(&platform), Arc::clone(&in_hand), Arc::clone(&gate));
                tokio::spawn(async move {
                    work(platform, &gate, leased).await;
                    in_hand.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
                    drop(place);
                });
            }
            drop(first);
            if full {
                continue;
            }
            let next = match next {
                // One that is due and was not to be had is being worked on at this moment: no clock says until when.
                Some(due) if platform.store.is_shared() && nothing && due <= platform.clock.now() => {
                    tokio::time::sleep(LEAST_PAUSE).await;
                    continue;
                }
                next => look_again(&platform, next),
            };
            tokio::select! {
                biased;
                () = platform.stopped() => break,
                () = bell => {}
                () = super::sleep_until(&platform, next) => {}
            }
        }
        // Every place comes back when its step is recorded.
        if let Some(gate) = platform.upstreams.gate(&upstream) {
            gate.empty().await;
        }
    }
}

async fn claim(
    platform: &Platform,
    able: Able,
    upstream: &str,
    limit: usize,
) -> Result<(Vec<Leased>, Option<Timestamp>), Fault> {
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let upstream = upstream.to_owned();
    let claimed: Decision<_, std::convert::Infallible> = platform
        .store
        .write_behind(Needs::default(), move |tx| {
            let leased = claim_jobs(tx, &able, &upstream, limit, LEASE_MS)?;
            let full = leased.len() == usize::try_from(limit).unwrap_or(usize::MAX);
            let next = if full { None } else { job::next_due(tx, &upstream)? };
            Ok((leased, next))
        })
        .await;
    claimed.map_err(|failure| match failure {
        Failure::Fault(fault) => fault,
        Failure::Refused(never) => match never {},
    })
}

/// Does one job's step and records it.
async fn work(platform: Arc<Platform>, gate: &Gate, leased: Leased) {
    let held = Leased { task: Task::Finish, ..leased };
    let leased = Leased { task: leased.task, ..held };
    let done = match &leased.task {
        Task::Finish => platform.store.write_behind(Needs::default(), move |tx| end_job(tx, &leased)).await,
        Task::Fulfil { placement, step } => {
            let (placement, step) = (placement.clone(), *step);
            fulfil(&platform, gate, leased, placement, step).await
        }
        Task::TakeBack(list) => {
            let list = list.clone();
            take_back(&platform, gate, leased, list).await
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
    Patience {
        capabilities,
        most_failures: platform.config.fulfilment.max_attempts,
        longest_ms: i64::from(platform.config.fulfilment.patience_hours) * 3_600_000,
    }
}

async fn fulfil(
    platform: &Platform,
    gate: &Gate,
    leased: Leased,
    placement: Placement,
    step: Step,
) -> Decision<(), LeaseLost> {
    let Some(upstream) = platform.upstreams.get(&placement.provider) else {
        return not_now(platform, leased, format!("the provider {} is not set up", placement.provider)).await;
    };
    let patience = patience(platform, upstream.capabilities());
    let purchase = Purchase {
        reference: placement.reference(),
        order: placement.upstream_order.clone(),
        upstream_plan_id: placement.upstream_plan_id.clone(),
        quantity: placement.quantity,
    };
    if step == Step::Place && !platform.upstreams.sells(&placement.provider) {
        return not_now(platform, leased, format!("the connection {} is disabled", placement.provider)).await;
    }
    gate.pace().await;
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
    gate.decided(leased.order.created_at(), delivered(&heard));
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

/// Puts a step off that was not taken.
async fn not_now(platform: &Platform, leased: Leased, reason: String) -> Decision<(), LeaseLost> {
    let most = platform.config.fulfilment.max_attempts;
    platform.store.write_behind(Needs::default(), move |tx| postpone(tx, &leased, &reason, most)).await
}

/// Whether an answer decides a purchase, and how.
fn delivered(heard: &Heard) -> Option<bool> {
    match heard {
        Heard::Place(Outcome::Done { profiles }) | Heard::LookUp(LookUp::Delivered { profiles }) => {
            Some(!profiles.is_empty())
        }
        Heard::Place(Outcome::Refused { .. }) | Heard::LookUp(LookUp::Refused { .. }) => Some(false),
        _ => None,
    }
}

async fn take_back(platform: &Platform, gate: &Gate, leased: Leased, list: Vec<TakeBack>) -> Decision<(), LeaseLost> {
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
                gate.pace().await;
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
