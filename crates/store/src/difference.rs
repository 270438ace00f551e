//! Differences: where our books and an upstream's view of a purchase do not agree, until the operator has settled it.

use crate::audit::{self, Act};
use crate::esim;
use crate::fulfilment::{Placement, placements};
use crate::port::{Decision, Fault, Lock, Row, Snapshot, Tx, collect, refuse, row};
use domain::esim::EsimState;
use domain::id::{ConnectionId, DifferenceId, OrderId, first_at};
use domain::reconciliation::{DifferenceKind, Ours};
use domain::time::Timestamp;
use std::convert::Infallible;

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its id, and by it the time it was found.
    pub id: DifferenceId,
    /// The connection.
    pub connection: String,
    /// What differs.
    pub kind: DifferenceKind,
    /// Our reference of the purchase.
    pub reference: String,
    /// The upstream's own number of the order, once it gave one.
    pub upstream_order: Option<String>,
    /// What was seen.
    pub detail: String,
    /// When the operator settled it.
    pub settled_at: Option<Timestamp>,
}

/// Takes on the comparison of a connection's books, unless somebody did since `before`. Returns whether it is ours.
///
/// # Errors
/// [`Fault`].
pub fn take_on(tx: &mut dyn Tx, connection: ConnectionId, before: Timestamp) -> Decision<bool, Infallible> {
    let now = tx.now();
    let taken = tx.execute(
        "update connections set reconciled_at = $1 where id = $2 and (reconciled_at is null or reconciled_at <= $3)",
        &[now.into(), connection.as_bytes().into(), before.into()],
    )?;
    Ok(taken == 1)
}

/// When a connection's books were last compared.
///
/// # Errors
/// [`Fault`].
pub fn reconciled_at(snapshot: &mut dyn Snapshot, connection: ConnectionId) -> Result<Option<Timestamp>, Fault> {
    let sql = "select reconciled_at from connections where id = $1";
    let at = row(snapshot, sql, &[connection.as_bytes().into()], |row| row.opt_int(0))?;
    Ok(at.flatten().map(Timestamp::from_millis))
}

/// A placement that is over, with what was delivered of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToCompare {
    /// The placement.
    pub placement: Placement,
    /// What we delivered.
    pub ours: Vec<Ours>,
}

/// Placements with a connection that are over, of orders paid in a span of time, behind an order and a number: at most
/// `limit`, oldest first.
///
/// # Errors
/// [`Fault`].
pub fn to_compare(
    snapshot: &mut dyn Snapshot,
    connection: &str,
    (from, to): (Timestamp, Timestamp),
    behind: Option<(OrderId, u32)>,
    limit: u32,
) -> Result<Vec<ToCompare>, Fault> {
    let (first, end) = (first_at(from), first_at(to));
    let (order, k) = behind.map_or((first, 0), |(order, k)| (order.uuid(), k));
    let found = collect(
        snapshot,
        "select order_id, k from placements where order_id >= $1 and (order_id > $2 or k > $3) and order_id < $4
             and provider = $5 and state in ('done', 'refused', 'abandoned') order by order_id, k limit $6",
        &[
            order.as_bytes().into(),
            order.as_bytes().into(),
            k.into(),
            end.as_bytes().into(),
            connection.into(),
            limit.into(),
        ],
        |row| Ok((OrderId::from_slice(row.bytes(0)?)?, row.int(1)?)),
    )?;
    let mut list = Vec::with_capacity(found.len());
    for (order, k) in found {
        let placement = placements(snapshot, order)?.into_iter().find(|placement| i64::from(placement.k) == k);
        let Some(placement) = placement else { continue };
        let ours = esim::of_order(snapshot, order)?
            .into_iter()
            .filter(|esim| esim.placement == placement.k && esim.delivered_at.is_some())
            .map(|esim| Ours {
                given_back: matches!(esim.state, EsimState::Cancelled | EsimState::Cancelling),
                iccid: esim.iccid.unwrap_or_default(),
            })
            .collect();
        list.push(ToCompare { placement, ours });
    }
    Ok(list)
}

/// Writes a difference down, once. Returns whether it was new.
///
/// # Errors
/// [`Fault`].
pub fn record(
    tx: &mut dyn Tx,
    connection: &str,
    placement: &Placement,
    kind: DifferenceKind,
    detail: &str,
) -> Decision<bool, Infallible> {
    let id = DifferenceId::new(tx.fresh_id());
    let recorded = tx.execute(
        "insert into differences (id, connection, kind, reference, upstream_order, detail)
         values ($1, $2, $3, $4, $5, $6) on conflict (connection, kind, reference) do nothing",
        &[
            id.as_bytes().into(),
            connection.into(),
            kind.word().into(),
            (&placement.reference()).into(),
            placement.upstream_order.as_deref().into(),
            detail.into(),
        ],
    )?;
    Ok(recorded == 1)
}

/// Why a difference is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettleRefusal {
    /// There is no such difference.
    NotFound,
    /// It was settled before.
    AlreadyDecided,
}

/// The operator has settled a difference with the upstream, or found that there is none.
///
/// # Errors
/// [`SettleRefusal`].
pub fn settle(tx: &mut dyn Tx, act: &Act, id: DifferenceId, reason: &str) -> Decision<Difference, SettleRefusal> {
    tx.lock(Lock::Audit)?;
    let sql = format!("select {DIFFERENCE} where id = $1");
    let Some(found) = row(tx, &sql, &[id.as_bytes().into()], difference)? else {
        return refuse(SettleRefusal::NotFound);
    };
    if found.settled_at.is_some() {
        return refuse(SettleRefusal::AlreadyDecided);
    }
    let now = tx.now();
    tx.change(
        "update differences set settled_at = $1 where id = $2 and settled_at is null",
        &[now.into(), id.as_bytes().into()],
    )?;
    let detail = format!("{} {}", found.kind, found.reference);
    audit::write(tx, act, "difference.settled", &id.to_string(), &detail, Some(reason))?;
    Ok(Difference { settled_at: Some(now), ..found })
}

const DIFFERENCE: &str = "id, connection, kind, reference, upstream_order, detail, settled_at from differences";

fn difference(row: &dyn Row) -> Result<Difference, Fault> {
    Ok(Difference {
        id: DifferenceId::from_slice(row.bytes(0)?)?,
        connection: row.text(1)?.to_owned(),
        kind: row.text(2)?.parse()?,
        reference: row.text(3)?.to_owned(),
        upstream_order: row.opt_text(4)?.map(str::to_owned),
        detail: row.text(5)?.to_owned(),
        settled_at: row.opt_int(6)?.map(Timestamp::from_millis),
    })
}

/// Differences below `cursor`, newest first; only those still open, or all.
///
/// # Errors
/// [`Fault`].
pub fn list(
    snapshot: &mut dyn Snapshot,
    open_only: bool,
    cursor: Option<DifferenceId>,
    limit: u32,
) -> Result<Vec<Difference>, Fault> {
    let below = cursor.map_or_else(uuid::Uuid::max, DifferenceId::uuid);
    let sql = format!("select {DIFFERENCE} where id < $1 and (settled_at is null or $2 = 0) order by id desc limit $3");
    collect(snapshot, &sql, &[below.as_bytes().into(), open_only.into(), limit.into()], difference)
}

/// How many differences are not settled.
///
/// # Errors
/// [`Fault`].
pub fn open(snapshot: &mut dyn Snapshot) -> Result<i64, Fault> {
    let sql = "select count(*) from differences where settled_at is null";
    Ok(row(snapshot, sql, &[], |row| row.int(0))?.unwrap_or(0))
}
