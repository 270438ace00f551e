//! The search index: lists of orders and ledger entries by tenant and key. It is filled behind the
//! commits, in sorted batches, from the ledger itself: an order is created with exactly one purchase
//! entry, and every later change of its status writes another entry. Whoever reads the index also
//! reads the tail of the ledger behind its watermark, so nothing that was answered is ever missing.

use crate::ledger::World;
use crate::order;
use crate::port::{Fault, Row, Snapshot, Tx, collect, row};
use domain::id::{EntryId, OrderId, TenantId, first_at};
use domain::ledger::{Account, Entry, EntryKind};
use domain::order::OrderStatus;
use domain::tenant::Mode;
use domain::time::Timestamp;
use domain::words;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;

words! {
    /// What an index entry lists.
    pub enum Kind {
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
        /// Orders by status; `completed`, the rule, is not listed, nor `processing`: those have a job.
        Status = "s",
        /// All transactions, and with them all orders: a purchase has the id of its order.
        Entry = "t",
        /// Transactions by kind; `purchase`, the rule, is not listed.
        EntryKind = "k",
    }
}

/// What something is found under.
pub(crate) type Key = (Kind, String);

/// One list of the index.
#[derive(Debug, Clone)]
pub(crate) struct List {
    tenant: TenantId,
    mode: Mode,
    key: Key,
}

impl List {
    pub(crate) fn new((tenant, mode): World, kind: Kind, key: &str) -> Self {
        Self { tenant, mode, key: (kind, key.to_owned()) }
    }

    /// What the rows of all lists begin with whose keys begin with this one's. A row is one value, so that finding its
    /// place is comparing bytes: tenant, mode and kind, the key, a zero, and the id of what is listed.
    fn beginning(&self) -> Vec<u8> {
        beginning((self.tenant, self.mode), self.key.0, &self.key.1)
    }

    fn row(&self, id: Uuid) -> Vec<u8> {
        row_of((self.tenant, self.mode), self.key.0, &self.key.1, id)
    }
}

fn beginning((tenant, mode): World, kind: Kind, key: &str) -> Vec<u8> {
    let mut row = Vec::with_capacity(35 + key.len());
    row.extend_from_slice(tenant.as_bytes());
    row.push(match mode {
        Mode::Live => b'l',
        Mode::Test => b't',
    });
    row.extend_from_slice(kind.word().as_bytes());
    row.extend_from_slice(key.as_bytes());
    row
}

fn row_of(world: World, kind: Kind, key: &str, id: Uuid) -> Vec<u8> {
    let mut row = beginning(world, kind, key);
    row.push(0);
    row.extend_from_slice(id.as_bytes());
    row
}

fn listed(row: &dyn Row) -> Result<Uuid, Fault> {
    let id = row.bytes(0)?.last_chunk().ok_or_else(|| Fault::Bug("malformed row in the index".to_owned()))?;
    Ok(Uuid::from_bytes(*id))
}

/// A stretch of one list, walked from its newest end.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    list: List,
    /// Inclusive.
    lowest: Uuid,
    /// Exclusive.
    below: Uuid,
}

impl Range {
    pub(crate) fn new(list: List, from: Option<Timestamp>, to: Option<Timestamp>) -> Self {
        Self { list, lowest: from.map_or(Uuid::nil(), first_at), below: to.map_or(Uuid::max(), first_at) }
    }

    /// Only ids below `cursor`.
    pub(crate) fn below(&mut self, cursor: Option<Uuid>) {
        if let Some(cursor) = cursor {
            self.below = self.below.min(cursor);
        }
    }

    fn page(&self, snapshot: &mut dyn Snapshot, limit: u32) -> Result<Vec<Uuid>, Fault> {
        let (lowest, below) = (self.list.row(self.lowest), self.list.row(self.below));
        let mut ids = collect(
            snapshot,
            "select entry from index_entries where entry >= $1 and entry < $2 order by entry desc limit $3",
            &[lowest.as_slice().into(), below.as_slice().into(), limit.into()],
            listed,
        )?;
        // The embedded database may have a row in two places (sqlite/levels.rs).
        ids.dedup();
        Ok(ids)
    }
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
}

