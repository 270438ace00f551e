//! Orders and their eSIMs, as they are read.

use crate::esim::{self, Esim};
use crate::index::{Candidates, Key, Kind, List, Range, TailEntry, by_prefix, early};
use crate::ledger::World;
use crate::port::{Fault, Row, Snapshot, collect, row};
use domain::id::{CheckoutId, EsimId, OrderId, PlanId, TenantId};
use domain::money::{Currency, Money};
use domain::order::{OrderFilter, OrderStatus};
use domain::tenant::Mode;
use domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// Something that happened to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEvent {
    /// When, in Unix milliseconds.
    pub at: i64,
    /// One stable word.
    pub event: String,
    /// Words for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Everything about the traveller, and the partner's free text: the erasable part of an order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traveller {
    /// E-mail address.
    pub email: Option<String>,
    /// Name.
    pub customer_name: Option<String>,
    /// Telephone number.
    pub phone: Option<String>,
    /// The partner's own order number.
    pub reference: Option<String>,
}

impl Traveller {
    /// Whether there is nothing to keep.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An order with its eSIMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The world.
    pub mode: Mode,
    /// The checkout it was paid in.
    pub checkout: CheckoutId,
    /// The number a person reads out.
    pub number: String,
    /// The plan.
    pub plan: PlanId,
    /// The plan's name when it was sold.
    pub plan_name: String,
    /// How many eSIMs.
    pub quantity: u32,
    /// Price of one when it was sold.
    pub unit_price: Money,
    /// What was given back so far.
    pub refunded: Money,
    /// Where it is.
    pub status: OrderStatus,
    /// When fulfilment ended.
    pub completed_at: Option<Timestamp>,
    /// Why not all was delivered.
    pub failure_reason: Option<String>,
    /// What happened after its creation, oldest first.
    pub timeline: Vec<TimelineEvent>,
    /// The traveller.
    pub traveller: Traveller,
    /// One entry per eSIM, in order of position.
    pub esims: Vec<Esim>,
}

impl Order {
    /// Quantity times unit price.
    ///
    /// # Errors
    /// [`Fault::Bug`] when it is out of range, which a checkout never lets through.
    pub fn total(&self) -> Result<Money, Fault> {
        Ok(self.unit_price.times(self.quantity)?)
    }

    /// The order as its checkout answered it: what came later is left out.
    #[must_use]
    pub fn as_created(mut self) -> Self {
        self.status = OrderStatus::Processing;
        self.refunded = Money::zero(self.unit_price.currency());
        self.completed_at = None;
        self.failure_reason = None;
        self.timeline.clear();
        self.esims = esim::fill(self.id, self.quantity, OrderStatus::Processing, Vec::new());
        self
    }

    fn fits(&self, filter: &OrderFilter) -> bool {
        let same = |wanted: &Option<String>, found: &Option<String>| match (wanted, found) {
            (None, _) => true,
            (Some(wanted), Some(found)) => wanted.to_lowercase() == found.to_lowercase(),
            (Some(_), None) => false,
        };
        let begins = |query: &String| {
            let query = query.to_lowercase();
            let iccids = self.esims.iter().filter_map(|esim| esim.iccid.as_ref());
            [Some(&self.number), self.traveller.reference.as_ref(), self.traveller.email.as_ref()]
                .into_iter()
                .flatten()
                .chain(iccids)
                .any(|text| text.to_lowercase().starts_with(&query))
        };
        filter.status.is_none_or(|status| self.status == status)
            && filter.from.is_none_or(|from| self.id.created_at() >= from)
            && filter.to.is_none_or(|to| self.id.created_at() < to)
            && same(&filter.email, &self.traveller.email)
            && same(&filter.reference, &self.traveller.reference)
            && filter.plan.is_none_or(|plan| self.plan == plan)
            && filter
                .iccid
                .as_ref()
                .is_none_or(|iccid| self.esims.iter().any(|esim| esim.iccid.as_deref() == Some(iccid.as_str())))
            && filter.query.as_ref().is_none_or(begins)
    }
}

