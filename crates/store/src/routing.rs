//! Routing: which upstream a job asks. Where a plan has one provider it is decided when the order is paid; here it is
//! where several connections offer the plan, and again where one of them refused.

use crate::fulfilment::{
    Placement, Providers, UnitCost, finish_or_go_on, insert_placement, must_find, placements, store_progress,
};
use crate::job::TO_BE_ROUTED;
use crate::ledger::lock_existing;
use crate::offer::{LiveOffer, live_of_plans};
use crate::order::Order;
use crate::port::{Decision, Event, Fault, Row, Tx, collect, row};
use crate::pricing::selling;
use crate::rate;
use domain::breaker::{BreakerState, Health};
use domain::catalogue::CONNECTIONS;
use domain::fulfilment::{PlacementState, Progress};
use domain::id::{JobId, OrderId, TenantId};
use domain::job::JobKind;
use domain::pricing::{Markup, price, rate_at};
use domain::routing::{Candidate, best, most_cost};
use domain::tenant::Mode;
use domain::time::Timestamp;
use std::convert::Infallible;

/// How a connection stands that sells.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The operator's preference: the smaller, the sooner.
    pub priority: i64,
    /// How it does.
    pub health: Health,
}

/// What routing must know of the connections.
pub trait Connections: Providers {
    /// How a connection stands here; `None` where this node cannot use it (yet).
    fn standing(&self, connection: &str) -> Option<Standing>;

    /// The least margin an order is placed with, hundredths of a percent of its price.
    fn least_margin(&self) -> i64;
}

/// An order nobody sells any more: what is missing of it goes back to the balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsold {
    /// Its job.
    pub job: JobId,
    /// The order.
    pub order: OrderId,
    /// Whose balance it was paid from.
    pub tenant: TenantId,
    /// In which world.
    pub mode: Mode,
}

/// What routing came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routed {
    /// How many jobs were looked at.
    pub looked_at: usize,
    /// Orders for [`refuse_unsold`].
    pub unsold: Vec<Unsold>,
}

struct ToRoute {
    job: JobId,
    kind: JobKind,
    order: OrderId,
    provider: Option<String>,
}

fn to_route(row: &dyn Row) -> Result<ToRoute, Fault> {
    Ok(ToRoute {
        job: JobId::from_slice(row.bytes(0)?)?,
        kind: row.text(1)?.parse()?,
        order: OrderId::from_slice(row.bytes(2)?)?,
        provider: row.opt_text(3)?.map(str::to_owned),
    })
}

const TO_ROUTE: &str = "select j.id, j.kind, j.order_id, p.provider from jobs j \
     left join orders o on o.id = j.order_id left join plans p on p.id = o.plan_id \
     where j.upstream = '' and j.state = 'ready' and j.run_at <= $1 order by j.run_at, j.id limit $2";

/// Sends up to `limit` jobs to the lane of an upstream.
///
/// # Errors
/// [`Fault`].
pub fn route_jobs(tx: &mut dyn Tx, connections: &dyn Connections, limit: u32) -> Decision<Routed, Infallible> {
    let now = tx.now();
    let sql = format!("{TO_ROUTE}{}", tx.locking_free_rows_of("j"));
    let jobs = collect(tx, &sql, &[now.into(), limit.into()], to_route)?;
    let mut routed = Routed { looked_at: jobs.len(), unsold: Vec::new() };
    for ToRoute { job, kind, order, provider } in jobs {
        match upstream_of(tx, connections, kind, order, provider) {
            Ok(Way::To(upstream)) => {
                tx.change("update jobs set upstream = $1 where id = $2", &[(&upstream).into(), job.as_bytes().into()])?;
                tx.after_commit(Event::JobReady(upstream));
            }
            Ok(Way::Later) => {
                let at = now.plus_millis(LATER_MS);
                tx.change("update jobs set run_at = $1 where id = $2", &[at.into(), job.as_bytes().into()])?;
            }
            Ok(Way::Nobody { tenant, mode }) => routed.unsold.push(Unsold { job, order, tenant, mode }),
            // One order that cannot be read must not hold up the others: the operator looks at it.
            Err(Fault::Bug(reason)) => {
                tracing::error!(%order, reason, "a job cannot be routed");
                tx.change(
                    "update jobs set state = 'dead', run_at = $1, reason = $2 where id = $3",
                    &[now.into(), (&reason).into(), job.as_bytes().into()],
                )?;
            }
            Err(fault) => return Err(fault.into()),
        }
    }
    Ok(routed)
}

enum Way {
    To(String),
    /// A connection sells it that this node cannot use at the moment.
    Later,
    Nobody {
        tenant: TenantId,
        mode: Mode,
    },
}

/// Milliseconds until an order is looked at again whose connection this node cannot use: it hears of a change within a
/// second.
const LATER_MS: i64 = 1_000;
/// Milliseconds after which an order waits no longer for a node to come to know its connection.
const LONGEST_LATER_MS: i64 = 600_000;

