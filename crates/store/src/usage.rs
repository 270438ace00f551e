//! What upstreams say of eSIMs after the sale: kept, and what follows from it; and which eSIMs are asked for by
//! themselves, when. What an answer means is ruled in `domain::usage`.

use crate::esim::Esim;
use crate::fulfilment::{Placement, placements};
use crate::notice::Notice;
use crate::order::{Order, timeline_entry};
use crate::port::{Decision, Event, Fault, Row, Snapshot, Tx, Value, collect, row};
use domain::esim::{EsimState, EsimStatus, PlanStatus, ProfileStatus, summary};
use domain::fulfilment::Profile;
use domain::id::{EsimId, OrderId, TenantId};
use domain::order::{of_reference, placement_reference};
use domain::time::Timestamp;
use domain::usage::{Asked, LEAST_PAUSE_MS, Life, Usage, first_ask, next_ask};
use std::convert::Infallible;

/// An upstream's last answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Bytes used, as far as it was ever told.
    pub used_bytes: Option<i64>,
    /// Bytes there are in all, as far as it was ever told.
    pub total_bytes: Option<i64>,
    /// When the upstream counted.
    pub as_of: Option<Timestamp>,
    /// When the term began.
    pub activated_at: Option<Timestamp>,
    /// When the term ends.
    pub expires_at: Option<Timestamp>,
    /// Where the plan was.
    pub life: Life,
    /// When it was asked for.
    pub fetched_at: Timestamp,
    /// From when on it is asked for again.
    pub fresh_until: Timestamp,
}

fn kept(row: &dyn Row) -> Result<Kept, Fault> {
    let time = |column| row.opt_int(column).map(|time| time.map(Timestamp::from_millis));
    Ok(Kept {
        used_bytes: row.opt_int(0)?,
        total_bytes: row.opt_int(1)?,
        as_of: time(2)?,
        activated_at: time(3)?,
        expires_at: time(4)?,
        life: row.text(5)?.parse()?,
        fetched_at: Timestamp::from_millis(row.int(6)?),
        fresh_until: Timestamp::from_millis(row.int(7)?),
    })
}

/// What was last heard of an eSIM.
///
/// # Errors
/// [`Fault`].
pub fn find(snapshot: &mut dyn Snapshot, esim: EsimId) -> Result<Option<Kept>, Fault> {
    row(
        snapshot,
        "select used_bytes, total_bytes, as_of, activated_at, expires_at, life, fetched_at, fresh_until
         from esim_usage where esim_id = $1",
        &[esim.as_bytes().into()],
        kept,
    )
}

/// An eSIM as its upstream is asked about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToAsk {
    /// The eSIM.
    pub esim: EsimId,
    /// The upstream that sold it.
    pub upstream: String,
    /// The reference it was bought under.
    pub reference: String,
    /// The upstream's own number of the order, once it gave one.
    pub upstream_order: Option<String>,
    /// Its ICCID.
    pub iccid: String,
    /// The upstream's own name of the eSIM.
    pub handle: Option<String>,
}

/// How the upstream of an order's eSIM is asked about it; `None` for one that is not there (any more).
///
/// # Errors
/// [`Fault`].
pub fn to_ask(snapshot: &mut dyn Snapshot, order: &Order, esim: &Esim) -> Result<Option<ToAsk>, Fault> {
    if !is_there(esim.state) {
        return Ok(None);
    }
    let Some(iccid) = esim.iccid.clone() else { return Ok(None) };
    let sold = placements(snapshot, order.id)?.into_iter().find(|placement| placement.k == esim.placement);
    Ok(sold.map(|placement| ToAsk {
        esim: esim.id,
        reference: placement.reference(),
        upstream: placement.provider,
        upstream_order: placement.upstream_order,
        iccid,
        handle: esim.upstream_handle.clone(),
    }))
}

const fn is_there(state: EsimState) -> bool {
    matches!(state, EsimState::Delivered | EsimState::Cancelling)
}

