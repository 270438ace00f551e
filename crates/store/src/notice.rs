//! Notices: what upstreams told by themselves. Kept before they are answered, never believed: what one names is
//! only asked for again, and sooner.

use crate::port::{Decision, Event, Fault, Row, Snapshot, Tx, collect, row};
use crate::usage;
use domain::id::{NoticeId, OrderId};
use domain::order::of_reference;
use std::convert::Infallible;

/// A notice as its adapter read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The connection it came in at.
    pub connection: String,
    /// What two deliveries of the same notice have in common.
    pub key: String,
    /// The upstream's word for what happened.
    pub event: String,
    /// The upstream's own number of the order.
    pub upstream_order: Option<String>,
    /// Our reference.
    pub reference: Option<String>,
    /// The upstream's own name of the eSIM.
    pub handle: Option<String>,
    /// ICCID.
    pub iccid: Option<String>,
    /// The body, without what installs an eSIM.
    pub body: String,
}

/// Keeps a notice, once, and brings the job of the order it names forward, and the questions about its eSIMs. Returns whether it was new.
///
/// # Errors
/// [`Fault`].
pub fn keep(tx: &mut dyn Tx, notice: &Notice) -> Decision<bool, Infallible> {
    let id = NoticeId::new(tx.fresh_id());
    let kept = tx.execute(
        "insert into notices (id, connection, notice_key, event, upstream_order, reference, handle, iccid, body)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict (connection, notice_key) do nothing",
        &[
            id.as_bytes().into(),
            (&notice.connection).into(),
            (&notice.key).into(),
            (&notice.event).into(),
            notice.upstream_order.as_deref().into(),
            notice.reference.as_deref().into(),
            notice.handle.as_deref().into(),
            notice.iccid.as_deref().into(),
            (&notice.body).into(),
        ],
    )?;
    if kept == 0 {
        return Ok(false);
    }
    if let Some(order) = order_under_way(tx, notice)? {
        hasten(tx, order)?;
    }
    usage::hasten(tx, notice)?;
    Ok(true)
}

/// The order a notice is about, if it is still being fulfilled. By the upstream's number it is looked for among those
/// under way only.
fn order_under_way(tx: &mut dyn Tx, notice: &Notice) -> Result<Option<OrderId>, Fault> {
    if let Some((order, _)) = notice.reference.as_deref().and_then(of_reference) {
        return Ok(Some(order));
    }
    let Some(upstream_order) = &notice.upstream_order else { return Ok(None) };
    row(
        tx,
        "select p.order_id from jobs j join placements p on p.order_id = j.order_id
         where p.provider = $1 and p.upstream_order = $2 limit 1",
        &[(&notice.connection).into(), upstream_order.into()],
        |row| Ok(OrderId::from_slice(row.bytes(0)?)?),
    )
}

/// Only a job that waits is brought forward: one that is being worked on asks the upstream at this moment, and one that
/// waits for the operator is not a matter of time.
fn hasten(tx: &mut dyn Tx, order: OrderId) -> Result<(), Fault> {
    // The job that fulfils an order has the order's id.
    let now = tx.now();
    let waiting = "select upstream from jobs where id = $1 and state = 'ready' and run_at > $2";
    let lane = row(tx, waiting, &[order.as_bytes().into(), now.into()], |row| Ok(row.text(0)?.to_owned()))?;
    if let Some(lane) = lane {
        // Somebody may have taken it up in between, and then asks by himself.
        tx.execute(
            "update jobs set run_at = $1 where id = $2 and state = 'ready'",
            &[now.into(), order.as_bytes().into()],
        )?;
        tx.after_commit(Event::JobReady(lane));
    }
    Ok(())
}

/// A kept notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its id, and by it the time it came.
    pub id: NoticeId,
    /// What it said.
    pub notice: Notice,
}

fn kept(row: &dyn Row) -> Result<Kept, Fault> {
    let text = |column| row.opt_text(column).map(|text| text.map(str::to_owned));
    Ok(Kept {
        id: NoticeId::from_slice(row.bytes(0)?)?,
        notice: Notice {
            connection: row.text(1)?.to_owned(),
            key: row.text(2)?.to_owned(),
            event: row.text(3)?.to_owned(),
            upstream_order: text(4)?,
            reference: text(5)?,
            handle: text(6)?,
            iccid: text(7)?,
            body: row.text(8)?.to_owned(),
        },
    })
}

/// The notices before `cursor`, newest first.
///
/// # Errors
/// [`Fault`].
pub fn list(snapshot: &mut dyn Snapshot, cursor: Option<NoticeId>, limit: u32) -> Result<Vec<Kept>, Fault> {
    let below = cursor.map_or_else(uuid::Uuid::max, NoticeId::uuid);
    collect(
        snapshot,
        "select id, connection, notice_key, event, upstream_order, reference, handle, iccid, body from notices
         where id < $1 order by id desc limit $2",
        &[below.as_bytes().into(), limit.into()],
        kept,
    )
}
