//! The catalogue: when each connection's list was read, what came of it, and reading it now.

use super::connections::find;
use crate::answer::Answer;
use crate::call::OperatorCall;
use crate::fields::{Field, Kind, optional};
use crate::json::Time;
use crate::platform::Platform;
use crate::problem::{Code, Problem};
use crate::workers::sync::{LEASE_MS, period_ms};
use domain::catalogue::SyncState;
use schemars::JsonSchema;
use serde::Serialize;
use store::catalogue::{self, InProgress, Sync};
use store::connection::Connection;
use store::offer::{self, Counts};

/// Offers that were left out for one reason.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LeftOutView {
    /// bad_id, duplicate, unknown_currency, bad_cost, no_countries, bad_data or bad_term.
    reason: &'static str,
    count: u32,
    /// The upstream's ids of the first ones.
    examples: Vec<String>,
}

/// How many offers changed in one way.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChangedView {
    /// new, dearer, cheaper, withdrawn, returned, changed_identity or changed_details.
    change: &'static str,
    count: u32,
}

/// How many offers there are.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct OffersView {
    /// Offers that can be bought.
    usable: i64,
    /// Offers the upstream lists and the operator holds.
    held: i64,
    /// Offers the upstream lists no more.
    withdrawn: i64,
}

/// How the reading of a connection's list stands. What was listed, left out and changed is of the last list that came.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Sync")]
pub struct SyncView {
    connection: String,
    /// never, running, done, failed or implausible.
    state: &'static str,
    /// Why it failed, or was not believed.
    detail: Option<String>,
    started_at: Option<Time>,
    finished_at: Option<Time>,
    /// When all of a list was last taken in.
    read_at: Option<Time>,
    /// When it is read next by itself; null while it is read, and where only the operator asks.
    next_at: Option<Time>,
    /// Failures in a row.
    failures: u32,
    /// Offers on the list.
    listed: u32,
    /// What of them could not be used.
    left_out: Vec<LeftOutView>,
    /// What changed with them.
    changes: Vec<ChangedView>,
    plans_made: u32,
    /// Plans that lost their last offer.
    plans_withdrawn: u32,
    /// Plans that are on sale again.
    plans_back: u32,
    /// What is known of the connection's offers.
    offers: OffersView,
}

/// `data` with it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OneSync {
    sync: SyncView,
}

fn view(platform: &Platform, connection: Connection, sync: Option<Sync>, counts: Option<Counts>) -> OneSync {
    let offers = counts.map_or_else(OffersView::default, |Counts { usable, held, withdrawn, .. }| OffersView {
        usable,
        held,
        withdrawn,
    });
    let running = sync.as_ref().is_some_and(|sync| sync.state == SyncState::Running);
    let next_at = sync.as_ref().filter(|_| !running);
    let next_at = next_at.and_then(|sync| sync.due_at(period_ms(platform, connection.enabled)));
    let state = sync.as_ref().map_or(SyncState::Never, |sync| sync.state).word();
    let (seen, applied) = sync.as_ref().map(|sync| (sync.seen.clone(), sync.applied.clone())).unwrap_or_default();
    let left_out = seen.left_out.into_iter().map(|left_out| LeftOutView {
        reason: left_out.reason.word(),
        count: left_out.count,
        examples: left_out.examples,
    });
    let changes =
        applied.changes.iter().map(|(kind, count)| ChangedView { change: kind.word(), count: *count }).collect();
    let told = |sync: &Sync| (!sync.detail.is_empty() && !running).then(|| sync.detail.clone());
    OneSync {
        sync: SyncView {
            connection: connection.name,
            state,
            detail: sync.as_ref().and_then(told),
            started_at: sync.as_ref().map(|sync| Time(sync.started_at)),
            finished_at: sync.as_ref().and_then(|sync| sync.finished_at).map(Time),
            read_at: sync.as_ref().and_then(|sync| sync.read_at).map(Time),
            next_at: next_at.map(Time),
            failures: sync.as_ref().map_or(0, |sync| sync.failures),
            listed: seen.listed,
            left_out: left_out.collect(),
            changes,
            plans_made: applied.plans_made,
            plans_withdrawn: applied.plans_withdrawn,
            plans_back: applied.plans_back,
            offers,
        },
    }
}

async fn answer(call: &OperatorCall, status: u16, message: &str, connection: Connection) -> Result<Answer, Problem> {
    let name = connection.name.clone();
    let read = call.platform.store.scan(move |snapshot| {
        let counts = offer::counts(snapshot)?.into_iter().find(|counts| counts.connection == name);
        Ok((catalogue::find(snapshot, &name)?, counts))
    });
    let (sync, counts) = read.await?;
    Ok(Answer::json(status, message, &view(&call.platform, connection, sync, counts)))
}

/// `GET connections/{connectionId}/sync`.
///
/// # Errors
/// A [`Problem`].
pub async fn get(call: OperatorCall) -> Result<Answer, Problem> {
    let connection = find(&call).await?;
    answer(&call, 200, "Sync", connection).await
}

/// The body of a sync.
pub const BODY: &[Field] =
    &[optional("force", Kind::Flag, "Believe the list whatever it says, also when most offers are gone.")];

/// `POST connections/{connectionId}/sync`: the list is read now, also that of a connection that does not sell yet.
///
/// # Errors
/// A [`Problem`].
pub async fn post(call: OperatorCall) -> Result<Answer, Problem> {
    let connection = find(&call).await?;
    let (id, name) = (connection.id, connection.name.clone());
    if call.platform.upstreams.connected(&name).is_none() {
        let message = "must be set again: with those that are there the connection cannot be used";
        return Err(Problem::field("credentials", "required", message));
    }
    let (act, force) = (call.act.clone(), call.body.flag("force").unwrap_or(false));
    let begin = move |tx: &mut dyn store::port::Tx| catalogue::begin_asked(tx, &act, id, &name, force, LEASE_MS);
    let held = call.platform.store.write(begin).await?;
    call.platform.asked.hand_over(held);
    answer(&call, 202, "The list is being read", connection).await
}

impl From<InProgress> for Problem {
    fn from(_: InProgress) -> Self {
        Self::new(Code::SyncInProgress, "This connection's list is being read. Wait until that has ended.")
    }
}
