//! The steps of fulfilment as transactions: take due jobs up, record what an upstream said, and let
//! the operator decide what no machine can. What an answer means is ruled in `domain::fulfilment`.

use crate::audit::{self, Act};
use crate::checkout::SANDBOX;
use crate::esim::{self, Esim};
use crate::index::{Key, Kind};
use crate::ledger::{self, lock_existing, write, write_listed};
use crate::order::{self, Order, timeline_entry};
use crate::port::{Decision, Event, Fault, Needs, Row, Snapshot, Tx, collect, refuse, row};
use crate::usage;
use domain::catalogue::CONNECTIONS;
use domain::esim::{EsimEvent, EsimState};
use domain::fulfilment::{
    Cancellation, Capabilities, LookUp, Outcome, Patience, PlacementState, Profile, Progress, Ruling, Step,
    after_look_up, after_lost_worker, after_place, bounded,
};
use domain::id::{EntryId, EsimId, JobId, OrderId, TenantId};
use domain::job::{JobKind, JobState, retry_at};
use domain::ledger::Movement;
use domain::money::Money;
use domain::offer::Cost;
use domain::order::{OrderStatus, Tally, of_reference, placement_reference, status};
use domain::tenant::Mode;
use domain::time::Timestamp;
use std::collections::BTreeSet;
use std::convert::Infallible;

/// What an upstream asks for one eSIM: a note for the operator, no movement of money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitCost {
    /// In the upstream's currency and precision.
    pub asked: Cost,
    /// In the order's currency, at the rate of the moment it was routed, rounded up.
    pub converted: Money,
}

/// One purchase under one reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Its order.
    pub order: OrderId,
    /// Its number within the order, from 1.
    pub k: u32,
    /// The provider it is placed with.
    pub provider: String,
    /// The provider's own plan id.
    pub upstream_plan_id: String,
    /// The provider's own number of the order, once it gave one.
    pub upstream_order: Option<String>,
    /// How many eSIMs it asks for.
    pub quantity: u32,
    /// What one of them costs us there, where it is told.
    pub cost: Option<UnitCost>,
    /// Where it is.
    pub progress: Progress,
    /// What the upstream said, oldest first: JSON objects `{at, call, answer}` of one line each.
    pub answers: Vec<String>,
}

impl Placement {
    /// The reference the upstream knows it under.
    #[must_use]
    pub fn reference(&self) -> String {
        placement_reference(self.order, self.k)
    }
}

/// An eSIM to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeBack {
    /// The eSIM.
    pub esim: EsimId,
    /// The provider that sold it.
    pub provider: String,
    /// The reference it was bought under.
    pub reference: String,
    /// The provider's own number of the order, once it gave one.
    pub upstream_order: Option<String>,
    /// Its ICCID.
    pub iccid: String,
    /// The provider's own name of the eSIM.
    pub upstream_handle: Option<String>,
}

/// What a worker has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Take one step for a placement.
    Fulfil {
        /// The placement.
        placement: Placement,
        /// The step.
        step: Step,
    },
    /// Ask for these eSIMs to be taken back.
    TakeBack(Vec<TakeBack>),
    /// Nothing is left to do; the job only has to end.
    Finish,
}

/// What an order sold; never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sold {
    /// To whom.
    pub tenant: TenantId,
    /// In which world.
    pub mode: Mode,
    /// How many eSIMs.
    pub quantity: u32,
    /// The price of one.
    pub unit_price: Money,
}

impl Sold {
    fn of(order: &Order) -> Self {
        Self { tenant: order.tenant, mode: order.mode, quantity: order.quantity, unit_price: order.unit_price }
    }
}

/// A job a worker holds, until its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// The job.
    pub job: JobId,
    /// Its order.
    pub order: OrderId,
    /// What was sold.
    pub sold: Sold,
    /// Proves that the job is still this worker's.
    pub lease: i64,
    /// What to do.
    pub task: Task,
}

/// What the providers can do, by name.
pub trait Providers {
    /// The capabilities of a provider, or `None` where there is none of that name.
    fn capabilities(&self, provider: &str) -> Option<Capabilities>;
}

struct Due {
    job: JobId,
    kind: JobKind,
    order: OrderId,
    /// What was sold, and with which provider and plan of its own it is to be placed; or why they cannot be told.
    content: Result<(Sold, String, String), Fault>,
    /// Whether nothing was placed yet.
    fresh: bool,
}

fn due(row: &dyn Row) -> Result<Due, Fault> {
    let content = || {
        let sold = Sold {
            tenant: TenantId::from_slice(row.bytes(3)?)?,
            mode: row.text(4)?.parse()?,
            quantity: number(row.int(5)?)?,
            unit_price: Money::new(row.int(6)?, row.text(7)?.parse()?),
        };
        Ok((sold, row.text(8)?.to_owned(), row.text(9)?.to_owned()))
    };
    Ok(Due {
        job: JobId::from_slice(row.bytes(0)?)?,
        kind: row.text(1)?.parse()?,
        order: OrderId::from_slice(row.bytes(2)?)?,
        content: content(),
        fresh: row.opt_int(10)?.is_none(),
    })
}

fn number(value: i64) -> Result<u32, Fault> {
    u32::try_from(value).map_err(|_| Fault::Bug("a count is out of range".to_owned()))
}

const DUE: &str = "select j.id, j.kind, j.order_id, o.tenant_id, o.mode, o.quantity, o.unit_price, o.currency, \
     p.provider, p.upstream_plan_id, f.k \
     from jobs j left join orders o on o.id = j.order_id left join plans p on p.id = o.plan_id \
     left join placements f on f.order_id = j.order_id and f.k = 1 \
     where j.upstream = $1 and j.state <> 'dead' and j.run_at <= $2 order by j.run_at, j.id limit $3";