/// The key of a status; none of those that are not listed.
pub(crate) fn status_key(status: OrderStatus) -> Option<Key> {
    let listed = !matches!(status, OrderStatus::Completed | OrderStatus::Processing);
    listed.then(|| (Kind::Status, status.word().to_owned()))
}

/// What an order is found under from its creation on.
pub(crate) fn first_keys(number: &str, plan: PlanId, email: Option<&str>, reference: Option<&str>) -> Vec<Key> {
    let mut keys = vec![(Kind::Number, number.to_lowercase()), (Kind::Plan, plan.to_string())];
    keys.extend(email.map(|email| (Kind::Email, email.to_lowercase())));
    keys.extend(reference.map(|reference| (Kind::Reference, reference.to_lowercase())));
    keys
}

/// The keys of the orders with ids above `after` up to `last`, by order. One that cannot be read is left out:
/// it must not keep all others out of the index.
pub(crate) fn keys_between(
    snapshot: &mut dyn Snapshot,
    after: &[u8],
    last: OrderId,
) -> Result<HashMap<OrderId, Vec<Key>>, Fault> {
    let mut found = HashMap::new();
    let keys = |row: &dyn Row| {
        let id = OrderId::from_slice(row.bytes(0)?)?;
        let plan = PlanId::from_slice(row.bytes(2)?)?;
        let mut keys = first_keys(row.text(1)?, plan, row.opt_text(4)?, row.opt_text(5)?);
        keys.extend(status_key(row.text(3)?.parse()?));
        Ok::<_, Fault>((id, keys))
    };
    snapshot.rows(
        "select o.id, o.number, o.plan_id, o.status, t.email, t.reference
         from orders o left join travellers t on t.order_id = o.id where o.id > $1 and o.id <= $2",
        &[after.into(), last.as_bytes().into()],
        &mut |row| {
            match keys(row) {
                Ok((id, keys)) => {
                    found.insert(id, keys);
                }
                Err(fault) => tracing::error!(%fault, "an order cannot be indexed"),
            }
            Ok(())
        },
    )?;
    snapshot.rows(
        "select id, iccid from esims where id > $1 and id <= $2 and iccid is not null",
        &[after.into(), last.last_esim().as_bytes().into()],
        &mut |row| {
            let id = EsimId::from_slice(row.bytes(0)?)?;
            if let Some(keys) = found.get_mut(&id.order()) {
                keys.push((Kind::Iccid, row.text(1)?.to_owned()));
            }
            Ok(())
        },
    )?;
    Ok(found)
}

/// The keys that may have come since an order was first indexed, and its status; none where it cannot be read.
pub(crate) fn later_keys(snapshot: &mut dyn Snapshot, id: OrderId) -> Result<Option<(OrderStatus, Vec<Key>)>, Fault> {
    let status = row(snapshot, "select status from orders where id = $1", &[id.as_bytes().into()], |row| {
        Ok(row.text(0)?.parse::<OrderStatus>()?)
    });
    let status = match status {
        Ok(Some(status)) => status,
        Ok(None) | Err(Fault::Bug(_)) => {
            tracing::error!(order = %id, "an order cannot be indexed");
            return Ok(None);
        }
        Err(fault) => return Err(fault),
    };
    let mut keys = collect(
        snapshot,
        "select iccid from esims where id > $1 and id <= $2 and iccid is not null",
        &[id.as_bytes().into(), id.last_esim().as_bytes().into()],
        |row| Ok((Kind::Iccid, row.text(0)?.to_owned())),
    )?;
    keys.extend(status_key(status));
    Ok(Some((status, keys)))
}

const ORDER: &str = "o.id, o.tenant_id, o.mode, o.checkout_id, o.number, o.plan_id, o.plan_name, o.quantity, \
     o.unit_price, o.refunded, o.currency, o.status, o.completed_at, o.failure_reason, o.timeline, t.email, \
     t.customer_name, t.phone, t.reference from orders o left join travellers t on t.order_id = o.id";

