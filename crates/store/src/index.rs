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

/// Entries the index takes in one command.
pub const INDEX_BATCH: u32 = 4_096;

/// An order, unless it cannot be read: one broken row must not keep all others out of the index.
fn readable(tx: &mut dyn Tx, id: OrderId) -> Result<Option<order::Order>, Fault> {
    match order::find(tx, id) {
        Err(Fault::Bug(reason)) => {
            tracing::error!(order = %id, reason, "an order cannot be indexed");
            Ok(None)
        }
        found => found,
    }
}

/// Takes the oldest part of the tail into the index. Returns how many entries it took.
///
/// # Errors
/// [`Fault`].
pub fn take_tail(tx: &mut dyn Tx) -> Decision<u32, std::convert::Infallible> {
    let after = watermark(tx)?;
    let tail = tail_after(tx, &after, INDEX_BATCH)?;
    let Some(last) = tail.last() else { return Ok(0) };
    let watermark = last.id.to_string();
    let mut additions = BTreeSet::new();
    let mut removals = BTreeSet::new();
    let mut orders = BTreeSet::new();
    for entry in &tail {
        let scope = (*entry.tenant.as_bytes(), entry.mode);
        if entry.kind != EntryKind::Sale {
            additions.insert((scope, Kind::Entry, String::new(), *entry.id.as_bytes()));
            if entry.kind != EntryKind::Purchase {
                additions.insert((scope, Kind::EntryKind, entry.kind.word().to_owned(), *entry.id.as_bytes()));
            }
        }
        if let Some(id) = entry.order
            && orders.insert(id)
            && let Some(order) = readable(tx, id)?
        {
            let is_new = id.as_bytes().as_slice() > after.as_slice();
            for (kind, key) in order.keys(is_new) {
                additions.insert((scope, kind, key, *id.as_bytes()));
            }
            if !is_new {
                for status in OrderStatus::ALL.iter().filter(|status| **status != order.status) {
                    removals.insert((scope, Kind::Status, status.word().to_owned(), *id.as_bytes()));
                }
            }
        }
    }
    for ((tenant, mode), kind, key, id) in &removals {
        tx.execute(
            "delete from index_entries where tenant_id = $1 and mode = $2 and kind = $3 and key = $4 and id = $5",
            &[tenant.into(), mode.word().into(), kind.word().into(), key.into(), id.into()],
        )?;
    }
    for ((tenant, mode), kind, key, id) in &additions {
        tx.execute(
            "insert into index_entries (tenant_id, mode, kind, key, id) values ($1, $2, $3, $4, $5)
             on conflict do nothing",
            &[tenant.into(), mode.word().into(), kind.word().into(), key.into(), id.into()],
        )?;
    }
    tx.execute(
        "insert into settings (name, value) values ('index_watermark', $1)
         on conflict (name) do update set value = excluded.value",
        &[(&watermark).into()],
    )?;
    Ok(u32::try_from(tail.len()).unwrap_or(u32::MAX))
}