/// Takes up to `limit` due jobs of an upstream's lane for `lease_ms` milliseconds, the longest due first, and records
/// the intent of what will be sent.
///
/// # Errors
/// [`Fault`].
pub fn claim_jobs(
    tx: &mut dyn Tx,
    providers: &dyn Providers,
    upstream: &str,
    limit: u32,
    lease_ms: i64,
) -> Decision<Vec<Leased>, Infallible> {
    let now = tx.now();
    let sql = format!("{DUE}{}", tx.locking_free_rows_of("j"));
    let due = collect(tx, &sql, &[upstream.into(), now.into(), limit.into()], due)?;
    let (lease, ends) = (i64::try_from(tx.random() >> 1).unwrap_or(i64::MAX), now.plus_millis(lease_ms));
    for Due { job, .. } in &due {
        tx.change(
            "update jobs set state = 'leased', lease = $1, run_at = $2, attempts = attempts + 1 where id = $3",
            &[lease.into(), ends.into(), job.as_bytes().into()],
        )?;
    }
    let mut leased = Vec::with_capacity(due.len());
    for Due { job, kind, order, content, fresh } in due {
        if fresh && matches!(&content, Ok((_, provider, _)) if provider == CONNECTIONS) {
            crate::routing::send_back(tx, job, now)?;
            continue;
        }
        let task = content.and_then(|(sold, provider, upstream_plan_id)| {
            let task = match kind {
                JobKind::Fulfil if fresh => intend(tx, providers, order, &sold, &provider, &upstream_plan_id)?,
                JobKind::Fulfil => fulfil_task(tx, order)?,
                JobKind::Cancel => take_back_task(tx, order, upstream)?,
            };
            Ok(Leased { job, order, sold, lease, task })
        });
        match task {
            Ok(task) => leased.push(task),
            // One order that cannot be read must not hold up the others: the operator looks at it.
            Err(Fault::Bug(reason)) => {
                tracing::error!(%order, reason, "a job cannot be taken up");
                reschedule(tx, job, JobState::Dead, now, Some(&reason))?;
            }
            Err(fault) => return Err(fault.into()),
        }
    }
    Ok(leased)
}

/// The next step for an order some of whose placements were made before.
fn fulfil_task(tx: &mut dyn Tx, order: OrderId) -> Result<Task, Fault> {
    let open = placements(tx, order)?.into_iter().find(|placement| !placement.progress.state.is_final());
    let Some(placement) = open else { return Ok(Task::Finish) };
    let step = placement.progress.state.next_step();
    let progress = match step {
        Step::Place => Progress { state: PlacementState::Placing, ..placement.progress },
        Step::LookUp | Step::Nothing => after_lost_worker(placement.progress, tx.now()),
    };
    if placement.progress.state == PlacementState::Waiting || progress != placement.progress {
        store_progress(tx, &placement, progress)?;
    }
    Ok(Task::Fulfil { placement: Placement { progress, ..placement }, step })
}

/// Splits an order into placements no larger than its provider takes, and records them. The first is
/// about to be sent; the others wait.
fn intend(
    tx: &mut dyn Tx,
    providers: &dyn Providers,
    order: OrderId,
    sold: &Sold,
    provider: &str,
    upstream_plan_id: &str,
) -> Result<Task, Fault> {
    let per_call = providers.capabilities(provider).map_or(sold.quantity, |able| able.quantity_per_call).max(1);
    let mut first = None;
    let (mut left, mut k) = (sold.quantity, 0_u32);
    while left > 0 {
        let quantity = left.min(per_call);
        left -= quantity;
        k = k.saturating_add(1);
        let state = if first.is_none() { PlacementState::Placing } else { PlacementState::Waiting };
        let placement = Placement {
            order,
            k,
            provider: provider.to_owned(),
            upstream_plan_id: upstream_plan_id.to_owned(),
            upstream_order: None,
            quantity,
            cost: None,
            progress: Progress { state, ..Progress::FRESH },
            answers: Vec::new(),
        };
        insert_placement(tx, sold.tenant, &placement)?;
        first = first.or(Some(placement));
    }
    let placement = first.ok_or_else(|| Fault::Bug(format!("order {order} is empty")))?;
    Ok(Task::Fulfil { placement, step: Step::Place })
}

pub(crate) fn insert_placement(tx: &mut dyn Tx, tenant: TenantId, placement: &Placement) -> Result<(), Fault> {
    let cost = placement.cost.as_ref();
    tx.change(
        "insert into placements (order_id, k, tenant_id, provider, upstream_plan_id, quantity, state, not_found,
             cannot_tell, failures, answers, cost_units, cost_decimals, cost_currency, cost)
         values ($1, $2, $3, $4, $5, $6, $7, 0, 0, 0, '', $8, $9, $10, $11)",
        &[
            placement.order.as_bytes().into(),
            placement.k.into(),
            tenant.as_bytes().into(),
            (&placement.provider).into(),
            (&placement.upstream_plan_id).into(),
            placement.quantity.into(),
            placement.progress.state.word().into(),
            cost.map(|cost| cost.asked.units).into(),
            cost.map(|cost| cost.asked.decimals).into(),
            cost.map(|cost| cost.asked.currency.as_str()).into(),
            cost.map(|cost| cost.converted.minor()).into(),
        ],
    )?;
    Ok(())
}

pub(crate) fn store_progress(tx: &mut dyn Tx, placement: &Placement, progress: Progress) -> Result<(), Fault> {
    tx.change(
        "update placements set state = $1, unknown_since = $2, not_found = $3, cannot_tell = $4, failures = $5
         where order_id = $6 and k = $7 and state = $8",
        &[
            progress.state.word().into(),
            progress.unknown_since.into(),
            progress.not_found.into(),
            progress.cannot_tell.into(),
            progress.failures.into(),
            placement.order.as_bytes().into(),
            placement.k.into(),
            placement.progress.state.word().into(),
        ],
    )
}