/// From here on a delivered eSIM is asked for by itself.
pub(crate) fn watch(
    tx: &mut dyn Tx,
    esim: EsimId,
    tenant: TenantId,
    placement: &Placement,
    profile: &Profile,
) -> Result<(), Fault> {
    let now = tx.now();
    let first = first_ask(now, tx.random());
    tx.change(
        "insert into esim_watches (esim_id, tenant_id, upstream, placement, upstream_order, handle, iccid, next_ask_at, since)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        &[
            esim.as_bytes().into(),
            tenant.as_bytes().into(),
            (&placement.provider).into(),
            placement.k.into(),
            placement.upstream_order.as_ref().into(),
            profile.handle.as_ref().into(),
            (&profile.iccid).into(),
            first.into(),
            now.into(),
        ],
    )
}

fn forget(tx: &mut dyn Tx, esim: EsimId) -> Result<(), Fault> {
    tx.execute("delete from esim_watches where esim_id = $1", &[esim.as_bytes().into()]).map(drop)
}

/// When the next eSIM of an upstream is to be asked for; `None` while there is none.
///
/// # Errors
/// [`Fault`].
pub fn next_due(snapshot: &mut dyn Snapshot, upstream: &str) -> Result<Option<Timestamp>, Fault> {
    let sql = "select min(next_ask_at) from esim_watches where upstream = $1";
    let due = row(snapshot, sql, &[upstream.into()], |row| row.opt_int(0))?;
    Ok(due.flatten().map(Timestamp::from_millis))
}

const DUE: &str = "select w.esim_id, w.placement, w.upstream_order, w.handle, w.iccid, e.state \
     from esim_watches w join esims e on e.id = w.esim_id \
     where w.upstream = $1 and w.next_ask_at <= $2 order by w.next_ask_at, w.esim_id limit $3";

/// Takes up to `limit` eSIMs of an upstream that are due, and leaves them to nobody else for `lease_ms` milliseconds.
/// Returns how many were due, and those that are to be asked for.
///
/// # Errors
/// [`Fault`].
pub fn claim_due(
    tx: &mut dyn Tx,
    upstream: &str,
    limit: u32,
    lease_ms: i64,
) -> Decision<(usize, Vec<ToAsk>), Infallible> {
    let now = tx.now();
    let sql = format!("{DUE}{}", tx.locking_free_rows_of("w"));
    let due = collect(tx, &sql, &[upstream.into(), now.into(), limit.into()], |row| {
        let esim = EsimId::from_slice(row.bytes(0)?)?;
        let k = u32::try_from(row.int(1)?).map_err(|_| Fault::Bug("placement out of range".to_owned()))?;
        let to_ask = ToAsk {
            esim,
            upstream: upstream.to_owned(),
            reference: placement_reference(esim.order(), k),
            upstream_order: row.opt_text(2)?.map(str::to_owned),
            handle: row.opt_text(3)?.map(str::to_owned),
            iccid: row.text(4)?.to_owned(),
        };
        Ok((to_ask, row.text(5)?.parse::<EsimState>()?))
    })?;
    let (count, ends) = (due.len(), now.plus_millis(lease_ms));
    let mut claimed = Vec::with_capacity(count);
    for (to_ask, state) in due {
        if is_there(state) {
            put_off(tx, to_ask.esim, ends)?;
            claimed.push(to_ask);
        } else {
            forget(tx, to_ask.esim)?;
        }
    }
    Ok((count, claimed))
}

fn put_off(tx: &mut dyn Tx, esim: EsimId, until: Timestamp) -> Result<(), Fault> {
    let values = [until.into(), esim.as_bytes().into()];
    tx.execute("update esim_watches set next_ask_at = $1 where esim_id = $2", &values).map(drop)
}

/// Puts eSIMs off whose upstream is not to be called at the moment.
///
/// # Errors
/// [`Fault`].
pub fn put_all_off(tx: &mut dyn Tx, esims: &[EsimId], until: Timestamp) -> Decision<(), Infallible> {
    for esim in esims {
        put_off(tx, *esim, until)?;
    }
    Ok(())
}

/// Where an eSIM is.
struct Place {
    state: EsimState,
    profile: ProfileStatus,
    plan: PlanStatus,
    delivered_at: Timestamp,
    /// When it came to be what it is; `None` for one that is not asked for by itself.
    since: Option<Timestamp>,
}

impl Place {
    fn status(&self) -> EsimStatus {
        summary(self.state, self.profile, self.plan)
    }
}