fn order(row: &dyn Row) -> Result<Order, Fault> {
    let currency: Currency = row.text(10)?.parse()?;
    let text = |column| row.opt_text(column).map(|text| text.map(str::to_owned));
    Ok(Order {
        id: OrderId::from_slice(row.bytes(0)?)?,
        tenant: TenantId::from_slice(row.bytes(1)?)?,
        mode: row.text(2)?.parse()?,
        checkout: CheckoutId::from_slice(row.bytes(3)?)?,
        number: row.text(4)?.to_owned(),
        plan: PlanId::from_slice(row.bytes(5)?)?,
        plan_name: row.text(6)?.to_owned(),
        quantity: u32::try_from(row.int(7)?).map_err(|_| Fault::Bug("quantity out of range".to_owned()))?,
        unit_price: Money::new(row.int(8)?, currency),
        refunded: Money::new(row.int(9)?, currency),
        status: row.text(11)?.parse()?,
        completed_at: row.opt_int(12)?.map(Timestamp::from_millis),
        failure_reason: text(13)?,
        timeline: read_timeline(row.text(14)?)?,
        traveller: Traveller { email: text(15)?, customer_name: text(16)?, phone: text(17)?, reference: text(18)? },
        esims: Vec::new(),
    })
}

/// A timeline is a JSON array without its brackets, so that an event can be appended to it in SQL.
fn read_timeline(stored: &str) -> Result<Vec<TimelineEvent>, Fault> {
    if stored.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&format!("[{}]", stored.strip_prefix(',').unwrap_or(stored)))
        .map_err(|error| Fault::Bug(format!("malformed timeline: {error}")))
}

/// What to append to a stored timeline.
pub(crate) fn timeline_entry(at: Timestamp, event: &str, detail: Option<&str>) -> Result<String, Fault> {
    let event = TimelineEvent { at: at.millis(), event: event.to_owned(), detail: detail.map(str::to_owned) };
    serde_json::to_string(&event)
        .map(|json| format!(",{json}"))
        .map_err(|error| Fault::Bug(format!("a timeline event cannot be written: {error}")))
}

fn with_esims(snapshot: &mut dyn Snapshot, order: Order) -> Result<Order, Fault> {
    let esims = esim::of_order(snapshot, order.id)?;
    Ok(Order { esims: esim::fill(order.id, order.quantity, order.status, esims), ..order })
}

/// One order, whoever's it is. For the workers, the index and the operator.
///
/// # Errors
/// [`Fault`].
pub fn find(snapshot: &mut dyn Snapshot, id: OrderId) -> Result<Option<Order>, Fault> {
    let found = row(snapshot, &format!("select {ORDER} where o.id = $1"), &[id.as_bytes().into()], order)?;
    found.map(|order| with_esims(snapshot, order)).transpose()
}

/// How many orders [`finished_of`] looks at.
pub const MOST_LOOKED_AT: usize = 64;

/// Those of the first [`MOST_LOOKED_AT`] of these orders whose fulfilment has ended.
///
/// # Errors
/// [`Fault`].
pub fn finished_of(snapshot: &mut dyn Snapshot, orders: &[OrderId]) -> Result<Vec<OrderId>, Fault> {
    let Some(last) = orders.last() else { return Ok(Vec::new()) };
    // One statement for any number of them: the last one fills the places that are left.
    let places = (1..=MOST_LOOKED_AT).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ");
    let sql = format!("select id from orders where id in ({places}) and status <> 'processing'");
    let wanted = orders.iter().chain(std::iter::repeat(last)).take(MOST_LOOKED_AT);
    let values: Vec<_> = wanted.map(|order| order.as_bytes().into()).collect();
    collect(snapshot, &sql, &values, |row| Ok(OrderId::from_slice(row.bytes(0)?)?))
}

/// One order of a tenant's world; another tenant's is not there.
///
/// # Errors
/// [`Fault`].
pub fn of_tenant(
    snapshot: &mut dyn Snapshot,
    tenant: TenantId,
    mode: Mode,
    id: OrderId,
) -> Result<Option<Order>, Fault> {
    Ok(find(snapshot, id)?.filter(|order| order.tenant == tenant && order.mode == mode))
}

/// The orders of a checkout, in the order of its lines.
///
/// # Errors
/// [`Fault`].
pub fn of_checkout(snapshot: &mut dyn Snapshot, checkout: CheckoutId, count: u32) -> Result<Vec<Order>, Fault> {
    let sql = format!("select {ORDER} where o.id > $1 and o.checkout_id = $2 order by o.id limit $3");
    let checkout = checkout.as_bytes();
    let orders = collect(snapshot, &sql, &[checkout.into(), checkout.into(), count.into()], order)?;
    orders.into_iter().map(|order| with_esims(snapshot, order)).collect()
}