/// What of an order this upstream is to take back: another one's eSIMs have a job of their own.
fn take_back_task(tx: &mut dyn Tx, order: OrderId, upstream: &str) -> Result<Task, Fault> {
    let placements = placements(tx, order)?;
    let esims = esim::of_order(tx, order)?;
    let cancelling = esims.into_iter().filter(|esim| esim.state == EsimState::Cancelling);
    let list: Vec<TakeBack> = cancelling
        .filter_map(|esim| {
            let placement = placements.iter().find(|placement| placement.k == esim.placement)?;
            (placement.provider == upstream).then_some(())?;
            Some(TakeBack {
                esim: esim.id,
                provider: placement.provider.clone(),
                reference: placement.reference(),
                upstream_order: placement.upstream_order.clone(),
                iccid: esim.iccid.unwrap_or_default(),
                upstream_handle: esim.upstream_handle,
            })
        })
        .collect();
    Ok(if list.is_empty() { Task::Finish } else { Task::TakeBack(list) })
}

/// The lease ended, or somebody else decided: what the worker learned is not recorded, and will be
/// asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseLost;

fn hold(tx: &mut dyn Tx, leased: &Leased) -> Result<bool, Fault> {
    // Whoever takes it up at this moment holds its row.
    let held = format!("{HELD}{}", tx.locking_free_rows_of("jobs"));
    Ok(row(tx, &held, &[leased.job.as_bytes().into(), leased.lease.into()], |_| Ok(()))?.is_some())
}

const HELD: &str = "select 1 from jobs where id = $1 and state = 'leased' and lease = $2";

/// Holds jobs for another `lease_ms` milliseconds, as far as they are still held: their upstream takes its time.
///
/// # Errors
/// [`Fault`].
pub fn renew_leases(tx: &mut dyn Tx, held: &[(JobId, i64)], lease_ms: i64) -> Decision<(), Infallible> {
    let ends = tx.now().plus_millis(lease_ms);
    for (job, lease) in held {
        tx.execute(
            "update jobs set run_at = $1 where id = $2 and state = 'leased' and lease = $3",
            &[ends.into(), job.as_bytes().into(), (*lease).into()],
        )?;
    }
    Ok(())
}

/// What [`record_answer`] will need.
#[must_use]
pub fn needs_of_answer(leased: &Leased) -> Needs {
    let Leased { job, lease, sold, .. } = leased;
    Needs::credit(sold.tenant, sold.mode).read(HELD, &[job.as_bytes().into(), (*lease).into()])
}

/// What an upstream said to a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// To a purchase.
    Place(Outcome),
    /// To a look-up.
    LookUp(LookUp),
}

/// Records what an upstream said to a step, and what follows. `order` is its own number of the order, where the answer
/// has it.
///
/// # Errors
/// [`LeaseLost`].
pub fn record_answer(
    tx: &mut dyn Tx,
    leased: &Leased,
    heard: &Heard,
    raw: &str,
    order: Option<&str>,
    patience: Patience,
) -> Decision<(), LeaseLost> {
    let Task::Fulfil { placement, .. } = &leased.task else {
        return Err(Fault::Bug("only a placement has an answer".to_owned()).into());
    };
    let named;
    let placement = match order {
        None => placement,
        Some(order) => {
            named = Placement { upstream_order: Some(order.to_owned()), ..placement.clone() };
            &named
        }
    };
    let (now, random) = (tx.now(), tx.random());
    let (progress, ruling) = match heard {
        Heard::Place(outcome) => after_place(placement.progress, outcome.clone(), now, random, patience),
        Heard::LookUp(look_up) => after_look_up(placement.progress, look_up.clone(), now, random, patience),
    };
    let abandoned = match ruling {
        Ruling::PlaceAgain => abandoned(tx, placement.order)?,
        _ => 0,
    };
    let age_ms = now.since(placement.order.created_at());
    let (progress, ruling) = bounded(progress, ruling, age_ms, abandoned, patience);
    let call = if matches!(heard, Heard::Place(_)) { "place" } else { "look_up" };
    if placement.k == 1
        && placement.quantity == leased.sold.quantity
        && let Ruling::Deliver(profiles) = &ruling
    {
        // The rule: one placement for the whole order. Nothing of it has to be read again.
        if !end(tx, leased)? {
            return refuse(LeaseLost);
        }
        store_answer(tx, placement, progress, call, raw, order)?;
        let delivered = deliver(tx, placement, leased.sold.tenant, 0, profiles)?;
        let iccids = profiles.iter().take(usize::try_from(delivered).unwrap_or(usize::MAX));
        let iccids = iccids.map(|profile| (Kind::Iccid, profile.iccid.clone())).collect();
        finish(tx, placement.order, &leased.sold, delivered, None, Some(iccids))?;
        return Ok(());
    }
    if !hold(tx, leased)? {
        return refuse(LeaseLost);
    }
    store_answer(tx, placement, progress, call, raw, order)?;
    follow(tx, leased.job, placement, progress, ruling, patience.capabilities.idempotent_create)?;
    Ok(())
}

/// How many placements of an order were left behind as never sold.
fn abandoned(tx: &mut dyn Tx, order: OrderId) -> Result<u32, Fault> {
    let sql = "select count(*) from placements where order_id = $1 and state = 'abandoned'";
    number(row(tx, sql, &[order.as_bytes().into()], |row| row.int(0))?.unwrap_or(0))
}

/// Ends a job this worker holds. Returns whether it did: nobody else had decided meanwhile.
fn end(tx: &mut dyn Tx, leased: &Leased) -> Result<bool, Fault> {
    let delete = "delete from jobs where id = $1 and state = 'leased' and lease = $2";
    tx.change_if_found(HELD, delete, &[leased.job.as_bytes().into(), leased.lease.into()])
}

/// Answers kept of one placement, in characters: enough for an investigation, bounded for a loop.
const MOST_ANSWER_CHARACTERS: i64 = 60_000;