fn place(snapshot: &mut dyn Snapshot, esim: EsimId) -> Result<Option<Place>, Fault> {
    row(
        snapshot,
        "select e.state, e.profile_status, e.plan_status, e.delivered_at, w.since
         from esims e left join esim_watches w on w.esim_id = e.id where e.id = $1",
        &[esim.as_bytes().into()],
        |row| {
            Ok(Place {
                state: row.text(0)?.parse()?,
                profile: row.text(1)?.parse()?,
                plan: row.text(2)?.parse()?,
                delivered_at: row.opt_int(3)?.map_or(esim.created_at(), Timestamp::from_millis),
                since: row.opt_int(4)?.map(Timestamp::from_millis),
            })
        },
    )
}

/// When one that is asked for by itself is asked again, or never.
fn schedule(tx: &mut dyn Tx, esim: EsimId, asked: Asked) -> Result<(), Fault> {
    match next_ask(tx.now(), asked, tx.random()) {
        None => forget(tx, esim),
        Some(next) => {
            let values = [next.into(), asked.since.into(), esim.as_bytes().into()];
            tx.execute("update esim_watches set next_ask_at = $1, since = $2 where esim_id = $3", &values).map(drop)
        }
    }
}

/// Keeps what an upstream said of an eSIM, and moves the eSIM on as far as that goes. An eSIM that was given up meanwhile
/// stays as it is.
///
/// # Errors
/// [`Fault`].
pub fn record(tx: &mut dyn Tx, esim: EsimId, usage: &Usage) -> Decision<(), Infallible> {
    let Some(before) = place(tx, esim)?.filter(|place| is_there(place.state)) else {
        forget(tx, esim)?;
        return Ok(());
    };
    let (profile, plan) = usage.moves(before.profile, before.plan);
    let mut after = Place { profile, plan, ..before };
    let has_moved = (profile, plan) != (before.profile, before.plan);
    if has_moved && advance(tx, esim, &before, (profile, plan))? {
        let reached = summary(EsimState::Delivered, profile, plan);
        if reached != summary(EsimState::Delivered, before.profile, before.plan) {
            tell(tx, esim, reached)?;
            let now = tx.now();
            after.since = after.since.map(|_| now);
        }
    }
    keep(tx, esim, usage)?;
    if let Some(since) = after.since {
        let (status, delivered_at) = (after.status(), after.delivered_at);
        let Usage { fresh_for_ms, expires_at, .. } = *usage;
        schedule(tx, esim, Asked { status, delivered_at, since, fresh_for_ms, expires_at })?;
    }
    Ok(())
}

/// Moves an eSIM's profile and plan on. Returns whether nobody else did meanwhile.
fn advance(
    tx: &mut dyn Tx,
    esim: EsimId,
    before: &Place,
    (profile, plan): (ProfileStatus, PlanStatus),
) -> Result<bool, Fault> {
    let changed = tx.execute(
        "update esims set profile_status = $1, plan_status = $2
         where id = $3 and profile_status = $4 and plan_status = $5 and state in ('delivered', 'cancelling')",
        &[
            profile.word().into(),
            plan.word().into(),
            esim.as_bytes().into(),
            before.profile.word().into(),
            before.plan.word().into(),
        ],
    )?;
    Ok(changed == 1)
}

/// Tells in the order's timeline what became of one of its eSIMs.
fn tell(tx: &mut dyn Tx, esim: EsimId, reached: EsimStatus) -> Result<(), Fault> {
    let order = esim.order();
    let entry = timeline_entry(tx.now(), reached.word(), Some(&esim.to_string()))?;
    tx.execute(
        "update orders set timeline = timeline || $1 where id = $2",
        &[(&entry).into(), order.as_bytes().into()],
    )?;
    tx.after_commit(Event::OrderChanged(order));
    Ok(())
}

