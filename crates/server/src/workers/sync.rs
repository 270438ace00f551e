//! Reads what connected upstreams offer, every so often and when the operator asks: each list is fetched, sifted and
//! compared with what is known, and what changed is written down in portions, behind those who wait for an answer. Of all
//! nodes one reads a list at a time. A list that did not come, or that is not believed, takes nothing off sale.

use crate::operator::connections::why;
use crate::platform::Platform;
use crate::upstreams::Connected;
use domain::breaker::May;
use domain::catalogue::{Change, Implausible, Sifted, diff};
use domain::offer::Offer;
use domain::time::Timestamp;
use providers::{NotRead, Reading, Upstream};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::catalogue::{self, End, Held, InProgress, LeaseLost, Seen, Sync};
use store::offer::{Applied, PORTION, Source};
use store::port::{Failure, Fault, Needs};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};

/// How long a list is held, milliseconds, unless the lease is renewed: so long after the end of a node another one
/// reads it.
pub const LEASE_MS: i64 = 60_000;
/// Between two renewals of a lease, milliseconds.
const RENEWAL_MS: i64 = 15_000;
/// Between two looks for what other nodes left undone, milliseconds.
const POLL_MS: i64 = 30_000;
/// Until lists are looked at again when the database did not answer, milliseconds.
const AGAIN_MS: i64 = 5_000;
/// How long fetching a list may take, with all its pages.
const FETCHING_TIME: Duration = Duration::from_secs(900);

/// What the operator asked for, until the worker takes it up. It is held already.
#[derive(Debug, Default)]
pub struct Asked {
    held: Mutex<Vec<Held>>,
    bell: Notify,
}

impl Asked {
    /// Lets a list be read.
    pub fn hand_over(&self, held: Held) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(held);
        self.bell.notify_one();
    }

    fn take(&self) -> Vec<Held> {
        std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How often a list is read, milliseconds; `None` for only when the operator asks.
#[must_use]
pub fn period_ms(platform: &Platform, enabled: bool) -> Option<i64> {
    let minutes = platform.config.catalogue.sync_minutes;
    (enabled && minutes > 0).then(|| i64::from(minutes) * 60_000)
}

/// The lists that are being read here.
struct Readings {
    platform: Arc<Platform>,
    tasks: JoinSet<()>,
    connections: HashMap<Id, String>,
    /// Fetching takes no cores, but the rest does: one list after the other.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Readings {
    fn begin(&mut self, held: Held) {
        let connection = held.connection.clone();
        let reading = carry_out(Arc::clone(&self.platform), held, Arc::clone(&self.turn));
        let id = self.tasks.spawn(reading).id();
        self.connections.insert(id, connection);
    }

    fn has(&self, connection: &str) -> bool {
        self.connections.values().any(|name| name == connection)
    }

    /// Returns when one has ended.
    async fn ended(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            None => return std::future::pending().await,
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => {
                tracing::error!(%error, "the reading of a list broke off");
                error.id()
            }
        };
        self.connections.remove(&id);
    }
}

/// Runs until the process stops; what is under way is left for the next one to go on with.
pub async fn run(platform: Arc<Platform>) {
    let mut changes = platform.upstreams.changes();
    let mut readings = Readings {
        platform: Arc::clone(&platform),
        tasks: JoinSet::new(),
        connections: HashMap::new(),
        turn: Arc::default(),
    };
    loop {
        let bell = platform.asked.bell.notified();
        platform.asked.take().into_iter().for_each(|held| readings.begin(held));
        let next = match look(&platform, &mut readings).await {
            Ok(next) => next,
            Err(fault) => {
                tracing::warn!(%fault, "it could not be found out which lists are due");
                Some(platform.clock.now().plus_millis(AGAIN_MS))
            }
        };
        tokio::select! {
            biased;
            () = platform.stopped() => break,
            () = bell => {}
            () = readings.ended() => {}
            _ = changes.changed() => {}
            () = super::sleep_until(&platform, next) => {}
        }
    }
    while readings.tasks.join_next().await.is_some() {}
}