impl Candidates {
    /// `more` is offered, too: what is not in the index yet.
    pub(crate) fn new(range: Range, more: impl Iterator<Item = Uuid>) -> Self {
        let mut tail: Vec<Uuid> = more.filter(|id| *id >= range.lowest && *id < range.below).collect();
        tail.sort_unstable();
        tail.dedup();
        Self { range, tail, page: Vec::new().into_iter(), next_indexed: None, exhausted: false }
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
        Ok(next)
    }
}

/// The ids that `lists` have under keys which begin with theirs, or `None` when there are more than `limit` in one.
pub(crate) fn by_prefix(
    snapshot: &mut dyn Snapshot,
    lists: &[List],
    limit: u32,
) -> Result<Option<BTreeSet<Uuid>>, Fault> {
    let mut found = BTreeSet::new();
    for list in lists {
        let begin = list.beginning();
        // No byte of a key is as large.
        let end = [begin.as_slice(), &[0xFF]].concat();
        let ids = collect(
            snapshot,
            "select entry from index_entries where entry >= $1 and entry < $2 limit $3",
            &[begin.as_slice().into(), end.as_slice().into(), (limit + 1).into()],
            listed,
        )?;
        if ids.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
            return Ok(None);
        }
        found.extend(ids);
    }
    Ok(Some(found))
}

/// A ledger entry that the index does not have yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailEntry {
    pub(crate) id: EntryId,
    pub(crate) tenant: TenantId,
    pub(crate) mode: Mode,
    order: Option<OrderId>,
    kind: EntryKind,
    source: Account,
    /// What its order is found under from here on; none where that has to be read.
    order_keys: Option<Vec<Key>>,
}

impl TailEntry {
    pub(crate) fn new(entry: &Entry, order_keys: Option<Vec<Key>>) -> Self {
        let Entry { id, tenant, mode, movement, .. } = *entry;
        Self { id, tenant, mode, order: movement.order, kind: movement.kind, source: movement.source, order_keys }
    }

    /// Whether its order has to be read.
    pub(crate) fn must_be_read(&self) -> bool {
        self.order.is_some() && self.order_keys.is_none()
    }

    /// How much memory it takes, in keys.
    pub(crate) fn weight(&self) -> usize {
        1 + self.order_keys.as_ref().map_or(0, Vec::len)
    }

    /// What it may add to a list; whoever reads it looks at the row.
    pub(crate) fn listed_in(&self, kind: Kind, fits: impl Fn(&str) -> bool) -> Option<Uuid> {
        match kind {
            Kind::Entry => (self.kind != EntryKind::Sale).then(|| self.id.uuid()),
            Kind::EntryKind => fits(self.kind.word()).then(|| self.id.uuid()),
            _ => {
                let order = self.order?;
                let may_fit = match &self.order_keys {
                    None => true,
                    Some(keys) => keys.iter().any(|key| key.0 == kind && fits(&key.1)),
                };
                may_fit.then(|| order.uuid())
            }
        }
    }
}

pub(crate) fn watermark(snapshot: &mut dyn Snapshot) -> Result<Vec<u8>, Fault> {
    let entry = row(snapshot, "select entry_id from index_watermark", &[], |row| row.bytes(0).map(<[u8]>::to_vec))?;
    Ok(entry.unwrap_or_default())
}

/// Whether more than `most` entries lie above `after` up to `end`.
pub(crate) fn is_longer(snapshot: &mut dyn Snapshot, after: &[u8], end: &[u8], most: usize) -> Result<bool, Fault> {
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    let sql = "select 1 from ledger_entries where id > $1 and id <= $2 limit 1 offset $3";
    Ok(row(snapshot, sql, &[after.into(), end.into(), most.into()], |_| Ok(()))?.is_some())
}

