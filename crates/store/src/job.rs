//! Jobs as the operator and the workers see them.

use crate::audit::{self, Act};
use crate::fulfilment::placements;
use crate::port::{Decision, Event, Fault, Row, Snapshot, Tx, collect, refuse, row};
use domain::catalogue::CONNECTIONS;
use domain::fulfilment::{PlacementState, Progress};
use domain::id::{JobId, OrderId, TenantId};
use domain::job::{JobKind, JobState};
use domain::time::Timestamp;
use std::convert::Infallible;

/// A job that is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Its order.
    pub order: OrderId,
    /// The order's tenant.
    pub tenant: TenantId,
    /// The upstream in whose lane it stands; empty until it is routed.
    pub upstream: String,
    /// Where it is.
    pub state: JobState,
    /// How often it was taken up.
    pub attempts: i64,
    /// When it is due, when its lease ends, or when it died.
    pub run_at: Timestamp,
    /// Why it waits or died.
    pub reason: Option<String>,
}

const JOB: &str = "id, kind, order_id, tenant_id, state, attempts, run_at, reason, upstream from jobs";

fn job(row: &dyn Row) -> Result<Job, Fault> {
    Ok(Job {
        id: JobId::from_slice(row.bytes(0)?)?,
        kind: row.text(1)?.parse()?,
        order: OrderId::from_slice(row.bytes(2)?)?,
        tenant: TenantId::from_slice(row.bytes(3)?)?,
        state: row.text(4)?.parse()?,
        attempts: row.int(5)?,
        run_at: Timestamp::from_millis(row.int(6)?),
        reason: row.opt_text(7)?.map(str::to_owned),
        upstream: row.text(8)?.to_owned(),
    })
}

/// The lane of a job that has not to be routed any more is called as its upstream.
pub const TO_BE_ROUTED: &str = "";

/// The lane in which the job of an order for a provider's plan begins.
#[must_use]
pub fn lane_of(provider: &str) -> &str {
    if provider == CONNECTIONS { TO_BE_ROUTED } else { provider }
}

/// Jobs below `cursor`, newest first, in one state or all.
///
/// # Errors
/// [`Fault`].
pub fn list(
    snapshot: &mut dyn Snapshot,
    state: Option<JobState>,
    cursor: Option<JobId>,
    limit: u32,
) -> Result<Vec<Job>, Fault> {
    let below = cursor.map_or_else(uuid::Uuid::max, JobId::uuid);
    match state {
        Some(JobState::Dead) => {
            let sql = format!("select {JOB} where id < $1 and state = 'dead' order by id desc limit $2");
            collect(snapshot, &sql, &[below.as_bytes().into(), limit.into()], job)
        }
        _ => {
            let sql = format!("select {JOB} where id < $1 and (state = $2 or $2 is null) order by id desc limit $3");
            let state = state.map(JobState::word);
            collect(snapshot, &sql, &[below.as_bytes().into(), state.into(), limit.into()], job)
        }
    }
}

/// When the next job of a lane is due or its lease ends; `None` while there is none.
///
/// # Errors
/// [`Fault`].
pub fn next_due(snapshot: &mut dyn Snapshot, upstream: &str) -> Result<Option<Timestamp>, Fault> {
    let sql = "select min(run_at) from jobs where upstream = $1 and state <> 'dead'";
    let due = row(snapshot, sql, &[upstream.into()], |row| row.opt_int(0))?;
    Ok(due.flatten().map(Timestamp::from_millis))
}

/// How many jobs are waiting or being worked on, and how many are dead.
///
/// # Errors
/// [`Fault`].
pub fn counts(snapshot: &mut dyn Snapshot) -> Result<(i64, i64), Fault> {
    let open = row(snapshot, "select count(*) from jobs where state <> 'dead'", &[], |row| row.int(0))?;
    let dead = row(snapshot, "select count(*) from jobs where state = 'dead'", &[], |row| row.int(0))?;
    Ok((open.unwrap_or(0), dead.unwrap_or(0)))
}

/// Whether nobody works on a job, and none is due at `now`.
///
/// # Errors
/// [`Fault`].
pub fn is_quiet(snapshot: &mut dyn Snapshot, now: Timestamp) -> Result<bool, Fault> {
    let busy = "select 1 from jobs where state = 'leased' or (state = 'ready' and run_at <= $1) limit 1";
    Ok(row(snapshot, busy, &[now.into()], |_| Ok(()))?.is_none())
}