fn store_answer(
    tx: &mut dyn Tx,
    placement: &Placement,
    progress: Progress,
    call: &str,
    raw: &str,
    order: Option<&str>,
) -> Result<(), Fault> {
    let answer = serde_json::json!({"at": tx.now().to_string(), "call": call, "answer": raw}).to_string();
    tx.change(
        "update placements set state = $1, unknown_since = $2, not_found = $3, cannot_tell = $4, failures = $5,
             answers = case when length(answers) < $6 then answers || $7 else answers end,
             upstream_order = coalesce($8, upstream_order)
         where order_id = $9 and k = $10 and state = $11",
        &[
            progress.state.word().into(),
            progress.unknown_since.into(),
            progress.not_found.into(),
            progress.cannot_tell.into(),
            progress.failures.into(),
            MOST_ANSWER_CHARACTERS.into(),
            (&format!("{answer}\n")).into(),
            order.into(),
            placement.order.as_bytes().into(),
            placement.k.into(),
            placement.progress.state.word().into(),
        ],
    )
}

/// Keeps what an upstream said about a placement outside of its own steps.
///
/// # Errors
/// [`Fault`].
pub fn keep_answer(tx: &mut dyn Tx, reference: &str, call: &str, raw: &str) -> Result<(), Fault> {
    let Some((order, k)) = of_reference(reference) else { return Ok(()) };
    let answer = serde_json::json!({"at": tx.now().to_string(), "call": call, "answer": raw}).to_string();
    tx.execute(
        "update placements set answers = answers || $1 where order_id = $2 and k = $3 and length(answers) < $4",
        &[(&format!("{answer}\n")).into(), order.as_bytes().into(), k.into(), MOST_ANSWER_CHARACTERS.into()],
    )?;
    Ok(())
}

fn follow(
    tx: &mut dyn Tx,
    job: JobId,
    placement: &Placement,
    progress: Progress,
    ruling: Ruling,
    idempotent_create: bool,
) -> Result<(), Fault> {
    match ruling {
        Ruling::Deliver(profiles) => {
            let tenant = must_find(tx, placement.order)?.tenant;
            let taken = esim::of_order(tx, placement.order)?.len();
            deliver(tx, placement, tenant, taken, &profiles)?;
            finish_or_go_on(tx, job, placement.order, None)
        }
        Ruling::Refuse { code, message } => {
            let failure = format!("{code}: {message}");
            if crate::routing::may_go_elsewhere(tx, placement.order)? {
                tx.change(
                    "update orders set failure_reason = $1 where id = $2",
                    &[(&failure).into(), placement.order.as_bytes().into()],
                )?;
                let now = tx.now();
                return crate::routing::send_back(tx, job, now);
            }
            finish_or_go_on(tx, job, placement.order, Some(failure))
        }
        Ruling::Again(at) => {
            if progress.state != placement.progress.state {
                note(tx, placement.order, progress.state.word(), None)?;
            }
            reschedule(tx, job, JobState::Ready, at, None)?;
            if crate::routing::is_put_off(progress) && crate::routing::lives_from_offers(tx, placement.order)? {
                crate::routing::send_back(tx, job, at)?;
            }
            Ok(())
        }
        Ruling::PlaceAgain => {
            place_again(tx, placement, idempotent_create)?;
            let now = tx.now();
            reschedule(tx, job, JobState::Ready, now, None)
        }
        Ruling::AskOperator { reason } => {
            note(tx, placement.order, "needs_operator", None)?;
            let now = tx.now();
            reschedule(tx, job, JobState::Dead, now, Some(&reason))
        }
    }
}

fn place_again(tx: &mut dyn Tx, placement: &Placement, idempotent_create: bool) -> Result<(), Fault> {
    let waiting = Progress { state: PlacementState::Waiting, ..Progress::FRESH };
    if idempotent_create {
        let abandoned = Progress { state: PlacementState::Abandoned, ..placement.progress };
        return store_progress(tx, &Placement { progress: abandoned, ..placement.clone() }, waiting);
    }
    let (tenant, last) = row(
        tx,
        "select tenant_id, max(k) from placements where order_id = $1 group by tenant_id",
        &[placement.order.as_bytes().into()],
        |row| Ok((TenantId::from_slice(row.bytes(0)?)?, number(row.int(1)?)?)),
    )?
    .ok_or_else(|| Fault::Bug("a placement without its row".to_owned()))?;
    let k = last.saturating_add(1);
    let next = Placement { k, progress: waiting, answers: Vec::new(), upstream_order: None, ..placement.clone() };
    insert_placement(tx, tenant, &next)?;
    note(tx, placement.order, "placed_again", None)
}

fn reschedule(tx: &mut dyn Tx, job: JobId, state: JobState, at: Timestamp, reason: Option<&str>) -> Result<(), Fault> {
    tx.change(
        "update jobs set state = $1, run_at = $2, reason = $3 where id = $4",
        &[state.word().into(), at.into(), reason.into(), job.as_bytes().into()],
    )?;
    // Whoever sleeps until the next job must learn that there may be an earlier one.
    if state == JobState::Ready {
        ring(tx, job)?;
    }
    Ok(())
}

/// Wakes whoever works on the lane a job stands in.
fn ring(tx: &mut dyn Tx, job: JobId) -> Result<(), Fault> {
    let lane = row(tx, "select upstream from jobs where id = $1", &[job.as_bytes().into()], |row| {
        Ok(row.text(0)?.to_owned())
    })?;
    if let Some(lane) = lane {
        tx.after_commit(Event::JobReady(lane));
    }
    Ok(())
}

fn note(tx: &mut dyn Tx, order: OrderId, event: &str, detail: Option<&str>) -> Result<(), Fault> {
    let entry = timeline_entry(tx.now(), event, detail)?;
    tx.change(
        "update orders set timeline = timeline || $1 where id = $2",
        &[(&entry).into(), order.as_bytes().into()],
    )?;
    tx.after_commit(Event::OrderChanged(order));
    Ok(())
}