/// The most candidates one read looks at: a list whose filters fit almost nothing answers a short page
/// with a cursor to go on from, instead of reading for minutes.
pub(crate) const MOST_CANDIDATES: usize = 1_000;
/// The most eSIMs of one page, so that one answer stays within some megabytes whatever the orders' size.
const MOST_ESIMS: usize = 2_000;
/// The most matches of a prefix that are sorted in memory; a commoner prefix is found by walking.
const MOST_PREFIX_MATCHES: u32 = 1_000;

/// A page of a list of orders.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The orders, newest first.
    pub orders: Vec<Order>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<OrderId>,
}

/// A tenant's orders below `cursor`, newest first.
///
/// # Errors
/// [`Fault`].
pub fn list(
    snapshot: &mut dyn Snapshot,
    tenant: TenantId,
    mode: Mode,
    filter: &OrderFilter,
    cursor: Option<OrderId>,
    limit: usize,
) -> Result<Page, Fault> {
    let tail = snapshot.tail(Some((tenant, mode)), usize::MAX)?;
    list_with(snapshot, (tenant, mode), &tail, filter, cursor, limit)
}

fn list_with(
    snapshot: &mut dyn Snapshot,
    (tenant, mode): World,
    tail: &[Arc<TailEntry>],
    filter: &OrderFilter,
    cursor: Option<OrderId>,
    limit: usize,
) -> Result<Page, Fault> {
    let world = (tenant, mode);
    let early = match (&filter.iccid, &filter.query) {
        (Some(begins), _) | (None, Some(begins)) => early(snapshot, tenant, mode, begins, MOST_PREFIX_MATCHES)?,
        (None, None) => Vec::new(),
    };
    if let Some(query) = &filter.query {
        let query = query.to_lowercase();
        let begins = |key: &str| key.starts_with(&query);
        let kinds = [Kind::Number, Kind::Reference, Kind::Email, Kind::Iccid];
        let matches = by_prefix(snapshot, &kinds.map(|kind| List::new(world, kind, &query)), MOST_PREFIX_MATCHES)?;
        if let Some(mut ids) = matches {
            let in_tail = |kind| tail.iter().filter_map(move |entry| entry.listed_in(kind, begins));
            ids.extend(kinds.into_iter().flat_map(in_tail));
            ids.extend(early);
            let mut newest_first = ids.into_iter().rev().filter(|id| cursor.is_none_or(|cursor| *id < cursor.uuid()));
            return page(snapshot, tenant, mode, filter, limit, |_| Ok(newest_first.next()));
        }
    }
    let mut candidates = found_under(world, tail, early, filter, cursor);
    page(snapshot, tenant, mode, filter, limit, |snapshot| candidates.next(snapshot))
}

/// The orders that may fit a filter, newest first, out of the shortest list that has them all.
pub(crate) enum Found {
    /// A list of the index.
    Listed(Candidates),
    /// The orders under way.
    UnderWay(Walk),
}

impl Found {
    pub(crate) fn next(&mut self, snapshot: &mut dyn Snapshot) -> Result<Option<Uuid>, Fault> {
        match self {
            Self::Listed(candidates) => candidates.next(snapshot),
            Self::UnderWay(walk) => walk.next(snapshot),
        }
    }
}

/// The orders of a world below `cursor` that may fit a filter without the beginning of anything.
///
/// # Errors
/// [`Fault`].
pub(crate) fn may_fit(
    snapshot: &mut dyn Snapshot,
    (tenant, mode): World,
    filter: &OrderFilter,
    cursor: Option<OrderId>,
) -> Result<Found, Fault> {
    let tail = snapshot.tail(Some((tenant, mode)), usize::MAX)?;
    let early = match &filter.iccid {
        Some(iccid) => early(snapshot, tenant, mode, iccid, MOST_PREFIX_MATCHES)?,
        None => Vec::new(),
    };
    Ok(found_under((tenant, mode), &tail, early, filter, cursor))
}