/// The upstream a job has to ask: the one a placement is open with, the one that sold what is to be given back, the
/// plan's own, or the best of those that offer it.
fn upstream_of(
    tx: &mut dyn Tx,
    connections: &dyn Connections,
    kind: JobKind,
    order: OrderId,
    provider: Option<String>,
) -> Result<Way, Fault> {
    let placements = placements(tx, order)?;
    let lost = || Fault::Bug(format!("nobody knows which upstream order {order} belongs to"));
    if kind == JobKind::Cancel {
        let last = order.last_esim();
        let cancelling = "select min(placement) from esims where id > $1 and id <= $2 and state = 'cancelling'";
        let bounds = [order.as_bytes().into(), last.as_bytes().into()];
        let k = row(tx, cancelling, &bounds, |row| row.opt_int(0))?.flatten();
        let sold = placements.iter().find(|placement| Some(i64::from(placement.k)) == k);
        let sold = sold.or(placements.first()).ok_or_else(lost)?;
        return Ok(Way::To(sold.provider.clone()));
    }
    let provider = provider.ok_or_else(lost)?;
    let open: Vec<&Placement> = placements.iter().filter(|placement| !placement.progress.state.is_final()).collect();
    match open.first() {
        None if provider != CONNECTIONS => Ok(Way::To(provider)),
        None => {
            let order = must_find(tx, order)?;
            Ok(match among_offers(tx, connections, &order, &placements)? {
                Choice::Taken(upstream) => Way::To(upstream),
                Choice::Later if tx.now().since(order.id.created_at()) < LONGEST_LATER_MS => Way::Later,
                Choice::Later | Choice::Nobody => Way::Nobody { tenant: order.tenant, mode: order.mode },
            })
        }
        Some(first) => {
            let nothing_sold = open.iter().all(|placement| placement.progress.state == PlacementState::Waiting);
            let put_off = open.iter().any(|placement| is_put_off(placement.progress));
            if provider == CONNECTIONS && nothing_sold && put_off {
                let order = must_find(tx, order)?;
                if let Choice::Taken(elsewhere) = among_offers(tx, connections, &order, &placements)? {
                    return Ok(Way::To(elsewhere));
                }
            }
            Ok(Way::To(first.provider.clone()))
        }
    }
}

/// How often an upstream may put an order off before it goes to another one that sells the plan, too.
const MOST_PUT_OFF: u32 = 3;

/// Whether an upstream put a placement off so often that another one may have it. Nothing of it was sold.
pub(crate) fn is_put_off(progress: Progress) -> bool {
    progress.state == PlacementState::Waiting && progress.failures >= MOST_PUT_OFF
}

/// Whose offer an order was given to.
enum Choice {
    Taken(String),
    Later,
    Nobody,
}

/// Records placements of what is missing of an order, with the best offer of its plan that did not refuse it or put it
/// off, in place of those that wait.
fn among_offers(
    tx: &mut dyn Tx,
    connections: &dyn Connections,
    order: &Order,
    before: &[Placement],
) -> Result<Choice, Fault> {
    let done = before.iter().filter(|placement| placement.progress.state == PlacementState::Done);
    let missing = order.quantity.saturating_sub(done.map(|placement| placement.quantity).sum());
    let did_not_sell = |state| matches!(state, PlacementState::Refused | PlacementState::Waiting);
    let refused: Vec<(String, String)> = before
        .iter()
        .filter(|placement| did_not_sell(placement.progress.state))
        .map(|placement| (placement.provider.clone(), placement.upstream_plan_id.clone()))
        .collect();
    // The database says who sells: it is what the price was made of, and this node may not have heard of it yet.
    let selling = selling(tx)?;
    let is_new = |offer: &LiveOffer| {
        !refused.contains(&(offer.connection.clone(), offer.upstream_plan_id.clone()))
            && selling.contains(&offer.connection)
    };
    let offers: Vec<LiveOffer> = live_of_plans(tx, &[order.plan])?.into_iter().filter(is_new).collect();
    let some_unusable = offers.iter().any(|offer| connections.standing(&offer.connection).is_none());
    let now = tx.now();
    let rates = rate::from_now_on(tx, now)?;
    let currency = order.unit_price.currency();
    let candidate = |offer: LiveOffer| {
        let Standing { priority, health } = connections.standing(&offer.connection)?;
        let rate = rate_at(&rates, &offer.cost.currency, currency, now);
        // Without a rate nobody knows whether it would be sold at a loss.
        let cost = price(&offer.cost, rate, &Markup::NONE, currency).ok()?.cost_minor;
        let LiveOffer { connection, upstream_plan_id, cost: asked, .. } = offer;
        Some((Candidate { connection, upstream_plan_id, cost, priority, health }, asked))
    };
    // From one that puts it off an order does not go to one that does not answer at all.
    let moves = before.iter().any(|placement| placement.progress.state == PlacementState::Waiting);
    let answers = |candidate: &Candidate| !moves || candidate.health.state != BreakerState::Open;
    let offered = offers.into_iter().filter_map(candidate).filter(|(candidate, _)| answers(candidate));
    let (candidates, asked): (Vec<Candidate>, Vec<_>) = offered.unzip();
    let most = most_cost(order.unit_price, connections.least_margin());
    let chosen = best(&candidates, &refused, Some(most)).filter(|_| missing > 0);
    let Some((chosen, asked)) = chosen.and_then(|index| Some((candidates.get(index)?, asked.get(index)?))) else {
        return Ok(if some_unusable && missing > 0 { Choice::Later } else { Choice::Nobody });
    };
    for waiting in before.iter().filter(|placement| placement.progress.state == PlacementState::Waiting) {
        store_progress(tx, waiting, Progress { state: PlacementState::Refused, ..waiting.progress })?;
    }
    let per_call = connections.capabilities(&chosen.connection).map_or(missing, |able| able.quantity_per_call).max(1);
    let mut k = before.last().map_or(0, |placement| placement.k);
    let mut left = missing;
    while left > 0 {
        let quantity = left.min(per_call);
        left -= quantity;
        k += 1;
        let placement = Placement {
            order: order.id,
            k,
            provider: chosen.connection.clone(),
            upstream_plan_id: chosen.upstream_plan_id.clone(),
            upstream_order: None,
            quantity,
            cost: Some(UnitCost { asked: asked.clone(), converted: chosen.cost }),
            progress: Progress { state: PlacementState::Waiting, ..Progress::FRESH },
            answers: Vec::new(),
        };
        insert_placement(tx, order.tenant, &placement)?;
    }
    Ok(Choice::Taken(chosen.connection.clone()))
}

