//! The search index: lists of orders and ledger entries by tenant and key. It is filled behind the
//! commits, in sorted batches, from the ledger itself: an order is created with exactly one purchase
//! entry, and every later change of its status writes another entry. Whoever reads the index also
//! reads the tail of the ledger behind its watermark, so nothing that was answered is ever missing.

use crate::order;
use crate::port::{Decision, Fault, Row, Snapshot, Tx, row};
use domain::id::{EntryId, OrderId, TenantId, first_at};
use domain::ledger::EntryKind;
use domain::order::OrderStatus;
use domain::tenant::Mode;
use domain::time::Timestamp;
use domain::words;
use std::collections::BTreeSet;
use uuid::Uuid;

words! {
    /// What an index entry lists.
    pub enum Kind {
        /// All orders.
        Order = "o",
        /// Orders by their number.
        Number = "n",
        /// Orders by the partner's reference, in lower case.
        Reference = "r",
        /// Orders by the traveller's address, in lower case.
        Email = "e",
        /// Orders by an ICCID.
        Iccid = "i",
        /// Orders by plan.
        Plan = "p",
        /// Orders by status; `completed`, the rule, is not listed.
        Status = "s",
        /// All transactions.
        Entry = "t",
        /// Transactions by kind; `purchase`, the rule, is not listed.
        EntryKind = "k",
    }
}

/// One list of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Posting {
    kind: Kind,
    key: String,
}

impl Posting {
    pub(crate) fn new(kind: Kind, key: &str) -> Self {
        Self { kind, key: key.to_owned() }
    }
}

/// A stretch of one list, walked from its newest end.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    tenant: TenantId,
    mode: Mode,
    posting: Posting,
    /// Inclusive.
    lowest: Uuid,
    /// Exclusive.
    below: Uuid,
}

impl Range {
    pub(crate) fn new(
        tenant: TenantId,
        mode: Mode,
        posting: Posting,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Self {
        let lowest = from.map_or(Uuid::nil(), first_at);
        Self { tenant, mode, posting, lowest, below: to.map_or(Uuid::max(), first_at) }
    }

    /// Only ids below `cursor`.
    pub(crate) fn below(&mut self, cursor: Option<Uuid>) {
        if let Some(cursor) = cursor {
            self.below = self.below.min(cursor);
        }
    }

    fn page(&self, snapshot: &mut dyn Snapshot, limit: u32) -> Result<Vec<Uuid>, Fault> {
        crate::port::collect(
            snapshot,
            "select id from index_entries where tenant_id = $1 and mode = $2 and kind = $3 and key = $4
             and id >= $5 and id < $6 order by id desc limit $7",
            &[
                self.tenant.as_bytes().into(),
                self.mode.word().into(),
                self.posting.kind.word().into(),
                (&self.posting.key).into(),
                self.lowest.as_bytes().into(),
                self.below.as_bytes().into(),
                limit.into(),
            ],
            uuid,
        )
    }
}

fn uuid(row: &dyn Row) -> Result<Uuid, Fault> {
    Uuid::from_slice(row.bytes(0)?).map_err(|_| Fault::Bug("malformed id in the index".to_owned()))
}

/// Ids of one page of the index.
const PAGE: u32 = 200;

/// The ids of a range, newest first, out of the index and the tail. An id may be offered that does
/// not fit any more: the caller looks at the row.
pub(crate) struct Candidates {
    range: Range,
    tail: Vec<Uuid>,
    page: std::vec::IntoIter<Uuid>,
    next_indexed: Option<Uuid>,
    exhausted: bool,
    /// Ids offered so far.
    pub(crate) offered: usize,
}

impl Candidates {
    pub(crate) fn new(range: Range, tail: impl Iterator<Item = Uuid>) -> Self {
        let mut tail: Vec<Uuid> = tail.filter(|id| *id >= range.lowest && *id < range.below).collect();
        tail.sort_unstable();
        tail.dedup();
        Self { range, tail, page: Vec::new().into_iter(), next_indexed: None, exhausted: false, offered: 0 }
    }