fn found_under(
    world: World,
    tail: &[Arc<TailEntry>],
    early: Vec<Uuid>,
    filter: &OrderFilter,
    cursor: Option<OrderId>,
) -> Found {
    let (kind, key) = match filter {
        OrderFilter { iccid: Some(iccid), .. } => (Kind::Iccid, iccid.clone()),
        OrderFilter { reference: Some(reference), .. } => (Kind::Reference, reference.to_lowercase()),
        OrderFilter { email: Some(email), .. } => (Kind::Email, email.to_lowercase()),
        OrderFilter { status: Some(OrderStatus::Processing), .. } => {
            return Found::UnderWay(processing(Some(world.0), cursor, filter));
        }
        OrderFilter { status: Some(status), .. } if *status != OrderStatus::Completed => {
            (Kind::Status, status.word().to_owned())
        }
        OrderFilter { plan: Some(plan), .. } => (Kind::Plan, plan.to_string()),
        // An order's purchase has its id; what else is in that list is no order.
        _ => (Kind::Entry, String::new()),
    };
    let mut range = Range::new(List::new(world, kind, &key), filter.from, filter.to);
    range.below(cursor.map(OrderId::uuid));
    let in_tail = tail.iter().filter_map(|entry| entry.listed_in(kind, |other| other == key));
    Found::Listed(Candidates::new(range, in_tail.chain(early)))
}

/// Walks ids from the newest down, page by page.
pub(crate) struct Walk {
    sql: &'static str,
    tenant: Option<TenantId>,
    lowest: Uuid,
    below: Uuid,
    page: std::vec::IntoIter<Uuid>,
}

impl Walk {
    fn new(sql: &'static str, tenant: Option<TenantId>, cursor: Option<OrderId>, filter: &OrderFilter) -> Self {
        let to = filter.to.map_or_else(Uuid::max, domain::id::first_at);
        Self {
            sql,
            tenant,
            lowest: filter.from.map_or_else(Uuid::nil, domain::id::first_at),
            below: cursor.map_or(to, |cursor| to.min(cursor.uuid())),
            page: Vec::new().into_iter(),
        }
    }

    fn next(&mut self, snapshot: &mut dyn Snapshot) -> Result<Option<Uuid>, Fault> {
        if let Some(id) = self.page.next() {
            return Ok(Some(id));
        }
        let tenant = self.tenant.as_ref().map(TenantId::as_bytes);
        let page = collect(
            snapshot,
            self.sql,
            &[self.lowest.as_bytes().into(), self.below.as_bytes().into(), tenant.into()],
            |row| Ok(OrderId::from_slice(row.bytes(0)?)?.uuid()),
        )?;
        self.below = page.last().copied().unwrap_or(self.lowest);
        self.page = page.into_iter();
        Ok(self.page.next())
    }
}

/// The orders that are being fulfilled: each has a job of its own id.
fn processing(tenant: Option<TenantId>, cursor: Option<OrderId>, filter: &OrderFilter) -> Walk {
    let sql = "select id from jobs where id >= $1 and id < $2 and (tenant_id = $3 or $3 is null) and kind = 'fulfil'
               order by id desc limit 200";
    Walk::new(sql, tenant, cursor, filter)
}

fn page(
    snapshot: &mut dyn Snapshot,
    tenant: TenantId,
    mode: Mode,
    filter: &OrderFilter,
    limit: usize,
    mut next: impl FnMut(&mut dyn Snapshot) -> Result<Option<Uuid>, Fault>,
) -> Result<Page, Fault> {
    let mut orders: Vec<Order> = Vec::new();
    let (mut looked_at, mut esims) = (0, 0);
    while let Some(id) = next(snapshot)? {
        let id = OrderId::new(id);
        // Among all orders come a tenant's other transactions: they do not shorten a page.
        let Some(order) = of_tenant(snapshot, tenant, mode, id)? else { continue };
        looked_at += 1;
        if order.fits(filter) {
            if orders.len() == limit || (esims > 0 && esims + order.esims.len() > MOST_ESIMS) {
                let next = orders.last().map(|last| last.id);
                return Ok(Page { orders, next });
            }
            esims += order.esims.len();
            orders.push(order);
        }
        if looked_at >= MOST_CANDIDATES {
            return Ok(Page { orders, next: Some(id) });
        }
    }
    Ok(Page { orders, next: None })
}