/// Ends an order nobody sells any more. Does nothing where its job was decided otherwise meanwhile.
///
/// # Errors
/// [`Fault`].
pub fn refuse_unsold(tx: &mut dyn Tx, unsold: &Unsold) -> Decision<(), Infallible> {
    let Unsold { job, order, tenant, mode } = *unsold;
    lock_existing(tx, tenant, mode)?;
    let waits = format!(
        "select 1 from jobs where id = $1 and upstream = '' and state = 'ready'{}",
        tx.locking_free_rows_of("jobs")
    );
    if row(tx, &waits, &[job.as_bytes().into()], |_| Ok(()))?.is_none() {
        return Ok(());
    }
    let refused = must_find(tx, order)?.failure_reason;
    let failure =
        refused.unwrap_or_else(|| "no_offer: no connection sells this plan at a price that covers it".to_owned());
    finish_or_go_on(tx, job, order, Some(failure))?;
    Ok(())
}

/// Whether what an upstream refused of an order may be bought elsewhere: its plan lives from offers, and nothing else of
/// it is still open.
pub(crate) fn may_go_elsewhere(tx: &mut dyn Tx, order: OrderId) -> Result<bool, Fault> {
    if !lives_from_offers(tx, order)? {
        return Ok(false);
    }
    Ok(placements(tx, order)?.iter().all(|placement| placement.progress.state.is_final()))
}

/// Whether an order's plan lives from the offers of connections.
pub(crate) fn lives_from_offers(tx: &mut dyn Tx, order: OrderId) -> Result<bool, Fault> {
    let sql = "select p.provider from orders o join plans p on p.id = o.plan_id where o.id = $1";
    let provider = row(tx, sql, &[order.as_bytes().into()], |row| Ok(row.text(0)?.to_owned()))?;
    Ok(provider.as_deref() == Some(CONNECTIONS))
}

/// Has a job routed once more, at a time.
pub(crate) fn send_back(tx: &mut dyn Tx, job: JobId, at: Timestamp) -> Result<(), Fault> {
    tx.change(
        "update jobs set upstream = '', state = 'ready', run_at = $1, reason = null where id = $2",
        &[at.into(), job.as_bytes().into()],
    )?;
    tx.after_commit(Event::JobReady(TO_BE_ROUTED.to_owned()));
    Ok(())
}

/// Has up to `limit` orders routed once more that wait for an upstream which does not answer, or sells no more, and were
/// never sent to it. Returns how many.
///
/// # Errors
/// [`Fault`].
pub fn release(tx: &mut dyn Tx, upstream: &str, limit: u32) -> Decision<usize, Infallible> {
    let sql = format!(
        "select j.id, j.order_id from jobs j join orders o on o.id = j.order_id join plans p on p.id = o.plan_id
         where j.upstream = $1 and j.state = 'ready' and j.kind = 'fulfil' and p.provider = 'connections'
             and not exists (select 1 from placements f where f.order_id = j.order_id
                 and f.state not in ('waiting', 'done', 'refused', 'abandoned'))
             and not exists (select 1 from placements f where f.order_id = j.order_id
                 and f.state = 'waiting' and f.answers <> '')
         order by j.run_at, j.id limit $2{}",
        tx.locking_free_rows_of("j")
    );
    let waiting = collect(tx, &sql, &[upstream.into(), limit.into()], |row| {
        Ok((JobId::from_slice(row.bytes(0)?)?, OrderId::from_slice(row.bytes(1)?)?))
    })?;
    let now = tx.now();
    for (job, order) in &waiting {
        // Nothing was sent under their references.
        tx.execute(
            "delete from placements where order_id = $1 and state = 'waiting' and answers = ''",
            &[order.as_bytes().into()],
        )?;
        send_back(tx, *job, now)?;
    }
    Ok(waiting.len())
}
