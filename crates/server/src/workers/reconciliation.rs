//! Asks connected upstreams once a day what became of the purchases of the days before, and every hour what is left of
//! our balance there. What differs is listed for the operator; nothing is put right by itself.

use crate::operator::connections::try_out;
use crate::platform::Platform;
use crate::upstreams::Connected;
use domain::breaker::BreakerState;
use domain::fulfilment::{LookUp, PlacementState};
use domain::id::OrderId;
use domain::reconciliation::compare;
use domain::time::Timestamp;
use providers::{Purchase, Support};
use std::sync::Arc;
use store::connection::record_verification;
use store::difference::{ToCompare, reconciled_at, record, take_on, to_compare};
use store::fulfilment::Placement;
use store::port::Fault;

/// Milliseconds between two looks for what is due.
const ROUND_MS: i64 = 600_000;
/// Between two comparisons of a connection's books.
const DAY_MS: i64 = 86_400_000;
/// Between two looks at our balance.
const BALANCE_MS: i64 = 3_600_000;
/// How far back purchases are compared: each is asked for on some three days, because what an upstream refused today it
/// may have sold tomorrow.
const SPAN_MS: i64 = 4 * DAY_MS;
/// How old a purchase is before it is compared: it is over by then.
const YOUNGEST_MS: i64 = 3_600_000;
/// Purchases of one read.
const PORTION: u32 = 100;

/// Runs until the process stops.
pub async fn run(platform: Arc<Platform>) {
    loop {
        let next = platform.clock.now().plus_millis(ROUND_MS);
        tokio::select! {
            biased;
            () = platform.stopped() => return,
            () = platform.clock.sleep_until(next) => {}
        }
        for connected in platform.upstreams.all_connected() {
            let name = connected.connection.name.clone();
            let round = async {
                if let Err(fault) = look_after(&platform, &connected).await {
                    tracing::warn!(connection = name, %fault, "a connection's books could not be compared");
                }
            };
            tokio::select! {
                biased;
                () = platform.stopped() => return,
                () = round => {}
            }
        }
    }
}

async fn look_after(platform: &Platform, connected: &Connected) -> Result<(), Fault> {
    let now = platform.clock.now();
    if connected.gate.health().state == BreakerState::Open {
        return Ok(());
    }
    let checked = connected.connection.verification.as_ref().map(|verification| verification.at);
    let due = |last: Option<Timestamp>, pause: i64| last.is_none_or(|last| now.since(last) >= pause);
    if connected.connection.enabled && connected.upstream.services().balance == Support::Yes && due(checked, BALANCE_MS)
    {
        check_balance(platform, connected).await;
    }
    let id = connected.connection.id;
    let last = platform.store.read(move |snapshot| reconciled_at(snapshot, id)).await?;
    if due(last, DAY_MS) {
        let before = now.plus_millis(-DAY_MS);
        // Only one node does it.
        let ours = platform.store.write(move |tx| take_on(tx, id, before)).await;
        if matches!(ours, Ok(true)) {
            compare_books(platform, connected).await?;
        }
    }
    Ok(())
}

async fn check_balance(platform: &Platform, connected: &Connected) {
    connected.gate.pace().await;
    let seen = try_out(connected.upstream.as_ref(), platform.clock.now()).await;
    let (id, name) = (connected.connection.id, &connected.connection.name);
    match platform.store.write(move |tx| record_verification(tx, id, &seen)).await {
        Ok(connection) if connection.balance_is_low() => {
            tracing::warn!(connection = name, "our balance at this upstream is low: top it up there");
        }
        Ok(_) => {}
        Err(failure) => tracing::warn!(connection = name, ?failure, "a balance could not be kept"),
    }
}

async fn compare_books(platform: &Platform, connected: &Connected) -> Result<(), Fault> {
    let now = platform.clock.now();
    let span = (now.plus_millis(-SPAN_MS), now.plus_millis(-YOUNGEST_MS));
    let name = connected.connection.name.clone();
    let mut behind: Option<(OrderId, u32)> = None;
    loop {
        let connection = name.clone();
        let read =
            move |snapshot: &mut dyn store::port::Snapshot| to_compare(snapshot, &connection, span, behind, PORTION);
        let portion = platform.store.scan(read).await?;
        let Some(last) = portion.last() else { return Ok(()) };
        behind = Some((last.placement.order, last.placement.k));
        for purchase in portion {
            compare_one(platform, connected, purchase).await;
        }
    }
}

async fn compare_one(platform: &Platform, connected: &Connected, ToCompare { placement, ours }: ToCompare) {
    let mut theirs = ask(platform, connected, &placement, placement.upstream_order.clone()).await;
    // To some, a number they do not know is one they are still working on; our reference may tell more.
    let is_vague = matches!(theirs, LookUp::CannotTell { .. } | LookUp::Provisioning { .. });
    if is_vague && placement.progress.state == PlacementState::Done && placement.upstream_order.is_some() {
        theirs = ask(platform, connected, &placement, None).await;
    }
    let Some((kind, detail)) = compare(placement.progress.state, &ours, &theirs) else { return };
    let connection = connected.connection.name.clone();
    let reference = placement.reference();
    let told = detail.clone();
    match platform.store.write(move |tx| record(tx, &connection, &placement, kind, &detail)).await {
        Ok(true) => tracing::warn!(reference, %kind, told, "our books and an upstream's differ"),
        Ok(false) => {}
        Err(failure) => tracing::error!(reference, %kind, ?failure, "a difference could not be written down"),
    }
}

async fn ask(platform: &Platform, connected: &Connected, placement: &Placement, order: Option<String>) -> LookUp {
    connected.gate.pace().await;
    let purchase = Purchase {
        reference: placement.reference(),
        order,
        upstream_plan_id: placement.upstream_plan_id.clone(),
        quantity: placement.quantity,
    };
    connected.upstream.look_up(platform.clock.now(), purchase).await.meaning
}