/// The orders of all tenants below `cursor`, newest first: the operator's view.
///
/// # Errors
/// [`Fault`].
pub fn list_all(
    snapshot: &mut dyn Snapshot,
    mode: Option<Mode>,
    filter: &OrderFilter,
    cursor: Option<OrderId>,
    limit: usize,
) -> Result<Page, Fault> {
    let in_lists = filter.status.is_some_and(|status| status_key(status).is_some());
    if in_lists
        || filter.iccid.is_some()
        || filter.reference.is_some()
        || filter.email.is_some()
        || filter.query.is_some()
    {
        return search_all(snapshot, mode, filter, cursor, limit);
    }
    let mut walk = match filter.status {
        Some(OrderStatus::Processing) => processing(None, cursor, filter),
        _ => {
            let sql = "select id from orders where id >= $1 and id < $2 and (tenant_id = $3 or $3 is null)
                       order by id desc limit 200";
            Walk::new(sql, None, cursor, filter)
        }
    };
    let mut orders: Vec<Order> = Vec::new();
    let (mut looked_at, mut esims) = (0, 0);
    while let Some(id) = walk.next(snapshot)? {
        looked_at += 1;
        let id = OrderId::new(id);
        let fits = |order: &Order| mode.is_none_or(|mode| order.mode == mode) && order.fits(filter);
        if let Some(order) = find(snapshot, id)?.filter(fits) {
            if orders.len() == limit || (esims > 0 && esims + order.esims.len() > MOST_ESIMS) {
                let next = orders.last().map(|last| last.id);
                return Ok(Page { orders, next });
            }
            esims += order.esims.len();
            orders.push(order);
        }
        if looked_at >= MOST_CANDIDATES {
            return Ok(Page { orders, next: Some(id) });
        }
    }
    Ok(Page { orders, next: None })
}

/// Merges every tenant's own search: there are some thousand tenants at most, and each costs one seek.
fn search_all(
    snapshot: &mut dyn Snapshot,
    mode: Option<Mode>,
    filter: &OrderFilter,
    cursor: Option<OrderId>,
    limit: usize,
) -> Result<Page, Fault> {
    let worlds = collect(snapshot, "select tenant_id, mode from balances", &[], |row| {
        Ok((TenantId::from_slice(row.bytes(0)?)?, row.text(1)?.parse::<Mode>()?))
    })?;
    let mut tails: HashMap<World, Vec<Arc<TailEntry>>> = HashMap::new();
    for entry in snapshot.tail(None, usize::MAX)? {
        tails.entry((entry.tenant, entry.mode)).or_default().push(entry);
    }
    let mut orders: Vec<Order> = Vec::new();
    let mut next = None;
    for (tenant, mode) in worlds.into_iter().filter(|(_, world)| mode.is_none_or(|mode| mode == *world)) {
        let tail = tails.remove(&(tenant, mode)).unwrap_or_default();
        let page = list_with(snapshot, (tenant, mode), &tail, filter, cursor, limit)?;
        next = next.max(page.next);
        orders.extend(page.orders);
    }
    // Below the highest place where a search stopped, some tenant's orders have not been looked at yet.
    orders.retain(|order| next.is_none_or(|next| order.id >= next));
    orders.sort_unstable_by_key(|order| std::cmp::Reverse(order.id));
    if orders.len() > limit {
        orders.truncate(limit);
        next = orders.last().map(|last| last.id);
    }
    Ok(Page { orders, next })
}

/// The traveller's view of an eSIM's order, for its page: the eSIM and its order.
///
/// # Errors
/// [`Fault`].
pub fn of_esim(snapshot: &mut dyn Snapshot, id: EsimId) -> Result<Option<(Order, Esim)>, Fault> {
    let Some(order) = find(snapshot, id.order())? else { return Ok(None) };
    let esim = order.esims.iter().find(|esim| esim.id == id).cloned();
    Ok(esim.map(|esim| (order, esim)))
}