/// Writes the profiles a placement brought behind the `taken` eSIMs that are there. Returns how many.
fn deliver(
    tx: &mut dyn Tx,
    placement: &Placement,
    tenant: TenantId,
    taken: usize,
    profiles: &[Profile],
) -> Result<u32, Fault> {
    let wanted = usize::try_from(placement.quantity).unwrap_or(usize::MAX);
    if profiles.len() > wanted {
        tracing::warn!(order = %placement.order, "the upstream delivered more profiles than were ordered");
    }
    let mut delivered = 0_u32;
    for (offset, profile) in profiles.iter().take(wanted).enumerate() {
        let position = u16::try_from(taken + offset).map_err(|_| Fault::Bug("too many eSIMs".to_owned()))?;
        let id = placement.order.esim(position);
        esim::deliver(tx, id, tenant, placement.k, profile)?;
        // What becomes of the sandbox's is told by whoever moves it on, and nobody waits for more.
        if placement.provider != SANDBOX {
            usage::watch(tx, id, tenant, placement, profile)?;
        }
        delivered += 1;
    }
    Ok(delivered)
}

pub(crate) fn must_find(snapshot: &mut dyn Snapshot, order: OrderId) -> Result<Order, Fault> {
    order::find(snapshot, order)?.ok_or_else(|| Fault::Bug(format!("order {order} is not there")))
}

/// Ends the order when its last placement is over; otherwise the job goes on with the next one.
pub(crate) fn finish_or_go_on(tx: &mut dyn Tx, job: JobId, id: OrderId, failure: Option<String>) -> Result<(), Fault> {
    if let Some(failure) = &failure {
        tx.change("update orders set failure_reason = $1 where id = $2", &[failure.into(), id.as_bytes().into()])?;
    }
    let open = placements(tx, id)?.iter().any(|placement| !placement.progress.state.is_final());
    if open {
        // No entry of the ledger tells the index of a part, so it is told here.
        let order = must_find(tx, id)?;
        crate::index::list_early(tx, &order)?;
        let now = tx.now();
        return reschedule(tx, job, JobState::Ready, now, None);
    }
    let order = must_find(tx, id)?;
    let delivered = order.esims.iter().filter(|esim| esim.state == EsimState::Delivered).count();
    let delivered = number(i64::try_from(delivered).unwrap_or(i64::MAX))?;
    crate::index::unlist_early(tx, &order)?;
    finish(tx, id, &Sold::of(&order), delivered, order.failure_reason, None)?;
    tx.change("delete from jobs where id = $1", &[job.as_bytes().into()])
}

/// Earns what came, gives back what did not, once: guarded by the order's state. `keys` are those of its eSIMs where
/// they are at hand.
fn finish(
    tx: &mut dyn Tx,
    id: OrderId,
    sold: &Sold,
    delivered: u32,
    failure_reason: Option<String>,
    keys: Option<Vec<Key>>,
) -> Result<(), Fault> {
    let mut locked = lock_existing(tx, sold.tenant, sold.mode)?;
    let failed = sold.quantity.saturating_sub(delivered);
    let status = status(Tally { delivered, failed, ..Tally::default() });
    let refunded = sold.unit_price.times(failed)?;
    let keys = keys.map(|keys| keys.into_iter().chain(order::status_key(status)).collect::<Vec<_>>());
    let mut events = String::new();
    let now = tx.now();
    if delivered > 0 {
        let earned = sold.unit_price.times(delivered)?;
        let entry = EntryId::new(tx.fresh_id());
        write_listed(tx, &mut locked, entry, Movement::sale(id, earned), keys.clone())?;
        events += &timeline_entry(now, "delivered", Some(&format!("{delivered} of {}", sold.quantity)))?;
    }
    if failed > 0 {
        let entry = EntryId::new(tx.fresh_id());
        write_listed(tx, &mut locked, entry, Movement::refund_of_undelivered(id, refunded), keys)?;
        events += &timeline_entry(now, "refunded", Some(&format!("{refunded} {}", refunded.currency())))?;
    }
    let reason = match (failed, failure_reason) {
        (0, _) => None,
        (_, Some(reason)) => Some(reason),
        (_, None) => Some("not_delivered: the upstream delivered fewer eSIMs than were ordered".to_owned()),
    };
    events += &timeline_entry(now, status.word(), reason.as_deref())?;
    tx.store_credit(&locked)?;
    tx.change("update orders set status = $1, refunded = $2, completed_at = $3, failure_reason = $4, timeline = timeline || $5
         where id = $6 and status = 'processing'",
        &[
            status.word().into(),
            refunded.minor().into(),
            now.into(),
            reason.as_ref().into(),
            (&events).into(),
            id.as_bytes().into(),
        ],
    )?;
    tx.after_commit(Event::OrderChanged(id));
    Ok(())
}

/// Ends a job that has nothing left to do.
///
/// # Errors
/// [`LeaseLost`].
pub fn end_job(tx: &mut dyn Tx, leased: &Leased) -> Decision<(), LeaseLost> {
    if end(tx, leased)? { Ok(()) } else { refuse(LeaseLost) }
}

/// Gives a job back untouched: its provider is not there, or the process is stopping. Only for a worker
/// that has sent nothing.
///
/// # Errors
/// [`LeaseLost`].
pub fn postpone(tx: &mut dyn Tx, leased: &Leased, reason: &str, attempts_before_dead: u32) -> Decision<(), LeaseLost> {
    if !hold(tx, leased)? {
        return refuse(LeaseLost);
    }
    // The recorded intent was not carried out: without this, the next worker would take it for a lost answer.
    if let Task::Fulfil { placement, step: Step::Place } = &leased.task {
        store_progress(tx, placement, Progress { state: PlacementState::Waiting, ..placement.progress })?;
    }
    let attempts =
        row(tx, "select attempts from jobs where id = $1", &[leased.job.as_bytes().into()], |row| number(row.int(0)?))?
            .unwrap_or(0);
    let at = retry_at(tx.now(), attempts, tx.random());
    let state = if attempts >= attempts_before_dead { JobState::Dead } else { JobState::Ready };
    reschedule(tx, leased.job, state, at, Some(reason))?;
    Ok(())
}

/// Gives a job to the operator: its step cannot be recorded, and trying again would not help.
///
/// # Errors
/// [`LeaseLost`].
pub fn give_up(tx: &mut dyn Tx, leased: &Leased, reason: &str) -> Decision<(), LeaseLost> {
    if !hold(tx, leased)? {
        return refuse(LeaseLost);
    }
    let now = tx.now();
    reschedule(tx, leased.job, JobState::Dead, now, Some(reason))?;
    Ok(())
}