/// Begins to read what is due. Returns when something may be due again.
async fn look(platform: &Platform, readings: &mut Readings) -> Result<Option<Timestamp>, Fault> {
    let connected = platform.upstreams.all_connected();
    if connected.is_empty() {
        return Ok(None);
    }
    let syncs = platform.store.read(catalogue::all).await?;
    let syncs: BTreeMap<&str, &Sync> = syncs.iter().map(|sync| (sync.connection.as_str(), sync)).collect();
    let now = platform.clock.now();
    // Another node may have begun something and not be there any more.
    let mut next = platform.store.is_shared().then(|| now.plus_millis(POLL_MS));
    for Connected { connection, .. } in &connected {
        let name = connection.name.as_str();
        if readings.has(name) {
            continue;
        }
        let period_ms = period_ms(platform, connection.enabled);
        let sync = syncs.get(name);
        let due = match sync {
            None => period_ms.map(|_| now),
            Some(sync) => sync.due_at(period_ms),
        };
        let Some(due) = due else { continue };
        if due > now {
            next = Some(next.map_or(due, |next| next.min(due)));
            continue;
        }
        let (run, owned) = (sync.map_or(0, |sync| sync.run), name.to_owned());
        let begin = move |tx: &mut dyn store::port::Tx| catalogue::begin_due(tx, &owned, run, LEASE_MS);
        match platform.store.write_behind(Needs::default(), begin).await {
            Ok(held) => readings.begin(held),
            Err(Failure::Refused(InProgress)) => {
                let again = now.plus_millis(AGAIN_MS);
                next = Some(next.map_or(again, |next| next.min(again)));
            }
            Err(Failure::Fault(fault)) => return Err(fault),
        }
    }
    Ok(next)
}

/// Reads a list, and says what came of it.
async fn carry_out(platform: Arc<Platform>, held: Held, turn: Arc<tokio::sync::Mutex<()>>) {
    let connection = held.connection.clone();
    let end = tokio::select! {
        biased;
        () = platform.stopped() => Ok(End::Interrupted),
        end = read(&platform, &held, &turn) => end,
    };
    let Ok(end) = end else {
        tracing::warn!(connection, "another node reads this list now");
        return;
    };
    match &end {
        End::Failed { reason, .. } => tracing::warn!(connection, reason, "the list could not be read"),
        End::Implausible(reason) => tracing::warn!(connection, reason, "the list is not believed"),
        End::Done => tracing::debug!(connection, "the list was read"),
        End::Interrupted => {}
    }
    let enabled = platform.upstreams.connected(&connection).is_some_and(|connected| connected.connection.enabled);
    let period_ms = period_ms(&platform, enabled);
    let finish = move |tx: &mut dyn store::port::Tx| catalogue::finish(tx, &held, &end, period_ms);
    if let Err(failure) = platform.store.write_behind(Needs::default(), finish).await {
        // The lease ends by itself, and somebody reads the list anew.
        tracing::warn!(connection, ?failure, "what came of a list could not be kept");
    }
}

/// Does something that takes its time, renewing the lease meanwhile.
async fn holding<T>(platform: &Platform, held: &Held, work: impl Future<Output = T>) -> Result<T, LeaseLost> {
    tokio::pin!(work);
    loop {
        let next = platform.clock.now().plus_millis(RENEWAL_MS);
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = platform.clock.sleep_until(next) => {}
        }
        let held = held.clone();
        let renew = move |tx: &mut dyn store::port::Tx| catalogue::renew(tx, &held, LEASE_MS);
        match platform.store.write_behind(Needs::default(), renew).await {
            Ok(()) => {}
            Err(Failure::Refused(lost)) => return Err(lost),
            Err(Failure::Fault(fault)) => tracing::warn!(%fault, "a lease could not be renewed"),
        }
    }
}

fn failed(reason: impl Into<String>) -> End {
    End::Failed { reason: reason.into(), not_before: None }
}

async fn read(platform: &Arc<Platform>, held: &Held, turn: &tokio::sync::Mutex<()>) -> Result<End, LeaseLost> {
    let Some(connected) = platform.upstreams.connected(&held.connection) else {
        return Ok(failed("the connection cannot be used; set its credentials again"));
    };
    let sifted = match holding(platform, held, fetch(platform, &connected)).await? {
        Ok(sifted) => sifted,
        Err(end) => return Ok(end),
    };
    let _turn = holding(platform, held, turn.lock()).await?;
    let seen =
        Seen { listed: u32::try_from(sifted.listed()).unwrap_or(u32::MAX), left_out: sifted.left_out_by_reason() };
    let compared = holding(platform, held, compare(platform, held, sifted)).await?;
    let noted = held.clone();
    let note = move |tx: &mut dyn store::port::Tx| catalogue::note(tx, &noted, &seen);
    match platform.store.write_behind(Needs::default(), note).await {
        Ok(()) => {}
        Err(Failure::Refused(lost)) => return Err(lost),
        Err(Failure::Fault(fault)) => return Ok(failed(fault.to_string())),
    }
    match compared {
        Ok(Ok(changes)) => apply(platform, held, &source(platform, &connected), changes).await,
        Ok(Err(implausible)) => Ok(End::Implausible(implausible.to_string())),
        Err(fault) => Ok(failed(fault.to_string())),
    }
}