    pub(crate) fn next(&mut self, snapshot: &mut dyn Snapshot) -> Result<Option<Uuid>, Fault> {
        if self.next_indexed.is_none() && !self.exhausted {
            self.next_indexed = self.page.next();
            if self.next_indexed.is_none() {
                let page = self.range.page(snapshot, PAGE)?;
                self.exhausted = page.is_empty();
                self.range.below(page.last().copied());
                self.page = page.into_iter();
                self.next_indexed = self.page.next();
            }
        }
        let next = match (self.tail.last().copied(), self.next_indexed) {
            (Some(tail), Some(indexed)) => Some(tail.max(indexed)),
            (tail, indexed) => tail.or(indexed),
        };
        if self.tail.last().copied() == next {
            self.tail.pop();
        }
        if self.next_indexed == next {
            self.next_indexed = None;
        }
        self.offered += usize::from(next.is_some());
        Ok(next)
    }
}

/// The ids whose key in one of `kinds` begins with `prefix`, or `None` when there are more than `limit`.
pub(crate) fn by_prefix(
    snapshot: &mut dyn Snapshot,
    tenant: TenantId,
    mode: Mode,
    kinds: &[Kind],
    prefix: &str,
    limit: u32,
) -> Result<Option<BTreeSet<Uuid>>, Fault> {
    let end = format!("{prefix}\u{10FFFF}");
    let mut found = BTreeSet::new();
    for kind in kinds {
        let ids = crate::port::collect(
            snapshot,
            "select id from index_entries where tenant_id = $1 and mode = $2 and kind = $3 and key >= $4 and key < $5
             limit $6",
            &[
                tenant.as_bytes().into(),
                mode.word().into(),
                kind.word().into(),
                prefix.into(),
                (&end).into(),
                (limit + 1).into(),
            ],
            uuid,
        )?;
        if ids.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
            return Ok(None);
        }
        found.extend(ids);
    }
    Ok(Some(found))
}

/// A ledger entry that the index does not have yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TailEntry {
    pub(crate) id: EntryId,
    pub(crate) order: Option<OrderId>,
    tenant: TenantId,
    mode: Mode,
    kind: EntryKind,
}

fn watermark(snapshot: &mut dyn Snapshot) -> Result<Vec<u8>, Fault> {
    let hex = row(snapshot, "select value from settings where name = 'index_watermark'", &[], |row| {
        row.text(0).map(str::to_owned)
    })?;
    match hex {
        None => Ok(Vec::new()),
        Some(hex) => hex
            .parse::<Uuid>()
            .map(|id| id.as_bytes().to_vec())
            .map_err(|_| Fault::Bug("malformed index watermark".to_owned())),
    }
}

fn tail_after(snapshot: &mut dyn Snapshot, after: &[u8], limit: u32) -> Result<Vec<TailEntry>, Fault> {
    crate::port::collect(
        snapshot,
        "select id, order_id, tenant_id, mode, kind from ledger_entries where id > $1 order by id limit $2",
        &[after.into(), limit.into()],
        |row| {
            Ok(TailEntry {
                id: EntryId::from_slice(row.bytes(0)?)?,
                order: row.opt_bytes(1)?.map(OrderId::from_slice).transpose()?,
                tenant: TenantId::from_slice(row.bytes(2)?)?,
                mode: row.text(3)?.parse()?,
                kind: row.text(4)?.parse()?,
            })
        },
    )
}

/// A tenant's entries behind the watermark, oldest first. The whole tail is kept short by the indexer.
pub(crate) fn tail(snapshot: &mut dyn Snapshot, tenant: TenantId, mode: Mode) -> Result<Vec<TailEntry>, Fault> {
    let after = watermark(snapshot)?;
    let tail = tail_after(snapshot, &after, u32::MAX)?;
    Ok(tail.into_iter().filter(|entry| entry.tenant == tenant && entry.mode == mode).collect())
}

/// Lists the ICCIDs an order has so far, before its last part is there. The rest of the index needs no
/// such call: all else that is searched for comes with the order's creation or with a ledger entry.
pub(crate) fn list_iccids(tx: &mut dyn Tx, order: &order::Order) -> Result<(), Fault> {
    for iccid in order.esims.iter().filter_map(|esim| esim.iccid.as_ref()) {
        tx.execute(
            "insert into index_entries (tenant_id, mode, kind, key, id) values ($1, $2, $3, $4, $5)
             on conflict do nothing",
            &[
                order.tenant.as_bytes().into(),
                order.mode.word().into(),
                Kind::Iccid.word().into(),
                iccid.into(),
                order.id.as_bytes().into(),
            ],
        )?;
    }
    Ok(())
}