/// Records what the upstream said to each eSIM it was asked to take back.
///
/// # Errors
/// [`LeaseLost`].
pub fn record_cancellations(
    tx: &mut dyn Tx,
    leased: &Leased,
    answers: &[(EsimId, Cancellation)],
    most_attempts: u32,
) -> Decision<(), LeaseLost> {
    // Before anything of the order is read: others give its money back, too.
    lock_existing(tx, leased.sold.tenant, leased.sold.mode)?;
    if !hold(tx, leased)? {
        return refuse(LeaseLost);
    }
    let mut later = None;
    for (esim, answer) in answers {
        // Two jobs of one order ask for the same eSIMs: what the other one settled meanwhile is settled.
        let cancelling =
            row(tx, "select 1 from esims where id = $1 and state = 'cancelling'", &[esim.as_bytes().into()], |_| {
                Ok(())
            })?;
        if cancelling.is_none() {
            continue;
        }
        match answer {
            Cancellation::Cancelled => take_back(tx, leased.order, *esim)?,
            Cancellation::Refused { reason } => keep(tx, *esim, reason)?,
            Cancellation::TryLater { reason } => later = Some(reason.clone()),
        }
    }
    settle_cancellation(tx, leased.order)?;
    match later {
        None => tx.change("delete from jobs where id = $1", &[leased.job.as_bytes().into()])?,
        Some(reason) => {
            let (now, random) = (tx.now(), tx.random());
            let attempts =
                row(tx, "select attempts from jobs where id = $1", &[leased.job.as_bytes().into()], |row| {
                    number(row.int(0)?)
                })?
                .unwrap_or(0);
            let state = if attempts >= most_attempts { JobState::Dead } else { JobState::Ready };
            reschedule(tx, leased.job, state, retry_at(now, attempts, random), Some(&reason))?;
        }
    }
    Ok(())
}

/// The upstream took an eSIM back: its price goes back to the balance, once.
fn take_back(tx: &mut dyn Tx, id: OrderId, esim: EsimId) -> Result<(), Fault> {
    let order = must_find(tx, id)?;
    let mut locked = lock_existing(tx, order.tenant, order.mode)?;
    let found = order.esims.iter().find(|found| found.id == esim);
    let given_back = found.map_or(0, |esim| esim.refunded);
    let left_of_order = order.total()?.minus(order.refunded)?;
    let left_of_esim = order.unit_price.minor() - given_back;
    let refund = Money::new(left_of_esim.min(left_of_order.minor()).max(0), order.unit_price.currency());
    tx.change(
        "update esims set state = $1, refunded = refunded + $2, cancel_failure = null
         where id = $3 and state = 'cancelling'",
        &[EsimState::Cancelled.word().into(), refund.minor().into(), esim.as_bytes().into()],
    )?;
    let entry = EntryId::new(tx.fresh_id());
    write(tx, &mut locked, entry, Movement::refund_of_delivered(id, refund))?;
    tx.store_credit(&locked)?;
    let event = timeline_entry(tx.now(), "refunded", Some(&format!("{refund} {}", refund.currency())))?;
    tx.change(
        "update orders set refunded = refunded + $1, timeline = timeline || $2 where id = $3 and refunded = $4",
        &[refund.minor().into(), (&event).into(), id.as_bytes().into(), order.refunded.minor().into()],
    )
}

fn keep(tx: &mut dyn Tx, esim: EsimId, reason: &str) -> Result<(), Fault> {
    tx.change(
        "update esims set state = $1, cancel_failure = $2 where id = $3 and state = 'cancelling'",
        &[EsimState::Delivered.word().into(), reason.into(), esim.as_bytes().into()],
    )
}

/// Keeps all eSIMs of an order that this upstream was to take back: the operator gave the job up. Others' have jobs of
/// their own, which go on.
pub(crate) fn keep_all(tx: &mut dyn Tx, job: JobId, id: OrderId, upstream: &str) -> Result<(), Fault> {
    let order = must_find(tx, id)?;
    let placements = placements(tx, id)?;
    let its = |esim: &&Esim| {
        placements.iter().any(|placement| placement.k == esim.placement && placement.provider == upstream)
    };
    for esim in order.esims.iter().filter(|esim| esim.state == EsimState::Cancelling).filter(its) {
        keep(tx, esim.id, "the operator gave up asking the upstream")?;
    }
    settle_cancellation(tx, id)?;
    tx.change("delete from jobs where id = $1", &[job.as_bytes().into()])
}

/// Brings the order's status in line with its eSIMs after a cancellation.
fn settle_cancellation(tx: &mut dyn Tx, id: OrderId) -> Result<(), Fault> {
    let order = must_find(tx, id)?;
    let status = status(order.esims.iter().map(|esim| esim.state).collect());
    if status != order.status {
        let event = timeline_entry(tx.now(), status.word(), None)?;
        tx.change(
            "update orders set status = $1, timeline = timeline || $2 where id = $3 and status = $4",
            &[status.word().into(), (&event).into(), id.as_bytes().into(), order.status.word().into()],
        )?;
    }
    tx.after_commit(Event::OrderChanged(id));
    Ok(())
}

/// Why the operator cannot decide what became of a placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolveRefusal {
    /// There is no such order.
    NotFound,
    /// None of its placements is unknown, or was accepted and then given up.
    NotUnknown,
    /// It was sold, and there is no profile to deliver.
    EsimsNeeded,
    /// More profiles than the placement asked for.
    TooManyEsims,
}