/// Voids all leases: whoever held them is gone. Only for a database of one process, at its start.
///
/// # Errors
/// [`Fault`].
pub fn void_leases(tx: &mut dyn Tx) -> Decision<usize, Infallible> {
    let now = tx.now();
    Ok(tx.execute("update jobs set state = 'ready', run_at = $1 where state = 'leased'", &[now.into()])?)
}

/// Why a decision about a job is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobRefusal {
    /// There is no such job.
    NotFound,
    /// It is not dead.
    NotDead,
    /// Whether its placement was sold is unknown: that must be resolved, not abandoned.
    OutcomeUnknown,
}

fn find(snapshot: &mut dyn Snapshot, id: JobId) -> Result<Option<Job>, Fault> {
    row(snapshot, &format!("select {JOB} where id = $1"), &[id.as_bytes().into()], job)
}

/// Brings a dead job back to work, with its patience as new.
///
/// # Errors
/// [`JobRefusal`].
pub fn retry(tx: &mut dyn Tx, act: &Act, id: JobId) -> Decision<Job, JobRefusal> {
    let Some(job) = find(tx, id)? else { return refuse(JobRefusal::NotFound) };
    if job.state != JobState::Dead {
        return refuse(JobRefusal::NotDead);
    }
    let now = tx.now();
    tx.change(
        "update jobs set state = $1, run_at = $2, attempts = 0, reason = null where id = $3 and state = 'dead'",
        &[JobState::Ready.word().into(), now.into(), id.as_bytes().into()],
    )?;
    tx.execute(
        "update placements set failures = 0, cannot_tell = 0, not_found = 0 where order_id = $1",
        &[job.order.as_bytes().into()],
    )?;
    audit::write(tx, act, "job.retried", &id.to_string(), &format!("order {}", job.order), None)?;
    tx.after_commit(Event::JobReady(job.upstream.clone()));
    Ok(Job { state: JobState::Ready, run_at: now, attempts: 0, reason: None, ..job })
}

/// The dead job of an order.
///
/// # Errors
/// [`Fault`].
pub fn dead_of_order(snapshot: &mut dyn Snapshot, order: OrderId) -> Result<Option<Job>, Fault> {
    let sql = format!("select {JOB} where state = 'dead' and order_id = $1");
    row(snapshot, &sql, &[order.as_bytes().into()], job)
}

/// Gives a dead job up: what was surely not sold is refunded, and eSIMs that were to be taken back stay.
///
/// # Errors
/// [`JobRefusal`].
pub fn abandon(tx: &mut dyn Tx, act: &Act, id: JobId) -> Decision<Job, JobRefusal> {
    let Some(job) = find(tx, id)? else { return refuse(JobRefusal::NotFound) };
    if job.state != JobState::Dead {
        return refuse(JobRefusal::NotDead);
    }
    // Nobody brings it back to work meanwhile.
    if tx.execute("update jobs set state = 'dead' where id = $1 and state = 'dead'", &[id.as_bytes().into()])? != 1 {
        return refuse(JobRefusal::NotDead);
    }
    match job.kind {
        JobKind::Fulfil => {
            let open: Vec<_> = placements(tx, job.order)?
                .into_iter()
                .filter(|placement| !placement.progress.state.is_final())
                .collect();
            let unsold = |state| state == PlacementState::Waiting;
            if !open.iter().all(|placement| unsold(placement.progress.state)) {
                return refuse(JobRefusal::OutcomeUnknown);
            }
            for placement in &open {
                let progress = Progress { state: PlacementState::Refused, ..placement.progress };
                crate::fulfilment::store_progress(tx, placement, progress)?;
            }
            crate::fulfilment::finish_or_go_on(
                tx,
                id,
                job.order,
                Some("abandoned: given up by the operator".to_owned()),
            )?;
        }
        JobKind::Cancel => crate::fulfilment::keep_all(tx, id, job.order, &job.upstream)?,
    }
    audit::write(tx, act, "job.abandoned", &id.to_string(), &format!("order {}", job.order), None)?;
    Ok(job)
}