/// The tail as the ledger has it: up to `most` entries above `after` up to `end`, of one world or of all.
pub(crate) fn read_tail(
    snapshot: &mut dyn Snapshot,
    after: &[u8],
    end: &[u8],
    of: Option<World>,
    most: usize,
) -> Result<Vec<Arc<TailEntry>>, Fault> {
    collect(
        snapshot,
        "select id, order_id, tenant_id, mode, kind, source from ledger_entries
         where id > $1 and id <= $2 and ((tenant_id = $3 and mode = $4) or $3 is null) order by id limit $5",
        &[
            after.into(),
            end.into(),
            of.as_ref().map(|(tenant, _)| tenant.as_bytes()).into(),
            of.map(|(_, mode)| mode.word()).into(),
            u32::try_from(most).unwrap_or(u32::MAX).into(),
        ],
        |row| {
            Ok(Arc::new(TailEntry {
                id: EntryId::from_slice(row.bytes(0)?)?,
                order: row.opt_bytes(1)?.map(OrderId::from_slice).transpose()?,
                tenant: TenantId::from_slice(row.bytes(2)?)?,
                mode: row.text(3)?.parse()?,
                kind: row.text(4)?.parse()?,
                source: row.text(5)?.parse()?,
                order_keys: None,
            }))
        },
    )
}

/// Lists the ICCIDs an order has so far, before its last part is there. The rest of the index needs no
/// such call: all else that is searched for comes with the order's creation or with a ledger entry.
pub(crate) fn list_early(tx: &mut dyn Tx, order: &order::Order) -> Result<(), Fault> {
    for iccid in order.esims.iter().filter_map(|esim| esim.iccid.as_ref()) {
        tx.execute(
            "insert into early_iccids (tenant_id, mode, iccid, order_id) values ($1, $2, $3, $4) on conflict do nothing",
            &[
                order.tenant.as_bytes().into(),
                order.mode.word().into(),
                iccid.into(),
                order.id.as_bytes().into(),
            ],
        )?;
    }
    Ok(())
}

/// The last part is there, and with it a ledger entry: the index learns all ICCIDs from that.
pub(crate) fn unlist_early(tx: &mut dyn Tx, order: &order::Order) -> Result<(), Fault> {
    for iccid in order.esims.iter().filter_map(|esim| esim.iccid.as_ref()) {
        tx.execute(
            "delete from early_iccids where tenant_id = $1 and mode = $2 and iccid = $3 and order_id = $4",
            &[order.tenant.as_bytes().into(), order.mode.word().into(), iccid.into(), order.id.as_bytes().into()],
        )?;
    }
    Ok(())
}

/// The unfinished orders one of whose ICCIDs begins with `prefix`.
pub(crate) fn early(
    snapshot: &mut dyn Snapshot,
    tenant: TenantId,
    mode: Mode,
    prefix: &str,
    limit: u32,
) -> Result<Vec<Uuid>, Fault> {
    collect(
        snapshot,
        "select distinct order_id from early_iccids where tenant_id = $1 and mode = $2 and iccid >= $3 and iccid < $4 limit $5",
        &[
            tenant.as_bytes().into(),
            mode.word().into(),
            prefix.into(),
            (&format!("{prefix}\u{10FFFF}")).into(),
            limit.into(),
        ],
        |row| Ok(OrderId::from_slice(row.bytes(0)?)?.uuid()),
    )
}

/// Entries of the tail that are taken in together: the more, the fewer pages are written for each.
pub const INDEX_BATCH: usize = 32_768;

/// The oldest part of the tail as changes of the index. It is worked out on a snapshot: an order that changes meanwhile
/// writes another entry, behind this part, and comes up again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Portion {
    pub(crate) after: Vec<u8>,
    pub(crate) last: Option<EntryId>,
    /// Rows that come (or go), in the index's own order, and those of one row in theirs.
    pub(crate) changes: Vec<(Vec<u8>, bool)>,
    /// How many entries it takes off the tail.
    pub(crate) entries: usize,
    /// Whether there may be more.
    pub(crate) more: bool,
}

/// Entries that are taken in together when their orders have to be read.
const UNREAD_BATCH: usize = 4_096;
/// Rows of one portion after which it ends: an order may have a hundred ICCIDs.
const MOST_CHANGES: usize = 262_144;

/// What an order is found under, as it was read.
enum Listed {
    /// For the first time.
    First(Vec<Key>),
    /// It was found under something before.
    Later(OrderStatus, Vec<Key>),
}