/// Fetches a list through the connection's gate, and sifts it. Understanding some megabytes keeps a core busy for a while,
/// so it is done where nobody waits for it.
async fn fetch(platform: &Arc<Platform>, connected: &Connected) -> Result<Sifted, End> {
    let Connected { connection, upstream, gate } = connected;
    let _place = gate.place().await;
    match gate.may_call() {
        May::Yes | May::Trial => {}
        May::No { until } => {
            let reason = "it did not answer the last calls, and is left alone for a while".to_owned();
            return Err(End::Failed { reason, not_before: Some(until) });
        }
    }
    gate.pace().await;
    let (now, upstream, stopping) = (platform.clock.now(), Arc::clone(upstream), platform.stopping.clone());
    let fetching = tokio::task::spawn_blocking(move || {
        let offers = Handle::current().block_on(async {
            tokio::select! {
                biased;
                () = stopping.begun() => Err(NotRead::Unsupported("the process stops")),
                offers = in_time(upstream.as_ref(), now) => offers,
            }
        });
        offers.map(Sifted::new)
    });
    let read = fetching.await.unwrap_or_else(|error| Err(NotRead::NotUnderstood { reason: error.to_string() }));
    let outcome = match &read {
        Ok(_) => "done",
        Err(NotRead::TryLater { .. }) => "try_later",
        Err(NotRead::Refused { .. }) => "refused",
        Err(NotRead::NotUnderstood { .. }) => "not_understood",
        Err(NotRead::Unsupported(_)) => "unsupported",
    };
    platform.metrics.upstream_call(&connection.name, "offers", outcome);
    read.map_err(|not_read| {
        let not_before = match &not_read {
            NotRead::TryLater { retry_at, .. } => *retry_at,
            _ => None,
        };
        End::Failed { reason: why(&not_read), not_before }
    })
}

/// Waits for a list no longer than [`FETCHING_TIME`].
async fn in_time(upstream: &dyn Upstream, now: Timestamp) -> Reading<Vec<Offer>> {
    let late = || NotRead::TryLater { retry_at: None, reason: "the list did not come in time".to_owned() };
    tokio::time::timeout(FETCHING_TIME, upstream.offers(now)).await.map_or_else(|_| Err(late()), |heard| heard.meaning)
}

/// Tells what changed since the list was last read.
async fn compare(platform: &Platform, held: &Held, sifted: Sifted) -> Result<Result<Vec<Change>, Implausible>, Fault> {
    let (connection, forced) = (held.connection.clone(), held.forced);
    let known = platform.store.scan(move |snapshot| store::offer::known(snapshot, &connection)).await?;
    let compared = tokio::task::spawn_blocking(move || diff(&known, &sifted, forced)).await;
    compared.map_err(|error| Fault::Bug(error.to_string()))
}

fn source(platform: &Platform, connected: &Connected) -> Source {
    let connection = &connected.connection;
    let of_provider = |other: &Connected| other.connection.provider == connection.provider;
    let siblings = platform.upstreams.all_connected().into_iter().filter(of_provider);
    Source {
        connection: connection.name.clone(),
        siblings: siblings.map(|other| other.connection.name).collect(),
        currency: platform.currency,
    }
}

/// Writes down what changed.
async fn apply(platform: &Platform, held: &Held, source: &Source, changes: Vec<Change>) -> Result<End, LeaseLost> {
    let mut applied = Applied::default();
    let mut changes = changes.into_iter();
    loop {
        let portion: Vec<Change> = changes.by_ref().take(PORTION).collect();
        if portion.is_empty() {
            return Ok(End::Done);
        }
        let (held, source) = (held.clone(), source.clone());
        let write =
            move |tx: &mut dyn store::port::Tx| catalogue::apply(tx, &held, &source, &portion, &applied, LEASE_MS);
        applied = match platform.store.write_behind(Needs::default(), write).await {
            Ok(applied) => applied,
            Err(Failure::Refused(lost)) => return Err(lost),
            Err(Failure::Fault(fault)) => return Ok(failed(fault.to_string())),
        };
        // Whoever waits comes first.
        tokio::task::yield_now().await;
    }
}