/// The operator says what became of an order's unknown placement: `Some` profiles when it was sold,
/// `None` when it was not.
///
/// # Errors
/// [`ResolveRefusal`].
pub fn resolve(
    tx: &mut dyn Tx,
    act: &Act,
    id: OrderId,
    sold: Option<&[Profile]>,
    reason: &str,
) -> Decision<(), ResolveRefusal> {
    let Some(order) = order::find(tx, id)? else { return refuse(ResolveRefusal::NotFound) };
    lock_existing(tx, order.tenant, order.mode)?;
    let job =
        row(tx, "select id, state from jobs where id = $1 and kind = 'fulfil'", &[id.as_bytes().into()], |row| {
            Ok((JobId::from_slice(row.bytes(0)?)?, row.text(1)?.parse::<JobState>()?))
        })?;
    let Some((job, job_state)) = job else { return refuse(ResolveRefusal::NotUnknown) };
    // An upstream that took the order and then fell silent for good leaves it as unknown as a lost answer does.
    let unknown = |placement: &Placement| match placement.progress.state {
        PlacementState::Unknown => true,
        PlacementState::Placing | PlacementState::Accepted => job_state == JobState::Dead,
        PlacementState::Waiting | PlacementState::Done | PlacementState::Refused | PlacementState::Abandoned => false,
    };
    let Some(placement) = placements(tx, id)?.into_iter().find(unknown) else {
        return refuse(ResolveRefusal::NotUnknown);
    };
    let (state, ruling) = match sold {
        Some([]) => return refuse(ResolveRefusal::EsimsNeeded),
        Some(profiles) if profiles.len() > usize::try_from(placement.quantity).unwrap_or(usize::MAX) => {
            return refuse(ResolveRefusal::TooManyEsims);
        }
        Some(profiles) => (PlacementState::Done, Ruling::Deliver(profiles.to_vec())),
        None => {
            let message = "the operator found that it was not sold".to_owned();
            (PlacementState::Refused, Ruling::Refuse { code: "not_sold".to_owned(), message })
        }
    };
    let progress = Progress { state, ..placement.progress };
    store_progress(tx, &placement, progress)?;
    let outcome = if sold.is_some() { "sold" } else { "not_sold" };
    note(tx, id, "resolved", Some(outcome))?;
    follow(tx, job, &placement, progress, ruling, false)?;
    audit::write(tx, act, "order.resolved", &id.to_string(), outcome, Some(reason))?;
    Ok(())
}

/// Why cancelling is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelRefusal {
    /// There is no such order in this world.
    NotFound,
    /// The tenant may not change anything.
    NotAllowed(domain::tenant::NotAllowed),
    /// These eSIMs (0-based in the request) are not the order's.
    UnknownEsims(Vec<usize>),
    /// The order is processing, or none of the eSIMs is there to be given back.
    NotCancellable,
}

/// Asks for eSIMs of an order to be taken back; all that can be when `esims` is `None`.
///
/// # Errors
/// [`CancelRefusal`].
pub fn ask_cancel(
    tx: &mut dyn Tx,
    scope: domain::tenant::Scope,
    id: OrderId,
    esims: Option<&[EsimId]>,
) -> Decision<Order, CancelRefusal> {
    let locked = lock_existing(tx, scope.tenant, scope.mode)?;
    if let Err(refusal) = locked.status.may_change() {
        return refuse(CancelRefusal::NotAllowed(refusal));
    }
    let Some(order) = order::of_tenant(tx, scope.tenant, scope.mode, id)? else {
        return refuse(CancelRefusal::NotFound);
    };
    let is_deliverable = |esim: &Esim| esim.state.after(EsimEvent::AskCancel).is_some();
    let chosen: Vec<EsimId> = match esims {
        None => order.esims.iter().filter(|esim| is_deliverable(esim)).map(|esim| esim.id).collect(),
        Some(asked) => {
            let unknown: Vec<usize> = asked
                .iter()
                .enumerate()
                .filter(|(_, id)| !order.esims.iter().any(|esim| esim.id == **id))
                .map(|(index, _)| index)
                .collect();
            if !unknown.is_empty() {
                return refuse(CancelRefusal::UnknownEsims(unknown));
            }
            let all_there = order.esims.iter().filter(|esim| asked.contains(&esim.id)).all(is_deliverable);
            if !all_there {
                return refuse(CancelRefusal::NotCancellable);
            }
            asked.to_vec()
        }
    };
    if !order.status.is_final() || chosen.is_empty() {
        return refuse(CancelRefusal::NotCancellable);
    }
    for esim in chosen.iter().collect::<BTreeSet<_>>() {
        tx.change(
            "update esims set state = $1, cancel_failure = null where id = $2 and state = 'delivered'",
            &[EsimState::Cancelling.word().into(), esim.as_bytes().into()],
        )?;
    }
    let placements = placements(tx, id)?;
    let sold_by = |esim: &Esim| placements.iter().find(|placement| placement.k == esim.placement);
    let cancelled = order.esims.iter().filter(|esim| chosen.contains(&esim.id));
    let upstreams: BTreeSet<&str> =
        cancelled.filter_map(sold_by).map(|placement| placement.provider.as_str()).collect();
    let now = tx.now();
    for upstream in upstreams {
        let job = JobId::new(tx.fresh_id());
        tx.change(
            "insert into jobs (id, kind, order_id, tenant_id, state, attempts, run_at, upstream)
             values ($1, $2, $3, $4, $5, 0, $6, $7)",
            &[
                job.as_bytes().into(),
                JobKind::Cancel.word().into(),
                id.as_bytes().into(),
                scope.tenant.as_bytes().into(),
                JobState::Ready.word().into(),
                now.into(),
                upstream.into(),
            ],
        )?;
        tx.after_commit(Event::JobReady(upstream.to_owned()));
    }
    note(tx, id, "cancel_requested", Some(&format!("{} eSIM(s)", chosen.len())))?;
    Ok(must_find(tx, id)?)
}

/// What the operator gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorRefund {
    /// The price of these eSIMs, as far as it was not given back before.
    Esims(Vec<EsimId>),
    /// This amount.
    Amount(Money),
    /// All that was not given back before.
    Rest,
}

/// Why the operator cannot give money back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefundRefusal {
    /// There is no such order.
    NotFound,
    /// It is still being fulfilled: what is not delivered is refunded by itself.
    Processing,
    /// These eSIMs (0-based in the request) are not the order's, or were not delivered.
    UnknownEsims(Vec<usize>),
    /// Nothing is left to give back.
    AlreadyRefunded,
    /// More than is left.
    TooMuch {
        /// What is left.
        left: Money,
    },
    /// The idempotency key was used with another body.
    IdempotencyKeyReused,
}