fn read_later(snapshot: &mut dyn Snapshot, id: OrderId) -> Result<Option<Listed>, Fault> {
    Ok(order::later_keys(snapshot, id)?.map(|(status, keys)| Listed::Later(status, keys)))
}

/// The rows that come (or go) with an entry; `read` reads what its order is found under, where the entry does not say.
fn add_changes(
    changes: &mut Vec<(Vec<u8>, bool)>,
    entry: &TailEntry,
    read: impl FnOnce(OrderId) -> Result<Option<Listed>, Fault>,
) -> Result<(), Fault> {
    let world = (entry.tenant, entry.mode);
    let mut change = |(kind, key): (Kind, &str), id, comes| {
        changes.push((row_of(world, kind, key, id), comes));
    };
    if entry.kind != EntryKind::Sale {
        change((Kind::Entry, ""), entry.id.uuid(), true);
        if entry.kind != EntryKind::Purchase {
            change((Kind::EntryKind, entry.kind.word()), entry.id.uuid(), true);
        }
    }
    let Some(id) = entry.order else { return Ok(()) };
    let read_keys;
    let keys = match &entry.order_keys {
        Some(keys) => keys,
        None => {
            read_keys = match read(id)? {
                None => return Ok(()),
                Some(Listed::First(keys)) => keys,
                Some(Listed::Later(status, keys)) => {
                    // What leaves `sales_held` leaves `processing`, which is not listed.
                    if entry.source != Account::SalesHeld {
                        for left in OrderStatus::ALL.iter().filter(|left| **left != status) {
                            change((Kind::Status, left.word()), id.uuid(), false);
                        }
                    }
                    keys
                }
            };
            &read_keys
        }
    };
    keys.iter().for_each(|(kind, key)| change((*kind, key), id.uuid(), true));
    Ok(())
}

/// Changed rows of the index, in the index's own order.
pub(crate) struct Changes {
    pub(crate) come: Vec<Vec<u8>>,
    pub(crate) go: Vec<Vec<u8>>,
}

/// What changes with these entries, which the index did not have.
pub(crate) fn changes_of(snapshot: &mut dyn Snapshot, entries: &[Arc<TailEntry>]) -> Result<Changes, Fault> {
    let mut changes = Vec::new();
    for entry in entries {
        add_changes(&mut changes, entry, |id| read_later(snapshot, id))?;
    }
    // The last change of a row counts.
    let last: BTreeMap<Vec<u8>, bool> = changes.into_iter().collect();
    let (come, go): (Vec<_>, Vec<_>) = last.into_iter().partition(|(_, comes)| *comes);
    let rows = |changes: Vec<(Vec<u8>, bool)>| changes.into_iter().map(|(row, _)| row).collect();
    Ok(Changes { come: rows(come), go: rows(go) })
}

impl Portion {
    /// Reads the oldest part of the tail.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn read(snapshot: &mut dyn Snapshot) -> Result<Self, Fault> {
        let after = watermark(snapshot)?;
        let mut tail = snapshot.tail(None, INDEX_BATCH)?;
        let known = tail.len();
        if tail.first().is_some_and(|oldest| oldest.order_keys.is_none()) {
            tail.truncate(UNREAD_BATCH);
        }
        let is_new = |id: OrderId| id.as_bytes().as_slice() > after.as_slice();
        let unread = tail.iter().filter(|entry| entry.order_keys.is_none()).filter_map(|entry| entry.order);
        let mut created = match unread.filter(|id| is_new(*id)).max() {
            Some(last) => order::keys_between(snapshot, &after, last)?,
            None => HashMap::new(),
        };
        let mut changes = Vec::new();
        let (mut entries, mut last) = (0, None);
        for entry in &tail {
            if changes.len() >= MOST_CHANGES {
                break;
            }
            entries += 1;
            last = Some(entry.id);
            add_changes(&mut changes, entry, |id| match is_new(id) {
                true => Ok(created.remove(&id).map(Listed::First)),
                false => read_later(snapshot, id),
            })?;
        }
        // The last change of a row counts; the sort keeps their order.
        changes.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(Self { after, last, changes, entries, more: entries < known || known == INDEX_BATCH })
    }
}