/// Entries of the tail that are taken in together: the more, the fewer pages are written for each.
pub const INDEX_BATCH: u32 = 4_096;
/// Changes of one command, so that a checkout never waits long for the index.
const STEP: usize = 512;

/// A row of the index that comes or goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    tenant: TenantId,
    mode: Mode,
    kind: Kind,
    key: String,
    id: Uuid,
    comes: bool,
}

/// The oldest part of the tail as changes of the index, in the index's own order. It is worked out on a
/// snapshot: an order that changes meanwhile writes another entry, behind this part, and comes up again.
#[derive(Debug, Clone, Default)]
pub struct Portion {
    after: Vec<u8>,
    last: Option<EntryId>,
    changes: Vec<Change>,
    /// How many entries it takes off the tail.
    pub entries: u32,
}

/// An order, unless it cannot be read: one broken row must not keep all others out of the index.
fn readable(snapshot: &mut dyn Snapshot, id: OrderId) -> Result<Option<order::Order>, Fault> {
    match order::find(snapshot, id) {
        Err(Fault::Bug(reason)) => {
            tracing::error!(order = %id, reason, "an order cannot be indexed");
            Ok(None)
        }
        found => found,
    }
}

impl Portion {
    /// Reads the oldest part of the tail.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn read(snapshot: &mut dyn Snapshot) -> Result<Self, Fault> {
        let after = watermark(snapshot)?;
        let tail = tail_after(snapshot, &after, INDEX_BATCH)?;
        let mut changes = Vec::new();
        let mut orders = BTreeSet::new();
        for entry in &tail {
            let mut change = |comes, kind, key, id| {
                let TailEntry { tenant, mode, .. } = *entry;
                changes.push(Change { tenant, mode, kind, key, id, comes });
            };
            if entry.kind != EntryKind::Sale {
                change(true, Kind::Entry, String::new(), entry.id.uuid());
                if entry.kind != EntryKind::Purchase {
                    change(true, Kind::EntryKind, entry.kind.word().to_owned(), entry.id.uuid());
                }
            }
            if let Some(id) = entry.order
                && orders.insert(id)
                && let Some(order) = readable(snapshot, id)?
            {
                let is_new = id.as_bytes().as_slice() > after.as_slice();
                for (kind, key) in order.keys(is_new) {
                    change(true, kind, key, id.uuid());
                }
                if !is_new {
                    for status in OrderStatus::ALL.iter().filter(|status| **status != order.status) {
                        change(false, Kind::Status, status.word().to_owned(), id.uuid());
                    }
                }
            }
        }
        changes.sort_unstable();
        let entries = u32::try_from(tail.len()).unwrap_or(u32::MAX);
        Ok(Self { after, last: tail.last().map(|entry| entry.id), changes, entries })
    }
}

/// Makes the next changes of a portion, from the `done`th on. Returns how many are done then, or `None` when
/// that were the last and the watermark stands behind the portion. Steps may be made twice.
///
/// # Errors
/// [`Fault`].
pub fn take(tx: &mut dyn Tx, portion: &Portion, done: usize) -> Decision<Option<usize>, std::convert::Infallible> {
    let Some(last) = portion.last else { return Ok(None) };
    if watermark(tx)? != portion.after {
        return Err(Fault::Bug("the index was filled from two sides".to_owned()).into());
    }
    let end = portion.changes.len().min(done.saturating_add(STEP));
    for Change { tenant, mode, kind, key, id, comes } in portion.changes.get(done..end).unwrap_or_default() {
        let sql = if *comes {
            "insert into index_entries (tenant_id, mode, kind, key, id) values ($1, $2, $3, $4, $5)
             on conflict do nothing"
        } else {
            "delete from index_entries where tenant_id = $1 and mode = $2 and kind = $3 and key = $4 and id = $5"
        };
        tx.execute(
            sql,
            &[tenant.as_bytes().into(), mode.word().into(), kind.word().into(), key.into(), id.as_bytes().into()],
        )?;
    }
    if end < portion.changes.len() {
        return Ok(Some(end));
    }
    tx.execute(
        "insert into settings (name, value) values ('index_watermark', $1)
         on conflict (name) do update set value = excluded.value",
        &[(&last.to_string()).into()],
    )?;
    Ok(None)
}