/// Gives money of a final order back by the operator's decision; the status stays. The flag says whether
/// it is the answer to an earlier request.
///
/// # Errors
/// [`RefundRefusal`].
pub fn refund_by_operator(
    tx: &mut dyn Tx,
    act: &Act,
    id: OrderId,
    what: &OperatorRefund,
    reason: &str,
    key: Option<(crate::port::KeyHash, [u8; 16])>,
) -> Decision<(Order, bool), RefundRefusal> {
    let Some(order) = order::find(tx, id)? else { return refuse(RefundRefusal::NotFound) };
    let mut locked = lock_existing(tx, order.tenant, order.mode)?;
    if let Some((key, body)) = &key
        && let Some(remembered) = tx.recall(key)?
    {
        return if remembered.body_hash == *body {
            Ok((must_find(tx, id)?, true))
        } else {
            refuse(RefundRefusal::IdempotencyKeyReused)
        };
    }
    if !order.status.is_final() {
        return refuse(RefundRefusal::Processing);
    }
    let currency = order.unit_price.currency();
    let left = order.total()?.minus(order.refunded)?;
    let mut shares: Vec<(EsimId, i64)> = Vec::new();
    let amount = match what {
        OperatorRefund::Rest => left,
        OperatorRefund::Amount(amount) => *amount,
        OperatorRefund::Esims(ids) => {
            let delivered = |id: &EsimId| order.esims.iter().find(|esim| esim.id == *id && esim.delivered_at.is_some());
            let unknown: Vec<usize> =
                ids.iter().enumerate().filter(|(_, id)| delivered(id).is_none()).map(|(index, _)| index).collect();
            if !unknown.is_empty() {
                return refuse(RefundRefusal::UnknownEsims(unknown));
            }
            for id in ids.iter().collect::<BTreeSet<_>>() {
                let share = delivered(id).map_or(0, |esim| order.unit_price.minor() - esim.refunded);
                if share > 0 {
                    shares.push((*id, share));
                }
            }
            Money::new(shares.iter().map(|(_, share)| share).sum(), currency)
        }
    };
    if left.minor() <= 0 || amount.minor() <= 0 {
        return refuse(RefundRefusal::AlreadyRefunded);
    }
    if amount.minor() > left.minor() {
        return refuse(RefundRefusal::TooMuch { left });
    }
    for (esim, share) in shares {
        tx.change("update esims set refunded = refunded + $1 where id = $2", &[share.into(), esim.as_bytes().into()])?;
    }
    let entry = EntryId::new(tx.fresh_id());
    let entry = write(tx, &mut locked, entry, Movement::refund_of_delivered(id, amount))?;
    ledger::write_note(tx, &entry, reason)?;
    tx.store_credit(&locked)?;
    if let Some((key, body_hash)) = key {
        tx.remember(key, crate::port::Remembered { body_hash, result: entry.id.uuid(), count: 1 })?;
    }
    let event = timeline_entry(tx.now(), "refunded", Some(&format!("{amount} {currency} by the operator")))?;
    tx.change(
        "update orders set refunded = refunded + $1, timeline = timeline || $2 where id = $3 and refunded = $4",
        &[amount.minor().into(), (&event).into(), id.as_bytes().into(), order.refunded.minor().into()],
    )?;
    audit::write(tx, act, "order.refunded", &id.to_string(), &format!("{amount} {currency}"), Some(reason))?;
    tx.after_commit(Event::OrderChanged(id));
    Ok((must_find(tx, id)?, false))
}

const PLACEMENT: &str = "order_id, k, provider, upstream_plan_id, quantity, state, unknown_since, not_found, \
     cannot_tell, failures, answers, upstream_order, cost_units, cost_decimals, cost_currency, cost, \
     (select currency from orders where id = order_id) from placements";

fn unit_cost(row: &dyn Row) -> Result<Option<UnitCost>, Fault> {
    let (Some(units), Some(decimals)) = (row.opt_int(12)?, row.opt_int(13)?) else { return Ok(None) };
    let (Some(asked_in), Some(converted), Some(currency)) = (row.opt_text(14)?, row.opt_int(15)?, row.opt_text(16)?)
    else {
        return Ok(None);
    };
    Ok(Some(UnitCost {
        asked: Cost { units, decimals: number(decimals)?, currency: asked_in.to_owned() },
        converted: Money::new(converted, currency.parse()?),
    }))
}

fn placement(row: &dyn Row) -> Result<Placement, Fault> {
    Ok(Placement {
        order: OrderId::from_slice(row.bytes(0)?)?,
        k: number(row.int(1)?)?,
        provider: row.text(2)?.to_owned(),
        upstream_plan_id: row.text(3)?.to_owned(),
        quantity: number(row.int(4)?)?,
        cost: unit_cost(row)?,
        progress: Progress {
            state: row.text(5)?.parse()?,
            unknown_since: row.opt_int(6)?.map(Timestamp::from_millis),
            not_found: number(row.int(7)?)?,
            cannot_tell: number(row.int(8)?)?,
            failures: number(row.int(9)?)?,
        },
        answers: row.text(10)?.lines().map(str::to_owned).collect(),
        upstream_order: row.opt_text(11)?.map(str::to_owned),
    })
}

/// The placements of an order, in order of their numbers.
///
/// # Errors
/// [`Fault`].
pub fn placements(snapshot: &mut dyn Snapshot, order: OrderId) -> Result<Vec<Placement>, Fault> {
    let sql = format!("select {PLACEMENT} where order_id = $1 order by k");
    collect(snapshot, &sql, &[order.as_bytes().into()], placement)
}

/// Whether nothing of an order moves any more: it is final, and no eSIM is being taken back.
#[must_use]
pub fn is_settled(order: &Order) -> bool {
    order.status != OrderStatus::Processing && order.esims.iter().all(|esim| esim.state != EsimState::Cancelling)
}