/// What an answer leaves out stays as it was told before.
fn keep(tx: &mut dyn Tx, esim: EsimId, usage: &Usage) -> Result<(), Fault> {
    let now = tx.now();
    tx.execute(
        "insert into esim_usage (esim_id, tenant_id, used_bytes, total_bytes, as_of, activated_at, expires_at, life,
             fetched_at, fresh_until)
         select id, tenant_id, $1, $2, $3, $4, $5, $6, $7, $8 from esims where id = $9
         on conflict (esim_id) do update set used_bytes = coalesce(excluded.used_bytes, esim_usage.used_bytes),
             total_bytes = coalesce(excluded.total_bytes, esim_usage.total_bytes), as_of = excluded.as_of,
             activated_at = coalesce(excluded.activated_at, esim_usage.activated_at),
             expires_at = coalesce(excluded.expires_at, esim_usage.expires_at), life = excluded.life,
             fetched_at = excluded.fetched_at, fresh_until = excluded.fresh_until",
        &[
            usage.used_bytes.into(),
            usage.total_bytes.into(),
            usage.as_of.into(),
            usage.activated_at.into(),
            usage.expires_at.into(),
            usage.life.word().into(),
            now.into(),
            usage.fresh_until(now).into(),
            esim.as_bytes().into(),
        ],
    )?;
    Ok(())
}

/// An upstream was asked and did not tell: it is asked again as if nothing had changed.
///
/// # Errors
/// [`Fault`].
pub fn not_told(tx: &mut dyn Tx, esim: EsimId) -> Decision<(), Infallible> {
    let Some(place) = place(tx, esim)? else { return Ok(()) };
    if let Some(since) = place.since {
        let (status, delivered_at) = (place.status(), place.delivered_at);
        schedule(tx, esim, Asked { status, delivered_at, since, fresh_for_ms: 0, expires_at: None })?;
    }
    Ok(())
}

/// The most eSIMs that one notice brings forward: those of a large order.
const MOST_HASTENED: u32 = 100;

/// Brings forward when the eSIMs are asked for that a notice is about. A notice is never believed, and many do not make
/// their upstream be asked more often than once in a while.
pub(crate) fn hasten(tx: &mut dyn Tx, notice: &Notice) -> Result<(), Fault> {
    let now = tx.now();
    let esims = named(tx, notice)?;
    for esim in &esims {
        let asked_at =
            row(tx, "select fetched_at from esim_usage where esim_id = $1", &[esim.as_bytes().into()], |row| {
                row.int(0)
            })?;
        let earliest = asked_at.map_or(now, |at| now.max(Timestamp::from_millis(at).plus_millis(LEAST_PAUSE_MS)));
        let values = [earliest.into(), esim.as_bytes().into()];
        tx.execute("update esim_watches set next_ask_at = $1 where esim_id = $2 and next_ask_at > $1", &values)?;
        tx.execute("update esim_usage set fresh_until = $1 where esim_id = $2 and fresh_until > $1", &values)?;
    }
    if !esims.is_empty() {
        tx.after_commit(Event::EsimsDue(notice.connection.clone()));
    }
    Ok(())
}

/// The eSIMs a notice names within its own connection. An ICCID may be used again, so where the upstream's own name of
/// the eSIM is told, too, that must be the same.
fn named(tx: &mut dyn Tx, notice: &Notice) -> Result<Vec<EsimId>, Fault> {
    let handle: Value<'_> = notice.handle.as_deref().into();
    let most: Value<'_> = MOST_HASTENED.into();
    let connection: Value<'_> = (&notice.connection).into();
    let id = |row: &dyn Row| Ok(EsimId::from_slice(row.bytes(0)?)?);
    if let Some((order, _)) = notice.reference.as_deref().and_then(of_reference) {
        return of_order(tx, connection, order);
    }
    if let Some(iccid) = &notice.iccid {
        return collect(
            tx,
            "select esim_id from esim_watches where upstream = $1 and iccid = $2
                 and (handle = $3 or handle is null or $3 is null) order by esim_id desc limit $4",
            &[connection, iccid.into(), handle, most],
            id,
        );
    }
    let Some(upstream_order) = &notice.upstream_order else { return Ok(Vec::new()) };
    collect(
        tx,
        "select esim_id from esim_watches where upstream = $1 and upstream_order = $2
             and (handle = $3 or handle is null or $3 is null) order by esim_id desc limit $4",
        &[connection, upstream_order.into(), handle, most],
        id,
    )
}

fn of_order(tx: &mut dyn Tx, connection: Value<'_>, order: OrderId) -> Result<Vec<EsimId>, Fault> {
    let (above, last) = (order, order.last_esim());
    collect(
        tx,
        "select esim_id from esim_watches where esim_id > $1 and esim_id <= $2 and upstream = $3",
        &[above.as_bytes().into(), last.as_bytes().into(), connection],
        |row| Ok(EsimId::from_slice(row.bytes(0)?)?),
    )
}
